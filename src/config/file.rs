//! The configuration file: TOML, with the names of the flags as keys.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::ConfigError;
use crate::cli::{self, Settings};

/// Most bytes that a configuration file may have.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads a configuration file.
///
/// # Errors
/// A file that cannot be read, is too long, is no TOML, or holds a name that is no flag.
pub(super) fn read(path: &Path) -> Result<Settings, ConfigError> {
    parse(path, &read_text("config", path)?)
}

/// What a file of this name and text holds.
///
/// # Errors
/// As [`read`], of the text.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Settings, ConfigError> {
    let syntax = |source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) };
    // Names first, so that a misspelt one is answered with the nearest.
    let table: toml::Table = toml::from_str(text).map_err(syntax)?;
    let names = cli::setting_names();
    if let Some(key) = table.keys().find(|key| !names.contains(key)) {
        let nearest = diskstore_flags::nearest(key, &names).map(str::to_owned);
        return Err(ConfigError::UnknownKey { path: path.to_owned(), key: key.clone(), nearest });
    }
    toml::from_str(text).map_err(syntax)
}

/// The text of the file that a flag names.
pub(super) fn read_text(flag: &'static str, path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { flag, path: path.to_owned(), source };
    read_open(flag, path, File::open(path).map_err(unreadable)?)
}

/// The text of such a file that is open.
pub(super) fn read_open(
    flag: &'static str,
    path: &Path,
    file: File,
) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { flag, path: path.to_owned(), source };
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
    if bytes > FILE_BYTES_MAX {
        let path = path.to_owned();
        return Err(ConfigError::TooLong { flag, path, bytes, bytes_max: FILE_BYTES_MAX });
    }
    Ok(text)
}

/// Both, where the first wins.
pub(super) fn merge(first: Settings, second: Settings) -> Settings {
    Settings {
        id: first.id.or(second.id),
        port: first.port.or(second.port),
        raft: first.raft.or(second.raft),
        join: first.join.or(second.join),
        cluster: first.cluster.or(second.cluster),
        hjoin: first.hjoin.or(second.hjoin),
        data: first.data.or(second.data),
        slots: first.slots.or(second.slots),
        value_size: first.value_size.or(second.value_size),
        value_max: first.value_max.or(second.value_max),
        read: first.read.or(second.read),
        sync: first.sync.or(second.sync),
        heartbeat_ms: first.heartbeat_ms.or(second.heartbeat_ms),
        election_ms: first.election_ms.or(second.election_ms),
        checkpoint_mib: first.checkpoint_mib.or(second.checkpoint_mib),
        keep_mib: first.keep_mib.or(second.keep_mib),
        memory_mib: first.memory_mib.or(second.memory_mib),
        key_prefixes: first.key_prefixes.or(second.key_prefixes),
        advertise: first.advertise.or(second.advertise),
        insecure: first.insecure.or(second.insecure),
        tls: first.tls.or(second.tls),
        tls_mode: first.tls_mode.or(second.tls_mode),
        cpuprofile: first.cpuprofile.or(second.cpuprofile),
        memprofile: first.memprofile.or(second.memprofile),
        logfolder: first.logfolder.or(second.logfolder),
        roll_mib: first.roll_mib.or(second.roll_mib),
        hrecov: first.hrecov.or(second.hrecov),
        throughput_folder: first.throughput_folder.or(second.throughput_folder),
        tokens: first.tokens.or(second.tokens),
        join_tokens: first.join_tokens.or(second.join_tokens),
        join_token_file: first.join_token_file.or(second.join_token_file),
        log: first.log.or(second.log),
        log_format: first.log_format.or(second.log_format),
    }
}
