//! The one validated configuration of a node. The programs build it from what was typed
//! ([`Settings`]) and from a configuration file; the node reads it and nothing else.
//!
//! - I1: A [`Config`] that exists is valid: every bound, address and name was checked here.
//! - I2: A flag on the command line wins over the same name in the file.
//! - I3: Closed by default: an address beyond this machine needs certificates of those that connect, or
//!   `-insecure`.
//! - I4: What a joining node must adopt from its cluster is `None` unless it was asked for.

mod address;
mod cluster;
mod error;
mod file;
mod kind;
mod log_format;
mod shown;
mod tokens;
mod words;

use std::path::{Path, PathBuf};
use std::time::Duration;

use diskstore_storage::slots::Geometry;

use crate::cli::{Number, Settings};
use crate::command::ReadLevel;
use crate::tls::Mode;

pub use address::Address;
use cluster::Found;
pub use cluster::{ClusterFile, ClusterFileError, Listed, parse as parse_cluster};
pub use diskstore_storage::identity::MachineKind;
pub use error::ConfigError;
#[cfg(any(test, fuzzing))]
pub(crate) use file::parse as parse_settings;
use kind::ForeignFlag;
pub use kind::{KindRow, kind_of, row};
pub use log_format::LogFormat;
pub use tokens::{
    ClientRole, SECRET_BYTES_MAX, TOKEN_RANDOM_BYTES, Token, TokenFileError, TokenHash, Tokens,
    add_token, join_token, read_join_token,
};
pub(crate) use words::{log_level, sync_policy};
use words::{read_level, word};

/// One mebibyte.
const MIB: u64 = 1 << 20;
/// Slots of a new cluster unless told otherwise.
pub const SLOT_COUNT_DEFAULT: u64 = 1 << 20;
/// Most slots that a cluster may have.
pub const SLOT_COUNT_MAX: u64 = 1 << 40;
/// Bytes of a value in a new cluster unless told otherwise.
pub const VALUE_BYTES_DEFAULT: u32 = 1024;
/// Most bytes that a slot may hold.
pub const VALUE_BYTES_MAX: u32 = 1 << 20;
/// Most bytes of a value of `kvstore`, unless told otherwise.
pub const KEY_VALUE_BYTES_DEFAULT: u32 = VALUE_BYTES_MAX;
/// Log kept behind a checkpoint unless told otherwise.
const KEEP_MIB_DEFAULT: u64 = 64;
const HEARTBEAT_MS_DEFAULT: u64 = 200;
const ELECTION_MS_DEFAULT: u64 = 1500;
/// Leases rest on it; `node` compares it with the least that `raft` allows.
pub const ELECTION_MS_MIN: u64 = 1200;
const ELECTION_MS_MAX: u64 = 120_000;
/// So many heartbeats at least have to be missed before a leader is given up.
const HEARTBEATS_MIN: u64 = 5;
/// Most MiB that a flag may ask for: 16 TiB.
const MIB_MAX: u64 = 1 << 24;
/// Size of a file of the application log unless told otherwise.
const ROLL_MIB_DEFAULT: u64 = 256;
/// The longest default distance between two checkpoints.
const CHECKPOINT_BYTES_MAX: u64 = 1024 * MIB;
/// Least memory that slots get by default.
const MEMORY_BYTES_MIN: u64 = 256 * MIB;
/// Most milliseconds between two syncs of the log.
const SYNC_MS_MAX: u64 = 60_000;
/// Most characters of a node's name.
const NAME_BYTES_MAX: usize = 64;
/// Most members to ask when joining, and most key prefixes.
const LIST_COUNT_MAX: usize = 64;

/// What TLS is spoken with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Where the certificates are.
    pub directory: PathBuf,
    /// Who is taken.
    pub mode: Mode,
}

