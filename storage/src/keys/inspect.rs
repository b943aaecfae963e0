//! The snapshot file as text.
//!
//! Called by `inspect` of the crate; reads only. It shows the state of the last checkpoint; later
//! commands are in the log.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::sync::Arc;

use super::Domain;
use super::file::{Header, Reader, VERSION};
use crate::disk::File;
use crate::report::Report;
use crate::{Error, Result};

/// Most bytes of a key that are shown.
const KEY_BYTES_SHOWN: usize = 128;

/// Prints the header and every key.
pub(crate) fn show_snapshot(file: Arc<dyn File>, report: &mut Report<'_>) -> Result<()> {
    let mut reader = Reader::open(file)?;
    show_header(&reader.header, report)?;
    let (mut live, mut deleted) = (0_u64, 0_u64);
    loop {
        let images = match reader.next_piece() {
            Ok(Some(images)) => images,
            Ok(None) => break,
            Err(Error::Corrupt { offset, what, .. }) => {
                report.head(format_args!("DAMAGED at byte {offset}: {what}"))?;
                break;
            }
            Err(error) => return Err(error),
        };
        for image in images {
            let shown = image.key.get(..KEY_BYTES_SHOWN).unwrap_or(&image.key).escape_ascii();
            let index = image.index;
            if let Some(value) = image.value {
                live += 1;
                let bytes = value.len();
                report.detail(format_args!("key \"{shown}\": index {index}, {bytes} bytes"))?;
            } else {
                deleted += 1;
                report.detail(format_args!("key \"{shown}\": index {index}, deleted"))?;
            }
        }
    }
    let highest = reader.highest();
    report.head(format_args!("{live} keys live, {deleted} deleted, highest index {highest}"))
}

fn show_header(header: &Header, report: &mut Report<'_>) -> Result<()> {
    let Header {
        domain,
        cluster_id,
        value_bytes,
        checkpoint,
        membership,
        requests_crc,
        readable_from,
        horizon,
    } = header;
    report.head(format_args!("snapshot file, version {VERSION}"))?;
    if *domain == Domain::Clocks {
        report.head(format_args!("registers of leaderless mode: indexes are versions"))?;
    }
    report.head(format_args!("cluster id {cluster_id:032x}"))?;
    report.head(format_args!("values of up to {value_bytes} bytes"))?;
    match checkpoint {
        Some(log_id) => report.head(format_args!("checkpoint {log_id}"))?,
        None => report
            .head(format_args!("no checkpoint: everything written so far is in the log only"))?,
    }
    report.head(format_args!("readable from index {readable_from}"))?;
    report.head(format_args!("deletes up to index {horizon} may be forgotten"))?;
    if *requests_crc != 0 {
        report.head(format_args!("request ids in a file with CRC-32 {requests_crc:08x}"))?;
    }
    match membership.log_id {
        Some(log_id) => {
            report.head(format_args!("membership of {log_id}, {} bytes", membership.body.len()))
        }
        None => report.head(format_args!("no membership")),
    }
}
