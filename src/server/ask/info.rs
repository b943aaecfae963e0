//! INFO: the state of this node, in the sections and fields of Redis.

use std::fmt::Write as _;
use std::time::Duration;

use super::cluster::{host_and_port, is_leader, leader_of, node_id};
use super::{REDIS_VERSION, Server};
use crate::descriptors::Shares;
use crate::messages::MessageCounts;
use crate::server::counters::{CommandCount, Counts};
use crate::server::process::Process;
use crate::status::{MemberStatus, RefusalStatus, Status};

/// What writes one section of INFO.
type Section = fn(&Facts, &mut Text);

/// What INFO tells.
pub(super) struct Facts {
    /// The time since 1970.
    time: Duration,
    status: Status,
    connections: usize,
    connections_max: usize,
    connections_ever: u64,
    process: Process,
    counts: Counts,
    messages: MessageCounts,
}

impl Facts {
    /// The facts of this moment.
    pub(super) fn now(server: &Server) -> Facts {
        Facts {
            time: server.node.host().clock.wall(),
            status: server.node.status(),
            connections: server.clients.count(),
            connections_max: Shares::now().clients,
            connections_ever: server.clients.count_ever(),
            process: Process::now(),
            counts: server.clients.counters().now(),
            messages: server.node.messages().counts(),
        }
    }

    /// The sections asked for; all of them if none is, or if `all` or the like is among them.
    pub(super) fn text(&self, sections: &[String]) -> String {
        let every = ["all", "default", "everything"];
        let all = sections.is_empty() || sections.iter().any(|name| every.contains(&name.as_str()));
        let mut text = Text::default();
        let known: [(&str, Section); 10] = [
            ("server", Facts::server),
            ("clients", Facts::clients),
            ("memory", Facts::memory),
            ("persistence", Facts::persistence),
            ("stats", Facts::stats),
            ("replication", Facts::replication),
            ("cpu", Facts::cpu),
            ("commandstats", Facts::command_stats),
            ("cluster", Facts::cluster),
            ("keyspace", Facts::keyspace),
        ];
        for (name, write) in known {
            if all || sections.iter().any(|section| section == name) {
                if !text.0.is_empty() {
                    text.line(format_args!(""));
                }
                let (first, rest) = name.split_at(1);
                text.line(format_args!("# {}{rest}", first.to_ascii_uppercase()));
                write(self, &mut text);
            }
        }
        text.0
    }

    fn server(&self, text: &mut Text) {
        let Status { version, name, uptime_s, .. } = &self.status;
        text.line(format_args!("redis_version:{REDIS_VERSION}"));
        text.line(format_args!("redis_mode:standalone"));
        text.line(format_args!("os:{}", std::env::consts::OS));
        text.line(format_args!("arch_bits:{}", usize::BITS));
        text.line(format_args!("diskstore_version:{version}"));
        text.line(format_args!("node_name:{name}"));
        text.line(format_args!("run_id:{}", node_id(&self.status.member_id)));
        text.line(format_args!("process_id:{}", std::process::id()));
        text.line(format_args!("server_time_usec:{}", self.time.as_micros()));
        text.line(format_args!("uptime_in_seconds:{uptime_s}"));
        text.line(format_args!("uptime_in_days:{}", uptime_s / 86_400));
    }

    fn clients(&self, text: &mut Text) {
        text.line(format_args!("connected_clients:{}", self.connections));
        text.line(format_args!("maxclients:{}", self.connections_max));
        text.line(format_args!("blocked_clients:0"));
        text.line(format_args!("pubsub_clients:{}", self.messages.subscribers));
    }

    fn memory(&self, text: &mut Text) {
        text.line(format_args!("used_memory:{}", self.process.resident_bytes));
        text.line(format_args!("used_memory_rss:{}", self.process.resident_bytes));
        text.line(format_args!("maxmemory:0"));
        text.line(format_args!("maxmemory_policy:noeviction"));
    }

