//! What is wrong with a cluster as a whole: who answers, who votes, who is where, and whose clock is off.
//! Pure.

use super::Severity::{Error, Note, Warning};
use super::{Facts, Finding};
use crate::client::survey::{Seen, Visit};
use crate::client::table::{digits, duration};
use crate::status::{MemberStatus, Status};

/// Entries that a member may lack: a busy cluster has thousands on their way.
const LAG_MANY: u64 = 10_000;
/// How long a member may take until it votes, from its start on: it is sent what it lacks first.
const PROMOTION_S: u64 = 120;
/// How far apart clocks may be, in milliseconds, beyond what the answers took.
const CLOCK_APART_MS: u64 = 1000;
/// More leaders than this, and at least so many in an hour, are too many.
const LEADERS_MANY: u64 = 4;
const LEADERS_MANY_HOURLY: u64 = 4;

/// All that is found of the cluster.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(typed(facts));
    found.extend(votes(facts));
    for (member, visit) in &facts.survey.members {
        found.extend(reached(facts, member, visit.as_ref()));
    }
    found.extend(places(facts));
    for seen in facts.survey.answers() {
        found.extend(standing(facts, seen));
    }
    if let Some(leader) = facts.leader() {
        found.extend(followers(facts, leader));
    }
    found.extend(clocks(facts));
    found.extend(versions(facts));
    found
}

fn client_hint(reason: &str) -> &'static str {
    if reason.starts_with("NOAUTH") || reason.starts_with("NOPERM") || reason.contains("token") {
        "Present a token: -token-file FILE, or the variable DISKSTORE_TOKEN."
    } else if reason.contains("closed without") || reason.contains("certificate") {
        "If it speaks TLS, give -tls DIR with its authority; otherwise its log says why."
    } else {
        "Start it, or look at its log and exit code if it was running; if it does run, see whether a firewall \
         or a wrong -port or -advertise is in between."
    }
}

/// Addresses that were typed, and at which no member is registered that is told of below.
fn typed(facts: &Facts) -> Vec<Finding> {
    let is_registered = |visit: &&Visit| {
        let mut members = facts.survey.members.iter().filter_map(|(_, visit)| visit.as_ref());
        members.any(|member| member.address == visit.address)
    };
    let mut found = Vec::new();
    for visit in facts.survey.typed.iter().filter(|visit| !is_registered(visit)) {
        match &visit.outcome {
            Err(reason) => found.push(
                Finding::new(Error, "unreachable", &visit.address, format!("no answer: {reason}"))
                    .why("Whatever is to run at this address serves nobody.")
                    .advice(client_hint(reason)),
            ),
            Ok(seen) => {
                let known = facts.survey.members.iter();
                let is_member = known.clone().any(|(member, _)| member.id == seen.status.member_id);
                if !is_member && known.len() > 0 {
                    let cluster = &seen.status.cluster_id;
                    let words = format!(
                        "{} is no member of the cluster that was asked, its own is {cluster}",
                        seen.status.name
                    );
                    found.push(
                        Finding::new(Error, "not_member", &visit.address, words)
                            .why("It was removed, has not been taken in yet, or belongs to another cluster: what is \
                                  written to it is not written here.")
                            .advice("Ask each cluster on its own; a node that is to be a member is started with -join."),
                    );
                }
            }
        }
    }
    found
}

