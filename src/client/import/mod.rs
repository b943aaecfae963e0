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

/// Keys that are copied at a time, and bytes of their values after which it is enough.
const BATCH_COUNT: usize = 64;
const BATCH_BYTES: usize = 4 << 20;
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

/// A key with what is copied.
struct Copied {
    key: Bytes,
    value: Bytes,
}

/// A value with the clock that it was stored under.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Clocked {
    /// Epoch and clock.
    clock: [u64; 2],
    value: Bytes,
}

/// Copies everything.
pub(super) fn run(
    from: &str,
    asked: &RegisterAsked,
    out: &mut dyn Write,
) -> Result<(), ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| ClientError::local("starting", source))?;
    let sources = addresses_in(from)?;
    let mut target = target(asked)?;
    let (copied, gone) = runtime.block_on(async {
        let mut nodes = join_all(sources.into_iter().map(connect))
            .await
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        let keys: Vec<Bytes> = keys_of(&mut nodes).await?.into_iter().collect();
        let bar = ProgressBar::new(keys.len() as u64); // shows nothing but on a terminal
        let (mut copied, mut gone) = (0_u64, 0_u64);
        let mut rest = keys.as_slice();
        while !rest.is_empty() {
            let (batch, behind) = rest.split_at(rest.len().min(BATCH_COUNT));
            rest = behind;
            let newest = join_all(batch.iter().map(|key| newest(&nodes, key))).await;
            let mut pairs = Vec::new();
            for (key, found) in batch.iter().zip(newest) {
                match found? {
                    Some(found) => pairs.push(Copied { key: key.clone(), value: found.value }),
                    None => gone += 1,
                }
            }
            copied += pairs.len() as u64;
            store(&mut target, &pairs)?;
            bar.inc(batch.len() as u64);
        }
        bar.finish_and_clear();
        Ok::<_, ClientError>((copied, gone))
    })?;
    if asked.form.json {
        let line = serde_json::json!({"copied": copied, "without_value": gone});
        return print(out, format!("{line}\n").as_bytes());
    }
    let rest = if gone > 0 { format!("; {gone} had no value") } else { String::new() };
    print(out, format!("{copied} keys were copied{rest}\n").as_bytes())
}

/// Where everything goes: one connection, at the level that is asked for.
struct Target {
    address: String,
    connection: NodeConnection,
}

fn target(asked: &RegisterAsked) -> Result<Target, ClientError> {
    let level = asked.level.as_deref().unwrap_or("quorum");
    if Level::parse(level).is_none() {
        return Err(ClientError::flag("level", level, "give one, quorum or all"));
    }
    let mut tried = Vec::new();
    for address in addresses_in(&asked.list)? {
        match NodeConnection::open(address, &Dialling::default()) {
            Ok(connection) => {
                let mut target = Target { address: address.to_owned(), connection };
                target.order(&[b"LEVEL", level.as_bytes()])?;
                return Ok(target);
            }
            Err(error) => tried.push(format!("{address}: {error}")),
        }
    }
    Err(ClientError::NoNode { tried })
}

impl Target {
    /// An order that is answered with OK.
    fn order(&mut self, request: &[&[u8]]) -> Result<(), ClientError> {
        let address = self.address.clone();
        match self.connection.call(request) {
            Ok(Answer::Status(_)) => Ok(()),
            Ok(Answer::Error(message)) => Err(ClientError::Refused { address, message }),
            Ok(_) => Err(ClientError::Foreign { address }),
            Err(source) => Err(ClientError::Unknown { address, source }),
        }
    }
}

/// Stores so many keys (I1).
fn store(target: &mut Target, pairs: &[Copied]) -> Result<(), ClientError> {
    let mut words: Vec<&[u8]> = vec![b"MSET"];
    let mut bytes = 0;
    for Copied { key, value } in pairs {
        if words.len() > 1 && bytes + value.len() > BATCH_BYTES {
            target.order(&words)?;
            words.truncate(1);
            bytes = 0;
        }
        bytes += value.len();
        words.extend([&key[..], &value[..]]);
    }
    if words.len() > 1 { target.order(&words) } else { Ok(()) }
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

/// The keys of all nodes.
async fn keys_of(nodes: &mut [OriginalNode]) -> Result<BTreeSet<Bytes>, ClientError> {
    let mut keys = BTreeSet::new();
    for OriginalNode { address, client } in nodes {
        let failed = |status: tonic::Status| refused(address, &status);
        let mut pieces = client.info(api::InfoRequest {}).await.map_err(failed)?.into_inner();
        let failed = |status: tonic::Status| refused(address, &status);
        while let Some(piece) = pieces.message().await.map_err(failed)? {
            keys.extend(
                piece
                    .keys
                    .into_iter()
                    .chain(piece.keys_bytes)
                    .map(|key| Bytes::copy_from_slice(&key)),
            );
        }
    }
    Ok(keys)
}

/// What the nodes hold of a key, the one with the highest clock.
async fn newest(nodes: &[OriginalNode], key: &Bytes) -> Result<Option<Clocked>, ClientError> {
    let asked = nodes.iter().map(|node| async move {
        let mut client = node.client.clone();
        let asked = timeout(CALL_TIME_MAX, client.get(api::GetRequest { key: key.clone() })).await;
        let late = || tonic::Status::deadline_exceeded("it does not answer in time");
        let answer = asked.unwrap_or_else(|_| Err(late()));
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
