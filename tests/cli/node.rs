//! A node as its user meets it: started, stopped, killed, started wrongly, watched.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Node, PATIENCE, Place, names, program, run, stderr, stdout};

#[test]
fn the_banner_begins_with_the_five_lines_and_ends_with_what_to_type() {
    let place = Place::new();
    let hjoin = format!("{}:13000", place.host);
    let node = place.start(&["-id", "a", "-hjoin", &hjoin]);
    let expected = [
        "ID: a".to_owned(),
        format!("app: {}", place.client()),
        format!("raft: {}", place.raft()),
        "join:".to_owned(),
        format!("hjoin: {hjoin}"),
    ];
    assert_eq!(node.printed[..5], expected);
    let beginnings =
        ["file: made 4096 slots of 1024 bytes in ", "role: leader, ", "next: redis-cli "];
    for (line, beginning) in node.printed[5..].iter().zip(beginnings) {
        assert!(line.starts_with(beginning), "{line}");
    }
    assert_eq!(node.printed.len(), 8);
    node.stop();
}

#[test]
fn every_line_of_the_log_is_json_where_that_is_asked_for_and_a_request_is_found_by_its_id() {
    let place = Place::new();
    let mut node = place.start(&["-log", "debug", "-log-format", "json"]);
    let words = node.words();
    let mut stream = TcpStream::connect(place.client()).unwrap();
    let request = "GET /v1/slots/42?level=local HTTP/1.1\r\nhost: localhost\r\nx-request-id: order-17\r\n\
                   connection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    assert!(response.contains("\r\nx-request-id: order-17\r\n"), "{response}");
    let json = |line: &str| -> serde_json::Value {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    };
    let mut lines =
        std::iter::from_fn(|| words.recv_timeout(PATIENCE).ok()).map(|line| json(&line));
    let told = lines.find(|line| line["message"] == "answered").unwrap();
    assert_eq!((&told["path"], &told["status"]), (&"/v1/slots/42".into(), &404.into()), "{told}");
    assert_eq!(told["spans"][0]["id"], "order-17", "{told}");
    // What ends a program is a line, too.
    let refused = place.refused(1, &["-log-format", "json"]);
    let last = json(refused.lines().last().unwrap());
    assert!(last["message"].as_str().unwrap().starts_with("diskstore: "), "{last}");
    node.send("TERM");
    assert_eq!(node.wait().code(), Some(0));
    let left = lines.filter(|line| line["level"] == "ERROR").count();
    assert_eq!(left, 0);
}

