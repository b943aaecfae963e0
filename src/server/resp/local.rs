//! Requests that are answered without the node: what COMMAND, CONFIG and the like say. Pure.

#![deny(clippy::indexing_slicing)]

use super::encode::Encoder;
use super::glob::matches;
use super::refused::{Complaint, NO_NAME};
use super::table::{Spec, TABLE, Use, lookup};

/// Settings as clients of Redis know them; what they say is true here.
const SETTINGS: &[(&str, &str)] = &[
    ("appendfsync", "always"),
    ("appendonly", "yes"),
    ("databases", "1"),
    ("maxmemory", "0"),
    ("maxmemory-policy", "noeviction"),
    ("proto-max-bulk-len", "1048576"),
    ("save", ""),
    ("timeout", "0"),
];

/// `COMMAND [COUNT | LIST ... | GETKEYS ... | INFO name... | DOCS name...]`
pub(crate) fn command(to: &mut Encoder<'_>, arguments: &[&[u8]]) -> Result<(), Complaint> {
    let Some((sub, names)) = arguments.split_first() else {
        to.array(TABLE.len());
        for spec in TABLE {
            write_spec(to, spec);
        }
        return Ok(());
    };
    match sub.to_ascii_uppercase().as_slice() {
        b"COUNT" => to.count(u64::try_from(TABLE.len()).unwrap_or(u64::MAX)),
        b"LIST" => list(to, names)?,
        b"GETKEYS" => get_keys(to, names)?,
        b"INFO" if names.is_empty() => command(to, &[])?,
        b"INFO" => {
            to.array(names.len());
            for name in names {
                match lookup(name) {
                    Some(spec) => write_spec(to, spec),
                    None => to.null_array(),
                }
            }
        }
        b"DOCS" => {
            let wanted = |spec: &&Spec| {
                let mut names = names.iter();
                names.len() == 0
                    || names.any(|name| name.eq_ignore_ascii_case(spec.name.as_bytes()))
            };
            to.map(TABLE.iter().filter(wanted).count());
            for spec in TABLE.iter().filter(wanted) {
                write_docs(to, spec);
            }
        }
        _ => return Err(Complaint::subcommand("COMMAND", sub)),
    }
    Ok(())
}

/// `COMMAND LIST [FILTERBY MODULE name | ACLCAT category | PATTERN pattern]`
fn list(to: &mut Encoder<'_>, filter: &[&[u8]]) -> Result<(), Complaint> {
    let is_wanted: &dyn Fn(&Spec) -> bool = match filter {
        [] => &|_| true,
        [by, kind, wanted] if by.eq_ignore_ascii_case(b"filterby") => {
            let lower = wanted.to_ascii_lowercase();
            match kind.to_ascii_uppercase().as_slice() {
                b"MODULE" => &|_| false, // there are no modules
                b"ACLCAT" => &move |spec: &Spec| {
                    spec.categories().iter().any(|category| category.as_bytes() == lower)
                },
                b"PATTERN" => &move |spec: &Spec| matches(&lower, spec.name.as_bytes()),
                _ => return Err(Complaint::SYNTAX),
            }
        }
        _ => return Err(Complaint::SYNTAX),
    };
    let wanted = || TABLE.iter().filter(|spec| is_wanted(spec));
    to.array(wanted().count());
    for spec in wanted() {
        to.bulk(spec.name.as_bytes());
    }
    Ok(())
}

/// `COMMAND GETKEYS name argument...`
fn get_keys(to: &mut Encoder<'_>, request: &[&[u8]]) -> Result<(), Complaint> {
    let name = request.first().ok_or_else(|| Complaint::arity("command|getkeys"))?;
    let spec = lookup(name).ok_or_else(|| Complaint::new("ERR Invalid command specified"))?;
    let keys = spec.keys_of(request)?;
    let step = if spec.keys.1 < 0 { usize::from(spec.keys.2.unsigned_abs()) } else { 1 };
    to.array(keys.len().div_ceil(step));
    for key in keys.iter().step_by(step) {
        to.bulk(key);
    }
    Ok(())
}

