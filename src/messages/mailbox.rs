//! The mailbox of one subscriber: what was handed out to it and not yet taken, and the names that it
//! listens to.
//!
//! Messages are put in by the task that hands them out, and taken out by the subscriber's session. A
//! subscriber that takes too little is ended, as by Redis with its default
//! `client-output-buffer-limit pubsub 32mb 8mb 60`.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use diskstore_storage::LogIndex;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Message, Messages, Selector, SubscribeError, Telling};

/// What waiting in a mailbox takes beside the message, about.
const DELIVERY_OVERHEAD_BYTES: usize = 64;

/// How much may wait for one subscriber.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MailBounds {
    /// Bytes beyond which it is ended at once.
    pub(crate) bytes_max: usize,
    /// Bytes beyond which it is ended if that lasts.
    pub(crate) lasting_bytes_max: usize,
    /// How long.
    pub(crate) lasting: Duration,
}

impl Default for MailBounds {
    fn default() -> MailBounds {
        let (bytes_max, lasting_bytes_max) = (32 << 20, 8 << 20);
        MailBounds { bytes_max, lasting_bytes_max, lasting: Duration::from_mins(1) }
    }
}

/// Why a subscriber is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It takes less than is sent to it.
    Slow,
    /// Messages are missing here, behind those that wait for it.
    Gap,
    /// Its client may not listen any more.
    Denied,
}

/// Something for a subscriber.
#[derive(Debug, Clone)]
pub(crate) enum Delivery {
    /// A message.
    Message(Delivered),
    /// Everything up to an index was delivered, or lies before the subscription.
    Position {
        /// What was subscribed to.
        selector: Selector,
        /// As the client named it.
        name: Bytes,
        /// The index.
        index: LogIndex,
    },
}

/// A message on its way to one subscriber.
#[derive(Debug, Clone)]
pub(crate) struct Delivered {
    /// The message, which all share.
    pub(crate) message: Arc<Message>,
    /// How it is told.
    pub(crate) telling: Telling,
    /// The pattern by which it is told; `None` if by the channel's own name.
    pub(crate) pattern: Option<Bytes>,
}

impl Delivery {
    fn byte_count(&self) -> usize {
        DELIVERY_OVERHEAD_BYTES
            + match self {
                Delivery::Message(delivered) => delivered.message.bulks.len(),
                Delivery::Position { name, .. } => name.len(),
            }
    }
}

/// What became of something that was put into a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// It waits.
    Waits,
    /// It was too much: the subscriber is ended.
    Ended,
    /// The subscriber was ended before.
    Gone,
}

/// What there is for a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mail {
    /// Something waits.
    Waits,
    /// Nothing waits, and nothing will come.
    Ended(Ended),
}

#[derive(Debug, Default)]
struct Unread {
    queue: VecDeque<Delivery>,
    bytes: usize,
    /// Since when too many bytes wait for that to last.
    over_since: Option<Instant>,
    ended: Option<Ended>,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
struct OwnNames {
    channels: BTreeSet<Bytes>,
    patterns: BTreeSet<Bytes>,
}

impl OwnNames {
    fn of(&mut self, selector: Selector) -> &mut BTreeSet<Bytes> {
        match selector {
            Selector::Channel => &mut self.channels,
            Selector::Pattern => &mut self.patterns,
        }
    }
}

/// The mailbox, as both ends have it.
#[derive(Debug)]
pub(super) struct Mailbox {
    id: u64,
    waiting: Mutex<Unread>,
    names: Mutex<OwnNames>,
}

impl Mailbox {
    pub(super) fn new(id: u64) -> Mailbox {
        Mailbox { id, waiting: Mutex::default(), names: Mutex::default() }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Puts something in, and wakes the session if it was empty.
    pub(super) fn put(&self, delivery: Delivery, bounds: &MailBounds) -> Put {
        let mut waiting = self.waiting.lock();
        if waiting.ended.is_some() {
            return Put::Gone;
        }
        let bytes = waiting.bytes + delivery.byte_count();
        let is_slow = bytes > bounds.bytes_max
            || bytes > bounds.lasting_bytes_max && {
                let since = *waiting.over_since.get_or_insert_with(Instant::now);
                since.elapsed() >= bounds.lasting
            };
        if is_slow {
            waiting.end(Ended::Slow);
            return Put::Ended;
        }
        if bytes <= bounds.lasting_bytes_max {
            waiting.over_since = None;
        }
        waiting.bytes = bytes;
        waiting.queue.push_back(delivery);
        if waiting.queue.len() == 1 {
            waiting.wake();
        }
        Put::Waits
    }

    /// Ends the subscriber; whether it was not ended before, or keeps less now.
    pub(super) fn end(&self, why: Ended) -> bool {
        let mut waiting = self.waiting.lock();
        // One that was ended for a gap and does not take what came before it is slow, too.
        let keeps = waiting.ended == Some(Ended::Gap) && why == Ended::Slow && waiting.bytes > 0;
        let is_new = waiting.ended.is_none() || keeps;
        if is_new {
            waiting.end(why);
        }
        is_new
    }

    /// Bytes that wait.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting.lock().bytes
    }

