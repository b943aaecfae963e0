//! [`Client`], for programs in Rust, and the sub-commands that talk to running nodes, or run some. `main.rs`
//! calls [`run`]; it may call nothing of the node but its `Status`.
//!
//! - I1: A write goes to one node only: once its bytes may have left, no other address is tried,
//!   and a lost connection is reported as an unknown outcome.
//! - I2: A value goes to stdout byte for byte; everything said about it goes to stderr.

mod administration;
mod answer;
mod bench;
mod bundle;
mod certs;
mod chat;
mod connection;
mod demo;
mod dialling;
mod doctor;
mod health;
mod import;
mod leaderless;
mod library;
mod original;
mod shells;
mod stages;
mod survey;
mod table;
mod top;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use diskstore_storage::disk::RealDisk;
use tokio::runtime::Builder;

use crate::cli::{Form, Servers, Task};
use crate::config::ConfigError;
use crate::lines::{self, Said};
pub use crate::receipt::{ReceiptStages, WriteReceipt};
use crate::status::Status;
use crate::tls::TlsError;
use administration::Members;
use answer::Answer;
use connection::{ANSWER_TIME_MAX, NodeConnection};
use health::Health;

pub use chat::{ChatFlags, run as run_chatroom};
pub use demo::follow_parent;
pub use dialling::Dialling;
pub use leaderless::run as run_leaderless;
pub use library::{Client, OperationError, Versioned};
pub use original::{ClientFlags, run as run_client};

/// What `status` exits with where the cluster is not well.
const EXIT_DEGRADED: u8 = 3;
/// Most addresses that `-addr` may name.
const ADDRESS_COUNT_MAX: usize = 64;

/// Why a sub-command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Wrong usage; exit code 2.
    #[error("-addr `{value}`: {reason}; give HOST:PORT, several with commas")]
    Usage {
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// What the demonstration's nodes could not run with; exit code 2.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A flag out of bounds; exit code 2.
    #[error("-{flag}{}: {reason}", given(value))]
    Flag {
        /// Its name.
        flag: String,
        /// What was given, if anything.
        value: String,
        /// What is allowed.
        reason: String,
    },
    /// A file with something wrong in it; exit code 2.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A variable of the environment with something wrong in it; exit code 2.
    #[error("the variable {variable}: {reason}")]
    Environment {
        /// Its name.
        variable: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// Not every command of a pipe succeeded.
    #[error("{count} of the commands failed")]
    SomeFailed {
        /// How many.
        count: u64,
    },
    /// No operation of a load succeeded.
    #[error("nothing succeeded")]
    NothingSucceeded,
    /// Operations of a load failed that were not expected to.
    #[error("{count} operations failed, such as: {first}; -faults names kinds that are expected")]
    OperationsFailed {
        /// How many.
        count: u64,
        /// The first one's words.
        first: String,
    },
    /// A load would write over what somebody has stored.
    #[error("{0}")]
    NoConsent(String),
    /// Certificates that cannot be used; exit code 2.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No node could be reached.
    #[error("no node answers ({}); is one running? Start one with: diskstore, or name another: \
             -addr HOST:PORT (of the program client: svrIps in its -config)", tried.join("; "))]
    NoNode {
        /// Each address and why it did not answer.
        tried: Vec<String>,
    },
    /// The node refused.
    #[error("{address} says: {message}")]
    Refused {
        /// The node.
        address: String,
        /// Its words.
        message: String,
    },
    /// A write was sent and its answer never came.
    #[error(
        "the outcome is unknown, {address} did not say that it was done: look at the slot, or at the \
             members, before you repeat that"
    )]
    Unknown {
        /// The node.
        address: String,
        /// What happened to the connection, or the node's words.
        source: io::Error,
    },
    /// What answers is no node of ours.
    #[error("{address} answers with something else than expected; is it a diskstore client port?")]
    Foreign {
        /// The address.
        address: String,
    },
    /// What was ordered takes longer than was to be waited for.
    #[error("{text}")]
    NotYet {
        /// What has not happened.
        text: String,
    },
    /// The slot holds no value.
    #[error("slot {key} holds no value")]
    NoValue {
        /// The slot.
        key: String,
    },
    /// The key holds no value.
    #[error("key {key} holds no value")]
    NoValueOfKey {
        /// The key.
        key: String,
    },
    /// Something on this machine failed.
    #[error("{what} failed")]
    Local {
        /// What was tried.
        what: String,
        /// The operating system's word.
        source: io::Error,
    },
    /// A file that cannot be shown.
    #[error("the file cannot be shown")]
    Inspect(#[from] diskstore_storage::Error),
    /// A node of the demonstration did not come up.
    #[error("{node} {event}; its last words:\n{words}")]
    Demo {
        /// Which one.
        node: String,
        /// What became of it.
        event: String,
        /// The end of its log.
        words: String,
    },
    /// `top` has nothing to draw on; exit code 2.
    #[error(
        "top draws on a terminal, and here is none; for programs there is: diskstore status -json"
    )]
    NoTerminal,
    /// Every node of the demonstration has stopped by itself.
    #[error("no node is left")]
    NoNodeLeft,
}

