//! The machines one by one.

mod operations;
mod replicas;
