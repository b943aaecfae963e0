//! gRPC: our own service and konsen's by a client of tonic, what is refused, and what breaks the protocol.

use diskstore_proto::diskstore::store_client::StoreClient;
use diskstore_proto::diskstore::{
    Absent, BatchRequest, ChangesRequest, Condition, Delete, DeleteRequest, Effect, Get,
    GetRequest, Key, Level, Operation, Present, ScanRequest, Set, SetRequest, SlotRange,
    StatusRequest, changes_response, condition, key, operation, result, scan_request, write,
};
use diskstore_proto::konsen::kv_service_client::KvServiceClient;
use diskstore_proto::konsen::{GetReq, Kv, KvList, PutReq};
use diskstore_proto::{DESCRIPTORS, Message};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use super::*;

impl Node {
    async fn channel(&self) -> Channel {
        let address = format!("http://127.0.0.1:{}", self.port);
        Channel::from_shared(address).unwrap().connect().await.unwrap()
    }

    pub(super) async fn store(&self) -> StoreClient<Channel> {
        StoreClient::new(self.channel().await)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "as a message has it")]
fn slot(slot: u64) -> Option<Key> {
    Some(Key { name: Some(key::Name::Slot(slot)) })
}

#[expect(clippy::unnecessary_wraps, reason = "as a message has it")]
fn when(when: condition::When) -> Option<Condition> {
    Some(Condition { when: Some(when) })
}

fn get(key: u64) -> GetRequest {
    GetRequest { key: slot(key), level: 0 }
}

fn set(key: u64, value: &str) -> SetRequest {
    SetRequest { key: slot(key), value: value.to_owned().into(), condition: None }
}

/// Sets a slot and reads it, once each.
pub(super) fn set_and_get(node: &Node, slot: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut store = node.store().await;
        store.set(set(slot, "x")).await.unwrap();
        assert_eq!(&store.get(get(slot)).await.unwrap().into_inner().value[..], b"x");
    });
}

/// The code, the reason and what may have been done.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String, String) {
    let status = result.unwrap_err();
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no details: {status:?}"));
    (status.code(), info.reason, info.metadata["outcome"].clone())
}

/// A status that says that nothing was done.
fn nothing_done(code: Code, reason: &str) -> (Code, String, String) {
    (code, reason.to_owned(), "not_applied".to_owned())
}

#[tokio::test]
async fn a_value_is_set_read_and_deleted_by_calls() {
    let node = Node::shared();
    let mut store = node.store().await;
    assert_eq!(refused(store.get(get(800)).await), nothing_done(Code::NotFound, "NO_VALUE"));
    let version = store.set(set(800, "a value")).await.unwrap().into_inner().version;
    for level in [Level::Unspecified, Level::Linearizable, Level::Lease, Level::Local, Level::Log] {
        let request = GetRequest { key: slot(800), level: level.into() };
        let found = store.get(request).await.unwrap().into_inner();
        assert_eq!((&found.value[..], found.version), (&b"a value"[..], version), "{level:?}");
    }
    for name in ["800", "key:800"] {
        let key = Some(Key { name: Some(key::Name::Bytes(name.into())) });
        let found = store.get(GetRequest { key, level: 0 }).await.unwrap().into_inner();
        assert_eq!(found.version, version, "{name}");
    }
    let delete = DeleteRequest { key: slot(800), condition: None };
    let deleted = store.delete(delete.clone()).await.unwrap().into_inner().version;
    assert!(deleted > version);
    assert_eq!(refused(store.delete(delete).await), nothing_done(Code::NotFound, "NO_VALUE"));
    // Through its absence the key can be compared and set.
    let back =
        SetRequest { condition: when(condition::When::Version(deleted)), ..set(800, "back") };
    store.set(back.clone()).await.unwrap();
    let late = refused(store.set(back).await);
    assert_eq!(late, nothing_done(Code::FailedPrecondition, "CONDITION"));
}

