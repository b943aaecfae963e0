//! A node's status as text.

use std::fmt::Write;

use super::health::Health;
use crate::status::{MemberStatus, RefusalStatus, Status};

/// The whole of `diskstore status`.
pub(super) fn render(status: &Status, health: &Health) -> String {
    let mut text = String::new();
    push(&mut text, &format!("{:<8} {}", "health", health.summary));
    for trouble in &health.troubles {
        push(&mut text, &format!("trouble  {trouble}"));
    }
    let leader = match (&status.leader, status.role.as_str()) {
        (_, "leader") => String::new(),
        (Some(leader), _) => format!(", led by {leader}"),
        (None, _) => ", no leader known".to_owned(),
    };
    let sync = &status.sync;
    let live = status.live.map_or("counting".to_owned(), |live| format!("{} in use", digits(live)));
    let lines = [
        (
            "node",
            format!("{} ({}{leader}), up {}", status.name, status.role, duration(status.uptime_s)),
        ),
        ("cluster", format!("{}, term {}", status.cluster_id, status.term)),
        (
            "log",
            format!(
                "last {}, committed {}, applied {}, checkpoint {}, purged to {}",
                status.last_log, status.committed, status.applied, status.checkpoint, status.purged
            ),
        ),
        content(status, &live),
        (
            "disk",
            format!(
                "{} used, {} of these by the log, {} left",
                size(status.disk_used_bytes),
                size(status.log_bytes),
                size(status.disk_left_bytes)
            ),
        ),
        (
            "syncs",
            format!(
                "{}, half within {}, 99 of 100 within {}, longest {}",
                digits(sync.count),
                milliseconds(sync.p50_us),
                milliseconds(sync.p99_us),
                milliseconds(sync.max_us)
            ),
        ),
    ];
    for (name, value) in lines {
        push(&mut text, &format!("{name:<8} {value}"));
    }
    if let Some(tls) = &status.tls {
        let end = crate::tls::date(tls.certificate_not_after_s);
        let refused = digits(tls.refused);
        let mode = &tls.mode;
        push(&mut text, &format!("tls      {mode}, certificate until {end}, {refused} refused"));
    }
    push_warnings(&mut text, status);
    push(&mut text, "");
    for line in columns(&members(&status.members)) {
        push(&mut text, &line);
    }
    if let Some(hint) = hint(status) {
        push(&mut text, &hint);
    }
    text
}

/// `diskstore members list`.
pub(super) fn render_members(status: &Status) -> String {
    let mut text = String::new();
    for line in columns(&members(&status.members)) {
        push(&mut text, &line);
    }
    text
}

/// What keeps the node from serving all that it could, or from promising it.
fn push_warnings(text: &mut String, status: &Status) {
    if status.readable_from > status.applied {
        let from = status.readable_from;
        push(text, &format!("behind   serves no local read before log index {from} is applied"));
    }
    if status.damaged_slots > 0 {
        let count = digits(status.damaged_slots);
        push(text, &format!("damaged  {count} slots: reads of them are answered with an error"));
    }
    for RefusalStatus { reason, since_s, doing, .. } in &status.refusals {
        let since = duration(*since_s);
        push(text, &format!("refused  {reason}, for {since}: {doing}"));
    }
    if status.voters_changing {
        push(text, "changing a change of the voters is half way: majorities of both are needed");
    }
    if let Some(moved) = &status.moved {
        push(text, &format!("moved    {moved}"));
    }
    if !status.unsafe_flags.is_empty() {
        push(text, &format!("unsafe   {}", status.unsafe_flags.join(", ")));
    }
}

/// The line on what the node holds: slots, or any keys.
fn content(status: &Status, live: &str) -> (&'static str, String) {
    let bytes = digits(status.value_size.into());
    match status.slots {
        0 => ("keys", format!("{live}, values of up to {bytes} bytes")),
        slots => ("slots", format!("{} of up to {bytes} bytes, {live}", digits(slots))),
    }
}

fn push(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("invariant: a String takes every write");
}

/// Only the leader knows how far the others are.
fn hint(status: &Status) -> Option<String> {
    if status.members.iter().any(|member| member.matched.is_some()) {
        return None;
    }
    let leader =
        status.members.iter().find(|member| Some(&member.name) == status.leader.as_ref())?;
    Some(format!("\nthe leader knows how far each is: diskstore status -addr {}", leader.client))
}

fn members(members: &[MemberStatus]) -> Vec<[String; 6]> {
    let head = ["MEMBER", "ROLE", "CLIENTS", "RAFT", "MATCHED", "LAG"].map(str::to_owned);
    let number = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
    let rows = members.iter().map(|member| {
        [
            member.name.clone(),
            role_words(member),
            member.client.clone(),
            member.raft.clone(),
            number(member.matched),
            number(member.lag),
        ]
    });
    std::iter::once(head).chain(rows).collect()
}

fn role_words(member: &MemberStatus) -> String {
    let role = match (member.role.as_str(), member.is_standby) {
        ("learner", true) => "standby".to_owned(),
        (role, true) => format!("{role}, to be standby"),
        (role, false) => role.to_owned(),
    };
    if member.silent == Some(true) { format!("{role}, silent") } else { role }
}

