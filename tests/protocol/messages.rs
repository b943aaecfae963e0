//! Messages on channels, byte by byte in RESP2 and RESP3.

use super::{Client, Node, array};

/// Sends a line and expects these bytes.
fn say(client: &mut Client, line: &str, expected: &str) {
    client.send(format!("{line}\r\n").as_bytes());
    client.expect(expected.as_bytes());
}

/// `expected` in RESP3, where what comes unasked has a form of its own.
fn pushed(expected: &str) -> String {
    assert!(expected.starts_with('*'));
    expected.replacen('*', ">", 1)
}

#[test]
fn messages_come_as_arrays_in_resp2_and_as_pushes_in_resp3() {
    let node = Node::shared();
    let (mut two, mut three, mut publisher) = (node.connect(), node.connect(), node.connect());
    let confirmed = "*3\r\n$9\r\nsubscribe\r\n$5\r\nnews1\r\n:1\r\n";
    say(&mut two, "SUBSCRIBE news1", confirmed);
    three.send(b"HELLO 3\r\nSUBSCRIBE news1\r\n");
    while three.line() != "*0" {} // modules, the last field
    three.expect(pushed(confirmed).as_bytes());
    say(&mut publisher, "PUBLISH news1 hello", ":2\r\n");
    say(&mut publisher, "PUBLISH news1 \"\"", ":2\r\n");
    say(&mut publisher, "PUBLISH news2 hello", ":0\r\n");
    let bytes = b"\r\n\0$3";
    publisher.send(&array(&[b"PUBLISH", b"news1", bytes]));
    publisher.expect(b":2\r\n");
    for message in ["$5\r\nhello\r\n", "$0\r\n\r\n", "$5\r\n\r\n\0$3\r\n"] {
        let frame = format!("*3\r\n$7\r\nmessage\r\n$5\r\nnews1\r\n{message}");
        two.expect(frame.as_bytes());
        three.expect(pushed(&frame).as_bytes());
    }
    say(&mut two, "UNSUBSCRIBE", "*3\r\n$11\r\nunsubscribe\r\n$5\r\nnews1\r\n:0\r\n");
    say(&mut two, "UNSUBSCRIBE", "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n");
    say(&mut three, "UNSUBSCRIBE", ">3\r\n$11\r\nunsubscribe\r\n$5\r\nnews1\r\n:0\r\n");
    say(&mut three, "PUNSUBSCRIBE", ">3\r\n$12\r\npunsubscribe\r\n_\r\n:0\r\n");
    say(&mut publisher, "PUBLISH news1 late", ":0\r\n");
    say(&mut two, "PING", "+PONG\r\n");
}

#[test]
fn every_name_of_a_request_is_confirmed_with_the_count_so_far() {
    let node = Node::shared();
    let mut client = node.connect();
    let confirmed = |verb: &str, name: &str, count: usize| {
        format!("*3\r\n${}\r\n{verb}\r\n${}\r\n{name}\r\n:{count}\r\n", verb.len(), name.len())
    };
    let several = [("a3", 1), ("b3", 2), ("a3", 2), ("c3", 3)];
    let expected = several.map(|(name, count)| confirmed("subscribe", name, count)).concat();
    say(&mut client, "SUBSCRIBE a3 b3 a3 c3", &expected);
    let several = [("a3*", 4), ("b3*", 5)];
    let expected = several.map(|(name, count)| confirmed("psubscribe", name, count)).concat();
    say(&mut client, "PSUBSCRIBE a3* b3*", &expected);
    let several = [("b3", 4), ("x3", 4)];
    let expected = several.map(|(name, count)| confirmed("unsubscribe", name, count)).concat();
    say(&mut client, "UNSUBSCRIBE b3 x3", &expected);
    let several = [("a3*", 3), ("b3*", 2)];
    let expected = several.map(|(name, count)| confirmed("punsubscribe", name, count)).concat();
    say(&mut client, "PUNSUBSCRIBE", &expected);
    say(&mut client, "PUNSUBSCRIBE", "*3\r\n$12\r\npunsubscribe\r\n$-1\r\n:2\r\n");
}

