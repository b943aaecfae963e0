//! Results by what they have in common: all but the number of clients, or that too.

use std::collections::BTreeMap;

use crate::plan::{Point, Strategy};
use crate::result::RunResult;
use crate::statistics::Summary;

/// Results of one combination of factors, which may differ in the number of clients.
#[derive(Debug, Clone)]
pub(crate) struct Variant<'a> {
    /// Those of the factors that differ between variants.
    pub(crate) name: String,
    pub(crate) runs: Vec<&'a RunResult>,
}

/// All variants, in the order of the sweep.
pub(crate) fn variants<'a>(results: impl Iterator<Item = &'a RunResult>) -> Vec<Variant<'a>> {
    let results: Vec<&RunResult> = results.collect();
    let all: Vec<Vec<String>> = results.iter().map(|result| result.run.point.factors()).collect();
    let differs = |at: usize| all.iter().any(|factors| factors[at] != all[0][at]);
    let mut variants: Vec<Variant<'_>> = Vec::new();
    for (result, factors) in results.into_iter().zip(&all) {
        let told = factors.iter().enumerate().filter(|(at, _)| differs(*at));
        let told: Vec<&str> = told.map(|(_, factor)| factor.as_str()).collect();
        let point = &result.run.point;
        let name = match told[..] {
            [] => format!("{}, {}, sync {}", point.machine, point.strategy, point.sync),
            _ => told.join(", "),
        };
        match variants.iter_mut().find(|variant| variant.name == name) {
            Some(variant) => variant.runs.push(result),
            None => variants.push(Variant { name, runs: vec![result] }),
        }
    }
    variants
}

impl Variant<'_> {
    /// The runs with each number of clients.
    pub(crate) fn by_clients(&self) -> BTreeMap<u64, Vec<&RunResult>> {
        let mut by_clients: BTreeMap<u64, Vec<&RunResult>> = BTreeMap::new();
        for run in &self.runs {
            by_clients.entry(run.run.point.clients).or_default().push(run);
        }
        by_clients
    }
}

/// Where the throughput of a variant is highest, and what it came to with most clients: medians.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Peak {
    pub(crate) clients: u64,
    pub(crate) per_second: f64,
    pub(crate) last_clients: u64,
    pub(crate) last_per_second: f64,
}

impl Peak {
    /// That of a variant which has runs with several numbers of clients.
    pub(crate) fn of(variant: &Variant<'_>) -> Option<Peak> {
        let by_clients = variant.by_clients().into_iter().map(|(clients, runs)| {
            let rates: Vec<f64> = runs.iter().map(|run| run.per_second()).collect();
            Some((clients, Summary::of(&rates)?.median))
        });
        let medians: Vec<(u64, f64)> = by_clients.collect::<Option<_>>()?;
        let (clients, per_second) = medians
            .iter()
            .copied()
            .reduce(|best, next| if next.1 > best.1 { next } else { best })?;
        let (last_clients, last_per_second) = medians.last().copied()?;
        (medians.len() > 1).then_some(Peak { clients, per_second, last_clients, last_per_second })
    }

    /// Whether more clients than those of the peak were tried, and brought less.
    pub(crate) fn is_passed(&self) -> bool {
        self.clients < self.last_clients
    }
}

/// Whether a point of the next step of a sweep is due: whether throughput still rose up to the greatest
/// number of clients that was tried.
pub(crate) fn still_rises(results: &[RunResult], point: &Point) -> bool {
    let alike = |result: &&RunResult| {
        let clients = point.clients;
        Point { clients, ..result.run.point.clone() } == *point
    };
    let runs: Vec<&RunResult> = results.iter().filter(alike).collect();
    let tried = runs.iter().map(|run| run.run.point.clients).max();
    let is_next = tried.is_some_and(|tried| tried * 2 == point.clients);
    let variant = Variant { name: String::new(), runs };
    is_next && Peak::of(&variant).is_none_or(|peak| !peak.is_passed())
}

/// Throughput of runs as a share of that without a record of commands, all else being equal: in percent of
/// the median. Nothing for the runs without, and where there are none.
pub(crate) fn share_of_none(results: &[RunResult], run: &RunResult) -> Option<f64> {
    let point = &run.run.point;
    if point.strategy == Strategy::None || run.load.is_none() {
        return None;
    }
    let none = Point { strategy: Strategy::None, ..point.clone() };
    let without = results.iter().filter(|other| other.run.point == none && other.load.is_some());
    let rates: Vec<f64> = without.map(RunResult::per_second).collect();
    let median = Summary::of(&rates)?.median;
    (median > 0.0).then(|| run.per_second() / median * 100.0)
}
