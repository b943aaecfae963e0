//! From what was typed, the files and the environment to what is to run.
//!
//! Called by the program; reads files, and touches nothing else. What is typed counts before the
//! environment, and that before the files. The variables are those of the original's later age, and count
//! for its files alone: a variable such as `NODE_ID` may mean something else to others.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::{LeaderlessInvocation, Number, RegisterSettings, parse_time};
use crate::config::{Address, ConfigError, LogFormat, LogLevel, log_level, number, sync_policy};
use crate::host::Clock;
use crate::leaderless::file::{
    CoordinatorFile, Discovery, LeaderlessFile, LeaderlessFileError, NodeFile, VALUE_BYTES_MAX,
    parse,
};
use crate::leaderless::layout::{Described, Layout, LayoutError, REPLICA_COUNT_MAX};
use crate::leaderless::node::RegistersConfig;
use crate::leaderless::operation::Level;
use crate::node::machine_memory_bytes;

/// Largest file that is read, in bytes: one more than the reader of files takes.
const FILE_BYTES_MAX: u64 = (1 << 20) + 1;
/// How many nodes hold a key unless told otherwise.
const REPLICAS_DEFAULT: usize = 3;
/// How long deletes are remembered for a node that is away.
const FORGET_AFTER_DEFAULT: Duration = Duration::from_hours(72);
const FORGET_AFTER_MIN: Duration = Duration::from_mins(10);
/// Least memory for keys, in bytes.
const MEMORY_BYTES_MIN: u64 = 16 << 20;
const MEMORY_MIB_MAX: u64 = 1 << 24;
const WEIGHT_MAX: u32 = crate::leaderless::layout::WEIGHT_MAX;
/// For tests alone: by how many milliseconds a node's clock is wrong. Not in any help.
const CLOCK_OFF: &str = "DISKSTORE_TEST_CLOCK_OFF_MS";
const PACE_TIMES_MAX: u32 = 1000;
/// For tests alone: how many times as often a node pulls, forgets and cleans its files. Not in any help.
const PACE: &str = "DISKSTORE_TEST_PACE_TIMES";
/// Files that the original's store, Badger, leaves in its folder.
const BADGER_FILES: [&str; 3] = ["MANIFEST", "KEYREGISTRY", "DISCARD"];
const BADGER_ENDINGS: [&str; 2] = ["vlog", "sst"];

/// Why nothing is run.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file that cannot be read.
    #[error("{}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file with something wrong in it.
    #[error("{}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What.
        source: LeaderlessFileError,
    },
    /// A file of flags with something wrong in it.
    #[error("{}: {reason}", path.display())]
    Toml {
        /// Which one.
        path: PathBuf,
        /// What.
        reason: String,
    },
    /// Files that do not go together.
    #[error("{0}")]
    Files(&'static str),
    /// A flag with something wrong in it.
    #[error(transparent)]
    Flag(#[from] ConfigError),
    /// A flag or variable with something wrong in it.
    #[error("{name} `{value}`: {reason}")]
    Word {
        /// Its name.
        name: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something that is needed.
    #[error("{0}")]
    Missing(&'static str),
    /// The nodes make no layout.
    #[error("-nodes: {0}")]
    Layout(#[from] LayoutError),
    /// This node is none of those that are listed.
    #[error("node {id} is not among the nodes {known}: an id is text, `1` and `01` are two")]
    NotListed {
        /// Its id.
        id: String,
        /// All ids.
        known: String,
    },
    /// A node that the others could not dial.
    #[error(
        "node {id} has no address: nodes dial each other by the addresses of the file, and DNS          (dns_service_discovery) is asked by coordinators alone; give it one in static_service_discovery"
    )]
    NoAddress {
        /// Its id.
        id: String,
    },
    /// An address beyond this machine.
    #[error(
        "{name} {address} is reached from other machines, and whoever reaches it may read and write \
         everything: give a loopback address, or add -insecure if the network is trusted"
    )]
    Insecure {
        /// Which address.
        name: &'static str,
        /// What it is.
        address: Address,
    },
    /// Others are to dial this node where it does not listen.
    #[error(
        "the others dial this node at {listed}, and it is to listen at {listen}, where no other machine \
         reaches it: give a host there (0.0.0.0 for all addresses), and -insecure if the network is trusted"
    )]
    NotReachable {
        /// Where the others dial it.
        listed: Address,
        /// Where it listens.
        listen: Address,
    },
    /// A variable for tests at a node that others reach.
    #[error(
        "{name} is set, which is for tests: a node takes it only if all addresses of its cluster are of this machine (loopback)"
    )]
    ForTests {
        /// Which one.
        name: &'static str,
    },
    /// The directory holds files of the original's store.
    #[error(
        "{} holds {file}, a file of Badger, the store of leaderless-key-value-store, whose files are not \
         read here. Give an empty directory, and copy what the running original holds: leaderless import \
         -from HOST:PORT,... -addr HOST:PORT",
        directory.display()
    )]
    Badger {
        /// The directory.
        directory: PathBuf,
        /// What it holds.
        file: String,
    },
}

