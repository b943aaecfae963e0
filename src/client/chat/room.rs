//! Makes one stream of messages out of those of several nodes. Pure.
//!
//! All nodes send the same messages in the same order, each with its place in the log. A node that was
//! asked later begins later, so what it sends may leave a gap to what was shown. Until that is known
//! not to be so, its messages are held.
//!
//! Invariants:
//! - I1: no message is shown twice, and none behind a later one.
//! - I2: while one node after the other is heard without a break, none is left out. Where one may be, that
//!   is said before what comes behind it.

use std::collections::{BTreeMap, VecDeque};

/// Most messages that are held of one node.
pub(super) const HELD_COUNT_MAX: usize = 10_000;

/// Where a message is: the order in which all nodes send them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MessagePlace {
    /// Log index of its entry.
    pub(super) index: u64,
    /// Which operation of that.
    pub(super) position: u64,
}

/// A message of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Post {
    pub(super) place: MessagePlace,
    pub(super) text: Vec<u8>,
}

/// What is to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shown {
    /// A message.
    Post(Vec<u8>),
    /// Messages of entries between these two may be missing.
    Gap { after: u64, through: u64 },
}

/// One node that is heard.
#[derive(Debug)]
struct Source {
    /// It sends what lies behind this index.
    begin: u64,
    /// Whether everything between what was shown and what it sends is shown.
    is_joined: bool,
    held: VecDeque<Post>,
}

/// The nodes that are heard, and how far they are shown.
#[derive(Debug, Default)]
pub(super) struct Room {
    sources: BTreeMap<usize, Source>,
    /// The last message shown.
    last: Option<MessagePlace>,
    /// Everything up to here was shown, as far as it came after the beginning; `None` at first.
    reached: Option<u64>,
}

impl Room {
    /// A node says that it sent everything up to `index`; its first word is where it begins.
    pub(super) fn reach(&mut self, source: usize, index: u64) -> Vec<Shown> {
        let is_alone = !self.sources.values().any(|source| source.is_joined);
        let reached = self.reached;
        let entered = self.sources.entry(source).or_insert_with(|| Source {
            begin: index,
            is_joined: false,
            held: VecDeque::new(),
        });
        let mut shown = Vec::new();
        if is_alone && !entered.is_joined {
            let begin = entered.begin;
            entered.is_joined = true;
            shown.extend(gap(reached, begin));
        }
        if entered.is_joined {
            self.reached = self.reached.max(Some(index));
        }
        self.join_others(&mut shown);
        shown
    }

    /// A node sends a message; an error if too many are held of it.
    pub(super) fn post(&mut self, source: usize, post: Post) -> Result<Vec<Shown>, TooManyHeld> {
        let Some(from) = self.sources.get_mut(&source) else { return Ok(Vec::new()) };
        let mut shown = Vec::new();
        if from.is_joined {
            let before = post.place.index.saturating_sub(1); // all of that was sent
            self.show(post, &mut shown);
            self.reached = self.reached.max(Some(before));
            self.join_others(&mut shown);
        } else if from.held.len() >= HELD_COUNT_MAX {
            return Err(TooManyHeld);
        } else {
            from.held.push_back(post);
        }
        Ok(shown)
    }

    /// A node is not heard any more. If no other goes on from where it was, the one that begins first
    /// does.
    pub(super) fn lose(&mut self, source: usize) -> Vec<Shown> {
        self.sources.remove(&source);
        let mut shown = Vec::new();
        if !self.sources.values().any(|source| source.is_joined) {
            let next = self.sources.iter_mut().min_by_key(|(_, source)| source.begin);
            if let Some((number, source)) = next {
                shown.extend(gap(self.reached, source.begin));
                self.reached = self.reached.max(Some(source.begin));
                let number = *number;
                self.join(number, &mut shown);
                self.join_others(&mut shown);
            }
        }
        shown
    }

    /// Whether this node's messages are shown as they come.
    pub(super) fn is_joined(&self, source: usize) -> bool {
        self.sources.get(&source).is_some_and(|source| source.is_joined)
    }

    fn join_others(&mut self, shown: &mut Vec<Shown>) {
        let is_ready = |source: &Source| !source.is_joined && Some(source.begin) <= self.reached;
        let ready = self.sources.iter().filter(|(_, source)| is_ready(source));
        let ready: Vec<usize> = ready.map(|(number, _)| *number).collect();
        for number in ready {
            self.join(number, shown);
        }
    }

