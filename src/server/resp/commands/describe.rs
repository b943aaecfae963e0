//! Commands whose answers are fixed when the program is built, such as COMMAND and CONFIG. Pure.

#![deny(clippy::indexing_slicing)]

use super::super::connection::Step;
use super::super::table::{ADMIN, KeyPlaces, SLOW, Spec, TABLE, Use, lookup};
use crate::messages::glob::matches;
use crate::server::complaint::Complaint;
use crate::server::value::Value;

#[rustfmt::skip]
pub(super) const ROWS: &[Spec] = &[
    Spec::other("command", -1, |_, rest| command(rest).map(Step::Answer), "Describes the commands.").of(SLOW),
    Spec::other("config", -2, |_, rest| config(rest).map(Step::Answer), "Reads settings.").of(ADMIN),
    Spec::other("latency", -2, |_, rest| latency(rest).map(Step::Answer), "Answers that no events are kept.").of(ADMIN),
    Spec::other("slowlog", -2, |_, rest| slow_log(rest).map(Step::Answer), "Answers that no slow commands are kept.").of(ADMIN),
];

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
fn command(arguments: &[&[u8]]) -> Result<Value, Complaint> {
    let all = || Value::Array(TABLE.iter().map(described).collect());
    let Some((sub, names)) = arguments.split_first() else { return Ok(all()) };
    match sub.to_ascii_uppercase().as_slice() {
        b"COUNT" => Ok(Value::count(u64::try_from(TABLE.len()).unwrap_or(u64::MAX))),
        b"LIST" => list(names),
        b"GETKEYS" => keys_of(names),
        b"INFO" if names.is_empty() => Ok(all()),
        b"INFO" => {
            let of = |name: &&[u8]| lookup(name).map_or(Value::NoArray, described);
            Ok(Value::Array(names.iter().map(of).collect()))
        }
        b"DOCS" => {
            let is_wanted = |spec: &&Spec| {
                let mut names = names.iter();
                names.len() == 0
                    || names.any(|name| name.eq_ignore_ascii_case(spec.name.as_bytes()))
            };
            Ok(Value::Map(TABLE.iter().filter(is_wanted).map(documented).collect()))
        }
        _ => Err(Complaint::subcommand("COMMAND", sub)),
    }
}

/// `COMMAND LIST [FILTERBY MODULE name | ACLCAT category | PATTERN pattern]`
fn list(filter: &[&[u8]]) -> Result<Value, Complaint> {
    let is_wanted: &dyn Fn(&Spec) -> bool = match filter {
        [] => &|_| true,
        [by, kind, wanted] if by.eq_ignore_ascii_case(b"filterby") => {
            let lower = wanted.to_ascii_lowercase();
            match kind.to_ascii_uppercase().as_slice() {
                b"MODULE" => &|_| false, // there are no modules
                b"ACLCAT" => &move |spec: &Spec| {
                    let is_it = |name: &&str| name.as_bytes().strip_prefix(b"@") == Some(&*lower);
                    spec.categories.iter().any(is_it)
                },
                b"PATTERN" => &move |spec: &Spec| matches(&lower, spec.name.as_bytes()),
                _ => return Err(Complaint::SYNTAX),
            }
        }
        _ => return Err(Complaint::SYNTAX),
    };
    let wanted = TABLE.iter().filter(|spec| is_wanted(spec));
    Ok(Value::Array(wanted.map(|spec| Value::known(spec.name)).collect()))
}

/// `COMMAND GETKEYS name argument...`
fn keys_of(request: &[&[u8]]) -> Result<Value, Complaint> {
    let name = request.first().ok_or_else(|| Complaint::arity("command|getkeys"))?;
    let spec = lookup(name).ok_or_else(|| Complaint::wrong("Invalid command specified"))?;
    Ok(Value::Array(spec.keys_of(request)?.iter().map(Value::word).collect()))
}

