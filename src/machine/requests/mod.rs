//! The request ids of a machine: a write that is sent again is not applied again, and is answered
//! as it was the first time.
//!
//! Called by `mod.rs` for entries with an id, and by the replica for checkpoints, snapshots and
//! backups; calls `storage::requests`. Invariants:
//!
//! - I1: whether an entry is applied depends on its id, its bytes and the entries before, so it is
//!   the same on every replica (I1 and I2 of `storage::requests`).
//! - I2: an answer that was computed while the content was ahead of the entry is not remembered:
//!   it may be wrong. Whoever asks for it hears which entry applied the write, and no more.
//! - I3: what is taken for a checkpoint, a snapshot or a backup is as of the entry that it begins
//!   with (H31).

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use diskstore_storage::disk::Disk;
use diskstore_storage::requests::{self, ANSWER_BYTES_MAX, Request, Requests};
use diskstore_storage::state::Target;
use diskstore_storage::{LogId, LogIndex, Result};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::ApplyError;
use super::effect::{is_blind, nothing};
use crate::command::{
    Action, Command, Failure, Outcome, Refusal, Reply, decode_reply, reply_bytes,
};

/// The request ids of a machine. All that work on one machine share them.
#[derive(Debug, Clone, Default)]
pub struct RequestIds {
    shared: Arc<SharedIds>,
}

#[derive(Debug, Default)]
struct SharedIds {
    table: Mutex<Requests>,
    /// Where its files are.
    place: OnceLock<Place>,
    /// The table of the snapshot that is about to be installed, whose begin it is as of. Whoever writes or
    /// removes a file holds this.
    received: Mutex<Option<ReceivedIds>>,
}

#[derive(Debug)]
struct Place {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    cluster_id: u128,
}

#[derive(Debug)]
struct ReceivedIds {
    begin: LogIndex,
    table: Requests,
    crc: u32,
}

/// What is known of a request.
#[derive(Debug)]
pub(super) struct DigestedRequest {
    index: LogIndex,
    id: u128,
    content: u64,
}

impl DigestedRequest {
    /// The request of entry `index`, which has this id.
    pub(super) fn new(index: u64, id: &[u8], command: &Command) -> DigestedRequest {
        let [id, content] = [id, command.content()].map(digest);
        // Half of it is enough to tell a request from another one by mistake.
        let content = u64::try_from(content >> 64).unwrap_or_default();
        DigestedRequest { index: LogIndex::new(index), id, content }
    }
}

/// The first half of the SHA-256 of some bytes.
fn digest(bytes: &[u8]) -> u128 {
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    hash.first_chunk().copied().map_or(0, u128::from_le_bytes)
}

impl RequestIds {
    /// What is answered in the place of applying the request, if its id is remembered.
    pub(super) fn answer_to(
        &self,
        asked: &DigestedRequest,
        command: &Command,
    ) -> Option<std::result::Result<Reply, ApplyError>> {
        let table = self.shared.table.lock();
        // An entry that is applied once more is no repeat of itself.
        let first = table.find(asked.id).filter(|first| first.index < asked.index)?;
        let index = first.index.get();
        if first.content != asked.content {
            let refusal = Refusal::OtherRequest { index };
            return Some(Err(ApplyError::NotApplied(Failure::Refused(refusal))));
        }
        let answer = first.answer.as_deref().map(Bytes::copy_from_slice);
        drop(table);
        let kept = answer.and_then(|answer| decode_reply(answer).ok());
        let kept = kept.filter(|reply| reply.outcomes.len() == command.operation_count());
        Some(kept.or_else(|| evident(index, command)).map_or_else(
            || Err(ApplyError::NotApplied(applied_before(index))),
            |reply| Ok(Reply { index, is_repeat: true, ..reply }),
        ))
    }

    /// Remembers a request that was applied just now. `reply` is `None` if it is not known for certain.
    pub(super) fn remember(&self, asked: &DigestedRequest, reply: Option<&Reply>) {
        let answer = reply.filter(|reply| reply_bytes(reply) <= ANSWER_BYTES_MAX).map(|reply| {
            let mut bytes = Vec::new();
            reply.encode(&mut bytes);
            bytes.into()
        });
        let DigestedRequest { index, id, content } = *asked;
        let mut table = self.shared.table.lock();
        // An entry that is applied once more is there already.
        if table.find(id).is_none_or(|known| known.index < index) {
            table.push(Request { index, id, content, answer });
        }
    }

    /// Nobody asks for the ids as of an entry before this one any more.
    pub fn settle(&self, index: u64) {
        self.shared.table.lock().settle(LogIndex::new(index));
    }

    /// The ids as of entry `index`, as bytes; empty if there were none.
    pub fn at(&self, index: u64) -> Bytes {
        self.shared.table.lock().encode_at(LogIndex::new(index))
    }

    /// Whether entry `index`, which is applied here and has this command, was the one that applied it;
    /// `None` if its id is forgotten.
    pub fn is_applied_by(&self, index: u64, command: &Command) -> Option<bool> {
        let Some(id) = command.request_id() else { return Some(true) };
        let table = self.shared.table.lock();
        match table.find(digest(id))?.index.get().cmp(&index) {
            Ordering::Equal => Some(true),
            Ordering::Less => Some(false),
            Ordering::Greater => None, // it was forgotten between the two
        }
    }
}

