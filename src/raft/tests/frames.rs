//! Every frame and body between members: its golden bytes (`docs/format.md`, "Peer frames"), its
//! way back, every prefix of it, every flipped bit, and garbage.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use bytes::Bytes;
use diskstore_storage::keys::KeyImage;
use diskstore_storage::slots::SlotImage;
use diskstore_storage::state::MEMBERSHIP_BYTES_MAX;
use diskstore_storage::{
    LogId as StoredLogId, LogIndex, MemberId, SlotIndex, Term, Vote as StoredVote,
};
use openraft::entry::RaftEntry;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, TransferLeaderError, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::{blank, command, log_id, normal};
use crate::command::{Action, DecodeError, Failure, ReadLevel, Reply};
use crate::machine::Images;
use crate::peer::append::AppendReply;
use crate::peer::frames::{BODY_BYTES_MAX, HEADER_BYTES, HELLO_BYTES_MAX, Header, Space};
use crate::peer::requests::{
    decode_whereabouts, decode_whereabouts_reply, encode_whereabouts, encode_whereabouts_reply,
    put_request, put_response, read_request, read_response,
};
use crate::peer::votes::{Ballot, BallotReply, Transfer, TransferReply};
use crate::peer::{
    FrameKind, Greeting, Hello, JoinReply, JoinRequest, JoinToken, Member, Method, NAME_BYTES_MAX,
    Purpose, Role, Welcome, Whoever, decode_commands, decode_results, encode_commands,
    encode_results, split,
};
use crate::raft::types::{
    Entry, Membership, StoredMembership, TypeConfig, append_reply_from, append_reply_to,
    ballot_from, ballot_reply_from, ballot_reply_to, ballot_to, encode_membership, membership_from,
    membership_to, put_append, read_append, transfer_from, transfer_reply_from, transfer_reply_to,
    transfer_to, vote_from,
};
use crate::replica::snapshot_frames::{
    Accept, DAMAGED_COUNT_MAX, SnapshotBegin, SnapshotEnd, SnapshotSlots, put_reply, read_reply,
};

/// A decoder whose result nobody looks at.
type Read = fn(Bytes) -> Result<String, DecodeError>;

/// One value: its bytes, as they are to be for ever, and how they are read.
struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    golden: &'static str,
    /// What the value prints as.
    value: String,
    read: Read,
}

impl Case {
    fn new(
        (name, golden): (&'static str, &'static str),
        value: impl Debug,
        bytes: Vec<u8>,
        read: Read,
    ) -> Case {
        Case { name, golden, value: format!("{value:?}"), bytes, read }
    }
}

fn shown<T: Debug>(result: Result<T, DecodeError>) -> Result<String, DecodeError> {
    result.map(|value| format!("{value:?}"))
}

fn put(frame: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    frame(&mut out);
    out
}

fn stored_vote() -> StoredVote {
    StoredVote { term: Term::new(3), node_id: MemberId::new(7), committed: true }
}

fn member() -> Member {
    Member {
        name: "a".into(),
        raft_address: "b:1".into(),
        client_address: "c:2".into(),
        role: Role::Learner,
        ..Member::default()
    }
}

fn transfer() -> TransferLeaderRequest<TypeConfig> {
    TransferLeaderRequest::new(vote_from(stored_vote()), 9, Some(log_id(2, 5)))
}

