//! One stream of append frames to another member. Requests go out as openraft produces them, and
//! answers are handed back as they come.
//!
//! Called by `network`; calls `peer`'s connection. Invariants:
//!
//! - I1: answers come in the order of the requests, and each names the end of its own request. The
//!   connection ends at the first answer that names another end, or that does not come while
//!   nothing is sent either.
//! - I2: no answer is credited to a request that was sent after the one that it answers. openraft
//!   credits an answer to every request that it has handed out and that ends where the answer ends,
//!   or begins below that; and it dates its lease and its ReadIndex rounds by the latest of these
//!   requests. A request that carries the commit index alone ends where the one before it
//!   ends, so a leader that was paused could find old answers in its socket, credit them to new
//!   requests, and serve stale reads. Two rules prevent that. A request is taken from openraft only
//!   while an answer is waited for, never while openraft looks at one. And an answer is passed over
//!   if the next request on its way would be credited with it: that request's own answer will say
//!   the same. Requests follow each other without a gap, so by I1 no later one can be credited
//!   either.
//! - I3: a request without entries brings the commit index alone. While no answer is waited for, it
//!   is held for a moment, and dropped if another request follows, which brings a commit index at
//!   least as high: that saves a frame, an answer, and a wake-up on each side. openraft takes the
//!   answer to the later request for one to both, and dates it by the later one. The first request
//!   of a stream is never held: it may ask whether the logs agree.
//! - I4: nobody waits for a learner's answers, so requests to a learner are gathered. After a
//!   request that leaves room in its frame, the next one is taken from openraft a while later, and
//!   brings all that was appended meanwhile. A request that fills its frame is followed at once:
//!   there is more to catch up on.
//! - I5: a member that is far behind is sent entries twice as fast as the log grows. While nothing
//!   is committed it is sent them as fast as possible: either nobody writes, or writes wait for
//!   this very member.
//! - I6: nothing more is sent to an address once the member is known to be elsewhere.
//! - I7: a connection whose certificates are to be verified anew takes no more requests, and ends the
//!   stream once those on their way are answered; the next stream has a new one.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use diskstore_storage::LogId as StoredLogId;
use diskstore_storage::wal::{State, Wal};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, Stream, StreamExt};
use openraft::entry::RaftEntry;
use openraft::errors::{NetworkError, RPCError};
use openraft::raft::AppendEntriesRequest;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::log_store::READ_BYTES_MAX;
use super::network::{Acknowledged, RpcError, unreachable_error};
use super::timing::APPEND_ENTRIES_MAX;
use super::types::{AppendOutcome, LogId, TypeConfig, Vote, append_reply_from, put_append};
use crate::peer::append::AppendReply;
use crate::peer::{Dialled, FrameKind, FrameReader, FrameWriter, Route, bad_frame};
use crate::replica::Pace;

/// A stream is broken when a frame is unanswered and nothing was answered or sent for this long.
const IDLE_MAX: Duration = Duration::from_secs(2);
/// Most append frames on their way to one member.
const WINDOW: usize = 64;
/// How long a commit index without entries waits for entries to travel with.
const HELD_MAX: Duration = Duration::from_millis(1);
/// A frame of so many bytes is full: the next entry, of the same size, may not have found room.
const FULL_BYTES: usize = READ_BYTES_MAX / 2;

/// How many times as fast as the log grows one that is far behind catches up.
const CATCH_UP_FACTOR: u64 = 2;

pub(super) type Append = AppendEntriesRequest<TypeConfig>;
pub(super) type AppendResult = Result<AppendOutcome, RpcError>;
/// An append connection between two streams.
pub(super) type Idle = Arc<Mutex<Option<Dialled>>>;

