//! What a process speaks TLS with: the certificates of a directory, checked, and what rustls makes of
//! them for each use. TLS 1.3 alone is spoken.
//!
//! Called by `config`, `program`, `host` and `client`, and by the programs; names no other room. `host`
//! has the streams. Invariants:
//!
//! - I1: every handshake verifies the other side's certificate anew: no session is resumed, and nothing
//!   is taken before a handshake is over (no early data).
//! - I2: certificates are used together or not at all: where one of the files is wrong, those from
//!   before stay in use.
//! - I3: no key is in any message, nor in what `Debug` shows.

pub mod authority;
mod bearer;
mod files;
mod verifier;

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use tokio::sync::watch;

pub use bearer::{Bearer, CLIENT_URI, Certificate, MEMBER_URI};
pub use files::{AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE, Pair, Pem};
use verifier::{DialledMembers, DiallingMembers};

/// What HTTP is called in a handshake.
const ALPN_HTTP: &[u8] = b"http/1.1";
/// For gRPC; behind the other, so that browsers, which offer both, stay with that.
const ALPN_HTTP2: &[u8] = b"h2";
/// Shortest time between two log lines about connections that were refused.
const TOLD_PAUSE_SECS: u64 = 10;
/// Seconds of a day.
const DAY_SECS: i64 = 86_400;
/// Most certificates in one file.
const CERTIFICATE_COUNT_MAX: usize = 64;

/// Why certificates are not used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read.
    #[error("{} cannot be read: {cause}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's word.
        cause: io::Error,
    },
    /// A file with something wrong in it.
    #[error("{}: {reason}", file.display())]
    Wrong {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// What is asked of those that connect to a node with certificates. Each asks more than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// TLS is spoken where the other side does, and plain TCP is taken too: while a cluster moves to TLS.
    Prefer,
    /// TLS alone; between members both sides show a certificate.
    Require,
    /// TLS alone, and clients show a certificate too.
    Mutual,
}

impl Mode {
    /// Its name, as `-tls-mode` has it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Prefer => "prefer",
            Mode::Require => "require",
            Mode::Mutual => "mutual",
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A member that dialled this one.
    DiallingMember,
    /// A member that was dialled.
    DialledMember,
    /// Whoever dialled the clients' port.
    Client,
}

