//! What checkpoints, purges and snapshots take from those who write meanwhile, and what they and the
//! log write. A load runs in short pieces; each is counted by what the nodes did during it.

use std::time::Duration;

use anyhow::Result;
use diskstore::status::Status;

use super::{Found, Place, Trial, fill, writes_to};
use crate::drive::{KEYS_LONG, VALUE_BYTES, float, run_resp};
use crate::nodes::{Nodes, status};
use crate::rows::Limit;

pub(super) const TRIAL: Trial = Trial {
    name: "background",
    goals: &[
        ("writes, 64: per s while checkpoints are written / without", Limit::AtLeast(0.9)),
        ("writes, 64: p99 in ms while checkpoints are written / without", Limit::AtMost(2.0)),
        ("writes, 64: per s while logs are purged / without", Limit::AtLeast(0.9)),
        ("writes, 64: p99 in ms while logs are purged / without", Limit::AtMost(2.0)),
        ("writes, 64: per s while a snapshot goes to a learner / without", Limit::AtLeast(0.9)),
        ("writes, 64: p99 in ms while a snapshot goes to a learner / without", Limit::AtMost(2.0)),
        ("writes, 256: MB written to the log / MB of values", Limit::AtMost(1.3)),
        // Each page twice, and what names the pages of a round.
        ("writes, 256: MB written by checkpoints / MB of changed pages", Limit::AtMost(2.1)),
    ],
    run,
};

/// A checkpoint is due every few seconds, and done before the next.
const FLAGS: &str = "-checkpoint-mib 256";
/// Members before one joins.
const MEMBER_COUNT: usize = 3;
const CLIENTS: u64 = 64;
const PIECE: Duration = Duration::from_millis(500);
/// Pieces until the log has been purged for the first time, at most.
const FIRST_PIECES_MAX: u64 = 120;
/// Pieces until a new member votes, at most.
const JOIN_PIECES_MAX: u64 = 120;

/// What the nodes say that they have done.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Done {
    written_pages: u64,
    purged: u64,
    slots_sent: u64,
    log_written_bytes: u64,
}

/// A part of the load.
#[derive(Debug, Clone, Copy)]
struct Piece {
    per_second: f64,
    p99_ms: f64,
    before: Done,
    after: Done,
}

fn run(place: &Place<'_>) -> Result<Vec<Found>> {
    let mut nodes = place.start(MEMBER_COUNT, FLAGS)?;
    // A snapshot has all slots to send; the load goes to few of them.
    fill(&mut nodes, KEYS_LONG)?;
    // From the first purge on segments are used again.
    put(&mut nodes, FIRST_PIECES_MAX, &|done| done.purged > 0)?;
    let mut pieces = put(&mut nodes, place.choose(48, 240), &|_| false)?;
    let mut found = written(&mut nodes, place)?;
    nodes.spawn(MEMBER_COUNT)?;
    pieces.extend(put_until_joined(&mut nodes)?);
    found.splice(0..0, compare(&pieces));
    Ok(found)
}

/// Puts so many pieces on the nodes, fewer if `is_done` says so.
fn put(nodes: &mut Nodes, count: u64, is_done: &dyn Fn(Done) -> bool) -> Result<Vec<Piece>> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut load = writes_to(nodes, CLIENTS, PIECE)?;
    let mut before = done(&asked());
    for nth in 0..count {
        load.seed = nth;
        let report = run_resp(&load)?;
        let after = done(&asked());
        let (per_second, p99_ms) = (report.all.per_second, report.all.latency.p99_ms);
        pieces.push(Piece { per_second, p99_ms, before, after });
        if is_done(after) {
            break;
        }
        before = after;
    }
    Ok(pieces)
}

/// As [`put`], until the fourth node is a member that votes.
fn put_until_joined(nodes: &mut Nodes) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    for _ in 0..JOIN_PIECES_MAX {
        pieces.extend(put(nodes, 1, &|_| false)?);
        let votes = |status: &Status| {
            status.members.iter().any(|member| member.name == "node3" && member.role != "learner")
        };
        if asked().iter().any(votes) {
            return Ok(pieces);
        }
    }
    anyhow::bail!("a new member does not come to vote under load")
}

/// What log and checkpoints write under load.
fn written(nodes: &mut Nodes, place: &Place<'_>) -> Result<Vec<Found>> {
    let load = writes_to(nodes, 256, place.seconds(8, 30))?;
    let (done_before, made_before, before) = written_up_to_now(nodes)?;
    let report = run_resp(&load)?;
    let (done, made, after) = written_up_to_now(nodes)?;
    let value_bytes = VALUE_BYTES as u64 * report.all.count * nodes.count() as u64;
    let megabytes = |bytes: u64| float(bytes) / 1e6;
    let log = megabytes(done.log_written_bytes - done_before.log_written_bytes);
    // A new segment is filled with zeros once.
    let zeros = megabytes(made.saturating_sub(made_before));
    let pages = megabytes((done.written_pages - done_before.written_pages) * 4096);
    let others = (after - before) / 1e6 - log - zeros;
    eprintln!("written, MB: log {log:.0}, zeros {zeros:.0}, others {others:.0}, pages {pages:.0}");
    Ok(vec![
        Found::Ratio(log + zeros, megabytes(value_bytes)),
        Found::ratio((pages > 0.0).then_some((others, pages))),
    ])
}

