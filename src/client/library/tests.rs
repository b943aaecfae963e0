//! The client against nodes that are played: each answers as its test says.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::super::answer::decode;
use super::super::dialling::NodeStream;
use super::*;
use crate::status::{MemberStatus, Status};

/// How long anything may take before a test fails.
const LONG: Duration = Duration::from_secs(30);

impl NodeStream for DuplexStream {}

/// What was asked of a node, one line a request, in order.
type Asked = Arc<Mutex<Vec<String>>>;

/// A node that is played.
#[derive(Clone)]
struct Played {
    address: String,
    asked: Asked,
    connections: Arc<Mutex<usize>>,
}

impl Played {
    fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }

    fn count(&self, beginning: &str) -> usize {
        self.asked.lock().iter().filter(|line| line.starts_with(beginning)).count()
    }
}

/// Plays a node that gives `answer` to each request; with none it closes the connection.
async fn play(
    answer: impl Fn(&str, &[String]) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> Played {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let played = Played { address, asked: Asked::default(), connections: Arc::default() };
    let (own, answer) = (played.clone(), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            *own.connections.lock() += 1;
            tokio::spawn(serve(stream, own.asked.clone(), answer.clone()));
        }
    });
    played
}

async fn serve(
    mut stream: TcpStream,
    asked: Asked,
    answer: Arc<impl Fn(&str, &[String]) -> Option<Vec<u8>>>,
) {
    let mut input = BytesMut::new();
    loop {
        while let Some(request) = decode(&mut input).unwrap() {
            let Answer::List(words) = request else { panic!("{request:?} is no request") };
            let words = words.into_iter().map(|word| match word {
                Answer::Value(word) => String::from_utf8_lossy(&word).into_owned(),
                other => panic!("{other:?} is no word"),
            });
            let line = words.collect::<Vec<_>>().join(" ");
            let so_far = {
                let mut asked = asked.lock();
                asked.push(line.clone());
                asked.clone()
            };
            match answer(&line, &so_far) {
                Some(bytes) => stream.write_all(&bytes).await.unwrap_or_default(),
                None => return,
            }
        }
        if !matches!(stream.read_buf(&mut input).await, Ok(1..)) {
            return;
        }
    }
}

/// What every node answers: it serves, and leads.
fn usual(line: &str) -> Vec<u8> {
    match line {
        "PING" => b"+PONG\r\n".to_vec(),
        "DISKSTORE STATUS" => status("one", "node0", "leader", ""),
        line if line.starts_with("GET") => b"$2\r\nok\r\n".to_vec(),
        _ => b"+OK\r\n".to_vec(),
    }
}

/// A status of the node `name` of a cluster, whose leader, node1, is at `leader`.
fn status(cluster: &str, name: &str, role: &str, leader: &str) -> Vec<u8> {
    let member = MemberStatus {
        name: "node1".to_owned(),
        client: leader.to_owned(),
        ..MemberStatus::default()
    };
    let status = Status {
        name: name.to_owned(),
        role: role.to_owned(),
        cluster_id: cluster.to_owned(),
        leader: Some("node1".to_owned()),
        members: vec![member],
        ..Status::default()
    };
    let json = status.to_json();
    format!("${}\r\n{json}\r\n", json.len()).into_bytes()
}

fn client(nodes: &[&Played]) -> Client {
    let addresses = nodes.iter().map(|node| &node.address);
    Client::new(addresses, Dialling::default()).unwrap()
}

/// What comes within a bounded time.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LONG, what).await.expect("within a bounded time")
}

#[tokio::test]
async fn many_requests_are_on_their_way_at_once_over_one_connection() {
    const COUNT: usize = 200;
    // Nothing is answered before all have come.
    let node = play(|line, asked| {
        let Some(key) = line.strip_prefix("GET ") else { return Some(usual(line)) };
        let keys = asked.iter().filter_map(|line| line.strip_prefix("GET "));
        let keys: Vec<&str> = keys.collect();
        if keys.len() < COUNT {
            return Some(Vec::new());
        }
        assert_eq!(keys.last(), Some(&key));
        let value = |key: &&str| format!("${}\r\n{key}\r\n", key.len());
        Some(keys.iter().map(value).collect::<String>().into_bytes())
    })
    .await;
    let client = client(&[&node]);
    let calls = (0..COUNT).map(|key| {
        let client = client.clone();
        tokio::spawn(async move { (key, client.get(key.to_string()).await) })
    });
    for call in calls.collect::<Vec<_>>() {
        let (key, value) = soon(call).await.unwrap();
        assert_eq!(value.unwrap().unwrap(), key.to_string().into_bytes());
    }
    assert_eq!(*node.connections.lock(), 1);
}

