//! `POST /v1/batch`: operations that become one entry of the log, so that all of them take effect at one
//! moment and nobody sees a part of them.
//!
//! Each may have a condition on its own key. Where that does not hold, its own operation does nothing, and
//! the others take effect all the same: an entry cannot make one key depend on another (`docs/contract.md`).
//! Only reads make no entry, and are as fresh as was asked for.

use axum::extract::{Extension, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::{Deserialize, Serialize};

use super::asked::Asked;
use super::json::{Few, JsonKind, JsonValue, json, take_json};
use super::problem::Problem;
use super::seat::Noted;
use super::{Route, Seat};
use crate::command::{
    Action, Answer, Body, Command, CommandBuilder, Condition, Operation, Outcome, Reply,
};
use crate::server::access::RequestKind;
use crate::server::keys::Keys;
use crate::server::resp::lookup;

/// One operation as JSON has it.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
enum BatchStep {
    Get {
        key: JsonValue,
    },
    Set {
        key: JsonValue,
        value: JsonValue,
        #[serde(rename = "if", default)]
        when: When,
    },
    Delete {
        key: JsonValue,
        #[serde(rename = "if", default)]
        when: When,
    },
}

/// When a step takes effect.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum When {
    #[default]
    #[serde(skip)]
    Always,
    Absent,
    Present,
    Version(u64),
}

/// The body of the response.
#[derive(Debug, Serialize)]
struct Results {
    results: Vec<StepResult>,
}

/// What became of one operation.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum StepResult {
    Value {
        value: Option<JsonValue>,
        version: u64,
    },
    /// The values that were read are too long for one reply.
    Measured {
        bytes: u64,
        version: u64,
    },
    Changed {
        changed: bool,
        version: u64,
    },
    Refused {
        refused: String,
        version: u64,
    },
}

/// The route of batches.
pub(super) fn routes() -> Vec<Route> {
    // One that writes is asked for the role where it does.
    vec![Route::new("/v1/batch", RequestKind::Read, post(carry_out))]
}

async fn carry_out(
    Extension(seat): Extension<Seat>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let asked = Asked::of(&parts.uri, &parts.headers, &[])?;
    if let Some(elsewhere) = asked.redirection(&seat, &parts.uri) {
        return Ok(elsewhere);
    }
    let Few(steps) = take_json::<Few<BatchStep>>(&parts.headers, body, JsonKind::Strict).await?;
    let command = command_of(steps, &seat.server.keys)?;
    let is_read = command.is_read();
    seat.requester.lock().await.called(lookup(if is_read { b"mget" } else { b"exec" }));
    if is_read {
        let reply = seat.read(command, asked.level).await?;
        return Ok(json(StatusCode::OK, &Results::of(reply)));
    }
    let reply = seat.write(command, &parts.headers).await?;
    let told = seat.written(Noted::of(&reply, &parts.headers)).await;
    Ok((told, json(StatusCode::OK, &Results::of(reply))).into_response())
}

/// All of the steps as one command.
fn command_of(steps: Vec<BatchStep>, keys: &Keys) -> Result<Command, Problem> {
    let mut command = CommandBuilder::new();
    for step in steps {
        let answer = Answer::Status;
        match step {
            BatchStep::Get { key } => push(&mut command, keys, key, Action::Get)?,
            BatchStep::Set { key, value, when } => {
                let value = value.into_bytes()?;
                keys.check_value(u64::try_from(value.len()).unwrap_or(u64::MAX))?;
                let condition = when.into();
                push(&mut command, keys, key, Action::Set { value: &value, condition, answer })?;
            }
            BatchStep::Delete { key, when } => {
                push(&mut command, keys, key, Action::Delete { condition: when.into(), answer })?;
            }
        }
    }
    if command.operation_count() == 0 {
        return Err(Problem::wrong("a batch has one operation at least"));
    }
    Ok(command.finish())
}

fn push(
    command: &mut CommandBuilder,
    keys: &Keys,
    name: JsonValue,
    action: Action<'_>,
) -> Result<(), Problem> {
    let name = name.into_bytes()?;
    command.push(&Operation { key: &keys.key(&name)?, action })?;
    Ok(())
}

impl From<When> for Condition<'static> {
    fn from(when: When) -> Condition<'static> {
        match when {
            When::Always => Condition::Always,
            When::Absent => Condition::IfAbsent,
            When::Present => Condition::IfPresent,
            When::Version(version) => Condition::IfVersion(version),
        }
    }
}

impl Results {
    fn of(reply: Reply) -> Results {
        Results { results: reply.outcomes.into_iter().map(StepResult::from).collect() }
    }
}

