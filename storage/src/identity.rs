//! The file IDENTITY, which says who a node is, and the lock on the node's directory.
//!
//! Called by the node at start; calls [`Disk`]. Bytes: `docs/format.md` section "IDENTITY".
//! Invariants:
//!
//! - I1: one process uses a directory at a time: the one that holds the lock of [`open_directory`].
//! - I2: a reader finds the old identity or the new one, never a part of it.
//! - I3: a file of an unknown version is not touched.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::path::{Path, PathBuf};

use crate::disk::{Disk, Lock, WriteMode};
use crate::{Error, Result, meta};

/// Name of the lock file in a node's directory.
pub const LOCK_NAME: &str = "LOCK";
/// Name of the identity file in a node's directory.
pub const IDENTITY_NAME: &str = "IDENTITY";
/// Name of the directory for what may be thrown away, swept at start.
pub const TMP_NAME: &str = "tmp";
/// Name of the empty file that stands in a node's directory while it is being restored of a backup.
pub const RESTORING_NAME: &str = "RESTORING";
/// Prefix of files in `tmp/` that hold bytes cut from a log.
pub const CUT_PREFIX: &str = "cut-";

/// First bytes of an identity file.
pub const IDENTITY_MAGIC: [u8; 8] = *b"DSKIDENT";
/// Newest version of the identity file.
pub const IDENTITY_VERSION: u32 = 2;
/// Longest name of a member, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// Name under which a new identity is written before it is renamed.
const IDENTITY_NEW_NAME: &str = "IDENTITY.new";
/// Files of cut log bytes that a start leaves in place.
const CUT_COUNT_MAX: usize = 16;

/// Magic, version, body length.
const HEADER_BYTES: usize = IDENTITY_MAGIC.len() + 4 + 4;
const CRC_BYTES: usize = 4;
/// Largest body: six fixed fields, the name's length and the name.
const BODY_BYTES_MAX: usize = 16 + 8 + 8 + NAME_BYTES_MAX + 8 + 4 + 1;
const FILE_BYTES_MAX: usize = HEADER_BYTES + BODY_BYTES_MAX + CRC_BYTES;

/// What a node's log is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineKind {
    /// Slots of a data file.
    Slots,
    /// A map in memory.
    Memory,
    /// Nothing: entries are only logged.
    Journal,
}

impl MachineKind {
    /// Every kind: one that is missing here is not read back from IDENTITY either.
    pub const ALL: [Self; 3] = [Self::Slots, Self::Memory, Self::Journal];

    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Self::Slots => 1,
            Self::Memory => 2,
            Self::Journal => 3,
        }
    }

    pub(crate) fn of_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.to_byte() == byte)
    }
}

/// How far a node has come into its cluster. A node whose own log names it is a member; before
/// that a start repeats what it was about, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It founds the cluster.
    Founding,
    /// It asks to join one.
    Joining,
    /// Its log or its checkpoint has named it: it may have voted and acknowledged entries.
    Member,
}

impl Standing {
    fn to_byte(self) -> u8 {
        match self {
            Self::Founding => 1,
            Self::Joining => 2,
            Self::Member => 3,
        }
    }

    fn of_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Founding),
            2 => Some(Self::Joining),
            3 => Some(Self::Member),
            _ => None,
        }
    }
}

/// Who a node is; fixed when its directory was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// How far it has come.
    pub standing: Standing,
    /// Random number of the cluster; 0 while the node has not joined one.
    pub cluster_id: u128,
    /// Random number of this member.
    pub member_id: u64,
    /// What people call it; at most [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// Number of slots of the cluster.
    pub slot_count: u64,
    /// Largest value, in bytes.
    pub value_bytes: u32,
    /// What its log is applied to.
    pub machine: MachineKind,
}

/// The order of the fields in the file.
type Body = (u8, u128, u64, String, u64, u32, u8);

/// Creates a node's directory where it is missing, locks it, and sweeps its `tmp/`: what is left
/// there are the newest 16 files of bytes cut from a log. After `Ok` the directory's own name and
/// that of `tmp/` survive power loss. The lock is held until the result is dropped.
///
/// # Errors
/// `Locked` if another process works in the directory; `Io`.
pub fn open_directory(disk: &dyn Disk, directory: &Path) -> Result<Box<dyn Lock>> {
    disk.create_dir_all(directory)?;
    let lock = disk.lock(&directory.join(LOCK_NAME))?;
    let tmp = directory.join(TMP_NAME);
    disk.create_dir_all(&tmp)?;
    // Before anything in it can be promised. Later the name is durable already, and a start
    // need not ask for the right to open the directories above.
    if !disk.exists(&directory.join(IDENTITY_NAME))? {
        sync_ancestors(disk, directory)?;
    }
    sweep(disk, &tmp)?;
    disk.sync_dir(directory)?;
    Ok(lock)
}

