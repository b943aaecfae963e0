//! `leaderless` as processes: the example files really started, asked over all protocols by the lines of the
//! original's README, with a node killed; a coordinator before them; the demonstration.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use diskstore_proto::api;
use diskstore_proto::api::clock_client::ClockClient;
use diskstore_proto::api::cluster_client::ClusterClient;
use diskstore_proto::api::node_client::NodeClient;
use futures_util::stream;
use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, Kind};
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::harness::host;
use crate::nodes::{wait_for, wait_until};
use crate::resp::{Client, Failure, Value};

const PROGRAM: &str = env!("CARGO_BIN_EXE_leaderless");
const NODE_COUNT: usize = 3;

/// Messages of the original and the numbers of their fields; text is declared as text, whatever we read.
const ORIGINAL: [(&str, &str, u32, bool); 24] = [
    ("Entry", "key", 1, true),
    ("Entry", "value", 2, true),
    ("ClockValue", "epoch", 1, false),
    ("ClockValue", "clock", 2, false),
    ("ClockedEntry", "entry", 1, false),
    ("ClockedEntry", "clock", 2, false),
    ("HealthResponse", "node_id", 1, true),
    ("HealthResponse", "status", 2, false),
    ("HealthResponse", "uptime", 3, false),
    ("InfoResponse", "node_id", 1, true),
    ("InfoResponse", "uptime", 2, false),
    ("InfoResponse", "keys", 3, true),
    ("GetRequest", "key", 1, true),
    ("GetResponse", "entry", 1, false),
    ("NodeGetResponse", "clocked_entry", 1, false),
    ("SetRequest", "entry", 1, false),
    ("NodeSetRequest", "clocked_entry", 1, false),
    ("ClusterInfoResponse", "uptime", 1, false),
    ("ClusterInfoResponse", "replication_level", 2, false),
    ("ClusterInfoResponse", "storage_nodes", 3, false),
    ("StorageNode", "id", 1, true),
    ("StorageNode", "address", 3, true),
    ("ClockGetResponse", "value", 1, false),
    ("ClockSetRequest", "value", 1, false),
];

/// A process, killed when dropped.
struct Running {
    child: Child,
    words: std::path::PathBuf,
}

impl Running {
    fn start(folder: &Path, name: &str, arguments: &[&str]) -> Running {
        let words = folder.join(format!("{name}.words"));
        let file = std::fs::File::options().create(true).append(true).open(&words).unwrap();
        let mut command = Command::new(PROGRAM);
        command.args(arguments).current_dir(folder).stdin(Stdio::null());
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Running { child, words }
    }

    fn words(&self) -> String {
        std::fs::read_to_string(&self.words).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn exit_code(&mut self) -> Option<i32> {
        wait_for("the end of a process", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("-- said last:\n{}", self.words());
        }
    }
}

/// The example of three nodes, each at a host of its own.
struct Example {
    folder: tempfile::TempDir,
    hosts: Vec<String>,
    nodes: Vec<Running>,
}

impl Example {
    fn start() -> Example {
        let folder = tempfile::tempdir().unwrap();
        let hosts: Vec<String> = (0..NODE_COUNT).map(|_| host()).collect();
        let place = folder.path().to_str().unwrap();
        let example = |name: &str| {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
            let text = std::fs::read_to_string(root.join(name)).unwrap();
            text.replace("/tmp/leaderless-3-local-nodes", place)
        };
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let mut cluster = example("3-local-nodes/cluster.yml");
        let mut coordinator = example("1-coordinator-and-3-storage-nodes/coordinator.yml");
        for (nth, host) in (1..).zip(&hosts) {
            let node = example(&format!("3-local-nodes/node-{nth}.yml"));
            write(&format!("node-{nth}.yml"), &node.replace("localhost", host));
            cluster = cluster.replace(&format!("localhost:800{nth}"), &format!("{host}:800{nth}"));
            let old = format!("{nth}: :808{nth}");
            assert!(coordinator.contains(&old), "{coordinator}");
            coordinator = coordinator.replace(&old, &format!("{nth}: {host}:800{nth}"));
        }
        write("cluster.yml", &cluster);
        write("other.yml", &cluster.replace("seed: 0", "seed: 1"));
        let before = host();
        write(
            "coordinator.yml",
            &coordinator.replace("bind_address: :", &format!("bind_address: {before}:")),
        );
        let mut example = Example { folder, hosts, nodes: Vec::new() };
        example.nodes = (1..=NODE_COUNT).map(|nth| example.node(nth, "cluster.yml")).collect();
        example.hosts.push(before);
        example.wait_ready();
        example
    }

