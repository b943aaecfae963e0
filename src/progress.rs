//! Shows the progress of preparing a large file. The node calls it while it makes its data file.
//!
//! - I1: only a terminal sees a bar; a log or a pipe sees nothing.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

/// Files that are smaller are ready before anyone could read a bar.
const FILE_BYTES_MIN: u64 = 256 << 20;

/// A bar on stderr that appears when it is worth one and goes when the file is ready.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    is_terminal: bool,
}

impl Progress {
    /// Nothing is shown yet.
    pub fn new() -> Progress {
        Progress { bar: None, is_terminal: std::io::stderr().is_terminal() }
    }

    /// Says how many bytes are done of all.
    pub fn report(&mut self, done_bytes: u64, all_bytes: u64) {
        if !self.is_terminal || all_bytes < FILE_BYTES_MIN {
            return; // I1
        }
        let bar = self.bar.get_or_insert_with(|| bar(all_bytes));
        bar.set_position(done_bytes);
        if done_bytes >= all_bytes {
            bar.finish_and_clear();
        }
    }
}

impl Default for Progress {
    fn default() -> Progress {
        Progress::new()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(all_bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "preparing the data file [{bar:40}] {bytes} of {total_bytes}, {eta} left",
    )
    .expect("invariant: the template is a constant")
    .progress_chars("=> ");
    ProgressBar::new(all_bytes).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_shown_on_terminals_for_large_files_only() {
        let mut pipe = Progress { bar: None, is_terminal: false };
        pipe.report(1, FILE_BYTES_MIN);
        assert!(pipe.bar.is_none());
        let mut terminal = Progress { bar: None, is_terminal: true };
        terminal.report(1, FILE_BYTES_MIN - 1);
        assert!(terminal.bar.is_none());
        terminal.report(1, FILE_BYTES_MIN);
        let bar = terminal.bar.clone().unwrap();
        assert_eq!((bar.position(), bar.is_finished()), (1, false));
        terminal.report(FILE_BYTES_MIN, FILE_BYTES_MIN);
        assert!(bar.is_finished());
    }

    #[test]
    fn a_bar_goes_when_the_preparation_fails() {
        let mut terminal = Progress { bar: None, is_terminal: true };
        terminal.report(1, FILE_BYTES_MIN);
        let bar = terminal.bar.clone().unwrap();
        drop(terminal);
        assert!(bar.is_finished());
    }
}
