//! A backup as text.
//!
//! Called by `inspect` of the crate; reads only.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::sync::Arc;

use super::{BACKUP_VERSION, BackupEnd, BackupHeader, BackupReader, Piece};
use crate::disk::File;
use crate::identity::MachineKind;
use crate::report::Report;
use crate::{Error, Result};

/// Prints the header, every slot or key, the entries as numbers, and the end.
pub(crate) fn show_backup(file: Arc<dyn File>, report: &mut Report<'_>) -> Result<()> {
    let mut reader = BackupReader::open(file)?;
    show_header(reader.header(), report)?;
    loop {
        let piece = match reader.next_piece() {
            Ok(piece) => piece,
            Err(Error::Corrupt { offset, what, .. }) => {
                return report.head(format_args!("DAMAGED at byte {offset}: {what}"));
            }
            Err(error) => return Err(error),
        };
        match piece {
            Piece::Requests(ids) => {
                report.head(format_args!("request ids as of the begin, {} bytes", ids.len()))?;
            }
            Piece::Slots(images) => {
                for image in images {
                    let what = what_of(image.value.as_ref().map(bytes::Bytes::len));
                    report.detail(format_args!(
                        "slot {}: index {}, {what}",
                        image.slot, image.index
                    ))?;
                }
            }
            Piece::Keys(images) => {
                for image in images {
                    let what = what_of(image.value.as_ref().map(bytes::Bytes::len));
                    let key = image.key.escape_ascii();
                    report.detail(format_args!("key {key}: index {}, {what}", image.index))?;
                }
            }
            Piece::Entries(entries) => {
                for entry in entries {
                    let (log_id, bytes) = (entry.log_id, entry.payload.len());
                    report
                        .detail(format_args!("entry {log_id}: {:?}, {bytes} bytes", entry.kind))?;
                }
            }
            Piece::End(BackupEnd { exact_from, last, image_count, entry_count, .. }) => {
                return report.head(format_args!(
                    "whole: {image_count} slots or keys, {entry_count} entries; a state from index \
                     {exact_from} on, up to entry {last}"
                ));
            }
            Piece::Broken(reason) => {
                return report.head(format_args!("the node did not finish it: {reason}"));
            }
        }
    }
}

fn show_header(header: &BackupHeader, report: &mut Report<'_>) -> Result<()> {
    let BackupHeader { id, cluster_id, slot_count, value_bytes, node, begin, since, .. } = header;
    report.head(format_args!("backup, version {BACKUP_VERSION}, id {id:032x}"))?;
    report.head(format_args!("cluster id {cluster_id:032x}, node {node:?}"))?;
    match header.machine {
        MachineKind::Slots => {
            report.head(format_args!("{slot_count} slots of {value_bytes} bytes"))?;
        }
        MachineKind::Memory | MachineKind::Journal => {
            report.head(format_args!("keys with values of up to {value_bytes} bytes"))?;
        }
    }
    report.head(format_args!("begun at entry {begin}, {} ms since 1970", header.begun_ms))?;
    match (header.is_full(), header.base) {
        (true, _) => report.head(format_args!("full")),
        (false, 0) => report.head(format_args!("incremental, since index {since}")),
        (false, base) => {
            report.head(format_args!("incremental, since index {since}, of backup {base:032x}"))
        }
    }
}

fn what_of(value_bytes: Option<usize>) -> String {
    value_bytes.map_or_else(|| "deleted".to_owned(), |bytes| format!("{bytes} bytes"))
}