    fn persistence(&self, text: &mut Text) {
        let status = &self.status;
        text.line(format_args!("loading:0"));
        text.line(format_args!("aof_enabled:1"));
        text.line(format_args!("checkpoint_index:{}", status.checkpoint));
        text.line(format_args!("purged_index:{}", status.purged));
        text.line(format_args!("log_syncs:{}", status.sync.count));
        text.line(format_args!("log_sync_p50_us:{}", status.sync.p50_us));
        text.line(format_args!("log_sync_p99_us:{}", status.sync.p99_us));
        text.line(format_args!("log_sync_max_us:{}", status.sync.max_us));
        text.line(format_args!("damaged_slots:{}", status.damaged_slots));
        text.line(format_args!("unsafe_flags:{}", status.unsafe_flags.join(",")));
        for (nth, refusal) in status.refusals.iter().enumerate() {
            let RefusalStatus { reason, since_s, doing, .. } = refusal;
            text.line(format_args!("refusal{nth}:since_s={since_s},reason={reason},doing={doing}"));
        }
    }

    fn stats(&self, text: &mut Text) {
        let counts = &self.counts;
        text.line(format_args!("total_connections_received:{}", self.connections_ever));
        text.line(format_args!("total_commands_processed:{}", counts.call_count()));
        text.line(format_args!("total_net_input_bytes:{}", counts.received_bytes));
        text.line(format_args!("total_net_output_bytes:{}", counts.sent_bytes));
        text.line(format_args!("expired_keys:0"));
        text.line(format_args!("evicted_keys:0"));
        text.line(format_args!("keyspace_hits:{}", counts.hits));
        text.line(format_args!("keyspace_misses:{}", counts.misses));
        let messages = &self.messages;
        text.line(format_args!("pubsub_channels:{}", messages.channels));
        text.line(format_args!("pubsub_patterns:{}", messages.patterns));
        text.line(format_args!("pubsub_delivered:{}", messages.delivered));
        text.line(format_args!("pubsub_ended_by_gaps:{}", messages.ended_gap));
        let slow = messages.ended_slow;
        text.line(format_args!("client_output_buffer_limit_disconnections:{slow}"));
    }

    fn cpu(&self, text: &mut Text) {
        let Process { system, user, .. } = self.process;
        for (name, used) in [("used_cpu_sys", system), ("used_cpu_user", user)] {
            let (seconds, hundredths) = (used.as_secs(), used.subsec_millis() / 10);
            text.line(format_args!("{name}:{seconds}.{hundredths:02}"));
        }
    }

    fn command_stats(&self, text: &mut Text) {
        for CommandCount { name, calls, rejected } in &self.counts.commands {
            text.line(format_args!("cmdstat_{name}:calls={calls},rejected_calls={rejected}"));
        }
    }

    #[expect(clippy::unused_self, reason = "as every section")]
    fn cluster(&self, text: &mut Text) {
        text.line(format_args!("cluster_enabled:0"));
    }

    fn replication(&self, text: &mut Text) {
        let status = &self.status;
        let leads = is_leader(status);
        text.line(format_args!("role:{}", if leads { "master" } else { "slave" }));
        if leads {
            let others = status.members.iter().filter(|member| member.name != status.name);
            text.line(format_args!(
                "connected_slaves:{}",
                others.clone().filter(|member| is_heard(member)).count()
            ));
            for (number, member) in others.enumerate() {
                let (host, port) = host_and_port(&member.client);
                let state = if is_heard(member) { "online" } else { "offline" };
                let offset = member.matched.unwrap_or_default();
                // Seconds since it was heard, as in Redis; -1 if it never was.
                let lag = member.heard_ms.map_or("-1".to_owned(), |ms| (ms / 1000).to_string());
                let behind = member.lag.map_or(String::new(), |lag| format!(",behind={lag}"));
                text.line(format_args!(
                    "slave{number}:ip={host},port={port},state={state},offset={offset},lag={lag}\
                     {behind}"
                ));
            }
        } else {
            let leader = leader_of(status);
            let (host, port) = leader.map_or(("", "0"), |member| host_and_port(&member.client));
            let is_heard = leader.is_some() && status.no_majority_s.is_none();
            let link = if is_heard { "up" } else { "down" };
            text.line(format_args!("master_host:{host}"));
            text.line(format_args!("master_port:{port}"));
            text.line(format_args!("master_link_status:{link}"));
            text.line(format_args!("slave_read_only:0"));
            text.line(format_args!("connected_slaves:0"));
        }
        text.line(format_args!("raft_role:{}", status.role));
        text.line(format_args!("raft_term:{}", status.term));
        text.line(format_args!("raft_leader:{}", status.leader.as_deref().unwrap_or("")));
        let majority = u8::from(status.no_majority_s.is_none());
        text.line(format_args!("raft_majority:{majority}"));
        if let Some(seconds) = status.no_majority_s {
            text.line(format_args!("raft_no_majority_seconds:{seconds}"));
        }
        text.line(format_args!("raft_committed:{}", status.committed));
        text.line(format_args!("raft_applied:{}", status.applied));
        text.line(format_args!("raft_last_log:{}", status.last_log));
        text.line(format_args!("master_repl_offset:{}", status.applied));
    }

