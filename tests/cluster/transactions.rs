//! WATCH, MULTI and EXEC against what other clients and lost members do meanwhile.

use crate::nodes::{Cluster, Node};
use crate::resp::{Client, Failure, Value};

fn ok() -> Value {
    Value::Simple("OK".into())
}

fn queued() -> Value {
    Value::Simple("QUEUED".into())
}

/// `MULTI`, `SET key value`, `EXEC`.
fn set_as_a_transaction(client: &mut Client, key: &str, value: &str) -> Result<Value, Failure> {
    assert_eq!(client.ask(&["MULTI"]), Ok(ok()));
    assert_eq!(client.ask(&["SET", key, value]), Ok(queued()));
    client.ask(&["EXEC"])
}

/// What a client saw between WATCH and EXEC has to be what it watched, also where a deleted key
/// looks as if it had never been.
fn check_that_what_was_seen_counts(node: &Node) {
    let (mut client, mut other) = (node.client().unwrap(), node.client().unwrap());
    assert_eq!(client.ask(&["WATCH", "7"]), Ok(ok()));
    assert_eq!(other.ask(&["SET", "7", "theirs"]), Ok(ok()));
    assert_eq!(client.ask(&["GET", "7"]).unwrap().text().as_deref(), Some("theirs"));
    assert_eq!(other.ask(&["DEL", "7"]), Ok(Value::Integer(1)));
    assert_eq!(set_as_a_transaction(&mut client, "7", "mine"), Ok(Value::Nil));
    assert_eq!(other.ask(&["GET", "7"]), Ok(Value::Nil));
    // The next transaction is a new one.
    assert_eq!(client.ask(&["WATCH", "7"]), Ok(ok()));
    assert_eq!(client.ask(&["GET", "7"]), Ok(Value::Nil));
    assert_eq!(set_as_a_transaction(&mut client, "7", "mine"), Ok(Value::Array(vec![ok()])));
    assert_eq!(client.ask(&["WATCH", "7"]), Ok(ok()));
    assert_eq!(other.ask(&["SET", "7", "theirs"]), Ok(ok()));
    assert_eq!(set_as_a_transaction(&mut client, "7", "mine"), Ok(Value::Nil));
    assert_eq!(other.ask(&["GET", "7"]).unwrap().text().as_deref(), Some("theirs"));
}

#[test]
fn a_transaction_overwrites_no_state_that_its_client_did_not_watch() {
    let cluster = Cluster::of_three(&[]);
    let (leader, follower, _) = cluster.roles();
    for index in [leader, follower] {
        cluster.nodes[index].asked(&["DEL", "7"]);
        check_that_what_was_seen_counts(&cluster.nodes[index]);
    }
}

#[test]
fn a_key_that_came_and_went_again_was_not_as_it_was_watched() {
    let cluster = Cluster::of_kvstores(&[]);
    let (leader, follower, _) = cluster.roles();
    for index in [leader, follower] {
        cluster.nodes[index].asked(&["DEL", "7"]);
        check_that_what_was_seen_counts(&cluster.nodes[index]);
    }
}

#[test]
fn a_watch_that_failed_aborts_the_next_transaction_and_no_other() {
    let mut cluster = Cluster::of_three(&[]);
    let (node, one, two) = cluster.roles();
    let mut client = cluster.nodes[node].client().unwrap();
    assert_eq!(client.ask(&["SET", "7", "first"]), Ok(ok()));
    for index in [one, two] {
        cluster.nodes[index].kill();
    }
    let Err(Failure::Refused(reason)) = client.ask(&["WATCH", "7"]) else {
        panic!("a key was watched without a majority");
    };
    assert!(reason.starts_with("CLUSTERDOWN"), "{reason}");
    for index in [one, two] {
        cluster.nodes[index].start();
    }
    assert_eq!(cluster.nodes[one].asked(&["SET", "7", "theirs"]), ok());
    let Err(Failure::Unknown(reason)) = set_as_a_transaction(&mut client, "7", "mine") else {
        panic!("a transaction was made without its watch");
    };
    assert!(reason.starts_with("EXECABORT"), "{reason}");
    assert_eq!(client.ask(&["GET", "7"]).unwrap().text().as_deref(), Some("theirs"));
    assert_eq!(set_as_a_transaction(&mut client, "7", "mine"), Ok(Value::Array(vec![ok()])));
}
