//! The `client` program against three nodes, in all of its protocols, and against replicas that read
//! its bytes by hand.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::harness::{stderr, stdout};
use crate::nodes::{Cluster, PATIENCE, wait_for, wait_until};

/// A configuration file for these replicas; answers come to any port.
fn configuration(folder: &Path, replicas: &[String]) -> String {
    let path = folder.join("client-config.toml");
    let text = format!(
        "rep = {}\nsvrIps = {replicas:?}\nlocalip = \"127.0.0.1\"\nudpport = 0\n\
         thinkingTimeMsec = 0\n",
        replicas.len()
    );
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Runs the program with this on stdin.
fn run(folder: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_client"))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn every_protocol_answers_a_pipe_in_the_same_words() {
    let cluster = Cluster::of_three(&[]);
    let folder = cluster.folder.path();
    let config = configuration(folder, &cluster.addresses());
    for protocol in ["resp", "text", "proto"] {
        let flags = ["-config", &config, "-protocol", protocol];
        let good = "set 7 a-b c\nget-7\n\nGET 8\ndelete-7\nget 7\nexit\nget 9\n";
        let output = run(folder, &flags, good);
        assert!(output.status.success(), "{protocol}: {}", stderr(&output));
        assert_eq!(stdout(&output), "OK: \nOK: a-b c\nOK: \nOK: \nOK: \n", "{protocol}");
        let output = run(folder, &flags, "get 4096\nput 1\n");
        assert_eq!(output.status.code(), Some(1));
        let text = stdout(&output);
        assert!(text.starts_with("ERR key must be a slot number 0..4095\nERR expected"), "{text}");
        assert!(stderr(&output).contains("2 of the commands failed"), "{}", stderr(&output));
    }
}

#[test]
fn loads_in_every_protocol_are_measured_one_latency_a_line() {
    let cluster = Cluster::of_three(&["-value-size", "1024"]);
    let folder = cluster.folder.path();
    let config = configuration(folder, &cluster.addresses());
    let load = ["-config", &config, "-clients=4", "-req=50", "-key=100", "-data=0", "-json"];
    for protocol in ["resp", "text", "proto"] {
        std::fs::write(folder.join("4c-latency.out"), "of an earlier run\n").unwrap();
        let output = run(folder, &[&load[..], &["-protocol", protocol]].concat(), "");
        assert!(output.status.success(), "{protocol}: {}", stderr(&output));
        let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(report["workload"], "original");
        let (all, errors) = (&report["all"]["count"], &report["errors"]);
        assert_eq!((all, errors), (&200.into(), &serde_json::json!([])), "{protocol}");
        let text = std::fs::read_to_string(folder.join("4c-latency.out")).unwrap();
        assert!(text.ends_with('\n'));
        let latencies: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert!((1..200).contains(&latencies.len()), "of the first client and this run alone");
        // A command goes through the log of three processes, and nothing here waits a minute.
        assert!(latencies.iter().all(|latency| (1_000..60_000_000_000).contains(latency)));
    }
    std::fs::remove_file(folder.join("4c-latency.out")).unwrap();
    let output = run(folder, &[&load[..], &["-workload", "fill", "-log=false"]].concat(), "");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!folder.join("4c-latency.out").exists());
    let long = ["-config", &config, "-clients=1", "-req=5", "-key=9", "-data=2", "-protocol=text"];
    let output = run(folder, &[&long[..], &["-workload", "update-uniform"]].concat(), "");
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("value is 4096 bytes, a slot holds at most"));
}

