//! What is measured of our programs alone, one file for each kind: what a trial finds stands in the order
//! of its goals.

mod background;
mod catch_up;
mod growth;
mod registers;
mod restart;
mod sizes;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use diskstore::load::Load;

use crate::drive::{load_of, run_resp};
use crate::nodes::Nodes;
use crate::rows::{Limit, Row, writes};

/// Most bytes of a node's log that are shown when a trial has failed.
const LAST_WORDS_BYTES_MAX: usize = 2000;

/// Rows that are measured together.
#[derive(Debug)]
pub(crate) struct Trial {
    /// As `-only` calls it.
    pub(crate) name: &'static str,
    /// Its rows.
    pub(crate) goals: &'static [(&'static str, Limit)],
    /// Finds what they come to.
    pub(crate) run: fn(&Place<'_>) -> Result<Vec<Found>>,
}

/// All of them.
pub(crate) static TRIALS: [Trial; 9] = [
    background::TRIAL,
    restart::TRIAL,
    catch_up::TRIAL,
    growth::TRIAL,
    sizes::TRIAL,
    registers::GRPC,
    registers::SETS,
    registers::KILL,
    registers::RETURN,
];

/// Where a trial takes place.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// The node's program.
    pub(crate) node: &'a Path,
    /// An empty directory, or none yet.
    pub(crate) directory: &'a Path,
    /// Whether it takes its time.
    pub(crate) is_long: bool,
    /// How long a node is away that comes back.
    pub(crate) away: Duration,
}

impl Place<'_> {
    fn start(&self, count: usize, flags: &str) -> Result<Nodes> {
        Nodes::start(self.node, self.directory, count, flags)
    }

    /// One of two numbers: without and with `-long`.
    fn choose(&self, short: u64, long: u64) -> u64 {
        if self.is_long { long } else { short }
    }

    fn seconds(&self, short: u64, long: u64) -> Duration {
        Duration::from_secs(self.choose(short, long))
    }
}

/// What a row came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Found {
    /// It could not be told.
    Nothing,
    /// A value.
    Value(f64),
    /// The first number by the second.
    Ratio(f64, f64),
}

impl Found {
    fn ratio(values: Option<(f64, f64)>) -> Found {
        values.map_or(Found::Nothing, |(one, other)| Found::Ratio(one, other))
    }
}

impl Trial {
    /// The rows, as far as something was found.
    pub(crate) fn rows(&self, found: &[Found]) -> Vec<Row> {
        let row = |(nth, (text, limit)): (usize, &(&str, Limit))| match found.get(nth) {
            None | Some(Found::Nothing) => Row::new(text, *limit, None, None),
            Some(Found::Value(is)) => Row::new(text, *limit, None, Some(*is)),
            Some(Found::Ratio(one, other)) => {
                Row::new(text, *limit, Some([*one, *other]), Some(one / other))
            }
        };
        self.goals.iter().enumerate().map(row).collect()
    }
}

/// Keys of the load that fills slots fast.
fn fill(nodes: &mut Nodes, keys: u64) -> Result<()> {
    run_resp(&crate::drive::each_once(nodes.target()?, writes(64, 16), keys)).map(|_| ())
}

/// Writes of so many clients to the leader.
fn writes_to(nodes: &mut Nodes, clients: u64, duration: Duration) -> Result<Load> {
    Ok(load_of(nodes.target()?, writes(clients, 1), duration))
}

/// The ends of the logs of all servers below a directory.
pub(crate) fn last_words(directory: &Path) -> String {
    let folders = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut logs: Vec<PathBuf> = folders.map(|folder| folder.path().join("log")).collect();
    logs.sort();
    let end_of = |log: &PathBuf| {
        let bytes = std::fs::read(log).unwrap_or_default();
        let end = &bytes[bytes.len().saturating_sub(LAST_WORDS_BYTES_MAX)..];
        format!("{}:\n{}\n", log.display(), String::from_utf8_lossy(end))
    };
    logs.iter().map(end_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIAL: Trial = Trial {
        name: "trial",
        goals: &[("one", Limit::AtLeast(2.0)), ("two", Limit::AtMost(2.0))],
        run: |_| Ok(Vec::new()),
    };

    fn outcomes(found: &[Found]) -> Vec<&str> {
        TRIAL.rows(found).iter().map(|row| row.outcome).collect()
    }

    #[test]
    fn what_is_found_is_compared_with_its_limit() {
        assert_eq!(outcomes(&[Found::Value(2.0), Found::Value(2.0)]), ["met", "met"]);
        assert_eq!(outcomes(&[Found::Value(1.9), Found::Value(2.1)]), ["missed", "missed"]);
        assert_eq!(outcomes(&[Found::Ratio(4.0, 2.0), Found::Ratio(5.0, 2.0)]), ["met", "missed"]);
        let row = &TRIAL.rows(&[Found::Ratio(4.0, 2.0)])[0];
        assert_eq!((row.values, row.is), (Some([4.0, 2.0]), Some(2.0)));
    }

    #[test]
    fn what_is_not_found_is_not_measured() {
        assert_eq!(outcomes(&[]), ["not measured"; 2]);
        assert_eq!(outcomes(&[Found::Nothing, Found::Value(1.0)]), ["not measured", "met"]);
        assert_eq!(Found::ratio(None), Found::Nothing);
    }

    #[test]
    fn names_of_trials_and_goals_are_their_own() {
        let mut names: Vec<&str> = TRIALS.iter().map(|trial| trial.name).collect();
        names.extend(TRIALS.iter().flat_map(|trial| trial.goals).map(|(text, _)| *text));
        let unique: std::collections::BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(unique.len(), names.len());
    }
}
