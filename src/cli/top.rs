//! The flags of `top` as typed.

use std::time::Duration;

use clap::Args;

use super::Servers;

/// What is looked at; nothing is checked yet.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct TopFlags {
    /// Time between two looks at the nodes.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = diskstore_flags::parse_duration)]
    pub every: Duration,
    /// Where to ask; all members are asked then.
    #[command(flatten)]
    pub servers: Servers,
}
