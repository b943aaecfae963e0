//! Commands that begin, end and condition transactions. Pure.
//!
//! Their effects on the connection are in `connection/transaction.rs` and `connection/watch.rs`.

use super::super::connection::{Connection, Step};
use super::super::table::{ALL, Spec, TRANSACTION};
use crate::server::complaint::Complaint;
use crate::server::value::Value;

#[rustfmt::skip]
pub(super) const ROWS: &[Spec] = &[
    Spec::at_once("discard", 1, discard, "Gives a transaction up.").of(TRANSACTION),
    Spec::at_once("exec", 1, exec, "Executes a transaction as one log entry.").of(TRANSACTION),
    Spec::at_once("multi", 1, multi, "Begins a transaction.").of(TRANSACTION),
    Spec::other("unwatch", 1, unwatch, "Forgets the watched key.").of(TRANSACTION),
    Spec::at_once("watch", -2, watch, "Makes a transaction depend on its key.").keyed(ALL).of(TRANSACTION).by_stores(),
];

/// `MULTI`
fn multi(connection: &mut Connection, _: &[&[u8]]) -> Result<Step, Complaint> {
    Ok(connection.begin())
}

/// `EXEC`
fn exec(connection: &mut Connection, _: &[&[u8]]) -> Result<Step, Complaint> {
    connection.execute()
}

/// `DISCARD`
fn discard(connection: &mut Connection, _: &[&[u8]]) -> Result<Step, Complaint> {
    connection.discard()
}

/// `WATCH key`
fn watch(connection: &mut Connection, arguments: &[&[u8]]) -> Result<Step, Complaint> {
    connection.watch(arguments)
}

/// `UNWATCH`
fn unwatch(connection: &mut Connection, _: &[&[u8]]) -> Result<Step, Complaint> {
    connection.unwatch();
    Ok(Step::Answer(Value::OK))
}
