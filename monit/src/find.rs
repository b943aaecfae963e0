//! From a name to a process id. The program calls it; it calls [`crate::proc`].

use std::fmt::Write;
use std::path::Path;

use crate::{Error, proc};

/// Most processes of one name that an error lists, and most characters of a command line there.
const LISTED_MAX: usize = 20;
const COMMAND_CHARS_MAX: usize = 60;

/// A process that has the name asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its command line, cut, without control characters.
    pub command: String,
}

/// The one process that the kernel calls `name`, or whose program's file is called so (the kernel
/// keeps 15 bytes). Process `except`, the caller, does not count, nor does one that has ended.
///
/// # Errors
/// No process of that name, several, or /proc (`root`) cannot be read.
pub fn find(root: &Path, name: &str, except: u32) -> Result<u32, Error> {
    let mut found = Vec::new();
    for pid in crate::numbers(root)?.into_iter().filter(|pid| *pid != except) {
        match named(root, pid, name) {
            Ok(process) => found.extend(process),
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
    }
    match found.as_slice() {
        [] => Err(Error::NoName { name: name.to_owned() }),
        [process] => Ok(process.pid),
        _ => Err(Error::ManyNames { name: name.to_owned(), found }),
    }
}

fn named(root: &Path, pid: u32, name: &str) -> Result<Option<Process>, Error> {
    let folder = root.join(pid.to_string());
    let file = folder.join("stat");
    let stat = proc::process_stat(&file, &crate::read(&file)?)?;
    let arguments = crate::read(&folder.join("cmdline"))?;
    let program = arguments.split('\0').next().and_then(|path| path.rsplit('/').next());
    if stat.ended || (stat.name != name && program != Some(name)) {
        return Ok(None);
    }
    let printable = |char: char| if char.is_control() { ' ' } else { char };
    let command = arguments.trim_end_matches('\0').chars().take(COMMAND_CHARS_MAX).map(printable);
    Ok(Some(Process { pid, command: command.collect() }))
}

/// One line for each process.
pub(crate) fn listed(found: &[Process]) -> String {
    let mut lines = String::new();
    for process in found.iter().take(LISTED_MAX) {
        write!(lines, "\n  {}  {}", process.pid, process.command)
            .expect("invariant: a String takes what is written to it");
    }
    if found.len() > LISTED_MAX {
        lines.push_str("\n  ...");
    }
    lines
}