/// Makes an identity durable in a directory, in place of an older one.
///
/// # Errors
/// `Io`, `NoSpace`.
///
/// # Panics
/// If the name is longer than [`NAME_BYTES_MAX`].
pub fn write(disk: &dyn Disk, directory: &Path, identity: &Identity) -> Result<()> {
    let new = directory.join(IDENTITY_NEW_NAME);
    if disk.exists(&new)? {
        disk.remove(&new)?;
    }
    let file = disk.create(&new, WriteMode::Buffered)?;
    file.write_at(&encode(identity), 0)?;
    file.sync()?;
    disk.rename(&new, &directory.join(IDENTITY_NAME))?;
    disk.sync_dir(directory)
}

/// The identity in a directory, `None` if there is none yet.
///
/// # Errors
/// `Corrupt`, `UnknownVersion`, `Io`.
pub fn read(disk: &dyn Disk, directory: &Path) -> Result<Option<Identity>> {
    let path = directory.join(IDENTITY_NAME);
    if !disk.exists(&path)? {
        return Ok(None);
    }
    read_file(disk, &path).map(Some)
}

/// The identity in a file.
///
/// # Errors
/// As [`read`].
pub fn read_file(disk: &dyn Disk, path: &Path) -> Result<Identity> {
    let file = disk.open(path, WriteMode::ReadOnly)?;
    // One byte more than a file can have shows that it has more.
    let bytes = file.len()?.min(FILE_BYTES_MAX as u64 + 1);
    let mut content = vec![0; usize::try_from(bytes).unwrap_or(FILE_BYTES_MAX)];
    file.read_at(&mut content, 0)?;
    decode(&content, path)
}

/// The bytes of an identity file.
fn encode(identity: &Identity) -> Vec<u8> {
    let Identity { standing, cluster_id, member_id, name, slot_count, value_bytes, machine } =
        identity;
    assert!(name.len() <= NAME_BYTES_MAX, "a name of {} bytes", name.len());
    let body: Body = (
        standing.to_byte(),
        *cluster_id,
        *member_id,
        name.clone(),
        *slot_count,
        *value_bytes,
        machine.to_byte(),
    );
    let body = meta::encode(&body);
    let body_bytes = u32::try_from(body.len()).expect("invariant: the body is bounded");
    let mut content = IDENTITY_MAGIC.to_vec();
    content.extend_from_slice(&IDENTITY_VERSION.to_le_bytes());
    content.extend_from_slice(&body_bytes.to_le_bytes());
    content.extend_from_slice(&body);
    content.extend_from_slice(&crc32fast::hash(&content).to_le_bytes());
    content
}

/// The identity that these bytes of the file `path` say.
fn decode(content: &[u8], path: &Path) -> Result<Identity> {
    let corrupt =
        |offset: usize, what| Error::Corrupt { path: path.to_owned(), offset: offset as u64, what };
    let truncated = || corrupt(content.len(), "the file is too short");
    let (magic, rest) = content.split_first_chunk::<8>().ok_or_else(truncated)?;
    if *magic != IDENTITY_MAGIC {
        return Err(corrupt(0, "magic of an identity file"));
    }
    let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(truncated)?;
    let version = u32::from_le_bytes(*version);
    if version != IDENTITY_VERSION {
        let path = PathBuf::from(path);
        return Err(Error::UnknownVersion { path, version, known: IDENTITY_VERSION });
    }
    let (body_bytes, rest) = rest.split_first_chunk::<4>().ok_or_else(truncated)?;
    let (body, crc) = rest.split_last_chunk::<CRC_BYTES>().ok_or_else(truncated)?;
    if usize::try_from(u32::from_le_bytes(*body_bytes)) != Ok(body.len()) {
        return Err(corrupt(HEADER_BYTES - 4, "length of the body"));
    }
    let covered = content.split_last_chunk::<CRC_BYTES>().ok_or_else(truncated)?.0;
    if u32::from_le_bytes(*crc) != crc32fast::hash(covered) {
        return Err(corrupt(content.len() - CRC_BYTES, "CRC-32 of the file"));
    }
    let body = meta::decode::<Body>(body).ok_or_else(|| corrupt(HEADER_BYTES, "body"))?;
    let (standing, cluster_id, member_id, name, slot_count, value_bytes, machine) = body;
    let standing = Standing::of_byte(standing).ok_or_else(|| corrupt(HEADER_BYTES, "standing"))?;
    let machine = MachineKind::of_byte(machine)
        .ok_or_else(|| corrupt(content.len() - CRC_BYTES - 1, "kind of machine"))?;
    if name.len() > NAME_BYTES_MAX {
        return Err(corrupt(HEADER_BYTES, "length of the name"));
    }
    Ok(Identity { standing, cluster_id, member_id, name, slot_count, value_bytes, machine })
}

