//! redis-rs against a running cluster; run by tests/clients.rs as: PROGRAM ADDRESS... Ends with `ok`
//! if everything was as it should be, and panics if not.

use redis::{Client, Commands, Connection, RedisResult, cmd, pipe, transaction};

/// Of each kind in a row, and in turn: a read waits for the write before it.
const PIPELINE_REQUESTS: usize = 10_000;
const PIPELINE_TURNS: usize = 200;
const MANY_KEYS: usize = 500;
const COUNTERS: usize = 3;
const ROUNDS: usize = 10;

/// Which program runs, and where.
struct Nodes {
    program: String,
    addresses: Vec<String>,
}

impl Nodes {
    /// Key number `number`: a slot's number, or any bytes.
    fn key(&self, number: usize) -> String {
        match self.program.as_str() {
            "kvstore" => format!("client:{number} \u{e4}"),
            _ => number.to_string(),
        }
    }

    fn keys(&self, count: usize) -> Vec<String> {
        (0..count).map(|number| self.key(number)).collect()
    }

    fn connect(&self, node: usize) -> Connection {
        let address = &self.addresses[node % self.addresses.len()];
        let client = Client::open(format!("redis://{address}/")).expect("an address");
        client.get_connection().expect("a node that serves")
    }
}

fn values_come_back_byte_for_byte(nodes: &Nodes, first: usize) {
    let (mut client, mut reader) = (nodes.connect(first), nodes.connect(first + 1));
    let every_byte: Vec<u8> = (0..=255).collect();
    for value in [&b""[..], b"\r\n", b"\0", &every_byte] {
        let _: () = client.set(nodes.key(1), value).unwrap();
        assert_eq!(reader.get::<_, Vec<u8>>(nodes.key(1)).unwrap(), value);
        assert_eq!(reader.strlen::<_, usize>(nodes.key(1)).unwrap(), value.len());
    }
    assert!(!client.set_nx::<_, _, bool>(nodes.key(1), "x").unwrap());
    assert_eq!(client.del::<_, usize>(&[nodes.key(1), nodes.key(2)]).unwrap(), 1);
    assert_eq!(reader.get::<_, Option<String>>(nodes.key(1)).unwrap(), None);
}

fn a_long_pipeline_is_answered_in_order(nodes: &Nodes, first: usize) {
    let (mut client, mut reader) = (nodes.connect(first), nodes.connect(first + 1));
    let mut long = pipe();
    for number in 0..PIPELINE_REQUESTS {
        long.set(nodes.key(number % 1000), number).ignore();
    }
    for number in 0..PIPELINE_REQUESTS {
        long.get(nodes.key(number % 1000));
    }
    for number in 0..PIPELINE_TURNS {
        long.set(nodes.key(number % 7), number).ignore().get(nodes.key(number % 7));
    }
    let found: Vec<usize> = long.query(&mut client).unwrap();
    let last = |number: usize| PIPELINE_REQUESTS - 1000 + number % 1000;
    assert!(found.into_iter().eq((0..PIPELINE_REQUESTS).map(last).chain(0..PIPELINE_TURNS)));
    assert_eq!(reader.get::<_, usize>(nodes.key(999)).unwrap(), PIPELINE_REQUESTS - 1);
    assert_eq!(client.unlink::<_, usize>(nodes.keys(1000)).unwrap(), 1000);
}

fn hundreds_of_keys_are_one_command(nodes: &Nodes, first: usize) {
    let (mut client, mut reader) = (nodes.connect(first), nodes.connect(first + 1));
    let keys = nodes.keys(MANY_KEYS);
    let pairs: Vec<(&String, usize)> = keys.iter().zip(0..).collect();
    let _: () = client.mset(&pairs).unwrap();
    let found: Vec<usize> = reader.mget(&keys).unwrap();
    assert!(found.into_iter().eq(0..MANY_KEYS));
    assert_eq!(reader.exists::<_, usize>(&keys).unwrap(), MANY_KEYS);
    assert_eq!(cmd("DBSIZE").query::<usize>(&mut reader).unwrap(), MANY_KEYS);
    let mut scanned: Vec<String> =
        reader.scan::<String>().unwrap().collect::<RedisResult<_>>().unwrap();
    scanned.sort();
    let mut expected = keys.clone();
    expected.sort();
    assert_eq!(scanned, expected);
    assert_eq!(client.del::<_, usize>(&keys).unwrap(), MANY_KEYS);
    assert_eq!(cmd("DBSIZE").query::<usize>(&mut reader).unwrap(), 0);
}

