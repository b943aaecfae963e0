//! WATCH, MULTI, EXEC, DISCARD and UNWATCH against a model, over every split into packets.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;

use super::*;
use crate::command::{
    Action, Body, Command, Condition, Failure, Operation, Outcome, ReadLevel, Reply,
};
use crate::server::access::Access;
use crate::server::clients::Client;
use crate::server::detect::Protocol;
use crate::server::session::Flow;
use crate::server::turn::{gather, plan, take_commands};

/// What a deleted key leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deleted {
    /// Its version, as a slot does.
    Version,
    /// Nothing, as a key in memory may.
    Nothing,
}

/// The key that no read gets through to.
const LOST: &[u8] = b"lost";

/// A store of one replica: values by key, with the log index of the last write.
struct Store {
    deleted: Deleted,
    index: u64,
    values: BTreeMap<Bytes, (u64, Option<Bytes>)>,
}

impl Store {
    fn new(deleted: Deleted) -> Store {
        Store { deleted, index: 0, values: BTreeMap::new() }
    }

    fn execute(&mut self, command: &Command) -> CommandResult {
        if command.operations().any(|operation| operation.key == LOST) {
            return Err(Failure::NoLeader { reason: "cut off".to_owned() });
        }
        if !command.is_read() {
            self.index += 1;
        }
        let outcomes = command.operations().map(|operation| self.operate(&operation)).collect();
        Ok(Reply {
            index: if command.is_read() { 0 } else { self.index },
            outcomes,
            ..Reply::default()
        })
    }

    fn operate(&mut self, operation: &Operation<'_>) -> Outcome {
        let key = Bytes::copy_from_slice(operation.key);
        let (version, value) = self.values.get(&key).cloned().unwrap_or((0, None));
        let holds = |condition: &Condition<'_>| match condition {
            Condition::Always => true,
            Condition::IfVersion(expected) => *expected == version,
            other => panic!("{other:?} is not part of this"),
        };
        let written = match &operation.action {
            Action::Get => None,
            Action::Set { value, condition, .. } => {
                holds(condition).then(|| Some(Bytes::copy_from_slice(value)))
            }
            Action::Delete { condition, .. } => {
                (holds(condition) && value.is_some()).then_some(None)
            }
            other => panic!("{other:?} is not part of this"),
        };
        let (changed, existed) = (written.is_some(), value.is_some());
        let body = if operation.action.is_read() { Body::Value(value) } else { Body::Empty };
        let version = match written {
            None => version,
            Some(None) if self.deleted == Deleted::Nothing => {
                self.values.remove(&key);
                0
            }
            Some(value) => {
                self.values.insert(key, (self.index, value));
                self.index
            }
        };
        Outcome { version, changed, existed, body }
    }
}

/// What happens next: a request of the client, or a write of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Request(&'static str),
    OtherSets,
    OtherDeletes,
}

const EVENTS: [Event; 12] = [
    Event::Request("WATCH k"),
    Event::Request("WATCH lost"),
    Event::Request("UNWATCH"),
    Event::Request("MULTI"),
    Event::Request("SET k mine"),
    Event::Request("DEL k"),
    Event::Request("GET k"),
    Event::Request("GET x"),
    Event::Request("EXEC"),
    Event::Request("DISCARD"),
    Event::OtherSets,
    Event::OtherDeletes,
];
/// What every sequence ends with, so that each ends in a transaction.
const ENDING: [Event; 4] = [
    Event::Request("MULTI"),
    Event::Request("SET k mine"),
    Event::Request("EXEC"),
    Event::Request("GET k"),
];

/// What the other client does.
fn write_as_the_other(store: &mut Store, event: Event) {
    let command = match event {
        Event::OtherSets => Command::set(b"k", b"theirs"),
        Event::OtherDeletes => Command::delete(b"k"),
        Event::Request(_) => return,
    };
    store.execute(&command.unwrap()).unwrap();
}

