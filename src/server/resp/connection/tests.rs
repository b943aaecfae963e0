use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::super::decode::Decoder;
use super::super::encode::Encoder;
use super::*;
use crate::command::{
    Body, CommandResult, Failure, OPERATION_COUNT_MAX, Outcome, ReadLevel, Reply,
};
use crate::server::access::Access;
use crate::server::detect::Protocol;

fn connection_to(machine: MachineKind, value_bytes_max: u32) -> Connection {
    let address = SocketAddr::from(([127, 0, 0, 1], 5));
    let client = Arc::new(Client::new(3, address));
    let requester =
        Requester::new(client, ReadLevel::Linearizable, Protocol::Resp, Arc::new(Access::free()));
    Connection::new(Arc::new(Keys::new(100, value_bytes_max, &[])), machine, requester)
}

fn connection() -> Connection {
    connection_to(MachineKind::Slots, 16)
}

fn encoded(version: Version, answer: &Value) -> String {
    let mut out = BytesMut::new();
    Encoder::new(&mut out, version).answer(answer);
    String::from_utf8(out.to_vec()).unwrap()
}

/// Whether a request became this question.
fn asks(connection: &mut Connection, line: &str, question: &Question) -> bool {
    matches!(take(connection, line).step, Step::Ask(asked) if asked == *question)
}

fn reads_locally(connection: &mut Connection) -> bool {
    connection.requester().freshness().level == ReadLevel::Local
}

fn take(connection: &mut Connection, line: &str) -> Planned {
    let mut input = BytesMut::from(format!("{line}\r\n").as_bytes());
    let request = Decoder::default().next(&mut input).unwrap().unwrap();
    connection.take(&request)
}

/// The reply of a step that has one already.
fn said(connection: &mut Connection, line: &str) -> String {
    let planned = take(connection, line);
    match planned.step {
        Step::Answer(answer) | Step::Close(answer) => encoded(planned.version, &answer),
        step => format!("{step:?}"),
    }
}

/// The command that EXEC comes to, and the form of its reply.
fn executed(connection: &mut Connection) -> (Command, Transaction, Option<Kind>) {
    match take(connection, "EXEC").step {
        Step::Transaction { command, kind, transaction } => (command, *transaction, kind),
        step => panic!("EXEC became {step:?}"),
    }
}

/// The reply to a step for which the node gave `result`; it has no questions.
fn replied(connection: &mut Connection, planned: &Planned, result: &CommandResult) -> String {
    let mut out = BytesMut::new();
    let mut to = Encoder::new(&mut out, planned.version);
    let has_command =
        matches!(planned.step, Step::Execute { .. } | Step::Transaction { kind: Some(_), .. });
    let mut rest = connection.begin_reply(planned, has_command.then_some(result), &mut to);
    assert_eq!(rest.next_question(connection, &mut to), None);
    String::from_utf8(out.to_vec()).unwrap()
}

/// Takes a request for which the node gives `result`; its reply.
fn told(connection: &mut Connection, line: &str, result: &CommandResult) -> String {
    let planned = take(connection, line);
    replied(connection, &planned, result)
}

fn read_at(version: u64) -> Reply {
    let body = Body::Value(None);
    let outcome = Outcome { version, changed: false, existed: false, body };
    Reply { index: 0, outcomes: [outcome].into_iter().collect(), ..Reply::default() }
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
        ("EXPIRE 1 2", "-ERR EXPIRE is refused: values do not expire\r\n"),
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
        ("WAITAOF 2 1 0", "-ERR value is out of range, must be between 0 and 1\r\n"),
        ("CLUSTER KEYSLOT foo{hash_tag}", ":2515\r\n"),
        ("CLUSTER KEYSLOT", "-ERR wrong number of arguments for 'cluster|keyslot' command\r\n"),
        ("CLIENT LIST TYPE nonsense", "-ERR Unknown client type 'nonsense'\r\n"),
        ("CLIENT LIST ID x", "-ERR Invalid client ID\r\n"),
        ("CLIENT LIST NOPE", "-ERR syntax error\r\n"),
        ("PERSIST 1 2", "-ERR wrong number of arguments for 'persist' command\r\n"),
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
    assert!(matches!(planned.step, Step::Ask(Question::Hello { version: 3 })));
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
    assert!(asks(&mut connection, line, &scan));
    let wait = Question::Wait { members: 2, timeout: Duration::from_millis(50) };
    assert!(asks(&mut connection, "WAIT 2 50", &wait));
    let wait = Question::WaitAof { own: true, members: 2, timeout: Duration::from_millis(50) };
    assert!(asks(&mut connection, "WAITAOF 1 2 50", &wait));
    for (line, question) in [
        ("CLIENT LIST", Question::ClientList { ids: Vec::new(), listening: None }),
        (
            "CLIENT LIST TYPE normal ID 3 7",
            Question::ClientList { ids: vec![3, 7], listening: Some(false) },
        ),
        ("CLIENT LIST ID 3 TYPE replica", Question::NoClients),
        ("CLUSTER SHARDS", Question::ClusterShards),
        ("LASTSAVE", Question::LastSave),
    ] {
        assert!(asks(&mut connection, line, &question), "{line}");
    }
    let info = Question::Info(vec!["server".to_owned()]);
    assert!(asks(&mut connection, "INFO Server", &info));
}