fn given(value: &str) -> String {
    if value.is_empty() { String::new() } else { format!(" `{value}`") }
}

impl ClientError {
    /// A flag out of bounds.
    fn flag(flag: &str, value: &str, reason: impl Into<String>) -> ClientError {
        let (flag, value) = (flag.to_owned(), value.to_owned());
        ClientError::Flag { flag, value, reason: reason.into() }
    }

    /// A file with something wrong in it.
    fn file(path: &Path, reason: impl Into<String>) -> ClientError {
        ClientError::File { path: path.to_owned(), reason: reason.into() }
    }

    /// Something on this machine failed.
    fn local(what: impl Into<String>, source: io::Error) -> ClientError {
        ClientError::Local { what: what.into(), source }
    }

    /// What the program exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            ClientError::Usage { .. }
            | ClientError::Config(_)
            | ClientError::File { .. }
            | ClientError::Environment { .. }
            | ClientError::Tls(_)
            | ClientError::NoTerminal
            | ClientError::Flag { .. } => 2,
            _ => 1,
        }
    }
}

/// Runs a sub-command to its end and prints what it answers. Returns what the program exits with.
///
/// # Errors
/// Everything that kept it from doing what it was asked.
pub fn run(task: &Task, out: &mut dyn Write) -> Result<u8, ClientError> {
    match task {
        Task::Status { form, servers } => status(form.json, servers, out),
        Task::Doctor(flags) => doctor::run(flags, out),
        task => run_simple(task, out).map(|()| 0),
    }
}

fn run_simple(task: &Task, out: &mut dyn Write) -> Result<(), ClientError> {
    match task {
        Task::Demo { slots, value_size, data, tls } => {
            let geometry = demo::Geometry::new(slots.clone(), value_size.clone())?;
            let secured = if *tls { demo::Secured::ByTls } else { demo::Secured::No };
            // Its nodes go on whether or not somebody reads what it says of them.
            demo::run(geometry, data.as_deref(), secured, &mut Said(lines::stdout()))
        }
        Task::Get { key, servers } => get(key, servers, out),
        Task::Set { key, value, receipt: true, form, servers } => {
            let value = value.as_encoded_bytes();
            let set = async |client: Client| client.set_with_receipt(key, value).await;
            let receipt = call(servers, set)?;
            let text = if form.json { receipt.to_json() } else { format!("OK\n{receipt}") };
            print(out, format!("{text}\n").as_bytes())
        }
        Task::Set { form: Form { json: true }, .. } => Err(ClientError::flag(
            "json",
            "",
            "it is the receipt that is printed as JSON: -receipt",
        )),
        Task::Set { key, value, servers, .. } => {
            call(servers, async |client| client.set(key, value.as_encoded_bytes()).await)?;
            print(out, b"OK\n")
        }
        Task::Delete { key, servers } => {
            if !call(servers, async |client| client.delete(key).await)? {
                return Err(ClientError::NoValue { key: key.clone() });
            }
            print(out, b"OK\n")
        }
        Task::Remove { member, servers } => {
            administration::order(&["REMOVE", member], servers)?;
            print(out, b"OK\n")
        }
        Task::Members { action, names, wait, form, servers } => {
            let (action, wait, json) = (*action, *wait, form.json);
            let members = Members { action, names, wait, json, servers };
            members.run(out)
        }
        Task::TransferLeader { member, form, servers } => {
            administration::transfer_leader(member.as_deref(), form.json, servers, out)
        }
        Task::Checkpoint { form, servers } => administration::checkpoint(form.json, servers, out),
        Task::Resize { slots, form, servers } => {
            administration::resize(slots, form.json, servers, out)
        }
        Task::Config { form, servers } => administration::config(form.json, servers, out),
        Task::Status { .. } | Task::Doctor(_) => unreachable!("they have exit codes of their own"),
        Task::Backup(_) | Task::Restore(_) | Task::Recover(_) => {
            unreachable!("`backup` runs them")
        }
        Task::Completions { shell, program } => shells::completions(*shell, program, out),
        Task::Man { output } => shells::manual(output, out),
        Task::Inspect { file } => inspect(file, out),
        Task::Token { .. } => print(out, &[&token(task)?[..], b"\n"].concat()),
        Task::Top(flags) => top::run(flags),
        Task::Bench(flags) => bench::run(flags, None, out),
        Task::Bundle(flags) => bundle::run(flags, out),
        Task::Certs(flags) => certs::run(flags, out),
    }
}