/// One connection and the store behind it, as a session drives them.
struct Driven {
    dialect: RespDialect,
    store: Store,
    input: BytesMut,
    out: BytesMut,
}

impl Driven {
    fn new(deleted: Deleted) -> Driven {
        let client = Arc::new(Client::new(1, SocketAddr::from(([127, 0, 0, 1], 5))));
        let requester = Requester::new(
            client,
            ReadLevel::Linearizable,
            Protocol::Resp,
            Arc::new(Access::free()),
        );
        let dialect =
            RespDialect::new(Arc::new(Keys::new(0, 16, &[])), MachineKind::Memory, requester);
        let (input, out) = (BytesMut::new(), BytesMut::new());
        Driven { dialect, store: Store::new(deleted), input, out }
    }

    /// Takes one packet, and answers what is whole.
    fn receive(&mut self, packet: &[u8]) {
        self.input.extend_from_slice(packet);
        while self.turn() == Flow::Again {}
    }

    fn turn(&mut self) -> Flow {
        let (mut errands, flow) = gather(&mut self.dialect, &mut self.input);
        let needs = errands.iter().map(|errand| errand.need(ReadLevel::Linearizable));
        for run in plan(needs.collect::<Vec<_>>()) {
            let errands = &mut errands[run.requests];
            let commands = take_commands(errands);
            let results = commands.iter().map(|command| self.store.execute(command));
            let mut results = results.collect::<Vec<_>>().into_iter();
            for errand in errands {
                let result = errand.has_result().then(|| results.next().unwrap());
                let (dialect, out) = (&mut self.dialect, &mut self.out);
                let mut rest = dialect.begin_reply(&errand.request, result.as_ref(), out);
                assert_eq!(dialect.go_on(&mut rest, None, out), None);
            }
        }
        flow
    }
}

/// Redis' rules for one watched key, and ours for one that could not be watched.
struct Model {
    deleted: Deleted,
    value: Option<&'static str>,
    /// Counts the writes of the key.
    version: u64,
    watch: ModelWatch,
    /// The queued requests, if there is a transaction.
    queue: Option<Vec<&'static str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ModelWatch {
    Nothing,
    /// Since the key had this version and was there or not.
    Since {
        version: u64,
        existed: bool,
        seen_otherwise: bool,
    },
    /// It failed: for this key, or for good.
    Failed {
        again: Option<&'static str>,
    },
}

impl Model {
    fn write(&mut self, value: Option<&'static str>) {
        if value.is_some() || self.value.is_some() {
            (self.value, self.version) = (value, self.version + 1);
        }
    }

    /// The client is told of the key, after a request that found it at `version_before`.
    fn see(&mut self, version_before: u64) {
        let (now, exists) = (self.version, self.value.is_some());
        if let ModelWatch::Since { version, existed, seen_otherwise } = &mut self.watch {
            let forgotten = self.deleted == Deleted::Nothing && !*existed && !exists;
            *seen_otherwise |= now != version_before || *version != now && !forgotten;
        }
    }

    /// Whether the key is no longer as it was watched, as far as the client can know.
    fn is_changed(&self) -> bool {
        match self.watch {
            ModelWatch::Since { version, existed, seen_otherwise } => {
                let forgotten =
                    self.deleted == Deleted::Nothing && !existed && self.value.is_none();
                seen_otherwise || version != self.version && !forgotten
            }
            ModelWatch::Nothing | ModelWatch::Failed { .. } => false,
        }
    }

    fn data(&mut self, request: &'static str) -> String {
        match request {
            "SET k mine" => {
                self.write(Some("mine"));
                "+OK\r\n".to_owned()
            }
            "DEL k" => {
                let count = i32::from(self.value.is_some());
                self.write(None);
                format!(":{count}\r\n")
            }
            "GET k" => match self.value {
                Some(value) => format!("${}\r\n{value}\r\n", value.len()),
                None => "$-1\r\n".to_owned(),
            },
            _ => "$-1\r\n".to_owned(),
        }
    }

