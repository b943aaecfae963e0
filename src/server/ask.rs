//! Answers about the node itself: INFO, HELLO, ROLE, CLUSTER, SCAN and their like.
//!
//! Called by the session; calls the node. Everything that is said here comes from the node's
//! status at the moment of the question.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::Server;
use super::counters::{CommandCount, Counts};
use super::resp::{Connection, Encoder, Question, failure_text, matches};
use crate::command::Failure;
use crate::descriptors::Shares;
use crate::node::{RemoveError, Replica};
use crate::status::{MemberStatus, RefusalStatus, Status};

/// The version of Redis whose commands and replies are followed.
const REDIS_VERSION: &str = "7.2.0";
/// Hash slots of a Redis cluster; one range holds them all.
const HASH_SLOT_LAST: i64 = 16_383;
/// Units of the times in `/proc`, the same on every machine that this runs on (`USER_HZ`).
const TICKS_A_SECOND: u64 = 100;
/// A member that answered its leader within this time is online: an election's longest wait.
const HEARD_MS_MAX: u64 = 3000;
/// Characters of a node's id in Redis.
const NODE_ID_WIDTH: usize = 40;

/// Answers one question of a connection.
pub(crate) async fn answer(
    server: &Server,
    connection: &Connection,
    question: &Question,
    to: &mut Encoder<'_>,
) {
    match question {
        Question::ClientInfo => to.verbatim(&connection.client().line()),
        Question::ClientList(ids) => to.verbatim(&server.clients.lines(ids)),
        Question::NoClients => to.verbatim(""),
        Question::ClusterInfo => to.verbatim(&cluster_info(&server.node.status())),
        Question::ClusterMyId => to.bulk(node_id(&server.node.status().member_id).as_bytes()),
        Question::ClusterNodes => to.verbatim(&cluster_nodes(&server.node.status())),
        Question::ClusterShards => write_cluster_shards(to, &server.node.status()),
        Question::ClusterSlots => write_cluster_slots(to, &server.node.status()),
        Question::Hello => write_hello(to, connection.client().id(), &server.node.status()),
        Question::Info(sections) => {
            let facts = Facts {
                status: server.node.status(),
                connections: server.clients.count(),
                connections_max: Shares::now().clients,
                connections_ever: server.clients.count_ever(),
                resident_bytes: resident_bytes(),
                counts: server.clients.counters().now(),
                processor_ticks: processor_ticks(),
            };
            to.verbatim(&facts.text(sections));
        }
        Question::LastSave => to.count(server.node.last_save_s()),
        Question::RandomKey => match random_key(server, connection).await {
            Ok(key) => to.value(key.as_deref()),
            Err(failure) => to.error(&failure_text(&failure)),
        },
        Question::Remove(member) => match server.node.remove(member).await {
            Ok(()) => to.simple("OK"),
            Err(RemoveError::Refused(reason)) => to.error(&format!("ERR {reason}")),
            Err(RemoveError::Failed(failure)) => to.error(&failure_text(&failure)),
        },
        Question::Role => write_role(to, &server.node.status()),
        Question::Scan { from, count, pattern, strings } => {
            match scan(server, connection, *from, *count).await {
                Ok((keys, next)) => {
                    let wanted = |key: &Bytes| {
                        let pattern = pattern.as_ref();
                        *strings && pattern.is_none_or(|pattern| matches(pattern, key))
                    };
                    let keys = keys.into_iter().map(|key| server.keys.shown(key)).filter(wanted);
                    write_scan(to, next, &keys.collect::<Vec<_>>());
                }
                Err(failure) => to.error(&failure_text(&failure)),
            }
        }
        Question::Size => match size(server, connection).await {
            Ok(count) => to.count(count),
            Err(failure) => to.error(&failure_text(&failure)),
        },
        Question::Status => to.bulk(server.node.status().to_json().as_bytes()),
        Question::WaitAof { own, members, timeout } => {
            if !server.node.syncs_always() {
                to.error("ERR WAITAOF is refused: by -sync, writes are acknowledged unsynced");
                return;
            }
            let (own, held) = wait_aof(server, connection, *own, (*members, *timeout)).await;
            to.array(2);
            to.integer(i64::from(own));
            to.count(u64::try_from(held).unwrap_or(u64::MAX));
        }
        Question::Wait { members, timeout } => {
            let held = wait(server, connection.written_index(), *members, *timeout).await;
            to.count(u64::try_from(held).unwrap_or(u64::MAX));
        }
    }
}

