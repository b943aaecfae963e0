//! Who may do what: from what a client presents to a role, and from a kind of request to the role that
//! it needs. Every protocol asks here and nowhere else.
//!
//! Called by requesters, for whatever their client presents and asks; by the programs, at SIGHUP. Without
//! `-tokens` everybody may do everything.
//!
//! A request is only asked for its role where its client sent it. A member that forwards it to the leader
//! has asked already, and the members trust one another.
//!
//! Invariants:
//! - I1: no part of what was presented is kept, logged or answered, and a client is told the same of a
//!   wrong token, a wrong name and one that has expired.
//! - I2: rights are looked at anew for each turn of a connection: a token that was removed, changed or
//!   has expired counts no longer for the next request.
//! - I3: what goes wrong is logged at most once in a while, however often it is tried.
//! - I4: a file that is wrong changes nothing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use super::complaint::Complaint;
use crate::command::FailureClass;
pub(crate) use crate::config::ClientRole;
use crate::config::{ConfigError, SECRET_BYTES_MAX, Token, TokenHash, Tokens};
use crate::host::Clock;

/// How long a client waits for the answer to a wrong token: nobody else waits with it.
pub(crate) const WRONG_TOKEN_PAUSE: Duration = Duration::from_millis(200);
/// How often a line is logged of clients that are refused (I3).
const TOLD_EVERY: Duration = Duration::from_mins(1);

/// What a client is told whose token is wrong, in the words of Redis (I1).
pub(crate) const WRONG_CREDENTIALS: &str = "invalid username-password pair or user is disabled.";

/// What a request does, as far as rights go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// Presents a token, ends a connection, asks whether the node lives and serves, or for what is the
    /// same on every node of a version: the console's page, the description of the API.
    Open,
    /// Asks about the connection, the node or its cluster.
    Look,
    /// Reads keys or values.
    Read,
    /// Changes values.
    Write,
    /// Changes the cluster, or shows what other clients or the process do.
    Administer,
}

impl RequestKind {
    /// The role that a request of this kind needs; `None`: not even a token.
    pub(crate) const fn needs(self) -> Option<ClientRole> {
        match self {
            RequestKind::Open => None,
            RequestKind::Look | RequestKind::Read => Some(ClientRole::Read),
            RequestKind::Write => Some(ClientRole::Write),
            RequestKind::Administer => Some(ClientRole::Admin),
        }
    }
}

/// What a client presents, in any protocol.
#[derive(Clone, Copy)]
pub(crate) struct Credentials<'a> {
    /// Whose token it says it is, where the protocol has room for that.
    pub(crate) name: Option<&'a [u8]>,
    /// What it says is one.
    pub(crate) token: &'a [u8],
}

/// Whose token was presented. Whether it counts still is asked of [`Access::granted`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenHolder {
    name: Arc<str>,
    hash: TokenHash,
    /// Which reading of the file the rest is from.
    reading: u64,
    /// `None`: the token was not in it.
    role: Option<ClientRole>,
    /// Since 1970.
    expires: Option<Duration>,
}

impl TokenHolder {
    /// The name of the token.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// Why clients are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denial {
    /// A request came without a token, or its token counts no longer.
    NoToken,
    /// What was presented is no token that counts.
    WrongToken,
    /// The token's role is too little.
    Role,
}

impl Denial {
    /// Every reason, with its name in the metrics.
    pub(crate) const NAMED: [(Denial, &'static str); 3] = [
        (Denial::NoToken, "no_token"),
        (Denial::WrongToken, "wrong_token"),
        (Denial::Role, "role"),
    ];
}

/// Who may do what on this client port.
#[derive(Debug)]
pub struct Access {
    /// `None`: everybody may do everything.
    file: Option<TokenFile>,
    /// In the order of [`Denial::NAMED`].
    denials: [AtomicU64; Denial::NAMED.len()],
    told: Mutex<Told>,
}

#[derive(Debug)]
struct TokenFile {
    path: PathBuf,
    clock: Clock,
    /// How often the file was read anew; told after `tokens` are the new ones.
    reading: AtomicU64,
    tokens: RwLock<Arc<Tokens>>,
}

/// The last line that was logged of somebody who was refused.
#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    /// How many it did not tell of.
    untold: u64,
}