/// Whom a stream goes to, and under which vote.
#[derive(Debug)]
pub(super) struct Target {
    /// Where the connection goes when every frame was answered.
    pub(super) idle: Idle,
    /// The way to the member.
    pub(super) route: Arc<Route>,
    /// What the member is known to hold.
    pub(super) acknowledged: Arc<Acknowledged>,
    /// Its id.
    pub(super) member: u64,
    /// The leader's vote.
    pub(super) vote: Vote,
    /// How long requests are gathered (I4); not at all for a voter.
    pub(super) gather: Option<Duration>,
    /// It is far behind if it lacks so many bytes of the log (I5).
    pub(super) far_behind_bytes: u64,
    /// The log that it is sent from.
    pub(super) wal: Arc<Wal>,
}

impl Target {
    fn note(&self, log_id: LogId) {
        self.acknowledged.note(self.member, self.vote, log_id);
    }
}

/// The answers to `first` and to what `input` holds, which is sent as the answers are waited for.
pub(super) fn answers<'a, S>(
    dialled: Dialled,
    target: Target,
    first: Append,
    input: S,
) -> BoxStream<'a, AppendResult>
where
    S: Stream<Item = Append> + Send + Unpin + 'a,
{
    let mut appends = Appends::new(dialled, target, input);
    appends.send(first);
    futures_util::stream::unfold(Some(appends), next_answer).boxed()
}

/// One append stream: requests as openraft produces them, answers as they come.
struct Appends<S> {
    /// Where the connection leads.
    address: String,
    reader: FrameReader,
    writer: FrameWriter,
    /// `None` once openraft has no more requests.
    input: Option<S>,
    /// The last log id of each request on its way.
    on_way: VecDeque<Option<LogId>>,
    /// A request without entries that is not sent yet, and when it has to be (I3).
    held: Option<(Append, Instant)>,
    /// When the next request is taken (I4, I5).
    rest_until: Option<Instant>,
    /// Of a member that is far behind (I5).
    catching_up: Option<CatchingUp>,
    /// When something was last answered or sent, or the first of them taken.
    progress: Instant,
    /// Ends when the connection is to be made anew (I7).
    grown_old: BoxFuture<'static, ()>,
    target: Target,
}

/// How a member that is far behind catches up.
struct CatchingUp {
    pace: Pace,
    /// What it was sent since.
    bytes_sent: u64,
    /// What was committed when it was sent the last full frame.
    committed: Option<StoredLogId>,
}

/// What can happen next.
enum Event {
    Answered(io::Result<AppendOutcome>),
    Sent(io::Result<()>),
    Taken(Option<Append>),
    HeldLong,
    GrownOld,
}

async fn next_answer<S>(appends: Option<Appends<S>>) -> Option<(AppendResult, Option<Appends<S>>)>
where
    S: Stream<Item = Append> + Unpin,
{
    let mut appends = appends?;
    match appends.next().await {
        Ok(Some(Ok(log_id))) => Some((Ok(Ok(log_id)), Some(appends))),
        Ok(Some(Err(refusal))) => Some((Ok(Err(refusal)), None)),
        Ok(None) => {
            // Every frame was answered: the connection can serve the next stream.
            *appends.target.idle.lock() = Some((appends.address, (appends.reader, appends.writer)));
            None
        }
        Err(error) => {
            let error = match error.kind() {
                io::ErrorKind::TimedOut => RPCError::Network(NetworkError::new(&error)),
                _ => unreachable_error(&error),
            };
            Some((Err(error), None))
        }
    }
}

impl<S: Stream<Item = Append> + Unpin> Appends<S> {
    fn new(dialled: Dialled, target: Target, input: S) -> Self {
        let (address, (reader, writer)) = dialled;
        let grown_old = match reader.standing() {
            Some(standing) => standing.clone().grown_old().boxed(),
            None => std::future::pending().boxed(),
        };
        Appends {
            address,
            reader,
            writer,
            input: Some(input),
            on_way: VecDeque::new(),
            held: None,
            rest_until: None,
            catching_up: None,
            progress: Instant::now(),
            grown_old,
            target,
        }
    }

