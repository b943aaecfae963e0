//! A private, copy-on-write view of a file's bytes; the only file with `unsafe`.
//!
//! Made by [`File::map`](super::File::map), used by `slots`. Invariants:
//!
//! - I1: the memory is accessed only as relaxed atomic words, or by one machine instruction that copies
//!   many, so a race that a caller's lock failed to prevent gives wrong bytes, never undefined behaviour.
//! - I2: no reference into the memory leaves this file.
//! - I3: writes to the map never reach the file.
//! - I4: this program never shortens a mapped file. If somebody else does, or the medium fails, the
//!   kernel sends `SIGBUS`, which [`report_bus_errors`] handles.
#![expect(unsafe_code, reason = "maps and the signal of a bad page cannot be had without it")]
#![expect(clippy::disallowed_types, reason = "a map is made from the real file")]

use std::ffi::{c_int, c_void};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};

use super::bus_error::{self, Named};
use super::{BLOCK_BYTES, File};
use crate::{Error, Result};

/// Bytes of one atomic word: offsets are multiples of it.
const WORD_BYTES: usize = 8;
/// So many words are copied by one instruction, which takes some time to begin.
const WIDE_WORDS_MIN: usize = 32;
/// Exit code of a process that cannot read a mapped page.
const BUS_ERROR_EXIT_CODE: c_int = 1;

const _: () = assert!(size_of::<AtomicU64>() == WORD_BYTES);
const _: () = assert!(BLOCK_BYTES.is_multiple_of(align_of::<AtomicU64>()));

/// A private map of a file (or plain memory, for the simulated disk). Offsets are multiples of
/// 8 bytes. Nothing written here reaches the file, and bytes that others write into the file
/// after it was mapped may or may not be seen here.
#[derive(Debug)]
pub struct Map {
    path: PathBuf,
    bytes: u64,
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    /// Pages of the file, copied by the kernel when they are first written.
    Mapped { named: Named, map: MmapRaw },
    /// Memory of its own, of zeros at first, as a file is that was never written.
    Zeroed { map: MmapRaw },
    /// A copy of the file, and the file to read it again from.
    Copied { words: Box<[AtomicU64]>, file: Arc<dyn File> },
}

impl Map {
    /// Maps a whole file privately, without reserving swap for it.
    pub(super) fn of_file(file: &std::fs::File, path: &Path) -> Result<Self> {
        let failed = |source| Error::io("map", path, 0, source);
        let bytes = file.metadata().map_err(failed)?.len();
        let mut options = MmapOptions::new();
        options.no_reserve_swap();
        // SAFETY: the mapping is private, and it is only seen as atomic words (I1), for which
        // a change of the file by others is a change of value and nothing worse. That the file
        // is not shortened is I4, upheld by the directory lock.
        let map = unsafe { options.map_copy(file) }.map_err(failed)?;
        let map = MmapRaw::from(map);
        // Slots are reached at random: reading around each of them would read the file many times
        // over. Walks say so with `prefetch`.
        map.advise(Advice::Random).map_err(failed)?;
        let named = Named::new(map.as_ptr().addr(), map.len(), path);
        let memory = Memory::Mapped { named, map };
        Ok(Self { path: path.to_owned(), bytes, memory })
    }

    /// Memory for a file that holds nothing but zeros, or is to be taken for such: a first write to
    /// a page takes one page of memory, where that of a mapped file takes the file's zeros and their
    /// copy. Its pages cannot be dropped.
    pub(super) fn of_zeros(file: &std::fs::File, path: &Path) -> Result<Self> {
        let failed = |source| Error::io("make memory for", path, 0, source);
        let bytes = file.metadata().map_err(failed)?.len();
        let length = usize::try_from(bytes).expect("invariant: a map fits in memory");
        let map = MmapOptions::new().len(length).no_reserve_swap().map_anon().map_err(failed)?;
        let map = MmapRaw::from(map);
        // Where huge pages are the default, the first write to each would have 2 MiB made zeros.
        match map.advise(Advice::NoHugePage) {
            Ok(()) | Err(_) => {} // a kernel without them has small ones
        }
        let memory = Memory::Zeroed { map };
        Ok(Self { path: path.to_owned(), bytes, memory })
    }

