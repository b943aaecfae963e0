//! What was typed on the command line, in Go's flag rules. `main.rs` calls it; it calls nothing of
//! this crate. [`crate::config`] turns [`Settings`] into a validated configuration.
//!
//! - I1: One table: the flags are the fields of [`Settings`]; the help, the command line and the
//!   configuration file are all read from it.
//! - I2: `-x v`, `-x=v`, `--x v` and `--x=v` mean the same; a boolean is `-b` or `-b=false`; `--`
//!   ends the flags; of a flag given twice the last counts. In a sub-command flags may also follow
//!   the arguments, and `-5` is an argument, for no flag begins with a digit.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, Parser, Subcommand};
use serde::{Deserialize, Deserializer};

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
    /// Address for nodes that want to join; -raft takes them too.
    #[arg(long, value_name = "ADDRESS")]
    pub hjoin: Option<String>,
    /// Directory of this node's files [default: ./diskstore-data/NAME].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Number of slots, fixed when the cluster is made [default: 1048576].
    #[arg(long, value_name = "N")]
    pub slots: Option<Number>,
    /// Most bytes that a slot holds, fixed when the cluster is made [default: 1024].
    #[arg(long, value_name = "BYTES")]
    pub value_size: Option<Number>,
    /// How fresh a read is: linearizable, lease, local or log [default: linearizable].
    #[arg(long, value_name = "LEVEL")]
    pub read: Option<String>,
    /// When the log is synced: always or never (a power loss then loses writes) [default: always].
    #[arg(long, value_name = "WHEN")]
    pub sync: Option<String>,
    /// Log between two checkpoints, MiB [default: size of the data file, 64 to 1024].
    #[arg(long, value_name = "N")]
    pub checkpoint_mib: Option<Number>,
    /// Log kept behind a checkpoint for members that lag, MiB [default: 64].
    #[arg(long, value_name = "N")]
    pub keep_mib: Option<Number>,
    /// Memory for slots, MiB [default: size of the data file, 256 to a quarter of the machine].
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
    /// Writes a CPU profile (pprof) at a clean stop.
    #[arg(long, value_name = "FILE")]
    pub cpuprofile: Option<PathBuf>,
    /// Writes a heap profile (pprof) at a clean stop.
    #[arg(long, value_name = "FILE")]
    pub memprofile: Option<PathBuf>,
    /// Records every applied command in DIR/log-file-NAME.log, synced.
    #[arg(long, value_name = "DIR")]
    pub logfolder: Option<PathBuf>,
    /// What is logged on stderr: off, error, warn, info, debug or trace [default: info].
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
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
        /// Prints JSON.
        #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
              default_value = "false", default_missing_value = "true",
              hide_default_value = true, value_parser = parse_boolean)]
        json: bool,
        /// Where to ask.
        #[command(flatten)]
        servers: Servers,
    },
    /// Puts load on nodes, or on any Redis, and prints throughput and latencies.
    #[command(args_override_self = true)]
    Bench(Box<BenchFlags>),
    /// Prints a file of a node's directory as text.
    #[command(args_override_self = true)]
    Inspect {
        /// The file: slots, segment, identity or double-write file.
        file: PathBuf,
    },
}

/// A load; nothing is checked yet.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct BenchFlags {
    /// Connections.
    #[arg(long, value_name = "N", default_value = "64")]
    pub clients: Number,
    /// Operations that a connection sends at once; it waits for all of their replies.
    #[arg(long, value_name = "N", default_value = "1")]
    pub pipeline: Number,
    /// Starts N operations a second, whatever the servers do; a latency then counts from when its
    /// operation was to start [default: as fast as replies come].
    #[arg(long, value_name = "N")]
    pub rate: Option<Number>,
    /// Threads of the load [default: one for each four processors].
    #[arg(long, value_name = "N")]
    pub threads: Option<Number>,
    /// Keys are 0 to N - 1.
    #[arg(long, value_name = "N", default_value = "65536")]
    pub keys: Number,
    /// Which keys: uniform, zipfian, latest or sequential.
    #[arg(long, value_name = "NAME", default_value = "uniform")]
    pub distribution: String,
    /// Reads in 100 operations.
    #[arg(long, value_name = "PERCENT", default_value = "50")]
    pub reads: Number,
    /// Length of values, N or MIN-MAX.
    #[arg(long, value_name = "BYTES", default_value = "1024")]
    pub value_bytes: String,
    /// How long is measured: 30s, 1m30s [default: 10s, or until -requests are done].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// How many operations are measured at most.
    #[arg(long, value_name = "N")]
    pub requests: Option<Number>,
    /// What starts so early is not measured.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub warm_up: Duration,
    /// How long a reply may take; then its connection is made anew.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// What keys, lengths and the mix follow from.
    #[arg(long, value_name = "N", default_value = "1")]
    pub seed: Number,
    /// Checks that what is read was written by a load, to this key, as a whole.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true",
          hide_default_value = true, value_parser = parse_boolean)]
    pub verify: bool,
    /// Prints JSON, with a series of seconds.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true",
          hide_default_value = true, value_parser = parse_boolean)]
    pub json: bool,
    /// Writes latencies as HdrHistogram does; with reads and writes FILE-reads and FILE-writes.
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<PathBuf>,
    /// Where connections go, in turn.
    #[command(flatten)]
    pub servers: Servers,
}