#[test]
fn a_transaction_becomes_one_command() {
    let mut connection = connection();
    assert_eq!(said(&mut connection, "MULTI"), "+OK\r\n");
    for line in ["INCR 5", "PING", "MGET 1 2", "UNWATCH"] {
        assert_eq!(said(&mut connection, line), "+QUEUED\r\n");
    }
    let (command, transaction, kind) = executed(&mut connection);
    assert_eq!((command.operation_count(), kind), (3, Some(Kind::Write)));
    let [Item::Data(_), Item::Request(_), Item::Data(_), Item::Request(_)] =
        transaction.items.as_slice()
    else {
        panic!("{transaction:?}");
    };
    assert_eq!(transaction.watch, None);
    assert!(said(&mut connection, "EXEC").starts_with("-ERR EXEC without MULTI"));
}

#[test]
fn a_transaction_of_reads_is_a_read() {
    let mut connection = connection();
    said(&mut connection, "MULTI");
    said(&mut connection, "GET 1");
    assert_eq!(executed(&mut connection).2, Some(Kind::Read));
    let nothing = Ok(Reply::default());
    for (line, reply) in [("PING", "*1\r\n+PONG\r\n"), ("GET x", "*1\r\n-ERR key must be")] {
        said(&mut connection, "MULTI");
        said(&mut connection, line);
        let found = told(&mut connection, "EXEC", &nothing);
        assert!(found.starts_with(reply), "{line}: {found}");
    }
    said(&mut connection, "MULTI");
    assert_eq!(told(&mut connection, "EXEC", &nothing), "*0\r\n");
}