/// One command as COMMAND describes it: ten fields since Redis 7.
fn write_spec(to: &mut Encoder<'_>, spec: &Spec) {
    let (first, last, step) = spec.keys;
    to.array(10);
    to.bulk(spec.name.as_bytes());
    to.integer(i64::from(spec.arity));
    match spec.data {
        Use::Read => {
            to.set(2);
            to.simple("readonly");
            to.simple("fast");
        }
        Use::Write => {
            to.set(1);
            to.simple("write");
        }
        Use::None => to.set(0),
    }
    for number in [first, last, step] {
        to.integer(i64::from(number));
    }
    to.set(spec.categories().len());
    for category in spec.categories() {
        to.simple(&format!("@{category}"));
    }
    for _ in 0..3 {
        to.array(0);
    }
}

fn write_docs(to: &mut Encoder<'_>, spec: &Spec) {
    let group = if spec.data == Use::None { "connection" } else { "string" };
    to.bulk(spec.name.as_bytes());
    to.map(4);
    for (name, text) in
        [("summary", spec.summary), ("since", "1.0.0"), ("group", group), ("complexity", "O(N)")]
    {
        to.bulk(name.as_bytes());
        to.bulk(text.as_bytes());
    }
}

/// `CONFIG GET pattern...`
pub(crate) fn config(to: &mut Encoder<'_>, arguments: &[&[u8]]) -> Result<(), Complaint> {
    let (sub, patterns) = arguments.split_first().unwrap_or((&NO_NAME, &[]));
    match sub.to_ascii_uppercase().as_slice() {
        b"GET" if patterns.is_empty() => return Err(Complaint::arity("config|get")),
        b"GET" => {}
        b"SET" | b"REWRITE" | b"RESETSTAT" => {
            return Err(Complaint::refused("CONFIG", "settings are the flags of the node"));
        }
        _ => return Err(Complaint::subcommand("CONFIG", sub)),
    }
    let wanted = |(name, _): &&(&str, &str)| {
        let name = name.as_bytes();
        patterns.iter().any(|pattern| matches(&pattern.to_ascii_lowercase(), name))
    };
    to.map(SETTINGS.iter().filter(wanted).count());
    for (name, value) in SETTINGS.iter().filter(wanted) {
        to.bulk(name.as_bytes());
        to.bulk(value.as_bytes());
    }
    Ok(())
}

/// `SLOWLOG GET | LEN | RESET`: none is kept.
pub(crate) fn slow_log(to: &mut Encoder<'_>, arguments: &[&[u8]]) -> Result<(), Complaint> {
    let sub = arguments.first().copied().unwrap_or_default();
    match sub.to_ascii_uppercase().as_slice() {
        b"GET" => to.array(0),
        b"LEN" => to.integer(0),
        b"RESET" => to.simple("OK"),
        _ => return Err(Complaint::subcommand("SLOWLOG", sub)),
    }
    Ok(())
}

