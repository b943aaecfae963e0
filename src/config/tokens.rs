//! The file of `-tokens`: who may do what at the client port. TOML, a table for each token:
//!
//! ```toml
//! [[token]]
//! name = "shop"
//! role = "write"
//! sha256 = "..."                        # of the token's text, in hexadecimal digits
//! expires = "2027-01-31T00:00:00Z"      # or none
//! ```
//!
//! Read by the client port, written by `diskstore token`. A token is 32 random bytes as text, so one
//! round of SHA-256 hides it as well as any slow hash would: there is nothing to guess from.
//!
//! - I1: the file holds no token, only hashes; but whoever may write to it lets in whom they like, so it
//!   belongs to its owner alone, and is refused where others may even read it.
//! - I2: comparing what is presented with the hashes takes the same time wherever they differ.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::ConfigError;
use super::file::{read_open, read_text};
use super::is_name;

/// Most tokens of a file.
const TOKEN_COUNT_MAX: usize = 256;
/// Most bytes of what is taken for a token.
pub const SECRET_BYTES_MAX: usize = 256;
/// Random bytes of a token.
pub const TOKEN_RANDOM_BYTES: usize = 32;
/// How a token begins, so that people and scanners of text know what they have found.
const PREFIX: &str = "dst_";
/// The same of a join token.
const JOIN_PREFIX: &str = "dsj_";
/// The variable that a join token may be in.
const JOIN_VARIABLE: &str = "DISKSTORE_JOIN_TOKEN";
/// The name that clients give who have none: libraries for Redis send it with every password.
const ANY_NAME: &str = "default";
/// Mode of the file (I1).
const MODE: u32 = 0o600;
/// What others may do with it.
const MODE_OF_OTHERS: u32 = 0o077;
/// Bytes of a hash.
const HASH_BYTES: usize = 32;

/// What somebody may do; each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientRole {
    /// Read values, and look at the node.
    Read,
    /// Write values.
    Write,
    /// Change the cluster, look at other clients, take profiles.
    Admin,
}

impl ClientRole {
    /// Every role, the least first.
    pub const ALL: [ClientRole; 3] = [ClientRole::Read, ClientRole::Write, ClientRole::Admin];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            ClientRole::Read => "read",
            ClientRole::Write => "write",
            ClientRole::Admin => "admin",
        }
    }
}

impl fmt::Display for ClientRole {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What a token's text is known by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash([u8; HASH_BYTES]);

impl TokenHash {
    /// Of this text.
    pub fn of(secret: &[u8]) -> TokenHash {
        TokenHash(Sha256::digest(secret).into())
    }

    /// From hexadecimal digits.
    fn parse(text: &str) -> Option<TokenHash> {
        let mut hash = [0; HASH_BYTES];
        if text.len() != 2 * HASH_BYTES || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (nth, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * nth..2 * nth + 2)?, 16).ok()?;
        }
        Some(TokenHash(hash))
    }

    /// Its bytes.
    pub fn bytes(self) -> [u8; HASH_BYTES] {
        self.0
    }

    /// Whether they are one. I2
    pub fn is(&self, other: &TokenHash) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl From<[u8; HASH_BYTES]> for TokenHash {
    fn from(bytes: [u8; HASH_BYTES]) -> TokenHash {
        TokenHash(bytes)
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// A hash is no secret, and no use to whoever reads a log.
impl fmt::Debug for TokenHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TokenHash(..)")
    }
}

/// One token, as the file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Whose it is; no two have one name.
    pub name: String,
    /// What it allows.
    pub role: ClientRole,
    /// What it is known by.
    pub hash: TokenHash,
    /// Since 1970: it counts no longer from then on.
    pub expires: Option<Duration>,
}

/// All tokens of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    list: Vec<Token>,
}