/// The certificates of one directory, ready for use.
pub struct Credentials {
    pem: Pem,
    own: Option<Certificate>,
    /// When the first of the authorities ends.
    authority_not_after: i64,
    dialling_members: Arc<dyn ClientCertVerifier>,
    dialled_members: Arc<DialledMembers>,
    clients: Arc<dyn ClientCertVerifier>,
    /// What the ports for members, and for clients, speak; `None` without an own certificate.
    member_port: Option<Arc<ServerConfig>>,
    client_port: Option<Arc<ServerConfig>>,
    member_dial: Arc<ClientConfig>,
    client_dial: Arc<ClientConfig>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Credentials { pem, own, .. } = self;
        let mut shown = formatter.debug_struct("Credentials");
        shown.field("pem", pem).field("own", own).finish_non_exhaustive()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl Credentials {
    /// Reads and checks the certificates of a directory.
    ///
    /// # Errors
    /// The first file that is wrong, with the reason.
    pub fn read(directory: &Path, mode: Mode) -> Result<Credentials, TlsError> {
        Credentials::new(Pem::read(directory)?, mode)
    }

    /// Checks certificates, and makes ready what they are used with.
    ///
    /// # Errors
    /// As [`Credentials::read`].
    pub fn new(pem: Pem, mode: Mode) -> Result<Credentials, TlsError> {
        let authority = |reason: String| TlsError::Wrong { file: pem.file(AUTHORITY_FILE), reason };
        let authorities = certificates(&pem.authorities).map_err(authority)?;
        let mut roots = RootCertStore::empty();
        let mut authority_not_after = i64::MAX;
        for certificate in authorities {
            let ends = authority::check(&certificate).map_err(authority)?;
            authority_not_after = authority_not_after.min(ends);
            roots.add(certificate).map_err(|error| authority(error.to_string()))?;
        }
        let (roots, provider) = (Arc::new(roots), provider());
        let verifier =
            || WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let built = |builder: rustls::server::ClientCertVerifierBuilder| {
            builder.build().map_err(|error| authority(error.to_string()))
        };
        let dialling_members: Arc<dyn ClientCertVerifier> =
            Arc::new(DiallingMembers(built(verifier())?));
        let clients = match mode {
            Mode::Mutual => built(verifier())?,
            Mode::Prefer | Mode::Require => built(verifier().allow_unauthenticated())?,
        };
        let dialled_members =
            Arc::new(DialledMembers { roots: roots.clone(), provider: provider.clone() });
        let own = pem.own.as_ref().map(|pair| Own::new(&pem, pair)).transpose()?;
        if let Some(own) = &own {
            own.check(&pem, clients.as_ref())?;
        }
        let port = |verifier: &Arc<dyn ClientCertVerifier>, protocols: &[&[u8]]| {
            own.as_ref().map(|own| own.port(&pem, verifier.clone(), protocols)).transpose()
        };
        let hosts = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
        let hosts = hosts.map_err(|error| authority(error.to_string()))?;
        Ok(Credentials {
            member_port: port(&dialling_members, &[])?,
            client_port: port(&clients, &[ALPN_HTTP, ALPN_HTTP2])?,
            member_dial: dial(&pem, own.as_ref(), dialled_members.clone())?,
            client_dial: dial(&pem, own.as_ref(), hosts)?,
            own: own.map(|own| own.certificate),
            authority_not_after,
            dialling_members,
            dialled_members,
            clients,
            pem,
        })
    }

    /// What is read of the own certificate.
    pub fn own(&self) -> Option<&Certificate> {
        self.own.as_ref()
    }

    /// Whole days until the own certificate ends; below 0 behind that.
    pub fn days_left(&self) -> Option<i64> {
        let now = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
        Some((self.own()?.not_after - now).div_euclid(DAY_SECS))
    }

    /// When the first of the trusted authorities ends, in seconds since 1970.
    pub fn authority_not_after(&self) -> i64 {
        self.authority_not_after
    }

    /// What a port for such callers speaks; `None` without an own certificate.
    pub fn port(&self, side: Side) -> Option<Arc<ServerConfig>> {
        match side {
            Side::DiallingMember | Side::DialledMember => self.member_port.clone(),
            Side::Client => self.client_port.clone(),
        }
    }

    /// What members are dialled with, and the name that goes with it, which nothing is made of.
    pub fn member_dial(&self) -> (Arc<ClientConfig>, ServerName<'static>) {
        (self.member_dial.clone(), ServerName::from(IpAddr::from(Ipv4Addr::UNSPECIFIED)))
    }

    /// What a client dials a node with: it checks the node's host name.
    pub fn client_dial(&self) -> Arc<ClientConfig> {
        self.client_dial.clone()
    }

    /// Shakes hands over a blocking stream with a node of this host name or address.
    ///
    /// # Errors
    /// Of the stream; the node shows no certificate that is good for the host. That the node refuses
    /// the own one may be heard later, with the first answer.
    pub fn dial_over<S: Read + Write>(
        &self,
        host: &str,
        mut stream: S,
    ) -> io::Result<StreamOwned<ClientConnection, S>> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let connection = ClientConnection::new(self.client_dial.clone(), name);
        let mut connection = connection.map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(StreamOwned::new(connection, stream))
    }

    /// Whether certificates that were shown under others are good under these, now.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn check(&self, side: Side, shown: &[CertificateDer<'_>]) -> Result<(), String> {
        let Some((end_entity, between)) = shown.split_first() else { return Ok(()) };
        let now = UnixTime::now();
        let checked = match side {
            Side::DiallingMember => {
                self.dialling_members.verify_client_cert(end_entity, between, now).map(drop)
            }
            Side::Client => self.clients.verify_client_cert(end_entity, between, now).map(drop),
            Side::DialledMember => {
                let (_, name) = self.member_dial();
                let members = &self.dialled_members;
                members.verify_server_cert(end_entity, between, &name, &[], now).map(drop)
            }
        };
        checked.map_err(|error| error.to_string())
    }
}

