//! The socket of one client, with two buffers: bytes that arrived and are not decoded yet, and
//! replies that the client has not taken yet.
//!
//! Called by the session. Because replies can wait here, reading goes on meanwhile, and a client
//! may send all its requests before it looks at the first reply.
//!
//! Invariants:
//! - I1: bytes leave in the order in which they were appended.
//! - I2: a client has room for replies while less than [`UNSENT_BYTES_MAX`] wait for it, and less
//!   than [`UNSENT_BYTES_SHARE`] once [`UNSENT_BYTES_MAX_ALL`] wait for all clients together; without
//!   the token that it needs, while less than [`STRANGE_BYTES_MAX`] wait.
//!   From a client without room only one byte is read, which shows that it sends more.
//! - I3: a socket that waits for its client keeps almost no memory.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, timeout, timeout_at};

use crate::host::{Standing, Stream};
use crate::messages::{Ended, Mail, Subscriber};
use crate::tls::Tls;

/// Bytes of replies that may wait for one client. The turn that reaches it may go beyond.
pub(crate) const UNSENT_BYTES_MAX: usize = 64 << 20;
/// Bytes of replies that may wait for all clients together, but for the share of each.
const UNSENT_BYTES_MAX_ALL: usize = 512 << 20;
/// Bytes of replies that may wait for one client whatever waits for others.
const UNSENT_BYTES_SHARE: usize = 256 << 10;
/// Bytes of replies that may wait for one that has yet to present a token, where one is needed.
const STRANGE_BYTES_MAX: usize = 64 << 10;
/// Bytes that wait for a client above which it is told nothing unasked: what is meant for it stays
/// where all subscribers share it.
const TOLD_BYTES_MAX: usize = 64 << 10;
/// How long a client that has no room and asks for more may take none of its replies.
pub(crate) const ROOM_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a client that is to go may take none of its replies, though it goes on sending.
pub(crate) const UNTAKEN_TIME_MAX: Duration = Duration::from_mins(1);
/// Bytes that one read takes at most.
const READ_BYTES_MAX: usize = 64 << 10;
/// Bytes of a read buffer that is kept for the next turn.
const READ_BYTES_KEPT: usize = 4 << 10;
/// Bytes of a write buffer that is kept for the next turn.
const WRITE_BYTES_KEPT: usize = 64 << 10;
/// How long a client may be silent, sending nothing and taking nothing, once it is to go.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a client may go on sending after everything was sent to it.
const LINGER_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes that are taken from a client that is to go, so that it comes to read why.
const LINGER_BYTES_MAX: usize = 256 << 20;

thread_local! {
    /// Where the sockets of all sessions of a thread are read, one after the other: a session takes
    /// memory for what came, and none while it waits.
    static RECEIVED: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES_MAX].into());
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// More bytes of the client.
    Bytes,
    /// Room for replies.
    OutputSpace,
}

/// What came of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// What was wanted.
    Wanted,
    /// The client sends nothing more.
    End,
    /// The node stops.
    Stop,
    /// The client asks for more than it takes.
    Stalled,
    /// The client presents no token, for too long.
    Strange,
    /// Something is to be told to the client, and it has room for that.
    Mail,
    /// It is to be told no more.
    Ended(Ended),
}

/// One wait, over all its polls.
struct Waiting {
    wanted: Wanted,
    /// A byte came while there was no room for replies: it stands in the input.
    asks_for_more: bool,
    patience: Patience,
}

/// Bytes of replies that wait for clients.
#[derive(Debug)]
pub(crate) struct Backlog {
    bytes: AtomicUsize,
    /// How long one without room that asks for more may take none of them.
    room_time_max: Duration,
}

impl Backlog {
    /// Nothing waits yet; for how long one without room is waited for, see [`ROOM_TIME_MAX`].
    pub(crate) fn new(room_time_max: Duration) -> Backlog {
        Backlog { bytes: AtomicUsize::new(0), room_time_max }
    }
}

/// The part of one client in the backlog.
#[derive(Debug)]
pub(crate) struct Share {
    backlog: Arc<Backlog>,
    bytes: usize,
    is_strange: bool,
}

