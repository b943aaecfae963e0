//! diskstore: a strongly consistent, replicated store of numbered slots of fixed size.
//!
//! `docs/architecture.md` is the map of the house.

pub mod cli;
pub mod command;
pub mod config;
pub mod status;
