//! The original's gRPC services of a leaderless node: `api.Cluster`, `api.Node` and `api.Clock`, with
//! reflection and health.
//!
//! Called by the session. Connections and bodies are those of `server/grpc`. Invariants:
//!
//! - I1: UNAVAILABLE, which clients send again by themselves, stands only where nothing was stored; a write
//!   that may have been stored is UNKNOWN or DEADLINE_EXCEEDED.
//! - I2: a request in which something is missing is refused, whatever is missing.

use std::io;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::http::{Request, Response};
use bytes::Bytes;
use diskstore_proto::API_DESCRIPTORS;
use diskstore_proto::api;
use diskstore_proto::api::clock_server::{Clock, ClockServer};
use diskstore_proto::api::cluster_server::{Cluster, ClusterServer};
use diskstore_proto::api::node_server::{Node, NodeServer};
use futures_util::{FutureExt, stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tonic::codegen::BoxStream;
use tonic::{Code, Status, async_trait};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::commands::KeyValue;
use super::metrics::method_of;
use super::registrar::level;
use super::{RegisterServer, Stopping};
use crate::leaderless::clock::{ClockValue, Version};
use crate::leaderless::message::Held;
use crate::leaderless::node::KEY_BYTES_MAX;
use crate::leaderless::operation::Level;
use crate::server::complaint::Complaint;
use crate::server::grpc::{
    Answered, Done, Reflection, RequestBody, ResponseBody, called, check, deadline_of,
    no_such_service, no_value, serve_by, service_of, timed_out,
};
use crate::server::http::Named;
use crate::server::socket::{Share, UNTAKEN_TIME_MAX};
use crate::server::wire::{Unsent, Wire};

/// How long a call may take whose client does not say.
const CALL_TIME_MAX: Duration = Duration::from_secs(5);
/// The metadata that says how many replicas are waited for.
const LEVEL: &str = "x-level";
/// Bytes of a message beside its key and its value.
const MESSAGE_SPARE_BYTES: usize = 64 << 10;
/// Bytes of keys after which a message of Node.Info is sent, and the keys that are looked at for it at a time:
/// together at most 1 MiB.
const INFO_BYTES: usize = 512 << 10;
const INFO_COUNT: usize = 8;
/// The services that can be asked for their health; none means the node.
const SERVICES: [&str; 4] = ["", "api.Cluster", "api.Node", "api.Clock"];

/// Says what services there are: with keys and values as text, as clients are to write them.
static REFLECTION: LazyLock<Reflection> = LazyLock::new(|| Reflection::of(API_DESCRIPTORS));

/// The services of one connection.
#[derive(Debug, Clone)]
struct Api(Arc<RegisterServer>);

/// Serves one connection until its client leaves, breaks the protocol, or the node stops.
///
/// # Errors
/// The client is gone.
pub(super) async fn serve<S>(
    server: Arc<RegisterServer>,
    stopping: Stopping,
    stream: S,
    before: Bytes,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let unsent = Arc::new(Unsent::new(Share::new(Arc::clone(&server.backlog))));
    let counters = Arc::clone(&server.counters);
    let wire = Wire::new(before, stream, counters, Arc::clone(&unsent), UNTAKEN_TIME_MAX);
    let of_calls = Arc::clone(&unsent);
    let answered = move |request: Request<hyper::body::Incoming>| {
        let named = Named::of(&request);
        named.answered(answer(Arc::clone(&server), Arc::clone(&of_calls), request)).boxed()
    };
    serve_by(wire, answered, stopping, &unsent).await
}

async fn answer(
    server: Arc<RegisterServer>,
    unsent: Arc<Unsent>,
    request: Request<hyper::body::Incoming>,
) -> Response<ResponseBody> {
    unsent.wait_for_room().await;
    let method = method_of(request.uri().path());
    if let Some(method) = method {
        server.calls.begin(method);
    }
    let bytes_max = server.registrar.value_bytes_max() + KEY_BYTES_MAX + MESSAGE_SPARE_BYTES;
    let (parts, incoming) = request.into_parts();
    let (body, _held) = RequestBody::new(incoming, bytes_max, Arc::clone(&server.bodies));
    let response = match check(&parts.method, &parts.headers) {
        Some(refused) => refused,
        None => route(&server, bytes_max, Request::from_parts(parts, body)).await,
    };
    if let Some(method) = method {
        // A call that failed has its status in the head, for it has no message.
        let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |it| it.code());
        server.calls.end(method, code);
    }
    response.map(|body| ResponseBody::new(body, unsent, None))
}