async fn wait(server: &Server, index: u64, members: usize, timeout: Duration) -> usize {
    server.node.wait_replicas(index, members, timeout).await
}

/// Whether this node's disk holds the connection's last write, and how many members' disks do.
async fn wait_aof(
    server: &Server,
    connection: &Connection,
    own: bool,
    (members, timeout): (usize, Duration),
) -> (bool, usize) {
    let index = connection.freshness(server.node.read_level()).written_index;
    let held_here = server.node.wait_durable(index, if own { timeout } else { Duration::ZERO });
    let held_there = server.node.wait_replicas(index, members, timeout);
    futures_util::future::join(held_here, held_there).await
}

/// What this node holds, as fresh as the connection's reads have to be.
async fn replica<'a>(server: &'a Server, connection: &Connection) -> Result<Replica<'a>, Failure> {
    server.node.replica(connection.freshness(server.node.read_level())).await
}

async fn scan(
    server: &Server,
    connection: &Connection,
    from: u64,
    count: usize,
) -> Result<(Vec<Bytes>, Option<u64>), Failure> {
    replica(server, connection).await?.scan(from, count).await
}

async fn size(server: &Server, connection: &Connection) -> Result<u64, Failure> {
    replica(server, connection).await?.live_count().await
}

/// A key that holds a value: the first one from a random place on.
async fn random_key(server: &Server, connection: &Connection) -> Result<Option<Bytes>, Failure> {
    let replica = replica(server, connection).await?;
    let random = getrandom::u64().unwrap_or_default();
    let from = random.checked_rem(server.keys.scan_end()).unwrap_or_default();
    let mut place = Some(from);
    let mut wrapped = false;
    while let Some(start) = place {
        let (mut keys, next) = replica.scan(start, 1).await?;
        if let Some(key) = keys.pop() {
            return Ok(Some(server.keys.shown(key)));
        }
        place = match next {
            Some(next) if wrapped && next > from => None,
            Some(next) => Some(next),
            None if wrapped => None,
            None => {
                wrapped = true;
                Some(0)
            }
        };
    }
    Ok(None)
}

fn write_scan(to: &mut Encoder<'_>, next: Option<u64>, keys: &[Bytes]) {
    to.array(2);
    to.bulk(next.unwrap_or(0).to_string().as_bytes());
    to.array(keys.len());
    for key in keys {
        to.bulk(key);
    }
}

fn write_hello(to: &mut Encoder<'_>, client_id: u64, status: &Status) {
    to.map(7);
    for (name, text) in [("server", "diskstore"), ("version", REDIS_VERSION)] {
        to.bulk(name.as_bytes());
        to.bulk(text.as_bytes());
    }
    to.bulk(b"proto");
    to.integer(to.version_number());
    to.bulk(b"id");
    to.count(client_id);
    let role = if is_leader(status) { "master" } else { "replica" };
    for (name, text) in [("mode", "standalone"), ("role", role)] {
        to.bulk(name.as_bytes());
        to.bulk(text.as_bytes());
    }
    to.bulk(b"modules");
    to.array(0);
}

fn write_role(to: &mut Encoder<'_>, status: &Status) {
    if is_leader(status) {
        let others = status.members.iter().filter(|member| member.name != status.name);
        let others = others.collect::<Vec<_>>();
        to.array(3);
        to.bulk(b"master");
        to.count(status.applied);
        to.array(others.len());
        for member in others {
            let (host, port) = host_and_port(&member.client);
            let held = member.matched.unwrap_or_default().to_string();
            to.array(3);
            for text in [host, port, &held] {
                to.bulk(text.as_bytes());
            }
        }
        return;
    }
    let leader = leader_of(status);
    let (host, port) = leader.map_or(("", "0"), |member| host_and_port(&member.client));
    to.array(5);
    to.bulk(b"slave");
    to.bulk(host.as_bytes());
    to.integer(port.parse().unwrap_or_default());
    to.bulk(if leader.is_some() { b"connected" } else { b"connect" });
    to.count(status.applied);
}

