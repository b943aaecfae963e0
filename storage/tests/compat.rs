//! An identity that version 1 wrote is read by every later version. (The files of the log and of
//! the slots have their tests beside those of the log and of the slots.)
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use diskstore_storage::disk::SimDisk;
use diskstore_storage::identity::{self, IDENTITY_NAME, Identity, MachineKind, Standing};

const IDENTITY_V1: &[u8] = include_bytes!("../compat/v1/IDENTITY");

/// What the fixture says.
fn expected() -> Identity {
    Identity {
        standing: Standing::Member,
        cluster_id: 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff,
        member_id: 0x0123_4567_89ab_cdef,
        name: "node0".to_owned(),
        slot_count: 1_048_576,
        value_bytes: 1024,
        machine: MachineKind::Slots,
    }
}

#[test]
fn an_identity_of_version_1_is_read() {
    let directory = Path::new("/data");
    let disk = SimDisk::new(1);
    disk.write_file(&directory.join(IDENTITY_NAME), IDENTITY_V1);
    assert_eq!(identity::read(&disk, directory).unwrap(), Some(expected()));
}

#[test]
fn the_identity_written_today_is_that_of_version_1() {
    let directory = Path::new("/data");
    let disk = SimDisk::new(1);
    drop(identity::open_directory(&disk, directory).unwrap());
    identity::write(&disk, directory, &expected()).unwrap();
    assert_eq!(disk.read_file(&directory.join(IDENTITY_NAME)).unwrap(), IDENTITY_V1);
}