impl Share {
    /// Nothing waits for this client yet.
    pub(crate) fn new(backlog: Arc<Backlog>) -> Share {
        Share { backlog, bytes: 0, is_strange: false }
    }

    /// Bytes that wait for the client.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Notes how many bytes wait from now on.
    pub(crate) fn note(&mut self, bytes: usize) {
        if bytes >= self.bytes {
            self.backlog.bytes.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            self.backlog.bytes.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }

    /// Notes whether the client has yet to present the token that it needs.
    pub(crate) fn note_strange(&mut self, is_strange: bool) {
        self.is_strange = is_strange;
    }

    /// Whether there is room for more replies (I2).
    pub(crate) fn has_output_space(&self) -> bool {
        if self.is_strange {
            return self.bytes < STRANGE_BYTES_MAX;
        }
        let waits_for_all = self.backlog.bytes.load(Ordering::Relaxed);
        self.bytes < UNSENT_BYTES_SHARE
            || self.bytes < UNSENT_BYTES_MAX && waits_for_all < UNSENT_BYTES_MAX_ALL
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.note(0);
    }
}

/// The socket of one client, with its buffers.
pub(crate) struct Socket {
    stream: Stream,
    /// Ends when the node stops; not polled after that.
    stopping: BoxFuture<'static, ()>,
    /// Whether it has ended and was told, once.
    is_stopping: bool,
    input: BytesMut,
    /// Most bytes that `input` held since it was made.
    input_bytes: usize,
    /// Replies of the turn that runs.
    replies: BytesMut,
    unsent: BytesMut,
    share: Share,
    strange_until: Option<Instant>,
}

impl Socket {
    /// A socket that was just accepted.
    pub(crate) fn new(
        stream: Stream,
        backlog: Arc<Backlog>,
        mut stop: watch::Receiver<bool>,
    ) -> Socket {
        // The sender is gone when the server is.
        let stopping = async move { drop(stop.wait_for(|stopping| *stopping).await) }.boxed();
        let [input, replies, unsent] = [(); 3].map(|()| BytesMut::new());
        let share = Share::new(backlog);
        Socket {
            stream,
            stopping,
            is_stopping: false,
            input,
            input_bytes: 0,
            replies,
            unsent,
            share,
            strange_until: None,
        }
    }

    /// The same, where what came begins a handshake of TLS.
    pub(crate) fn under(self, tls: &Arc<Tls>, from: SocketAddr) -> Socket {
        let Socket { stream, input, .. } = self;
        Socket { stream: stream.under(tls, from, input), input: BytesMut::new(), ..self }
    }

    /// What the client shows under TLS, once the handshake is done; `None` on a plain connection.
    ///
    /// # Errors
    /// The client is gone, or not let in.
    pub(crate) async fn open(&mut self) -> io::Result<Option<&Arc<Standing>>> {
        self.stream.open().await?;
        Ok(self.stream.standing())
    }

    /// The bare stream, what came and is not yet taken, and the end that comes when the node stops: for
    /// a protocol that reads and writes by itself. Nothing may be unsent.
    pub(crate) fn into_parts(self) -> (Stream, BytesMut, BoxFuture<'static, ()>) {
        assert!(self.unsent.is_empty(), "nothing was said yet");
        (self.stream, self.input, self.stopping)
    }

    /// What has come and is not yet taken.
    pub(crate) fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// Bytes of replies of the turn that was last.
    pub(crate) fn reply_bytes(&self) -> usize {
        self.replies.len()
    }

    /// Bytes that wait for the client.
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.unsent.len()
    }