/// What `token` prints: a new token, or that all join tokens are revoked.
fn token(task: &Task) -> Result<Vec<u8>, ClientError> {
    let Task::Token { name, role, tokens, expires, servers } = task else {
        unreachable!("this is asked for tokens alone");
    };
    match (role, tokens) {
        (None, None) if name == "revoke-join" && expires.is_none() => {
            administration::order(&["UNINVITE"], servers)?;
            Ok(b"OK".to_vec())
        }
        (None, None) if name == "join" => administration::invite(*expires, servers),
        (Some(role), Some(file)) => Ok(dialling::make(name, role, file, *expires)?.into_bytes()),
        (None, _) => Err(ClientError::flag("role", "", "read, write or admin")),
        (_, None) => Err(ClientError::flag("tokens", "", "name the file of tokens")),
    }
}

fn get(key: &str, servers: &Servers, out: &mut dyn Write) -> Result<(), ClientError> {
    let value = call(servers, async |client| client.get(key).await)?;
    let mut value = value.ok_or_else(|| ClientError::NoValue { key: key.to_owned() })?;
    value.push(b'\n');
    print(out, &value)
}

/// Calls a cluster once, in a runtime of its own; each node is tried once.
fn call<T>(
    servers: &Servers,
    call: impl AsyncFnOnce(Client) -> Result<T, OperationError>,
) -> Result<T, ClientError> {
    let dialling = Dialling::of(servers)?;
    let client = Client::new(addresses(servers)?, dialling)?.with_patience(Duration::ZERO);
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| ClientError::local("starting", source))?;
    Ok(runtime.block_on(call(client))?)
}

impl From<OperationError> for ClientError {
    fn from(error: OperationError) -> ClientError {
        match error {
            OperationError::NotSent { reason } => ClientError::NoNode { tried: vec![reason] },
            OperationError::Refused { node: address, words: message } => {
                ClientError::Refused { address, message }
            }
            OperationError::Unknown { node: address, reason } => {
                ClientError::Unknown { address, source: io::Error::other(reason) }
            }
            OperationError::Foreign { node: address } => ClientError::Foreign { address },
        }
    }
}

fn status(as_json: bool, servers: &Servers, out: &mut dyn Write) -> Result<u8, ClientError> {
    let (status, json) = ask_status(servers)?;
    let health = Health::of(&health::ask_all(&status, &Dialling::of(servers)?));
    if as_json {
        // What a node of another version says goes through as it is.
        let mut value: serde_json::Value =
            serde_json::from_slice(&json).unwrap_or(serde_json::Value::Null);
        let shown = serde_json::to_value(&health);
        if let (Some(fields), Ok(shown)) = (value.as_object_mut(), shown) {
            fields.insert("health".to_owned(), shown);
        }
        print(out, format!("{value}\n").as_bytes())?;
    } else {
        print(out, table::render(&status, &health).as_bytes())?;
    }
    Ok(if health.is_healthy { 0 } else { EXIT_DEGRADED })
}

