//! Calls to one member over one connection, many at a time: votes, forwarded commands, joins.
//!
//! Called by `raft` and `cluster`; calls `connection`. A call that fails says whether the other
//! side may have seen it. Invariants:
//!
//! - I1: a call ends by its deadline, connecting included.
//! - I2: one dial at a time; all calls that wait for it share its result.
//! - I3: a connection on which a call got no answer, and nothing else arrived either, is replaced;
//!   so is a connection to an address where the member no longer is, and under TLS one that is old.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::caller::Caller;
use super::connection::{Dialled, FrameReader, FrameWriter};
use super::frames::FrameKind;
use super::hello::Purpose;
use super::requests::{Method, put_request, read_response};
use super::route::Route;
use crate::host::Standing;

/// Most calls that wait to be written.
const QUEUE_MAX: usize = 1024;
/// For this long after a failed dial, calls fail with its error instead of dialling again.
const FAILURE_SHARED: Duration = Duration::from_millis(200);
/// A connection is given up if a call on it has timed out and no frame has come for this long. It is
/// several heartbeats, so that a call with a short deadline alone ends no connection.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The request certainly did not reach the other side.
    #[error("cannot reach {address}")]
    NotSent {
        /// The address that the request was meant for.
        address: String,
        /// What failed.
        source: io::Error,
    },
    /// The request may have been carried out.
    #[error("{address} gave no answer")]
    Lost {
        /// The address that the request was sent to.
        address: String,
    },
}

struct Call {
    id: u64,
    method: Method,
    body: Bytes,
}

/// The calls of one connection that have no answer yet.
#[derive(Default)]
struct Waiting {
    calls: HashMap<u64, oneshot::Sender<Bytes>>,
    /// Since when calls have waited here without any frame arriving.
    silent_since: Option<Instant>,
}

/// The calls that wait; `None` once the connection is gone.
type Pending = Arc<Mutex<Option<Waiting>>>;

/// One connection.
#[derive(Debug)]
struct Live {
    /// The address that was dialled.
    address: String,
    /// What the other side shows under TLS.
    standing: Option<Arc<Standing>>,
    queue: mpsc::Sender<Call>,
    pending: Pending,
    end: Arc<Notify>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Waiting").field("calls", &self.calls.len()).finish_non_exhaustive()
    }
}

impl Live {
    fn start(dialled: Dialled) -> Live {
        let (address, (reader, writer)) = dialled;
        let standing = reader.standing().cloned();
        let (queue, calls) = mpsc::channel(QUEUE_MAX);
        let pending: Pending = Arc::new(Mutex::new(Some(Waiting::default())));
        let end = Arc::new(Notify::new());
        let (waiting, ended) = (pending.clone(), end.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = write_calls(writer, calls) => {}
                () = read_answers(reader, &waiting) => {}
                () = ended.notified() => {}
            }
            waiting.lock().take(); // whoever waits is told that the answer is lost
        });
        Live { address, standing, queue, pending, end }
    }

    /// True if its certificates are to be verified anew. Calls that are under way keep it.
    fn is_old(&self) -> bool {
        self.standing.as_ref().is_some_and(|standing| standing.is_old())
    }

    fn is_gone(&self) -> bool {
        self.pending.lock().is_none()
    }

    /// A place for the answer to call `id`; `None` if the connection is gone.
    fn wait_for(&self, id: u64) -> Option<Answer<'_>> {
        let (sender, receiver) = oneshot::channel();
        let mut pending = self.pending.lock();
        let waiting = pending.as_mut()?;
        waiting.calls.insert(id, sender);
        waiting.silent_since.get_or_insert_with(Instant::now);
        Some(Answer { live: self, id, receiver })
    }

    /// A call timed out: ends the connection if nothing came for long (I3).
    fn note_timeout(&self) {
        let mut pending = self.pending.lock();
        let silent_since = pending.as_ref().and_then(|waiting| waiting.silent_since);
        if silent_since.is_some_and(|since| since.elapsed() >= SILENCE_MAX) {
            pending.take();
            self.end.notify_one();
        }
    }
}

/// An answer that is waited for. Dropping it forgets the call.
struct Answer<'a> {
    live: &'a Live,
    id: u64,
    receiver: oneshot::Receiver<Bytes>,
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.live.pending.lock().as_mut() {
            waiting.calls.remove(&self.id);
        }
    }
}

/// A dial that failed.
#[derive(Debug, Clone)]
struct Failed {
    at: Instant,
    kind: io::ErrorKind,
    reason: String,
}

impl Failed {
    fn now(error: &io::Error) -> Failed {
        Failed { at: Instant::now(), kind: error.kind(), reason: error.to_string() }
    }

    fn error(&self) -> io::Error {
        io::Error::new(self.kind, self.reason.clone())
    }
}

