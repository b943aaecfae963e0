//! The ids of writes: which were applied lately, and by which entry, so that a write that is sent
//! again is not applied again.
//!
//! Called by the machines, which ask it for every entry with an id, by the checkpoints, which keep
//! it in a file, and by the reader of backups. Bytes: `docs/format.md`, "Request ids". The table is
//! part of the replicated state: it decides which entries are applied, so it has to be the same on
//! every replica at every index. Invariants:
//!
//! - I1: which ids a table holds depends on the entries before and on nothing else: it holds those
//!   of the last [`REQUEST_COUNT_MAX`] writes with an id that were applied, and forgets the oldest.
//! - I2: nothing that was computed from a slot decides anything. The answer that stands beside an
//!   id may be missing on one replica and not on another; it is given to clients, and no more.
//! - I3: a table is taken as of an index exactly. What entries behind that index pushed out is kept
//!   until [`Requests::settle`] says that nobody asks for an earlier index any more.
//! - I4: a file is found whole under its name or not at all, and whoever names it knows its CRC.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes};

use crate::disk::{Disk, WriteMode};
use crate::{Error, LogId, LogIndex, Result, Term};

/// How many writes with an id are remembered.
pub const REQUEST_COUNT_MAX: usize = 65_536;
/// Longest answer that is remembered, in bytes.
pub const ANSWER_BYTES_MAX: usize = 64;
/// Longest body of a table, in bytes.
pub const REQUESTS_BYTES_MAX: usize =
    COUNT_BYTES + REQUEST_COUNT_MAX * (RECORD_BYTES + ANSWER_BYTES_MAX);
/// What a file of request ids begins with.
pub(crate) const MAGIC: [u8; 8] = *b"DSTREQID";
/// Version of the file.
pub(crate) const VERSION: u32 = 1;

/// What the file is called until it is whole.
const NEW_NAME: &str = "requests.new";
const PREFIX: &str = "requests-";
const SUFFIX: &str = ".dat";
/// Magic, version, CRC, cluster id, term, index.
const HEADER_BYTES: usize = 8 + 4 + 4 + 16 + 8 + 8;
const CRC_OFFSET: usize = 12;
/// The count before the records.
const COUNT_BYTES: usize = 4;
/// index u64, id u128, content u64, length of the answer u8.
const RECORD_BYTES: usize = 8 + 16 + 8 + 1;
/// The length of an answer that is not known.
const UNKNOWN: u8 = 255;

const _: () = assert!(ANSWER_BYTES_MAX < UNKNOWN as usize);
const _: () = assert!(REQUESTS_BYTES_MAX < 8 << 20); // it fits a frame, and a piece of a backup

/// One write with an id that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The entry that applied it.
    pub index: LogIndex,
    /// A digest of the id.
    pub id: u128,
    /// A digest of what was to be done.
    pub content: u64,
    /// What it answered, as bytes of the caller's; `None` if that is too long or not known here.
    pub answer: Option<Box<[u8]>>,
}

/// The writes with an id that are remembered, in the order of the log.
#[derive(Debug, Default)]
pub struct Requests {
    requests: VecDeque<Request>,
    /// The newest entry that has this id, of all that are in `requests`.
    by_id: BTreeMap<u128, LogIndex>,
}

impl Requests {
    /// The write that has this id, if it is remembered.
    pub fn find(&self, id: u128) -> Option<&Request> {
        let index = self.by_id.get(&id)?;
        let place = self.requests.partition_point(|request| request.index < *index);
        // What stands before the last so many is only there for earlier indexes (I3).
        let is_remembered = self.requests.len() - place <= REQUEST_COUNT_MAX;
        self.requests.get(place).filter(|_| is_remembered)
    }

    /// Remembers a write that is applied, and whose id is not.
    ///
    /// # Panics
    /// If its entry is not behind all that are remembered.
    pub fn push(&mut self, request: Request) {
        let last = self.requests.back().map(|last| last.index);
        assert!(last < Some(request.index), "entry {} behind {last:?}", request.index);
        self.by_id.insert(request.id, request.index);
        self.requests.push_back(request);
    }

    /// Nobody asks for the table as of an index before `index` any more.
    pub fn settle(&mut self, index: LogIndex) {
        let mut count = self.requests.partition_point(|request| request.index <= index);
        while count > REQUEST_COUNT_MAX {
            count -= 1;
            let Some(oldest) = self.requests.pop_front() else { return };
            if self.by_id.get(&oldest.id) == Some(&oldest.index) {
                self.by_id.remove(&oldest.id);
            }
        }
    }