/// The nodes that a sub-command talks to.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Servers {
    /// Client address of a node; of several with commas the next is tried when one is silent.
    #[arg(long = "addr", value_name = "HOST:PORT[,...]", default_value = "127.0.0.1:11000")]
    pub list: String,
}

/// Why nothing is to be run: what to print, and what to exit with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Help, version, or what was wrong with usage.
    pub text: String,
    /// 0 for help and version (print on stdout), 2 for wrong usage (print on stderr).
    pub exit_code: u8,
}

/// Reads a command line, the program's own name first.
///
/// # Errors
/// Wrong usage with the nearest match, or help or version that was asked for.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, Refusal> {
    let mut table = Invocation::command();
    table.build();
    let typed: Vec<OsString> = arguments.into_iter().collect();
    let normal = normalise(&table, typed.clone());
    Invocation::try_parse_from(normal).map_err(|error| Refusal {
        text: stray_value(&table, &typed, &error)
            .unwrap_or_else(|| with_single_dashes(&table, &error.render().to_string())),
        exit_code: if error.use_stderr() { 2 } else { 0 },
    })
}

/// What is said of a word that stands where only a joined value of a boolean can.
fn stray_value(table: &clap::Command, typed: &[OsString], error: &clap::Error) -> Option<String> {
    let refused = error.get(ContextKind::InvalidSubcommand);
    let Some(ContextValue::String(word)) = refused.or_else(|| error.get(ContextKind::InvalidArg))
    else {
        return None;
    };
    let before = typed.iter().position(|argument| argument == word.as_str())?.checked_sub(1)?;
    let (name, None) = split_flag(typed.get(before)?)? else { return None };
    let commands: Vec<String> =
        table.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    if nearest(word, &commands).is_some() {
        return None; // misspelt, or a command with flags of a node
    }
    let mut scopes = std::iter::once(table).chain(table.get_subcommands());
    let is_boolean = scopes.any(|scope| {
        let mut flags = scope.get_arguments().filter(|flag| flag.get_long() == Some(name));
        flags.any(clap::Arg::is_require_equals_set)
    });
    is_boolean.then(|| {
        format!(
            "error: `{word}` behind -{name}: that flag stands alone, or takes its value joined, \
             -{name}=true or -{name}=false\n"
        )
    })
}

/// The names of a node's flags, without dashes, in the order of the help.
pub fn setting_names() -> Vec<String> {
    let table = Settings::augment_args(clap::Command::new("settings"));
    table.get_arguments().filter_map(|flag| flag.get_long()).map(str::to_owned).collect()
}

/// The candidate that `word` was most likely meant to be, if any is near.
pub fn nearest<'a>(word: &str, candidates: &'a [String]) -> Option<&'a str> {
    let distance_max = word.chars().count().div_ceil(3);
    candidates
        .iter()
        .map(|candidate| (edit_distance(word, candidate), candidate.as_str()))
        .filter(|(distance, _)| *distance <= distance_max)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements that turn one word into the other.
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    for (row, from_char) in from.chars().enumerate() {
        let mut left = row + 1;
        let mut line = vec![left];
        for (to_char, costs) in to.iter().zip(above.windows(2)) {
            let [diagonal, up] = costs else { unreachable!("windows of two hold two") };
            left = (diagonal + usize::from(from_char != *to_char)).min(up + 1).min(left + 1);
            line.push(left);
        }
        above = line;
    }
    above.last().copied().expect("invariant: a row has a first column")
}

/// Rewrites Go's forms into `--name=value`, arguments of a sub-command behind `--`.
fn normalise(table: &clap::Command, arguments: Vec<OsString>) -> Vec<OsString> {
    let mut rest = arguments.into_iter();
    let mut normal: Vec<OsString> = rest.next().into_iter().collect();
    let mut positional: Vec<OsString> = Vec::new();
    let mut scope = table;
    while let Some(argument) = rest.next() {
        if argument == "--" {
            positional.extend(rest);
            break;
        }
        if let Some((name, value)) = split_flag(&argument) {
            let takes_next = value.is_none() && takes_value(scope, name);
            let value = if takes_next { rest.next() } else { value.map(OsStr::to_owned) };
            normal.push(joined(name, value));
        } else if std::ptr::eq(scope, table) && argument == "help" {
            normal.extend(rest.find(|word| table.find_subcommand(word).is_some()));
            normal.push("--help".into());
            break;
        } else if std::ptr::eq(scope, table) {
            // The first argument that is no flag names the sub-command.
            scope = argument.to_str().and_then(|name| table.find_subcommand(name)).unwrap_or(scope);
            normal.push(argument);
        } else {
            positional.push(argument);
        }
    }
    if !positional.is_empty() {
        normal.push("--".into());
        normal.append(&mut positional);
    }
    normal
}

