//! Recovery: reads the files of the log, builds its state in memory, and cuts off a torn end.
//!
//! Called by `Wal::open`, and by `StoppedWal`, which only reads. Invariants:
//!
//! - I1: nothing on the disk changes before all of the log was read and found sound.
//! - I2: a bad batch that no later batch claims durable ends the log; one that a later batch claims
//!   is damage of acknowledged data, and the log is refused.
//! - I3: a segment's header names the batch that it follows; bytes behind that batch in the earlier
//!   segment are dead, and are never read. So if a valid batch stands behind the end of the log
//!   (which takes several that were never synced), the log goes on in a fresh segment: in the old
//!   one it would one day grow up to that batch. If the disk has no room for a segment, everything
//!   behind the end is overwritten with zeros first.
//! - I4: a batch that no later batch claims durable may have reached the page cache only. So it is
//!   written again, byte for byte, before it counts as durable; with the first batch of a segment
//!   its header is too. Doing all this twice, or half and then again, has the same result.
//! - I5: memory is bounded by the index, one batch, a piece of a segment, and what a follower keeps.
//! - I6: a segment is removed from the log only after the state in its header (vote, purge point,
//!   committed) is durable elsewhere. If a header is the only place, its segment stays, is written
//!   again as under I4, and takes the next batch itself if there is no room for another segment.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::batch::{self, BATCH_BYTES_LIMIT, BatchHeader};
use super::current::{Current, write_again};
use super::cut::{self, Cut, Torn};
use super::index::{Index, Segment};
use super::record::{self, Entry, EntryRecord, Record};
use super::scan::Window;
use super::segment::{
    Begun, Carried, Follows, Life, Nonce, SEGMENT_HEADER_BYTES, SEGMENT_VERSION, SegmentHeader,
    id_of, name_of, nonces_in, spare_id_of,
};
use crate::disk::{BLOCK_BYTES, Disk, File, WriteMode};
use crate::{Error, LogId, Result};

/// What was recovered, for one line of the operator's log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Segments that hold the log.
    pub segments: u64,
    /// Batches that were read.
    pub batches: u64,
    /// Entries that were read, purged and truncated ones included.
    pub entries: u64,
    /// Bytes of the batches that were read.
    pub bytes: u64,
    /// The torn end, if there was one.
    pub cut: Option<Cut>,
}

/// What recovery meets, in the order of the log. Damage may still be found behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// First of all: the log has so many bytes, with the room that segments have left.
    Bytes(u64),
    /// A batch of so many bytes, whose content follows.
    Batch(u64),
    /// An entry.
    Entry(Entry),
    /// Entries up to here are committed.
    Committed(LogId),
    /// Entries after this one were dropped; all of them if there is none.
    Truncated(Option<LogId>),
}

/// Hears what recovery meets, if there is somebody.
pub(super) type Follow<'a, 'b> = &'a mut Option<&'b mut dyn FnMut(Seen)>;

/// An entry of fewer bytes is copied for whoever follows: it would keep a piece of a segment in memory.
const COPIED_BYTES_MAX: usize = 1024;

/// Where the first batch of a segment begins.
#[expect(clippy::cast_possible_truncation, reason = "a block is small")]
const HEADER_END: u32 = SEGMENT_HEADER_BYTES as u32;

/// A segment in the directory.
#[derive(Debug)]
struct Found {
    id: u64,
    file: Arc<dyn File>,
    bytes: u64,
    begun: Begun,
    /// The lives that batches in it may be of: its own, and if its header does not say that, those
    /// that it may have.
    lives: Vec<Life>,
}

/// The log as it was found.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) index: Index,
    /// `None` if the log goes on in a fresh segment.
    pub(super) current: Option<Current>,
    /// Where it could go on as well.
    pub(super) clearable: Option<Clearable>,
    /// The last valid batch.
    pub(super) last: Follows,
    /// Name and bytes of the files that hold nothing of the log.
    pub(super) unused: Vec<(String, u64)>,
    pub(super) next_id: u64,
    /// What the last segment says of the next one's nonce.
    pub(super) next_nonce: Option<Nonce>,
    pub(super) report: Recovery,
}

