//! What the driver answers other nodes, and itself as one of the replicas.
//!
//! Called by `driver`; calls `replica`, `store`. Invariant:
//!
//! - I1: what cannot be carried out at all is not answered: whoever asked counts a replica less.
//! - V3: records leave this node once they are synced: a version that is lost here may be given again (V1 of
//!   `leaderless/clock.rs`), and is not to be at others by then.

use tokio::time::Instant;

use super::driver::Driver;
use super::wire::PeerMessage;
use crate::leaderless::message::{Asker, Held, Refusal, Request, Response, Store};
use crate::leaderless::repair::{PullRequest, PullResponse};
use crate::leaderless::replica::{ReplicaEffect, Standing};

/// A replica whose disk is behind takes stores until so many bytes are not synced: its coordinators begin nothing when a quarter of it waits
/// at themselves.
const UNSYNCED_BYTES_MAX: usize = 128 << 20;
/// Most bytes of records in an answer to a pull or a copy; the last record may be larger.
const RECORDS_BYTES_MAX: usize = 1 << 20;

impl Driver {
    /// A replica's part of an operation, or of another node's pull.
    pub(super) fn request(&mut self, from: Asker, request: Request) {
        let effects = match request {
            Request::Ask { key, wants_value } => {
                let held = self.held(&key);
                self.replica.ask(from, &key, &held, wants_value)
            }
            Request::Store(store) => {
                if !self.is_within_bounds(&store.held) {
                    return; // I1
                }
                if !self.has_room_for(&store) {
                    let response = Response::Refused(Refusal::NoRoom);
                    self.apply(vec![ReplicaEffect::Respond { to: from, response }]);
                    return;
                }
                let now = self.now();
                self.clock.observe(now, store.held.version);
                let held = self.held(&store.key);
                let effects = self.replica.store(from, &store, &held, now);
                if is_refused_as_ahead(&effects) {
                    self.ahead_at = Some(Instant::now());
                }
                effects
            }
            Request::Pull(request) => {
                self.pulled(from, request);
                return;
            }
        };
        self.apply(effects);
    }

    /// Whether this node takes values that large, whoever sends them: an entry of the log holds no larger one.
    pub(super) fn is_within_bounds(&self, held: &Held) -> bool {
        let bytes = held.value.as_ref().map_or(0, bytes::Bytes::len);
        bytes <= self.config.value_bytes_max as usize
    }

    fn has_room_for(&self, store: &Store) -> bool {
        let has_memory = store.held.value.is_none() || self.has_memory(); // an empty value has a key
        let wal = &self.store.wal;
        let is_room = wal.has_next_segment() && wal.unsynced_bytes() < UNSYNCED_BYTES_MAX;
        has_memory && is_room
    }

    /// Whether values of other nodes are taken. A coordinator begins nothing while its own memory is full; others may be a little ahead
    /// of it.
    pub(super) fn has_memory(&self) -> bool {
        let memory_bytes_max = self.config.memory_bytes_max;
        self.store.keys.memory_bytes() < memory_bytes_max + memory_bytes_max / 4
    }

    /// Another node pulls from this one.
    fn pulled(&mut self, from: Asker, request: PullRequest) {
        let other = from.node;
        if let PullRequest::Begin { floor, fence } = request {
            // With a fence of a bad clock nothing could be written here for a while.
            let refusal = if fence > self.now() {
                Some(Refusal::Ahead)
            } else if !self.has_room() {
                Some(Refusal::NoRoom)
            } else {
                None
            };
            let effects = match refusal {
                Some(refusal) => {
                    let response = Response::Refused(refusal);
                    vec![ReplicaEffect::Respond { to: from, response }]
                }
                None => self.replica.begin_pull(from, &floor, fence),
            };
            self.apply(effects);
            return;
        }
        if self.replica.standing() != Standing::Ready || self.store.is_forgetting() {
            return; // the other one begins anew in a while
        }
        let Some(sums) = self.store.sums_with(other) else { return };
        let response = match request {
            PullRequest::Begin { .. } => return,
            PullRequest::Tops => PullResponse::Tops(sums.tops().to_vec()),
            PullRequest::Group(top) => {
                PullResponse::Group { top, sums: sums.of_group(top).to_vec() }
            }
            PullRequest::List(bucket) => {
                PullResponse::List { bucket, entries: self.store.entries(other, bucket) }
            }
            PullRequest::Fetch(hashes) => {
                let fetched = self.store.fetch(other, &hashes, RECORDS_BYTES_MAX);
                let floor = self.replica.numbers().floor.moment;
                PullResponse::Records { count: fetched.count, floor, records: fetched.records }
            }
        };
        let response = Response::Pulled(response);
        self.send_once_synced(other, PeerMessage::Response(from.operation.0, response)); // V3
    }

    /// Another node wants to copy what this one holds.
    pub(super) fn copy_begins(&mut self, other: super::NodeNumber, attempt: u64, losses: u64) {
        // A loss is noted in the log first.
        if self.replica.standing() == Standing::Lost || losses > 0 && !self.has_room() {
            return;
        }
        if losses > 0 {
            let effects = self.replica.hear_loss(other, losses);
            self.apply(effects);
        }
        let numbers = Box::new(self.replica.numbers().clone());
        let is_ready = self.replica.standing() == Standing::Ready;
        self.send_once_synced(other, PeerMessage::CopyBegun { attempt, numbers, is_ready });
    }

    /// It wants the next records.
    pub(super) fn copy_page(&mut self, other: super::NodeNumber, attempt: u64, from: u64) {
        if self.replica.standing() == Standing::Lost {
            return;
        }
        let page = self.store.page(other, from, RECORDS_BYTES_MAX);
        let (next, records) = (page.next, page.records);
        let floor = self.replica.numbers().floor.moment;
        let paged = PeerMessage::CopyPaged { attempt, from, next, floor, records };
        self.send_once_synced(other, paged); // V3
    }
}

fn is_refused_as_ahead(effects: &[ReplicaEffect]) -> bool {
    let is_it = |effect: &ReplicaEffect| {
        matches!(effect, ReplicaEffect::Respond { response: Response::Refused(Refusal::Ahead), .. })
    };
    effects.iter().any(is_it)
}
