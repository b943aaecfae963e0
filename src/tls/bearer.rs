//! Whom a certificate names. A member's certificate and a client's differ by a URI among their subject
//! alternative names, so that no host name can pass for a member's.
//!
//! Called by the parent; calls nothing. What is read here was signed by the cluster's CA, or is this
//! process's own.

use std::fmt;
use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// Begins the URI that names a member; its `-id` follows.
pub const MEMBER_URI: &str = "diskstore://member/";
/// Begins the URI that names a client.
pub const CLIENT_URI: &str = "diskstore://client/";
/// Most bytes of a name.
const NAME_BYTES_MAX: usize = 64;

/// Whom a certificate names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bearer {
    /// The member with this `-id`.
    Member(String),
    /// A client of this name.
    Client(String),
}

impl Bearer {
    /// Its name, whatever it is.
    pub fn name(&self) -> &str {
        let (Bearer::Member(name) | Bearer::Client(name)) = self;
        name
    }

    /// The URI that names it in a certificate.
    pub fn uri(&self) -> String {
        match self {
            Bearer::Member(name) => format!("{MEMBER_URI}{name}"),
            Bearer::Client(name) => format!("{CLIENT_URI}{name}"),
        }
    }

    /// What a URI of a certificate names; `None` if it is about something else.
    fn of_uri(uri: &str) -> Option<Bearer> {
        let member = uri.strip_prefix(MEMBER_URI).map(|name| Bearer::Member(name.to_owned()));
        member.or_else(|| uri.strip_prefix(CLIENT_URI).map(|name| Bearer::Client(name.to_owned())))
    }
}

impl fmt::Display for Bearer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bearer::Member(name) => write!(formatter, "member {name}"),
            Bearer::Client(name) => write!(formatter, "client {name}"),
        }
    }
}

/// What is read of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Whom it names.
    pub bearer: Bearer,
    /// From when on it is valid, in seconds since 1970.
    pub not_before: i64,
    /// Until when.
    pub not_after: i64,
    /// Host names and addresses that it is good for.
    pub hosts: Vec<String>,
}

impl Certificate {
    /// Reads a certificate. One without a URI of ours is a client's, by its common name, so that an
    /// organisation's own certificates serve for clients.
    ///
    /// # Errors
    /// Why it is of no use, in words.
    pub fn read(der: &CertificateDer<'_>) -> Result<Certificate, String> {
        let (_, read) =
            X509Certificate::from_der(der).map_err(|error| format!("no certificate: {error}"))?;
        let names = read.subject_alternative_name().map_err(|error| error.to_string())?;
        let names = names.map_or(&[][..], |names| names.value.general_names.as_slice());
        let hosts = names.iter().filter_map(|name| match name {
            GeneralName::DNSName(host) => Some((*host).to_owned()),
            GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
            _ => None,
        });
        let hosts = hosts.collect();
        let uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Bearer::of_uri(uri),
            _ => None,
        });
        let bearers: Vec<Bearer> = uris.collect();
        let bearer = match <[Bearer; 1]>::try_from(bearers) {
            Ok([bearer]) => bearer,
            Err(none) if none.is_empty() => {
                let name = read.subject().iter_common_name().next();
                let name = name.and_then(|name| name.as_str().ok()).unwrap_or_default();
                Bearer::Client(name.to_owned())
            }
            Err(_) => return Err("the certificate names more than one member or client".into()),
        };
        let name = bearer.name();
        let is_plain = |letter: char| letter.is_ascii_graphic();
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(is_plain) {
            return Err(format!(
                "the certificate names nobody: its URI should be {MEMBER_URI}NAME or \
                 {CLIENT_URI}NAME, with at most {NAME_BYTES_MAX} letters and no space"
            ));
        }
        let validity = read.validity();
        let (not_before, not_after) =
            (validity.not_before.timestamp(), validity.not_after.timestamp());
        Ok(Certificate { bearer, not_before, not_after, hosts })
    }

    /// Reads the first certificate of a file.
    ///
    /// # Errors
    /// As [`Certificate::read`].
    pub fn read_pem(pem: &[u8]) -> Result<Certificate, String> {
        Certificate::read(&super::first_certificate(pem)?)
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}
