//! Commands typed or piped: one for each line, each with one answer, `OK: <value>` or `ERR
//! <reason>` in every protocol.
//!
//! - I1: answers go to stdout, all other lines to stderr, so that a pipe gets the answers alone.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::super::{ClientError, print};
use super::ask::Asker;

/// Most lines that the history keeps.
const HISTORY_LINES_MAX: usize = 1000;
/// Where the history is, in the home directory.
const HISTORY_FILE: &str = ".diskstore_client_history";
const PROMPT: &str = "> ";
const HELP: &str = "get K, set K VALUE, delete K (or get-K, set-K-VALUE, delete-K); exit\n";

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    Get { key: &'a str },
    Set { key: &'a str, value: &'a str },
    Delete { key: &'a str },
    Help,
    Exit,
    Nothing,
    Unknown,
}

impl Line<'_> {
    pub(super) fn parse(text: &str) -> Line<'_> {
        let text = text.trim_start().trim_end_matches(['\r', '\n']);
        let is_separator = |char| char == '-' || char == ' ';
        let (verb, rest) = text.split_once(is_separator).unwrap_or((text, ""));
        // A value may hold the other of the two, and the same again.
        let separator = text.get(verb.len()..).and_then(|rest| rest.chars().next()).unwrap_or(' ');
        let key = rest.trim_matches(' ');
        match verb.to_ascii_lowercase().as_str() {
            "" => Line::Nothing,
            "help" | "?" => Line::Help,
            "exit" | "quit" => Line::Exit,
            "get" if !key.is_empty() => Line::Get { key },
            "delete" | "del" if !key.is_empty() => Line::Delete { key },
            "set" => match rest.trim_start_matches(' ').split_once(separator) {
                Some((key, value)) if !key.is_empty() => Line::Set { key, value },
                _ => Line::Unknown,
            },
            _ => Line::Unknown,
        }
    }
}

/// Answers lines until there is no more, or one says `exit`. Of a pipe, the exit code says whether all
/// of them succeeded.
pub(super) fn run(asker: &mut Asker, out: &mut dyn Write) -> Result<(), ClientError> {
    if io::stdin().is_terminal() {
        return talk(asker, out);
    }
    let mut failed = 0;
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|source| failure("reading a command", source))?;
        match answer(asker, &line)? {
            Outcome::End => break,
            Outcome::Answered { text, is_success } => {
                print(out, text.as_bytes())?;
                failed += u64::from(!is_success);
            }
        }
    }
    if failed > 0 { Err(ClientError::SomeFailed { count: failed }) } else { Ok(()) }
}

enum Outcome {
    Answered { text: String, is_success: bool },
    End,
}

fn answer(asker: &mut Asker, line: &str) -> Result<Outcome, ClientError> {
    let line = Line::parse(line);
    let (text, is_success) = match line {
        Line::Exit => return Ok(Outcome::End),
        Line::Nothing => (String::new(), true),
        Line::Help => (HELP.to_owned(), true),
        Line::Unknown => (format!("ERR expected {HELP}"), false),
        Line::Get { .. } | Line::Set { .. } | Line::Delete { .. } => {
            let text = asker.ask(&line)?;
            let is_success = text.starts_with("OK");
            (text, is_success)
        }
    };
    Ok(Outcome::Answered { text, is_success })
}

/// With line editing and history.
fn talk(asker: &mut Asker, out: &mut dyn Write) -> Result<(), ClientError> {
    let terminal = |error: ReadlineError| failure("the terminal", io::Error::other(error));
    let config = rustyline::Config::builder();
    let config = config.max_history_size(HISTORY_LINES_MAX).map_err(terminal)?;
    let config = config.auto_add_history(true).build();
    let mut editor = DefaultEditor::with_config(config).map_err(terminal)?;
    let history = std::env::home_dir().map(|home| home.join(HISTORY_FILE));
    // The first time there is none, and nothing depends on it.
    drop(history.as_ref().map(|path| editor.load_history(path)));
    print(out, HELP.as_bytes())?;
    let outcome = loop {
        let line = match editor.readline(PROMPT) {
            Ok(line) => line,
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => break Ok(()),
            Err(error) => break Err(terminal(error)),
        };
        match answer(asker, &line) {
            Ok(Outcome::End) => break Ok(()),
            Ok(Outcome::Answered { text, .. }) => print(out, text.as_bytes())?,
            Err(error) => break Err(error),
        }
    };
    keep_history(&mut editor, history)?;
    outcome
}

fn keep_history(editor: &mut DefaultEditor, path: Option<PathBuf>) -> Result<(), ClientError> {
    let Some(path) = path else { return Ok(()) };
    editor
        .save_history(&path)
        .map_err(|error| failure(&format!("keeping {}", path.display()), io::Error::other(error)))
}

fn failure(what: &str, source: io::Error) -> ClientError {
    ClientError::Local { what: what.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_the_original_wrote_them_and_as_people_do() {
        for (text, line) in [
            ("get-7", Line::Get { key: "7" }),
            ("GET 7 ", Line::Get { key: "7" }),
            ("set-7-a-b c", Line::Set { key: "7", value: "a-b c" }),
            ("set 7 a-b c\r\n", Line::Set { key: "7", value: "a-b c" }),
            ("set 7 ", Line::Set { key: "7", value: "" }),
            ("set-7-", Line::Set { key: "7", value: "" }),
            ("delete-7", Line::Delete { key: "7" }),
            ("del 7", Line::Delete { key: "7" }),
            ("exit\n", Line::Exit),
            ("help", Line::Help),
            ("\n", Line::Nothing),
            ("get", Line::Unknown),
            ("set 7", Line::Unknown),
            ("put 7 x", Line::Unknown),
        ] {
            assert_eq!(Line::parse(text), line, "{text:?}");
        }
    }
}
