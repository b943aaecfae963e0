//! The sub-commands of `leaderless` that talk to running nodes: `get`, `set`, `del`, `status`.
//!
//! - I1: a write goes to one node only, as those of `diskstore` do.

use std::fmt::Write as _;
use std::io::Write;

use serde_json::{Value as Json, json};

use super::answer::Answer;
use super::connection::NodeConnection;
use super::dialling::Dialling;
use super::import::Existing;
use super::{ClientError, addresses_in, bench, import, print};
use crate::cli::{BenchFlags, RegisterAsked, RegisterBench, RegisterTask, Servers};
use crate::leaderless::operation::Level;

/// Clocks that are further apart, in milliseconds: each node refuses what the other one proposes that is ahead.
const CLOCKS_APART_MS: i64 = 5_000;
/// A version that was refused as too far ahead is spoken of for so long, in milliseconds.
const AHEAD_TOLD_MS: u64 = 60_000;
/// A time of day that went back by less, in milliseconds, is nothing to speak of.
const STANDS_TOLD_MS: u64 = 1_000;
/// Two nodes that are up compare what they hold every 10 s, up to a minute ago; in milliseconds.
const UNCONFIRMED_MS: u64 = 300_000;
/// What `status` exits with where something is not well.
const EXIT_UNWELL: u8 = 3;

/// Runs a sub-command of `leaderless` to its end. Returns what the program exits with.
///
/// # Errors
/// Everything that kept it from doing what it was asked.
pub fn run(task: &RegisterTask, out: &mut dyn Write) -> Result<u8, ClientError> {
    match task {
        RegisterTask::Demo { .. } => unreachable!("the program runs it"),
        RegisterTask::Get { key, asked } => get(key.as_encoded_bytes(), asked, out),
        RegisterTask::Set { key, value, asked } => {
            let value = value.as_encoded_bytes();
            write(&[b"WRITE"], key.as_encoded_bytes(), Some(value), asked, out)
        }
        RegisterTask::Del { key, asked } => {
            write(&[b"ERASE"], key.as_encoded_bytes(), None, asked, out)
        }
        RegisterTask::Status { asked } => status(asked, out),
        RegisterTask::Import { from, overwrite, asked } => {
            let existing = if *overwrite { Existing::Overwritten } else { Existing::LeftAlone };
            import::run(from, existing, asked, out).map(|()| 0)
        }
        RegisterTask::Bench(asked) => load(asked, out),
    }
}

/// Puts load on nodes.
fn load(asked: &RegisterBench, out: &mut dyn Write) -> Result<u8, ClientError> {
    let RegisterBench { load, list, level: typed } = asked;
    let level = typed.as_deref().map(|_| level(typed.as_deref())).transpose()?;
    let servers = Servers { list: list.clone(), token_file: None, tls: None };
    bench::run(&BenchFlags { load: load.clone(), servers }, level, out).map(|()| 0)
}

/// The level that is asked for; that of the node if none is.
fn level(typed: Option<&str>) -> Result<&str, ClientError> {
    let Some(text) = typed else { return Ok("default") };
    if Level::parse(text).is_none() {
        return Err(ClientError::flag("level", text, "give one, quorum or all"));
    }
    Ok(text)
}

/// An answer, and the node that gave it.
struct Heard {
    address: String,
    answer: Answer,
}

/// Asks the nodes in turn until one can be reached, and no other after that (I1).
fn ask(request: &[&[u8]], asked: &RegisterAsked) -> Result<Heard, ClientError> {
    let mut tried = Vec::new();
    for address in addresses_in(&asked.list)? {
        let mut connection = match NodeConnection::open(address, &Dialling::default()) {
            Ok(connection) => connection,
            Err(error) => {
                tried.push(format!("{address}: {error}"));
                continue;
            }
        };
        let address = address.to_owned();
        return match connection.call(request) {
            Ok(Answer::Error(words)) if words.starts_with("UNKNOWN ") => {
                Err(ClientError::Unknown { address, source: std::io::Error::other(words) })
            }
            Ok(Answer::Error(message)) => Err(ClientError::Refused { address, message }),
            Ok(answer) => Ok(Heard { address, answer }),
            Err(source) if source.kind() == std::io::ErrorKind::InvalidData => {
                Err(ClientError::Foreign { address })
            }
            Err(source) => Err(ClientError::Unknown { address, source }),
        };
    }
    Err(ClientError::NoNode { tried })
}

/// The version in an answer with one, and the value if there is one.
struct Record {
    version: u64,
    value: Option<Vec<u8>>,
}

fn record(heard: Heard) -> Result<Record, ClientError> {
    let foreign = || ClientError::Foreign { address: heard.address.clone() };
    let Answer::List(parts) = heard.answer else { return Err(foreign()) };
    let mut parts = parts.into_iter().map(|part| match part {
        Answer::Value(bytes) => Ok(bytes),
        _ => Err(foreign()),
    });
    let version = parts.next().transpose()?.and_then(|bytes| String::from_utf8(bytes).ok());
    let version = version.and_then(|text| text.parse().ok()).ok_or_else(foreign)?;
    Ok(Record { version, value: parts.next().transpose()? })
}