    /// As [`Map::of_zeros`], in huge pages where the system has them: a thousand times fewer page
    /// faults. It takes memory for 2 MiB around every byte that is written.
    pub(super) fn to_fill(file: &std::fs::File, path: &Path) -> Result<Self> {
        let zeros = Self::of_zeros(file, path)?;
        if let Memory::Zeroed { map } = &zeros.memory {
            match map.advise(Advice::HugePage) {
                Ok(()) | Err(_) => {} // a kernel without them has small ones
            }
        }
        Ok(zeros)
    }

    /// As [`Map::of_zeros`], for a file that is no real one.
    pub(super) fn of_zeros_like(file: Arc<dyn File>) -> Result<Self> {
        let bytes = file.len()?;
        let words = (0..bytes.div_ceil(WORD_BYTES as u64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { path: file.path(), bytes, memory: Memory::Copied { words, file } })
    }

    /// Memory that holds a copy of `file`, which [`Map::drop_pages`] reads again.
    pub(super) fn of_copy(file: Arc<dyn File>) -> Result<Self> {
        let map = Self::of_zeros_like(file)?;
        let length = usize::try_from(map.bytes).expect("invariant: the copy was allocated");
        map.copy_from_file(0, length)?;
        Ok(map)
    }

    /// From byte `offset` on the file holds slots of `slot_bytes` bytes: what
    /// [`report_bus_errors`] says of them.
    pub fn holds_slots(&self, offset: u64, slot_bytes: u64) {
        if let Memory::Mapped { named, .. } = &self.memory {
            named.holds_slots(offset, slot_bytes);
        }
    }

    /// Size in bytes: that of the file when it was mapped.
    pub fn len(&self) -> u64 {
        self.bytes
    }

    /// True for the map of an empty file.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Fills `buffer` from `offset`. The caller's lock makes it consistent.
    ///
    /// # Panics
    /// If `offset` is not a multiple of 8, or the range ends beyond the map.
    pub fn read(&self, buffer: &mut [u8], offset: u64) {
        let words = self.words_of(offset, buffer.len());
        let (whole, rest) = buffer.as_chunks_mut::<WORD_BYTES>();
        let (words, last) = words.split_at(whole.len());
        if words.len() >= WIDE_WORDS_MIN {
            wide::load(whole, words);
        } else {
            for (bytes, word) in whole.iter_mut().zip(words) {
                *bytes = bytes_of(word);
            }
        }
        if let Some(word) = last.first() {
            rest.copy_from_slice(&bytes_of(word)[..rest.len()]);
        }
    }

    /// Copies `bytes` to `offset`, in memory only.
    ///
    /// # Panics
    /// If `offset` or the length is not a multiple of 8, or the range ends beyond the map.
    pub fn write(&self, bytes: &[u8], offset: u64) {
        let words = self.words_of(offset, bytes.len());
        let (whole, rest) = bytes.as_chunks::<WORD_BYTES>();
        assert!(rest.is_empty(), "a map is written in words, not {} bytes", bytes.len());
        if words.len() >= WIDE_WORDS_MIN {
            wide::store(words, whole);
            return;
        }
        for (bytes, word) in whole.iter().zip(words) {
            // The map keeps bytes in the order of the file: on a little-endian machine both
            // conversions are nothing.
            word.store(u64::from_le_bytes(*bytes).to_le(), Ordering::Relaxed);
        }
    }

    /// Asks for these bytes to be read into memory while the caller does something else. Only a
    /// hint: the range is cut to the map, and a kernel that does not take it changes nothing.
    pub fn prefetch(&self, offset: u64, bytes: u64) {
        self.advise(Advice::WillNeed, offset, bytes);
    }

    fn advise(&self, advice: Advice, offset: u64, bytes: u64) {
        let (Memory::Mapped { map, .. } | Memory::Zeroed { map }) = &self.memory else { return };
        let start = offset.min(self.bytes) / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        let end = offset.saturating_add(bytes).min(self.bytes);
        let (Ok(start), Ok(length)) = (usize::try_from(start), usize::try_from(end - start)) else {
            return;
        };
        match map.advise_range(advice, start, length) {
            Ok(()) | Err(_) => {}
        }
    }

    /// Makes the pages of these bytes writable: the page faults that a first write would take
    /// happen here, on the caller's thread, and the bytes stay as they are. Only a hint, as
    /// [`Map::prefetch`] is.
    pub fn populate(&self, offset: u64, bytes: u64) {
        self.advise(Advice::PopulateWrite, offset, bytes);
    }

    /// Forgets what was written to these pages, so that they hold the file's content again and
    /// cost no memory. The caller holds the locks of everything on them.
    ///
    /// # Errors
    /// `Io` if the kernel refuses, or if the file cannot be read (simulated disk).
    ///
    /// # Panics
    /// If `offset` is no multiple of [`BLOCK_BYTES`], or the range ends beyond the map, or in
    /// the middle of a page that is not the last; if no file is mapped.
    pub fn drop_pages(&self, offset: u64, bytes: usize) -> Result<()> {
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64), "page offset {offset}");
        let end = offset + bytes as u64;
        assert!(end <= self.bytes, "pages end at {end}, the map at {}", self.bytes);
        assert!(end == self.bytes || end.is_multiple_of(BLOCK_BYTES as u64), "page end {end}");
        match &self.memory {
            Memory::Mapped { map, .. } => {
                let start = usize::try_from(offset).expect("invariant: inside the map");
                // SAFETY: the range lies inside the mapping (asserted above). The mapping is
                // private to this value, and what the advice does to its words, a return to the
                // file's content, is a change of value under I1.
                unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, bytes) }
                    .map_err(|source| Error::io("drop pages", &self.path, offset, source))
            }
            Memory::Copied { .. } => self.copy_from_file(offset, bytes),
            Memory::Zeroed { .. } => unreachable!("memory without a file has all there is"),
        }
    }

    fn copy_from_file(&self, offset: u64, bytes: usize) -> Result<()> {
        let Memory::Copied { file, .. } = &self.memory else {
            unreachable!("only a copy is read again");
        };
        let mut content = vec![0; bytes];
        file.read_at(&mut content, offset)?;
        content.resize(bytes.next_multiple_of(WORD_BYTES), 0);
        self.write(&content, offset);
        Ok(())
    }

    /// The words that hold `bytes` bytes from `offset`.
    fn words_of(&self, offset: u64, bytes: usize) -> &[AtomicU64] {
        let offset = usize::try_from(offset).expect("invariant: a map fits in memory");
        assert!(offset.is_multiple_of(WORD_BYTES), "a map has offsets of words, not {offset}");
        let first = offset / WORD_BYTES;
        let words = self.words();
        let count = bytes.div_ceil(WORD_BYTES);
        assert!(first <= words.len(), "offset {offset} is beyond {} words", words.len());
        assert!(count <= words.len() - first, "{bytes} bytes at {offset}: beyond the map");
        &words[first..first + count]
    }

    fn words(&self) -> &[AtomicU64] {
        match &self.memory {
            Memory::Copied { words, .. } => words,
            Memory::Mapped { map, .. } | Memory::Zeroed { map } => {
                #[expect(clippy::cast_ptr_alignment, reason = "asserted on the next line")]
                let start = map.as_mut_ptr().cast::<AtomicU64>();
                assert!(start.is_aligned(), "the kernel maps at page boundaries");
                // SAFETY: the mapping is readable, writable and aligned (asserted above), lives
                // as long as `self`, and holds `map.len()` bytes rounded up to a page, so the
                // last word is whole. Every access goes through these atomics (I1, I2).
                unsafe { std::slice::from_raw_parts(start, map.len().div_ceil(WORD_BYTES)) }
            }
        }
    }
}

