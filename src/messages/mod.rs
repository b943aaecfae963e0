//! Messages on channels: from the log, in which each is (a part of) an entry, to the clients of this
//! node that listen.
//!
//! The applier hands over the messages of the entries that it has applied, and never waits for what
//! becomes of them. A task of the node takes them from there and puts each into the mailboxes of its
//! subscribers (`mailbox`); a session takes them out when its client has room. Calls nothing but
//! `glob`, which compares names with patterns.
//!
//! Invariants:
//! - I1: all subscribers of all nodes see the messages of all channels in the order of the log: one
//!   task hands out, in that order.
//! - I2: a subscriber misses no message between two that it gets. If one cannot be handed to it (it
//!   is too slow, a snapshot took the place of entries) its connection ends.
//! - I3: a subscription gets the messages behind the index at which it began, and none before: that
//!   index and what is handed over are read and written under one lock.
//! - I4: memory is bounded: by bytes that wait to be handed out, by bytes that wait for one
//!   subscriber and for all, and by names. A message is kept once, however many wait for it.

pub(crate) mod glob;
mod mailbox;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use diskstore_storage::LogIndex;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::command::{Action, CHANNEL_BYTES_MAX, Command, INDEXED_PREFIX};
pub(crate) use mailbox::{Delivered, Delivery, Ended, Mail, MailBounds, Subscriber};
use mailbox::{Mailbox, Put};

/// Most bytes of a pattern.
const PATTERN_BYTES_MAX: usize = 256;
/// Most channels and patterns of one subscriber.
const NAME_COUNT_MAX: usize = 4096;
/// Most channels and patterns of all subscribers of a node.
const NAME_COUNT_MAX_ALL: usize = 1 << 18;
/// Most different patterns of a node: each message is compared with every one of them, in at most
/// as many steps as the lengths of pattern and channel multiplied.
const PATTERN_COUNT_MAX: usize = 256;
/// Bytes of messages that may wait to be handed out; beyond, every subscriber has a gap.
const PASSED_BYTES_MAX: usize = 64 << 20;
/// Bytes of all messages that are kept for subscribers; beyond, whoever is furthest behind is ended.
const KEPT_BYTES_MAX: usize = 256 << 20;
/// What a message takes beside its bytes, about.
const MESSAGE_OVERHEAD_BYTES: usize = 160;

/// What a subscriber names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Selector {
    /// A channel.
    Channel,
    /// A pattern of channels' names.
    Pattern,
}

/// Whether a subscriber is told the index of each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Telling {
    /// It gets the message alone, as from Redis.
    Plain,
    /// It named what it wants behind [`INDEXED_PREFIX`].
    Indexed,
}

/// One message.
#[derive(Debug)]
pub(crate) struct Message {
    /// The entry that it is in.
    pub(crate) index: LogIndex,
    /// Which operation of that entry it is, from 0 on.
    pub(crate) position: usize,
    /// The channel.
    pub(crate) channel: Bytes,
    /// What was sent.
    pub(crate) payload: Bytes,
    /// Channel and message as two of RESP's bulk strings: sessions copy these bytes as they are.
    pub(crate) bulks: Bytes,
    /// Where it is counted, once it is kept for subscribers.
    kept_bytes: Option<Arc<AtomicUsize>>,
}

impl Message {
    fn new(index: LogIndex, position: usize, channel: &[u8], payload: &[u8]) -> Message {
        let mut bulks = BytesMut::with_capacity(channel.len() + payload.len() + 32);
        let [channel, payload] = [channel, payload].map(|part| {
            bulks.put_slice(format!("${}\r\n", part.len()).as_bytes());
            let begin = bulks.len();
            bulks.put_slice(part);
            let end = bulks.len();
            bulks.put_slice(b"\r\n");
            begin..end
        });
        let bulks = bulks.freeze();
        let (channel, payload) = (bulks.slice(channel), bulks.slice(payload));
        Message { index, position, channel, payload, bulks, kept_bytes: None }
    }

    /// Bytes that it takes.
    fn byte_count(&self) -> usize {
        self.bulks.len() + MESSAGE_OVERHEAD_BYTES
    }

