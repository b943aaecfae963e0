//! One connection to a node with many requests on their way at once. A task owns its socket; whoever
//! asks waits for the answer to the own request alone.
//!
//! Invariants:
//! - I1: answers belong to requests in the order in which these were sent.
//! - I2: a request counts as not sent only if none of its bytes were handed to the socket. Of those of a
//!   write that failed some may have been, where a stream says so.
//! - I3: requests that wait or are on their way take [`ROOM_BYTES`] at most, and the bytes that were
//!   read no more than one answer may take.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::super::answer::{Answer, NoAnswer, decode, encode};
use super::super::connection::ANSWER_TIME_MAX;
use super::super::dialling::{Dialling, NodeStream};
use super::ReadsFrom;
use super::outcome::{FailedAttempt, Intent, OperationError, Remedy, judged};
use crate::config::Address;
use crate::status::Status;

/// How long a node may take to accept a connection, and then to each answer before it serves.
const OPEN_TIME_MAX: Duration = Duration::from_secs(5);
/// Bytes of requests that wait or are on their way (I3); a longer one goes alone.
const ROOM_BYTES: u32 = 16 << 20;
/// What a short request counts as, for what is kept beside its bytes.
const REQUEST_BYTES_MIN: u32 = 1 << 10;
/// No further request is taken while so many bytes wait for the socket.
const OUTPUT_BYTES_MAX: usize = 256 << 10;
/// Room for one read.
const READ_BYTES: usize = 64 << 10;
/// Bytes of an empty buffer that are kept.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

/// A connection; it ends once nobody holds this and everything is answered.
#[derive(Debug)]
pub(super) struct Pipeline {
    node: Address,
    requests: UnboundedSender<Queued>,
    room: Arc<Semaphore>,
}

/// One request on its way to the socket.
#[derive(Debug)]
struct Queued {
    bytes: Bytes,
    asker: oneshot::Sender<Result<Answer, Lost>>,
    room: OwnedSemaphorePermit,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Lost {
    /// I2
    NotSent(String),
    /// It was sent, or a part of it.
    Unanswered(String),
    /// The other side is no node.
    Foreign,
}

impl Pipeline {
    /// Connects, and asks until the node serves. Nothing that a node says before that is taken for the
    /// answer to anybody's request.
    ///
    /// # Errors
    /// It cannot be reached, or refuses; in either case another node may do better unless the remedy is
    /// [`Remedy::None`].
    pub(super) async fn open(
        node: &Address,
        dialling: &Dialling,
        reads: ReadsFrom,
    ) -> Result<Pipeline, FailedAttempt> {
        let failed = |error: io::Error| FailedAttempt {
            error: OperationError::NotSent { reason: format!("{node}: {error}") },
            remedy: Remedy::Elsewhere,
        };
        let mut stream = dialling.dial(node, OPEN_TIME_MAX).await.map_err(failed)?;
        let mut input = BytesMut::new();
        for (words, other) in greetings(dialling, reads) {
            let mut answer = greet(&mut stream, &mut input, &words).await.map_err(failed)?;
            if let (Some(other), Some(Answer::Error(words))) = (other, &answer)
                && words.starts_with("ERR unknown ")
            {
                answer = greet(&mut stream, &mut input, &other).await.map_err(failed)?;
            }
            let foreign = || OperationError::Foreign { node: node.to_string() };
            let answer =
                answer.ok_or_else(|| FailedAttempt { error: foreign(), remedy: Remedy::None })?;
            judged(answer, &node.to_string(), Intent::Read)?;
        }
        Ok(Pipeline::over(node, stream, input))
    }

    /// Begins to ask over a connection to a node that serves; `input` was read of it.
    pub(super) fn over(node: &Address, stream: Box<dyn NodeStream>, input: BytesMut) -> Pipeline {
        let (requests, taken) = unbounded_channel(); // bounded by its room
        tokio::spawn(Exchange::new(stream, input).run(taken));
        let room = Arc::new(Semaphore::new(usize::try_from(ROOM_BYTES).unwrap_or(usize::MAX)));
        Pipeline { node: node.clone(), requests, room }
    }

    /// Where it leads.
    pub(super) fn node(&self) -> &Address {
        &self.node
    }

    /// Whether it takes requests.
    pub(super) fn is_open(&self) -> bool {
        !self.requests.is_closed()
    }

