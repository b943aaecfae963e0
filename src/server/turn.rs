//! How the requests of one turn are grouped: what can be asked of the node at once is. Pure.

use std::ops::Range;

/// What one request needs of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing; its answer is known.
    Nothing,
    /// A read.
    Read,
    /// A proposal.
    Write,
    /// An answer about the node itself.
    Ask,
}

/// Requests in a row that need the same, beside those that need nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// What they need; `Nothing` if none of them needs anything.
    pub(crate) need: Need,
    /// Which ones they are.
    pub(crate) requests: Range<usize>,
}

/// Groups requests into runs, in their order. Only reads and writes are grouped with their like.
///
/// Runs are executed one after the other, so that a read sees the writes before it.
pub(crate) fn plan(needs: impl IntoIterator<Item = Need>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (position, need) in needs.into_iter().enumerate() {
        let joins = |run: &Run| {
            need == Need::Nothing
                || run.need == Need::Nothing
                || run.need == need && need != Need::Ask
        };
        match runs.last_mut().filter(|run| joins(run)) {
            Some(run) => {
                run.requests.end = position + 1;
                if run.need == Need::Nothing {
                    run.need = need;
                }
            }
            None => runs.push(Run { need, requests: position..position + 1 }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(letters: &str) -> Vec<(char, usize)> {
        let need = |letter| match letter {
            'r' => Need::Read,
            'w' => Need::Write,
            'a' => Need::Ask,
            _ => Need::Nothing,
        };
        let letter = |need| match need {
            Need::Read => 'r',
            Need::Write => 'w',
            Need::Ask => 'a',
            Need::Nothing => '.',
        };
        let runs = plan(letters.chars().map(need));
        let covered = runs.iter().flat_map(|run| run.requests.clone());
        assert!(covered.eq(0..letters.len()), "{letters}: every request once, in order");
        runs.iter().map(|run| (letter(run.need), run.requests.len())).collect()
    }

    #[test]
    fn like_requests_in_a_row_are_one_run() {
        assert_eq!(planned(""), []);
        assert_eq!(planned("www"), [('w', 3)]);
        assert_eq!(planned("wwrrw"), [('w', 2), ('r', 2), ('w', 1)]);
    }

    #[test]
    fn what_needs_nothing_interrupts_no_run() {
        assert_eq!(planned(".w.w."), [('w', 5)]);
        assert_eq!(planned("..."), [('.', 3)]);
        assert_eq!(planned("w.r"), [('w', 2), ('r', 1)]);
    }

    #[test]
    fn questions_stand_alone() {
        assert_eq!(planned("waaw"), [('w', 1), ('a', 1), ('a', 1), ('w', 1)]);
        assert_eq!(planned(".a."), [('a', 3)]);
    }
}