    /// The next answer for openraft; `None` when all is said.
    async fn next(&mut self) -> io::Result<Option<AppendOutcome>> {
        while self.input.is_some() || !self.on_way.is_empty() || self.held.is_some() {
            match self.event().await {
                Event::Taken(Some(_)) if !self.target.route.leads_to(&self.address) => {
                    return Err(io::ErrorKind::ConnectionAborted.into()); // I6
                }
                Event::Taken(Some(request)) => self.take(request),
                Event::Taken(None) => {
                    self.input = None;
                    self.send_held();
                }
                Event::HeldLong => self.send_held(),
                Event::GrownOld => {
                    self.input = None; // I7
                    self.send_held();
                }
                Event::Sent(result) => {
                    result?;
                    self.progress = Instant::now();
                }
                Event::Answered(answer) => {
                    let answer = answer?;
                    self.progress = Instant::now();
                    let end = self.on_way.pop_front();
                    let Ok(log_id) = &answer else { return Ok(Some(answer)) };
                    if end.as_ref() != Some(log_id) {
                        let what = "the answer names another end than its request's"; // I1
                        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                    }
                    if let Some(log_id) = log_id {
                        self.target.note(*log_id);
                    }
                    if self.on_way.front() != Some(log_id) {
                        return Ok(Some(answer)); // I2
                    }
                }
            }
        }
        Ok(None)
    }

    /// Waits for what happens first; what does not happen loses nothing.
    async fn event(&mut self) -> Event {
        let (is_sending, is_awaiting) = (self.writer.has_unsent(), !self.on_way.is_empty());
        let is_taking = !is_sending && self.on_way.len() < WINDOW;
        let deadline = self.progress + IDLE_MAX;
        let held_until = self.held.as_ref().map(|(_, until)| *until);
        let has_input = self.input.is_some();
        let Appends { reader, writer, input, rest_until, grown_old, .. } = self;
        let answer = async {
            let body = timeout_at(deadline, reader.expect(FrameKind::AppendReply))
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            AppendReply::decode(body).map(append_reply_from).map_err(bad_frame)
        };
        let request = async {
            if let Some(until) = rest_until {
                sleep_until(*until).await;
            }
            match input {
                Some(input) => input.next().await,
                None => std::future::pending().await,
            }
        };
        let held = sleep_until(held_until.unwrap_or(deadline));
        tokio::select! {
            biased;
            answer = answer, if is_awaiting => Event::Answered(answer),
            sent = writer.send_some(), if is_sending => Event::Sent(sent),
            request = request, if is_taking => Event::Taken(request),
            () = held, if held_until.is_some() => Event::HeldLong,
            () = grown_old, if has_input => Event::GrownOld,
        }
    }

    fn take(&mut self, request: Append) {
        let held = self.held.take(); // whatever it says, the next request says too
        let entry_count = request.entries.len() as u64;
        if request.entries.is_empty() && self.on_way.is_empty() {
            let until = held.map_or_else(|| Instant::now() + HELD_MAX, |(_, until)| until);
            self.held = Some((request, until));
        } else {
            self.send(request);
        }
        let frame_bytes = self.writer.unsent_bytes();
        let is_full = entry_count >= APPEND_ENTRIES_MAX || frame_bytes >= FULL_BYTES;
        let rest = if is_full {
            self.catch_up(entry_count, frame_bytes as u64) // I5
        } else {
            self.target.gather // I4
        };
        self.rest_until = rest.map(|rest| Instant::now() + rest);
    }

