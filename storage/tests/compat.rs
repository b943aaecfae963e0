//! An identity that version 2 wrote is read by every later version. (The files of the log and of
//! the slots have their tests beside those of the log and of the slots.) Version 1, which was never
//! released, is refused by name and left as it is.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;

use diskstore_storage::Error;
use diskstore_storage::disk::SimDisk;
use diskstore_storage::identity::{self, IDENTITY_NAME, Identity, MachineKind, Standing};
use diskstore_storage::wal::{Nonces, Options, Wal};

const IDENTITY_V2: &[u8] = include_bytes!("../compat/v2/IDENTITY");

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
fn an_identity_of_version_2_is_read() {
    let directory = Path::new("/data");
    let disk = SimDisk::new(1);
    disk.write_file(&directory.join(IDENTITY_NAME), IDENTITY_V2);
    assert_eq!(identity::read(&disk, directory).unwrap(), Some(expected()));
}

#[test]
fn the_identity_written_today_is_that_of_version_2() {
    let directory = Path::new("/data");
    let disk = SimDisk::new(1);
    drop(identity::open_directory(&disk, directory).unwrap());
    identity::write(&disk, directory, &expected()).unwrap();
    assert_eq!(disk.read_file(&directory.join(IDENTITY_NAME)).unwrap(), IDENTITY_V2);
}

/// What version 1 wrote, by the names that it had.
const FILES_V1: [(&str, &[u8]); 2] = [
    (IDENTITY_NAME, include_bytes!("../compat/v1/IDENTITY")),
    ("wal/0000000000000001.segment", include_bytes!("../compat/v1/0000000000000001.segment")),
];

#[test]
fn files_of_version_1_are_refused_and_left_untouched() {
    let directory = Path::new("/data");
    let refusals: [fn(&SimDisk, &Path) -> Option<Error>; 2] = [
        |disk, directory| identity::read(disk, directory).err(),
        |disk, directory| {
            let (wal, aside) = (directory.join("wal"), directory.join("tmp"));
            Wal::open(Arc::new(disk.clone()), &wal, &aside, &Options::new(Nonces::counted())).err()
        },
    ];
    for ((name, bytes), refuse) in FILES_V1.into_iter().zip(refusals) {
        let disk = SimDisk::new(1);
        disk.write_file(&directory.join(name), bytes);
        let error = refuse(&disk, directory).unwrap();
        assert!(matches!(error, Error::UnknownVersion { version: 1, known: 2, .. }), "{error}");
        assert!(error.to_string().contains("from before the first release"), "{error}");
        assert_eq!(disk.read_file(&directory.join(name)).unwrap(), bytes);
    }
}
