//! The key that a connection watches: the state of WATCH from one transaction to the next. Pure.
//!
//! Called by the connection alone.
//!
//! | state | WATCH of the key | the key is seen at another version |
//! | --- | --- | --- |
//! | nothing | asked | |
//! | asked: its version is being read | held, or failed | |
//! | held at a version | | changed |
//! | changed | | |
//! | failed: a WATCH was not granted | asked again | failed for good |
//!
//! EXEC, DISCARD of a transaction, UNWATCH and RESET lead back to nothing.
//!
//! Invariants:
//! - I1: after a WATCH, an EXEC writes only if the key is as that WATCH found it. After a WATCH
//!   that was not granted, no EXEC writes.
//! - I2: an EXEC writes only if every reply since the WATCH showed the key as WATCH found it.
//!   Comparing versions at EXEC alone is not enough: a deleted key may look as if it had never
//!   existed.

use bytes::Bytes;
use smallvec::SmallVec;

use super::super::draft::Watched;
use super::super::encode::code_and_text;
use crate::command::{Body, Command, CommandResult, Failure, Outcome};
use crate::server::complaint::Complaint;

/// Why a second key is not watched.
pub(super) const WIDER: &str = "WATCH takes one key: an entry of the log depends on one key alone";

/// Positions of operations of one command.
pub(crate) type Positions = SmallVec<[usize; 1]>;

/// What a connection watches.
#[derive(Debug, Default)]
pub(super) enum Watch {
    /// Nothing.
    #[default]
    Nothing,
    /// This key, whose version is being read.
    Asked(Bytes),
    /// This key, which is as it was as far as the connection has seen.
    Held(Watched),
    /// This key, which is no longer as it was.
    Changed(Watched),
    /// Something was to be watched, and is not.
    Failed {
        /// The key, if asking for it again is enough: nothing was seen of it meanwhile.
        key: Option<Bytes>,
        /// What the client was told.
        reason: String,
    },
}

impl Watch {
    /// Asks for `key` to be watched; true if its version has to be read for it.
    pub(super) fn ask(&mut self, key: &[u8]) -> Result<bool, Complaint> {
        let is_known = match self {
            Watch::Nothing => false,
            Watch::Asked(asked) | Watch::Failed { key: Some(asked), .. } if *asked == *key => false,
            // The first watch counts: what changed since then still fails the transaction.
            Watch::Held(watched) | Watch::Changed(watched) if *watched.key == *key => true,
            Watch::Failed { key: None, .. } => {
                return Err(Complaint::wrong("an earlier WATCH failed; UNWATCH, then WATCH anew"));
            }
            _ => return Err(Complaint::wrong(WIDER)),
        };
        if !is_known {
            *self = Watch::Asked(Bytes::copy_from_slice(key));
        }
        Ok(!is_known)
    }

    /// What became of reading the key that was asked for.
    pub(super) fn granted(&mut self, result: &CommandResult) {
        let Watch::Asked(key) = self else { return };
        let key = std::mem::take(key);
        let first = result.as_ref().map(|reply| reply.outcomes.first());
        *self = match first {
            Ok(Some(Outcome { version, body: Body::Value(_), .. })) => {
                Watch::Held(Watched { key, version: *version })
            }
            Ok(_) => Watch::Failed { key: Some(key), reason: "its key was not read".to_owned() },
            Err(failure) => {
                Watch::Failed { key: Some(key), reason: code_and_text(&failure.into()) }
            }
        };
    }

    /// A WATCH was refused in these words (I1).
    pub(super) fn refused(&mut self, complaint: &Complaint) {
        if !matches!(self, Watch::Failed { .. }) {
            *self = Watch::Failed { key: None, reason: code_and_text(complaint) };
        }
    }

    /// The operations of `command` that will tell something of the key (I2).
    pub(super) fn positions(&self, command: &Command) -> Positions {
        let (Watch::Held(Watched { key, .. }) | Watch::Failed { key: Some(key), .. }) = self else {
            return Positions::new();
        };
        let operations = command.operations().enumerate();
        operations
            .filter(|(_, operation)| operation.data_key() == Some(key))
            .map(|(at, _)| at)
            .collect()
    }

    /// What became of operations on the key (I2).
    pub(super) fn saw(&mut self, positions: &Positions, result: &CommandResult) {
        match self {
            Watch::Held(watched) => {
                let is_other = |at: &usize| match result {
                    Ok(reply) => {
                        let outcome = reply.outcomes.get(*at);
                        outcome.is_none_or(|outcome| {
                            outcome.changed || outcome.version != watched.version
                        })
                    }
                    Err(failure) => matches!(failure, Failure::Unknown { .. }),
                };
                if positions.iter().any(is_other) {
                    *self = Watch::Changed(watched.clone());
                }
            }
            Watch::Failed { key, .. } if !positions.is_empty() => *key = None,
            _ => {}
        }
    }

    /// The key that a transaction begun now depends on.
    pub(super) fn condition(&self) -> Option<&Watched> {
        match self {
            Watch::Held(watched) | Watch::Changed(watched) => Some(watched),
            Watch::Nothing | Watch::Asked(_) | Watch::Failed { .. } => None,
        }
    }
}