/// Frames, header included.
fn frames() -> Vec<Case> {
    let hello = Hello {
        cluster_id: 0xc1,
        from: 1,
        to: 2,
        purpose: Purpose::Append,
        process: 5,
        token: 0x7e,
        address: "b:1".into(),
        acknowledged: Some((stored_vote(), StoredLogId { term: Term::new(2), index: 5 })),
    };
    let from = Whoever { cluster_id: 0xc1, member_id: 2, process: 6 };
    let welcome = Welcome { from, answer: Greeting::Refused("no".into()) };
    let copy = Welcome { from, answer: Greeting::Copy("no".into()) };
    let append = || AppendEntriesRequest {
        vote: vote_from(stored_vote()),
        prev_log_id: Some(log_id(2, 5)),
        leader_commit: None,
        entries: vec![blank(3, 6), normal(3, 7, command(&[(1, Action::Append { value: b"x" })]))],
    };
    let conflict = Err(StreamAppendError::Conflict(log_id(2, 5)));
    let higher = Err(StreamAppendError::HigherVote(vote_from(stored_vote())));
    vec![
        Case::new(GOLDEN[0], &hello, put(|out| hello.put(out)), |body| shown(Hello::decode(body))),
        Case::new(GOLDEN[1], &welcome, put(|out| welcome.put(out)), |body| {
            shown(Welcome::decode(body))
        }),
        Case::new(GOLDEN[24], &copy, put(|out| copy.put(out)), |body| shown(Welcome::decode(body))),
        Case::new(GOLDEN[2], append(), put(|out| put_append(copied(out), append())), |body| {
            shown(read_append(body, &[]))
        }),
        Case::new(
            GOLDEN[3],
            Ok::<_, ()>(Some(log_id(2, 5))),
            put(|out| append_reply_to(&Ok(Some(log_id(2, 5)))).put(out)),
            |body| shown(AppendReply::decode(body).map(append_reply_from)),
        ),
        Case::new(GOLDEN[4], &conflict, put(|out| append_reply_to(&conflict).put(out)), |body| {
            shown(AppendReply::decode(body).map(append_reply_from))
        }),
        Case::new(GOLDEN[5], &higher, put(|out| append_reply_to(&higher).put(out)), |body| {
            shown(AppendReply::decode(body).map(append_reply_from))
        }),
    ]
}

fn begin() -> SnapshotBegin {
    SnapshotBegin {
        vote: stored_vote(),
        log_id: StoredLogId { term: Term::new(2), index: 5 },
        membership: membership_to(&StoredMembership::new(
            Some(log_id(1, 1)),
            super::membership(&[7]),
        )),
        readable_from: 8,
        last_log: 9,
        horizon: 3,
    }
}

fn slots() -> SnapshotSlots {
    let value = Some(Bytes::from_static(b"v"));
    let images = vec![
        SlotImage { slot: SlotIndex::new(1), index: LogIndex::new(4), value },
        SlotImage { slot: SlotIndex::new(2), index: LogIndex::new(4), value: None },
    ];
    SnapshotSlots { nth: 6, last_log: 9, images: Images::Slots(images) }
}

fn keys() -> SnapshotSlots {
    let (key, value) = (Bytes::from_static(b"k"), Some(Bytes::from_static(b"v")));
    let images = vec![
        KeyImage { key, index: 4, value },
        KeyImage { key: Bytes::new(), index: 4, value: None },
    ];
    SnapshotSlots { nth: 6, last_log: 9, images: Images::Keys(images) }
}

/// Frames of a snapshot, header included.
fn snapshot_frames() -> Vec<Case> {
    let changed = Accept::Changed { after: 4, damaged: vec![17] };
    let higher = Accept::HigherVote(stored_vote());
    let end = SnapshotEnd { frames: 7, slots: 2, applied: 8, last_log: 9 };
    let vote = stored_vote();
    let read_accept: Read = |body| shown(Accept::decode(body));
    vec![
        Case::new(GOLDEN[6], begin(), put(|out| begin().put(out)), |body| {
            let begin = SnapshotBegin::decode(body);
            shown(begin.and_then(|begin| membership_from(&begin.membership).map(|_| begin)))
        }),
        Case::new(GOLDEN[7], slots(), put(|out| slots().put(out)), |body| {
            shown(SnapshotSlots::decode(body))
        }),
        Case::new(GOLDEN[23], keys(), put(|out| keys().put(out)), |body| {
            shown(SnapshotSlots::decode_keys(body))
        }),
        Case::new(GOLDEN[19], &changed, put(|out| changed.put(out)), read_accept),
        Case::new(GOLDEN[20], &higher, put(|out| higher.put(out)), read_accept),
        Case::new(GOLDEN[21], end, put(|out| end.put(out)), |body| {
            shown(SnapshotEnd::decode(body))
        }),
        Case::new(GOLDEN[22], vote, put(|out| put_reply(out, &vote)), |body| {
            shown(read_reply(body))
        }),
    ]
}

