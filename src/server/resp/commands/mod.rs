//! The commands: each as a row of the table, beside the function that carries it out.
//!
//! To add a command that only reads keys, write a row and a function in `read`, and nothing
//! elsewhere. A command that changes keys by an existing operation of the log goes to `write` in
//! the same way.

#![expect(clippy::unnecessary_wraps, reason = "the functions of all rows have one type")]

mod connection;
mod describe;
mod messages;
mod node;
mod read;
mod transaction;
mod write;

use super::decode::parse_integer;
use super::table::Spec;
use crate::server::complaint::Complaint;

/// All rows, in no order.
pub(super) const GROUPS: [&[Spec]; 7] = [
    read::ROWS,
    write::ROWS,
    messages::ROWS,
    connection::ROWS,
    transaction::ROWS,
    node::ROWS,
    describe::ROWS,
];

/// As many arguments as are expected.
fn exactly<'a, const COUNT: usize>(arguments: &[&'a [u8]]) -> Result<[&'a [u8]; COUNT], Complaint> {
    arguments.try_into().map_err(|_| Complaint::SYNTAX)
}

fn integer(text: &[u8]) -> Result<i64, Complaint> {
    parse_integer(text).ok_or(Complaint::INTEGER)
}

/// What is wrong with options that begin with a time to live.
fn expiry_complaint(options: &[&[u8]]) -> Complaint {
    match options {
        [option, _, ..] if is_expiry(option) => {
            let option = String::from_utf8_lossy(option).to_ascii_uppercase();
            Complaint::refused(&option, "values do not expire")
        }
        _ => Complaint::SYNTAX,
    }
}

fn is_expiry(option: &[u8]) -> bool {
    let names: [&[u8]; 4] = [b"EX", b"PX", b"EXAT", b"PXAT"];
    names.iter().any(|name| option.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests;