    /// The table as of entry `index` (I3), as bytes; empty if nothing was remembered then.
    pub fn encode_at(&self, index: LogIndex) -> Bytes {
        let end = self.requests.partition_point(|request| request.index <= index);
        let start = end.saturating_sub(REQUEST_COUNT_MAX);
        if end == 0 {
            return Bytes::new();
        }
        let mut bytes = Vec::with_capacity(COUNT_BYTES + (end - start) * (RECORD_BYTES + 24));
        bytes.put_u32_le(u32::try_from(end - start).unwrap_or(u32::MAX)); // a bounded number
        for Request { index, id, content, answer } in self.requests.range(start..end) {
            bytes.put_u64_le(index.get());
            bytes.put_u128_le(*id);
            bytes.put_u64_le(*content);
            let answer = answer.as_deref().filter(|answer| answer.len() <= ANSWER_BYTES_MAX);
            let length = answer.and_then(|answer| u8::try_from(answer.len()).ok());
            bytes.put_u8(length.unwrap_or(UNKNOWN));
            bytes.put_slice(answer.unwrap_or_default());
        }
        bytes.into()
    }

    /// The table of these bytes, which holds nothing behind entry `last`; `None` if they are those of
    /// none. No bytes are those of an empty one.
    pub fn decode(mut bytes: &[u8], last: LogIndex) -> Option<Self> {
        let mut table = Self::default();
        if bytes.is_empty() {
            return Some(table);
        }
        let count = usize::try_from(bytes.try_get_u32_le().ok()?).ok()?;
        let is_possible = (1..=REQUEST_COUNT_MAX).contains(&count);
        if !is_possible || count > bytes.len() / RECORD_BYTES {
            return None;
        }
        let mut before = LogIndex::new(0);
        for _ in 0..count {
            let index = LogIndex::new(bytes.try_get_u64_le().ok()?);
            let (id, content) = (bytes.try_get_u128_le().ok()?, bytes.try_get_u64_le().ok()?);
            let answer = match bytes.try_get_u8().ok()? {
                UNKNOWN => None,
                length if usize::from(length) > ANSWER_BYTES_MAX => return None,
                length => {
                    let (answer, rest) = bytes.split_at_checked(usize::from(length))?;
                    bytes = rest;
                    Some(answer.into())
                }
            };
            if index <= before || index > last || table.by_id.contains_key(&id) {
                return None;
            }
            before = index;
            table.push(Request { index, id, content, answer });
        }
        bytes.is_empty().then_some(table)
    }

    /// All that are there, in the order of the log.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Request> {
        self.requests.iter()
    }

    /// How many are remembered.
    pub fn count(&self) -> usize {
        self.requests.len().min(REQUEST_COUNT_MAX)
    }
}

/// The name of the file that holds the table as of entry `index`.
fn path_of(directory: &Path, index: u64) -> PathBuf {
    directory.join(format!("{PREFIX}{index:016x}{SUFFIX}"))
}

/// The index in the name of such a file.
fn index_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    u64::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 16)
}

/// Writes the table as of `log_id`; its CRC, which is never 0, for whoever names the file. After `Ok`
/// it survives power loss. An empty table has no file, and the CRC 0.
///
/// # Errors
/// `NoSpace`, `Io`.
pub fn write(
    disk: &dyn Disk,
    directory: &Path,
    cluster_id: u128,
    log_id: LogId,
    body: &[u8],
) -> Result<u32> {
    if body.is_empty() {
        return Ok(0);
    }
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.put_slice(&MAGIC);
    bytes.put_u32_le(VERSION);
    bytes.put_u32_le(0); // the CRC, below
    bytes.put_u128_le(cluster_id);
    bytes.put_u64_le(log_id.term.get());
    bytes.put_u64_le(log_id.index);
    bytes.put_slice(body);
    let crc = checksum(&bytes);
    if let Some(field) = bytes.get_mut(CRC_OFFSET..CRC_OFFSET + 4) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
    let new = directory.join(NEW_NAME);
    if let Err(error) = write_whole(disk, &new, &bytes) {
        return match disk.remove(&new) {
            // The error that matters is the one that led here; the next write removes it anyhow.
            Ok(()) | Err(_) => Err(error),
        };
    }
    let path = path_of(directory, log_id.index);
    let was_there = disk.exists(&path)?;
    disk.rename(&new, &path)?;
    match disk.sync_dir(directory) {
        Ok(()) => Ok(crc),
        // A checkpoint may name the one that was there.
        Err(error) if was_there => Err(error),
        // No checkpoint names it, and the error that matters is the one that led here.
        Err(error) => match disk.remove(&path) {
            Ok(()) | Err(_) => Err(error),
        },
    }
}

