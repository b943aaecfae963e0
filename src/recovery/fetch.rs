//! Fetches the records of a log over the network into a file. If a source dies in the middle, it or
//! the next one is asked again, from the last whole entry on.
//!
//! - I1: in the end the file ends with a whole entry, after which the source sent its end mark.
//! - I2: every wait and the number of attempts are bounded.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::oplog::{END_PREFIX, Mark, ReadError, Records, ends_entry};
use crate::tls::Credentials;

/// How long a source may take to accept a connection.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// How long a source may send nothing.
const READ_TIME_MAX: Duration = Duration::from_secs(30);
/// Attempts in a row that may bring nothing new.
const IDLE_ATTEMPT_COUNT_MAX: u32 = 9;
/// Pause before one that brought nothing is asked again; it doubles, up to a second.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Bytes that are written to the file at once.
const WRITE_BYTES: usize = 1 << 20;

/// Why not everything could be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No source has the rest.
    #[error(
        "{source_address} {reason}; entries up to {last_index} had come, and nobody sent the rest"
    )]
    BrokenOff {
        /// The source that was asked last.
        source_address: String,
        /// What became of it.
        reason: String,
        /// The last whole entry that came, 0 if none did.
        last_index: u64,
    },
    /// The file cannot be written.
    #[error("what is fetched cannot be written")]
    Spool(#[source] io::Error),
    /// Whoever started this wants it to end.
    #[error("interrupted")]
    Interrupted,
}

/// How far the file is good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes of whole entries.
    pub bytes: u64,
    /// Records in them.
    pub records: u64,
    /// Index of the last entry.
    pub last_index: u64,
    /// How often a source was asked again.
    pub resumed: u32,
}

/// Where records are fetched.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// Addresses, asked in turn.
    pub addresses: &'a [String],
    /// What TLS is spoken with, if it is.
    pub tls: Option<&'a Credentials>,
}

/// Both directions of a connection, plain or under TLS.
trait Duplex: Read + Write {}
impl<S: Read + Write> Duplex for S {}

/// Fetches all entries from `first` on into an empty file; `progress` hears how many bytes came.
///
/// # Errors
/// See [`FetchError`].
pub fn fetch(
    sources: Sources<'_>,
    first: u64,
    spool: &mut File,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<Fetched, FetchError> {
    let mut good = Fetched { last_index: first.saturating_sub(1), ..Fetched::default() };
    let mut idle_count = 0;
    let mut addresses = sources.addresses.iter().cycle();
    loop {
        let source = addresses.next().map_or("", String::as_str);
        let before = good.bytes;
        let connected = connect(source, sources.tls);
        let connected = connected.map_err(|error| format!("cannot be reached ({error})"));
        let fetched = connected.map_err(Broken::Source).and_then(|stream| {
            fetch_once(Asked { source, stream }, &mut good, spool, stop, progress)
        });
        let reason = match fetched {
            Ok(()) => return Ok(good),
            Err(Broken::Spool(error)) => return Err(FetchError::Spool(error)),
            Err(Broken::Interrupted) => return Err(FetchError::Interrupted),
            Err(Broken::Source(reason)) => reason,
        };
        // What came behind the last whole entry is fetched again.
        spool.set_len(good.bytes).map_err(FetchError::Spool)?;
        spool.seek(SeekFrom::Start(good.bytes)).map_err(FetchError::Spool)?;
        idle_count = if good.bytes > before { 0 } else { idle_count + 1 };
        if idle_count >= IDLE_ATTEMPT_COUNT_MAX {
            let (source_address, last_index) = (source.to_owned(), good.last_index);
            return Err(FetchError::BrokenOff { source_address, reason, last_index });
        }
        tracing::warn!(source, reason, last_index = good.last_index, "asking again");
        good.resumed += 1;
        if let Some(doublings) = idle_count.checked_sub(1) {
            std::thread::sleep((PAUSE * 2_u32.pow(doublings)).min(PAUSE_MAX));
        }
    }
}

enum Broken {
    Source(String),
    Spool(io::Error),
    Interrupted,
}

fn connect(source: &str, tls: Option<&Credentials>) -> io::Result<Box<dyn Duplex>> {
    let stream = connect_plain(source)?;
    stream.set_read_timeout(Some(READ_TIME_MAX))?;
    stream.set_write_timeout(Some(READ_TIME_MAX))?;
    let host = source.rsplit_once(':').map_or(source, |(host, _)| host);
    Ok(match tls {
        Some(tls) => Box::new(tls.dial_over(host, stream)?),
        None => Box::new(stream),
    })
}

fn connect_plain(source: &str) -> io::Result<TcpStream> {
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for address in source.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIME_MAX) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// A source, and the connection to it.
struct Asked<'a> {
    source: &'a str,
    stream: Box<dyn Duplex>,
}

/// Asks one source for what is missing, and moves `good` on with every whole entry.
fn fetch_once(
    asked: Asked<'_>,
    good: &mut Fetched,
    spool: &mut File,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Broken> {
    let unreachable = |error| Broken::Source(format!("cannot be reached ({error})"));
    let Asked { source, mut stream } = asked;
    let request = format!("{END_PREFIX}{source}-{}\n", good.last_index + 1);
    let sent = stream.write_all(request.as_bytes()).and_then(|()| stream.flush());
    sent.map_err(unreachable)?;
    let mut records = Records::new(stream);
    let mut taken = *good;
    let mut out = Vec::with_capacity(WRITE_BYTES * 2);
    let outcome = loop {
        let found = match records.next_record() {
            Ok(Some(found)) => found,
            Ok(None) => break Err(Broken::Source("broke off".into())),
            Err(error) => break Err(Broken::Source(words(&error, &records))),
        };
        if found.record.mark == Mark::End {
            break Ok(());
        }
        out.extend_from_slice(found.bytes);
        taken.bytes += found.bytes.len() as u64;
        taken.records += 1;
        if ends_entry(&found.record) && found.record.mark != Mark::Image {
            // Images come in no order: only an entry behind them shows that all of them came.
            taken.last_index = found.record.index;
            *good = taken;
        }
        if out.len() >= WRITE_BYTES {
            spool.write_all(&out).map_err(Broken::Spool)?;
            out.clear();
            progress(taken.bytes);
            if stop.load(Ordering::Relaxed) {
                return Err(Broken::Interrupted);
            }
        }
    };
    spool.write_all(&out).map_err(Broken::Spool)?;
    if outcome.is_ok() {
        *good = taken;
    }
    outcome
}

/// What a source did that sent no records: a refusal begins as no record can.
fn words(error: &ReadError, records: &Records<Box<dyn Duplex>>) -> String {
    let rest = String::from_utf8_lossy(records.rest());
    match (error, rest.strip_prefix("ERR ")) {
        (ReadError::Malformed { .. }, Some(reason)) => {
            format!("refuses: {}", reason.lines().next().unwrap_or_default())
        }
        (ReadError::Malformed { .. }, None) => format!("sends something else: {error}"),
        (ReadError::Io(error), _) => format!("broke off ({error})"),
    }
}
