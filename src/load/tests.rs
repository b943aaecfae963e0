use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::*;

/// What a test's server does with one request: the reply, or nothing and the connection is closed.
type Answer = Box<dyn FnMut(&[Vec<u8>]) -> Option<Vec<u8>> + Send>;

/// A server on this machine. It ends with the test's process.
fn server(mut make: impl FnMut() -> Answer + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut answer = make();
            std::thread::spawn(move || serve(&stream.unwrap(), &mut answer));
        }
    });
    address
}

fn serve(stream: &TcpStream, answer: &mut Answer) {
    stream.set_nodelay(true).unwrap();
    let mut input = BufReader::new(stream);
    while let Some(request) = request(&mut input) {
        let Some(reply) = answer(&request) else { return };
        if (&mut &*stream).write_all(&reply).is_err() {
            return;
        }
    }
}

fn request(input: &mut impl BufRead) -> Option<Vec<Vec<u8>>> {
    let count = number(input)?;
    (0..count)
        .map(|_| {
            let mut argument = vec![0; number(input)? + 2];
            input.read_exact(&mut argument).ok()?;
            argument.truncate(argument.len() - 2);
            Some(argument)
        })
        .collect()
}

fn number(input: &mut impl BufRead) -> Option<usize> {
    let mut line = String::new();
    input.read_line(&mut line).ok()?;
    line.get(1..)?.trim_end().parse().ok()
}

/// A server that keeps what it is told.
fn store() -> SocketAddr {
    let slots = Arc::new(Mutex::new(HashMap::<Vec<u8>, Vec<u8>>::new()));
    server(move || {
        let slots = Arc::clone(&slots);
        Box::new(move |request| {
            let mut slots = slots.lock().unwrap();
            Some(match request {
                [_, key] => slots.get(key).map_or(b"$-1\r\n".to_vec(), |value| bulk(value)),
                [_, key, value] => {
                    slots.insert(key.clone(), value.clone());
                    b"+OK\r\n".to_vec()
                }
                _ => unreachable!("a load reads and writes"),
            })
        })
    })
}

fn bulk(value: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

/// So many reads in 100, all keys alike.
fn mixed(reads: u64) -> Workload {
    Workload::mixed(reads, Distribution::Uniform)
}

/// A small load that is done with `requests` operations.
fn load(target: SocketAddr, requests: u64) -> Load {
    Load {
        targets: vec![target],
        answers: None,
        clients: 3,
        pipeline: 1,
        threads: 2,
        pace: Pace::Closed,
        keys: 100,
        workload: mixed(50),
        think: Duration::ZERO..=Duration::ZERO,
        value_bytes: 32..=200,
        duration: None,
        requests: Some(requests),
        warm_up: Duration::ZERO,
        seed: 1,
        verify: true,
        timeout: Duration::from_mins(1),
        unsafe_flags: Vec::new(),
        tls: None,
    }
}

fn report(load: &Load) -> Report {
    run(load, &|| Box::new(Resp), &Progress::default()).unwrap()
}

fn kinds(report: &Report) -> Vec<(&str, u64)> {
    report.errors.iter().map(|errors| (errors.kind.as_str(), errors.count)).collect()
}

#[test]
fn every_operation_is_counted_once() {
    for pipeline in [1, 7] {
        let load = Load { pipeline, ..load(store(), 5000) };
        let report = report(&load);
        assert_eq!((report.all.count, report.error_count()), (5000, 0), "{:?}", report.errors);
        assert_eq!(report.reads.count + report.writes.count, 5000);
        assert!((2000..3000).contains(&report.reads.count), "{}", report.reads.count);
        assert!(report.missing < report.reads.count);
        let in_series: u64 = report.series.iter().map(|second| second.reads + second.writes).sum();
        assert_eq!(in_series, 5000);
        assert!(report.all.per_second > 0.0 && report.all.latency.p50_ms > 0.0);
    }
}

#[test]
fn keys_lengths_and_mix_are_those_asked_for_and_follow_from_the_seed() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let target = server(move || {
        let sink = Arc::clone(&sink);
        Box::new(move |request| {
            sink.lock().unwrap().push((request[1].clone(), request[2].len()));
            Some(b"+OK\r\n".to_vec())
        })
    });
    let one = Load { clients: 1, threads: 1, workload: mixed(0), keys: 5, ..load(target, 300) };
    let run_of = |load: &Load| {
        report(load);
        std::mem::take(&mut *seen.lock().unwrap())
    };
    let first = run_of(&one);
    let keys: HashSet<&[u8]> = first.iter().map(|(key, _)| key.as_slice()).collect();
    let expected: [&[u8]; 5] = [b"0", b"1", b"2", b"3", b"4"];
    assert_eq!(keys, expected.into());
    let lengths: Vec<usize> = first.iter().map(|(_, length)| *length).collect();
    assert!(lengths.iter().all(|length| (32..=200).contains(length)));
    assert!(lengths.iter().any(|length| *length < 60));
    assert!(lengths.iter().any(|length| *length > 170));
    assert_eq!(run_of(&one), first);
    assert_ne!(run_of(&Load { seed: 2, ..one }), first);
}

