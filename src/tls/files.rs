//! The files of a TLS directory, under the names that Kubernetes' secrets and cert-manager give them,
//! and what they hold as PEM.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::TlsError;

/// The certificates of the authorities that are trusted.
pub const AUTHORITY_FILE: &str = "ca.crt";
/// The own certificate, with those between it and an authority behind it.
pub const CERTIFICATE_FILE: &str = "tls.crt";
/// The own private key.
pub const KEY_FILE: &str = "tls.key";
/// Most bytes of one of these files.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The contents of a directory.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    /// Where they come from, for messages.
    pub directory: PathBuf,
    /// Certificates of authorities.
    pub authorities: Vec<u8>,
    /// The own certificate and its key; a client may have none.
    pub own: Option<Pair>,
}

/// A certificate and its private key.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate, with those between it and an authority behind it.
    pub certificate: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
}

impl fmt::Debug for Pem {
    /// Never the key.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pem").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pair").finish_non_exhaustive()
    }
}

impl Pem {
    /// Reads a directory. Neither `tls.crt` nor `tls.key` need be there, but one of them does not do
    /// without the other.
    ///
    /// # Errors
    /// A file that cannot be read, by its name.
    pub fn read(directory: &Path) -> Result<Pem, TlsError> {
        let authorities = read(&directory.join(AUTHORITY_FILE))?;
        let [certificate, key] =
            [CERTIFICATE_FILE, KEY_FILE].map(|name| match read(&directory.join(name)) {
                Err(TlsError::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                    Ok(None)
                }
                read => read.map(Some),
            });
        let own = match (certificate?, key?) {
            (Some(certificate), Some(key)) => Some(Pair { certificate, key }),
            (None, None) => None,
            (certificate, _) => {
                let name = if certificate.is_none() { CERTIFICATE_FILE } else { KEY_FILE };
                let file = directory.join(name);
                return Err(TlsError::Read { file, cause: io::ErrorKind::NotFound.into() });
            }
        };
        Ok(Pem { directory: directory.to_owned(), authorities, own })
    }

    /// The path of one of its files, for messages.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    let wrong = |cause| TlsError::Read { file: file.to_owned(), cause };
    let opened = File::open(file).map_err(wrong)?;
    let mut bytes = Vec::new();
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(wrong)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(TlsError::Wrong {
            file: file.to_owned(),
            reason: format!("it is longer than {FILE_BYTES_MAX} bytes"),
        });
    }
    Ok(bytes)
}
