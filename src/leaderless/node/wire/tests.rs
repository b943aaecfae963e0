use std::collections::BTreeSet;

use super::*;
use crate::leaderless::layout::hex;
use crate::leaderless::message::{Losses, Refusal};
use crate::leaderless::replica::{Floor, Lost};

fn node(number: u16) -> NodeNumber {
    NodeNumber::new(number).unwrap()
}

fn version(number: u64) -> Version {
    Version::from_number(number)
}

fn held(value: Option<&'static str>) -> Held {
    Held {
        version: version(0x0102),
        value: value.map(|value| Bytes::from_static(value.as_bytes())),
    }
}

fn numbers() -> Numbers {
    Numbers {
        ceiling: Moment::new(5),
        fence: Moment::new(4),
        floor: Floor { moment: Moment::new(3), left_out: BTreeSet::from([node(3)]) },
        confirmed_with: BTreeMap::from([(node(1), Moment::new(4))]),
        confirmed: Moment::new(3),
        lost: Lost { count: 2, copied: 1 },
        others_lost: BTreeMap::from([(node(3), 2)]),
    }
}

fn requests() -> Vec<Request> {
    let key = Bytes::from_static(b"key");
    let store =
        |origin, value| Request::Store(Store { key: key.clone(), held: held(value), origin });
    vec![
        Request::Ask { key: key.clone(), wants_value: false },
        Request::Ask { key: key.clone(), wants_value: true },
        store(Origin::New { base: version(9) }, Some("v")),
        store(Origin::Copy { floor: Moment::new(7) }, None),
        Request::Pull(PullRequest::Begin { floor: numbers().floor, fence: Moment::new(8) }),
        Request::Pull(PullRequest::Tops),
        Request::Pull(PullRequest::Group(63)),
        Request::Pull(PullRequest::List(4095)),
        Request::Pull(PullRequest::Fetch(vec![1, u64::MAX])),
    ]
}

fn responses() -> Vec<Response> {
    let losses = Losses { own: 1, others: BTreeMap::from([(node(2), 3)]) };
    let answer = |content| {
        let (floor, confirmed) = (Moment::new(3), Moment::new(4));
        Response::Answer(Answer {
            version: version(5),
            content,
            floor,
            confirmed,
            losses: losses.clone(),
        })
    };
    let found = |value| Found { key: Bytes::from_static(b"k"), held: held(value) };
    let mut all = vec![
        answer(Content::Nothing),
        answer(Content::Withheld),
        answer(Content::Value(Bytes::from_static(b"value"))),
        Response::Stored { version: version(6), losses: Losses::default() },
        Response::Pulled(PullResponse::Begun { floor: Floor::default() }),
        Response::Pulled(PullResponse::Tops(vec![1; TOP_COUNT])),
        Response::Pulled(PullResponse::Group { top: 1, sums: vec![2; 64] }),
        Response::Pulled(PullResponse::List {
            bucket: 7,
            entries: vec![Entry { hash: 1, stamp: Stamp { version: version(2), mark: 3 } }],
        }),
        Response::Pulled(PullResponse::Records {
            count: 2,
            floor: Moment::new(1),
            records: vec![found(Some("v")), found(None)],
        }),
    ];
    let refusals = [
        Refusal::Copying,
        Refusal::Fenced,
        Refusal::Forgotten,
        Refusal::Ahead,
        Refusal::NoVersion,
        Refusal::NoRoom,
    ];
    all.extend(refusals.map(Response::Refused));
    all
}

fn samples() -> Vec<PeerMessage> {
    let key = Bytes::from_static(b"key");
    let forward = |errand, level| PeerMessage::Forward {
        id: 3,
        until: Moment::new(6),
        errand,
        key: key.clone(),
        level,
    };
    let unknown = RegisterError::Unknown { version: version(1), stored_by: 1, replicas: 3 };
    let gossip = Gossip {
        standing: Standing::Behind,
        is_empty: true,
        hears: false,
        incarnation: 77,
        founders: BTreeMap::from([(node(1), 5)]),
        numbers: numbers(),
    };
    let mut all: Vec<PeerMessage> =
        requests().into_iter().map(|request| PeerMessage::Request(1, request)).collect();
    all.extend(responses().into_iter().map(|response| PeerMessage::Response(2, response)));
    all.extend([
        forward(Errand::Get, Level::One),
        forward(Errand::Delete, Level::Quorum),
        forward(Errand::Set(Bytes::from_static(b"v")), Level::All),
        PeerMessage::Forwarded(4, Ok(Done::Read(held(Some("v"))))),
        PeerMessage::Forwarded(4, Ok(Done::Written(version(9)))),
        PeerMessage::Forwarded(4, Err(unknown)),
        PeerMessage::Forwarded(4, Err(RegisterError::Busy("full".into()))),
        PeerMessage::Forwarded(4, Err(RegisterError::NotStored("no".into()))),
        PeerMessage::Gossip(Box::new(gossip)),
        PeerMessage::CopyBegin { attempt: 1, losses: 2 },
        PeerMessage::CopyBegun { attempt: 1, numbers: Box::new(numbers()), is_ready: true },
        PeerMessage::CopyPage { attempt: 1, from: 8 },
        PeerMessage::CopyPaged {
            attempt: 1,
            from: 8,
            next: None,
            floor: Moment::new(7),
            records: Vec::new(),
        },
        PeerMessage::CopyPaged {
            attempt: 1,
            from: 8,
            next: Some(9),
            floor: Moment::new(7),
            records: vec![Found { key, held: held(Some("v")) }],
        },
    ]);
    all
}

