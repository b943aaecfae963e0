//! Which keys hold a value: walks over what this node holds, once that is as fresh as was asked for.
//!
//! Called by the handlers that list keys; calls the node. Where keys are slots they come in the order of
//! their numbers; elsewhere all keys are walked over for those that are first in the order of
//! their bytes.
//!
//! Invariant:
//! - I1: a list has a bounded number of keys and bytes, and takes a bounded time.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::Seat;
use super::problem::Problem;
use crate::command::{Failure, ReadLevel};
use crate::server::resp::lookup;

/// Most keys of a list.
pub(super) const LIST_COUNT_MAX: usize = 1000;
/// Most bytes of the keys of a list.
const LIST_BYTES_MAX: usize = 8 << 20;
/// Keys that are looked for in one step.
const STEP_COUNT: usize = 256;
/// How long a list may take.
const LIST_TIME_MAX: Duration = Duration::from_secs(5);

/// The first `count_max` keys that begin with `prefix` and hold a value, as clients name them. Each
/// one was there, and none is missing that was there all the time.
///
/// # Errors
/// They take too many bytes, or looking for them takes too long; the node cannot say.
pub(super) async fn list(
    seat: &Seat,
    prefix: &[u8],
    count_max: usize,
    level: Option<ReadLevel>,
) -> Result<Vec<Bytes>, Problem> {
    let listed = timeout(LIST_TIME_MAX, walk(seat, prefix, count_max, level)).await;
    listed.unwrap_or_else(|_| {
        let time_s = LIST_TIME_MAX.as_secs();
        let reason =
            format!("looking for these keys takes more than {time_s} s: name a longer prefix");
        Err(Failure::Busy { reason }.into())
    })
}

async fn walk(
    seat: &Seat,
    prefix: &[u8],
    count_max: usize,
    level: Option<ReadLevel>,
) -> Result<Vec<Bytes>, Problem> {
    let keys = &seat.server.keys;
    let are_slots = keys.slot_bytes().is_some();
    let mut requester = seat.requester.lock().await;
    requester.called(lookup(b"scan"));
    requester.read_at(level);
    let replica = requester.replica(&seat.server.node).await?;
    let mut listed = Listed { count_max, ..Listed::default() };
    let mut place = Some(0);
    while let Some(from) = place {
        let (found, next) = replica.scan(from, STEP_COUNT).await?;
        let found = found.into_iter().map(|key| keys.shown(key));
        for key in found.filter(|key| key.starts_with(prefix)) {
            if are_slots && listed.count() == count_max {
                return listed.into_keys();
            }
            let order = if are_slots { listed.count() } else { 0 };
            listed.add(Entry { order, key });
        }
        place = next;
    }
    listed.into_keys()
}

/// A key, in the order of a list.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    /// Its place among slots.
    order: usize,
    key: Bytes,
}

/// The first keys so far.
#[derive(Debug, Default)]
struct Listed {
    count_max: usize,
    entries: BTreeSet<Entry>,
    bytes: usize,
    /// The first entry for whose bytes there was no room: none from there on is kept.
    cut: Option<Entry>,
}

impl Listed {
    fn count(&self) -> usize {
        self.entries.len()
    }

    /// Takes a key in; the last ones go where there are too many keys or bytes (I1).
    fn add(&mut self, entry: Entry) {
        let bytes = entry.key.len();
        if self.cut.as_ref().is_some_and(|cut| entry >= *cut) || !self.entries.insert(entry) {
            return;
        }
        self.bytes += bytes;
        while self.entries.len() > self.count_max || self.bytes > LIST_BYTES_MAX {
            let is_surplus = self.entries.len() > self.count_max;
            let Some(last) = self.entries.pop_last() else { return };
            self.bytes -= last.key.len();
            if !is_surplus {
                self.cut = Some(last);
            }
        }
    }

    fn into_keys(self) -> Result<Vec<Bytes>, Problem> {
        if self.cut.is_some() && self.entries.len() < self.count_max {
            let message =
                format!("these keys take more than {LIST_BYTES_MAX} bytes: ask for fewer");
            return Err(Problem::too_large(message));
        }
        Ok(self.entries.into_iter().map(|entry| entry.key).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(count_max: usize, keys: &[&[u8]]) -> Listed {
        let mut listed = Listed { count_max, ..Listed::default() };
        for key in keys {
            listed.add(Entry { order: 0, key: Bytes::copy_from_slice(key) });
        }
        listed
    }

    #[test]
    fn the_first_keys_are_kept_whatever_order_they_come_in() {
        let keys = listed(3, &[b"d", b"b", b"e", b"a", b"b", b"c"]).into_keys().unwrap();
        assert_eq!(keys, ["a", "b", "c"]);
        assert_eq!(listed(0, &[b"a"]).into_keys().unwrap(), [] as [&str; 0]);
    }

    #[test]
    fn a_list_of_too_many_bytes_is_refused_and_not_kept() {
        let (long, longer) = (vec![b'a'; LIST_BYTES_MAX / 2], vec![b'b'; LIST_BYTES_MAX / 2 + 1]);
        let kept = listed(9, &[&long, &longer, b"0"]);
        assert!(kept.bytes <= LIST_BYTES_MAX);
        assert_eq!(kept.into_keys().unwrap_err().code, "too_large");
        assert_eq!(listed(1, &[&longer, &long]).into_keys().unwrap(), [&long]);
        let fits = listed(2, &[&long, &longer, b"c", b"0", b"1"]).into_keys().unwrap();
        assert_eq!(fits, ["0", "1"]);
        assert!(listed(4, &[&long, &longer, b"c", b"0", b"1"]).into_keys().is_err());
    }
}
