//! Writes that are sent again with their request id, over every protocol.

use diskstore_proto::diskstore::{
    BatchRequest, ChangesRequest, DeleteRequest, Effect, Key, Operation, Set, SetRequest,
    changes_response, key, operation,
};
use tonic::{Code, Request};

use super::*;

fn key_header(id: &str) -> String {
    format!("idempotency-key: {id}\r\n")
}

#[test]
fn a_put_that_is_sent_again_is_carried_out_once_and_answered_as_the_first() {
    let node = Node::shared();
    let mut client = node.connect();
    let (path, id) = ("/v1/slots/860", key_header("\"put-860\""));
    let first = client.http("PUT", path, &id, "one");
    assert_eq!((first.status(), first.header("idempotency-replayed")), ("204", None));
    assert_eq!(client.http("PUT", path, "", "two").status(), "204");
    // Over another connection, and without quotes.
    let again = node.connect().http("PUT", path, &key_header("put-860"), "one");
    assert_eq!((again.status(), again.header("idempotency-replayed")), ("204", Some("true")));
    for name in ["etag", "diskstore-index"] {
        assert_eq!(again.header(name), first.header(name), "{name}");
    }
    assert_eq!(client.http("GET", path, "", "").body, "two");
    client.http("PUT", path, &id, "another").is("422", "other_request");
    client.http("DELETE", path, &id, "").is("422", "other_request");
    assert_eq!(client.http("GET", path, "", "").body, "two");
    // What its condition came to the first time holds.
    let only_new = format!("{}if-none-match: *\r\n", key_header("new-860"));
    client.http("PUT", path, &only_new, "x").is("412", "condition");
    let delete = key_header("delete-860");
    assert_eq!(client.http("DELETE", path, &delete, "").status(), "204");
    client.http("PUT", path, &only_new, "x").is("412", "condition");
    assert_eq!(client.http("DELETE", path, &delete, "").status(), "204");
    client.http("DELETE", path, "", "").is("404", "no_value");
}

#[test]
fn a_batch_that_is_sent_again_is_one_entry_also_through_the_older_apis() {
    let node = Node::shared();
    let mut client = node.connect();
    let more = format!("{}content-type: application/json\r\n", key_header("batch-861"));
    let batch = r#"[{"op":"set","key":"861","value":"a"},{"op":"delete","key":"862"}]"#;
    let first = client.http("POST", "/v1/batch", &more, batch);
    let again = client.http("POST", "/v1/batch", &more, batch);
    assert_eq!((first.status(), &first.body), ("200", &again.body));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.header("diskstore-index"), first.header("diskstore-index"));
    let more = format!("{}content-type: application/json\r\n", key_header("konsen-861"));
    let put = r#"{"key":"861","value":"b"}"#;
    assert_eq!(client.http("POST", "/api/kv", &more, put).status(), "200");
    assert_eq!(client.http("PUT", "/v1/slots/861", "", "c").status(), "204");
    let again = client.http("POST", "/api/kv", &more, put);
    assert_eq!((again.status(), again.header("idempotency-replayed")), ("200", Some("true")));
    assert_eq!(client.http("GET", "/v1/slots/861", "", "").body, "c");
}

#[test]
fn an_id_that_cannot_be_is_refused_and_nothing_is_written() {
    let node = Node::shared();
    let mut client = node.connect();
    let long = "x".repeat(65);
    for id in ["", "\"\"", &long] {
        client.http("PUT", "/v1/slots/863", &key_header(id), "x").is("400", "wrong");
    }
    let twice = [key_header("a"), key_header("b")].concat();
    client.http("PUT", "/v1/slots/863", &twice, "x").is("400", "wrong");
    client.http("GET", "/v1/slots/863", "", "").is("404", "no_value");
    let longest = key_header(&long[1..]);
    assert_eq!(client.http("PUT", "/v1/slots/863", &longest, "x").status(), "204");
    let mut client = node.connect();
    for (request, answer) in [
        (&[&b"DISKSTORE"[..], b"ONCE", long.as_bytes(), b"INCR", b"864"][..], "has 1 to 64 bytes"),
        (&[b"DISKSTORE", b"ONCE", b"id", b"GET", b"864"], "one command that writes"),
        (&[b"DISKSTORE", b"ONCE", b"id", b"PING"], "one command that writes"),
        (&[b"DISKSTORE", b"ONCE", b"id", b"SET", b"864"], "wrong number of arguments for 'set'"),
        (&[b"DISKSTORE", b"ONCE", b"id"], "wrong number of arguments for 'diskstore|once'"),
    ] {
        client.send(&array(request));
        let line = client.line();
        assert!(line.starts_with("-ERR ") && line.contains(answer), "{line}");
    }
    client.send(b"MULTI\r\nDISKSTORE ONCE id INCR 864\r\nEXEC\r\n");
    client.expect(b"+OK\r\n+QUEUED\r\n*1\r\n-ERR DISKSTORE ONCE inside MULTI is not allowed\r\n");
    client.send(b"GET 864\r\n");
    client.expect(b"$-1\r\n");
}