    /// A process of a node, or of the coordinator, which is the last.
    fn node(&self, nth: usize, cluster: &str) -> Running {
        let file = format!("node-{nth}.yml");
        Running::start(self.folder.path(), &format!("node-{nth}"), &[&file, cluster])
    }

    fn wait_ready(&self) {
        for nth in 1..=NODE_COUNT {
            wait_until("a node takes operations", || {
                self.http(nth, "GET /readyz").ends_with("ready\n")
            });
        }
    }

    fn address(&self, nth: usize) -> String {
        let port = if nth > NODE_COUNT { 8080 } else { 8000 + nth };
        format!("{}:{port}", self.hosts[nth - 1])
    }

    async fn channel(&self, nth: usize) -> Channel {
        let address = format!("http://{}", self.address(nth));
        Channel::from_shared(address).unwrap().connect().await.unwrap()
    }

    fn resp(&self, nth: usize, words: &[&str]) -> Result<Value, Failure> {
        Client::connect(&self.address(nth))?.ask(words)
    }

    /// The whole of a response of HTTP; nothing if nobody answers.
    fn http(&self, nth: usize, line: &str) -> String {
        http(&self.address(nth), line)
    }
}

fn http(address: &str, line: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(address) else { return String::new() };
    let request = format!("{line} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    let mut said = String::new();
    drop(stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut said)));
    said
}

#[expect(clippy::unnecessary_wraps, reason = "as a message has it")]
fn entry(key: &str, value: &str) -> Option<api::Entry> {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    Some(api::Entry { key, value, ..Default::default() })
}

fn key(key: &'static str) -> api::GetRequest {
    api::GetRequest { key: key.into() }
}

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_files_are_a_cluster_that_goes_on_without_one_of_its_nodes() {
    let mut example = Example::start();
    calls_of_the_original(&example).await;
    wrong_calls(&example).await;
    names_for_grpcurl(&example).await;
    commands(&example);
    through_a_coordinator(&example).await;
    one_is_killed(&mut example);
    two_files_disagree(&mut example);
    for mut node in example.nodes.drain(..) {
        node.signal(Signal::TERM);
        assert_eq!(node.exit_code(), Some(0), "{}", node.words());
    }
}