/// Makes the names of a directory and of those above it durable.
fn sync_ancestors(disk: &dyn Disk, directory: &Path) -> Result<()> {
    for ancestor in directory.ancestors().skip(1) {
        let ancestor = if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor };
        match disk.sync_dir(ancestor) {
            // What we may not even open was not made by us.
            Err(Error::Io { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied => {}
            result => result?,
        }
    }
    Ok(())
}

/// Removes everything in `tmp/` but the newest files of cut log bytes, whose names sort by age.
fn sweep(disk: &dyn Disk, tmp: &Path) -> Result<()> {
    let names = disk.list(tmp)?;
    let (cuts, others): (Vec<_>, Vec<_>) =
        names.into_iter().partition(|name| name.starts_with(CUT_PREFIX));
    let old_count = cuts.len().saturating_sub(CUT_COUNT_MAX);
    for name in others.iter().chain(cuts.iter().take(old_count)) {
        disk.remove(&tmp.join(name))?;
    }
    // Names that come back after a power loss are swept again: nothing to make durable.
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{CrashMode, SimDisk};

    const DIRECTORY: &str = "/nodes/node0";

    fn identity() -> Identity {
        Identity {
            standing: Standing::Member,
            cluster_id: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
            member_id: 7,
            name: "node0".to_owned(),
            slot_count: 1 << 20,
            value_bytes: 1024,
            machine: MachineKind::Slots,
        }
    }

    fn path(name: &str) -> PathBuf {
        Path::new(DIRECTORY).join(name)
    }

    /// A directory that was opened, and left again.
    fn opened() -> SimDisk {
        let disk = SimDisk::new(1);
        drop(open_directory(&disk, Path::new(DIRECTORY)).unwrap());
        disk
    }

    fn written() -> SimDisk {
        let disk = opened();
        write(&disk, Path::new(DIRECTORY), &identity()).unwrap();
        disk
    }

    fn read_of(disk: &SimDisk) -> Result<Option<Identity>> {
        read(disk, Path::new(DIRECTORY))
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let mut golden = b"DSKIDENT".to_vec();
        golden.extend_from_slice(&[2, 0, 0, 0, 51, 0, 0, 0, 3]);
        golden.extend((1..=16).rev());
        golden.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(b"node0");
        golden.extend_from_slice(&[0, 0, 0x10, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[0, 4, 0, 0, 1]);
        golden.extend_from_slice(&crc32fast::hash(&golden).to_le_bytes());
        assert_eq!(written().read_file(&path(IDENTITY_NAME)).unwrap(), golden);
    }

    #[test]
    fn what_was_written_is_read_and_survives_power_loss() {
        let disk = written();
        assert_eq!(read_of(&disk).unwrap(), Some(identity()));
        assert_eq!(read_of(&disk.crash(CrashMode::Lost)).unwrap(), Some(identity()));
    }

    #[test]
    fn a_fresh_directory_has_no_identity() {
        assert_eq!(read_of(&opened()).unwrap(), None);
    }

    #[test]
    fn a_crash_at_any_operation_leaves_the_old_identity_or_the_new_one() {
        let new = Identity { cluster_id: 99, name: "x".repeat(255), ..identity() };
        let whole = written().copy();
        write(&whole, Path::new(DIRECTORY), &new).unwrap();
        for index in 0..whole.operation_count() {
            for seed in 0..20 {
                let disk = written().copy();
                disk.crash_at(index);
                assert!(write(&disk, Path::new(DIRECTORY), &new).is_err());
                let image = disk.crash(CrashMode::Reordered { seed });
                let found = read_of(&image).unwrap().unwrap();
                assert!(found == identity() || found == new, "operation {index}, seed {seed}");
                write(&image, Path::new(DIRECTORY), &new).unwrap();
                assert_eq!(read_of(&image).unwrap(), Some(new.clone()));
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let bytes = written().read_file(&path(IDENTITY_NAME)).unwrap().len() as u64;
        for offset in 0..bytes {
            for bit in 0..8 {
                let disk = written();
                disk.flip_bit(&path(IDENTITY_NAME), offset, bit).unwrap();
                let error = read_of(&disk).unwrap_err();
                let is_version = (8..12).contains(&offset);
                assert_eq!(matches!(error, Error::UnknownVersion { .. }), is_version, "{error}");
                assert_eq!(matches!(error, Error::Corrupt { .. }), !is_version, "{error}");
            }
        }
    }

    #[test]
    fn a_file_cut_anywhere_or_too_long_is_refused() {
        let whole = written().read_file(&path(IDENTITY_NAME)).unwrap();
        for bytes in 0..whole.len() {
            let disk = written();
            disk.truncate_file(&path(IDENTITY_NAME), bytes as u64).unwrap();
            assert!(matches!(read_of(&disk), Err(Error::Corrupt { .. })), "{bytes} bytes");
        }
        let disk = written();
        disk.write_file(&path(IDENTITY_NAME), &[whole.clone(), vec![0]].concat());
        assert!(matches!(read_of(&disk), Err(Error::Corrupt { .. })));
        disk.write_file(&path(IDENTITY_NAME), &[whole, vec![0; 1 << 20]].concat());
        assert!(matches!(read_of(&disk), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn an_unknown_version_is_refused_and_left_untouched() {
        for (found, word) in [(1, "from before the first release"), (3, "by a newer program")] {
            let disk = written();
            let mut bytes = disk.read_file(&path(IDENTITY_NAME)).unwrap();
            bytes[8] = found;
            disk.write_file(&path(IDENTITY_NAME), &bytes);
            let before = disk.operation_count();
            let error = read_of(&disk).unwrap_err();
            assert!(
                matches!(error, Error::UnknownVersion { version, known: 2, .. }
                    if version == u32::from(found)),
                "{error}"
            );
            assert!(error.to_string().contains(word), "{error}");
            assert_eq!(disk.operation_count(), before);
        }
    }

    #[test]
    fn an_unknown_machine_is_corrupt() {
        let body: Body = (3, 1, 2, "n".to_owned(), 3, 4, 9);
        let mut bytes = encode(&Identity { name: "n".to_owned(), ..identity() });
        let body = meta::encode(&body);
        bytes.splice(16..16 + body.len(), body);
        let end = bytes.len() - CRC_BYTES;
        let crc = crc32fast::hash(&bytes[..end]);
        bytes.splice(end.., crc.to_le_bytes());
        let error = decode(&bytes, Path::new("IDENTITY")).unwrap_err();
        assert!(matches!(error, Error::Corrupt { what: "kind of machine", .. }), "{error}");
    }

    #[test]
    fn a_second_user_of_a_directory_is_refused_until_the_first_is_gone() {
        let disk = SimDisk::new(1);
        let lock = open_directory(&disk, Path::new(DIRECTORY)).unwrap();
        let error = open_directory(&disk, Path::new(DIRECTORY)).unwrap_err();
        assert!(matches!(error, Error::Locked { path } if path == self::path(LOCK_NAME)));
        drop(lock);
        open_directory(&disk, Path::new(DIRECTORY)).unwrap();
    }

    #[test]
    fn an_opened_directory_survives_power_loss() {
        let image = opened().crash(CrashMode::Lost);
        assert!(image.exists(Path::new(DIRECTORY)).unwrap());
        assert!(image.exists(&path(TMP_NAME)).unwrap());
    }

    #[test]
    fn the_sweep_leaves_the_newest_cuts_only() {
        let disk = opened();
        disk.write_file(&path("tmp/half-made"), b"x");
        for sequence in 0..20 {
            disk.write_file(&path(&format!("tmp/cut-{sequence:016x}")), b"x");
        }
        drop(open_directory(&disk, Path::new(DIRECTORY)).unwrap());
        let left = disk.list(&path(TMP_NAME)).unwrap();
        let expected = (4..20).map(|sequence| format!("cut-{sequence:016x}")).collect::<Vec<_>>();
        assert_eq!(left, expected);
    }
}
