//! What is wrong with one node, by what it says of itself: its disk, its certificates, its flags. Pure.

use super::Finding;
use super::Severity::{Error, Note, Warning};
use crate::client::table::{digits, duration, size};
use crate::file_system::Lasting;
use crate::status::{CATCHING_UP, RefusalStatus, Status};
use crate::tls;

/// A disk with less room than this takes no further segments of the log soon: a few of them.
const LEFT_FEW_BYTES: u64 = 256 << 20;
/// With less, there is time to make room.
const LEFT_LITTLE_BYTES: u64 = 2 << 30;
/// From so many seconds on before its end a certificate is to be renewed.
const CERTIFICATE_SOON_S: i64 = 14 * 86_400;
/// The same of an authority, whose renewal takes several steps.
const AUTHORITY_SOON_S: i64 = 30 * 86_400;

/// All that is found of a node, `now_s` seconds after 1970.
pub(super) fn findings(status: &Status, now_s: i64) -> Vec<Finding> {
    let name = status.name.as_str();
    let mut found: Vec<Finding> =
        status.refusals.iter().map(|refusal| refused(name, refusal)).collect();
    found.extend(damaged(status));
    // A node that has just started has not measured yet.
    if status.disk_used_bytes > 0 {
        found.extend(room(name, status.disk_left_bytes));
    }
    found.extend(status.file_system.as_deref().and_then(|kind| lasting(name, kind)));
    found.extend(certificates(status, now_s));
    found.extend(status.unsafe_flags.iter().map(|flag| weakened(name, flag)));
    if status.dropped_lines > 0 {
        let count = digits(status.dropped_lines);
        found.push(
            Finding::new(Note, "dropped_lines", name, format!("dropped {count} lines of its log"))
                .why("Nobody read its stderr for a while; what these lines said is lost.")
                .advice(
                    "See what reads its stderr: a full disk, a stopped terminal, a slow collector.",
                ),
        );
    }
    found
}

fn refused(name: &str, refusal: &RefusalStatus) -> Finding {
    let RefusalStatus { code, reason, since_s, doing } = refusal;
    let severity = if code == CATCHING_UP { Warning } else { Error };
    Finding::new(
        severity,
        "refusing",
        name,
        format!("{code}: {reason}, for {}", duration(*since_s)),
    )
    .why("Clients get errors, or wait, until that ends.")
    .advice(format!("What ends it: {doing}. docs/operations.md has more on {code}."))
}

fn damaged(status: &Status) -> Option<Finding> {
    let count = status.damaged_slots;
    let words = format!("{} slots have a wrong checksum", digits(count));
    (count > 0).then(|| {
        Finding::new(Error, "damaged_slots", &status.name, words)
            .why("Reads of them are answered with an error here; the disk returned other bytes than it was given.")
            .advice("Look at the disk (smartctl, dmesg); a new value of a slot mends it. docs/operations.md, `ERR slot \
                     N is damaged`, has the steps.")
    })
}

/// Of a node, or of a directory.
pub(super) fn room(place: &str, left_bytes: u64) -> Option<Finding> {
    let words = format!("{} are left on its disk", size(left_bytes));
    let finding = |severity| {
        Finding::new(severity, "disk_full", place, words)
            .why("Without room for the next segment of the log, writes are NO_SPACE; a leader then gives way to \
                  members that have some.")
            .advice("Make room, or move the directory to a larger disk. docs/operations.md, `What a disk must hold`, has \
                     the sum.")
    };
    if left_bytes >= LEFT_LITTLE_BYTES {
        return None;
    }
    Some(finding(if left_bytes < LEFT_FEW_BYTES { Error } else { Warning }))
}

/// What the kind of a file system means, of a node or of a directory.
pub(super) fn lasting(place: &str, kind: &str) -> Option<Finding> {
    let words = format!("its data is on {kind}");
    match Lasting::of(kind) {
        Lasting::Disk => None,
        Lasting::Memory => Some(
            Finding::new(Error, "memory_disk", place, words)
                .why("That is memory: an acknowledged write is lost with the machine's power, on all members that \
                      are so.")
                .advice("Give -data a directory on a disk: findmnt -T DIR says what a directory is on."),
        ),
        Lasting::Layer => Some(
            Finding::new(Warning, "layer_disk", place, words)
                .why("That is the writable layer of a container: it goes with the container, and its syncs are slow.")
                .advice("Mount a volume into the container, and give -data a directory on it."),
        ),
        Lasting::Network => Some(
            Finding::new(Warning, "network_disk", place, words)
                .why("Each sync waits for another machine, and several members may share what is lost together.")
                .advice("Give -data a directory on a disk of the machine."),
        ),
    }
}

fn certificates(status: &Status, now_s: i64) -> Vec<Finding> {
    let Some(tls) = &status.tls else { return Vec::new() };
    let name = status.name.as_str();
    let ends = [
        (
            "certificate",
            "its certificate",
            tls.certificate_not_after_s,
            CERTIFICATE_SOON_S,
            format!("diskstore certs -renew {name}, then copy the folder to it; it is read within ten seconds."),
        ),
        (
            "authority",
            "an authority that it trusts",
            tls.authority_not_after_s,
            AUTHORITY_SOON_S,
            "diskstore certs -new-ca begins the steps of docs/operations.md, `Replacing certificates`.".to_owned(),
        ),
    ];
    let mut found = Vec::new();
    for (code, what, end_s, soon_s, advice) in ends {
        if end_s == 0 || end_s - now_s > soon_s {
            continue;
        }
        let date = tls::date(end_s);
        let (severity, words) = if end_s <= now_s {
            (Error, format!("{what} ended on {date}"))
        } else {
            let days = (end_s - now_s) / 86_400;
            (Warning, format!("{what} ends on {date}, in {days} days"))
        };
        found.push(
            Finding::new(severity, code, name, words)
                .why("From then on neither members nor clients take it, and it is cut off.")
                .advice(advice),
        );
    }
    found
}

fn weakened(name: &str, flag: &str) -> Finding {
    Finding::new(Note, "unsafe_flag", name, format!("runs with {flag}"))
        .why("The flag weakens a promise; it is there because somebody gave it.")
        .advice("Start it without, unless that promise is not needed: diskstore -help says what it does.")
}
