//! Open files are few, and clients many: none of them ends a node.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::harness::{Node, PATIENCE, Place, stderr};

/// What the node may have open.
const LIMIT: u64 = 256;
/// What may be open while strangers have all that they can get.
const OPEN_MAX: usize = 192;
/// More than that.
const CLIENT_COUNT: usize = 300;
const FULL: &str = "-ERR max number of clients reached\r\n";

fn limit_open_files(node: &Node) {
    let pid = Pid::from_raw(i32::try_from(node.pid()).unwrap());
    let limit = Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) };
    prlimit(pid, Resource::Nofile, limit).unwrap();
}

fn connect(address: &str) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    BufReader::new(stream)
}

fn line(client: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    line
}

#[test]
fn clients_beyond_a_share_of_the_open_files_are_refused_and_the_log_goes_on() {
    let place = Place::new();
    let node = place.start(&["-slots", "64", "-value-size", "1048576", "-keep-mib", "0"]);
    limit_open_files(&node);
    let mut writer = connect(&place.client());
    writer.get_mut().write_all(b"PING\r\n").unwrap();
    assert_eq!(line(&mut writer), "+PONG\r\n");

    let mut clients: Vec<_> = (0..CLIENT_COUNT).map(|_| connect(&place.client())).collect();
    let mut answers = Vec::new();
    for client in &mut clients {
        // Whoever was turned away at once may be gone already.
        drop(client.get_mut().write_all(b"PING\r\n"));
        answers.push(line(client));
    }
    let served = answers.iter().filter(|answer| *answer == "+PONG\r\n").count();
    let refused = answers.iter().filter(|answer| *answer == FULL).count();
    assert_eq!(served + refused, CLIENT_COUNT, "{answers:?}");
    assert!(served > 50 && refused > 50, "{served} {refused}");

    // Every 64 MiB the log needs a file.
    let value = vec![b'x'; 1 << 20];
    for key in 0..200 {
        let head = format!("*3\r\n$3\r\nSET\r\n$2\r\n{:02}\r\n${}\r\n", key % 64, value.len());
        let request = [head.as_bytes(), &value, b"\r\n"].concat();
        writer.get_mut().write_all(&request).unwrap();
        assert_eq!(line(&mut writer), "+OK\r\n", "set {key}");
    }
    // It is full of clients, and can be asked about all the same, once those that were turned away have
    // heard so: they are listened to for a second.
    let deadline = Instant::now() + PATIENCE;
    while !String::from_utf8_lossy(&place.ask(&["status"]).stdout).contains("node0 (leader)") {
        assert!(Instant::now() < deadline, "{}", stderr(&place.ask(&["status"])));
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut probe = connect(&place.client());
    probe.get_mut().write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    assert_eq!(line(&mut probe), "HTTP/1.1 200 OK\r\n", "whoever looks whether it lives hears so");
    drop(probe);
    let output = place.ask(&["get", "1"]);
    assert!(stderr(&output).contains("max number of clients"), "{}", stderr(&output));
    drop(clients);
    node.stop();
}

#[test]
fn strangers_at_the_ports_of_members_do_not_take_the_files_of_the_log() {
    let place = Place::new();
    let hjoin = format!("{}:13000", place.host);
    let node = place.start(&["-hjoin", &hjoin]);
    limit_open_files(&node);
    for address in [&place.raft(), &hjoin] {
        let mut silent: Vec<_> = (0..CLIENT_COUNT).map(|_| connect(address)).collect();
        // The last one is closed unheard, while the first may still introduce themselves.
        let last = silent.last_mut().unwrap().get_mut();
        last.set_nonblocking(true).unwrap();
        let would_block = std::io::ErrorKind::WouldBlock;
        while last.read(&mut [0; 99]).is_err_and(|error| error.kind() == would_block) {
            let open = std::fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap().count();
            assert!(open < OPEN_MAX, "{open} files are open");
        }
        assert_eq!(place.asked(&["set", "1", "x"]), "OK\n");
    }
    let more = Place::new();
    let second = more.start(&["-id", "node1", "-join", &hjoin]);
    assert_eq!(more.asked(&["get", "1"]), "x\n");
    second.stop();
    node.stop();
}

#[test]
fn a_node_that_may_open_too_few_files_says_so_at_its_start() {
    let place = Place::new();
    let arguments = place.arguments(&[]).join(" ");
    let line = format!("ulimit -n 100; exec {} {arguments}", env!("CARGO_BIN_EXE_diskstore"));
    let mut node = Node::spawn(std::process::Command::new("sh").args(["-c", &line]));
    assert_eq!(node.wait().code(), Some(1));
    let text = node.stderr();
    assert!(text.contains("allows 100 open files, and at least 128 are needed"), "{text}");
}
