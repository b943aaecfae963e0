//! A segment as text.
//!
//! Called by `inspect` of the crate; reads only.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::path::Path;

use super::batch::{self, BatchHeader};
use super::record::{self, Record};
use super::scan::Window;
use super::segment::{Begun, SEGMENT_HEADER_BYTES, SEGMENT_VERSION, SegmentHeader, id_of};
use crate::disk::{BLOCK_BYTES, File};
use crate::report::Report;
use crate::{Error, Result};

/// Where a header holds the segment's id.
const ID_OFFSET: usize = 16;

/// Whether a file is a segment by its name.
pub(crate) fn is_segment(path: &Path) -> bool {
    id_by_name(path).is_some()
}

/// Prints the header, batches and records of a segment.
pub(crate) fn show_segment(file: &dyn File, report: &mut Report<'_>) -> Result<()> {
    let mut block = [0; BLOCK_BYTES];
    if file.len()? < BLOCK_BYTES as u64 {
        return report.head(format_args!("a segment that is too short for its header"));
    }
    file.read_at(&mut block, 0)?;
    let id = id_of_file(file, &block);
    if block == [0; BLOCK_BYTES] {
        return show_prepared(file, id, report);
    }
    match SegmentHeader::decode(&block, id) {
        Begun::Yes(header) => {
            show_header(&header, report)?;
            show_batches(file, &header, report)
        }
        Begun::No => report.head(format_args!(
            "a segment that was made ready and not begun; the header is of its earlier life"
        )),
        Begun::Damaged => report.head(format_args!("a segment whose header is damaged")),
        Begun::Unknown(version) => {
            Err(Error::UnknownVersion { path: file.path(), version, known: SEGMENT_VERSION })
        }
    }
}

/// A segment of zeros that was never begun: nothing may lie behind its header.
fn show_prepared(file: &dyn File, id: u64, report: &mut Report<'_>) -> Result<()> {
    let file_bytes = file.len()?;
    let mut block = [0; BLOCK_BYTES];
    for offset in (SEGMENT_HEADER_BYTES as u64..file_bytes).step_by(BLOCK_BYTES) {
        let length = usize::try_from(file_bytes - offset).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
        let (piece, _) = block.split_at_mut(length);
        file.read_at(piece, offset)?;
        if piece.iter().any(|&byte| byte != 0) {
            return report.head(format_args!(
                "segment {id}: DAMAGED: no header, but a batch was written at byte {offset}"
            ));
        }
    }
    report.head(format_args!("segment {id}: prepared, not used yet"))
}

fn id_by_name(path: &Path) -> Option<u64> {
    path.file_name().and_then(|name| name.to_str()).and_then(id_of)
}

/// The segment that the file's name says, else the one that its header says.
fn id_of_file(file: &dyn File, block: &[u8; BLOCK_BYTES]) -> u64 {
    let named = id_by_name(&file.path());
    let written = || block.get(ID_OFFSET..).and_then(|rest| rest.first_chunk::<8>());
    named.or_else(|| written().map(|bytes| u64::from_le_bytes(*bytes))).unwrap_or_default()
}

fn show_header(header: &SegmentHeader, report: &mut Report<'_>) -> Result<()> {
    let SegmentHeader { id, first_sequence, bytes, follows, carried, .. } = header;
    report.head(format_args!("segment {id}, version {SEGMENT_VERSION}, {bytes} bytes"))?;
    report.head(format_args!("first batch {first_sequence}"))?;
    if follows.segment == 0 {
        report.head(format_args!("begins the log"))?;
    } else {
        let (segment, sequence) = (follows.segment, follows.sequence);
        report.head(format_args!("follows batch {sequence} of segment {segment}"))?;
    }
    if let Some(vote) = carried.vote {
        report.head(format_args!(
            "vote for member {:016x} in term {}, {}",
            vote.node_id,
            vote.term,
            if vote.committed { "committed" } else { "not committed" }
        ))?;
    }
    for (what, log_id) in
        [("purged", carried.purged), ("committed", carried.committed), ("last", carried.last)]
    {
        if let Some(log_id) = log_id {
            report.head(format_args!("{what} {log_id}"))?;
        }
    }
    Ok(())
}

fn show_batches(file: &dyn File, header: &SegmentHeader, report: &mut Report<'_>) -> Result<()> {
    let file_bytes = file.len()?;
    let mut window = Window::new(file, file_bytes);
    let mut offset = SEGMENT_HEADER_BYTES as u64;
    let mut sequence = header.first_sequence;
    let mut count = 0_u64;
    while let Some(batch) = window.batch(offset, header.life())? {
        let Some(fields) = BatchHeader::decode(&batch).filter(|found| found.sequence == sequence)
        else {
            break;
        };
        show_batch(&batch, &fields, offset, report)?;
        offset += batch.len() as u64;
        sequence += 1;
        count += 1;
    }
    report.head(format_args!("{count} whole batches"))?;
    if let Some(claim) = window.behind(offset, &[header.life()], sequence)?.claim {
        return report.head(format_args!(
            "DAMAGED: batch {sequence} at byte {offset}, which the batch at byte {claim} claims"
        ));
    }
    report.head(format_args!("no batch {sequence} at byte {offset}: the end, as this file has it"))
}

fn show_batch(
    bytes: &[u8],
    fields: &BatchHeader,
    offset: u64,
    report: &mut Report<'_>,
) -> Result<()> {
    let BatchHeader { sequence, durable_sequence, record_count, .. } = fields;
    report.detail(format_args!(
        "byte {offset}: batch {sequence}, {} bytes, {record_count} records, \
         claims batch {durable_sequence}",
        bytes.len()
    ))?;
    let mut rest = batch::records_of(bytes).unwrap_or_default();
    while !rest.is_empty() {
        let Some((record, record_bytes)) = record::decode(rest) else {
            return report.detail(format_args!("  bytes that are no record"));
        };
        show_record(&record, report)?;
        rest = rest.get(record_bytes..).unwrap_or_default();
    }
    Ok(())
}

fn show_record(record: &Record<'_>, report: &mut Report<'_>) -> Result<()> {
    match record {
        Record::Entry(entry) => report.detail(format_args!(
            "  entry {}, {:?}, {} bytes",
            entry.log_id,
            entry.kind,
            entry.payload.len()
        )),
        Record::Vote(vote) => report.detail(format_args!(
            "  vote for member {:016x} in term {}, {}",
            vote.node_id,
            vote.term,
            if vote.committed { "committed" } else { "not committed" }
        )),
        Record::Committed(log_id) => report.detail(format_args!("  committed {log_id}")),
        Record::Truncate(Some(last)) => report.detail(format_args!("  truncate after {last}")),
        Record::Truncate(None) => report.detail(format_args!("  truncate all")),
        Record::Purge(upto) => report.detail(format_args!("  purge up to {upto}")),
    }
}