/// Bodies of requests and responses.
fn bodies() -> Vec<Case> {
    let vote = VoteRequest::<TypeConfig>::new(vote_from(stored_vote()), Some(log_id(2, 5)));
    let vote_reply = VoteResponse::<TypeConfig>::new(vote_from(stored_vote()), None, true);
    let changed = Err(TransferLeaderError::VoteChanged {
        expected: *transfer().from_leader(),
        actual: vote_from(stored_vote()),
    });
    let behind = Err(TransferLeaderError::LogNotFlushed {
        expected: transfer().last_log_id().copied(),
        actual: None,
    });
    let read_reply: Read = |body| {
        let reply = TransferReply::decode(body);
        shown(reply.map(|reply| transfer_reply_from(&reply, &transfer())))
    };
    let commands = vec![command(&[(1, Action::Get)]), command(&[(2, Action::Increment { by: 1 })])];
    let results = vec![Ok(Reply::default()), Err(Failure::Stopping)];
    let join = JoinRequest {
        is_final: true,
        is_own: false,
        member_id: 7,
        member: member(),
        cluster_id: 0xc1,
        token: JoinToken::default(),
    };
    let accepted = JoinReply::Accepted { cluster_id: 0xc1, slot_count: 64, value_bytes: 32 };
    let later = JoinReply::Later("w".into());
    let refused = JoinReply::Refused("n".into());
    let read_join_reply: Read = |body| shown(JoinReply::decode(body));
    vec![
        Case::new(GOLDEN[8], &vote, ballot_to(&vote).encode(), |body| {
            shown(Ballot::decode(body).map(|ballot| ballot_from(&ballot)))
        }),
        Case::new(GOLDEN[9], &vote_reply, ballot_reply_to(&vote_reply).encode(), |body| {
            shown(BallotReply::decode(body).map(|reply| ballot_reply_from(&reply)))
        }),
        Case::new(GOLDEN[10], transfer(), transfer_to(&transfer()).encode(), |body| {
            shown(Transfer::decode(body).map(|transfer| transfer_from(&transfer)))
        }),
        Case::new(GOLDEN[11], &changed, transfer_reply_to(&changed).encode(), read_reply),
        Case::new(GOLDEN[12], &behind, transfer_reply_to(&behind).encode(), read_reply),
        Case::new(
            GOLDEN[13],
            (&commands, ReadLevel::Log),
            encode_commands(&commands, ReadLevel::Log),
            |body| shown(decode_commands(body)),
        ),
        Case::new(GOLDEN[14], &results, encode_results(&results), |body| {
            shown(decode_results(body, 2))
        }),
        Case::new(GOLDEN[15], &join, put(|out| join.put(out)), |body| {
            shown(JoinRequest::decode(body))
        }),
        Case::new(GOLDEN[16], &accepted, put(|out| accepted.put(out)), read_join_reply),
        Case::new(GOLDEN[17], &later, put(|out| later.put(out)), read_join_reply),
        Case::new(GOLDEN[18], &refused, put(|out| refused.put(out)), read_join_reply),
        Case::new(GOLDEN[25], (0xc1, 7), encode_whereabouts(0xc1, 7), |body| {
            shown(decode_whereabouts(body))
        }),
        Case::new(GOLDEN[26], "b:1", encode_whereabouts_reply("b:1"), |body| {
            shown(decode_whereabouts_reply(body))
        }),
    ]
}

