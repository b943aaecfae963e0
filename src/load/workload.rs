//! Workloads: the share of operations that read, and the keys that are chosen. Named workloads are
//! those of the Yahoo! Cloud Serving Benchmark and of the original's tests.
//!
//! - I1: the shares of a workload add up to 100.
//!
//! Source: Cooper et al., "Benchmarking Cloud Serving Systems with YCSB", SoCC 2010, and the files
//! `workloads/workload[abcdf]` of the benchmark. One thing differs in a store of numbered slots:
//! the records are the slots 0 to `keys` - 1, as many at the end as at the beginning. So an insert
//! replaces the oldest record, and the "latest" distribution spans the same number of records all
//! the time. Workload e scans, which a load cannot do.

use super::keys::Distribution;
use super::random::Random;

/// What one operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Reads a record.
    Read,
    /// Sets a record that is there.
    Update,
    /// Adds a record.
    Insert,
    /// Reads a record and then sets it: two requests, one operation.
    Modify,
}

/// The shares of operations in 100, and which keys they go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// What it is called, if it has a name.
    pub name: Option<&'static str>,
    /// Reads.
    pub reads: u64,
    /// Sets of records that are there.
    pub updates: u64,
    /// New records.
    pub inserts: u64,
    /// Reads that are followed by a set of the same record.
    pub modifies: u64,
    /// Which records.
    pub distribution: Distribution,
}

impl Workload {
    /// Whether it changes what a store holds.
    pub fn writes(&self) -> bool {
        self.updates + self.inserts + self.modifies > 0
    }
}

/// Nothing of anything yet.
const NOTHING: Workload = Workload {
    name: None,
    reads: 0,
    updates: 0,
    inserts: 0,
    modifies: 0,
    distribution: Distribution::Uniform,
};

/// All workloads that have a name.
pub const WORKLOADS: [Workload; 9] = [
    Workload { name: Some("original"), reads: 50, updates: 50, ..NOTHING },
    Workload {
        name: Some("a"),
        reads: 50,
        updates: 50,
        distribution: Distribution::Zipfian,
        ..NOTHING
    },
    Workload {
        name: Some("b"),
        reads: 95,
        updates: 5,
        distribution: Distribution::Zipfian,
        ..NOTHING
    },
    Workload { name: Some("c"), reads: 100, distribution: Distribution::Zipfian, ..NOTHING },
    Workload {
        name: Some("d"),
        reads: 95,
        inserts: 5,
        distribution: Distribution::Latest,
        ..NOTHING
    },
    Workload {
        name: Some("f"),
        reads: 50,
        modifies: 50,
        distribution: Distribution::Zipfian,
        ..NOTHING
    },
    Workload { name: Some("update-uniform"), updates: 100, ..NOTHING },
    Workload {
        name: Some("update-latest"),
        updates: 100,
        distribution: Distribution::Latest,
        ..NOTHING
    },
    Workload {
        name: Some("fill"),
        updates: 100,
        distribution: Distribution::Sequential,
        ..NOTHING
    },
];

impl Workload {
    /// The workload of that name.
    pub fn named(name: &str) -> Option<Workload> {
        WORKLOADS.into_iter().find(|workload| workload.name == Some(name))
    }

    /// So many reads in 100, at most 100 of them; the others are writes, which under
    /// [`Distribution::Latest`] are inserts.
    pub fn mixed(reads: u64, distribution: Distribution) -> Workload {
        let (reads, writes) = (reads.min(100), 100 - reads.min(100));
        let is_latest = distribution == Distribution::Latest;
        let (inserts, updates) = if is_latest { (writes, 0) } else { (0, writes) };
        Workload { reads, updates, inserts, distribution, ..NOTHING }
    }

    /// What the next operation does.
    pub(super) fn draw(&self, random: &mut Random) -> Action {
        let drawn = random.below(100);
        let shares = [
            (self.reads, Action::Read),
            (self.updates, Action::Update),
            (self.inserts, Action::Insert),
        ];
        let mut below = 0;
        for (share, action) in shares {
            below += share;
            if drawn < below {
                return action;
            }
        }
        Action::Modify
    }

    /// In words.
    pub(super) fn describe(&self) -> String {
        let shares = [
            (self.reads, "reads"),
            (self.updates, "updates"),
            (self.inserts, "inserts"),
            (self.modifies, "read-modify-writes"),
        ];
        let shares = shares.iter().filter(|(share, _)| *share > 0);
        let shares: Vec<String> = shares.map(|(share, what)| format!("{share} % {what}")).collect();
        match self.name {
            Some(name) => format!("workload {name}: {}", shares.join(", ")),
            None => shares.join(", "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: u64 = 100_000;

    /// Percent of each action: reads, updates, inserts, modifications.
    fn drawn(name: &str) -> [u64; 4] {
        let workload = Workload::named(name).unwrap();
        let mut random = Random::new(7, 0);
        let mut counts = [0; 4];
        for _ in 0..DRAWS {
            let action = workload.draw(&mut random);
            let order = [Action::Read, Action::Update, Action::Insert, Action::Modify];
            counts[order.iter().position(|other| *other == action).unwrap()] += 1;
        }
        counts.map(|count| (count * 100 + DRAWS / 2) / DRAWS)
    }

    /// `readproportion`, `updateproportion`, `insertproportion`, `readmodifywriteproportion` and
    /// `requestdistribution` of the benchmark's files.
    #[test]
    fn shares_and_distributions_are_those_of_the_benchmark() {
        for (name, shares, distribution) in [
            ("original", [50, 50, 0, 0], Distribution::Uniform),
            ("a", [50, 50, 0, 0], Distribution::Zipfian),
            ("b", [95, 5, 0, 0], Distribution::Zipfian),
            ("c", [100, 0, 0, 0], Distribution::Zipfian),
            ("d", [95, 0, 5, 0], Distribution::Latest),
            ("f", [50, 0, 0, 50], Distribution::Zipfian),
            ("update-uniform", [0, 100, 0, 0], Distribution::Uniform),
            ("update-latest", [0, 100, 0, 0], Distribution::Latest),
            ("fill", [0, 100, 0, 0], Distribution::Sequential),
        ] {
            assert_eq!(drawn(name), shares, "{name}");
            assert_eq!(Workload::named(name).unwrap().distribution, distribution, "{name}");
        }
        assert_eq!(Workload::named("e"), None);
    }

    #[test]
    fn shares_add_up() {
        let mixed = (0..=100).map(|reads| Workload::mixed(reads, Distribution::Latest));
        for workload in WORKLOADS.into_iter().chain(mixed) {
            let Workload { reads, updates, inserts, modifies, .. } = workload;
            assert_eq!(reads + updates + inserts + modifies, 100, "{workload:?}");
        }
    }

    #[test]
    fn a_workload_is_described_by_its_name_and_its_shares() {
        let words = Workload::named("f").unwrap().describe();
        assert_eq!(words, "workload f: 50 % reads, 50 % read-modify-writes");
        assert_eq!(
            Workload::mixed(90, Distribution::Latest).describe(),
            "90 % reads, 10 % inserts"
        );
    }
}
