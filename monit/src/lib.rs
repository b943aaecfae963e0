//! What a process and its machine use, read from /proc once per interval. Program `monit` and
//! experiments call it; it calls the standard library alone.
//!
//! [`proc`] parses texts, [`find`](mod@find) turns a name into a process id, [`sample`] makes rows
//! of two readings, [`write`](mod@write) prints them.

pub mod find;
pub mod proc;
pub mod sample;
pub mod write;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Most bytes of one file of /proc. The longest is `stat`, with a column for each interrupt.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Why there is nothing to measure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of /proc that cannot be read, or is longer than any known one.
    #[error("{} cannot be read", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of /proc that says something else than its manual page.
    #[error(transparent)]
    Malformed(#[from] proc::Malformed),
    /// No process has that id, or it ended before it could be read.
    #[error("no process has the id {pid}")]
    NoProcess {
        /// The id asked for.
        pid: u32,
    },
    /// No process has that name.
    #[error("no process is called {name}")]
    NoName {
        /// The name asked for.
        name: String,
    },
    /// Several processes have that name.
    #[error(
        "{} processes are called {name}, choose one with -pid:{}",
        found.len(),
        find::listed(found)
    )]
    ManyNames {
        /// The name asked for.
        name: String,
        /// Those that have it, by rising id.
        found: Vec<find::Process>,
    },
}

impl Error {
    /// True if the file belongs to a process or thread that has ended in the meantime.
    fn is_gone(&self) -> bool {
        /// What reading a file of a process that has just ended gives (`ESRCH`).
        const NO_SUCH_PROCESS: i32 = 3;
        match self {
            Error::Unreadable { source, .. } => {
                source.kind() == io::ErrorKind::NotFound
                    || source.raw_os_error() == Some(NO_SUCH_PROCESS)
            }
            _ => false,
        }
    }
}

/// The text of a file of /proc; what is no UTF-8 (the name of a process) is replaced.
fn read(file: &Path) -> Result<String, Error> {
    let unreadable = |source| Error::Unreadable { file: file.to_owned(), source };
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    let count = opened.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(count).is_ok_and(|count| count == FILE_BYTES_MAX) {
        return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The numbers that are names in a folder of /proc: processes or threads.
fn numbers(folder: &Path) -> Result<Vec<u32>, Error> {
    let unreadable = |source| Error::Unreadable { file: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}