/// Copies of many words, by one instruction that moves whole cache lines where the processor can. A loop
/// over atomic words, which compilers do not widen, took twice as long over a gigabyte of slots of 1 KiB.
#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::asm;

    use super::{AtomicU64, WORD_BYTES};

    /// Stores `bytes` in `words`, of which there are as many.
    pub(super) fn store(words: &[AtomicU64], bytes: &[[u8; WORD_BYTES]]) {
        assert_eq!(words.len(), bytes.len());
        // SAFETY: both ranges have this length (asserted) and do not overlap, for no reference leads into
        // the map (I2). The words may be changed through a shared reference because they are atomics. The
        // compiler knows nothing of what happens inside; the processor writes each word in some order,
        // maybe in parts, which a racing reader would see as wrong bytes and no worse (I1).
        unsafe {
            asm!(
                "rep movsq",
                inout("rcx") words.len() => _,
                inout("rdi") words.as_ptr() => _,
                inout("rsi") bytes.as_ptr() => _,
                options(nostack, preserves_flags)
            );
        }
    }

    /// Loads `words` into `bytes`, of which there are as many.
    pub(super) fn load(bytes: &mut [[u8; WORD_BYTES]], words: &[AtomicU64]) {
        assert_eq!(words.len(), bytes.len());
        // SAFETY: as in `store`, the other way round; `bytes` is borrowed by nobody else.
        unsafe {
            asm!(
                "rep movsq",
                inout("rcx") words.len() => _,
                inout("rdi") bytes.as_mut_ptr() => _,
                inout("rsi") words.as_ptr() => _,
                options(nostack, preserves_flags)
            );
        }
    }
}