    fn watch(&mut self, request: &'static str) -> String {
        let wider = "-ERR WATCH takes one key: an entry of the log depends on one key alone\r\n";
        let is_lost = request == "WATCH lost";
        let (failed, held) = match self.watch {
            ModelWatch::Nothing => (None, false),
            ModelWatch::Since { .. } => (is_lost.then_some(wider), true),
            ModelWatch::Failed { again: None } => {
                (Some("-ERR an earlier WATCH failed; UNWATCH, then WATCH anew\r\n"), false)
            }
            ModelWatch::Failed { again } => ((again != Some(request)).then_some(wider), false),
        };
        if let Some(answer) = failed {
            if held {
                self.watch = ModelWatch::Failed { again: None };
            }
            return answer.to_owned();
        }
        if is_lost {
            self.watch = ModelWatch::Failed { again: Some(request) };
            return "-CLUSTERDOWN no leader: cut off\r\n".to_owned();
        }
        if !held {
            let (version, existed) = (self.version, self.value.is_some());
            self.watch = ModelWatch::Since { version, existed, seen_otherwise: false };
        }
        "+OK\r\n".to_owned()
    }

    fn execute(&mut self, queue: Vec<&'static str>) -> String {
        let is_changed = self.is_changed();
        let watch = std::mem::replace(&mut self.watch, ModelWatch::Nothing);
        let writes = queue.iter().filter(|request| is_write(request)).count();
        match watch {
            ModelWatch::Since { .. } if writes > 1 => {
                "-EXECABORT Transaction discarded because of previous errors.\r\n".to_owned()
            }
            ModelWatch::Failed { .. } => {
                "-EXECABORT Transaction discarded because WATCH".to_owned()
            }
            _ if is_changed => "*-1\r\n".to_owned(),
            _ => {
                let count = queue.len();
                let replies = queue.into_iter().map(|request| match request {
                    "UNWATCH" => "+OK\r\n".to_owned(),
                    request => self.data(request),
                });
                format!("*{count}\r\n{}", replies.collect::<String>())
            }
        }
    }

    /// The reply to a request; of an error maybe only the beginning.
    fn ask(&mut self, request: &'static str) -> String {
        let in_queue = self.queue.is_some();
        match request {
            "MULTI" if in_queue => "-ERR MULTI calls can not be nested\r\n".to_owned(),
            "MULTI" => {
                self.queue = Some(Vec::new());
                "+OK\r\n".to_owned()
            }
            "EXEC" => match self.queue.take() {
                None => "-ERR EXEC without MULTI\r\n".to_owned(),
                Some(queue) => self.execute(queue),
            },
            "DISCARD" if in_queue => {
                (self.queue, self.watch) = (None, ModelWatch::Nothing);
                "+OK\r\n".to_owned()
            }
            "DISCARD" => "-ERR DISCARD without MULTI\r\n".to_owned(),
            "WATCH k" | "WATCH lost" if in_queue => {
                "-ERR WATCH inside MULTI is not allowed\r\n".to_owned()
            }
            "WATCH k" | "WATCH lost" => self.watch(request),
            request => self.queue_or_do(request),
        }
    }

    fn queue_or_do(&mut self, request: &'static str) -> String {
        let is_watched = matches!(self.watch, ModelWatch::Since { .. });
        if let Some(queue) = &mut self.queue {
            let writes = queue.iter().filter(|request| is_write(request)).count();
            queue.push(request);
            let refused = is_watched && is_write(request) && writes == 1;
            return if refused { "-EXECABORT under WATCH" } else { "+QUEUED\r\n" }.to_owned();
        }
        if request == "UNWATCH" {
            self.watch = ModelWatch::Nothing;
            return "+OK\r\n".to_owned();
        }
        let version_before = self.version;
        let reply = self.data(request);
        if request != "GET x" {
            self.see(version_before);
        }
        reply
    }
}

