//! `diskstore top` on a terminal: what it shows, its keys, and that it leaves the terminal as it was.

use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{Termios, tcgetattr};

use crate::harness::{PATIENCE, Place, program};
use crate::terminal::Terminal;

/// Back to the screen that was there before.
const RESTORED: &str = "\x1b[?1049l";

fn ended(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("top does not end");
}

fn modes(terminal: &Termios) -> String {
    let Termios { input_modes, output_modes, local_modes, control_modes, .. } = terminal;
    format!("{input_modes:?} {output_modes:?} {local_modes:?} {control_modes:?}")
}

#[test]
fn members_are_shown_until_a_key_or_a_signal_and_the_terminal_is_as_it_was() {
    let place = Place::new();
    let node = place.start(&[]);
    let (mut terminal, end) = Terminal::open();
    let before = modes(&tcgetattr(&end).unwrap());
    let stdio = || Stdio::from(OwnedFd::from(end.try_clone().unwrap()));
    let mut round = 0;
    for ending in ["q", "\x03", "TERM", "INT", "gone"] {
        round += 1;
        terminal.resize(if ending == "q" { 40 } else { 100 }, 10);
        // The last round watches nobody.
        let address = if ending == "gone" { "127.0.0.1:1".to_owned() } else { place.client() };
        let mut child = program()
            .args(["top", "-every", "100ms", "-addr", &address])
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        if ending == "gone" {
            terminal.until("refused", 1);
            terminal.press("q");
        } else {
            // What is a cell of a table; only what changes is drawn, so that longer words come in pieces.
            terminal.until("leader", round);
            assert_ne!(modes(&tcgetattr(&end).unwrap()), before);
        }
        let pid = Pid::from_child(&child);
        match ending {
            "q" => {
                assert!(!terminal.shown.contains("USED"), "40 cells have no room for it");
                terminal.press("s");
                terminal.until("ops/s", 1);
                terminal.press("p");
                terminal.until("(paused)", 1);
                terminal.press("q");
            }
            "TERM" => kill_process(pid, Signal::TERM).unwrap(),
            "INT" => kill_process(pid, Signal::INT).unwrap(),
            key => terminal.press(if key == "gone" { "" } else { key }),
        }
        assert_eq!(ended(&mut child), Some(0), "{ending}");
        terminal.until(RESTORED, round);
        assert_eq!(modes(&tcgetattr(&end).unwrap()), before, "{ending}");
    }
    node.stop();
}
