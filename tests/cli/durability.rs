//! `-sync`: what is unsafe says so, and still syncs as often as it was told.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::harness::{PATIENCE, Place};

/// What a node answers to INFO.
fn info(place: &Place) -> String {
    let mut stream = TcpStream::connect(place.client()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"INFO persistence\r\nQUIT\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn status(place: &Place) -> serde_json::Value {
    serde_json::from_str(&place.asked(&["status", "-json"])).unwrap()
}

fn syncs(place: &Place) -> u64 {
    status(place)["sync"]["count"].as_u64().unwrap()
}

#[test]
fn a_read_through_the_log_is_an_entry_in_it() {
    let place = Place::new();
    for (level, entries) in [("linearizable", 0), ("log", 1)] {
        let node = place.start(&["-read", level]);
        place.asked(&["set", "1", "hello"]);
        let before = status(&place)["last_log"].as_u64().unwrap();
        assert_eq!(place.asked(&["get", "1"]), "hello\n");
        assert_eq!(status(&place)["last_log"], before + entries, "{level}");
        node.stop();
    }
}

#[test]
fn a_log_that_is_synced_late_says_so_everywhere_and_is_synced() {
    let place = Place::new();
    let node = place.start(&["-sync", "batch:5"]);
    assert!(node.printed.iter().any(|line| line.ends_with("weakened by -sync batch:5")));
    assert!(place.asked(&["status"]).contains("\nunsafe   -sync batch:5\n"));
    assert!(info(&place).contains("\r\nunsafe_flags:-sync batch:5\r\n"), "{}", info(&place));
    let before = syncs(&place);
    place.asked(&["set", "1", "hello"]);
    let deadline = Instant::now() + PATIENCE;
    while syncs(&place) == before {
        assert!(Instant::now() < deadline, "never synced after {before} syncs");
        std::thread::sleep(Duration::from_millis(5));
    }
    node.kill();
    let node = place.start(&[]);
    assert_eq!(place.asked(&["get", "1"]), "hello\n");
    assert!(info(&place).contains("\r\nunsafe_flags:\r\n"));
    node.stop();
}
