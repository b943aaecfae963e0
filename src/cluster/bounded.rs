//! Fits the results of forwarded commands into the length of one response. Pure.
//!
//! Called by `writes` and `reads`. Invariants:
//!
//! - I1: a command that changed something is never answered as if it had not: its reply is sent
//!   whole, or its outcome is called unknown.

use crate::command::{
    Action, Body, Command, CommandResult, Failure, Outcome, outcome_bytes, result_bytes,
};
use crate::peer::encode_results;

/// Why a reply was left out of a response.
pub(super) const TOO_LONG: &str =
    "the replies are too long to be forwarded; ask the leader, or for less at once";
/// What stands before the results of a response.
const COUNT_BYTES: usize = 4;

/// The results as at most `bytes_max` bytes. Where they take more, values that were only read give
/// way to their lengths, so that whoever asked reads them elsewhere; where that is not enough, a
/// reply that does not fit any more gives way to `unknown` (I1).
pub(super) fn encode_bounded(
    mut results: Vec<CommandResult>,
    bytes_max: usize,
    unknown: &Failure,
) -> Vec<u8> {
    let bytes_of =
        |results: &[CommandResult]| COUNT_BYTES + results.iter().map(result_bytes).sum::<usize>();
    if bytes_of(&results) > bytes_max {
        leave_values_out(&mut results, bytes_max);
    }
    if bytes_of(&results) > bytes_max {
        leave_replies_out(&mut results, bytes_max, unknown);
    }
    encode_results(&results)
}

/// Whether a value that was asked for is not in the results: there was no room for it.
pub(super) fn lacks_values(commands: &[Command], results: &[CommandResult]) -> bool {
    let is_missing = |action: &Action<'_>, outcome: &Outcome| {
        *action == Action::Get && matches!(outcome.body, Body::Measured(_))
    };
    commands.iter().zip(results).any(|(command, result)| {
        result.as_ref().is_ok_and(|reply| {
            let mut operations = command.operations().zip(&reply.outcomes);
            operations.any(|(operation, outcome)| is_missing(&operation.action, outcome))
        })
    })
}

/// Values that were only read are kept in their order as long as there is room for all the rest.
fn leave_values_out(results: &mut [CommandResult], bytes_max: usize) {
    let least: usize = results.iter().map(|result| result_bytes(&measured(result))).sum();
    let mut left = bytes_max.saturating_sub(COUNT_BYTES + least);
    for outcome in results.iter_mut().flatten().flat_map(|reply| &mut reply.outcomes) {
        let short = shortened(outcome);
        let more = outcome_bytes(outcome).saturating_sub(outcome_bytes(&short));
        match left.checked_sub(more) {
            Some(rest) => left = rest,
            None => *outcome = short,
        }
    }
}

/// Every result has as much room as would be put in its place; replies share what is left.
fn leave_replies_out(results: &mut [CommandResult], bytes_max: usize, unknown: &Failure) {
    let busy = Failure::Busy { reason: TOO_LONG.into() };
    let least = result_bytes(&Err(busy.clone())).max(result_bytes(&Err(unknown.clone())));
    let mut left = bytes_max.saturating_sub(COUNT_BYTES + results.len() * least);
    for result in results {
        let Ok(reply) = result else { continue };
        let has_changed = reply.outcomes.iter().any(|outcome| outcome.changed);
        let more = result_bytes(result).saturating_sub(least);
        match left.checked_sub(more) {
            Some(rest) => left = rest,
            None => *result = Err(if has_changed { unknown.clone() } else { busy.clone() }),
        }
    }
}

/// The result without the values that can be left out.
fn measured(result: &CommandResult) -> CommandResult {
    let mut result = result.clone();
    for outcome in result.iter_mut().flat_map(|reply| &mut reply.outcomes) {
        *outcome = shortened(outcome);
    }
    result
}

fn shortened(outcome: &Outcome) -> Outcome {
    let body = match &outcome.body {
        Body::Value(Some(value)) if !outcome.changed => Body::Measured(value.len() as u64),
        body => body.clone(),
    };
    Outcome { body, ..*outcome }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::command::Reply;
    use crate::peer::decode_results;
    use crate::raft::RESPONSE_BYTES_MAX;

    /// The reply to a command that gives a value of so many bytes.
    fn reply(bytes: usize, changed: bool) -> Reply {
        let body = Body::Value(Some(Bytes::from(vec![7; bytes])));
        let outcome = Outcome { version: 1, changed, existed: true, body };
        Reply { index: 1, outcomes: [outcome].into_iter().collect(), ..Reply::default() }
    }

    fn bounded(results: &[CommandResult], bytes_max: usize) -> Vec<CommandResult> {
        let unknown = Failure::Unknown { term: 1, index: 2, reason: TOO_LONG.into() };
        let body = encode_bounded(results.to_vec(), bytes_max, &unknown);
        assert!(body.len() <= bytes_max, "{} of {bytes_max} bytes", body.len());
        decode_results(body.into(), results.len()).unwrap()
    }

    #[test]
    fn replies_that_fit_are_left_as_they_are() {
        let results = [Ok(reply(1000, false)), Ok(reply(1000, true)), Err(Failure::NoSpace)];
        let bytes = encode_results(&results).len();
        assert_eq!(bounded(&results, bytes), results);
    }

    #[test]
    fn values_that_were_only_read_give_way_first() {
        let results =
            [reply(1000, false), reply(900, false), reply(1000, true), reply(10, true)].map(Ok);
        let left_out = |fitted: &CommandResult| fitted.as_ref().unwrap().outcomes[0].body.clone();
        let fitted = bounded(&results, 2000);
        assert_eq!(left_out(&fitted[0]), Body::Measured(1000));
        assert_eq!(left_out(&fitted[1]), Body::Measured(900));
        assert_eq!(fitted[2..], results[2..], "what was changed is answered whole");
        let fitted = bounded(&results, 2300);
        assert_eq!(fitted[0], results[0], "in their order, as long as there is room");
        let fitted = bounded(&results, 900);
        assert!(matches!(fitted[2], Err(Failure::Unknown { .. })), "{:?}", fitted[2]);
        assert_eq!(fitted[3], results[3], "what is short always fits");
        let get = Command::get(b"k").unwrap();
        let commands = [&get, &get, &get, &get].map(Clone::clone);
        assert!(lacks_values(&commands, &fitted) && !lacks_values(&commands, &results));
    }

    #[test]
    fn the_longest_pipeline_fits() {
        let results = vec![Ok(reply(RESPONSE_BYTES_MAX / 1000, false)); 60_000];
        let fitted = bounded(&results, RESPONSE_BYTES_MAX);
        assert_eq!(fitted[0], results[0]);
        assert!(lacks_values(&[Command::get(b"k").unwrap()], &fitted[59_999..]));
    }
}
