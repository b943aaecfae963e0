//! Spans of requests for a collector of OpenTelemetry: in programs that are built with the feature `otel`, and
//! where the environment names a collector (`OTEL_EXPORTER_OTLP_ENDPOINT`).
//!
//! Called by `program` at the start and the end, and for each request of HTTP and gRPC. Invariant:
//!
//! - I1: a collector that is slow or gone costs spans and never a request: they wait in the SDK's queue, which
//!   is bounded, and are sent by threads of their own.

use std::error::Error;
use std::sync::OnceLock;

use axum::http::{HeaderMap, Method, StatusCode};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::{Builder, Runtime};
use tracing::level_filters::LevelFilter;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

/// Where the collector listens, such as `http://127.0.0.1:4317`; it is spoken to by gRPC.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// What the spans are said to be of, unless `OTEL_SERVICE_NAME` says otherwise.
const SERVICE: &str = "diskstore";

static EXPORTING: OnceLock<Exporting> = OnceLock::new();

/// What sends spans to a collector.
#[derive(Debug)]
pub(crate) struct Exporting {
    provider: SdkTracerProvider,
    /// Has the exporter's connection; it ends with the process.
    _runtime: Runtime,
}

impl Exporting {
    /// Begins to send spans there.
    ///
    /// # Errors
    /// The address is none, or the system starts no thread.
    pub(crate) fn to(endpoint: &str) -> Result<Exporting, Box<dyn Error>> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let exporter = {
            let _within = runtime.enter();
            SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?
        };
        let service = std::env::var("OTEL_SERVICE_NAME").unwrap_or_else(|_| SERVICE.to_owned());
        let resource = Resource::builder().with_service_name(service).build();
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter);
        Ok(Exporting { provider: provider.with_resource(resource).build(), _runtime: runtime })
    }

    /// What records spans, and what is logged in them.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let ours = Targets::new().with_target("diskstore", LevelFilter::INFO);
        let tracer = self.provider.tracer(SERVICE);
        tracing_opentelemetry::layer().with_tracer(tracer).with_filter(ours)
    }

    /// Sends what there is.
    pub(crate) fn flush(&self) {
        if let Err(error) = self.provider.force_flush() {
            tracing::warn!(%error, "spans were not sent");
        }
    }
}

/// What records spans for the collector that the environment names, if it does. What is wrong with it is said
/// on stderr: nothing is logged yet.
pub(crate) fn layer<S>() -> Option<impl Layer<S> + use<S>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let endpoint = std::env::var(ENDPOINT).ok().filter(|endpoint| !endpoint.is_empty())?;
    match Exporting::to(&endpoint) {
        Ok(exporting) => Some(EXPORTING.get_or_init(|| exporting).layer()),
        Err(error) => {
            crate::lines::stderr().say(format!("{ENDPOINT}: {error}\n").as_bytes());
            None
        }
    }
}

/// Sends what is left, before the process ends.
pub(crate) fn finish() {
    if let Some(exporting) = EXPORTING.get() {
        exporting.flush();
    }
}

/// Makes the span of a request a part of the trace that its client has begun.
pub(crate) fn continued(span: &Span, method: &Method, path: &str, headers: &HeaderMap) {
    let context = TraceContextPropagator::new().extract(&Headers(headers));
    // Where nothing is recorded there is nothing to be a part of.
    drop(span.set_parent(context));
    span.set_attribute("http.request.method", method.to_string());
    span.set_attribute("url.path", path.to_owned());
}

/// Notes how a request was answered.
pub(crate) fn answered(span: &Span, status: StatusCode) {
    span.set_attribute("http.response.status_code", i64::from(status.as_u16()));
}

/// Headers as the propagator reads them.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(axum::http::HeaderName::as_str).collect()
    }
}
