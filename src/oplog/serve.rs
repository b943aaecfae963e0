//! State transfer of `-hrecov`: hands the records of a log out, as the original did. A request is a
//! line `<addr>-<first>[-<last>]`, the answer the records of entries `first` to `last`, then the
//! end of the connection. `<addr>` names the asker; where it begins with [`END_PREFIX`], a record
//! with [`Mark::End`] follows the last one, so that an end can be told from a source that died.
//!
//! Every transfer has a thread of its own, which reads the log ahead of what is being sent.
//! Invariants:
//!
//! - I1: at most [`TRANSFER_COUNT_MAX`] transfers at once, each with bounded memory; a client that
//!   sends no request, or takes no bytes, is cut off.
//! - I2: an entry is sent whole or not at all. The log is never changed.
//! - I3: every request line is answered, with records or with `ERR` and the reason.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::parts::Parts;
use super::read::{PartRecords, ends_entry};
use super::record::{Mark, Record};
use crate::host::{Listener, Stream, Threads};

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
/// Pieces of so many bytes that were read and wait to be sent, beside the one that is.
const PIECE_COUNT_MAX: usize = 1;
/// Most bytes of one entry's records.
const ENTRY_BYTES_MAX: usize = 256 << 20;
/// How long a refused asker may go on sending, and how much.
const LINGER_TIME_MAX: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: u64 = 1 << 20;
/// How many are told at a time to come again: they and the transfers have one share of the descriptors
/// (`descriptors.rs`), so both numbers stand there, too.
const LINGER_COUNT_MAX: usize = 4;
/// How long to wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A log that is handed out.
#[derive(Debug)]
struct Source {
    parts: Parts,
    threads: Threads,
    /// Highest index in each file that is complete, once it was read.
    index_max: Mutex<BTreeMap<u32, u64>>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Request {
    first: u64,
    last: u64,
    wants_end: bool,
}

/// Hands a log out to whoever asks, until the task is dropped; that ends the transfers that run.
pub async fn serve_recovery(listener: Listener, parts: Parts, threads: Threads) {
    let source = Arc::new(Source { parts, threads, index_max: Mutex::default() });
    let transfers = Arc::new(Semaphore::new(TRANSFER_COUNT_MAX)); // I1
    let lingering = Arc::new(Semaphore::new(LINGER_COUNT_MAX));
    let mut askers = JoinSet::new();
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a state transfer could not begin");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            Some(ended) = askers.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a state transfer ended abnormally");
                }
                continue;
            }
        };
        if let Ok(place) = transfers.clone().try_acquire_owned() {
            let source = source.clone();
            askers.spawn(async move {
                transfer(source, stream, peer).await;
                drop(place);
            });
        } else if let Ok(place) = lingering.clone().try_acquire_owned() {
            // Beyond these places an asker is closed without a word.
            askers.spawn(async move {
                let refused = refuse(stream, "other transfers run, ask again later");
                // Whoever does not take the answer is let go.
                drop(timeout(LINGER_TIME_MAX, refused).await);
                drop(place);
            });
        }
    }
}

async fn transfer(source: Arc<Source>, stream: Stream, peer: SocketAddr) {
    match answer(source, stream).await {
        Ok(Some(bytes)) => tracing::info!(%peer, bytes, "state transferred"),
        Ok(None) => tracing::debug!(%peer, "asked for nothing that is served"),
        Err(error) => tracing::warn!(%peer, %error, "a state transfer ended early"),
    }
}

fn refusal(reason: &str) -> String {
    format!("ERR {reason}\n")
}

/// Reads the request and answers it; returns the bytes of records, `None` if it was refused.
async fn answer(source: Arc<Source>, mut stream: Stream) -> io::Result<Option<u64>> {
    let line = timeout(REQUEST_TIME_MAX, read_line(&mut stream)).await;
    let line = line.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let request = match line.as_deref().map(Request::parse) {
        Some(Ok(request)) => request,
        Some(Err(reason)) => {
            refuse(stream, reason).await?; // I3
            return Ok(None);
        }
        None => return Ok(None),
    };
    let (pieces, mut ready) = mpsc::channel(PIECE_COUNT_MAX);
    let threads = source.threads.clone();
    threads.spawn("transfer", move || {
        let mut reading = Reading { out: Vec::new(), whole: 0, index_max: 0, pieces };
        if let Err(error) = read_records(&source, request, &mut reading) {
            reading.hand_on(Err(error));
        }
    })?;
    let mut bytes = 0;
    // A thread that panicked has sent no end, and passes for a source that died.
    while let Some(piece) = ready.recv().await {
        let Some(piece) = piece? else {
            timeout(LINGER_TIME_MAX, stream.shutdown())
                .await
                .map_err(|_| io::ErrorKind::TimedOut)??;
            return Ok(Some(bytes));
        };
        send(&mut stream, &piece).await?;
        bytes += piece.len() as u64;
    }
    Err(io::Error::other("the log could not be read to its end"))
}