/// When the log is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Before anything is acknowledged.
    Always,
    /// At the latest this long after something was written; nobody waits for it, and a power loss
    /// may take what was acknowledged meanwhile.
    Batch(Duration),
    /// When the system likes: a power loss may take acknowledged writes.
    Never,
}

impl std::fmt::Display for SyncPolicy {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SyncPolicy::Always => formatter.write_str("always"),
            SyncPolicy::Batch(interval) => write!(formatter, "batch:{}", interval.as_millis()),
            SyncPolicy::Never => formatter.write_str("never"),
        }
    }
}

/// What is logged on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// Failures.
    Error,
    /// And what an operator should look at.
    Warn,
    /// And what happens once in a while.
    Info,
    /// And what helps to find a fault.
    Debug,
    /// Everything.
    Trace,
}

/// Everything that a node runs with.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What the log is applied to: which program this is.
    pub machine: MachineKind,
    /// True if it never votes.
    pub is_learner: bool,
    /// Name of the node: letters, digits, `-`, `_` and `.`.
    pub id: String,
    /// Where clients come in.
    pub client_address: Address,
    /// False for a logger without a client port.
    pub has_client_port: bool,
    /// Where the other members come in.
    pub raft_address: Address,
    /// Where joining nodes come in, if apart from the raft address.
    pub join_address: Option<Address>,
    /// Members to ask for admission, in this order; empty: this node makes a cluster or restarts.
    pub join_targets: Vec<Address>,
    /// The members that `-cluster` lists, this node among them; empty without it.
    pub listed: Vec<Listed>,
    /// Host that others reach this node by, where it differs from the ones it listens on.
    pub advertise_host: Option<String>,
    /// True if addresses beyond this machine are allowed.
    pub insecure: bool,
    /// The file of tokens, without one of which no client is served.
    pub tokens: Option<PathBuf>,
    /// True if this node, while it leads, takes no new member without a join token.
    pub join_tokens: bool,
    /// The file of the join token with which this node joins.
    pub join_token_file: Option<PathBuf>,
    /// What TLS is spoken with, if it is.
    pub tls: Option<TlsFiles>,
    /// Directory of the node's files.
    pub data_dir: PathBuf,
    /// Number of slots, if asked for.
    pub slot_count: Option<u64>,
    /// Most bytes of a value, if asked for.
    pub value_bytes: Option<u32>,
    /// How fresh reads are that do not say.
    pub read_level: ReadLevel,
    /// When the log is synced.
    pub sync: SyncPolicy,
    /// Milliseconds between two heartbeats of a leader.
    pub heartbeat_ms: u64,
    /// Milliseconds for which a leader may be silent before another is elected.
    pub election_ms: u64,
    /// Bytes of log between two checkpoints, if asked for; see [`checkpoint_bytes`].
    pub checkpoint_bytes: Option<u64>,
    /// Bytes of log kept behind a checkpoint.
    pub keep_bytes: u64,
    /// Bytes of memory for slots, if asked for; see [`Config::memory_bytes_for`].
    pub memory_bytes: Option<u64>,
    /// Prefixes that are cut off keys.
    pub key_prefixes: Vec<String>,
    /// Directory of the application log.
    pub log_folder: Option<PathBuf>,
    /// Bytes of a file of the application log before the next is begun.
    pub roll_bytes: u64,
    /// Where the application log is handed out.
    pub recovery_address: Option<Address>,
    /// Directory of the file with the successes of each second.
    pub throughput_folder: Option<PathBuf>,
    /// Where a CPU profile goes at a clean stop.
    pub cpu_profile: Option<PathBuf>,
    /// Where a heap profile goes at a clean stop.
    pub mem_profile: Option<PathBuf>,
    /// What is logged on stderr.
    pub log_level: LogLevel,
    /// How its lines look.
    pub log_format: LogFormat,
}