/// All cases, with the bytes behind the frame's header.
fn all() -> Vec<(Case, Bytes)> {
    let frames = frames().into_iter().chain(snapshot_frames()).map(|case| {
        let body = Bytes::from(case.bytes.clone()).split_off(HEADER_BYTES);
        (case, body)
    });
    let bodies = bodies().into_iter().map(|case| {
        let body = Bytes::from(case.bytes.clone());
        (case, body)
    });
    frames.chain(bodies).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[test]
fn frames_have_their_golden_bytes() {
    let wrong: Vec<String> = all()
        .iter()
        .filter(|(case, _)| hex(&case.bytes) != case.golden.replace(' ', ""))
        .map(|(case, _)| format!("{}: {}", case.name, hex(&case.bytes)))
        .collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// What stands behind id and method is the method's own, so it is read apart.
#[test]
fn requests_and_responses_have_their_golden_bytes() {
    let golden = |text: &str| text.replace(' ', "");
    let frame = put(|out| put_request(out, 9, Method::Read, b"what"));
    assert_eq!(hex(&frame), golden(REQUEST), "request");
    let body = Bytes::from(frame).split_off(HEADER_BYTES);
    let read = read_request(body.clone()).unwrap();
    assert_eq!(read, (9, Method::Read, Bytes::from_static(b"what")));
    for end in 0..9 {
        read_request(body.slice(..end)).unwrap_err();
    }
    let frame = put(|out| put_response(out, 9, b"that"));
    assert_eq!(hex(&frame), golden(RESPONSE), "response");
    let body = Bytes::from(frame).split_off(HEADER_BYTES);
    assert_eq!(read_response(body.clone()).unwrap(), (9, Bytes::from_static(b"that")));
    for end in 0..8 {
        read_response(body.slice(..end)).unwrap_err();
    }
}

#[test]
fn methods_keep_their_numbers() {
    let methods = [
        Method::Vote,
        Method::PreVote,
        Method::TransferLeader,
        Method::Write,
        Method::Read,
        Method::Join,
        Method::Holders,
        Method::Remove,
        Method::Standing,
        Method::LogSpace,
        Method::ReadIndex,
        Method::Whereabouts,
        Method::Found,
        Method::Order,
        Method::Backs,
    ];
    for (byte, method) in (1..).zip(methods) {
        assert_eq!(Method::of(byte), Some(method));
    }
    for byte in [0, 16, 255] {
        assert_eq!(Method::of(byte), None);
    }
}

#[test]
fn frames_survive_their_bytes() {
    for (case, body) in all() {
        assert_eq!((case.read)(body).unwrap(), case.value, "{}", case.name);
    }
}

#[test]
fn frames_cut_anywhere_or_too_long_are_refused() {
    for (case, body) in all() {
        for end in 0..body.len() {
            assert!((case.read)(body.slice(..end)).is_err(), "{} cut at {end}", case.name);
        }
        let longer = [&body[..], &[0]].concat();
        assert!((case.read)(longer.into()).is_err(), "{} with a byte behind", case.name);
    }
}

#[test]
fn a_flipped_bit_anywhere_in_a_frame_is_noticed() {
    for case in frames().into_iter().chain(snapshot_frames()) {
        let bytes = &case.bytes;
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[position] ^= 1 << bit;
                let (header, body) = flipped.split_first_chunk::<HEADER_BYTES>().unwrap();
                let frame = Header::decode(*header, BODY_BYTES_MAX).and_then(|header| {
                    let length = DecodeError { what: "length", offset: 0 };
                    let whole = header.length == body.len();
                    if whole { header.with_body(body.to_vec().into()) } else { Err(length) }
                });
                assert!(frame.is_err(), "{}: byte {position}, bit {bit}", case.name);
            }
        }
    }
}

