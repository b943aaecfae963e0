//! Keys without a leader: each key is a register at some of the nodes, and any of them takes reads
//! and writes of it. `docs/leaderless.md` has the idea and what is promised.
//!
//! Everything in here is a function, or a machine that is told events and gives back effects: no
//! disk, no socket, no clock and no thread. So a simulation runs whole clusters of it through
//! random schedules, the same for the same seed. `layout` and `file` say which nodes there are,
//! `place` which of them hold a key, `clock` makes versions, `operation` is a coordinator's side of
//! a read or write, and `replica` the other side; `founding` says how a cluster begins, and
//! `repair` finds what two replicas do not share.
//! `rules` names what each promise rests on.

pub mod clock;
pub mod file;
pub mod founding;
pub mod layout;
pub mod message;
pub mod node;
pub mod operation;
pub mod place;
pub mod repair;
pub mod replica;
pub mod rules;

#[cfg(test)]
mod tests;
