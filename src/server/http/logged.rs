//! What is logged of one request of HTTP or gRPC, and under which id.
//!
//! A client, or a proxy before it, gives a request an id so that the lines of all programs that had to do with it
//! can be found: `X-Request-Id`, or the trace of `traceparent` (W3C Trace Context). Every line that is logged while
//! the request is answered carries it, and the response has it too. With `-log debug` each request has a line.
//!
//! - I1: an id is short and of visible characters: it can neither fill the log nor write lines into it.
//! - I2: a request without an id costs two looks for a header.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::time::Instant;
use tracing::{Instrument, Level, Span};

/// Most bytes of an id.
const ID_BYTES_MAX: usize = 128;
/// Most bytes of a path that are logged.
const PATH_BYTES_MAX: usize = 256;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
/// Hexadecimal digits of a trace id.
const TRACE_ID_DIGITS: usize = 32;

/// What a request is called in the log.
pub(crate) struct Named {
    /// Goes back with the response.
    id: Option<HeaderValue>,
    span: Span,
    /// What is asked for, where that is logged.
    line: Option<Asked>,
}

struct Asked {
    method: String,
    path: String,
}

impl Named {
    /// Takes the names that a request came with.
    pub(crate) fn of<B>(request: &Request<B>) -> Named {
        let headers = request.headers();
        let id = headers.get(REQUEST_ID).filter(|id| is_id(id.as_bytes()));
        let word = |id: &HeaderValue| id.to_str().unwrap_or_default().to_owned();
        let span = match (id.map(word), trace_id(headers)) {
            (Some(id), Some(trace)) => tracing::error_span!("request", id, trace),
            (Some(id), None) => tracing::error_span!("request", id),
            (None, Some(trace)) => tracing::error_span!("request", trace),
            (None, None) => nameless(),
        };
        #[cfg(feature = "otel")]
        crate::traces::continued(&span, request.method(), request.uri().path(), headers);
        let line = tracing::enabled!(Level::DEBUG).then(|| {
            let path = request.uri().path();
            let path = path[..path.floor_char_boundary(PATH_BYTES_MAX)].to_owned();
            Asked { method: request.method().to_string(), path }
        });
        Named { id: id.cloned(), span, line }
    }

    /// Has a request answered under its names.
    pub(crate) async fn answered<B>(
        self,
        answer: impl Future<Output = Response<B>>,
    ) -> Response<B> {
        let Named { id, span, line } = self;
        let logged = async {
            let begun = Instant::now();
            let mut response = answer.await;
            #[cfg(feature = "otel")]
            crate::traces::answered(&Span::current(), response.status());
            if let Some(Asked { method, path }) = line {
                let (status, elapsed) = (response.status().as_u16(), begun.elapsed());
                tracing::debug!(method, path, status, ?elapsed, "answered");
            }
            response.headers_mut().extend(id.map(|id| (REQUEST_ID, id)));
            response
        };
        logged.instrument(span).await
    }
}

/// The span of a request that came without a name: there is one only where all requests are traced.
fn nameless() -> Span {
    if cfg!(feature = "otel") { tracing::error_span!("request") } else { Span::none() }
}

