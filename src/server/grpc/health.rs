//! Whether the node serves, as `grpc.health.v1` asks: what `/readyz` says over HTTP.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, stream};
use tokio::time::sleep;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, async_trait};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::caller::Caller;
use crate::server::http::obstacle;

/// The services that can be asked for; none means the node.
const SERVICES: [&str; 3] = ["", "diskstore.v1.Store", "konsen.KVService"];
/// How often somebody who watches is told, if it changed.
const WATCH_PAUSE: Duration = Duration::from_millis(500);

/// The service of one connection.
#[derive(Debug)]
pub(super) struct Standing(pub(super) Arc<Caller>);

#[async_trait]
impl Health for Standing {
    type WatchStream = BoxStream<HealthCheckResponse>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !SERVICES.contains(&request.get_ref().service.as_str()) {
            return Err(Status::not_found("no such service"));
        }
        Ok(Response::new(HealthCheckResponse { status: now(&self.0).into() }))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let is_known = SERVICES.contains(&request.get_ref().service.as_str());
        let place = Arc::new(self.0.watching_place()?);
        let told = stream::unfold((Arc::clone(&self.0), None), move |(caller, before)| {
            let _place = Arc::clone(&place);
            async move {
                let mut stopping = caller.stopping.clone().fuse();
                loop {
                    let found = if is_known { now(&caller) } else { ServingStatus::ServiceUnknown };
                    if before != Some(found) {
                        let response = HealthCheckResponse { status: found.into() };
                        return Some((Ok(response), (caller, Some(found))));
                    }
                    tokio::select! {
                        () = &mut stopping => return None,
                        () = sleep(WATCH_PAUSE) => {}
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(told)))
    }
}

fn now(caller: &Caller) -> ServingStatus {
    let node = &caller.server.node;
    match obstacle(&node.status(), node.config().kind().holds_values) {
        None => ServingStatus::Serving,
        Some(_) => ServingStatus::NotServing,
    }
}