/// A place where the log can go on once [`Current::clear`] has taken what is dead there.
#[derive(Debug)]
pub(super) struct Clearable {
    pub(super) at: Current,
    /// A segment that holds no batch yet, and what it says of the next one's nonce.
    pub(super) begins: Option<(Segment, Nonce)>,
}

/// The place where the first batch that is not valid stands or would stand.
#[derive(Debug, Clone, Copy)]
struct End {
    segment: u64,
    offset: u64,
    sequence: u64,
}

#[derive(Debug)]
struct Replay {
    index: Index,
    report: Recovery,
    /// The last valid batch.
    last: Follows,
    /// The last batch that another one claims durable.
    claimed: u64,
}

/// What the segments say, once all of them were read and found sound.
struct Sound {
    replay: Replay,
    end: End,
    dead_end: Option<u64>,
}

/// Reads the chain of the segments that were found. Changes nothing (I1).
fn read_chain(
    found: &[Found],
    chain: &[(&Found, SegmentHeader)],
    directory: &Path,
    follow: Follow<'_, '_>,
) -> Result<Sound> {
    let mut replay = Replay::new(chain);
    tell(follow, || Seen::Bytes(chain.iter().map(|(found, _)| found.bytes).sum()));
    let end = replay.run(chain, follow)?;
    replay.check_base(chain, directory)?;
    let dead_end = look_behind(found, end, &replay, directory)?;
    Ok(Sound { replay, end, dead_end })
}

/// Reads the log in `directory` and changes nothing: places of its entries, its last batch, a report.
pub(super) fn read_only(disk: &dyn Disk, directory: &Path) -> Result<(Index, u64, Recovery)> {
    let found = scan(disk, directory)?;
    let chain = chain_of(&found, directory)?;
    let Sound { replay, end, dead_end } = read_chain(&found, &chain, directory, &mut None)?;
    let Replay { index, mut report, last, .. } = replay;
    report.segments = index.segments.len() as u64;
    report.cut = find_cut(&found, end, dead_end)?.map(|torn| torn.left());
    Ok((index, last.sequence, report))
}

/// Reads the log in `directory`; the bytes of a torn end go to a file in `aside`.
pub(super) fn recover(
    disk: &dyn Disk,
    directory: &Path,
    aside: &Path,
    follow: Follow<'_, '_>,
) -> Result<Recovered> {
    let found = scan(disk, directory)?;
    let chain = chain_of(&found, directory)?;
    let Sound { replay, end, dead_end } = read_chain(&found, &chain, directory, follow)?;
    let torn = find_cut(&found, end, dead_end)?;
    let spares = spares_in(disk, directory)?;
    let ids = found.iter().map(|found| found.id);
    let highest_id = ids.chain(spares.iter().map(|spare| spare.id)).max().unwrap_or(0);
    let spares = spares.into_iter().map(|spare| (spare.name, spare.bytes));
    let unclaimed = replay.unclaimed();
    let carrying = carrying_of(&chain, &replay.index);
    let mut recovered = Recovered {
        current: None,
        clearable: None,
        last: replay.last,
        unused: unused_of(&found, carrying, &replay.index).into_iter().chain(spares).collect(),
        next_id: highest_id + 1,
        next_nonce: next_nonce_of(&chain, replay.last.segment),
        index: replay.index,
        report: replay.report,
    };
    if let Some(torn) = &torn {
        recovered.report.cut = Some(cut::keep(disk, aside, torn)?);
    }
    let writer_of = |id| disk.open(&directory.join(name_of(id)), WriteMode::DirectDurable);
    if let Some((found, header)) = carrying {
        let writer = writer_of(header.id)?;
        write_again(&*writer, 0..SEGMENT_HEADER_BYTES as u64)?; // I4, I6
        let segment =
            Segment::new(found.id, Arc::clone(&found.file), header.first_sequence, HEADER_END);
        let begins = Some((segment, header.next_nonce));
        recovered.clearable = current_of(&chain, writer, end).map(|at| Clearable { at, begins });
    } else if !recovered.index.segments.is_empty() {
        let writer = writer_of(recovered.last.segment)?;
        write_again(&*writer, unclaimed)?; // I4
        let is_in_last = recovered.last.segment == end.segment;
        let at_end = current_of(&chain, writer, end).filter(|_| is_in_last);
        match torn {
            None => recovered.current = at_end,
            Some(_) => {
                recovered.clearable = at_end.map(|at| Clearable { at, begins: None });
            }
        }
    }
    recovered.report.segments = recovered.index.segments.len() as u64;
    Ok(recovered)
}