/// Sends a piece to an asker that takes some of it now and then (I1).
async fn send(stream: &mut Stream, mut piece: &[u8]) -> io::Result<()> {
    while !piece.is_empty() {
        let taken = timeout(WRITE_TIME_MAX, stream.write(piece)).await;
        let count = taken.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        piece = piece.get(count..).unwrap_or_default();
    }
    Ok(())
}

/// Says why not, so that it is read: were bytes of the asker unread when the socket is closed, the
/// system would take the answer back.
async fn refuse(mut stream: Stream, reason: &str) -> io::Result<()> {
    send(&mut stream, refusal(reason).as_bytes()).await?;
    timeout(LINGER_TIME_MAX, stream.shutdown()).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let mut rest = stream.take(LINGER_BYTES_MAX);
    // Whatever becomes of the rest, the answer has left.
    drop(timeout(LINGER_TIME_MAX, copy(&mut rest, &mut sink())).await);
    Ok(())
}

/// What came of reading on: a piece, or `None` behind the last one.
type Piece = io::Result<Option<Vec<u8>>>;

/// What was read of the log for an asker.
struct Reading {
    out: Vec<u8>,
    /// Bytes in front that hold whole entries (I2).
    whole: usize,
    /// Highest index among these entries, and those before.
    index_max: u64,
    pieces: mpsc::Sender<Piece>,
}

impl Reading {
    /// Hands whole entries on, once the one before is being sent; false if the asker is gone.
    fn hand_on_whole(&mut self) -> bool {
        let rest = self.out.split_off(self.whole);
        self.whole = 0;
        let piece = std::mem::replace(&mut self.out, rest);
        self.hand_on(Ok(Some(piece)))
    }

    fn hand_on(&self, piece: Piece) -> bool {
        self.pieces.blocking_send(piece).is_ok()
    }
}

