//! Applies what the log holds behind the checkpoint, before openraft reads the stores.
//!
//! Called once by `mod.rs`. openraft would do the same, 64 entries at a time; here one thread reads
//! ahead and takes the page faults while this one applies: a restart takes as long as the slower of
//! both. Where most pages will be touched, a third one has the disk read all of them in their order,
//! since one by one, at random, takes many times as long.
//! Only entries known to be committed are applied; no reply is sent.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};

use diskstore_storage::wal::Wal;
use openraft::entry::EntryPayload;

use super::applier::{Job, Setup, apply_all};
use super::types::{Entry, entry_from};
use crate::machine::Machine;

/// Bytes of values that are read at once.
const PIECE_BYTES: usize = 4 << 20;
/// Pieces that wait to be applied.
const PIECE_COUNT_MAX: usize = 4;

/// Applies all committed entries behind the applied position; returns how many. Blocks.
///
/// # Errors
/// The log cannot be read or an entry not be applied.
pub(super) fn replay(setup: &mut Setup) -> io::Result<u64> {
    let first = setup.shared.applied().log_id.map_or(0, |log_id| log_id.index + 1);
    let end = setup.wal.state().committed.map_or(0, |log_id| log_id.index + 1);
    if first >= end {
        return Ok(0);
    }
    let (wal, machine) = (setup.wal.clone(), setup.shared.machine.clone());
    let (sender, pieces) = mpsc::sync_channel(PIECE_COUNT_MAX);
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| machine.read_ahead(end - first, &|| is_done.load(Ordering::Relaxed)));
        let (wal, machine) = (&wal, &machine);
        scope.spawn(move || read_pieces((wal, machine), first..end, &sender));
        let applied = apply_pieces(setup, pieces);
        is_done.store(true, Ordering::Relaxed);
        applied
    })?;
    Ok(end - first)
}

fn apply_pieces(setup: &mut Setup, pieces: Receiver<io::Result<Vec<Entry>>>) -> io::Result<()> {
    for piece in pieces {
        let jobs = piece?.into_iter().map(|entry| Job { entry, responder: None });
        apply_all(setup, jobs.collect())?;
    }
    Ok(())
}

fn read_pieces(
    (wal, machine): (&Wal, &Machine),
    range: std::ops::Range<u64>,
    sender: &mpsc::SyncSender<io::Result<Vec<Entry>>>,
) {
    let mut next = range.start;
    while next < range.end {
        let piece = read_piece(wal, next..range.end);
        let is_last = piece.is_err();
        for entry in piece.iter().flatten() {
            if let EntryPayload::Normal(command) = &entry.payload {
                machine.populate(command);
            }
            next += 1;
        }
        // The other end is gone if an entry could not be applied.
        if sender.send(piece).is_err() || is_last {
            return;
        }
    }
}

fn read_piece(wal: &Wal, range: std::ops::Range<u64>) -> io::Result<Vec<Entry>> {
    let first = range.start;
    let entries = wal.read(range, PIECE_BYTES).map_err(io::Error::other)?;
    if entries.is_empty() {
        return Err(io::Error::other(format!("the log lacks committed entry {first}")));
    }
    entries.into_iter().map(|entry| entry_from(entry).map_err(io::Error::other)).collect()
}
