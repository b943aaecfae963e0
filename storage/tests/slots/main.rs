//! The slots as their callers see them, on the simulated disk.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::panic,
    clippy::unwrap_used,
    reason = "the numbers of a test are small, and a test may fail"
)]

mod compat;
mod crash;
mod faults;
mod hazards;
mod hostile;
mod memory;
mod model;
mod real;
mod script;