#[tokio::test]
async fn a_write_that_was_sent_and_not_answered_is_never_sent_again() {
    let dying = play(|line, _| (!line.starts_with("SET")).then(|| usual(line))).await;
    let lost = |line: &str, _: &[String]| {
        let unknown = b"-UNKNOWN outcome unknown (term 3, log index 9): time\r\n";
        Some(if line.starts_with("SET") { unknown.to_vec() } else { usual(line) })
    };
    let losing = play(lost).await;
    let good = play(|line, _| Some(usual(line))).await;
    for bad in [dying, losing] {
        let client = client(&[&bad, &good]);
        let error = soon(client.set("42", "x")).await.unwrap_err();
        assert!(
            matches!(error, OperationError::Unknown { .. }) && !error.is_not_applied(),
            "{error}"
        );
        assert_eq!((bad.count("SET"), good.count("SET")), (1, 0));
        soon(client.set("42", "y")).await.unwrap_or_default();
    }
}

#[tokio::test]
async fn a_read_is_asked_again_elsewhere() {
    let cut = play(|line, _| match line {
        "GET 42" => None,
        line => Some(usual(line)),
    })
    .await;
    let good = play(|line, _| Some(usual(line))).await;
    let client = client(&[&cut, &good]);
    assert_eq!(soon(client.get("42")).await.unwrap().unwrap(), b"ok");
    assert_eq!((cut.count("GET"), good.count("GET")), (1, 1));
    // Without patience too, once at each node.
    let hasty = self::client(&[&cut, &good]).with_patience(Duration::ZERO);
    assert_eq!(soon(hasty.get("42")).await.unwrap().unwrap(), b"ok");
    let lonely = self::client(&[&cut]).with_patience(Duration::ZERO);
    assert!(matches!(soon(lonely.get("42")).await, Err(OperationError::Unknown { .. })));
}

#[tokio::test]
async fn what_was_refused_for_a_reason_that_passes_is_sent_again() {
    for (refusal, is_elsewhere) in [
        ("CLUSTERDOWN no leader", true),
        ("LOADING this node starts", true),
        ("NOT_LEADER not the leader", true),
        ("BUSY too many commands wait", false),
        ("NO_SPACE no space left", false),
    ] {
        let answer = format!("-{refusal}\r\n").into_bytes();
        let refusing = play(move |line, asked| {
            let sets = asked.iter().filter(|line| line.starts_with("SET")).count();
            let is_refused = line.starts_with("SET") && (is_elsewhere || sets < 3);
            Some(if is_refused { answer.clone() } else { usual(line) })
        })
        .await;
        let good = play(|line, _| Some(usual(line))).await;
        soon(client(&[&refusing, &good]).set("42", "x")).await.unwrap();
        let expected = if is_elsewhere { (1, 1) } else { (3, 0) };
        assert_eq!((refusing.count("SET"), good.count("SET")), expected, "{refusal}");
    }
    // A node that refuses whoever comes.
    for refusal in ["LOADING this node starts", "ERR max number of clients reached"] {
        let answer = format!("-{refusal}\r\n").into_bytes();
        let closed = play(move |_, _| Some(answer.clone())).await;
        let good = play(|line, _| Some(usual(line))).await;
        soon(client(&[&closed, &good]).set("42", "x")).await.unwrap();
        assert_eq!((closed.asked(), good.count("SET")), (vec!["PING".to_owned()], 1));
        let error = soon(client(&[&closed]).with_patience(Duration::ZERO).set("42", "x")).await;
        assert!(matches!(error, Err(OperationError::Refused { words, .. }) if words == refusal));
    }
}

