//! Times of the stages of writes, as statuses have them: what was counted between two of them. Pure.

use crate::status::Status;

/// The buckets of a stage; none where the node does not tell.
pub(super) fn buckets<'a>(status: &'a Status, stage: &str) -> &'a [u64] {
    let found = status.stages.iter().find(|found| found.stage == stage);
    found.map_or(&[], |found| &found.buckets)
}

/// How many times are in these buckets.
pub(super) fn count(buckets: &[u64]) -> u64 {
    buckets.iter().fold(0, |sum, count| sum.saturating_add(*count))
}

/// What was counted after `before`; all of it where the node has started anew meanwhile.
pub(super) fn since(before: &[u64], after: &[u64]) -> Vec<u64> {
    if count(after) < count(before) {
        return after.to_vec();
    }
    let earlier = before.iter().copied().chain(std::iter::repeat(0));
    after.iter().zip(earlier).map(|(after, before)| after.saturating_sub(before)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_since_is_the_difference_and_everything_after_a_start() {
        assert_eq!(since(&[1, 2], &[1, 5, 0, 7]), [0, 3, 0, 7]);
        assert_eq!(since(&[], &[4]), [4]);
        assert_eq!(since(&[9, 9], &[4, 1]), [4, 1]);
    }
}
