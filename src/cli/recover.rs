//! The flags of `recover` as typed.

use std::path::PathBuf;

use clap::Args;

use super::{Form, parse_boolean};

/// A look at the directory of a member that does not run, or a new cluster made of it; nothing is
/// checked yet.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RecoverFlags {
    /// Directory of a member that does not run. It is left as it is.
    #[arg(long, value_name = "DIR", required = true)]
    pub data: PathBuf,
    /// Makes a new cluster of one of it, in -out: what the others knew and it does not is lost.
    #[arg(long = "unsafe", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true",
          hide_default_value = true, value_parser = parse_boolean)]
    pub is_unsafe: bool,
    /// Directory of the new node; new or empty.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Leaves out the entries at the end of its log of which it does not know that they were committed.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true",
          hide_default_value = true, value_parser = parse_boolean)]
    pub committed: bool,
    /// The program whose directory it is: diskstore or kvstore.
    #[arg(long, value_name = "NAME", default_value = "diskstore",
          value_parser = ["diskstore", "kvstore"])]
    pub program: String,
    /// What is printed.
    #[command(flatten)]
    pub form: Form,
}
