//! `leaderless import`: copies what a running original (leaderless-key-value-store) holds, for its files are
//! not read here.
//!
//! Each of its nodes is asked for its keys (Node.Info) and for each of them (Node.Get); of what they answer
//! the highest clock wins, as a read of the original has it. It goes to a node of ours, which writes it at the
//! level that is asked for. Nothing of the original is changed, and writes to it meanwhile may be missed: stop
//! its clients first.
//!
//! - I1: nothing is taken for copied that was not acknowledged, and what is missing is said.

use std::collections::BTreeSet;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::{Request, Response, Uri};
use bytes::Bytes;
use diskstore_proto::api;
use diskstore_proto::api::node_client::NodeClient;
use futures_util::future::join_all;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::Service;

use super::answer::Answer;
use super::connection::NodeConnection;
use super::dialling::Dialling;
use super::{ClientError, addresses_in, print};
use crate::cli::RegisterAsked;
use crate::config::Address;
use crate::leaderless::operation::Level;

/// Keys that are asked for at a time.
const BATCH_COUNT: usize = 16;
/// Most bytes of a message of the original, which sends all keys in one.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// How long a call may take.
const CALL_TIME_MAX: Duration = Duration::from_secs(30);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);

/// A connection of HTTP/2, as tonic wants it.
#[derive(Debug, Clone)]
struct OriginalConnection(http2::SendRequest<Body>);

impl Service<Request<Body>> for OriginalConnection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// A node of the original.
struct OriginalNode {
    address: String,
    client: NodeClient<OriginalConnection>,
}

/// A value with the clock that it was stored under.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Clocked {
    /// Epoch and clock.
    clock: [u64; 2],
    value: Bytes,
}

/// What becomes of keys that were written here before: a second import must not bring old values back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    LeftAlone,
    Overwritten,
}

/// What an import came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Tally {
    copied: u64,
    /// Keys that had been written here before.
    left_alone: u64,
    without_value: u64,
}

/// Copies everything.
pub(super) fn run(
    from: &str,
    existing: Existing,
    asked: &RegisterAsked,
    out: &mut dyn Write,
) -> Result<(), ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| ClientError::local("starting", source))?;
    let sources = addresses_in(from)?;
    let mut target = Target::open(asked)?;
    let tally = runtime.block_on(copy_all(sources, existing, &mut target))?;
    if asked.form.json {
        let line = serde_json::to_string(&tally).expect("invariant: numbers have a JSON form");
        return print(out, format!("{line}\n").as_bytes());
    }
    let Tally { copied, left_alone, without_value } = tally;
    let left = match left_alone {
        0 => String::new(),
        count => format!("; {count} were left alone, for they had been written here (-overwrite)"),
    };
    let rest = match without_value {
        0 => String::new(),
        count => format!("; {count} had no value"),
    };
    print(out, format!("{copied} keys were copied{left}{rest}\n").as_bytes())
}