/// Reads what is asked for, up to its end. Ends early without a word if the asker is gone.
fn read_records(source: &Source, request: Request, reading: &mut Reading) -> io::Result<()> {
    if source.parts.count().map_err(io::Error::other)? > 0 {
        let mut records = PartRecords::open(&source.parts, source.first_part(request.first))?;
        while let Some(found) = records.next_record().map_err(io::Error::other)? {
            let index = found.record.index;
            if index > request.last && found.record.mark != Mark::Image {
                break; // every entry behind it is later
            }
            if (request.first..=request.last).contains(&index) {
                reading.out.extend_from_slice(found.bytes);
                if ends_entry(&found.record) {
                    reading.index_max = reading.index_max.max(index);
                    reading.whole = reading.out.len();
                }
                if reading.out.len() > reading.whole + ENTRY_BYTES_MAX {
                    return Err(io::Error::other(format!("entry {index} is too long to be sent")));
                }
                if reading.whole >= SEND_BYTES && !reading.hand_on_whole() {
                    return Ok(());
                }
            }
            source.index_max.lock().extend(records.take_finished());
        }
    }
    if request.wants_end {
        reading.out.truncate(reading.whole); // I2
        Record::marking(Mark::End, reading.index_max).encode(&mut reading.out);
        reading.whole = reading.out.len();
    }
    if reading.hand_on_whole() {
        reading.hand_on(Ok(None));
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

/// One line without its end; `None` if the asker leaves before it is whole.
async fn read_line(stream: &mut Stream) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut piece = [0; REQUEST_BYTES_MAX];
    while line.len() <= REQUEST_BYTES_MAX {
        let count = stream.read(&mut piece).await?;
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
    use std::path::Path;

    use diskstore_storage::disk::{Disk, SimDisk};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::host::{LocalNet, Net};

    const ADDRESS: &str = "127.0.0.1:14000";

    fn parsed(line: &str) -> Option<(u64, u64, bool)> {
        let request = Request::parse(line.as_bytes()).ok()?;
        Some((request.first, request.last, request.wants_end))
    }

    fn record(index: u64, mark: Mark) -> Vec<u8> {
        let mut bytes = Vec::new();
        Record { mark, ..Record::marking(Mark::None, index) }.encode(&mut bytes);
        bytes
    }

    /// Hands out a log of these bytes through pipes.
    async fn serving(log: &[u8]) -> (Net, JoinHandle<()>) {
        let (net, disk) = (Net::Local(LocalNet::default()), SimDisk::new(1));
        let path = Path::new("/log/x.log");
        disk.create_dir_all(Path::new("/log")).unwrap();
        disk.write_file(path, log);
        let parts = Parts::beginning_with(Arc::new(disk), path);
        let listener = net.listen(ADDRESS).await.unwrap();
        let serving = tokio::spawn(serve_recovery(listener, parts, Threads::System));
        (net, serving)
    }

    async fn answered(mut asker: Stream) -> Vec<u8> {
        let mut answer = Vec::new();
        asker.read_to_end(&mut answer).await.unwrap();
        answer
    }

    async fn asked(net: &Net, line: &[u8]) -> Vec<u8> {
        let mut asker = net.dial(ADDRESS).await.unwrap();
        asker.write_all(line).await.unwrap();
        answered(asker).await
    }

    #[test]
    fn a_request_is_an_address_and_one_or_two_indexes() {
        assert_eq!(parsed("127.0.0.1:14000-1"), Some((1, u64::MAX, false)));
        assert_eq!(parsed("127.0.0.1:14000-1-9\r"), Some((1, 9, false)));
        assert_eq!(parsed("a-host:14000-7"), Some((7, u64::MAX, false)));
        assert_eq!(parsed("a-host:14000-7-8"), Some((7, 8, false)));
        assert_eq!(parsed("end@:14000-0"), Some((0, u64::MAX, true)));
    }

    /// Over TCP, where what is not read takes the answer along.
    #[tokio::test]
    async fn whoever_is_sent_away_reads_why_though_it_still_sends() {
        let parts = Parts::beginning_with(Arc::new(SimDisk::new(1)), Path::new("/x.log"));
        let listener = Net::Tcp.listen("127.0.0.1:0").await.unwrap();
        let Listener::Tcp(bound) = &listener else { panic!("a TCP listener") };
        let address = bound.local_addr().unwrap().to_string();
        let serving = tokio::spawn(serve_recovery(listener, parts, Threads::System));
        let mut idle = Vec::new();
        for _ in 0..TRANSFER_COUNT_MAX {
            idle.push(Net::Tcp.dial(&address).await.unwrap());
        }
        let mut asker = Net::Tcp.dial(&address).await.unwrap();
        let mut first = [0];
        asker.read_exact(&mut first).await.unwrap(); // by now a careless server has closed it
        asker.write_all(b"a-1\n").await.unwrap();
        asker.write_all(b"a-1\n").await.unwrap();
        let answer = [&first[..], &answered(asker).await].concat();
        assert_eq!(answer, refusal("other transfers run, ask again later").into_bytes());
        serving.abort();
    }

    #[tokio::test]
    async fn an_entry_that_is_not_whole_is_not_sent() {
        let whole = [record(1, Mark::More), record(1, Mark::None)].concat();
        let (net, serving) = serving(&[&whole[..], &record(2, Mark::More)].concat()).await;
        assert_eq!(asked(&net, b"a-1\n").await, whole);
        let marked = [whole, record(1, Mark::End)].concat();
        assert_eq!(asked(&net, b"end@a-1\n").await, marked, "and the end does not count it");
        serving.abort();
    }

    /// The log is many pieces, and a pipe holds a part of one.
    #[tokio::test]
    async fn a_transfer_ends_with_its_asker_and_with_its_task() {
        let one = record(1, Mark::None);
        let log = one.repeat(8 * SEND_BYTES / one.len());
        let (net, serving) = serving(&log).await;
        let mut askers = Vec::new();
        for _ in 0..2 * TRANSFER_COUNT_MAX {
            let mut asker = net.dial(ADDRESS).await.unwrap();
            asker.write_all(b"a-1\n").await.unwrap();
            let mut begin = vec![0; one.len()];
            let read = asker.read_exact(&mut begin).await; // not a word is read beyond all places
            if read.is_ok() && begin == one {
                askers.push(asker);
            }
        }
        assert_eq!(askers.len(), TRANSFER_COUNT_MAX, "no more at once");
        askers.truncate(1);
        while asked(&net, b"a-1\n").await != log {
            tokio::task::yield_now().await; // the places of those that are gone are free soon
        }
        serving.abort();
        let rest = answered(askers.remove(0)).await;
        assert!(rest.len() < log.len() - one.len(), "it was cut off");
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
