//! The `client` program as its user meets it: at a terminal, with wrong files and flags, measured.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pprof::protos::{Message, Profile};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{PATIENCE, Place, SAMPLED_TICKS, cpu_ticks};
use crate::terminal::Terminal;

fn client() -> Command {
    Command::new(env!("CARGO_BIN_EXE_client"))
}

fn write_config(folder: &Path, text: &str) -> String {
    let path = folder.join("client-config.toml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Waits until `condition` gives something.
#[track_caller]
fn wait_for<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn wrong_files_and_flags_are_named_and_exit_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str]| {
        let output = client().args(arguments).current_dir(folder.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        text
    };
    assert!(refused(&[]).contains("client-config.toml: No such file"));
    let config = write_config(folder.path(), "svrIps = [\":1\"]\nudpport = \"15000\"\n");
    let words = format!("client: {config}: `udpport` is to be a number, and is of type string");
    assert!(refused(&["-config", &config]).contains(&words));
    write_config(folder.path(), "svrIps = [\":1\"]\nthinkTimeMsec = 3\n");
    assert!(refused(&[]).contains("`thinkTimeMsec` is no key of it; did you mean"));
    assert!(refused(&["-protocol", "grpc"]).contains("give one of resp, text, proto"));
    assert!(refused(&["-clients", "5"]).contains("a load needs"));
    let text = refused(&["-cleints", "5"]);
    assert!(text.contains("'-clients'") && text.contains("Usage: client"), "{text}");
}

#[test]
fn a_terminal_has_line_editing_and_a_history() {
    let place = Place::new();
    let node = place.start(&[]);
    let folder = place.directory.path();
    let config = write_config(folder, &format!("svrIps = [{:?}]\n", place.client()));
    let (mut terminal, end) = Terminal::open();
    let stdio = || Stdio::from(OwnedFd::from(end.try_clone().unwrap()));
    let mut child = client()
        .args(["-config", &config])
        .env("HOME", folder)
        .env("TERM", "xterm")
        .stdin(stdio())
        .stdout(stdio())
        .stderr(stdio())
        .spawn()
        .unwrap();
    drop(end);
    terminal.until("udpaddr: 15000", 1);
    terminal.until("exit", 1);
    // A typing error that is taken back, and then the last line again by the upward arrow.
    terminal.press("set 1 hellp\x7fo\r");
    terminal.until("OK: ", 1);
    terminal.press("get 1\r");
    terminal.until("OK: hello", 1);
    terminal.press("\x1b[A\r");
    terminal.until("OK: hello", 2);
    terminal.press("exit\r");
    assert_eq!(end_of(&mut child), Some(0));
    let history = std::fs::read_to_string(folder.join(".diskstore_client_history")).unwrap();
    assert!(history.contains("set 1 hello\nget 1\n"), "{history}");
    node.stop();
}

#[track_caller]
fn end_of(child: &mut Child) -> Option<i32> {
    wait_for(|| child.try_wait().unwrap()).code()
}

#[test]
fn signals_write_the_profiles_of_a_client_and_end_it() {
    let place = Place::new();
    let node = place.start(&[]);
    let folder = place.directory.path();
    let config = write_config(folder, &format!("svrIps = [{:?}]\n", place.client()));
    for (signal, exit_code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut child = client()
            .args(["-config", &config, "-clients", "2", "-key", "9", "-data", "0"])
            .args(["-time", "3600", "-cpuprofile", "cpu.pb", "-memprofile", "heap.pb"])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let latencies = folder.join("2c-latency.out");
        wait_for(|| std::fs::metadata(&latencies).ok().filter(|file| file.len() > 0));
        let before = cpu_ticks(child.id()); // some of it before the profile began
        wait_for(|| (cpu_ticks(child.id()) >= before + SAMPLED_TICKS).then_some(()));
        assert!(!folder.join("cpu.pb").exists() && !folder.join("heap.pb").exists());
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(end_of(&mut child), Some(exit_code));
        for name in ["cpu.pb", "heap.pb", "2c-latency.out"] {
            let bytes = std::fs::read(folder.join(name)).unwrap();
            std::fs::remove_file(folder.join(name)).unwrap();
            match name {
                "cpu.pb" => assert!(!Profile::decode(&*bytes).unwrap().sample.is_empty()),
                "heap.pb" => assert_eq!(bytes[..2], [0x1f, 0x8b], "compressed by gzip"),
                _ => assert!(bytes.ends_with(b"\n")),
            }
        }
    }
    node.stop();
}
