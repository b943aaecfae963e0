//! The reason why a request is not carried out; each protocol turns it into its own error code.
//! Pure.
//!
//! Called by the dialects and by `ask`; calls `command`.

use std::borrow::Cow;

use crate::command::{BuildError, Failure, FailureClass, Refusal};

/// Most bytes of one part of a request that a complaint repeats.
const QUOTE_BYTES_MAX: usize = 128;

/// Why there is no other answer: the kind of failure, and words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Complaint {
    /// What each protocol derives its code from.
    pub(crate) class: FailureClass,
    /// The words, without a code.
    pub(crate) text: Cow<'static, str>,
}

impl Complaint {
    /// The request does not follow the command's syntax.
    pub(crate) const SYNTAX: Complaint = Complaint::wrong_in("syntax error");
    /// An argument that should be a number is none.
    pub(crate) const INTEGER: Complaint =
        Complaint::wrong_in("value is not an integer or out of range");

    /// A complaint of `class` in these words.
    pub(crate) fn new(class: FailureClass, text: impl Into<Cow<'static, str>>) -> Complaint {
        Complaint { class, text: text.into() }
    }

    /// The request is wrong, in these very words.
    pub(crate) const fn wrong_in(text: &'static str) -> Complaint {
        Complaint { class: FailureClass::Wrong, text: Cow::Borrowed(text) }
    }

    /// The request is wrong.
    pub(crate) fn wrong(text: impl Into<Cow<'static, str>>) -> Complaint {
        Complaint::new(FailureClass::Wrong, text)
    }

    /// The request, or its reply, is longer than it may be.
    pub(crate) fn too_large(text: impl Into<Cow<'static, str>>) -> Complaint {
        Complaint::new(FailureClass::TooLarge, text)
    }

    /// A transaction is given up.
    pub(crate) fn aborted(text: impl Into<Cow<'static, str>>) -> Complaint {
        Complaint::new(FailureClass::Aborted, text)
    }

    /// The command is not known, with what followed it as Redis quotes it.
    pub(crate) fn unknown(arguments: &[&[u8]]) -> Complaint {
        let name = arguments.first().copied().unwrap_or_default();
        let rest = arguments.get(1..).unwrap_or_default();
        let mut text = format!("unknown command '{}', with args beginning with: ", quote(name));
        let bytes_max = text.len() + QUOTE_BYTES_MAX;
        for argument in rest {
            if text.len() >= bytes_max {
                break;
            }
            text.extend(["'", &quote(argument), "' "]);
        }
        Complaint::wrong(text)
    }

    /// The command has such sub-commands, but not this one.
    pub(crate) fn subcommand(command: &str, name: &[u8]) -> Complaint {
        let name = quote(name);
        Complaint::wrong(format!("unknown subcommand '{name}' of {command}"))
    }

    /// CLIENT LIST TYPE of something else.
    pub(crate) fn unknown_client_type(name: &[u8]) -> Complaint {
        Complaint::wrong(format!("Unknown client type '{}'", quote(name)))
    }

    /// Too few arguments, or too many.
    pub(crate) fn arity(command: &str) -> Complaint {
        Complaint::wrong(format!("wrong number of arguments for '{command}' command"))
    }

    /// The command is known and refused.
    pub(crate) fn refused(what: &str, reason: &str) -> Complaint {
        Complaint::new(FailureClass::Refused, format!("{what} is refused: {reason}"))
    }
}

impl From<Refusal> for Complaint {
    fn from(refusal: Refusal) -> Complaint {
        Complaint::from(&refusal)
    }
}

impl From<&Refusal> for Complaint {
    fn from(refusal: &Refusal) -> Complaint {
        Complaint::new(refusal.class(), refusal.to_string())
    }
}

impl From<BuildError> for Complaint {
    fn from(error: BuildError) -> Complaint {
        match error {
            BuildError::RequestId => Complaint::wrong(error.to_string()),
            BuildError::TooManyOperations | BuildError::TooManyBytes | BuildError::KeyTooLong => {
                Complaint::too_large(error.to_string())
            }
        }
    }
}

impl From<&Failure> for Complaint {
    fn from(failure: &Failure) -> Complaint {
        Complaint::new(failure.class(), failure.to_string())
    }
}

impl From<Failure> for Complaint {
    fn from(failure: Failure) -> Complaint {
        Complaint::from(&failure)
    }
}

/// A part of a request as text, cut and without what does not belong on a line.
fn quote(part: &[u8]) -> String {
    let (part, _) = part.split_at(part.len().min(QUOTE_BYTES_MAX));
    String::from_utf8_lossy(part).replace(|letter: char| letter.is_control(), " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_commands_are_named_in_the_words_of_redis() {
        let Complaint { text, .. } = Complaint::unknown(&[b"foo\r\n", b"a", b"b c"]);
        assert_eq!(text, "unknown command 'foo  ', with args beginning with: 'a' 'b c' ");
        let long = vec![b'x'; 10_000];
        let Complaint { text, .. } = Complaint::unknown(&[&long, &long, &long, b"y"]);
        assert!(text.len() < 4 * QUOTE_BYTES_MAX, "{}", text.len());
    }
}
