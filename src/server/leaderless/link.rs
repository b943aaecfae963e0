//! A coordinator's connections to one node: requests go out together, and replies come back in their order.
//!
//! Called by `coordinator`. It speaks RESP, the part of it that `commands` has for this: every reply is an
//! array of strings, or an error. Invariants:
//!
//! - I1: whoever asks is told whether the request may have been carried out.
//! - I2: a node of another layout is asked nothing.
//! - I3: replies are read while requests are written: large values both ways do not wait for each other.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::host::{Net, ReadHalf, WriteHalf};
use crate::server::resp::Decoder;

/// Connections to one node.
const CONNECTION_COUNT: usize = 4;
/// Requests of one connection that wait to be sent, and that wait for their replies.
const QUEUE_COUNT_MAX: usize = 256;
/// Bytes of requests of one connection that wait to be written; the last of them may be larger.
const UNSENT_BYTES_MAX: usize = 1 << 20;
/// How long connecting and its first question may take.
const BEGIN_TIME_MAX: Duration = Duration::from_secs(2);
/// How long a node may be silent that owes replies.
const SILENT_TIME_MAX: Duration = Duration::from_secs(8);
/// Pause before a connection is tried again, and between two looks at a node.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest error of a node.
const ERROR_BYTES_MAX: usize = 8 << 10;

/// A request, and who waits for its reply.
struct Ask {
    request: Bytes,
    reply: oneshot::Sender<Result<Vec<Bytes>, LinkError>>,
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LinkError {
    /// The request was not sent.
    NotSent(String),
    /// It was sent, and the connection ended.
    Lost(String),
    /// The node answered with an error: its code, and its words.
    Refused { code: String, words: String },
}

/// How a node is, as its connections see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LinkState {
    /// Connections that are open.
    pub(super) open: usize,
    /// Why not all are.
    pub(super) complaint: Option<String>,
    /// What the node says of itself.
    pub(super) standing: String,
}

/// The connections to one node. They end with it.
#[derive(Debug)]
pub(super) struct Link {
    asks: Vec<mpsc::Sender<Ask>>,
    state: Arc<Mutex<LinkState>>,
    next: std::sync::atomic::AtomicUsize,
    _connections: JoinSet<()>,
}

/// What a connection is opened with.
#[derive(Clone)]
pub(super) struct LinkTerms {
    pub(super) net: Net,
    /// The id of the node, and the hash of the layout that it is to have.
    pub(super) id: String,
    pub(super) layout_hash: String,
    /// Longest request or reply.
    pub(super) bytes_max: usize,
}

impl Link {
    /// Begins to connect to the node, wherever it is.
    pub(super) fn begin(terms: &LinkTerms, address: &watch::Receiver<Option<String>>) -> Link {
        let state = Arc::new(Mutex::new(LinkState::default()));
        let mut connections = JoinSet::new();
        let asks = (0..CONNECTION_COUNT).map(|_| {
            let (sender, receiver) = mpsc::channel(QUEUE_COUNT_MAX);
            let keeper = Keeper { terms: terms.clone(), state: Arc::clone(&state), asks: receiver };
            connections.spawn(keeper.keep(address.clone()));
            sender
        });
        let asks = asks.collect();
        Link {
            asks,
            state,
            next: std::sync::atomic::AtomicUsize::new(0),
            _connections: connections,
        }
    }

    /// How the node is.
    pub(super) fn state(&self) -> LinkState {
        self.state.lock().clone()
    }

    /// Whether it is connected.
    pub(super) fn is_open(&self) -> bool {
        self.state.lock().open > 0
    }

    /// Sends a request and waits for its reply.
    pub(super) async fn call(&self, request: Bytes) -> Result<Vec<Bytes>, LinkError> {
        let nth = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % self.asks.len();
        let (reply, replied) = oneshot::channel();
        let gone = || LinkError::NotSent("this coordinator stops".to_owned());
        if self.asks[nth].send(Ask { request, reply }).await.is_err() {
            return Err(gone());
        }
        replied.await.unwrap_or_else(|_| Err(LinkError::Lost("the coordinator stops".to_owned())))
    }
}

/// Keeps one connection open.
struct Keeper {
    terms: LinkTerms,
    state: Arc<Mutex<LinkState>>,
    asks: mpsc::Receiver<Ask>,
}

/// An open connection.
struct Conversation {
    incoming: Incoming,
    outgoing: Outgoing,
}

/// Its replies.
struct Incoming {
    read: ReadHalf,
    input: BytesMut,
    decoder: Decoder,
}

/// Its requests.
struct Outgoing {
    write: WriteHalf,
    /// What is not written yet.
    unsent: BytesMut,
    /// Bytes that were ever asked to be written.
    asked: u64,
}

