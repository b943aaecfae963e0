//! Receipts of writes, over every protocol.

use diskstore::client::WriteReceipt;
use diskstore_proto::diskstore::{Key, SetRequest, key};
use tonic::Request;

use super::*;

const PREFER: &str = "prefer: return=minimal, receipt\r\n";

/// The receipt of this JSON, with all that a node of one member knows of its own write.
#[track_caller]
fn whole(json: &str) -> WriteReceipt {
    let receipt = WriteReceipt::from_json(json.as_bytes()).unwrap();
    assert!(receipt.term.is_some_and(|term| term > 0), "{json}");
    assert_eq!(receipt.leader.as_deref(), Some("protocol"), "{json}");
    assert_eq!(receipt.durable.as_deref(), Some(&["protocol".to_owned()][..]), "{json}");
    for (stage, us) in receipt.stages.unwrap().named() {
        assert!(us.is_some(), "{stage}: {json}");
    }
    receipt
}

#[test]
fn http_answers_with_the_receipt_of_any_write_that_prefers_one() {
    let node = Node::shared();
    let mut client = node.connect();
    let json = format!("{PREFER}content-type: application/json\r\n");
    for (method, path, more, body) in [
        ("PUT", "/v1/slots/870", PREFER, "one"),
        ("POST", "/v1/batch", &json, r#"[{"op":"set","key":"871","value":"x"}]"#),
        ("POST", "/api/kv", &json, r#"{"key":"870","value":"b"}"#),
        ("POST", "/konsen", PREFER, "870=c"),
        ("POST", "/key", &json, r#"{"870":"d"}"#),
        ("DELETE", "/key/870", PREFER, ""),
        ("DELETE", "/v1/slots/871", PREFER, ""),
    ] {
        let more = match path {
            "/konsen" => format!("{more}content-type: application/x-www-form-urlencoded\r\n"),
            _ => more.to_owned(),
        };
        let response = client.http(method, path, &more, body);
        let receipt = whole(response.header("diskstore-receipt").expect(path));
        assert_eq!(response.header("preference-applied"), Some("receipt"), "{path}");
        let index = receipt.index.to_string();
        assert_eq!(response.header("diskstore-index"), Some(index.as_str()), "{path}");
        assert_eq!((receipt.versions, receipt.repeat), (vec![receipt.index], false), "{path}");
        assert_eq!(response.header("diskstore-holders"), Some("0"), "{path}");
    }
    let plain = client.http("PUT", "/v1/slots/870", "", "two");
    assert_eq!(plain.header("diskstore-receipt"), None, "nobody asked");
}

#[test]
fn a_repeat_has_the_receipt_of_the_entry_that_counted() {
    let node = Node::shared();
    let mut client = node.connect();
    let more = format!("{PREFER}idempotency-key: receipt-872\r\n");
    let first = client.http("PUT", "/v1/slots/872", &more, "one");
    let first = whole(first.header("diskstore-receipt").unwrap());
    let again = client.http("PUT", "/v1/slots/872", &more, "one");
    let again = whole(again.header("diskstore-receipt").unwrap());
    assert_eq!((again.index, again.repeat, first.repeat), (first.index, true, false));
    assert_eq!((again.term, again.versions), (first.term, first.versions));
}

#[test]
fn resp_answers_the_receipt_before_the_reply() {
    let node = Node::shared();
    let mut client = node.connect();
    let mut receipt = |request: &[u8], reply: &[u8]| {
        client.send(request);
        client.expect(b"*2\r\n");
        let length = client.line();
        assert!(length.starts_with('$'), "{length}");
        let json = client.line();
        client.expect(reply);
        whole(&json)
    };
    let set = receipt(b"DISKSTORE RECEIPT SET 873 5\r\n", b"+OK\r\n");
    let incr = receipt(b"DISKSTORE RECEIPT ONCE incr-873 INCR 873\r\n", b":6\r\n");
    assert!(incr.index > set.index && !incr.repeat);
    let again = receipt(b"DISKSTORE RECEIPT ONCE incr-873 INCR 873\r\n", b":6\r\n");
    assert_eq!((again.index, again.repeat), (incr.index, true));
    // What does not take effect is in the log all the same.
    let nx = receipt(b"DISKSTORE RECEIPT SET 873 7 NX\r\n", b"$-1\r\n");
    assert_eq!(nx.versions, [incr.index], "the version that stands");
    let many = receipt(b"DISKSTORE RECEIPT MSET 874 a 875 b\r\n", b"+OK\r\n");
    assert_eq!(many.versions, [many.index; 2]);
    // Beside others in one packet, each reply stands in its place.
    client.send(b"GET 873\r\nDISKSTORE RECEIPT DEL 873\r\nGET 873\r\n");
    client.expect(b"$1\r\n6\r\n*2\r\n");
    client.line();
    whole(&client.line());
    client.expect(b":1\r\n$-1\r\n");
}

#[test]
fn what_has_no_receipt_is_refused() {
    let node = Node::shared();
    let mut client = node.connect();
    for (request, answer) in [
        (&b"DISKSTORE RECEIPT\r\n"[..], "wrong number of arguments for 'diskstore|receipt'"),
        (b"DISKSTORE RECEIPT GET 876\r\n", "DISKSTORE RECEIPT carries out one command that"),
        (b"DISKSTORE RECEIPT ONCE id GET 876\r\n", "carries out one command that writes"),
        (b"DISKSTORE RECEIPT DISKSTORE RECEIPT SET 876 x\r\n", "carries out one command that"),
        (b"DISKSTORE RECEIPT SET 876\r\n", "wrong number of arguments for 'set'"),
        (b"DISKSTORE RECEIPT SET 5000 x\r\n", "key must be a slot number 0..999"),
    ] {
        client.send(request);
        let line = client.line();
        assert!(line.starts_with("-ERR ") && line.contains(answer), "{line}");
    }
    client.send(b"MULTI\r\nDISKSTORE RECEIPT INCR 876\r\nEXEC\r\n");
    let words = "DISKSTORE RECEIPT inside MULTI is not allowed";
    client.expect(format!("+OK\r\n+QUEUED\r\n*1\r\n-ERR {words}\r\n").as_bytes());
}

#[tokio::test]
async fn grpc_answers_with_the_receipt_in_its_metadata() {
    let node = Node::shared();
    let mut store = node.store().await;
    let mut set = async |prefer: Option<&'static str>| {
        let key = Some(Key { name: Some(key::Name::Slot(877)) });
        let message = SetRequest { key, value: "x".into(), condition: None };
        let mut request = Request::new(message);
        if let Some(prefer) = prefer {
            request.metadata_mut().insert("prefer", prefer.parse().unwrap());
        }
        store.set(request).await.unwrap()
    };
    let response = set(Some("receipt")).await;
    let receipt = response.metadata().get("diskstore-receipt").unwrap().to_str().unwrap();
    let receipt = whole(receipt);
    assert_eq!(receipt.index, response.get_ref().version);
    assert!(set(None).await.metadata().get("diskstore-receipt").is_none());
}
