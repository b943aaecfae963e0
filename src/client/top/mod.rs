//! `diskstore top`: the members on one screen, anew each second, until somebody ends it.
//!
//! `screen` makes rows of two looks at the cluster and draws them, without asking anybody; `terminal` is the
//! terminal that they are drawn on. A thread asks the nodes, another reads keys, and both hand over what
//! they have to the loop here, which draws and waits for whatever comes first.
//!
//! - I1: only looks: nothing in the cluster changes.
//! - I2: whatever ends the program (a key, a signal, a panic, an error) leaves the terminal as it was.
//! - I3: a node that does not answer is a row that says so, and keeps no other from being shown.

mod screen;
mod terminal;

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui_core::terminal::Terminal as Drawing;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::survey::Survey;
use super::{ClientError, Dialling, addresses_in};
use crate::cli::TopFlags;
use screen::Screen;
use terminal::{Ansi, Raw};

/// The shortest and the longest time between two looks.
const EVERY_MIN: Duration = Duration::from_millis(100);
const EVERY_MAX: Duration = Duration::from_mins(1);
/// Keys and looks that may wait to be taken.
const WAITING_COUNT_MAX: usize = 16;
/// Ctrl-C and Ctrl-D as a terminal sends them that makes no signals of keys.
const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Quit,
    Sort,
    Pause,
}

impl Key {
    fn of(byte: u8) -> Option<Key> {
        match byte {
            b'q' | b'Q' | CTRL_C | CTRL_D => Some(Key::Quit),
            b's' | b'S' => Some(Key::Sort),
            b'p' | b'P' | b' ' => Some(Key::Pause),
            _ => None,
        }
    }
}

/// `diskstore top`.
///
/// # Errors
/// Wrong usage; no terminal; one that cannot be drawn on.
pub(super) fn run(flags: &TopFlags) -> Result<(), ClientError> {
    if flags.every < EVERY_MIN || flags.every > EVERY_MAX {
        let given = format!("{}ms", flags.every.as_millis());
        return Err(ClientError::flag("every", &given, "100ms to 60s"));
    }
    addresses_in(&flags.servers.list)?;
    let dialling = Dialling::of(&flags.servers)?;
    let failed = |source| ClientError::local("drawing", source);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(failed)?;
    // From here on no signal ends the program by itself: it would leave the terminal raw. // I2
    let signals = runtime.block_on(async { Signals::new() }).map_err(failed)?;
    let raw = Raw::begin()?;
    let drawn = runtime.block_on(draw(flags, dialling, signals));
    runtime.shutdown_background();
    drop(raw); // I2, before an error is told
    drawn.map_err(failed)
}

/// What a terminal and its people tell the program.
struct Signals {
    /// Whatever else ends a program.
    ends: [Signal; 4],
    resized: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        let ends = [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::quit())?,
            signal(SignalKind::hangup())?,
        ];
        Ok(Signals { ends, resized: signal(SignalKind::window_change())? })
    }
}

async fn draw(flags: &TopFlags, dialling: Dialling, signals: Signals) -> io::Result<()> {
    let Signals { ends: [mut interrupt, mut terminate, mut quit, mut hang_up], mut resized } =
        signals;
    let is_paused = Arc::new(AtomicBool::new(false));
    let mut keys = read_keys()?;
    let mut looks = look(flags, dialling, Arc::clone(&is_paused))?;
    let mut drawing = Drawing::new(Ansi::new())?;
    let mut screen = Screen::new(flags.servers.list.clone());
    loop {
        drawing.draw(|frame| screen.draw(frame.buffer_mut()))?;
        tokio::select! {
            key = keys.recv() => match key {
                None | Some(Key::Quit) => return Ok(()),
                Some(Key::Sort) => screen.sorting = screen.sorting.next(),
                Some(Key::Pause) => {
                    screen.is_paused = !screen.is_paused;
                    is_paused.store(screen.is_paused, Ordering::Relaxed);
                }
            },
            look = looks.recv() => match look {
                None => return Ok(()),
                Some(survey) => screen.take(survey),
            },
            _ = resized.recv() => {}
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = quit.recv() => return Ok(()),
            _ = hang_up.recv() => return Ok(()),
        }
    }
}

/// The keys that mean something, until the terminal is gone. The thread ends with the program.
fn read_keys() -> io::Result<mpsc::Receiver<Key>> {
    let (pressed, keys) = mpsc::channel(WAITING_COUNT_MAX);
    let read = move || {
        let mut bytes = [0; 64];
        while let Ok(count @ 1..) = io::stdin().lock().read(&mut bytes) {
            for key in bytes.iter().take(count).filter_map(|byte| Key::of(*byte)) {
                if pressed.blocking_send(key).is_err() {
                    return;
                }
            }
        }
    };
    std::thread::Builder::new().name("keys".to_owned()).spawn(read)?;
    Ok(keys)
}

/// Looks at the cluster again and again, while nobody has paused that. The thread ends with the program.
fn look(
    flags: &TopFlags,
    dialling: Dialling,
    is_paused: Arc<AtomicBool>,
) -> io::Result<mpsc::Receiver<Survey>> {
    let (seen, looks) = mpsc::channel(1);
    let (list, every) = (flags.servers.list.clone(), flags.every);
    let look = move || loop {
        if !is_paused.load(Ordering::Relaxed) {
            // The list was found to be one before.
            let Ok(survey) = Survey::of(&list, &dialling) else { return };
            if seen.blocking_send(survey).is_err() {
                return;
            }
        }
        std::thread::sleep(every);
    };
    std::thread::Builder::new().name("looks".to_owned()).spawn(look)?;
    Ok(looks)
}
