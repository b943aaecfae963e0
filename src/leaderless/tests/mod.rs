//! Whole clusters of these machines under random schedules, and the machines one by one.

mod aimed;
mod checker;
mod operations;
mod random;
mod replicas;
mod schedules;
mod world;
