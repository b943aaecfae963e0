//! How lines of the log look.

use super::ConfigError;
use super::words::word;

/// How lines of the log look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for programs that collect them.
    Json,
}

const WORDS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];

impl LogFormat {
    /// What `-log-format` says.
    pub(crate) fn parse(text: &str) -> Result<LogFormat, ConfigError> {
        word("log-format", text, &WORDS)
    }

    /// As it is typed.
    pub(super) fn name(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}