#[test]
fn a_message_comes_by_the_channel_first_and_then_by_each_pattern() {
    let node = Node::shared();
    let (mut client, mut publisher) = (node.connect(), node.connect());
    client.send(b"PSUBSCRIBE ne*4 n?w4 [^n]ew4\r\nSUBSCRIBE new4\r\n");
    client.expect(b"*3\r\n$10\r\npsubscribe\r\n$4\r\nne*4\r\n:1\r\n");
    client.expect(b"*3\r\n$10\r\npsubscribe\r\n$4\r\nn?w4\r\n:2\r\n");
    client.expect(b"*3\r\n$10\r\npsubscribe\r\n$7\r\n[^n]ew4\r\n:3\r\n");
    client.expect(b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnew4\r\n:4\r\n");
    say(&mut publisher, "PUBLISH new4 x", ":3\r\n");
    client.expect(b"*3\r\n$7\r\nmessage\r\n$4\r\nnew4\r\n$1\r\nx\r\n");
    client.expect(b"*4\r\n$8\r\npmessage\r\n$4\r\nn?w4\r\n$4\r\nnew4\r\n$1\r\nx\r\n");
    client.expect(b"*4\r\n$8\r\npmessage\r\n$4\r\nne*4\r\n$4\r\nnew4\r\n$1\r\nx\r\n");
}

#[test]
fn whoever_listens_in_resp2_may_ask_little_and_in_resp3_everything() {
    let node = Node::shared();
    let mut two = node.connect();
    say(&mut two, "SUBSCRIBE r5", "*3\r\n$9\r\nsubscribe\r\n$2\r\nr5\r\n:1\r\n");
    let context =
        "only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context";
    for (request, name) in [
        ("GET 5", "get"),
        ("PUBLISH r5 x", "publish"),
        ("HELLO 3", "hello"),
        ("MULTI", "multi"),
        ("CLIENT SETNAME x", "client|setname"),
        ("PUBSUB NUMPAT", "pubsub|numpat"),
    ] {
        say(&mut two, request, &format!("-ERR Can't execute '{name}': {context}\r\n"));
    }
    say(&mut two, "PING", "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
    say(&mut two, "PING hi", "*2\r\n$4\r\npong\r\n$2\r\nhi\r\n");
    say(&mut two, "RESET", "+RESET\r\n");
    say(&mut two, "PUBLISH r5 x", ":0\r\n");
    say(&mut two, "SUBSCRIBE r5", "*3\r\n$9\r\nsubscribe\r\n$2\r\nr5\r\n:1\r\n");
    say(&mut two, "QUIT", "+OK\r\n");
    assert!(two.rest().is_empty());
    let mut three = node.connect();
    three.send(b"HELLO 3\r\nSUBSCRIBE r5\r\nPING\r\nSET 5 a\r\nPUBLISH r5 own\r\nHELLO 2\r\n");
    while three.line() != "*0" {}
    three.expect(b">3\r\n$9\r\nsubscribe\r\n$2\r\nr5\r\n:1\r\n+PONG\r\n+OK\r\n:1\r\n");
    let mut rest = String::new();
    // The message comes behind the replies of its packet, or before HELLO's.
    while !(rest.contains("own") && rest.contains("modules")) {
        rest.push_str(&three.line());
        rest.push('\n');
    }
    say(&mut three, "PING", "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
}

#[test]
fn a_transaction_sends_messages_and_takes_no_subscription() {
    let node = Node::shared();
    let (mut client, mut listener) = (node.connect(), node.connect());
    say(&mut listener, "SUBSCRIBE t6", "*3\r\n$9\r\nsubscribe\r\n$2\r\nt6\r\n:1\r\n");
    client.send(b"MULTI\r\nSET 6 a\r\nPUBLISH t6 one\r\nGET 6\r\nPUBLISH t6 two\r\nSUBSCRIBE t6\r\nEXEC\r\n");
    client.expect(b"+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n");
    client.expect(
        b"*5\r\n+OK\r\n:1\r\n$1\r\na\r\n:1\r\n-ERR SUBSCRIBE inside MULTI is not allowed\r\n",
    );
    for message in ["one", "two"] {
        listener
            .expect(format!("*3\r\n$7\r\nmessage\r\n$2\r\nt6\r\n$3\r\n{message}\r\n").as_bytes());
    }
    // What a message depends on, other members may find ahead.
    client.send(b"WATCH 6\r\nMULTI\r\nPUBLISH t6 three\r\nEXEC\r\n");
    client.expect(b"+OK\r\n+OK\r\n-EXECABORT under WATCH a transaction holds one plain SET or DEL");
    client.line();
    client.expect(b"-EXECABORT Transaction discarded because of previous errors.\r\n");
    client.send(b"MULTI\r\nPUBLISH t6 discarded\r\nDISCARD\r\nPUBLISH t6 four\r\n");
    client.expect(b"+OK\r\n+QUEUED\r\n+OK\r\n:1\r\n");
    listener.expect(b"*3\r\n$7\r\nmessage\r\n$2\r\nt6\r\n$4\r\nfour\r\n");
}

#[test]
fn what_a_node_knows_of_channels_is_told() {
    let node = Node::start();
    let (mut one, mut other, mut asker) = (node.connect(), node.connect(), node.connect());
    one.send(b"SUBSCRIBE a __index__:a\r\n");
    one.expect(b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$11\r\n__index__:a\r\n:2\r\n");
    other.send(b"PSUBSCRIBE a* __index__:a*\r\n");
    other.expect(b"*3\r\n$10\r\npsubscribe\r\n$2\r\na*\r\n:1\r\n");
    say(&mut asker, "PUBSUB CHANNELS", "*1\r\n$1\r\na\r\n");
    say(&mut asker, "PUBSUB CHANNELS b*", "*0\r\n");
    say(&mut asker, "PUBSUB CHANNELS [a]", "*1\r\n$1\r\na\r\n");
    say(&mut asker, "PUBSUB NUMSUB a b", "*4\r\n$1\r\na\r\n:2\r\n$1\r\nb\r\n:0\r\n");
    say(&mut asker, "PUBSUB NUMSUB", "*0\r\n");
    say(&mut asker, "PUBSUB NUMPAT", ":1\r\n");
    say(&mut asker, "PUBSUB HELP", "-ERR unknown subcommand 'HELP' of PUBSUB\r\n");
    say(&mut asker, "PUBLISH a x", ":4\r\n");
    let info = node.ask(b"INFO\r\nCLIENT LIST TYPE pubsub\r\nQUIT\r\n");
    for line in ["pubsub_clients:2", "pubsub_channels:1", "pubsub_patterns:1"] {
        assert!(info.contains(&format!("\r\n{line}\r\n")), "{line}: {info}");
    }
    assert!(info.contains(" flags=P db=0 sub=2 psub=0 "), "{info}");
    assert!(info.contains(" flags=P db=0 sub=0 psub=2 "), "{info}");
    assert!(!info.contains(" flags=N "), "{info}");
    drop((one, other));
    while node.ask(b"PUBSUB CHANNELS\r\nPUBSUB NUMPAT\r\nQUIT\r\n") != "*0\r\n:0\r\n+OK\r\n" {}
}

/// The number in front of a dash.
fn index_of(place: &str) -> u64 {
    place_of(place).0
}

/// The numbers in front of a dash and behind it.
fn place_of(place: &str) -> (u64, u64) {
    let (index, position) = place.split_once('-').unwrap_or((place, "0"));
    (index.parse().unwrap(), position.parse().unwrap())
}

#[test]
fn an_indexed_name_tells_where_it_begins_and_the_index_of_each_message() {
    let node = Node::shared();
    let (mut client, mut publisher) = (node.connect(), node.connect());
    let part = |client: &mut Client| {
        client.line();
        client.line()
    };
    say(
        &mut client,
        "SUBSCRIBE __index__:i7",
        "*3\r\n$9\r\nsubscribe\r\n$12\r\n__index__:i7\r\n:1\r\n",
    );
    client.expect(b"*3\r\n$7\r\nmessage\r\n$12\r\n__index__:i7\r\n");
    let begin = index_of(&part(&mut client));
    publisher.send(
        b"PUBLISH i7 one\r\nMULTI\r\nSET 7 a\r\nPUBLISH i7 two\r\nPUBLISH i7 three\r\nEXEC\r\n",
    );
    publisher.expect(b":1\r\n");
    let mut places = Vec::new();
    for word in ["one", "two", "three"] {
        client.expect(b"*3\r\n$7\r\nmessage\r\n$12\r\n__index__:i7\r\n");
        let message = part(&mut client);
        let (place, payload) = message.split_once(' ').unwrap();
        assert_eq!(payload, word);
        places.push(place_of(place));
    }
    // What was sent together may share an entry, with others' writes; a transaction does.
    assert!(begin < places[0].0 && places.is_sorted_by(|a, b| a < b), "{places:?}");
    assert_eq!((places[1].0, places[1].1 + 1), places[2]);
    // Asked for again, it tells how far it is.
    say(
        &mut client,
        "SUBSCRIBE __index__:i7",
        "*3\r\n$9\r\nsubscribe\r\n$12\r\n__index__:i7\r\n:1\r\n",
    );
    client.expect(b"*3\r\n$7\r\nmessage\r\n$12\r\n__index__:i7\r\n");
    assert!(index_of(&part(&mut client)) >= places[2].0);
    say(
        &mut client,
        "PSUBSCRIBE __index__:i7*",
        "*3\r\n$10\r\npsubscribe\r\n$13\r\n__index__:i7*\r\n:2\r\n",
    );
    client.expect(b"*4\r\n$8\r\npmessage\r\n$13\r\n__index__:i7*\r\n$13\r\n__index__:i7*\r\n");
    part(&mut client);
    say(&mut client, "UNSUBSCRIBE", "*3\r\n$11\r\nunsubscribe\r\n$12\r\n__index__:i7\r\n:1\r\n");
    publisher.send(b"PUBLISH i77 four\r\n");
    client.expect(b"*4\r\n$8\r\npmessage\r\n$13\r\n__index__:i7*\r\n$13\r\n__index__:i77\r\n");
    assert!(part(&mut client).ends_with("-0 four"));
    let mut publisher = node.connect();
    let reserved = "-ERR names that begin with __index__: are for subscribers: publish on the channel's own name\r\n";
    say(&mut publisher, "PUBLISH __index__:i7 x", reserved);
}

#[test]
fn names_and_messages_beyond_a_bound_are_refused_and_nothing_of_the_request_is_done() {
    let node = Node::start();
    let mut client = node.connect();
    let long = "c".repeat(513);
    say(
        &mut client,
        &format!("PUBLISH {long} x"),
        "-ERR name is 513 bytes, a channel's name holds at most 512\r\n",
    );
    client.send(&array(&[b"PUBLISH", b"c", &vec![b'm'; (1 << 20) + 1]]));
    client.expect(b"-ERR value is 1048577 bytes, a message holds at most 1048576\r\n");
    let refused = "-ERR a channel's name takes at most 512 bytes, a pattern 256\r\n";
    say(&mut client, &format!("SUBSCRIBE a {long}"), refused);
    say(&mut client, &format!("PSUBSCRIBE a {}", "p".repeat(257)), refused);
    say(&mut client, "PUBSUB CHANNELS", "*0\r\n");
    let names = |prefix: &str, count: usize| {
        (0..count).map(|nth| format!(" {prefix}{nth}")).collect::<Vec<_>>().concat()
    };
    say(
        &mut client,
        &format!("SUBSCRIBE{}", names("c", 4097)),
        "-ERR one client subscribes to at most 4096 channels and patterns\r\n",
    );
    say(
        &mut client,
        &format!("PSUBSCRIBE{}", names("p", 257)),
        "-ERR the clients of this node subscribe to at most 256 different patterns\r\n",
    );
    say(&mut client, "PUBSUB NUMPAT", ":0\r\n");
    // The longest ones that fit.
    let (channel, message) = (vec![b'c'; 512], vec![b'm'; 1 << 20]);
    let mut listener = node.connect();
    listener.send(&array(&[b"SUBSCRIBE", &channel]));
    listener.expect(b"*3\r\n$9\r\nsubscribe\r\n$512\r\n");
    listener.expect(&channel);
    listener.expect(b"\r\n:1\r\n");
    client.send(&array(&[b"PUBLISH", &channel, &message]));
    client.expect(b":1\r\n");
    listener.expect(b"*3\r\n$7\r\nmessage\r\n$512\r\n");
    listener.expect(&channel);
    listener.expect(b"\r\n$1048576\r\n");
    listener.expect(&message);
    listener.expect(b"\r\n");
}

#[test]
fn a_subscriber_that_takes_nothing_is_ended_and_the_others_get_everything() {
    let node = Node::start();
    let (mut slow, mut quick, mut publisher) = (node.connect(), node.connect(), node.connect());
    let confirmed = "*3\r\n$9\r\nsubscribe\r\n$1\r\ns\r\n:1\r\n";
    say(&mut slow, "SUBSCRIBE s", confirmed);
    say(&mut quick, "SUBSCRIBE s", confirmed);
    let message = vec![b'm'; 1 << 20];
    let request = array(&[b"PUBLISH", b"s", &message]);
    // More than it may have waiting, with what the system takes beside that.
    for round in 0..60 {
        publisher.send(&request);
        assert!([":1", ":2"].contains(&publisher.line().as_str()), "{round}");
        quick.expect(b"*3\r\n$7\r\nmessage\r\n$1\r\ns\r\n$1048576\r\n");
        quick.expect(&message);
        quick.expect(b"\r\n");
    }
    let info = node.ask(b"INFO stats\r\nQUIT\r\n");
    assert!(info.contains("\r\nclient_output_buffer_limit_disconnections:1\r\n"), "{info}");
    // It is gone without a word, but for whole and halves of what was on its way.
    let mut sink = Vec::new();
    let ended = std::io::Read::read_to_end(&mut slow.stream, &mut sink);
    assert!(sink.len() < 60 << 20, "{ended:?}");
    say(&mut publisher, "PUBLISH s end", ":1\r\n");
}

#[test]
fn an_unsubscription_is_confirmed_behind_the_messages_before_it() {
    let node = Node::start();
    let (mut client, mut publisher) = (node.connect(), node.connect());
    say(
        &mut client,
        "SUBSCRIBE u kept",
        "*3\r\n$9\r\nsubscribe\r\n$1\r\nu\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$4\r\nkept\r\n:2\r\n",
    );
    let message = vec![b'm'; 1 << 20];
    for _ in 0..20 {
        publisher.send(&array(&[b"PUBLISH", b"u", &message]));
        publisher.expect(b":1\r\n");
    }
    client.send(b"UNSUBSCRIBE u\r\n");
    while node.ask(b"PUBSUB NUMSUB u\r\nQUIT\r\n") != "*2\r\n$1\r\nu\r\n:0\r\n+OK\r\n" {}
    say(&mut publisher, "PUBLISH u late", ":0\r\n");
    say(&mut publisher, "PUBLISH kept last", ":1\r\n");
    for _ in 0..20 {
        client.expect(b"*3\r\n$7\r\nmessage\r\n$1\r\nu\r\n$1048576\r\n");
        client.expect(&message);
        client.expect(b"\r\n");
    }
    client.expect(b"*3\r\n$11\r\nunsubscribe\r\n$1\r\nu\r\n:1\r\n");
    client.expect(b"*3\r\n$7\r\nmessage\r\n$4\r\nkept\r\n$4\r\nlast\r\n");
}