    /// Counts it in `kept_bytes` for as long as it lives.
    fn counted_in(mut self, kept_bytes: &Arc<AtomicUsize>) -> Message {
        kept_bytes.fetch_add(self.byte_count(), Ordering::Relaxed);
        self.kept_bytes = Some(Arc::clone(kept_bytes));
        self
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        if let Some(kept_bytes) = self.kept_bytes.take() {
            kept_bytes.fetch_sub(self.byte_count(), Ordering::Relaxed);
        }
    }
}

/// What a name that a client gave stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    telling: Telling,
    /// The channel or pattern itself.
    name: Bytes,
}

impl Named {
    fn of(name: &Bytes) -> Named {
        match name.strip_prefix(INDEXED_PREFIX) {
            Some(_) => {
                Named { telling: Telling::Indexed, name: name.slice(INDEXED_PREFIX.len()..) }
            }
            None => Named { telling: Telling::Plain, name: name.clone() },
        }
    }
}

/// Why a name cannot be subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SubscribeError {
    /// A name is too long.
    #[error(
        "a channel's name takes at most {CHANNEL_BYTES_MAX} bytes, a pattern {PATTERN_BYTES_MAX}"
    )]
    NameTooLong,
    /// This client has too many.
    #[error("one client subscribes to at most {NAME_COUNT_MAX} channels and patterns")]
    ClientIsFull,
    /// The node has too many.
    #[error(
        "the clients of this node subscribe to at most {NAME_COUNT_MAX_ALL} channels and patterns"
    )]
    NodeIsFull,
    /// The node has too many patterns.
    #[error("the clients of this node subscribe to at most {PATTERN_COUNT_MAX} different patterns")]
    PatternsAreFull,
}

/// What was applied and is on its way to the mailboxes, in order.
#[derive(Debug)]
enum Passed {
    Message(Message),
    /// Everything up to here came by snapshot.
    Skipped(LogIndex),
    /// A subscriber is to be told where it is.
    Position {
        mailbox: Arc<Mailbox>,
        selector: Selector,
        name: Bytes,
        index: LogIndex,
    },
}

#[derive(Debug, Default)]
struct Passing {
    queue: VecDeque<Passed>,
    bytes: usize,
    /// Everything up to here was handed over (I3).
    through: u64,
    /// Whether anybody may listen.
    subscriber_count: usize,
    /// Something had no room.
    is_overrun: bool,
}

/// Somebody who listens to one name.
#[derive(Debug)]
struct Listening {
    mailbox: Arc<Mailbox>,
    /// Messages behind this index are its own (I3); the greatest number until that is known.
    after: Arc<AtomicU64>,
}

/// By the subscriber's id, and how it is told.
type Listeners = BTreeMap<ListenerKey, Listening>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct ListenerKey {
    subscriber: u64,
    telling: Telling,
}

#[derive(Debug, Default)]
struct Names {
    channels: HashMap<Bytes, Listeners>,
    patterns: BTreeMap<Bytes, Listeners>,
    mailboxes: BTreeMap<u64, Arc<Mailbox>>,
    name_count: usize,
}

/// What is told of all subscribers of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct MessageCounts {
    /// Channels that somebody listens to.
    pub(crate) channels: usize,
    /// Different patterns.
    pub(crate) patterns: usize,
    /// Clients that listen.
    pub(crate) subscribers: usize,
    /// Messages put into mailboxes since the start.
    pub(crate) delivered: u64,
    /// Subscribers that were ended because they were too slow.
    pub(crate) ended_slow: u64,
    /// Subscribers that were ended because entries came by snapshot or had no room.
    pub(crate) ended_gap: u64,
}

/// The messages and subscribers of one node.
#[derive(Debug)]
pub struct Messages {
    /// Taken before nothing else; held for moments only, the applier takes it.
    passing: Mutex<Passing>,
    has_passed: Notify,
    names: Mutex<Names>,
    kept_bytes: Arc<AtomicUsize>,
    bounds: MailBounds,
    last_subscriber: AtomicU64,
    delivered: AtomicU64,
    ended_slow: AtomicU64,
    ended_gap: AtomicU64,
}

/// For whoever applies entries.
impl Messages {
    /// Nobody listens yet, and everything up to `through` is past.
    pub(crate) fn new(through: u64) -> Messages {
        Messages::with(through, MailBounds::default())
    }

