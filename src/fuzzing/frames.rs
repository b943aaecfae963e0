//! Targets of what members send each other, and of commands, which the log holds too.
//! See `docs/format.md`, "Peer frames" and "Command".

use bytes::Bytes;
use diskstore_storage::LogId;

use super::{seen, split_sealed};
use crate::cluster;
use crate::command::cursor::Cursor;
use crate::command::{Action, Answer, Command, CommandBuilder, Condition, Operation, ReadLevel};
use crate::command::{decode_reply, decode_result};
use crate::leaderless::node::fuzzing as registers;
use crate::peer::append::{Append, AppendReply};
use crate::peer::frames::{BODY_BYTES_MAX, FrameKind, HEADER_BYTES, Header, put_frame};
use crate::peer::requests::{read_request, read_response};
use crate::peer::votes::{Ballot, BallotReply, Transfer, TransferReply};
use crate::peer::{
    Charter, FoundingAnswer, FoundingQuestion, Hello, JoinReply, JoinRequest, Method, Welcome,
};
use crate::peer::{decode_commands, decode_results, encode_commands};
use crate::replica::snapshot_frames::{
    Accept, SnapshotBegin, SnapshotEnd, SnapshotSlots, read_reply,
};

/// Results that a body may be asked for, as a caller does that sent so many commands.
const RESULT_COUNT: usize = 3;

/// A command that can be read can be walked, and has the bytes that it came in.
pub(super) fn decode_command(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    if let Ok(command) = Command::decode(bytes.clone()) {
        assert_eq!(command.bytes(), input);
        for operation in command.operations() {
            assert!(operation.key.len() <= input.len());
        }
        assert_eq!(command.operations().count(), command.operation_count());
        let each = command.commands().map(|operations| operations.count());
        assert_eq!(each.sum::<usize>(), command.operation_count());
        assert!(Command::checked_before(bytes.clone().into()) == command);
    }
    seen(decode_reply(bytes.clone()));
    seen(decode_result(&mut Cursor::new(bytes)));
}