impl Config {
    /// The configuration that was asked for on the command line and in its `-config` file.
    ///
    /// # Errors
    /// A file that cannot be read, and every wrong value, with the name of the flag.
    pub fn load(
        machine: MachineKind,
        settings: Settings,
        path: Option<&Path>,
    ) -> Result<Config, ConfigError> {
        let from_file = match path {
            Some(path) => file::read(path)?,
            None => Settings::default(),
        };
        Config::new(machine, file::merge(settings, from_file))
    }

    /// Checks settings, reads the file of `-cluster`, and fills in defaults.
    ///
    /// # Errors
    /// The first wrong value, with the name of the flag and what would be right.
    pub fn new(machine: MachineKind, mut settings: Settings) -> Result<Config, ConfigError> {
        let kind = row(machine);
        check_program(kind, &settings)?;
        let listed = adopt_cluster(&mut settings)?;
        let id = settings.id.unwrap_or_else(|| "node0".to_owned());
        check_name(&id)?;
        let config = Config {
            machine,
            is_learner: !kind.holds_values,
            client_address: listen_address("port", settings.port.as_deref().unwrap_or(":11000"))?,
            has_client_port: kind.holds_values || settings.port.is_some(),
            raft_address: listen_address("raft", settings.raft.as_deref().unwrap_or(":12000"))?,
            join_address: optional(settings.hjoin, |text| listen_address("hjoin", &text))?,
            join_targets: match optional(settings.join, |text| join_targets(&text))? {
                Some(targets) => targets,
                None => listed.iter().filter(|m| m.name != id).map(|m| m.raft.clone()).collect(),
            },
            listed,
            advertise_host: optional(settings.advertise, |text| advertised(&text))?,
            insecure: settings.insecure.unwrap_or(false),
            tokens: settings.tokens,
            join_tokens: settings.join_tokens.unwrap_or(false),
            join_token_file: settings.join_token_file,
            tls: tls_files(settings.tls, settings.tls_mode.as_deref())?,
            data_dir: settings.data.unwrap_or_else(|| default_directory(kind).join(&id)),
            slot_count: optional(settings.slots, |n| number("slots", n, 1, SLOT_COUNT_MAX))?,
            // The one of the two that this program does not have was refused.
            value_bytes: optional(settings.value_max.or(settings.value_size), |n| {
                value_bytes(kind.value_flag.trim_start_matches('-'), n)
            })?,
            read_level: read_level(settings.read.as_deref().unwrap_or("linearizable"))?,
            sync: sync_policy(settings.sync.as_deref().unwrap_or("always"))?,
            heartbeat_ms: optional(settings.heartbeat_ms, |n| {
                number("heartbeat-ms", n, 10, ELECTION_MS_MAX / HEARTBEATS_MIN)
            })?
            .unwrap_or(HEARTBEAT_MS_DEFAULT),
            election_ms: optional(settings.election_ms, |n| {
                number("election-ms", n, ELECTION_MS_MIN, ELECTION_MS_MAX)
            })?
            .unwrap_or(ELECTION_MS_DEFAULT),
            checkpoint_bytes: optional(settings.checkpoint_mib, |n| mib("checkpoint-mib", n, 1))?,
            keep_bytes: optional(settings.keep_mib, |n| mib("keep-mib", n, 0))?
                .unwrap_or(KEEP_MIB_DEFAULT * MIB),
            memory_bytes: optional(settings.memory_mib, |n| mib("memory-mib", n, 16))?,
            key_prefixes: optional(settings.key_prefixes, |text| key_prefixes(&text))?
                .unwrap_or_default(),
            log_folder: settings
                .logfolder
                .or_else(|| (!kind.holds_values).then(std::env::temp_dir)),
            throughput_folder: settings.throughput_folder,
            roll_bytes: optional(settings.roll_mib, |n| mib("roll-mib", n, 1))?
                .unwrap_or(ROLL_MIB_DEFAULT * MIB),
            recovery_address: optional(settings.hrecov, |text| listen_address("hrecov", &text))?,
            cpu_profile: settings.cpuprofile,
            mem_profile: settings.memprofile,
            log_level: log_level(settings.log.as_deref().unwrap_or("info"))?,
            log_format: optional(settings.log_format, |text| LogFormat::parse(&text))?
                .unwrap_or_default(),
            id,
        };
        config.check_geometry()?;
        config.check_addresses()?;
        config.check_timing()?;
        if config.recovery_address.is_some() && config.log_folder.is_none() {
            return Err(ConfigError::NothingRecorded);
        }
        Ok(config)
    }