/// What is wrong with a file of tokens. Nothing of the file is repeated but names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenFileError {
    /// Others may read or write it (I1).
    #[error("others than its owner may use it (mode {mode:04o}): chmod 600 it")]
    Mode {
        /// Its permissions.
        mode: u32,
    },
    /// A directory or a device.
    #[error("it is no regular file")]
    NoFile,
    /// Not in the form of a file of tokens.
    #[error("line {line}: {reason}")]
    Syntax {
        /// The first line is 1.
        line: usize,
        /// What the parser says.
        reason: String,
    },
    /// More than are taken.
    #[error("{count} tokens; {TOKEN_COUNT_MAX} are taken")]
    Count {
        /// How many.
        count: usize,
    },
    /// No name, or one that no token may have.
    #[error(
        "token {nth}: a name has 1 to 64 letters, digits, `-`, `_` and `.`, and is not `default`"
    )]
    Name {
        /// The first token is 1.
        nth: usize,
    },
    /// Two tokens of one name.
    #[error("`{name}` is there twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// A hash that is none.
    #[error("`{name}`: sha256 has 64 hexadecimal digits")]
    Hash {
        /// Whose.
        name: String,
    },
    /// Two tokens that are one.
    #[error("`{name}` and `{other}` have the same hash")]
    SameHash {
        /// The first.
        name: String,
        /// The second.
        other: String,
    },
    /// A time that is none.
    #[error("`{name}`: expires is a time such as 2027-01-31T00:00:00Z")]
    Expiry {
        /// Whose.
        name: String,
    },
}

/// The file as its text has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    #[serde(default)]
    token: Vec<TokenForm>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenForm {
    name: String,
    role: ClientRole,
    sha256: String,
    expires: Option<String>,
}

impl Tokens {
    /// Reads the file that `-tokens` names.
    ///
    /// # Errors
    /// It cannot be read, others may use it, or it is no file of tokens.
    pub fn read(path: &Path) -> Result<Tokens, ConfigError> {
        let wrong = |source| ConfigError::Tokens { path: path.to_owned(), source };
        Tokens::parse(&text_of(path)?).map_err(wrong)
    }
    /// Reads the text of such a file.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Tokens, TokenFileError> {
        let form: FileForm = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            // The words alone: what the parser shows beside them is the file's text.
            TokenFileError::Syntax { line, reason: without_quotes(error.message()) }
        })?;
        let count = form.token.len();
        if count > TOKEN_COUNT_MAX {
            return Err(TokenFileError::Count { count });
        }
        let mut tokens = Tokens::default();
        for TokenForm { name, role, sha256, expires } in form.token {
            if !is_token_name(&name) {
                return Err(TokenFileError::Name { nth: tokens.list.len() + 1 });
            }
            let hash = TokenHash::parse(&sha256);
            let hash = hash.ok_or_else(|| TokenFileError::Hash { name: name.clone() })?;
            let expires = expires
                .map(|text| parse_time(&text))
                .map(|time| time.ok_or_else(|| TokenFileError::Expiry { name: name.clone() }));
            tokens.push(Token { name, role, hash, expires: expires.transpose()? })?;
        }
        Ok(tokens)
    }

    fn push(&mut self, token: Token) -> Result<(), TokenFileError> {
        if self.list.iter().any(|other| other.name == token.name) {
            return Err(TokenFileError::Twice { name: token.name });
        }
        if let Some(other) = self.list.iter().find(|other| other.hash == token.hash) {
            let name = other.name.clone();
            return Err(TokenFileError::SameHash { name, other: token.name });
        }
        if self.list.len() == TOKEN_COUNT_MAX {
            return Err(TokenFileError::Count { count: TOKEN_COUNT_MAX + 1 });
        }
        self.list.push(token);
        Ok(())
    }

    /// The token of this hash, whether or not it has expired (I2).
    pub fn find(&self, hash: &TokenHash) -> Option<&Token> {
        // All are compared, so that the time tells no place either.
        self.list
            .iter()
            .fold(None, |found, token| if token.hash.is(hash) { Some(token) } else { found })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }
}

/// What a parser says, without what it repeats of the file: somebody may have put a token there (I1).
fn without_quotes(words: &str) -> String {
    let kind = words.split(['`', '"', '\n']).next().unwrap_or_default().trim();
    let expected = words.rfind(", expected ").and_then(|at| words.get(at + 2..));
    let expected = expected.map_or_else(String::new, |expected| format!(", {expected}"));
    format!("{kind}{expected}").replace('\n', " ")
}