fn scan(disk: &dyn Disk, directory: &Path) -> Result<Vec<Found>> {
    let mut ids: Vec<u64> = disk.list(directory)?.iter().filter_map(|name| id_of(name)).collect();
    ids.sort_unstable();
    let mut next_nonces = Vec::new();
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let mut segment = inspect(disk, &directory.join(name_of(id)), id)?;
        if let Begun::Yes(header) = segment.begun {
            next_nonces.push(header.next_nonce);
        } else {
            let lives = next_nonces.iter().map(|&nonce| Life { segment: id, nonce });
            segment.lives.extend(lives);
        }
        found.push(segment);
    }
    Ok(found)
}

/// A segment that was taken out of the log before.
#[derive(Debug)]
struct Spare {
    id: u64,
    name: String,
    bytes: u64,
}

fn spares_in(disk: &dyn Disk, directory: &Path) -> Result<Vec<Spare>> {
    let names = disk.list(directory)?.into_iter();
    let spares = names.filter_map(|name| spare_id_of(&name).map(|id| (id, name)));
    let with_bytes = |(id, name): (u64, String)| {
        let bytes = disk.open(&directory.join(&name), WriteMode::ReadOnly)?.len()?;
        Ok(Spare { id, name, bytes })
    };
    spares.map(with_bytes).collect()
}

fn inspect(disk: &dyn Disk, path: &Path, id: u64) -> Result<Found> {
    let file = disk.open(path, WriteMode::ReadOnly)?;
    let bytes = file.len()?;
    let (mut block, mut first_batch) = ([0; BLOCK_BYTES], [0; BLOCK_BYTES]);
    if bytes >= BLOCK_BYTES as u64 {
        file.read_at(&mut block, 0)?;
    }
    if bytes >= 2 * BLOCK_BYTES as u64 {
        file.read_at(&mut first_batch, SEGMENT_HEADER_BYTES as u64)?;
    }
    let begun = SegmentHeader::decode(&block, id);
    if let Begun::Unknown(version) = begun {
        return Err(Error::UnknownVersion {
            path: path.to_path_buf(),
            version,
            known: SEGMENT_VERSION,
        });
    }
    let lives = match begun {
        Begun::Yes(header) => vec![header.life()],
        Begun::No | Begun::Damaged | Begun::Unknown(_) => {
            // The first batch always begins there, so no client chose the bytes of its header.
            let first = BatchHeader::decode(&first_batch).and_then(|header| header.nonce_of(id));
            nonces_in(&block).chain(first).map(|nonce| Life { segment: id, nonce }).collect()
        }
    };
    Ok(Found { id, file, bytes, begun, lives })
}

/// The begun segments that hold the log, oldest first. Found from the newest backwards, because a
/// segment names the one that it follows: those between the two are dead (I3).
fn chain_of<'a>(found: &'a [Found], directory: &Path) -> Result<Vec<(&'a Found, SegmentHeader)>> {
    let mut chain = Vec::new();
    let mut wanted = found.iter().rev().find(|found| matches!(found.begun, Begun::Yes(_)));
    while let Some(segment) = wanted {
        let Begun::Yes(header) = segment.begun else {
            let follows = chain.last().map(|(_, header): &(_, SegmentHeader)| header.follows);
            let first = chain.last().and_then(|(_, header)| header.carried.purged);
            return Err(Error::CorruptLog {
                path: directory.join(name_of(segment.id)),
                offset: 0,
                sequence: follows.unwrap_or_default().sequence,
                index: first.map_or(0, |purged| purged.index + 1),
            });
        };
        chain.push((segment, header));
        let before = header.follows.segment;
        wanted = found.iter().find(|found| found.id == before && before < segment.id);
    }
    chain.reverse();
    Ok(chain)
}