    /// Appends bytes to what is to be sent.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
        self.share.note(self.unsent.len());
    }

    /// What a turn works on: what has come, where its replies go, and what is sent meanwhile.
    pub(crate) fn turn_parts(&mut self) -> (&mut BytesMut, &mut BytesMut, Outgoing<'_>) {
        let Socket { stream, input, replies, unsent, share, .. } = self;
        (input, replies, Outgoing { stream, unsent, share })
    }

    /// Takes over the replies of a turn, and sends what the system takes at once.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) async fn end_turn(&mut self) -> io::Result<()> {
        if self.unsent.is_empty() {
            std::mem::swap(&mut self.unsent, &mut self.replies);
        } else {
            self.unsent.extend_from_slice(&self.replies);
        }
        self.share.note(self.unsent.len());
        self.replies.clear();
        if self.replies.capacity() > WRITE_BYTES_KEPT {
            self.replies = BytesMut::new();
        }
        match poll_fn(|context| Poll::Ready(self.outgoing().poll_send(context))).await {
            Poll::Ready(sent) => sent,
            Poll::Pending => {
                // The system is full, or this task has had its share of the thread.
                tokio::task::yield_now().await;
                Ok(())
            }
        }
    }

    fn outgoing(&mut self) -> Outgoing<'_> {
        let Socket { stream, unsent, share, .. } = self;
        Outgoing { stream, unsent, share }
    }

    /// Until when the client is waited for if it has yet to present a token: then it has little room
    /// for replies, too. `None` for all others.
    pub(crate) fn note_strange(&mut self, until: Option<Instant>) {
        self.strange_until = until;
        self.share.is_strange = until.is_some();
    }

    /// Whether there is room for the replies of one more turn (I2).
    pub(crate) fn has_output_space(&self) -> bool {
        self.share.has_output_space()
    }

    /// Writes what the client is told unasked, as long as it has room for that and `write` has more.
    pub(crate) fn tell(&mut self, mut write: impl FnMut(&mut BytesMut) -> bool) {
        while self.unsent.len() < TOLD_BYTES_MAX && write(&mut self.unsent) {}
        self.share.note(self.unsent.len());
    }

    /// Sends what is unsent until there is what is wanted, or something for `subscriber`, the client
    /// as one that listens.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) async fn wait(
        &mut self,
        wanted: Wanted,
        subscriber: Option<&Subscriber>,
    ) -> io::Result<Came> {
        let until = self.strange_until;
        let mut waiting = Waiting { wanted, asks_for_more: false, patience: Patience::default() };
        let waited = poll_fn(|context| {
            let mail = subscriber.map_or(Poll::Pending, |subscriber| subscriber.poll(context));
            if let Poll::Ready(Mail::Ended(why)) = mail {
                return Poll::Ready(Ok(Came::Ended(why)));
            }
            let wanted = self.poll_wanted(&mut waiting, context);
            let has_mail = mail.is_ready() && self.unsent.len() < TOLD_BYTES_MAX;
            if wanted.is_pending() && has_mail { Poll::Ready(Ok(Came::Mail)) } else { wanted }
        });
        match until {
            None => waited.await,
            Some(until) if until <= Instant::now() => Ok(Came::Strange), // it may send without a pause
            Some(until) => timeout_at(until, waited).await.unwrap_or(Ok(Came::Strange)),
        }
    }

    fn poll_wanted(
        &mut self,
        waiting: &mut Waiting,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Came>> {
        if !self.is_stopping && self.stopping.poll_unpin(context).is_ready() {
            self.is_stopping = true;
            return Poll::Ready(Ok(Came::Stop));
        }
        let unsent_before = self.unsent.len();
        if let Poll::Ready(Err(error)) = self.outgoing().poll_send(context) {
            return Poll::Ready(Err(error));
        }
        if self.unsent.len() < unsent_before {
            waiting.patience.restart();
        }
        if self.has_output_space() {
            return match waiting.wanted {
                Wanted::Bytes if !waiting.asks_for_more => self.poll_read(context),
                Wanted::Bytes | Wanted::OutputSpace => Poll::Ready(Ok(Came::Wanted)),
            };
        }
        if waiting.wanted == Wanted::Bytes && !waiting.asks_for_more {
            let mut first = [0];
            let mut first = ReadBuf::new(&mut first);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut first))?;
            if first.filled().is_empty() {
                return Poll::Ready(Ok(Came::End));
            }
            self.input.extend_from_slice(first.filled());
            waiting.asks_for_more = true;
        }
        ready!(waiting.patience.poll(self.share.backlog.room_time_max, context));
        Poll::Ready(Ok(Came::Stalled))
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Came>> {
        let received = RECEIVED.with_borrow_mut(|received| {
            let mut received = ReadBuf::new(received);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut received))?;
            self.input.extend_from_slice(received.filled());
            let is_end = received.filled().is_empty();
            Poll::Ready(Ok(if is_end { Came::End } else { Came::Wanted }))
        });
        self.input_bytes = self.input_bytes.max(self.input.len());
        if received.is_pending() && self.input.is_empty() && self.input_bytes > READ_BYTES_KEPT {
            self.input = BytesMut::new(); // I3
            self.input_bytes = 0;
        }
        received
    }

    /// Sends all that is unsent, and drops what comes meanwhile. A client that neither sends nor
    /// takes anything is given up.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) async fn send_rest(&mut self) -> io::Result<()> {
        (self.input, self.replies) = (BytesMut::new(), BytesMut::new());
        let mut dropped = Dropped::default();
        let (mut silent, mut untaken) = (Patience::default(), Patience::default());
        poll_fn(|context| {
            let unsent_before = self.unsent.len();
            if let Poll::Ready(sent) = self.outgoing().poll_send(context) {
                return Poll::Ready(sent);
            }
            let came = dropped.poll(&mut self.stream, context)?;
            if self.unsent.len() < unsent_before {
                untaken.restart();
                silent.restart();
            } else if came {
                silent.restart();
            }
            let room_time_max = self.share.backlog.room_time_max;
            let is_over = silent.poll(room_time_max, context).is_ready()
                || untaken.poll(UNTAKEN_TIME_MAX, context).is_ready();
            if is_over { Poll::Ready(Err(io::ErrorKind::TimedOut.into())) } else { Poll::Pending }
        })
        .await
    }

    /// Ends the connection so that the client reads the last reply: were bytes of it unread when the
    /// socket is closed, the system would take the reply back.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) async fn finish(mut self) -> io::Result<()> {
        self.send_rest().await?;
        linger(&mut self.stream).await
    }
}

