//! What a call may come to beside its answer, and which failures allow the next attempt.

use super::super::answer::Answer;

/// Why a call has no answer. Each variant says what is known of a write that failed so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    /// No byte of the request left this process. A write was certainly not applied.
    #[error("not sent: {reason}")]
    NotSent {
        /// The nodes that were tried, and why each of them could not be used.
        reason: String,
    },
    /// A node refused the request. A write was certainly not applied.
    #[error("{node} says: {words}")]
    Refused {
        /// The node's address.
        node: String,
        /// A code in capitals, and words for people: docs/commands.md lists the codes.
        words: String,
    },
    /// The request left, and nobody knows what became of it: a write was applied once or not at all,
    /// or it may still be. Read the key to find out.
    #[error("the outcome is unknown, {node}: {reason}")]
    Unknown {
        /// The node's address.
        node: String,
        /// What was lost: the connection, the leader, the time.
        reason: String,
    },
    /// What answers there is no node of diskstore, or one of another version. What became of a write is
    /// unknown.
    #[error("{node} answers with something else than expected; is it a diskstore client port?")]
    Foreign {
        /// The address.
        node: String,
    },
}

impl OperationError {
    /// Whether a write that failed so was certainly not applied, and may be repeated.
    pub fn is_not_applied(&self) -> bool {
        matches!(self, OperationError::NotSent { .. } | OperationError::Refused { .. })
    }

    /// Why a node could not be used, in a list of several.
    pub(super) fn reason(&self) -> String {
        match self {
            OperationError::NotSent { reason } => reason.clone(),
            OperationError::Refused { .. }
            | OperationError::Unknown { .. }
            | OperationError::Foreign { .. } => self.to_string(),
        }
    }
}

/// What may be done after a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Nothing: whoever asks again is refused again.
    None,
    /// To ask again later.
    Later,
    /// To ask another node.
    Elsewhere,
    /// Of a read, to ask another node; of a write nothing: it may have been applied.
    ReadElsewhere,
}

/// What may be done after these words of a node (docs/commands.md, "Errors a client must tell apart").
pub(super) fn remedy(words: &str) -> Remedy {
    // Answered to whoever has not been served at all.
    if words.starts_with("ERR max number of clients") {
        return Remedy::Elsewhere;
    }
    match words.split(' ').next().unwrap_or_default() {
        "CLUSTERDOWN" | "LOADING" | "NOT_LEADER" => Remedy::Elsewhere,
        "BUSY" | "NO_SPACE" => Remedy::Later,
        "UNKNOWN" => Remedy::ReadElsewhere,
        _ => Remedy::None,
    }
}

/// What a request does to the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent {
    /// Nothing: it may be sent as often as one likes.
    Read,
    /// It may change a key: once it may have been applied, it is never sent again.
    Write,
}

/// One attempt that came to nothing.
#[derive(Debug)]
pub(super) struct FailedAttempt {
    pub(super) error: OperationError,
    pub(super) remedy: Remedy,
}

/// What a node's answer comes to.
pub(super) fn judged(answer: Answer, node: &str, intent: Intent) -> Result<Answer, FailedAttempt> {
    let Answer::Error(words) = answer else { return Ok(answer) };
    let (node, remedy) = (node.to_owned(), remedy(&words));
    let error = match remedy {
        Remedy::ReadElsewhere => OperationError::Unknown { node, reason: words },
        Remedy::None | Remedy::Later | Remedy::Elsewhere => OperationError::Refused { node, words },
    };
    Err(FailedAttempt { error, remedy: remedy.of(intent) })
}

impl Remedy {
    /// What of it serves a request of this intent.
    pub(super) fn of(self, intent: Intent) -> Remedy {
        match (self, intent) {
            (Remedy::ReadElsewhere, Intent::Read) => Remedy::Elsewhere,
            (Remedy::ReadElsewhere, Intent::Write) => Remedy::None,
            (remedy, _) => remedy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_code_allows_follows_from_its_promise() {
        let cases = [
            (Remedy::Elsewhere, "CLUSTERDOWN NOT_LEADER LOADING"),
            (Remedy::Later, "BUSY NO_SPACE"),
            (Remedy::ReadElsewhere, "UNKNOWN"),
            (Remedy::None, "ERR NOAUTH WRONGPASS NOPERM NOPROTO EXECABORT OOM LATER"),
        ];
        for (expected, codes) in cases {
            for code in codes.split(' ') {
                assert_eq!(remedy(&format!("{code} words")), expected, "{code}");
            }
        }
        assert_eq!(remedy("ERR max number of clients reached"), Remedy::Elsewhere);
        assert_eq!(remedy(""), Remedy::None);
    }

    #[test]
    fn what_may_have_been_applied_is_no_refusal() {
        let judged = |words: &str, intent| {
            judged(Answer::Error(words.to_owned()), "node", intent).unwrap_err()
        };
        let lost = judged("UNKNOWN time", Intent::Write);
        assert!(
            matches!(lost.error, OperationError::Unknown { .. }) && lost.remedy == Remedy::None
        );
        assert!(!lost.error.is_not_applied());
        assert_eq!(judged("UNKNOWN time", Intent::Read).remedy, Remedy::Elsewhere);
        let refused = judged("CLUSTERDOWN no leader", Intent::Write);
        assert_eq!(refused.error.to_string(), "node says: CLUSTERDOWN no leader");
        assert!(refused.error.is_not_applied() && refused.remedy == Remedy::Elsewhere);
    }
}
