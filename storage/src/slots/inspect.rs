//! The data file and the double write file as text.
//!
//! Called by `inspect` of the crate; reads only. It shows the slots as the last checkpoint wrote
//! them; later commands are in the log.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use super::double::{self, Round};
use super::geometry::{Geometry, HEADER_BYTES};
use super::header::{Header, HeaderBytes};
use super::superblock::{self, Superblock};
use super::{SLOTS_FILE, VERSION};
use crate::disk::{Disk, File, WriteMode};
use crate::report::Report;
use crate::{Error, Result};

/// Bytes of one read, unless a slot is larger.
const PIECE_BYTES: u64 = 1 << 20;

/// What the slots of a file are.
#[derive(Debug, Default)]
struct Counts {
    live: u64,
    deleted: u64,
    unwritten: u64,
    damaged: u64,
}

/// Prints the superblock and every slot that was ever written.
pub(crate) fn show_slots(file: &dyn File, report: &mut Report<'_>) -> Result<()> {
    let found = superblock::read(file)?;
    show_superblock(&found.superblock, report)?;
    if let Some(copy) = found.stale_copy {
        report.head(format_args!("superblock copy {copy} is older or damaged"))?;
    }
    let geometry = found.superblock.geometry;
    if file.len()? < geometry.file_bytes() {
        return report.head(format_args!(
            "DAMAGED: the file is too short for its slots, {} bytes",
            geometry.file_bytes()
        ));
    }
    let counts = show_each_slot(file, geometry, report)?;
    let Counts { live, deleted, unwritten, damaged } = counts;
    report.head(format_args!(
        "{live} slots live, {deleted} deleted, {unwritten} never written, {damaged} damaged"
    ))
}

fn show_superblock(superblock: &Superblock, report: &mut Report<'_>) -> Result<()> {
    let Superblock {
        geometry,
        cluster_id,
        checkpoint,
        membership,
        requests_crc,
        readable_from,
        sequence,
    } = superblock;
    report.head(format_args!("data file, version {VERSION}, superblock {sequence}"))?;
    report.head(format_args!("cluster id {cluster_id:032x}"))?;
    report.head(format_args!(
        "{} slots of {} bytes",
        geometry.slot_count(),
        geometry.value_bytes()
    ))?;
    match checkpoint {
        Some(log_id) => report.head(format_args!("checkpoint {log_id}"))?,
        None => report
            .head(format_args!("no checkpoint: everything written so far is in the log only"))?,
    }
    report.head(format_args!("readable from index {readable_from}"))?;
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

fn show_each_slot(file: &dyn File, geometry: Geometry, report: &mut Report<'_>) -> Result<Counts> {
    let slot_bytes = geometry.slot_bytes();
    let piece_slots = (PIECE_BYTES / slot_bytes).max(1);
    let mut counts = Counts::default();
    let mut piece = Vec::new();
    let mut key = 0;
    while key < geometry.slot_count() {
        let count = piece_slots.min(geometry.slot_count() - key);
        let bytes = usize::try_from(count * slot_bytes).expect("invariant: a piece or a slot");
        piece.resize(bytes, 0);
        file.read_at(&mut piece, geometry.offset_of(key))?;
        let slot = usize::try_from(slot_bytes).expect("invariant: at most a piece");
        for bytes in piece.chunks_exact(slot) {
            show_slot(key, bytes, &mut counts, report)?;
            key += 1;
        }
    }
    Ok(counts)
}

fn show_slot(key: u64, bytes: &[u8], counts: &mut Counts, report: &mut Report<'_>) -> Result<()> {
    const BYTES: usize = size_of::<HeaderBytes>();
    const { assert!(BYTES as u64 == HEADER_BYTES) };
    let Some((header, rest)) = bytes.split_first_chunk::<BYTES>() else { return Ok(()) };
    let header = Header::decode(*header);
    if header.is_unwritten() {
        counts.unwritten += 1;
        return Ok(());
    }
    let length = usize::try_from(header.length()).unwrap_or(usize::MAX);
    let value = rest.get(..length).filter(|value| header.matches(key, value));
    match (value, header.is_live()) {
        (Some(value), true) => {
            counts.live += 1;
            report.detail(format_args!("slot {key}: index {}, {} bytes", header.index, value.len()))
        }
        (Some(_), false) => {
            counts.deleted += 1;
            report.detail(format_args!("slot {key}: index {}, deleted", header.index))
        }
        (None, _) => {
            counts.damaged += 1;
            report.detail(format_args!("slot {key}: DAMAGED"))
        }
    }
}

/// Prints which pages a double write file holds, by the geometry of the data file beside it.
pub(crate) fn show_double(disk: &dyn Disk, file: &dyn File, report: &mut Report<'_>) -> Result<()> {
    let path = file.path().with_file_name(SLOTS_FILE);
    if !disk.exists(&path)? {
        let what = "the data file belongs beside the double write file";
        return Err(Error::Missing { path, what });
    }
    let slots = disk.open(&path, WriteMode::ReadOnly)?;
    let geometry = superblock::read(slots.as_ref())?.superblock.geometry;
    match double::read(file, geometry)? {
        Round::Empty => report.head(format_args!("double write file without a round")),
        Round::Incomplete => report.head(format_args!("double write file, the round was cut off")),
        Round::Complete { sequence, cluster_id, image } => {
            report.head(format_args!("double write file, round {sequence}, whole"))?;
            report.head(format_args!("cluster id {cluster_id:032x}"))?;
            report.head(format_args!("{} pages", image.pages.len()))?;
            for run in image.pages.chunk_by(|page, next| page + 1 == *next) {
                if let (Some(first), Some(last)) = (run.first(), run.last()) {
                    report.detail(format_args!("pages {first} to {last}"))?;
                }
            }
            Ok(())
        }
    }
}