#[test]
fn errors_are_told_apart_and_are_no_successes() {
    let target = server(|| {
        let mut count = 0;
        Box::new(move |request| {
            count += 1;
            Some(match (request.len(), count % 2) {
                (_, 0) => b"-BUSY try again\r\n".to_vec(),
                (2, _) => bulk(b"somebody else's"),
                _ => b":1\r\n".to_vec(),
            })
        })
    });
    let report = report(&Load { clients: 1, threads: 1, ..load(target, 1000) });
    assert_eq!((report.reads.count, report.all.count + report.error_count()), (0, 1000));
    let kinds = kinds(&report);
    assert_eq!(kinds[0], ("BUSY", 500));
    assert_eq!((kinds[1].0, kinds.len()), ("wrong", 2));
    assert!(report.table().contains("BUSY try again"), "{}", report.table());
}

#[test]
fn a_lost_connection_is_made_anew_and_costs_what_was_on_its_way() {
    let target = server(|| {
        let mut left = 10;
        Box::new(move |_| {
            left -= 1;
            (left > 0).then(|| b"+OK\r\n".to_vec())
        })
    });
    let load = Load { workload: mixed(0), clients: 1, threads: 1, ..load(target, 25) };
    let report = report(&load);
    assert_eq!((report.writes.count, kinds(&report)), (23, vec![("closed", 2)]));
}

#[test]
fn a_server_that_is_silent_ends_a_run_with_errors() {
    let target = server(|| Box::new(|_| Some(Vec::new())));
    for pace in [Pace::Closed, Pace::Open { per_second: 1000 }] {
        let timeout = Duration::from_millis(50);
        let duration = Some(Duration::from_millis(200));
        let load = Load { pace, pipeline: 200, timeout, duration, ..load(target, 1000) };
        let report = report(&load);
        assert_eq!(report.all.count, 0);
        assert!(kinds(&report).iter().any(|(kind, count)| *kind == "timeout" && *count >= 3));
        if pace != Pace::Closed {
            assert_eq!(report.error_count(), 200, "{:?}", report.errors);
        }
    }
}

#[test]
fn what_is_no_reply_ends_the_connection() {
    let target = server(|| Box::new(|_| Some(b"HTTP/1.1 400 Bad Request\r\n".to_vec())));
    let report = report(&load(target, 10));
    assert_eq!(kinds(&report), [("foreign", 10)]);
}

#[test]
fn a_server_that_takes_no_connection_is_heard() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            stream.unwrap().write_all(b"-ERR max number of clients\r\n").unwrap_or_default();
        }
    });
    let timeout = Duration::from_millis(100);
    let duration = Some(Duration::from_millis(300));
    let report = report(&Load { duration, timeout, ..load(target, 10) });
    // As what became of the connection, or as the reply if an operation left before it came.
    let heard = |errors: &ErrorReport| errors.first.ends_with("ERR max number of clients");
    assert!(report.errors.iter().any(heard), "{:?}", report.errors);
}

