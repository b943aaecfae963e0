//! A node's port, over pipes within this process: every protocol as its clients speak it, and what is wrong.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::config::{Address, SyncPolicy};
use crate::host::{Host, LocalNet, Net};
use crate::leaderless::layout::{Described, Layout};
use crate::leaderless::node::{Registers, RegistersConfig};
use crate::server::leaderless::outcomes::{ForeignValues, Reads};
use bytes::Bytes;

const ADDRESS: &str = "node:8001";
const VALUE_BYTES_MAX: u32 = 64 << 10;

/// A node alone, and its port.
struct Served {
    net: Net,
    node: Arc<Registers>,
    stop: watch::Sender<bool>,
    _directory: tempfile::TempDir,
}

pub(super) fn layout_of_one() -> Layout {
    let address = Some(Address::parse(ADDRESS).unwrap());
    let one = Described { id: "1".to_owned(), address, weight: 1, zone: None };
    Layout::first(0, 1, vec![one]).unwrap()
}

async fn serve() -> Served {
    let net = Net::Local(LocalNet::default());
    let host = Host { net: net.clone(), ..Host::real() };
    let directory = tempfile::tempdir().unwrap();
    let config = RegistersConfig {
        id: "1".to_owned(),
        layout: layout_of_one(),
        directory: directory.path().join("data"),
        memory_bytes_max: 64 << 20,
        value_bytes_max: VALUE_BYTES_MAX,
        sync: SyncPolicy::Always,
        accepts_loss: false,
        forget_after: Duration::from_hours(72),
    };
    let node = Registers::start(&host, config).await.unwrap();
    while !node.is_ready() {
        sleep(Duration::from_millis(5)).await;
    }
    let (stop, stopping) = watch::channel(false);
    for (address, port) in [(ADDRESS, Port::Node), ("node:9001", Port::Metrics)] {
        let listener = net.listen(address).await.unwrap();
        let server = RegisterServer::new(Registrar::Node(Arc::clone(&node)), Level::Quorum);
        tokio::spawn(server.run(listener, port, stopping.clone()));
    }
    Served { net, node, stop, _directory: directory }
}