fn built(actions: &[Action<'_>]) -> Command {
    let mut builder = CommandBuilder::new();
    for action in actions {
        let operation = Operation { key: &7_u64.to_le_bytes(), action: *action };
        builder.push(&operation).expect("invariant: a few short operations");
    }
    builder.finish()
}

fn some_commands() -> Vec<Command> {
    let (value, answer) = (&b"value"[..], Answer::Status);
    let set = |condition| Action::Set { value, condition, answer };
    vec![
        built(&[Action::Get]),
        built(&[set(Condition::Always), Action::Delete { condition: Condition::Always, answer }]),
        built(&[set(Condition::IfVersion(9)), set(Condition::IfEqual(b"old")), Action::Get]),
    ]
}

pub(super) fn commands() -> Vec<Vec<u8>> {
    some_commands().iter().map(|command| command.bytes().to_vec()).collect()
}

/// A frame with its header, and what its kind says of its body.
pub(super) fn decode_frame(input: &[u8]) {
    let input = split_sealed(input);
    let mut bytes = input.rest.to_vec();
    if input.is_sealed && bytes.len() > HEADER_BYTES {
        let kind = FrameKind::of(bytes.get(8).copied().unwrap_or(0));
        let body = bytes.split_off(HEADER_BYTES);
        bytes.clear();
        put_frame(&mut bytes, kind.unwrap_or(FrameKind::Hello), |out| out.extend(&body));
    }
    let Some((head, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return };
    let Ok(header) = Header::decode(*head, BODY_BYTES_MAX) else { return };
    let Some(body) = body.get(..header.length) else { return };
    let Ok(frame) = header.with_body(Bytes::copy_from_slice(body)) else { return };
    let body = frame.body;
    match frame.kind {
        FrameKind::Hello => seen(Hello::decode(body)),
        FrameKind::Welcome => seen(Welcome::decode(body)),
        FrameKind::Append => seen(Append::decode(body, &frame.summed, Ok)),
        FrameKind::AppendReply => seen(AppendReply::decode(body)),
        FrameKind::Request => {
            seen(read_request(body).map(|(_, method, body)| request(method, &body)));
        }
        FrameKind::Response => seen(read_response(body).map(|(_, body)| response(&body))),
        FrameKind::SnapshotBegin => seen(SnapshotBegin::decode(body)),
        FrameKind::SnapshotAccept => seen(Accept::decode(body)),
        FrameKind::SnapshotSlots => seen(SnapshotSlots::decode(body)),
        FrameKind::SnapshotEnd => seen(SnapshotEnd::decode(body)),
        FrameKind::SnapshotReply => seen(read_reply(body)),
        FrameKind::SnapshotKeys => seen(SnapshotSlots::decode_keys(body)),
        FrameKind::SnapshotRequests => {}
    }
}

/// The body of a request, by every reader of one.
fn request(method: Method, body: &Bytes) {
    seen(decode_commands(body.clone()));
    seen(JoinRequest::decode(body.clone()));
    seen(FoundingQuestion::decode(body.clone()));
    seen(Charter::decode(body.clone()));
    seen(Ballot::decode(body.clone()));
    seen(Transfer::decode(body.clone()));
    cluster::fuzz_order(method, body);
}

/// That of a response: it does not say to which request.
fn response(body: &Bytes) {
    seen(decode_results(body.clone(), RESULT_COUNT));
    seen(JoinReply::decode(body.clone()));
    seen(FoundingAnswer::decode(body.clone()));
    seen(BallotReply::decode(body.clone()));
    seen(TransferReply::decode(body.clone()));
}

pub(super) fn frames() -> Vec<Vec<u8>> {
    let mut frames = hellos();
    frames.push(framed(
        FrameKind::Request,
        &request_of(&encode_commands(&some_commands(), ReadLevel::Log)),
    ));
    let mut bodies = vec![];
    let nothing = JoinReply::Later("soon".to_owned());
    nothing.put(&mut bodies);
    frames.push(framed(FrameKind::Response, &[&[1; 8], bodies.as_slice()].concat()));
    let mut append = Vec::new();
    AppendReply::Holds(Some(LogId::default())).put(&mut append);
    frames.push([&[1], append.as_slice()].concat());
    for kind in (1..=13).filter_map(FrameKind::of) {
        frames.push(framed(kind, &[0; 80]));
        frames.push(framed(kind, &[1; 120]));
    }
    frames
}

fn request_of(body: &[u8]) -> Vec<u8> {
    [&[1, 0, 0, 0, 0, 0, 0, 0, 4], body].concat()
}

fn framed(kind: FrameKind, body: &[u8]) -> Vec<u8> {
    let mut out = vec![1];
    put_frame(&mut out, kind, |out| out.extend(body));
    out
}

/// What a stranger can send before it has proved anything.
pub(super) fn decode_hello(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    seen(Hello::decode(bytes.clone()));
    seen(Welcome::decode(bytes.clone()));
    seen(JoinRequest::decode(bytes));
}

pub(super) fn hellos() -> Vec<Vec<u8>> {
    let hello = b"dstpeers\x01\0\0\0";
    vec![framed(FrameKind::Hello, hello), hello.to_vec(), [&hello[..], &[0; 90]].concat()]
}

/// What one member asks another to do on an operator's behalf.
pub(super) fn decode_order(input: &[u8]) {
    let Some((method, body)) = input.split_first() else { return };
    if let Some(method) = Method::of(*method) {
        cluster::fuzz_order(method, &Bytes::copy_from_slice(body));
    }
}

pub(super) fn orders() -> Vec<Vec<u8>> {
    let named = |code: u8| [&[code, 5, 0][..], b"node1"].concat();
    let mut bodies: Vec<Vec<u8>> = (0..=5).map(named).collect();
    bodies.push([&[3][..], b"\x05\0node1\x05\0node2"].concat());
    bodies.extend((5..=8).map(|code| [&[code][..], &[7; 40]].concat()));
    bodies.extend((5..=8).map(|code| [&[code][..], &[7; 8]].concat()));
    let methods = (0..=40).filter(|byte| Method::of(*byte).is_some());
    methods
        .flat_map(|method| bodies.iter().map(move |body| [&[method], body.as_slice()].concat()))
        .collect()
}

/// A frame between the nodes of a cluster without a leader; the body alone where it is sealed.
pub(super) fn decode_register_frame(input: &[u8]) {
    let input = split_sealed(input);
    registers::decode_frame(input.is_sealed, input.rest);
}

pub(super) fn register_frames() -> Vec<Vec<u8>> {
    both_ways(&registers::frame_bodies())
}

/// What such a node hears first, or is answered.
pub(super) fn decode_register_hello(input: &[u8]) {
    let input = split_sealed(input);
    registers::decode_hello(input.is_sealed, input.rest);
}

pub(super) fn register_hellos() -> Vec<Vec<u8>> {
    both_ways(&registers::hello_bodies())
}

/// Each body sealed, and as it is under its header.
fn both_ways(bodies: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let inputs = bodies.iter().map(|body| {
        let plain = [&[0], registers::framed(body).as_slice()].concat();
        [[&[1], body.as_slice()].concat(), plain]
    });
    inputs.flatten().collect()
}
