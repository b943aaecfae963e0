//! The flags as typed on the command line, by the rules of Go's flags. `main.rs` calls it; it calls
//! crate `diskstore_flags`, which has the rules, and nothing of this crate. [`crate::config`] turns
//! [`Settings`] into a validated configuration.
//!
//! - I1: One table: the flags are the fields of [`Settings`]; the help, the command line and the
//!   configuration file are all read from it.
//! - I2: `-x v`, `-x=v`, `--x v` and `--x=v` mean the same; a boolean is `-b` or `-b=false`; `--`
//!   ends the flags; of a flag given twice the last counts. In a sub-command flags may also follow
//!   the arguments, and `-5` is an argument, for no flag begins with a digit.

mod bench;
mod bundle;
mod certs;
mod doctor;
mod leaderless;
mod recover;
mod restore;
mod top;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use diskstore_flags::Refusal;
use serde::{Deserialize, Deserializer};

pub use bench::{BenchFlags, BenchLoad};
pub use bundle::BundleFlags;
pub use certs::CertsFlags;
pub use diskstore_flags::Shell;
pub use doctor::DoctorFlags;
pub use leaderless::{
    LeaderlessInvocation, RegisterAsked, RegisterBench, RegisterSettings, RegisterTask,
    parse_leaderless, parse_time,
};
pub use recover::RecoverFlags;
pub use restore::RestoreFlags;
pub use top::TopFlags;

/// The programs that run nodes, whose flags are all here.
pub const PROGRAMS: [&str; 3] = ["diskstore", "kvstore", "leaderless"];

/// What the program was asked to be.
#[derive(Debug, Parser)]
#[command(
    name = "diskstore",
    version,
    about = "A strongly consistent, replicated store of numbered slots of fixed size.\n\
             Without a command it runs a node.",
    after_help = "Flags may be written -x v, -x=v, --x v or --x=v. Try it: diskstore demo",
    args_override_self = true,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub struct Invocation {
    /// What a node runs with.
    #[command(flatten)]
    pub settings: Settings,
    /// Reads flags not given here from FILE (TOML, the same names).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Anything but a node.
    #[command(subcommand)]
    pub task: Option<Task>,
}

/// What `kvstore` was asked to be: a node.
#[derive(Debug, Parser)]
#[command(
    name = "kvstore",
    version,
    about = "A strongly consistent, replicated store of keys and values in memory, its log on disk.",
    after_help = "Flags may be written -x v, -x=v, --x v or --x=v. Ask a running node with: \
                  diskstore status, get, set, delete\n\
                  kvstore 1 config.json LOGDIR DATADIR is -id 1 -cluster config.json -logfolder \
                  LOGDIR -data DATADIR",
    args_override_self = true
)]
pub struct KvInvocation {
    /// The line of KVStore.
    #[command(flatten)]
    pub line: KvLine,
    /// What a node runs with.
    #[command(flatten)]
    pub settings: Settings,
    /// Reads flags not given here from FILE (TOML, the same names).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// A node as KVStore's line names it: all four, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct KvLine {
    /// Its mypid in CONFIG: -id.
    #[arg(value_name = "PID", requires = "data_directory", conflicts_with = "id")]
    pub pid: Option<String>,
    /// The file that lists the members: -cluster.
    #[arg(value_name = "CONFIG", conflicts_with = "cluster")]
    pub file: Option<PathBuf>,
    /// Where it records what it applies: -logfolder.
    #[arg(value_name = "LOGDIR", conflicts_with = "logfolder")]
    pub log_directory: Option<PathBuf>,
    /// Where its files are: -data.
    #[arg(value_name = "DATADIR", conflicts_with = "data")]
    pub data_directory: Option<PathBuf>,
}

impl KvInvocation {
    /// The settings, those that the line of KVStore gives among them.
    pub fn all_settings(self) -> Settings {
        let KvLine { pid, file, log_directory, data_directory } = self.line;
        Settings {
            id: pid.or(self.settings.id),
            cluster: file.or(self.settings.cluster),
            logfolder: log_directory.or(self.settings.logfolder),
            data: data_directory.or(self.settings.data),
            ..self.settings
        }
    }
}