/// The own certificate, with its key.
struct Own {
    certificate: Certificate,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Own {
    fn new(pem: &Pem, pair: &Pair) -> Result<Own, TlsError> {
        let wrong = |name| move |reason| TlsError::Wrong { file: pem.file(name), reason };
        let chain = certificates(&pair.certificate).map_err(wrong(CERTIFICATE_FILE))?;
        let first = chain.first().expect("invariant: a list of certificates is not empty");
        let certificate = Certificate::read(first).map_err(wrong(CERTIFICATE_FILE))?;
        // Its error might repeat what is in the file.
        let key = PrivateKeyDer::from_pem_slice(&pair.key)
            .map_err(|_| wrong(KEY_FILE)("there is no private key in it (PEM)".into()))?;
        Ok(Own { certificate, chain, key })
    }

    /// The others trust the same authorities: a certificate that is none of theirs is of no use.
    fn check(&self, pem: &Pem, authorities: &dyn ClientCertVerifier) -> Result<(), TlsError> {
        let wrong = |reason| TlsError::Wrong { file: pem.file(CERTIFICATE_FILE), reason };
        let (first, between) = self.chain.split_first().expect("invariant: it is not empty");
        let checked = authorities.verify_client_cert(first, between, UnixTime::now());
        checked.map_err(|error| wrong(format!("{error}")))?;
        Ok(())
    }

    fn port(
        &self,
        pem: &Pem,
        verifier: Arc<dyn ClientCertVerifier>,
        protocols: &[&[u8]],
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder
            .with_protocol_versions(&[&TLS13])
            .expect("invariant: the provider has suites of TLS 1.3");
        let builder = builder.with_client_cert_verifier(verifier);
        let mut config = builder
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| mismatch(pem, &error))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0; // I1
        config.max_early_data_size = 0;
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

fn mismatch(pem: &Pem, error: &rustls::Error) -> TlsError {
    let reason = format!("it does not go with {CERTIFICATE_FILE}: {error}");
    TlsError::Wrong { file: pem.file(KEY_FILE), reason }
}

fn dial(
    pem: &Pem,
    own: Option<&Own>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder
        .with_protocol_versions(&[&TLS13])
        .expect("invariant: the provider has suites of TLS 1.3");
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match own {
        Some(own) => builder
            .with_client_auth_cert(own.chain.clone(), own.key.clone_key())
            .map_err(|error| mismatch(pem, &error))?,
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled(); // I1
    config.enable_sni = false; // members are told apart by their certificates
    Ok(Arc::new(config))
}

/// A time since 1970, for people.
pub fn date(seconds: i64) -> String {
    let time = x509_parser::time::ASN1Time::from_timestamp(seconds);
    time.map_or_else(|_| format!("{seconds} s after 1970"), |time| time.to_string())
}

/// The first certificate in a file.
fn first_certificate(pem: &[u8]) -> Result<CertificateDer<'static>, String> {
    let first = certificates(pem)?.into_iter().next();
    first.ok_or_else(|| "there is no certificate in it (PEM)".into())
}

/// The certificates in a file, one at least.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(pem).take(CERTIFICATE_COUNT_MAX + 1);
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    match found.len() {
        0 => Err("there is no certificate in it (PEM)".into()),
        count if count > CERTIFICATE_COUNT_MAX => {
            Err(format!("there are more than {CERTIFICATE_COUNT_MAX} certificates in it"))
        }
        _ => Ok(found),
    }
}

/// How old a connection between members gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ages {
    /// After this time the member that dialled makes it anew.
    pub renewed_after: Duration,
    /// After this time it is cut off.
    pub cut_after: Duration,
}

impl Default for Ages {
    /// What is under way has a minute.
    fn default() -> Ages {
        Ages { renewed_after: Duration::from_mins(10), cut_after: Duration::from_mins(11) }
    }
}

/// What a node speaks TLS with, now: its files may be replaced while it runs.
#[derive(Debug)]
pub struct Tls {
    mode: Mode,
    ages: Ages,
    current: RwLock<Arc<Credentials>>,
    /// How often they were replaced.
    generation: watch::Sender<u64>,
    refused_count: AtomicU64,
    /// When the last line about one was logged, in seconds since 1970.
    told: AtomicU64,
}

