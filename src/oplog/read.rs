//! Reads records one after the other, from a file that may still be written or from a socket, with
//! bounded memory. It gives whole records; the caller sees by their marks whether an entry is
//! whole.
#![deny(clippy::indexing_slicing)]

use std::io::{self, Read};
use std::sync::Arc;

use diskstore_storage::Error;
use diskstore_storage::disk::File;

use super::parts::Parts;
use super::record::{LENGTH_BYTES, Mark, RECORD_BYTES_MAX, Record, length_of};

/// Bytes that are asked for at once.
const READ_BYTES: usize = 1 << 20;

/// Why records cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system refused.
    #[error("reading failed")]
    Io(#[from] io::Error),
    /// Bytes that are no record.
    #[error("at byte {offset} stands {what}")]
    Malformed {
        /// Byte offset from where reading began.
        offset: u64,
        /// What was found.
        what: &'static str,
    },
}

/// A record and its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// What it says.
    pub record: Record<'a>,
    /// Its bytes, the length included.
    pub bytes: &'a [u8],
}

/// Records from any input.
#[derive(Debug)]
pub struct Records<R> {
    input: R,
    buffer: Vec<u8>,
    /// What of the buffer is still to be read.
    unread: std::ops::Range<usize>,
    /// Where in the input the unread bytes begin.
    offset: u64,
}

impl<R: Read> Records<R> {
    /// Reads from where the input stands.
    pub fn new(input: R) -> Records<R> {
        Records { input, buffer: vec![0; READ_BYTES], unread: 0..0, offset: 0 }
    }

    /// Bytes of the records that were read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of a record that is not there as a whole.
    pub fn rest(&self) -> &[u8] {
        self.buffer.get(self.unread.clone()).unwrap_or_default()
    }

    /// The next record; `None` if the input ends before it does. Of a file that grows meanwhile
    /// more may come later.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn next_record(&mut self) -> Result<Option<Found<'_>>, ReadError> {
        if !self.fill(LENGTH_BYTES)? {
            return Ok(None);
        }
        let Some(length) = self.rest().first_chunk().copied().map(length_of) else {
            return Ok(None);
        };
        let malformed = |what| ReadError::Malformed { offset: self.offset, what };
        if length == 0 {
            return Err(malformed("a record without bytes"));
        }
        if length > RECORD_BYTES_MAX {
            return Err(malformed("a record longer than any"));
        }
        let bytes = LENGTH_BYTES + length;
        if !self.fill(bytes)? {
            return Ok(None);
        }
        let start = self.unread.start;
        let whole = self.buffer.get(start..start + bytes).unwrap_or_default();
        let body = whole.get(LENGTH_BYTES..).unwrap_or_default();
        let record = Record::decode(body).ok_or(ReadError::Malformed {
            offset: self.offset,
            what: "a record that is no Command",
        })?;
        self.unread.start += bytes;
        self.offset += bytes as u64;
        Ok(Some(Found { record, bytes: whole }))
    }

    /// True if so many bytes are unread now. Memory grows to the longest record.
    fn fill(&mut self, bytes: usize) -> io::Result<bool> {
        while self.unread.len() < bytes {
            if self.buffer.len() < self.unread.start + bytes {
                self.buffer.copy_within(self.unread.clone(), 0);
                self.unread = 0..self.unread.len();
                let size = self.buffer.len().max(bytes);
                self.buffer.resize(size, 0);
            }
            let free = self.buffer.get_mut(self.unread.end..).unwrap_or_default();
            match self.input.read(free) {
                Ok(0) => return Ok(false),
                Ok(count) => self.unread.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// A file that is read from its beginning on, and may grow meanwhile.
#[derive(Debug)]
pub(super) struct FileInput {
    file: Arc<dyn File>,
    offset: u64,
}

impl FileInput {
    pub(super) fn new(file: Arc<dyn File>) -> FileInput {
        FileInput { file, offset: 0 }
    }
}

impl Read for FileInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.file.len().map_err(io_error)?.saturating_sub(self.offset);
        let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let piece = buffer.get_mut(..bytes).unwrap_or_default();
        self.file.read_at(piece, self.offset).map_err(io_error)?;
        self.offset += bytes as u64;
        Ok(bytes)
    }
}

/// The operating system's word, where it had one.
pub(super) fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io { source, .. } => source,
        Error::NoSpace { .. } => rustix::io::Errno::NOSPC.into(),
        other => io::Error::other(other),
    }
}

/// The records of a log's files, from one of them on.
#[derive(Debug)]
pub struct PartRecords {
    parts: Parts,
    nth: u32,
    records: Records<FileInput>,
    /// Highest index of this file so far.
    index_max: u64,
    /// Files that were read to their end, with their highest index.
    finished: Vec<(u32, u64)>,
}

impl PartRecords {
    /// Reads from the beginning of a file on.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(parts: &Parts, nth: u32) -> io::Result<PartRecords> {
        let records = records_of(parts, nth)?;
        Ok(PartRecords { parts: parts.clone(), nth, records, index_max: 0, finished: Vec::new() })
    }

    /// The file that is read, counted from 1, and the bytes of it that were.
    pub fn position(&self) -> (u32, u64) {
        (self.nth, self.records.offset())
    }

    /// Bytes of a record that is not there as a whole.
    pub fn rest(&self) -> &[u8] {
        self.records.rest()
    }

    /// Files that were read to their end since the last call, with their highest index; nothing is
    /// written to them any more.
    pub fn take_finished(&mut self) -> Vec<(u32, u64)> {
        std::mem::take(&mut self.finished)
    }

    /// The next record; `None` at the end of the last file, or inside a record there.
    ///
    /// # Errors
    /// See [`ReadError`]; its offset counts from the beginning of the file that is read.
    pub fn next_record(&mut self) -> Result<Option<Found<'_>>, ReadError> {
        while !self.has_record()? {
            // The next file is made after the last write to this one: look at this one again.
            if !self.parts.exists(self.nth + 1).map_err(io_error)? {
                return Ok(None);
            }
            if self.has_record()? {
                break;
            }
            if !self.records.rest().is_empty() {
                let (offset, what) = (self.records.offset(), "half a record before the next file");
                return Err(ReadError::Malformed { offset, what });
            }
            self.finished.push((self.nth, self.index_max));
            (self.nth, self.index_max) = (self.nth + 1, 0);
            self.records = records_of(&self.parts, self.nth)?;
        }
        let found = self.records.next_record()?;
        if let Some(found) = &found {
            self.index_max = self.index_max.max(found.record.index);
        }
        Ok(found)
    }

    /// True if a whole record, or what is none, stands next.
    fn has_record(&mut self) -> io::Result<bool> {
        if !self.records.fill(LENGTH_BYTES)? {
            return Ok(false);
        }
        let Some(length) = self.records.rest().first_chunk().copied().map(length_of) else {
            return Ok(false);
        };
        if length == 0 || length > RECORD_BYTES_MAX {
            return Ok(true);
        }
        self.records.fill(LENGTH_BYTES + length)
    }
}

fn records_of(parts: &Parts, nth: u32) -> io::Result<Records<FileInput>> {
    Ok(Records::new(FileInput::new(parts.open(nth).map_err(io_error)?)))
}

/// True if a record ends its entry, or stands for itself.
pub fn ends_entry(record: &Record<'_>) -> bool {
    record.mark != Mark::More
}