/// The flags of a node as typed, or as written in a configuration file. Nothing is checked yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Name of this node [default: node0].
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,
    /// Address for clients; without a host: this machine only [default: :11000].
    #[arg(long, value_name = "ADDRESS")]
    pub port: Option<String>,
    /// Address for the other members [default: :12000].
    #[arg(long, value_name = "ADDRESS")]
    pub raft: Option<String>,
    /// Joins the cluster of the member at ADDRESS (its -hjoin or -raft); several with commas.
    #[arg(long, value_name = "ADDRESS")]
    pub join: Option<String>,
    /// Lists all members of the cluster, instead of -join (YAML as konsen's, JSON as KVStore's, TOML):
    /// once a majority of them runs, they found it.
    #[arg(long, value_name = "FILE", alias = "cluster_config_path")]
    pub cluster: Option<PathBuf>,
    /// Address for nodes that want to join; -raft takes them too.
    #[arg(long, value_name = "ADDRESS")]
    pub hjoin: Option<String>,
    /// Directory of this node's files [default: ./diskstore-data/NAME].
    #[arg(long, value_name = "DIR", alias = "db_dir")]
    pub data: Option<PathBuf>,
    /// Slots of a new cluster [default: 1048576], later room for as many (resize); diskstore only.
    #[arg(long, value_name = "N")]
    pub slots: Option<Number>,
    /// Most bytes that a slot holds, fixed when the cluster is made [default: 1024]; diskstore only.
    #[arg(long, value_name = "BYTES")]
    pub value_size: Option<Number>,
    /// Most bytes of a value, fixed when the cluster is made [default: 1048576]; kvstore only.
    #[arg(long, value_name = "BYTES")]
    pub value_max: Option<Number>,
    /// How fresh a read is: linearizable, lease, local or log [default: linearizable].
    #[arg(long, value_name = "LEVEL")]
    pub read: Option<String>,
    /// When the log is synced: always; batch:MS, at most so late, and never: a power loss then loses
    /// acknowledged writes [default: always].
    #[arg(long, value_name = "WHEN")]
    pub sync: Option<String>,
    /// Time between two heartbeats of a leader, ms [default: 200].
    #[arg(long, value_name = "MS")]
    pub heartbeat_ms: Option<Number>,
    /// How long a leader may be silent before another is elected, ms; five heartbeats at least, and the
    /// same on all members [default: 1500].
    #[arg(long, value_name = "MS")]
    pub election_ms: Option<Number>,
    /// Log between two checkpoints, MiB [default: size of the data, 256 to 1024].
    #[arg(long, value_name = "N")]
    pub checkpoint_mib: Option<Number>,
    /// Log kept behind a checkpoint for members that lag, MiB [default: 64].
    #[arg(long, value_name = "N")]
    pub keep_mib: Option<Number>,
    /// Memory for slots, MiB [default: size of the data file, 256 to a quarter of the machine]; for
    /// all keys and values of kvstore [default: a quarter of the machine].
    #[arg(long, value_name = "N")]
    pub memory_mib: Option<Number>,
    /// Prefixes that are cut off keys, such as key:,user (for benchmark programs).
    #[arg(long, value_name = "LIST")]
    pub key_prefixes: Option<String>,
    /// Host under which others reach this node [default: the host it listens on].
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,
    /// Allows addresses beyond this machine although anyone who reaches them may read and write.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = parse_boolean)]
    pub insecure: Option<bool>,
    /// Speaks TLS with the certificates in DIR: ca.crt, tls.crt and tls.key, as `diskstore certs` makes
    /// them; members show theirs to each other.
    #[arg(long, value_name = "DIR")]
    pub tls: Option<PathBuf>,
    /// Who is taken with -tls: require, TLS alone; mutual, clients show certificates too; prefer, plain
    /// connections too, while a cluster moves to TLS [default: require].
    #[arg(long, value_name = "MODE")]
    pub tls_mode: Option<String>,
    /// Takes no client without a token of FILE, which `diskstore token` writes; read anew at SIGHUP.
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// Takes no new member without a join token (`diskstore token join`); give it to every member.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = parse_boolean)]
    pub join_tokens: Option<bool>,
    /// Joins with the join token in FILE [default: that of DISKSTORE_JOIN_TOKEN, if it is set].
    #[arg(long, value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,
    /// Writes a CPU profile (pprof) at a clean stop; SIGUSR1 ends and begins profiles too.
    #[arg(long, value_name = "FILE")]
    pub cpuprofile: Option<PathBuf>,
    /// Writes a heap profile (pprof) at a clean stop.
    #[arg(long, value_name = "FILE")]
    pub memprofile: Option<PathBuf>,
    /// Records every applied command in DIR/log-file-NAME.log, synced.
    #[arg(long, value_name = "DIR")]
    pub logfolder: Option<PathBuf>,
    /// Size at which the file of -logfolder goes on in a next one, MiB [default: 256].
    #[arg(long, value_name = "N")]
    pub roll_mib: Option<Number>,
    /// Address at which what -logfolder holds is handed out to `recovery`.
    #[arg(long, value_name = "ADDRESS")]
    pub hrecov: Option<String>,
    /// Writes how many commands succeed each second to DIR/NAME-throughput.out.
    #[arg(long, value_name = "DIR")]
    pub throughput_folder: Option<PathBuf>,
    /// What is logged on stderr: off, error, warn, info, debug or trace [default: info].
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
    /// How its lines look: text, or json, one object a line [default: text].
    #[arg(long, value_name = "FORM")]
    pub log_format: Option<String>,
}