#[tokio::test]
async fn what_stays_refused_is_told_at_once_in_the_nodes_words() {
    for words in ["ERR value is 9 bytes", "OOM keys take all", "NOPERM no permissions"] {
        let answer = format!("-{words}\r\n").into_bytes();
        let refuses = move |line: &str| if line == "PING" { usual(line) } else { answer.clone() };
        let node = play(move |line, _| Some(refuses(line))).await;
        let error = soon(client(&[&node, &node]).set("42", "x")).await.unwrap_err();
        assert_eq!(error.to_string(), format!("{} says: {words}", node.address));
        assert!(error.is_not_applied());
        assert_eq!(node.count("SET"), 1);
    }
    let guarded = play(|_, _| Some(b"-NOAUTH Authentication required.\r\n".to_vec())).await;
    let error = soon(client(&[&guarded]).get("42")).await.unwrap_err();
    assert!(matches!(error, OperationError::Refused { .. }), "{error}");
}

#[tokio::test]
async fn nobody_there_is_told_with_every_address() {
    let nowhere =
        async || TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let (first, second) = (nowhere().await, nowhere().await);
    let client = Client::new([&first, &second], Dialling::default()).unwrap();
    let error = soon(client.with_patience(Duration::ZERO).set("42", "x")).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&first) && text.contains(&second), "{text}");
    assert!(matches!(error, OperationError::NotSent { .. }));
    for wrong in [&[][..], &["a b:1"], &["h:0"], &["h:1"; 65]] {
        assert!(Client::new(wrong, Dialling::default()).is_err(), "{wrong:?}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_answer_end_the_connection_and_nothing_else() {
    for bytes in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"$99999999999\r\n",
        b"*1000000\r\n",
        b"*2\r\n$67108864\r\n",
        b"$5\r\nhel",
        b"*2\r\n$1\r\na\r\n",
        b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
        b":x\r\n",
        b"+\xff\r\n",
        b"+OK\r\n+OK\r\n+OK\r\n", // more than was asked
    ] {
        let node = play(move |line, asked| {
            let is_second = line != "PING" && asked.len() > 2;
            if line == "PING" { Some(usual(line)) } else { (!is_second).then(|| bytes.to_vec()) }
        })
        .await;
        let client = client(&[&node]).with_patience(Duration::ZERO);
        let halves = async {
            let written = tokio::spawn({
                let client = client.clone();
                async move { client.set_if_version("42", "x", 7).await }
            });
            // The second request closes the connection where the first answer is not whole.
            while node.asked().len() < 2 {
                tokio::task::yield_now().await;
            }
            let read = client.get("42").await;
            (written.await.unwrap(), read)
        };
        let (written, read) = soon(halves).await;
        let error = written.unwrap_err();
        assert!(!error.is_not_applied(), "{bytes:?}: {error}");
        drop(read);
    }
}

#[tokio::test]
async fn answers_of_the_wrong_kind_are_no_answers() {
    let node = play(|line, _| {
        let is_greeting = ["PING", "DISKSTORE STATUS"].contains(&line);
        Some(if is_greeting { usual(line) } else { b"*2\r\n:1\r\n+x\r\n".to_vec() })
    })
    .await;
    let client = client(&[&node]);
    let foreign = OperationError::Foreign { node: node.address.clone() };
    let is_foreign = |error: Option<OperationError>| error.as_ref() == Some(&foreign);
    assert!(is_foreign(soon(client.get("1")).await.err()));
    assert!(is_foreign(soon(client.get_versioned("1")).await.err()));
    assert!(is_foreign(soon(client.get_many(&["1", "2"])).await.err()));
    assert!(is_foreign(soon(client.set("1", "x")).await.err()));
    assert!(is_foreign(soon(client.set_many(&[("1", "x")])).await.err()));
    assert!(is_foreign(soon(client.set_if_version("1", "x", 1)).await.err()));
    assert!(is_foreign(soon(client.delete("1")).await.err()));
    assert!(is_foreign(soon(client.delete_if_version("1", 1)).await.err()));
    assert!(!foreign.is_not_applied());
}

#[tokio::test]
async fn the_leader_is_found_and_a_stranger_at_its_address_is_not_used() {
    for (cluster, role, is_used) in
        [("one", "leader", true), ("other", "leader", false), ("one", "follower", false)]
    {
        let there = play(move |line, _| {
            let is_status = line == "DISKSTORE STATUS";
            Some(if is_status { status(cluster, "node1", role, "") } else { usual(line) })
        })
        .await;
        let address = there.address.clone();
        let here = play(move |line, _| {
            let is_status = line == "DISKSTORE STATUS";
            Some(if is_status { status("one", "node0", "follower", &address) } else { usual(line) })
        })
        .await;
        let client = client(&[&here]);
        let found = async {
            soon(client.set("42", "x")).await.unwrap();
            while there.count("DISKSTORE") == 0 {
                tokio::task::yield_now().await;
            }
            // Once its connection is used or given up.
            while there.count("SET") == 0 && here.count("SET") < 100 {
                client.set("42", "x").await.unwrap();
            }
        };
        soon(found).await;
        assert_eq!(there.count("SET") > 0, is_used, "{cluster} {role}");
    }
}

