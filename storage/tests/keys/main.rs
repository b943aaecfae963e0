//! Keys in memory, as a machine above the log uses them: against a model, and their snapshot file.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::cast_possible_truncation, reason = "the numbers of a test are small")]

mod file;
mod model;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use diskstore_storage::disk::{Disk, SimDisk};
use diskstore_storage::keys::{Keys, New, Options};
use diskstore_storage::state::{Change, Membership, Target};
use diskstore_storage::{LogId, Term};

const CLUSTER: u128 = 0xc1;
const VALUE_BYTES: u32 = 64;

fn directory() -> &'static Path {
    Path::new("/node")
}

/// So little memory that a few deletes move the horizon, and pieces of one or two records.
fn options() -> Options {
    Options { memory_bytes_max: 8 << 10, piece_bytes: 40 }
}

fn new_keys(disk: &SimDisk) -> Keys {
    disk.create_dir_all(&directory().join("tmp")).unwrap();
    let new = New { cluster_id: CLUSTER, value_bytes: VALUE_BYTES, options: options() };
    Keys::create(Arc::new(disk.clone()), directory(), new).unwrap()
}

fn open(disk: &SimDisk) -> diskstore_storage::Result<Keys> {
    Keys::open(Arc::new(disk.clone()), directory(), options())
}

fn target(index: u64) -> Target {
    let membership = Membership {
        log_id: Some(LogId { term: Term::new(1), index: 1 }),
        body: Bytes::from_static(b"members"),
    };
    Target { log_id: LogId { term: Term::new(2), index }, membership, requests_crc: 0 }
}

fn checkpoint(keys: &Keys, index: u64) {
    let never = AtomicBool::new(false);
    assert!(!keys.checkpoint(target(index), &mut || Ok(()), &never).unwrap().cancelled);
}

fn set(keys: &Keys, index: u64, key: &[u8], value: &[u8]) {
    let mut guard = keys.lock(std::iter::once(key));
    guard.apply(key, index, |_| Change::Set(Cow::Borrowed(value)));
}

fn delete(keys: &Keys, index: u64, key: &[u8]) {
    keys.lock(std::iter::once(key)).apply(key, index, |_| Change::Delete);
}
