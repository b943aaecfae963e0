//! diskstore: a strongly consistent, replicated store of numbered slots of fixed size.
//!
//! `docs/architecture.md` is the map of the house.

pub mod command;