/// A node's status, and the JSON that it sent.
fn ask_status(servers: &Servers) -> Result<(Status, Vec<u8>), ClientError> {
    let (address, answer) = read(&[b"DISKSTORE", b"STATUS"], servers)?;
    let Answer::Value(json) = answer else { return Err(ClientError::Foreign { address }) };
    let Ok(status) = Status::from_json(&json) else { return Err(ClientError::Foreign { address }) };
    Ok((status, json))
}

fn inspect(file: &Path, out: &mut dyn Write) -> Result<(), ClientError> {
    // Its length is bounded, so it is printed at once; what was read before damage is shown too.
    let mut text = String::new();
    let outcome = diskstore_storage::inspect(&RealDisk::new(), file, &mut text);
    print(out, text.as_bytes())?;
    Ok(outcome?)
}

fn print(out: &mut dyn Write, bytes: &[u8]) -> Result<(), ClientError> {
    let written = out.write_all(bytes).and_then(|()| out.flush());
    written.map_err(|source| ClientError::Local { what: "writing the answer".to_owned(), source })
}

/// Asks the nodes in turn until one answers.
fn read(request: &[&[u8]], servers: &Servers) -> Result<(String, Answer), ClientError> {
    let (dialling, mut tried) = (Dialling::of(servers)?, Vec::new());
    for address in addresses(servers)? {
        let open = NodeConnection::open(address, &dialling);
        match open.and_then(|mut connection| connection.call(request)) {
            Ok(answer) => return accepted(address, answer),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(ClientError::Foreign { address: address.to_owned() });
            }
            Err(error) => tried.push(format!("{address}: {error}")),
        }
    }
    Err(ClientError::NoNode { tried })
}

/// Sends a write to the first node that can be reached, and to no other. // I1
fn write(request: &[&[u8]], servers: &Servers) -> Result<(String, Answer), ClientError> {
    write_patiently(request, servers, ANSWER_TIME_MAX)
}

/// As [`write`], where the answer may take `time`.
fn write_patiently(
    request: &[&[u8]],
    servers: &Servers,
    time: Duration,
) -> Result<(String, Answer), ClientError> {
    let (dialling, mut tried) = (Dialling::of(servers)?, Vec::new());
    for address in addresses(servers)? {
        let mut connection = match NodeConnection::open_for(address, &dialling, time) {
            Ok(connection) => connection,
            Err(error) => {
                tried.push(format!("{address}: {error}"));
                continue;
            }
        };
        return match connection.call(request) {
            Ok(answer) => accepted(address, answer),
            Err(source) if source.kind() == io::ErrorKind::InvalidData => {
                Err(ClientError::Foreign { address: address.to_owned() })
            }
            Err(source) => Err(ClientError::Unknown { address: address.to_owned(), source }),
        };
    }
    Err(ClientError::NoNode { tried })
}

fn accepted(address: &str, answer: Answer) -> Result<(String, Answer), ClientError> {
    let address = address.to_owned();
    match answer {
        Answer::Error(message) => Err(ClientError::Refused { address, message }),
        answer => Ok((address, answer)),
    }
}

fn addresses(servers: &Servers) -> Result<Vec<&str>, ClientError> {
    addresses_in(&servers.list)
}

fn addresses_in(text: &str) -> Result<Vec<&str>, ClientError> {
    let list: Vec<&str> = text.split(',').collect();
    let usage = |value: &str, reason| ClientError::Usage { value: value.to_owned(), reason };
    if list.len() > ADDRESS_COUNT_MAX {
        return Err(usage(text, "too many addresses"));
    }
    for address in &list {
        crate::config::Address::parse(address).map_err(|reason| usage(address, reason))?;
    }
    Ok(list)
}

#[cfg(test)]
mod tests;