/// What is to run.
#[derive(Debug)]
pub struct Resolved {
    /// As what.
    pub role: Role,
    /// Where it listens.
    pub listen: Address,
    /// Where it shows metrics besides.
    pub metrics: Option<Address>,
    /// Of operations that ask for none.
    pub level: Level,
    /// What it takes for the time of day.
    pub clock: Clock,
    /// How many times as often it does what it does from time to time.
    pub pace_times: u32,
    /// What is logged, and how.
    pub log: LogLevel,
    /// See there.
    pub log_format: LogFormat,
    /// What people should know of this start.
    pub notes: Vec<String>,
}

impl Resolved {
    /// Whether nobody beyond this machine has to do with it.
    fn is_on_one_machine(&self) -> bool {
        let layout = match &self.role {
            Role::Node(config) => &config.layout,
            Role::Coordinator(file) => &file.layout,
        };
        let listed = layout.nodes().iter().filter_map(|node| node.address.as_ref());
        listed.chain([&self.listen]).chain(&self.metrics).all(Address::is_loopback)
    }
}

/// As what a program runs.
#[derive(Debug)]
pub enum Role {
    /// A node, which holds keys.
    Node(RegistersConfig),
    /// One that passes operations on.
    Coordinator(CoordinatorFile),
}

type Result<T> = std::result::Result<T, SettingsError>;

