//! The stream of one connection as hyper has it: what was read before comes first, all is counted, and a
//! client that takes nothing of what is sent to it has an end.
//!
//! Called by hyper, for the session: below HTTP and gRPC.
//!
//! Invariants:
//! - I1: what waits for the client is a part of the backlog of all clients, bounded as for the other
//!   protocols: no request is carried out while there is no room for its response.
//! - I2: a client may take nothing for a bounded time while something waits for it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::Server;
use super::counters::Counters;
use super::socket::{Patience, Share, UNTAKEN_TIME_MAX};

/// What waits for the client of a connection, as the stream and its requests both know it.
#[derive(Debug)]
pub(crate) struct Unsent {
    share: Mutex<Share>,
    taken: Notify,
    /// How often something was taken.
    taken_count: AtomicU64,
}

impl Unsent {
    /// Nothing yet.
    pub(crate) fn new(share: Share) -> Unsent {
        Unsent { share: Mutex::new(share), taken: Notify::new(), taken_count: AtomicU64::new(0) }
    }

    /// Waits until there is room for one more response (I1).
    pub(crate) async fn wait_for_room(&self) {
        loop {
            let taken = self.taken.notified();
            if self.share.lock().has_output_space() {
                return;
            }
            taken.await;
        }
    }

    /// Notes whether the client has yet to present the token that it needs: then there is little room.
    pub(crate) fn note_strange(&self, is_strange: bool) {
        self.share.lock().note_strange(is_strange);
        self.taken.notify_waiters();
    }

    /// Notes a response of so many bytes, its head apart.
    pub(crate) fn add(&self, bytes: usize) {
        let mut share = self.share.lock();
        let waiting = share.bytes().saturating_add(bytes);
        share.note(waiting);
    }

    /// Waits until there is room, and takes so many bytes of it before anybody else looks (I1).
    pub(crate) async fn reserve(self: &Arc<Self>, bytes: usize) -> Reserved {
        loop {
            let taken = self.taken.notified();
            if let Some(reserved) = self.reserve_now(bytes) {
                return reserved;
            }
            taken.await;
        }
    }

    fn reserve_now(self: &Arc<Self>, bytes: usize) -> Option<Reserved> {
        let mut share = self.share.lock();
        if !share.has_output_space() {
            return None;
        }
        let waiting = share.bytes().saturating_add(bytes);
        share.note(waiting);
        Some(Reserved { unsent: Arc::clone(self), bytes })
    }

    /// The same bytes, which wait until they are dropped: by whoever writes them, or gives them up.
    pub(crate) fn counted(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        self.add(bytes.len());
        let reserved = Reserved { unsent: Arc::clone(self), bytes: bytes.len() };
        Bytes::from_owner(Counted { bytes, reserved })
    }

    /// Ends once something has waited for the client for so long, while nothing of all that waits was
    /// taken. (I2, where the client says by itself how much it takes of each response.)
    pub(crate) async fn untaken(&self, time_max: Duration) {
        let mut before = self.look();
        loop {
            sleep(time_max).await;
            let now = self.look();
            if now.shows_nothing_taken_since(before) {
                return;
            }
            before = now;
        }
    }

    /// Bytes that wait.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.share.lock().bytes()
    }

    fn look(&self) -> Look {
        let taken_count = self.taken_count.load(Ordering::Relaxed);
        Look { waits: self.share.lock().bytes() > 0, taken_count }
    }

    fn remove(&self, bytes: usize) {
        self.taken_count.fetch_add(1, Ordering::Relaxed);
        let mut share = self.share.lock();
        let waiting = share.bytes().saturating_sub(bytes);
        share.note(waiting);
        drop(share);
        self.taken.notify_waiters();
    }
}

/// What waits for a client, at one moment.
#[derive(Debug, Clone, Copy)]
struct Look {
    waits: bool,
    taken_count: u64,
}

impl Look {
    /// Whether something waited all the time.
    fn shows_nothing_taken_since(self, before: Look) -> bool {
        before.waits && self.waits && before.taken_count == self.taken_count
    }
}

/// Room in the backlog, until it is dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    unsent: Arc<Unsent>,
    bytes: usize,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.unsent.remove(self.bytes);
    }
}

/// Bytes with their room.
struct Counted {
    bytes: Bytes,
    #[expect(dead_code, reason = "it ends with the bytes")]
    reserved: Reserved,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The stream, behind what came before.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    before: Bytes,
    stream: S,
    counters: Arc<Counters>,
    unsent: Arc<Unsent>,
    patience: Patience,
    untaken_time_max: Duration,
}

impl<S> Wire<S> {
    /// Reads `before`, then `stream`; the client may take nothing for `untaken_time_max`.
    pub(crate) fn new(
        before: Bytes,
        stream: S,
        counters: Arc<Counters>,
        unsent: Arc<Unsent>,
        untaken_time_max: Duration,
    ) -> Wire<S> {
        counters.received(before.len());
        Wire { before, stream, counters, unsent, patience: Patience::default(), untaken_time_max }
    }

    /// The same, over which no bytes go but those that are [counted](Unsent::counted).
    pub(crate) fn of_counted(before: Bytes, stream: S, server: &Server) -> Wire<S> {
        let unsent = Arc::new(Unsent::new(Share::new(Arc::clone(&server.backlog))));
        Wire::new(before, stream, server.clients.counters_shared(), unsent, UNTAKEN_TIME_MAX)
    }