impl Access {
    /// Everybody may do everything.
    pub fn free() -> Access {
        Access { file: None, denials: Default::default(), told: Mutex::default() }
    }

    /// As the file of `-tokens` says, if there is one.
    ///
    /// # Errors
    /// It cannot be read, others may use it, or it is no file of tokens.
    pub fn open(path: Option<&Path>, clock: Clock) -> Result<Access, ConfigError> {
        let Some(path) = path else { return Ok(Access::free()) };
        let tokens = RwLock::new(Arc::new(Tokens::read(path)?));
        let file = TokenFile { path: path.to_owned(), clock, reading: AtomicU64::new(0), tokens };
        Ok(Access { file: Some(file), ..Access::free() })
    }

    /// Reads the file anew, if there is one; how many tokens it has.
    ///
    /// # Errors
    /// It is wrong, and the tokens stay as they were (I4).
    pub fn reload(&self) -> Result<Option<usize>, ConfigError> {
        let Some(file) = &self.file else { return Ok(None) };
        let tokens = Tokens::read(&file.path)?;
        let count = tokens.count();
        *file.tokens.write() = Arc::new(tokens);
        file.reading.fetch_add(1, Ordering::Release);
        Ok(Some(count))
    }

    /// Whether a client needs a token.
    pub(crate) fn is_guarded(&self) -> bool {
        self.file.is_some()
    }

    /// Whose token was presented: from this on, that client may do what [`Access::granted`] says.
    ///
    /// # Errors
    /// It is none that counts. The answer is to wait for [`WRONG_TOKEN_PAUSE`].
    pub(crate) fn identify(&self, presented: Credentials<'_>) -> Result<TokenHolder, Complaint> {
        let found = self.find(presented);
        found.ok_or_else(|| Complaint::new(FailureClass::Unauthenticated, WRONG_CREDENTIALS)) // I1
    }

    fn find(&self, Credentials { name, token }: Credentials<'_>) -> Option<TokenHolder> {
        let file = self.file.as_ref()?;
        let token = token.get(..token.len().min(SECRET_BYTES_MAX + 1))?;
        let hash = TokenHash::of(token);
        let reading = file.reading.load(Ordering::Acquire);
        let tokens = Arc::clone(&file.tokens.read());
        let found = tokens.find(&hash)?;
        let is_named = name.is_none_or(|name| found.is_named(name));
        let counts = is_named && found.is_valid_at(file.clock.wall());
        let Token { name, role, expires, .. } = found;
        let (name, role, expires) = (name.as_str().into(), Some(*role), *expires);
        counts.then_some(TokenHolder { name, hash, reading, role, expires })
    }

    /// What a client may do now; `None`: only what needs no token (I2).
    pub(crate) fn granted(&self, holder: Option<&mut TokenHolder>) -> Option<ClientRole> {
        let Some(file) = &self.file else { return Some(ClientRole::Admin) };
        let holder = holder?;
        let reading = file.reading.load(Ordering::Acquire);
        if holder.reading != reading {
            let tokens = Arc::clone(&file.tokens.read());
            let found = tokens.find(&holder.hash).filter(|token| *token.name == *holder.name);
            holder.reading = reading;
            holder.role = found.map(|token| token.role);
            holder.expires = found.and_then(|token| token.expires);
        }
        let counts = holder.expires.is_none_or(|end| file.clock.wall() < end);
        holder.role.filter(|_| counts)
    }

