//! The errors of a configuration. Every message names the flag and says what to do.

use std::path::PathBuf;

use super::{Address, ClusterFileError, TokenFileError};

/// A configuration that cannot be run. The program exits with code 2.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A node's name has characters that a file name or a log line could not take.
    #[error(
        "-id `{value}`: a name is 1 to 64 letters, digits, `-`, `_` or `.`, and begins with a \
         letter, a digit or `_`"
    )]
    Name {
        /// What was given.
        value: String,
    },
    /// A word that is not one of a few.
    #[error("-{flag} `{value}`: give one of {}", allowed.join(", "))]
    Word {
        /// The flag, without dashes.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        allowed: Vec<&'static str>,
    },
    /// A flag that only the other program has.
    #[error("-{flag} is no flag of {program}: {reason}")]
    OtherProgram {
        /// The flag, without dashes.
        flag: &'static str,
        /// The program that was started.
        program: &'static str,
        /// What it has instead.
        reason: &'static str,
    },
    /// What should be a join token.
    #[error("{place}: this is no join token: one word, of letters, digits, `-` and `_`")]
    NoJoinToken {
        /// The file or the variable.
        place: String,
    },
    /// No number, or one out of bounds.
    #[error("-{flag} `{value}`: give a whole number from {min} to {max}")]
    Number {
        /// The flag, without dashes.
        flag: &'static str,
        /// What was given.
        value: String,
        /// Least.
        min: u64,
        /// Most.
        max: u64,
    },
    /// A list without items, or with too many.
    #[error("-{flag} `{value}`: give 1 to {max} of them, with commas between")]
    List {
        /// The flag, without dashes.
        flag: &'static str,
        /// What was given.
        value: String,
        /// Most items.
        max: usize,
    },
    /// Slots that no data file could hold.
    #[error("-slots {slot_count} of -value-size {value_bytes}: give fewer slots or smaller values")]
    Geometry {
        /// Number of slots.
        slot_count: u64,
        /// Most bytes of a value.
        value_bytes: u32,
        /// The limit.
        source: diskstore_storage::Error,
    },
    /// Text that is no address.
    #[error("-{flag} `{value}`: {reason}; give :PORT or HOST:PORT")]
    Address {
        /// The flag, without dashes.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An address that others reach, without leave.
    #[error(
        "-{flag} {address} is reachable from other machines, and whoever reaches it may read and \
         write everything; use 127.0.0.1:{}, or {}, or add -insecure if the network is trusted",
        address.port,
        if *flag == "port" { "-tls with -tls-mode mutual" } else { "-tls" }
    )]
    Exposed {
        /// The flag, without dashes.
        flag: &'static str,
        /// Where it would listen.
        address: Address,
    },
    /// Tokens that whoever is on the way may read.
    #[error(
        "-port {address} is reachable from other machines, and -tokens alone does not protect it: \
         without TLS the tokens cross the network in the clear, and whoever reads one may use it; \
         use 127.0.0.1:{}, or add -insecure if the network is trusted", address.port
    )]
    ClearTokens {
        /// Where it would listen.
        address: Address,
    },
    /// A mode of TLS without certificates.
    #[error("-tls-mode says how TLS is spoken, which takes -tls DIR with certificates")]
    ModeWithoutTls,
    /// Listening on every address tells nobody which one to use.
    #[error(
        "-{flag} {address} listens on every address of this machine, but the other members must \
         be told one: add -advertise HOST"
    )]
    NoHost {
        /// The flag, without dashes.
        flag: &'static str,
        /// Where it would listen.
        address: Address,
    },
    /// An address to connect to that is no address of a machine.
    #[error(
        "-join {address} is no address that a member can be reached at; give its host name or IP"
    )]
    NoTarget {
        /// What was given.
        address: Address,
    },
    /// A node that was told to join through itself.
    #[error(
        "-join {address} is this node's own -{flag}; give the -hjoin or -raft address of another \
         member, or leave -join out to make a new cluster"
    )]
    SelfTarget {
        /// What was given.
        address: Address,
        /// The flag that listens there, without dashes.
        flag: &'static str,
    },
    /// Text that is no host.
    #[error(
        "-advertise `{value}`: give the host name or IP address that others reach this node by, \
         without a port"
    )]
    Host {
        /// What was given.
        value: String,
    },
    /// One port for two purposes.
    #[error("-{first} and -{second} both use port {port}; give each its own")]
    SamePort {
        /// A flag, without dashes.
        first: &'static str,
        /// Another.
        second: &'static str,
        /// The port.
        port: u16,
    },
    /// A leader would be given up for a few late heartbeats.
    #[error(
        "-heartbeat-ms {heartbeat_ms} is too long for -election-ms {election_ms}: five heartbeats have \
         to fit in an election"
    )]
    Timing {
        /// Between two heartbeats, in ms.
        heartbeat_ms: u64,
        /// How long a leader may be silent, in ms.
        election_ms: u64,
    },
    /// State is to be handed out that nobody records.
    #[error("-hrecov hands out what -logfolder records: add -logfolder DIR, or leave -hrecov out")]
    NothingRecorded,
    /// A file of members that does not say what it must.
    #[error("-cluster {}", path.display())]
    Cluster {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ClusterFileError,
    },
    /// Nobody says which of the members this node is.
    #[error("-cluster {}: give -id NAME, which of {names} this node is", path.display())]
    NoLocalName {
        /// The file.
        path: PathBuf,
        /// The names in it.
        names: String,
    },
    /// This node is not in the file.
    #[error("-cluster {}: this node is `{id}`, and the file lists {names} only", path.display())]
    NotListed {
        /// The file.
        path: PathBuf,
        /// This node's name.
        id: String,
        /// The names in the file.
        names: String,
    },
    /// Two ways into a cluster.
    #[error(
        "-join and -cluster: a node whose file lists the members finds them there; leave -join out"
    )]
    JoinAndCluster,
    /// A file of tokens that is none, or that others may use.
    #[error("-tokens {}", path.display())]
    Tokens {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TokenFileError,
    },
    /// A file cannot be written.
    #[error("-{flag} {}: the file cannot be written", path.display())]
    Unwritable {
        /// The flag, without dashes.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's word.
        source: std::io::Error,
    },
    /// The configuration file, or that of the members, cannot be read.
    #[error("-{flag} {}: the file cannot be read", path.display())]
    Unreadable {
        /// The flag, without dashes.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's word.
        source: std::io::Error,
    },
    /// A file that is longer than any could be.
    #[error("-{flag} {}: {bytes} bytes are too long, the limit is {bytes_max}", path.display())]
    TooLong {
        /// The flag, without dashes.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The configuration file is no TOML, or a value has the wrong type.
    #[error("-config {}: not valid", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        source: Box<toml::de::Error>,
    },
    /// A name in the configuration file that is no flag.
    #[error(
        "-config {}: `{key}` is no flag{}", path.display(),
        nearest.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
    )]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The name found.
        key: String,
        /// The flag that is spelled most like it.
        nearest: Option<String>,
    },
}