#[test]
fn a_wrong_name_or_number_of_arguments_aborts_a_transaction() {
    for line in ["FOO", "GET", "SSUBSCRIBE a", "MSET 1", "EXPIRE 1 2"] {
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
fn what_is_too_much_for_one_command_aborts_a_transaction() {
    let mut connection = connection_to(MachineKind::Slots, 1 << 20);
    let long = format!("SET 1 {}", "v".repeat(60_000));
    for line in ["PING", "SET 1 v", "GET x", &long, &format!("ECHO {}", "v".repeat(60_000))] {
        said(&mut connection, "MULTI");
        let mut count = 0;
        let refusal = loop {
            let reply = said(&mut connection, line);
            if reply != "+QUEUED\r\n" {
                break reply;
            }
            count += 1;
            assert!(count <= OPERATION_COUNT_MAX, "{line} without end");
        };
        assert!(refusal.contains("at most"), "{line}: {refusal}");
        assert!(said(&mut connection, "EXEC").starts_with("-EXECABORT"));
    }
}

#[test]
fn an_error_in_a_transaction_leaves_nothing_of_its_request() {
    let mut connection = connection();
    said(&mut connection, "MULTI");
    for line in ["SET 1 a", "MGET 1 2 x", "MSET 2 a x b", "SET 3 b EX 5", "GET 4"] {
        assert_eq!(said(&mut connection, line), "+QUEUED\r\n", "{line}");
    }
    let (command, transaction, kind) = executed(&mut connection);
    assert_eq!(
        (command.to_string().as_str(), kind),
        ("set 1 (1 bytes) and 1 more", Some(Kind::Write))
    );
    let errors = transaction.items.iter().filter(|item| matches!(item, Item::Refused(_)));
    assert_eq!(errors.count(), 3);
}

#[test]
fn what_is_queued_about_the_connection_takes_effect_at_exec_alone() {
    let mut connection = connection();
    let nothing = Ok(Reply::default());
    let queue =
        ["MULTI", "CLIENT SETNAME me", "READONLY", "CLIENT REPLY OFF", "HELLO 3", "CLIENT GETNAME"];
    for line in queue {
        said(&mut connection, line);
    }
    assert_eq!(connection.client().name(), "");
    said(&mut connection, "DISCARD");
    assert_eq!((connection.client().name().as_str(), reads_locally(&mut connection)), ("", false));
    for line in queue {
        said(&mut connection, line);
    }
    let planned = take(&mut connection, "EXEC");
    assert!(planned.is_barrier());
    let reply = replied(&mut connection, &planned, &nothing);
    let expected = "*5\r\n+OK\r\n+OK\r\n-ERR CLIENT REPLY inside MULTI is not allowed\r\n-ERR HELLO with \
                    a version inside MULTI is not allowed\r\n$2\r\nme\r\n";
    assert_eq!(reply, expected);
    assert!(reads_locally(&mut connection));
}

#[test]
fn the_replies_of_a_transaction_are_bounded() {
    let mut connection = connection();
    said(&mut connection, "MULTI");
    let line = format!("COMMAND INFO{}", " get".repeat(400));
    for _ in 0..OPERATION_COUNT_MAX {
        assert_eq!(said(&mut connection, &line), "+QUEUED\r\n");
    }
    let reply = told(&mut connection, "EXEC", &Ok(Reply::default()));
    assert!(reply.len() < 65 << 20, "{} bytes", reply.len());
    assert!(reply.ends_with("-ERR the replies of the transaction are too long\r\n"));
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
    assert_eq!(replied(&mut connection, &planned, &Ok(read_at(9))), "+OK\r\n");
    assert_eq!(said(&mut connection, "WATCH 7"), "+OK\r\n");
    said(&mut connection, "MULTI");
    assert_eq!(said(&mut connection, "SET 7 v"), "+QUEUED\r\n");
    assert_eq!(executed(&mut connection).1.watch, Some((0, 9)));
    said(&mut connection, "MULTI");
    said(&mut connection, "SET 8 v");
    assert_eq!(executed(&mut connection).1.watch, None);
}

/// WATCH 7 at version 9, then the given steps with what the node gives, then MULTI, SET, EXEC.
fn exec_after(steps: &[(&str, CommandResult)]) -> String {
    let mut connection = connection();
    told(&mut connection, "WATCH 7", &Ok(read_at(9)));
    for (line, result) in steps {
        told(&mut connection, line, result);
    }
    said(&mut connection, "MULTI");
    said(&mut connection, "SET 7 v");
    said(&mut connection, "EXEC")
}

#[test]
fn what_is_seen_of_the_watched_key_has_to_be_what_was_watched() {
    let (nil, condition) = ("*-1\r\n", "watch: Some((0, 9))");
    let unknown = Failure::Unknown { term: 1, index: 2, reason: "lost".to_owned() };
    for (line, result, expected) in [
        ("GET 7", Ok(read_at(9)), condition),
        ("GET 7", Ok(read_at(8)), nil),
        ("MGET 8 7", Ok(read_at(9)), nil),
        ("GET 8", Ok(read_at(8)), condition),
        ("SET 7 v", Ok(read_at(10)), nil),
        ("SET 7 v", Err(unknown.clone()), nil),
        ("SET 8 v", Err(unknown), condition),
        ("SET 7 v", Err(Failure::NoSpace), condition),
        ("DISCARD", Ok(read_at(9)), condition),
        ("EXEC", Ok(read_at(9)), condition),
        ("UNWATCH", Ok(read_at(9)), "watch: None"),
        ("RESET", Ok(read_at(9)), "watch: None"),
        ("WATCH 8", Ok(read_at(9)), "-EXECABORT"),
        ("WATCH x", Ok(read_at(9)), "-EXECABORT"),
        ("WATCH", Ok(read_at(9)), condition),
    ] {
        let found = exec_after(&[(line, result)]);
        assert!(found.contains(expected), "{line}: {found}");
    }
}

#[test]
fn a_watch_that_failed_can_be_asked_for_again_while_nothing_was_seen() {
    let busy = || Err(Failure::Busy { reason: "full".to_owned() });
    let read = |version| Ok(read_at(version));
    let mut connection = connection();
    let mut exec = |lines: &[(&str, CommandResult)]| {
        for (line, result) in lines {
            told(&mut connection, line, result);
        }
        said(&mut connection, "MULTI");
        said(&mut connection, "SET 7 v");
        said(&mut connection, "EXEC")
    };
    let failed = exec(&[("WATCH 7", busy())]);
    assert!(failed.starts_with("-EXECABORT Transaction discarded because WATCH failed: BUSY busy"));
    assert!(exec(&[]).contains("watch: None"));
    assert!(exec(&[("WATCH 7", busy()), ("WATCH 7", read(9))]).contains("watch: Some((0, 9))"));
    let other = exec(&[("WATCH 7", busy()), ("WATCH 8", read(9))]);
    assert!(other.starts_with("-EXECABORT"), "{other}");
    let seen = exec(&[("WATCH 7", busy()), ("GET 7", read(8)), ("WATCH 7", read(9))]);
    assert!(seen.starts_with("-EXECABORT"), "{seen}");
    let anew = exec(&[("WATCH 7 8", busy()), ("UNWATCH", read(0)), ("WATCH 7", read(9))]);
    assert!(anew.contains("watch: Some((0, 9))"), "{anew}");
}

#[test]
fn a_watched_transaction_may_not_write_elsewhere() {
    let mut connection = connection();
    told(&mut connection, "WATCH 7", &Ok(read_at(9)));
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
        ("CLIENT REPLY OFF", true),
        ("RESET", false),
        ("PING", false),
        ("CLIENT REPLY SKIP", true),
        ("RESET", false),
        ("PING", false),
    ];
    for (line, silent) in cases {
        assert_eq!(take(&mut connection, line).silent, silent, "{line}");
    }
}

#[test]
fn the_last_write_is_remembered() {
    let mut connection = connection();
    let requester = connection.requester();
    requester.note(&Ok(Reply { index: 7, ..Reply::default() }));
    requester.note(&Ok(read_at(3)));
    let freshness = requester.freshness();
    assert_eq!((freshness.written_index, freshness.level), (7, ReadLevel::Linearizable));
    let planned = take(&mut connection, "READONLY");
    assert!(planned.is_barrier());
    let is_early = reads_locally(&mut connection);
    assert!(!is_early, "reads that were taken before are not answered yet");
    replied(&mut connection, &planned, &Ok(Reply::default()));
    assert!(reads_locally(&mut connection));
    said(&mut connection, "RESET");
    assert!(!reads_locally(&mut connection));
    assert_eq!(connection.requester().freshness().written_index, 7);
}

#[test]
fn a_logger_answers_what_needs_no_keys() {
    let mut connection = connection_to(MachineKind::Journal, 16);
    let refusal = "-ERR this is a logger, which serves no commands; ask a node of its cluster\r\n";
    for line in ["GET 1", "SET 1 v", "MEMORY USAGE 1", "SCAN 0", "DBSIZE", "RANDOMKEY", "WATCH 1"] {
        assert_eq!(said(&mut connection, line), refusal, "{line}");
    }
    assert_eq!(said(&mut connection, "PING"), "+PONG\r\n");
    assert!(asks(&mut connection, "ROLE", &Question::Role));
}

#[test]
fn a_request_is_counted_as_what_it_is() {
    let mut connection = connection();
    take(&mut connection, "PING");
    let mut input = BytesMut::from("*9000\r\n$3\r\nGET\r\n".as_bytes());
    (1..9000).for_each(|_| input.extend_from_slice(b"$1\r\na\r\n"));
    let too_long = Decoder::default().next(&mut input).unwrap().unwrap();
    connection.take(&too_long);
    take(&mut connection, "RESET");
    let counts = connection.client().counters().now().commands;
    let counts = counts.iter().map(|count| (count.name, count.calls, count.rejected));
    assert_eq!(counts.collect::<Vec<_>>(), [("get", 0, 1), ("ping", 1, 0), ("reset", 1, 0)]);
}
