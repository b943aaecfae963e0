//! What a node is given by its host stands in no other code of it, tests left out: whatever made its
//! own socket, thread, clock or secret would not run on a simulated machine.

use super::{assert_none, sources};

const ROOM: &str = "src/host/";
/// Words that stand for what only a host has.
const WORDS: &[&str] = &[
    "TcpListener",
    "TcpSocket",
    "TcpStream",
    "UdpSocket",
    "UnixListener",
    "UnixStream",
    "SystemTime::now",
    "getrandom",
    "thread::Builder",
    "thread::scope",
    "thread::spawn",
];
/// Where some of them stand all the same, and why.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("src/bin/", "programs that are no node"),
    ("src/backup/", "a program that is no node"),
    ("src/client/", "programs that are no node"),
    ("src/leaderless_program/demo.rs", "ports that are free, before there are nodes"),
    ("src/load/", "a program that is no node: threads and sockets are what it measures with"),
    ("src/recovery/", "a program that is no node"),
    ("src/profile/", "signals of a process, whatever runs in it"),
    ("src/lines.rs", "what a process says, before there is a host and after it is gone"),
    ("src/throughput.rs", "a measurement of the program, in seconds of the real world"),
    ("src/server/original/datagrams.rs", "answers as datagrams, which pipes have none of"),
];

/// The word of these that a line has. An `Instant` of the standard library passes by the runtime's.
fn met(line: &str) -> Option<&'static str> {
    let word = WORDS.iter().copied().find(|word| line.contains(word));
    let instant = line.contains("std::time::") && line.contains("Instant");
    word.or(instant.then_some("std::time::Instant"))
}

#[test]
fn what_a_host_gives_is_made_by_no_other_room() {
    let mut complaints = Vec::new();
    let mut used = vec![false; EXCEPTIONS.len()];
    for file in sources(&[".rs"]) {
        let is_tests = file.path.contains("/tests/") || file.path.ends_with("/tests.rs");
        if !file.path.starts_with("src/") || file.path.starts_with(ROOM) || is_tests {
            continue;
        }
        let before_tests = file.lines_before_tests();
        for (number, line) in file.code().take_while(|(number, _)| *number <= before_tests) {
            let Some(word) = met(line) else { continue };
            match EXCEPTIONS.iter().position(|(place, _)| file.path.starts_with(place)) {
                Some(at) => used[at] = true,
                None => complaints.push(format!("{}:{number}: {word} is {ROOM}'s", file.path)),
            }
        }
    }
    let unused = EXCEPTIONS.iter().zip(used).filter(|(_, used)| !used);
    complaints.extend(unused.map(|((place, _), _)| format!("{place} needs no exception any more")));
    assert_none(&complaints);
}
