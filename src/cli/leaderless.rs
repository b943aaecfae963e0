//! The flags of `leaderless`, and its sub-commands.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use diskstore_flags::Refusal;
use serde::Deserialize;

use super::{BenchLoad, Form, Number, parse_boolean};

/// What `leaderless` was asked to be.
#[derive(Debug, Parser)]
#[command(
    name = "leaderless",
    version,
    about = "A replicated store of keys without a leader: quorums and logical clocks.\n\
             With files, or flags, it runs a node.",
    after_help = "leaderless NODE.yml CLUSTER.yml         a node, by leaderless-key-value-store's files\n\
                  leaderless STORAGE.yml COORDINATOR.yml  a node of the cluster of a coordinator\n\
                  leaderless COORDINATOR.yml              a coordinator alone, which holds no keys\n\
                  leaderless -id 1 -nodes 1=host1:8001,2=host2:8001,3=host3:8001 -insecure\n\
                  Try it: leaderless demo",
    args_override_self = true,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub struct LeaderlessInvocation {
    /// The node's file and the cluster's; or one of them alone.
    #[arg(value_name = "FILE", num_args = 0..=2)]
    pub files: Vec<PathBuf>,
    /// What a node runs with.
    #[command(flatten)]
    pub settings: RegisterSettings,
    /// Reads flags not given here from FILE (TOML, the same names).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Anything but a node.
    #[command(subcommand)]
    pub task: Option<RegisterTask>,
}

/// The flags of a node as typed, or as written in a configuration file. Nothing is checked yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RegisterSettings {
    /// Which of -nodes, or of the cluster's file, this node is.
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Address for peers and clients; without a host: this machine only [default: that of -nodes].
    #[arg(long, value_name = "ADDRESS")]
    pub port: Option<String>,
    /// Address for /metrics; the port above has them, too.
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<String>,
    /// All nodes: ID=HOST:PORT, with *WEIGHT and @ZONE behind if they have one; with commas.
    #[arg(long, value_name = "LIST")]
    pub nodes: Option<String>,
    /// How many nodes hold each key [default: 3, or all of fewer].
    #[arg(long, value_name = "N")]
    pub replicas: Option<Number>,
    /// What placement begins with [default: 0].
    #[arg(long, value_name = "N")]
    pub seed: Option<Number>,
    /// Directory of this node's files [default: ./leaderless-data/ID].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How many replicas an operation waits for that does not say: one, quorum or all [default: quorum].
    #[arg(long, value_name = "LEVEL")]
    pub level: Option<String>,
    /// Memory for all keys and values, MiB [default: a quarter of the machine].
    #[arg(long, value_name = "N")]
    pub memory_mib: Option<Number>,
    /// Most bytes of a value [default: 16777216].
    #[arg(long, value_name = "BYTES")]
    pub value_max: Option<Number>,
    /// When the log is synced: always; batch:MS, at most so late, and never: a power loss then loses
    /// acknowledged writes [default: always].
    #[arg(long, value_name = "WHEN")]
    pub sync: Option<String>,
    /// Allows addresses beyond this machine although anyone who reaches them may read and write.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = parse_boolean)]
    pub insecure: Option<bool>,
    /// Starts although the directory is empty and other nodes that would have copies are gone: what this
    /// node held alone is lost.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = parse_boolean)]
    pub accept_loss: Option<bool>,
    /// How long deletes are remembered for a node that is away, before it has to copy everything
    /// [default: 72h].
    #[arg(long, value_name = "TIME")]
    pub forget_after: Option<String>,
    /// What is logged on stderr: off, error, warn, info, debug or trace [default: info].
    #[arg(long, value_name = "LEVEL", alias = "log-level")]
    #[serde(alias = "log-level")]
    pub log: Option<String>,
    /// How its lines look: text, or json, one object a line [default: text].
    #[arg(long, value_name = "FORM")]
    pub log_format: Option<String>,
}

