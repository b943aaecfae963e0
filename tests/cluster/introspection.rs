//! What nodes say of themselves and their clients is what happened.

use std::time::UNIX_EPOCH;

use crate::nodes::Cluster;
use crate::resp::{Client, Value};

fn ok() -> Value {
    Value::Simple("OK".into())
}

/// One number of INFO.
#[track_caller]
fn info(client: &mut Client, name: &str) -> u64 {
    let text = client.ask(&["INFO"]).unwrap().text().unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = value.unwrap_or_else(|| panic!("no {name} in {text}"));
    value.parse().unwrap_or_else(|_| panic!("{name}: {value}"))
}

#[test]
fn counts_of_info_are_what_clients_asked() {
    let cluster = Cluster::of_kvstores(&[]);
    let mut client = cluster.nodes[0].client().unwrap();
    let names = ["total_commands_processed", "keyspace_hits", "keyspace_misses"];
    let before = names.map(|name| info(&mut client, name));
    assert_eq!(client.ask(&["SET", "a", "v"]), Ok(ok()));
    client.ask(&["MGET", "a", "a", "b"]).unwrap();
    assert_eq!(client.ask(&["EXISTS", "a", "b"]), Ok(Value::Integer(1)));
    client.ask(&["GET"]).unwrap_err();
    let after = names.map(|name| info(&mut client, name));
    let more = |index: usize| after[index] - before[index];
    // Each of the counts was asked for by an INFO of its own, the first of which is before it.
    assert_eq!((more(0), more(1), more(2)), (3 + 3, 3, 2));
    let text = client.ask(&["INFO", "commandstats"]).unwrap().text().unwrap();
    assert!(text.contains("cmdstat_mget:calls=1,rejected_calls=0\r\n"), "{text}");
    assert!(text.contains("cmdstat_get:calls=0,rejected_calls=1\r\n"), "{text}");
    let received = info(&mut client, "total_net_input_bytes");
    client.ask(&["ECHO", &"x".repeat(100_000)]).unwrap();
    assert!(info(&mut client, "total_net_input_bytes") > received + 100_000);
    assert!(info(&mut client, "total_net_output_bytes") > 100_000);
}

#[test]
fn clients_are_listed_as_they_are() {
    let cluster = Cluster::of_three(&[]);
    let node = &cluster.nodes[0];
    let (mut own, mut other) = (node.client().unwrap(), node.client().unwrap());
    own.ask(&["CLIENT", "SETNAME", "own"]).unwrap();
    own.ask(&["MULTI"]).unwrap();
    own.ask(&["GET", "1"]).unwrap();
    let Value::Integer(id) = other.ask(&["CLIENT", "ID"]).unwrap() else { panic!("no number") };
    let text = other.ask(&["CLIENT", "LIST", "TYPE", "normal"]).unwrap().text().unwrap();
    let line = text.lines().find(|line| line.contains(" name=own ")).unwrap();
    assert!(line.contains(" flags=x ") && line.contains(" multi=1 "), "{line}");
    assert!(line.contains(&format!(" laddr={} ", node.client_address())), "{line}");
    assert!(line.contains(" cmd=get "), "{line}");
    let text = other.ask(&["CLIENT", "LIST", "ID", &id.to_string()]).unwrap().text().unwrap();
    assert!(text.starts_with(&format!("id={id} ")) && text.lines().count() == 1, "{text}");
    let none = other.ask(&["CLIENT", "LIST", "TYPE", "replica"]).unwrap().text();
    assert_eq!(none, Some(String::new()));
}

#[test]
fn what_is_durable_is_said_so() {
    let cluster = Cluster::of_three(&[]);
    let (_, follower, _) = cluster.roles();
    let mut client = cluster.nodes[follower].client().unwrap();
    assert_eq!(client.ask(&["SET", "1", "v"]), Ok(ok()));
    let held = client.ask(&["WAITAOF", "1", "2", "10000"]);
    assert_eq!(held, Ok(Value::Array(vec![Value::Integer(1), Value::Integer(2)])));
    let Ok(Value::Integer(saved)) = client.ask(&["LASTSAVE"]) else { panic!("no time") };
    let path = cluster.nodes[follower].directory.join("slots.dat");
    let written = std::fs::metadata(path).unwrap().modified().unwrap();
    assert_eq!(saved.unsigned_abs(), written.duration_since(UNIX_EPOCH).unwrap().as_secs());
    let Value::Array(shards) = client.ask(&["CLUSTER", "SHARDS"]).unwrap() else { panic!("none") };
    assert_eq!(shards.len(), 1);
    drop(cluster);
    let batched = Cluster::of_three(&["-sync", "batch:10"]);
    let refused = batched.nodes[0].ask(&["WAITAOF", "1", "0", "0"]).unwrap_err();
    assert!(format!("{refused:?}").contains("WAITAOF is refused"), "{refused:?}");
}