/// Majorities, and how much may be lost.
fn votes(facts: &Facts) -> Option<Finding> {
    let health = facts.health();
    if health.voters == 0 {
        return None;
    }
    let (voters, answering) = (health.voters, health.answering);
    let majority = voters / 2 + 1;
    if !health.has_majority {
        let words =
            format!("{answering} of {voters} voters answer, {majority} and a leader are needed");
        let advice = if answering < majority {
            "Start members that do not answer until a majority runs; if so many are lost for good, see \
             docs/operations.md on a lost majority."
        } else {
            "An election takes a second or two: ask again. If it stays so, the voters do not reach each \
             other at their -raft addresses: see `diskstore members` and the logs."
        };
        return Some(
            Finding::new(Error, "no_majority", "", words)
                .why("Writes and linearizable reads are refused until a majority of the voters is led.")
                .advice(advice),
        );
    }
    if voters == 1 {
        return Some(
            Finding::new(Note, "single_voter", "", "one voter holds all there is")
                .why("If its machine or disk is lost, so is everything; while it is down, nothing is served.")
                .advice("diskstore members add NAME says how to start a second and a third."),
        );
    }
    if health.can_lose == 0 {
        let words = format!("{answering} of {voters} voters answer, none of them may be lost");
        return Some(
            Finding::new(Warning, "no_spare", "", words)
                .why("When one more stops, writes are refused.")
                .advice(if voters == 2 {
                    "Add a third member: diskstore members add NAME."
                } else {
                    "Bring back the voters that do not answer, or replace them: diskstore members replace OLD NEW."
                }),
        );
    }
    voters.is_multiple_of(2).then(|| {
        Finding::new(
            Note,
            "even_voters",
            "",
            format!("{voters} voters can lose {}", health.can_lose),
        )
        .why("One voter less could lose as many, and each write waits for fewer.")
        .advice("Add a member, or demote one: diskstore members demote NAME.")
    })
}

/// A member where clients are sent to it.
fn reached(facts: &Facts, member: &MemberStatus, visit: Option<&Visit>) -> Option<Finding> {
    let name = member.name.as_str();
    let Some(visit) = visit else {
        // A logger listens for clients only when it is asked to.
        return (member.role != "learner").then(|| {
            Finding::new(Warning, "no_client_address", name, "has no address for clients")
                .why("Clients that follow the list of members cannot reach it.")
                .advice("Start it with -port, and with -advertise if it is to be reached under another host.")
        });
    };
    let elsewhere =
        facts.survey.typed.iter().find(|typed| {
            typed.outcome.as_ref().is_ok_and(|seen| seen.status.member_id == member.id)
        });
    let (code, words) = match (&visit.outcome, elsewhere) {
        (Ok(seen), _) if seen.status.member_id == member.id => return None,
        (Ok(seen), _) => {
            let words = format!(
                "at its address {} answers {} of cluster {}, member id {}",
                visit.address, seen.status.name, seen.status.cluster_id, seen.status.member_id
            );
            ("wrong_node", words)
        }
        (Err(reason), Some(typed)) => {
            let words = format!(
                "answers at {}, and not where clients are sent, {}: {reason}",
                typed.address, visit.address
            );
            ("wrong_address", words)
        }
        (Err(reason), None) => ("unreachable", format!("no answer at {}: {reason}", visit.address)),
    };
    let finding = Finding::new(Error, code, name, words);
    Some(match (code, &visit.outcome) {
        ("unreachable", Err(reason)) => finding
            .why("A voter that is gone is one that the cluster cannot lose any more; a learner falls behind.")
            .advice(client_hint(reason)),
        ("wrong_node", _) => finding
            .why("Clients that mean this member write to another node.")
            .advice("Start the member at an address of its own: -port, -advertise."),
        _ => finding
            .why("Clients that follow the list of members, and those that are redirected, do not reach it.")
            .advice("Start it with -advertise HOST, a host under which others reach it."),
    })
}

/// Members that registered an address that means each reader's own machine.
fn places(facts: &Facts) -> Vec<Finding> {
    let members = || facts.survey.members.iter().map(|(member, _)| member);
    let is_far = |member: &MemberStatus| !is_loopback(&member.raft);
    if !members().any(is_far) {
        return Vec::new();
    }
    let found = members().filter(|member| is_loopback(&member.raft) || is_loopback(&member.client));
    found
        .map(|member| {
            let words = format!(
                "is registered at {} for members and {} for clients",
                member.raft, member.client
            );
            Finding::new(Error, "loopback_address", &member.name, words)
                .why("On every other machine such an address means that machine itself.")
                .advice("Start it with -advertise HOST, a host under which others reach it.")
        })
        .collect()
}

fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or("", |(host, _)| host);
    host == "localhost" || host == "[::1]" || host.starts_with("127.")
}

/// What a node says of its place in the cluster.
fn standing(facts: &Facts, seen: &Seen) -> Vec<Finding> {
    let (first, status) = (&seen.status, facts.newest(seen));
    let name = status.name.as_str();
    let mut found = Vec::new();
    if let Some(words) = &status.moved {
        found.push(
            Finding::new(Warning, "not_registered", name, words.clone())
                .why("The others look for it where it was, until the cluster has its new address.")
                .advice("Start members until a majority runs: the new address is then put into the log by itself."),
        );
    }
    let has_leader = facts.leader().is_some();
    if has_leader && status.leader.is_none() && status.role != "leader" {
        found.push(
            Finding::new(Error, "cut_off", name, "answers here, and knows no leader although there is one")
                .why("It serves no writes and no linearizable reads, and falls behind.")
                .advice("See whether it reaches the -raft addresses of the others (`diskstore members`), and they its own."),
        );
    }
    if first.voters_changing && status.voters_changing && !facts.later.is_empty() {
        found.push(
            Finding::new(Warning, "half_changed", name, "a change of the voters is half way")
                .why("Until it ends, majorities of the old and of the new voters are needed.")
                .advice("Start the members that do not answer; the leader then ends the change by itself."),
        );
    }
    let more = status.leader_changes.saturating_sub(first.leader_changes);
    let hours = status.uptime_s.max(3600) / 3600;
    let many = status.leader_changes > LEADERS_MANY
        && status.leader_changes / hours >= LEADERS_MANY_HOURLY;
    if more > 0 || many {
        let (count, up) = (status.leader_changes, duration(status.uptime_s));
        found.push(
            Finding::new(Warning, "elections", name, format!("has known {count} leaders in {up}"))
                .why("Each change of the leader is a pause of writes.")
                .advice("Look for a disk that stalls or a network that loses packets: the logs say who lost whom."),
        );
    }
    found
}

/// What the leader says of the others.
fn followers(facts: &Facts, leader: &Seen) -> Vec<Finding> {
    let (first, status) = (&leader.status, facts.newest(leader));
    let answers = facts.survey.answers();
    let mut found = Vec::new();
    for member in &status.members {
        let name = member.name.as_str();
        let before = first.members.iter().find(|before| before.id == member.id);
        let own = answers.iter().find(|seen| seen.status.member_id == member.id);
        if member.silent == Some(true) && own.is_some() {
            let words = format!("answers here, but not its leader {}", status.name);
            found.push(
                Finding::new(Error, "unheard", name, words)
                    .why("It gets no entries and counts in no majority.")
                    .advice(format!(
                        "See whether {} reaches {}, its address for members, and TLS is the same on both.",
                        status.name, member.raft
                    )),
            );
        }
        found.extend(lagging(facts, member, before));
        found.extend(learner(member, own.map(|seen| &seen.status)));
    }
    found
}

fn lagging(facts: &Facts, member: &MemberStatus, before: Option<&MemberStatus>) -> Option<Finding> {
    let (lag, earlier) = (member.lag?, before?.lag?);
    if lag < LAG_MANY || earlier < LAG_MANY || member.silent == Some(true) {
        return None; // a silent one is told of already
    }
    let course = if facts.later.is_empty() {
        String::new()
    } else if lag < earlier {
        format!(
            ", {} fewer than {} before",
            digits(earlier - lag),
            duration(facts.between.as_secs())
        )
    } else {
        format!(
            ", {} more than {} before",
            digits(lag - earlier),
            duration(facts.between.as_secs())
        )
    };
    let words = format!("lacks {} entries of the leader's log{course}", digits(lag));
    Some(
        Finding::new(Warning, "lag", &member.name, words)
            .why("Until it has caught up, it helps no majority, and its local reads are old.")
            .advice("If it gets fewer, wait; otherwise compare its syncs and its network with those of the others: \
                     diskstore status -addr EACH."),
    )
}

