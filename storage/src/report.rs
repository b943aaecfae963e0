//! Collects the text about a file that is shown to a person, up to a limit.
//!
//! Called by `inspect`, and by the decoders of `wal`, `slots` and `keys`. Invariant:
//!
//! - I1: at most [`LINES_MAX`] lines of detail, then a count of the lines left out.

use std::fmt::{self, Write};
use std::path::Path;

use crate::{Error, Result};

/// Most lines of detail of one file.
pub const LINES_MAX: u64 = 10_000;

/// Where the text goes.
pub(crate) struct Report<'a> {
    path: &'a Path,
    out: &'a mut dyn Write,
    /// Lines of detail so far, those left out included.
    lines: u64,
}

impl<'a> Report<'a> {
    /// Text about the file of this path.
    pub(crate) fn new(path: &'a Path, out: &'a mut dyn Write) -> Report<'a> {
        Report { path, out, lines: 0 }
    }

    /// A line that is always there.
    pub(crate) fn head(&mut self, line: fmt::Arguments<'_>) -> Result<()> {
        writeln!(self.out, "{line}").map_err(|error| {
            Error::io("print what is in", self.path, 0, std::io::Error::other(error))
        })
    }

    /// A line of which there may be many (I1).
    pub(crate) fn detail(&mut self, line: fmt::Arguments<'_>) -> Result<()> {
        self.lines += 1;
        if self.lines > LINES_MAX { Ok(()) } else { self.head(line) }
    }

    /// Says how many lines were left out.
    pub(crate) fn end(&mut self) -> Result<()> {
        match self.lines.checked_sub(LINES_MAX) {
            None | Some(0) => Ok(()),
            Some(count) => self.head(format_args!("... and {count} more lines")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detail_is_cut_and_counted() {
        let mut text = String::new();
        let mut report = Report::new(Path::new("/file"), &mut text);
        for number in 0..LINES_MAX + 3 {
            report.detail(format_args!("line {number}")).unwrap();
        }
        report.end().unwrap();
        assert_eq!(text.lines().count() as u64, LINES_MAX + 1);
        assert_eq!(text.lines().last(), Some("... and 3 more lines"));
    }
}
