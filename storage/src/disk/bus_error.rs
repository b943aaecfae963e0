//! Reports a mapped page that cannot be read (`SIGBUS`) because its file was cut or its medium
//! failed.
//!
//! Called by `map`: when it maps and unmaps, and in a signal handler. Invariants:
//!
//! - I1: the handler calls only async-signal-safe code: atomics, arithmetic, a buffer on the stack,
//!   one poll(2), one write(2). It takes no lock and no memory.
//! - I2: a range is complete before its start makes it visible to the handler.
//!
//! Source: signal-safety(7).

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Maps that are told apart; pages of further ones are reported without a name.
const RANGE_COUNT_MAX: usize = 8;
/// Bytes of a path that are kept, the last ones.
const PATH_BYTES_MAX: usize = 512;
/// Bytes of a message: path, words and numbers.
const MESSAGE_BYTES_MAX: usize = PATH_BYTES_MAX + 512;
/// How long whoever reads stderr may take to make room for it.
const WORD_TIME_MAX: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// Digits of the largest number.
const DIGITS_MAX: usize = 20;

static RANGES: [Range; RANGE_COUNT_MAX] = [const { Range::free() }; RANGE_COUNT_MAX];
/// Held by whoever maps or unmaps; never by the handler.
static CHANGES: Mutex<()> = Mutex::new(());

/// A mapped file.
struct Range {
    /// Address of the first byte; 0 in a free place.
    start: AtomicUsize,
    bytes: AtomicUsize,
    /// Where slots begin in the file.
    slots_offset: AtomicU64,
    /// 0 if the file has none.
    slot_bytes: AtomicU64,
    path_bytes: AtomicUsize,
    path: [AtomicU8; PATH_BYTES_MAX],
}

impl Range {
    const fn free() -> Self {
        Range {
            start: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            slots_offset: AtomicU64::new(0),
            slot_bytes: AtomicU64::new(0),
            path_bytes: AtomicUsize::new(0),
            path: [const { AtomicU8::new(0) }; PATH_BYTES_MAX],
        }
    }

    fn set_path(&self, path: &Path) {
        let path = path.as_os_str().as_bytes();
        let kept = &path[path.len().saturating_sub(PATH_BYTES_MAX)..];
        for (place, byte) in self.path.iter().zip(kept) {
            place.store(*byte, Ordering::Relaxed);
        }
        self.path_bytes.store(kept.len(), Ordering::Relaxed);
    }

    /// The offset in the file of a byte in memory, if the file is mapped there.
    fn offset_of(&self, address: usize) -> Option<u64> {
        let start = self.start.load(Ordering::Acquire); // I2
        let offset = address.checked_sub(start).filter(|_| start != 0)?;
        (offset < self.bytes.load(Ordering::Relaxed)).then_some(offset as u64)
    }

    fn describe(&self, offset: u64) -> Message {
        let mut message = Message::new();
        message.push(b"diskstore: byte ");
        message.push_number(offset);
        message.push(b" of ");
        let length = self.path_bytes.load(Ordering::Relaxed);
        for byte in self.path.iter().take(length) {
            message.push(&[byte.load(Ordering::Relaxed)]);
        }
        let from_slots = offset.checked_sub(self.slots_offset.load(Ordering::Relaxed));
        let slot_bytes = self.slot_bytes.load(Ordering::Relaxed);
        if let Some(slot) = from_slots.and_then(|offset| offset.checked_div(slot_bytes)) {
            message.push(b", in slot ");
            message.push_number(slot);
        }
        message.push(
            b", cannot be read: the file was cut, or its disk failed; keep its files until \
              the others are known to be whole, then replace this member (an empty -data directory, \
              and -join)\n",
        );
        message
    }
}

/// A map whose bytes can be named; forgotten when dropped.
#[derive(Debug)]
pub(super) struct Named(Option<usize>);

impl Named {
    /// Names the bytes of a map.
    pub(super) fn new(start: usize, bytes: usize, path: &Path) -> Named {
        let _changing = CHANGES.lock();
        let is_free = |range: &Range| range.start.load(Ordering::Relaxed) == 0;
        let Some(place) = RANGES.iter().position(is_free) else { return Named(None) };
        let range = &RANGES[place];
        range.bytes.store(bytes, Ordering::Relaxed);
        range.slot_bytes.store(0, Ordering::Relaxed);
        range.set_path(path);
        range.start.store(start, Ordering::Release); // I2
        Named(Some(place))
    }

