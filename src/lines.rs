//! Prints lines on stdout and stderr without ever waiting for the reader: a bounded queue, and a
//! thread that writes. `program` sends the log, the banner and the last message of a failing node
//! through here; depends on nothing.
//!
//! Invariants:
//! - I1: [`Lines::say`] never waits for the reader: if a pipe or a disk is full or a terminal is
//!   stopped, lines are lost, never time. The lock is not held during a write.
//! - I2: at most [`QUEUE_BYTES_MAX`] wait. Dropped lines are counted, and a line in their place
//!   says how many, as soon as writing is possible again.
//! - I3: only the thread writes, and it bypasses the standard library's lock on these streams: a
//!   thread that held that lock while it waits would hold up every other thread that prints.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;

/// Most bytes that wait to be written.
const QUEUE_BYTES_MAX: usize = 256 << 10;
/// How long the end of a program may wait until what it said has been written.
pub const FLUSH_TIME_MAX: Duration = Duration::from_secs(1);

static STDOUT: OnceLock<Lines> = OnceLock::new();
static STDERR: OnceLock<Lines> = OnceLock::new();

/// One output of the program.
#[derive(Debug, Clone)]
pub struct Lines {
    shared: Arc<LinesShared>,
}

#[derive(Debug, Default)]
struct LinesShared {
    state: Mutex<LinesState>,
    /// There is something to write.
    pushed: Condvar,
    /// Everything has been written, or given up.
    written: Condvar,
}

#[derive(Debug, Default)]
struct LinesState {
    queue: VecDeque<Vec<u8>>,
    bytes: usize,
    /// True while the thread has taken something off the queue that it has not finished.
    is_writing: bool,
    /// Lines dropped that nobody has been told of.
    untold: u64,
    dropped: u64,
}

/// The program's stdout.
pub fn stdout() -> &'static Lines {
    STDOUT.get_or_init(|| Lines::new("stdout", Unlocked(rustix::stdio::stdout())))
}

/// The program's stderr.
pub fn stderr() -> &'static Lines {
    STDERR.get_or_init(|| Lines::new("stderr", Unlocked(rustix::stdio::stderr())))
}

/// Waits until both have been written, a bounded time in all.
pub fn flush() {
    let deadline = Instant::now() + FLUSH_TIME_MAX;
    for lines in [STDOUT.get(), STDERR.get()].into_iter().flatten() {
        lines.flush_until(deadline);
    }
}

impl Lines {
    /// Lines that a thread of this name writes to `out`.
    fn new(name: &str, out: impl Write + Send + 'static) -> Lines {
        let shared = Arc::new(LinesShared::default());
        let of_thread = shared.clone();
        let writing = move || of_thread.write_to(out);
        if std::thread::Builder::new().name(name.to_owned()).spawn(writing).is_err() {
            // Without the thread nothing can be said: what comes is counted, and no more.
            shared.state.lock().bytes = QUEUE_BYTES_MAX;
        }
        Lines { shared }
    }

    /// Has `text` written as a whole, or drops it (I2).
    pub fn say(&self, text: &[u8]) {
        let mut state = self.shared.state.lock();
        if state.bytes + text.len() > QUEUE_BYTES_MAX {
            state.dropped += 1;
            state.untold += 1;
            return;
        }
        state.bytes += text.len();
        state.queue.push_back(text.to_vec());
        drop(state);
        self.shared.pushed.notify_one();
    }

    /// How many lines were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.shared.state.lock().dropped
    }

    /// Waits until everything said so far has been written or given up, or the time has come.
    fn flush_until(&self, deadline: Instant) {
        let mut state = self.shared.state.lock();
        while !state.queue.is_empty() || state.is_writing {
            if self.shared.written.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }
}

