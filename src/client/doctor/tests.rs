use std::collections::BTreeSet;

use super::*;
use crate::client::survey::Visit;
use crate::status::{MemberStatus, RefusalStatus, StageStatus, SyncStatus, TlsStatus};

/// The moment of the first look, and the time between both.
const NOW_S: i64 = 1_800_000_000;
const BETWEEN: Duration = Duration::from_secs(2);
/// Place of the bucket whose end is about 1 ms, 16 ms, 131 ms and 1 s.
const MS: usize = 9;
const MS_16: usize = 13;
const MS_131: usize = 16;
const S: usize = 19;

fn id(nth: usize) -> String {
    format!("{nth:016x}")
}

fn member(nth: usize) -> MemberStatus {
    MemberStatus {
        id: id(nth),
        name: format!("node{nth}"),
        role: if nth == 0 { "leader" } else { "follower" }.to_owned(),
        client: format!("10.0.0.{nth}:11000"),
        raft: format!("10.0.0.{nth}:12000"),
        lag: Some(3),
        silent: Some(false),
        never_votes: Some(false),
        ..MemberStatus::default()
    }
}

/// So many of each stage, all in this bucket.
fn stages(bucket: usize, count: u64) -> Vec<StageStatus> {
    let mut buckets = vec![0; bucket + 1];
    buckets[bucket] = count;
    let stage = |stage: &str| StageStatus { stage: stage.to_owned(), buckets: buckets.clone() };
    ["queue", "append", "sync", "commit", "apply"].map(stage).into()
}

fn status(nth: usize) -> Status {
    Status {
        version: "1".to_owned(),
        name: format!("node{nth}"),
        member_id: id(nth),
        cluster_id: "c".to_owned(),
        role: if nth == 0 { "leader" } else { "follower" }.to_owned(),
        term: 3,
        leader: Some("node0".to_owned()),
        leader_changes: 1,
        members: (0..3).map(member).collect(),
        disk_used_bytes: 1 << 20,
        disk_left_bytes: 9 << 30,
        file_system: Some("ext4".to_owned()),
        stages: stages(MS, 5000),
        sync: SyncStatus::default(),
        uptime_s: 7200,
        wall_ms: Some(1_800_000_000_300),
        tls: Some(TlsStatus {
            certificate_not_after_s: NOW_S + 90 * 86_400,
            authority_not_after_s: NOW_S + 900 * 86_400,
            ..TlsStatus::default()
        }),
        ..Status::default()
    }
}

/// Three nodes that are well and had 100 more batches between the looks, each as quick as usual.
fn healthy() -> Facts {
    let seen =
        |nth: usize| Seen { status: status(nth), own_wall_ms: 1_800_000_000_000, took_ms: 2 };
    let visit = |nth: usize| Visit { address: member(nth).client, outcome: Ok(seen(nth)) };
    let later = |nth: usize| (id(nth), Status { stages: stages(MS, 5100), ..status(nth) });
    Facts {
        survey: Survey {
            typed: vec![visit(0)],
            members: (0..3).map(|nth| (member(nth), Some(visit(nth)))).collect(),
            cluster_id: status(0).cluster_id,
        },
        later: (0..3).map(later).collect(),
        between: BETWEEN,
        now_s: NOW_S,
        probe: None,
    }
}

/// Changes what all looks at a node saw.
fn of_node(facts: &mut Facts, nth: usize, change: impl Fn(&mut Status)) {
    let visits = facts.survey.typed.iter_mut();
    let visits =
        visits.chain(facts.survey.members.iter_mut().filter_map(|(_, visit)| visit.as_mut()));
    let statuses =
        visits.filter_map(|visit| visit.outcome.as_mut().ok()).map(|seen| &mut seen.status);
    let all = statuses.chain(facts.later.values_mut());
    all.filter(|status| status.member_id == id(nth)).for_each(change);
}

/// Changes what all know of a member.
fn of_member(facts: &mut Facts, nth: usize, change: impl Fn(&mut MemberStatus)) {
    change(&mut facts.survey.members[nth].0);
    for by in 0..3 {
        of_node(facts, by, |status| status.members.get_mut(nth).into_iter().for_each(&change));
    }
}

/// The node answers no more.
fn silence(facts: &mut Facts, nth: usize, reason: &str) {
    let gone = |visit: &mut Visit| visit.outcome = Err(reason.to_owned());
    facts.survey.members[nth].1.iter_mut().for_each(gone);
    let address = member(nth).client;
    facts.survey.typed.iter_mut().filter(|visit| visit.address == address).for_each(gone);
    facts.later.remove(&id(nth));
}