    /// From this offset on the file holds slots of so many bytes.
    pub(super) fn holds_slots(&self, slots_offset: u64, slot_bytes: u64) {
        if let Some(place) = self.0 {
            RANGES[place].slots_offset.store(slots_offset, Ordering::Relaxed);
            RANGES[place].slot_bytes.store(slot_bytes, Ordering::Release);
        }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            let _changing = CHANGES.lock();
            RANGES[place].start.store(0, Ordering::Release);
        }
    }
}

/// Says on stderr what lies at an address that cannot be read. False if it is no map's. For a
/// signal handler (I1).
pub(super) fn report(address: usize) -> bool {
    let found = RANGES.iter().find_map(|range| Some((range, range.offset_of(address)?)));
    let Some((range, offset)) = found else { return false };
    let message = range.describe(offset);
    let stderr = rustix::stdio::stderr();
    let mut wanted = [PollFd::new(&stderr, PollFlags::OUT)];
    // A pipe that can be written takes this much at once; one that nobody reads would hold the end
    // of the process up.
    if poll(&mut wanted, Some(&WORD_TIME_MAX)).is_ok_and(|ready| ready > 0) {
        // Where nobody can be told, the exit code is all there is.
        match rustix::io::write(stderr, message.as_slice()) {
            Ok(_) | Err(_) => {}
        }
    }
    true
}

/// Text that is put together without memory of its own.
struct Message {
    bytes: [u8; MESSAGE_BYTES_MAX],
    length: usize,
}

impl Message {
    fn new() -> Message {
        Message { bytes: [0; MESSAGE_BYTES_MAX], length: 0 }
    }

    /// Appends what has room.
    fn push(&mut self, text: &[u8]) {
        for (place, byte) in self.bytes.iter_mut().skip(self.length).zip(text) {
            *place = *byte;
            self.length += 1;
        }
    }

    fn push_number(&mut self, number: u64) {
        let mut digits = [0; DIGITS_MAX];
        let mut rest = number;
        let mut first = DIGITS_MAX;
        loop {
            first -= 1;
            digits[first] = b"0123456789"[usize::from((rest % 10) as u8)];
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.push(&digits[first..]);
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No map has such addresses.
    const NOWHERE: usize = 0x10;
    /// There is one table: one of these tests at a time.
    static TESTING: Mutex<()> = Mutex::new(());

    fn said(address: usize) -> Option<String> {
        let described =
            RANGES.iter().find_map(|range| Some(range.describe(range.offset_of(address)?)));
        described.map(|message| String::from_utf8(message.as_slice().to_vec()).unwrap())
    }

    #[test]
    fn a_byte_of_a_map_is_named_until_it_is_unmapped() {
        let _testing = TESTING.lock();
        let named = Named::new(NOWHERE, 40_000, Path::new("/data/slots.dat"));
        let words = said(NOWHERE + 39_999).unwrap();
        assert!(words.starts_with("diskstore: byte 39999 of /data/slots.dat, cannot"), "{words}");
        named.holds_slots(8192, 1040);
        let words = said(NOWHERE + 8192 + 3 * 1040).unwrap();
        assert!(words.contains("byte 11312 of /data/slots.dat, in slot 3, cannot"), "{words}");
        assert!(words.ends_with("-join)\n"), "{words}");
        let words = said(NOWHERE).unwrap();
        assert!(words.contains("byte 0 of /data/slots.dat, cannot"), "{words}");
        assert_eq!(said(NOWHERE + 40_000), None);
        drop(named);
        assert_eq!(said(NOWHERE), None);
    }

    #[test]
    fn more_maps_and_longer_paths_than_there_is_room_for_do_no_harm() {
        let _testing = TESTING.lock();
        let long = format!("/{}/slots.dat", "x".repeat(5_000));
        let far = |nth: usize| usize::MAX / 2 + nth * 100;
        let named: Vec<_> = (0..2 * RANGE_COUNT_MAX)
            .map(|nth| Named::new(far(nth), 100, Path::new(&long)))
            .collect();
        for named in &named {
            named.holds_slots(0, 1);
        }
        let words = said(far(0) + 7).unwrap();
        assert!(words.contains("/slots.dat, in slot 7, cannot be read"), "{words}");
        assert_eq!(said(far(2 * RANGE_COUNT_MAX - 1)), None);
    }
}