#[test]
fn garbage_is_refused_without_a_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let cases = all();
    for _ in 0..2000 {
        let length = usize::try_from(next() % 200).unwrap();
        let garbage: Bytes = (0..length).map(|_| next().to_le_bytes()[0]).collect();
        for (case, body) in &cases {
            // What garbage decodes to does not matter, only that it does so without a panic.
            drop((case.read)(garbage.clone()));
            let mut damaged = body.to_vec();
            let position = usize::try_from(next()).unwrap() % damaged.len();
            damaged[position] = next().to_le_bytes()[0];
            drop((case.read)(damaged.into()));
        }
    }
}

#[test]
fn two_gibibytes_announced_are_refused_before_memory_is_taken() {
    for case in frames().into_iter().chain(snapshot_frames()) {
        let mut header = *case.bytes.first_chunk::<HEADER_BYTES>().unwrap();
        header[..4].copy_from_slice(&(2_u32 << 30).to_le_bytes());
        for bound in [HELLO_BYTES_MAX, BODY_BYTES_MAX] {
            assert!(Header::decode(header, bound).is_err(), "{}", case.name);
        }
    }
    // The same within a body: counts and lengths are compared with what is there.
    for (case, body) in all() {
        for position in 0..body.len().saturating_sub(3) {
            let mut damaged = body.to_vec();
            damaged[position..position + 4].copy_from_slice(&(2_u32 << 30).to_le_bytes());
            drop((case.read)(damaged.into()));
        }
    }
}

#[tokio::test]
async fn a_connection_that_announces_too_much_is_given_up_at_the_header() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for (allow_large, bytes) in [(false, HELLO_BYTES_MAX + 1), (true, 2 << 30)] {
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut reader, _writer) = split(listener.accept().await.unwrap().0).unwrap();
        if allow_large {
            reader.allow_large();
        }
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&u32::try_from(bytes).unwrap().to_le_bytes());
        header[8] = FrameKind::Append as u8;
        client.write_all(&header).await.unwrap();
        // The client keeps the connection open and sends nothing more: only the header decides.
        let next = tokio::time::timeout(std::time::Duration::from_secs(20), reader.next()).await;
        assert_eq!(next.unwrap().unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    }
}

#[test]
fn entries_of_an_append_frame_that_leave_a_hole_are_refused() {
    let append = |entries| AppendEntriesRequest::<TypeConfig> {
        vote: vote_from(stored_vote()),
        prev_log_id: Some(log_id(2, 5)),
        leader_commit: None,
        entries,
    };
    for entries in [vec![blank(3, 7)], vec![blank(3, 6), blank(3, 8)], vec![blank(3, 5)]] {
        let bytes = put(|out| put_append(copied(out), append(entries)));
        let error = read_append(Bytes::from(bytes).split_off(HEADER_BYTES), &[]).unwrap_err();
        assert_eq!(error.what, "entries do not follow each other");
    }
}

/// openraft takes for granted that they do, and that none is of a later term than its leader's.
#[test]
fn entries_of_an_append_frame_whose_terms_cannot_be_are_refused() {
    let read = |vote, prev: u64, terms: &[u64]| {
        let entries = terms.iter().zip(6..).map(|(term, index)| blank(*term, index));
        let append = AppendEntriesRequest::<TypeConfig> {
            vote: vote_from(vote),
            prev_log_id: Some(log_id(prev, 5)),
            leader_commit: None,
            entries: entries.collect(),
        };
        let bytes = put(|out| put_append(copied(out), append));
        read_append(Bytes::from(bytes).split_off(HEADER_BYTES), &[])
    };
    for (prev, terms) in [(2, &[][..]), (2, &[2, 3]), (3, &[3]), (3, &[])] {
        read(stored_vote(), prev, terms).unwrap();
    }
    for (prev, terms) in [(2, &[1][..]), (1, &[2, 1]), (2, &[2, 4]), (4, &[]), (4, &[4])] {
        read(stored_vote(), prev, terms).unwrap_err();
    }
    read(StoredVote { committed: false, ..stored_vote() }, 2, &[2]).unwrap_err();
}

