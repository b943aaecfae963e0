use std::net::SocketAddr;
use std::time::Duration;

use super::super::decode::Decoder;
use super::*;
use crate::command::{Body, Outcome};

fn connection() -> Connection {
    let address = SocketAddr::from(([127, 0, 0, 1], 5));
    Connection::new(Arc::new(Keys::new(100, 16, &[])), Arc::new(Client::new(3, address)))
}

fn take(connection: &mut Connection, line: &str) -> Planned {
    let mut input = BytesMut::from(format!("{line}\r\n").as_bytes());
    let request = Decoder::new(16).next(&mut input).unwrap().unwrap();
    connection.take(&request)
}

/// The reply of a step that has one already.
fn said(connection: &mut Connection, line: &str) -> String {
    match take(connection, line).step {
        Step::Answer(bytes) | Step::Close(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        step @ (Step::Execute { .. } | Step::Ask(_)) => format!("{step:?}"),
    }
}

fn executed(connection: &mut Connection, line: &str) -> (Command, Shape, Kind) {
    match take(connection, line).step {
        Step::Execute { command, shape, kind } => (command, shape, kind),
        step => panic!("{line} became {step:?}"),
    }
}

fn read_at(version: u64) -> Reply {
    let body = Body::Value(None);
    let outcome = Outcome { version, changed: false, existed: false, body };
    Reply { index: 0, outcomes: [outcome].into_iter().collect() }
}

#[test]
fn plain_requests_are_answered_as_by_redis() {
    let cases = [
        ("PING", "+PONG\r\n"),
        ("ping hi", "$2\r\nhi\r\n"),
        ("ECHO x", "$1\r\nx\r\n"),
        ("SELECT 0", "+OK\r\n"),
        ("SELECT 1", "-ERR DB index is out of range\r\n"),
        ("SELECT x", "-ERR value is not an integer or out of range\r\n"),
        ("QUIT", "+OK\r\n"),
        ("RESET", "+RESET\r\n"),
        ("GET", "-ERR wrong number of arguments for 'get' command\r\n"),
        ("FOO 1", "-ERR unknown command 'FOO', with args beginning with: '1' \r\n"),
        ("EXPIRE 1 2", "-ERR EXPIRE is refused: slots do not expire\r\n"),
        ("AUTH default x", "+OK\r\n"),
        ("AUTH other x", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
        ("CLIENT ID", ":3\r\n"),
        ("CLIENT SETINFO lib-name redis-py", "+OK\r\n"),
        ("CLIENT GETNAME", "$-1\r\n"),
        ("CLIENT SETNAME me", "+OK\r\n"),
        ("CLIENT GETNAME", "$2\r\nme\r\n"),
        ("CLIENT NO-EVICT on", "+OK\r\n"),
        ("CLIENT NOPE", "-ERR unknown subcommand 'NOPE' of CLIENT\r\n"),
        ("CLIENT ID 1", "-ERR wrong number of arguments for 'client|id' command\r\n"),
        ("SCAN x", "-ERR invalid cursor\r\n"),
        ("SCAN 0 COUNT 0", "-ERR syntax error\r\n"),
        ("WAIT 1 -1", "-ERR timeout is negative\r\n"),
        (
            "CLIENT SETNAME \"a b\"",
            "-ERR Client names cannot contain spaces, newlines or special \
                                    characters.\r\n",
        ),
    ];
    let mut connection = connection();
    for (line, reply) in cases {
        assert_eq!(said(&mut connection, line), reply, "{line}");
    }
}

#[test]
fn hello_agrees_on_a_version_or_changes_nothing() {
    let mut connection = connection();
    assert_eq!(take(&mut connection, "HELLO").version, Version::Two);
    let refused = said(&mut connection, "HELLO 4");
    assert_eq!(refused, "-NOPROTO unsupported protocol version\r\n");
    assert!(said(&mut connection, "HELLO 3 AUTH x y").starts_with("-WRONGPASS"));
    assert!(said(&mut connection, "HELLO 3 SETNAME a NOPE").starts_with("-ERR Syntax error"));
    assert_eq!(connection.client().name(), "");
    let planned = take(&mut connection, "HELLO 3 AUTH default pw SETNAME me");
    assert_eq!(planned.step, Step::Ask(Question::Hello));
    assert_eq!(planned.version, Version::Three);
    assert_eq!(connection.client().name(), "me");
    assert_eq!(said(&mut connection, "CLIENT GETNAME"), "$2\r\nme\r\n");
    assert_eq!(said(&mut connection, "RESET"), "+RESET\r\n");
    assert_eq!(take(&mut connection, "PING").version, Version::Two);
}

#[test]
fn questions_reach_the_node_as_they_were_asked() {
    let mut connection = connection();
    let scan = Question::Scan {
        from: 5,
        count: 7,
        pattern: Some(Bytes::from_static(b"4*")),
        strings: false,
    };
    let line = "SCAN 5 MATCH 4* COUNT 7 TYPE hash";
    assert_eq!(take(&mut connection, line).step, Step::Ask(scan));
    let wait = Question::Wait { members: 2, timeout: Duration::from_millis(50) };
    assert_eq!(take(&mut connection, "WAIT 2 50").step, Step::Ask(wait));
    let info = Question::Info(vec!["server".to_owned()]);
    assert_eq!(take(&mut connection, "INFO Server").step, Step::Ask(info));
}

#[test]
fn a_transaction_becomes_one_command() {
    let mut connection = connection();
    assert_eq!(said(&mut connection, "MULTI"), "+OK\r\n");
    for line in ["INCR 5", "PING", "MGET 1 2", "UNWATCH"] {
        assert_eq!(said(&mut connection, line), "+QUEUED\r\n");
    }
    let (command, shape, kind) = executed(&mut connection, "EXEC");
    assert_eq!((command.operation_count(), kind), (3, Kind::Write));
    let items = vec![
        Item::Data(Shape::Integer),
        Item::Answer(Bytes::from_static(b"+PONG\r\n")),
        Item::Data(Shape::Values(2)),
        Item::Answer(Bytes::from_static(b"+OK\r\n")),
    ];
    assert_eq!(shape, Shape::Transaction(Box::new(Transaction { items, watch: None })));
    assert!(said(&mut connection, "EXEC").starts_with("-ERR EXEC without MULTI"));
}

#[test]
fn a_transaction_of_reads_is_a_read() {
    let mut connection = connection();
    said(&mut connection, "MULTI");
    said(&mut connection, "GET 1");
    assert_eq!(executed(&mut connection, "EXEC").2, Kind::Read);
    said(&mut connection, "MULTI");
    said(&mut connection, "PING");
    assert_eq!(said(&mut connection, "EXEC"), "*1\r\n+PONG\r\n");
    said(&mut connection, "MULTI");
    assert_eq!(said(&mut connection, "EXEC"), "*0\r\n");
}

#[test]
fn whatever_is_refused_in_a_transaction_aborts_it() {
    for line in ["GET x", "FOO", "DBSIZE", "GET", "SUBSCRIBE a", "HELLO 3", "CLIENT REPLY OFF"] {
        let mut connection = connection();
        said(&mut connection, "MULTI");
        assert_eq!(said(&mut connection, "SET 1 a"), "+QUEUED\r\n");
        assert!(said(&mut connection, line).starts_with("-ERR"), "{line}");
        assert_eq!(said(&mut connection, "SET 1 a"), "+QUEUED\r\n");
        assert!(said(&mut connection, "EXEC").starts_with("-EXECABORT"), "{line}");
        assert_eq!(said(&mut connection, "PING"), "+PONG\r\n");
    }
}

#[test]
fn nested_multi_and_discard_are_those_of_redis() {
    let mut connection = connection();
    assert_eq!(said(&mut connection, "DISCARD"), "-ERR DISCARD without MULTI\r\n");
    said(&mut connection, "MULTI");
    assert_eq!(said(&mut connection, "MULTI"), "-ERR MULTI calls can not be nested\r\n");
    assert_eq!(said(&mut connection, "WATCH 1"), "-ERR WATCH inside MULTI is not allowed\r\n");
    assert_eq!(said(&mut connection, "DISCARD"), "+OK\r\n");
    assert_eq!(said(&mut connection, "PING"), "+PONG\r\n");
}

#[test]
fn a_watch_is_a_barrier_until_its_version_is_known() {
    let mut connection = connection();
    let planned = take(&mut connection, "WATCH 7");
    assert!(planned.is_barrier());
    connection.note(&Shape::Watch, &Ok(read_at(9)));
    assert!(said(&mut connection, "WATCH 8").starts_with("-ERR WATCH takes one key"));
    assert_eq!(said(&mut connection, "WATCH 7"), "+OK\r\n");
    said(&mut connection, "MULTI");
    assert_eq!(said(&mut connection, "SET 7 v"), "+QUEUED\r\n");
    let (_, shape, _) = executed(&mut connection, "EXEC");
    let Shape::Transaction(transaction) = shape else { panic!("no transaction") };
    assert_eq!(transaction.watch, Some((0, 9)));
    said(&mut connection, "MULTI");
    said(&mut connection, "SET 8 v");
    let (_, shape, _) = executed(&mut connection, "EXEC");
    assert!(matches!(shape, Shape::Transaction(transaction) if transaction.watch.is_none()));
}

#[test]
fn a_watched_transaction_may_not_write_elsewhere() {
    let mut connection = connection();
    take(&mut connection, "WATCH 7");
    connection.note(&Shape::Watch, &Ok(read_at(9)));
    said(&mut connection, "MULTI");
    assert!(said(&mut connection, "SET 8 v").starts_with("-EXECABORT under WATCH"));
    assert!(said(&mut connection, "EXEC").starts_with("-EXECABORT"));
}

#[test]
fn replies_are_left_out_as_asked() {
    let mut connection = connection();
    let cases = [
        ("PING", false),
        ("CLIENT REPLY SKIP", true),
        ("PING", true),
        ("PING", false),
        ("CLIENT REPLY OFF", true),
        ("PING", true),
        ("FOO", true),
        ("CLIENT REPLY SKIP", true),
        ("PING", true),
        ("CLIENT REPLY ON", false),
        ("PING", false),
    ];
    for (line, silent) in cases {
        assert_eq!(take(&mut connection, line).silent, silent, "{line}");
    }
}

#[test]
fn the_last_write_is_remembered() {
    let mut connection = connection();
    connection.note(&Shape::Stored(1), &Ok(Reply { index: 7, ..Reply::default() }));
    connection.note(&Shape::Value, &Ok(read_at(3)));
    assert_eq!(connection.written_index(), 7);
    assert_eq!(connection.read_level(ReadLevel::Linearizable), ReadLevel::Linearizable);
    take(&mut connection, "READONLY");
    assert_eq!(connection.read_level(ReadLevel::Linearizable), ReadLevel::Local);
}
