//! Programs of others that tests want: where one is not installed its tests say so and pass, unless
//! `DISKSTORE_TEST_CLIENTS=required`, which `.ci/run` sets.

use std::env::{VarError, var};
use std::process::{Command, Stdio};

use crate::skipped::note_skipped;

const REQUIRED: &str = "DISKSTORE_TEST_CLIENTS";
const PYTHON: &str = "DISKSTORE_TEST_PYTHON";

/// Whether `command` can be run here.
pub(crate) fn is_installed(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
}

/// True if the test can go on; a client that must be there and is not fails it.
#[track_caller]
pub(crate) fn has(what: &str, command: &mut Command) -> bool {
    let is_there = is_installed(command);
    let is_required = var(REQUIRED).as_deref() == Ok("required");
    assert!(is_there || !is_required, "{what} is not installed, and {REQUIRED}=required");
    if !is_there {
        note_skipped(&format!("{what} is not installed"));
    }
    is_there
}

pub(crate) fn has_tool(name: &str) -> bool {
    has(name, Command::new(name).arg("--version"))
}

pub(crate) fn python() -> Command {
    match var(PYTHON) {
        Ok(path) => Command::new(path),
        Err(VarError::NotPresent) => Command::new("python3"),
        Err(error) => panic!("{PYTHON}: {error}"),
    }
}