    fn with(through: u64, bounds: MailBounds) -> Messages {
        Messages {
            passing: Mutex::new(Passing { through, ..Passing::default() }),
            has_passed: Notify::new(),
            names: Mutex::default(),
            kept_bytes: Arc::default(),
            bounds,
            last_subscriber: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            ended_slow: AtomicU64::new(0),
            ended_gap: AtomicU64::new(0),
        }
    }

    /// The messages of `command`, which entry `index` holds and which was applied just now. Copies
    /// them if anybody listens: they are parts of a large frame, which would stay in memory else.
    pub(crate) fn pass(&self, index: LogIndex, command: &Command) {
        {
            let mut passing = self.passing.lock();
            if passing.subscriber_count == 0 {
                // Whoever begins to listen now begins behind this one. // I3
                passing.through = passing.through.max(index.get());
                return;
            }
        }
        let mut messages = Vec::new();
        for (position, operation) in command.operations().enumerate() {
            if let Action::Publish { message } = operation.action {
                messages.push(Message::new(index, position, operation.key, message));
            }
        }
        let mut passing = self.passing.lock();
        for message in messages {
            let bytes = message.byte_count();
            if passing.bytes + bytes > PASSED_BYTES_MAX {
                passing.is_overrun = true;
            } else {
                passing.bytes += bytes;
                passing.queue.push_back(Passed::Message(message));
            }
        }
        passing.through = passing.through.max(index.get());
        drop(passing);
        self.has_passed.notify_one();
    }

    /// Entries up to `index` are not applied one by one: a snapshot takes their place.
    pub(crate) fn skip(&self, index: LogIndex) {
        let mut passing = self.passing.lock();
        passing.through = passing.through.max(index.get());
        if passing.subscriber_count > 0 {
            passing.queue.push_back(Passed::Skipped(index));
            self.has_passed.notify_one();
        }
    }

    /// Everything up to `index` is applied, and its messages were handed over.
    pub(crate) fn reach(&self, index: u64) {
        let mut passing = self.passing.lock();
        passing.through = passing.through.max(index);
    }
}

/// Handing out.
impl Messages {
    /// Puts what was handed over into mailboxes, for ever.
    pub async fn hand_out(self: Arc<Self>) {
        loop {
            self.has_passed.notified().await;
            while let Some(passed) = self.next_passed() {
                for one in passed {
                    self.hand_out_one(one);
                    self.rest().await;
                }
            }
        }
    }

    /// Lets others have the thread after a message that patterns were compared with: they may be long.
    pub(crate) async fn rest(&self) {
        let has_patterns = !self.names.lock().patterns.is_empty();
        if has_patterns {
            tokio::task::yield_now().await;
        } else {
            tokio::task::consume_budget().await;
        }
    }

    /// What was handed over since the last call; `None` if there is nothing.
    fn next_passed(&self) -> Option<VecDeque<Passed>> {
        let (queue, is_overrun) = {
            let mut passing = self.passing.lock();
            passing.bytes = 0;
            (std::mem::take(&mut passing.queue), std::mem::take(&mut passing.is_overrun))
        };
        if is_overrun {
            self.end_all(Ended::Gap, u64::MAX);
        }
        (!queue.is_empty()).then_some(queue)
    }

