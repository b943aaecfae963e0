//! Takes a backup off a node: a request of HTTP, its stream checked as it comes and handed on as it is.
//!
//! Called by the sub-command; calls `storage::backup`.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use bytes::{Buf, Bytes};
use diskstore_storage::LogIndex;
use diskstore_storage::backup::{BackupReader, BackupSummary, Piece};
use futures_util::future::poll_fn;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::{ArchiveError, local};
use crate::cli::Servers;
use crate::client::Dialling;
use crate::config::{Address, ConfigError};

/// Most addresses that `-addr` may name.
const ADDRESS_COUNT_MAX: usize = 64;
/// How long a node may take to accept a connection.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// How long it may take to begin: an election, and what it has to apply first.
const BEGIN_TIME_MAX: Duration = Duration::from_secs(30);
/// How long it may say nothing before it is asked whether it lives: it reads its data meanwhile, and where
/// little has changed there is little to say.
const IDLE_TIME_MAX: Duration = Duration::from_mins(1);
/// How long it may say nothing while it lives.
const SILENT_TIME_MAX: Duration = Duration::from_hours(1);
/// How long it may take to say that it lives.
const PULSE_TIME_MAX: Duration = Duration::from_secs(10);
/// Most bytes of a refusal.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// What an incremental backup continues; all 0 for a full one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Base {
    pub(super) since: LogIndex,
    pub(super) id: u128,
    pub(super) cluster_id: u128,
}

impl Base {
    fn query(&self) -> String {
        if self.since.get() == 0 {
            return String::new();
        }
        let ids = [("base", self.id), ("cluster", self.cluster_id)];
        let ids = ids.into_iter().filter(|(_, id)| *id != 0);
        let ids: Vec<String> = ids.map(|(name, id)| format!("&{name}={id:032x}")).collect();
        format!("?since={}{}", self.since, ids.concat())
    }
}

/// A node that gives a backup.
#[derive(Debug)]
struct Giving {
    pulse: Pulse,
    body: Incoming,
}

/// Whether a node lives that says nothing.
#[derive(Debug)]
struct Pulse {
    dialling: Dialling,
    address: Address,
}

impl Pulse {
    async fn is_felt(&self) -> bool {
        let asked = async {
            let stream = self.dialling.dial(&self.address, CONNECT_TIME_MAX).await.ok()?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
            tokio::spawn(connection); // ends with the response, or with the runtime
            let request = Request::get("/livez").header(header::HOST, self.address.to_string());
            let response = sender.send_request(request.body(Body::empty()).ok()?).await.ok()?;
            (response.status() == StatusCode::OK).then_some(())
        };
        timeout(PULSE_TIME_MAX, asked).await.is_ok_and(|answer| answer.is_some())
    }
}

/// A backup that was taken and checked.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) summary: BackupSummary,
    pub(super) bytes: u64,
    pub(super) elapsed: Duration,
}

/// Takes a backup off the first node of a list that can be reached; all of it goes to `out`.
pub(super) fn fetch(
    servers: &Servers,
    base: Base,
    out: &mut dyn Write,
) -> Result<Fetched, ArchiveError> {
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(local("starting"))?;
    let Giving { pulse, body } = runtime.block_on(begin(servers, base))?;
    let (address, idle_time_max) = (pulse.address.to_string(), IDLE_TIME_MAX);
    let stream = Taken { runtime: &runtime, pulse, idle_time_max, body, left: Bytes::new(), out };
    let checked = follow(stream, &address);
    let (summary, bytes) = checked?;
    out.flush().map_err(local("writing the backup"))?;
    Ok(Fetched { summary, bytes, elapsed: started.elapsed() })
}

/// Asks the nodes in turn until one answers; gives its stream.
async fn begin(servers: &Servers, base: Base) -> Result<Giving, ArchiveError> {
    let dialling = Dialling::of(servers)?;
    let list: Vec<&str> = servers.list.split(',').collect();
    if list.len() > ADDRESS_COUNT_MAX {
        let (flag, value) = ("addr", servers.list.clone());
        return Err(ConfigError::List { flag, value, max: ADDRESS_COUNT_MAX }.into());
    }
    let parsed: Vec<Address> = list
        .iter()
        .map(|text| {
            let value = (*text).to_owned();
            let refusal = |reason| ConfigError::Address { flag: "addr", value, reason };
            Address::parse(text).map_err(refusal)
        })
        .collect::<Result<_, _>>()?;
    let mut tried = Vec::new();
    for address in parsed {
        match dialling.dial(&address, CONNECT_TIME_MAX).await {
            Ok(stream) => {
                let body = ask(address.to_string(), stream, base, &dialling).await?;
                return Ok(Giving { pulse: Pulse { dialling, address }, body });
            }
            Err(error) => tried.push(format!("{address}: {error}")),
        }
    }
    Err(ArchiveError::NoNode { tried })
}

async fn ask(
    address: String,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    base: Base,
    dialling: &Dialling,
) -> Result<Incoming, ArchiveError> {
    let foreign = || ArchiveError::Foreign { address: address.clone() };
    let mut request =
        Request::get(format!("/v1/backup{}", base.query())).header(header::HOST, &address);
    if let Some(token) = dialling.token() {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Body::empty()).map_err(|_| foreign())?;
    let asked = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection); // ends with the response, or with the runtime
        sender.send_request(request).await
    };
    let response = timeout(BEGIN_TIME_MAX, asked).await.map_err(|_| foreign())?;
    let response = response.map_err(|_| foreign())?;
    if response.status() == StatusCode::OK {
        return Ok(response.into_body());
    }
    let body = to_bytes(Body::new(response.into_body()), REFUSAL_BYTES_MAX).await;
    let message = body.ok().and_then(|body| message_of(&body)).ok_or_else(foreign)?;
    Err(ArchiveError::Refused { address, message })
}