/// The lines of the original's README, in order; the one that never worked there, too.
async fn calls_of_the_original(example: &Example) {
    let mut cluster = ClusterClient::new(example.channel(1).await);
    let info = cluster.info(api::ClusterInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.replication_level, info.storage_nodes.len()), (3, 3));
    cluster.set(api::SetRequest { entry: entry("a", "one") }).await.unwrap();
    let mut other = ClusterClient::new(example.channel(2).await);
    assert_eq!(other.get(key("a")).await.unwrap().into_inner().entry, entry("a", "one"));
    let mut all = Request::new(api::SetRequest { entry: entry("b", "two") });
    all.metadata_mut().insert("x-level", "all".parse().unwrap());
    other.set(all).await.unwrap();
    let mut node = NodeClient::new(example.channel(3).await);
    let held = node.get(key("b")).await.unwrap().into_inner().clocked_entry.unwrap();
    assert_eq!(held.entry, entry("b", "two"), "ALL stores at every node");
    assert_eq!(node.get(key("z")).await.unwrap().into_inner().clocked_entry, None);
    let health = node.health(api::HealthRequest {}).await.unwrap().into_inner();
    assert_eq!((health.node_id.as_str(), health.status()), ("3", api::Health::Online));
    // An original's coordinator: the clocks of a majority, one more, and the store under that.
    let mut clock = ClockClient::new(example.channel(3).await);
    let shown = clock.get(api::ClockGetRequest {}).await.unwrap().into_inner().value.unwrap();
    let next = api::ClockValue { epoch: shown.epoch, clock: shown.clock + 1 };
    clock.set(api::ClockSetRequest { value: Some(next) }).await.unwrap();
    let clocked_entry = Some(api::ClockedEntry { entry: entry("c", "three"), clock: Some(next) });
    let request = api::NodeSetRequest { clocked_entry: clocked_entry.clone(), entry: None };
    node.set(request).await.unwrap();
    assert_eq!(node.get(key("c")).await.unwrap().into_inner().clocked_entry, clocked_entry);
    // A late store under an older clock wins nothing, though it is answered as there.
    let older = api::ClockValue { epoch: 1, clock: 1 };
    let late = Some(api::ClockedEntry { entry: entry("b", "late"), clock: Some(older) });
    drop(node.set(api::NodeSetRequest { clocked_entry: late, entry: None }).await);
    assert_eq!(node.get(key("b")).await.unwrap().into_inner().clocked_entry.unwrap(), held);
    node.set(api::NodeSetRequest { clocked_entry: None, entry: entry("d", "four") }).await.unwrap();
    let held = node.get(key("d")).await.unwrap().into_inner().clocked_entry.unwrap();
    assert_eq!(held.entry, entry("d", "four"));
    let mut pieces = node.info(api::InfoRequest {}).await.unwrap().into_inner();
    let mut keys = Vec::new();
    while let Some(piece) = pieces.message().await.unwrap() {
        assert_eq!(piece.node_id, "3");
        keys.extend(piece.keys);
    }
    assert!(["b", "c", "d"].iter().all(|key| keys.iter().any(|known| known == key)), "{keys:?}");
    // What is no text is answered in the field beside.
    let value_bytes =
        api::Entry { key: "e".into(), value: b"\xff\0".to_vec().into(), ..Default::default() };
    cluster.set(api::SetRequest { entry: Some(value_bytes) }).await.unwrap();
    let found = other.get(key("e")).await.unwrap().into_inner().entry.unwrap();
    assert_eq!((&found.value[..], &found.value_bytes[..]), (&b""[..], &b"\xff\0"[..]));
}

fn code<T>(outcome: Result<T, Status>) -> Code {
    outcome.err().map_or(Code::Ok, |status| status.code())
}

/// What the original died of, and more.
async fn wrong_calls(example: &Example) {
    let mut cluster = ClusterClient::new(example.channel(1).await);
    let mut node = NodeClient::new(example.channel(1).await);
    let mut clock = ClockClient::new(example.channel(1).await);
    assert_eq!(code(cluster.get(key("none")).await), Code::NotFound);
    assert_eq!(code(cluster.set(api::SetRequest { entry: None }).await), Code::InvalidArgument);
    assert_eq!(
        code(cluster.set(api::SetRequest { entry: entry("", "x") }).await),
        Code::InvalidArgument
    );
    assert_eq!(code(cluster.get(key("")).await), Code::InvalidArgument);
    let mut odd = Request::new(key("a"));
    odd.metadata_mut().insert("x-level", "two".parse().unwrap());
    assert_eq!(code(cluster.get(odd).await), Code::InvalidArgument);
    assert_eq!(code(node.set(api::NodeSetRequest::default()).await), Code::InvalidArgument);
    let no_clock = Some(api::ClockedEntry { entry: entry("a", "x"), clock: None });
    let request = api::NodeSetRequest { clocked_entry: no_clock, entry: None };
    assert_eq!(code(node.set(request).await), Code::InvalidArgument);
    assert_eq!(code(clock.set(api::ClockSetRequest { value: None }).await), Code::InvalidArgument);
    for (epoch, clock_value) in [(1 << 42, 0), (1, (1 << 22) + 1), ((1 << 42) - 1, 0)] {
        let value = Some(api::ClockValue { epoch, clock: clock_value });
        let outcome = clock.set(api::ClockSetRequest { value }).await;
        assert_eq!(code(outcome), Code::InvalidArgument, "{epoch} {clock_value}");
    }
    // A timer looks once in a millisecond, and an answer may be quicker.
    let mut late = Code::Ok;
    for _ in 0..1000 {
        let mut short = Request::new(key("a"));
        short.set_timeout(std::time::Duration::from_nanos(1));
        late = code(cluster.get(short).await);
        if late != Code::Ok {
            break;
        }
    }
    assert!(matches!(late, Code::DeadlineExceeded | Code::Cancelled), "{late:?}");
}