#[test]
fn a_replica_that_dies_stops_neither_a_pipe_nor_a_load() {
    let mut cluster = Cluster::of_three(&[]);
    let config = configuration(cluster.folder.path(), &cluster.addresses());
    let (_, follower, _) = cluster.roles();
    let mut child = Command::new(env!("CARGO_BIN_EXE_client"))
        .args(["-config", &config, "-protocol", "text", "-clients", "4", "-time", "3600"])
        .args(["-key", "100", "-data", "0"])
        .current_dir(cluster.folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let path = cluster.folder.path().join("4c-latency.out");
    let count = || std::fs::read(&path).map_or(0, |text| text.len());
    wait_until("the load to begin", || count() > 0);
    cluster.nodes[follower].kill();
    let before = count();
    wait_until("the load to go on", || count() > before + 1000);
    child.kill().unwrap();
    child.wait().unwrap();
    let flags = ["-config", &config, "-protocol", "proto"];
    let output = run(cluster.folder.path(), &flags, "set 1 x\nget 1\n");
    assert_eq!(stdout(&output), "OK: \nOK: x\n", "{}", stderr(&output));
}

/// What a replica reads of a client in bytes, up to the line end that ends a command without one
/// inside.
fn command(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while bytes.last() != Some(&b'\n') {
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    bytes
}

/// The next connection, in blocking mode.
fn accepted(replica: &TcpListener) -> TcpStream {
    replica.set_nonblocking(true).unwrap();
    let stream = wait_for("a client to connect", || replica.accept().ok()).0;
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn the_bytes_of_the_original_reach_every_replica() {
    let folder = tempfile::tempdir().unwrap();
    let replicas: Vec<TcpListener> =
        (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses = replicas.iter().map(|replica| replica.local_addr().unwrap().to_string());
    let config = configuration(folder.path(), &addresses.collect::<Vec<_>>());
    for (protocol, verbs) in [
        ("text", [&b"#-set-7-x-y\n"[..], b"#-get-7\n", b"#-delete-7\n"]),
        (
            "proto",
            [
                b"\x12\x05#\x18\x01\x22\x017\x2a\x03x-y\n",
                b"\x12\x05#\x22\x017\n",
                b"\x12\x05#\x18\x02\x22\x017\n",
            ],
        ),
    ] {
        std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                let flags = ["-config", &config, "-protocol", protocol];
                run(folder.path(), &flags, "set 7 x-y\nget 7\ndelete 7\n")
            });
            let mut streams: Vec<TcpStream> = replicas.iter().map(accepted).collect();
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            for (number, expected) in verbs.into_iter().enumerate() {
                let read: Vec<Vec<u8>> = streams.iter_mut().map(command).collect();
                assert!(read.iter().all(|bytes| *bytes == read[0]), "the same to all");
                let digits: Vec<u8> =
                    read[0].iter().copied().filter(u8::is_ascii_digit).take(5).collect();
                let port = String::from_utf8(digits.clone()).unwrap();
                let place = expected.iter().position(|byte| *byte == b'#').unwrap();
                let expected = [&expected[..place], &digits, &expected[place + 1..]].concat();
                assert_eq!(read[0], expected, "{}", read[0].escape_ascii());
                let to = SocketAddr::new([127, 0, 0, 1].into(), port.parse().unwrap());
                socket.send_to(format!("OK: {number}\n").as_bytes(), to).unwrap();
            }
            drop(streams);
            assert_eq!(stdout(&client.join().unwrap()), "OK: 0\nOK: 1\nOK: 2\n");
        });
    }
}

#[test]
fn what_comes_while_nothing_is_asked_answers_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let replica = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = configuration(folder.path(), &[replica.local_addr().unwrap().to_string()]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_client"))
        .args(["-config", &config, "-protocol", "text"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut typed = child.stdin.take().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut stream = accepted(&replica);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..3 {
        typed.write_all(b"get 7\n").unwrap();
        let asked = String::from_utf8(command(&mut stream)).unwrap();
        let port: u16 = asked.split('-').next().unwrap().parse().unwrap();
        let answer = format!("OK: {number}\n");
        let mut line = String::new();
        socket.send_to(answer.as_bytes(), ("127.0.0.1", port)).unwrap();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, answer);
        socket.send_to(b"OK: once more\n", ("127.0.0.1", port)).unwrap();
    }
    drop(typed);
    assert!(child.wait().unwrap().success());
}
