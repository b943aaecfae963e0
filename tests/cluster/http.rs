//! HTTP at every member of a cluster: what a follower takes the leader carries out, and what was
//! acknowledged survives the leader.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use diskstore::client::WriteReceipt;

use crate::nodes::{Cluster, Node, PATIENCE, wait_until};

/// Writes that are acknowledged before the leader is killed, and after that.
const WRITES_MIN: usize = 50;
/// Slots of each writer.
const WRITER_SLOTS: usize = 2000;

/// One connection that stays open.
pub(crate) struct Http {
    stream: BufReader<TcpStream>,
}

/// A response, its head in small letters.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Http {
    pub(crate) fn connect(node: &Node) -> io::Result<Http> {
        Http::to(&node.client_address())
    }

    /// To whoever listens at an address.
    pub(crate) fn to(address: &str) -> io::Result<Http> {
        Http::to_in(address, PATIENCE)
    }

    /// The same; an answer may take so long.
    pub(crate) fn to_in(address: &str, patience: Duration) -> io::Result<Http> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        Ok(Http { stream: BufReader::new(stream) })
    }

    pub(crate) fn ask(
        &mut self,
        method: &str,
        path: &str,
        kind: &str,
        body: &str,
    ) -> io::Result<Response> {
        let kind =
            if kind.is_empty() { String::new() } else { format!("content-type: {kind}\r\n") };
        self.send(method, path, &kind, body)
    }

    /// Asks for a change of what has a version.
    pub(crate) fn ask_if(
        &mut self,
        method: &str,
        path: &str,
        version: &str,
        body: &str,
    ) -> io::Result<Response> {
        self.send(method, path, &format!("if-match: {version}\r\n"), body)
    }

    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        more: &str,
        body: &str,
    ) -> io::Result<Response> {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n{more}\r\n{body}"
        );
        self.stream.get_mut().write_all(head.as_bytes())?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let head = head.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.stream.read_exact(&mut body)?;
        let body = String::from_utf8(body).unwrap();
        Ok(Response { status: head[9..12].parse().unwrap(), head, body })
    }
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Asks one thing over a connection of its own.
#[track_caller]
pub(crate) fn ask(node: &Node, method: &str, path: &str, kind: &str, body: &str) -> Response {
    Http::connect(node).unwrap().ask(method, path, kind, body).unwrap()
}

