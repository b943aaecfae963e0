//! What nodes are dialled with: a token, and certificates. `diskstore token` makes tokens; the other
//! sub-commands, and programs that use the client, present theirs.
//!
//! - I1: a token comes from the environment or a file, never from an argument, which everybody on the
//!   machine may see; and it is in no message.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::net::sockopt;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::ClientError;
use crate::cli::Servers;
use crate::config::{Address, ClientRole, SECRET_BYTES_MAX, TOKEN_RANDOM_BYTES, add_token};
use crate::tls::{Credentials, Mode};

/// The variable that a token is in.
const VARIABLE: &str = "DISKSTORE_TOKEN";
/// Most bytes of a file with a token: some white space may stand around it.
const FILE_BYTES_MAX: u64 = 4096;
/// How long a connection says nothing before the system asks whether the other side is there.
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(15);

/// What nodes are dialled with: the token that is presented, and what TLS is spoken with, if any. By
/// default neither.
#[derive(Clone, Default)]
pub struct Dialling {
    token: Option<String>,
    tls: Option<Arc<Credentials>>,
}

/// I1
impl fmt::Debug for Dialling {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.token.is_some() { "Dialling(..)" } else { "no token" })
    }
}

impl Dialling {
    /// What the flags for `servers` say.
    ///
    /// # Errors
    /// As [`Dialling::read`].
    pub(crate) fn of(servers: &Servers) -> Result<Dialling, ClientError> {
        Dialling::read(servers.token_file.as_deref(), servers.tls.as_deref())
    }

    /// The token in a file, or else that of the variable `DISKSTORE_TOKEN` if it is set; and the
    /// certificates of a directory: `ca.crt`, and `tls.crt` with `tls.key` where nodes ask for a client's
    /// certificate. Without a directory no TLS is spoken.
    ///
    /// # Errors
    /// What is wrong with a file, by its name, or with the variable.
    pub fn read(token_file: Option<&Path>, tls: Option<&Path>) -> Result<Dialling, ClientError> {
        let tls = tls.map(|directory| Credentials::read(directory, Mode::Require)).transpose()?;
        Ok(Dialling { token: token(token_file)?, tls: tls.map(Arc::new) })
    }

    /// What TLS is spoken with, if it is.
    pub(crate) fn tls(&self) -> Option<&Credentials> {
        self.tls.as_deref()
    }

    /// The token's text.
    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Connects to a node, and shakes hands; each of the two may take `time_max`.
    ///
    /// # Errors
    /// Of the stream; the node shows no certificate that is good for its host.
    pub(crate) async fn dial(
        &self,
        node: &Address,
        time_max: Duration,
    ) -> io::Result<Box<dyn NodeStream>> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer");
        let connecting = TcpStream::connect((node.host.as_str(), node.port));
        let stream = timeout(time_max, connecting).await.map_err(late)??;
        stream.set_nodelay(true)?;
        notice_loss(&stream)?;
        let Some(tls) = self.tls() else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(node.host.clone()).map_err(io::Error::other)?;
        let shaking = TlsConnector::from(tls.client_dial()).connect(name, stream);
        Ok(Box::new(timeout(time_max, shaking).await.map_err(late)??))
    }
}

/// Has the system ask now and then whether the node is still there, and whoever is between the two remember
/// the connection: a node may say nothing for minutes, as for a backup of what has changed.
fn notice_loss(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_PAUSE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_PAUSE)?;
    sockopt::set_socket_keepalive(stream, true)?;
    Ok(())
}

/// A connection to a node, plain or under TLS.
pub(crate) trait NodeStream: AsyncRead + AsyncWrite + Send + Unpin {
    /// Whether a write that failed may have sent some of its bytes.
    fn may_send_and_fail(&self) -> bool {
        false
    }
}

impl NodeStream for TcpStream {}
impl NodeStream for TlsStream<TcpStream> {
    fn may_send_and_fail(&self) -> bool {
        true // one write is several records, and each may be one of the socket
    }
}

/// The token in `file`, or the one of the environment.
fn token(file: Option<&Path>) -> Result<Option<String>, ClientError> {
    let Some(path) = file else {
        let found = std::env::var_os(VARIABLE).filter(|token| !token.is_empty());
        let Some(found) = found else { return Ok(None) };
        let wrong = ClientError::Environment { variable: VARIABLE, reason: NO_TOKEN };
        return found.to_str().and_then(one).map(Some).ok_or(wrong);
    };
    let mut text = String::new();
    let read =
        File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|error| ClientError::file(path, error.to_string()))?;
    one(&text).map(Some).ok_or_else(|| ClientError::file(path, NO_TOKEN))
}

/// What is in no message says what is wrong with it (I1).
const NO_TOKEN: &str = "this is no token: one word, of letters, digits, `-` and `_`";

fn one(text: &str) -> Option<String> {
    let token = text.trim();
    let is_one = !token.is_empty()
        && token.len() <= SECRET_BYTES_MAX
        && token.bytes().all(|byte| byte.is_ascii_graphic());
    is_one.then(|| token.to_owned())
}

/// Makes a token, adds its hash to `file`, and returns its text, which stands nowhere else.
pub(super) fn make(
    name: &str,
    role: &str,
    file: &Path,
    valid_for: Option<Duration>,
) -> Result<String, ClientError> {
    let known = ClientRole::ALL.into_iter().find(|known| known.name() == role);
    let role = known.ok_or_else(|| ClientError::Flag {
        flag: "role".to_owned(),
        value: role.to_owned(),
        reason: "read, write or admin".to_owned(),
    })?;
    let mut random = [0; TOKEN_RANDOM_BYTES];
    getrandom::fill(&mut random).map_err(|error| ClientError::Local {
        what: "asking the system for randomness".to_owned(),
        source: io::Error::other(error),
    })?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let expires = valid_for.map(|time| now.saturating_add(time));
    Ok(add_token(file, name, role, expires, random)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_one_token_and_what_is_none_is_not_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let of = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Dialling::read(Some(&path), None)
        };
        let token = of(" dst_abc\n").unwrap();
        assert_eq!(
            (token.token(), format!("{token:?}").as_str()),
            (Some("dst_abc"), "Dialling(..)")
        );
        for text in ["", "\n", "two words", "secr\u{e9}t", &"x".repeat(SECRET_BYTES_MAX + 1)] {
            let error = of(text).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().ends_with(NO_TOKEN), "{error}");
        }
        assert_eq!(
            Dialling::read(Some(&folder.path().join("none")), None).unwrap_err().exit_code(),
            2
        );
    }
}
