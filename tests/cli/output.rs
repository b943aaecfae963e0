//! What a program says may reach nobody: a full pipe, a full disk, a reader that has gone. The
//! program goes on, and stops when it is asked to. And the signals that ask for that.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Node, PATIENCE, Place, host, program, stdout};

const LOGGER: &str = env!("CARGO_BIN_EXE_logger");

/// A program whose output goes to places of the test's own; killed when dropped.
struct Running(Child);

impl Running {
    fn start(command: &mut Command, out: impl Into<Stdio>, err: impl Into<Stdio>) -> Running {
        Running(command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap())
    }

    /// Waits until `condition` holds, as long as the program runs.
    #[track_caller]
    fn wait_until(&mut self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert_eq!(self.0.try_wait().unwrap(), None, "it has ended before: {what}");
            assert!(Instant::now() < deadline, "not in time: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The exit code after a signal; `None` if it does not end.
    fn ended_by(mut self, signal: &str) -> Option<i32> {
        let process = self.0.id().to_string();
        assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A pipe in which not one byte has room.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'x'; 512]).is_ok() {}
    while writer.write(b"x").is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    (reader, writer)
}

fn nobody() -> PipeWriter {
    std::io::pipe().unwrap().1
}

fn writes(place: &Place) -> bool {
    place.ask(&["set", "1", "x"]).status.success()
}

fn checkpoint(place: &Place) -> u64 {
    let text = stdout(&place.ask(&["status", "-json"]));
    let status: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    status["checkpoint"].as_u64().unwrap_or(0)
}

#[test]
fn a_log_that_nobody_reads_stops_neither_checkpoints_nor_the_end() {
    let place = Place::new();
    let (reader, writer) = full_pipe();
    let more = ["-log", "trace", "-value-size", "1048576", "-slots", "64", "-checkpoint-mib", "16"];
    let arguments = place.arguments(&more);
    let mut node = Running::start(program().args(arguments), Stdio::null(), writer);
    node.wait_until("a write", || writes(&place));
    let value = "v".repeat(100_000);
    for key in 0..400 {
        // What the log has room for is far less than what these requests are worth a line.
        place.asked(&["set", &(key % 64).to_string(), &value]);
    }
    node.wait_until("a checkpoint", || checkpoint(&place) > 100);
    assert_eq!(node.ended_by("-TERM"), Some(0));
    drop(reader);
}

#[test]
fn what_the_log_lost_is_said_once_somebody_reads_it() {
    let place = Place::new();
    let (reader, writer) = std::io::pipe().unwrap();
    let arguments = place.arguments(&["-log", "trace"]);
    let mut node = Running::start(program().args(arguments), Stdio::null(), writer);
    let dropped = |place: &Place| {
        let text = stdout(&place.ask(&["status", "-json"]));
        let status: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        status["dropped_lines"].as_u64().unwrap_or(0)
    };
    // Nobody reads; the queue has a bound, and the pipe too. Each session is worth a line.
    node.wait_until("lines that are dropped", || {
        for _ in 0..100 {
            let Ok(mut client) = TcpStream::connect(place.client()) else { return false };
            drop(client.write_all(b"QUIT\r\n"));
        }
        dropped(&place) > 0
    });
    let said = BufReader::new(reader).lines().map_while(Result::ok);
    let told = std::thread::spawn(move || {
        let mut said = said;
        let is_told = said.any(|line| line.contains("lines were dropped before the next one"));
        said.for_each(drop);
        is_told
    });
    node.wait_until("a write", || writes(&place));
    assert_eq!(node.ended_by("-TERM"), Some(0));
    assert!(told.join().unwrap());
}

#[test]
fn a_banner_that_nobody_takes_ends_no_node() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let (_reader, writer) = full_pipe();
    let outputs: [Stdio; 3] = [full().into(), nobody().into(), writer.into()];
    for out in outputs {
        let place = Place::new();
        let mut node = Running::start(program().args(place.arguments(&[])), out, full());
        node.wait_until("a write", || writes(&place));
        assert_eq!(node.ended_by("-TERM"), Some(0));
    }
    // A reader that leaves after two lines, seconds before there are more.
    let place = Place::new();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut node = Running::start(program().args(place.arguments(&[])), writer, full());
    assert_eq!(BufReader::new(reader).lines().take(2).map_while(Result::ok).count(), 2);
    node.wait_until("a write", || writes(&place));
    assert_eq!(node.ended_by("-TERM"), Some(0));
}

#[test]
fn a_logger_and_a_demonstration_go_on_without_a_reader_too() {
    let place = Place::new();
    let node = place.start(&[]);
    let port = format!("{}:12000", host());
    let mut logger = Command::new(LOGGER);
    logger.args(["-id", "log0", "-raft", &port, "-join", &place.raft()]);
    logger.args(["-data", &place.file("log"), "-logfolder", &place.file("records")]);
    let mut logger = Running::start(&mut logger, nobody(), nobody());
    logger.wait_until("the logger follows", || place.asked(&["status"]).contains("\nlog0 "));
    assert_eq!(logger.ended_by("-TERM"), Some(0));
    node.stop();

    let data = place.file("demo");
    let mut demo = program();
    demo.args(["demo", "-slots", "64", "-data", &data]);
    let mut demo = Running::start(&mut demo, nobody(), nobody());
    let last = format!("{data}/node2.log");
    let introduced = || std::fs::read_to_string(&last).is_ok_and(|text| text.contains("next: "));
    demo.wait_until("three nodes", introduced);
    assert_eq!(demo.ended_by("-TERM"), Some(0));
}

#[test]
fn a_hang_up_ends_nothing_and_the_other_signals_stop_cleanly() {
    for signal in ["TERM", "INT", "QUIT"] {
        let place = Place::new();
        let mut node: Node = place.start(&[]);
        node.send("HUP");
        assert_eq!(place.asked(&["set", "1", "x"]), "OK\n");
        node.send("HUP");
        node.send(signal);
        assert_eq!(node.wait().code(), Some(0), "{signal}");
    }
}
