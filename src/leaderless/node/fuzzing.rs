//! Targets of what nodes send each other and keep in their logs, for `fuzzing`: what can be read is written as bytes
//! that are read as the same again.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::records::{
    Kept, Recorded, put_dropped, put_held, put_kept, put_kept_record, read_kept, read_record,
};
use super::wire::{
    Done, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, Gossip, HELLO_BYTES_MAX, PeerMessage,
    RegistersHello, put_frame, put_message, put_welcome, read_messages, read_welcome,
};
use crate::command::DecodeError;
use crate::command::cursor::Cursor;
use crate::leaderless::clock::{Moment, NodeNumber, Version};
use crate::leaderless::message::{Answer, Content, Held, Losses, Origin, Request, Response, Store};
use crate::leaderless::operation::{Errand, Level};
use crate::leaderless::repair::{Entry, Found, PullRequest, PullResponse, Stamp};
use crate::leaderless::replica::{Floor, Lost, Numbers, Standing};

/// A frame, sealed or not: its header, and the messages behind it.
pub(crate) fn decode_frame(is_sealed: bool, input: &[u8]) {
    let Some(body) = body_of(is_sealed, input, FRAME_BYTES_MAX) else { return };
    let Ok(messages) = read_messages(body) else { return };
    let mut again = Vec::new();
    for message in &messages {
        put_message(&mut again, message);
    }
    assert_eq!(read_messages(again.into()).as_ref(), Ok(&messages));
}

/// What a stranger sends first, and what it is answered.
pub(crate) fn decode_hello(is_sealed: bool, input: &[u8]) {
    let Some(body) = body_of(is_sealed, input, HELLO_BYTES_MAX) else { return };
    if let Ok(hello) = RegistersHello::decode(body.clone()) {
        let mut again = Vec::new();
        hello.put(&mut again);
        assert_eq!(again, body);
    }
    if let Ok(refused) = read_welcome(body) {
        let mut again = Vec::new();
        put_welcome(&mut again, refused.as_deref());
        assert_eq!(read_welcome(again.into()), Ok(refused));
    }
}

/// The body of a frame; where it is sealed, under the right header.
fn body_of(is_sealed: bool, input: &[u8], bytes_max: usize) -> Option<Bytes> {
    if is_sealed {
        return Some(Bytes::copy_from_slice(input));
    }
    let (head, body) = input.split_first_chunk::<FRAME_HEADER_BYTES>()?;
    let header = FrameHeader::decode(*head, bytes_max).ok()?;
    header.check(Bytes::copy_from_slice(body.get(..header.length)?)).ok()
}

/// The records of an entry of the log, and what is kept with a checkpoint.
pub(crate) fn decode_record(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    if let Ok(records) = read_records(bytes.clone()) {
        let mut again = Vec::new();
        for record in &records {
            match record {
                Recorded::Holds { key, held } => put_held(&mut again, key, held),
                Recorded::Dropped { key, upto } => put_dropped(&mut again, key, *upto),
                Recorded::Kept(kept) => put_kept_record(&mut again, kept),
            }
        }
        assert_eq!(read_records(again.into()), Ok(records));
    }
    if let Ok(kept) = read_kept(&mut Cursor::new(bytes)) {
        let mut again = Vec::new();
        put_kept(&mut again, &kept);
        assert_eq!(read_kept(&mut Cursor::new(again.into())), Ok(kept));
    }
}

fn read_records(bytes: Bytes) -> Result<Vec<Recorded>, DecodeError> {
    let mut cursor = Cursor::new(bytes);
    std::iter::from_fn(|| read_record(&mut cursor).transpose()).collect()
}

fn some_node() -> NodeNumber {
    NodeNumber::new(2).expect("invariant: there are more numbers")
}

fn some_numbers() -> Numbers {
    let left_out = BTreeSet::from([some_node()]);
    Numbers {
        ceiling: Moment::new(5),
        fence: Moment::new(4),
        floor: Floor { moment: Moment::new(3), left_out },
        confirmed_with: BTreeMap::from([(some_node(), Moment::new(4))]),
        confirmed: Moment::new(3),
        lost: Lost { count: 2, copied: 1 },
        others_lost: BTreeMap::from([(some_node(), 2)]),
    }
}

fn some_held(value: Option<&'static [u8]>) -> Held {
    Held { version: Version::from_number(258), value: value.map(Bytes::from_static) }
}