    /// Channels and patterns.
    pub(super) fn name_count(&self) -> usize {
        let names = self.names.lock();
        names.channels.len() + names.patterns.len()
    }

    /// The names that it listens to.
    pub(super) fn names(&self, selector: Selector) -> Vec<Bytes> {
        self.names.lock().of(selector).iter().cloned().collect()
    }

    /// Whether it listens to this name.
    pub(super) fn has_name(&self, selector: Selector, name: &Bytes) -> bool {
        self.names.lock().of(selector).contains(name)
    }

    /// Notes a name; whether it is new.
    pub(super) fn add_name(&self, selector: Selector, name: &Bytes) -> bool {
        self.names.lock().of(selector).insert(name.clone())
    }

    /// Forgets a name; whether it was there.
    pub(super) fn remove_name(&self, selector: Selector, name: &Bytes) -> bool {
        self.names.lock().of(selector).remove(name)
    }
}

impl Unread {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whoever misses something later still gets what came before; whoever is slow gets no more.
    fn end(&mut self, why: Ended) {
        self.ended = Some(why);
        if why == Ended::Slow {
            (self.queue, self.bytes) = (VecDeque::new(), 0);
        }
        self.wake();
    }
}

/// A client that listens. Once it is dropped, it is forgotten.
#[derive(Debug)]
pub(crate) struct Subscriber {
    messages: Arc<Messages>,
    mailbox: Arc<Mailbox>,
}

impl Subscriber {
    pub(super) fn new(messages: Arc<Messages>, mailbox: Arc<Mailbox>) -> Subscriber {
        Subscriber { messages, mailbox }
    }

    /// Listens to these names too, to all of them or to none.
    ///
    /// # Errors
    /// A bound is reached.
    pub(crate) fn listen(&self, selector: Selector, names: &[Bytes]) -> Result<(), SubscribeError> {
        self.messages.listen(&self.mailbox, selector, names)
    }

    /// Does not listen to this name any more. What waits already stays.
    pub(crate) fn leave(&self, selector: Selector, name: &Bytes) {
        self.messages.leave(&self.mailbox, selector, name);
    }

    /// Listens to nothing any more, and drops what waits.
    pub(crate) fn leave_all(&self) {
        for selector in [Selector::Channel, Selector::Pattern] {
            for name in self.names(selector) {
                self.leave(selector, &name);
            }
        }
        let mut waiting = self.mailbox.waiting.lock();
        (waiting.queue, waiting.bytes, waiting.over_since) = (VecDeque::new(), 0, None);
    }

    /// Names that it listens to, as it gave them.
    pub(crate) fn names(&self, selector: Selector) -> Vec<Bytes> {
        self.mailbox.names(selector)
    }

    /// How many names of this kind it listens to.
    pub(crate) fn count(&self, selector: Selector) -> usize {
        self.mailbox.names.lock().of(selector).len()
    }

    /// The next that waits.
    pub(crate) fn take(&self) -> Option<Delivery> {
        let mut waiting = self.mailbox.waiting.lock();
        let delivery = waiting.queue.pop_front()?;
        waiting.bytes -= delivery.byte_count();
        Some(delivery)
    }

    /// Ready once something waits or nothing will come any more. In either case the task is woken
    /// again at the next change.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<Mail> {
        let mut waiting = self.mailbox.waiting.lock();
        match &mut waiting.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        match (waiting.queue.is_empty(), waiting.ended) {
            (false, _) => Poll::Ready(Mail::Waits),
            (true, Some(why)) => Poll::Ready(Mail::Ended(why)),
            (true, None) => Poll::Pending,
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.messages.forget(&self.mailbox);
    }
}

#[cfg(test)]
impl Subscriber {
    /// Makes it so much longer that too many bytes wait.
    pub(super) fn age(&self, by: Duration) {
        let mut unread = self.mailbox.waiting.lock();
        unread.over_since = unread.over_since.and_then(|since| since.checked_sub(by));
    }
}