    /// The stream alone.
    pub(crate) fn into_stream(self) -> S {
        self.stream
    }

    /// What became of sending something (I2).
    fn sent(
        &mut self,
        sent: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if sent.is_pending() {
            ready!(self.patience.poll(self.untaken_time_max, context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.patience.restart();
        let count = ready!(sent)?;
        self.counters.sent(count);
        self.unsent.remove(count);
        Poll::Ready(Ok(count))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.before.is_empty() {
            let count = self.before.len().min(buffer.remaining());
            buffer.put_slice(self.before.get(..count).unwrap_or_default());
            self.before.advance(count);
            return Poll::Ready(Ok(()));
        }
        let filled = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.counters.received(buffer.filled().len() - filled);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.sent(sent, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.sent(sent, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Drives a connection of hyper to its end by `poll`; once the node stops, `stop` has it take nothing
/// new.
pub(super) async fn until_ended<C: Unpin, R>(
    connection: &mut C,
    stopping: impl Future<Output = ()>,
    poll: impl Fn(&mut C, &mut Context<'_>) -> Poll<R>,
    stop: impl Fn(Pin<&mut C>),
) -> R {
    let mut stopping = std::pin::pin!(stopping.fuse());
    let mut is_stopping = false;
    poll_fn(|context| {
        if !is_stopping && stopping.as_mut().poll(context).is_ready() {
            is_stopping = true;
            stop(Pin::new(connection));
        }
        poll(connection, context)
    })
    .await
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::server::socket::{Backlog, UNSENT_BYTES_MAX};

    /// A time that no test waits for.
    const LONG: Duration = Duration::from_hours(1);

    fn unsent() -> Arc<Unsent> {
        Arc::new(Unsent::new(Share::new(Arc::new(Backlog::new(LONG)))))
    }

    #[tokio::test]
    async fn bytes_that_are_counted_wait_until_they_are_dropped() {
        let unsent = unsent();
        let answered = unsent.counted(vec![7; UNSENT_BYTES_MAX].into());
        let (taken, rest) = (answered.slice(..1), answered.slice(1..));
        drop((answered, taken));
        let waits = || unsent.reserve(5).now_or_never();
        assert!(waits().is_none(), "the rest is not written");
        let room = tokio::spawn({
            let unsent = Arc::clone(&unsent);
            async move { unsent.reserve(UNSENT_BYTES_MAX).await }
        });
        tokio::task::yield_now().await;
        drop(rest);
        let room = room.await.unwrap();
        assert!(waits().is_none(), "what is reserved counts before it is there");
        drop(room);
        assert!(waits().is_some());
        assert_eq!(unsent.share.lock().bytes(), 0);
    }

    #[tokio::test]
    async fn a_client_has_an_end_that_takes_nothing_of_all_that_waits() {
        let unsent = unsent();
        let mut before = unsent.look();
        let mut is_untaken = || {
            let now = unsent.look();
            let is_untaken = now.shows_nothing_taken_since(before);
            before = now;
            is_untaken
        };
        assert!(!is_untaken(), "nothing waits");
        let kept = unsent.counted(vec![7; 5].into());
        assert!(!is_untaken(), "since when is not known");
        drop(unsent.counted(vec![7; 5].into()));
        assert!(!is_untaken(), "it takes something now and then");
        assert!(is_untaken());
        unsent.untaken(Duration::from_millis(1)).await;
        drop(kept);
        assert!(!is_untaken() && !is_untaken(), "it has taken all");
    }

    #[tokio::test]
    async fn what_came_before_is_read_first_and_all_is_counted() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let counters = Arc::new(Counters::default());
        let before = Bytes::from_static(b"abc");
        let mut wire = Wire::new(before, ours, counters.clone(), unsent(), LONG);
        theirs.write_all(b"def").await.unwrap();
        let mut found = [0; 6];
        wire.read_exact(&mut found).await.unwrap();
        assert_eq!(&found, b"abcdef");
        wire.write_all(b"four").await.unwrap();
        assert_eq!((counters.now().received_bytes, counters.now().sent_bytes), (6, 4));
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_has_an_end() {
        let (ours, mut theirs) = tokio::io::duplex(4);
        let counters = Arc::default();
        let short = Duration::from_millis(20);
        let mut wire = Wire::new(Bytes::new(), ours, counters, unsent(), short);
        wire.write_all(b"four").await.unwrap();
        assert_eq!(wire.write(b"more").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let mut found = [0; 4];
        theirs.read_exact(&mut found).await.unwrap();
        wire.write_all(b"more").await.unwrap();
    }

    #[tokio::test]
    async fn a_response_waits_until_there_is_room_for_it() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let unsent = unsent();
        let mut wire = Wire::new(Bytes::new(), ours, Arc::default(), unsent.clone(), LONG);
        unsent.wait_for_room().await;
        unsent.add(UNSENT_BYTES_MAX);
        let mut waiting = Box::pin(unsent.wait_for_room());
        assert!(futures_util::poll!(&mut waiting).is_pending());
        wire.write_all(b"x").await.unwrap();
        waiting.await;
        theirs.read_u8().await.unwrap();
    }
}
