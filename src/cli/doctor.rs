//! The flags of `doctor` as typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Form, Servers};

/// What is looked at; nothing is checked yet.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct DoctorFlags {
    /// Tries the disk below DIR on this machine, too: its file system, room, and how long syncs take.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Time between two looks at the nodes, for what happens now is compared with what is usual; 0s for one look.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = diskstore_flags::parse_duration)]
    pub duration: Duration,
    /// What is printed.
    #[command(flatten)]
    pub form: Form,
    /// Where to ask; all members are asked then.
    #[command(flatten)]
    pub servers: Servers,
}
