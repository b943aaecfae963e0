//! Makes the certificates of a cluster: an authority of its own, and what that signs for members and
//! clients. Keys are of the curve P-256, which every client knows and which is fast to sign with.
//!
//! Called by `client` and by tests; touches no file.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::bearer::Bearer;
use super::files::Pair;

/// When a certificate is valid, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From then on.
    pub not_before: u64,
    /// Until then.
    pub not_after: u64,
}

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// What rcgen says.
    #[error("the certificate cannot be made: {0}")]
    Rcgen(#[from] rcgen::Error),
    /// The authority's files are no authority's.
    #[error("{0}")]
    Authority(String),
}

/// An authority that signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// When an authority's certificate ends, in seconds since 1970.
///
/// # Errors
/// It is no authority's, in words.
pub fn check(der: &CertificateDer<'_>) -> Result<i64, String> {
    let (_, read) =
        X509Certificate::from_der(der).map_err(|error| format!("no certificate: {error}"))?;
    if !read.is_ca() {
        return Err(format!(
            "the certificate of {} is not that of an authority (CA)",
            read.subject()
        ));
    }
    Ok(read.validity().not_after.timestamp())
}

/// Each certificate of a file of authorities, in a file of its own.
///
/// # Errors
/// There is none in it, or something else.
pub fn split(pem: &[u8]) -> Result<Vec<String>, String> {
    let found = super::certificates(pem)?;
    found.iter().try_for_each(|certificate| check(certificate).map(drop))?;
    let text = String::from_utf8_lossy(pem);
    let parts = text.split_inclusive("-----END CERTIFICATE-----");
    let parts = parts.filter_map(|part| Some(&part[part.find("-----BEGIN CERTIFICATE-----")?..]));
    Ok(parts.map(|part| format!("{part}\n")).collect())
}

/// When the first certificate in a file of authorities ends, in seconds since 1970.
///
/// # Errors
/// There is none in it.
pub fn end(pem: &str) -> Result<i64, String> {
    check(&super::first_certificate(pem.as_bytes())?)
}

/// True if one of these authorities signed a certificate, whenever it is valid.
pub fn has_signed(authority: &str, certificate: &[u8]) -> bool {
    let [authority, certificate] =
        [authority.as_bytes(), certificate].map(|pem| super::certificates(pem).unwrap_or_default());
    let parsed = |der: &[CertificateDer<'static>]| der.first().cloned();
    let (Some(authority), Some(certificate)) = (parsed(&authority), parsed(&certificate)) else {
        return false;
    };
    let (Ok((_, authority)), Ok((_, certificate))) =
        (X509Certificate::from_der(&authority), X509Certificate::from_der(&certificate))
    else {
        return false;
    };
    certificate.issuer() == authority.subject()
}

impl Authority {
    /// Makes a new one; gives its certificate and its key too.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub fn generate(name: &str, validity: Validity) -> Result<(Authority, Pair), IssueError> {
        let key = KeyPair::generate()?;
        let mut params = params(name, validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem().into_bytes();
        let pair = Pair { certificate, key: key.serialize_pem().into_bytes() };
        Ok((Authority { issuer: Issuer::new(params, key) }, pair))
    }

    /// The one whose certificate stands first in a file, with its key.
    ///
    /// # Errors
    /// See [`IssueError`]; the two do not belong together.
    pub fn load(certificates: &str, key: &str) -> Result<Authority, IssueError> {
        // Its error might repeat what is in the file.
        let key = KeyPair::from_pem(key)
            .map_err(|_| IssueError::Authority("there is no private key in it (PEM)".into()))?;
        let first = super::first_certificate(certificates.as_bytes());
        let first = first.map_err(IssueError::Authority)?;
        let (_, read) = X509Certificate::from_der(&first)
            .map_err(|error| IssueError::Authority(error.to_string()))?;
        if read.public_key().subject_public_key.data != key.public_key_raw() {
            return Err(IssueError::Authority(
                "it is not the key of the first certificate of the authority".into(),
            ));
        }
        Ok(Authority { issuer: Issuer::from_ca_cert_der(&first, key)? })
    }

    /// Signs a new certificate with a new key. A member's serves for both ends of a connection, and is
    /// good for clients under `hosts`, names and addresses; a client's serves for dialling alone.
    ///
    /// # Errors
    /// See [`IssueError`]; a host that is none.
    pub fn issue(
        &self,
        bearer: &Bearer,
        hosts: &[String],
        validity: Validity,
    ) -> Result<Pair, IssueError> {
        let key = KeyPair::generate()?;
        let mut params = params(bearer.name(), validity);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match bearer {
            Bearer::Member(_) => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            Bearer::Client(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.subject_alt_names.push(SanType::URI(bearer.uri().try_into()?));
        for host in hosts {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(host.as_str().try_into()?),
            });
        }
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?.pem().into_bytes();
        Ok(Pair { certificate, key: key.serialize_pem().into_bytes() })
    }
}

fn params(name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "diskstore");
    params.distinguished_name.push(DnType::CommonName, name);
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(validity.not_before);
    params.not_after = epoch + Duration::from_secs(validity.not_after);
    params
}