fn is_write(request: &str) -> bool {
    request.starts_with("SET") || request.starts_with("DEL")
}

/// What the model answers to each request of `events`.
fn expected(events: &[Event], deleted: Deleted) -> Vec<String> {
    let watch = ModelWatch::Nothing;
    let mut model = Model { deleted, value: None, version: 0, watch, queue: None };
    let mut replies = Vec::new();
    for event in events {
        match event {
            Event::Request(request) => replies.push(model.ask(request)),
            Event::OtherSets => model.write(Some("theirs")),
            Event::OtherDeletes => model.write(None),
        }
    }
    replies
}

/// Compares all replies with those of the model; `ends_packet` says of each byte of a request
/// whether a packet ends behind it. The other client comes in between packets alone.
fn check(events: &[Event], deleted: Deleted, mut ends_packet: impl FnMut(bool) -> bool) {
    let mut driven = Driven::new(deleted);
    let mut packet = Vec::new();
    for event in events {
        if let Event::Request(request) = event {
            let line = format!("{request}\r\n");
            for (position, byte) in line.bytes().enumerate() {
                packet.push(byte);
                if ends_packet(position + 1 == line.len()) {
                    driven.receive(&std::mem::take(&mut packet));
                }
            }
        } else {
            driven.receive(&std::mem::take(&mut packet));
            write_as_the_other(&mut driven.store, *event);
        }
    }
    driven.receive(&packet);
    let found = String::from_utf8(driven.out.to_vec()).unwrap();
    let mut rest = found.as_str();
    for reply in expected(events, deleted) {
        let behind = rest.strip_prefix(reply.as_str());
        assert!(behind.is_some(), "{reply:?} expected in {found:?} of {events:?}, {deleted:?}");
        rest = behind.unwrap();
        if !reply.ends_with("\r\n") {
            rest = rest.split_once("\r\n").unwrap().1;
        }
    }
    assert_eq!(rest, "", "{found:?} of {events:?}, {deleted:?}");
}

/// Every sequence of `length` events, and the ending.
fn sequences(length: u32) -> impl Iterator<Item = Vec<Event>> {
    (0..EVENTS.len().pow(length)).map(move |number| {
        let places = (0..length).map(|place| number / EVENTS.len().pow(place) % EVENTS.len());
        places.map(|place| EVENTS[place]).chain(ENDING).collect()
    })
}

#[test]
fn every_short_sequence_is_as_the_model_has_it_in_every_split_into_packets() {
    const SPLITS: u32 = 1 << 4;
    for events in sequences(3) {
        for split in 0..SPLITS {
            let mut request = 0;
            let ends = |is_last: bool| {
                request += u32::from(is_last);
                is_last && (split << 1) >> request & 1 == 1
            };
            check(&events, Deleted::Nothing, ends);
        }
    }
}

#[test]
fn every_sequence_of_four_is_as_the_model_has_it_in_one_packet_and_in_many() {
    for (number, events) in sequences(4).enumerate() {
        let deleted = if number % 2 == 0 { Deleted::Version } else { Deleted::Nothing };
        check(&events, deleted, |_| false);
        check(&events, deleted, |is_last| is_last);
    }
}

#[test]
fn long_sequences_are_as_the_model_has_them_however_their_bytes_are_split() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % below
    };
    for round in 0..5000 {
        let length = 4 + next(16);
        let mut events: Vec<Event> = (0..length).map(|_| EVENTS[next(EVENTS.len())]).collect();
        events.extend(ENDING);
        let deleted = if round % 2 == 0 { Deleted::Version } else { Deleted::Nothing };
        let packet_bytes = 1 + next(60);
        check(&events, deleted, |_| next(packet_bytes) == 0);
    }
}