fn a_transaction_is_answered_as_one(nodes: &Nodes, first: usize) {
    let mut client = nodes.connect(first);
    let key = nodes.key(5);
    let mut atomic = pipe();
    atomic.atomic().set(&key, 4).ignore().incr(&key, 1).get(&key);
    assert_eq!(atomic.query::<(i64, String)>(&mut client).unwrap(), (5, "5".to_owned()));
    let mut many = pipe();
    many.atomic();
    for key in nodes.keys(MANY_KEYS) {
        many.set(&key, 1).ignore().get(&key);
    }
    assert_eq!(many.query::<Vec<usize>>(&mut client).unwrap(), [1; MANY_KEYS]);
    assert_eq!(client.del::<_, usize>(nodes.keys(MANY_KEYS)).unwrap(), MANY_KEYS);
}

/// No increment that was acknowledged may be lost, whoever else counts at the same time.
fn concurrent_increments_under_watch_are_all_kept(nodes: &Nodes, first: usize) {
    let key = nodes.key(7);
    let _: () = nodes.connect(first).set(&key, 0).unwrap();
    std::thread::scope(|scope| {
        for counter in 0..COUNTERS {
            let key = &key;
            scope.spawn(move || {
                let mut client = nodes.connect(first + counter % 2);
                for _ in 0..ROUNDS {
                    let _: (usize,) = transaction(&mut client, &[key], |client, atomic| {
                        let seen: usize = client.get(key)?;
                        atomic.set(key, seen + 1).ignore().get(key).query(client)
                    })
                    .unwrap();
                }
            });
        }
    });
    let mut reader = nodes.connect(first + 1);
    assert_eq!(reader.get::<_, usize>(&key).unwrap(), COUNTERS * ROUNDS);
    assert_eq!(reader.del::<_, usize>(&key).unwrap(), 1);
}

fn errors_say_what_was_wrong(nodes: &Nodes, first: usize) {
    let mut client = nodes.connect(first);
    let words = |result: RedisResult<()>| result.unwrap_err().to_string();
    let text = words(client.lpush(nodes.key(1), "x"));
    assert!(text.contains("no other types"), "{text}");
    let text = words(cmd("NONSENSE").query(&mut client));
    assert!(text.contains("unknown command 'NONSENSE'"), "{text}");
    let text = words(client.set_ex(nodes.key(1), "x", 10));
    assert!(text.contains("do not expire"), "{text}");
    assert_eq!(cmd("PING").query::<String>(&mut client).unwrap(), "PONG");
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let program = arguments.next().expect("a program's name");
    let nodes = Nodes { program, addresses: arguments.collect() };
    let parts: [(&str, fn(&Nodes, usize)); 6] = [
        ("values_come_back_byte_for_byte", values_come_back_byte_for_byte),
        ("a_long_pipeline_is_answered_in_order", a_long_pipeline_is_answered_in_order),
        ("hundreds_of_keys_are_one_command", hundreds_of_keys_are_one_command),
        ("a_transaction_is_answered_as_one", a_transaction_is_answered_as_one),
        ("concurrent_increments_under_watch", concurrent_increments_under_watch_are_all_kept),
        ("errors_say_what_was_wrong", errors_say_what_was_wrong),
    ];
    for (name, part) in parts {
        for first in 0..nodes.addresses.len() {
            println!("{name} {} {}", nodes.program, nodes.addresses[first]);
            part(&nodes, first);
        }
    }
    println!("redis-rs ok");
}
