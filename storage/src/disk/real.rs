//! The disk of the operating system.
//!
//! Made by the programs and handed down as `dyn Disk`; calls the kernel. Invariants beside those
//! of [`Disk`]:
//!
//! - I1: a file is poisoned by its first failed write or sync and not touched again: after a
//!   failed sync the kernel may call pages clean that never reached the disk.
//! - I2: bytes are written through one of two descriptors, buffered or direct, never both in one
//!   file unless the direct one was refused before anything was written through it.
//! - I3: reads and maps go through the buffered descriptor; the kernel drops cached pages under
//!   a direct write, so they see its bytes. Bytes that are read only once may be read past the page
//!   cache; the kernel writes dirty cached pages of them back first.
//!
//! Source: open(2), pwritev2(2), fallocate(2), fsync(2); A. Rebello et al., "Can Applications
//! Recover from fsync Failures?", USENIX ATC 2020.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "this is the file through which all others reach the file system"
)]

use std::fs::{self, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, FsWord, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::{AlignedBuffer, BLOCK_BYTES, Disk, File, Lock, Map, Poison, WriteMode, assert_aligned};
use crate::{Error, Result};

/// Zeros written at once where space cannot be reserved otherwise, in bytes.
const ZERO_BYTES: usize = 1 << 20;

/// File systems that write every block to a new place: reserved space does not help them, and
/// only blocks that hold bytes count. Source: linux/magic.h; OpenZFS and bcachefs sources.
const COPY_ON_WRITE: [FsWord; 3] = [0x9123_683E, 0x2FC1_2FC1, 0xCA45_1A4E];

/// The file systems that the operating system has mounted.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk {}

impl RealDisk {
    /// The operating system's file systems.
    pub fn new() -> Self {
        Self {}
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: WriteMode) -> Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true).write(mode != WriteMode::ReadOnly);
        RealFile::open(&options, path, mode, "open")
    }

    fn create(&self, path: &Path, mode: WriteMode) -> Result<Arc<dyn File>> {
        assert!(mode != WriteMode::ReadOnly, "a file is created to be written");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        RealFile::open(&options, path, mode, "create")
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        fs::create_dir_all(path).map_err(|source| Error::io("create directory", path, 0, source))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(|source| Error::io("rename", from, 0, source))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        fs::remove_file(path).map_err(|source| Error::io("remove", path, 0, source))
    }

    fn list(&self, directory: &Path) -> Result<Vec<String>> {
        let failed = |source| Error::io("list", directory, 0, source);
        let mut names = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry.file_name().into_string()
                && !entry.file_type().map_err(failed)?.is_dir()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        path.try_exists().map_err(|source| Error::io("look up", path, 0, source))
    }

    fn sync_dir(&self, directory: &Path) -> Result<()> {
        fs::File::open(directory)
            .and_then(|opened| opened.sync_all())
            .map_err(|source| Error::io("sync directory", directory, 0, source))
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>> {
        let failed = |source| Error::io("lock", path, 0, source);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let file = options.open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(RealLock { _file: file })),
            Err(TryLockError::WouldBlock) => Err(Error::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

/// A lock that the kernel releases when the descriptor is closed, however the process ends.
#[derive(Debug)]
struct RealLock {
    _file: fs::File,
}

impl Lock for RealLock {}

/// An open file.
#[derive(Debug)]
struct RealFile {
    path: PathBuf,
    mode: WriteMode,
    buffered: fs::File,
    /// Present for the direct modes if the file system opened it so.
    direct: Option<fs::File>,
    /// Set when a first direct write was refused: the buffered descriptor serves from then on.
    direct_refused: AtomicBool,
    /// Set when a direct write went through: from then on a refusal is a failure (I2).
    direct_proven: AtomicBool,
    poison: Poison,
    /// Held from before a sync until its failure is known to all (I1).
    syncing: Mutex<()>,
}

impl RealFile {
    fn open(
        options: &OpenOptions,
        path: &Path,
        mode: WriteMode,
        operation: &'static str,
    ) -> Result<Arc<dyn File>> {
        let failed = |source| Error::io(operation, path, 0, source);
        let buffered = options.open(path).map_err(failed)?;
        let direct = match mode {
            WriteMode::Buffered | WriteMode::ReadOnly => None,
            WriteMode::Direct | WriteMode::DirectDurable => open_direct(path).map_err(failed)?,
        };
        Ok(Arc::new(Self {
            path: path.to_owned(),
            mode,
            buffered,
            direct,
            direct_refused: AtomicBool::new(false),
            direct_proven: AtomicBool::new(false),
            poison: Poison::default(),
            syncing: Mutex::default(),
        }))
    }

    fn error(&self, operation: &'static str, offset: u64) -> impl Fn(io::Error) -> Error {
        move |source| Error::io(operation, &self.path, offset, source)
    }

    /// Writes as the mode asks, falling back for good if the first direct write is refused.
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Some(direct) = &self.direct
            && !self.direct_refused.load(Ordering::Acquire)
        {
            match write_direct(direct, self.mode, bytes, offset) {
                Ok(()) => {
                    self.direct_proven.store(true, Ordering::Release);
                    return Ok(());
                }
                Err(error) if self.is_refusal(&error) => {
                    self.direct_refused.store(true, Ordering::Release);
                }
                Err(error) => return Err(error),
            }
        }
        self.buffered.write_all_at(bytes, offset)?;
        if self.mode == WriteMode::DirectDurable {
            self.buffered.sync_data()?;
        }
        Ok(())
    }

    fn is_refusal(&self, error: &io::Error) -> bool {
        let refused = Errno::from_io_error(error)
            .is_some_and(|errno| matches!(errno, Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS));
        refused && !self.direct_proven.load(Ordering::Acquire)
    }

    /// Grows the file to `bytes` with blocks of its own.
    fn grow(&self, from: u64, bytes: u64) -> io::Result<()> {
        // Some file systems fill up before they find out, and others would see it.
        let space = rustix::fs::fstatvfs(&self.buffered)?;
        let is_bounded = space.f_blocks > 0;
        if is_bounded && space.f_bavail.saturating_mul(space.f_frsize) < bytes - from {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let magic = rustix::fs::fstatfs(&self.buffered)?.f_type;
        if COPY_ON_WRITE.contains(&magic) {
            return self.write_zeros(from, bytes);
        }
        loop {
            match rustix::fs::fallocate(&self.buffered, FallocateFlags::empty(), 0, bytes) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => return self.write_zeros(from, bytes),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn write_zeros(&self, from: u64, to: u64) -> io::Result<()> {
        let zeros = vec![0; ZERO_BYTES];
        let mut offset = from;
        while offset < to {
            let rest = usize::try_from(to - offset).unwrap_or(ZERO_BYTES);
            let piece = &zeros[..rest.min(ZERO_BYTES)];
            self.buffered.write_all_at(piece, offset)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }
}

impl File for RealFile {
    fn path(&self) -> PathBuf {
        self.path.clone()
    }

    fn len(&self) -> Result<u64> {
        Ok(self.buffered.metadata().map_err(self.error("look up", 0))?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        // Retries short reads and EINTR.
        self.buffered.read_exact_at(buffer, offset).map_err(self.error("read", offset))
    }

    fn read_once_at(&self, buffer: &mut AlignedBuffer, offset: u64) -> Result<()> {
        let is_whole = buffer.len().is_multiple_of(BLOCK_BYTES);
        if is_whole && offset.is_multiple_of(BLOCK_BYTES as u64) {
            let direct = open_once(&self.buffered);
            // Where it does not go so, the page cache has the last word.
            if direct.and_then(|file| file.read_exact_at(buffer.as_mut_slice(), offset)).is_ok() {
                return Ok(());
            }
        }
        self.read_at(buffer.as_mut_slice(), offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        assert_aligned(self.mode, bytes, offset);
        self.poison.check(&self.path)?;
        self.poison.watch(self.write(bytes, offset).map_err(self.error("write", offset)))
    }

    fn sync(&self) -> Result<()> {
        // The kernel tells a failure once: of two syncs at a time, one would take it, and the other
        // call bytes durable that are lost.
        let _syncing = self.syncing.lock();
        self.poison.check(&self.path)?;
        // fdatasync(2) writes the file's size and block map too: all that reading back needs.
        self.poison.watch(self.buffered.sync_data().map_err(self.error("sync", 0)))
    }

    fn cut(&self, bytes: u64) -> Result<()> {
        self.poison.check(&self.path)?;
        if self.len()? <= bytes {
            return Ok(());
        }
        self.poison.watch(self.buffered.set_len(bytes).map_err(self.error("cut", bytes)))
    }

    fn reserve(&self, bytes: u64) -> Result<()> {
        self.poison.check(&self.path)?;
        let before = self.len()?;
        if before >= bytes {
            return Ok(());
        }
        match self.grow(before, bytes).map_err(self.error("reserve", before)) {
            // Nothing was promised yet: the file stays usable at its old size.
            Err(Error::NoSpace { path, .. }) => {
                self.buffered.set_len(before).map_err(self.error("cut back", before))?;
                Err(Error::NoSpace { path, bytes: bytes - before })
            }
            result => self.poison.watch(result),
        }
    }

    fn map(&self) -> Result<Map> {
        Map::of_file(&self.buffered, &self.path)
    }

    fn map_zeros(&self) -> Result<Map> {
        Map::of_zeros(&self.buffered, &self.path)
    }

    fn map_to_fill(&self) -> Result<Map> {
        Map::to_fill(&self.buffered, &self.path)
    }
}

/// A descriptor without the page cache, or `None` where the file system has none.
///
/// `O_DSYNC` is asked for with each write instead of here: rustix knows the flag only as
/// `O_SYNC`, which also writes the time of modification, a journal commit for every batch.
fn open_direct(path: &Path) -> io::Result<Option<fs::File>> {
    let flag = i32::try_from(OFlags::DIRECT.bits()).expect("invariant: an open flag is an int");
    match OpenOptions::new().write(true).custom_flags(flag).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

/// An open file once more, for direct reads. It is the same one, whatever its path is now.
fn open_once(file: &fs::File) -> io::Result<fs::File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Writes all of `bytes`, each part of them durable before the next if the mode says so.
fn write_direct(file: &fs::File, mode: WriteMode, bytes: &[u8], offset: u64) -> io::Result<()> {
    let flags = match mode {
        WriteMode::DirectDurable => ReadWriteFlags::DSYNC,
        WriteMode::Direct | WriteMode::Buffered | WriteMode::ReadOnly => ReadWriteFlags::empty(),
    };
    let (mut rest, mut at) = (bytes, offset);
    while !rest.is_empty() {
        match rustix::io::pwritev2(file, &[IoSlice::new(rest)], at, flags) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                rest = rest.get(written..).expect("invariant: no more than asked for");
                at += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
