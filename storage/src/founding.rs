//! What a node without a cluster has promised to the others that its file lists, while they agree
//! on how the cluster is founded.
//!
//! Called by the node before it has an identity; calls [`Disk`]. Bytes: `docs/format.md` section
//! "FOUNDING". Invariants:
//!
//! - I1: a reader finds the old promises or the new ones, never a part of them.
//! - I2: what others count on is durable when [`write()`] returns.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::path::Path;

use crate::disk::{Disk, WriteMode};
use crate::{Error, Result, meta};

/// Name of the file in a node's directory.
pub const FOUNDING_NAME: &str = "FOUNDING";
/// First bytes of the file.
pub const FOUNDING_MAGIC: [u8; 8] = *b"DSKFOUND";
/// Newest version of the file.
pub const FOUNDING_VERSION: u32 = 1;

/// Name under which a new file is written before it is renamed.
const FOUNDING_NEW_NAME: &str = "FOUNDING.new";
/// Magic and version.
const HEADER_BYTES: usize = FOUNDING_MAGIC.len() + 4;
const CRC_BYTES: usize = 4;
/// Longest file: two lists of members, and little else.
const FILE_BYTES_MAX: u64 = 1 << 18;

/// What was promised.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Founding {
    /// The id that this node would have as a member.
    pub member_id: u64,
    /// What its file lists, as bytes that are compared.
    pub plan: Vec<u8>,
    /// No proposal with a lower number is accepted any more.
    pub promised: u64,
    /// The proposal that was accepted last, if any.
    pub accepted: Option<Accepted>,
}

/// A proposal that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Its number.
    pub number: u64,
    /// The cluster that it proposes, as bytes.
    pub charter: Vec<u8>,
}

/// The order of the fields in the file.
type Body = (u64, Vec<u8>, u64, Option<(u64, Vec<u8>)>);

/// Makes promises durable in a directory, in place of older ones.
///
/// # Errors
/// `Io`, `NoSpace`.
pub fn write(disk: &dyn Disk, directory: &Path, founding: &Founding) -> Result<()> {
    let new = directory.join(FOUNDING_NEW_NAME);
    if disk.exists(&new)? {
        disk.remove(&new)?;
    }
    let file = disk.create(&new, WriteMode::Buffered)?;
    file.write_at(&encode(founding), 0)?;
    file.sync()?;
    disk.rename(&new, &directory.join(FOUNDING_NAME))?;
    disk.sync_dir(directory)
}

/// The promises in a directory, `None` if there are none.
///
/// # Errors
/// `Corrupt`, `UnknownVersion`, `Io`.
pub fn read(disk: &dyn Disk, directory: &Path) -> Result<Option<Founding>> {
    let path = directory.join(FOUNDING_NAME);
    if disk.exists(&path)? { read_file(disk, &path).map(Some) } else { Ok(None) }
}

pub(crate) fn read_file(disk: &dyn Disk, path: &Path) -> Result<Founding> {
    let file = disk.open(path, WriteMode::ReadOnly)?;
    let bytes = file.len()?.min(FILE_BYTES_MAX);
    let mut content = vec![0; usize::try_from(bytes).unwrap_or_default()];
    file.read_at(&mut content, 0)?;
    decode(&content, path)
}

/// Removes what is of no use once the node is a member.
///
/// # Errors
/// `Io`.
pub fn remove(disk: &dyn Disk, directory: &Path) -> Result<()> {
    let path = directory.join(FOUNDING_NAME);
    if disk.exists(&path)? {
        disk.remove(&path)?;
    }
    Ok(())
}

fn encode(founding: &Founding) -> Vec<u8> {
    let Founding { member_id, plan, promised, accepted } = founding.clone();
    let accepted = accepted.map(|accepted| (accepted.number, accepted.charter));
    let body: Body = (member_id, plan, promised, accepted);
    let mut content = FOUNDING_MAGIC.to_vec();
    content.extend_from_slice(&FOUNDING_VERSION.to_le_bytes());
    content.extend_from_slice(&meta::encode(&body));
    content.extend_from_slice(&crc32fast::hash(&content).to_le_bytes());
    content
}

fn decode(content: &[u8], path: &Path) -> Result<Founding> {
    let corrupt =
        |offset: usize, what| Error::Corrupt { path: path.to_owned(), offset: offset as u64, what };
    let truncated = || corrupt(content.len(), "the file is too short");
    let (covered, crc) = content.split_last_chunk::<CRC_BYTES>().ok_or_else(truncated)?;
    let (magic, rest) = covered.split_first_chunk::<8>().ok_or_else(truncated)?;
    if *magic != FOUNDING_MAGIC {
        return Err(corrupt(0, "magic of a file of promises"));
    }
    let (version, body) = rest.split_first_chunk::<4>().ok_or_else(truncated)?;
    let version = u32::from_le_bytes(*version);
    if version != FOUNDING_VERSION {
        let path = path.to_owned();
        return Err(Error::UnknownVersion { path, version, known: FOUNDING_VERSION });
    }
    if u32::from_le_bytes(*crc) != crc32fast::hash(covered) {
        return Err(corrupt(covered.len(), "CRC-32 of the file"));
    }
    let body = meta::decode::<Body>(body).ok_or_else(|| corrupt(HEADER_BYTES, "body"))?;
    let (member_id, plan, promised, accepted) = body;
    let accepted = accepted.map(|(number, charter)| Accepted { number, charter });
    Ok(Founding { member_id, plan, promised, accepted })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;
    use crate::identity::open_directory;

    const DIRECTORY: &str = "/nodes/node0";

    fn founding() -> Founding {
        let accepted = Some(Accepted { number: 3, charter: vec![9, 8] });
        Founding { member_id: 1, plan: vec![7], promised: 4, accepted }
    }

    fn written() -> SimDisk {
        let disk = SimDisk::new(1);
        drop(open_directory(&disk, Path::new(DIRECTORY)).unwrap());
        write(&disk, Path::new(DIRECTORY), &founding()).unwrap();
        disk
    }

    fn bytes() -> Vec<u8> {
        written().read_file(&Path::new(DIRECTORY).join(FOUNDING_NAME)).unwrap()
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let mut golden = b"DSKFOUND".to_vec();
        golden.extend_from_slice(&[1, 0, 0, 0]);
        golden.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 7]);
        golden.extend_from_slice(&[4, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[1, 3, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0, 9, 8]);
        golden.extend_from_slice(&crc32fast::hash(&golden).to_le_bytes());
        assert_eq!(bytes(), golden);
    }

    #[test]
    fn what_was_written_is_read_until_it_is_removed() {
        let disk = written();
        let directory = Path::new(DIRECTORY);
        assert_eq!(read(&disk, directory).unwrap(), Some(founding()));
        let later = Founding { promised: 9, accepted: None, ..founding() };
        write(&disk, directory, &later).unwrap();
        assert_eq!(read(&disk, directory).unwrap(), Some(later));
        remove(&disk, directory).unwrap();
        assert_eq!(read(&disk, directory).unwrap(), None);
        remove(&disk, directory).unwrap();
    }

    #[test]
    fn a_file_with_a_wrong_bit_is_no_promise() {
        let good = bytes();
        for at in 0..8 * good.len() {
            let mut bad = good.clone();
            *bad.get_mut(at / 8).unwrap() ^= 1 << (at % 8);
            assert!(decode(&bad, Path::new("f")).is_err(), "bit {at}");
        }
        for end in 0..good.len() {
            assert!(decode(good.get(..end).unwrap(), Path::new("f")).is_err(), "{end} bytes");
        }
    }
}
