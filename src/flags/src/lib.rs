//! The rules of Go's flags over a table of clap's. Every program of ours calls it with its own
//! table; it calls nothing of ours.
//!
//! - I1: `-x v`, `-x=v`, `--x v` and `--x=v` mean the same; a boolean is `-b` or `-b=false`; `--`
//!   ends the flags. Flags may also follow the arguments, and `-5` is an argument, for no flag
//!   begins with a digit.

mod shells;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::error::{ContextKind, ContextValue};

pub use shells::{Page, Shell, completions, pages};

/// Why nothing is to be run: what to print, and what to exit with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Help, version, or what was wrong with usage.
    pub text: String,
    /// 0 for help and version (print on stdout), 2 for wrong usage (print on stderr).
    pub exit_code: u8,
}

impl Refusal {
    /// Prints it where it belongs, and gives what to exit with. That nobody reads it, as at a pipe
    /// that is closed, is no failure.
    pub fn tell(&self) -> ExitCode {
        let text = self.text.as_bytes();
        drop(if self.exit_code == 0 {
            let mut out = io::stdout().lock();
            out.write_all(text).and_then(|()| out.flush())
        } else {
            io::stderr().lock().write_all(text)
        });
        ExitCode::from(self.exit_code)
    }
}

/// Reads a command line, the program's own name first, into a table of flags.
///
/// # Errors
/// Wrong usage with the nearest match, or help or version that was asked for.
pub fn parse<T: Parser>(arguments: impl IntoIterator<Item = OsString>) -> Result<T, Refusal> {
    let mut table = T::command();
    table.build();
    let typed: Vec<OsString> = arguments.into_iter().collect();
    let normal = normalise(&table, typed.clone());
    T::try_parse_from(normal).map_err(|error| Refusal {
        text: stray_value(&table, &typed, &error)
            .unwrap_or_else(|| with_single_dashes(&table, &error.render().to_string())),
        exit_code: if error.use_stderr() { 2 } else { 0 },
    })
}

/// What is said of a word that stands where only a joined value of a boolean can.
fn stray_value(table: &clap::Command, typed: &[OsString], error: &clap::Error) -> Option<String> {
    let refused = error.get(ContextKind::InvalidSubcommand);
    let Some(ContextValue::String(word)) = refused.or_else(|| error.get(ContextKind::InvalidArg))
    else {
        return None;
    };
    let before = typed.iter().position(|argument| argument == word.as_str())?.checked_sub(1)?;
    let (name, None) = split_flag(typed.get(before)?)? else { return None };
    let commands: Vec<String> =
        table.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    if nearest(word, &commands).is_some() {
        return None; // misspelt, or a command with flags of a node
    }
    let mut scopes = std::iter::once(table).chain(table.get_subcommands());
    let is_boolean = scopes.any(|scope| {
        let mut flags = scope.get_arguments().filter(|flag| flag.get_long() == Some(name));
        flags.any(clap::Arg::is_require_equals_set)
    });
    is_boolean.then(|| {
        format!(
            "error: `{word}` behind -{name}: that flag stands alone, or takes its value joined, \
             -{name}=true or -{name}=false\n"
        )
    })
}

/// The candidate that `word` was most likely meant to be, if any is near.
pub fn nearest<'a>(word: &str, candidates: &'a [String]) -> Option<&'a str> {
    let distance_max = word.chars().count().div_ceil(3);
    candidates
        .iter()
        .map(|candidate| (edit_distance(word, candidate), candidate.as_str()))
        .filter(|(distance, _)| *distance <= distance_max)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements that turn one word into the other.
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    for (row, from_char) in from.chars().enumerate() {
        let mut left = row + 1;
        let mut line = vec![left];
        for (to_char, costs) in to.iter().zip(above.windows(2)) {
            let [diagonal, up] = costs else { unreachable!("windows of two hold two") };
            left = (diagonal + usize::from(from_char != *to_char)).min(up + 1).min(left + 1);
            line.push(left);
        }
        above = line;
    }
    above.last().copied().expect("invariant: a row has a first column")
}