    fn hand_out_one(&self, passed: Passed) {
        match passed {
            Passed::Message(message) => {
                self.deliver(&Arc::new(message.counted_in(&self.kept_bytes)));
            }
            Passed::Skipped(index) => self.end_all(Ended::Gap, index.get()),
            Passed::Position { mailbox, selector, name, index } => {
                let _names = self.names.lock(); // it may be leaving
                let is_left = !mailbox.has_name(selector, &name);
                let delivery = Delivery::Position { selector, name, index };
                if !is_left && mailbox.put(delivery, &self.bounds) == Put::Ended {
                    self.ended_slow.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn deliver(&self, message: &Arc<Message>) {
        let names = self.names.lock();
        let (mut delivered, mut ended) = (0, 0);
        let mut tell = |listeners: &Listeners, pattern: Option<&Bytes>| {
            for (key, listening) in listeners {
                if message.index.get() <= listening.after.load(Ordering::Relaxed) {
                    continue; // I3
                }
                let (message, telling) = (Arc::clone(message), key.telling);
                let delivery = Delivered { message, telling, pattern: pattern.cloned() };
                match listening.mailbox.put(Delivery::Message(delivery), &self.bounds) {
                    Put::Waits => delivered += 1,
                    Put::Ended => ended += 1,
                    Put::Gone => {}
                }
            }
        };
        if let Some(listeners) = names.channels.get(&message.channel) {
            tell(listeners, None);
        }
        for (pattern, listeners) in &names.patterns {
            if glob::matches(pattern, &message.channel) {
                tell(listeners, Some(pattern));
            }
        }
        while self.kept_bytes.load(Ordering::Relaxed) > KEPT_BYTES_MAX {
            let furthest = names.mailboxes.values().max_by_key(|mailbox| mailbox.waiting_bytes());
            if !furthest.is_some_and(|mailbox| mailbox.end(Ended::Slow)) {
                break; // nobody keeps anything
            }
            ended += 1;
        }
        self.delivered.fetch_add(delivered, Ordering::Relaxed);
        self.ended_slow.fetch_add(ended, Ordering::Relaxed);
    }

    /// Ends whoever misses entries up to `index` (I2).
    fn end_all(&self, why: Ended, index: u64) {
        let names = self.names.lock();
        let mut ended = 0;
        for listening in
            names.channels.values().chain(names.patterns.values()).flat_map(BTreeMap::values)
        {
            if listening.after.load(Ordering::Relaxed) < index && listening.mailbox.end(why) {
                ended += 1;
            }
        }
        self.ended_gap.fetch_add(ended, Ordering::Relaxed);
        if ended > 0 {
            tracing::warn!(subscribers = ended, "subscribers miss messages, and are ended");
        }
    }
}

/// For subscribers, and for whoever asks about them.
impl Messages {
    /// A client that may subscribe.
    pub(crate) fn subscriber(self: &Arc<Self>) -> Subscriber {
        let id = self.last_subscriber.fetch_add(1, Ordering::Relaxed) + 1;
        let mailbox = Arc::new(Mailbox::new(id));
        self.passing.lock().subscriber_count += 1;
        self.names.lock().mailboxes.insert(id, Arc::clone(&mailbox));
        Subscriber::new(Arc::clone(self), mailbox)
    }

    /// Whom a message on `channel` reaches here: somebody who listens to the channel and to a pattern of
    /// its name counts for each.
    pub(crate) fn listener_count(&self, channel: &[u8]) -> usize {
        let names = self.names.lock();
        let of_channel = names.channels.get(channel).map_or(0, BTreeMap::len);
        let patterns = names.patterns.iter();
        let patterns = patterns.filter(|(pattern, _)| glob::matches(pattern, channel));
        of_channel + patterns.map(|(_, listeners)| listeners.len()).sum::<usize>()
    }

    /// How many listen to `channel` by its name.
    pub(crate) fn subscriber_count(&self, channel: &[u8]) -> usize {
        self.names.lock().channels.get(channel).map_or(0, BTreeMap::len)
    }

    /// Channels that somebody listens to by their names, those that match `pattern`.
    pub(crate) fn channels(&self, pattern: Option<&[u8]>) -> Vec<Bytes> {
        let names = self.names.lock();
        let matches = |name: &&Bytes| pattern.is_none_or(|pattern| glob::matches(pattern, name));
        names.channels.keys().filter(matches).cloned().collect()
    }

    /// Everything that is counted.
    pub(crate) fn counts(&self) -> MessageCounts {
        let names = self.names.lock();
        MessageCounts {
            channels: names.channels.len(),
            patterns: names.patterns.len(),
            subscribers: names
                .mailboxes
                .values()
                .filter(|mailbox| mailbox.name_count() > 0)
                .count(),
            delivered: self.delivered.load(Ordering::Relaxed),
            ended_slow: self.ended_slow.load(Ordering::Relaxed),
            ended_gap: self.ended_gap.load(Ordering::Relaxed),
        }
    }

    /// Lets a subscriber listen to what `wanted` names, all of it or nothing. A name that it has
    /// already goes on. If it is told indexes, it is told where it begins too.
    fn listen(
        &self,
        mailbox: &Arc<Mailbox>,
        selector: Selector,
        wanted: &[Bytes],
    ) -> Result<(), SubscribeError> {
        let after = Arc::new(AtomicU64::new(u64::MAX));
        let mut names = self.names.lock();
        names.check(mailbox, selector, wanted)?;
        for name in wanted {
            names.add(mailbox, selector, name, &after);
        }
        drop(names);
        let mut passing = self.passing.lock();
        let index = LogIndex::new(passing.through);
        after.store(index.get(), Ordering::Relaxed); // I3
        for name in wanted.iter().filter(|name| name.starts_with(INDEXED_PREFIX)) {
            let (mailbox, name) = (Arc::clone(mailbox), name.clone());
            passing.queue.push_back(Passed::Position { mailbox, selector, name, index });
        }
        drop(passing);
        self.has_passed.notify_one();
        Ok(())
    }

    /// Ends a subscription; whether there was one.
    fn leave(&self, mailbox: &Mailbox, selector: Selector, name: &Bytes) -> bool {
        self.names.lock().remove(mailbox, selector, name)
    }

    /// The subscriber is gone.
    fn forget(&self, mailbox: &Mailbox) {
        let mut names = self.names.lock();
        for selector in [Selector::Channel, Selector::Pattern] {
            for name in mailbox.names(selector) {
                names.remove(mailbox, selector, &name);
            }
        }
        names.mailboxes.remove(&mailbox.id());
        drop(names);
        self.passing.lock().subscriber_count -= 1;
    }
}

impl Names {
    fn check(
        &self,
        mailbox: &Mailbox,
        selector: Selector,
        wanted: &[Bytes],
    ) -> Result<(), SubscribeError> {
        let is_pattern = selector == Selector::Pattern;
        let bytes_max = if is_pattern { PATTERN_BYTES_MAX } else { CHANNEL_BYTES_MAX };
        let named = || wanted.iter().map(Named::of);
        if named().any(|named| named.name.len() > bytes_max) {
            return Err(SubscribeError::NameTooLong);
        }
        if mailbox.name_count() + wanted.len() > NAME_COUNT_MAX {
            return Err(SubscribeError::ClientIsFull);
        }
        if self.name_count + wanted.len() > NAME_COUNT_MAX_ALL {
            return Err(SubscribeError::NodeIsFull);
        }
        let is_new = |named: &Named| !self.patterns.contains_key(&named.name);
        if is_pattern && self.patterns.len() + named().filter(is_new).count() > PATTERN_COUNT_MAX {
            return Err(SubscribeError::PatternsAreFull);
        }
        Ok(())
    }

    fn add(
        &mut self,
        mailbox: &Arc<Mailbox>,
        selector: Selector,
        name: &Bytes,
        after: &Arc<AtomicU64>,
    ) {
        if !mailbox.add_name(selector, name) {
            return;
        }
        self.name_count += 1;
        let Named { telling, name } = Named::of(name);
        let listeners = match selector {
            Selector::Channel => self.channels.entry(name).or_default(),
            Selector::Pattern => self.patterns.entry(name).or_default(),
        };
        let listening = Listening { mailbox: Arc::clone(mailbox), after: Arc::clone(after) };
        listeners.insert(ListenerKey { subscriber: mailbox.id(), telling }, listening);
    }

    fn remove(&mut self, mailbox: &Mailbox, selector: Selector, name: &Bytes) -> bool {
        if !mailbox.remove_name(selector, name) {
            return false;
        }
        self.name_count -= 1;
        let Named { telling, name } = Named::of(name);
        let key = ListenerKey { subscriber: mailbox.id(), telling };
        let listeners = match selector {
            Selector::Channel => self.channels.get_mut(&name),
            Selector::Pattern => self.patterns.get_mut(&name),
        };
        let is_last = listeners.is_some_and(|listeners| {
            listeners.remove(&key);
            listeners.is_empty()
        });
        match selector {
            Selector::Channel if is_last => drop(self.channels.remove(&name)),
            Selector::Pattern if is_last => drop(self.patterns.remove(&name)),
            Selector::Channel | Selector::Pattern => {}
        }
        true
    }
}

#[cfg(test)]
mod tests;