/// The result of a dial; `None` while it runs.
type Outcome = Option<Result<Arc<Live>, Failed>>;

/// Calls to one member. Connects when it is first used, and again after a failure.
pub struct Channel {
    caller: Arc<Caller>,
    route: Arc<Route>,
    next_id: AtomicU64,
    /// The last dial.
    dial: Mutex<Option<watch::Receiver<Outcome>>>,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Channel").field("route", &self.route).finish_non_exhaustive()
    }
}

impl Channel {
    /// A channel that is not connected yet.
    pub fn new(caller: Arc<Caller>, route: Route) -> Channel {
        let route = Arc::new(route);
        Channel { caller, route, next_id: AtomicU64::new(1), dial: Mutex::default() }
    }

    /// The address that the log had for the member when this channel was made.
    pub fn given_address(&self) -> &str {
        self.route.given()
    }

    /// Sends a request and waits for its response, for `bound` in all.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(
        &self,
        method: Method,
        body: Bytes,
        bound: Duration,
    ) -> Result<Bytes, CallError> {
        let deadline = Instant::now() + bound;
        let late = || self.not_sent(io::ErrorKind::TimedOut.into());
        let live = timeout_at(deadline, self.connected()).await.map_err(|_| late())?;
        let live = live.map_err(|source| self.not_sent(source))?;
        let gone = || self.not_sent(io::ErrorKind::ConnectionReset.into());
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut answer = live.wait_for(id).ok_or_else(gone)?;
        let Ok(place) = timeout_at(deadline, live.queue.reserve()).await else {
            live.note_timeout();
            return Err(late());
        };
        place.map_err(|_| gone())?.send(Call { id, method, body });
        let Ok(body) = timeout_at(deadline, &mut answer.receiver).await else {
            live.note_timeout();
            return Err(self.lost());
        };
        body.map_err(|_| self.lost())
    }

    async fn connected(&self) -> io::Result<Arc<Live>> {
        let mut dial = self.current_dial();
        let dialled = dial.wait_for(Option::is_some).await;
        match dialled.as_deref() {
            Ok(Some(Ok(live))) => Ok(live.clone()),
            Ok(Some(Err(failed))) => Err(failed.error()),
            Ok(None) | Err(_) => Err(io::ErrorKind::NotConnected.into()), // the runtime ends
        }
    }

    /// The last dial if its result can still be used, otherwise a new one (I2). A dial goes on even
    /// if all its callers give up.
    fn current_dial(&self) -> watch::Receiver<Outcome> {
        let mut last = self.dial.lock();
        if let Some(dial) = last.as_ref().filter(|dial| is_of_use(dial, &self.route)) {
            return dial.clone();
        }
        let (result, fresh) = watch::channel(None);
        let (caller, route) = (self.caller.clone(), self.route.clone());
        tokio::spawn(async move {
            let dialled = match caller.dial(&route, Purpose::Requests, None).await {
                Ok(dialled) => Ok(Arc::new(Live::start(dialled))),
                Err(error) => Err(Failed::now(&error)),
            };
            result.send_replace(Some(dialled));
        });
        *last = Some(fresh.clone());
        fresh
    }

    fn not_sent(&self, source: io::Error) -> CallError {
        CallError::NotSent { address: self.route.address(), source }
    }

    fn lost(&self) -> CallError {
        CallError::Lost { address: self.route.address() }
    }
}

fn is_of_use(dial: &watch::Receiver<Outcome>, route: &Route) -> bool {
    match &*dial.borrow() {
        None => dial.has_changed().is_ok(), // it runs
        Some(Ok(live)) => !live.is_gone() && !live.is_old() && route.leads_to(&live.address), // I3
        Some(Err(failed)) => failed.at.elapsed() < FAILURE_SHARED,
    }
}

/// Writes requests as they come, as many as wait with one write.
async fn write_calls(mut writer: FrameWriter, mut calls: mpsc::Receiver<Call>) {
    let mut batch = Vec::new();
    while calls.recv_many(&mut batch, QUEUE_MAX).await > 0 {
        for Call { id, method, body } in batch.drain(..) {
            put_request(&mut writer.buffer, id, method, &body);
        }
        if writer.send().await.is_err() {
            return;
        }
    }
}

