//! Connections over a pipe within the process, with bounds that a test can wait for.

use std::future::pending;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Notify;

use super::*;
use crate::server::counters::Counters;
use crate::server::socket::{Backlog, Share};
use crate::server::wire::Unsent;

const LONG: Duration = Duration::from_hours(1);
const SHORT: Duration = Duration::from_millis(20);
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

fn wire(stream: DuplexStream, untaken_time_max: Duration) -> Wire<DuplexStream> {
    let unsent = Arc::new(Unsent::new(Share::new(Arc::new(Backlog::new(LONG)))));
    Wire::new(Bytes::new(), stream, Arc::new(Counters::default()), unsent, untaken_time_max)
}

async fn all_of(mut client: DuplexStream) -> String {
    let mut found = String::new();
    client.read_to_string(&mut found).await.unwrap();
    found
}

#[tokio::test]
async fn a_head_that_does_not_come_ends_the_connection() {
    for sent in [&b""[..], b"GET / HTTP/1.1\r\nhost: "] {
        let (ours, mut client) = tokio::io::duplex(1 << 10);
        client.write_all(sent).await.unwrap();
        let answered = async |_| -> Response { unreachable!("there is no request") };
        let served = serve_by(wire(ours, LONG), SHORT, |it| Box::pin(answered(it)), pending());
        drop(served.await.unwrap());
        let found = all_of(client).await;
        assert!(found.is_empty() || found.starts_with("HTTP/1.1 408 "), "{found}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_answered() {
    let (ours, mut client) = tokio::io::duplex(1 << 10);
    client
        .write_all(b"PUT / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\na")
        .await
        .unwrap();
    let answered = async |request: Request| -> Response {
        let taken = take_within(request.into_body(), 2, SHORT).await;
        taken.map_or_else(closing, |_| unreachable!("half of it is missing"))
    };
    let served = serve_by(wire(ours, LONG), LONG, |it| Box::pin(answered(it)), pending());
    drop(served.await.unwrap());
    let found = all_of(client).await;
    assert!(found.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{found}");
    assert!(
        found
            .ends_with(r#"{"error":{"code":"timeout","message":"the body did not come in time"}}"#)
    );
}

#[tokio::test]
async fn a_stop_answers_what_was_taken_and_takes_no_more() {
    let (ours, mut client) = tokio::io::duplex(1 << 10);
    let (taken, stop) = (Notify::new(), Notify::new());
    client.write_all(&[GET, GET].concat()).await.unwrap();
    let answered = async |_| -> Response {
        taken.notify_one();
        stop.notified().await;
        stop.notify_one();
        "answered".into_response()
    };
    let served = serve_by(wire(ours, LONG), LONG, |it| Box::pin(answered(it)), async {
        taken.notified().await;
        stop.notify_one();
    });
    drop(served.await.unwrap());
    let found = all_of(client).await;
    assert!(found.starts_with("HTTP/1.1 200 OK\r\n") && found.ends_with("answered"), "{found}");
    assert!(found.contains("connection: close\r\n"), "{found}");
    assert_eq!(found.matches("HTTP/1.1").count(), 1, "{found}");
}

#[tokio::test]
async fn a_client_that_never_takes_its_response_is_ended() {
    let (ours, mut client) = tokio::io::duplex(64);
    client.write_all(GET).await.unwrap();
    let answered = async |_| -> Response { vec![b'x'; 1 << 20].into_response() };
    let served = serve_by(wire(ours, SHORT), LONG, |it| Box::pin(answered(it)), pending());
    drop(served.await.unwrap());
    assert_eq!(all_of(client).await.len(), 64);
}

#[test]
fn bodies_of_all_requests_together_are_bounded() {
    let bodies = Semaphore::new(BODY_BYTES_MAX_ALL);
    let of = |bytes: usize| Body::from(vec![0; bytes]);
    let largest = of(BODY_BYTES_MAX);
    let mut held: Vec<_> = (0..BODY_BYTES_MAX_ALL / BODY_BYTES_MAX)
        .map(|_| reserve(&bodies, &largest).unwrap())
        .collect();
    assert_eq!(reserve(&bodies, &of(1)).unwrap_err().code, "busy");
    assert!(reserve(&bodies, &of(0)).is_ok(), "what has no body needs no room");
    held.pop();
    assert!(reserve(&bodies, &of(1)).is_ok());
    assert_eq!(reserve(&bodies, &of(BODY_BYTES_MAX + 1)).unwrap_err().code, "too_large");
}

#[tokio::test]
async fn what_needs_no_router_is_what_the_router_would_have_found() {
    let names = ["", "7", "7/", "/7", "7/8", "%2F", "%2f%2F", "a%20b", "%ff", "..", "7;a", "*"];
    let folders = ["/v1/slots", "/v1/slots/", "/v1/keys/", "/v1/Slots/", "/V1/keys/", "//v1/keys/"];
    let paths = folders.iter().flat_map(|folder| names.map(|name| format!("{folder}{name}?a=/b")));
    let methods = [Method::GET, Method::PUT, Method::DELETE];
    let (mut found_count, mut absent_count) = (0, 0);
    for (path, method) in
        paths.flat_map(|path| methods.clone().map(|method| (path.clone(), method)))
    {
        let request = Request::builder().method(&method).uri(&path).body(Body::empty()).unwrap();
        let is_found = KeyRequest::of(&method, request.uri()).is_some();
        let Ok(response) = ROUTER.call(request).await;
        // A handler's guard finds no seat here.
        let is_routed = response.status() == StatusCode::INTERNAL_SERVER_ERROR;
        assert_eq!(is_found, is_routed, "{method} {path}");
        *(if is_found { &mut found_count } else { &mut absent_count }) += 1;
    }
    assert!(found_count > 30 && absent_count > 30, "{found_count} {absent_count}");
    for method in [Method::HEAD, Method::OPTIONS, Method::POST, Method::PATCH] {
        assert_eq!(KeyRequest::of(&method, &"/v1/slots/7".parse().unwrap()), None, "{method}");
    }
}

#[test]
fn a_key_is_asked_for_by_the_same_right_with_and_without_the_router() {
    for route in slots::routes() {
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            let path = route.path.replace("{slot}", "7").replace("{*key}", "7");
            let asked = KeyRequest::of(&method, &path.parse().unwrap()).unwrap();
            assert_eq!(asked.kind(), route.kind(&method), "{method} {path}");
        }
    }
}