    fn join(&mut self, source: usize, shown: &mut Vec<Shown>) {
        let Some(source) = self.sources.get_mut(&source) else { return };
        source.is_joined = true;
        for post in std::mem::take(&mut source.held) {
            self.show(post, shown);
        }
    }

    fn show(&mut self, post: Post, shown: &mut Vec<Shown>) {
        if Some(post.place) > self.last {
            self.last = Some(post.place); // I1
            shown.push(Shown::Post(post.text));
        }
    }
}

/// A node sends more than can be held until it is known where it goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooManyHeld;

/// What may be missing where what follows begins behind `begin`.
fn gap(reached: Option<u64>, begin: u64) -> Option<Shown> {
    let after = reached.filter(|reached| *reached < begin)?;
    Some(Shown::Gap { after, through: begin })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(index: u64) -> Post {
        let text = index.to_string().into_bytes();
        Post { place: MessagePlace { index, position: 0 }, text }
    }

    fn words(shown: Vec<Shown>) -> String {
        let word = |shown| match shown {
            Shown::Post(text) => String::from_utf8(text).unwrap(),
            Shown::Gap { after, through } => format!("{after}?{through}"),
        };
        shown.into_iter().map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_several_nodes_send_is_shown_once_and_in_order() {
        let mut room = Room::default();
        assert_eq!(words(room.reach(0, 5)), "");
        assert_eq!(words(room.reach(1, 5)), "");
        assert_eq!(words(room.post(0, post(7)).unwrap()), "7");
        assert_eq!(words(room.post(0, post(8)).unwrap()), "8");
        assert_eq!(words(room.post(1, post(7)).unwrap()), "");
        assert_eq!(words(room.post(1, post(8)).unwrap()), "");
        assert_eq!(words(room.post(1, post(9)).unwrap()), "9");
        assert_eq!(words(room.post(0, post(9)).unwrap()), "");
    }

    #[test]
    fn a_node_that_begins_later_waits_until_another_is_as_far() {
        let mut room = Room::default();
        room.reach(0, 5);
        room.reach(1, 9);
        assert_eq!(words(room.post(1, post(10)).unwrap()), "", "8 may be on its way");
        assert_eq!(words(room.post(0, post(8)).unwrap()), "8");
        assert!(!room.is_joined(1));
        assert_eq!(words(room.reach(0, 9)), "10");
        assert!(room.is_joined(1));
        room.reach(2, 11);
        assert_eq!(words(room.post(2, post(14)).unwrap()), "");
        assert_eq!(words(room.post(0, post(12)).unwrap()), "12 14", "before 12 there is no more");
        assert_eq!(words(room.post(0, post(10)).unwrap()), "");
        // Without a break: the first is lost, and nothing is said of a gap.
        assert_eq!(words(room.lose(0)) + &words(room.lose(2)), "");
        assert_eq!(words(room.post(1, post(15)).unwrap()), "15");
    }

    #[test]
    fn what_may_be_missing_is_said_before_what_follows() {
        let mut room = Room::default();
        room.reach(0, 5);
        room.post(0, post(6)).unwrap();
        room.reach(1, 9);
        room.reach(2, 12);
        room.post(2, post(13)).unwrap();
        room.post(1, post(11)).unwrap();
        assert_eq!(words(room.lose(0)), "5?9 11");
        assert_eq!(words(room.reach(1, 12)), "13");
        assert_eq!(words(room.post(1, post(13)).unwrap()), "");
        assert_eq!(words(room.lose(2)), "");
        assert_eq!(words(room.lose(1)), "");
        assert_eq!(words(room.reach(1, 20)), "12?20");
        assert_eq!(words(room.post(1, post(21)).unwrap()), "21");
        room.lose(1);
        assert_eq!(words(room.reach(2, 20)), "", "nothing came in between");
    }

    #[test]
    fn what_is_held_of_one_node_is_bounded() {
        let mut room = Room::default();
        room.reach(0, 5);
        room.reach(1, 9);
        for index in 0..HELD_COUNT_MAX as u64 {
            room.post(1, post(10 + index)).unwrap();
        }
        assert_eq!(room.post(1, post(1 << 40)), Err(TooManyHeld));
        assert_eq!(words(room.post(7, post(1)).unwrap()), "", "it is not known");
    }
}
