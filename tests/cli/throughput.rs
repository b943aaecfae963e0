//! `-throughput-folder`: one number a second, read back as the original's scripts do.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::harness::{PATIENCE, Place};

#[test]
fn successes_of_each_second_are_written_and_errors_are_not() {
    let place = Place::new();
    let folder = place.directory.path().join("out");
    let path = folder.join("n-throughput.out");
    let numbers = || -> Vec<u64> {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "{text}");
        text.lines().map(|line| line.parse().unwrap()).collect()
    };
    let flags = ["-id", "n", "-throughput-folder", folder.to_str().unwrap()];
    let node = place.start(&flags);
    let load = ["bench", "-yes", "-warm-up", "0s", "-requests", "500", "-keys", "4096"];
    place.asked(&[&load[..], &["-value-bytes", "64"]].concat());
    place.asked(&["set", "1", "text"]);
    // One is refused by the session, the other when it is applied.
    assert!(!place.ask(&["set", "4096", "x"]).status.success());
    let mut stream = TcpStream::connect(place.client()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"INCR 1\r\nQUIT\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("-ERR value is not an integer"), "{answer}");
    let deadline = Instant::now() + PATIENCE;
    while numbers().len() < 2 {
        assert!(Instant::now() < deadline, "a running node writes every second");
        std::thread::sleep(Duration::from_millis(20));
    }
    place.asked(&["get", "1"]);
    node.stop();
    assert_eq!(numbers().iter().sum::<u64>(), 502, "{:?}", numbers());
    let before = numbers().len();
    let node = place.start(&flags);
    place.asked(&["get", "1"]);
    node.stop();
    assert_eq!(numbers().iter().sum::<u64>(), 503, "{:?}", numbers());
    assert!(numbers().len() > before);
}