async fn route(
    server: &Arc<RegisterServer>,
    bytes_max: usize,
    request: Request<RequestBody>,
) -> Answered {
    let api = Api(Arc::clone(server));
    let service = service_of(request.uri().path()).to_owned();
    match service.as_str() {
        "api.Cluster" => {
            called(ClusterServer::new(api).max_decoding_message_size(bytes_max), request).await
        }
        "api.Node" => {
            called(NodeServer::new(api).max_decoding_message_size(bytes_max), request).await
        }
        "api.Clock" => called(ClockServer::new(api), request).await,
        "grpc.health.v1.Health" => called(HealthServer::new(api), request).await,
        service => match REFLECTION.of_service(service) {
            Some(answer) => answer(request).await,
            None => no_such_service(),
        },
    }
}

/// How many replicas a call waits for, and for how long.
struct Terms {
    level: Level,
    time_max: Duration,
}

impl Terms {
    fn of<T>(server: &RegisterServer, request: &tonic::Request<T>) -> Result<Terms, Status> {
        let asked = request.metadata().get(LEVEL);
        let level = asked.map_or(Ok(server.level), |text| level(text.as_encoded_bytes()))?;
        let time_max = deadline_of(request.metadata())?.unwrap_or(CALL_TIME_MAX);
        Ok(Terms { level, time_max })
    }

    async fn wait<T>(
        &self,
        done: Done,
        work: impl Future<Output = Result<T, impl Into<Complaint>>>,
    ) -> Result<T, Status> {
        match timeout(self.time_max, work).await {
            Ok(outcome) => Ok(outcome.map_err(Into::into)?),
            Err(_) => Err(timed_out("the call took too long", done)), // I1
        }
    }
}

/// What a message has, in the field that it is in.
fn either(text: Bytes, bytes: Bytes) -> Bytes {
    if bytes.is_empty() { text } else { bytes }
}

/// Key and value of an entry that a client gives (I2).
fn given(entry: Option<api::Entry>) -> Result<KeyValue, Status> {
    let entry = entry.ok_or_else(|| Complaint::wrong("`entry` is missing"))?;
    let api::Entry { key, value, value_bytes, key_bytes } = entry;
    Ok(KeyValue { key: either(key, key_bytes), value: either(value, value_bytes) })
}

/// An entry as clients are to read it: what is no text is in the fields beside.
fn entry(key: Bytes, value: Bytes) -> api::Entry {
    let place = |bytes: Bytes| match std::str::from_utf8(&bytes) {
        Ok(_) => (bytes, Bytes::new()),
        Err(_) => (Bytes::new(), bytes),
    };
    let ((key, key_bytes), (value, value_bytes)) = (place(key), place(value));
    api::Entry { key, value, value_bytes, key_bytes }
}

fn clock_of(version: Version) -> api::ClockValue {
    let ClockValue { epoch, clock } = version.to_clock_value();
    api::ClockValue { epoch, clock }
}

/// The version that a clock value stands for (I2).
fn version_of(value: Option<api::ClockValue>, name: &str) -> Result<Version, Status> {
    let value = value.ok_or_else(|| Complaint::wrong(format!("`{name}` is missing")))?;
    let value = ClockValue { epoch: value.epoch, clock: value.clock };
    Ok(Version::from_clock_value(value).map_err(|error| Complaint::wrong(error.to_string()))?)
}

impl Api {
    fn uptime(&self) -> Option<diskstore_proto::Duration> {
        diskstore_proto::Duration::try_from(self.0.begun.elapsed()).ok()
    }
}

#[async_trait]
impl Cluster for Api {
    async fn info(
        &self,
        _: tonic::Request<api::ClusterInfoRequest>,
    ) -> Result<tonic::Response<api::ClusterInfoResponse>, Status> {
        let layout = self.0.registrar.layout();
        let nodes = layout.nodes().iter().map(|node| api::StorageNode {
            id: node.id.clone(),
            address: node.address.as_ref().map_or_else(String::new, ToString::to_string),
        });
        Ok(tonic::Response::new(api::ClusterInfoResponse {
            uptime: self.uptime(),
            replication_level: i64::try_from(layout.replica_count()).unwrap_or(i64::MAX),
            storage_nodes: nodes.collect(),
        }))
    }

    async fn get(
        &self,
        request: tonic::Request<api::GetRequest>,
    ) -> Result<tonic::Response<api::GetResponse>, Status> {
        let terms = Terms::of(&self.0, &request)?;
        let key = request.into_inner().key;
        let reading = self.0.registrar.read(key.clone(), terms.level);
        let Held { version, value } = terms.wait(Done::Nothing, reading).await?;
        let value = value.ok_or_else(|| no_value(version.get()))?;
        Ok(tonic::Response::new(api::GetResponse { entry: Some(entry(key, value)) }))
    }

    async fn set(
        &self,
        request: tonic::Request<api::SetRequest>,
    ) -> Result<tonic::Response<api::SetResponse>, Status> {
        let terms = Terms::of(&self.0, &request)?;
        let KeyValue { key, value } = given(request.into_inner().entry)?;
        terms.wait(Done::Maybe, self.0.registrar.write(key, Some(value), terms.level)).await?;
        Ok(tonic::Response::new(api::SetResponse {}))
    }
}

