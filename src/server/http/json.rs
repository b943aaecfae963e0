//! JSON of the APIs: bodies that are parsed, and values within them. Pure, but for the body that is
//! awaited.
//!
//! A value is text where it is UTF-8, and `{"base64": "..."}` where it is not; both are taken.
//!
//! Invariant:
//! - I1: a list takes memory for as many entries as one command may hold, and not for more.

use std::fmt;
use std::marker::PhantomData;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeOwned, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::entry::one;
use super::problem::Problem;
use super::{BODY_BYTES_MAX, take_body};
use crate::command::OPERATION_COUNT_MAX;

/// Bytes of what a parser says that are repeated.
const WORDS_BYTES_MAX: usize = 200;

/// Which content types a JSON body may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JsonKind {
    /// JSON's own.
    Strict,
    /// Also none, and what `curl -d` says of anything: the older APIs look at the body alone.
    Lenient,
}

/// A value as JSON has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields, expecting = "a value is a string or {\"base64\": \"...\"}")]
pub(super) enum JsonValue {
    /// UTF-8.
    Text(String),
    /// Anything.
    Base64 { base64: String },
}

impl JsonValue {
    /// The form that these bytes have.
    pub(super) fn of(bytes: &[u8]) -> JsonValue {
        match std::str::from_utf8(bytes) {
            Ok(text) => JsonValue::Text(text.to_owned()),
            Err(_) => JsonValue::Base64 { base64: base64(bytes) },
        }
    }

    /// The bytes.
    ///
    /// # Errors
    /// It is no base64.
    pub(super) fn into_bytes(self) -> Result<Vec<u8>, Problem> {
        match self {
            JsonValue::Text(text) => Ok(text.into_bytes()),
            JsonValue::Base64 { base64 } => from_base64(&base64),
        }
    }
}

/// Base64 with the usual alphabet, padded.
pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// What such text says.
///
/// # Errors
/// It is no base64.
pub(super) fn from_base64(text: &str) -> Result<Vec<u8>, Problem> {
    STANDARD.decode(text).map_err(|error| Problem::wrong(format!("invalid base64: {error}")))
}

/// A response of JSON.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let text = serde_json::to_string(body);
    let text = text.expect("invariant: strings and numbers always have a JSON form");
    (status, [(CONTENT_TYPE, "application/json")], text).into_response()
}

/// Takes a body of JSON.
///
/// # Errors
/// Another content type, a body that is too long, no JSON, or not what is expected here.
pub(super) async fn take_json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Body,
    kind: JsonKind,
) -> Result<T, Problem> {
    let given = content_type(headers)?;
    let is_lenient = matches!(given.as_str(), "" | "application/x-www-form-urlencoded");
    if given != "application/json" && !(is_lenient && kind == JsonKind::Lenient) {
        let message = "the body is JSON: Content-Type: application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", message));
    }
    let body = take_body(body, BODY_BYTES_MAX).await?;
    serde_json::from_slice(&body).map_err(|error| {
        let words = error.to_string();
        let end = words.floor_char_boundary(WORDS_BYTES_MAX);
        Problem::wrong(format!("invalid JSON: {}", words.get(..end).unwrap_or_default()))
    })
}

/// The content type in small letters, without its parameters; empty if there is none.
pub(super) fn content_type(headers: &HeaderMap) -> Result<String, Problem> {
    let given = one(headers, &CONTENT_TYPE)?.unwrap_or_default();
    Ok(given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// As many as one command may hold.
#[derive(Debug)]
pub(super) struct Few<T>(pub(super) Vec<T>);

/// An object whose names are the client's, each of them once.
#[derive(Debug)]
pub(super) struct Named<T>(pub(super) Vec<(String, T)>);

struct FewVisitor<T>(PhantomData<T>);
struct NamedVisitor<T>(PhantomData<T>);

fn too_many<E: Error>() -> E {
    E::custom(format!("more than {OPERATION_COUNT_MAX} entries"))
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for FewVisitor<T> {
    type Value = Few<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Few<T>, A::Error> {
        let mut few = Vec::new();
        while let Some(entry) = entries.next_element()? {
            if few.len() == OPERATION_COUNT_MAX {
                return Err(too_many());
            }
            few.push(entry);
        }
        Ok(Few(few))
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for NamedVisitor<T> {
    type Value = Named<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Named<T>, A::Error> {
        let mut named: Vec<(String, T)> = Vec::new();
        let mut names = std::collections::HashSet::new();
        while let Some((name, entry)) = entries.next_entry::<String, T>()? {
            if named.len() == OPERATION_COUNT_MAX {
                return Err(too_many());
            }
            if !names.insert(name.clone()) {
                return Err(A::Error::custom("a name is there twice"));
            }
            named.push((name, entry));
        }
        Ok(Named(named))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Few<T>, D::Error> {
        deserializer.deserialize_seq(FewVisitor(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Named<T>, D::Error> {
        deserializer.deserialize_map(NamedVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_text_where_it_can_be_and_comes_back_as_it_was() {
        for (bytes, text) in [
            (&b"a \"b\"\n"[..], r#""a \"b\"\n""#),
            (b"", r#""""#),
            (b"\xff\0", r#"{"base64":"/wA="}"#),
        ] {
            let value = JsonValue::of(bytes);
            assert_eq!(serde_json::to_string(&value).unwrap(), text);
            assert_eq!(serde_json::from_str::<JsonValue>(text).unwrap(), value);
            assert_eq!(value.into_bytes().unwrap(), bytes);
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for text in [
            "7",
            "null",
            "[1]",
            "{}",
            r#"{"base64":7}"#,
            r#"{"base64":"","more":1}"#,
            r#"{"b":""}"#,
        ] {
            let error = serde_json::from_str::<JsonValue>(text).unwrap_err().to_string();
            assert!(error.starts_with("a value is a string or"), "{text}: {error}");
        }
        for text in ["/wA", "/w", "====", "/wA=\n", "_wA="] {
            assert_eq!(from_base64(text).unwrap_err().code, "wrong", "{text}");
        }
    }

    #[test]
    fn lists_end_where_a_command_does() {
        let list = |count: usize| format!("[{}]", vec!["1"; count].join(","));
        let few = serde_json::from_str::<Few<u8>>(&list(OPERATION_COUNT_MAX)).unwrap();
        assert_eq!(few.0.len(), OPERATION_COUNT_MAX);
        assert!(serde_json::from_str::<Few<u8>>(&list(OPERATION_COUNT_MAX + 1)).is_err());
        let object = |count: usize| {
            let entries: Vec<_> = (0..count).map(|name| format!("\"{name}\":1")).collect();
            format!("{{{}}}", entries.join(","))
        };
        let named = serde_json::from_str::<Named<u8>>(&object(OPERATION_COUNT_MAX)).unwrap();
        assert_eq!(named.0.len(), OPERATION_COUNT_MAX);
        assert!(serde_json::from_str::<Named<u8>>(&object(OPERATION_COUNT_MAX + 1)).is_err());
        assert!(serde_json::from_str::<Named<u8>>(r#"{"a":1,"a":1}"#).is_err());
    }
}