/// One of each kind, and of what a kind has kinds of.
fn some_messages() -> Vec<PeerMessage> {
    let key = Bytes::from_static(b"key");
    let found = Found { key: key.clone(), held: some_held(Some(b"value")) };
    let (floor, moment) = (some_numbers().floor, Moment::new(7));
    let losses = Losses { own: 1, others: BTreeMap::from([(some_node(), 2)]) };
    let content = Content::Value(Bytes::from_static(b"value"));
    let version = Version::from_number(9);
    let answer = Answer { version, content, floor: moment, confirmed: moment, losses };
    let store = |origin| Store { key: key.clone(), held: some_held(None), origin };
    let entry = Entry { hash: 1, stamp: Stamp { version, mark: 3 } };
    let requests = [
        Request::Ask { key: key.clone(), wants_value: true },
        Request::Store(store(Origin::New { base: version })),
        Request::Store(store(Origin::Copy { floor: moment })),
        Request::Pull(PullRequest::Begin { floor: floor.clone(), fence: moment }),
        Request::Pull(PullRequest::Tops),
        Request::Pull(PullRequest::Group(63)),
        Request::Pull(PullRequest::List(4095)),
        Request::Pull(PullRequest::Fetch(vec![1, u64::MAX])),
    ];
    let responses = [
        Response::Answer(answer),
        Response::Stored { version, losses: Losses::default() },
        Response::Pulled(PullResponse::Begun { floor }),
        Response::Pulled(PullResponse::Tops(vec![1; 64])),
        Response::Pulled(PullResponse::Group { top: 1, sums: vec![2; 64] }),
        Response::Pulled(PullResponse::List { bucket: 7, entries: vec![entry] }),
        Response::Pulled(PullResponse::Records {
            count: 2,
            floor: moment,
            records: vec![found.clone()],
        }),
    ];
    let gossip = Gossip {
        standing: Standing::Ready,
        is_empty: false,
        hears: true,
        incarnation: 9,
        founders: BTreeMap::from([(some_node(), 9)]),
        numbers: some_numbers(),
    };
    let numbers = Box::new(some_numbers());
    let errand = Errand::Set(Bytes::from_static(b"value"));
    let forward = PeerMessage::Forward { id: 1, until: moment, errand, key, level: Level::Quorum };
    let mut all: Vec<PeerMessage> =
        requests.into_iter().map(|request| PeerMessage::Request(1, request)).collect();
    all.extend(responses.into_iter().map(|response| PeerMessage::Response(1, response)));
    all.extend([
        forward,
        PeerMessage::Forwarded(1, Ok(Done::Read(some_held(Some(b"value"))))),
        PeerMessage::Forwarded(1, Ok(Done::Written(version))),
        PeerMessage::Gossip(Box::new(gossip)),
        PeerMessage::CopyBegin { attempt: 1, losses: 2 },
        PeerMessage::CopyBegun { attempt: 1, numbers, is_ready: true },
        PeerMessage::CopyPage { attempt: 1, from: 7 },
        PeerMessage::CopyPaged {
            attempt: 1,
            from: 7,
            next: Some(9),
            floor: Moment::default(),
            records: vec![found],
        },
    ]);
    all
}

/// Bodies of frames: one for each message, and one of all.
pub(crate) fn frame_bodies() -> Vec<Vec<u8>> {
    let body = |messages: &[PeerMessage]| {
        let mut body = Vec::new();
        for message in messages {
            put_message(&mut body, message);
        }
        body
    };
    let all = some_messages();
    let each = all.iter().map(|message| body(std::slice::from_ref(message)));
    each.chain([body(&all)]).collect()
}

/// Bodies of hellos and welcomes.
pub(crate) fn hello_bodies() -> Vec<Vec<u8>> {
    let hello = RegistersHello {
        cluster_id: 7,
        epoch: 1,
        layout_hash: [3; 32],
        from: some_node(),
        to: some_node(),
        value_bytes_max: 1 << 20,
        process: 5,
    };
    let mut bodies = vec![Vec::new(); 3];
    if let [first, second, third] = bodies.as_mut_slice() {
        hello.put(first);
        put_welcome(second, None);
        put_welcome(third, Some("another layout"));
    }
    bodies
}

/// The body under its header.
pub(crate) fn framed(body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    put_frame(&mut frame, |out| out.extend(body));
    frame
}

/// Entries of the log, and what is kept.
pub(crate) fn records() -> Vec<Vec<u8>> {
    let kept = Kept {
        own: some_node(),
        incarnation: 9,
        epoch: 1,
        layout_hash: [3; 32],
        founders: BTreeMap::from([(some_node(), 9)]),
        numbers: some_numbers(),
    };
    let (mut entry, mut alone) = (Vec::new(), Vec::new());
    put_held(&mut entry, b"key", &some_held(Some(b"value")));
    put_held(&mut entry, b"other", &some_held(None));
    put_dropped(&mut entry, b"key", Version::from_number(9));
    put_kept_record(&mut entry, &kept);
    put_kept(&mut alone, &kept);
    vec![entry, alone]
}
