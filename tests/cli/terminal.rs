//! A terminal for tests: what a program shows on it is read, and keys are pressed.

use std::fs::File;
use std::io::{Read, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::harness::PATIENCE;

/// The side at which somebody would sit.
pub(crate) struct Terminal {
    keys: File,
    /// Everything shown so far.
    pub(crate) shown: String,
}

impl Terminal {
    /// A terminal, and the side that a program gets.
    pub(crate) fn open() -> (Terminal, File) {
        let terminal = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR).unwrap();
        rustix::pty::grantpt(&terminal).unwrap();
        rustix::pty::unlockpt(&terminal).unwrap();
        let name = rustix::pty::ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
        let end = File::options().read(true).write(true).open(name).unwrap();
        (Terminal { keys: File::from(terminal), shown: String::new() }, end)
    }

    pub(crate) fn resize(&self, columns: u16, lines: u16) {
        let size = Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.keys, size).unwrap();
    }

    pub(crate) fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until these words were shown so many times.
    #[track_caller]
    pub(crate) fn until(&mut self, words: &str, times: usize) {
        let mut bytes = [0; 4096];
        let patience = Timespec::try_from(PATIENCE).unwrap();
        while self.shown.matches(words).count() < times {
            let mut readable = [PollFd::new(&self.keys, PollFlags::IN)];
            let ready = poll(&mut readable, Some(&patience));
            assert_eq!(ready, Ok(1), "no {words} in {}", self.shown);
            let count = self.keys.read(&mut bytes).unwrap();
            self.shown.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }
}
