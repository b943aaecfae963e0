//! The terminal that `top` draws on: raw while it does, and as it was afterwards; and ANSI's sequences for
//! what ratatui wants drawn.
//!
//! The sequences are those that every terminal of the last decades knows (ECMA-48, xterm's 1049).

use std::io::{self, Write as _};
use std::sync::Once;

use parking_lot::Mutex;
use ratatui_core::backend::{Backend, ClearType, WindowSize};
use ratatui_core::buffer::Cell;
use ratatui_core::layout::{Position, Size};
use ratatui_core::style::{Color, Modifier};
use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use super::super::ClientError;

/// The other screen, without a cursor.
const BEGIN: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[2J";
/// Back to the screen that was there before.
const END: &[u8] = b"\x1b[0m\x1b[?25h\x1b[?1049l";
/// The size of a terminal that does not know its own.
const SIZE_DEFAULT: Size = Size { width: 80, height: 24 };

/// How the terminal was, while it is raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// A terminal that hands over each key at once, until this is dropped.
#[derive(Debug)]
pub(super) struct Raw(());

impl Raw {
    /// Begins to draw.
    ///
    /// # Errors
    /// There is no terminal.
    pub(super) fn begin() -> Result<Raw, ClientError> {
        if !isatty(stdin()) || !isatty(stdout()) {
            return Err(ClientError::NoTerminal);
        }
        let failed = |error| ClientError::local("the terminal", io::Error::from(error));
        let before = tcgetattr(stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        *BEFORE.lock() = Some(before);
        let raw_now = Raw(());
        // A panic ends some builds at once, without dropping anything: its words come behind this.
        HOOK.call_once(|| {
            let told = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                told(panic);
            }));
        });
        tcsetattr(stdin(), OptionalActions::Flush, &raw).map_err(failed)?;
        write(BEGIN).map_err(|source| ClientError::local("the terminal", source))?;
        Ok(raw_now)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes the terminal what it was, once. A terminal that is gone needs nothing.
fn restore() {
    if let Some(before) = BEFORE.lock().take() {
        drop(write(END));
        match tcsetattr(stdin(), OptionalActions::Now, &before) {
            Ok(()) | Err(_) => {}
        }
    }
}

fn write(bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::io::write(stdout(), rest) {
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Draws by ANSI's sequences.
#[derive(Debug, Default)]
pub(super) struct Ansi {
    /// What is not written yet.
    drawn: Vec<u8>,
}

impl Ansi {
    /// One that has drawn nothing.
    pub(super) fn new() -> Ansi {
        Ansi::default()
    }

    fn style(&mut self, cell: &Cell) -> io::Result<()> {
        write!(self.drawn, "\x1b[0")?;
        let modifiers =
            [(Modifier::BOLD, 1), (Modifier::DIM, 2), (Modifier::REVERSED, 7)].into_iter();
        for (_, code) in modifiers.filter(|(modifier, _)| cell.modifier.contains(*modifier)) {
            write!(self.drawn, ";{code}")?;
        }
        let color = match cell.fg {
            Color::Red => 31,
            Color::Green => 32,
            Color::Yellow => 33,
            _ => 39,
        };
        write!(self.drawn, ";{color}m")
    }
}

impl Backend for Ansi {
    type Error = io::Error;

    fn draw<'a, I>(&mut self, cells: I) -> io::Result<()>
    where
        I: Iterator<Item = (u16, u16, &'a Cell)>,
    {
        let mut before: Option<(u16, u16, &Cell)> = None;
        for (x, y, cell) in cells {
            let (is_next, is_alike) = before.map_or((false, false), |(left, line, drawn)| {
                let is_alike = (drawn.fg, drawn.modifier) == (cell.fg, cell.modifier);
                (line == y && left.checked_add(1) == Some(x), is_alike)
            });
            // Characters are one cell wide here but for names of members, which the move sets right.
            if !is_next || before.is_some_and(|(_, _, drawn)| !drawn.symbol().is_ascii()) {
                self.set_cursor_position(Position { x, y })?;
            }
            if !is_alike {
                self.style(cell)?;
            }
            self.drawn.extend_from_slice(cell.symbol().as_bytes());
            before = Some((x, y, cell));
        }
        Ok(())
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        self.drawn.extend_from_slice(b"\x1b[?25l");
        Ok(())
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        self.drawn.extend_from_slice(b"\x1b[?25h");
        Ok(())
    }

    /// Nothing here asks for it: the cursor is hidden.
    fn get_cursor_position(&mut self) -> io::Result<Position> {
        Ok(Position::default())
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        let Position { x, y } = position.into();
        write!(self.drawn, "\x1b[{};{}H", u32::from(y) + 1, u32::from(x) + 1)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.drawn.extend_from_slice(b"\x1b[0m\x1b[2J");
        Ok(())
    }

    fn clear_region(&mut self, _: ClearType) -> io::Result<()> {
        self.clear()
    }

    fn size(&self) -> io::Result<Size> {
        let size = tcgetwinsize(stdout())?;
        let size = Size { width: size.ws_col, height: size.ws_row };
        Ok(if size.width == 0 || size.height == 0 { SIZE_DEFAULT } else { size })
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize { columns_rows: self.size()?, pixels: Size::default() })
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = write(&self.drawn);
        self.drawn.clear();
        written
    }
}