#[test]
fn a_stall_counts_for_all_operations_that_were_due_meanwhile() {
    let stall = Duration::from_millis(500);
    let target = server(move || {
        let mut count = 0;
        Box::new(move |_| {
            count += 1;
            if count == 10 {
                std::thread::sleep(stall);
            }
            Some(b"+OK\r\n".to_vec())
        })
    });
    // Due every 2 ms: about 250 while the server stalls, of which but one is on its way.
    let pace = Pace::Open { per_second: 500 };
    let load = Load { pace, workload: mixed(0), clients: 1, threads: 1, ..load(target, 400) };
    let report = report(&load);
    assert_eq!(report.writes.count, 400);
    assert!(report.writes.latency.max_ms >= 500.0);
    // More than half of all operations were due in the first half of the stall or the second; a
    // generator that waits with them would see one slow operation in 400.
    assert!(report.writes.latency.p90_ms >= 300.0, "{:?}", report.writes.latency);
    assert!(report.writes.latency.p50_ms >= 40.0, "{:?}", report.writes.latency);
}

#[test]
fn quantiles_are_written_for_what_there_was() {
    let report = report(&Load { workload: mixed(0), ..load(store(), 100) });
    let files = report.quantiles();
    let [("writes", text)] = files.as_slice() else { unreachable!("one file of writes") };
    let last = text.lines().rfind(|line| !line.starts_with('#')).unwrap();
    let fields: Vec<&str> = last.split_whitespace().collect();
    assert_eq!(fields[1..], ["1.000000000000", "100"], "{text}");
    assert!(text.contains("Total count    =          100]"), "{text}");
}

#[test]
fn a_modification_reads_and_then_writes_the_same_key_and_counts_once() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let target = server(move || {
        let sink = Arc::clone(&sink);
        Box::new(move |request| {
            sink.lock().unwrap().push((request.len(), request[1].clone()));
            Some(if request.len() == 2 { b"$-1\r\n".to_vec() } else { b"+OK\r\n".to_vec() })
        })
    });
    for pipeline in [1, 8] {
        let workload = Workload { updates: 0, modifies: 100, ..mixed(0) };
        let one = Load { clients: 1, threads: 1, pipeline, workload, ..load(target, 400) };
        let report = report(&one);
        assert_eq!((report.modifies.count, report.all.count), (400, 400));
        assert_eq!((report.reads.count, report.writes.count, report.error_count()), (0, 0, 0));
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        let of = |arguments| {
            let those = seen.iter().filter(move |(count, _)| *count == arguments);
            those.map(|(_, key)| key.clone()).collect::<Vec<_>>()
        };
        assert_eq!((of(2).len(), seen.len()), (400, 800));
        assert_eq!(of(2), of(3), "what is written is what was read, in that order");
        assert!(report.table().contains("\nmodify "), "{}", report.table());
    }
}

#[test]
fn a_modification_that_is_cut_off_between_its_halves_is_one_error() {
    let target = server(|| Box::new(|request| (request.len() == 2).then(|| b"$-1\r\n".to_vec())));
    let workload = Workload { updates: 0, modifies: 100, ..mixed(0) };
    let report = report(&Load { clients: 1, threads: 1, workload, ..load(target, 20) });
    assert_eq!((report.all.count, kinds(&report)), (0, vec![("closed", 20)]));
}

#[test]
fn inserts_go_on_and_reads_find_what_was_answered() {
    let target = store();
    let workload = Workload { reads: 50, inserts: 50, ..Workload::named("d").unwrap() };
    let load = Load { workload, clients: 8, ..load(target, 4000) };
    let report = report(&load);
    assert_eq!((report.all.count, report.error_count()), (4000, 0), "{:?}", report.errors);
    // With a hundred records nearly every read finds one once the first hundred are there.
    assert!(report.missing < 200, "{}", report.missing);
}

#[test]
fn a_connection_rests_between_its_reply_and_its_next_operation() {
    let think = Duration::from_millis(10)..=Duration::from_millis(20);
    let load = Load { think, clients: 2, threads: 1, ..load(store(), 20) };
    let report = report(&load);
    assert_eq!((report.all.count, report.error_count()), (20, 0));
    assert!(report.seconds >= 0.09, "nine rests of a connection: {}", report.seconds);
    assert!(report.load.contains("resting 10ms to 20ms"), "{}", report.load);
}