fn get(key: &[u8], asked: &RegisterAsked, out: &mut dyn Write) -> Result<u8, ClientError> {
    let request: [&[u8]; 4] =
        [b"DISKSTORE", b"READ", level(asked.level.as_deref())?.as_bytes(), key];
    let Record { version, value } = record(ask(&request, asked)?)?;
    if asked.form.json {
        let text = value.as_deref().map(String::from_utf8_lossy);
        let line = json!({"found": value.is_some(), "value": text, "version": version});
        print(out, format!("{line}\n").as_bytes())?;
        return Ok(0);
    }
    let Some(mut value) = value else {
        return Err(ClientError::NoValueOfKey { key: String::from_utf8_lossy(key).into_owned() });
    };
    value.push(b'\n');
    print(out, &value)?;
    Ok(0)
}

fn write(
    order: &[&[u8]],
    key: &[u8],
    value: Option<&[u8]>,
    asked: &RegisterAsked,
    out: &mut dyn Write,
) -> Result<u8, ClientError> {
    let mut request: Vec<&[u8]> = vec![b"DISKSTORE"];
    request.extend(order);
    request.extend([level(asked.level.as_deref())?.as_bytes(), key]);
    request.extend(value);
    let Record { version, .. } = record(ask(&request, asked)?)?;
    if asked.form.json {
        print(out, format!("{}\n", json!({ "version": version })).as_bytes())?;
    } else {
        print(out, b"OK\n")?;
    }
    Ok(0)
}

fn status(asked: &RegisterAsked, out: &mut dyn Write) -> Result<u8, ClientError> {
    let Heard { address, answer } = ask(&[b"DISKSTORE", b"STATUS"], asked)?;
    let Answer::Value(text) = answer else { return Err(ClientError::Foreign { address }) };
    let Ok(status) = serde_json::from_slice::<Json>(&text) else {
        return Err(ClientError::Foreign { address });
    };
    if asked.form.json {
        print(out, format!("{status}\n").as_bytes())?;
    } else {
        print(out, render(&status).as_bytes())?;
    }
    Ok(if troubles(&status).is_empty() { 0 } else { EXIT_UNWELL })
}

