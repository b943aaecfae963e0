//! Every read sees what it must, whatever its command and its protocol: at the level of the node, and
//! the client's own writes at every level. A follower hears of a commit only with the leader's next
//! frame, so one that does not wait answers without the last write nearly every time.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use crate::nodes::{Cluster, Node};
use crate::resp::{Client, Value};

/// Writes that are each looked for at once.
const ROUNDS: usize = 20;

fn ok() -> Value {
    Value::Simple("OK".into())
}

/// All keys that a whole scan finds.
#[track_caller]
fn scanned(client: &mut Client) -> Vec<String> {
    let (mut cursor, mut keys) = ("0".to_owned(), Vec::new());
    loop {
        let Value::Array(mut answer) = client.ask(&["SCAN", &cursor, "COUNT", "1000"]).unwrap()
        else {
            panic!("a scan answers a list");
        };
        keys.extend(answer.pop().unwrap().texts().into_iter().flatten());
        cursor = answer.pop().unwrap().text().unwrap();
        if cursor == "0" {
            return keys;
        }
    }
}

/// A client of the original's text form.
struct TextClient(BufReader<TcpStream>);

impl TextClient {
    fn connect(node: &Node) -> TextClient {
        TextClient(BufReader::new(TcpStream::connect(node.client_address()).unwrap()))
    }

    fn ask(&mut self, line: &str) -> String {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        self.0.read_line(&mut answer).unwrap();
        answer
    }
}

fn sees_what_another_member_acknowledged(cluster: &Cluster) {
    let (leader, follower, _) = cluster.roles();
    let mut writer = cluster.nodes[leader].client().unwrap();
    let mut reader = cluster.nodes[follower].client().unwrap();
    for round in 0..ROUNDS {
        let key = round.to_string();
        assert_eq!(writer.ask(&["SET", &key, "v"]), Ok(ok()));
        match round % 3 {
            0 => {
                let count = i64::try_from(round + 1).unwrap();
                assert_eq!(reader.ask(&["DBSIZE"]), Ok(Value::Integer(count)), "round {round}");
            }
            1 => assert!(scanned(&mut reader).contains(&key), "round {round}"),
            _ => assert_eq!(reader.ask(&["GET", &key]).unwrap().text(), Some("v".into())),
        }
    }
    // One key is left, then none.
    for round in 1..ROUNDS {
        assert_eq!(writer.ask(&["DEL", &round.to_string()]), Ok(Value::Integer(1)));
    }
    assert_eq!(reader.ask(&["RANDOMKEY"]).unwrap().text(), Some("0".into()));
    assert_eq!(writer.ask(&["DEL", "0"]), Ok(Value::Integer(1)));
    assert_eq!(reader.ask(&["RANDOMKEY"]), Ok(Value::Nil));
}

#[test]
fn a_followers_scan_size_and_random_key_see_every_acknowledged_write() {
    sees_what_another_member_acknowledged(&Cluster::of_three(&[]));
    sees_what_another_member_acknowledged(&Cluster::of_kvstores(&["-read", "lease"]));
}

#[test]
fn a_client_sees_its_own_writes_at_a_follower_that_reads_locally() {
    let cluster = Cluster::of_three(&["-read", "local"]);
    let (_, follower, _) = cluster.roles();
    let node = &cluster.nodes[follower];
    let mut resp = node.client().unwrap();
    let mut text = TextClient::connect(node);
    for round in 0..ROUNDS {
        let (own, other) = ((2 * round).to_string(), (2 * round + 1).to_string());
        assert_eq!(text.ask(&format!("set-{own}-{round}")), "OK: \n");
        assert_eq!(text.ask(&format!("get-{own}")), format!("OK: {round}\n"));
        assert_eq!(resp.ask(&["SET", &other, "v"]), Ok(ok()));
        if round % 2 == 0 {
            assert!(scanned(&mut resp).contains(&other), "round {round}");
        } else {
            let Ok(Value::Integer(count)) = resp.ask(&["DBSIZE"]) else { panic!("no count") };
            assert!(count > i64::try_from(2 * round).unwrap(), "round {round}: {count}");
        }
    }
}

#[test]
fn without_a_leader_only_local_reads_look_through_what_a_member_has() {
    let mut cluster = Cluster::of_three(&[]);
    let (leader, follower, third) = cluster.roles();
    cluster.nodes[leader].asked(&["SET", "7", "v"]);
    cluster.wait_level();
    cluster.nodes[leader].kill();
    cluster.nodes[third].kill();
    let node = &cluster.nodes[follower];
    for words in [&["DBSIZE"][..], &["SCAN", "0"], &["RANDOMKEY"]] {
        let refused = node.ask(words).unwrap_err();
        assert!(format!("{refused:?}").contains("CLUSTERDOWN"), "{words:?}: {refused:?}");
    }
    let mut client = node.client().unwrap();
    assert_eq!(client.ask(&["READONLY"]), Ok(ok()));
    assert_eq!(client.ask(&["DBSIZE"]), Ok(Value::Integer(1)));
    assert_eq!(scanned(&mut client), ["7"]);
    assert_eq!(client.ask(&["RANDOMKEY"]).unwrap().text(), Some("7".into()));
}