impl Replay {
    fn new(chain: &[(&Found, SegmentHeader)]) -> Self {
        let header = chain.first().map(|(_, header)| header);
        Replay {
            index: Index::new(header.map(|header| header.carried).unwrap_or_default()),
            report: Recovery::default(),
            last: header.map(|header| header.follows).unwrap_or_default(),
            claimed: 0,
        }
    }

    /// The bytes of the last segment that no batch claims: with its first batch also the header,
    /// which went with it in one write.
    fn unclaimed(&self) -> Range<u64> {
        let Some(segment) = self.index.segments.back() else { return 0..0 };
        let ordinal = (self.claimed + 1).saturating_sub(segment.first_sequence);
        let first = usize::try_from(ordinal).ok().and_then(|nth| segment.batches.get(nth));
        let start = match (ordinal, first) {
            (0, _) => 0,
            (_, first) => first.map_or(u64::from(segment.end), |&offset| u64::from(offset)),
        };
        start..u64::from(segment.end)
    }

    /// Replays all valid batches and says where they end.
    fn run(&mut self, chain: &[(&Found, SegmentHeader)], follow: Follow<'_, '_>) -> Result<End> {
        let mut end = End { segment: 0, offset: 0, sequence: 1 };
        for (ordinal, (found, header)) in chain.iter().enumerate() {
            let follower = chain.get(ordinal + 1).map(|(_, follower)| follower.follows.sequence);
            if header.reserved != 0
                || header.carried != self.index.carried
                || (header.follows == Follows::default() && header.carried != Carried::default())
                || header.first_sequence != self.last.sequence + 1
            {
                let what = "the segment does not go on where the one before it ends";
                return Err(Error::Corrupt { path: found.file.path(), offset: 0, what });
            }
            end = self.replay_segment(found, header, follower, follow)?;
        }
        Ok(end)
    }

    fn replay_segment(
        &mut self,
        found: &Found,
        header: &SegmentHeader,
        until: Option<u64>,
        follow: Follow<'_, '_>,
    ) -> Result<End> {
        let file = Arc::clone(&found.file);
        let segment = Segment::new(found.id, file, header.first_sequence, HEADER_END);
        self.index.segments.push_back(segment);
        // Whoever follows does not read it again.
        let mut window = Window::new(&*found.file, found.bytes).reading_once(follow.is_some());
        let mut end = End {
            segment: found.id,
            offset: u64::from(HEADER_END),
            sequence: header.first_sequence,
        };
        while until.is_none_or(|until| end.sequence <= until) {
            let Some(batch) = window.batch(end.offset, header.life())?.filter(|batch| {
                BatchHeader::decode(batch).is_some_and(|batch| batch.sequence == end.sequence)
            }) else {
                break;
            };
            self.replay_batch(&batch, found, end, follow)?;
            end.offset += batch.len() as u64;
            end.sequence += 1;
        }
        if until.is_some_and(|until| end.sequence <= until) {
            return Err(self.damage(found.file.path(), end));
        }
        if end.sequence == header.first_sequence {
            self.index.segments.pop_back(); // its first batch never became valid
        }
        Ok(end)
    }

    fn replay_batch(
        &mut self,
        batch: &Bytes,
        found: &Found,
        at: End,
        follow: Follow<'_, '_>,
    ) -> Result<()> {
        let corrupt = |what| Error::Corrupt { path: found.file.path(), offset: at.offset, what };
        let header = BatchHeader::decode(batch).filter(|header| header.reserved == 0);
        let header = header.ok_or_else(|| corrupt("a batch with a field that is reserved"))?;
        let mut records =
            batch::records_of(batch).ok_or_else(|| corrupt("a batch without its records"))?;
        let start = u32::try_from(at.offset).map_err(|_| corrupt("a segment beyond 4 GiB"))?;
        tell(follow, || Seen::Batch(batch.len() as u64));
        let mut offset = batch::BATCH_HEADER_BYTES;
        while !records.is_empty() {
            let (record, bytes) =
                record::decode(records).ok_or_else(|| corrupt("a record of no known kind"))?;
            let place =
                start + u32::try_from(offset).map_err(|_| corrupt("a batch beyond 4 GiB"))?;
            self.replay_record(record, place).ok_or_else(|| corrupt("the log has a hole"))?;
            if let Some(follow) = follow {
                seen(record, batch).into_iter().for_each(follow);
            }
            offset += bytes;
            records = records.get(bytes..).ok_or_else(|| corrupt("a record without its end"))?;
        }
        let end =
            start + u32::try_from(batch.len()).map_err(|_| corrupt("a batch beyond 4 GiB"))?;
        self.index.locate(at.sequence, start, end);
        self.last = Follows { segment: found.id, sequence: at.sequence };
        self.claimed = self.claimed.max(header.durable_sequence);
        self.report.batches += 1;
        self.report.bytes += batch.len() as u64;
        Ok(())
    }

