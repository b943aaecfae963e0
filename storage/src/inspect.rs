//! The files of a node as text, for people.
//!
//! Called by the `inspect` command; calls the decoders of `identity`, `founding`, `wal`, `slots`,
//! `keys`, `requests` and `backup`.
//! Invariants:
//!
//! - I1: nothing is written: files are opened for reading only.
//! - I2: output is bounded (`report`), and so is memory, whatever the file says.
//! - I3: damage is shown as text, not returned as an error, and all that can be read is shown.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::Path;

use crate::disk::{Disk, WriteMode};
use crate::report::Report;
use crate::{Error, Result, backup, founding, identity, keys, requests, slots, wal};

/// Bytes of the magic that every file begins with.
const MAGIC_BYTES: usize = 8;

/// What a file begins with that was prepared and not written.
const UNWRITTEN: [u8; MAGIC_BYTES] = [0; MAGIC_BYTES];

/// Prints what is in a file: an identity, promises of a founding, a segment of the log, a data file,
/// a double write file, a snapshot file, request ids or a backup, told apart by their first bytes; and
/// what the empty lock file is for.
///
/// # Errors
/// `Io` if the file cannot be read or the text not be written; `Foreign` if it is none of these;
/// `UnknownVersion`.
pub fn inspect(disk: &dyn Disk, path: &Path, out: &mut dyn Write) -> Result<()> {
    let file = disk.open(path, WriteMode::ReadOnly)?;
    let mut magic = [0; MAGIC_BYTES];
    if file.len()? >= MAGIC_BYTES as u64 {
        file.read_at(&mut magic, 0)?;
    }
    let mut report = Report::new(path, out);
    report.head(format_args!("file {}, {} bytes", path.display(), file.len()?))?;
    let is_lock = path.file_name() == Some(OsStr::new(identity::LOCK_NAME)) && file.len()? == 0;
    match magic {
        UNWRITTEN if is_lock => {
            report.head(format_args!("lock: it holds nothing; a running node holds it"))
        }
        identity::IDENTITY_MAGIC => show_identity(&identity::read_file(disk, path)?, &mut report),
        founding::FOUNDING_MAGIC => show_founding(&founding::read_file(disk, path)?, &mut report),
        wal::SEGMENT_MAGIC => wal::show_segment(file.as_ref(), &mut report),
        // A segment lies ready before its header is written: only its name says what it is.
        UNWRITTEN if wal::is_segment(path) => wal::show_segment(file.as_ref(), &mut report),
        UNWRITTEN if path.file_name() == Some(OsStr::new(slots::DOUBLE_FILE)) => {
            report.head(format_args!("double write file: prepared, not used yet"))
        }
        slots::MAGIC => slots::show_slots(file.as_ref(), &mut report),
        slots::DOUBLE_MAGIC => slots::show_double(disk, file.as_ref(), &mut report),
        keys::MAGIC => keys::show_snapshot(file, &mut report),
        requests::MAGIC => show_requests(disk, path, &mut report),
        backup::BACKUP_MAGIC => backup::show_backup(file, &mut report),
        _ => Err(Error::Foreign { path: path.to_owned() }),
    }?;
    report.end()
}

fn show_identity(identity: &identity::Identity, report: &mut Report<'_>) -> Result<()> {
    let identity::Identity {
        standing,
        cluster_id,
        member_id,
        name,
        slot_count,
        value_bytes,
        machine,
    } = identity;
    report.head(format_args!("identity, version {}", identity::IDENTITY_VERSION))?;
    report.head(format_args!("cluster id {cluster_id:032x}"))?;
    report.head(format_args!("standing {standing:?}"))?;
    report.head(format_args!("member id {member_id:016x}"))?;
    report.head(format_args!("name {name:?}"))?;
    match machine {
        identity::MachineKind::Slots => {
            report.head(format_args!("{slot_count} slots of {value_bytes} bytes"))?;
        }
        identity::MachineKind::Memory | identity::MachineKind::Journal => {
            report.head(format_args!("values of up to {value_bytes} bytes"))?;
        }
    }
    report.head(format_args!("machine {machine:?}"))
}

fn show_founding(founding: &founding::Founding, report: &mut Report<'_>) -> Result<()> {
    let founding::Founding { member_id, plan, promised, accepted } = founding;
    report.head(format_args!("promises of a founding, version {}", founding::FOUNDING_VERSION))?;
    report.head(format_args!("member id {member_id:016x}"))?;
    report.head(format_args!("file of members: {} bytes", plan.len()))?;
    report.head(format_args!("promised {promised}"))?;
    match accepted {
        None => report.head(format_args!("nothing accepted")),
        Some(founding::Accepted { number, charter }) => {
            report.head(format_args!("accepted {number}, a charter of {} bytes", charter.len()))
        }
    }
}

fn show_requests(disk: &dyn Disk, path: &Path, report: &mut Report<'_>) -> Result<()> {
    let (head, table) = requests::read_file(disk, path)?;
    let requests::Head { cluster_id, log_id, crc } = head;
    report.head(format_args!("request ids, version {}", requests::VERSION))?;
    report.head(format_args!("cluster id {cluster_id:032x}"))?;
    report.head(format_args!("as of {log_id}, CRC-32 {crc:08x}"))?;
    for requests::Request { index, id, answer, .. } in table.iter() {
        let answer = match answer {
            Some(answer) => format!("{} bytes of its answer", answer.len()),
            None => "its answer is not here".to_owned(),
        };
        report.detail(format_args!("entry {index}: id with digest {id:032x}, {answer}"))?;
    }
    report.head(format_args!("{} writes with an id", table.count()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;

    const FILE: &str = "/file";

    fn text_of(disk: &SimDisk) -> Result<String> {
        let mut text = String::new();
        inspect(disk, Path::new(FILE), &mut text).map(|()| text)
    }

    #[test]
    fn a_file_of_another_origin_is_named_so() {
        for content in [&b""[..], b"short", b"#!/bin/sh -e\n"] {
            let disk = SimDisk::new(1);
            disk.write_file(Path::new(FILE), content);
            assert!(matches!(text_of(&disk), Err(Error::Foreign { .. })));
        }
        assert!(text_of(&SimDisk::new(1)).unwrap_err().is_not_found());
    }

    #[test]
    fn promises_of_a_founding_are_shown_as_far_as_they_can_be_read() {
        let disk = SimDisk::new(1);
        let accepted = Some(founding::Accepted { number: 258, charter: vec![9; 40] });
        let promises =
            founding::Founding { member_id: 7, plan: vec![1; 30], promised: 513, accepted };
        drop(identity::open_directory(&disk, Path::new("/")).unwrap());
        founding::write(&disk, Path::new("/"), &promises).unwrap();
        let path = Path::new("/FOUNDING");
        let mut text = String::new();
        inspect(&disk, path, &mut text).unwrap();
        for words in ["id 0000000000000007", "promised 513", "accepted 258, a charter of 40 bytes"]
        {
            assert!(text.contains(words), "{words}: {text}");
        }
        disk.flip_bit(path, 30, 0).unwrap();
        assert!(matches!(inspect(&disk, path, &mut text), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn a_lock_is_told_from_an_empty_file() {
        let path = Path::new("/LOCK");
        let disk = SimDisk::new(1);
        disk.write_file(path, b"");
        let mut text = String::new();
        inspect(&disk, path, &mut text).unwrap();
        assert!(text.contains("lock: it holds nothing"), "{text}");
        disk.write_file(path, b"short");
        assert!(matches!(inspect(&disk, path, &mut text), Err(Error::Foreign { .. })));
    }
}