impl From<Outcome> for StepResult {
    fn from(outcome: Outcome) -> StepResult {
        let Outcome { version, changed, body, .. } = outcome;
        match body {
            Body::Value(value) => {
                StepResult::Value { value: value.as_deref().map(JsonValue::of), version }
            }
            Body::Measured(bytes) => StepResult::Measured { bytes, version },
            Body::Empty | Body::Integer(_) => StepResult::Changed { changed, version },
            Body::Refused(refusal) => StepResult::Refused { refused: refusal.to_string(), version },
        }
    }
}

/// Makes a command of a body, as far as it is a batch.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(body: &[u8], keys: &Keys) {
    let Ok(Few(steps)) = serde_json::from_slice::<Few<BatchStep>>(body) else { return };
    let count = steps.len();
    if let Ok(command) = command_of(steps, keys) {
        assert_eq!(command.operation_count(), count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(text: &str) -> Result<String, String> {
        let Few(steps) = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let command = command_of(steps, &Keys::new(100, 4, &[]));
        command.map(|command| format!("{command:?}")).map_err(|problem| problem.message.to_string())
    }

    #[test]
    fn steps_are_the_operations_of_one_command() {
        let text = r#"[{"op":"get","key":"7"},
            {"op":"set","key":"8","value":"a","if":"absent"},
            {"op":"set","key":{"base64":"OQ=="},"value":{"base64":"/w=="},"if":{"version":5}},
            {"op":"delete","key":"10","if":"present"},{"key":"11","op":"delete"}]"#;
        let found = command(text).unwrap();
        let key = |key: u8| format!("key: [{key}, 0, 0, 0, 0, 0, 0, 0], action: ");
        let status = "answer: Status }";
        let operations = [
            format!("Operation {{ {}Get }}", key(7)),
            format!("Operation {{ {}Set {{ value: [97], condition: IfAbsent, {status} }}", key(8)),
            format!(
                "Operation {{ {}Set {{ value: [255], condition: IfVersion(5), {status} }}",
                key(9)
            ),
            format!("Operation {{ {}Delete {{ condition: IfPresent, {status} }}", key(10)),
            format!("Operation {{ {}Delete {{ condition: Always, {status} }}", key(11)),
        ];
        assert_eq!(found, format!("[{}]", operations.join(", ")));
    }

    #[test]
    fn what_is_no_step_is_refused_with_its_reason() {
        for (text, reason) in [
            ("[]", "a batch has one operation at least"),
            (r#"{"op":"get","key":"7"}"#, "invalid type: map, expected an array"),
            (r#"[{"op":"get"}]"#, "missing field `key`"),
            (r#"[{"op":"set","key":"7"}]"#, "missing field `value`"),
            (r#"[{"op":"incr","key":"7"}]"#, "unknown variant `incr`"),
            (r#"[{"op":"get","key":7}]"#, "a value is a string or"),
            (r#"[{"op":"get","key":"7","if":"absent"}]"#, "unknown field `if`"),
            (r#"[{"op":"delete","key":"7","value":""}]"#, "unknown field `value`"),
            (r#"[{"op":"delete","key":"7","if":"always"}]"#, "unknown variant `always`"),
            (r#"[{"op":"delete","key":"7","if":{"version":-1}}]"#, "invalid value: integer `-1`"),
            (r#"[{"op":"set","key":"7","value":"","if":{"version":1,"x":2}}]"#, "invalid"),
            (r#"[{"op":"set","key":"7","value":"12345"}]"#, "value is 5 bytes"),
            (r#"[{"op":"set","key":"100","value":""}]"#, "key must be a slot number 0..99"),
            (r#"[{"op":"set","key":"7","value":{"base64":"a"}}]"#, "invalid base64"),
        ] {
            let found = command(text).unwrap_err();
            assert!(found.starts_with(reason), "{text}: {found}");
        }
    }

    #[test]
    fn results_say_what_became_of_each_step() {
        let outcome = |changed, body| Outcome { version: 9, changed, existed: true, body };
        let value = |bytes: &'static [u8]| Body::Value(Some(bytes::Bytes::from_static(bytes)));
        let reply = Reply {
            index: 9,
            outcomes: [
                outcome(false, value(b"a")),
                outcome(false, value(b"\xff")),
                outcome(false, Body::Value(None)),
                outcome(false, Body::Measured(7)),
                outcome(true, Body::Empty),
            ]
            .into_iter()
            .collect(),
            ..Reply::default()
        };
        let text = serde_json::to_string(&Results::of(reply)).unwrap();
        assert_eq!(
            text,
            r#"{"results":[{"value":"a","version":9},{"value":{"base64":"/w=="},"version":9},{"value":null,"version":9},{"bytes":7,"version":9},{"changed":true,"version":9}]}"#
        );
    }
}