/// The words of a refusal.
fn message_of(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(value.get("error")?.get("message")?.as_str()?.to_owned())
}

/// Reads a stream to its end, and checks all of it.
fn follow(stream: Taken<'_>, address: &str) -> Result<(BackupSummary, u64), ArchiveError> {
    let failed = |error: diskstore_storage::Error| failure(error, address);
    let mut reader = BackupReader::new(Box::new(stream), Path::new(address)).map_err(failed)?;
    let header = reader.header().clone();
    let bar = bar(header.slot_count);
    loop {
        match reader.next_piece().map_err(failed)? {
            Piece::Slots(images) => {
                let last = images.last().map_or(0, |image| image.slot.get());
                bar.set_position(last + 1);
            }
            Piece::Requests(_) | Piece::Keys(_) | Piece::Entries(_) => {}
            Piece::End(end) => {
                bar.finish_and_clear();
                return Ok((BackupSummary { header, end }, reader.offset()));
            }
            Piece::Broken(reason) => {
                return Err(ArchiveError::Broken { address: address.to_owned(), reason });
            }
        }
        bar.set_message(HumanBytes(reader.offset()).to_string());
    }
}

/// What became of the stream.
fn failure(error: diskstore_storage::Error, address: &str) -> ArchiveError {
    use diskstore_storage::Error;
    match error {
        Error::Foreign { .. } => ArchiveError::Foreign { address: address.to_owned() },
        Error::Io { source, .. }
            if source.get_ref().is_some_and(|cause| cause.is::<Unwritten>()) =>
        {
            ArchiveError::Local { what: "writing the backup".to_owned(), source }
        }
        source => ArchiveError::Lost { address: address.to_owned(), source },
    }
}

/// Shows on a terminal how far a backup is: by slots, or by bytes alone.
fn bar(slot_count: u64) -> ProgressBar {
    let (bar, template) = if slot_count > 0 {
        (ProgressBar::new(slot_count), "backup [{bar:40}] {percent} % of the slots, {msg}")
    } else {
        (ProgressBar::new_spinner(), "backup {spinner} {msg}")
    };
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.expect("invariant: the template is a constant").progress_chars("=> "))
}

/// The body of the response, every byte of which goes to `out` before it is read.
struct Taken<'a> {
    runtime: &'a Runtime,
    pulse: Pulse,
    /// See [`IDLE_TIME_MAX`].
    idle_time_max: Duration,
    body: Incoming,
    left: Bytes,
    out: &'a mut dyn Write,
}

/// What is taken cannot be written here.
#[derive(Debug)]
struct Unwritten(io::Error);

impl fmt::Display for Unwritten {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl std::error::Error for Unwritten {}

impl Taken<'_> {
    /// The next bytes of the response; none at its end.
    fn next(&mut self) -> io::Result<Bytes> {
        let body = &mut self.body;
        let silent_since = Instant::now();
        loop {
            let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
            let frame = self.runtime.block_on(async { timeout(self.idle_time_max, frame).await });
            let Ok(frame) = frame else {
                let may_go_on = silent_since.elapsed() < SILENT_TIME_MAX;
                if may_go_on && self.runtime.block_on(self.pulse.is_felt()) {
                    continue;
                }
                return Err(io::ErrorKind::TimedOut.into());
            };
            let Some(frame) = frame.transpose().map_err(io::Error::other)? else {
                return Ok(Bytes::new());
            };
            // What is no data, trailers, is none of ours.
            if let Ok(bytes) = frame.into_data()
                && !bytes.is_empty()
            {
                return Ok(bytes);
            }
        }
    }
}

impl Read for Taken<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.is_empty() {
            self.left = self.next()?;
            let written = self.out.write_all(&self.left);
            written.map_err(|error| io::Error::other(Unwritten(error)))?;
        }
        let count = self.left.len().min(buffer.len());
        self.left.copy_to_slice(buffer.get_mut(..count).unwrap_or_default());
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Whoever connects next, once it has asked something; `None` if it says that all is over.
    fn asked(listener: &TcpListener) -> Option<TcpStream> {
        let ((mut stream, _), mut first) = (listener.accept().unwrap(), [0; 4096]);
        let count = stream.read(&mut first).unwrap();
        (!first[..count].starts_with(b"END")).then_some(stream)
    }

    /// What comes of a node behind `listener` that says nothing for a while.
    fn taken(listener: &TcpListener) -> io::Result<Bytes> {
        let list = listener.local_addr().unwrap().to_string();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let servers = Servers { list, token_file: None, tls: None };
        let Giving { pulse, body } = runtime.block_on(begin(&servers, Base::default())).unwrap();
        let idle_time_max = Duration::from_millis(1);
        let (runtime, out) = (&runtime, &mut io::sink());
        Taken { runtime, pulse, idle_time_max, body, left: Bytes::new(), out }.next()
    }

    #[test]
    fn a_node_that_finds_nothing_to_say_is_waited_for_while_it_lives() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let came = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut giving = asked(&listener).unwrap();
                write!(giving, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").unwrap();
                let mut count = 0;
                while let Some(mut pulse) = asked(&listener) {
                    count += 1;
                    if count == 2 {
                        giving.write_all(b"more").unwrap();
                    }
                    write!(pulse, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
                }
            });
            let came = taken(&listener);
            let mut last = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            last.write_all(b"END").unwrap();
            came
        });
        assert_eq!(came.unwrap(), "more");
    }

    #[test]
    fn a_node_that_lives_no_more_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let came = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut giving = asked(&listener).unwrap();
                write!(giving, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").unwrap();
                drop(asked(&listener)); // without an answer
            });
            taken(&listener)
        });
        assert_eq!(came.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
