//! What happens to a cluster while it is measured: elections, seen by asking nodes for their status;
//! checkpoints and snapshots, read from their logs.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::resp::Connection;
use crate::result::Event;

const ANSWER_TIME_MAX: Duration = Duration::from_millis(500);

/// An election that was seen.
#[derive(Debug, Clone)]
pub(crate) struct Election {
    pub(crate) unix_ms: u64,
    pub(crate) leader: String,
}

/// What was seen of elections.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) elections: Vec<Election>,
    /// When a node was in a later term than before, milliseconds since 1970: somebody campaigns.
    pub(crate) campaigns_unix_ms: Vec<u64>,
}

/// Asks every node for its status, again and again.
#[derive(Debug)]
pub(crate) struct Watch {
    is_over: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Watches nodes that have had a leader up to `term`.
    pub(crate) fn start(cluster: &Cluster<'_>, term: u64, interval: Duration) -> Watch {
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let threads = cluster.nodes.iter().map(|node| {
            let (port, is_over, seen) = (node.port, Arc::clone(&is_over), Arc::clone(&seen));
            std::thread::spawn(move || watch(port, term, interval, (&is_over, &seen)))
        });
        let threads = threads.collect();
        Watch { is_over, seen, threads }
    }

    /// What was seen up to now.
    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops watching.
    ///
    /// # Errors
    /// A thread has panicked.
    pub(crate) fn stop(self) -> Result<Vec<Election>> {
        self.is_over.store(true, Ordering::Relaxed);
        let seen = Arc::clone(&self.seen);
        for thread in self.threads {
            thread.join().ok().context("a watching thread has panicked")?;
        }
        let mut elections = seen.lock().unwrap_or_else(PoisonError::into_inner).elections.clone();
        elections.sort_by_key(|election| election.unix_ms);
        Ok(elections)
    }
}

/// Watches one node; each reports only elections that it has won itself.
fn watch(
    port: u16,
    mut term: u64,
    interval: Duration,
    (is_over, seen): (&AtomicBool, &Mutex<Seen>),
) {
    let mut connection = None;
    let mut term_seen = term;
    while !is_over.load(Ordering::Relaxed) {
        if connection.is_none() {
            connection = Connection::open(port, ANSWER_TIME_MAX).ok();
        }
        match connection.as_mut().map(Connection::status) {
            Some(Ok(status)) => {
                let unix_ms = unix_ms();
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                if status.term > term_seen {
                    term_seen = status.term;
                    seen.campaigns_unix_ms.push(unix_ms);
                }
                if status.role == "leader" && status.term > term {
                    term = status.term;
                    seen.elections.push(Election { unix_ms, leader: status.name });
                }
            }
            None => {}
            Some(Err(_)) => connection = None,
        }
        std::thread::sleep(interval);
    }
}

/// What logs say happened from `begin_unix_ms` on: name and path of each.
///
/// # Errors
/// A log cannot be read.
pub(crate) fn events_of_logs(
    logs: &[(String, PathBuf)],
    begin_unix_ms: u64,
    end_unix_ms: u64,
) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    for (process, path) in logs {
        let text = std::fs::read(path).with_context(|| path.display().to_string())?;
        for line in String::from_utf8_lossy(&text).lines() {
            let Some((unix_ms, kind, took_s)) = event(line) else { continue };
            if (begin_unix_ms..=end_unix_ms).contains(&unix_ms) {
                let second = seconds(unix_ms - begin_unix_ms);
                events.push(Event { second, took_s, kind, process: process.clone() });
            }
        }
    }
    events.sort_by(|one, other| one.second.total_cmp(&other.second));
    Ok(events)
}

/// Time, kind and length of what a line tells, if it is one of those that count.
fn event(line: &str) -> Option<(u64, String, f64)> {
    let (time, rest) = line.split_once(' ')?;
    let unix_ms = unix_ms_of(time)?;
    let message = rest.split_once(": ")?.1;
    let kind = if message.starts_with("checkpoint ") {
        "checkpoint"
    } else if message.starts_with("snapshot sent") || message.starts_with("snapshot received") {
        "snapshot"
    } else {
        return None;
    };
    let elapsed = message.split(' ').find_map(|field| field.strip_prefix("elapsed="));
    Some((unix_ms, kind.to_owned(), elapsed.and_then(seconds_of).unwrap_or(0.0)))
}

/// Reads what Rust prints of a duration: `1.5s`, `12.3ms`, `7us`.
fn seconds_of(text: &str) -> Option<f64> {
    let end = text.find(|char: char| !char.is_ascii_digit() && char != '.')?;
    let (number, unit) = text.split_at(end);
    let scale = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "us" | "\u{b5}s" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * scale)
}

/// Reads a time of a log, `2026-11-21T15:26:00.123456Z`.
///
/// Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
fn unix_ms_of(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let [year, month, day] = numbers(date, '-')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hours, minutes, seconds] = numbers(time, ':')?;
    let fraction: String = fraction.chars().chain("000".chars()).take(3).collect();
    let year = if month <= 2 { year.checked_sub(1)? } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    let whole = ((days * 24 + hours) * 60 + minutes) * 60 + seconds;
    Some(whole * 1000 + fraction.parse::<u64>().ok()?)
}

fn numbers(text: &str, separator: char) -> Option<[u64; 3]> {
    let parts: Option<Vec<u64>> = text.split(separator).map(|part| part.parse().ok()).collect();
    parts?.try_into().ok()
}

/// Now, in milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds as seconds.
#[expect(clippy::cast_precision_loss, reason = "statistics need 52 bits at most")]
pub(crate) fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_logs_are_read_to_the_millisecond() {
        for (text, unix_ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00.5Z", 951_825_600_500),
            ("2026-11-21T15:26:00.123456Z", 1_795_274_760_123),
        ] {
            assert_eq!(unix_ms_of(text), Some(unix_ms), "{text}");
        }
        for text in ["", "2026-11-21", "xT:Z", "2026-00-00T00:00:00Z", "0000-01-01T00:00:00Z"] {
            assert_eq!(unix_ms_of(text), None, "{text}");
        }
    }

    #[test]
    fn checkpoints_and_snapshots_are_found_in_logs_and_nothing_else() {
        let line = "2026-11-21T15:26:00.123456Z  INFO node::raft::state_machine: checkpoint \
                    index=7 pages=3 cancelled=false elapsed=12.5ms";
        let (_, kind, took_s) = event(line).unwrap();
        assert_eq!(kind, "checkpoint");
        assert!((took_s - 0.0125).abs() < 1e-9);
        let line = "2026-11-21T15:26:00.1Z  INFO node::raft::snapshot: snapshot sent to=\"a\"";
        assert_eq!(event(line).unwrap().1, "snapshot");
        for line in ["", "ID: node0", "2026-11-21T15:26:00.1Z  INFO a: leadership handed over"] {
            assert_eq!(event(line), None, "{line}");
        }
    }

    #[test]
    fn lengths_of_time_are_read_in_every_unit() {
        for (text, seconds) in [("1.5s", 1.5), ("20ms", 0.02), ("7us", 7e-6), ("9ns", 9e-9)] {
            assert!((seconds_of(text).unwrap() - seconds).abs() < 1e-12, "{text}");
        }
        assert_eq!(seconds_of("5"), None);
        assert_eq!(seconds_of("5h"), None);
    }
}