fn write_cluster_slots(to: &mut Encoder<'_>, status: &Status) {
    let Some(leader) = leader_of(status) else { return to.array(0) };
    let others = status.members.iter().filter(|member| member.name != leader.name);
    let members = std::iter::once(leader).chain(others).collect::<Vec<_>>();
    to.array(1);
    to.array(2 + members.len());
    to.integer(0);
    to.integer(HASH_SLOT_LAST);
    for member in members {
        let (host, port) = host_and_port(&member.client);
        to.array(3);
        to.bulk(host.as_bytes());
        to.integer(port.parse().unwrap_or_default());
        to.bulk(node_id(&member.id).as_bytes());
    }
}

fn write_cluster_shards(to: &mut Encoder<'_>, status: &Status) {
    let leader = leader_of(status).map(|member| member.id.as_str());
    to.array(1);
    to.map(2);
    to.bulk(b"slots");
    to.array(2);
    to.integer(0);
    to.integer(HASH_SLOT_LAST);
    to.bulk(b"nodes");
    to.array(status.members.len());
    for member in &status.members {
        let (host, port) = host_and_port(&member.client);
        let role = if leader == Some(member.id.as_str()) { "master" } else { "replica" };
        let health = match member.silent {
            Some(true) => "fail",
            Some(false) => "online",
            None => "unknown",
        };
        to.map(7);
        to.bulk(b"port");
        to.integer(port.parse().unwrap_or_default());
        to.bulk(b"replication-offset");
        to.count(member.matched.unwrap_or_default());
        for (name, text) in [
            ("id", node_id(&member.id).as_str()),
            ("ip", host),
            ("endpoint", host),
            ("role", role),
            ("health", health),
        ] {
            to.bulk(name.as_bytes());
            to.bulk(text.as_bytes());
        }
    }
}

fn cluster_info(status: &Status) -> String {
    let is_ok = leader_of(status).is_some() && status.no_majority_s.is_none();
    let state = if is_ok { "ok" } else { "fail" };
    let members = status.members.len();
    format!(
        "cluster_enabled:0\r\ncluster_state:{state}\r\ncluster_slots_assigned:16384\r\n\
         cluster_slots_ok:16384\r\ncluster_slots_pfail:0\r\ncluster_slots_fail:0\r\n\
         cluster_known_nodes:{members}\r\ncluster_size:1\r\ncluster_current_epoch:{term}\r\n\
         cluster_my_epoch:{term}\r\n",
        term = status.term
    )
}

fn cluster_nodes(status: &Status) -> String {
    let leader = leader_of(status).map(|member| node_id(&member.id));
    let mut text = Text::default();
    for member in &status.members {
        let id = node_id(&member.id);
        let own = if member.name == status.name { "myself," } else { "" };
        let leads = leader.as_ref() == Some(&id);
        let role = if leads { "master" } else { "slave" };
        let above = leader.as_deref().filter(|_| !leads).unwrap_or("-");
        let slots = if leads { " 0-16383" } else { "" };
        let (client, term) = (&member.client, status.term);
        text.line(format_args!("{id} {client}@0 {own}{role} {above} 0 0 {term} connected{slots}"));
    }
    text.0.replace("\r\n", "\n")
}

/// What writes one section of INFO.
type Section = fn(&Facts, &mut Text);

/// What INFO tells.
struct Facts {
    status: Status,
    connections: usize,
    connections_max: usize,
    connections_ever: u64,
    resident_bytes: u64,
    counts: Counts,
    /// In the system and of the program itself, in [`TICKS_A_SECOND`].
    processor_ticks: (u64, u64),
}