    /// How long to rest after a full frame (I5).
    fn catch_up(&mut self, entry_count: u64, frame_bytes: u64) -> Option<Duration> {
        let end = self.on_way.back().copied().flatten().map_or(0, |log_id| log_id.index);
        let State { last, committed, .. } = self.target.wal.state();
        let entries_behind = last.map_or(0, |last| last.index).saturating_sub(end);
        let bytes_behind = entries_behind.saturating_mul(frame_bytes / entry_count.max(1));
        if bytes_behind < self.target.far_behind_bytes {
            self.catching_up = None;
            return None;
        }
        let log_bytes = self.target.wal.log_bytes();
        let begin =
            || CatchingUp { pace: Pace::new(u64::MAX, log_bytes), bytes_sent: 0, committed };
        let catching_up = self.catching_up.get_or_insert_with(begin);
        catching_up.bytes_sent += frame_bytes;
        let spread_bytes = u64::MAX / CATCH_UP_FACTOR;
        let is_waited_for = std::mem::replace(&mut catching_up.committed, committed) == committed;
        if is_waited_for {
            return None; // the pace is asked for a rest only by who takes it
        }
        let rest = catching_up.pace.rest(catching_up.bytes_sent, log_bytes, spread_bytes);
        (!rest.is_zero()).then_some(rest)
    }

    fn send_held(&mut self) {
        if let Some((request, _)) = self.held.take() {
            self.send(request);
        }
    }

    fn send(&mut self, request: Append) {
        let last = request.entries.last().map_or(request.prev_log_id, |entry| Some(entry.log_id()));
        if self.on_way.is_empty() {
            self.progress = Instant::now();
        }
        self.on_way.push_back(last);
        put_append(self.writer.for_append(), request);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use diskstore_storage::Term;
    use diskstore_storage::disk::SimDisk;
    use diskstore_storage::wal::{Entry as StoredEntry, EntryKind, Nonces, Options as WalOptions};
    use futures_util::FutureExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;

    use super::super::types::{Entry, append_reply_to, log_id_from, read_append};
    use super::*;
    use crate::command::{Action, CommandBuilder, Operation, slot_key};
    use crate::peer::{Connection, split};

    const LEADER: u64 = 1;

    /// A stream, its requests, how many of them were taken, and the member at its other end.
    struct Pair {
        answers: BoxStream<'static, AppendResult>,
        requests: mpsc::UnboundedSender<Append>,
        taken: Arc<AtomicUsize>,
        idle: Idle,
        member: Connection,
    }

    fn log_id(index: u64) -> LogId {
        log_id_from(StoredLogId { term: Term::new(1), index })
    }

    /// A request that ends at this index, with an entry or with the commit index alone.
    fn request(previous: u64, last: u64) -> Append {
        let entries = (previous + 1..=last).map(|index| Entry::new_blank(log_id(index))).collect();
        let prev_log_id = Some(log_id(previous));
        let vote = Vote::new_committed(1, LEADER);
        Append { vote, prev_log_id, entries, leader_commit: None }
    }

    async fn connect() -> (Connection, Connection) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut own = split(stream).unwrap();
        let mut member = split(listener.accept().await.unwrap().0).unwrap();
        own.0.allow_large();
        member.0.allow_large();
        (own, member)
    }

    async fn pair(first: Append) -> Pair {
        gathering_pair(first, None).await
    }

    async fn gathering_pair(first: Append, gather: Option<Duration>) -> Pair {
        let (own, member) = connect().await;
        let (requests, mut queue) = mpsc::unbounded_channel();
        let (taken, idle) = (Arc::new(AtomicUsize::new(0)), Idle::default());
        let counter = taken.clone();
        let input = futures_util::stream::poll_fn(move |context| {
            let polled = queue.poll_recv(context);
            if polled.is_ready() {
                counter.fetch_add(1, Ordering::Relaxed);
            }
            polled
        });
        let vote = first.vote;
        let target = Target { idle: idle.clone(), gather, ..target(vote) };
        let own = (String::new(), own);
        Pair { answers: answers(own, target, first, input), requests, taken, idle, member }
    }

    fn target(vote: Vote) -> Target {
        let (idle, acknowledged) = (Idle::default(), Arc::default());
        let (disk, options) = (Arc::new(SimDisk::new(1)), WalOptions::new(Nonces::counted()));
        let wal = Wal::open(disk, Path::new("/wal"), Path::new("/tmp"), &options).unwrap().0;
        let route = Arc::new(Route::to_address(String::new()));
        Target {
            idle,
            route,
            acknowledged,
            member: 2,
            vote,
            gather: None,
            far_behind_bytes: 4096,
            wal: Arc::new(wal),
        }
    }