/// No superblock could hold it.
#[test]
fn a_membership_without_room_is_refused_as_an_entry() {
    let name = "n".repeat(NAME_BYTES_MAX);
    let nodes = |count: u64| {
        let record = Member {
            name: name.clone(),
            raft_address: name.clone(),
            client_address: name.clone(),
            ..Member::default()
        };
        (0..count).map(|id| (id, record.clone())).collect::<BTreeMap<_, _>>()
    };
    let read = |count| {
        let membership = Membership::new(vec![BTreeSet::from([0])], nodes(count)).unwrap();
        let bytes = encode_membership(&membership).len();
        let append = AppendEntriesRequest::<TypeConfig> {
            vote: vote_from(stored_vote()),
            prev_log_id: Some(log_id(2, 5)),
            leader_commit: None,
            entries: vec![Entry::new_membership(log_id(3, 6), membership)],
        };
        let frame = put(|out| put_append(copied(out), append));
        (bytes, read_append(Bytes::from(frame).split_off(HEADER_BYTES), &[]))
    };
    let most = (1..1000).find(|count| read(*count + 1).0 > MEMBERSHIP_BYTES_MAX).unwrap();
    read(most).1.unwrap();
    assert_eq!(read(most + 1).1.unwrap_err().what, "length of the membership");
}

/// openraft would panic, or the state would contradict itself.
#[test]
fn a_snapshot_that_contradicts_its_own_vote_is_refused() {
    let read = |begin: SnapshotBegin| {
        SnapshotBegin::decode(Bytes::from(put(|out| begin.put(out))).split_off(HEADER_BYTES))
    };
    let later = |term, index| {
        let log_id = Some(StoredLogId { term: Term::new(term), index });
        let membership = diskstore_storage::state::Membership { log_id, ..begin().membership };
        SnapshotBegin { membership, ..begin() }
    };
    read(SnapshotBegin { log_id: StoredLogId { term: Term::new(3), index: 5 }, ..begin() })
        .unwrap();
    read(later(2, 5)).unwrap();
    read(SnapshotBegin { log_id: StoredLogId { term: Term::new(4), index: 5 }, ..begin() })
        .unwrap_err();
    read(SnapshotBegin { vote: StoredVote { committed: false, ..stored_vote() }, ..begin() })
        .unwrap_err();
    for (term, index) in [(3, 5), (2, 6), (1, 6), (3, 1)] {
        read(later(term, index)).unwrap_err();
    }
}

#[test]
fn an_index_that_no_log_can_reach_does_not_overflow() {
    let append = AppendEntriesRequest::<TypeConfig> {
        vote: vote_from(stored_vote()),
        prev_log_id: Some(log_id(2, u64::MAX)),
        leader_commit: None,
        entries: vec![blank(3, u64::MAX)],
    };
    let bytes = put(|out| put_append(copied(out), append));
    read_append(Bytes::from(bytes).split_off(HEADER_BYTES), &[]).unwrap_err();
}