    /// Counts somebody who was refused, and logs it now and then (I3).
    pub(crate) fn count(&self, denial: Denial, client: SocketAddr) {
        if let Some(count) = self.denials_of(denial) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let mut told = self.told.lock();
        if told.at.is_some_and(|at| at.elapsed() < TOLD_EVERY) {
            told.untold += 1;
            return;
        }
        let untold = std::mem::take(&mut told.untold);
        told.at = Some(Instant::now());
        drop(told);
        tracing::warn!(%client, reason = ?denial, untold, "a client was refused by -tokens");
    }

    /// How many were refused for this reason.
    pub(crate) fn denials(&self, denial: Denial) -> u64 {
        self.denials_of(denial).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn denials_of(&self, denial: Denial) -> Option<&AtomicU64> {
        let place = Denial::NAMED.iter().position(|(named, _)| *named == denial)?;
        self.denials.get(place)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const SECRET: &[u8] = b"dst_of_a_test";
    const PRESENTED: Credentials<'static> = Credentials { name: None, token: SECRET };

    fn file(folder: &Path, role: &str, more: &str) -> PathBuf {
        let (path, hash) = (folder.join("tokens.toml"), TokenHash::of(SECRET));
        let text =
            format!("[[token]]\nname = \"one\"\nrole = \"{role}\"\nsha256 = \"{hash}\"\n{more}");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    #[test]
    fn a_kind_of_request_needs_a_role_and_those_above_it_suffice() {
        let may = |kind: RequestKind, role: Option<ClientRole>| kind.needs() <= role;
        for (kind, least) in [
            (RequestKind::Open, None),
            (RequestKind::Look, Some(ClientRole::Read)),
            (RequestKind::Read, Some(ClientRole::Read)),
            (RequestKind::Write, Some(ClientRole::Write)),
            (RequestKind::Administer, Some(ClientRole::Admin)),
        ] {
            for role in [None].into_iter().chain(ClientRole::ALL.map(Some)) {
                assert_eq!(may(kind, role), role >= least, "{kind:?} {role:?}");
            }
        }
    }

    #[test]
    fn a_token_that_expires_ends_what_it_gave() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path(), "write", "expires = \"2001-09-09T01:46:50Z\"\n");
        let mut access = Access::open(Some(&path), Clock::System).unwrap();
        let set = |access: &mut Access, seconds| {
            let clock = Clock::Set(Duration::from_secs(seconds), Instant::now());
            access.file.as_mut().unwrap().clock = clock;
        };
        set(&mut access, 1_000_000_000); // ten seconds before
        let mut holder = access.identify(PRESENTED).unwrap();
        assert_eq!(access.granted(Some(&mut holder)), Some(ClientRole::Write));
        set(&mut access, 1_000_000_010);
        assert_eq!(access.granted(Some(&mut holder)), None);
        assert!(access.identify(PRESENTED).is_err());
        // Given more time, it counts again.
        file(folder.path(), "write", "");
        assert_eq!(access.reload().unwrap(), Some(1));
        assert_eq!(access.granted(Some(&mut holder)), Some(ClientRole::Write));
    }

    #[test]
    fn who_is_refused_is_counted_and_told_once_a_minute() {
        let access = Access::free();
        let client = SocketAddr::from(([127, 0, 0, 1], 5));
        for _ in 0..1000 {
            access.count(Denial::Role, client);
        }
        assert_eq!((access.denials(Denial::Role), access.denials(Denial::NoToken)), (1000, 0));
        assert_eq!(access.told.lock().untold, 999);
        access.told.lock().at = Instant::now().checked_sub(TOLD_EVERY);
        access.count(Denial::NoToken, client);
        assert_eq!((access.told.lock().untold, access.denials(Denial::NoToken)), (0, 1));
    }

    #[test]
    fn where_no_tokens_are_needed_everybody_may_do_everything() {
        let access = Access::open(None, Clock::System).unwrap();
        assert_eq!(access.granted(None), Some(ClientRole::Admin));
        assert_eq!((access.is_guarded(), access.reload().unwrap()), (false, None));
    }
}