impl Served {
    /// What a connection answers to all of this, until it ends.
    async fn said_at(&self, address: &str, request: &[u8]) -> String {
        let mut stream = self.net.dial(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.unwrap();
        String::from_utf8_lossy(&said).into_owned()
    }

    /// The replies to these lines, each line a command.
    async fn replies(&self, lines: &str) -> String {
        let request = format!("{}\r\nQUIT\r\n", lines.replace('\n', "\r\n"));
        let said = self.said_at(ADDRESS, request.as_bytes()).await;
        said.strip_suffix("+OK\r\n").expect("QUIT is answered last").replace("\r\n", "|")
    }

    /// The head and the body of a response of HTTP.
    async fn response(&self, line: &str, body: &str) -> Response {
        let length = body.len();
        let request = format!(
            "{line} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        let said = self.said_at(ADDRESS, request.as_bytes()).await;
        let (head, body) = said.split_once("\r\n\r\n").expect("a head ends");
        Response { head: head.to_owned(), body: body.to_owned() }
    }
}

struct Response {
    head: String,
    body: String,
}

#[tokio::test]
async fn commands_of_keys_are_answered_as_redis_does() {
    let served = serve().await;
    for (lines, expected) in [
        ("PING\nPING hi\nECHO x", "+PONG|$2|hi|$1|x|"),
        ("GET a\nSET a 1\nGET a\nSTRLEN a\nTYPE a\nTYPE z", "$-1|+OK|$1|1|:1|+string|+none|"),
        ("MSET b 2 c \"\"\nMGET a b c d", "+OK|*4|$1|1|$1|2|$0||$-1|"),
        ("EXISTS a b d a\nDEL a d\nEXISTS a\nUNLINK b c", ":3|:1|:0|:2|"),
        ("MSET m 1 m 2\nGET m\nDEL m m\nEXISTS m m", "+OK|$1|2|:1|:0|"),
        ("DBSIZE\nSET k v\nDBSIZE\nSCAN 0", ":0|+OK|:1|*2|$1|0|*1|$1|k|"),
        ("SCAN 0 MATCH x*\nSCAN 0 MATCH k COUNT 5", "*2|$1|0|*0|*2|$1|0|*1|$1|k|"),
        (
            "SELECT 0\nCLIENT SETNAME me\nCLIENT GETNAME\nCLIENT SETINFO LIB-NAME x",
            "+OK|+OK|$2|me|+OK|",
        ),
        (
            "LEVEL\nLEVEL one\nSET l 1\nGET l\nLEVEL ALL\nLEVEL",
            "$6|quorum|+OK|+OK|$1|1|+OK|$3|all|",
        ),
    ] {
        assert_eq!(served.replies(lines).await, expected, "{lines}");
    }
    let info = served.replies("INFO").await;
    assert!(info.contains("|cluster_enabled:0|") && info.contains("|loading:0|"), "{info}");
    let hello = served.replies("HELLO 3\nGET none").await;
    assert!(hello.starts_with("%8|$6|server|$5|redis|") && hello.ends_with("|_|"), "{hello}");
    served.stop.send_replace(true);
}

#[tokio::test]
async fn what_needs_an_order_is_refused_with_a_pointer() {
    let served = serve().await;
    let order = "needs an order that leaderless mode does not keep; use kvstore";
    for line in [
        "SET a 1 NX",
        "SET a 1 XX",
        "SET a 1 GET",
        "SET a 1 IFEQ 2",
        "GETSET a 1",
        "INCR a",
        "INCRBYFLOAT a 1",
        "APPEND a 1",
        "WATCH a",
        "SETNX a 1",
        "GETDEL a",
    ] {
        let said = served.replies(line).await;
        assert!(said.starts_with("-ERR ") && said.contains(order), "{line}: {said}");
    }
    // What comes with a transaction is not carried out without it.
    let said = served.said_at(ADDRESS, b"SET b 1\r\nMULTI\r\nSET a 1\r\nEXEC\r\n").await;
    assert!(said.starts_with("+OK\r\n-ERR ") && said.contains(order), "{said}");
    assert_eq!(said.matches("\r\n").count(), 2, "{said}");
    for (line, words) in [
        ("SET a 1 EX 5", "values do not expire"),
        ("EXPIRE a 5", "values do not expire"),
        ("KEYS *", "use SCAN"),
        ("SET a 1 FOO", "syntax error"),
        ("GET", "wrong number of arguments for 'get' command"),
        ("MSET a 1 b", "wrong number of arguments for 'mset' command"),
        ("FOO a", "unknown command 'FOO'"),
        ("LEVEL two", "level is one, quorum or all"),
        ("SELECT 1", "DB index is out of range"),
        ("SCAN x", "invalid cursor"),
        ("SCAN 0 COUNT 0", "not an integer"),
        ("GET \"\"", "a key of 0 bytes; give 1 to 65535"),
        ("DISKSTORE READ two a", "level is one, quorum or all"),
        ("AUTH x", "asks for no token"),
        ("HELLO 4", "unsupported protocol version"),
    ] {
        let said = served.replies(line).await;
        assert!(said.starts_with('-') && said.contains(words), "{line}: {said}");
    }
    assert_eq!(served.replies("EXISTS a").await, ":0|", "nothing was stored");
}

#[tokio::test]
async fn a_pipeline_is_answered_in_order_and_each_read_sees_the_write_before_it() {
    let served = serve().await;
    let (mut request, mut expected) = (Vec::new(), Vec::new());
    for step in 0..1000 {
        let key = step % 7;
        request.push(format!("SET k{key} {step}\r\nGET k{key}\r\nGET other\r\n"));
        expected.push(format!("+OK\r\n${}\r\n{step}\r\n$-1\r\n", step.to_string().len()));
    }
    request.push("QUIT\r\n".to_owned());
    expected.push("+OK\r\n".to_owned());
    let said = served.said_at(ADDRESS, request.concat().as_bytes()).await;
    assert_eq!(said, expected.concat());
}

#[tokio::test]
async fn every_operation_can_be_told_with_its_version() {
    let served = serve().await;
    let said = served.replies("DISKSTORE WRITE quorum a 1\nDISKSTORE READ all a").await;
    let parts: Vec<&str> = said.split('|').collect();
    let [head, _, written, again, _, read, _, value, ""] = parts[..] else { panic!("{said}") };
    assert_eq!((head, again, read, value), ("*1", "*2", written, "1"));
    let said = served.replies("DISKSTORE ERASE one a\nDISKSTORE READ quorum a").await;
    let parts: Vec<&str> = said.split('|').collect();
    let [_, _, erased, _, _, read, ""] = parts[..] else { panic!("{said}") };
    let number = |text: &str| text.parse::<u64>().unwrap();
    assert!(number(erased) > number(written) && number(read) == number(erased), "{said}");
    let node = served.replies("DISKSTORE NODE").await;
    let hash = layout_of_one().hash_text();
    assert!(node.starts_with(&format!("*3|$64|{hash}|$1|1|")), "{node}");
}

#[tokio::test]
async fn values_and_keys_beyond_their_bounds_are_refused_and_the_connection_goes_on() {
    let served = serve().await;
    let bulk = |bytes: usize| format!("${bytes}\r\n{}\r\n", "x".repeat(bytes));
    let set = |key: usize, value: usize| format!("*3\r\n$3\r\nSET\r\n{}{}", bulk(key), bulk(value));
    let value_max = VALUE_BYTES_MAX as usize;
    let request =
        [set(1, value_max), set(1, value_max + 1), set(65_535, 1), set(65_536, 1), set(2, 9 << 20)];
    let request = request.concat() + "STRLEN x\r\nQUIT\r\n";
    let said = served.said_at(ADDRESS, request.as_bytes()).await;
    let lines: Vec<&str> = said.split("\r\n").collect();
    assert_eq!((lines[0], lines[2]), ("+OK", "+OK"), "{said}");
    assert!(lines[1].contains("a value of 65537 bytes; this node takes at most 65536"), "{said}");
    assert!(lines[3].contains("a key of 65536 bytes; give 1 to 65535"), "{said}");
    assert!(lines[4].contains("the request is too long; at most 8388608 bytes"), "{said}");
    assert_eq!(lines[5..], [":65536", "+OK", ""], "{said}");
    let broken = served.said_at(ADDRESS, b"*1\r\n+x\r\nPING\r\n").await;
    assert!(broken.starts_with("-ERR Protocol error") && !broken.contains("PONG"), "{broken}");
    let garbage = served.said_at(ADDRESS, b"\0\0\0\0").await;
    assert!(garbage.contains("unknown protocol"), "{garbage}");
}

#[tokio::test]
async fn keys_stand_under_their_path_and_the_etag_is_the_version() {
    let served = serve().await;
    let put = served.response("PUT /v1/keys/a%20b/c?level=all", "hello").await;
    assert!(put.head.starts_with("HTTP/1.1 204"), "{}", put.head);
    let tag = put.head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    let got = served.response("GET /v1/keys/a%20b/c", "").await;
    assert!(got.head.contains(&format!("etag: {tag}")), "{}", got.head);
    assert_eq!(got.body, "hello");
    assert_eq!(served.replies("GET \"a b/c\"").await, "$5|hello|");
    let version = served.node.held(Bytes::from_static(b"a b/c")).await.unwrap().version;
    assert_eq!(tag, format!("\"{}\"", version.get()));
    let gone = served.response("DELETE /v1/keys/a%20b/c?level=quorum", "").await;
    assert!(gone.head.contains("leaderless-deleted: true"), "{}", gone.head);
    for (line, status, code) in [
        ("GET /v1/keys/a%20b/c", 404, "no_value"),
        ("GET /v1/keys/", 404, "no_such_path"),
        ("GET /v1/keys/a?level=two", 400, "wrong"),
        ("GET /v1/keys/a?levle=one", 400, "wrong"),
        ("GET /v1/keys/a?level=one&level=all", 400, "wrong"),
        ("POST /v1/keys/a", 405, "method"),
        ("GET /elsewhere", 404, "no_such_path"),
    ] {
        let Response { head, body } = served.response(line, "").await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {head}");
        assert!(body.starts_with(&format!(r#"{{"error":{{"code":"{code}""#)), "{line}: {body}");
    }
    let large = "x".repeat(VALUE_BYTES_MAX as usize + 1);
    let refused = served.response("PUT /v1/keys/a", &large).await;
    assert!(refused.head.starts_with("HTTP/1.1 413"), "{}", refused.head);
    let refused = served.response("PUT /v1/keys/a HTTP/1.1\r\nif-match: \"1\"\r\nx: ", "v").await;
    assert!(!refused.head.contains(" 204"), "{}", refused.head);
}

#[tokio::test]
async fn who_runs_the_node_finds_out_how_it_is() {
    let served = serve().await;
    assert_eq!(served.response("GET /livez", "").await.body, "ok\n");
    assert_eq!(served.response("GET /readyz", "").await.body, "ready\n");
    let status = served.response("GET /status", "").await.body;
    assert!(serde_json::from_str::<serde_json::Value>(&status).unwrap()["peers"].is_array());
    let metrics = served.response("GET /metrics", "").await.body;
    assert!(metrics.contains("\nleaderless_ready 1\n"), "{metrics}");
    let get = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").into_bytes()
    };
    let metrics = served.said_at("node:9001", &get("/metrics")).await;
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    let keys = served.said_at("node:9001", &get("/v1/keys/a")).await;
    assert!(keys.starts_with("HTTP/1.1 404"), "{keys}");
    let resp = served.said_at("node:9001", b"SET a 1\r\n").await;
    assert!(resp.contains("metrics alone"), "{resp}");
}

/// All that a browser loads, together.
const CONSOLE_BYTES_MAX: usize = 30 << 10;

#[tokio::test]
async fn the_console_is_small_asks_this_node_alone_and_writes_only_from_this_machine() {
    let served = serve().await;
    let mut bytes = 0;
    for path in ["/", "/console.css", "/console.js"] {
        let Response { head, body } = served.response(&format!("GET {path}"), "").await;
        let policy = "content-security-policy: default-src 'none'; script-src 'self';";
        assert!(head.starts_with("HTTP/1.1 200") && head.contains(policy), "{head}");
        // The pages of other nodes are linked to, not loaded.
        let elsewhere = body.replace("`http://${peer.address}/`", "");
        assert!(!elsewhere.contains("http:") && !elsewhere.contains("https:"), "another host");
        assert!(!body.contains("innerHTML") && !body.contains("<style"), "no markup of values");
        // A pipe within this process has no address.
        assert!(!body.contains("data-writes=\"yes\""), "read-only but from this machine");
        bytes += body.len();
    }
    assert!(bytes < CONSOLE_BYTES_MAX, "{bytes}");
    let page = served
        .said_at("node:9001", b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    assert!(page.await.starts_with("HTTP/1.1 404"), "not at the port of metrics");
}

#[tokio::test]
async fn a_coordinator_passes_operations_on_and_holds_no_keys() {
    use crate::leaderless::file::CoordinatorFile;
    let served = serve().await;
    let listen = Address::parse("coordinator:8080").unwrap();
    let layout = layout_of_one();
    let file = CoordinatorFile { listen, layout, discovery: None, level: Level::Quorum };
    let coordinator = Coordinator::begin(&served.net, &file);
    let listener = served.net.listen("coordinator:8080").await.unwrap();
    let registrar = Registrar::Coordinator(coordinator);
    let server = RegisterServer::new(registrar.clone(), Level::Quorum);
    let (_stop, stopping) = watch::channel(false);
    tokio::spawn(server.run(listener, Port::Node, stopping));
    while !registrar.is_ready(Level::Quorum) {
        sleep(Duration::from_millis(5)).await;
    }
    let lines =
        "SET a 1\r\nGET a\r\nGET b\r\nDEL a\r\nMSET c 3 d 4\r\nMGET c d e\r\nDBSIZE\r\nQUIT\r\n";
    let said = served.said_at("coordinator:8080", lines.as_bytes()).await.replace("\r\n", "|");
    let expected = "+OK|$1|1|$-1|:1|+OK|*3|$1|3|$1|4|$-1|-ERR this is a coordinator";
    assert!(said.starts_with(expected), "{said}");
    assert_eq!(served.replies("GET c").await, "$1|3|");
    let status = registrar.status().await;
    assert!(status.peers[0].is_up && status.standing == "coordinator", "{status:?}");
}

#[tokio::test]
async fn a_coordinator_that_would_place_keys_elsewhere_asks_a_node_nothing() {
    use crate::leaderless::file::CoordinatorFile;
    let served = serve().await;
    let address = Some(Address::parse(ADDRESS).unwrap());
    let one = Described { id: "1".to_owned(), address, weight: 1, zone: None };
    let layout = Layout::first(1, 1, vec![one]).unwrap();
    let listen = Address::parse("coordinator:8080").unwrap();
    let file = CoordinatorFile { listen, layout, discovery: None, level: Level::Quorum };
    let registrar = Registrar::Coordinator(Coordinator::begin(&served.net, &file));
    let complaint = loop {
        let status = registrar.status().await;
        if let Some(complaint) = status.peers[0].complaint.clone() {
            break complaint;
        }
        sleep(Duration::from_millis(5)).await;
    };
    let own = file.layout.hash_text();
    let theirs = layout_of_one().hash_text();
    assert!(complaint.contains(&own) && complaint.contains(&theirs), "{complaint}");
    assert!(!registrar.is_ready(Level::Quorum));
    let key = Bytes::from_static(b"a");
    let refused = registrar.write(key.clone(), Some(key.clone()), Level::One).await;
    let class = refused.unwrap_err().class;
    assert_eq!(class, crate::command::FailureClass::Unavailable);
    assert_eq!(served.replies("EXISTS a").await, ":0|");
}

#[test]
fn peers_and_clients_are_told_apart_by_their_first_bytes() {
    for (first, expected) in [
        (&b"\xd5DSP"[..], Spoken::Peer),
        (b"\xd5DSP\0\0", Spoken::Peer),
        (b"\xd5DSX", Spoken::Unknown),
        (b"\xd5X", Spoken::Unknown),
        (b"*1\r\n", Spoken::Resp),
        (b"PING\r\n", Spoken::Resp),
        (b"GET /readyz", Spoken::Http),
        (b"PRI * HTTP/2.0", Spoken::Http2),
        (b"\x16\x03\x01", Spoken::Unknown),
        (b"\0\0", Spoken::Unknown),
    ] {
        assert_eq!(spoken_by(first), Some(expected), "{}", first.escape_ascii());
    }
    for end in 1..4 {
        assert_eq!(spoken_by(&b"\xd5DSP"[..end]), None);
    }
}

#[test]
fn of_several_writes_a_class_that_is_sent_again_says_that_nothing_was_stored() {
    use crate::command::FailureClass;
    use crate::server::complaint::Complaint;
    let unavailable = || Err(Complaint::new(FailureClass::Unavailable, "down"));
    let unknown = || Err(Complaint::new(FailureClass::Unknown, "lost"));
    let class = |outcomes: &[Result<(), Complaint>]| {
        outcomes::all_done(outcomes).err().map(|complaint| complaint.class)
    };
    assert_eq!(class(&[Ok(()), Ok(())]), None);
    assert_eq!(class(&[unavailable(), unavailable()]), Some(FailureClass::Unavailable));
    assert_eq!(class(&[unavailable(), unknown()]), Some(FailureClass::Unknown));
    assert_eq!(class(&[unavailable(), Ok(())]), Some(FailureClass::Unknown));
}

/// A link to a node that answers each connection in this way, whose replies have at most so many bytes; and what
/// says where the node is.
async fn linked<F>(
    answer: impl Fn(Stream, String) -> F + Send + 'static,
    bytes_max: usize,
) -> (Arc<link::Link>, watch::Sender<Option<String>>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let net = Net::Local(LocalNet::default());
    let listener = net.listen(ADDRESS).await.unwrap();
    let hash = layout_of_one().hash_text();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(stream, hash.clone()));
        }
    });
    let (address, place) = watch::channel(Some(ADDRESS.to_owned()));
    let (id, layout_hash) = ("1".to_owned(), layout_of_one().hash_text());
    let link = link::Link::begin(&link::LinkTerms { net, id, layout_hash, bytes_max }, &place);
    while link.state().open < 4 {
        sleep(Duration::from_millis(5)).await;
    }
    (Arc::new(link), address)
}

/// A node whose replies come in pieces while requests go on arriving.
#[tokio::test]
async fn every_reply_of_a_node_goes_to_the_request_that_it_answers() {
    let (link, _address) = linked(trickle, 1 << 20).await;
    let asked = (0..200).map(|step| {
        let link = Arc::clone(&link);
        tokio::spawn(async move {
            sleep(Duration::from_millis(step % 20)).await;
            let key = step.to_string();
            let reply = link.call(link::request([b"ECHO".as_slice(), key.as_bytes()])).await;
            assert_eq!(reply.unwrap(), [Bytes::from(key)]);
        })
    });
    for asked in asked.collect::<Vec<_>>() {
        asked.await.unwrap();
    }
}

async fn trickle(mut stream: Stream, hash: String) {
    use crate::server::resp::Decoder;
    let (mut decoder, mut input) = (Decoder::default(), bytes::BytesMut::new());
    loop {
        while let Some(request) = decoder.next(&mut input).unwrap() {
            let arguments = request.arguments();
            let words: &[&[u8]] = match arguments[0] {
                b"ECHO" => &arguments[1..],
                _ => &[hash.as_bytes(), b"1", b"ready"],
            };
            for byte in link::request(words.iter().copied()) {
                drop(stream.write_all(&[byte]).await);
                tokio::task::yield_now().await;
            }
        }
        if stream.read_buf(&mut input).await.unwrap_or(0) == 0 {
            return;
        }
    }
}

/// A node that answers a request only once it has all of it, byte by byte, and of which so much is unread that a
/// coordinator has to read while it writes.
#[tokio::test]
async fn large_values_both_ways_do_not_wait_for_each_other() {
    let (link, _address) = linked(echo_in_order, 1 << 24).await;
    let asked = (0..24_u8).map(|nth| {
        let link = Arc::clone(&link);
        tokio::spawn(async move {
            let value = vec![nth; 600 << 10];
            let reply = link.call(link::request([b"ECHO".as_slice(), &value])).await;
            assert_eq!(reply.unwrap(), [Bytes::from(value)]);
        })
    });
    for asked in asked.collect::<Vec<_>>() {
        asked.await.unwrap();
    }
}

/// Reads nothing more before it has written each reply.
async fn echo_in_order(mut stream: Stream, hash: String) {
    use crate::server::resp::Decoder;
    let (mut decoder, mut input) = (Decoder::taking(1 << 24), bytes::BytesMut::new());
    loop {
        while let Some(request) = decoder.next(&mut input).unwrap() {
            let arguments = request.arguments();
            let words: &[&[u8]] = match arguments[0] {
                b"ECHO" => &arguments[1..],
                _ => &[hash.as_bytes(), b"1", b"ready"],
            };
            drop(stream.write_all(&link::request(words.iter().copied())).await);
        }
        if stream.read_buf(&mut input).await.unwrap_or(0) == 0 {
            return;
        }
    }
}

#[tokio::test]
async fn values_of_one_command_are_under_way_only_as_far_as_a_reply_may_have_them() {
    let served = serve().await;
    let server = RegisterServer::new(Registrar::Node(Arc::clone(&served.node)), Level::One);
    let reads = |bytes| {
        let keys = (0..200).map(|nth: usize| Bytes::from(nth.to_string())).collect();
        Reads::of(&server, Level::One, keys, ForeignValues { bytes })
    };
    for (bytes, count) in [(16 << 20, 4), (usize::MAX, 1), (1, 128)] {
        let mut reads = reads(bytes);
        reads.begin();
        assert_eq!(reads.under_way.len(), count, "values of {bytes} bytes");
    }
    let (mut reads, mut count) = (reads(16 << 20), 0);
    while reads.next().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 200);
}
