use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use super::*;
use crate::cli::Form;

/// A node that greets, and then answers each of its connections with fixed bytes; gives back what it was
/// sent.
fn node(answers: &'static [&'static [u8]]) -> (String, JoinHandle<Vec<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = move |answer: &&'static [u8]| {
        let (mut stream, _) = listener.accept().unwrap();
        let read = |stream: &mut TcpStream| {
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).unwrap();
            request.truncate(length);
            request
        };
        let mut request = read(&mut stream);
        if request == b"*1\r\n$4\r\nPING\r\n" {
            stream.write_all(b"+PONG\r\n").unwrap();
            request = read(&mut stream);
        }
        stream.write_all(answer).unwrap();
        request
    };
    (address, std::thread::spawn(move || answers.iter().map(serve).collect()))
}

/// An address that nobody listens on.
fn nowhere() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn servers(list: &str) -> Servers {
    Servers { list: list.to_owned(), token_file: None, tls: None }
}

fn outcome(task: &Task) -> Result<String, ClientError> {
    let mut out = Vec::new();
    run(task, &mut out).map(|_| String::from_utf8(out).unwrap())
}

fn get_from(list: &str) -> Result<String, ClientError> {
    outcome(&Task::Get { key: "42".to_owned(), servers: servers(list) })
}

fn set_at(list: &str) -> Result<String, ClientError> {
    let (key, receipt, form) = ("42".to_owned(), false, Form::default());
    outcome(&Task::Set { key, value: "hello".into(), receipt, form, servers: servers(list) })
}

#[test]
fn a_value_is_printed_byte_for_byte() {
    let (address, node) = node(&[b"$7\r\na\r\nb\0\xc3\xa9\r\n"]);
    assert_eq!(get_from(&address).unwrap(), "a\r\nb\0\u{e9}\n");
    assert_eq!(node.join().unwrap(), [b"*2\r\n$3\r\nGET\r\n$2\r\n42\r\n"]);
}

#[test]
fn a_set_is_sent_as_resp_and_answered_ok() {
    let (address, node) = node(&[b"+OK\r\n"]);
    assert_eq!(set_at(&address).unwrap(), "OK\n");
    assert_eq!(node.join().unwrap(), [b"*3\r\n$3\r\nSET\r\n$2\r\n42\r\n$5\r\nhello\r\n"]);
}

#[test]
fn a_slot_without_value_is_an_error_for_get_and_delete() {
    let (address, _node) = node(&[b"$-1\r\n", b"_\r\n", b":0\r\n", b":1\r\n"]);
    assert!(matches!(get_from(&address), Err(ClientError::NoValue { .. })));
    assert!(matches!(get_from(&address), Err(ClientError::NoValue { .. })));
    let delete = Task::Delete { key: "42".to_owned(), servers: servers(&address) };
    assert_eq!(outcome(&delete).unwrap_err().to_string(), "slot 42 holds no value");
    assert_eq!(outcome(&delete).unwrap(), "OK\n");
}

#[test]
fn the_next_address_is_tried_when_one_is_silent() {
    let (address, _node) = node(&[b"$1\r\nx\r\n", b"+OK\r\n"]);
    let list = format!("{},{address}", nowhere());
    assert_eq!(get_from(&list).unwrap(), "x\n");
    assert_eq!(set_at(&list).unwrap(), "OK\n");
}

#[test]
fn a_read_moves_on_from_a_lost_connection_and_a_write_does_not() {
    let (dying, _first) = node(&[b"", b"$3\r\nab"]);
    let (good, second) = node(&[b"$1\r\nx\r\n"]);
    let list = format!("{dying},{good}");
    assert_eq!(get_from(&list).unwrap(), "x\n");
    let error = set_at(&list).unwrap_err();
    assert!(matches!(error, ClientError::Unknown { .. }), "{error}");
    assert_eq!(error.exit_code(), 1);
    assert_eq!(second.join().unwrap().len(), 1);
}

#[test]
fn nobody_there_names_every_address_and_the_way_out() {
    let (first, second) = (nowhere(), nowhere());
    let text = get_from(&format!("{first},{second}")).unwrap_err().to_string();
    assert!(text.contains(&first) && text.contains(&second), "{text}");
    assert!(text.contains("-addr"), "{text}");
}

#[test]
fn what_a_node_refuses_is_told_in_its_words() {
    let (address, _node) = node(&[b"-ERR key must be a slot number 0..9\r\n"]);
    let text = set_at(&address).unwrap_err().to_string();
    assert_eq!(text, format!("{address} says: ERR key must be a slot number 0..9"));
}

#[test]
fn another_server_is_told_from_a_node() {
    let (address, _node) = node(&[b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK\r\n"]);
    assert!(matches!(get_from(&address), Err(ClientError::Foreign { .. })));
    let status = Task::Status { form: Form::default(), servers: servers(&address) };
    assert!(matches!(outcome(&status), Err(ClientError::Foreign { .. })));
}

#[test]
fn a_status_is_printed_as_text_or_as_the_nodes_own_json() {
    let (address, _node) = node(&[b"$12\r\n{\"name\":\"n\"}\r\n", b"$12\r\n{\"name\":\"n\"}\r\n"]);
    let status = |json| {
        let form = Form { json };
        outcome(&Task::Status { form, servers: servers(&address) }).unwrap()
    };
    let json: serde_json::Value = serde_json::from_str(&status(true)).unwrap();
    assert_eq!((&json["name"], &json["health"]["is_healthy"]), (&"n".into(), &false.into()));
    let text = status(false);
    assert!(text.starts_with("health   no voters are known here\nnode     n ("), "{text}");
}

#[test]
fn an_address_list_of_rubbish_is_a_usage_error() {
    for list in ["", "a b:1", "h:1,", "h:99999", &"1,".repeat(65)] {
        let error = get_from(list).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{list}: {error}");
    }
}

#[test]
fn a_file_that_cannot_be_shown_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("notes.txt");
    let source_of = |error: &ClientError| std::error::Error::source(error).unwrap().to_string();
    let error = outcome(&Task::Inspect { file: file.clone() }).unwrap_err();
    assert!(source_of(&error).ends_with("notes.txt failed"), "{}", source_of(&error));
    std::fs::write(&file, "not a file of a node").unwrap();
    let mut out = Vec::new();
    let error = run(&Task::Inspect { file }, &mut out).unwrap_err();
    assert!(source_of(&error).contains("notes.txt is none of diskstore's files"));
    assert!(String::from_utf8(out).unwrap().ends_with("notes.txt, 20 bytes\n"));
}