/// Ends the sending half, and drops what comes until the client has read to the end.
///
/// # Errors
/// The client is gone.
pub(crate) async fn linger(stream: &mut Stream) -> io::Result<()> {
    // Under TLS a farewell has to be sent, to somebody who may take nothing.
    timeout(LINGER_TIMEOUT, stream.shutdown()).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let mut dropped = Dropped::default();
    let (mut silent, mut whole) = (Patience::default(), Patience::default());
    poll_fn(|context| {
        if dropped.poll(stream, context)? {
            silent.restart();
        }
        let is_over = dropped.is_over
            || silent.poll(LINGER_TIMEOUT, context).is_ready()
            || whole.poll(LINGER_TIME_MAX, context).is_ready();
        if is_over { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// The sending half of a socket.
pub(crate) struct Outgoing<'a> {
    stream: &'a mut Stream,
    unsent: &'a mut BytesMut,
    share: &'a mut Share,
}

impl Outgoing<'_> {
    /// Sends what the system takes (I1); ready once nothing is unsent.
    pub(crate) fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let sent = Pin::new(&mut *self.stream).poll_write(context, self.unsent);
            let count = match ready!(sent)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => count,
            };
            self.unsent.advance(count);
            self.share.note(self.unsent.len());
        }
        if self.unsent.capacity() > WRITE_BYTES_KEPT {
            *self.unsent = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

/// What came of a client that is to go.
#[derive(Default)]
struct Dropped {
    bytes: usize,
    /// Nothing more comes, or so much that nothing more is taken.
    is_over: bool,
}

impl Dropped {
    /// Takes what has come; whether that was anything.
    fn poll(&mut self, stream: &mut Stream, context: &mut Context<'_>) -> io::Result<bool> {
        let bytes_before = self.bytes;
        while !self.is_over {
            let came = RECEIVED.with_borrow_mut(|received| {
                let mut received = ReadBuf::new(received);
                let came = Pin::new(&mut *stream).poll_read(context, &mut received);
                came.map_ok(|()| received.filled().len())
            });
            let Poll::Ready(count) = came else { break };
            let count = count?;
            self.bytes += count;
            self.is_over = count == 0 || self.bytes >= LINGER_BYTES_MAX;
        }
        Ok(self.bytes > bytes_before)
    }
}

/// A time that runs from its first poll on, and anew from the first one after a restart.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// From the next poll on, the time runs anew.
    pub(crate) fn restart(&mut self) {
        self.sleep = None;
    }

    /// Ready once it has run for `time`.
    pub(crate) fn poll(&mut self, time: Duration, context: &mut Context<'_>) -> Poll<()> {
        self.sleep.get_or_insert_with(|| Box::pin(sleep(time))).as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// As [`ROOM_TIME_MAX`], for those that are slow on purpose.
    const SHORT: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_mins(1);

    /// A socket of ours and the client at its other end.
    async fn pair(backlog: &Arc<Backlog>) -> (Socket, TcpStream, watch::Sender<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (stop, stopping) = watch::channel(false);
        (Socket::new(stream.into(), Arc::clone(backlog), stopping), client, stop)
    }

    #[tokio::test]
    async fn one_without_the_token_that_it_needs_has_little_room_and_little_time() {
        let backlog = Arc::new(Backlog::new(LONG));
        let (mut socket, mut client, _stop) = pair(&backlog).await;
        let until = Instant::now() + SHORT;
        socket.note_strange(Some(until));
        assert!(socket.has_output_space());
        assert_eq!(socket.wait(Wanted::Bytes, None).await.unwrap(), Came::Strange);
        assert!(Instant::now() >= until);
        client.write_all(b"more").await.unwrap();
        client.flush().await.unwrap();
        assert_eq!(
            socket.wait(Wanted::Bytes, None).await.unwrap(),
            Came::Strange,
            "it goes on sending"
        );
        socket.append(&vec![7; STRANGE_BYTES_MAX]);
        assert!(!socket.has_output_space());
        socket.note_strange(None); // it has presented one
        assert!(socket.has_output_space());
        assert_eq!(socket.wait(Wanted::Bytes, None).await.unwrap(), Came::Wanted);
    }

    #[tokio::test]
    async fn what_is_unsent_is_sent_while_more_is_read() {
        let backlog = Arc::new(Backlog::new(SHORT));
        let (mut socket, mut client, _stop) = pair(&backlog).await;
        let replies = vec![7; 32 << 20];
        socket.append(&replies);
        // The client takes nothing, and is read all the same.
        client.write_all(b"more").await.unwrap();
        assert_eq!(socket.wait(Wanted::Bytes, None).await.unwrap(), Came::Wanted);
        assert_eq!(&socket.input()[..], b"more");
        assert!(socket.unsent_bytes() > 0);
        let mut found = vec![0; replies.len()];
        let taking = async {
            client.read_exact(&mut found).await.unwrap();
            client.write_all(b"!").await.unwrap();
        };
        let ((), came) = tokio::join!(taking, socket.wait(Wanted::Bytes, None));
        assert_eq!(came.unwrap(), Came::Wanted);
        assert!(found == replies);
        assert_eq!(backlog.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_client_without_room_is_told_so_if_it_asks_for_more_and_takes_nothing() {
        let backlog = Arc::new(Backlog::new(SHORT));
        let (mut socket, mut client, _stop) = pair(&backlog).await;
        socket.append(&vec![7; UNSENT_BYTES_MAX + (32 << 20)]);
        assert!(!socket.has_output_space());
        client.write_all(b"more").await.unwrap();
        assert_eq!(socket.wait(Wanted::Bytes, None).await.unwrap(), Came::Stalled);
        assert_eq!(&socket.input()[..], b"m", "no more is read of one without room");
        assert_eq!(socket.wait(Wanted::OutputSpace, None).await.unwrap(), Came::Stalled);
        assert!(socket.send_rest().await.is_err(), "it has an end");
    }

    #[tokio::test]
    async fn the_byte_of_one_without_room_is_served_once_there_is_room() {
        let backlog = Arc::new(Backlog::new(SHORT));
        let (mut socket, mut client, _stop) = pair(&backlog).await;
        let replies = vec![7; UNSENT_BYTES_MAX + (32 << 20)];
        socket.append(&replies);
        client.write_all(b"!").await.unwrap();
        let mut found = vec![0; replies.len()];
        tokio::select! {
            came = socket.wait(Wanted::Bytes, None) => assert_eq!(came.unwrap(), Came::Wanted),
            taken = client.read_exact(&mut found) => panic!("the byte is not served: {taken:?}"),
        }
        assert_eq!(&socket.input()[..], b"!");
    }

    #[tokio::test]
    async fn the_replies_of_turns_fill_the_room() {
        let backlog = Arc::new(Backlog::new(SHORT));
        let (mut socket, _client, _stop) = pair(&backlog).await;
        let (turn, mut turns) = (vec![7; 4 << 20], 0);
        while socket.has_output_space() {
            let (_, replies, _) = socket.turn_parts();
            replies.extend_from_slice(&turn);
            socket.end_turn().await.unwrap();
            turns += 1;
            assert!(turns < 64, "the room has no end");
        }
        assert!(socket.unsent_bytes() >= UNSENT_BYTES_MAX);
        drop(socket);
        assert_eq!(backlog.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_client_that_sends_nothing_more_is_no_client_that_stalls() {
        let backlog = Arc::new(Backlog::new(SHORT));
        let (mut socket, mut client, _stop) = pair(&backlog).await;
        let replies = vec![7; UNSENT_BYTES_MAX + (32 << 20)];
        socket.append(&replies);
        client.shutdown().await.unwrap();
        assert_eq!(socket.wait(Wanted::Bytes, None).await.unwrap(), Came::End);
        let mut found = Vec::new();
        let (sent, read) = tokio::join!(socket.finish(), client.read_to_end(&mut found));
        assert_eq!((sent.is_ok(), read.unwrap()), (true, replies.len()));
    }

    #[tokio::test]
    async fn a_client_that_is_to_go_reads_the_last_reply_though_it_goes_on_sending() {
        let backlog = Arc::new(Backlog::new(SHORT));
        let (mut socket, mut client, _stop) = pair(&backlog).await;
        socket.append(b"the last reply");
        let finished = tokio::spawn(socket.finish());
        client.write_all(&vec![b'x'; 64 << 20]).await.unwrap();
        let mut found = Vec::new();
        client.read_to_end(&mut found).await.unwrap();
        assert_eq!(found, b"the last reply");
        drop(client);
        assert!(finished.await.unwrap().is_ok());
    }

    #[test]
    fn a_full_backlog_leaves_each_client_its_share() {
        let backlog = Arc::new(Backlog::new(SHORT));
        let share = |bytes| {
            let mut share = Share::new(Arc::clone(&backlog));
            share.note(bytes);
            share
        };
        assert!(share(UNSENT_BYTES_MAX - 1).has_output_space());
        assert!(!share(UNSENT_BYTES_MAX).has_output_space());
        let all = UNSENT_BYTES_MAX_ALL / (UNSENT_BYTES_MAX - 1) + 1;
        let others = (0..all).map(|_| share(UNSENT_BYTES_MAX - 1)).collect::<Vec<_>>();
        assert!(others.iter().all(|share| !share.has_output_space()));
        assert!(share(UNSENT_BYTES_SHARE - 1).has_output_space());
        assert!(!share(UNSENT_BYTES_SHARE).has_output_space());
        drop(others);
        assert!(share(UNSENT_BYTES_SHARE).has_output_space());
        assert_eq!(backlog.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_stop_ends_a_wait_once_and_what_comes_afterwards_is_read() {
        let backlog = Arc::new(Backlog::new(SHORT));
        let (mut socket, mut client, stop) = pair(&backlog).await;
        stop.send(true).unwrap();
        assert_eq!(socket.wait(Wanted::Bytes, None).await.unwrap(), Came::Stop);
        client.write_all(b"more").await.unwrap();
        assert_eq!(socket.wait(Wanted::Bytes, None).await.unwrap(), Came::Wanted);
        assert_eq!(&socket.input()[..], b"more");
    }
}