/// I1
fn is_id(bytes: &[u8]) -> bool {
    (1..=ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

/// The trace that `traceparent` names: `00-TRACE-PARENT-FLAGS`.
fn trace_id(headers: &HeaderMap) -> Option<String> {
    let parent = headers.get(TRACE_PARENT)?.to_str().ok()?;
    let trace = parent.split('-').nth(1)?;
    let is_trace = trace.len() == TRACE_ID_DIGITS
        && trace.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
        && trace.bytes().any(|digit| digit != b'0');
    is_trace.then(|| trace.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use axum::http::StatusCode;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    /// Keeps what is logged.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Kept {
        type Writer = Kept;

        fn make_writer(&self) -> Kept {
            self.clone()
        }
    }

    /// What is logged of a request with these headers, and the id that its response has.
    fn logged(level: Level, headers: &[(&'static str, &str)]) -> (String, Option<String>) {
        let kept = Kept::default();
        let subscriber = tracing_subscriber::fmt().json().with_max_level(level);
        let subscriber = subscriber.with_writer(kept.clone()).finish();
        let mut request = Request::builder().uri("/v1/slots/4?x=1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let response = tracing::subscriber::with_default(subscriber, || {
            let named = Named::of(&request);
            let answer = async {
                tracing::warn!("half way");
                Response::builder().status(StatusCode::NOT_FOUND).body(()).unwrap()
            };
            futures_util::FutureExt::now_or_never(named.answered(answer)).unwrap()
        });
        let id = response.headers().get(REQUEST_ID).map(|id| id.to_str().unwrap().to_owned());
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        (text, id)
    }

    #[test]
    fn every_line_of_a_request_carries_its_id_and_so_does_the_response() {
        let (text, id) = logged(Level::WARN, &[("x-request-id", "a-7")]);
        assert!(text.contains("half way") && text.contains(r#""id":"a-7""#), "{text}");
        assert_eq!((id.as_deref(), text.lines().count()), (Some("a-7"), 1));
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = format!("00-{trace}-00f067aa0ba902b7-01");
        let (text, id) = logged(Level::WARN, &[("traceparent", &parent)]);
        assert!(text.contains(&format!(r#""trace":"{trace}""#)) && id.is_none(), "{text}");
    }

    #[test]
    fn with_debug_there_is_a_line_on_each_request() {
        let (text, _) = logged(Level::DEBUG, &[]);
        let last = text.lines().last().unwrap();
        for words in ["answered", r#""path":"/v1/slots/4""#, r#""status":404"#, r#""method":"GET""#]
        {
            assert!(last.contains(words), "{words}: {last}");
        }
        assert_eq!(logged(Level::INFO, &[]).0.lines().count(), 1, "the warning alone");
    }

    #[test]
    fn what_is_no_id_is_not_taken() {
        let long = "x".repeat(ID_BYTES_MAX + 1);
        for id in ["", "two words", "a\tb", &long] {
            assert_eq!(logged(Level::WARN, &[("x-request-id", id)]).1, None, "{id}");
        }
        for parent in ["", "00", "00-short-1-01", &format!("00-{}-1-01", "0".repeat(32)), &long] {
            let (text, _) = logged(Level::WARN, &[("traceparent", parent)]);
            assert!(!text.contains("trace"), "{parent}: {text}");
        }
    }

    /// Plays a collector: gives the bytes of the first message that is sent to it.
    #[cfg(feature = "otel")]
    fn collector() -> (String, std::sync::mpsc::Receiver<Vec<u8>>) {
        use axum::body::{Body, to_bytes};
        use hyper::server::conn::http2;
        use hyper_util::rt::{TokioExecutor, TokioIo};

        let (sent, received) = std::sync::mpsc::channel();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        listener.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let (stream, _) = listener.accept().await.unwrap();
                let service = hyper::service::service_fn(|request: Request<_>| {
                    let sent = sent.clone();
                    async move {
                        let body = to_bytes(Body::new(request.into_body()), 1 << 20).await;
                        drop(sent.send(body.unwrap().to_vec()));
                        let response = Response::builder().header("grpc-status", "0");
                        let response = response.header("content-type", "application/grpc");
                        response.body(Body::empty())
                    }
                });
                let connection = http2::Builder::new(TokioExecutor::new());
                drop(connection.serve_connection(TokioIo::new(stream), service).await);
            });
        });
        (endpoint, received)
    }

    #[cfg(feature = "otel")]
    #[test]
    fn a_span_of_the_clients_trace_arrives_at_the_collector() {
        use tracing_subscriber::layer::SubscriberExt;

        let (endpoint, received) = collector();
        let exporting = crate::traces::Exporting::to(&endpoint).unwrap();
        let subscriber = tracing_subscriber::registry().with(exporting.layer());
        let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let request = Request::builder().method("PUT").uri("/v1/slots/4?x=1");
        let request = request.header("traceparent", format!("00-{trace}-{parent}-01"));
        let request = request.body(()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let named = Named::of(&request);
            let answer = async { Response::builder().status(204).body(()).unwrap() };
            drop(futures_util::FutureExt::now_or_never(named.answered(answer)).unwrap());
        });
        let flushing = std::thread::spawn(move || exporting.flush());
        let message = received.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
        let bytes = |hex: &str| -> Vec<u8> {
            let pairs = (0..hex.len()).step_by(2).map(|at| &hex[at..at + 2]);
            pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
        };
        let wanted = [bytes(trace), bytes(parent), b"/v1/slots/4".into(), b"PUT".into()];
        for wanted in wanted.iter().chain([&b"diskstore".to_vec()]) {
            let is_there = message.windows(wanted.len()).any(|part| part == wanted);
            assert!(is_there, "{wanted:?} in {message:?}");
        }
        flushing.join().unwrap();
    }
}