/// Rewrites Go's forms into `--name=value`, arguments of a sub-command behind `--`.
fn normalise(table: &clap::Command, arguments: Vec<OsString>) -> Vec<OsString> {
    let mut rest = arguments.into_iter();
    let mut normal: Vec<OsString> = rest.next().into_iter().collect();
    let mut positional: Vec<OsString> = Vec::new();
    let mut scope = table;
    while let Some(argument) = rest.next() {
        if argument == "--" {
            positional.extend(rest);
            break;
        }
        if let Some((name, value)) = split_flag(&argument) {
            let takes_next = value.is_none() && takes_value(scope, name);
            let value = if takes_next { rest.next() } else { value.map(OsStr::to_owned) };
            normal.push(joined(name, value));
        } else if std::ptr::eq(scope, table) && table.has_subcommands() && argument == "help" {
            normal.extend(rest.find(|word| table.find_subcommand(word).is_some()));
            normal.push("--help".into());
            break;
        } else if std::ptr::eq(scope, table) {
            // The first argument that is no flag names the sub-command.
            scope = argument.to_str().and_then(|name| table.find_subcommand(name)).unwrap_or(scope);
            normal.push(argument);
        } else {
            positional.push(argument);
        }
    }
    if !positional.is_empty() {
        normal.push("--".into());
        normal.append(&mut positional);
    }
    normal
}

/// Splits `-name`, `--name`, `-name=value` and `--name=value`. `None`: not a flag.
fn split_flag(argument: &OsStr) -> Option<(&str, Option<&OsStr>)> {
    // Only the name must be UTF-8; a path behind `=` need not be, but then it comes on its own.
    let text = argument.to_str()?;
    let bare = text.strip_prefix('-')?;
    let bare = bare.strip_prefix('-').unwrap_or(bare);
    if bare.is_empty() || bare.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    match bare.split_once('=') {
        Some((name, value)) => Some((name, Some(OsStr::new(value)))),
        None => Some((bare, None)),
    }
}

/// True if the flag's value is the next argument when it is not joined with `=`.
fn takes_value(scope: &clap::Command, name: &str) -> bool {
    scope
        .get_arguments()
        .find(|flag| {
            let aliases = flag.get_all_aliases().unwrap_or_default();
            flag.get_long() == Some(name) || aliases.contains(&name)
        })
        .is_some_and(|flag| flag.get_action().takes_values() && !flag.is_require_equals_set())
}

/// `--name=value`, or `--name` without one; `h` is Go's other name for help.
fn joined(name: &str, value: Option<OsString>) -> OsString {
    let mut flag = OsString::from(if name == "h" { "--help" } else { "--" });
    if name != "h" {
        flag.push(name);
    }
    if let Some(value) = value {
        flag.push("=");
        flag.push(value);
    }
    flag
}

/// Shows flags as the documentation writes them, with one dash.
fn with_single_dashes(table: &clap::Command, text: &str) -> String {
    let scopes = std::iter::once(table).chain(table.get_subcommands());
    let names = scopes.flat_map(clap::Command::get_arguments).filter_map(|flag| flag.get_long());
    let text = text.replace("-h, --help", "    --help").replace("-V, --version", "    --version");
    names
        .fold(text, |text, name| text.replace(&format!(" --{name}"), &format!(" -{name}")))
        .replace("'--", "'-")
        .replace("[--", "[-")
}

/// A duration as Go writes it, such as `1m30s` or `500ms`; a bare number is seconds.
///
/// # Errors
/// What to write instead.
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    let refusal = "write a time such as 500ms, 30s or 1m30s";
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let (mut rest, mut sum) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let number_bytes = rest.find(|char: char| char.is_ascii_alphabetic()).ok_or(refusal)?;
        let (number, unit) = rest.split_at(number_bytes);
        let unit_bytes = unit.find(|char: char| !char.is_ascii_alphabetic()).unwrap_or(unit.len());
        let (unit, more) = unit.split_at(unit_bytes);
        let seconds = match unit {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(refusal),
        };
        let number: f64 = number.parse().map_err(|_| refusal)?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| refusal)?;
        (rest, sum) = (more, sum.checked_add(part).ok_or(refusal)?);
    }
    if text.is_empty() { Err(refusal) } else { Ok(sum) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_go() {
        let duration = |text| parse_duration(text).map(|duration| duration.as_micros());
        assert_eq!(duration("1m30s"), Ok(90_000_000));
        assert_eq!(duration("1.5s"), Ok(1_500_000));
        assert_eq!(duration("1h2m3s4ms5us"), Ok(3_723_004_005));
        assert_eq!(duration("7"), Ok(7_000_000));
        for text in ["", "s", "5x", "-1s", "1s5", "1e300h", "nan s", "infs", "1 s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_nearest_name_must_be_near() {
        let names = ["port".to_owned(), "raft".to_owned()];
        assert_eq!(nearest("prot", &names), Some("port"));
        assert_eq!(nearest("rafts", &names), Some("raft"));
        assert_eq!(nearest("cluster", &names), None);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "ab"), 2);
    }
}