    /// The row of what the log is applied to.
    pub fn kind(&self) -> &'static KindRow {
        row(self.machine)
    }

    /// The program that this is, as it calls itself.
    pub fn program(&self) -> &'static str {
        self.kind().program
    }

    /// Most bytes of a value in a new cluster.
    pub fn new_value_bytes(&self) -> u32 {
        self.value_bytes.unwrap_or(self.kind().value_bytes_default)
    }

    /// Bytes of memory for keys and values on a machine with this much.
    pub fn key_memory_bytes_for(&self, machine_bytes: u64) -> u64 {
        self.memory_bytes.unwrap_or_else(|| (machine_bytes / 4).max(MEMORY_BYTES_MIN))
    }

    /// Bytes of memory for the slots of a data file of this size on a machine with this much.
    pub fn memory_bytes_for(&self, data_file_bytes: u64, machine_bytes: u64) -> u64 {
        self.memory_bytes
            .unwrap_or_else(|| data_file_bytes.min(machine_bytes / 4).max(MEMORY_BYTES_MIN))
    }

    /// Where others reach the client port.
    pub fn advertised_client(&self) -> Address {
        self.advertised(&self.client_address)
    }

    /// Where others reach the raft port.
    pub fn advertised_raft(&self) -> Address {
        match self.listed.iter().find(|member| member.name == self.id) {
            Some(own) => own.raft.clone(), // where the others look for it
            None => self.advertised(&self.raft_address),
        }
    }

    fn advertised(&self, address: &Address) -> Address {
        match &self.advertise_host {
            Some(host) => Address { host: host.clone(), port: address.port },
            None => address.clone(),
        }
    }

    /// A data file of the geometry that was asked for, or the default's, must be possible.
    fn check_geometry(&self) -> Result<(), ConfigError> {
        let Some(slot_count_default) = self.kind().slot_count_default else { return Ok(()) };
        let slot_count = self.slot_count.unwrap_or(slot_count_default);
        let value_bytes = self.new_value_bytes();
        Geometry::new(slot_count, value_bytes).map(|_| ()).map_err(|source| ConfigError::Geometry {
            slot_count,
            value_bytes,
            source,
        })
    }

    /// A leader whose heartbeats are late, or lost, is not given up at once.
    fn check_timing(&self) -> Result<(), ConfigError> {
        let Config { heartbeat_ms, election_ms, .. } = *self;
        if heartbeat_ms * HEARTBEATS_MIN > election_ms {
            return Err(ConfigError::Timing { heartbeat_ms, election_ms });
        }
        Ok(())
    }

    /// What must hold between addresses: no port twice, none exposed or unreachable unawares.
    fn check_addresses(&self) -> Result<(), ConfigError> {
        let mut listening = vec![("raft", &self.raft_address)];
        if self.has_client_port {
            listening.insert(0, ("port", &self.client_address));
        }
        listening.extend(self.join_address.as_ref().map(|address| ("hjoin", address)));
        listening.extend(self.recovery_address.as_ref().map(|address| ("hrecov", address)));
        let mut seen: Vec<(&'static str, &Address)> = Vec::new();
        for (flag, address) in listening {
            if let Some((first, _)) = seen.iter().find(|(_, other)| other.overlaps(address)) {
                let (second, port) = (flag, address.port);
                return Err(ConfigError::SamePort { first, second, port });
            }
            let tls = self.tls.as_ref().map(|tls| tls.mode);
            let is_encrypted = tls >= Some(Mode::Require);
            let has_leave = self.insecure
                || match flag {
                    "port" => tls >= Some(Mode::Mutual) || is_encrypted && self.tokens.is_some(),
                    _ => is_encrypted,
                };
            if !address.is_loopback() && !has_leave {
                if flag == "port" && self.tokens.is_some() {
                    return Err(ConfigError::ClearTokens { address: address.clone() });
                }
                return Err(ConfigError::Exposed { flag, address: address.clone() });
            }
            let is_listed = flag == "raft" && !self.listed.is_empty();
            if address.is_wildcard() && self.advertise_host.is_none() && !is_listed {
                return Err(ConfigError::NoHost { flag, address: address.clone() });
            }
            seen.push((flag, address));
        }
        self.check_targets(&seen)
    }

    /// One list may serve all nodes and name this one too, but not this one alone.
    fn check_targets(&self, own: &[(&'static str, &Address)]) -> Result<(), ConfigError> {
        let own_flag = |target: &Address| {
            own.iter().find(|(_, address)| *address == target).map(|(flag, _)| *flag)
        };
        let flags: Option<Vec<_>> = self.join_targets.iter().map(own_flag).collect();
        match (self.join_targets.first(), flags.as_deref()) {
            (Some(address), Some([flag, ..])) => {
                Err(ConfigError::SelfTarget { address: address.clone(), flag })
            }
            _ => Ok(()),
        }
    }
}

fn default_directory(kind: &KindRow) -> PathBuf {
    format!("./{}-data", kind.program).into()
}

/// Reads the file of `-cluster`, if there is one, and fills in what it says of this node where no flag
/// does.
fn adopt_cluster(settings: &mut Settings) -> Result<Vec<Listed>, ConfigError> {
    let Some(path) = settings.cluster.take() else { return Ok(Vec::new()) };
    if settings.join.is_some() {
        return Err(ConfigError::JoinAndCluster);
    }
    let found = Found { file: cluster::read(&path)?, path };
    let own = found.own(settings.id.as_deref())?;
    settings.id = Some(own.name.clone());
    settings.raft.get_or_insert_with(|| own.raft.to_string());
    let port = settings.port.get_or_insert_with(|| own.client.to_string());
    if Address::parse(port).is_ok_and(|address| address.is_wildcard()) {
        settings.advertise.get_or_insert_with(|| own.raft.host.clone());
    }
    Ok(found.file.members)
}

/// The members that a file of `-cluster` lists, in the order of their names.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn members_of(path: &Path) -> Result<Vec<Listed>, ConfigError> {
    cluster::read(path).map(|file| file.members)
}

/// Refuses the flags that only another program has.
fn check_program(kind: &KindRow, settings: &Settings) -> Result<(), ConfigError> {
    let is_given = |flag: &str| match flag {
        "slots" => settings.slots.is_some(),
        "value-size" => settings.value_size.is_some(),
        "value-max" => settings.value_max.is_some(),
        "key-prefixes" => settings.key_prefixes.is_some(),
        _ => unreachable!("the table of machines refuses -{flag}, which is not looked at"),
    };
    match kind.foreign_flags.iter().find(|foreign| is_given(foreign.flag)) {
        Some(&ForeignFlag { flag, reason }) => {
            Err(ConfigError::OtherProgram { flag, program: kind.program, reason })
        }
        None => Ok(()),
    }
}

/// Bytes of log between two checkpoints of data of this size, unless asked for otherwise: random
/// writes dirty nearly every page, and keys in memory are written as a whole, so a short distance
/// would write everything over and over.
pub fn checkpoint_bytes(asked: Option<u64>, machine: MachineKind, data_bytes: u64) -> u64 {
    let least = row(machine).checkpoint_bytes_min;
    asked.unwrap_or_else(|| data_bytes.clamp(least, CHECKPOINT_BYTES_MAX))
}

/// Applies a check to a value that may be absent.
fn optional<T, U>(
    value: Option<T>,
    check: impl FnOnce(T) -> Result<U, ConfigError>,
) -> Result<Option<U>, ConfigError> {
    value.map(check).transpose()
}

/// A name becomes a directory, a file name and a line of the log.
pub(crate) fn check_name(id: &str) -> Result<(), ConfigError> {
    if is_name(id) { Ok(()) } else { Err(ConfigError::Name { value: id.to_owned() }) }
}

/// Whether a node may be called so.
pub(crate) fn is_name(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&id.len())
        && id.bytes().all(allowed)
        && !id.starts_with(['.', '-'])
}

