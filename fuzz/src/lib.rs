//! The body that all fuzz targets share: each is a function of `diskstore::fuzzing`.
#![cfg(fuzzing)]

use std::fs;
use std::path::Path;

pub use libfuzzer_sys;

/// The directory that gets a target's seeds before it runs.
const SEEDS: &str = "FUZZ_SEEDS";

/// Writes the seeds of a target where the environment says.
///
/// # Panics
/// If a file cannot be written.
pub fn write_seeds(name: &str) {
    let Some(directory) = std::env::var_os(SEEDS) else { return };
    fs::create_dir_all(&directory).expect("the directory of the seeds");
    for (nth, seed) in (diskstore::fuzzing::target(name).seeds)().iter().enumerate() {
        fs::write(Path::new(&directory).join(format!("seed-{nth}")), seed).expect("a seed");
    }
}

/// The target of this name.
#[macro_export]
macro_rules! fuzz {
    ($name:literal) => {
        $crate::libfuzzer_sys::fuzz_target!(
            init: $crate::write_seeds($name),
            |data: &[u8]| (diskstore::fuzzing::target($name).run)(data)
        );
    };
}