/// Elsewhere word by word.
#[cfg(not(target_arch = "x86_64"))]
mod wide {
    use super::{AtomicU64, Ordering, WORD_BYTES, bytes_of};

    pub(super) fn store(words: &[AtomicU64], bytes: &[[u8; WORD_BYTES]]) {
        for (bytes, word) in bytes.iter().zip(words) {
            word.store(u64::from_le_bytes(*bytes).to_le(), Ordering::Relaxed);
        }
    }

    pub(super) fn load(bytes: &mut [[u8; WORD_BYTES]], words: &[AtomicU64]) {
        for (bytes, word) in bytes.iter_mut().zip(words) {
            *bytes = bytes_of(word);
        }
    }
}

/// The bytes of a word in the order in which they lie in the file.
fn bytes_of(word: &AtomicU64) -> [u8; WORD_BYTES] {
    u64::from_le(word.load(Ordering::Relaxed)).to_le_bytes()
}

/// Has a page of a map that cannot be read (its file was cut, or its medium failed) end the process
/// with exit code 1 and one line on stderr that names file, offset and slot. For the whole process,
/// to be called once by a program.
///
/// # Errors
/// The operating system takes no handler.
pub fn report_bus_errors() -> io::Result<()> {
    // SAFETY: all zeros are a `sigaction` without handler, flags and mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_bus_error;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: `action` is whole, its handler has the form that SA_SIGINFO asks for and does only
    // what a handler may do (`bus_error` I1), and the old action is not asked for.
    let result = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: under SA_SIGINFO the kernel hands over a `siginfo_t`, or nothing.
    let info = unsafe { info.as_ref() };
    // SAFETY: the kernel sets the address for this signal; of one that was sent by hand, which has
    // none, it is a number like any other.
    let address = info.map(|info| unsafe { info.si_addr() });
    if address.is_some_and(|address| bus_error::report(address.addr())) {
        // SAFETY: ends the process without running anything; async-signal-safe.
        unsafe { libc::_exit(BUS_ERROR_EXIT_CODE) };
    }
    // Not ours: it comes again as soon as this returns, by hand as well, and finds no handler.
    // SAFETY: the default action needs nothing; async-signal-safe.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: the signal is one the kernel has just delivered; async-signal-safe.
    unsafe { libc::raise(signal) };
}
