//! Every protocol of the client port over real sockets, against a real node of one member.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

#[path = "protocol/access.rs"]
mod access;
#[path = "protocol/administration.rs"]
mod administration;
#[path = "protocol/batches.rs"]
mod batches;
#[path = "protocol/console.rs"]
mod console;
#[path = "protocol/grpc.rs"]
mod grpc;
#[path = "protocol/http.rs"]
mod http;
#[path = "protocol/messages.rs"]
mod messages;
#[path = "protocol/metrics.rs"]
mod metrics;
#[path = "protocol/older_apis.rs"]
mod older_apis;
#[path = "protocol/operations.rs"]
mod operations;
#[path = "protocol/receipts.rs"]
mod receipts;
#[path = "protocol/reflection.rs"]
mod reflection;
#[path = "protocol/requests.rs"]
mod requests;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running node, shared by the tests that run at the same time.
struct Node {
    process: Child,
    _banner: BufReader<ChildStdout>,
    port: u16,
    _directory: TempDir,
}

static SHARED: Mutex<Weak<Node>> = Mutex::new(Weak::new());

impl Node {
    fn shared() -> Arc<Node> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = shared.upgrade() {
            return node;
        }
        let node = Arc::new(Node::start());
        *shared = Arc::downgrade(&node);
        node
    }

    fn start() -> Node {
        // A port that was free may be a client's of another test a moment later.
        let started = (0..5).find_map(|_| Node::start_once(&[], Stdio::null(), ""));
        started.expect("the node ended at its start")
    }

    /// With more flags, and what a client has to send first.
    fn start_with(more: &[&str], stderr: Stdio, first: &str) -> Node {
        Node::start_once(more, stderr, first).expect("the node ended at its start")
    }

    /// `None` if the node ended at its start.
    fn start_once(more: &[&str], stderr: Stdio, first: &str) -> Option<Node> {
        let directory = TempDir::new().unwrap();
        let free = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [port, raft, join] = free.map(|listener| listener.local_addr().unwrap().port());
        let address = |port: u16| format!("127.0.0.1:{port}");
        let mut process = Command::new(env!("CARGO_BIN_EXE_diskstore"))
            .args(["-id", "protocol", "-slots", "1000", "-value-size", "1500"])
            .args(["-port", &address(port), "-raft", &address(raft), "-hjoin", &address(join)])
            .args(["-key-prefixes", "key:"])
            .args(more)
            .arg("-data")
            .arg(directory.path().join("data"))
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let mut banner = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("next:") {
            line.clear();
            if banner.read_line(&mut line).unwrap() == 0 {
                process.wait().unwrap();
                return None;
            }
        }
        let node = Node { process, _banner: banner, port, _directory: directory };
        node.wait_for_a_leader(first);
        Some(node)
    }

    fn wait_for_a_leader(&self, first: &str) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", self.port)) {
                let mut client = Client { stream };
                client.send(format!("{first}SET 0 ready\r\nQUIT\r\n").as_bytes());
                if !client.rest().contains(&b'-') {
                    return;
                }
            }
            std::thread::yield_now();
        }
        panic!("the node has no leader after {PATIENCE:?}");
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream }
    }

    /// All that comes back for `bytes`, until the node closes the connection.
    fn ask(&self, bytes: &[u8]) -> String {
        let mut client = self.connect();
        client.send(bytes);
        String::from_utf8_lossy(&client.rest()).into_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

struct Client {
    stream: TcpStream,
}

impl Client {
    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn expect(&mut self, expected: &[u8]) {
        let mut found = vec![0; expected.len()];
        self.stream.read_exact(&mut found).unwrap();
        assert_eq!(found.escape_ascii().to_string(), expected.escape_ascii().to_string());
    }

    /// The next line, its end left off.
    fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).unwrap();
            line.extend(byte);
        }
        String::from_utf8_lossy(&line).trim_end().to_owned()
    }

    fn rest(&mut self) -> Vec<u8> {
        let mut found = Vec::new();
        self.stream.read_to_end(&mut found).unwrap();
        found
    }
}