/// Files, and ids from elsewhere.
impl RequestIds {
    /// Says where the files are, and reads the one that the machine's checkpoint names.
    ///
    /// # Errors
    /// Files that are lost, damaged, or another cluster's.
    ///
    /// # Panics
    /// If it was said before.
    pub(super) fn open(
        &self,
        disk: Arc<dyn Disk>,
        directory: &Path,
        cluster_id: u128,
        durable: Option<&Target>,
    ) -> Result<()> {
        if let Some(Target { log_id, requests_crc, .. }) = durable {
            let table = requests::read(&*disk, directory, cluster_id, *log_id, *requests_crc)?;
            *self.shared.table.lock() = table;
        }
        let place = Place { disk, directory: directory.to_owned(), cluster_id };
        assert!(self.shared.place.set(place).is_ok(), "request ids are opened once");
        Ok(())
    }

    /// Makes ids as of `log_id` durable; what a checkpoint names them by ([`Target::requests_crc`]).
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    ///
    /// # Panics
    /// If there are any and nobody has said where the files are.
    pub fn keep(&self, log_id: LogId, ids: &[u8]) -> Result<u32> {
        let received = self.shared.received.lock();
        match &*received {
            // The install names that file, and answers in it may be others.
            Some(received) if received.begin.get() == log_id.index => Ok(received.crc),
            _ => self.write(log_id, ids),
        }
    }

    /// Writes the file, while nobody else does.
    fn write(&self, log_id: LogId, ids: &[u8]) -> Result<u32> {
        if ids.is_empty() {
            return Ok(0);
        }
        let place = self.shared.place.get();
        let Place { disk, directory, cluster_id } =
            place.expect("invariant: whoever opens a machine says where its files are");
        requests::write(&**disk, directory, *cluster_id, log_id, ids)
    }

    /// Removes what no checkpoint names any more, now that one of `durable` does. A file that cannot be
    /// removed is left.
    pub(super) fn remove_before(&self, durable: Option<&Target>) {
        let (Some(place), Some(durable)) = (self.shared.place.get(), durable) else { return };
        if durable.requests_crc == 0 {
            return; // there was none before either
        }
        let _alone = self.shared.received.lock();
        let removed = requests::remove_before(&*place.disk, &place.directory, durable.log_id.index);
        if let Err(error) = removed {
            tracing::warn!(%error, "old files of request ids are left");
        }
    }

    /// Removes what was kept for a checkpoint of entry `index` that was given up, unless one of `durable`
    /// or a snapshot that is about to be installed names it. A file that cannot be removed is left.
    pub(super) fn withdraw(&self, index: u64, durable: Option<&Target>) {
        let Some(place) = self.shared.place.get() else { return };
        let received = self.shared.received.lock();
        let is_received = received.as_ref().is_some_and(|received| received.begin.get() == index);
        if is_received || durable.is_some_and(|durable| durable.log_id.index >= index) {
            return;
        }
        if let Err(error) = requests::remove(&*place.disk, &place.directory, index) {
            tracing::warn!(%error, "a file of request ids is left");
        }
    }

    /// Ids as they came from elsewhere replace those that are here. False, and nothing changes, if the
    /// bytes are none as of entry `index`.
    pub fn replace(&self, index: u64, ids: &[u8]) -> bool {
        let table = Requests::decode(ids, LogIndex::new(index));
        table.map(|table| *self.shared.table.lock() = table).is_some()
    }

    /// Takes the ids of a snapshot that begins at `begin`, and makes them durable, until it is installed.
    /// False if the bytes are none. No checkpoint runs meanwhile, and `durable` is the newest; where that
    /// is no earlier one its file stays as it is.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn receive(&self, begin: LogId, ids: &[u8], durable: Option<&Target>) -> Result<bool> {
        let index = LogIndex::new(begin.index);
        let Some(table) = Requests::decode(ids, index) else { return Ok(false) };
        let mut received = self.shared.received.lock();
        let crc = match durable.filter(|durable| durable.log_id >= begin) {
            Some(durable) => durable.requests_crc,
            None => self.write(begin, ids)?,
        };
        *received = Some(ReceivedIds { begin: index, table, crc });
        Ok(true)
    }

    /// By which CRC the checkpoint of a snapshot names its ids; 0 if none were received.
    pub(super) fn received_crc(&self, begin: u64) -> u32 {
        let received = self.shared.received.lock();
        let received = received.as_ref().filter(|it| it.begin.get() == begin);
        received.map_or(0, |received| received.crc)
    }

    /// The snapshot that begins at `begin` is installed, and with it the ids.
    pub(super) fn install(&self, begin: u64) {
        let received = self.shared.received.lock().take();
        let received = received.filter(|received| received.begin.get() == begin);
        *self.shared.table.lock() = received.map_or_else(Requests::default, |it| it.table);
    }
}

/// The reply to a command that says by itself what it answered: it sets, always.
fn evident(index: u64, command: &Command) -> Option<Reply> {
    let outcome = |action: &Action<'_>| {
        let is_plain = matches!(action, Action::Set { .. }) && is_blind(action);
        is_plain.then(|| Outcome { changed: true, ..nothing(index) })
    };
    let outcomes = command.operations().map(|operation| outcome(&operation.action));
    Some(Reply { index, outcomes: outcomes.collect::<Option<_>>()?, ..Reply::default() })
}

fn applied_before(index: u64) -> Failure {
    let reason = format!(
        "log entry {index} carried out this request before, once; what it answered then is not known \
         here any more"
    );
    Failure::Unknown { term: 0, index, reason }
}

#[cfg(test)]
mod tests;