    /// Sends a request once there is room, and waits for its answer.
    pub(super) async fn call(&self, bytes: Bytes, intent: Intent) -> Result<Answer, FailedAttempt> {
        let node = self.node.to_string();
        let (error, remedy) = match self.answer(bytes).await {
            Ok(answer) => return judged(answer, &node, intent),
            Err(Lost::NotSent(reason)) => {
                let reason = format!("{node}: {reason}");
                (OperationError::NotSent { reason }, Remedy::Elsewhere)
            }
            Err(Lost::Unanswered(reason)) => {
                (OperationError::Unknown { node, reason }, Remedy::ReadElsewhere.of(intent))
            }
            Err(Lost::Foreign) => (OperationError::Foreign { node }, Remedy::None),
        };
        Err(FailedAttempt { error, remedy })
    }

    async fn answer(&self, bytes: Bytes) -> Result<Answer, Lost> {
        let gone = || Lost::NotSent("the connection is closed".to_owned());
        let taken = u32::try_from(bytes.len()).unwrap_or(ROOM_BYTES);
        let room = self.room.clone().acquire_many_owned(taken.clamp(REQUEST_BYTES_MIN, ROOM_BYTES));
        let room = room.await.map_err(|_| gone())?;
        let (asker, answer) = oneshot::channel();
        self.requests.send(Queued { bytes, asker, room }).map_err(|_| gone())?;
        // Its task may have been ended with its runtime.
        answer.await.unwrap_or_else(|_| Err(Lost::Unanswered("nobody waits any more".to_owned())))
    }

    /// What the node says of itself and of its cluster.
    pub(super) async fn status(&self) -> Option<Status> {
        let request = encode([&b"DISKSTORE"[..], b"STATUS"].into_iter());
        match self.call(request.into(), Intent::Read).await {
            Ok(Answer::Value(json)) => Status::from_json(&json).ok(),
            _ => None,
        }
    }
}

/// What is asked before anything else, each with what is asked instead of a server that does not know it.
fn greetings(dialling: &Dialling, reads: ReadsFrom) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let words = |words: &[&[u8]]| encode(words.iter().copied());
    let mut greetings = vec![match dialling.token().map(str::as_bytes) {
        // A node that is full serves those who begin so.
        Some(token) => (words(&[b"DISKSTORE", b"AUTH", token]), Some(words(&[b"AUTH", token]))),
        None => (words(&[b"PING"]), None),
    }];
    if reads == ReadsFrom::ThisNode {
        greetings.push((words(&[b"READONLY"]), None));
    }
    greetings
}

/// Asks one thing over a connection that nobody else uses; `None` if the answer is none.
async fn greet(
    stream: &mut Box<dyn NodeStream>,
    input: &mut BytesMut,
    request: &[u8],
) -> io::Result<Option<Answer>> {
    let asked = async {
        stream.write_all(request).await?;
        stream.flush().await?;
        loop {
            match decode(input) {
                Ok(Some(answer)) => return Ok(Some(answer)),
                Ok(None) => {}
                Err(NoAnswer) => return Ok(None),
            }
            if stream.read_buf(input).await? == 0 {
                return Err(closed());
            }
        }
    };
    timeout(OPEN_TIME_MAX, asked).await.unwrap_or_else(|_| Err(late(OPEN_TIME_MAX)))
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed without an answer")
}

fn late(time: Duration) -> io::Error {
    let words = format!("connected, but no answer within {} s", time.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, words)
}

/// Hands some of the bytes to the socket, or, once there are none, has it send all of them; how many it
/// took.
async fn send(writer: &mut WriteHalf<Box<dyn NodeStream>>, bytes: &[u8]) -> io::Result<usize> {
    if bytes.is_empty() {
        writer.flush().await?;
        return Ok(0);
    }
    match writer.write(bytes).await? {
        0 => Err(closed()),
        count => Ok(count),
    }
}

/// The task's side.
struct Exchange {
    reader: ReadHalf<Box<dyn NodeStream>>,
    writer: WriteHalf<Box<dyn NodeStream>>,
    input: BytesMut,
    output: BytesMut,
    /// Oldest first (I1).
    waiting: VecDeque<Awaited>,
    /// Bytes of requests that were taken, and how many of them were handed to the socket.
    taken_bytes: u64,
    sent_bytes: u64,
    is_flushed: bool,
    /// See [`NodeStream::may_send_and_fail`].
    may_send_and_fail: bool,
}

/// A request that was taken.
struct Awaited {
    asker: oneshot::Sender<Result<Answer, Lost>>,
    _room: OwnedSemaphorePermit,
    /// The place of its first byte in all that is sent.
    begin: u64,
    since: Instant,
}

