//! Joining as it goes wrong: what is said, when the node gives up, and what it leaves behind.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Stdio;

use crate::harness::{Place, names, program, run, stderr};

#[test]
fn a_join_address_where_nobody_is_is_told_at_once() {
    let place = Place::new();
    let nobody = format!("{}:13999", place.host);
    let mut node = program()
        .args(place.arguments(&["-join", &nobody]))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(node.stderr.take().unwrap());
    let mut first = String::new();
    lines.read_line(&mut first).unwrap();
    assert!(first.contains(&format!("nobody answers at {nobody}")), "{first}");
    assert!(first.contains("asking again for 5"), "{first}");
    // It does what it said, then names the address and the way out.
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert_eq!(node.wait().unwrap().code(), Some(1), "{rest}");
    assert!(rest.contains(&format!("could not join through {nobody} within 60 s")), "{rest}");
    assert!(rest.contains("give -join the -hjoin or -raft"), "{rest}");
}

#[test]
fn a_join_address_of_another_kind_is_named_and_given_up_early() {
    let (first, second) = (Place::new(), Place::new());
    let _first = first.start(&[]);
    let text = second.refused(1, &["-id", "b", "-join", &first.client()]);
    assert!(text.contains("cannot join: ") && text.contains(&first.client()), "{text}");
    assert!(text.contains("this is a client port (-port) of diskstore"), "{text}");
    assert!(text.contains("give -join the -hjoin or -raft address"), "{text}");
    let other = format!("{}:8080", second.host);
    let listener = TcpListener::bind(&other).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
            drop(stream.read(&mut [0; 4096]));
        }
    });
    let text = second.refused(1, &["-id", "b", "-join", &other]);
    assert!(text.contains(&other) && text.contains("`HTTP/1.1 400 Bad Request`"), "{text}");
}

#[test]
fn a_node_that_could_not_join_may_start_in_any_way_then() {
    let (first, second, third) = (Place::new(), Place::new(), Place::new());
    let _first = first.start(&["-id", "a"]);
    for place in [&second, &third] {
        place.refused(1, &["-id", "b", "-join", &first.client()]);
        assert!(!names(&place.data()).contains(&"IDENTITY".to_owned()));
    }
    let _second = second.start(&["-id", "c", "-join", &first.raft()]);
    assert_eq!(second.asked(&["set", "1", "x"]), "OK\n");
    let third = third.start(&["-id", "d", "-slots", "100"]);
    assert!(third.printed[5].contains("made 100 slots"), "{}", third.printed[5]);
}

#[test]
fn a_client_at_a_port_of_members_is_told_where_to_go() {
    let place = Place::new();
    let hjoin = format!("{}:13000", place.host);
    let _node = place.start(&["-hjoin", &hjoin]);
    for (address, flag) in [(&place.raft(), "-raft"), (&hjoin, "-hjoin")] {
        for words in [&["status"][..], &["get", "1"], &["set", "1", "x"]] {
            let output = run(&[words, &["-addr", address]].concat());
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(text.contains(&format!("{address} says: ")), "{text}");
            assert!(text.contains(&format!("this is a {flag} port of diskstore")), "{text}");
            assert!(text.contains("clients use the -port address"), "{text}");
        }
    }
}

#[test]
fn a_joiner_with_a_name_in_use_may_come_again_under_another() {
    let (first, second) = (Place::new(), Place::new());
    let _first = first.start(&["-id", "a"]);
    let arguments = second.arguments(&["-id", "a", "-join", &first.raft()]);
    let mut node = program()
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(node.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("the name a is in use by the member at"), "{said}");
    node.kill().unwrap();
    node.wait().unwrap();
    let _second = second.start(&["-id", "b", "-join", &first.raft()]);
    assert_eq!(second.asked(&["set", "1", "x"]), "OK\n");
}
