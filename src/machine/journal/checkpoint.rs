//! `journal.dat`: how far a journal is durable (`docs/format.md`, "journal.dat"). Written beside its
//! place, synced, renamed.

use std::path::Path;

use diskstore_storage::disk::{Disk, WriteMode};
use diskstore_storage::state::{Membership, Target};
use diskstore_storage::{Error, LogId, Result, Term, meta};

use crate::oplog::{JOURNAL_FILE, Position};

const NEW_FILE: &str = "journal.dat.new";
const MAGIC: [u8; 8] = *b"DSTJOURN";
const VERSION: u32 = 2;
/// The version of a file that names one of request ids; the others stay readable for older programs.
const VERSION_WITH_REQUESTS: u32 = 3;
const HEADER_BYTES: usize = 16;
const FILE_BYTES_MAX: u64 = (HEADER_BYTES + meta::META_BYTES_MAX) as u64;

/// What is durable of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub(super) cluster_id: u128,
    /// The log's files are complete up to here.
    pub(super) end: Position,
    /// The last entry that is recorded there.
    pub(super) last_index: u64,
    /// What is recorded is a state that ever was once every entry up to here is.
    pub(super) readable_from: u64,
    /// What was applied; `None` before the first checkpoint.
    pub(super) target: Option<Target>,
}

type Pair = (u64, u64);
type Body = (u128, u32, u64, u64, u64, Option<Pair>, Option<Pair>, Vec<u8>);

fn pair(log_id: LogId) -> Pair {
    (log_id.term.get(), log_id.index)
}

impl Checkpoint {
    fn encode(&self) -> Vec<u8> {
        let target = self.target.as_ref();
        let body: Body = (
            self.cluster_id,
            self.end.nth,
            self.end.offset,
            self.last_index,
            self.readable_from,
            target.map(|target| pair(target.log_id)),
            target.and_then(|target| target.membership.log_id).map(pair),
            target.map(|target| target.membership.body.to_vec()).unwrap_or_default(),
        );
        let requests_crc = target.map_or(0, |target| target.requests_crc);
        let (version, body) = match requests_crc {
            0 => (VERSION, meta::encode(&body)),
            crc => (VERSION_WITH_REQUESTS, meta::encode(&(body, crc))),
        };
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&checksum(&bytes, &body).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Checkpoint> {
        let corrupt = |what| Error::Corrupt { path: path.to_owned(), offset: 0, what };
        let (header, body) =
            bytes.split_at_checked(HEADER_BYTES).ok_or_else(|| corrupt("length"))?;
        let (prefix, crc) = header.split_at(HEADER_BYTES - 4);
        if !prefix.starts_with(&MAGIC) {
            return Err(corrupt("magic"));
        }
        if crc != checksum(prefix, body).to_le_bytes() {
            return Err(corrupt("checksum"));
        }
        let version = prefix.last_chunk().copied().map_or(0, u32::from_le_bytes);
        let fields: Option<(Body, u32)> = match version {
            VERSION => meta::decode(body).map(|body| (body, 0)),
            VERSION_WITH_REQUESTS => meta::decode(body),
            _ => {
                let (path, known) = (path.to_owned(), VERSION_WITH_REQUESTS);
                return Err(Error::UnknownVersion { path, version, known });
            }
        };
        let (body, requests_crc) = fields.ok_or_else(|| corrupt("fields"))?;
        let (cluster_id, nth, offset, last_index, readable_from, log_id, membership_at, body) =
            body;
        let log_id_of = |(term, index)| LogId { term: Term::new(term), index };
        let membership = Membership { log_id: membership_at.map(log_id_of), body: body.into() };
        let target =
            log_id.map(|pair| Target { log_id: log_id_of(pair), membership, requests_crc });
        let end = Position { nth, offset };
        Ok(Checkpoint { cluster_id, end, last_index, readable_from, target })
    }

    /// Makes it durable in a directory, in place of an older one.
    pub(super) fn write(&self, disk: &dyn Disk, directory: &Path) -> Result<()> {
        let new = directory.join(NEW_FILE);
        if disk.exists(&new)? {
            disk.remove(&new)?;
        }
        let file = disk.create(&new, WriteMode::Buffered)?;
        file.write_at(&self.encode(), 0)?;
        file.sync()?;
        disk.rename(&new, &directory.join(JOURNAL_FILE))?;
        disk.sync_dir(directory)
    }

    /// The one in a directory; `None` if there is none.
    pub(super) fn read(disk: &dyn Disk, directory: &Path) -> Result<Option<Checkpoint>> {
        let path = directory.join(JOURNAL_FILE);
        if !disk.exists(&path)? {
            return Ok(None);
        }
        let file = disk.open(&path, WriteMode::ReadOnly)?;
        // One byte more than a file can have shows that it has more.
        let bytes = file.len()?.min(FILE_BYTES_MAX + 1);
        let mut content = vec![0; usize::try_from(bytes).unwrap_or(0)];
        file.read_at(&mut content, 0)?;
        Checkpoint::decode(&content, &path).map(Some)
    }
}

fn checksum(prefix: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(prefix);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        let membership = Membership {
            log_id: Some(LogId { term: Term::new(1), index: 2 }),
            body: vec![7].into(),
        };
        Checkpoint {
            cluster_id: 3,
            end: Position { nth: 4, offset: 5 },
            last_index: 6,
            readable_from: 8,
            target: Some(Target {
                log_id: LogId { term: Term::new(9), index: 10 },
                membership,
                requests_crc: 0,
            }),
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let mut golden = b"DSTJOURN".to_vec();
        golden.extend_from_slice(&2_u32.to_le_bytes());
        let mut body = 3_u128.to_le_bytes().to_vec();
        body.extend_from_slice(&4_u32.to_le_bytes());
        for number in [5_u64, 6, 8] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        for (term, index) in [(9_u64, 10_u64), (1, 2)] {
            body.push(1);
            body.extend_from_slice(&term.to_le_bytes());
            body.extend_from_slice(&index.to_le_bytes());
        }
        body.extend_from_slice(&1_u64.to_le_bytes());
        body.push(7);
        golden.extend_from_slice(&checksum(&golden, &body).to_le_bytes());
        golden.extend_from_slice(&body);
        assert_eq!(checkpoint().encode(), golden);
        let mut with_requests = checkpoint();
        with_requests.target.as_mut().unwrap().requests_crc = 0x0403_0201;
        let mut golden = b"DSTJOURN".to_vec();
        golden.extend_from_slice(&3_u32.to_le_bytes());
        body.extend_from_slice(&[1, 2, 3, 4]);
        golden.extend_from_slice(&checksum(&golden, &body).to_le_bytes());
        golden.extend_from_slice(&body);
        assert_eq!(with_requests.encode(), golden);
        let read = Checkpoint::decode(&golden, Path::new("journal.dat")).unwrap();
        assert_eq!(read, with_requests);
    }

    #[test]
    fn what_was_changed_or_cut_is_corrupt() {
        let path = Path::new("journal.dat");
        let whole = checkpoint().encode();
        assert_eq!(Checkpoint::decode(&whole, path).unwrap(), checkpoint());
        for position in 0..whole.len() {
            let mut changed = whole.clone();
            changed[position] ^= 1;
            assert!(Checkpoint::decode(&changed, path).is_err(), "byte {position}");
            assert!(Checkpoint::decode(&whole[..position], path).is_err(), "cut at {position}");
        }
    }
}
