//! Real `diskstore` processes for tests: each on loopback addresses of its own, killed when
//! dropped.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long anything may take before a test fails: far more than it takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// The program.
pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_diskstore"))
}

/// Runs the program to its end, and kills it when it does not come to one.
pub(crate) fn run(arguments: &[&str]) -> Output {
    let mut command = program();
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let pid = child.id().to_string();
    let (ended, end) = channel::<()>();
    std::thread::spawn(move || {
        if end.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            drop(Command::new("kill").args(["-KILL", &pid]).status());
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(ended);
    output
}

/// What it printed on stderr.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What it printed on stdout.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs the program, which must fail with this code; gives its stderr.
#[track_caller]
pub(crate) fn refused(exit_code: i32, arguments: &[&str]) -> String {
    let output = run(arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(exit_code), "{arguments:?}: {text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

/// An address in 127.0.0.0/8 that no other test, and no other run of the tests, uses.
pub(crate) fn host() -> String {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let run = std::process::id();
    let (high, low) = (run >> 8 & 0x7f | 0x80, run & 0xff);
    format!("127.{high}.{low}.{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Where a node lives, running or not.
pub(crate) struct Place {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) host: String,
}

impl Place {
    pub(crate) fn new() -> Place {
        Place { directory: tempfile::tempdir().unwrap(), host: host() }
    }

    /// The node's own directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A path beside it.
    pub(crate) fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    pub(crate) fn client(&self) -> String {
        format!("{}:11000", self.host)
    }

    pub(crate) fn raft(&self) -> String {
        format!("{}:12000", self.host)
    }

    /// Arguments of a small node here.
    pub(crate) fn arguments(&self, more: &[&str]) -> Vec<String> {
        let (client, raft) = (self.client(), self.raft());
        let data = self.data().display().to_string();
        let usual = ["-port", &client, "-raft", &raft, "-data", &data, "-slots", "4096"];
        usual.iter().chain(more).map(ToString::to_string).collect()
    }

    /// Starts a node and waits until it serves.
    #[track_caller]
    pub(crate) fn start(&self, more: &[&str]) -> Node {
        Node::start(&self.arguments(more))
    }

    /// Runs a node that must refuse to start; gives its stderr.
    #[track_caller]
    pub(crate) fn refused(&self, exit_code: i32, more: &[&str]) -> String {
        let arguments = self.arguments(more);
        refused(exit_code, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Runs a sub-command against the node here.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Output {
        run(&[arguments, &["-addr", &self.client()]].concat())
    }

    /// As `ask`, must succeed; gives stdout.
    #[track_caller]
    pub(crate) fn asked(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        stdout(&output)
    }
}

/// A running program that was told to serve.
pub(crate) struct Node {
    child: Child,
    lines: Receiver<String>,
    /// What it has printed up to now.
    pub(crate) printed: Vec<String>,
}

impl Node {
    #[track_caller]
    fn start(arguments: &[String]) -> Node {
        let mut node = Node::spawn(program().args(arguments));
        node.wait_for("next: ");
        node
    }

    /// Starts any command of the program.
    pub(crate) fn spawn(command: &mut Command) -> Node {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        Node { child, lines, printed: Vec::new() }
    }

    /// The lines on stderr, as they come; nobody else hears them then.
    pub(crate) fn words(&mut self) -> Receiver<String> {
        lines_of(self.child.stderr.take().unwrap())
    }

    /// Waits for a line on stdout that begins so.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, beginning: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                self.child.kill().unwrap();
                let mut words = String::new();
                let heard_here = self.child.stderr.take();
                heard_here.map(|mut stream| stream.read_to_string(&mut words).unwrap());
                panic!("no line `{beginning}` in {:?}; stderr: {words}", self.printed);
            };
            self.printed.push(line.clone());
            if line.starts_with(beginning) {
                return line;
            }
        }
    }

    /// All that it said on stderr, once it has ended.
    pub(crate) fn stderr(&mut self) -> String {
        let mut words = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
        words
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `TERM`, `INT`, `KILL`.
    pub(crate) fn send(&self, signal: &str) {
        let sent =
            Command::new("kill").args([&format!("-{signal}"), &self.pid().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits until it has ended.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("process {} does not end", self.pid());
    }

    /// Asks it to stop, which must succeed.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.send("TERM");
        assert_eq!(self.wait().code(), Some(0));
    }

    /// Kills it without a chance to do anything.
    pub(crate) fn kill(mut self) {
        self.send("KILL");
        self.wait();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// After so much more time on processors a running CPU profile has samples, whatever else the machine
/// does: a tick is 10 ms, as is the time between two samples, and about half of them are kept: none that
/// interrupts libc or a system call. Count from when the profile runs: to begin one takes 20 ticks.
pub(crate) const SAMPLED_TICKS: u64 = 40;

/// The lines of a stream, as they come.
fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    let reader = BufReader::new(stream);
    std::thread::spawn(move || {
        for line in reader.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// The time that a process has spent on processors.
#[track_caller]
pub(crate) fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    // Of the user and of the system: fields 14 and 15 of proc(5), and `fields` begins with the third.
    fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

/// Names of what is in a directory, sorted.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).map(Iterator::flatten).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
