//! Limits the bytes of values in the reply to one command. Pure.
//!
//! Called by the machines for each outcome of a command that has several. Lengths are counted as
//! values are read: a value counts with its real length, not with the largest that it could have.

use crate::command::{Action, Body, Outcome, REPLY_BYTES_MAX};

/// What is left for values that are only read.
#[derive(Debug)]
pub(super) struct ReplyBudget {
    bytes_left: u64,
}

impl ReplyBudget {
    /// All that a reply may hold.
    pub(super) fn new() -> ReplyBudget {
        ReplyBudget { bytes_left: REPLY_BYTES_MAX }
    }

    /// The outcome as the reply holds it: a value that was only measured, or that there is no room
    /// for any more, gives way to its length. What an operation replaced or deleted stays: it could
    /// not be asked for again.
    pub(super) fn fit(&mut self, action: &Action<'_>, mut outcome: Outcome) -> Outcome {
        let Body::Value(Some(value)) = &outcome.body else { return outcome };
        let bytes = value.len() as u64;
        let is_left_out = match action {
            Action::Measure => true,
            Action::Get => match self.bytes_left.checked_sub(bytes) {
                Some(left) => {
                    self.bytes_left = left;
                    false
                }
                None => true,
            },
            Action::Set { .. }
            | Action::Delete { .. }
            | Action::Increment { .. }
            | Action::Append { .. }
            | Action::SetRange { .. }
            | Action::Publish { .. } => false,
        };
        if is_left_out {
            outcome.body = Body::Measured(bytes);
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::command::{Answer, Condition};

    fn of(length: usize) -> Outcome {
        let body = Body::Value(Some(Bytes::from(vec![0; length])));
        Outcome { version: 1, changed: false, existed: true, body }
    }

    #[test]
    fn values_are_kept_as_long_as_there_is_room_and_measured_ones_take_none() {
        let mut budget = ReplyBudget { bytes_left: 10 };
        assert_eq!(budget.fit(&Action::Measure, of(100)).body, Body::Measured(100));
        assert_eq!(budget.fit(&Action::Get, of(6)), of(6));
        assert_eq!(budget.fit(&Action::Get, of(5)).body, Body::Measured(5));
        assert_eq!(budget.fit(&Action::Get, of(4)), of(4));
        let delete = Action::Delete { condition: Condition::Always, answer: Answer::Previous };
        assert_eq!(budget.fit(&delete, of(9)), of(9));
        let absent = Outcome { body: Body::Value(None), ..of(0) };
        assert_eq!(budget.fit(&Action::Measure, absent.clone()), absent);
    }
}