#[async_trait]
impl Node for Api {
    async fn health(
        &self,
        _: tonic::Request<api::HealthRequest>,
    ) -> Result<tonic::Response<api::HealthResponse>, Status> {
        let is_ready = self.0.is_ready();
        let status = if is_ready { api::Health::Online } else { api::Health::Default };
        Ok(tonic::Response::new(api::HealthResponse {
            node_id: self.0.registrar.id().to_owned(),
            status: status.into(),
            uptime: self.uptime(),
        }))
    }

    type InfoStream = BoxStream<api::InfoResponse>;

    async fn info(
        &self,
        _: tonic::Request<api::InfoRequest>,
    ) -> Result<tonic::Response<Self::InfoStream>, Status> {
        let node = Arc::clone(self.0.registrar.node()?);
        let api = self.clone();
        // The first piece comes even if there are no keys: it says who this is.
        let pieces = stream::unfold(Some(0), move |cursor| {
            let (node, api) = (Arc::clone(&node), api.clone());
            async move {
                let (mut cursor, mut bytes) = (Some(cursor?), 0);
                let node_id = node.config().id.clone();
                let uptime = api.uptime();
                let mut piece =
                    api::InfoResponse { node_id, uptime, keys: Vec::new(), keys_bytes: Vec::new() };
                while let Some(from) = cursor.filter(|_| bytes < INFO_BYTES) {
                    let page = node.keys_here(from, INFO_COUNT);
                    for key in page.keys {
                        bytes += key.len();
                        let is_text = std::str::from_utf8(&key).is_ok();
                        (if is_text { &mut piece.keys } else { &mut piece.keys_bytes }).push(key);
                    }
                    cursor = page.next;
                    tokio::task::yield_now().await; // a page may be deletes alone
                }
                Some((Ok(piece), cursor))
            }
        });
        Ok(tonic::Response::new(Box::pin(pieces)))
    }

    async fn get(
        &self,
        request: tonic::Request<api::GetRequest>,
    ) -> Result<tonic::Response<api::NodeGetResponse>, Status> {
        let terms = Terms::of(&self.0, &request)?;
        let key = request.into_inner().key;
        let node = self.0.registrar.node()?;
        let Held { version, value } = terms.wait(Done::Nothing, node.held(key.clone())).await?;
        let clocked_entry = value.map(|value| {
            let clock = Some(clock_of(version));
            api::ClockedEntry { entry: Some(entry(key, value)), clock }
        });
        Ok(tonic::Response::new(api::NodeGetResponse { clocked_entry }))
    }

    async fn set(
        &self,
        request: tonic::Request<api::NodeSetRequest>,
    ) -> Result<tonic::Response<api::SetResponse>, Status> {
        let terms = Terms::of(&self.0, &request)?;
        let node = self.0.registrar.node()?;
        let (KeyValue { key, value }, version) = match request.into_inner() {
            api::NodeSetRequest { clocked_entry: Some(_), entry: Some(_) } => {
                let words = "give `clocked_entry`, or `entry` for a version of this node";
                return Err(Complaint::wrong(words).into());
            }
            api::NodeSetRequest { clocked_entry: Some(clocked), .. } => {
                let version = version_of(clocked.clock, "clocked_entry.clock")?;
                (given(clocked.entry)?, Some(version))
            }
            api::NodeSetRequest { entry, .. } => (given(entry)?, None),
        };
        terms.wait(Done::Maybe, node.store_here(key, Some(value), version)).await?;
        Ok(tonic::Response::new(api::SetResponse {}))
    }
}

#[async_trait]
impl Clock for Api {
    async fn get(
        &self,
        _: tonic::Request<api::ClockGetRequest>,
    ) -> Result<tonic::Response<api::ClockGetResponse>, Status> {
        let version = self.0.registrar.node()?.clock().await;
        Ok(tonic::Response::new(api::ClockGetResponse { value: Some(clock_of(version)) }))
    }

    async fn set(
        &self,
        request: tonic::Request<api::ClockSetRequest>,
    ) -> Result<tonic::Response<api::ClockSetResponse>, Status> {
        let version = version_of(request.into_inner().value, "value")?;
        let raised = self.0.registrar.node()?.raise_clock(version).await;
        raised.map_err(Complaint::from)?;
        Ok(tonic::Response::new(api::ClockSetResponse {}))
    }
}

#[async_trait]
impl Health for Api {
    type WatchStream = BoxStream<HealthCheckResponse>;

    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        if !SERVICES.contains(&request.get_ref().service.as_str()) {
            return Err(Status::not_found("no such service"));
        }
        let is_ready = self.0.is_ready();
        let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(tonic::Response::new(HealthCheckResponse { status: status.into() }))
    }

    async fn watch(
        &self,
        _: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("ask with Check, now and then"))
    }
}