/// An index that the log never reaches would keep the receiver from being read for ever.
#[test]
fn a_snapshot_beyond_the_end_of_its_senders_log_is_refused() {
    let body = |frame: Vec<u8>| Bytes::from(frame).split_off(HEADER_BYTES);
    for far in [10, 1 << 40, u64::MAX] {
        let labelled = SnapshotBegin { readable_from: far, ..begin() };
        SnapshotBegin::decode(body(put(|out| labelled.put(out)))).unwrap_err();
        let begun =
            SnapshotBegin { log_id: StoredLogId { term: Term::new(2), index: far }, ..begin() };
        SnapshotBegin::decode(body(put(|out| begun.put(out)))).unwrap_err();
        let mut ahead = slots();
        if let Images::Slots(images) = &mut ahead.images {
            images[1].index = LogIndex::new(far);
        }
        SnapshotSlots::decode(body(put(|out| ahead.put(out)))).unwrap_err();
        let mut ahead = keys();
        if let Images::Keys(images) = &mut ahead.images {
            images[1].index = far;
        }
        SnapshotSlots::decode_keys(body(put(|out| ahead.put(out)))).unwrap_err();
        let begun = SnapshotBegin { horizon: 6, ..begin() };
        SnapshotBegin::decode(body(put(|out| begun.put(out)))).unwrap_err();
        let end = SnapshotEnd { frames: 7, slots: 2, applied: far, last_log: 9 };
        SnapshotEnd::decode(body(put(|out| end.put(out)))).unwrap_err();
    }
}

#[test]
fn more_damaged_slots_than_allowed_are_refused() {
    let damaged = vec![1; DAMAGED_COUNT_MAX];
    let frame = put(|out| Accept::Changed { after: 4, damaged }.put(out));
    let mut body = frame[HEADER_BYTES..].to_vec();
    assert!(Accept::decode(body.clone().into()).is_ok());
    let count = u16::try_from(DAMAGED_COUNT_MAX + 1).unwrap();
    body[9..11].copy_from_slice(&count.to_le_bytes());
    body.extend([0; 8]);
    Accept::decode(body.into()).unwrap_err();
}

const REQUEST: &str = "0d000000 4c7fcf81 05 000000 0900000000000000 05 77686174";
const RESPONSE: &str = "0c000000 5ee12fbb 06 000000 0900000000000000 74686174";

/// Names and bytes, fields apart.
const GOLDEN: [(&str, &str); 27] = [
    (
        "hello",
        "66000000 2cab44b0 01 000000 44534b50 0200 c1000000000000000000000000000000 \
         0100000000000000 0200000000000000 02 0500000000000000 \
         7e000000000000000000000000000000 0300 623a31 01 0300000000000000 0700000000000000 01 \
         0200000000000000 0500000000000000",
    ),
    (
        "welcome",
        "25000000 1f60792a 02 000000 00 0200 6e6f c1000000000000000000000000000000 \
         0200000000000000 0600000000000000",
    ),
    (
        "append",
        "7a000000 1dc0ef91 03 000000 0300000000000000 0700000000000000 01 01 \
         0200000000000000 0500000000000000 00 02000000 0300000000000000 0600000000000000 \
         00 00000000 0300000000000000 0700000000000000 01 29000000 \
         0200010021000000 05000000080000000100000000000000000000000000000001000000 \
         0000000078",
    ),
    ("append reply", "12000000 c924867b 04 000000 00 01 0200000000000000 0500000000000000"),
    ("append reply, conflict", "11000000 0ff85524 04 000000 01 0200000000000000 0500000000000000"),
    (
        "append reply, higher vote",
        "12000000 d5a94876 04 000000 02 0300000000000000 0700000000000000 01",
    ),
    (
        "snapshot begin",
        "67000000 04bd31de 07 000000 0300000000000000 0700000000000000 01 \
         0200000000000000 0500000000000000 0800000000000000 0900000000000000 0300000000000000 \
         01 0100000000000000 0100000000000000 \
         0100 0100 0700000000000000 0100 0700000000000000 0000 0000 0000 00",
    ),
    (
        "snapshot slots",
        "3d000000 dba708a0 09 000000 0600000000000000 0900000000000000 02000000 \
         0100000000000000 0400000000000000 01000080 76 \
         0200000000000000 0400000000000000 00000000",
    ),
    ("vote", "0300000000000000 0700000000000000 01 01 0200000000000000 0500000000000000 00"),
    ("vote reply", "0300000000000000 0700000000000000 01 00 01"),
    (
        "transfer",
        "0300000000000000 0700000000000000 01 0900000000000000 01 0200000000000000 \
         0500000000000000",
    ),
    ("transfer reply, vote changed", "01 0300000000000000 0700000000000000 01"),
    ("transfer reply, log behind", "02 00"),
    (
        "commands",
        "03 02000000 28000000 \
         0200010020000000 01000000080000000000000000000000000000000000000001000000 \
         00000000 28000000 \
         0200010020000000 04000000080000000000000000000000010000000000000002000000 \
         00000000",
    ),
    ("results", "02000000 00 0000000000000000 0000 01 07"),
    (
        "join",
        "01 00 0700000000000000 c1000000000000000000000000000000 0100 61 0300 623a31 0300 \
         633a32 01",
    ),
    ("join reply, accepted", "00 c1000000000000000000000000000000 4000000000000000 20000000"),
    ("join reply, later", "01 0100 77"),
    ("join reply, refused", "02 0100 6e"),
    (
        "snapshot accept, changed",
        "13000000 b2c075c6 08 000000 00 0400000000000000 0100 1100000000000000",
    ),
    (
        "snapshot accept, higher vote",
        "12000000 d064077c 08 000000 01 0300000000000000 0700000000000000 01",
    ),
    (
        "snapshot end",
        "20000000 4cc08e76 0a 000000 0700000000000000 0200000000000000 \
         0800000000000000 0900000000000000",
    ),
    ("snapshot reply", "11000000 f8ba30da 0b 000000 0300000000000000 0700000000000000 01"),
    (
        "snapshot keys",
        "32000000 d92acdbf 0c 000000 0600000000000000 0900000000000000 02000000 \
         0100 0400000000000000 01000080 6b 76 \
         0000 0400000000000000 00000000",
    ),
    (
        "welcome, copy",
        "25000000 6048e8f0 02 000000 02 0200 6e6f c1000000000000000000000000000000 \
         0200000000000000 0600000000000000",
    ),
    ("whereabouts", "c1000000000000000000000000000000 0700000000000000"),
    ("whereabouts reply", "0300 623a31"),
];