    /// `None` if the record cannot follow those before it.
    fn replay_record(&mut self, record: Record<'_>, offset: u32) -> Option<()> {
        match record {
            Record::Entry(entry) => {
                let next = self.index.next().unwrap_or(entry.log_id.index);
                (next == entry.log_id.index).then_some(())?;
                self.report.entries += 1;
                self.index.append_located(entry.log_id, offset);
            }
            Record::Vote(vote) => self.index.carried.vote = Some(vote),
            Record::Committed(committed) => self.index.carried.committed = Some(committed),
            Record::Truncate(last) => self.index.truncate_after(last),
            Record::Purge(upto) => self.index.purge(upto),
        }
        Some(())
    }

    /// A log whose oldest segments are gone must have been purged up to there.
    fn check_base(&self, chain: &[(&Found, SegmentHeader)], directory: &Path) -> Result<()> {
        let Some((_, header)) = chain.first().filter(|(_, header)| header.follows.segment != 0)
        else {
            return Ok(());
        };
        let purged_next = self.index.carried.purged.map_or(0, |purged| purged.index + 1);
        if self.index.live().start <= purged_next {
            return Ok(());
        }
        let what = "it holds entries that were not purged; restore this member from the others";
        Err(Error::Missing { path: directory.join(name_of(header.follows.segment)), what })
    }

    fn damage(&self, path: PathBuf, at: End) -> Error {
        Error::CorruptLog {
            path,
            offset: at.offset,
            sequence: at.sequence,
            index: self.index.next().unwrap_or(0),
        }
    }
}

/// What the segment that the log goes on behind says of the next one: not what a segment says of
/// which no batch became valid, for that goes out of the log.
fn next_nonce_of(chain: &[(&Found, SegmentHeader)], last_segment: u64) -> Option<Nonce> {
    let header = chain.iter().map(|(_, header)| header).find(|header| header.id == last_segment);
    header.map(|header| header.next_nonce)
}

fn tell(follow: Follow<'_, '_>, seen: impl FnOnce() -> Seen) {
    if let Some(follow) = follow {
        follow(seen());
    }
}

/// What there is to tell of a record; an entry keeps its batch in memory.
fn seen(record: Record<'_>, batch: &Bytes) -> Option<Seen> {
    match record {
        Record::Entry(EntryRecord { log_id, kind, payload, .. }) => {
            let is_small = payload.len() < COPIED_BYTES_MAX;
            let payload = if is_small { payload.to_vec().into() } else { batch.slice_ref(payload) };
            Some(Seen::Entry(Entry { log_id, kind, payload: payload.into() }))
        }
        Record::Committed(committed) => Some(Seen::Committed(committed)),
        Record::Truncate(last) => Some(Seen::Truncated(last)),
        Record::Vote(_) | Record::Purge(_) => None,
    }
}