#[test]
fn values_survive_a_kill_and_a_clean_stop() {
    let place = Place::new();
    let node = place.start(&[]);
    assert_eq!(place.asked(&["set", "42", "hello"]), "OK\n");
    assert_eq!(place.asked(&["set", "7", "-5"]), "OK\n");
    node.kill();
    let node = place.start(&[]);
    assert_eq!(place.asked(&["get", "42"]), "hello\n");
    assert_eq!(place.asked(&["delete", "42"]), "OK\n");
    node.stop();
    let _node = place.start(&[]);
    let output = place.ask(&["get", "42"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(stderr(&output).contains("slot 42 holds no value"));
    assert_eq!(place.asked(&["get", "7"]), "-5\n");
}

#[test]
fn what_a_node_refuses_reaches_the_user_in_its_words() {
    let place = Place::new();
    let _node = place.start(&["-value-size", "8"]);
    for (arguments, words) in [
        (&["set", "4096", "x"][..], "ERR key must be a slot number 0..4095"),
        (&["set", "x", "x"], "ERR key must be a slot number 0..4095"),
        (&["set", "1", "123456789"], "ERR value is 9 bytes, a slot holds at most 8"),
    ] {
        let output = place.ask(arguments);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
    assert_eq!(place.asked(&["set", "1", "12345678"]), "OK\n");
}

#[test]
fn a_reader_that_has_gone_ends_neither_a_command_nor_a_node() {
    let nobody = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let command = program().args(["-unknown"]).stderr(nobody()).status().unwrap();
    assert_eq!(command.code(), Some(2));
    let place = Place::new();
    let arguments = place.arguments(&["-log", "debug"]);
    let mut node =
        program().args(arguments).stdout(Stdio::null()).stderr(nobody()).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !place.ask(&["set", "1", "x"]).status.success() {
        assert!(node.try_wait().unwrap().is_none(), "the node has ended");
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
    let process = node.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &process]).status().unwrap().success());
    assert_eq!(node.wait().unwrap().code(), Some(0));
}

#[test]
fn a_second_process_on_a_directory_is_refused_and_disturbs_nobody() {
    let place = Place::new();
    let _node = place.start(&[]);
    place.asked(&["set", "1", "x"]);
    let other = Place::new();
    let data = place.data().display().to_string();
    let text = other.refused(1, &["-data", &data]);
    assert!(text.contains("in use by another process") && text.contains(&data), "{text}");
    assert!(text.contains("stop that process, or give another -data"), "{text}");
    assert_eq!(place.asked(&["get", "1"]), "x\n");
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let place = Place::new();
    std::fs::write(place.file("file"), "").unwrap();
    let text = place.refused(1, &["-data", &place.file("file/data")]);
    assert!(text.contains("file/data"), "{text}");
}

#[test]
fn another_geometry_is_refused_and_the_data_stays() {
    let place = Place::new();
    let node = place.start(&[]);
    place.asked(&["set", "1", "x"]);
    node.stop();
    for (flag, value) in [("-slots", "4095"), ("-value-size", "99")] {
        let text = place.refused(1, &[flag, value]);
        assert!(text.contains(flag.trim_start_matches('-')) && text.contains(value), "{text}");
    }
    let _node = place.start(&[]);
    assert_eq!(place.asked(&["get", "1"]), "x\n");
}

#[test]
fn a_disk_too_small_is_refused_and_nothing_stays_behind() {
    let place = Place::new();
    // Ten terabytes.
    let text = place.refused(1, &["-slots", "10000000", "-value-size", "1048576"]);
    assert!(text.contains("no space for") && text.contains("slots.dat"), "{text}");
    assert!(text.contains("make room, ask for fewer -slots"), "{text}");
    let left = names(&place.data());
    assert!(!left.iter().any(|name| name.contains(".dat")), "{left:?}");
}

#[test]
fn garbage_on_the_ports_of_members_disturbs_nobody() {
    let place = Place::new();
    let hjoin = format!("{}:13000", place.host);
    let node = place.start(&["-hjoin", &hjoin]);
    let garbage: [&[u8]; 4] =
        [b"node1-127.0.0.1:1-true\n", b"\n", &[0xff; 4096], b"GET / HTTP/1.1\r\n\r\n"];
    for address in [&hjoin, &place.raft()] {
        for bytes in garbage {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            // It is closed, with an answer or without, and with a reset at worst.
            let mut answer = Vec::new();
            drop(stream.read_to_end(&mut answer));
            assert!(answer.len() < 4096);
        }
    }
    assert_eq!(place.asked(&["set", "1", "x"]), "OK\n");
    node.stop();
}

#[test]
fn a_second_node_joins_and_reads_what_the_first_was_told() {
    let (first, second) = (Place::new(), Place::new());
    let _first = first.start(&["-id", "a"]);
    first.asked(&["set", "42", "hello"]);
    // It adopts the cluster's geometry.
    let node = second.start(&["-id", "b", "-join", &first.raft()]);
    assert_eq!(second.asked(&["get", "42"]), "hello\n");
    assert_eq!(second.asked(&["set", "42", "again"]), "OK\n");
    assert_eq!(first.asked(&["get", "42"]), "again\n");
    let text = first.asked(&["status"]);
    assert!(text.contains("\na ") && text.contains("\nb ") && text.contains("leader"), "{text}");
    let other = format!("-addr={},{}", Place::new().client(), second.client());
    let output = program().args(["get", "42", &other]).output().unwrap();
    assert_eq!(output.stdout, b"again\n");
    node.stop();
}

#[test]
fn a_status_is_text_or_json() {
    let place = Place::new();
    let _node = place.start(&["-sync", "never"]);
    let text = place.asked(&["status"]);
    assert!(text.contains("node     node0 (leader)"), "{text}");
    assert!(text.contains("unsafe   -sync never"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&place.asked(&["status", "-json"])).unwrap();
    assert_eq!(json["name"], "node0");
    assert_eq!(json["slots"], 4096);
    assert_eq!(json["members"][0]["client"], place.client());
    assert_eq!(json["cluster_id"].as_str().unwrap().len(), 32);
}

#[test]
fn the_application_log_holds_every_write_once() {
    let place = Place::new();
    let folder = place.file("log");
    let logged = ["-logfolder", &folder, "-id", "n"];
    let path = place.directory.path().join("log/log-file-n.log");
    let node = place.start(&logged);
    place.asked(&["set", "42", "hello"]);
    node.kill();
    let after_kill = std::fs::read(&path).unwrap();
    // Op SET, Key "42", Value "hello".
    let record = b"\x18\x01\x22\x0242\x2a\x05hello";
    let count =
        |bytes: &[u8]| bytes.windows(record.len()).filter(|window| window == record).count();
    assert_eq!(count(&after_kill), 1);
    let node = place.start(&logged);
    place.asked(&["delete", "42"]);
    node.stop();
    let after_stop = std::fs::read(&path).unwrap();
    assert_eq!(count(&after_stop), 1);
    assert!(after_stop.starts_with(&after_kill) && after_stop.ends_with(b"\x18\x02\x22\x0242"));
}

#[test]
fn flags_may_come_from_a_file() {
    let place = Place::new();
    let file = place.file("node.toml");
    std::fs::write(&file, "id = \"from-file\"\nvalue-size = 16\nlog = \"warn\"\n").unwrap();
    let node = place.start(&["-config", &file]);
    assert_eq!(node.printed[0], "ID: from-file");
    assert!(node.printed[5].contains("4096 slots of 16 bytes"), "{}", node.printed[5]);
}

#[test]
fn files_of_a_stopped_node_can_be_inspected() {
    let place = Place::new();
    let node = place.start(&["-id", "inspected"]);
    place.asked(&["set", "42", "hello"]);
    node.stop();
    let mut shown = 0;
    let mut folders = vec![place.data()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if std::fs::read(&path).unwrap().iter().any(|byte| *byte != 0) {
                let output = program().arg("inspect").arg(&path).output().unwrap();
                assert!(output.status.success(), "{path:?}: {}", stderr(&output));
                shown += 1;
            }
        }
    }
    assert!(shown >= 4, "{shown} files");
    let lock = place.data().join("LOCK").display().to_string();
    assert!(stdout(&run(&["inspect", &lock])).contains("lock: it holds nothing"));
}

#[test]
fn the_demonstration_runs_three_nodes_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let mut demo = Node::spawn(
        program().args(["demo", "-tls", "-slots", "1024"]).env("TMPDIR", temporary.path()),
    );
    demo.wait_for("Ctrl-C stops all three");
    let nodes: Vec<(String, u32)> = demo
        .printed
        .iter()
        .filter_map(|line| line.split_once("  pid "))
        .map(|(node, pid)| {
            (node.split_whitespace().last().unwrap().to_owned(), pid.parse().unwrap())
        })
        .collect();
    assert_eq!(nodes.len(), 3);
    // It says with which certificates its nodes are asked; without, they are not.
    let typed = demo.printed.iter().find(|line| line.contains(" get 42 -tls ")).unwrap();
    let certificates = typed.split_whitespace().skip_while(|word| *word != "-tls").nth(1).unwrap();
    let certificates = certificates.to_owned();
    let plain = program().args(["get", "42", "-addr", &nodes[0].0]).output().unwrap();
    assert_eq!(plain.status.code(), Some(1), "{}", stderr(&plain));
    assert!(demo.printed.iter().any(|line| line.contains("redis-cli --tls --cacert ")));
    let ask = |words: &[&str]| {
        let output = program().args(words).args(["-tls", &certificates]).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", stderr(&output));
        output.stdout
    };
    ask(&["set", "42", "hello", "-addr", &nodes[0].0]);
    assert_eq!(ask(&["get", "42", "-addr", &nodes[2].0]), b"hello\n");
    // One of them dies: the demonstration says so, the others go on.
    assert!(
        Command::new("kill").args(["-KILL", &nodes[1].1.to_string()]).status().unwrap().success()
    );
    demo.wait_for("node1 was killed by signal 9");
    assert!(demo.wait_for("start it again: ").contains("-id node1"));
    ask(&["set", "42", "again", "-addr", &nodes[0].0]);
    demo.send("INT");
    assert_eq!(demo.wait().code(), Some(0));
    for (_, pid) in nodes {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "process {pid}");
    }
    assert!(names(temporary.path()).is_empty());
}

#[test]
fn a_node_without_files_says_what_it_waits_for() {
    let place = Place::new();
    let mut node = place.start(&[]);
    node.send("TERM");
    assert_eq!(node.wait().code(), Some(0));
    let words = node.stderr();
    let first = words.lines().next().unwrap_or_default();
    assert!(first.contains("whether a cluster knows its address, and founds one"), "{words}");
    // With files it waits for nothing of the kind.
    let mut node = place.start(&[]);
    node.send("TERM");
    assert_eq!(node.wait().code(), Some(0));
    assert!(!node.stderr().contains("whether a cluster knows its address"));
}