fn copied(out: &mut Vec<u8>) -> Space<'_> {
    Space { out, shared: None }
}

/// A client's value may hold whole frames of ours. It travels as bytes of a length that its own frame
/// names, wherever the connection cuts the stream.
#[tokio::test]
async fn frames_within_a_value_stay_a_value() {
    let inner: Vec<u8> = all().into_iter().flat_map(|(case, _)| case.bytes).collect();
    let append = || AppendEntriesRequest::<TypeConfig> {
        vote: vote_from(stored_vote()),
        prev_log_id: Some(log_id(2, 5)),
        leader_commit: None,
        entries: vec![normal(3, 6, command(&[(1, Action::Append { value: &inner })]))],
    };
    let value = Some(Bytes::from(inner.clone()));
    let images =
        Images::Slots(vec![SlotImage { slot: SlotIndex::new(1), index: LogIndex::new(4), value }]);
    let slots = SnapshotSlots { nth: 6, last_log: 9, images };
    let mut sent = put(|out| put_append(copied(out), append()));
    slots.put(&mut sent);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut reader, _writer) = split(listener.accept().await.unwrap().0).unwrap();
    reader.allow_large();
    let sending = tokio::spawn(async move {
        for piece in sent.chunks(7) {
            client.write_all(piece).await.unwrap();
        }
    });
    let read = read_append(reader.expect(FrameKind::Append).await.unwrap(), &[]).unwrap();
    assert_eq!(format!("{read:?}"), format!("{:?}", append()));
    let frame = reader.expect(FrameKind::SnapshotSlots).await.unwrap();
    assert_eq!(SnapshotSlots::decode(frame).unwrap(), slots);
    assert!(reader.next().await.unwrap().is_none(), "no frame comes out of the value");
    sending.await.unwrap();
}