/// Pads every column to its widest cell.
fn columns<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..N).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// A number with its digits in groups of three.
pub(super) fn digits(value: u64) -> String {
    let plain = value.to_string();
    let mut grouped = String::new();
    for (place, digit) in plain.chars().enumerate() {
        if place > 0 && (plain.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

pub(super) fn milliseconds(us: u64) -> String {
    format!("{} ms", bare_milliseconds(us))
}

/// As [`milliseconds`], where the head of a column names the unit.
pub(super) fn bare_milliseconds(us: u64) -> String {
    format!("{}.{:02}", us / 1000, us % 1000 / 10)
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mib @ 1..10_000 => format!("{} MiB", digits(mib)),
        mib => format!("{} GiB", digits(mib >> 10)),
    }
}

/// A time that has passed.
pub(super) fn duration_ago(seconds: u64) -> String {
    format!("{} ago", duration(seconds))
}

pub(super) fn duration(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, ..) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::SyncStatus;

    fn status() -> Status {
        let member = |name: &str, role: &str, port: u16, matched: Option<u64>| MemberStatus {
            name: name.to_owned(),
            role: role.to_owned(),
            client: format!("127.0.0.1:{port}"),
            raft: format!("127.0.0.1:{}", port + 1000),
            matched,
            lag: matched.map(|matched| 70 - matched),
            ..MemberStatus::default()
        };
        Status {
            name: "node0".to_owned(),
            cluster_id: "ab".repeat(16),
            role: "leader".to_owned(),
            term: 3,
            leader: Some("node0".to_owned()),
            members: vec![
                member("node0", "leader", 11000, Some(70)),
                member("a-longer-name", "voter", 11001, Some(58)),
            ],
            committed: 69,
            applied: 68,
            last_log: 70,
            checkpoint: 5,
            slots: 1_048_576,
            value_size: 1024,
            live: Some(12),
            sync: SyncStatus { count: 1234, p50_us: 210, p99_us: 1999, max_us: 30_000 },
            uptime_s: 3725,
            disk_used_bytes: 300 << 20,
            disk_left_bytes: 39 << 30,
            log_bytes: 64 << 20,
            ..Status::default()
        }
    }

    fn render(status: &Status) -> String {
        let health = Health {
            is_healthy: false,
            has_majority: true,
            summary: "2 of 2 voters answer, can lose 0".to_owned(),
            voters: 2,
            answering: 2,
            can_lose: 0,
            troubles: vec!["something".to_owned()],
        };
        super::render(status, &health)
    }

    #[test]
    fn a_status_prints_as_aligned_text() {
        let expected = "\
health   2 of 2 voters answer, can lose 0
trouble  something
node     node0 (leader), up 1 h 2 min
cluster  abababababababababababababababab, term 3
log      last 70, committed 69, applied 68, checkpoint 5, purged to 0
slots    1,048,576 of up to 1,024 bytes, 12 in use
disk     300 MiB used, 64 MiB of these by the log, 39 GiB left
syncs    1,234, half within 0.21 ms, 99 of 100 within 1.99 ms, longest 30.00 ms

MEMBER         ROLE    CLIENTS          RAFT             MATCHED  LAG
node0          leader  127.0.0.1:11000  127.0.0.1:12000  70       0
a-longer-name  voter   127.0.0.1:11001  127.0.0.1:12001  58       12
";
        assert_eq!(render(&status()), expected);
    }

    #[test]
    fn a_follower_names_the_leader_and_what_is_unsafe_or_behind() {
        let mut status = status();
        status.role = "follower".to_owned();
        status.unsafe_flags = vec!["-sync never".to_owned(), "-insecure".to_owned()];
        status.readable_from = 69;
        status.refusals = vec![RefusalStatus {
            reason: "writes, for the log's disk is full".to_owned(),
            since_s: 61,
            doing: "a checkpoint is written".to_owned(),
            ..RefusalStatus::default()
        }];
        status.voters_changing = true;
        status.moved = Some("this member is at h:1 now".to_owned());
        status.live = None;
        for member in &mut status.members {
            (member.matched, member.lag) = (None, None);
        }
        let text = render(&status);
        assert!(text.contains("(follower, led by node0)"), "{text}");
        assert!(text.contains("unsafe   -sync never, -insecure\n"), "{text}");
        let refused = "refused  writes, for the log's disk is full, for 1 min 1 s: a checkpoint is";
        assert!(text.contains(refused), "{text}");
        assert!(text.contains("before log index 69 is applied"), "{text}");
        assert!(text.contains("changing a change of the voters is half way"), "{text}");
        assert!(text.contains("moved    this member is at h:1 now\n"), "{text}");
        assert!(text.contains("1,024 bytes, counting"), "{text}");
        assert!(text.ends_with("diskstore status -addr 127.0.0.1:11000\n"), "{text}");
        status.leader = None;
        assert!(render(&status).contains("no leader known"));
    }

    #[test]
    fn a_member_that_does_not_answer_is_marked() {
        let mut status = status();
        status.members[1].silent = Some(true);
        let text = render(&status);
        assert!(text.contains("\na-longer-name  voter, silent  127.0.0.1:11001 "), "{text}");
    }

    #[test]
    fn numbers_and_times_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(digits), ["0", "999", "1,000", "1,234,567"]);
        let times = [59, 61, 7300, 200_000].map(duration);
        assert_eq!(times, ["59 s", "1 min 1 s", "2 h 1 min", "2 d 7 h"]);
    }
}