/// What grpcurl asks before it calls anything, and what it finds.
async fn names_for_grpcurl(example: &Example) {
    let ask = async |request| {
        let request =
            ServerReflectionRequest { host: String::new(), message_request: Some(request) };
        let mut client = ServerReflectionClient::new(example.channel(1).await);
        let answers = client.server_reflection_info(stream::iter([request])).await;
        answers.unwrap().into_inner().message().await.unwrap().unwrap().message_response.unwrap()
    };
    let MessageResponse::ListServicesResponse(list) =
        ask(MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list of services")
    };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["api.Cluster", "api.Node", "api.Clock", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|known| known == name), "{names:?}");
    }
    let MessageResponse::FileDescriptorResponse(files) =
        ask(MessageRequest::FileContainingSymbol("api.Cluster".to_owned())).await
    else {
        panic!("no descriptors")
    };
    let mut pool = DescriptorPool::new();
    let known = prost_reflect::prost_types::FileDescriptorSet {
        file: files
            .file_descriptor_proto
            .iter()
            .map(|file| prost_reflect::prost_types::FileDescriptorProto::decode(&file[..]).unwrap())
            .collect(),
    };
    if pool.add_file_descriptor_set(known.clone()).is_err() {
        pool = DescriptorPool::global(); // has what the original's file imports
        pool.add_file_descriptor_set(known).unwrap();
    }
    for (message, field, number, is_text) in ORIGINAL {
        let described = pool.get_message_by_name(&format!("api.{message}")).unwrap();
        let described = described.get_field_by_name(field).unwrap();
        assert_eq!(described.number(), number, "{message}.{field}");
        assert_eq!(matches!(described.kind(), Kind::String), is_text, "{message}.{field}");
    }
    let mut health = HealthClient::new(example.channel(1).await);
    let request = HealthCheckRequest { service: "api.Cluster".to_owned() };
    assert_eq!(health.check(request).await.unwrap().into_inner().status, 1);
}

/// RESP, HTTP and the sub-commands see what gRPC has written.
fn commands(example: &Example) {
    assert_eq!(example.resp(3, &["GET", "a"]).unwrap().text().as_deref(), Some("one"));
    let response = example.http(2, "GET /v1/keys/a?level=quorum");
    assert!(
        response.starts_with("HTTP/1.1 200") && response.ends_with("\r\n\r\none"),
        "{response}"
    );
    let metrics = http(&format!("{}:9001", example.hosts[0]), "GET /metrics");
    let line = "grpc_server_handled_total{grpc_code=\"NotFound\",grpc_method=\"Get\",grpc_service=\"api.Cluster\"";
    assert!(metrics.contains(line), "{metrics}");
    let at = example.address(2);
    let all = format!("{},{at}", example.address(1));
    assert_eq!(text(&run(&["set", "cli", "-5", "-addr", &all, "-level", "all"]).stdout), "OK\n");
    assert_eq!(text(&run(&["get", "cli", "-addr", &at, "-level", "one"]).stdout), "-5\n");
    assert!(text(&run(&["get", "cli", "-json", "-addr", &at]).stdout).contains("\"value\":\"-5\""));
    assert_eq!(text(&run(&["del", "cli", "-addr", &at]).stdout), "OK\n");
    let gone = run(&["get", "cli", "-addr", &at]);
    assert_eq!(
        (gone.status.code(), text(&gone.stderr).contains("key cli holds no value")),
        (Some(1), true)
    );
    let status = run(&["status", "-addr", &at]);
    let words = text(&status.stdout);
    assert_eq!(
        (status.status.code(), words.starts_with("health    well\n")),
        (Some(0), true),
        "{words}"
    );
    let wrong = run(&["get", "a", "-level", "two", "-addr", &at]);
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong.stderr));
}