fn listen_address(flag: &'static str, text: &str) -> Result<Address, ConfigError> {
    Address::parse(text).map_err(|reason| ConfigError::Address {
        flag,
        value: text.to_owned(),
        reason,
    })
}

fn join_targets(text: &str) -> Result<Vec<Address>, ConfigError> {
    let targets: Vec<Address> =
        text.split(',').map(|target| listen_address("join", target)).collect::<Result<_, _>>()?;
    for target in &targets {
        if target.is_wildcard() {
            return Err(ConfigError::NoTarget { address: target.clone() });
        }
    }
    listed("join", text, targets)
}

fn advertised(text: &str) -> Result<String, ConfigError> {
    match Address::parse(&format!("{text}:1")) {
        Ok(address) if !text.is_empty() && !address.is_wildcard() => Ok(address.host),
        _ => Err(ConfigError::Host { value: text.to_owned() }),
    }
}

fn key_prefixes(text: &str) -> Result<Vec<String>, ConfigError> {
    let prefixes: Vec<String> =
        text.split(',').filter(|prefix| !prefix.is_empty()).map(str::to_owned).collect();
    listed("key-prefixes", text, prefixes)
}

/// A list that is not too long, and not empty.
fn listed<T>(flag: &'static str, text: &str, list: Vec<T>) -> Result<Vec<T>, ConfigError> {
    if (1..=LIST_COUNT_MAX).contains(&list.len()) {
        return Ok(list);
    }
    Err(ConfigError::List { flag, value: text.to_owned(), max: LIST_COUNT_MAX })
}