/// Who waits for a reply.
struct Waiting {
    reply: oneshot::Sender<Result<Vec<Bytes>, LinkError>>,
    /// Where the request ends, among all bytes of the connection.
    ends_at: u64,
}

impl Keeper {
    async fn keep(mut self, mut address: watch::Receiver<Option<String>>) {
        loop {
            let found = address.borrow_and_update().clone();
            let begun = match &found {
                Some(found) => {
                    let begun = timeout(BEGIN_TIME_MAX, self.begin(found)).await;
                    begun.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                }
                None => Err(io::Error::other("its address is not known yet")),
            };
            let ended = match begun {
                Ok(conversation) => {
                    self.state.lock().open += 1;
                    let ended = self.converse(conversation).await;
                    self.state.lock().open -= 1;
                    ended
                }
                Err(error) => error,
            };
            let words = ended.to_string();
            self.state.lock().complaint = Some(words.clone());
            if self.asks.is_closed() && self.asks.is_empty() {
                return;
            }
            self.turn_away(&words).await;
        }
    }

    /// Refuses what is asked for a while, since the node does not answer.
    async fn turn_away(&mut self, words: &str) {
        let mut pause = std::pin::pin!(sleep(PAUSE));
        loop {
            tokio::select! {
                () = &mut pause => return,
                ask = self.asks.recv() => match ask {
                    Some(ask) => drop(ask.reply.send(Err(LinkError::NotSent(words.to_owned())))),
                    None => return,
                },
            }
        }
    }

    async fn begin(&self, address: &str) -> io::Result<Conversation> {
        let mut conversation =
            Conversation::open(&self.terms.net, address, self.terms.bytes_max).await?;
        self.look(&mut conversation).await?;
        Ok(conversation)
    }

    /// Asks the node who it is (I2).
    async fn look(&self, conversation: &mut Conversation) -> io::Result<()> {
        let Told { hash, id, standing } = conversation.who_is_there().await?;
        let expected = &self.terms;
        if hash != expected.layout_hash {
            let own = &expected.layout_hash;
            let words = format!(
                "node {id} has the layout {hash}, and this coordinator {own}: start each storage node \
                 with the coordinator's file as its second one"
            );
            return Err(io::Error::other(words));
        }
        if id != expected.id {
            return Err(io::Error::other(format!("node {id} is there, not node {}", expected.id)));
        }
        let mut state = self.state.lock();
        (state.standing, state.complaint) = (standing, None);
        Ok(())
    }

    /// Sends what is asked, until the connection ends; gives the reason.
    async fn converse(&mut self, mut conversation: Conversation) -> io::Error {
        let mut waiting: VecDeque<Waiting> = VecDeque::new();
        // Since when the node owes a reply, or takes nothing of the request that it owes one to; what is asked
        // meanwhile does not make that later.
        let mut owed_since = Instant::now();
        let error = loop {
            let Conversation { incoming, outgoing } = &mut conversation;
            let may_ask = waiting.len() < QUEUE_COUNT_MAX && outgoing.has_room();
            let silent = || Err(io::ErrorKind::TimedOut.into());
            let step = tokio::select! {
                ask = self.asks.recv(), if may_ask => match ask {
                    Some(ask) => {
                        if waiting.is_empty() {
                            owed_since = Instant::now();
                        }
                        self.take_all(ask, outgoing, &mut waiting);
                        Ok(())
                    }
                    None => break io::Error::other("the coordinator stops"),
                },
                // One at a time: what was read must not be lost where another arm is quicker.
                reply = incoming.reply(), if !waiting.is_empty() => reply.map(|reply| {
                    owed_since = Instant::now();
                    if let Some(waiting) = waiting.pop_front() {
                        drop(waiting.reply.send(reply)); // it may have given up
                    }
                }),
                written = outgoing.write_some(), if outgoing.has_unsent() => written.map(|before| {
                    if waiting.front().is_some_and(|first| first.ends_at > before) {
                        owed_since = Instant::now();
                    }
                }),
                () = sleep_until(owed_since + SILENT_TIME_MAX), if !waiting.is_empty() => silent(),
                () = sleep(PAUSE), if waiting.is_empty() => {
                    timeout(BEGIN_TIME_MAX, self.look(&mut conversation)).await
                        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                }
            };
            if let Err(error) = step {
                break error;
            }
        };
        for Waiting { reply, .. } in waiting {
            drop(reply.send(Err(LinkError::Lost(error.to_string()))));
        }
        error
    }