/// The text of the file, if nobody else may use it (I1).
fn text_of(path: &Path) -> Result<String, ConfigError> {
    let unreadable =
        |source| ConfigError::Unreadable { flag: "tokens", path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?;
    let mode = found.permissions().mode() & 0o7777;
    let wrong = |source| ConfigError::Tokens { path: path.to_owned(), source };
    if !found.is_file() {
        return Err(wrong(TokenFileError::NoFile));
    }
    if mode & MODE_OF_OTHERS != 0 {
        return Err(wrong(TokenFileError::Mode { mode })); // I1
    }
    read_open("tokens", path, file)
}

impl Token {
    /// Whether it counts at this time since 1970.
    pub fn is_valid_at(&self, now: Duration) -> bool {
        self.expires.is_none_or(|end| now < end)
    }

    /// Whether a client that gives this name means it. One without a name of its own gives `default`.
    pub fn is_named(&self, name: &[u8]) -> bool {
        name == ANY_NAME.as_bytes() || name == self.name.as_bytes()
    }
}

/// Makes a token out of `random`, adds its hash to the file, which may not be there yet, and returns its
/// text. It expires at this time since 1970, if at all.
///
/// After `Ok` the file survives power loss; a node that runs takes it in at SIGHUP.
///
/// # Errors
/// The file is none of tokens, has such a name already, or cannot be written.
pub fn add_token(
    path: &Path,
    name: &str,
    role: ClientRole,
    expires: Option<Duration>,
    random: [u8; TOKEN_RANDOM_BYTES],
) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Unwritable { flag: "tokens", path: path.to_owned(), source };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // One at a time, or the second would write over what the first has added.
    let folder = File::open(folder).map_err(failed)?;
    flock(&folder, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
    let mut text = match text_of(path) {
        Err(ConfigError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            String::new()
        }
        read => read?,
    };
    let wrong = |source| ConfigError::Tokens { path: path.to_owned(), source };
    let mut tokens = Tokens::parse(&text).map_err(wrong)?;
    let secret = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
    let hash = TokenHash::of(secret.as_bytes());
    let token = Token { name: name.to_owned(), role, hash, expires };
    if !is_token_name(name) {
        return Err(wrong(TokenFileError::Name { nth: tokens.count() + 1 }));
    }
    // What stands there already stays as it is, with the comments of whoever wrote it.
    if !text.is_empty() {
        text.push_str(if text.ends_with('\n') { "\n" } else { "\n\n" });
    }
    text.push_str(&token.to_string());
    tokens.push(token).map_err(wrong)?;
    replace(path, &folder, &text).map_err(failed)?;
    Ok(secret)
}

/// The text of a join token of these random bytes.
pub fn join_token(random: [u8; TOKEN_RANDOM_BYTES]) -> String {
    format!("{JOIN_PREFIX}{}", URL_SAFE_NO_PAD.encode(random))
}

/// The join token in `file`, or the one of the environment: none in an argument, which everybody on the
/// machine may see. Empty if there is none, or no such file: it may have been deleted once it was used.
///
/// # Errors
/// The file cannot be read, or what is there is no token; it is not repeated.
pub fn read_join_token(file: Option<&Path>) -> Result<String, ConfigError> {
    let (place, text) = match file {
        Some(path) => match read_text("join-token-file", path) {
            Err(ConfigError::Unreadable { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                return Ok(String::new());
            }
            text => (path.display().to_string(), text?),
        },
        None => match std::env::var_os(JOIN_VARIABLE).filter(|found| !found.is_empty()) {
            None => return Ok(String::new()),
            Some(found) => {
                (format!("the variable {JOIN_VARIABLE}"), found.into_string().unwrap_or_default())
            }
        },
    };
    let token = text.trim();
    let is_one = (1..=SECRET_BYTES_MAX).contains(&token.len())
        && token.bytes().all(|byte| byte.is_ascii_graphic());
    if is_one { Ok(token.to_owned()) } else { Err(ConfigError::NoJoinToken { place }) }
}

/// Writes the whole file, or none of it.
fn replace(path: &Path, folder: &File, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    // One that a crash left behind.
    match std::fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(beside, path)?;
    folder.sync_all()
}

/// As the file has it.
impl fmt::Display for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Token { name, role, hash, expires } = self;
        writeln!(
            formatter,
            "[[token]]\nname = \"{name}\"\nrole = \"{role}\"\nsha256 = \"{hash}\""
        )?;
        let Some(expires) = expires else { return Ok(()) };
        let expires = humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + *expires);
        writeln!(formatter, "expires = \"{expires}\"")
    }
}

