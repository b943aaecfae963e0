//! The flags of `bundle` as typed.

use std::path::PathBuf;

use clap::Args;

use super::Form;

/// The folders of a cluster's nodes.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct BundleFlags {
    /// Lists the members, as for -cluster of a node: cluster.yml, config.json or cluster.toml.
    pub file: PathBuf,
    /// Where the folders are made, each with its member's name.
    #[arg(long = "o", value_name = "DIR")]
    pub output: PathBuf,
    /// Flags that all nodes get, as in -config of a node.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The program that they run, diskstore or kvstore [default: this one].
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// Where the folders will be on their machines, for systemd.
    #[arg(long, value_name = "DIR", default_value = "/opt/diskstore")]
    pub at: PathBuf,
    /// What is printed.
    #[command(flatten)]
    pub form: Form,
}
