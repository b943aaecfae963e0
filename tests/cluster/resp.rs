//! A small blocking client, RESP2 over one connection, that says what became of a request.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use diskstore::status::Status;
use diskstore::tls::{Credentials, Mode};
use parking_lot::Mutex;

/// How long an answer may take: longer than a node waits for a leader or a majority.
const ANSWER_BOUND: Duration = Duration::from_secs(15);
const CONNECT_BOUND: Duration = Duration::from_secs(2);
/// Errors with these codes say that nothing was applied and nothing will be.
const REFUSED_CODES: [&str; 6] = ["CLUSTERDOWN", "NOT_LEADER", "NO_SPACE", "BUSY", "OOM", "ERR"];

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Simple(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<Value>),
}

impl Value {
    /// The text of a bulk; `None` for no value.
    #[track_caller]
    pub(crate) fn text(self) -> Option<String> {
        match self {
            Value::Bulk(bytes) => Some(String::from_utf8(bytes).unwrap()),
            Value::Nil => None,
            other => panic!("not a value: {other:?}"),
        }
    }

    /// The values of an array.
    #[track_caller]
    pub(crate) fn texts(self) -> Vec<Option<String>> {
        let Value::Array(values) = self else { panic!("not an array: {self:?}") };
        values.into_iter().map(Value::text).collect()
    }
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Certainly not applied, now or later.
    Refused(String),
    /// Applied once or not at all, now or later.
    Unknown(String),
}

/// Both directions of a connection, plain or under TLS.
trait Duplex: Read + Write + Send {}
impl<S: Read + Write + Send> Duplex for S {}

/// What is dialled under TLS: hosts, and the folders with the certificates for that.
static UNDER_TLS: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());

/// From now on this host is dialled under TLS, with the certificates in a folder.
pub(crate) fn dial_under_tls(host: &str, folder: &Path) {
    UNDER_TLS.lock().insert(host.to_owned(), folder.to_owned());
}

/// From now on this host is dialled plain.
pub(crate) fn dial_plain(host: &str) {
    UNDER_TLS.lock().remove(host);
}

/// One connection to one node. After [`Failure::Unknown`] it is of no more use.
pub(crate) struct Client {
    reader: BufReader<Box<dyn Duplex>>,
}

impl Client {
    pub(crate) fn connect(address: &str) -> Result<Client, Failure> {
        Client::connect_within(address, ANSWER_BOUND)
    }

    /// A client that waits for an answer this long.
    pub(crate) fn connect_within(address: &str, bound: Duration) -> Result<Client, Failure> {
        let refused = |error: io::Error| Failure::Refused(format!("{address}: {error}"));
        let socket: SocketAddr = address.parse().unwrap();
        let stream = TcpStream::connect_timeout(&socket, CONNECT_BOUND).map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        stream.set_read_timeout(Some(bound)).map_err(refused)?;
        stream.set_write_timeout(Some(bound)).map_err(refused)?;
        let host = socket.ip().to_string();
        let folder = UNDER_TLS.lock().get(&host).cloned();
        let stream: Box<dyn Duplex> = match folder {
            Some(folder) => {
                let credentials = Credentials::read(&folder, Mode::Require).unwrap();
                Box::new(credentials.dial_over(&host, stream).map_err(refused)?)
            }
            None => Box::new(stream),
        };
        Ok(Client { reader: BufReader::new(stream) })
    }

    /// Sends one request and waits for its answer.
    pub(crate) fn ask(&mut self, words: &[&str]) -> Result<Value, Failure> {
        self.send(words)?;
        self.receive()
    }

    /// Sends one request.
    pub(crate) fn send(&mut self, words: &[&str]) -> Result<(), Failure> {
        let mut request = format!("*{}\r\n", words.len());
        request.extend(words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())));
        self.reader.get_mut().write_all(request.as_bytes()).map_err(lost)
    }

    /// Waits for the answer to what was sent.
    pub(crate) fn receive(&mut self) -> Result<Value, Failure> {
        self.answer().map_err(lost)?
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    fn answer(&mut self) -> io::Result<Result<Value, Failure>> {
        let line = self.line()?;
        let (kind, rest) = line.split_at(1);
        Ok(Ok(match kind {
            "+" => Value::Simple(rest.to_owned()),
            "-" => return Ok(Err(failure(rest))),
            ":" => Value::Integer(rest.parse().unwrap()),
            "$" | "*" if rest == "-1" => Value::Nil,
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().unwrap() + 2];
                self.reader.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Value::Bulk(bytes)
            }
            "*" => {
                let mut values = Vec::new();
                for _ in 0..rest.parse::<usize>().unwrap() {
                    match self.answer()? {
                        Ok(value) => values.push(value),
                        Err(failure) => return Ok(Err(failure)),
                    }
                }
                Value::Array(values)
            }
            _ => panic!("no RESP2: {line}"),
        }))
    }

    pub(crate) fn status(&mut self) -> Result<Status, Failure> {
        let text = self.ask(&["DISKSTORE", "STATUS"])?.text().unwrap();
        Ok(Status::from_json(text.as_bytes()).unwrap())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn lost(error: io::Error) -> Failure {
    Failure::Unknown(format!("connection: {error}"))
}

fn failure(text: &str) -> Failure {
    let code = text.split(' ').next().unwrap();
    if REFUSED_CODES.contains(&code) {
        Failure::Refused(text.to_owned())
    } else {
        Failure::Unknown(text.to_owned())
    }
}