    impl Pair {
        /// Lets frames travel until the member has this many; no answer may come meanwhile.
        async fn travel(&mut self, count: usize) {
            let arrive = async {
                for _ in 0..count {
                    self.member.0.expect(FrameKind::Append).await.unwrap();
                }
            };
            tokio::select! {
                answer = self.answers.next() => panic!("nothing was answered: {answer:?}"),
                () = arrive => {}
            }
        }

        async fn answer(&mut self, index: u64) {
            append_reply_to(&Ok(Some(log_id(index)))).put(&mut self.member.1.buffer);
            self.member.1.send().await.unwrap();
        }

        async fn answered(&mut self) -> Option<LogId> {
            self.answers.next().await.unwrap().unwrap().unwrap()
        }
    }

    /// I6.
    #[tokio::test]
    async fn a_stream_to_where_the_member_is_no_more_ends_with_its_next_request() {
        let ((own, mut member), first) = (connect().await, request(9, 10));
        let target = target(first.vote);
        let requests = futures_util::stream::iter([request(10, 11)]);
        let mut answers = answers(("left".into(), own), target, first, requests);
        assert!(answers.next().await.unwrap().is_err());
        drop(answers);
        member.0.expect(FrameKind::Append).await.unwrap();
        assert!(member.0.next().await.unwrap().is_none(), "nothing more was sent");
    }

