//! Flags whose value is one of a few words.

use std::time::Duration;

use super::{ConfigError, LogLevel, SYNC_MS_MAX, SyncPolicy};
use crate::command::ReadLevel;
pub(super) fn read_level(text: &str) -> Result<ReadLevel, ConfigError> {
    let words = &[
        ("linearizable", ReadLevel::Linearizable),
        ("lease", ReadLevel::Lease),
        ("local", ReadLevel::Local),
        ("log", ReadLevel::Log),
    ];
    word("read", text, words)
}

/// Reads what `-sync` takes: `always`, `batch:MS` or `never`.
pub(crate) fn sync_policy(text: &str) -> Result<SyncPolicy, ConfigError> {
    let milliseconds = text.strip_prefix("batch:").and_then(|text| text.parse().ok());
    match (text, milliseconds) {
        ("always", _) => Ok(SyncPolicy::Always),
        ("never", _) => Ok(SyncPolicy::Never),
        (_, Some(ms @ 1..=SYNC_MS_MAX)) => Ok(SyncPolicy::Batch(Duration::from_millis(ms))),
        _ => Err(ConfigError::Word {
            flag: "sync",
            value: text.to_owned(),
            allowed: vec!["always", "batch:MS (1 to 60000)", "never"],
        }),
    }
}

/// Reads what `-log` takes.
pub(crate) fn log_level(text: &str) -> Result<LogLevel, ConfigError> {
    let words = &[
        ("off", LogLevel::Off),
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    word("log", text, words)
}

/// One of a few words.
pub(super) fn word<T: Copy>(
    flag: &'static str,
    text: &str,
    words: &[(&'static str, T)],
) -> Result<T, ConfigError> {
    words.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        ConfigError::Word {
            flag,
            value: text.to_owned(),
            allowed: words.iter().map(|(name, _)| *name).collect(),
        }
    })
}
