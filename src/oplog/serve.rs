//! State transfer of `-hrecov`: hands the records of a log out, as the original did. A request is a
//! line `<addr>-<first>[-<last>]`, the answer the records of entries `first` to `last`, then the
//! end of the connection. `<addr>` names the asker; where it begins with [`END_PREFIX`], a record
//! with [`Mark::End`] follows the last one, so that an end can be told from a source that died.
//!
//! Every connection has a thread of its own, because a transfer would hold up other work on its
//! thread. Invariants:
//!
//! - I1: at most [`TRANSFER_COUNT_MAX`] transfers at once, each with bounded memory; a client that
//!   sends no request, or takes no bytes, is cut off.
//! - I2: an entry is sent whole or not at all. The log is never changed.
//! - I3: every request line is answered, with records or with `ERR` and the reason.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::parts::Parts;
use super::read::{PartRecords, ends_entry};
use super::record::{Mark, Record};

/// What the address of an asker begins with that wants the end of the answer marked.
pub const END_PREFIX: &str = "end@";
/// Transfers that run at once.
const TRANSFER_COUNT_MAX: usize = 8;
/// Most bytes of a request.
const REQUEST_BYTES_MAX: usize = 512;
/// How long a request may take to come.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);
/// How long an asker may take nothing.
const WRITE_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes that are sent at once.
const SEND_BYTES: usize = 1 << 20;
/// Most bytes of one entry's records.
const ENTRY_BYTES_MAX: usize = 256 << 20;
/// How long a refused asker may go on sending, and how much.
const LINGER_TIME_MAX: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: u64 = 1 << 20;
/// How many of them at a time: they and the transfers have one share of the descriptors
/// (`descriptors.rs`), so both numbers stand there, too.
const LINGER_COUNT_MAX: usize = 4;
/// How long to wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A log that is handed out.
#[derive(Debug)]
struct Source {
    parts: Parts,
    /// Highest index in each file that is complete, once it was read.
    index_max: Mutex<BTreeMap<u32, u64>>,
    transfer_count: AtomicUsize,
    /// Places for askers that were told to come again, and may still be sending.
    lingering: Arc<Semaphore>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Request {
    first: u64,
    last: u64,
    wants_end: bool,
}

/// Hands a log out to whoever asks, until the task is dropped.
pub async fn serve_recovery(listener: TcpListener, parts: Parts) {
    let (index_max, transfer_count) = (Mutex::default(), AtomicUsize::new(0));
    let lingering = Arc::new(Semaphore::new(LINGER_COUNT_MAX));
    let source = Arc::new(Source { parts, index_max, transfer_count, lingering });
    loop {
        let begun = match listener.accept().await {
            Ok((stream, _)) => begin(&source, stream),
            Err(error) => Err(error),
        };
        if let Err(error) = begun {
            tracing::warn!(%error, "a state transfer could not begin");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// One of the transfers that run (I1).
struct Permit(Arc<Source>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.transfer_count.fetch_sub(1, Ordering::AcqRel);
    }
}

fn begin(source: &Arc<Source>, stream: tokio::net::TcpStream) -> io::Result<()> {
    let running = source.transfer_count.fetch_add(1, Ordering::AcqRel);
    let permit = Permit(source.clone());
    if running >= TRANSFER_COUNT_MAX {
        // Beyond these places an asker is closed without a word.
        if let Ok(place) = source.lingering.clone().try_acquire_owned() {
            tokio::spawn(async move {
                drop(tokio::time::timeout(LINGER_TIME_MAX, send_away(stream)).await);
                drop(place);
            });
        }
        return Ok(());
    }
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(WRITE_TIME_MAX))?;
    std::thread::Builder::new().name("transfer".into()).spawn(move || {
        let peer = stream.peer_addr().map_or_else(|_| "?".into(), |peer| peer.to_string());
        match answer(&permit.0, &stream) {
            Ok(Some(bytes)) => tracing::info!(peer, bytes, "state transferred"),
            Ok(None) => tracing::debug!(peer, "asked for nothing that is served"),
            Err(error) => tracing::warn!(peer, %error, "a state transfer ended early"),
        }
    })?;
    Ok(())
}

fn refusal(reason: &str) -> String {
    format!("ERR {reason}\n")
}

/// Reads the request and answers it; returns the bytes of records, `None` if it was refused.
fn answer(source: &Source, stream: &TcpStream) -> io::Result<Option<u64>> {
    let request = match read_line(stream)?.as_deref().map(Request::parse) {
        Some(Ok(request)) => request,
        Some(Err(reason)) => {
            refuse(stream, reason)?; // I3
            return Ok(None);
        }
        None => return Ok(None),
    };
    let mut sending = Sending { stream, out: Vec::new(), whole: 0, index_max: 0, bytes: 0 };
    send_records(source, request, &mut sending)?;
    if request.wants_end {
        let index = sending.index_max;
        Record::marking(Mark::End, index).encode(&mut sending.out);
        sending.whole = sending.out.len();
    }
    sending.send()?;
    stream.shutdown(std::net::Shutdown::Write)?;
    Ok(Some(sending.bytes))
}

/// Says why not, so that it is read: were bytes of the asker unread when the socket is closed, the
/// system would take the answer back.
fn refuse(mut stream: &TcpStream, reason: &str) -> io::Result<()> {
    stream.write_all(refusal(reason).as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.set_read_timeout(Some(LINGER_TIME_MAX))?;
    // Whatever becomes of the rest, the answer has left.
    drop(io::copy(&mut stream.take(LINGER_BYTES_MAX), &mut io::sink()));
    Ok(())
}

/// As [`refuse`], for one that there is no thread for.
async fn send_away(mut stream: tokio::net::TcpStream) -> io::Result<()> {
    stream.write_all(refusal("other transfers run, ask again later").as_bytes()).await?;
    stream.shutdown().await?;
    let mut rest = stream.take(LINGER_BYTES_MAX);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.map(drop)
}

fn send_records(source: &Source, request: Request, sending: &mut Sending<'_>) -> io::Result<()> {
    if source.parts.count().map_err(io::Error::other)? == 0 {
        return Ok(());
    }
    let mut records = PartRecords::open(&source.parts, source.first_part(request.first))?;
    while let Some(found) = records.next_record().map_err(io::Error::other)? {
        let index = found.record.index;
        if index > request.last && found.record.mark != Mark::Image {
            break; // every entry behind it is later
        }
        if (request.first..=request.last).contains(&index) {
            sending.out.extend_from_slice(found.bytes);
            sending.index_max = sending.index_max.max(index);
            if ends_entry(&found.record) {
                sending.whole = sending.out.len();
            }
            if sending.out.len() > sending.whole + ENTRY_BYTES_MAX {
                return Err(io::Error::other(format!("entry {index} is too long to be sent")));
            }
            if sending.whole >= SEND_BYTES {
                sending.send()?;
            }
        }
        source.index_max.lock().extend(records.take_finished());
    }
    Ok(())
}

impl Source {
    /// The first file that may hold an entry from `first` on.
    fn first_part(&self, first: u64) -> u32 {
        let known = self.index_max.lock();
        let older = (1..).take_while(|nth| known.get(nth).is_some_and(|highest| *highest < first));
        older.last().map_or(1, |nth| nth + 1)
    }
}

/// What is on its way to an asker.
struct Sending<'a> {
    stream: &'a TcpStream,
    out: Vec<u8>,
    /// Bytes in front that hold whole entries (I2).
    whole: usize,
    /// Highest index among the records.
    index_max: u64,
    bytes: u64,
}

impl Sending<'_> {
    fn send(&mut self) -> io::Result<()> {
        self.stream.write_all(self.out.get(..self.whole).unwrap_or_default())?;
        self.bytes += self.whole as u64;
        self.out.drain(..self.whole);
        self.whole = 0;
        Ok(())
    }
}

/// One line without its end; `None` if the asker leaves before it is whole.
fn read_line(mut stream: &TcpStream) -> io::Result<Option<Vec<u8>>> {
    let deadline = Instant::now() + REQUEST_TIME_MAX;
    let mut line = Vec::new();
    let mut piece = [0; REQUEST_BYTES_MAX];
    while line.len() <= REQUEST_BYTES_MAX {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok(None);
        }
        line.extend(piece.iter().take(count));
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            line.truncate(end);
            return Ok(Some(line));
        }
    }
    Ok(Some(line))
}