#[tokio::test]
async fn conditions_of_every_kind_are_decided_by_the_entry() {
    let node = Node::shared();
    let mut store = node.store().await;
    let by = |condition, value: &str| SetRequest { condition: when(condition), ..set(801, value) };
    let (absent, present) =
        (condition::When::Absent(Absent {}), condition::When::Present(Present {}));
    let equal = |bytes: &'static str| condition::When::Equal(bytes.into());
    let failed = || nothing_done(Code::FailedPrecondition, "CONDITION");
    assert_eq!(refused(store.set(by(present, "x")).await), failed());
    let first = store.set(by(absent.clone(), "first")).await.unwrap().into_inner().version;
    let again = store.set(by(absent, "x")).await;
    let told = again.as_ref().unwrap_err().get_details_error_info().unwrap();
    assert_eq!(told.metadata["version"], first.to_string());
    assert_eq!(refused(again), failed());
    assert_eq!(refused(store.set(by(equal("other"), "x")).await), failed());
    store.set(by(equal("first"), "second")).await.unwrap();
    assert_eq!(refused(store.set(by(condition::When::Version(first), "x")).await), failed());
    let delete = |when| DeleteRequest { key: slot(801), condition: when };
    let early = store.delete(delete(when(condition::When::Version(first)))).await;
    assert_eq!(refused(early), failed());
    assert_eq!(&store.get(get(801)).await.unwrap().into_inner().value[..], b"second");
    let unknown = store.set(SetRequest { condition: Some(Condition::default()), ..set(801, "x") });
    assert_eq!(refused(unknown.await), nothing_done(Code::InvalidArgument, "WRONG"));
}

