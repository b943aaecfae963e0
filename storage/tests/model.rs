//! The log against a `BTreeMap`: any steps give the same content, reopened or not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod wal_model;

use diskstore_storage::disk::{CrashMode, SimDisk};
use proptest::prelude::*;
use wal_model::{DIRECTORY, Driver, Model, Step, check_after_crash, open, options};

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..6_u64, 0..3000_usize).prop_map(|(count, bytes)| Step::Append { count, bytes }),
        1 => (1..4_u64, 8000..12_000_usize)
            .prop_map(|(count, bytes)| Step::Append { count, bytes }),
        1 => Just(Step::Vote),
        1 => Just(Step::Commit),
        2 => (0..8_u64).prop_map(|count| Step::Truncate { count }),
        2 => (0..20_u64).prop_map(|keep| Step::Purge { keep }),
        1 => (0..3_u64).prop_map(|by| Step::PurgeBeyond { by }),
        1 => (0..3_u64).prop_map(|by| Step::DropAll { by }),
        2 => Just(Step::Seal),
        6 => Just(Step::Sync),
        1 => Just(Step::Claim),
        2 => Just(Step::Prepare),
        2 => Just(Step::Reclaim),
        2 => Just(Step::Release),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_steps_give_what_the_model_says(
        steps in prop::collection::vec(step(), 1..80),
        seed in any::<u64>(),
    ) {
        let disk = SimDisk::new(seed);
        let mut driver = Driver::new(&disk, &options()).unwrap();
        for &step in &steps {
            driver.run(step).unwrap();
            driver.check();
        }
        // A killed process and a power failure leave what was acknowledged.
        for mode in [CrashMode::Lost, CrashMode::All, CrashMode::Torn { seed }, CrashMode::Reordered { seed }] {
            check_after_crash(&disk.crash(mode), &driver.acknowledged, None);
        }
        driver.run(Step::Sync).unwrap();
        let (wal, recovery) = open(&disk.copy()).unwrap();
        prop_assert_eq!(Model::of(&wal).unwrap(), driver.acknowledged.as_read());
        prop_assert_eq!(recovery.cut, None);
    }

    #[test]
    fn rubbish_in_the_segments_is_an_answer_and_never_a_panic(
        harms in prop::collection::vec((any::<u16>(), 1..5000_usize, any::<u8>(), 0..4_u8), 1..6),
        seed in any::<u64>(),
    ) {
        let disk = SimDisk::new(seed);
        let mut driver = Driver::new(&disk, &options()).unwrap();
        for count in 1..9 {
            driver.run(Step::Vote).unwrap();
            driver.run(Step::Append { count, bytes: 3000 }).unwrap();
            driver.run(Step::Sync).unwrap();
        }
        let paths: Vec<_> = disk.paths().into_iter().filter(|path| path.starts_with(DIRECTORY)).collect();
        for (at, length, byte, kind) in harms {
            let path = &paths[usize::from(at) % paths.len()];
            let Ok(mut bytes) = disk.read_file(path) else { continue };
            let from = usize::from(at).min(bytes.len());
            let until = (from + length).min(bytes.len());
            match kind {
                0 => bytes[from..until].fill(byte),
                1 => bytes.truncate(from),
                2 => bytes.copy_within(from..until, 0),
                _ => bytes[from..until].reverse(),
            }
            disk.write_file(path, &bytes);
        }
        // Whatever it is, it is the log up to some batch or a refusal.
        if let Ok((wal, _)) = open(&disk) {
            let found = Model::of(&wal).unwrap();
            for (index, entry) in found.entries {
                prop_assert_eq!(Some(&entry), driver.model.entries.get(&index));
            }
        }
    }
}

/// The segment of what was dropped is gone, and the next one begins with that.
#[test]
fn a_log_that_was_dropped_written_anew_and_purged_opens() {
    let steps = [
        Step::Append { count: 3, bytes: 9503 },
        Step::Sync,
        Step::Truncate { count: 3 },
        Step::Append { count: 1, bytes: 8161 },
        Step::Append { count: 13, bytes: 2151 },
        Step::Purge { keep: 0 },
        Step::Sync,
        Step::Reclaim,
    ];
    let disk = SimDisk::new(0);
    let mut driver = Driver::new(&disk, &options()).unwrap();
    for &step in &steps {
        driver.run(step).unwrap();
        driver.check();
    }
    for mode in [CrashMode::Lost, CrashMode::All] {
        check_after_crash(&disk.crash(mode), &driver.acknowledged, None);
    }
}