/// `LATENCY LATEST | HISTORY event | RESET | DOCTOR`: none is kept.
pub(crate) fn latency(to: &mut Encoder<'_>, arguments: &[&[u8]]) -> Result<(), Complaint> {
    let sub = arguments.first().copied().unwrap_or_default();
    match sub.to_ascii_uppercase().as_slice() {
        b"LATEST" | b"HISTORY" => to.array(0),
        b"HISTOGRAM" => to.map(0),
        b"RESET" => to.integer(0),
        b"DOCTOR" => to.verbatim("No latency events are kept by this node.\n"),
        _ => return Err(Complaint::subcommand("LATENCY", sub)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::encode::Version;
    use super::*;

    type Write = fn(&mut Encoder<'_>, &[&[u8]]) -> Result<(), Complaint>;

    fn said(version: Version, write: Write, words: &[&str]) -> String {
        let words = words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>();
        let mut out = BytesMut::new();
        match write(&mut Encoder::new(&mut out, version), &words) {
            Ok(()) => String::from_utf8(out.to_vec()).unwrap(),
            Err(Complaint(text)) => text.into_owned(),
        }
    }

    #[test]
    fn redis_benchmark_finds_what_it_asks_for() {
        let save = said(Version::Two, config, &["GET", "save"]);
        assert_eq!(save, "*2\r\n$4\r\nsave\r\n$0\r\n\r\n");
        let append = said(Version::Three, config, &["get", "APPENDONLY"]);
        assert_eq!(append, "%1\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n");
        assert_eq!(said(Version::Three, config, &["GET", "nothing*"]), "%0\r\n");
        assert!(said(Version::Two, config, &["SET", "save", "1"]).contains("is refused"));
    }

    #[test]
    fn command_describes_each_command() {
        let count = said(Version::Two, command, &["COUNT"]);
        assert_eq!(count, format!(":{}\r\n", TABLE.len()));
        let get = said(Version::Two, command, &["INFO", "GET", "nope"]);
        assert!(get.starts_with("*2\r\n*10\r\n$3\r\nget\r\n:2\r\n*2\r\n+readonly\r\n"), "{get}");
        assert!(get.ends_with("*-1\r\n"), "{get}");
        let docs = said(Version::Three, command, &["DOCS", "get"]);
        assert!(docs.starts_with("%1\r\n$3\r\nget\r\n%4\r\n"), "{docs}");
        assert!(said(Version::Two, command, &["X"]).contains("unknown subcommand 'X'"));
    }

    #[test]
    fn commands_are_listed_as_they_are_asked_for() {
        let all = said(Version::Two, command, &["LIST"]);
        assert!(all.starts_with(&format!("*{}\r\n", TABLE.len())), "{all}");
        let pattern = said(Version::Two, command, &["LIST", "FILTERBY", "PATTERN", "GETR*"]);
        assert_eq!(pattern, "*1\r\n$8\r\ngetrange\r\n");
        let category = said(Version::Two, command, &["LIST", "filterby", "aclcat", "transaction"]);
        assert!(category.starts_with("*5\r\n$7\r\ndiscard\r\n"), "{category}");
        assert_eq!(said(Version::Two, command, &["LIST", "FILTERBY", "MODULE", "json"]), "*0\r\n");
        assert_eq!(
            said(Version::Two, command, &["LIST", "FILTERBY", "X", "y"]),
            "ERR syntax error"
        );
        assert_eq!(said(Version::Two, command, &["LIST", "FILTERBY"]), "ERR syntax error");
    }

    #[test]
    fn the_keys_of_a_request_are_found() {
        let cases: &[(&[&str], &str)] = &[
            (&["GETKEYS", "GET", "a"], "*1\r\n$1\r\na\r\n"),
            (&["GETKEYS", "mset", "a", "1", "b", "2"], "*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
            (&["GETKEYS", "DEL", "a", "b"], "*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
            (&["GETKEYS", "SET", "a", "v", "NX"], "*1\r\n$1\r\na\r\n"),
            (&["GETKEYS", "OBJECT", "ENCODING", "a"], "*1\r\n$1\r\na\r\n"),
            (&["GETKEYS", "PING"], "ERR The command has no key arguments"),
            (&["GETKEYS", "GET"], "ERR Invalid number of arguments specified for command"),
            (&["GETKEYS", "NOPE", "a"], "ERR Invalid command specified"),
        ];
        for (words, expected) in cases {
            assert_eq!(said(Version::Two, command, words), *expected, "{words:?}");
        }
    }

    #[test]
    fn logs_that_are_not_kept_are_empty() {
        assert_eq!(said(Version::Two, slow_log, &["get", "10"]), "*0\r\n");
        assert_eq!(said(Version::Two, latency, &["latest"]), "*0\r\n");
    }
}