fn array(arguments: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// A protobuf command as the original's clients write it.
fn message(port: &str, operation: u8, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut field = |tag: u8, content: &[u8]| {
        if !content.is_empty() {
            let (low, high) = (content.len() & 0x7f, content.len() >> 7);
            bytes.extend([tag, u8::try_from(low).unwrap() | 0x80, u8::try_from(high).unwrap()]);
            bytes.extend_from_slice(content);
        }
    };
    field(0x12, port.as_bytes());
    field(0x22, key);
    field(0x2a, value);
    bytes.extend([0x18, operation, 0x0a]);
    bytes
}

#[test]
fn a_request_sent_byte_by_byte_is_answered() {
    let node = Node::shared();
    let mut client = node.connect();
    let mut bytes = array(&[b"SET", b"10", b"\r\n"]);
    bytes.extend(array(&[b"GET", b"key:0010"]));
    for byte in bytes {
        client.send(&[byte]);
    }
    client.expect(b"+OK\r\n$2\r\n\r\n\r\n");
}

#[test]
fn a_pipeline_is_answered_in_order_and_reads_see_its_writes() {
    let node = Node::shared();
    let mut client = node.connect();
    let (mut bytes, mut expected) = (Vec::new(), Vec::new());
    for round in 0..2000 {
        bytes.extend(array(&[b"SET", b"20", round.to_string().as_bytes()]));
        expected.extend_from_slice(b"+OK\r\n");
        if round % 100 == 0 {
            let text = round.to_string();
            bytes.extend(array(&[b"GET", b"20"]));
            bytes.extend(array(&[b"PING"]));
            let reply = format!("${}\r\n{text}\r\n+PONG\r\n", text.len());
            expected.extend_from_slice(reply.as_bytes());
        }
    }
    client.send(&bytes);
    client.expect(&expected);
}

#[test]
fn values_of_the_edge_lengths_come_back_byte_for_byte() {
    let node = Node::shared();
    let mut client = node.connect();
    for length in [0, 1, 10, 1280, 1290, 1407, 1500] {
        let value = vec![b'\n'; length];
        client.send(&array(&[b"SET", b"30", &value]));
        client.expect(b"+OK\r\n");
        client.send(&array(&[b"GET", b"30"]));
        client.expect(format!("${length}\r\n").as_bytes());
        client.expect(&value);
        client.expect(b"\r\n");
    }
}

#[test]
fn a_transaction_is_one_entry_and_a_lost_watch_undoes_it() {
    let node = Node::shared();
    let mut client = node.connect();
    client.send(b"DEL 40\r\nMULTI\r\nINCR 40\r\nINCR 40\r\nGET 40\r\nEXEC\r\n");
    let mut rest = Vec::new();
    while !rest.ends_with(b"*3\r\n:1\r\n:2\r\n$1\r\n2\r\n") {
        let mut byte = [0];
        client.stream.read_exact(&mut byte).unwrap();
        rest.extend(byte);
    }
    client.send(b"WATCH 40\r\nMULTI\r\nSET 40 kept\r\nEXEC\r\nGET 40\r\n");
    client.expect(b"+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n$4\r\nkept\r\n");
    client.send(b"WATCH 40\r\nSET 40 other\r\nMULTI\r\nSET 40 lost\r\nEXEC\r\nGET 40\r\n");
    client.expect(b"+OK\r\n+OK\r\n+OK\r\n+QUEUED\r\n*-1\r\n$5\r\nother\r\n");
}

#[test]
fn a_watch_holds_whatever_else_its_packet_brings() {
    let node = Node::shared();
    let (mut client, mut other) = (node.connect(), node.connect());
    client.send(b"SET 41 a\r\nGET 41\r\nWATCH 41\r\n");
    client.expect(b"+OK\r\n$1\r\na\r\n+OK\r\n");
    other.send(b"SET 41 b\r\n");
    other.expect(b"+OK\r\n");
    client.send(b"GET 41\r\nMULTI\r\nSET 41 lost\r\nEXEC\r\nGET 41\r\n");
    client.expect(b"$1\r\nb\r\n+OK\r\n+QUEUED\r\n*-1\r\n$1\r\nb\r\n");
}

#[test]
fn a_discard_without_a_transaction_forgets_no_watch() {
    let node = Node::shared();
    let mut client = node.connect();
    client.send(b"WATCH 42\r\nDISCARD\r\nSET 42 other\r\n");
    client.expect(b"+OK\r\n-ERR DISCARD without MULTI\r\n+OK\r\n");
    client.send(b"MULTI\r\nSET 42 lost\r\nEXEC\r\nGET 42\r\n");
    client.expect(b"+OK\r\n+QUEUED\r\n*-1\r\n$5\r\nother\r\n");
}

#[test]
fn a_watch_that_is_refused_aborts_the_transaction_behind_it() {
    let node = Node::shared();
    let mut client = node.connect();
    for watch in ["WATCH 43 44", "WATCH nokey"] {
        client.send(format!("{watch}\r\nMULTI\r\nSET 43 a\r\nEXEC\r\n").as_bytes());
        assert!(client.line().starts_with("-ERR "), "{watch}");
        client.expect(b"+OK\r\n+QUEUED\r\n-EXECABORT ");
        client.line();
        client.send(b"GET 43\r\n");
        client.expect(b"$-1\r\n");
    }
}

#[test]
fn an_error_in_a_transaction_belongs_to_its_own_request() {
    let node = Node::shared();
    let mut client = node.connect();
    let long = "v".repeat(1501);
    let requests = [
        "SET 45 a",
        "GET nokey",
        "MGET 45 nokey",
        "SET 45 b EX 5",
        "INCRBY 45 x",
        "INCR 45",
        &format!("SET 45 {long}"),
        "SELECT 7",
        "SCAN nocursor",
        "STRLEN 45",
    ];
    client.send(format!("MULTI\r\n{}\r\n", requests.join("\r\n")).as_bytes());
    client.expect(b"+OK\r\n");
    for _ in requests {
        client.expect(b"+QUEUED\r\n");
    }
    client.send(b"EXEC\r\n");
    client.expect(b"*10\r\n+OK\r\n");
    for reply in [
        "-ERR key must be a slot number 0..999\r\n",
        "-ERR key must be a slot number 0..999\r\n",
        "-ERR EX is refused: values do not expire\r\n",
        "-ERR value is not an integer or out of range\r\n",
        "-ERR value is not an integer or out of range\r\n",
        "-ERR value is 1501 bytes, a slot holds at most 1500\r\n",
        "-ERR DB index is out of range\r\n",
        "-ERR invalid cursor\r\n",
        ":1\r\n",
    ] {
        client.expect(reply.as_bytes());
    }
    client.send(b"MULTI\r\nSET 45 c\r\nNOPE\r\nEXEC\r\nMULTI\r\nGET\r\nEXEC\r\nGET 45\r\n");
    client.expect(b"+OK\r\n+QUEUED\r\n-ERR unknown command 'NOPE', with args beginning with: \r\n");
    client.expect(b"-EXECABORT Transaction discarded because of previous errors.\r\n");
    client.expect(b"+OK\r\n-ERR wrong number of arguments for 'get' command\r\n");
    client.expect(b"-EXECABORT Transaction discarded because of previous errors.\r\n$1\r\na\r\n");
}

#[test]
fn questions_about_the_node_stand_in_a_transaction() {
    let node = Node::shared();
    let mut client = node.connect();
    client.send(b"CLIENT SETNAME before\r\nMULTI\r\nSET 46 a\r\nTYPE 46\r\nWAIT 5 60000\r\nPING\r\nECHO x\r\n");
    client.send(b"CLIENT SETNAME inside\r\nSCAN 46 COUNT 1\r\nROLE\r\nCLUSTER MYID\r\n");
    client.send(b"INFO clients\r\nDBSIZE\r\nTIME\r\nCOMMAND COUNT\r\nREADONLY\r\nREADWRITE\r\n");
    client.expect(b"+OK\r\n+OK\r\n");
    for _ in 0..15 {
        client.expect(b"+QUEUED\r\n");
    }
    client.send(b"EXEC\r\nCLIENT GETNAME\r\n");
    client.expect(b"*15\r\n+OK\r\n+string\r\n:0\r\n+PONG\r\n$1\r\nx\r\n+OK\r\n*2\r\n$2\r\n47\r\n*1\r\n$2\r\n46\r\n");
    client.expect(b"*3\r\n$6\r\nmaster\r\n");
    while client.line() != "+OK" {}
    client.expect(b"+OK\r\n$6\r\ninside\r\n");
    client.send(b"MULTI\r\nCLIENT SETNAME discarded\r\nDISCARD\r\nCLIENT GETNAME\r\n");
    client.expect(b"+OK\r\n+QUEUED\r\n+OK\r\n$6\r\ninside\r\n");
}

/// Redis' own stress, 100,000 SETs and their GETs written before anything is read; but a hundred
/// of each in a row, for what alternates is executed one by one.
#[test]
fn a_long_pipeline_is_answered_though_nothing_is_read_before_its_end() {
    let node = Node::start();
    let mut client = node.connect();
    client.stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let (mut bytes, mut expected) = (Vec::new(), Vec::new());
    for round in 0..1000 {
        let value = format!("0000{round}0000{}", "v".repeat(100));
        for slot in 0..100 {
            bytes.extend_from_slice(format!("SET key:{slot} {value}{slot}\r\n").as_bytes());
            expected.extend_from_slice(b"+OK\r\n");
        }
        for slot in 0..100 {
            bytes.extend_from_slice(format!("GET key:{slot}\r\n").as_bytes());
            let value = format!("{value}{slot}");
            let reply = format!("${}\r\n{value}\r\n", value.len());
            expected.extend_from_slice(reply.as_bytes());
        }
    }
    client.send(&bytes);
    client.expect(&expected);
    client.send(b"QUIT\r\n");
    client.expect(b"+OK\r\n");
}

#[test]
fn replies_that_nobody_takes_end_in_an_error_behind_the_last_one() {
    let node = Node::start();
    let mut client = node.connect();
    client.stream.set_write_timeout(Some(2 * PATIENCE)).unwrap();
    client.stream.set_read_timeout(Some(2 * PATIENCE)).unwrap();
    let value = "v".repeat(1500);
    client.send(format!("SET 7 {value}\r\n").as_bytes());
    client.expect(b"+OK\r\n");
    // So much is asked that it fits no buffer on the way once the node stops reading.
    let request = format!("GET {}7\r\n", "0".repeat(1000));
    client.send(&request.as_bytes().repeat(100_000));
    let found = client.rest();
    let reply = format!("$1500\r\n{value}\r\n").into_bytes();
    let whole = found.chunks(reply.len()).take_while(|chunk| **chunk == *reply).count();
    let rest = String::from_utf8_lossy(&found[whole * reply.len()..]).into_owned();
    assert!(rest.starts_with("-ERR ") && rest.ends_with("\r\n"), "{rest}");
    assert!(rest.contains("bytes of replies"), "{rest}");
    assert!(whole < 100_000, "the bound is never reached");
    assert_eq!(node.ask(b"PING\r\nQUIT\r\n"), "+PONG\r\n+OK\r\n");
}

#[test]
fn a_request_over_a_limit_gets_one_error_that_names_it_and_the_connection_goes_on() {
    let node = Node::shared();
    let mut client = node.connect();
    let pairs = vec![b"1".as_slice(); 2 * 4097];
    let words = vec![b"w".as_slice(); 20_000];
    let mebibyte = vec![b'm'; 1 << 20];
    let too_long = vec![b'v'; (1 << 20) + 1];
    let longest = vec![b'l'; 9 << 20];
    let request = |name: &[u8], rest: &[&[u8]]| array(&[&[name], rest].concat());
    let too_long_value = "value is 1048577 bytes, a slot holds at most 1500";
    let cases = [
        (request(b"MSET", &pairs), "8193 arguments"),
        (request(b"NONSENSE", &words), "8193 arguments"),
        (request(b"SET", &[b"1", &too_long]), too_long_value),
        (request(b"SET", &[b"1", &longest]), "8388608 bytes"),
        (request(b"MGET", &[mebibyte.as_slice(); 9]), "8388608 bytes"),
    ];
    for (request, limit) in cases {
        client.send(&[&request[..], b"PING\r\n"].concat());
        let answer = client.line();
        assert!(answer.starts_with("-ERR ") && answer.contains(limit), "{answer}");
        client.expect(b"+PONG\r\n");
    }
    client.send(b"MULTI\r\nSET 47 a\r\n");
    client.send(&array(&vec![b"w".as_slice(); 8194]));
    client.send(b"EXEC\r\nGET 47\r\n");
    client.expect(b"+OK\r\n+QUEUED\r\n-ERR ");
    client.line();
    client.expect(b"-EXECABORT Transaction discarded because of previous errors.\r\n$-1\r\n");
}

#[test]
fn hello_3_answers_a_map_and_later_replies_are_resp3() {
    let node = Node::shared();
    let reply = node.ask(b"HELLO 3\r\nGET 999\r\nCONFIG GET save\r\nQUIT\r\n");
    assert!(reply.starts_with("%7\r\n$6\r\nserver\r\n"), "{reply}");
    assert!(reply.contains("$5\r\nproto\r\n:3\r\n"), "{reply}");
    assert!(reply.ends_with("_\r\n%1\r\n$4\r\nsave\r\n$0\r\n\r\n+OK\r\n"), "{reply}");
}

#[test]
fn bad_requests_are_answered_and_the_connection_goes_on() {
    let node = Node::shared();
    let mut client = node.connect();
    let long = vec![b'v'; 5000];
    let cases: &[(&[&[u8]], &str)] = &[
        (&[b"GET", b"x"], "-ERR key must be a slot number 0..999\r\n"),
        (&[b"SET", b"1", &long], "-ERR value is 5000 bytes, a slot holds at most 1500\r\n"),
        (&[b"EXPIRE", b"1", b"5"], "-ERR EXPIRE is refused: values do not expire\r\n"),
        (&[b"NOPE", b"a"], "-ERR unknown command 'NOPE', with args beginning with: 'a' \r\n"),
        (&[b"PING"], "+PONG\r\n"),
    ];
    for (arguments, reply) in cases {
        client.send(&array(arguments));
        client.expect(reply.as_bytes());
    }
}

#[test]
fn garbage_ends_its_own_connection_and_no_other() {
    let node = Node::shared();
    let mut bystander = node.connect();
    bystander.send(b"*2\r\n$3\r\nGET");
    let error = "-ERR Protocol error: ";
    let announced = node.ask(b"*1\r\n$2147483648\r\n");
    assert_eq!(announced, format!("{error}invalid bulk length\r\n"));
    assert_eq!(node.ask(b"PING\r\n*1\r\n:5\r\n").split_once("\r\n").unwrap().0, "+PONG");
    assert!(node.ask(&vec![0xff; 100_000]).starts_with(error));
    assert!(node.ask(&vec![b'a'; 100_000]).starts_with(error));
    bystander.send(b"\r\n$3\r\n998\r\n");
    bystander.expect(b"$-1\r\n");
}

#[test]
fn protocols_that_are_not_served_are_told_so_in_their_own_terms() {
    let node = Node::shared();
    let mut client = node.connect();
    client.send(&[0x16, 0x03, 0x01, 0x00]);
    assert_eq!(client.rest(), [0x15, 0x03, 0x03, 0, 2, 2, 0x28]);
}

#[test]
fn text_commands_are_answered_over_the_connection_or_by_a_datagram() {
    let node = Node::shared();
    let mut client = node.connect();
    client.send(b"set-50-a-b\nGET-050\nget-1000\nnonsense\n");
    client.expect(b"OK: \nOK: a-b\nERR key must be a slot number 0..999\nERR expected ");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut client = node.connect();
    client.send(format!("{}-get-50\n", socket.local_addr().unwrap().port()).as_bytes());
    let mut answer = [0; 2000];
    let count = socket.recv(&mut answer).unwrap();
    assert_eq!(&answer[..count], b"OK: a-b\n");
}

#[test]
fn protobuf_values_that_hold_the_end_mark_come_back() {
    let node = Node::shared();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let port = socket.local_addr().unwrap().port().to_string();
    let mut client = node.connect();
    let mut answer = [0; 2000];
    for length in [10, 1280, 1290, 1407] {
        let value = vec![b'\n'; length];
        client.send(&message(&port, 1, b"60", &value));
        let count = socket.recv(&mut answer).unwrap();
        assert_eq!(&answer[..count], b"OK: \n");
        client.send(&message("", 0, b"60", b""));
        client.expect(&[b"OK: ".as_slice(), &value, b"\n"].concat());
    }
}