/// Replicas of the original, of which the first answers by UDP; also how many commands each has read.
fn replicas(count: usize) -> (Vec<SocketAddr>, Arc<Mutex<Vec<u64>>>) {
    let seen = Arc::new(Mutex::new(vec![0; count]));
    let addresses = (0..count).map(|number| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || answer_lines(number, &stream.unwrap(), &seen));
            }
        });
        address
    });
    (addresses.collect(), seen)
}

fn answer_lines(number: usize, stream: &TcpStream, seen: &Mutex<Vec<u64>>) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
        seen.lock().unwrap()[number] += 1;
        if number > 0 {
            continue;
        }
        let line = String::from_utf8(line).unwrap();
        let (port, command) = line.split_once('-').unwrap();
        let to = SocketAddr::new(stream.peer_addr().unwrap().ip(), port.parse().unwrap());
        let answer: &[u8] = if command.starts_with("get-") { b"OK: it\n" } else { b"OK: \n" };
        socket.send_to(answer, to).unwrap();
    }
}

#[test]
fn a_client_of_the_original_writes_to_all_and_takes_one_datagram() {
    let (mut targets, seen) = replicas(3);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    targets.push(nobody); // a replica that is down stops nobody
    let answers = Some(Answers { local: [127, 0, 0, 1].into(), port: 0 });
    let load = Load { targets, answers, verify: false, ..load(nobody, 1000) };
    let progress = Progress::watching();
    let report = run(&load, &|| Box::new(Original::text()), &progress).unwrap();
    assert_eq!((report.all.count, report.error_count()), (1000, 0), "{:?}", report.errors);
    assert_eq!(report.missing, 0);
    // Followers may still be reading what they were sent.
    for _ in 0..10_000 {
        if *seen.lock().unwrap() == [1000; 3] {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(*seen.lock().unwrap(), [1000; 3]);
    let watched = progress.take_watched();
    assert!((1..1000).contains(&watched.len()) && watched.iter().all(|latency| *latency > 0));
    assert!(progress.take_watched().is_empty());
}

#[test]
fn a_client_of_the_original_whose_leader_is_silent_hears_of_it() {
    let (targets, _seen) = replicas(2);
    let answers = Some(Answers { local: [127, 0, 0, 1].into(), port: 0 });
    let timeout = Duration::from_millis(50);
    let duration = Some(Duration::from_millis(300));
    // The second one follows, and says nothing.
    let silent = Load { answers, duration, timeout, ..load(targets[1], 1000) };
    for make in [Original::text, Original::protobuf] {
        let report = run(&silent, &|| Box::new(make()), &Progress::default()).unwrap();
        assert_eq!(report.all.count, 0);
        assert!(kinds(&report).iter().any(|(kind, count)| *kind == "timeout" && *count >= 3));
    }
}

/// A replica that answers a first command only after a second one has come, with a complaint.
fn late_replica() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut ports = Vec::new();
        for stream in listener.incoming() {
            // Either form begins with the port; there are no values.
            for command in BufReader::new(stream.unwrap()).split(b'\n').map_while(Result::ok) {
                let digits = command.iter().skip_while(|byte| !byte.is_ascii_digit());
                let digits = digits.take_while(|byte| byte.is_ascii_digit()).copied().collect();
                let port: u16 = String::from_utf8(digits).unwrap().parse().unwrap();
                ports.push(port);
                if ports.len() == 2 {
                    socket.send_to(b"ERR late\n", ("127.0.0.1", ports[0])).unwrap();
                }
                if ports.len() >= 2 {
                    socket.send_to(b"OK: it\n", ("127.0.0.1", port)).unwrap();
                }
            }
        }
    });
    address
}

#[test]
fn an_answer_that_comes_late_is_none_to_the_next_command() {
    for make in [Original::text, Original::protobuf] {
        let answers = Some(Answers { local: [127, 0, 0, 1].into(), port: 0 });
        let workload = mixed(100);
        let timeout = Duration::from_millis(200);
        let (clients, threads, keys) = (1, 1, 100);
        let target = late_replica();
        let late = Load { verify: false, ..load(target, 4) };
        let late = Load { answers, clients, threads, keys, workload, timeout, ..late };
        let report = run(&late, &|| Box::new(make()), &Progress::default()).unwrap();
        assert_eq!((report.all.count, kinds(&report)), (3, vec![("timeout", 1)]));
    }
}
