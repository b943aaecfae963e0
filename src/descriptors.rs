//! How many files and connections the process may have open.

use std::io;

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit to what the system allows. Thousands of connections are more than a program
/// may open by default, and a node that cannot open its next log segment stops.
///
/// # Errors
/// The system refuses.
pub fn raise_limit() -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}