    /// Takes what is there to be sent, as far as there is room: for one write, where the system takes it.
    fn take_all(&mut self, first: Ask, outgoing: &mut Outgoing, waiting: &mut VecDeque<Waiting>) {
        let mut next = Some(first);
        while let Some(Ask { request, reply }) = next {
            let ends_at = outgoing.put(&request);
            waiting.push_back(Waiting { reply, ends_at });
            let may_ask = waiting.len() < QUEUE_COUNT_MAX && outgoing.has_room();
            next = if may_ask { self.asks.try_recv().ok() } else { None };
        }
    }
}

/// What a node says of itself.
struct Told {
    hash: String,
    id: String,
    standing: String,
}

/// Which node is at an address.
///
/// # Errors
/// Of the connection; it is no node of ours.
pub(super) async fn id_at(net: &Net, address: &str) -> io::Result<String> {
    let mut conversation = Conversation::open(net, address, ERROR_BYTES_MAX).await?;
    Ok(conversation.who_is_there().await?.id)
}

impl Conversation {
    async fn open(net: &Net, address: &str, bytes_max: usize) -> io::Result<Conversation> {
        let stream = net.dial(address).await?;
        stream.set_nodelay()?;
        let (read, write) = stream.into_halves()?;
        let decoder = Decoder::taking(bytes_max);
        Ok(Conversation {
            incoming: Incoming { read, input: BytesMut::new(), decoder },
            outgoing: Outgoing { write, unsent: BytesMut::new(), asked: 0 },
        })
    }

    async fn who_is_there(&mut self) -> io::Result<Told> {
        self.outgoing.put(&request([b"DISKSTORE".as_slice(), b"NODE"]));
        while self.outgoing.has_unsent() {
            self.outgoing.write_some().await?;
        }
        let parts = self.incoming.reply().await?;
        let parts = parts.map_err(|_| io::Error::other("this is no leaderless node"))?;
        let word = |nth: usize| {
            let part = parts.get(nth);
            part.map_or_else(String::new, |word| String::from_utf8_lossy(word).into_owned())
        };
        Ok(Told { hash: word(0), id: word(1), standing: word(2) })
    }
}

impl Outgoing {
    fn has_room(&self) -> bool {
        self.unsent.len() < UNSENT_BYTES_MAX
    }

    fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Takes a request; gives where it ends among all bytes of the connection.
    fn put(&mut self, request: &[u8]) -> u64 {
        self.unsent.put_slice(request);
        self.asked += request.len() as u64;
        self.asked
    }

    /// Writes what the system takes now; gives how many bytes were written before. Cancelling it loses nothing.
    async fn write_some(&mut self) -> io::Result<u64> {
        let before = self.asked - self.unsent.len() as u64;
        match self.write.write(&self.unsent).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => self.unsent.advance(count),
        }
        if self.unsent.is_empty() && self.unsent.capacity() > UNSENT_BYTES_MAX {
            self.unsent = BytesMut::new(); // that was a large value
        }
        Ok(before)
    }
}

impl Incoming {
    /// The next reply. Cancelling it loses nothing.
    async fn reply(&mut self) -> io::Result<Result<Vec<Bytes>, LinkError>> {
        loop {
            if let Some(reply) = self.decoded()? {
                return Ok(reply);
            }
            let read = timeout(SILENT_TIME_MAX, self.read.read_buf(&mut self.input)).await;
            if read.map_err(|_| io::ErrorKind::TimedOut)?? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn decoded(&mut self) -> io::Result<Option<Result<Vec<Bytes>, LinkError>>> {
        let foreign = || io::Error::new(io::ErrorKind::InvalidData, "this is no node of ours");
        if self.input.first() == Some(&b'-') {
            let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else {
                return if self.input.len() < ERROR_BYTES_MAX { Ok(None) } else { Err(foreign()) };
            };
            let line = self.input.split_to(end + 1);
            let line = String::from_utf8_lossy(line.get(1..).unwrap_or_default()).into_owned();
            let (code, words) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
            let (code, words) = (code.to_owned(), words.to_owned());
            return Ok(Some(Err(LinkError::Refused { code, words })));
        }
        if self.input.first().is_some_and(|byte| *byte != b'*') {
            return Err(foreign());
        }
        let decoded = self.decoder.next(&mut self.input).map_err(|_| foreign())?;
        let Some(decoded) = decoded else { return Ok(None) };
        if decoded.excess().is_some() {
            return Err(foreign());
        }
        Ok(Some(Ok(decoded.arguments().iter().map(|part| Bytes::copy_from_slice(part)).collect())))
    }
}

/// The bytes of a request.
pub(super) fn request<'a>(
    words: impl IntoIterator<Item = &'a [u8], IntoIter: ExactSizeIterator>,
) -> Bytes {
    let words = words.into_iter();
    let mut bytes = BytesMut::new();
    bytes.put_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        bytes.put_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.put_slice(word);
        bytes.put_slice(b"\r\n");
    }
    bytes.freeze()
}