    fn keyspace(&self, text: &mut Text) {
        if self.status.slots > 0 {
            text.line(format_args!("slot_count:{}", self.status.slots));
            text.line(format_args!("slot_value_bytes_max:{}", self.status.value_size));
        } else {
            text.line(format_args!("value_bytes_max:{}", self.status.value_size));
        }
        if let Some(live) = self.status.live.filter(|live| *live > 0) {
            text.line(format_args!("db0:keys={live},expires=0,avg_ttl=0"));
        }
    }
}

/// Lines as INFO has them.
#[derive(Default)]
pub(super) struct Text(pub(super) String);

impl Text {
    pub(super) fn line(&mut self, line: std::fmt::Arguments<'_>) {
        let written = self.0.write_fmt(line);
        written.expect("invariant: writing to a string does not fail");
        self.0.push_str("\r\n");
    }
}

/// Whether the leader has heard from a member lately.
fn is_heard(member: &MemberStatus) -> bool {
    member.heard_ms.is_some() && member.silent != Some(true)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::status;
    use super::*;

    fn facts(role: &str) -> Facts {
        let get = CommandCount { name: "get", calls: 5, rejected: 1 };
        let (system, user) = (Duration::from_millis(2050), Duration::from_millis(70));
        let counts = Counts { commands: vec![get], hits: 3, misses: 2, ..Counts::default() };
        Facts {
            time: Duration::from_secs(1_000_000_000),
            status: status(role),
            connections: 1,
            connections_max: 9,
            connections_ever: 2,
            process: Process { system, user, ..Process::default() },
            counts,
            messages: MessageCounts::default(),
        }
    }

    fn info(role: &str, sections: &[&str]) -> String {
        facts(role).text(&sections.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn info_has_the_sections_asked_for() {
        let all = info("leader", &[]);
        for line in ["# Server", "loading:0", "role:master", "connected_clients:1", "maxmemory:0"] {
            assert!(all.contains(&format!("{line}\r\n")), "{line}");
        }
        assert!(
            all.contains("slave0:ip=::1,port=11001,state=online,offset=5,lag=0,behind=2\r\n"),
            "{all}"
        );
        for line in [
            "arch_bits:64",
            "cluster_enabled:0",
            "total_commands_processed:5",
            "keyspace_hits:3",
            "keyspace_misses:2",
            "used_cpu_sys:2.05",
            "used_cpu_user:0.07",
            "cmdstat_get:calls=5,rejected_calls=1",
        ] {
            assert!(all.contains(&format!("{line}\r\n")), "{line}");
        }
        let replication = info("follower", &["replication"]);
        assert!(replication.starts_with("# Replication\r\nrole:slave\r\nmaster_host:::1\r\n"));
        assert!(!replication.contains("loading"));
        assert_eq!(info("leader", &["nothing"]), "");
    }

    #[test]
    fn info_says_who_is_not_heard_and_that_no_majority_is() {
        let mut status = status("leader");
        status.no_majority_s = Some(7);
        status.members[1].heard_ms = Some(7200);
        status.members[1].silent = Some(true);
        let mut text = Text::default();
        let facts = Facts { status, ..facts("leader") };
        facts.replication(&mut text);
        assert!(text.0.contains("connected_slaves:0\r\n"), "{}", text.0);
        let line = "slave0:ip=::1,port=11001,state=offline,offset=5,lag=7,behind=2\r\n";
        assert!(text.0.contains(line), "{}", text.0);
        let lines = "raft_majority:0\r\nraft_no_majority_seconds:7\r\n";
        assert!(text.0.contains(lines), "{}", text.0);
        assert!(super::super::cluster::info(&facts.status).contains("cluster_state:fail"));
    }
}