/// A number as typed; [`crate::config`] reads it, so that one message names flag, value and bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Number(pub String);

impl From<String> for Number {
    fn from(text: String) -> Number {
        Number(text)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Number, D::Error> {
        u64::deserialize(from).map(|number| Number(number.to_string()))
    }
}

/// A sub-command.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
#[command(args_override_self = true)]
pub enum Task {
    /// Runs three nodes on this machine until Ctrl-C.
    #[command(args_override_self = true)]
    Demo {
        /// Number of slots [default: 65536, or what DIR holds].
        #[arg(long, value_name = "N")]
        slots: Option<Number>,
        /// Most bytes that a slot holds [default: 1024, or what DIR holds].
        #[arg(long, value_name = "BYTES")]
        value_size: Option<Number>,
        /// Keeps the data in DIR; otherwise it is temporary and removed at the end.
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// Speaks TLS, with certificates that it makes beside the data.
        #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
              default_value = "false", default_missing_value = "true",
              hide_default_value = true, value_parser = parse_boolean)]
        tls: bool,
    },
    /// Prints the value of a slot.
    #[command(args_override_self = true)]
    Get {
        /// Slot number.
        key: String,
        /// Where to ask.
        #[command(flatten)]
        servers: Servers,
    },
    /// Sets the value of a slot.
    #[command(args_override_self = true)]
    Set {
        /// Slot number.
        key: String,
        /// The value.
        value: OsString,
        /// Prints the receipt too: log index, term, who holds it durably, time of each stage.
        #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
              default_value = "false", default_missing_value = "true",
              hide_default_value = true, value_parser = parse_boolean)]
        receipt: bool,
        /// How to print the receipt.
        #[command(flatten)]
        form: Form,
        /// Where to ask.
        #[command(flatten)]
        servers: Servers,
    },
    /// Deletes the value of a slot.
    #[command(args_override_self = true)]
    Delete {
        /// Slot number.
        key: String,
        /// Where to ask.
        #[command(flatten)]
        servers: Servers,
    },
    /// Prints members, roles, positions and sync times.
    #[command(args_override_self = true)]
    Status {
        /// What is printed.
        #[command(flatten)]
        form: Form,
        /// Where to ask.
        #[command(flatten)]
        servers: Servers,
    },
    /// Asks every node, and says in words why it is slow or not healthy, and what to do. Exits with 1 if it
    /// finds an error or a warning.
    #[command(args_override_self = true)]
    Doctor(Box<DoctorFlags>),
    /// Shows the members on one screen, anew each second: keys q (quit), s (sort), p (pause).
    #[command(args_override_self = true)]
    Top(TopFlags),
    /// Takes a member out of the cluster for good; if it runs, it stops.
    #[command(args_override_self = true)]
    Remove {
        /// Its name, or its id as `status -json` has it.
        member: String,
        /// Where to ask.
        #[command(flatten)]
        servers: Servers,
    },
    /// Lists the members, or changes them: list, add NAME, remove NAME, promote NAME, demote NAME,
    /// replace OLD NEW.
    #[command(args_override_self = true)]
    Members {
        /// What is to be done.
        #[arg(value_name = "ACTION", default_value = "list", hide_default_value = true)]
        action: MembersAction,
        /// Of which members: their names, or ids as `status -json` has them.
        #[arg(value_name = "NAME", num_args = 0..=2)]
        names: Vec<String>,
        /// How long to wait until a member that was promoted or demoted votes, or does not.
        #[arg(long, value_name = "TIME", default_value = "1m", value_parser = diskstore_flags::parse_duration)]
        wait: Duration,
        /// What is printed.
        #[command(flatten)]
        form: Form,
        /// Where to ask.
        #[command(flatten)]
        servers: Servers,
    },
    /// Has a member lead: the one that is named, or any other than the one that leads.
    #[command(args_override_self = true)]
    TransferLeader {
        /// Its name or id.
        member: Option<String>,
        /// What is printed.
        #[command(flatten)]
        form: Form,
        /// Where to ask.
        #[command(flatten)]
        servers: Servers,
    },
    /// Has the node that is asked write a checkpoint now, so that its next start replays little.
    #[command(args_override_self = true)]
    Checkpoint {
        /// What is printed.
        #[command(flatten)]
        form: Form,
        /// Where to ask.
        #[command(flatten)]
        servers: Servers,
    },
    /// Has the cluster use more slots, once every member was started with room for them (-slots).
    #[command(args_override_self = true)]
    Resize {
        /// How many there are to be.
        #[arg(long, value_name = "N")]
        slots: Number,
        /// What is printed.
        #[command(flatten)]
        form: Form,
        /// Where to ask.
        #[command(flatten)]
        servers: Servers,
    },
    /// Prints the flags that a running node has, as they could stand in its -config file.
    #[command(args_override_self = true)]
    Config {
        /// What is printed.
        #[command(flatten)]
        form: Form,
        /// Where to ask.
        #[command(flatten)]
        servers: Servers,
    },
    /// Makes a token for a client and adds its hash to a file of -tokens; token join: for a new member;
    /// token revoke-join: no token for a new member counts any more.
    #[command(args_override_self = true)]
    Token {
        /// Whose token it is: letters, digits, `-`, `_` and `.`; or join, or revoke-join.
        name: String,
        /// What it allows: read; write, which reads too; or admin, everything.
        #[arg(long, value_name = "ROLE")]
        role: Option<String>,
        /// The file, made if it is not there; its owner's alone.
        #[arg(long, value_name = "FILE")]
        tokens: Option<PathBuf>,
        /// How long it counts: 720h, 15m [default: until it is taken out of the file; 1h to join].
        #[arg(long, value_name = "TIME", value_parser = diskstore_flags::parse_duration)]
        expires: Option<Duration>,
        /// Where a join token is asked for, or all of them are revoked.
        #[command(flatten)]
        servers: Servers,
    },
    /// Puts load on nodes, or on any Redis, and prints throughput and latencies.
    #[command(args_override_self = true)]
    Bench(Box<BenchFlags>),
    /// Writes a folder for each member of a cluster, with its program, settings, start script and unit.
    #[command(args_override_self = true)]
    Bundle(Box<BundleFlags>),
    /// Writes what a running cluster holds to a file, of one exact index; verify FILE... checks such
    /// files instead.
    #[command(args_override_self = true)]
    Backup(Box<BackupFlags>),
    /// Makes the directory of a new node, a cluster of its own, of a backup.
    #[command(args_override_self = true)]
    Restore(Box<RestoreFlags>),
    /// For a lost majority: says what a survivor's directory holds; -unsafe makes a new cluster of it.
    #[command(args_override_self = true)]
    Recover(Box<RecoverFlags>),
    /// Makes certificates for -tls: an authority (CA) of the cluster's own, and what that signs for
    /// members and clients. Nothing that is there is replaced without -renew.
    #[command(
        args_override_self = true,
        after_help = "diskstore certs node0=10.0.0.1 node1=10.0.0.2 node2=10.0.0.3 -client alice\n\
                      writes ./certs/ca.crt and ca.key, and a folder for each of them, which is what -tls\n\
                      takes. Keep ca.key where no node is: whoever has it can make members. docs/operations.md\n\
                      has the steps by which certificates and authorities are replaced while nodes run."
    )]
    Certs(Box<CertsFlags>),
    /// Prints completions for a shell: eval "$(diskstore completions bash)"
    #[command(args_override_self = true)]
    Completions {
        /// The shell.
        shell: Shell,
        /// The program whose flags are completed.
        #[arg(long, value_name = "NAME", default_value = PROGRAMS[0], value_parser = PROGRAMS)]
        program: String,
    },
    /// Writes pages for man, one for each program and sub-command.
    #[command(args_override_self = true)]
    Man {
        /// The folder, made if it is not there.
        #[arg(long = "o", value_name = "DIR")]
        output: PathBuf,
    },
    /// Prints a file of a node's directory as text.
    #[command(args_override_self = true)]
    Inspect {
        /// The file: slots, segment, identity, promises of a founding, double-write file or backup.
        file: PathBuf,
    },
}