/// Why a connection is over.
enum Over {
    Lost(String),
    Foreign,
    /// Nobody asks any more.
    Done,
}

impl From<io::Error> for Over {
    fn from(error: io::Error) -> Over {
        Over::Lost(error.to_string())
    }
}

impl Exchange {
    fn new(stream: Box<dyn NodeStream>, input: BytesMut) -> Exchange {
        let may_send_and_fail = stream.may_send_and_fail();
        let (reader, writer) = split(stream);
        Exchange {
            reader,
            writer,
            input,
            output: BytesMut::new(),
            waiting: VecDeque::new(),
            taken_bytes: 0,
            sent_bytes: 0,
            is_flushed: true,
            may_send_and_fail,
        }
    }

    async fn run(mut self, mut requests: UnboundedReceiver<Queued>) {
        let over = self.serve(&mut requests).await;
        requests.close();
        let reason = match &over {
            Over::Lost(reason) => reason.clone(),
            Over::Foreign | Over::Done => "the connection is closed".to_owned(),
        };
        for waiting in self.waiting {
            let is_sent = waiting.begin < self.sent_bytes; // I2
            drop(waiting.asker.send(Err(match over {
                Over::Foreign if is_sent => Lost::Foreign,
                _ if is_sent => Lost::Unanswered(reason.clone()),
                _ => Lost::NotSent(reason.clone()),
            })));
        }
        while let Some(request) = requests.recv().await {
            drop(request.asker.send(Err(Lost::NotSent(reason.clone()))));
        }
    }

    async fn serve(&mut self, requests: &mut UnboundedReceiver<Queued>) -> Over {
        let mut is_wanted = true;
        while is_wanted || !self.waiting.is_empty() {
            if let Err(over) = self.step(requests, &mut is_wanted).await {
                return over;
            }
        }
        Over::Done
    }

    /// Waits for the next thing that happens.
    async fn step(
        &mut self,
        requests: &mut UnboundedReceiver<Queued>,
        is_wanted: &mut bool,
    ) -> Result<(), Over> {
        let is_taking = *is_wanted && self.output.len() < OUTPUT_BYTES_MAX;
        let has_output = !self.output.is_empty();
        let oldest = self.waiting.front().map(|waiting| waiting.since + ANSWER_TIME_MAX);
        self.input.reserve(READ_BYTES);
        tokio::select! {
            request = requests.recv(), if is_taking => {
                let Some(request) = request else {
                    *is_wanted = false;
                    return Ok(());
                };
                self.take(request);
                while self.output.len() < OUTPUT_BYTES_MAX && let Ok(request) = requests.try_recv() {
                    self.take(request);
                }
            }
            sent = send(&mut self.writer, &self.output), if has_output || !self.is_flushed => {
                if sent.is_err() && self.may_send_and_fail {
                    self.sent_bytes = self.taken_bytes; // I2
                }
                let count = sent?;
                self.output.advance(count);
                self.sent_bytes += u64::try_from(count).unwrap_or(u64::MAX);
                self.is_flushed = count == 0;
            }
            read = self.reader.read_buf(&mut self.input) => {
                if read? == 0 {
                    return Err(closed().into());
                }
                self.hear()?;
            }
            () = sleep_until(oldest.unwrap_or_else(Instant::now)), if oldest.is_some() => {
                return Err(late(ANSWER_TIME_MAX).into());
            }
        }
        Ok(())
    }

    fn take(&mut self, request: Queued) {
        let Queued { bytes, asker, room } = request;
        if asker.is_closed() {
            return; // whoever asked has gone, and nothing was sent
        }
        let (begin, since) = (self.taken_bytes, Instant::now());
        self.output.extend_from_slice(&bytes);
        self.taken_bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.waiting.push_back(Awaited { asker, _room: room, begin, since });
    }

    /// Hands out the answers that are there as a whole.
    fn hear(&mut self) -> Result<(), Over> {
        while let Some(answer) = decode(&mut self.input).map_err(|NoAnswer| Over::Foreign)? {
            // What comes before anything was asked answers nothing (I1).
            let asked = |waiting: &mut Awaited| waiting.begin < self.sent_bytes;
            let waiting = self.waiting.pop_front_if(asked).ok_or(Over::Foreign)?;
            drop(waiting.asker.send(Ok(answer)));
        }
        if self.input.is_empty() && self.input.capacity() > BUFFER_BYTES_KEPT {
            self.input = BytesMut::new();
        }
        Ok(())
    }
}