/// The receipt of a write that a person makes through this node.
fn receipt_through(node: &Node) -> WriteReceipt {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diskstore"));
    command.args(["set", "8", "x", "-receipt", "-json", "-addr", &node.client_address()]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let receipt = WriteReceipt::from_json(&output.stdout).unwrap();
    assert_eq!(receipt.versions, [receipt.index]);
    receipt
}

#[test]
fn what_a_follower_takes_is_carried_out_by_the_leader_and_read_everywhere() {
    let cluster = Cluster::of_three(&[]);
    let (leader, follower, other) = cluster.roles();
    let [leader, follower, other] = [leader, follower, other].map(|index| &cluster.nodes[index]);
    let put = ask(follower, "PUT", "/v1/slots/7", "", "through a follower");
    assert_eq!(put.status, 204, "{put:?}");
    assert!(matches!(put.header("diskstore-holders"), Some("1" | "2")), "{put:?}");
    let term = leader.status().unwrap().term.to_string();
    assert_eq!(put.header("diskstore-term"), Some(term.as_str()));
    let receipt = receipt_through(follower);
    assert_eq!(receipt.leader.as_ref(), Some(&leader.name), "{receipt:?}");
    assert_eq!(receipt.term.map(|term| term.to_string()), Some(term), "{receipt:?}");
    let names: Vec<&String> = cluster.nodes.iter().map(|node| &node.name).collect();
    let durable = receipt.durable.as_deref().unwrap();
    assert!(durable.len() >= 2 && durable.iter().all(|name| names.contains(&name)), "{receipt:?}");
    assert!(receipt.stages.unwrap().named().iter().all(|(_, us)| us.is_some()), "{receipt:?}");
    for node in &cluster.nodes {
        let found = ask(node, "GET", "/v1/slots/7", "", "");
        assert_eq!((found.status, found.body.as_str()), (200, "through a follower"));
        assert_eq!(found.header("etag"), put.header("etag"), "one version everywhere");
    }
    for method in ["GET", "PUT", "DELETE"] {
        let sent = ask(other, method, "/v1/slots/7?redirect", "", "x");
        let location = format!("http://{}/v1/slots/7?redirect", leader.client_address());
        assert_eq!((sent.status, sent.header("location")), (307, Some(location.as_str())));
    }
    let here = ask(leader, "GET", "/v1/slots/7?redirect", "", "");
    assert_eq!((here.status, here.body.as_str()), (200, "through a follower"));
    let ready = ask(follower, "GET", "/ready", "", "");
    let told = format!(r#"{{"leader":"{}","role":"FOLLOWER","status":"ready"}}"#, leader.name);
    assert_eq!((ready.status, ready.body), (200, told));
    let status = ask(leader, "GET", "/api/status", "", "").body;
    for node in [follower, other] {
        assert!(status.contains(&format!(r#""{}":"#, node.name)), "{status}");
    }
}

#[test]
fn konsens_clients_find_keys_of_any_name_at_every_kvstore() {
    let cluster = Cluster::of_kvstores(&[]);
    let (leader, follower, other) = cluster.roles();
    let [leader, follower, other] = [leader, follower, other].map(|index| &cluster.nodes[index]);
    let form = "application/x-www-form-urlencoded";
    let pairs = "user:2=two&user:1=one+%26+a+half&user:10=ten&other=x&%C3%A4+%2F=umlaut";
    let post = ask(follower, "POST", "/konsen", form, pairs);
    assert_eq!((post.status, post.body.as_str()), (200, ""), "{post:?}");
    let set = r#"{"key":"user:3","value":"three"}"#;
    let set = ask(other, "POST", "/api/kv", "application/json", set);
    assert_eq!(set.body, r#"{"success":true}"#);
    for node in [leader, follower, other] {
        let asked = |path| ask(node, "GET", path, "", "").body;
        assert_eq!(asked("/konsen?key=user:1"), "one & a half");
        assert_eq!(
            asked("/api/kv?key=%C3%A4%20/"),
            "{\"found\":true,\"key\":\"\u{e4} /\",\"value\":\"umlaut\"}"
        );
        assert_eq!(asked("/api/kv?key=user"), r#"{"found":false,"key":"user"}"#);
        let keys = r#"{"keys":["user:1","user:10","user:2","user:3"]}"#;
        assert_eq!(asked("/api/keys?prefix=user:"), keys, "in the order of their bytes");
        assert_eq!(asked("/api/keys?prefix=user:&limit=2"), r#"{"keys":["user:1","user:10"]}"#);
    }
    assert_eq!(ask(follower, "DELETE", "/v1/keys/user:10", "", "").status, 204);
    for node in [leader, follower, other] {
        let keys = ask(node, "GET", "/api/keys?prefix=user:", "", "").body;
        assert_eq!(keys, r#"{"keys":["user:1","user:2","user:3"]}"#, "a list is never stale");
    }
}

/// Writes one slot after the other and gives those that were acknowledged. What fails may have been
/// written or not.
fn write_until(node: &Node, first: usize, is_over: &AtomicBool, count: &AtomicUsize) -> Vec<usize> {
    let mut acknowledged = Vec::new();
    let mut client = None;
    for slot in first..first + WRITER_SLOTS {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let mut put = || -> io::Result<u16> {
            let mut connection = match client.take() {
                Some(connection) => connection,
                None => Http::connect(node)?,
            };
            let path = format!("/v1/slots/{slot}");
            let status = connection.ask("PUT", &path, "", &slot.to_string())?.status;
            client = Some(connection);
            Ok(status)
        };
        if put().is_ok_and(|status| status == 204) {
            acknowledged.push(slot);
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
    acknowledged
}

#[test]
fn no_acknowledged_put_is_lost_with_the_leader() {
    let mut cluster = Cluster::of_three(&[]);
    let (leader, follower, other) = cluster.roles();
    let (is_over, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut killed = cluster.nodes.remove(leader);
    let survivors = [follower, other].map(|index| index - usize::from(index > leader));
    let acknowledged: Vec<usize> = std::thread::scope(|scope| {
        let writers = survivors.map(|index| {
            let node = &cluster.nodes[index];
            let (is_over, count) = (&is_over, &count);
            scope.spawn(move || write_until(node, index * WRITER_SLOTS, is_over, count))
        });
        let acknowledged = |more| count.load(Ordering::Relaxed) >= more;
        wait_until("writes before the kill", || acknowledged(WRITES_MIN));
        killed.kill();
        let before = count.load(Ordering::Relaxed);
        wait_until("writes after it", || acknowledged(before + WRITES_MIN));
        is_over.store(true, Ordering::Relaxed);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    assert!(acknowledged.len() >= 2 * WRITES_MIN);
    for index in survivors {
        let mut client = Http::connect(&cluster.nodes[index]).unwrap();
        for slot in &acknowledged {
            let found = client.ask("GET", &format!("/v1/slots/{slot}"), "", "").unwrap();
            assert_eq!((found.status, found.body), (200, slot.to_string()));
        }
    }
}