/// What the nodes say, bytes of their logs' files, and all bytes that they wrote.
fn written_up_to_now(nodes: &Nodes) -> Result<(Done, u64, f64)> {
    let mut file_bytes = 0;
    for number in 0..nodes.count() {
        for file in std::fs::read_dir(nodes.file(number, "wal"))? {
            // One that is just renamed is gone.
            file_bytes += file?.metadata().map_or(0, |data| data.len());
        }
    }
    Ok((done(&asked()), file_bytes, nodes.used()?.written_bytes))
}

/// The members that were there from the beginning: one that joins gives no answer for long.
fn asked() -> Vec<Status> {
    (0..MEMBER_COUNT).filter_map(status).collect()
}

/// All nodes together.
fn done(statuses: &[Status]) -> Done {
    statuses.iter().fold(Done::default(), |done, status| Done {
        written_pages: done.written_pages + status.written_pages,
        purged: done.purged + status.purged,
        slots_sent: done.slots_sent + status.slots_sent,
        log_written_bytes: done.log_written_bytes + status.log_written_bytes,
    })
}

/// Whether a piece is of some kind.
type Kind<'a> = &'a dyn Fn(&Piece) -> bool;

/// Throughput and p99, while something was done, by the same without: of checkpoints, purges and
/// snapshots.
fn compare(pieces: &[Piece]) -> Vec<Found> {
    let checkpoint = |piece: &Piece| piece.after.written_pages != piece.before.written_pages;
    let purge = |piece: &Piece| piece.after.purged != piece.before.purged;
    let snapshot = |piece: &Piece| piece.after.slots_sent != piece.before.slots_sent;
    let quiet = |piece: &Piece| !checkpoint(piece) && !purge(piece) && !snapshot(piece);
    let without = mean(pieces, &quiet);
    let mut found = Vec::new();
    let kinds: [(&str, Kind<'_>); 3] =
        [("checkpoint", &checkpoint), ("purge", &purge), ("snapshot", &snapshot)];
    for (name, kind) in kinds {
        let count = pieces.iter().filter(|piece| kind(piece)).count();
        eprintln!("{name}: {count} of {} pieces", pieces.len());
        let both = mean(pieces, kind).zip(without);
        found.push(Found::ratio(both.map(|(one, other)| (one.0, other.0))));
        found.push(Found::ratio(both.map(|(one, other)| (one.1, other.1))));
    }
    found
}

/// Throughput and p99 of some pieces, on average.
fn mean(pieces: &[Piece], is_meant: Kind<'_>) -> Option<(f64, f64)> {
    let meant: Vec<&Piece> = pieces.iter().filter(|piece| is_meant(piece)).collect();
    let count = float(meant.len() as u64);
    let sum = |of: fn(&Piece) -> f64| meant.iter().map(|piece| of(piece)).sum::<f64>();
    let means = (sum(|piece| piece.per_second) / count, sum(|piece| piece.p99_ms) / count);
    (!meant.is_empty()).then_some(means)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(per_second: f64, p99_ms: f64, after: Done) -> Piece {
        Piece { per_second, p99_ms, before: Done::default(), after }
    }

    #[test]
    fn pieces_count_for_what_was_done_during_them() {
        let quiet = Done { log_written_bytes: 7, ..Done::default() };
        let checkpoint = Done { written_pages: 1, ..quiet };
        let both = Done { purged: 1, ..checkpoint };
        let pieces = [
            piece(100.0, 1.0, quiet),
            piece(200.0, 3.0, quiet),
            piece(120.0, 4.0, checkpoint),
            piece(60.0, 8.0, both),
        ];
        let expected = [
            Found::Ratio(90.0, 150.0),
            Found::Ratio(6.0, 2.0),
            Found::Ratio(60.0, 150.0),
            Found::Ratio(8.0, 2.0),
            Found::Nothing,
            Found::Nothing,
        ];
        assert_eq!(compare(&pieces), expected);
    }

    #[test]
    fn without_a_quiet_piece_nothing_is_told() {
        let snapshot = Done { slots_sent: 1, ..Done::default() };
        assert_eq!(compare(&[piece(1.0, 1.0, snapshot)]), [Found::Nothing; 6]);
    }
}