#[tokio::test]
async fn a_batch_is_one_entry_and_answers_in_order() {
    let node = Node::shared();
    let mut store = node.store().await;
    let of = |key, action| Operation { key: slot(key), action: Some(action) };
    let set = |value: &'static str, condition| {
        operation::Action::Set(Set { value: value.into(), condition })
    };
    let absent = || when(condition::When::Absent(Absent {}));
    let operations = vec![
        of(810, set("a", None)),
        of(811, set("b", absent())),
        of(811, set("c", absent())),
        of(812, operation::Action::Delete(Delete::default())),
        of(810, operation::Action::Get(Get {})),
        of(813, operation::Action::Get(Get {})),
    ];
    let batch = store.batch(BatchRequest { operations, level: 0 }).await.unwrap().into_inner();
    let outcomes: Vec<_> =
        batch.results.iter().map(|result| result.outcome.clone().unwrap()).collect();
    let changed = result::Outcome::Changed;
    assert_eq!(
        outcomes,
        [
            changed(true),
            changed(true),
            changed(false),
            changed(false),
            result::Outcome::Value("a".into()),
            result::Outcome::NoValue(Absent {}),
        ]
    );
    assert!(batch.results[..2].iter().all(|result| result.version == batch.index));
    let reads = vec![of(810, operation::Action::Get(Get {})); 2];
    let read = store.batch(BatchRequest { operations: reads, level: 0 }).await.unwrap();
    let read = read.into_inner();
    assert_eq!((read.index, read.results.len(), read.results[0].version), (0, 2, batch.index));
    let bad = vec![of(814, set("x", None)), of(1_000_000, set("x", None))];
    let bad = store.batch(BatchRequest { operations: bad, level: 0 }).await;
    assert_eq!(refused(bad), nothing_done(Code::InvalidArgument, "WRONG"));
    assert_eq!(store.get(get(814)).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn calls_of_one_connection_run_side_by_side_and_see_its_writes() {
    let node = Node::shared();
    let store = node.store().await;
    let writers = (0..64).map(|writer| {
        let mut store = store.clone();
        tokio::spawn(async move {
            for step in 0..20 {
                let value = format!("{writer}-{step}");
                store.set(set(820 + writer, &value)).await.unwrap();
                let request = GetRequest { key: slot(820 + writer), level: Level::Local.into() };
                let found = store.get(request).await.unwrap().into_inner();
                assert_eq!(&found.value[..], value.as_bytes());
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn konsens_clients_put_many_pairs_as_one_entry() {
    let node = Node::shared();
    let mut service = KvServiceClient::new(node.channel().await);
    let pair = |key: &'static str, value: &'static str| Kv { key: key.into(), value: value.into() };
    let list = KvList { kv_list: vec![pair("750", "a"), pair("751", "\0"), pair("750", "last")] };
    // The bytes that konsen's clients send.
    let data = list.encode_to_vec();
    assert_eq!(&data[..10], b"\x0a\x08\x0a\x03750\x12\x01a");
    let put = service.put(PutReq { data: data.into() }).await.unwrap().into_inner();
    assert_eq!((put.success, put.error_message.as_str()), (true, ""));
    let mut store = node.store().await;
    let version = store.get(get(750)).await.unwrap().into_inner().version;
    assert_eq!(store.get(get(751)).await.unwrap().into_inner().version, version);
    for (key, value) in [("750", "last"), ("751", "\0")] {
        let found = service.get(GetReq { key: key.into() }).await.unwrap().into_inner();
        assert_eq!((found.success, &found.value[..]), (true, value.as_bytes()));
    }
    let missing = service.get(GetReq { key: "752".into() }).await;
    assert_eq!(refused(missing), nothing_done(Code::NotFound, "NO_VALUE"));
    for data in [&b"\x0a\xff"[..], b"", b"\x0a\x05\x0a\x03abc"] {
        let refusal = refused(service.put(PutReq { data: data.to_vec().into() }).await);
        assert_eq!(refusal, nothing_done(Code::InvalidArgument, "WRONG"), "{data:?}");
    }
}

#[tokio::test]
async fn a_scan_tells_every_key_of_a_range_or_prefix_once() {
    let node = Node::shared();
    let mut store = node.store().await;
    for key in [950, 951, 959, 980] {
        store.set(set(key, &format!("value {key}"))).await.unwrap();
    }
    let slots = |first, last| Some(scan_request::Range::Slots(SlotRange { first, last }));
    let prefix = |prefix: &'static str| Some(scan_request::Range::Prefix(prefix.into()));
    for (range, expected) in [
        (slots(950, 959), vec![950, 951, 959]),
        (slots(951, 958), vec![951]),
        (slots(960, 979), vec![]),
        (prefix("95"), vec![950, 951, 959]),
        (prefix("98"), vec![980]),
    ] {
        for values in [true, false] {
            let request = ScanRequest { range: range.clone(), values, level: 0 };
            let mut scan = store.scan(request).await.unwrap().into_inner();
            let (mut found, mut begun_at) = (Vec::new(), 0);
            while let Some(part) = scan.message().await.unwrap() {
                begun_at = part.begun_at;
                for item in part.items {
                    let Some(key::Name::Slot(slot)) = item.key.unwrap().name else { panic!() };
                    let value = item.value.map(|value| String::from_utf8(value.into()).unwrap());
                    assert_eq!(value, values.then(|| format!("value {slot}")));
                    assert_eq!(item.version > 0, values);
                    found.push(slot);
                }
            }
            assert!(begun_at > 0);
            assert_eq!(found, expected, "{range:?}");
        }
    }
}

#[tokio::test]
async fn changes_are_told_entry_by_entry_with_what_became_of_them() {
    let node = Node::shared();
    let mut store = node.store().await;
    let first = store.set(set(700, "1")).await.unwrap().into_inner().version;
    let mut client = node.connect();
    client.send(b"INCRBY 700 41\r\nAPPEND 701 ab\r\nSET 700 x NX\r\nDEL 701\r\n");
    client.expect(b":42\r\n:2\r\n$-1\r\n:1\r\n");
    let request = ChangesRequest { after: Some(first - 1), cluster_id: String::new() };
    let mut changes = store.changes(request).await.unwrap().into_inner();
    let begun = changes.message().await.unwrap().unwrap().event.unwrap();
    let changes_response::Event::Begun(begun) = begun else { panic!("{begun:?}") };
    assert_eq!((begun.after, begun.cluster_id.len()), (first - 1, 32));
    let (mut index, mut told) = (first - 1, Vec::new());
    while told.len() < 5 {
        let event = changes.message().await.unwrap().unwrap().event.unwrap();
        let changes_response::Event::Change(change) = event else { panic!("{event:?}") };
        assert_eq!(change.index, index + 1, "no index is missing");
        assert_eq!(change.term, 1);
        index = change.index;
        let is_ours = |write: &diskstore_proto::diskstore::Write| {
            matches!(write.key.as_ref().unwrap().name, Some(key::Name::Slot(700 | 701)))
        };
        told.extend(change.writes.into_iter().filter(is_ours));
    }
    let effects: Vec<_> = told.iter().map(|write| (write.effect(), write.value.clone())).collect();
    assert_eq!(
        effects,
        [
            (Effect::Applied, None),
            (Effect::Applied, Some("42".into())),
            (Effect::Unknown, None), // deleted since
            (Effect::None, None),
            (Effect::Applied, None),
        ]
    );
    assert_eq!(told[0].action, Some(write::Action::Set("1".into())));
    assert_eq!(told[1].action, Some(write::Action::Increment(41)));
    assert_eq!(told[2].action, Some(write::Action::Append("ab".into())));
    assert_eq!(told[3].condition, when(condition::When::Absent(Absent {})));
    assert_eq!(told[4].action, Some(write::Action::Delete(Absent {})));
    // What comes later is told as it comes.
    let later = store.set(set(702, "later")).await.unwrap().into_inner().version;
    loop {
        let event = changes.message().await.unwrap().unwrap().event.unwrap();
        let changes_response::Event::Change(change) = event else { panic!("{event:?}") };
        if change.index == later {
            // Others that write meanwhile may share the entry.
            let is_told = |told: &diskstore_proto::diskstore::Write| {
                told.action == Some(write::Action::Set("later".into()))
            };
            assert!(change.writes.iter().any(is_told), "{change:?}");
            break;
        }
    }
    let other = ChangesRequest { after: Some(0), cluster_id: "0".repeat(32) };
    let other = store.changes(other).await;
    assert_eq!(refused(other), nothing_done(Code::FailedPrecondition, "ANOTHER_CLUSTER"));
}

#[tokio::test]
async fn a_node_says_how_it_stands_and_what_it_serves() {
    let node = Node::shared();
    let mut store = node.store().await;
    let status = store.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.name.as_str(), status.role.as_str()), ("protocol", "leader"));
    assert_eq!((status.leader.as_str(), status.term), ("protocol", 1));
    assert_eq!((status.slot_count, status.value_bytes_max), (1000, 1500));
    assert!(status.applied > 0 && status.first_change == 1 && status.json.starts_with('{'));
    let mut health = HealthClient::new(node.channel().await);
    for service in ["", "diskstore.v1.Store", "konsen.KVService"] {
        let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
        let serving = health.check(request.clone()).await.unwrap().into_inner().status();
        assert_eq!(serving, ServingStatus::Serving);
        let mut watch = health.watch(request).await.unwrap().into_inner();
        let serving = watch.message().await.unwrap().unwrap().status();
        assert_eq!(serving, ServingStatus::Serving);
    }
    let unknown = tonic_health::pb::HealthCheckRequest { service: "other".to_owned() };
    assert_eq!(health.check(unknown).await.unwrap_err().code(), Code::NotFound);
    assert!(DESCRIPTORS.windows(9).any(|part| part == b"KVService"));
}

#[tokio::test]
async fn what_is_too_long_is_refused_by_its_length() {
    let node = Node::shared();
    let mut store = node.store().await;
    let long = "x".repeat(1501);
    let refusal = refused(store.set(set(900, &long)).await);
    assert_eq!(refusal, nothing_done(Code::InvalidArgument, "TOO_LARGE"));
    let longer = "x".repeat(1 << 20);
    let refusal = refused(store.set(set(900, &longer)).await);
    assert_eq!(refusal, nothing_done(Code::ResourceExhausted, "TOO_LARGE"));
    let of = |key| Operation {
        key: slot(key),
        action: Some(operation::Action::Set(Set { value: longer.clone().into(), condition: None })),
    };
    let operations = (0..17).map(|_| of(900)).collect();
    let refusal = refused(store.batch(BatchRequest { operations, level: 0 }).await);
    assert_eq!(refusal, nothing_done(Code::ResourceExhausted, "TOO_LARGE"));
    store.set(set(900, &long[..1500])).await.unwrap();
    assert_eq!(store.get(get(900)).await.unwrap().into_inner().value.len(), 1500);
}

#[tokio::test]
async fn the_time_that_a_client_gives_is_kept() {
    let node = Node::shared();
    let mut store = node.store().await;
    // The client of tonic would not wait for what the node says.
    let asked = async |time, path, request: Vec<u8>| {
        let length = u8::try_from(request.len()).unwrap();
        let body = [&[0, 0, 0, 0, length], &request[..]].concat();
        let headers = [("content-type", "application/grpc"), ("grpc-timeout", time)];
        asked(&node, "POST", path, &headers, body).await
    };
    let (set_path, changes_path) = ("/diskstore.v1.Store/Set", "/diskstore.v1.Store/Changes");
    let request = set(901, "in time").encode_to_vec();
    let (invalid, late) = ("200 3", "200 4");
    assert_eq!(asked("0n", set_path, request.clone()).await, late);
    assert_eq!(asked("1x", set_path, request.clone()).await, invalid);
    assert_eq!(store.get(get(901)).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(asked("30S", set_path, request).await, "200 0");
    assert_eq!(&store.get(get(901)).await.unwrap().into_inner().value[..], b"in time");
    assert_eq!(asked("50m", changes_path, Vec::new()).await, late);
}

/// What comes back of a request that no client of gRPC sends: its status of HTTP and that of gRPC.
pub(super) async fn asked(
    node: &Node,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> String {
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", node.port)).await.unwrap();
    let (executor, io) =
        (hyper_util::rt::TokioExecutor::new(), hyper_util::rt::TokioIo::new(stream));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let request = axum::http::Request::builder().method(method);
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let request = request.uri(format!("http://localhost{path}"));
    let request = request.body(axum::body::Body::from(body)).unwrap();
    let (parts, mut body) = sender.send_request(request).await.unwrap().into_parts();
    let mut headers = parts.headers;
    while let Some(frame) = std::future::poll_fn(|context| {
        hyper::body::Body::poll_frame(std::pin::Pin::new(&mut body), context)
    })
    .await
    {
        headers.extend(frame.unwrap().into_trailers().unwrap_or_default());
    }
    let status = headers.get("grpc-status").map_or("none", |status| status.to_str().unwrap());
    format!("{} {status}", parts.status.as_u16())
}

#[tokio::test]
async fn what_is_no_call_is_refused_in_the_words_of_http() {
    let node = Node::shared();
    let path = "/diskstore.v1.Store/Get";
    for (method, kind, status) in [
        ("POST", "application/json", "415 none"),
        ("POST", "application/grpc-web+proto", "415 none"),
        ("POST", "application/grpc+json", "415 none"),
        ("GET", "application/grpc", "405 none"),
        ("OPTIONS", "application/grpc", "405 none"),
        ("POST", "application/grpc", "200 3"),
        ("POST", "application/grpc+proto; x=y", "200 3"),
    ] {
        let found = asked(&node, method, path, &[("content-type", kind)], vec![0; 5]).await;
        assert_eq!(found, status, "{method} {kind}");
    }
}

#[tokio::test]
async fn garbage_is_told_by_a_status_and_harms_nobody() {
    const MANY: [u8; 10_005] = {
        let mut bytes = [0; 10_005];
        (bytes[3], bytes[4]) = (0x27, 0x10);
        let mut at = 5;
        while at < bytes.len() {
            bytes[at] = 0x0a;
            at += 2;
        }
        bytes
    };
    let node = Node::shared();
    let (invalid, unimplemented, exhausted, internal) = ("200 3", "200 12", "200 8", "200 13");
    for (path, body, status) in [
        ("/diskstore.v1.Store/Get", &b"\0\0\0\0\0"[..], invalid), // no key
        ("/diskstore.v1.Store/Get", b"\0\0\0\0\x03\xff\xff\xff", internal),
        ("/diskstore.v1.Store/Get", b"\0\0\0\0\x04\x0a\x7f\0\0", internal),
        ("/diskstore.v1.Store/Get", b"\0\xff\xff\xff\xff", exhausted),
        ("/diskstore.v1.Store/Get", b"\x01\0\0\0\x01x", internal), // compressed, in no known way
        // Five thousand operations, each of two bytes.
        ("/diskstore.v1.Store/Batch", &MANY, exhausted),
        ("/diskstore.v1.Store/Get", b"\0\0", internal),
        ("/diskstore.v1.Store/Get", b"", internal),
        ("/diskstore.v1.Store/Nothing", b"\0\0\0\0\0", unimplemented),
        ("/konsen.KVService/Delete", b"\0\0\0\0\0", unimplemented),
        ("/konsen.Raft/AppendEntries", b"\0\0\0\0\0", unimplemented),
        ("/", b"\0\0\0\0\0", unimplemented),
        ("//", b"", unimplemented),
    ] {
        let found =
            asked(&node, "POST", path, &[("content-type", "application/grpc")], body.to_vec())
                .await;
        assert_eq!(found, status, "{path} {}", body.escape_ascii());
    }
    assert_eq!(node.ask(b"PING\r\nQUIT\r\n"), "+PONG\r\n+OK\r\n");
}

/// HTTP/2 by hand.
mod frames {
    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const GOAWAY: u8 = 7;
    const CONTINUATION: u8 = 9;
    const END_HEADERS: u8 = 4;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap();
        let bytes = [length >> 16, length >> 8 & 255, length & 255];
        let mut frame: Vec<u8> = bytes.map(|byte| u8::try_from(byte).unwrap()).to_vec();
        frame.extend([kind, flags]);
        frame.extend([24, 16, 8, 0].map(|by| u8::try_from(stream >> by & 255).unwrap()));
        frame.extend_from_slice(payload);
        frame
    }

    /// Headers, each as its name and its value in plain words.
    fn headers(list: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in list {
            block.push(0);
            for word in [name, value] {
                assert!(word.len() < 127);
                block.push(u8::try_from(word.len()).unwrap());
                block.extend_from_slice(word.as_bytes());
            }
        }
        block
    }

    fn call(path: &str) -> Vec<u8> {
        headers(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ])
    }

    impl Client {
        /// Whether the connection goes away, which a frame of that kind says.
        fn goes_away(&mut self) -> bool {
            let mut frames = || -> std::io::Result<()> {
                let mut head = [0; 9];
                while head[3] != GOAWAY {
                    self.stream.read_exact(&mut head)?;
                    let length =
                        head[..3].iter().fold(0, |all, byte| all << 8 | usize::from(*byte));
                    self.stream.read_exact(&mut vec![0; length])?;
                }
                Ok(())
            };
            // Where nothing comes at all the time of the socket passes.
            frames().map_or_else(|error| error.kind() != std::io::ErrorKind::WouldBlock, |()| true)
        }
    }

    #[test]
    fn whoever_opens_calls_and_takes_them_back_at_once_is_ended() {
        let node = Node::shared();
        let mut client = node.connect();
        client.send(PREFACE);
        let block = call("/diskstore.v1.Store/Get");
        let (mut stream, mut is_open) = (1, true);
        while is_open && stream < 200_000 {
            let mut bytes = frame(HEADERS, END_HEADERS, stream, &block);
            bytes.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
            is_open = client.stream.write_all(&bytes).is_ok();
            stream += 2;
        }
        assert!(!is_open || client.goes_away(), "it goes on for ever");
        assert_eq!(node.ask(b"PING\r\nQUIT\r\n"), "+PONG\r\n+OK\r\n");
    }

    #[test]
    fn headers_that_never_end_end_their_connection() {
        let node = Node::shared();
        let mut client = node.connect();
        client.send(PREFACE);
        let long = "x".repeat(100);
        let more = headers(&[("more", long.as_str()); 150]);
        client.send(&frame(HEADERS, 0, 1, &call("/a")));
        let (mut sent, mut is_open) = (0, true);
        while is_open && sent < 64 << 20 {
            is_open = client.stream.write_all(&frame(CONTINUATION, 0, 1, &more)).is_ok();
            sent += more.len();
        }
        assert!(!is_open, "so many headers are taken: {sent}");
        assert_eq!(node.ask(b"PING\r\nQUIT\r\n"), "+PONG\r\n+OK\r\n");
    }
}