fn encoded(messages: &[PeerMessage]) -> Vec<u8> {
    let mut out = Vec::new();
    for message in messages {
        put_message(&mut out, message);
    }
    out
}

#[test]
fn what_is_sent_is_what_comes() {
    let all = samples();
    assert_eq!(read_messages(encoded(&all).into()).unwrap(), all);
    for message in &all {
        let whole = encoded(std::slice::from_ref(message));
        for end in 1..whole.len() {
            assert!(
                read_messages(whole[..end].to_vec().into()).is_err(),
                "{message:?} up to {end}"
            );
        }
    }
    let unfit = PeerMessage::Forwarded(1, Err(super::super::BadInput::ClockAhead.into()));
    let read = read_messages(encoded(&[unfit]).into()).unwrap();
    assert!(matches!(&read[0], PeerMessage::Forwarded(1, Err(RegisterError::NotStored(_)))));
}

/// I1 of `mod.rs`.
#[test]
fn no_damage_of_a_byte_panics() {
    for message in samples() {
        let whole = encoded(&[message]);
        for at in 0..whole.len() {
            for byte in [0, 1, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = byte;
                drop(read_messages(damaged.into()));
            }
        }
    }
    let endless = [&[RESPONSE][..], &[0; 8], &[9], &[0; 4], &[0; 8], &[0xff, 0xff, 0, 0]].concat();
    assert!(read_messages(endless.into()).is_err(), "a count takes no memory");
}

#[test]
fn the_bytes_of_messages_are_pinned() {
    let of = |message| hex(&encoded(&[message]));
    let key = Bytes::from_static(b"key");
    let ask = PeerMessage::Request(5, Request::Ask { key: key.clone(), wants_value: true });
    assert_eq!(of(ask), concat!("01", "0500000000000000", "01", "0300", "6b6579"));
    let store = Store { key, held: held(Some("v")), origin: Origin::New { base: version(3) } };
    let expected = concat!(
        "01",
        "0500000000000000",
        "02",
        "0300000000000000",
        "0300",
        "6b6579",
        "0201000000000000",
        "01",
        "01000000",
        "76"
    );
    assert_eq!(of(PeerMessage::Request(5, Request::Store(store))), expected);
    let losses = Losses { own: 1, others: BTreeMap::new() };
    let stored = PeerMessage::Response(5, Response::Stored { version: version(0x0102), losses });
    let expected =
        concat!("02", "0500000000000000", "03", "0201000000000000", "0100000000000000", "00");
    assert_eq!(of(stored), expected);
}

#[test]
fn frames_and_hellos_are_pinned_and_checked() {
    let hello = RegistersHello {
        cluster_id: 0x11,
        epoch: 1,
        layout_hash: [0xab; 32],
        from: node(1),
        to: node(2),
        value_bytes_max: 9,
        process: 7,
    };
    let mut out = Vec::new();
    put_frame(&mut out, |out| hello.put(out));
    let body = format!(
        "0300{}{}{}{}{}{}",
        "11000000000000000000000000000000",
        "0100000000000000",
        "ab".repeat(32),
        "01000200",
        "09000000",
        "0700000000000000"
    );
    let crc = crc32fast::hash(&out[FRAME_HEADER_BYTES..]).to_le_bytes();
    assert_eq!(hex(&out), format!("4a000000{}{body}", hex(&crc)));
    let header = *out.first_chunk().unwrap();
    let decoded = FrameHeader::decode(header, HELLO_BYTES_MAX).unwrap();
    let body = Bytes::copy_from_slice(&out[FRAME_HEADER_BYTES..]);
    assert_eq!(RegistersHello::decode(decoded.check(body.clone()).unwrap()).unwrap(), hello);
    assert!(FrameHeader::decode(header, 73).is_err(), "longer than allowed");
    let mut damaged = body.to_vec();
    damaged[20] ^= 1;
    assert!(decoded.check(damaged.into()).is_err());
    for end in 0..body.len() {
        assert!(RegistersHello::decode(body.slice(..end)).is_err());
    }
    for refused in [None, Some("the cluster files differ")] {
        let mut out = Vec::new();
        put_welcome(&mut out, refused);
        assert_eq!(read_welcome(out.into()).unwrap().as_deref(), refused);
    }
}
