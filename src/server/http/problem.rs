//! The reason why an HTTP request is not carried out: a status, a code for programs, words for
//! people. Pure.
//!
//! Called by the handlers; the status of a failure follows from its class here and nowhere else.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::json::json;
use crate::command::{BuildError, Failure, FailureClass, Refusal};
use crate::server::complaint::Complaint;

/// The code of a token that does not count.
const WRONG_TOKEN: &str = "unauthenticated";

/// Why there is no other answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The status of the response.
    pub(super) status: StatusCode,
    /// For programs.
    pub(super) code: &'static str,
    /// For people.
    pub(super) message: Cow<'static, str>,
}

/// The body of an error.
#[derive(Serialize)]
struct ErrorBody<'a> {
    error: ErrorText<'a>,
}

#[derive(Serialize)]
struct ErrorText<'a> {
    code: &'a str,
    message: &'a str,
}

impl Problem {
    /// A problem in these words.
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Problem {
        Problem { status, code, message: message.into() }
    }

    /// The request is wrong.
    pub(crate) fn wrong(message: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "wrong", message)
    }

    /// The request, or its body, is longer than it may be.
    pub(super) fn too_large(message: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// There is nothing at this path.
    pub(crate) fn no_such_path() -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "no_such_path", "nothing is served at this path")
    }

    /// The node answers what it should not.
    pub(super) fn fault(message: &'static str) -> Problem {
        let (status, code) = status_of(FailureClass::Fault);
        Problem::new(status, code, message)
    }

    /// The key holds no value.
    pub(crate) fn no_value() -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "no_value", "the key holds no value")
    }

    /// The bytes of a response that ends its connection, for a client that is answered and not served.
    pub(crate) fn last_words(&self) -> Vec<u8> {
        let error = ErrorText { code: self.code, message: &self.message };
        let body = serde_json::to_string(&ErrorBody { error });
        let body = body.expect("invariant: strings always have a JSON form");
        let (status, length) = (self.status, body.len());
        let again = if self.passes() { "retry-after: 1\r\n" } else { "" };
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
             {again}connection: close\r\n\r\n{body}"
        )
        .into_bytes()
    }

    /// Whether the same request may well succeed a moment later, and certainly did nothing so far.
    pub(super) fn passes(&self) -> bool {
        matches!(self.code, "unavailable" | "busy" | "not_leader")
    }
}

/// The status and the code of a class of failures.
pub(crate) fn status_of(class: FailureClass) -> (StatusCode, &'static str) {
    match class {
        FailureClass::Wrong => (StatusCode::BAD_REQUEST, "wrong"),
        FailureClass::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
        FailureClass::Refused => (StatusCode::NOT_IMPLEMENTED, "refused"),
        FailureClass::NoToken => (StatusCode::UNAUTHORIZED, "no_token"),
        FailureClass::Unauthenticated => (StatusCode::UNAUTHORIZED, WRONG_TOKEN),
        FailureClass::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
        FailureClass::ProtocolVersion => {
            (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "protocol_version")
        }
        FailureClass::Aborted => (StatusCode::CONFLICT, "aborted"),
        // Source: draft-ietf-httpapi-idempotency-key-header-07, section 2.7.
        FailureClass::OtherRequest => (StatusCode::UNPROCESSABLE_ENTITY, "other_request"),
        FailureClass::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        FailureClass::NotLeader => (StatusCode::SERVICE_UNAVAILABLE, "not_leader"),
        FailureClass::Busy => (StatusCode::TOO_MANY_REQUESTS, "busy"),
        FailureClass::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "no_space"),
        FailureClass::Full => (StatusCode::INSUFFICIENT_STORAGE, "full"),
        FailureClass::Fault => (StatusCode::INTERNAL_SERVER_ERROR, "fault"),
        // No status that clients or proxies send again by themselves.
        FailureClass::Unknown => (StatusCode::INTERNAL_SERVER_ERROR, "unknown_outcome"),
    }
}

impl From<Complaint> for Problem {
    fn from(complaint: Complaint) -> Problem {
        let (status, code) = status_of(complaint.class);
        Problem::new(status, code, complaint.text)
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Problem {
        Complaint::from(failure).into()
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        Complaint::from(refusal).into()
    }
}

impl From<BuildError> for Problem {
    fn from(error: BuildError) -> Problem {
        Complaint::from(error).into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let error = ErrorText { code: self.code, message: &self.message };
        let mut response = json(self.status, &ErrorBody { error });
        if self.status == StatusCode::UNAUTHORIZED {
            // Source: RFC 6750, section 3.
            let challenge = if self.code == WRONG_TOKEN {
                HeaderValue::from_static("Bearer realm=\"diskstore\", error=\"invalid_token\"")
            } else {
                HeaderValue::from_static("Bearer realm=\"diskstore\"")
            };
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        if self.passes() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    #[tokio::test]
    async fn what_certainly_did_nothing_is_told_from_what_may_have_been_done() {
        let reason = || "r".to_owned();
        let cases = [
            (Failure::NoLeader { reason: reason() }, 503, "unavailable", true),
            (Failure::Busy { reason: reason() }, 429, "busy", true),
            (Failure::NoSpace, 507, "no_space", false),
            (
                Failure::Unknown { term: 1, index: 2, reason: reason() },
                500,
                "unknown_outcome",
                false,
            ),
        ];
        for (failure, status, code, again) in cases {
            let message = failure.to_string();
            let response = Problem::from(failure).into_response();
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), again, "{code}");
            let body = to_bytes(response.into_body(), 1 << 10).await.unwrap();
            let expected = format!(r#"{{"error":{{"code":"{code}","message":"{message}"}}}}"#);
            assert_eq!(body, expected);
        }
    }

    #[test]
    fn every_class_has_a_code_of_its_own() {
        let codes = FailureClass::ALL.map(|class| status_of(class).1);
        let distinct = codes.iter().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(distinct.len(), codes.len());
        assert!(FailureClass::ALL.iter().all(|class| !status_of(*class).0.is_success()));
    }
}
