//! Tokens as a client has them: `diskstore token` makes one.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::ClientError;
use crate::config::{ClientRole, TOKEN_RANDOM_BYTES, add_token};

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
        source: std::io::Error::other(error),
    })?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let expires = valid_for.map(|time| now.saturating_add(time));
    Ok(add_token(file, name, role, expires, random)?)
}