async fn copy_all(
    sources: Vec<&str>,
    existing: Existing,
    target: &mut Target,
) -> Result<Tally, ClientError> {
    let connected = join_all(sources.into_iter().map(connect)).await;
    let mut nodes = connected.into_iter().collect::<Result<Vec<_>, _>>()?;
    let keys: Vec<Bytes> = keys_of(&mut nodes).await?.into_iter().collect();
    let bar = ProgressBar::new(keys.len() as u64); // shows nothing but on a terminal
    let mut tally = Tally::default();
    for batch in keys.chunks(BATCH_COUNT) {
        let newest = join_all(batch.iter().map(|key| newest(&nodes, key))).await;
        for (key, found) in batch.iter().zip(newest) {
            match found? {
                None => tally.without_value += 1,
                Some(_) if existing == Existing::LeftAlone && target.knows(key)? => {
                    tally.left_alone += 1;
                }
                Some(found) => {
                    target.write(key, &found.value)?;
                    tally.copied += 1;
                }
            }
        }
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    Ok(tally)
}

/// Where everything goes: one connection, and the level that is asked for.
struct Target {
    address: String,
    connection: NodeConnection,
    level: String,
}

impl Target {
    fn open(asked: &RegisterAsked) -> Result<Target, ClientError> {
        let level = asked.level.as_deref().unwrap_or("default");
        if level != "default" && Level::parse(level).is_none() {
            return Err(ClientError::flag("level", level, "give one, quorum or all"));
        }
        let mut tried = Vec::new();
        for address in addresses_in(&asked.list)? {
            match NodeConnection::open(address, &Dialling::default()) {
                Ok(connection) => {
                    let (address, level) = (address.to_owned(), level.to_owned());
                    return Ok(Target { address, connection, level });
                }
                Err(error) => tried.push(format!("{address}: {error}")),
            }
        }
        Err(ClientError::NoNode { tried })
    }

    /// Whether a key was ever written there, deletes among that: it has a version then.
    fn knows(&mut self, key: &[u8]) -> Result<bool, ClientError> {
        let level = self.level.clone();
        let parts = self.ask(&[b"DISKSTORE", b"READ", level.as_bytes(), key])?;
        Ok(parts.first() != Some(&Answer::Value(b"0".to_vec())))
    }

    fn write(&mut self, key: &[u8], value: &[u8]) -> Result<(), ClientError> {
        let level = self.level.clone();
        self.ask(&[b"DISKSTORE", b"WRITE", level.as_bytes(), key, value]).map(drop)
    }

    /// A request that is answered with a list (I1).
    fn ask(&mut self, request: &[&[u8]]) -> Result<Vec<Answer>, ClientError> {
        let address = self.address.clone();
        match self.connection.call(request) {
            Ok(Answer::List(parts)) => Ok(parts),
            Ok(Answer::Error(message)) => Err(ClientError::Refused { address, message }),
            Ok(_) => Err(ClientError::Foreign { address }),
            Err(source) => Err(ClientError::Unknown { address, source }),
        }
    }
}

async fn connect(address: &str) -> Result<OriginalNode, ClientError> {
    let parsed = Address::parse(address);
    let parsed = parsed.map_err(|reason| ClientError::flag("from", address, reason))?;
    let failed = |error: String| ClientError::NoNode { tried: vec![format!("{address}: {error}")] };
    let opened = timeout(CONNECT_TIME_MAX, async {
        let stream = TcpStream::connect((parsed.host.as_str(), parsed.port)).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        shaken.map_err(|error| error.to_string())
    });
    let opened = opened.await.unwrap_or_else(|_| Err("it does not answer in time".to_owned()));
    let (sender, connection) = opened.map_err(failed)?;
    tokio::spawn(connection); // it ends with what asks
    let origin = format!("http://{parsed}").parse::<Uri>();
    let origin = origin.map_err(|error| failed(error.to_string()))?;
    let client = NodeClient::with_origin(OriginalConnection(sender), origin)
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    Ok(OriginalNode { address: address.to_owned(), client })
}

fn refused(address: &str, status: &tonic::Status) -> ClientError {
    let message = format!("{}: {}", status.code(), status.message());
    ClientError::Refused { address: address.to_owned(), message }
}

/// What comes of a call, within a bounded time.
async fn within<T>(
    call: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<T, tonic::Status> {
    let late = || tonic::Status::deadline_exceeded("it does not answer in time");
    timeout(CALL_TIME_MAX, call).await.unwrap_or_else(|_| Err(late()))
}

/// The keys of all nodes.
async fn keys_of(nodes: &mut [OriginalNode]) -> Result<BTreeSet<Bytes>, ClientError> {
    let mut keys = BTreeSet::new();
    for OriginalNode { address, client } in nodes {
        let asked = within(client.info(api::InfoRequest {})).await;
        let mut pieces = asked.map_err(|status| refused(address, &status))?.into_inner();
        loop {
            let piece =
                within(pieces.message()).await.map_err(|status| refused(address, &status))?;
            let Some(piece) = piece else { break };
            let all = piece.keys.into_iter().chain(piece.keys_bytes);
            keys.extend(all.map(|key| Bytes::copy_from_slice(&key)));
        }
    }
    Ok(keys)
}

/// What the nodes hold of a key, the one with the highest clock.
async fn newest(nodes: &[OriginalNode], key: &Bytes) -> Result<Option<Clocked>, ClientError> {
    let asked = nodes.iter().map(|node| async move {
        let mut client = node.client.clone();
        let answer = within(client.get(api::GetRequest { key: key.clone() })).await;
        answer.map(tonic::Response::into_inner).map_err(|status| refused(&node.address, &status))
    });
    let mut best = None;
    for answer in join_all(asked).await {
        let Some(api::ClockedEntry { entry: Some(entry), clock }) = answer?.clocked_entry else {
            continue;
        };
        let clock = clock.unwrap_or_default();
        let value = if entry.value_bytes.is_empty() { entry.value } else { entry.value_bytes };
        let found = Clocked { clock: [clock.epoch, clock.clock], value };
        best = Some(match best {
            None => found,
            Some(best) => newer(best, found),
        });
    }
    Ok(best)
}

/// The newer of two; of equal clocks, which the original can give, the higher bytes.
fn newer(one: Clocked, other: Clocked) -> Clocked {
    let is_newer = (other.clock, &other.value) > (one.clock, &one.value);
    if is_newer { other } else { one }
}

#[cfg(test)]
mod tests;