async fn through_a_coordinator(example: &Example) {
    let last = NODE_COUNT + 1;
    let mut coordinator =
        Running::start(example.folder.path(), "coordinator", &["coordinator.yml"]);
    wait_until("a coordinator", || example.http(last, "GET /readyz").ends_with("ready\n"));
    assert_eq!(
        example.resp(last, &["SET", "through", "it"]).unwrap(),
        Value::Simple("OK".to_owned())
    );
    let mut cluster = ClusterClient::new(example.channel(last).await);
    let request = key("through");
    assert_eq!(cluster.get(request).await.unwrap().into_inner().entry, entry("through", "it"));
    assert_eq!(example.resp(2, &["GET", "through"]).unwrap().text().as_deref(), Some("it"));
    coordinator.signal(Signal::TERM);
    assert_eq!(coordinator.exit_code(), Some(0), "{}", coordinator.words());
}

fn one_is_killed(example: &mut Example) {
    example.nodes[1].signal(Signal::KILL);
    example.nodes[1].exit_code();
    let mut client = Client::connect(&example.address(1)).unwrap();
    // A node that has not noticed yet may say that too few answered, which certainly did nothing.
    wait_until("a write without the node", || client.ask(&["SET", "a", "without"]).is_ok());
    wait_until("a read without the node", || {
        example.resp(3, &["GET", "a"]).is_ok_and(|value| value.text().as_deref() == Some("without"))
    });
    // A load waits for as many replicas as it is told to.
    for (level, is_possible) in [("quorum", true), ("all", false)] {
        let load = ["bench", "-yes", "-requests", "20", "-warm-up", "0s", "-level", level];
        let ended = run(&[&load[..], &["-addr", &example.address(1)]].concat());
        assert_eq!(ended.status.success(), is_possible, "{level}: {}", text(&ended.stderr));
    }
    client.ask(&["LEVEL", "all"]).unwrap();
    let refused = client.ask(&["SET", "a", "everywhere"]).unwrap_err();
    assert!(
        matches!(&refused, Failure::Refused(words) if words.contains("CLUSTERDOWN")),
        "{refused:?}"
    );
    example.nodes[1] = example.node(2, "cluster.yml");
    example.wait_ready();
    wait_until("all replicas again", || client.ask(&["SET", "a", "everywhere"]).is_ok());
    assert_eq!(example.resp(2, &["GET", "a"]).unwrap().text().as_deref(), Some("everywhere"));
}

/// A file that would place keys elsewhere is refused by name.
fn two_files_disagree(example: &mut Example) {
    example.nodes[1].signal(Signal::TERM);
    assert_eq!(example.nodes[1].exit_code(), Some(0));
    let before = example.nodes[1].words().len();
    example.nodes[1] = example.node(2, "other.yml");
    assert_ne!(example.nodes[1].exit_code(), Some(0));
    let words = example.nodes[1].words().split_off(before);
    assert!(words.contains("leaderless: ") && words.contains("layout"), "{words}");
    example.nodes[1] = example.node(2, "cluster.yml");
    example.wait_ready();
}

#[test]
fn the_demonstration_answers_at_every_node_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(PROGRAM)
        .args(["demo"])
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let list = first.strip_prefix("five nodes run, at ").unwrap().split(';').next().unwrap();
    let nodes: Vec<&str> = list.split(' ').collect();
    assert_eq!(nodes.len(), 5, "{first}");
    let ask = |node: &str, words: &[&str]| Client::connect(node).unwrap().ask(words).unwrap();
    ask(nodes[0], &["SET", "a", "hello"]);
    for node in nodes {
        assert_eq!(ask(node, &["GET", "a"]).text().as_deref(), Some("hello"), "{node}");
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn what_cannot_be_run_is_said_with_exit_code_2() {
    for (arguments, words) in [
        (&[][..], "give NODE.yml and CLUSTER.yml"),
        (&["none.yml"], "none.yml"),
        (&["-prot", ":1"], "'-port'"),
        (&["-id", "1", "-nodes", "1=10.0.0.1:8001"], "-insecure"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(words), "{arguments:?}: {}", text(&output.stderr));
    }
}