/// Writes a file that may be there from an earlier attempt.
fn write_whole(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<()> {
    if disk.exists(path)? {
        disk.remove(path)?;
    }
    let file = disk.create(path, WriteMode::Buffered)?;
    file.write_at(bytes, 0)?;
    file.sync()
}

/// The table as of `log_id`, whose file has this CRC; 0 stands for an empty one without a file.
///
/// # Errors
/// `Missing`, `Corrupt`, `UnknownVersion`, `Mismatch` for a file of another cluster, `Io`.
pub fn read(
    disk: &dyn Disk,
    directory: &Path,
    cluster_id: u128,
    log_id: LogId,
    crc: u32,
) -> Result<Requests> {
    if crc == 0 {
        return Ok(Requests::default());
    }
    let path = path_of(directory, log_id.index);
    if !disk.exists(&path)? {
        return Err(Error::Missing { path, what: "the checkpoint names these request ids" });
    }
    let (head, table) = read_file(disk, &path)?;
    let corrupt = |what| Error::Corrupt { path: path.clone(), offset: 0, what };
    if head.cluster_id != cluster_id {
        return Err(Error::Mismatch {
            path: path.clone(),
            field: "cluster",
            expected: format!("{cluster_id:032x}"),
            actual: format!("{:032x}", head.cluster_id),
        });
    }
    if head.log_id != log_id || head.crc != crc {
        return Err(corrupt("request ids of another checkpoint"));
    }
    Ok(table)
}

/// What a file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) cluster_id: u128,
    pub(crate) log_id: LogId,
    pub(crate) crc: u32,
}

/// Reads and checks a file.
pub(crate) fn read_file(disk: &dyn Disk, path: &Path) -> Result<(Head, Requests)> {
    let corrupt = |what| Error::Corrupt { path: path.to_owned(), offset: 0, what };
    let file = disk.open(path, WriteMode::ReadOnly)?;
    let bytes_max = (HEADER_BYTES + REQUESTS_BYTES_MAX) as u64;
    // One byte more than a file can have shows that it has more.
    let length = usize::try_from(file.len()?.min(bytes_max + 1)).unwrap_or_default();
    let mut bytes = vec![0; length];
    file.read_at(&mut bytes, 0)?;
    let (header, body) =
        bytes.split_at_checked(HEADER_BYTES).ok_or_else(|| corrupt("the file is too short"))?;
    let mut fields = header;
    if fields.copy_to_bytes(MAGIC.len()) != MAGIC[..] {
        return Err(corrupt("magic of a file of request ids"));
    }
    let (version, crc) = (fields.get_u32_le(), fields.get_u32_le());
    if version != VERSION {
        return Err(Error::UnknownVersion { path: path.to_owned(), version, known: VERSION });
    }
    if crc != checksum(&bytes) {
        return Err(corrupt("CRC-32 of a file of request ids"));
    }
    let cluster_id = fields.get_u128_le();
    let log_id = LogId { term: Term::new(fields.get_u64_le()), index: fields.get_u64_le() };
    let table = Requests::decode(body, LogIndex::new(log_id.index));
    let table = table.ok_or_else(|| corrupt("records of a file of request ids"))?;
    Ok((Head { cluster_id, log_id, crc }, table))
}

/// Removes the files of all checkpoints before that of entry `index`.
///
/// # Errors
/// `Io`.
pub fn remove_before(disk: &dyn Disk, directory: &Path, index: u64) -> Result<()> {
    for name in disk.list(directory)? {
        if index_of(&name).is_some_and(|found| found < index) {
            disk.remove(&directory.join(name))?;
        }
    }
    Ok(())
}

/// Removes the file of the checkpoint of entry `index`, if there is one.
///
/// # Errors
/// `Io`.
pub fn remove(disk: &dyn Disk, directory: &Path, index: u64) -> Result<()> {
    let path = path_of(directory, index);
    if disk.exists(&path)? { disk.remove(&path) } else { Ok(()) }
}