/// A member without a vote that is to have one, or was to.
fn learner(member: &MemberStatus, own: Option<&Status>) -> Option<Finding> {
    let name = member.name.as_str();
    if member.role != "learner" || member.never_votes != Some(false) {
        return None; // loggers, and what older nodes do not tell
    }
    if member.is_standby {
        return Some(
            Finding::new(Note, "standby", name, "follows without a vote, as somebody ordered")
                .why("It does not help when a voter is lost.")
                .advice(format!("diskstore members promote {name}")),
        );
    }
    if own.is_some_and(|status| status.uptime_s < PROMOTION_S) {
        return None;
    }
    let up = own.map_or(String::new(), |status| format!(" for {}", duration(status.uptime_s)));
    let lag = member.lag.unwrap_or_default();
    let (state, advice) = match (member.silent, lag) {
        (Some(true), _) => (
            "does not answer its leader".to_owned(),
            format!("Start it; or, if it is lost, take it out: diskstore members remove {name}"),
        ),
        (_, 0) => (
            "lacks nothing".to_owned(),
            "A change is begun only where it can end: start the voters that do not answer; the leader's log \
             says more."
                .to_owned(),
        ),
        (_, lag) => (
            format!("lacks {} entries", digits(lag)),
            "It votes once it is level with the leader for two seconds. If it never is, its disk or network is \
             too slow for this load: diskstore status -addr EACH."
                .to_owned(),
        ),
    };
    Some(
        Finding::new(Warning, "never_promoted", name, format!("is no voter yet{up}: it {state}"))
            .why("The cluster can lose no more members than before it joined.")
            .advice(advice),
    )
}

/// Clocks that are far from most of the others, this machine's among them.
fn clocks(facts: &Facts) -> Vec<Finding> {
    struct Clock<'a> {
        name: &'a str,
        ahead_ms: i64,
        error_ms: u64,
    }
    let own = Clock { name: "", ahead_ms: 0, error_ms: 0 };
    let nodes = facts.survey.answers().into_iter().filter_map(|seen| {
        let ahead =
            i64::try_from(seen.status.wall_ms?).ok()? - i64::try_from(seen.own_wall_ms).ok()?;
        Some(Clock { name: &seen.status.name, ahead_ms: ahead, error_ms: seen.took_ms })
    });
    let mut clocks: Vec<Clock<'_>> = std::iter::once(own).chain(nodes).collect();
    clocks.sort_by_key(|clock| clock.ahead_ms);
    let Some(middle) = clocks.get((clocks.len() - 1) / 2).map(|clock| clock.ahead_ms) else {
        return Vec::new();
    };
    let is_off =
        |clock: &&Clock<'_>| clock.ahead_ms.abs_diff(middle) > CLOCK_APART_MS + clock.error_ms;
    let told = |clock: &Clock<'_>| {
        let side = if clock.ahead_ms > middle { "ahead of" } else { "behind" };
        let apart = std::time::Duration::from_millis(clock.ahead_ms.abs_diff(middle));
        let words = format!("its clock is {:.1} s {side} those of the others", apart.as_secs_f64());
        let place = if clock.name.is_empty() { "this machine" } else { clock.name };
        Finding::new(Warning, "clock", place, words)
            .why("Certificates and tokens end too early or too late, and logs cannot be compared; no write depends \
                  on it.")
            .advice("Run a time service on it (chrony, systemd-timesyncd): timedatectl status")
    };
    clocks.iter().filter(is_off).map(told).collect()
}

fn versions(facts: &Facts) -> Option<Finding> {
    let answers = facts.survey.answers();
    let mut versions: Vec<&str> = answers
        .iter()
        .map(|seen| seen.status.version.as_str())
        .filter(|it| !it.is_empty())
        .collect();
    versions.sort_unstable();
    versions.dedup();
    (versions.len() > 1).then(|| {
        Finding::new(Note, "mixed_versions", "", format!("nodes run {}", versions.join(", ")))
            .why("That is meant to last no longer than an upgrade.")
            .advice("Stop, replace and start the older ones, one after the other.")
    })
}