fn word(of: &Json, name: &str) -> String {
    match of.get(name) {
        Some(Json::String(text)) => text.clone(),
        Some(Json::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

fn peers(status: &Json) -> impl Iterator<Item = &Json> {
    status.get("peers").and_then(Json::as_array).into_iter().flatten()
}

/// What is not well, in words.
fn troubles(status: &Json) -> Vec<String> {
    let mut found = Vec::new();
    let waits_for = word(status, "waits_for");
    if !waits_for.is_empty() {
        found.push(format!("it takes no operations: it waits for {waits_for}"));
    }
    let busy = word(status, "busy");
    if !busy.is_empty() {
        found.push(format!("it refuses writes: {busy}"));
    }
    if status.get("sees_quorum") == Some(&Json::Bool(false)) && waits_for.is_empty() {
        found.push(
            "it sees so few nodes that no key has a majority: operations fail here".to_owned(),
        );
    }
    found.extend(troubles_with_clock(status));
    found.extend(peers(status).filter_map(|peer| trouble_with(status, peer)));
    if status.get("clashes").and_then(Json::as_u64).is_some_and(|count| count > 0) {
        let clashes = word(status, "clashes");
        found.push(format!("{clashes} times two values had one version: two nodes run as one id"));
    }
    found
}

fn number(of: &Json, name: &str) -> u64 {
    of.get(name).and_then(Json::as_u64).unwrap_or_default()
}

fn troubles_with_clock(status: &Json) -> Vec<String> {
    let mut found = Vec::new();
    let stands_ms = number(status, "stands_ms");
    if stands_ms >= STANDS_TOLD_MS {
        found.push(format!(
            "its time of day went back: its time stands still for {} s",
            stands_ms / 1000
        ));
    }
    let ahead_since_ms = status.get("ahead_since_ms").and_then(Json::as_u64);
    if ahead_since_ms.is_some_and(|ms| ms < AHEAD_TOLD_MS) {
        found.push(
            "it refused writes of other nodes within the last minute, as too far ahead of its clock"
                .to_owned(),
        );
    }
    found
}

/// What is not well between this node and another.
fn trouble_with(status: &Json, peer: &Json) -> Option<String> {
    let (id, complaint) = (word(peer, "id"), word(peer, "complaint"));
    if peer.get("is_up") == Some(&Json::Bool(false)) {
        let why = if complaint.is_empty() { String::new() } else { format!(": {complaint}") };
        return Some(format!("node {id} is not heard{why}"));
    }
    let clock_ms = peer.get("clock_ms").and_then(Json::as_i64).unwrap_or_default();
    if clock_ms.abs() > CLOCKS_APART_MS {
        let (seconds, side) =
            (clock_ms.abs() / 1000, if clock_ms > 0 { "ahead of" } else { "behind" });
        return Some(format!(
            "the clock of node {id} is about {seconds} s {side} this node's: each refuses new writes of the other that are too far ahead"
        ));
    }
    if !complaint.is_empty() {
        return Some(format!("node {id}: {complaint}"));
    }
    let is_ready = word(peer, "standing") == "ready" && word(status, "standing") == "ready";
    let behind_ms = number(status, "time_ms").saturating_sub(number(peer, "confirmed_ms"));
    let is_long = behind_ms > UNCONFIRMED_MS && number(status, "uptime_ms") > UNCONFIRMED_MS;
    (is_ready && is_long).then(|| {
        let minutes = behind_ms / 60_000;
        format!("nothing was confirmed with node {id} for {minutes} min: deletes are not forgotten")
    })
}

/// The status as text.
fn render(status: &Json) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        writeln!(text, "{name:<9} {value}")
            .expect("invariant: a string takes what is written to it");
    };
    let at = |name: &str| word(status, name);
    let troubles = troubles(status);
    line("health", if troubles.is_empty() { "well" } else { "not well" });
    for trouble in &troubles {
        line("trouble", trouble);
    }
    line(
        "node",
        &format!("{} ({}), up {} s", at("id"), at("standing"), seconds(status, "uptime_ms")),
    );
    let hash = at("layout_hash");
    let hash = hash.get(..16).unwrap_or(&hash);
    line(
        "layout",
        &format!("epoch {}, {hash}, {} replicas of each key", at("epoch"), at("replica_count")),
    );
    line("keys", &format!("{}, and {} deletes remembered", at("keys"), at("tombstones")));
    line("memory", &format!("{} of {} bytes", at("memory_bytes"), at("memory_bytes_max")));
    line(
        "floor",
        &format!(
            "deletes up to {} ms are forgotten, confirmed up to {}",
            at("floor_ms"),
            at("confirmed_ms")
        ),
    );
    let (done, failed, unknown) = (at("acknowledged"), at("failed"), at("unknown"));
    line("outcomes", &format!("{done} acknowledged, {failed} not stored, {unknown} unknown"));
    for peer in peers(status) {
        let at = |name: &str| word(peer, name);
        let is_up = if peer.get("is_up") == Some(&Json::Bool(true)) { "up" } else { "not heard" };
        line("peer", &format!("{} at {}: {is_up} {}", at("id"), at("address"), at("standing")));
    }
    text
}

fn seconds(status: &Json, name: &str) -> u64 {
    status.get(name).and_then(Json::as_u64).unwrap_or_default() / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_well_is_said_first() {
        let status = json!({
            "id": "1", "standing": "ready", "waits_for": "", "uptime_ms": 2500, "clashes": 0,
            "layout_hash": "00112233445566778899", "epoch": 1, "replica_count": 3, "keys": 2,
            "peers": [{"id": "2", "address": "h:2", "is_up": false, "complaint": "refused"}],
        });
        let text = render(&status);
        assert!(
            text.starts_with("health    not well\ntrouble   node 2 is not heard: refused\n"),
            "{text}"
        );
        assert!(text.contains("node      1 (ready), up 2 s\n"), "{text}");
        let mut well = status;
        well["peers"][0]["is_up"] = Json::Bool(true);
        well["peers"][0]["complaint"] = Json::Null;
        assert!(render(&well).starts_with("health    well\n"), "{}", render(&well));
        assert!(troubles(&json!({})).is_empty(), "of another version");
    }

    #[test]
    fn clocks_that_are_wrong_and_what_stands_still_are_no_well_being() {
        let hour = 3_600_000;
        let well = json!({
            "id": "1", "standing": "ready", "sees_quorum": true, "time_ms": 9 * hour, "uptime_ms": hour,
            "stands_ms": 0, "ahead": 7, "ahead_since_ms": hour,
            "peers": [{
                "id": "2", "is_up": true, "standing": "ready", "clock_ms": -1200,
                "confirmed_ms": 9 * hour - 70_000,
            }],
        });
        assert!(troubles(&well).is_empty(), "{:?}", troubles(&well));
        let told = |path: &str, value: Json| {
            let mut status = well.clone();
            *status.pointer_mut(path).unwrap() = value;
            let troubles = troubles(&status);
            assert_eq!(troubles.len(), 1, "{troubles:?}");
            troubles[0].clone()
        };
        assert!(told("/sees_quorum", json!(false)).contains("no key has a majority"));
        assert!(told("/stands_ms", json!(hour)).contains("stands still for 3600 s"));
        assert!(told("/ahead_since_ms", json!(5_000)).contains("refused writes"));
        let clock = told("/peers/0/clock_ms", json!(-6_000));
        assert!(clock.contains("node 2 is about 6 s behind this node's"), "{clock}");
        let still = told("/peers/0/confirmed_ms", json!(9 * hour - 420_000));
        assert!(still.contains("with node 2 for 7 min"), "{still}");
        let mut refused = well.clone();
        refused["peers"][0]["complaint"] = json!("its clock is behind");
        assert_eq!(troubles(&refused), ["node 2: its clock is behind"]);
    }
}