fn value_bytes(flag: &'static str, text: Number) -> Result<u32, ConfigError> {
    let value = number(flag, text, 1, u64::from(VALUE_BYTES_MAX))?;
    Ok(u32::try_from(value).expect("invariant: just bounded by a u32"))
}

fn mib(flag: &'static str, text: Number, min: u64) -> Result<u64, ConfigError> {
    Ok(number(flag, text, min, MIB_MAX)? * MIB)
}

/// A decimal number within bounds; underscores may group its digits.
pub(crate) fn number(
    flag: &'static str,
    text: Number,
    min: u64,
    max: u64,
) -> Result<u64, ConfigError> {
    let Number(value) = text;
    let digits = value.replace('_', "");
    let given = digits.parse().ok().filter(|given| (min..=max).contains(given));
    given.ok_or(ConfigError::Number { flag, value, min, max })
}

fn tls_files(
    directory: Option<PathBuf>,
    mode: Option<&str>,
) -> Result<Option<TlsFiles>, ConfigError> {
    let modes = [Mode::Require, Mode::Mutual, Mode::Prefer].map(|mode| (mode.name(), mode));
    let mode = mode.map(|text| word("tls-mode", text, &modes)).transpose()?;
    match (directory, mode) {
        (Some(directory), mode) => {
            Ok(Some(TlsFiles { directory, mode: mode.unwrap_or(Mode::Require) }))
        }
        (None, Some(_)) => Err(ConfigError::ModeWithoutTls),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests;