/// One command as COMMAND describes it: ten fields since Redis 7.
fn described(spec: &Spec) -> Value {
    let KeyPlaces { first, last, step } = spec.keys;
    let flags: &[&str] = match spec.data {
        _ if spec.is_about_messages() => &["pubsub"],
        Use::Read => &["readonly", "fast"],
        Use::Write => &["write"],
        Use::None => &[],
    };
    let set =
        |words: &[&'static str]| Value::Set(words.iter().copied().map(Value::Status).collect());
    let numbers = [first, last, step].map(|number| Value::Integer(i64::from(number)));
    let mut fields =
        vec![Value::known(spec.name), Value::Integer(i64::from(spec.arity)), set(flags)];
    fields.extend(numbers);
    fields.push(set(spec.categories));
    fields.extend((0..3).map(|_| Value::Array(Vec::new())));
    Value::Array(fields)
}

fn documented(spec: &Spec) -> (&'static str, Value) {
    let group = match spec.data {
        _ if spec.is_about_messages() => "pubsub",
        Use::None => "connection",
        Use::Read | Use::Write => "string",
    };
    let fields =
        [("summary", spec.summary), ("since", "1.0.0"), ("group", group), ("complexity", "O(N)")];
    (spec.name, Value::Map(fields.map(|(name, text)| (name, Value::known(text))).to_vec()))
}

/// `CONFIG GET pattern...`
fn config(arguments: &[&[u8]]) -> Result<Value, Complaint> {
    let (sub, patterns) = arguments.split_first().ok_or(Complaint::SYNTAX)?;
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
    let found = SETTINGS.iter().filter(wanted);
    Ok(Value::Map(found.map(|(name, value)| (*name, Value::known(value))).collect()))
}

/// `SLOWLOG GET | LEN | RESET`: none is kept.
fn slow_log(arguments: &[&[u8]]) -> Result<Value, Complaint> {
    let sub = arguments.first().copied().unwrap_or_default();
    match sub.to_ascii_uppercase().as_slice() {
        b"GET" => Ok(Value::Array(Vec::new())),
        b"LEN" => Ok(Value::Integer(0)),
        b"RESET" => Ok(Value::OK),
        _ => Err(Complaint::subcommand("SLOWLOG", sub)),
    }
}

/// `LATENCY LATEST | HISTORY event | RESET | DOCTOR`: none is kept.
fn latency(arguments: &[&[u8]]) -> Result<Value, Complaint> {
    let sub = arguments.first().copied().unwrap_or_default();
    match sub.to_ascii_uppercase().as_slice() {
        b"LATEST" | b"HISTORY" => Ok(Value::Array(Vec::new())),
        b"HISTOGRAM" => Ok(Value::Map(Vec::new())),
        b"RESET" => Ok(Value::Integer(0)),
        b"DOCTOR" => Ok(Value::Text("No latency events are kept by this node.\n".to_owned())),
        _ => Err(Complaint::subcommand("LATENCY", sub)),
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::super::encode::{Encoder, Version};
    use super::*;

    type Say = fn(&[&[u8]]) -> Result<Value, Complaint>;

    fn said(version: Version, say: Say, words: &[&str]) -> String {
        let words = words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>();
        let mut out = BytesMut::new();
        Encoder::new(&mut out, version).answer(&say(&words).into());
        String::from_utf8(out.to_vec()).unwrap()
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
            "-ERR syntax error\r\n"
        );
        assert_eq!(said(Version::Two, command, &["LIST", "FILTERBY"]), "-ERR syntax error\r\n");
    }

    #[test]
    fn the_keys_of_a_request_are_found() {
        let cases: &[(&[&str], &str)] = &[
            (&["GETKEYS", "GET", "a"], "*1\r\n$1\r\na\r\n"),
            (&["GETKEYS", "mset", "a", "1", "b", "2"], "*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
            (&["GETKEYS", "DEL", "a", "b"], "*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
            (&["GETKEYS", "SET", "a", "v", "NX"], "*1\r\n$1\r\na\r\n"),
            (&["GETKEYS", "OBJECT", "ENCODING", "a"], "*1\r\n$1\r\na\r\n"),
            (&["GETKEYS", "PING"], "-ERR The command has no key arguments\r\n"),
            (&["GETKEYS", "GET"], "-ERR Invalid number of arguments specified for command\r\n"),
            (&["GETKEYS", "NOPE", "a"], "-ERR Invalid command specified\r\n"),
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