impl RegisterSettings {
    /// These, and where there is none, the others.
    #[must_use]
    pub fn or(self, other: RegisterSettings) -> RegisterSettings {
        RegisterSettings {
            id: self.id.or(other.id),
            port: self.port.or(other.port),
            metrics: self.metrics.or(other.metrics),
            nodes: self.nodes.or(other.nodes),
            replicas: self.replicas.or(other.replicas),
            seed: self.seed.or(other.seed),
            dir: self.dir.or(other.dir),
            level: self.level.or(other.level),
            memory_mib: self.memory_mib.or(other.memory_mib),
            value_max: self.value_max.or(other.value_max),
            sync: self.sync.or(other.sync),
            insecure: self.insecure.or(other.insecure),
            accept_loss: self.accept_loss.or(other.accept_loss),
            forget_after: self.forget_after.or(other.forget_after),
            log: self.log.or(other.log),
            log_format: self.log_format.or(other.log_format),
        }
    }
}

/// A sub-command of `leaderless`.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
#[command(args_override_self = true)]
pub enum RegisterTask {
    /// Runs five nodes on this machine until Ctrl-C.
    #[command(args_override_self = true)]
    Demo {
        /// Keeps the data in DIR; otherwise it is temporary and removed at the end.
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
    /// Prints the value of a key.
    #[command(args_override_self = true)]
    Get {
        /// The key.
        key: OsString,
        /// How.
        #[command(flatten)]
        asked: RegisterAsked,
    },
    /// Sets the value of a key.
    #[command(args_override_self = true)]
    Set {
        /// The key.
        key: OsString,
        /// The value.
        value: OsString,
        /// How.
        #[command(flatten)]
        asked: RegisterAsked,
    },
    /// Deletes a key.
    #[command(args_override_self = true)]
    Del {
        /// The key.
        key: OsString,
        /// How.
        #[command(flatten)]
        asked: RegisterAsked,
    },
    /// Prints how a node is, and how it sees the others. Exits with 3 if something is not well.
    #[command(args_override_self = true)]
    Status {
        /// How.
        #[command(flatten)]
        asked: RegisterAsked,
    },
    /// Copies what a running leaderless-key-value-store holds: the newest of each key. Repeated later, it brings back keys that
    /// were deleted here meanwhile: a delete is remembered for a minute or so.
    #[command(args_override_self = true)]
    Import {
        /// Its storage nodes, with commas: the more, the newer is what is found.
        #[arg(long, value_name = "HOST:PORT[,...]")]
        from: String,
        /// Writes over keys that were written here already, too; otherwise they are left alone.
        #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
              default_value = "false", default_missing_value = "true",
              hide_default_value = true, value_parser = parse_boolean)]
        overwrite: bool,
        /// Where to.
        #[command(flatten)]
        asked: RegisterAsked,
    },
    /// Puts load on nodes and prints throughput and latencies, as `diskstore bench` does.
    #[command(args_override_self = true)]
    Bench(Box<RegisterBench>),
}

/// A load on nodes of `leaderless`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RegisterBench {
    /// What is done.
    #[command(flatten)]
    pub load: BenchLoad,
    /// Where connections go, in turn.
    #[arg(long = "addr", value_name = "HOST:PORT[,...]", default_value = "127.0.0.1:8001")]
    pub list: String,
    /// How many replicas to wait for: one, quorum or all [default: as the node is set].
    #[arg(long, value_name = "LEVEL")]
    pub level: Option<String>,
}

/// Where a sub-command asks, and how.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RegisterAsked {
    /// A node; of several with commas the next is tried when one is silent.
    #[arg(long = "addr", value_name = "HOST:PORT[,...]", default_value = "127.0.0.1:8001")]
    pub list: String,
    /// How many replicas to wait for: one, quorum or all [default: as the node is set].
    #[arg(long, value_name = "LEVEL")]
    pub level: Option<String>,
    /// What is printed.
    #[command(flatten)]
    pub form: Form,
}

/// Reads the command line of `leaderless`, as [`super::parse`] does.
///
/// # Errors
/// As [`super::parse`].
pub fn parse_leaderless(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<LeaderlessInvocation, Refusal> {
    diskstore_flags::parse(arguments)
}

/// The time that a flag gives.
///
/// # Errors
/// What to write instead.
pub fn parse_time(text: &str) -> Result<Duration, &'static str> {
    diskstore_flags::parse_duration(text)
}
