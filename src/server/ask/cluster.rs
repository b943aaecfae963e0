//! The list of members as Redis commands show it: ROLE, HELLO and CLUSTER. Pure.

use super::REDIS_VERSION;
use super::info::Text;
use crate::server::value::Value;
use crate::status::{MemberStatus, Status};

/// Hash slots of a Redis cluster; one range holds them all.
const HASH_SLOT_LAST: i64 = 16_383;
/// Characters of a node's id in Redis.
const NODE_ID_WIDTH: usize = 40;

/// `HELLO`: what the node is, to a connection that speaks this version of the protocol.
pub(super) fn hello(version: u8, client_id: u64, status: &Status) -> Value {
    let role = if is_leader(status) { "master" } else { "replica" };
    Value::Map(vec![
        ("server", Value::known("diskstore")),
        ("version", Value::known(REDIS_VERSION)),
        ("proto", Value::Integer(i64::from(version))),
        ("id", Value::count(client_id)),
        ("mode", Value::known("standalone")),
        ("role", Value::known(role)),
        ("modules", Value::Array(Vec::new())),
    ])
}

/// `ROLE`
pub(super) fn role(status: &Status) -> Value {
    if is_leader(status) {
        let others = status.members.iter().filter(|member| member.name != status.name);
        let others = others.map(|member| {
            let (host, port) = host_and_port(&member.client);
            let held = member.matched.unwrap_or_default().to_string();
            Value::Array(vec![Value::word(host), Value::word(port), Value::word(&held)])
        });
        return Value::Array(vec![
            Value::known("master"),
            Value::count(status.applied),
            Value::Array(others.collect()),
        ]);
    }
    let leader = leader_of(status);
    let (host, port) = leader.map_or(("", "0"), |member| host_and_port(&member.client));
    Value::Array(vec![
        Value::known("slave"),
        Value::word(host),
        number(port),
        Value::known(if leader.is_some() { "connected" } else { "connect" }),
        Value::count(status.applied),
    ])
}

/// `CLUSTER SLOTS`
pub(super) fn slots(status: &Status) -> Value {
    let Some(leader) = leader_of(status) else { return Value::Array(Vec::new()) };
    let others = status.members.iter().filter(|member| member.name != leader.name);
    let members = std::iter::once(leader).chain(others).map(|member| {
        let (host, port) = host_and_port(&member.client);
        Value::Array(vec![Value::word(host), number(port), Value::word(&node_id(&member.id))])
    });
    let range = [Value::Integer(0), Value::Integer(HASH_SLOT_LAST)];
    Value::Array(vec![Value::Array(range.into_iter().chain(members).collect())])
}

/// `CLUSTER SHARDS`
pub(super) fn shards(status: &Status) -> Value {
    let leader = leader_of(status).map(|member| member.id.as_str());
    let nodes = status.members.iter().map(|member| {
        let (host, port) = host_and_port(&member.client);
        let leads = leader == Some(member.id.as_str());
        let health = match member.silent {
            Some(true) => "fail",
            Some(false) => "online",
            None => "unknown",
        };
        Value::Map(vec![
            ("port", number(port)),
            ("replication-offset", Value::count(member.matched.unwrap_or_default())),
            ("id", Value::word(&node_id(&member.id))),
            ("ip", Value::word(host)),
            ("endpoint", Value::word(host)),
            ("role", Value::known(if leads { "master" } else { "replica" })),
            ("health", Value::known(health)),
        ])
    });
    let range = vec![Value::Integer(0), Value::Integer(HASH_SLOT_LAST)];
    Value::Array(vec![Value::Map(vec![
        ("slots", Value::Array(range)),
        ("nodes", Value::Array(nodes.collect())),
    ])])
}

/// `CLUSTER INFO`
pub(super) fn info(status: &Status) -> String {
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

/// `CLUSTER NODES`
pub(super) fn nodes(status: &Status) -> String {
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

fn number(port: &str) -> Value {
    Value::Integer(port.parse().unwrap_or_default())
}

pub(super) fn is_leader(status: &Status) -> bool {
    status.role == "leader"
}

pub(super) fn leader_of(status: &Status) -> Option<&MemberStatus> {
    let name = status.leader.as_ref()?;
    status.members.iter().find(|member| member.name == *name)
}

/// A member id as wide as Redis writes the ids of nodes.
pub(super) fn node_id(member_id: &str) -> String {
    format!("{member_id:0>NODE_ID_WIDTH$}")
}

pub(super) fn host_and_port(address: &str) -> (&str, &str) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "0"));
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::tests::status;
    use super::*;
    use crate::server::resp::{Encoder, Version};

    fn written(version: Version, answer: &Value) -> String {
        let mut out = BytesMut::new();
        Encoder::new(&mut out, version).answer(answer);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn hello_is_a_map_in_resp3_and_a_list_in_resp2() {
        let three = written(Version::Three, &hello(3, 9, &status("leader")));
        assert!(three.starts_with("%7\r\n$6\r\nserver\r\n$9\r\ndiskstore\r\n"), "{three}");
        assert!(three.contains("$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:9\r\n"), "{three}");
        assert!(three.ends_with("$7\r\nmodules\r\n*0\r\n"), "{three}");
        let two = written(Version::Two, &hello(2, 9, &status("follower")));
        assert!(two.starts_with("*14\r\n"), "{two}");
        assert!(two.contains("$5\r\nproto\r\n:2\r\n"), "{two}");
        assert!(two.contains("$4\r\nrole\r\n$7\r\nreplica\r\n"), "{two}");
    }

    #[test]
    fn role_names_the_leader_or_the_members() {
        let leader = written(Version::Two, &role(&status("leader")));
        assert!(leader.starts_with("*3\r\n$6\r\nmaster\r\n:7\r\n*1\r\n*3\r\n$3\r\n::1\r\n"));
        let follower = written(Version::Two, &role(&status("follower")));
        let expected = "*5\r\n$5\r\nslave\r\n$3\r\n::1\r\n:11001\r\n$9\r\nconnected\r\n:7\r\n";
        assert_eq!(follower, expected);
    }

    #[test]
    fn cluster_clients_see_one_range_of_hash_slots() {
        let found = written(Version::Two, &slots(&status("leader")));
        assert!(
            found.starts_with("*1\r\n*4\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:11000\r\n")
        );
        let found = written(Version::Three, &shards(&status("leader")));
        assert!(found.starts_with("*1\r\n%2\r\n$5\r\nslots\r\n*2\r\n:0\r\n:16383\r\n"), "{found}");
        assert!(found.contains("$4\r\nrole\r\n$6\r\nmaster\r\n"), "{found}");
        assert_eq!(found.matches("%7\r\n$4\r\nport\r\n").count(), 2, "{found}");
        let text = nodes(&status("leader"));
        assert!(text.contains("127.0.0.1:11000@0 myself,master - 0 0 3 connected 0-16383\n"));
        assert!(info(&status("leader")).contains("cluster_state:ok\r\n"));
    }
}