#[tokio::test]
async fn a_local_client_says_so_before_anything_else() {
    let node = play(|line, _| Some(usual(line))).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "dst_abc\n").unwrap();
    let dialling = Dialling::read(Some(&file), None).unwrap();
    let client = Client::connect([&node.address], dialling).await.unwrap();
    soon(client.local().get("42")).await.unwrap();
    let asked = node.asked();
    let asked: Vec<&str> =
        asked.iter().map(String::as_str).filter(|line| *line != "DISKSTORE STATUS").collect();
    let token = "DISKSTORE AUTH dst_abc";
    assert_eq!(asked, [token, "PING", token, "READONLY", "GET 42"]);
}

#[tokio::test]
async fn what_no_byte_of_has_left_was_not_sent() {
    // The socket takes six bytes, and no more.
    let (near, mut far) = duplex(6);
    let pipeline =
        Pipeline::over(&Address::parse("node:1").unwrap(), Box::new(near), BytesMut::new());
    let pipeline = Arc::new(pipeline);
    let ask = |word: &'static [u8]| {
        let pipeline = pipeline.clone();
        let request = encode([word].into_iter()).into();
        tokio::spawn(async move { pipeline.call(request, Intent::Write).await })
    };
    let first = ask(b"first");
    let mut bytes = [0; 1];
    soon(far.read_exact(&mut bytes)).await.unwrap(); // some of it has left
    let second = ask(b"second");
    tokio::task::yield_now().await;
    drop(far);
    let error = |attempt: Result<Answer, FailedAttempt>| attempt.unwrap_err().error;
    let first = error(soon(first).await.unwrap());
    assert!(matches!(first, OperationError::Unknown { .. }), "{first}");
    let second = error(soon(second).await.unwrap());
    assert!(matches!(second, OperationError::NotSent { .. }), "{second}");
}

/// Sends what it is given, and fails, as TLS may between two records of one write.
struct SendsAndFails(DuplexStream);

impl NodeStream for SendsAndFails {
    fn may_send_and_fail(&self) -> bool {
        true
    }
}

impl AsyncRead for SendsAndFails {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for SendsAndFails {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.0).poll_write(context, bytes);
        sent.map(|_| Err(io::ErrorKind::ConnectionReset.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[tokio::test]
async fn what_a_write_that_failed_may_have_sent_is_unknown() {
    let (near, mut far) = duplex(64);
    let node = Address::parse("node:1").unwrap();
    let pipeline = Pipeline::over(&node, Box::new(SendsAndFails(near)), BytesMut::new());
    let request = encode([&b"first"[..]].into_iter()).into();
    let error = soon(pipeline.call(request, Intent::Write)).await.unwrap_err().error;
    assert!(matches!(error, OperationError::Unknown { .. }), "{error}");
    let mut bytes = [0; 1];
    soon(far.read_exact(&mut bytes)).await.unwrap(); // it did leave
}

#[tokio::test]
async fn what_comes_before_its_request_has_left_is_no_answer() {
    // The first request fills the socket, so that the second waits; both are answered at once.
    let (near, mut far) = duplex(6);
    let node = Address::parse("node:1").unwrap();
    let pipeline = Arc::new(Pipeline::over(&node, Box::new(near), BytesMut::new()));
    let ask = |word: &'static [u8]| {
        let pipeline = pipeline.clone();
        let request = encode([word].into_iter()).into();
        tokio::spawn(async move { pipeline.call(request, Intent::Write).await })
    };
    let (first, second) = (ask(b"first"), ask(b"second"));
    let mut bytes = [0; 1];
    soon(far.read_exact(&mut bytes)).await.unwrap();
    soon(far.write_all(b"+1\r\n+2\r\n")).await.unwrap();
    assert_eq!(soon(first).await.unwrap().unwrap(), Answer::Status("1".to_owned()));
    let error = soon(second).await.unwrap().unwrap_err().error;
    assert!(matches!(error, OperationError::NotSent { .. }), "{error}");
    assert!(!pipeline.is_open());
}
