//! `client-config.toml`: the addresses of the replicas and the address for their answers, under the
//! original's names.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use toml::{Table, Value};

use super::super::ClientError;
use crate::config::Address;

/// The names, as the original has them.
const KEYS: [&str; 5] = ["rep", "svrIps", "localip", "udpport", "thinkingTimeMsec"];
/// Most bytes of the file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most replicas.
const REPLICA_COUNT_MAX: u64 = 64;
/// The port of the original, where none is given.
const UDP_PORT_DEFAULT: u64 = 15_000;
/// Longest rest, ms.
const THINK_MS_MAX: u64 = 3_600_000;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::client) struct ClientConfig {
    /// Client addresses of the replicas: `svrIps`, as many as `rep` says.
    pub(in crate::client) replicas: Vec<String>,
    /// Where answers are to come by UDP.
    pub(in crate::client) local: IpAddr,
    /// The port for them, of the first client; 0: any.
    pub(in crate::client) udp_port: u16,
    /// The longest rest between an answer and the next command.
    pub(in crate::client) think_max: Duration,
}

/// Reads the file.
pub(in crate::client) fn read(path: &Path) -> Result<ClientConfig, ClientError> {
    let bytes = std::fs::metadata(path).map(|metadata| metadata.len());
    let text = match bytes {
        Ok(bytes) if bytes > FILE_BYTES_MAX => Err("it is longer than 1 MiB".to_owned()),
        Err(error) => Err(format!("{error}; give -config FILE, which says where the replicas are")),
        Ok(_) => std::fs::read_to_string(path).map_err(|error| error.to_string()),
    };
    text.and_then(|text| parse(&text))
        .map_err(|reason| ClientError::File { path: path.to_owned(), reason })
}

fn parse(text: &str) -> Result<ClientConfig, String> {
    let table: Table = toml::from_str(text).map_err(|error| error.to_string())?;
    if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        let known = KEYS.map(str::to_owned);
        return Err(match diskstore_flags::nearest(key, &known) {
            Some(nearest) => format!("`{key}` is no key of it; did you mean `{nearest}`?"),
            None => format!("`{key}` is no key of it; known are {}", KEYS.join(", ")),
        });
    }
    let replicas = replicas(&table)?;
    let count = replicas.len() as u64;
    let rep = number(&table, "rep", count, 1..=REPLICA_COUNT_MAX)?;
    if rep != count {
        return Err(format!("`rep` is {rep}, but `svrIps` names {count}"));
    }
    let local = table.get("localip").map_or(Ok("127.0.0.1"), |value| string("localip", value))?;
    let local = local.parse().map_err(|_| format!("`localip`: {local:?} is no IP address"))?;
    let udp_port = number(&table, "udpport", UDP_PORT_DEFAULT, 0..=u64::from(u16::MAX))?;
    let think_ms = number(&table, "thinkingTimeMsec", 0, 0..=THINK_MS_MAX)?;
    Ok(ClientConfig {
        replicas,
        local,
        udp_port: u16::try_from(udp_port).expect("invariant: just bounded"),
        think_max: Duration::from_millis(think_ms),
    })
}

fn replicas(table: &Table) -> Result<Vec<String>, String> {
    let list = match table.get("svrIps") {
        None => return Err("`svrIps` is missing: the list of the replicas' addresses".to_owned()),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(mistyped("svrIps", "a list of strings", other)),
    };
    if list.is_empty() {
        return Err("`svrIps` is empty".to_owned());
    }
    list.iter()
        .map(|entry| {
            let text = string("svrIps", entry)?;
            Address::parse(text).map_err(|reason| {
                format!("`svrIps`: {text:?}: {reason}; give :PORT or HOST:PORT")
            })?;
            Ok(text.to_owned())
        })
        .collect()
}

fn string<'a>(key: &str, value: &'a Value) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| mistyped(key, "a string", value))
}

fn number(
    table: &Table,
    key: &str,
    default: u64,
    bounds: std::ops::RangeInclusive<u64>,
) -> Result<u64, String> {
    let Some(value) = table.get(key) else { return Ok(default) };
    let Some(given) = value.as_integer() else { return Err(mistyped(key, "a number", value)) };
    let (least, most) = (bounds.start(), bounds.end());
    let bounded = u64::try_from(given).ok().filter(|given| bounds.contains(given));
    bounded.ok_or_else(|| format!("`{key}` is {given}: give a whole number from {least} to {most}"))
}

fn mistyped(key: &str, wanted: &str, value: &Value) -> String {
    format!("`{key}` is to be {wanted}, and is of type {}", value.type_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_the_original_is_read() {
        let text = "rep = 2\nsvrIps = [\"a.example:11000\", \":11001\"]\nlocalip = \"10.0.0.1\"\n\
                    udpport = 15000\nthinkingTimeMsec = 20\n";
        let expected = ClientConfig {
            replicas: vec!["a.example:11000".to_owned(), ":11001".to_owned()],
            local: [10, 0, 0, 1].into(),
            udp_port: 15_000,
            think_max: Duration::from_millis(20),
        };
        assert_eq!(parse(text), Ok(expected));
        let expected = ClientConfig {
            replicas: vec![":1".to_owned()],
            local: [127, 0, 0, 1].into(),
            udp_port: 15_000,
            think_max: Duration::ZERO,
        };
        assert_eq!(parse("svrIps = [\":1\"]"), Ok(expected));
    }

    #[test]
    fn every_wrong_key_and_value_is_named() {
        let good = "svrIps = [\":1\", \":2\"]\n";
        for (line, words) in [
            ("svrips = []", "`svrips` is no key of it; did you mean `svrIps`?"),
            ("mqueueSize = 100", "`mqueueSize` is no key of it; known are rep, svrIps"),
            ("rep = \"2\"", "`rep` is to be a number, and is of type string"),
            ("rep = 3", "`rep` is 3, but `svrIps` names 2"),
            ("rep = -1", "`rep` is -1: give a whole number from 1 to 64"),
            ("localip = 127", "`localip` is to be a string, and is of type integer"),
            ("localip = \"here\"", "`localip`: \"here\" is no IP address"),
            ("udpport = \"15000\"", "`udpport` is to be a number"),
            ("udpport = 65536", "`udpport` is 65536: give a whole number from 0 to 65535"),
            ("thinkingTimeMsec = 1.5", "`thinkingTimeMsec` is to be a number"),
            ("rep = ", "TOML parse error"),
        ] {
            let reason = parse(&format!("{good}{line}\n")).unwrap_err();
            assert!(reason.contains(words), "{line}: {reason}");
        }
        for (text, words) in [
            ("", "`svrIps` is missing"),
            ("svrIps = []", "`svrIps` is empty"),
            ("svrIps = \":1\"", "`svrIps` is to be a list of strings, and is of type string"),
            ("svrIps = [1]", "`svrIps` is to be a string, and is of type integer"),
            ("svrIps = [\"x\"]", "`svrIps`: \"x\""),
        ] {
            let reason = parse(text).unwrap_err();
            assert!(reason.contains(words), "{text}: {reason}");
        }
    }
}
