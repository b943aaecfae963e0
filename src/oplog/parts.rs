//! The files of one log: `log-file-<id>.log`, then `log-file-<id>.log.2` and so on. Their order is
//! their number; all but the last are complete and synced.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::OpLogError;
use super::read::{ReadError, Records, ends_entry};
use super::record::Mark;

/// Where a log's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    first: PathBuf,
}

impl Parts {
    /// The files of the log of node `id` in a directory.
    pub fn of_node(directory: &Path, id: &str) -> Parts {
        Parts { first: directory.join(format!("log-file-{id}.log")) }
    }

    /// The files that begin with this one.
    pub fn beginning_with(first: &Path) -> Parts {
        Parts { first: first.to_owned() }
    }

    /// The path of a file, counted from 1.
    pub fn path(&self, nth: u32) -> PathBuf {
        if nth <= 1 {
            return self.first.clone();
        }
        let mut name = self.first.clone().into_os_string();
        name.push(format!(".{nth}"));
        PathBuf::from(name)
    }

    /// The directory that they are in.
    pub fn directory(&self) -> &Path {
        match self.first.parent() {
            Some(directory) if directory != Path::new("") => directory,
            _ => Path::new("."),
        }
    }

    /// How many there are.
    ///
    /// # Errors
    /// The directory cannot be read; a file between others is gone.
    pub fn count(&self) -> Result<u32, OpLogError> {
        let directory = self.directory();
        let failed = |source| OpLogError::io("read", directory, source);
        let name = self.first.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut count = u32::from(self.first.try_exists().map_err(failed)?);
        let mut found = u64::from(count);
        for entry in fs::read_dir(directory).map_err(failed)? {
            let other = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            let suffix = other.strip_prefix(&name).and_then(|rest| rest.strip_prefix('.'));
            let nth = suffix.and_then(|number| number.parse::<u32>().ok());
            if let Some(nth) = nth.filter(|nth| *nth >= 2 && !suffix.is_some_and(has_sign)) {
                (count, found) = (count.max(nth), found + 1);
            }
        }
        if u64::from(count) == found {
            return Ok(count);
        }
        let missing = (1..count).find(|nth| !self.path(*nth).exists()).unwrap_or(1);
        Err(OpLogError::Missing { path: self.path(missing) })
    }

    /// Makes the names of the files durable.
    pub(super) fn sync_directory(&self) -> Result<(), OpLogError> {
        let directory = self.directory();
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|source| OpLogError::io("sync", directory, source))
    }
}

/// `+2` and `02` are numbers too, and no names that were given here.
fn has_sign(number: &str) -> bool {
    number.starts_with(['+', '0'])
}

/// Where the last whole entry of a file ends, and its index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct End {
    pub(super) offset: u64,
    pub(super) index: u64,
}

/// Reads a file up to its torn end.
pub(super) fn find_end(path: &Path) -> Result<End, OpLogError> {
    let file = File::open(path).map_err(|source| OpLogError::io("open", path, source))?;
    let mut records = Records::new(file);
    let mut end = End::default();
    loop {
        let before = records.offset();
        let corrupt = |what| OpLogError::Corrupt { path: path.to_owned(), offset: before, what };
        let (record, offset) = match records.next_record() {
            Ok(None) => return Ok(end),
            Ok(Some(found)) => (found.record, before + found.bytes.len() as u64),
            Err(ReadError::Io(source)) => return Err(OpLogError::io("read", path, source)),
            Err(ReadError::Malformed { what, .. }) => {
                // Zeros were never written: a power loss left the file longer than its bytes.
                return if only_zeros(path, before)? { Ok(end) } else { Err(corrupt(what)) };
            }
        };
        if record.mark == Mark::Image {
            end.offset = offset;
            continue;
        }
        if record.index < end.index {
            return Err(corrupt("an index below the one before"));
        }
        if ends_entry(&record) {
            end = End { offset, index: record.index };
        }
    }
}

fn only_zeros(path: &Path, from: u64) -> Result<bool, OpLogError> {
    let only_zeros = || -> io::Result<bool> {
        let mut file = File::open(path)?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(from))?;
        let mut block = vec![0; 1 << 16];
        loop {
            match io::Read::read(&mut file, &mut block)? {
                0 => return Ok(true),
                read if block.iter().take(read).any(|byte| *byte != 0) => return Ok(false),
                _ => {}
            }
        }
    };
    only_zeros().map_err(|source| OpLogError::io("read", path, source))
}
