//! One thread of the load: its connections, and the loop that keeps them busy.
//!
//! - I1: one system call reads, and one writes, all operations under way on a connection.
//! - I2: the loop never blocks longer than until the next operation is due, and every wait for the
//!   server ends.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::thread::set_current_timer_slack;

use super::codec::{CodecReply, Operation};
use super::connection::{ConnectionState, LoadConnection, Sent};
use super::copies::{Watch, split};
use super::random::Random;
use super::schedule::Schedule;
use super::tally::{Tallied, Tally};
use super::workload::Action;
use super::{Pace, RunShared, nanoseconds, to_index, to_nanoseconds};

/// Bytes that are read at once.
const READ_BYTES: usize = 256 << 10;
/// Events that are taken at once.
const EVENT_COUNT_MAX: usize = 1024;
/// Operations that an open loop starts before it looks for replies.
const STARTS_PER_TURN_MAX: u32 = 1024;
/// Connections of a thread that are being made at once: a listener's queue is short.
const OPENING_COUNT_MAX: usize = 64;
/// How often connections are looked after.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);
/// How long a lost connection rests.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// How long operations may take to end when no more of them start.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a run without a set duration goes on without any connection.
const ALONE_TIME_MAX: Duration = Duration::from_secs(10);

/// What sockets have become ready for.
type Events = Vec<epoll::Event>;

