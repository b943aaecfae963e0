//! Calls to one member over one connection, many at a time: votes, forwarded commands, joins.
//!
//! Called by `network` and `cluster`; calls `connection`. A call that fails says whether the other
//! side may have seen it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::connection::{FrameReader, FrameWriter, dial};
use super::cursor::Cursor;
use super::wire::{Hello, Kind, put_frame};

/// Most calls that wait to be written.
const QUEUE_MAX: usize = 1024;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Method {
    /// A vote.
    Vote = 1,
    /// A vote before the vote.
    PreVote = 2,
    /// Take over leadership.
    TransferLeader = 3,
    /// Propose these commands.
    Write = 4,
    /// Read these commands.
    Read = 5,
    /// Let me join.
    Join = 6,
    /// How many members hold this index?
    Holders = 7,
    /// What the leader knows of the cluster's progress.
    Progress = 8,
}

impl Method {
    /// The method of a byte.
    pub fn of(byte: u8) -> Option<Method> {
        let methods = [
            Method::Vote,
            Method::PreVote,
            Method::TransferLeader,
            Method::Write,
            Method::Read,
            Method::Join,
            Method::Holders,
            Method::Progress,
        ];
        methods.into_iter().find(|method| *method as u8 == byte)
    }
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The request certainly did not reach the other side.
    #[error("cannot reach {address}")]
    NotSent {
        /// Where it was to go.
        address: String,
        /// What failed.
        source: io::Error,
    },
    /// The request may have been carried out.
    #[error("{address} gave no answer")]
    Lost {
        /// Where it went.
        address: String,
    },
}

struct Call {
    id: u64,
    method: Method,
    body: Bytes,
}

type Pending = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Bytes>>>>>;

struct Live {
    queue: mpsc::Sender<Call>,
    pending: Pending,
}

/// Calls to one address. Connects when it is first used, and again after a failure.
pub struct Channel {
    address: String,
    hello: Hello,
    next_id: AtomicU64,
    live: tokio::sync::Mutex<Option<Arc<Live>>>,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Channel").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Channel {
    /// A channel that is not connected yet.
    pub fn new(address: String, hello: Hello) -> Channel {
        Channel { address, hello, next_id: AtomicU64::new(1), live: tokio::sync::Mutex::new(None) }
    }

    /// Where it goes.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request and waits for its response.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(
        &self,
        method: Method,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let live = self.connected().await?;
        let (sender, receiver) = oneshot::channel();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        match live.pending.lock().as_mut() {
            Some(pending) => pending.insert(id, sender),
            None => return Err(self.not_sent(io::ErrorKind::ConnectionReset.into())),
        };
        let answer = async {
            if live.queue.send(Call { id, method, body }).await.is_err() {
                return Err(self.lost());
            }
            receiver.await.map_err(|_| self.lost())
        };
        let answer = timeout(deadline, answer).await;
        if answer.is_err()
            && let Some(pending) = live.pending.lock().as_mut()
        {
            pending.remove(&id);
        }
        answer.map_err(|_| self.lost())?
    }

    async fn connected(&self) -> Result<Arc<Live>, CallError> {
        let mut live = self.live.lock().await;
        if let Some(live) = live.as_ref().filter(|live| live.pending.lock().is_some()) {
            return Ok(live.clone());
        }
        let (reader, writer) =
            dial(&self.address, &self.hello).await.map_err(|source| self.not_sent(source))?;
        let (queue, calls) = mpsc::channel(QUEUE_MAX);
        let pending: Pending = Arc::new(Mutex::new(Some(HashMap::new())));
        tokio::spawn(write_calls(writer, calls, pending.clone()));
        tokio::spawn(read_answers(reader, pending.clone()));
        let fresh = Arc::new(Live { queue, pending });
        *live = Some(fresh.clone());
        Ok(fresh)
    }

    fn not_sent(&self, source: io::Error) -> CallError {
        CallError::NotSent { address: self.address.clone(), source }
    }

    fn lost(&self) -> CallError {
        CallError::Lost { address: self.address.clone() }
    }
}

/// Writes requests as they come, as many as wait with one write.
async fn write_calls(mut writer: FrameWriter, mut calls: mpsc::Receiver<Call>, pending: Pending) {
    let mut batch = Vec::new();
    while calls.recv_many(&mut batch, QUEUE_MAX).await > 0 {
        for Call { id, method, body } in batch.drain(..) {
            put_frame(&mut writer.buffer, Kind::Request, |out| {
                out.put_u64_le(id);
                out.put_u8(method as u8);
                out.put_slice(&body);
            });
        }
        if writer.send().await.is_err() {
            break;
        }
    }
    pending.lock().take(); // whoever waits is told that the answer is lost
}

async fn read_answers(mut reader: FrameReader, pending: Pending) {
    while let Ok(body) = reader.expect(Kind::Response).await {
        let mut cursor = Cursor::new(body);
        let Ok(id) = cursor.u64() else { break };
        let waiting = pending.lock().as_mut().and_then(|pending| pending.remove(&id));
        if let Some(sender) = waiting {
            // The caller may have given up.
            drop(sender.send(cursor.rest()));
        }
    }
    pending.lock().take();
}