    #[tokio::test]
    async fn an_answer_is_not_credited_to_a_request_that_was_sent_later() {
        let mut pair = pair(request(9, 10)).await;
        pair.requests.send(request(10, 10)).unwrap();
        pair.travel(2).await;
        // Only the first is answered, then the member is gone: nothing was acknowledged since.
        pair.answer(10).await;
        let Pair { mut answers, member, .. } = pair;
        drop(member);
        assert!(answers.next().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn an_answer_that_names_another_end_is_credited_to_nobody() {
        for end in [9, 11, 12] {
            let mut pair = pair(request(9, 10)).await;
            pair.requests.send(request(10, 12)).unwrap();
            pair.travel(2).await;
            pair.answer(end).await;
            assert!(pair.answers.next().await.unwrap().is_err(), "{end}");
        }
    }

    #[tokio::test]
    async fn requests_that_end_together_are_answered_once() {
        let mut pair = pair(request(9, 10)).await;
        pair.requests.send(request(10, 10)).unwrap();
        pair.requests.send(request(10, 10)).unwrap();
        pair.requests.send(request(10, 12)).unwrap();
        pair.travel(4).await;
        for index in [10, 10, 10, 12] {
            pair.answer(index).await;
        }
        assert_eq!(pair.answered().await, Some(log_id(10)));
        assert_eq!(pair.answered().await, Some(log_id(12)));
        let Pair { requests, mut answers, idle, .. } = pair;
        drop(requests);
        assert!(answers.next().await.is_none());
        assert!(idle.lock().is_some());
    }

    #[tokio::test]
    async fn nothing_is_taken_while_an_answer_is_looked_at() {
        let mut pair = pair(request(9, 10)).await;
        pair.travel(1).await;
        pair.answer(10).await;
        assert_eq!(pair.answered().await, Some(log_id(10)));
        pair.requests.send(request(10, 10)).unwrap();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pair.taken.load(Ordering::Relaxed), 0);
        assert!(pair.answers.next().now_or_never().is_none());
        assert_eq!(pair.taken.load(Ordering::Relaxed), 1);
    }

    fn with_commit(request: Append, index: u64) -> Append {
        Append { leader_commit: Some(log_id(index)), ..request }
    }

    /// I3
    #[tokio::test]
    async fn a_commit_index_travels_with_the_entries_that_follow() {
        let mut pair = pair(request(9, 10)).await;
        pair.travel(1).await;
        pair.answer(10).await;
        assert_eq!(pair.answered().await, Some(log_id(10)));
        pair.requests.send(with_commit(request(10, 10), 9)).unwrap();
        pair.requests.send(with_commit(request(10, 10), 10)).unwrap();
        pair.requests.send(with_commit(request(10, 12), 10)).unwrap();
        let frame = tokio::select! {
            answer = pair.answers.next() => panic!("nothing was answered: {answer:?}"),
            frame = pair.member.0.expect(FrameKind::Append) => read_append(frame.unwrap(), &[]).unwrap(),
        };
        assert_eq!((frame.entries.len(), frame.leader_commit), (2, Some(log_id(10))));
        pair.answer(12).await;
        assert_eq!(pair.answered().await, Some(log_id(12)));
    }

    /// I3
    #[tokio::test]
    async fn a_commit_index_that_nothing_follows_is_sent_alone() {
        let mut pair = pair(request(9, 10)).await;
        pair.travel(1).await;
        pair.answer(10).await;
        assert_eq!(pair.answered().await, Some(log_id(10)));
        pair.requests.send(with_commit(request(10, 10), 10)).unwrap();
        timeout_at(Instant::now() + IDLE_MAX, pair.travel(1)).await.expect("it is sent");
        pair.answer(10).await;
        assert_eq!(pair.answered().await, Some(log_id(10)));
    }

    /// I3: the end of a stream loses none.
    #[tokio::test]
    async fn a_commit_index_is_sent_when_openraft_has_no_more() {
        let mut pair = pair(request(9, 10)).await;
        pair.travel(1).await;
        pair.answer(10).await;
        assert_eq!(pair.answered().await, Some(log_id(10)));
        pair.requests.send(with_commit(request(10, 10), 10)).unwrap();
        let Pair { requests, mut answers, mut member, .. } = pair;
        drop(requests);
        tokio::select! {
            answer = answers.next() => panic!("nothing was answered: {answer:?}"),
            frame = member.0.expect(FrameKind::Append) => drop(frame.unwrap()),
        }
    }

    /// I4
    #[tokio::test]
    async fn what_goes_to_a_learner_is_gathered() {
        let mut pair = gathering_pair(request(9, 10), Some(Duration::from_hours(1))).await;
        pair.requests.send(request(10, 11)).unwrap();
        pair.requests.send(request(11, 12)).unwrap();
        pair.travel(2).await; // the first may ask whether the logs agree
        for index in [10, 11] {
            pair.answer(index).await;
            assert_eq!(pair.answered().await, Some(log_id(index)));
        }
        for _ in 0..100 {
            assert!(pair.answers.next().now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        assert_eq!(pair.taken.load(Ordering::Relaxed), 1, "openraft goes on adding to the next");
    }

    /// I4
    #[tokio::test]
    async fn a_lone_write_and_its_commit_reach_a_learner() {
        let mut pair = gathering_pair(request(9, 10), Some(Duration::from_millis(1))).await;
        pair.requests.send(request(10, 11)).unwrap();
        pair.requests.send(request(11, 12)).unwrap();
        pair.requests.send(with_commit(request(12, 12), 12)).unwrap();
        timeout_at(Instant::now() + IDLE_MAX, pair.travel(4)).await.expect("they are sent");
    }

    /// I4: catching up is as fast as the frames are.
    #[tokio::test]
    async fn a_full_frame_to_a_learner_is_followed_at_once() {
        let mut pair = gathering_pair(request(9, 10), Some(Duration::from_hours(1))).await;
        let many = 10 + APPEND_ENTRIES_MAX;
        pair.requests.send(request(10, many)).unwrap();
        // Of the second kind two find no room in one.
        for value_bytes in [1 << 20, 520 << 10] {
            let large = large_request(1, value_bytes);
            pair.requests.send(Append { prev_log_id: Some(log_id(many)), ..large }).unwrap();
        }
        pair.requests.send(request(many, many + 1)).unwrap();
        pair.requests.send(request(many + 1, many + 2)).unwrap();
        pair.travel(5).await;
        assert_eq!(pair.taken.load(Ordering::Relaxed), 4);
    }

    /// I5
    #[tokio::test]
    async fn a_member_that_is_far_behind_rests_while_others_write_and_twice_as_much_is_sent() {
        const FRAME: u64 = 1 << 20;
        let (connection, _member) = connect().await;
        let first = request(9, 10);
        let target = target(first.vote);
        let wal = target.wal.clone();
        let last = Cell::new(0);
        // As much as a quarter of a frame.
        let append = || {
            last.set(last.get() + 1);
            let last = last.get();
            let payload = bytes::Bytes::from(vec![7; 256 << 10]).into();
            let log_id = StoredLogId { term: Term::new(1), index: last };
            wal.append([StoredEntry { log_id, kind: EntryKind::Normal, payload }]).unwrap();
            wal.write(wal.seal().unwrap()).unwrap();
        };
        let write = || {
            append();
            wal.save_committed(StoredLogId { term: Term::new(1), index: last.get() });
        };
        write();
        let mut appends =
            Appends::new((String::new(), connection), target, futures_util::stream::pending());
        appends.send(Append { prev_log_id: None, ..request(0, 0) });
        assert_eq!(appends.catch_up(1, FRAME), None, "nobody writes");
        write();
        assert!(appends.catch_up(1, FRAME).is_some(), "much more was sent than written");
        (0..8).for_each(|_| write());
        assert_eq!(
            appends.catch_up(1, FRAME),
            None,
            "three frames, and more than half of it written"
        );
        for _ in 0..3 {
            append();
            assert_eq!(appends.catch_up(1, 16 * FRAME), None, "nothing is committed without it");
        }
        write();
        assert!(appends.catch_up(1, FRAME).is_some(), "much more was sent than written");
        appends.send(request(last.get(), last.get()));
        assert_eq!(appends.catch_up(1, FRAME), None, "it has all there is");
        assert!(appends.catching_up.is_none());
    }

    /// More than any socket takes without a reader.
    const SOCKET_MIB_MAX: u64 = 64;

    /// So many entries of so many bytes each.
    fn large_request(count: u64, value_bytes: usize) -> Append {
        let value = vec![7; value_bytes];
        let mut builder = CommandBuilder::new();
        let action = Action::Append { value: &value };
        builder.push(&Operation { key: &slot_key(1), action }).unwrap();
        let command = builder.finish();
        let entries =
            (1..=count).map(|index| Entry::new_normal(log_id(index), command.clone())).collect();
        Append { prev_log_id: None, entries, ..request(0, 0) }
    }

    #[tokio::test]
    async fn a_stream_that_nobody_wants_takes_its_connection_along_though_the_socket_is_full() {
        let mut pair = pair(large_request(SOCKET_MIB_MAX, 1 << 20)).await;
        assert!(pair.answers.next().now_or_never().is_none()); // it is in the write now
        let Pair { answers, idle, mut member, .. } = pair;
        drop(answers);
        assert!(idle.lock().is_none(), "half a frame is written: nothing more may follow it");
        assert!(member.0.expect(FrameKind::Append).await.is_err());
    }

    /// A frame may take longer to be sent than an answer may take to come.
    #[tokio::test]
    async fn sending_counts_as_progress() {
        let (connection, _member) = connect().await;
        let first = large_request(SOCKET_MIB_MAX, 1 << 20);
        let target = target(first.vote);
        let mut appends =
            Appends::new((String::new(), connection), target, futures_util::stream::pending());
        appends.send(first);
        let before = appends.progress;
        assert!(appends.next().now_or_never().is_none());
        assert!(appends.writer.has_unsent(), "the socket is full");
        assert!(appends.progress > before, "a part of the frame was written");
    }
}
