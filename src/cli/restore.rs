//! The flags of `restore` as typed.

use std::path::PathBuf;

use clap::Args;

use super::{Form, Number, parse_boolean};

/// A restore; nothing is checked yet.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RestoreFlags {
    /// A full backup, and those that continue it, in their order.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Directory of the new node; new or empty.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Name of the new node.
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,
    /// Log index whose state is wanted [default: the last].
    #[arg(long, value_name = "INDEX")]
    pub to: Option<Number>,
    /// Number of slots, at least as many as the backup has [default: as many].
    #[arg(long, value_name = "N")]
    pub slots: Option<Number>,
    /// The program whose backup it is: diskstore or kvstore.
    #[arg(long, value_name = "NAME", default_value = "diskstore",
          value_parser = ["diskstore", "kvstore"])]
    pub program: String,
    /// Reads and checks the files, and restores nothing.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true",
          hide_default_value = true, value_parser = parse_boolean)]
    pub check: bool,
    /// What is printed.
    #[command(flatten)]
    pub form: Form,
}