/// What was typed, with the environment behind it.
///
/// # Errors
/// The first thing that is wrong.
pub fn resolve(
    invocation: LeaderlessInvocation,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Resolved> {
    let mut settings = invocation.settings;
    if let Some(path) = &invocation.config {
        settings = settings.or(from_toml(path)?);
    }
    let files = invocation.files.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    let log = settings.log.as_deref().map_or(Ok(LogLevel::Info), log_level)?;
    let log_format =
        settings.log_format.as_deref().map_or(Ok(LogFormat::Text), LogFormat::parse)?;
    let mut resolved = match given(files)? {
        Given { node: None, shared: Some(LayoutFile::Coordinator(file)) } => {
            coordinator(&settings, file, variable)?
        }
        Given { node: None, shared: Some(LayoutFile::Cluster(_)) } => {
            return Err(SettingsError::Files(
                "a cluster's file needs a node's before it: NODE.yml CLUSTER.yml",
            ));
        }
        Given { node, shared } => node_of(&settings, node.as_ref(), shared, variable)?,
    };
    (resolved.log, resolved.log_format) = (log, log_format);
    if let Some(name) = [CLOCK_OFF, PACE].into_iter().find(|name| variable(name).is_some())
        && !resolved.is_on_one_machine()
    {
        return Err(SettingsError::ForTests { name });
    }
    if let Some(text) = variable(PACE) {
        let times = text.parse().ok().filter(|times| (1..=PACE_TIMES_MAX).contains(times));
        let times = times.ok_or_else(|| word(PACE, &text, "give 1 to 1000"))?;
        resolved.pace_times = times;
        resolved.notes.push(format!("{PACE}: this node repairs and forgets {times} times as fast"));
    }
    if let Some(text) = variable(CLOCK_OFF) {
        let ms = text.parse().map_err(|_| word(CLOCK_OFF, &text, "give milliseconds"))?;
        resolved.clock = Clock::Off(ms);
        resolved.notes.push(format!("{CLOCK_OFF}: the clock of this node is wrong by {ms} ms"));
    }
    check_addresses(&resolved, settings.insecure.unwrap_or(false))?;
    Ok(resolved)
}

/// What files say together.
struct Given {
    node: Option<NodeFile>,
    shared: Option<LayoutFile>,
}

/// Where a layout comes from.
enum LayoutFile {
    Cluster(Layout),
    Coordinator(CoordinatorFile),
}

fn given(files: Vec<LeaderlessFile>) -> Result<Given> {
    let mut found = Given { node: None, shared: None };
    for file in files {
        let is_twice = match file {
            LeaderlessFile::Node(node) => found.node.replace(node).is_some(),
            LeaderlessFile::Cluster(layout) => {
                found.shared.replace(LayoutFile::Cluster(layout)).is_some()
            }
            LeaderlessFile::Coordinator(file) => {
                found.shared.replace(LayoutFile::Coordinator(file)).is_some()
            }
        };
        if is_twice {
            return Err(SettingsError::Files(
                "two files of one kind: give a node's file, and that of its cluster or coordinator",
            ));
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<LeaderlessFile> {
    use std::io::Read;
    let failed = |source| SettingsError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    parse(&text).map_err(|source| SettingsError::File { path: path.to_owned(), source })
}

fn from_toml(path: &Path) -> Result<RegisterSettings> {
    let failed = |source| SettingsError::Read { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    toml::from_str(&text).map_err(|error| SettingsError::Toml {
        path: path.to_owned(),
        reason: error.to_string().trim_end().to_owned(),
    })
}

fn word(name: &'static str, value: &str, reason: impl Into<String>) -> SettingsError {
    SettingsError::Word { name, value: value.to_owned(), reason: reason.into() }
}

fn address(name: &'static str, text: &str) -> Result<Address> {
    Address::parse(text).map_err(|reason| word(name, text, format!("{reason}; give HOST:PORT")))
}

fn level(settings: &RegisterSettings, of_file: Level) -> Result<Level> {
    let Some(text) = &settings.level else { return Ok(of_file) };
    Level::parse(text).ok_or_else(|| word("-level", text, "give one, quorum or all"))
}

fn coordinator(
    settings: &RegisterSettings,
    mut file: CoordinatorFile,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Resolved> {
    if let Some(text) = variable("BIND_ADDRESS") {
        file.listen = address("BIND_ADDRESS", &text)?;
    }
    if let Some(discovery) = &mut file.discovery {
        discover_by(discovery, variable)?;
    }
    let of_node = RegisterSettings {
        port: None,
        metrics: None,
        level: None,
        insecure: None,
        log: None,
        log_format: None,
        ..settings.clone()
    };
    if of_node != RegisterSettings::default() {
        return Err(SettingsError::Files(
            "a coordinator takes -port, -metrics, -level, -insecure, -log and -log-format: its file says \
             the rest, and it has no keys",
        ));
    }
    if let Some(text) = &settings.port {
        file.listen = address("-port", text)?;
    }
    let metrics = settings.metrics.as_deref().map(|text| address("-metrics", text)).transpose()?;
    Ok(Resolved {
        listen: file.listen.clone(),
        metrics,
        level: level(settings, file.level)?,
        clock: Clock::System,
        pace_times: 1,
        log: LogLevel::Info,
        log_format: LogFormat::Text,
        notes: Vec::new(),
        role: Role::Coordinator(file),
    })
}

fn discover_by(discovery: &mut Discovery, variable: &dyn Fn(&str) -> Option<String>) -> Result<()> {
    if let Some(domain) = variable("DNS_SD_STORAGE_NODE_DOMAIN") {
        discovery.domain = domain;
    }
    if let Some(text) = variable("DNS_SD_STORAGE_NODE_PORT") {
        let port = text.parse().ok().filter(|port| *port > 0);
        let reason = "give 1 to 65535";
        discovery.port = port.ok_or_else(|| word("DNS_SD_STORAGE_NODE_PORT", &text, reason))?;
    }
    Ok(())
}

fn node_of(
    settings: &RegisterSettings,
    file: Option<&NodeFile>,
    shared: Option<LayoutFile>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Resolved> {
    let has_file = file.is_some();
    // Of the files alone: without one, such a variable is somebody else's.
    let variable = |name: &str| variable(name).filter(|_| has_file);
    let typed_id = settings.id.clone().or_else(|| variable("NODE_ID"));
    let id = typed_id.or_else(|| file.map(|file| file.id.clone()));
    let id = id.ok_or(SettingsError::Missing(
        "give NODE.yml and CLUSTER.yml, or -id and -nodes; or try: leaderless demo",
    ))?;
    let mut notes = Vec::new();
    let layout = match (&settings.nodes, shared) {
        (Some(_), Some(_)) => {
            return Err(SettingsError::Files(
                "give -nodes, or a file that lists the nodes, not both",
            ));
        }
        (Some(list), None) => listed(list, settings)?,
        (None, Some(LayoutFile::Cluster(layout))) => layout,
        (None, Some(LayoutFile::Coordinator(file))) => file.layout,
        (None, None) => {
            notes.push(
                "this node is alone: no other has copies of its keys. Give CLUSTER.yml or \
                 COORDINATOR.yml behind its own file to make it one of several"
                    .to_owned(),
            );
            let one = Described { id: id.clone(), address: None, weight: 1, zone: None };
            Layout::first(0, 1, vec![one])?
        }
    };
    let listed = place_in(&layout, &id, settings)?;
    let of_variable = variable("BIND_ADDRESS");
    let listen = match (&settings.port, &of_variable, file) {
        (Some(text), ..) => address("-port", text)?,
        (None, Some(text), _) => address("BIND_ADDRESS", text)?,
        (None, None, Some(file)) => file.listen.clone(),
        (None, None, None) => {
            listed.clone().unwrap_or(Address { host: "127.0.0.1".to_owned(), port: 8001 })
        }
    };
    if let Some(listed) = listed.filter(|listed| !listed.is_loopback() && listen.is_loopback()) {
        return Err(SettingsError::NotReachable { listed, listen });
    }
    let directory = settings
        .dir
        .clone()
        .or_else(|| variable("BADGERDB_FOLDER").map(PathBuf::from))
        .or_else(|| file.map(|file| file.directory.clone()))
        .unwrap_or_else(|| Path::new("leaderless-data").join(&id));
    check_directory(&directory)?;
    let metrics = match &settings.metrics {
        Some(text) => Some(address("-metrics", text)?),
        None => file.and_then(|file| file.metrics.clone()),
    };
    let level = level(settings, file.map_or(Level::default(), |file| file.level))?;
    let of_epoch = variable("CLOCK_EPOCH_FILE_PATH").map(PathBuf::from);
    let epoch_file = of_epoch.or_else(|| file.and_then(|file| file.clock_epoch_file.clone()));
    notes.extend(epoch_file.and_then(|path| epoch_note(&path)));
    let config = config(settings, file, id, layout, directory)?;
    let role = Role::Node(config);
    Ok(Resolved {
        role,
        listen,
        metrics,
        level,
        clock: Clock::System,
        pace_times: 1,
        log: LogLevel::Info,
        log_format: LogFormat::Text,
        notes,
    })
}

/// Where the others dial the node of this id, in a layout by which all of them can.
fn place_in(layout: &Layout, id: &str, settings: &RegisterSettings) -> Result<Option<Address>> {
    if settings.nodes.is_none() && (settings.replicas.is_some() || settings.seed.is_some()) {
        return Err(SettingsError::Files(
            "-replicas and -seed go with -nodes: a file says them itself",
        ));
    }
    let unknown = layout.nodes().iter().find(|node| node.address.is_none() && node.id != id);
    if let Some(unknown) = unknown {
        return Err(SettingsError::NoAddress { id: unknown.id.clone() });
    }
    let Some(node) = layout.node(id) else {
        let known: Vec<&str> = layout.nodes().iter().map(|node| node.id.as_str()).collect();
        let (id, known) = (id.to_owned(), known.join(", "));
        return Err(SettingsError::NotListed { id, known });
    };
    Ok(node.address.clone())
}

/// What the original left behind of its clock. Our epochs are milliseconds, far above its counts.
fn epoch_note(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let epoch: u64 = text.trim().parse().ok()?;
    let path = path.display();
    Some(format!(
        "the clock of the original had epoch {epoch} ({path}); clocks here begin above it"
    ))
}

fn config(
    settings: &RegisterSettings,
    file: Option<&NodeFile>,
    id: String,
    layout: Layout,
    directory: PathBuf,
) -> Result<RegistersConfig> {
    let typed = |flag, text: &Option<Number>, max| {
        text.clone().map(|text| number(flag, text, 1, max)).transpose()
    };
    let memory_mib = typed("memory-mib", &settings.memory_mib, MEMORY_MIB_MAX)?;
    let memory_mib = memory_mib.or_else(|| file.and_then(|file| file.memory_mib));
    let memory_bytes_max = memory_mib
        .map_or_else(|| (machine_memory_bytes() / 4).max(MEMORY_BYTES_MIN), |mib| mib << 20);
    let value_max = typed("value-max", &settings.value_max, u64::from(VALUE_BYTES_MAX))?;
    let value_max = value_max.and_then(|bytes| u32::try_from(bytes).ok());
    let of_file = file.map_or(VALUE_BYTES_MAX, |file| file.value_bytes_max);
    let sync = match (&settings.sync, file) {
        (Some(text), _) => sync_policy(text)?,
        (None, Some(file)) => file.sync,
        (None, None) => sync_policy("always")?,
    };
    let forget_after = settings.forget_after.as_deref().map(|text| {
        let time = parse_time(text).map_err(|reason| word("-forget-after", text, reason))?;
        let is_long = time >= FORGET_AFTER_MIN;
        if is_long { Ok(time) } else { Err(word("-forget-after", text, "give 10m or more")) }
    });
    Ok(RegistersConfig {
        id,
        layout,
        directory,
        memory_bytes_max,
        value_bytes_max: value_max.unwrap_or(of_file),
        sync,
        accepts_loss: settings.accept_loss.unwrap_or(false),
        forget_after: forget_after.transpose()?.unwrap_or(FORGET_AFTER_DEFAULT),
    })
}

/// The layout of `-nodes`.
fn listed(list: &str, settings: &RegisterSettings) -> Result<Layout> {
    let described = list.split(',').map(described).collect::<Result<Vec<_>>>()?;
    let count = described.len();
    let replicas = match settings.replicas.clone() {
        Some(text) => number("replicas", text, 1, REPLICA_COUNT_MAX as u64)?,
        None => REPLICAS_DEFAULT.min(count) as u64,
    };
    let seed = settings.seed.clone().map(|text| number("seed", text, 0, u64::from(u32::MAX)));
    let seed = seed.transpose()?.and_then(|seed| u32::try_from(seed).ok()).unwrap_or(0);
    Ok(Layout::first(seed, replicas, described)?)
}

/// `ID=HOST:PORT[*WEIGHT][@ZONE]`
fn described(text: &str) -> Result<Described> {
    let wrong = |reason: &str| word("-nodes", text, reason);
    let (id, rest) = text.split_once('=').ok_or_else(|| wrong("write ID=HOST:PORT"))?;
    let (rest, zone) = match rest.split_once('@') {
        Some((rest, zone)) => (rest, Some(zone.to_owned())),
        None => (rest, None),
    };
    let (place, weight) = match rest.split_once('*') {
        Some((place, weight)) => {
            let weight = weight.parse().ok().filter(|weight| (1..=WEIGHT_MAX).contains(weight));
            (place, weight.ok_or_else(|| wrong("a weight is 1 to 32"))?)
        }
        None => (rest, 1),
    };
    let place = address("-nodes", place)?;
    if place.is_wildcard() {
        return Err(wrong("this is no address that other nodes can reach"));
    }
    Ok(Described { id: id.to_owned(), address: Some(place), weight, zone })
}

/// Refuses a directory of the original's.
fn check_directory(directory: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Ok(()) }; // it is made, or told later
    for entry in entries.flatten() {
        let name = entry.file_name();
        let path = Path::new(&name);
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if BADGER_FILES.iter().any(|file| *file == name) || BADGER_ENDINGS.contains(&ending) {
            let (directory, file) = (directory.to_owned(), name.to_string_lossy().into_owned());
            return Err(SettingsError::Badger { directory, file });
        }
    }
    Ok(())
}

/// Nobody is served beyond this machine unless that was meant.
fn check_addresses(resolved: &Resolved, is_insecure: bool) -> Result<()> {
    if is_insecure {
        return Ok(());
    }
    let metrics = resolved.metrics.as_ref().map(|metrics| ("the address for metrics", metrics));
    let all = [("the address", &resolved.listen)].into_iter().chain(metrics);
    for (name, address) in all {
        if !address.is_loopback() {
            return Err(SettingsError::Insecure { name, address: address.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