impl Request {
    /// Reads `<addr>-<first>[-<last>]`; the address may hold dashes, and is not looked at.
    fn parse(line: &[u8]) -> Result<Request, &'static str> {
        let usage = "a request is ADDRESS-FIRST or ADDRESS-FIRST-LAST, with log indexes";
        let line = str::from_utf8(line).ok().filter(|line| line.len() <= REQUEST_BYTES_MAX);
        let line = line.ok_or(usage)?.trim_end_matches('\r');
        let (before, number) = line.rsplit_once('-').ok_or(usage)?;
        let number = index(number).ok_or(usage)?;
        let pair = before.rsplit_once('-');
        let pair = pair.and_then(|(address, first)| Some((address, index(first)?)));
        let (address, first, last) = match pair {
            Some((address, first)) => (address, first, number),
            None => (before, number, u64::MAX),
        };
        if address.is_empty() || first > last {
            return Err(usage);
        }
        Ok(Request { first, last, wants_end: address.starts_with(END_PREFIX) })
    }
}

fn index(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use diskstore_storage::disk::RealDisk;

    use super::*;

    fn parsed(line: &str) -> Option<(u64, u64, bool)> {
        let request = Request::parse(line.as_bytes()).ok()?;
        Some((request.first, request.last, request.wants_end))
    }

    #[test]
    fn a_request_is_an_address_and_one_or_two_indexes() {
        assert_eq!(parsed("127.0.0.1:14000-1"), Some((1, u64::MAX, false)));
        assert_eq!(parsed("127.0.0.1:14000-1-9\r"), Some((1, 9, false)));
        assert_eq!(parsed("a-host:14000-7"), Some((7, u64::MAX, false)));
        assert_eq!(parsed("a-host:14000-7-8"), Some((7, 8, false)));
        assert_eq!(parsed("end@:14000-0"), Some((0, u64::MAX, true)));
    }

    #[tokio::test]
    async fn whoever_is_sent_away_reads_why_though_it_still_sends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        std::fs::write(&path, b"").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve_recovery(
            listener,
            Parts::beginning_with(Arc::new(RealDisk::new()), &path),
        ));
        let asking = tokio::task::spawn_blocking(move || {
            let connect = || TcpStream::connect(address).unwrap();
            let _idle: Vec<TcpStream> = (0..TRANSFER_COUNT_MAX).map(|_| connect()).collect();
            let mut stream = connect();
            let mut first = [0];
            stream.read_exact(&mut first).unwrap(); // by now a careless server has closed it
            stream.write_all(b"a-1\n").unwrap();
            stream.write_all(b"a-1\n").unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            [&first[..], &rest].concat()
        });
        let expected = refusal("other transfers run, ask again later");
        assert_eq!(asking.await.unwrap(), expected.into_bytes());
        serving.abort();
    }

    #[tokio::test]
    async fn an_entry_that_is_not_whole_is_not_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let mut bytes = Vec::new();
        let record = |index, mark| Record { mark, ..Record::marking(Mark::None, index) };
        record(1, Mark::More).encode(&mut bytes);
        record(1, Mark::None).encode(&mut bytes);
        let whole = bytes.clone();
        record(2, Mark::More).encode(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve_recovery(
            listener,
            Parts::beginning_with(Arc::new(RealDisk::new()), &path),
        ));
        let asking = tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"a-1\n").unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            answer
        });
        assert_eq!(asking.await.unwrap(), whole);
        serving.abort();
    }

    #[test]
    fn any_other_line_is_refused() {
        let long = format!("{}-1", "a".repeat(REQUEST_BYTES_MAX));
        let lines =
            ["", "-", "--", "-1", "-1-2", "a", "a-", "a-x", "a-+1", "a-9-1", "a-1.5", &long];
        for line in lines {
            assert_eq!(parsed(line), None, "{line}");
        }
        assert_eq!(parsed("a-99999999999999999999"), None);
        assert!(Request::parse(b"\xff\xff-1").is_err());
    }
}