/// Splits `-name`, `--name`, `-name=value` and `--name=value`. `None`: not a flag.
fn split_flag(argument: &OsStr) -> Option<(&str, Option<&OsStr>)> {
    // Only the name must be UTF-8; a path behind `=` need not be, but then it comes on its own.
    let text = argument.to_str()?;
    let bare = text.strip_prefix('-')?;
    let bare = bare.strip_prefix('-').unwrap_or(bare);
    if bare.is_empty() || bare.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    match bare.split_once('=') {
        Some((name, value)) => Some((name, Some(OsStr::new(value)))),
        None => Some((bare, None)),
    }
}

/// True if the flag's value is the next argument when it is not joined with `=`.
fn takes_value(scope: &clap::Command, name: &str) -> bool {
    scope
        .get_arguments()
        .find(|flag| flag.get_long() == Some(name))
        .is_some_and(|flag| flag.get_action().takes_values() && !flag.is_require_equals_set())
}

/// `--name=value`, or `--name` without one; `h` is Go's other name for help.
fn joined(name: &str, value: Option<OsString>) -> OsString {
    let mut flag = OsString::from(if name == "h" { "--help" } else { "--" });
    if name != "h" {
        flag.push(name);
    }
    if let Some(value) = value {
        flag.push("=");
        flag.push(value);
    }
    flag
}

/// Shows flags as the documentation writes them, with one dash.
fn with_single_dashes(table: &clap::Command, text: &str) -> String {
    let scopes = std::iter::once(table).chain(table.get_subcommands());
    let names = scopes.flat_map(clap::Command::get_arguments).filter_map(|flag| flag.get_long());
    let text = text.replace("-h, --help", "    --help").replace("-V, --version", "    --version");
    names
        .fold(text, |text, name| text.replace(&format!(" --{name}"), &format!(" -{name}")))
        .replace("'--", "'-")
        .replace("[--", "[-")
}

/// A duration as Go writes it, such as `1m30s` or `500ms`; a bare number is seconds.
fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    let refusal = "write a time such as 500ms, 30s or 1m30s";
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let (mut rest, mut sum) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let number_bytes = rest.find(|char: char| char.is_ascii_alphabetic()).ok_or(refusal)?;
        let (number, unit) = rest.split_at(number_bytes);
        let unit_bytes = unit.find(|char: char| !char.is_ascii_alphabetic()).unwrap_or(unit.len());
        let (unit, more) = unit.split_at(unit_bytes);
        let seconds = match unit {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(refusal),
        };
        let number: f64 = number.parse().map_err(|_| refusal)?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| refusal)?;
        (rest, sum) = (more, sum.checked_add(part).ok_or(refusal)?);
    }
    if text.is_empty() { Err(refusal) } else { Ok(sum) }
}

/// The words that Go takes for a boolean.
fn parse_boolean(text: &str) -> Result<bool, &'static str> {
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
        Servers { list: list.to_owned() }
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
    fn durations_are_written_as_in_go() {
        let duration = |text| parse_duration(text).map(|duration| duration.as_micros());
        assert_eq!(duration("1m30s"), Ok(90_000_000));
        assert_eq!(duration("1.5s"), Ok(1_500_000));
        assert_eq!(duration("1h2m3s4ms5us"), Ok(3_723_004_005));
        assert_eq!(duration("7"), Ok(7_000_000));
        for text in ["", "s", "5x", "-1s", "1s5", "1e300h", "nan s", "infs", "1 s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
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
        let expected = Task::Status { json: true, servers: servers("127.0.0.1:11000") };
        assert_eq!(task("status -json"), expected);
    }

    #[test]
    fn arguments_behind_a_double_dash_or_beginning_with_a_digit_are_values() {
        for (line, value) in [("set 4 -5", "-5"), ("set 4 -- -addr", "-addr"), ("set 4 -", "-")] {
            let servers = servers("127.0.0.1:11000");
            let expected = Task::Set { key: "4".to_owned(), value: value.into(), servers };
            assert_eq!(task(line), expected, "{line}");
        }
    }

    #[test]
    fn the_nearest_name_must_be_near() {
        let names = ["port".to_owned(), "raft".to_owned()];
        assert_eq!(nearest("prot", &names), Some("port"));
        assert_eq!(nearest("rafts", &names), Some("raft"));
        assert_eq!(nearest("cluster", &names), None);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "ab"), 2);
    }
}