impl LinesShared {
    /// Writes what is said, for as long as the process lives.
    fn write_to(&self, mut out: impl Write) {
        loop {
            let (text, untold) = self.next();
            let written = match untold {
                0 => out.write_all(&text),
                _ => out.write_all(notice(untold).as_bytes()).and_then(|()| out.write_all(&text)),
            };
            let mut state = self.state.lock();
            state.is_writing = false;
            if written.is_err() {
                state.dropped += 1;
                state.untold += untold + 1;
            }
            if state.queue.is_empty() {
                self.written.notify_all();
            }
        }
    }

    /// Waits for something to write; also how many lines were dropped before it.
    fn next(&self) -> (Vec<u8>, u64) {
        let mut state = self.state.lock();
        loop {
            if let Some(text) = state.queue.pop_front() {
                state.bytes -= text.len();
                state.is_writing = true;
                // What waits was said before the others were dropped.
                let untold =
                    if state.queue.is_empty() { std::mem::take(&mut state.untold) } else { 0 };
                return (text, untold);
            }
            self.pushed.wait(&mut state);
        }
    }
}

fn notice(untold: u64) -> String {
    format!("{untold} lines were dropped before the next one: nobody took them\n")
}

/// A standard stream without the lock of the standard library (I3).
struct Unlocked(BorrowedFd<'static>);

impl Write for Unlocked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(self.0, bytes) {
                // Whoever shares the pipe may have made it one that does not block.
                Err(Errno::AGAIN) => {
                    let mut waited = [PollFd::new(&self.0, PollFlags::OUT)];
                    match poll(&mut waited, None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(Errno::INTR) => {}
                outcome => return outcome.map_err(io::Error::from),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes to `Lines`, for what wants a writer: each call is one text, and none fails.
#[derive(Debug, Clone, Copy)]
pub struct Said(pub &'static Lines);

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.say(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    const PATIENCE: Duration = Duration::from_mins(2);

    fn piped() -> (BufReader<io::PipeReader>, Lines) {
        let (reader, writer) = io::pipe().unwrap();
        (BufReader::new(reader), Lines::new("test", writer))
    }

    #[test]
    fn lines_come_in_order_and_a_flush_waits_for_them() {
        let (reader, lines) = piped();
        for number in 0..100 {
            lines.say(format!("{number}\n").as_bytes());
        }
        lines.flush_until(Instant::now() + PATIENCE);
        assert!(lines.shared.state.lock().queue.is_empty());
        let read: Vec<String> = reader.lines().take(100).map(Result::unwrap).collect();
        assert_eq!(read, (0..100).map(|number| number.to_string()).collect::<Vec<_>>());
        assert_eq!(lines.dropped(), 0);
    }

    #[test]
    fn a_reader_that_takes_nothing_costs_lines_and_no_time() {
        let (reader, lines) = piped();
        let line = [vec![b'x'; 999], b"\n".to_vec()].concat();
        let count = 3 * QUEUE_BYTES_MAX / line.len();
        for _ in 0..count {
            lines.say(&line);
        }
        let dropped = lines.dropped();
        assert!(dropped > 0 && dropped < count as u64, "{dropped}");
        assert!(lines.shared.state.lock().bytes <= QUEUE_BYTES_MAX);
        lines.flush_until(Instant::now() + Duration::from_millis(1)); // returns all the same

        let mut reader = reader.lines().map(Result::unwrap);
        let kept = count - usize::try_from(dropped).unwrap();
        assert!(reader.by_ref().take(kept - 1).all(|line| line.starts_with("xxx")));
        let said = reader.next().unwrap();
        assert_eq!(said, notice(dropped).trim_end());
        assert!(reader.next().unwrap().starts_with("xxx"));
        lines.say(b"on\n");
        assert_eq!(reader.next().unwrap(), "on");
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure() {
        let (reader, lines) = piped();
        drop(reader);
        lines.say(b"nobody\n");
        lines.flush_until(Instant::now() + PATIENCE);
        assert_eq!(lines.dropped(), 1);
    }
}