impl Facts {
    /// The sections asked for; all of them if none is, or if `all` or the like is among them.
    fn text(&self, sections: &[String]) -> String {
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
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        text.line(format_args!("redis_version:{REDIS_VERSION}"));
        text.line(format_args!("redis_mode:standalone"));
        text.line(format_args!("os:{}", std::env::consts::OS));
        text.line(format_args!("arch_bits:{}", usize::BITS));
        text.line(format_args!("diskstore_version:{version}"));
        text.line(format_args!("node_name:{name}"));
        text.line(format_args!("run_id:{}", node_id(&self.status.member_id)));
        text.line(format_args!("process_id:{}", std::process::id()));
        text.line(format_args!("server_time_usec:{}", now.as_micros()));
        text.line(format_args!("uptime_in_seconds:{uptime_s}"));
        text.line(format_args!("uptime_in_days:{}", uptime_s / 86_400));
    }

    fn clients(&self, text: &mut Text) {
        text.line(format_args!("connected_clients:{}", self.connections));
        text.line(format_args!("maxclients:{}", self.connections_max));
        text.line(format_args!("blocked_clients:0"));
    }

    fn memory(&self, text: &mut Text) {
        text.line(format_args!("used_memory:{}", self.resident_bytes));
        text.line(format_args!("used_memory_rss:{}", self.resident_bytes));
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
            let RefusalStatus { reason, since_s, doing } = refusal;
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
    }

    fn cpu(&self, text: &mut Text) {
        let (system, own) = self.processor_ticks;
        for (name, ticks) in [("used_cpu_sys", system), ("used_cpu_user", own)] {
            let (seconds, rest) = (ticks / TICKS_A_SECOND, ticks % TICKS_A_SECOND);
            text.line(format_args!("{name}:{seconds}.{rest:02}"));
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
struct Text(String);

impl Text {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        let written = self.0.write_fmt(line);
        written.expect("invariant: writing to a string does not fail");
        self.0.push_str("\r\n");
    }
}

fn is_leader(status: &Status) -> bool {
    status.role == "leader"
}

/// Whether the leader has heard from a member lately.
fn is_heard(member: &MemberStatus) -> bool {
    member.heard_ms.is_some_and(|ms| ms < HEARD_MS_MAX)
}

fn leader_of(status: &Status) -> Option<&MemberStatus> {
    let name = status.leader.as_ref()?;
    status.members.iter().find(|member| member.name == *name)
}

/// A member id as wide as Redis writes the ids of nodes.
fn node_id(member_id: &str) -> String {
    format!("{member_id:0>NODE_ID_WIDTH$}")
}

fn host_and_port(address: &str) -> (&str, &str) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "0"));
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}

/// Bytes of memory that this process takes; 0 where the system does not tell.
fn resident_bytes() -> u64 {
    const PAGE_BYTES: u64 = 4096;
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.as_deref().and_then(|text| text.split_whitespace().nth(1)?.parse().ok());
    pages.map_or(0, |pages: u64| pages.saturating_mul(PAGE_BYTES))
}

