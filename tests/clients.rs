//! Clients that others wrote, against three real nodes: redis-cli, redis-benchmark, redis-py, ioredis,
//! node-redis, redis-rs, grpcio, the examples in all languages, and a browser that opens the console. Where
//! one is not installed its tests are skipped, see `clients/installed.rs`. `DISKSTORE_TEST_PYTHON` names
//! the python that has redis-py, requests and grpcio, `DISKSTORE_TEST_NODE_MODULES` the folder with the packages
//! of Node, `DISKSTORE_TEST_REDIS_RS` the program that is built of `tests/clients/redis-rs`,
//! `DISKSTORE_TEST_CHROMIUM` the browser.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]
#![allow(clippy::print_stderr, reason = "what was skipped is for whoever reads along")]

#[path = "../examples/rust/counter.rs"]
#[expect(dead_code, reason = "its program is not run")]
mod counter;
#[path = "cli/harness.rs"]
#[expect(dead_code, reason = "shared with the tests of the command line, which use the rest")]
mod harness;
#[path = "clients/installed.rs"]
mod installed;
#[path = "cluster/skipped.rs"]
mod skipped;

use std::env::{VarError, var};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use harness::{Node, Place, host, stderr, stdout};
use installed::{has, has_tool, python};

const NODE_MODULES: &str = "DISKSTORE_TEST_NODE_MODULES";
const REDIS_RS: &str = "DISKSTORE_TEST_REDIS_RS";
const CHROMIUM: &str = "DISKSTORE_TEST_CHROMIUM";
const DISKSTORE: &str = env!("CARGO_BIN_EXE_diskstore");
const KVSTORE: &str = env!("CARGO_BIN_EXE_kvstore");
const LEADERLESS: &str = env!("CARGO_BIN_EXE_leaderless");
/// What the suites are written for.
const SLOTS: [&str; 2] = ["-slots", "4096"];
/// What redis-benchmark puts before its numbers.
const PREFIXES: [&str; 2] = ["-key-prefixes", "key:,counter:"];
/// What redis-benchmark prints of a reply that is an error, or of a connection that ended.
const COMPLAINTS: [&str; 4] = ["Error", "ERR", "WARNING", "closed"];

/// One cluster at a time: more of them only wait for each other's syncs.
static TURN: Mutex<()> = Mutex::new(());

/// Three nodes that serve; the files go with them.
struct Cluster {
    nodes: Vec<Node>,
    places: Vec<Place>,
}

impl Cluster {
    fn start() -> Cluster {
        let places = [(); 3].map(|()| Place::new());
        let join = format!("{}:13000", host());
        let first = [&["-id", "node0", "-hjoin", &join][..], &PREFIXES].concat();
        let mut nodes = vec![places[0].start(&first)];
        for (place, id) in places[1..].iter().zip(["node1", "node2"]) {
            nodes.push(place.start(&[&["-id", id, "-join", &join][..], &PREFIXES].concat()));
        }
        Cluster { nodes, places: places.into() }
    }

    /// Three nodes of a program, with these arguments each.
    fn of(program: &str, arguments: &[&str]) -> Cluster {
        let places = [(); 3].map(|()| Place::new());
        let join = format!("{}:13000", host());
        let mut nodes = Vec::new();
        for (number, place) in places.iter().enumerate() {
            let (client, raft, name) = (place.client(), place.raft(), format!("node{number}"));
            let meeting = if number == 0 { "-hjoin" } else { "-join" };
            let mut command = Command::new(program);
            command.args(["-id", &name, "-port", &client, "-raft", &raft, meeting, &join]);
            command.arg("-data").arg(place.data()).args(arguments);
            let mut node = Node::spawn(&mut command);
            node.wait_for("next: ");
            nodes.push(node);
        }
        Cluster { nodes, places: places.into() }
    }

    /// Three nodes without a leader, 1 to 3, which all hold every key.
    fn leaderless() -> Cluster {
        let places = [(); 3].map(|()| Place::new());
        let listed =
            (1..).zip(&places).map(|(id, place): (u32, _)| format!("{id}={}", place.client()));
        let listed = listed.collect::<Vec<_>>().join(",");
        let start = |(id, place): (u32, &Place)| {
            let mut command = Command::new(LEADERLESS);
            command.args(["-id", &id.to_string(), "-port", &place.client(), "-nodes", &listed]);
            let mut node = Node::spawn(command.arg("-dir").arg(place.data()));
            node.wait_for("next: ");
            node
        };
        let nodes = (1..).zip(&places).map(start).collect();
        Cluster { nodes, places: places.into() }
    }