fn is_token_name(name: &str) -> bool {
    is_name(name) && name != ANY_NAME
}

/// A time since 1970, up to seconds.
fn parse_time(text: &str) -> Option<Duration> {
    humantime::parse_rfc3339(text).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, secret: &str, more: &str) -> String {
        let hash = TokenHash::of(secret.as_bytes());
        format!("[[token]]\nname = \"{name}\"\nrole = \"read\"\nsha256 = \"{hash}\"\n{more}\n")
    }

    #[test]
    fn what_is_no_file_of_tokens_is_refused_with_its_reason() {
        let one = table("one", "a", "");
        for (text, reason) in [
            ("token = 7".to_owned(), "line 1: "),
            (format!("{one}more = 1"), "line 6: unknown field, expected one of `name`, "),
            (
                one.replace("read", "root"),
                "line 3: unknown variant, expected one of `read`, `write`, `admin`",
            ),
            (one.replace("sha256 = \"", "sha256 = \"0"), "`one`: sha256 has 64"),
            (one.replace("sha256 = \"", "sha256 = \"\u{e9}"), "`one`: sha256 has 64"),
            (one.replace("\"one\"", "\"\""), "token 1: a name has 1 to 64"),
            (one.replace("\"one\"", "\"default\""), "token 1: a name has"),
            (one.clone() + &table("one", "b", ""), "`one` is there twice"),
            (one.clone() + &table("two", "a", ""), "`one` and `two` have the same hash"),
            (table("one", "a", "expires = \"tomorrow\""), "`one`: expires is a time such as"),
            (table("one", "a", "expires = \"1969-01-01T00:00:00Z\""), "`one`: expires is"),
            (
                (0..=TOKEN_COUNT_MAX)
                    .map(|n| table(&format!("n{n}"), &n.to_string(), ""))
                    .collect(),
                "257 tokens; 256 are taken",
            ),
        ] {
            let found = Tokens::parse(&text).unwrap_err().to_string();
            assert!(found.starts_with(reason), "{found}");
        }
        assert_eq!(Tokens::parse("").unwrap().count(), 0);
        for text in
            ["token = \"dst_s\"", "[[token]]\nrole = \"dst_s\"", "[[token]]\ndst_s = 7", "dst_s"]
        {
            let found = Tokens::parse(text).unwrap_err().to_string();
            assert!(!found.contains("dst_s"), "{found}");
        }
    }

    #[test]
    fn a_token_is_found_by_its_text_and_comes_back_as_it_was_written() {
        let text = table("one", "a", "") + &table("two", "b", "expires = \"2030-01-02T03:04:05Z\"");
        let tokens = Tokens::parse(&text).unwrap();
        assert_eq!(tokens.find(&TokenHash::of(b"c")), None);
        let two = tokens.find(&TokenHash::of(b"b")).unwrap();
        assert_eq!(
            (two.name.as_str(), two.role, two.expires),
            ("two", ClientRole::Read, Some(Duration::from_secs(1_893_553_445)))
        );
        assert!(two.is_valid_at(Duration::from_secs(1_893_553_444)));
        assert!(!two.is_valid_at(Duration::from_secs(1_893_553_445)));
        assert!(two.is_named(b"two") && two.is_named(b"default") && !two.is_named(b"one"));
        assert_eq!(Tokens::parse(&two.to_string()).unwrap().find(&two.hash), Some(two));
        // The known answer of SHA-256 to "abc", so that others can make the hash as well.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(TokenHash::of(b"abc").to_string(), abc);
    }

    #[test]
    fn a_join_token_whose_file_is_gone_is_none_and_a_wrong_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("join.token");
        let read = || read_join_token(Some(&path)).map_err(|error| error.to_string());
        assert_eq!(read(), Ok(String::new()));
        std::fs::write(&path, "dsj_some\n").unwrap();
        assert_eq!(read(), Ok("dsj_some".to_owned()));
        for wrong in ["", "dsj_ some"] {
            std::fs::write(&path, wrong).unwrap();
            let error = read().unwrap_err();
            assert!(!error.contains("dsj_"), "{error}");
        }
        assert!(read_join_token(Some(folder.path())).is_err(), "it is a folder");
    }
}