impl Tls {
    /// Speaks with these until they are replaced.
    pub fn new(credentials: Credentials, mode: Mode) -> Arc<Tls> {
        Tls::aging(credentials, mode, Ages::default())
    }

    /// As [`Tls::new`], where connections between members get so old.
    pub fn aging(credentials: Credentials, mode: Mode, ages: Ages) -> Arc<Tls> {
        let current = RwLock::new(Arc::new(credentials));
        let generation = watch::Sender::new(0);
        let [refused_count, told] = [0; 2].map(AtomicU64::new);
        Arc::new(Tls { mode, ages, current, generation, refused_count, told })
    }

    /// Reads the certificates of a node of this name.
    ///
    /// # Errors
    /// A file that is wrong; there is no certificate, or that of another.
    pub fn of_member(directory: &Path, mode: Mode, name: &str) -> Result<Arc<Tls>, TlsError> {
        let credentials = Credentials::read(directory, mode)?;
        let file = directory.join(CERTIFICATE_FILE);
        match credentials.own() {
            Some(own) if own.bearer == Bearer::Member(name.to_owned()) => {}
            Some(own) => {
                let reason = format!(
                    "the certificate is that of {}, and this node is {name} (-id): it needs one with \
                     the URI {MEMBER_URI}{name}",
                    own.bearer
                );
                return Err(TlsError::Wrong { file, reason });
            }
            None => {
                return Err(TlsError::Read { file, cause: io::ErrorKind::NotFound.into() });
            }
        }
        Ok(Tls::new(credentials, mode))
    }

    /// What is asked of others.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// How old connections between members get.
    pub fn ages(&self) -> Ages {
        self.ages
    }

    /// The certificates in use.
    pub fn current(&self) -> Arc<Credentials> {
        self.current.read().clone()
    }

    /// How often the certificates were replaced.
    pub fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    /// Waits until the certificates of this generation were replaced.
    pub async fn replaced(&self, generation: u64) {
        let mut changes = self.generation.subscribe();
        drop(changes.wait_for(|now| *now != generation).await); // its sender is here
    }

    /// Reads the directory again; true if something else is in use from now on.
    ///
    /// # Errors
    /// The file that is wrong; those from before stay in use (I2).
    pub fn reload(&self) -> Result<bool, TlsError> {
        let before = self.current();
        let pem = Pem::read(&before.pem.directory)?;
        if pem == before.pem {
            return Ok(false);
        }
        self.replace(pem).map(|()| true)
    }

    /// Uses these from now on.
    ///
    /// # Errors
    /// As [`Tls::reload`].
    pub fn replace(&self, pem: Pem) -> Result<(), TlsError> {
        let before = self.current();
        let file = pem.file(CERTIFICATE_FILE);
        let credentials = Credentials::new(pem, self.mode)?;
        let bearer = |credentials: &Credentials| credentials.own().map(|own| own.bearer.clone());
        if bearer(&credentials) != bearer(&before) {
            let names =
                |bearer: Option<Bearer>| bearer.map_or("nobody".into(), |it| it.to_string());
            let (new, old) = (names(bearer(&credentials)), names(bearer(&before)));
            let reason = format!("the certificate is that of {new}, and this is {old}");
            return Err(TlsError::Wrong { file, reason });
        }
        *self.current.write() = Arc::new(credentials);
        self.generation.send_modify(|generation| *generation += 1);
        Ok(())
    }

    /// Counts a handshake that came to nothing, or plain bytes where TLS was due.
    pub fn note_refused(&self) {
        self.refused_count.fetch_add(1, Ordering::Relaxed);
    }

    /// Logs why a connection was refused, now and then, so that an operator knows.
    pub fn tell(&self, words: impl FnOnce() -> String) {
        let (now, told) = (UnixTime::now().as_secs(), self.told.load(Ordering::Relaxed));
        if now >= told.saturating_add(TOLD_PAUSE_SECS) || now < told {
            self.told.store(now, Ordering::Relaxed);
            tracing::warn!("{}", words());
        }
    }

    /// How many were refused.
    pub fn refused_count(&self) -> u64 {
        self.refused_count.load(Ordering::Relaxed)
    }
}