/// A thread's part of a run.
pub(super) struct Worker<'a> {
    shared: &'a RunShared<'a>,
    schedule: Schedule,
    connections: Vec<LoadConnection>,
    epoll: OwnedFd,
    scratch: Vec<u8>,
    random: Random,
    tally: Tally,
    clock: Instant,
    /// False while connections are made.
    is_running: bool,
    /// Operations of an open loop whose time has come.
    due: u64,
    /// Operations given to connections.
    issued: u64,
    /// Operations that still may be measured.
    requests_left: u64,
    in_flight: u64,
    writes: u64,
    sweep_at: u64,
    /// When a connection stood last.
    connected_at: u64,
    /// Successes and errors, those of the warm-up included, that are not yet told.
    news: (u64, u64),
    /// When connections have rested.
    resting: BinaryHeap<Reverse<(u64, usize)>>,
    /// Records that were read and are now to be written.
    follow_ups: Vec<Sent>,
    /// Latencies of the first connection that are not yet told.
    watched: Vec<u64>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        shared: &'a RunShared<'a>,
        thread: u64,
        threads: u64,
    ) -> io::Result<Worker<'a>> {
        let load = shared.load;
        let begin = to_nanoseconds(load.warm_up);
        let duration = load.duration.unwrap_or(super::DURATION_MAX);
        let end = begin.saturating_add(to_nanoseconds(duration));
        let schedule = Schedule { pace: load.pace, begin, end, client_count: load.clients };
        let clients = (thread..load.clients).step_by(to_index(threads));
        let connections = clients.map(|client| LoadConnection::new(client, (shared.make_codec)()));
        let share = |all: u64| all / threads + u64::from(thread < all % threads);
        Ok(Worker {
            shared,
            schedule,
            connections: connections.collect(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            scratch: vec![0; READ_BYTES],
            random: Random::new(load.seed, thread),
            tally: Tally::new(),
            clock: Instant::now(),
            is_running: false,
            due: 0,
            issued: 0,
            requests_left: load.requests.map_or(u64::MAX, share),
            in_flight: 0,
            writes: thread << 48,
            sweep_at: 0,
            connected_at: 0,
            news: (0, 0),
            resting: BinaryHeap::new(),
            follow_ups: Vec::new(),
            watched: Vec::new(),
        })
    }

    /// Makes the connections, waits for the other threads, and runs to the end.
    pub(super) fn run(mut self) -> io::Result<Tally> {
        let mut events = Vec::with_capacity(EVENT_COUNT_MAX);
        let opened = self.open_all(&mut events);
        // Whatever became of it: the others wait.
        self.shared.begin.wait();
        opened?;
        // By default the system wakes a thread up to 50 us late.
        set_current_timer_slack(NonZeroU64::new(1))?;
        self.begin();
        loop {
            let now = nanoseconds(self.clock);
            self.start_due(now);
            self.wake(now);
            if self.is_done(now) {
                break;
            }
            self.turn(&mut events, now)?;
        }
        self.give_up_the_rest();
        self.tell();
        Ok(self.tally)
    }

    fn open_all(&mut self, events: &mut Events) -> io::Result<()> {
        let time_max = to_nanoseconds(self.shared.load.timeout);
        loop {
            let now = nanoseconds(self.clock);
            let open = |connection: &LoadConnection| connection.state == ConnectionState::Open;
            if self.connections.iter().all(open) || now > time_max {
                return Ok(());
            }
            self.sweep_at = 0; // places become free for further connections
            self.turn(events, now)?;
        }
    }

    fn begin(&mut self) {
        self.is_running = true;
        self.clock = Instant::now();
        self.sweep_at = 0;
        for index in 0..self.connections.len() {
            match &mut self.connections[index].state {
                ConnectionState::Open => {}
                ConnectionState::Opening { since: time }
                | ConnectionState::Down { until: time } => *time = 0,
            }
            self.pump(index, 0);
        }
    }

    /// Waits for something to happen, and does what it asks for.
    fn turn(&mut self, events: &mut Events, now: u64) -> io::Result<()> {
        if now >= self.sweep_at {
            self.sweep_at = now + to_nanoseconds(SWEEP_INTERVAL);
            self.sweep(now);
            self.tell();
        }
        self.wait(events, now)?;
        for event in events.drain(..) {
            let (index, part) = split(event.data.u64());
            self.react(index, part);
        }
        Ok(())
    }

    fn wait(&self, events: &mut Events, now: u64) -> io::Result<()> {
        let woken = self.resting.peek().map_or(u64::MAX, |Reverse((time, _))| *time);
        let until = self.next_due().min(woken).min(self.sweep_at);
        let left = timespec(until.saturating_sub(now));
        if until == self.sweep_at || !self.is_running {
            return self.take_events(events, &left);
        }
        // The wait of `epoll` is counted in milliseconds, which is too coarse for a rate.
        self.take_events(events, &timespec(0))?;
        if events.is_empty() && until > now {
            let mut sockets = [PollFd::new(&self.epoll, PollFlags::IN)];
            match rustix::event::poll(&mut sockets, Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.take_events(events, &timespec(0))?;
        }
        Ok(())
    }

    fn take_events(&self, events: &mut Events, time_max: &Timespec) -> io::Result<()> {
        match epoll::wait(&self.epoll, spare_capacity(events), Some(time_max)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// When the next operation of an open loop is due; never, if there is none.
    fn next_due(&self) -> u64 {
        if self.schedule.pace == Pace::Closed || !self.is_running {
            return u64::MAX;
        }
        let count = self.connections.len() as u64;
        let client = self.connections[to_index(self.due % count)].client;
        let start = self.schedule.start(client, self.due / count);
        if start >= self.schedule.end || self.requests_left == 0 { u64::MAX } else { start }
    }

    /// Starts the operations of an open loop whose time has come.
    fn start_due(&mut self, now: u64) {
        for _ in 0..STARTS_PER_TURN_MAX {
            if self.next_due() > now {
                break;
            }
            let index = to_index(self.due % self.connections.len() as u64);
            self.due += 1;
            self.pump(index, now);
        }
    }

    /// Has a connection that all replies have come to rest for a while, if it is to.
    fn rest(&mut self, index: usize, now: u64) {
        let (least, most) = (self.shared.load.think.start(), self.shared.load.think.end());
        if most.is_zero() || !self.connections[index].waiting.is_empty() {
            return;
        }
        let (least, most) = (to_nanoseconds(*least), to_nanoseconds(*most));
        let until = now + least + self.random.below(most - least + 1);
        self.connections[index].rests_until = until;
        self.resting.push(Reverse((until, index)));
    }

    /// Goes on with connections that have rested.
    fn wake(&mut self, now: u64) {
        while self.resting.peek().is_some_and(|Reverse((time, _))| *time <= now) {
            let Some(Reverse((_, index))) = self.resting.pop() else { return };
            self.pump(index, now);
        }
    }

    /// Reads, writes and goes on with a connection.
    fn react(&mut self, index: usize, part: usize) {
        let outcome = self.exchange(index, part);
        let now = nanoseconds(self.clock);
        match outcome {
            Ok(answered_at) => {
                if let Some(answered_at) = answered_at {
                    self.rest(index, answered_at);
                }
                self.pump(index, answered_at.unwrap_or(now));
            }
            Err(error) => self.lose(index, &words(&error), now),
        }
    }

    /// Takes what came, and writes what is left; says when replies came, if any did.
    fn exchange(&mut self, index: usize, part: usize) -> io::Result<Option<u64>> {
        let Worker { connections, scratch, tally, shared, schedule, clock, epoll, .. } = self;
        let connection = &mut connections[index];
        let is_new = connection.state != ConnectionState::Open;
        if is_new {
            connection.settle(part, Watch { epoll, token: index as u64 })?;
        }
        let mut answered_at = None;
        let mut news = (0, 0);
        let follow_ups = &mut self.follow_ups;
        let watched = (connection.client == 0).then_some(&mut self.watched);
        let mut watched = watched.filter(|_| shared.progress.watched.is_some());
        let outcome = connection.read(part, scratch, |sent, reply| {
            let now = *answered_at.get_or_insert_with(|| nanoseconds(*clock));
            let judged = judge(shared, &sent, reply);
            if sent.kind == Tallied::Modify && sent.is_read && judged.is_ok() {
                follow_ups.push(Sent { is_read: false, sent: now, ..sent });
                return;
            }
            if let Some(number) = sent.insert {
                shared.keys.end_insert(number);
            }
            let counts = if judged.is_ok() { &mut news.0 } else { &mut news.1 };
            *counts += 1;
            if schedule.measures(sent.start) {
                count(tally, schedule, &sent, judged, now);
                if let Some(watched) = watched.as_mut().filter(|_| judged.is_ok()) {
                    watched.push(now.saturating_sub(sent.start));
                }
            }
        });
        self.in_flight -= news.0 + news.1;
        self.news = (self.news.0 + news.0, self.news.1 + news.1);
        self.follow_up(index);
        outcome?;
        let connection = &mut self.connections[index];
        // Otherwise what is to be written goes out with the next operations. // I1
        if is_new || connection.is_blocked() {
            connection.flush(&self.epoll, index as u64)?;
        }
        if is_new && connection.is_ready() {
            connection.state = ConnectionState::Open;
        }
        Ok(answered_at)
    }

    /// Lays out the writes of what was read to be modified.
    fn follow_up(&mut self, index: usize) {
        if self.follow_ups.is_empty() {
            return;
        }
        let mut follow_ups = std::mem::take(&mut self.follow_ups);
        for sent in follow_ups.drain(..) {
            self.lay_out(index, sent);
        }
        self.follow_ups = follow_ups;
        let (codec, output) = self.connections[index].request();
        codec.end_batch(output);
    }

    /// Sends what the connection has room for.
    fn pump(&mut self, index: usize, now: u64) {
        let connection = &self.connections[index];
        if connection.state != ConnectionState::Open {
            return;
        }
        if self.is_running && !connection.is_blocked() {
            self.issue_batch(index, now);
        }
        let connection = &mut self.connections[index];
        if !connection.is_flushed()
            && let Err(error) = connection.flush(&self.epoll, index as u64)
        {
            self.lose(index, &words(&error), now);
        }
    }

    /// Lays out all operations that are to be sent at once.
    fn issue_batch(&mut self, index: usize, now: u64) {
        let connection = &self.connections[index];
        let waiting = connection.waiting.len() as u64;
        let count = match self.schedule.pace {
            Pace::Closed if waiting > 0 || now >= self.schedule.end => 0,
            Pace::Closed if now < connection.rests_until => 0,
            Pace::Closed => self.shared.load.pipeline,
            Pace::Open { .. } => {
                (self.due_of(index) - connection.issued).min(self.shared.load.pipeline - waiting)
            }
        };
        let count = count.min(self.requests_left);
        if count == 0 {
            return;
        }
        for _ in 0..count {
            self.issue(index, now);
        }
        let (codec, output) = self.connections[index].request();
        codec.end_batch(output);
    }

    /// How many operations of an open loop have become due on a connection.
    fn due_of(&self, index: usize) -> u64 {
        let count = self.connections.len() as u64;
        self.due / count + u64::from((index as u64) < self.due % count)
    }

    /// Lays out one operation.
    fn issue(&mut self, index: usize, now: u64) {
        let Worker { connections, shared, random, .. } = self;
        let connection = &mut connections[index];
        let start = match self.schedule.pace {
            Pace::Closed => now,
            Pace::Open { .. } => self.schedule.start(connection.client, connection.issued),
        };
        let action = shared.load.workload.draw(random);
        let ((key, insert), kind) = match action {
            Action::Read => ((shared.keys.choose(random), None), Tallied::Read),
            Action::Update => ((shared.keys.choose(random), None), Tallied::Write),
            Action::Modify => ((shared.keys.choose(random), None), Tallied::Modify),
            Action::Insert => {
                let (key, number) = shared.keys.insert();
                ((key, Some(number)), Tallied::Write)
            }
        };
        connection.issued += 1;
        self.issued += 1;
        self.in_flight += 1;
        if self.shared.load.requests.is_some() && start >= self.schedule.begin {
            self.requests_left -= 1;
        }
        let is_read = kind != Tallied::Write;
        self.lay_out(index, Sent { kind, is_read, key, insert, start, sent: now });
    }

    /// Appends a request to what goes out.
    fn lay_out(&mut self, index: usize, sent: Sent) {
        let Worker { connections, shared, random, .. } = self;
        let connection = &mut connections[index];
        let (codec, output) = connection.request();
        if sent.is_read {
            codec.request(&Operation::Read { key: sent.key }, output);
        } else {
            let (least, most) = (*shared.load.value_bytes.start(), *shared.load.value_bytes.end());
            let bytes = least + to_index(random.below((most - least) as u64 + 1));
            let value = shared.values.value(sent.key, self.writes, bytes);
            self.writes += 1;
            codec.request(&Operation::Write { key: sent.key, value }, output);
        }
        connection.waiting.push_back(sent);
    }

    /// Makes connections that are due, and gives those up that take too long.
    fn sweep(&mut self, now: u64) {
        let timeout = to_nanoseconds(self.shared.load.timeout);
        let states = self.connections.iter().map(|connection| connection.state);
        let mut opening =
            states.filter(|state| matches!(state, ConnectionState::Opening { .. })).count();
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            match connection.state {
                ConnectionState::Down { until } if now >= until && opening < OPENING_COUNT_MAX => {
                    opening += 1;
                    self.connect(index, now);
                }
                ConnectionState::Opening { since } if now >= since + timeout => {
                    self.lose(index, "timeout: no connection", now);
                }
                ConnectionState::Open => {
                    self.connected_at = now;
                    let oldest = connection.waiting.front().map_or(now, |sent| sent.sent);
                    if now >= oldest + timeout {
                        self.lose(index, "timeout: no reply, the outcome is unknown", now);
                    }
                }
                ConnectionState::Down { .. } | ConnectionState::Opening { .. } => {}
            }
        }
    }

    fn connect(&mut self, index: usize, now: u64) {
        let target = self.target(&self.connections[index]);
        let codec = (self.shared.make_codec)();
        let connection = &mut self.connections[index];
        connection.attempts += 1;
        let begun = match self.shared.load.answers {
            None => {
                let connected = connection.connect(target, codec, &self.epoll, index as u64);
                match &self.shared.load.tls {
                    Some(tls) => connected.and_then(|()| connection.encrypt(tls, target)),
                    None => connected,
                }
            }
            Some(answers) => {
                let local = answers.of(connection.client);
                let targets = &self.shared.load.targets;
                let watch = Watch { epoll: &self.epoll, token: index as u64 };
                connection.connect_all(targets, local, codec, watch)
            }
        };
        match begun {
            Ok(()) => connection.state = ConnectionState::Opening { since: now },
            Err(error) => self.lose(index, &words(&error), now),
        }
    }

    /// Each attempt goes to the next one.
    fn target(&self, connection: &LoadConnection) -> SocketAddr {
        let targets = &self.shared.load.targets;
        let turn = connection.client + connection.attempts;
        targets[to_index(turn % targets.len() as u64)]
    }

    /// Gives a connection up; counts what waited on it.
    fn lose(&mut self, index: usize, words: &str, now: u64) {
        let until = now + to_nanoseconds(RECONNECT_PAUSE);
        let connection = &mut self.connections[index];
        let was_open = connection.state == ConnectionState::Open;
        let lost = connection.drop_socket(until);
        for number in lost.iter().filter_map(|sent| sent.insert) {
            self.shared.keys.end_insert(number);
        }
        self.in_flight -= lost.len() as u64;
        self.news.1 += lost.len() as u64;
        let measured = lost.iter().filter(|sent| self.schedule.measures(sent.start)).count();
        // A connection that could not be made is an error of its own.
        let count = measured as u64 + u64::from(!was_open);
        if count > 0 && now >= self.schedule.begin {
            self.tally.fail(words, count, now - self.schedule.begin);
        }
    }

    fn is_done(&self, now: u64) -> bool {
        let pace = self.schedule.pace;
        let more_start = self.requests_left > 0
            && match pace {
                Pace::Closed => now < self.schedule.end,
                Pace::Open { .. } => self.next_due() != u64::MAX || self.issued < self.due,
            };
        let is_alone = now > self.connected_at + to_nanoseconds(ALONE_TIME_MAX);
        let has_drained = now > self.schedule.end + to_nanoseconds(DRAIN_TIME_MAX);
        (!more_start && self.in_flight == 0)
            || (self.shared.load.duration.is_none() && is_alone)
            || has_drained
    }

    /// What was to start and never did, or has no reply, is an error.
    fn give_up_the_rest(&mut self) {
        let now = nanoseconds(self.clock);
        for index in 0..self.connections.len() {
            let due = match self.schedule.pace {
                Pace::Closed => 0,
                Pace::Open { .. } => self.due_of(index) - self.connections[index].issued,
            };
            if due > 0 && self.requests_left > 0 {
                self.tally.fail("unsent: due, and not sent until the end", due, now);
            }
            if !self.connections[index].waiting.is_empty() {
                self.lose(index, "unanswered at the end", now);
            }
        }
    }

    /// Tells how far this thread is.
    fn tell(&mut self) {
        let (successes, errors) = self.news;
        self.shared.progress.add(successes, errors);
        self.news = (0, 0);
        if let Some(watched) = &self.shared.progress.watched {
            watched.lock().append(&mut self.watched);
        }
    }
}

/// Whether a read found nothing, or the words of an error.
fn judge<'a>(shared: &RunShared<'_>, sent: &Sent, reply: CodecReply<'a>) -> Result<bool, &'a [u8]> {
    match (sent.is_read, reply) {
        (_, CodecReply::Refused(words)) => Err(words),
        (false, CodecReply::Done) => Ok(false),
        (true, CodecReply::Missing) => Ok(true),
        (true, CodecReply::Value(value)) => {
            if shared.load.verify && !shared.values.is_whole(sent.key, value) {
                return Err(b"wrong value: not one that was written to this key");
            }
            Ok(false)
        }
        (false, _) | (true, CodecReply::Done) => Err(b"unexpected reply"),
    }
}

/// Counts an operation that is measured.
fn count(
    tally: &mut Tally,
    schedule: &Schedule,
    sent: &Sent,
    judged: Result<bool, &[u8]>,
    now: u64,
) {
    let since_begin = now - schedule.begin;
    match judged {
        Ok(is_missing) => {
            tally.missing += u64::from(is_missing);
            let latency = now.saturating_sub(sent.start);
            tally.succeed(sent.kind, latency, since_begin, now <= schedule.end);
        }
        Err(words) => tally.fail(&String::from_utf8_lossy(words), 1, since_begin),
    }
}

/// The kind of an error, and what it means.
fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "closed: connection ended by the server".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            "reset: connection broken".to_owned()
        }
        io::ErrorKind::ConnectionRefused => "refused: nobody listens".to_owned(),
        io::ErrorKind::InvalidData => "foreign: what came is no reply".to_owned(),
        _ => format!("connection: {error}"),
    }
}

fn timespec(nanoseconds: u64) -> Timespec {
    // A wait is never longer than the interval between two sweeps.
    let nanoseconds = nanoseconds.min(to_nanoseconds(SWEEP_INTERVAL));
    let nanoseconds = i64::try_from(nanoseconds).expect("invariant: below a second");
    Timespec { tv_sec: 0, tv_nsec: nanoseconds }
}