/// What `members` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MembersAction {
    /// Shows them.
    List,
    /// Says how a new one is started.
    Add,
    /// Takes one out for good.
    Remove,
    /// Gives one its vote back.
    Promote,
    /// Takes the vote of one, which follows on.
    Demote,
    /// Takes one out and gives its vote to another, in one change.
    Replace,
}

/// A backup; nothing is checked yet.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct BackupFlags {
    /// verify FILE...: reads these files and says what is in them.
    #[arg(value_name = "verify FILE")]
    pub words: Vec<OsString>,
    /// The file to write, which is not there yet; - for the standard output.
    #[arg(long = "o", value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Only what changed after the backup in FILE, or after a log index.
    #[arg(long, value_name = "FILE|INDEX")]
    pub since: Option<OsString>,
    /// What is printed.
    #[command(flatten)]
    pub form: Form,
    /// Where to ask; a follower serves as well.
    #[command(flatten)]
    pub servers: Servers,
}

/// What a sub-command prints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Args)]
pub struct Form {
    /// Prints JSON.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true",
          hide_default_value = true, value_parser = parse_boolean)]
    pub json: bool,
}

/// The nodes that a sub-command talks to.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Servers {
    /// Client address of a node; of several with commas the next is tried when one is silent.
    #[arg(long = "addr", value_name = "HOST:PORT[,...]", default_value = "127.0.0.1:11000")]
    pub list: String,
    /// Presents the token in FILE to nodes with -tokens [default: that of DISKSTORE_TOKEN, if it is set].
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Speaks TLS: DIR has ca.crt, and tls.crt with tls.key where nodes ask for a client's certificate.
    #[arg(long, value_name = "DIR")]
    pub tls: Option<PathBuf>,
}