/// What this process has used of the processors, in the system and by itself; 0 where the system
/// does not tell.
///
/// Source: proc(5), `/proc/pid/stat`, fields 14 and 15.
fn processor_ticks() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program, which may hold anything, ends with the last bracket.
    let fields = text.rsplit_once(')').map_or("", |(_, behind)| behind);
    let mut fields = fields.split_whitespace().skip(11).map(|field| field.parse().unwrap_or(0));
    let own = fields.next().unwrap_or(0);
    (fields.next().unwrap_or(0), own)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::resp::Version;
    use super::*;

    fn status(role: &str) -> Status {
        let member = |name: &str, client: &str| MemberStatus {
            id: "00000000000000ab".to_owned(),
            name: name.to_owned(),
            client: client.to_owned(),
            matched: Some(5),
            lag: Some(2),
            heard_ms: Some(40),
            ..MemberStatus::default()
        };
        Status {
            name: "node0".to_owned(),
            member_id: "00000000000000ab".to_owned(),
            role: role.to_owned(),
            term: 3,
            leader: Some(if role == "leader" { "node0" } else { "node1" }.to_owned()),
            members: vec![member("node0", "127.0.0.1:11000"), member("node1", "[::1]:11001")],
            applied: 7,
            ..Status::default()
        }
    }

    fn written(version: Version, write: impl FnOnce(&mut Encoder<'_>)) -> String {
        let mut out = BytesMut::new();
        write(&mut Encoder::new(&mut out, version));
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn facts(role: &str) -> Facts {
        let get = CommandCount { name: "get", calls: 5, rejected: 1 };
        let counts = Counts { commands: vec![get], hits: 3, misses: 2, ..Counts::default() };
        Facts {
            status: status(role),
            connections: 1,
            connections_max: 9,
            connections_ever: 2,
            resident_bytes: 3,
            counts,
            processor_ticks: (205, 7),
        }
    }

    fn info(role: &str, sections: &[&str]) -> String {
        facts(role).text(&sections.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn hello_is_a_map_in_resp3_and_a_list_in_resp2() {
        let three = written(Version::Three, |to| write_hello(to, 9, &status("leader")));
        assert!(three.starts_with("%7\r\n$6\r\nserver\r\n$9\r\ndiskstore\r\n"), "{three}");
        assert!(three.contains("$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:9\r\n"), "{three}");
        assert!(three.ends_with("$7\r\nmodules\r\n*0\r\n"), "{three}");
        let two = written(Version::Two, |to| write_hello(to, 9, &status("follower")));
        assert!(two.starts_with("*14\r\n"), "{two}");
        assert!(two.contains("$5\r\nproto\r\n:2\r\n"), "{two}");
        assert!(two.contains("$4\r\nrole\r\n$7\r\nreplica\r\n"), "{two}");
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
    fn this_process_has_used_its_processors() {
        // Until a tick is full; the time is counted for the process as a whole.
        while processor_ticks() == (0, 0) {
            std::hint::black_box((0..10_000_u64).sum::<u64>());
        }
    }

    #[test]
    fn info_says_who_is_not_heard_and_that_no_majority_is() {
        let mut status = status("leader");
        status.no_majority_s = Some(7);
        status.members[1].heard_ms = Some(7200);
        let mut text = Text::default();
        let facts = Facts { status, ..facts("leader") };
        facts.replication(&mut text);
        assert!(text.0.contains("connected_slaves:0\r\n"), "{}", text.0);
        let line = "slave0:ip=::1,port=11001,state=offline,offset=5,lag=7,behind=2\r\n";
        assert!(text.0.contains(line), "{}", text.0);
        let lines = "raft_majority:0\r\nraft_no_majority_seconds:7\r\n";
        assert!(text.0.contains(lines), "{}", text.0);
        assert!(cluster_info(&facts.status).contains("cluster_state:fail"));
    }

    #[test]
    fn role_names_the_leader_or_the_members() {
        let leader = written(Version::Two, |to| write_role(to, &status("leader")));
        assert!(leader.starts_with("*3\r\n$6\r\nmaster\r\n:7\r\n*1\r\n*3\r\n$3\r\n::1\r\n"));
        let follower = written(Version::Two, |to| write_role(to, &status("follower")));
        let expected = "*5\r\n$5\r\nslave\r\n$3\r\n::1\r\n:11001\r\n$9\r\nconnected\r\n:7\r\n";
        assert_eq!(follower, expected);
    }

    #[test]
    fn cluster_clients_see_one_range_of_hash_slots() {
        let slots = written(Version::Two, |to| write_cluster_slots(to, &status("leader")));
        assert!(
            slots.starts_with("*1\r\n*4\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:11000\r\n")
        );
        let shards = written(Version::Three, |to| write_cluster_shards(to, &status("leader")));
        assert!(
            shards.starts_with("*1\r\n%2\r\n$5\r\nslots\r\n*2\r\n:0\r\n:16383\r\n"),
            "{shards}"
        );
        assert!(shards.contains("$4\r\nrole\r\n$6\r\nmaster\r\n"), "{shards}");
        assert_eq!(shards.matches("%7\r\n$4\r\nport\r\n").count(), 2, "{shards}");
        let nodes = cluster_nodes(&status("leader"));
        assert!(nodes.contains("127.0.0.1:11000@0 myself,master - 0 0 3 connected 0-16383\n"));
        assert!(cluster_info(&status("leader")).contains("cluster_state:ok\r\n"));
    }
}