/// Looks behind the end for a batch that claims the one which should stand there (I2), and says
/// where the last valid batch ends that lies there without a claim, in the segment of the end (I3).
/// Later segments are out of the log before anything is written.
fn look_behind(
    found: &[Found],
    end: End,
    replay: &Replay,
    directory: &Path,
) -> Result<Option<u64>> {
    let mut dead_end = None;
    for segment in found.iter().filter(|found| found.id >= end.segment) {
        let is_end = segment.id == end.segment;
        let start = if is_end { end.offset } else { SEGMENT_HEADER_BYTES as u64 };
        let mut window = Window::new(&*segment.file, segment.bytes);
        let behind = window.behind(start, &segment.lives, end.sequence)?;
        if behind.claim.is_some() {
            let place = if is_end || matches!(segment.begun, Begun::Yes(_)) {
                end
            } else {
                End { segment: segment.id, offset: 0, sequence: end.sequence } // its header is bad
            };
            return Err(replay.damage(directory.join(name_of(place.segment)), place));
        }
        if is_end {
            dead_end = behind.end;
        }
    }
    Ok(dead_end)
}

/// Tells the remains of the batch that was in flight, and batches up to `dead_end`, from zeros and
/// bytes of another origin.
fn find_cut(found: &[Found], end: End, dead_end: Option<u64>) -> Result<Option<Torn<'_>>> {
    for segment in found.iter().rev().filter(|found| found.id >= end.segment) {
        let is_end = segment.id == end.segment;
        let offset = if is_end { end.offset } else { SEGMENT_HEADER_BYTES as u64 };
        let rest = segment.bytes.saturating_sub(offset);
        let mut window = Window::new(&*segment.file, segment.bytes);
        let header = window.header(offset)?;
        let is_ours = |header: &BatchHeader| {
            segment.lives.iter().any(|&life| header.resembles(life, end.sequence))
        };
        let torn = header.filter(is_ours);
        let is_short = match segment.begun {
            Begun::Yes(header) => segment.bytes < header.bytes && rest > 0,
            Begun::No | Begun::Damaged | Begun::Unknown(_) => false,
        };
        // A segment is begun by one write: the header alone is the beginning of a torn one.
        let is_header_alone = is_end && offset == SEGMENT_HEADER_BYTES as u64;
        let is_damaged = !is_end && segment.begun == Begun::Damaged;
        let dead_bytes = dead_end.filter(|_| is_end).map(|dead_end| dead_end - offset);
        let is_dead = dead_bytes.is_some();
        if torn.is_none() && !is_dead && !is_short && !is_damaged && !is_header_alone {
            continue;
        }
        let torn_bytes = torn.and_then(|header| header.batch_bytes()).map(|bytes| bytes as u64);
        let bytes =
            torn_bytes.max(dead_bytes).unwrap_or(u64::MAX).min(rest).min(BATCH_BYTES_LIMIT as u64);
        // The header of a segment goes with its first batch.
        let start = if offset == SEGMENT_HEADER_BYTES as u64 { 0 } else { offset };
        let bytes = (bytes + offset - start).min(segment.bytes - start);
        return Ok(Some(Torn {
            segment: segment.id,
            file: &*segment.file,
            offset: start,
            bytes,
            sequence: end.sequence,
        }));
    }
    Ok(None)
}

/// The segment of which no batch is left, and that is the only one to carry the state of those before
/// it (I6): it goes with a later start.
fn carrying_of<'a>(
    chain: &'a [(&'a Found, SegmentHeader)],
    index: &Index,
) -> Option<&'a (&'a Found, SegmentHeader)> {
    let only = chain.first().filter(|_| index.segments.is_empty());
    only.filter(|(_, header)| header.follows != Follows::default())
}

/// The files that hold nothing of the log.
fn unused_of(
    found: &[Found],
    carrying: Option<&(&Found, SegmentHeader)>,
    index: &Index,
) -> Vec<(String, u64)> {
    found
        .iter()
        .filter(|found| index.segments.iter().all(|segment| segment.id != found.id))
        .filter(|found| carrying.is_none_or(|(_, header)| header.id != found.id))
        .map(|found| (name_of(found.id), found.bytes))
        .collect()
}

/// The last segment, if batches can go on at its end.
fn current_of(
    chain: &[(&Found, SegmentHeader)],
    writer: Arc<dyn File>,
    end: End,
) -> Option<Current> {
    let (found, header) = chain.last()?;
    let is_whole = found.bytes >= header.bytes;
    is_whole.then(|| Current { writer, life: header.life(), end: end.offset, bytes: header.bytes })
}