/// Reads a command line, the program's own name first.
///
/// # Errors
/// Wrong usage with the nearest match, or help or version that was asked for.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, Refusal> {
    diskstore_flags::parse(arguments)
}

/// Reads the command line of `kvstore`, as [`parse`] does.
///
/// # Errors
/// As [`parse`].
pub fn parse_kvstore(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<KvInvocation, Refusal> {
    diskstore_flags::parse(arguments)
}

/// The table of one of [`PROGRAMS`].
pub fn table_of(program: &str) -> clap::Command {
    let [_, kvstore, leaderless] = PROGRAMS;
    match program {
        name if name == kvstore => KvInvocation::command(),
        name if name == leaderless => LeaderlessInvocation::command(),
        _ => Invocation::command(),
    }
}

/// The names of a node's flags, without dashes, in the order of the help.
pub fn setting_names() -> Vec<String> {
    let table = Settings::augment_args(clap::Command::new("settings"));
    table.get_arguments().filter_map(|flag| flag.get_long()).map(str::to_owned).collect()
}

/// The words that Go takes for a boolean.
pub(crate) fn parse_boolean(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("write true or false"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str) -> Result<Invocation, Refusal> {
        parse(line.split(' ').map(OsString::from))
    }

    fn settings(line: &str) -> Settings {
        typed(&format!("diskstore {line}")).expect("usage is right").settings
    }

    fn task(line: &str) -> Task {
        typed(&format!("diskstore {line}")).expect("usage is right").task.expect("a task")
    }

    fn refused(line: &str) -> Refusal {
        typed(&format!("diskstore {line}")).expect_err("is to be refused")
    }

    fn servers(list: &str) -> Servers {
        Servers { list: list.to_owned(), token_file: None, tls: None }
    }

    #[test]
    fn one_dash_or_two_joined_or_apart_mean_the_same() {
        for line in ["-id a", "-id=a", "--id a", "--id=a"] {
            assert_eq!(settings(line).id.as_deref(), Some("a"), "{line}");
        }
    }

    #[test]
    fn a_value_may_begin_with_a_dash_or_hold_an_equals_sign() {
        assert_eq!(settings("-id -port").id.as_deref(), Some("-port"));
        assert_eq!(settings("-id -- -port 5").id.as_deref(), Some("--"));
        assert_eq!(settings("-key-prefixes=a=b").key_prefixes.as_deref(), Some("a=b"));
        assert_eq!(settings("-id=").id.as_deref(), Some(""));
    }

    #[test]
    fn a_boolean_stands_alone_or_takes_a_joined_value() {
        assert_eq!(settings("-insecure -id a").insecure, Some(true));
        for word in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(settings(&format!("-insecure={word}")).insecure, Some(true));
        }
        for word in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(settings(&format!("--insecure={word}")).insecure, Some(false));
        }
        assert_eq!(refused("-insecure=yes").exit_code, 2);
        // Apart it is an argument, as in Go.
        for (line, words) in [
            ("-insecure yes", "`yes` behind -insecure: that flag stands alone"),
            ("-id a --insecure false", "-insecure=true or -insecure=false"),
            ("status -json yes", "`yes` behind -json: that flag stands alone"),
        ] {
            let refusal = refused(line);
            assert_eq!(refusal.exit_code, 2);
            assert!(refusal.text.contains(words), "{line}: {}", refusal.text);
        }
        for line in ["-insecure statsu", "-id a yes", "yes -insecure"] {
            assert!(!refused(line).text.contains("behind"), "{line}: {}", refused(line).text);
        }
    }

    #[test]
    fn the_last_of_a_repeated_flag_counts() {
        assert_eq!(settings("-id a -id=b --id c").id.as_deref(), Some("c"));
        assert_eq!(settings("-insecure -insecure=false").insecure, Some(false));
    }

    #[test]
    fn an_unknown_flag_is_refused_with_usage_and_the_nearest() {
        for line in ["-prot :5", "-prot=:5", "--prot=:5"] {
            let refusal = refused(line);
            assert_eq!(refusal.exit_code, 2);
            assert!(refusal.text.contains("'-prot'"), "{}", refusal.text);
            assert!(refusal.text.contains("'-port'"), "{}", refusal.text);
            assert!(refusal.text.contains("Usage: diskstore"), "{}", refusal.text);
        }
        assert!(refused("status -jsn").text.contains("'-json'"));
    }

    #[test]
    fn malformed_flags_and_missing_values_are_usage_errors() {
        for line in ["---id a", "-=a", "-id", "-slots", "stray", "-"] {
            assert_eq!(refused(line).exit_code, 2, "{line}");
        }
    }

    #[test]
    fn a_duration_that_go_would_not_read_is_refused() {
        assert_eq!(refused("bench -duration 5x").exit_code, 2);
    }

    #[test]
    fn a_misspelt_command_is_answered_with_the_nearest() {
        let refusal = refused("statsu");
        assert_eq!(refusal.exit_code, 2);
        assert!(refusal.text.contains("'status'"), "{}", refusal.text);
    }

    #[test]
    fn help_and_version_are_printed_with_code_0_and_single_dashes() {
        for line in ["-h", "-help", "--help"] {
            let refusal = refused(line);
            assert_eq!(refusal.exit_code, 0);
            assert!(refusal.text.contains(" -port <ADDRESS>"), "{}", refusal.text);
            assert!(!refusal.text.contains(" --p"), "{}", refusal.text);
        }
        assert_eq!(refused("get -help").exit_code, 0);
        assert_eq!(refused("help"), refused("-help"));
        assert_eq!(refused("help get"), refused("get -help"));
        assert_eq!(settings("-id help").id.as_deref(), Some("help"));
        let refusal = refused("-version");
        assert_eq!(refusal.exit_code, 0);
        assert_eq!(refusal.text.trim(), concat!("diskstore ", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn flags_of_a_command_stand_before_or_after_its_arguments() {
        for line in ["get -addr h:1 42", "get 42 -addr h:1", "get 42 --addr=h:1"] {
            let expected = Task::Get { key: "42".to_owned(), servers: servers("h:1") };
            assert_eq!(task(line), expected, "{line}");
        }
        let expected =
            Task::Status { form: Form { json: true }, servers: servers("127.0.0.1:11000") };
        assert_eq!(task("status -json"), expected);
    }

    #[test]
    fn arguments_behind_a_double_dash_or_beginning_with_a_digit_are_values() {
        for (line, value) in [("set 4 -5", "-5"), ("set 4 -- -addr", "-addr"), ("set 4 -", "-")] {
            let servers = servers("127.0.0.1:11000");
            let (key, receipt, form) = ("4".to_owned(), false, Form::default());
            let expected = Task::Set { key, value: value.into(), receipt, form, servers };
            assert_eq!(task(line), expected, "{line}");
        }
        let Task::Set { receipt: true, form: Form { json: true }, .. } =
            task("set 4 x -receipt -json")
        else {
            panic!("the receipt is wanted");
        };
    }
}