/// CRC-32 over everything but the CRC itself; never 0.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytes.get(..CRC_OFFSET).unwrap_or_default());
    hasher.update(bytes.get(CRC_OFFSET + 4..).unwrap_or_default());
    hasher.finalize().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{CrashMode, OperationKind, SimDisk};
    use crate::identity;

    const CLUSTER: u128 = 0xc1;

    fn request(index: u64, id: u128) -> Request {
        let answer =
            (!index.is_multiple_of(3)).then(|| vec![1; usize::try_from(index % 7).unwrap()].into());
        Request { index: LogIndex::new(index), id, content: index * 5, answer }
    }

    fn at(index: u64) -> LogIndex {
        LogIndex::new(index)
    }

    fn log_id(index: u64) -> LogId {
        LogId { term: Term::new(2), index }
    }

    /// Writes 1 to `count`, each with its own id.
    fn full(count: u64) -> Requests {
        let mut table = Requests::default();
        (1..=count).for_each(|index| table.push(request(index, index.into())));
        table
    }

    /// I1
    #[test]
    fn the_oldest_are_forgotten_in_the_order_of_the_log() {
        let most = REQUEST_COUNT_MAX as u64;
        let mut table = full(most);
        assert_eq!(table.find(1), Some(&request(1, 1)));
        table.push(request(most + 1, 0));
        assert_eq!((table.find(1), table.find(2)), (None, Some(&request(2, 2))));
        table.push(request(most + 2, 1)); // the same id once more
        assert_eq!(table.find(1), Some(&request(most + 2, 1)));
        table.settle(at(most + 2));
        assert_eq!((table.requests.len(), table.count()), (REQUEST_COUNT_MAX, REQUEST_COUNT_MAX));
        assert_eq!(table.by_id.len(), REQUEST_COUNT_MAX);
        assert_eq!(
            table.find(1),
            Some(&request(most + 2, 1)),
            "its first entry is forgotten, not this"
        );
        assert_eq!((table.find(2), table.find(3)), (None, Some(&request(3, 3))));
    }

    /// I3
    #[test]
    fn a_table_is_taken_as_of_an_index() {
        let most = REQUEST_COUNT_MAX as u64;
        let mut table = full(most + 5);
        table.settle(at(most + 2));
        for (index, first) in [(most + 2, 3), (most + 3, 4), (most + 5, 6), (u64::MAX, 6)] {
            let bytes = table.encode_at(at(index));
            let then = Requests::decode(&bytes, at(index)).unwrap();
            let last = index.min(most + 5);
            assert_eq!(then.requests.front().unwrap().index, at(first), "as of {index}");
            assert_eq!(then.requests.back().unwrap().index, at(last), "as of {index}");
            assert_eq!(then.count(), REQUEST_COUNT_MAX);
        }
        assert!(full(3).encode_at(at(0)).is_empty());
        assert_eq!(Requests::decode(&[], at(0)).unwrap().count(), 0);
    }

    #[test]
    fn the_bytes_of_a_table_are_pinned() {
        let mut table = Requests::default();
        table.push(Request { index: at(7), id: 0x0102, content: 3, answer: Some([9, 8].into()) });
        table.push(Request { index: at(8), id: 5, content: 6, answer: None });
        let mut golden = vec![2, 0, 0, 0];
        golden.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0, 2, 9, 8]);
        golden.extend_from_slice(&[8, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[6, 0, 0, 0, 0, 0, 0, 0, 255]);
        assert_eq!(table.encode_at(at(9)), golden);
        let read = Requests::decode(&golden, at(8)).unwrap();
        assert_eq!(read.requests, table.requests);
        assert!(Requests::decode(&golden, at(7)).is_none(), "behind the entry that it is as of");
    }

    #[test]
    fn bytes_that_are_no_table_are_refused_and_take_no_memory() {
        let bytes = full(4).encode_at(at(4)).to_vec();
        for end in 1..bytes.len() {
            assert!(Requests::decode(&bytes[..end], at(4)).is_none(), "cut at {end}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(Requests::decode(&longer, at(4)).is_none());
        assert!(Requests::decode(&u32::MAX.to_le_bytes(), at(4)).is_none());
        assert!(Requests::decode(&[0; 4], at(4)).is_none(), "no record is no bytes");
        let two = |first: &Request, second: &Request| {
            let mut table = full(2);
            table.requests = [first.clone(), second.clone()].into();
            Requests::decode(&table.encode_at(at(9)), at(9)).is_some()
        };
        let (one, other) = (request(1, 1), request(2, 2));
        assert!(two(&one, &other));
        assert!(!two(&one, &Request { id: 1, ..other.clone() }), "one id twice");
        assert!(!two(&one, &Request { index: at(1), ..other.clone() }), "one entry twice");
        let long = Request { answer: Some(vec![0; ANSWER_BYTES_MAX + 1].into()), ..other };
        assert!(two(&one, &long), "it is left out");
    }

    fn directory(disk: &SimDisk) -> &'static Path {
        let directory = Path::new("/node");
        drop(identity::open_directory(disk, directory).unwrap());
        directory
    }

    /// I4
    #[test]
    fn a_file_survives_a_power_loss_at_any_operation_whole_or_not_at_all() {
        for operation in 0.. {
            let disk = SimDisk::new(operation);
            let place = directory(&disk);
            let first = full(3).encode_at(at(3));
            let crc = write(&disk, place, CLUSTER, log_id(3), &first).unwrap();
            disk.crash_at(operation);
            let second = full(5).encode_at(at(5));
            let written = write(&disk, place, CLUSTER, log_id(5), &second);
            let removed = remove_before(&disk, place, 5);
            let is_done = written.is_ok() && removed.is_ok();
            for mode in [CrashMode::Lost, CrashMode::All] {
                let after = disk.crash(mode);
                if let Ok(crc) = written {
                    let table = read(&after, place, CLUSTER, log_id(5), crc).unwrap();
                    assert_eq!(table.requests, full(5).requests);
                } else {
                    let table = read(&after, place, CLUSTER, log_id(3), crc).unwrap();
                    assert_eq!(table.requests, full(3).requests);
                }
            }
            if is_done {
                return;
            }
        }
    }

    #[test]
    fn a_file_that_found_no_room_leaves_nothing_behind() {
        let disk = SimDisk::new(1);
        let place = directory(&disk);
        let before = disk.list(place).unwrap();
        disk.set_space(1);
        let error = write(&disk, place, CLUSTER, log_id(3), &full(3).encode_at(at(3))).unwrap_err();
        assert!(matches!(error, Error::NoSpace { .. }), "{error}");
        assert_eq!(disk.list(place).unwrap(), before);
    }

    #[test]
    fn a_file_whose_name_is_not_synced_is_left_only_where_one_stood_before() {
        let disk = SimDisk::new(1);
        let place = directory(&disk);
        let before = disk.list(place).unwrap();
        let body = full(3).encode_at(at(3));
        disk.fail_next(OperationKind::SyncDirectory, "node", 28);
        write(&disk, place, CLUSTER, log_id(3), &body).unwrap_err();
        assert_eq!(disk.list(place).unwrap(), before);
        let crc = write(&disk, place, CLUSTER, log_id(3), &body).unwrap();
        disk.fail_next(OperationKind::SyncDirectory, "node", 28);
        write(&disk, place, CLUSTER, log_id(3), &body).unwrap_err();
        assert_eq!(read(&disk, place, CLUSTER, log_id(3), crc).unwrap().count(), 3);
    }

    #[test]
    fn a_file_that_is_not_the_one_that_is_named_is_refused() {
        let disk = SimDisk::new(1);
        let place = directory(&disk);
        let bytes = full(3).encode_at(at(3));
        let crc = write(&disk, place, CLUSTER, log_id(3), &bytes).unwrap();
        assert_ne!(crc, 0);
        assert_eq!(write(&disk, place, CLUSTER, log_id(4), &[]).unwrap(), 0);
        assert_eq!(read(&disk, place, CLUSTER, log_id(4), 0).unwrap().count(), 0);
        let refused = |cluster, log_id, crc| read(&disk, place, cluster, log_id, crc).unwrap_err();
        assert!(matches!(refused(CLUSTER, log_id(4), 7), Error::Missing { .. }));
        assert!(matches!(refused(CLUSTER + 1, log_id(3), crc), Error::Mismatch { .. }));
        assert!(matches!(refused(CLUSTER, log_id(3), crc ^ 1), Error::Corrupt { .. }));
        let other_term = LogId { term: Term::new(3), index: 3 };
        assert!(matches!(refused(CLUSTER, other_term, crc), Error::Corrupt { .. }));
        let path = path_of(place, 3);
        let length = disk.read_file(&path).unwrap().len();
        for byte in 0..length {
            disk.flip_bit(&path, byte as u64, 3).unwrap();
            assert!(read(&disk, place, CLUSTER, log_id(3), crc).is_err(), "byte {byte}");
            disk.flip_bit(&path, byte as u64, 3).unwrap();
        }
        remove_before(&disk, place, 3).unwrap();
        assert!(read(&disk, place, CLUSTER, log_id(3), crc).is_ok());
        remove_before(&disk, place, 4).unwrap();
        assert!(matches!(refused(CLUSTER, log_id(3), crc), Error::Missing { .. }));
    }
}