async fn read_answers(mut reader: FrameReader, pending: &Pending) {
    while let Ok(body) = reader.expect(FrameKind::Response).await {
        let Ok((id, body)) = read_response(body) else { return };
        let mut pending = pending.lock();
        let Some(waiting) = pending.as_mut() else { return };
        let sender = waiting.calls.remove(&id);
        waiting.silent_since = (!waiting.calls.is_empty()).then(Instant::now);
        drop(pending);
        if let Some(sender) = sender {
            // The caller may have given up.
            drop(sender.send(body));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::net::TcpListener;

    use super::super::connection::split;
    use super::super::hello::{Greeting, Welcome, Whoever};
    use super::super::requests::{put_response, read_request};
    use super::*;
    use crate::host::Host;

    const LONG: Duration = Duration::from_secs(10);

    fn channel_to(listener: &TcpListener) -> Channel {
        let address = listener.local_addr().unwrap().to_string();
        Channel::new(Caller::stranger(&Host::real()), Route::to_address(address))
    }

    async fn listen() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").await.unwrap()
    }

    /// Accepts one connection and answers its hello.
    async fn shake_hands(listener: &TcpListener, refusal: Option<&str>) -> Ends {
        let (mut reader, mut writer) = split(listener.accept().await.unwrap().0).unwrap();
        reader.expect(FrameKind::Hello).await.unwrap();
        let from = Whoever { cluster_id: 1, member_id: 2, process: 3 };
        let answer = refusal.map_or(Greeting::Accepted, |reason| Greeting::Refused(reason.into()));
        Welcome { from, answer }.put(&mut writer.buffer);
        writer.send().await.unwrap();
        (reader, writer)
    }

    type Ends = (FrameReader, FrameWriter);

    /// Answers every request with its own body.
    async fn echo((mut reader, mut writer): Ends) {
        while let Ok(body) = reader.expect(FrameKind::Request).await {
            let (id, _, body) = read_request(body).unwrap();
            put_response(&mut writer.buffer, id, &body);
            writer.send().await.unwrap();
        }
    }

    async fn call(channel: &Channel, bound: Duration) -> Result<Bytes, CallError> {
        channel.call(Method::Read, Bytes::from_static(b"what"), bound).await
    }

    #[tokio::test]
    async fn deadline_holds_while_connecting_and_nothing_was_sent() {
        let listener = listen().await; // the kernel connects; nobody answers the hello
        let channel = channel_to(&listener);
        let bound = Duration::from_millis(50);
        let error = tokio::time::timeout(LONG, call(&channel, bound)).await.unwrap().unwrap_err();
        assert!(matches!(error, CallError::NotSent { .. }), "{error:?}");
        // The dial went on without its caller: the next call uses it.
        let server = async { echo(shake_hands(&listener, None).await).await };
        tokio::select! {
            answer = call(&channel, LONG) => assert_eq!(answer.unwrap(), &b"what"[..]),
            () = server => unreachable!("the channel is open"),
        }
    }

    #[tokio::test]
    async fn calls_share_one_failed_dial() {
        let listener = listen().await;
        let channel = channel_to(&listener);
        let dial_count = AtomicUsize::new(0);
        let refuse = async {
            loop {
                shake_hands(&listener, Some("go away")).await;
                dial_count.fetch_add(1, Ordering::Relaxed);
            }
        };
        let calls = async {
            let answers = futures_util::future::join_all((0..8).map(|_| call(&channel, LONG)));
            for answer in answers.await.into_iter().chain([call(&channel, LONG).await]) {
                let error = answer.unwrap_err();
                assert!(crate::fault::chain(&error).contains("go away"), "{error:?}");
            }
        };
        tokio::select! {
            () = calls => {}
            () = refuse => {}
        }
        assert_eq!(dial_count.into_inner(), 1);
    }

    #[tokio::test]
    async fn stalled_connection_is_replaced() {
        let listener = listen().await;
        let channel = channel_to(&listener);
        let server = async {
            let mut stalled = shake_hands(&listener, None).await; // takes requests, answers none
            stalled.0.expect(FrameKind::Request).await.unwrap();
            echo(shake_hands(&listener, None).await).await;
            stalled
        };
        let client = async {
            // A full silence later the next call goes over a new connection.
            while let Err(error) = call(&channel, SILENCE_MAX / 2).await {
                assert!(matches!(error, CallError::Lost { .. }), "{error:?}");
            }
        };
        tokio::select! {
            done = tokio::time::timeout(LONG, client) => done.expect("it is replaced"),
            _ = server => unreachable!("the channel is open"),
        }
    }

    #[tokio::test]
    async fn short_deadline_alone_ends_no_connection() {
        let listener = listen().await;
        let channel = channel_to(&listener);
        let server = async {
            let (mut reader, writer) = shake_hands(&listener, None).await;
            reader.expect(FrameKind::Request).await.unwrap(); // the first gets no answer
            echo((reader, writer)).await;
        };
        let client = async {
            let error = call(&channel, Duration::from_millis(50)).await.unwrap_err();
            assert!(matches!(error, CallError::Lost { .. }), "{error:?}");
            assert_eq!(call(&channel, LONG).await.unwrap(), &b"what"[..]);
        };
        tokio::select! {
            () = client => {}
            () = server => unreachable!("the channel is open"),
        }
    }
}
