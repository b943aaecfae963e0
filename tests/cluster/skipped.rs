//! Tests that cannot run here say so. `scripts/check` names a file in the environment: what is
//! written to it is counted and shown last, because the words of a test that passes are not shown.

use std::fs::File;
use std::io::Write;

/// The file that `scripts/check` reads at its end.
const SKIPPED: &str = "DISKSTORE_TEST_SKIPPED";

/// Notes that the running test is skipped, in whole or in part.
pub(crate) fn note_skipped(reason: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {reason}\n", thread.name().unwrap_or("a test"));
    eprint!("skipped: {line}");
    if let Some(path) = std::env::var_os(SKIPPED) {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        file.write_all(line.as_bytes()).unwrap(); // at once: others write too
    }
}
