//! Serves the requests of one connection: many at the same time, each answered as soon as its
//! answer is ready.
//!
//! Called by `listener`; calls `connection`. Invariants:
//!
//! - I1: requests under way are bounded, and so is the time that an answer may take to be written.
//! - I2: a request that cannot be answered ends the connection: otherwise its sender would wait
//!   until its own deadline. Answers that were ready before are written first.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};

use super::connection::{Connection, bad_frame, in_time};
use super::frames::FrameKind;
use super::requests::{Method, put_response, read_request};

/// The limits of one connection of requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    /// Most requests that are worked on at a time.
    pub request_count_max: usize,
    /// How long the connection may be idle: no request arrives, and none is being answered.
    pub idle_max: Option<Duration>,
    /// How long answers may take to be written.
    pub write_max: Duration,
}

/// Answers requests until the other side closes the connection.
///
/// # Errors
/// Of the socket; bytes that are no request, or one that `answer` has no answer to; `TimedOut` if
/// the other side asks or takes nothing for too long.
pub(crate) async fn serve<F>(
    connection: Connection,
    allowance: Allowance,
    answer: impl Fn(Method, Bytes) -> F,
) -> io::Result<()>
where
    F: Future<Output = Option<Vec<u8>>> + Send + 'static,
{
    let (mut reader, mut writer) = connection;
    let Allowance { request_count_max, idle_max, write_max } = allowance;
    let permits = Arc::new(Semaphore::new(request_count_max));
    let (answers, mut ready) = mpsc::channel(request_count_max);
    let write = async move {
        let (mut batch, mut is_open) = (Vec::new(), true);
        while is_open && ready.recv_many(&mut batch, request_count_max).await > 0 {
            for (id, body) in batch.drain(..) {
                let body: Option<Vec<u8>> = body;
                match body {
                    Some(body) if is_open => put_response(&mut writer.buffer, id, &body),
                    Some(_) => {}
                    None => is_open = false, // I2
                }
            }
            in_time(writer.send(), write_max).await?;
        }
        if is_open { Ok(()) } else { Err(io::Error::other("a request cannot be answered")) }
    };
    let read = async move {
        loop {
            // First of all, so that nobody is idle who waits for an answer.
            let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
            let next = reader.next();
            let frame = match idle_max {
                Some(idle_max) => in_time(next, idle_max).await,
                None => next.await,
            };
            let Some(frame) = frame? else { return Ok(()) };
            if frame.kind != FrameKind::Request {
                return Err(io::Error::other("a request was expected"));
            }
            let (id, method, body) = read_request(frame.body).map_err(bad_frame)?;
            let (answers, answer) = (answers.clone(), answer(method, body));
            tokio::spawn(async move {
                // The connection may have ended meanwhile.
                drop(answers.send((id, answer.await)).await);
                drop(permit);
            });
        }
    };
    tokio::try_join!(write, read).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::net::{TcpListener, TcpStream};

    use super::super::connection::split;
    use super::super::requests::{put_request, read_response};
    use super::*;

    type Ends = Connection;

    /// Beyond this a test that waits has failed.
    const LONG: Duration = Duration::from_secs(20);
    /// A limit that a test wants to be reached.
    const SHORT: Duration = Duration::from_millis(50);
    const ALLOWANCE: Allowance =
        Allowance { request_count_max: 4, idle_max: None, write_max: LONG };

    async fn connect() -> (Ends, Ends) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut own = split(stream).unwrap();
        let mut other = split(listener.accept().await.unwrap().0).unwrap();
        own.0.allow_large();
        other.0.allow_large();
        (own, other)
    }

    async fn ask(ends: &mut Ends, id: u64, method: Method) {
        put_request(&mut ends.1.buffer, id, method, b"");
        ends.1.send().await.unwrap();
    }

    async fn in_long<T>(work: impl Future<Output = T>) -> T {
        tokio::time::timeout(LONG, work).await.expect("it ends")
    }

    #[tokio::test]
    async fn one_that_asks_nothing_is_cut_off() {
        let (_client, server) = connect().await;
        let allowance = Allowance { idle_max: Some(SHORT), ..ALLOWANCE };
        let served = in_long(serve(server, allowance, |_, _| ready(None))).await;
        assert_eq!(served.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn one_that_waits_for_its_answer_is_not_idle() {
        let (mut client, server) = connect().await;
        let idle_max = Some(SHORT);
        let allowance = Allowance { request_count_max: 1, idle_max, ..ALLOWANCE };
        let serving = serve(server, allowance, |_, _| async {
            tokio::time::sleep(4 * SHORT).await;
            Some(b"later".to_vec())
        });
        ask(&mut client, 7, Method::Join).await;
        let (served, answer) = in_long(async {
            tokio::join!(serving, async {
                let answer = read_response(client.0.expect(FrameKind::Response).await.unwrap());
                drop(client);
                answer.unwrap()
            })
        })
        .await;
        assert_eq!(answer, (7, Bytes::from_static(b"later")));
        served.unwrap();
    }

    #[tokio::test]
    async fn one_that_takes_no_answers_is_cut_off() {
        let (mut client, server) = connect().await;
        ask(&mut client, 1, Method::Read).await;
        let allowance = Allowance { write_max: SHORT, ..ALLOWANCE };
        // More than any socket takes without a reader.
        let serving = serve(server, allowance, |_, _| ready(Some(vec![7; 15 << 20])));
        let served = in_long(async {
            tokio::select! {
                served = serving => served,
                () = async {
                    for id in 2.. {
                        ask(&mut client, id, Method::Read).await;
                        tokio::task::yield_now().await;
                    }
                } => unreachable!("ids do not end"),
            }
        });
        let error = served.await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    }

    /// I2: it would wait until its own deadline.
    #[tokio::test]
    async fn a_request_without_an_answer_ends_the_connection() {
        let (mut client, server) = connect().await;
        let serving = tokio::spawn(serve(server, ALLOWANCE, |method, _| async move {
            match method {
                Method::Vote => Some(b"yes".to_vec()),
                Method::Join => None,
                _ => pending().await,
            }
        }));
        ask(&mut client, 1, Method::Read).await;
        ask(&mut client, 2, Method::Vote).await;
        let answer = in_long(client.0.expect(FrameKind::Response)).await.unwrap();
        assert_eq!(read_response(answer).unwrap(), (2, Bytes::from_static(b"yes")));
        ask(&mut client, 3, Method::Join).await;
        assert!(in_long(client.0.next()).await.unwrap().is_none());
        let error = in_long(serving).await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "a request cannot be answered");
    }

    #[tokio::test]
    async fn a_method_that_nobody_knows_ends_the_connection() {
        let (mut client, server) = connect().await;
        put_request(&mut client.1.buffer, 1, Method::Vote, b"");
        let mut frame = std::mem::take(&mut client.1.buffer);
        let header = frame.len() - 9;
        frame[header + 8] = 0xff;
        super::super::frames::put_frame(&mut client.1.buffer, FrameKind::Request, |out| {
            out.extend_from_slice(&frame[header..]);
        });
        client.1.send().await.unwrap();
        let served = in_long(serve(server, ALLOWANCE, |_, _| ready(Some(Vec::new())))).await;
        assert_eq!(served.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(in_long(client.0.next()).await.unwrap().is_none());
    }
}
