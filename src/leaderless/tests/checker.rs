//! What a history of operations must keep, whatever happened. Every operation has a version, so
//! nothing has to be searched for: the versions of a key must respect real time.
//!
//! - Operations at QUORUM and ALL: one that began after another had ended has a version that is not
//!   lower, and a higher one if it is a write.
//! - A read at ONE that began after an operation at ALL had ended has a version that is not lower.
//! - One version is one value, and no value is read that nobody was about to write.
//!
//! A key that is not there has the version of the newest delete of it that was forgotten. Where somebody
//! accepts that copies of a key are gone, nothing is expected of what was read or written before.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::super::clock::Version;
use super::super::message::Held;
use super::super::operation::Level;

/// What was wrong first.
pub(super) type Fault = String;

/// What is known of one key.
#[derive(Debug, Default)]
struct Known {
    /// The highest version of an operation at QUORUM or ALL that has ended.
    ended: Version,
    /// Of one at ALL.
    ended_all: Version,
    /// The newest delete that a replica has forgotten.
    forgotten: Version,
    /// How often copies of it were given up.
    given_up: u64,
    values: BTreeMap<Version, Option<Bytes>>,
    /// What a node has put into its own copy alone. If it crashes before that is synced, it never was.
    own: BTreeMap<Version, Vec<Option<Bytes>>>,
}

/// An operation that has begun.
#[derive(Debug, Clone)]
pub(super) struct Begun {
    pub(super) key: Bytes,
    pub(super) level: Level,
    /// The least version that its outcome may have, unless copies were given up since.
    least: Version,
    given_up: u64,
}

#[derive(Debug, Default)]
pub(super) struct Checker {
    keys: BTreeMap<Bytes, Known>,
}

impl Checker {
    fn known(&mut self, key: &Bytes) -> &mut Known {
        self.keys.entry(key.clone()).or_default()
    }

    pub(super) fn begin(&mut self, key: &Bytes, level: Level) -> Begun {
        let known = self.known(key);
        let least = if level == Level::One { known.ended_all } else { known.ended };
        Begun { key: key.clone(), level, least, given_up: known.given_up }
    }

    /// Copies of this key are gone, and the others have to do: what was acknowledged may be missed.
    pub(super) fn give_up(&mut self, key: &Bytes) {
        let known = self.known(key);
        (known.ended, known.ended_all) = (Version::NONE, Version::NONE);
        known.forgotten = Version::NONE;
        known.given_up += 1;
    }

    /// A write is about to store this in its node's own copy.
    pub(super) fn propose_here(&mut self, key: &Bytes, held: &Held) {
        let values = self.known(key).own.entry(held.version).or_default();
        values.push(held.value.clone());
    }

    /// A write is about to store this.
    pub(super) fn propose(&mut self, key: &Bytes, held: &Held) -> Result<(), Fault> {
        let (version, value) = (held.version, held.value.clone());
        let known = self.known(key).values.entry(version).or_insert_with(|| value.clone());
        if *known == value {
            return Ok(());
        }
        Err(format!("{version:x?} of {key:?} is given to {known:?} and to {value:?}"))
    }

    pub(super) fn written(&mut self, begun: &Begun, version: Version) -> Result<(), Fault> {
        // A write at ONE goes by its own clock, and promises no order.
        if begun.level != Level::One && version <= self.least(begun) {
            return Err(format!("{begun:x?} wrote {version:x?}"));
        }
        self.end(begun, version);
        Ok(())
    }

    pub(super) fn read(&mut self, begun: &Begun, held: &Held) -> Result<(), Fault> {
        let known = self.known(&begun.key);
        let is_there = held.version > Version::NONE;
        if known.own.get(&held.version).is_some_and(|values| values.contains(&held.value)) {
            self.propose(&begun.key, held)?;
        }
        let known = self.known(&begun.key);
        if is_there && known.values.get(&held.version) != Some(&held.value) {
            return Err(format!("{begun:x?} read {held:x?}, which nobody wrote"));
        }
        let version = if is_there { held.version } else { known.forgotten };
        if version < self.least(begun) {
            return Err(format!("{begun:x?} read {held:x?}, as {version:x?}"));
        }
        if is_there || begun.level != Level::One {
            self.end(begun, version);
        }
        Ok(())
    }

    /// The least version that an outcome may have now.
    fn least(&self, begun: &Begun) -> Version {
        let is_known = |known: &&Known| known.given_up == begun.given_up;
        self.keys.get(&begun.key).filter(is_known).map_or(Version::NONE, |_| begun.least)
    }

    fn end(&mut self, begun: &Begun, version: Version) {
        let known = self.known(&begun.key);
        if known.given_up > begun.given_up {
            return; // it may rest on copies that are gone
        }
        if begun.level != Level::One {
            known.ended = known.ended.max(version);
        }
        if begun.level == Level::All {
            known.ended_all = known.ended_all.max(version);
        }
    }

    pub(super) fn forget(&mut self, key: &Bytes, version: Version) {
        let known = self.known(key);
        known.forgotten = known.forgotten.max(version);
    }
}