#[test]
fn a_command_that_is_sent_again_is_answered_with_its_entry() {
    let node = Node::shared();
    let (mut client, mut other) = (node.connect(), node.connect());
    let once = array(&[b"DISKSTORE", b"ONCE", b"incr-865", b"INCR", b"865"]);
    client.send(&once);
    client.expect(b"*3\r\n");
    let index = client.line();
    client.expect(b":0\r\n:1\r\n");
    client.send(b"INCR 865\r\n");
    client.expect(b":2\r\n");
    other.send(&once);
    other.expect(b"*3\r\n");
    assert_eq!(other.line(), index);
    other.expect(b":1\r\n:1\r\n");
    other.send(b"DISKSTORE ONCE incr-865 INCR 866\r\n");
    let line = other.line();
    assert!(line.starts_with("-OTHER_REQUEST ") && line.contains(&index[1..]), "{line}");
    other.send(b"GET 865\r\n");
    other.expect(b"$1\r\n2\r\n");
}

#[tokio::test]
async fn a_call_that_is_sent_again_is_carried_out_once() {
    fn with_id<T>(id: &'static str, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("idempotency-key", id.parse().unwrap());
        request
    }
    let node = Node::shared();
    let mut store = node.store().await;
    let key = || Some(Key { name: Some(key::Name::Slot(867)) });
    let set =
        |value: &str| SetRequest { key: key(), value: value.to_owned().into(), condition: None };
    let first = store.set(with_id("set-867", set("one"))).await.unwrap();
    assert!(!first.metadata().contains_key("idempotency-replayed"));
    let first = first.into_inner().version;
    store.set(set("two")).await.unwrap();
    let again = store.set(with_id("set-867", set("one"))).await.unwrap();
    assert_eq!(again.metadata().get("idempotency-replayed").unwrap(), "true");
    assert_eq!(again.into_inner().version, first);
    let status = store.set(with_id("set-867", set("other"))).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let action = operation::Action::Set(Set { value: "three".into(), condition: None });
    let operations = vec![Operation { key: key(), action: Some(action) }];
    let batch = || BatchRequest { operations: operations.clone(), level: 0 };
    let index = store.batch(with_id("batch-867", batch())).await.unwrap().into_inner().index;
    let delete = || DeleteRequest { key: key(), condition: None };
    let deleted = store.delete(with_id("delete-867", delete())).await.unwrap().into_inner();
    let again = store.batch(with_id("batch-867", batch())).await.unwrap();
    assert_eq!(again.metadata().get("idempotency-replayed").unwrap(), "true");
    assert_eq!(again.into_inner().index, index);
    let again = store.delete(with_id("delete-867", delete())).await.unwrap().into_inner();
    assert_eq!(again.version, deleted.version);
    // Whoever follows the changes hears of each once.
    let request = ChangesRequest { after: Some(first - 1), cluster_id: String::new() };
    let mut changes = store.changes(request).await.unwrap().into_inner();
    let mut effects = Vec::new();
    while effects.len() < 7 {
        let event = changes.message().await.unwrap().unwrap().event.unwrap();
        let changes_response::Event::Change(change) = event else { continue };
        let ours = change.writes.iter().filter(|write| write.key == key());
        effects.extend(ours.map(diskstore_proto::diskstore::Write::effect));
    }
    let (applied, none) = (Effect::Applied, Effect::None);
    assert_eq!(effects, [applied, applied, none, none, applied, applied, none]);
    let long = Box::leak("x".repeat(65).into_boxed_str());
    let status = store.set(with_id(long, set("x"))).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
}