    /// Runs the suite of a client library against both programs, one cluster after the other.
    #[track_caller]
    fn run_suite(suite: impl Fn() -> Command) {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, program, arguments) in
            [("diskstore", DISKSTORE, &SLOTS[..]), ("kvstore", KVSTORE, &[])]
        {
            let cluster = Cluster::of(program, arguments);
            let mut command = suite();
            command.arg(name).args(cluster.places.iter().map(Place::client));
            let text = said(&command.stdin(Stdio::null()).output().unwrap());
            assert!(text.ends_with(" ok\n"), "{name}: {text}");
            cluster.stop();
        }
    }

    fn stop(self) {
        for node in self.nodes {
            node.stop();
        }
    }

    /// redis-cli at a node.
    fn cli(&self, node: usize, arguments: &[&str]) -> Command {
        let mut command = Command::new("redis-cli");
        // As in a pipe of its user: no colours, no settings of whoever runs the tests.
        command.args(["-h", &self.places[node].host, "-p", "11000"]).args(arguments);
        command.env("REDISCLI_RCFILE", "/dev/null").env_remove("REDISCLI_AUTH");
        command
    }

    /// What redis-cli prints when asked one thing.
    #[track_caller]
    fn ask(&self, node: usize, arguments: &[&str]) -> String {
        said(&self.cli(node, arguments).stdin(Stdio::null()).output().unwrap())
    }

    /// What redis-cli prints for lines on its stdin: one connection, one reply after the other.
    #[track_caller]
    fn type_in(&self, node: usize, arguments: &[&str], lines: &str) -> String {
        let mut command = self.cli(node, arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        said(&child.wait_with_output().unwrap())
    }

    /// Runs redis-benchmark at a node, which must succeed without a complaint.
    #[track_caller]
    fn benchmark(&self, node: usize, arguments: &[&str]) {
        let output = Command::new("redis-benchmark")
            .args(["-h", &self.places[node].host, "-p", "11000", "-q", "-r", "1000"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = said(&output) + &stderr(&output);
        for complaint in COMPLAINTS {
            assert!(!text.contains(complaint), "{arguments:?}: {text}");
        }
        assert!(text.contains("requests per second"), "{arguments:?}: {text}");
    }
}

/// The stdout of a command that must have succeeded.
#[track_caller]
fn said(output: &Output) -> String {
    assert!(output.status.success(), "{} {}", stdout(output), stderr(output));
    stdout(output)
}

#[test]
fn redis_cli_reads_at_every_node_what_it_wrote_at_another() {
    if !has_tool("redis-cli") {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::start();
    for protocol in ["-2", "-3"] {
        let ask = |node, words: &[&str]| cluster.ask(node, &[&[protocol][..], words].concat());
        assert_eq!(ask(0, &["set", "42", "hello"]), "OK\n");
        assert_eq!(ask(2, &["--no-raw", "get", "42"]), "\"hello\"\n");
        assert_eq!(ask(1, &["mset", "1", "one", "key:2", "two"]), "OK\n");
        assert_eq!(ask(2, &["mget", "0001", "2", "3"]), "one\ntwo\n\n");
        assert_eq!(ask(1, &["incr", "9"]), "1\n");
        assert_eq!(ask(2, &["incr", "9"]), "2\n");
        assert_eq!(ask(0, &["--no-raw", "get", "10"]), "(nil)\n");
        assert_eq!(ask(1, &["--no-raw", "scan", "0", "match", "4?"]), SCANNED);
        assert!(ask(0, &["info"]).contains("loading:0\r\n"));
        let hello = ask(1, &["--no-raw", "hello"]);
        assert!(hello.contains("\"diskstore\""), "{hello}");
        assert!(hello.contains(&format!("(integer) {}", &protocol[1..])), "{hello}");
        assert_eq!(ask(0, &["del", "1", "2", "9", "42"]), "4\n");
    }
    cluster.stop();
}

const SCANNED: &str = "1) \"0\"\n2) 1) \"42\"\n";

#[test]
fn redis_cli_shows_transactions_and_errors() {
    if !has_tool("redis-cli") {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::start();
    for protocol in ["-2", "-3"] {
        let typed = |lines: &str| cluster.type_in(1, &[protocol, "--no-raw"], lines);
        let text = typed("del 5\nmulti\nset 5 4\nincr 5\nget 5\nexec\nget 5\n");
        let replies = "OK\nQUEUED\nQUEUED\nQUEUED\n1) OK\n2) (integer) 5\n3) \"5\"\n\"5\"\n";
        assert_eq!(text.split_once('\n').unwrap().1, replies);
        let text = typed("multi\nset 5 lost\ndiscard\nexec\nget 5\n");
        let replies = "OK\nQUEUED\nOK\n(error) ERR EXEC without MULTI\n\"5\"\n";
        assert_eq!(text, replies);
        for (line, words) in [
            ("get name", "(error) ERR key must be a slot number 0..4095"),
            ("set 4096 x", "(error) ERR key must be a slot number 0..4095"),
            ("nonsense 1", "(error) ERR unknown command 'nonsense', with args beginning with: '1'"),
            ("set 5 x ex 10", "(error) ERR"),
            ("get", "(error) ERR wrong number of arguments for 'get' command"),
            ("lpush 5 x", "(error) ERR"),
        ] {
            let text = typed(line);
            assert!(text.starts_with(words), "{line}: {text}");
        }
        let long = format!("set 5 {}", "x".repeat(1025));
        let words = "(error) ERR value is 1025 bytes, a slot holds at most 1024";
        assert!(typed(&long).starts_with(words));
        assert_eq!(typed("get 5\n"), "\"5\"\n");
    }
    // `-e` is how scripts see an error.
    let output = cluster.cli(0, &["-e", "get", "name"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    cluster.stop();
}

#[test]
fn redis_benchmark_runs_without_an_error() {
    if !has_tool("redis-benchmark") {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::start();
    let every_slot: Vec<String> = (0..1000).map(|slot| slot.to_string()).collect();
    let delete: Vec<&str> =
        ["del"].into_iter().chain(every_slot.iter().map(String::as_str)).collect();
    for depth in ["1", "16"] {
        let few = ["-n", "2000", "-c", "16", "-P", depth];
        // Counters first: the other tests leave words in the same slots.
        for (node, test) in [(1, "incr"), (0, "set,get,mset"), (2, "set,get")] {
            cluster.benchmark(node, &[&few[..], &["-t", test]].concat());
        }
        cluster.benchmark(0, &[&few[..], &["-3", "-t", "ping,set,get", "-d", "1024"]].concat());
        assert_ne!(cluster.ask(0, &delete), "0\n");
    }
    cluster.stop();
}

#[test]
fn redis_py_finds_everything_as_its_callers_expect() {
    if !has("redis-py", python().args(["-c", "import redis"])) {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::start();
    for protocol in ["2", "3"] {
        let output = python()
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/redis_py.py"))
            .arg(protocol)
            .args(cluster.places.iter().map(|place| &place.host))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(said(&output).ends_with(" ok\n"), "{}", stdout(&output));
    }
    cluster.stop();
}

#[test]
fn redis_benchmark_runs_against_keys_of_any_name() {
    if !has_tool("redis-benchmark") {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::of(KVSTORE, &[]);
    cluster.benchmark(1, &["-n", "1000", "-c", "8", "-P", "8", "-t", "ping,set,get,incr,mset"]);
    cluster.stop();
}

/// Where one of Node's packages is, if that is there.
fn node_modules(package: &str) -> Option<String> {
    let modules = match var(NODE_MODULES) {
        Ok(path) => path,
        Err(VarError::NotPresent) => env!("CARGO_MANIFEST_DIR").to_owned(),
        Err(error) => panic!("{NODE_MODULES}: {error}"),
    };
    let find = format!("require('module').createRequire(process.argv[1] + '/')('{package}')");
    has(package, Command::new("node").args(["-e", &find, &modules])).then_some(modules)
}

/// Node with the suite of one of its packages, if that is there.
fn node_suite(package: &str, script: &str) -> Option<Command> {
    let modules = node_modules(package)?;
    let mut command = Command::new("node");
    command.arg(format!("{}/tests/clients/{script}", env!("CARGO_MANIFEST_DIR"))).arg(modules);
    Some(command)
}

#[test]
fn ioredis_finds_everything_as_its_callers_expect() {
    if node_suite("ioredis", "ioredis.mjs").is_some() {
        Cluster::run_suite(|| node_suite("ioredis", "ioredis.mjs").unwrap());
    }
}

#[test]
fn node_redis_finds_everything_as_its_callers_expect() {
    if node_suite("redis", "node_redis.mjs").is_some() {
        Cluster::run_suite(|| node_suite("redis", "node_redis.mjs").unwrap());
    }
}

#[test]
fn redis_rs_finds_everything_as_its_callers_expect() {
    let program = var(REDIS_RS).unwrap_or_else(|_| "redis-rs-suite".to_owned());
    // Asked for no nodes it has nothing to find wrong.
    if has("redis-rs", Command::new(&program).arg("diskstore")) {
        Cluster::run_suite(|| Command::new(&program));
    }
}

/// Where the examples are.
fn example(name: &str) -> String {
    format!("{}/examples/http/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_example_with_curl_shows_what_it_says() {
    if !has_tool("curl") {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::start();
    for place in &cluster.places {
        let mut command = Command::new(example("curl.sh"));
        command.arg(format!("http://{}", place.client()));
        let text = said(&command.stdin(Stdio::null()).output().unwrap());
        let told = text.lines().filter(|line| !line.contains(' ') || line.starts_with('{'));
        let expected = [
            "hello",
            "204",
            "412",
            "one",
            r#"{"found":true,"key":"42","value":"a form"}"#,
            r#"{"keys":["42","43","44"]}"#,
            r#"{"45":"a web store"}"#,
            "404",
        ];
        assert_eq!(told.collect::<Vec<_>>(), expected, "{text}");
        assert!(text.contains("\nhello again\n"), "{text}");
        assert_eq!(cluster.ask(0, &["del", "43", "44", "45"]), "3\n");
    }
    cluster.stop();
}

#[test]
fn the_example_with_requests_counts_at_every_node() {
    if !has("requests", python().args(["-c", "import requests"])) {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::start();
    let mut command = python();
    command.arg(example("counter.py"));
    command.args(cluster.places.iter().map(|place| format!("http://{}", place.client())));
    let text = said(&command.stdin(Stdio::null()).output().unwrap());
    assert_eq!(text, "20 step19\ncounted to 20 - ok\n");
    cluster.stop();
}

/// Python with grpcio and what it needs beside, if that is there.
fn grpcio(script: &str) -> Option<Command> {
    let modules = "import grpc, grpc_health, grpc_reflection, grpc_status";
    if !has("grpcio", python().args(["-c", modules])) {
        return None;
    }
    let mut command = python();
    command.arg(format!("{}/{script}", env!("CARGO_MANIFEST_DIR")));
    Some(command)
}

#[test]
fn grpcio_finds_everything_by_reflection() {
    if grpcio("tests/clients/grpcio.py").is_some() {
        Cluster::run_suite(|| grpcio("tests/clients/grpcio.py").unwrap());
    }
}

#[test]
fn clients_of_three_protocols_find_registers_without_a_leader() {
    let modules = "import redis, requests";
    let Some(mut suite) = grpcio("tests/clients/leaderless.py") else { return };
    if !has("redis-py and requests", python().args(["-c", modules])) {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::leaderless();
    suite.args(cluster.places.iter().map(Place::client));
    let output = suite.stdin(Stdio::null()).output().unwrap();
    assert_eq!(said(&output), "leaderless ok\n", "{}", stderr(&output));
    cluster.stop();
}

#[test]
fn the_example_with_grpcio_shows_what_it_says() {
    let Some(mut command) = grpcio("examples/grpc/first_steps.py") else { return };
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::start();
    command.args(cluster.places.iter().map(Place::client));
    let text = said(&command.stdin(Stdio::null()).output().unwrap());
    let expected = "FAILED_PRECONDITION CONDITION not_applied\n\
                    ['changed', 'changed', 'value'] b'hello again'\n\
                    {60: b'hello again', 61: b'one', 62: b'\\xff\\x00'}\n\
                    True b'b'\n\
                    {60: 'APPLIED'}\n{60: 'APPLIED'}\n{60: 'NONE'}\n\
                    {61: 'APPLIED', 62: 'UNKNOWN'}\n{62: 'APPLIED', 63: 'APPLIED'}\n\
                    NOT_FOUND NO_VALUE not_applied\n";
    assert_eq!(text, expected);
    cluster.stop();
}

/// In Rust, in Python and in JavaScript; the first is part of this test, so that it is compiled with it.
#[test]
fn the_examples_of_redis_clients_and_of_rust_do_what_they_say() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::start();
    let nodes: Vec<String> = cluster.places.iter().map(Place::client).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let counted = runtime.block_on(counter::count(&nodes)).unwrap();
    assert_eq!(counted, "counted to 40 - ok");
    if has("redis-py", python().args(["-c", "import redis"])) {
        let mut command = python();
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/redis/counter.py"));
        let text = said(&command.args(&nodes).stdin(Stdio::null()).output().unwrap());
        assert_eq!(text, "counted to 40 - ok\n");
    }
    if let Some(modules) = node_modules("ioredis") {
        let mut command = Command::new("node");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/redis/news.mjs"));
        command.env("NODE_MODULES", modules).args(&nodes);
        let text = said(&command.stdin(Stdio::null()).output().unwrap());
        assert_eq!(text, "heard one two three\nfrom first to second - OK null\ndeleted 1\n");
    }
    cluster.stop();
}

/// What is asked of every operation that `/openapi.json` describes: with values of the described kind, with
/// others, and by other methods. Left out is what this run would not survive, or takes long on purpose; and
/// that every value of a described kind is accepted: which slots there are is for the node to know.
const FUZZING: [&str; 16] = [
    "--config-file",
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/schemathesis.toml"),
    "run",
    "--phases=examples,coverage,fuzzing",
    "--max-examples=5",
    "--max-time=25",
    "--seed=1",
    "--generation-database=none",
    "--exclude-checks=positive_data_acceptance",
    "--exclude-path=/join",
    "--exclude-path=/debug/pprof/profile",
    "--exclude-path=/debug/pprof/heap",
    "--exclude-path=/v1/transfer-leader",
    "--exclude-path-regex=^/v1/members/",
    "--no-color",
    "--warnings=off",
];

#[test]
fn a_node_does_what_the_description_of_its_api_says() {
    let fuzzer = |words: &[&str]| {
        let mut command = python();
        command.args(["-m", "schemathesis.cli"]).args(words);
        command
    };
    if !has("schemathesis", &mut fuzzer(&["--version"])) {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let place = Place::new();
    let node = place.start(&[]);
    let url = format!("http://{}/openapi.json", place.client());
    let output = fuzzer(&FUZZING).arg(url).current_dir(place.data()).output().unwrap();
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    node.stop();
}

/// Runs a script in a browser at a cluster, and kills the node that it names.
#[track_caller]
fn browse(script: &str, name: &str, cluster: impl FnOnce() -> Cluster) {
    let chromium = var(CHROMIUM).unwrap_or_else(|_| "chromium".to_owned());
    let Some(mut command) = node_suite("puppeteer-core", script) else { return };
    if !has("chromium", Command::new(&chromium).arg("--version")) {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut cluster = cluster();
    command.arg(name).args(cluster.places.iter().map(Place::client)).env(CHROMIUM, &chromium);
    let mut script = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    for line in BufReader::new(script.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(killed) = line.strip_prefix("kill ") {
            cluster.nodes.remove(killed.parse().unwrap()).kill();
            script.stdin.as_mut().unwrap().write_all(b"killed\n").unwrap();
        }
        said.push_str(&line);
    }
    let output = script.wait_with_output().unwrap();
    let is_right = output.status.success() && said.ends_with("ok");
    assert!(is_right, "{name}: {said} {}", stderr(&output));
    cluster.stop();
}

/// Opens the console of one node, writes at another, kills the leader; see `console.mjs`.
#[test]
fn a_browser_shows_in_the_console_what_happens_to_the_cluster() {
    for (name, program, arguments) in
        [("diskstore", DISKSTORE, &SLOTS[..]), ("kvstore", KVSTORE, &[])]
    {
        browse("console.mjs", name, || Cluster::of(program, arguments));
    }
}

/// See `console_leaderless.mjs`.
#[test]
fn a_browser_shows_in_the_console_what_happens_without_a_leader() {
    browse("console_leaderless.mjs", "leaderless", Cluster::leaderless);
}
