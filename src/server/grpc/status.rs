//! The statuses of calls. Pure.
//!
//! The status of a failure follows from its class, here and nowhere else, and its reason is the code that
//! HTTP has for it. Every status has details (`google.rpc.ErrorInfo`) that say whether the call may have
//! changed something (I1 of `mod.rs`).

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::command::{BuildError, Failure, FailureClass, Refusal};
use crate::server::complaint::Complaint;
use crate::server::http::status_of;

/// Whose reasons they are.
const DOMAIN: &str = "diskstore";

/// What a call that has no result may have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// Certainly nothing.
    Nothing,
    /// It was carried out once, or not at all.
    Maybe,
}

/// Why a call has no result, for people and for programs.
struct Words<'a> {
    code: Code,
    message: &'a str,
    reason: &'a str,
    done: Done,
}

impl Words<'_> {
    fn status(&self, more: &[(&str, u64)]) -> Status {
        let outcome = match self.done {
            Done::Nothing => "not_applied",
            Done::Maybe => "unknown",
        };
        let more = more.iter().map(|(name, number)| ((*name).to_owned(), number.to_string()));
        let metadata: HashMap<_, _> =
            more.chain([("outcome".to_owned(), outcome.to_owned())]).collect();
        let reason = self.reason.to_ascii_uppercase();
        let details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
        Status::with_error_details(self.code, self.message, details)
    }
}

/// The code of a class of failures.
pub(super) fn code_of(class: FailureClass) -> Code {
    match class {
        FailureClass::Wrong | FailureClass::TooLarge => Code::InvalidArgument,
        FailureClass::Refused | FailureClass::ProtocolVersion => Code::Unimplemented,
        FailureClass::NoToken | FailureClass::Unauthenticated => Code::Unauthenticated,
        FailureClass::Forbidden => Code::PermissionDenied,
        FailureClass::Aborted => Code::Aborted,
        FailureClass::OtherRequest => Code::FailedPrecondition,
        // Clients send such a call again by themselves.
        FailureClass::Unavailable | FailureClass::NotLeader => Code::Unavailable,
        FailureClass::Busy | FailureClass::NoSpace | FailureClass::Full => Code::ResourceExhausted,
        FailureClass::Fault => Code::DataLoss,
        FailureClass::Unknown => Code::Unknown,
    }
}

impl From<Complaint> for Status {
    fn from(complaint: Complaint) -> Status {
        of_class(complaint.class, &complaint.text, &[])
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        Complaint::from(refusal).into()
    }
}

impl From<BuildError> for Status {
    fn from(error: BuildError) -> Status {
        Complaint::from(error).into()
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Status {
        let (class, text) = (failure.class(), failure.to_string());
        match failure {
            Failure::Unknown { term, index, .. } => {
                of_class(class, &text, &[("term", term), ("index", index)])
            }
            _ => of_class(class, &text, &[]),
        }
    }
}

fn of_class(class: FailureClass, message: &str, more: &[(&str, u64)]) -> Status {
    let done = if class == FailureClass::Unknown { Done::Maybe } else { Done::Nothing };
    let (_, reason) = status_of(class);
    Words { code: code_of(class), message, reason, done }.status(more)
}

/// The request is wrong.
pub(super) fn wrong(message: &'static str) -> Status {
    Complaint::wrong(message).into()
}

/// A message is longer than it may be.
pub(super) fn too_large(message: impl AsRef<str>) -> Status {
    let (code, reason) = (Code::ResourceExhausted, "too_large");
    Words { code, message: message.as_ref(), reason, done: Done::Nothing }.status(&[])
}

/// The key holds no value; its version.
pub(crate) fn no_value(version: u64) -> Status {
    let (code, reason) = (Code::NotFound, "no_value");
    Words { code, message: "the key holds no value", reason, done: Done::Nothing }
        .status(&[("version", version)])
}

/// A condition does not hold; the version that there is.
pub(super) fn condition(version: u64) -> Status {
    let message = format!("the condition does not hold: the version is {version}");
    let (code, reason) = (Code::FailedPrecondition, "condition");
    Words { code, message: &message, reason, done: Done::Nothing }.status(&[("version", version)])
}

/// The time of a call was over before it had done anything.
pub(super) fn late(message: &str) -> Status {
    timed_out(message, Done::Nothing)
}

/// The time of a call is over.
pub(crate) fn timed_out(message: &str, done: Done) -> Status {
    Words { code: Code::DeadlineExceeded, message, reason: "timeout", done }.status(&[])
}

/// Changes of another cluster are asked for.
pub(super) fn elsewhere(cluster_id: &str) -> Status {
    let message = format!("this is another cluster, with other indexes: {cluster_id}");
    let (code, reason) = (Code::FailedPrecondition, "another_cluster");
    Words { code, message: &message, reason, done: Done::Nothing }.status(&[])
}

/// A stream ends here, and may go on with the changes after this index.
pub(super) fn go_on_after(code: Code, message: &str, reason: &str, index: u64) -> Status {
    let message = format!("{message}: go on after {index}");
    Words { code, message: &message, reason, done: Done::Nothing }.status(&[("after", index)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(status: &Status) -> (String, HashMap<String, String>) {
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.domain, DOMAIN);
        (info.reason, info.metadata)
    }

    #[test]
    fn what_certainly_did_nothing_is_told_from_what_may_have_been_done() {
        let reason = || "r".to_owned();
        for (failure, code, name, outcome) in [
            (
                Failure::NoLeader { reason: reason() },
                Code::Unavailable,
                "UNAVAILABLE",
                "not_applied",
            ),
            (Failure::Busy { reason: reason() }, Code::ResourceExhausted, "BUSY", "not_applied"),
            (Failure::NoSpace, Code::ResourceExhausted, "NO_SPACE", "not_applied"),
            (
                Failure::Unknown { term: 3, index: 7, reason: reason() },
                Code::Unknown,
                "UNKNOWN_OUTCOME",
                "unknown",
            ),
        ] {
            let message = failure.to_string();
            let status = Status::from(failure);
            assert_eq!((status.code(), status.message()), (code, message.as_str()));
            let (reason, metadata) = details(&status);
            assert_eq!((reason.as_str(), metadata["outcome"].as_str()), (name, outcome));
            let index = metadata.get("index").map(String::as_str);
            assert_eq!(index, (outcome == "unknown").then_some("7"));
        }
    }

    #[test]
    fn clients_send_again_by_themselves_only_what_did_nothing() {
        for class in FailureClass::ALL {
            let status = of_class(class, "", &[]);
            let (reason, metadata) = details(&status);
            let is_unknown = metadata["outcome"] == "unknown";
            assert_eq!(is_unknown, class == FailureClass::Unknown, "{reason}");
            assert!(!(is_unknown && status.code() == Code::Unavailable));
            assert_ne!(status.code(), Code::Ok);
        }
    }

    #[test]
    fn a_stream_that_ends_says_where_it_goes_on() {
        let status = go_on_after(Code::Aborted, "slow", "slow", 9);
        assert_eq!((status.code(), status.message()), (Code::Aborted, "slow: go on after 9"));
        assert_eq!(details(&status).1["after"], "9");
    }
}