/// Times of a stage between the looks alone.
fn recently(facts: &mut Facts, nth: usize, stage: &str, bucket: usize, count: u64) {
    let later = facts.later.get_mut(&id(nth)).unwrap();
    let found = later.stages.iter_mut().find(|found| found.stage == stage).unwrap();
    found.buckets = status(nth).stages[0].buckets.clone();
    found.buckets.resize(bucket + 1, 0);
    found.buckets[bucket] += count;
}

/// Where there are so many voters.
fn of_voters(facts: &mut Facts, count: usize) {
    facts.survey.members.truncate(count);
    let nodes: BTreeSet<_> = (0..count).map(id).collect();
    facts.later.retain(|id, _| nodes.contains(id));
    for nth in 0..count {
        of_node(facts, nth, |status| status.members.truncate(count));
    }
}

type Case = (&'static str, fn(&mut Facts));

/// What is found, and what has to be so for it.
const CASES: &[Case] = &[
    ("Error unreachable node2; Warning no_spare", |facts| silence(facts, 2, "refused")),
    ("Error unreachable 10.0.0.9:1", |facts| {
        let (address, outcome) = ("10.0.0.9:1".to_owned(), Err("refused".to_owned()));
        facts.survey.typed.push(Visit { address, outcome });
    }),
    ("Error unreachable h:1", |facts| {
        let (address, outcome) = ("h:1".to_owned(), Err("refused".to_owned()));
        *facts = Facts::default();
        facts.survey.typed.push(Visit { address, outcome });
    }),
    ("Error no_majority; Error unreachable node1; Error unreachable node2", |facts| {
        silence(facts, 1, "refused");
        silence(facts, 2, "no answer within 3 s");
        of_node(facts, 0, |status| status.no_majority_s = Some(9));
    }),
    ("Error no_majority", |facts| {
        (0..3).for_each(|nth| {
            of_node(facts, nth, |status| {
                (status.role, status.leader) = ("candidate".to_owned(), None);
            });
        });
    }),
    ("Note single_voter", |facts| of_voters(facts, 1)),
    ("Warning no_spare", |facts| of_voters(facts, 2)),
    ("Note even_voters", |facts| {
        let visit = |status: Status| Seen { status, own_wall_ms: 1_800_000_000_000, took_ms: 2 };
        (0..3).for_each(|nth| of_node(facts, nth, |status| status.members.push(member(3))));
        let (address, mut fourth) = (member(3).client, status(3));
        fourth.members.push(member(3));
        let outcome = Ok(visit(fourth));
        facts.survey.members.push((member(3), Some(Visit { address, outcome })));
    }),
    ("Error not_member 10.0.0.9:1", |facts| {
        let stranger =
            Status { cluster_id: "other".to_owned(), version: String::new(), ..status(7) };
        let stranger = Status { stages: Vec::new(), members: Vec::new(), term: 0, ..stranger };
        let outcome = Ok(Seen { status: stranger, own_wall_ms: 1_800_000_000_000, took_ms: 2 });
        facts.survey.typed.push(Visit { address: "10.0.0.9:1".to_owned(), outcome });
    }),
    ("Warning no_client_address node1; Warning no_spare", |facts| {
        of_member(facts, 1, |member| member.client.clear());
        facts.survey.members[1].1 = None;
        facts.later.remove(&id(1));
    }),
    ("Error wrong_node node1; Warning no_spare", |facts| {
        let other = facts.survey.members[2].1.clone();
        facts.survey.members[1].1 = other;
        facts.later.remove(&id(1));
    }),
    ("Error wrong_address node0", |facts| {
        let mut seen = facts.survey.typed[0].clone();
        seen.address = "127.0.0.1:11000".to_owned();
        facts.survey.typed = vec![seen];
        facts.survey.members[0]
            .1
            .iter_mut()
            .for_each(|visit| visit.outcome = Err("refused".to_owned()));
    }),
    ("Error loopback_address node1", |facts| {
        of_member(facts, 1, |member| member.raft = "127.0.0.1:12000".to_owned());
    }),
    ("Warning not_registered node1", |facts| {
        of_node(facts, 1, |status| status.moved = Some("it is elsewhere now".to_owned()));
    }),
    ("Error cut_off node2", |facts| {
        of_node(facts, 2, |status| (status.leader, status.role) = (None, "candidate".to_owned()));
    }),
    ("Warning half_changed node0", |facts| {
        of_node(facts, 0, |status| status.voters_changing = true);
    }),
    ("Warning elections node1", |facts| of_node(facts, 1, |status| status.leader_changes = 9)),
    ("Warning elections node1", |facts| {
        facts.later.get_mut(&id(1)).unwrap().leader_changes = 2;
    }),
    ("Error unheard node1", |facts| of_member(facts, 1, |member| member.silent = Some(true))),
    ("Warning lag node2", |facts| of_member(facts, 2, |member| member.lag = Some(60_000))),
    ("Note standby node2; Warning no_spare", |facts| {
        of_member(facts, 2, |member| {
            (member.role, member.is_standby) = ("learner".to_owned(), true);
        });
    }),
    ("Warning never_promoted node2; Warning no_spare", |facts| {
        of_member(facts, 2, |member| member.role = "learner".to_owned());
    }),
    ("Warning clock node1", |facts| {
        of_node(facts, 1, |status| status.wall_ms = Some(1_800_000_009_000));
    }),
    ("Warning clock this machine", |facts| {
        (0..3).for_each(|nth| {
            of_node(facts, nth, |status| status.wall_ms = Some(1_799_999_000_000));
        });
    }),
    ("Note mixed_versions", |facts| of_node(facts, 1, |status| status.version = "0".to_owned())),
    ("Error refusing node0", |facts| {
        let code = "log_space".to_owned();
        let refusal = RefusalStatus { code, since_s: 4, ..RefusalStatus::default() };
        of_node(facts, 0, |status| status.refusals = vec![refusal.clone()]);
    }),
    ("Warning refusing node0", |facts| {
        let code = crate::status::CATCHING_UP.to_owned();
        let refusal = RefusalStatus { code, since_s: 4, ..RefusalStatus::default() };
        of_node(facts, 0, |status| status.refusals = vec![refusal.clone()]);
    }),
    ("Error damaged_slots node2", |facts| of_node(facts, 2, |status| status.damaged_slots = 1)),
    ("Error disk_full node1", |facts| of_node(facts, 1, |status| status.disk_left_bytes = 1 << 20)),
    ("Warning disk_full node1", |facts| {
        of_node(facts, 1, |status| status.disk_left_bytes = 1 << 30);
    }),
    ("Error memory_disk node1", |facts| on(facts, "tmpfs")),
    ("Warning layer_disk node1", |facts| on(facts, "overlay")),
    ("Warning network_disk node1", |facts| on(facts, "nfs4")),
    ("Error certificate node1", |facts| {
        of_node(facts, 1, |status| status.tls.as_mut().unwrap().certificate_not_after_s = NOW_S);
    }),
    ("Warning certificate node1", |facts| {
        let end = NOW_S + 13 * 86_400;
        of_node(facts, 1, |status| status.tls.as_mut().unwrap().certificate_not_after_s = end);
    }),
    ("Warning authority node1", |facts| {
        let end = NOW_S + 29 * 86_400;
        of_node(facts, 1, |status| status.tls.as_mut().unwrap().authority_not_after_s = end);
    }),
    ("Note unsafe_flag node1", |facts| {
        of_node(facts, 1, |status| status.unsafe_flags = vec!["-sync never".to_owned()]);
    }),
    ("Note dropped_lines node1", |facts| of_node(facts, 1, |status| status.dropped_lines = 1)),
    ("Warning slow_stage node1; Warning slowest_disk node1", |facts| {
        recently(facts, 1, "sync", S, 50);
    }),
    ("Warning slow_stage node0", |facts| recently(facts, 0, "queue", S, 50)),
    ("Warning slow_stage node2", |facts| recently(facts, 2, "apply", S, 50)),
    ("Warning slow_stage node2", |facts| recently(facts, 2, "append", S, 50)),
    ("Warning slower_than_usual node1; Warning slowest_disk node1", |facts| {
        recently(facts, 1, "sync", MS_131, 50);
    }),
    ("Warning slower_than_usual node0", |facts| recently(facts, 0, "queue", MS_16, 50)),
    ("Warning slower_than_usual node0; Warning slow_network node0", |facts| {
        recently(facts, 0, "commit", MS_131, 50);
    }),
    ("Warning slow_stage node0; Warning slow_network node0", |facts| {
        recently(facts, 0, "commit", S, 50);
    }),
    ("Warning slow_disk /d", |facts| {
        let syncs_us = vec![30_000; 100];
        let left_bytes = Some(9 << 30);
        facts.probe =
            Some(Probe { directory: "/d".into(), syncs_us, left_bytes, ..Probe::default() });
    }),
    ("Error disk_failed /d", |facts| {
        let (failed, left_bytes) = (Some("no end".to_owned()), Some(9 << 30));
        facts.probe =
            Some(Probe { directory: "/d".into(), failed, left_bytes, ..Probe::default() });
    }),
];

fn on(facts: &mut Facts, kind: &str) {
    of_node(facts, 1, |status| status.file_system = Some(kind.to_owned()));
}

fn told_as(finding: &Finding) -> String {
    let place = finding.place.as_ref().map_or(String::new(), |place| format!(" {place}"));
    format!("{:?} {}{place}", finding.severity, finding.code)
}

#[test]
fn nodes_that_are_well_have_no_findings() {
    let findings = healthy().findings();
    assert!(findings.is_empty(), "{findings:?}");
}

#[test]
fn each_finding_is_made_of_its_facts_alone() {
    for (expected, change) in CASES {
        let mut facts = healthy();
        change(&mut facts);
        let findings = facts.findings();
        let mut found: Vec<_> = findings.iter().map(told_as).collect();
        let mut expected: Vec<_> = expected.split("; ").collect();
        found.sort();
        expected.sort_unstable();
        assert_eq!(found, expected, "{findings:?}");
        assert!(findings.is_sorted_by_key(|finding| finding.severity), "the worst first");
        for Finding { seen, why, advice, .. } in findings {
            assert!(![seen.as_str(), why, advice.as_str()].contains(&""), "{seen} {why} {advice}");
        }
    }
}

#[test]
fn facts_that_are_near_a_finding_are_none() {
    let near: &[fn(&mut Facts)] = &[
        // What an older node does not tell.
        |facts| {
            of_member(facts, 1, |member| member.never_votes = None);
            of_node(facts, 1, |status| {
                (status.file_system, status.wall_ms, status.stages) = (None, None, Vec::new());
                (status.disk_used_bytes, status.disk_left_bytes) = (0, 0);
                status.tls = None;
            });
        },
        |facts| of_node(facts, 1, |status| status.wall_ms = Some(1_800_000_000_900)),
        |facts| of_node(facts, 1, |status| status.leader_changes = 4),
        // One pause, or too few to tell.
        |facts| recently(facts, 1, "sync", S, 19),
        |facts| recently(facts, 1, "sync", MS + 2, 50),
        // Only a leader's commits are what clients wait for.
        |facts| recently(facts, 1, "commit", S, 50),
        |facts| of_member(facts, 1, |member| member.lag = Some(9000)),
        // A change that ended between the looks.
        |facts| {
            of_node(facts, 0, |status| status.voters_changing = true);
            facts.later.get_mut(&id(0)).unwrap().voters_changing = false;
        },
        // A machine on its own may be registered so.
        |facts| {
            (0..3).for_each(|nth| {
                of_member(facts, nth, |member| {
                    (member.raft, member.client) =
                        ("127.0.0.1:1".to_owned(), "localhost:2".to_owned());
                });
            });
        },
    ];
    for (at, change) in near.iter().enumerate() {
        let mut facts = healthy();
        change(&mut facts);
        let findings = facts.findings();
        assert!(findings.is_empty(), "{at}: {findings:?}");
    }
}

#[test]
fn a_learner_that_has_just_come_or_never_votes_is_well() {
    for never_votes in [Some(false), Some(true), None] {
        let mut facts = healthy();
        of_member(&mut facts, 2, |member| {
            (member.role, member.never_votes) = ("learner".to_owned(), never_votes);
        });
        if never_votes == Some(false) {
            of_node(&mut facts, 2, |status| status.uptime_s = 60);
        }
        let found: Vec<_> = facts.findings().iter().map(told_as).collect();
        assert_eq!(found, ["Warning no_spare"], "two voters");
    }
}

#[test]
fn a_node_that_started_anew_between_the_looks_is_judged_by_its_start() {
    let mut facts = healthy();
    facts.later.get_mut(&id(1)).unwrap().stages = stages(S, 30);
    let found: Vec<_> = facts.findings().iter().map(told_as).collect();
    let expected = ["sync", "append", "apply"].map(|_| "Warning slow_stage node1");
    assert_eq!(found[..3], expected);
}

#[test]
fn what_is_found_is_told_in_words_and_as_json() {
    let mut facts = healthy();
    of_node(&mut facts, 1, |status| status.damaged_slots = 1200);
    let findings = facts.findings();
    let text = told(&facts.health().summary, &findings, None);
    let expected = "\
health   3 of 3 voters answer, can lose 1

error    node1: 1,200 slots have a wrong checksum [damaged_slots]
         Reads of them are answered with an error here; ";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains("\n         -> Look at the disk "), "{text}");
    let json = serde_json::to_value(&findings[0]).unwrap();
    assert_eq!((&json["severity"], &json["where"]), (&"error".into(), &"node1".into()));
    let well = told("3 of 3 voters answer, can lose 1", &[], None);
    assert_eq!(well, "health   3 of 3 voters answer, can lose 1\nfindings none\n");
}

/// A code that the document lacks, or has though nothing is called so.
#[test]
fn every_code_is_in_the_document_and_the_other_way_round() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
    let document = std::fs::read_to_string(document).unwrap();
    let section = document.split("\n## What doctor finds\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let documented: BTreeSet<_> = rows.filter_map(|row| row.split('`').next()).collect();
    let expected = CASES.iter().flat_map(|(expected, _)| expected.split("; "));
    let codes: BTreeSet<_> = expected.filter_map(|told| told.split(' ').nth(1)).collect();
    assert_eq!(documented, codes);
}
