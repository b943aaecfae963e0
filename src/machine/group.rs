//! Groups the operations of one command by their keys. Called by the machines; calls nothing.

use smallvec::{SmallVec, smallvec};

use super::effect::nothing;
use super::reply::ReplyBudget;
use crate::command::{Operation, Outcome};

/// Has all operations of each key applied together, keys in ascending order; returns the outcomes
/// in the order of the operations. `apply` records one outcome for each operation that it is given.
/// Messages are about no key, and not given to it.
pub(super) fn by_key<E>(
    index: u64,
    operations: &[Operation<'_>],
    mut apply: impl FnMut(&[Operation<'_>], &mut dyn FnMut(usize, Outcome)) -> Result<(), E>,
) -> Result<SmallVec<[Outcome; 1]>, E> {
    let mut outcomes: SmallVec<[Outcome; 1]> = smallvec![nothing(index); operations.len()];
    let mut budget = ReplyBudget::new();
    let mut place = |position: usize, outcome| {
        let place = outcomes.get_mut(position).zip(operations.get(position));
        if let Some((place, operation)) = place {
            *place = budget.fit(&operation.action, outcome);
        }
    };
    if let [only] = operations {
        if only.data_key().is_some() {
            apply(operations, &mut place)?;
        }
        return Ok(outcomes);
    }
    let key_at = |position: usize| operations.get(position).and_then(Operation::data_key);
    let mut order: Vec<usize> =
        (0..operations.len()).filter(|position| key_at(*position).is_some()).collect();
    order.sort_by_key(|position| key_at(*position));
    for group in order.chunk_by(|a, b| key_at(*a) == key_at(*b)) {
        let members: Vec<Operation<'_>> =
            group.iter().filter_map(|position| operations.get(*position).copied()).collect();
        apply(&members, &mut |nth, outcome| {
            if let Some(position) = group.get(nth) {
                place(*position, outcome);
            }
        })?;
    }
    Ok(outcomes)
}
