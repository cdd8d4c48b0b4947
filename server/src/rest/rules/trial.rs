//! `POST /rule_test` and `/rules/{id}/test`: what a rule would make of an event that a person describes. Nothing is
//! written anywhere and no sink is asked. A trial has a bounded time, size and number.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use muster_core::event::{Column, EventKind};
use muster_core::value::{Map, Value};
use muster_rules::{Diagnostic, EvalError, RuleProgram, Stage, Tried, read_rule};
use serde_json::json;
use tokio::sync::Semaphore;

use super::super::App;
use super::super::reply::{ApiError, Body, BodyRefused, ErrorBody, Path, Refused};
use super::body::{Fields, bad};
use super::described::{RuleTrial, SqlTrial, TrialResult};
use super::{events, shown};
use crate::pipelines::eval_context;

/// Most trials at one time.
const TRIALS_MAX: usize = 2;
/// How long somebody waits for a trial and for its turn. One that takes longer is bounded by what rules may do at all.
const TRIAL_WAIT: Duration = Duration::from_secs(5);
/// Longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What the reference calls a rule that is tried out.
const TRIED: &str = "sql_tester";

/// Turns for trials.
#[derive(Debug, Clone)]
pub(in crate::rest) struct Trials(Arc<Semaphore>);

impl Default for Trials {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TRIALS_MAX)))
    }
}

/// Tries a SELECT or FOREACH on an event that the request describes. Nothing is written.
#[utoipa::path(post, path = "/rule_test", tag = "Rules", operation_id = "rule_test", request_body = SqlTrial,
    responses((status = 200, description = "What it makes of the event", body = TrialResult),
        (status = 412, description = "It does not match the event", body = ErrorBody), Refused, BodyRefused))]
pub(super) async fn of_sql(State(app): State<App>, Body(fields): Body) -> Result<Response, ApiError> {
    let mut fields = Fields::known(fields, &["sql", "context"])?;
    let sql = fields.text("sql")?.ok_or_else(|| bad("`sql` is missing"))?;
    let context = fields.object("context")?.unwrap_or_default();
    run(&app, TRIED, &sql, context).await
}

/// Tries a rule that there is. Nothing is written.
#[utoipa::path(post, path = "/rules/{id}/test", tag = "Rules", operation_id = "rules_test",
    params(("id" = String, Path, description = "The rule's id")), request_body = RuleTrial,
    responses((status = 200, description = "What it makes of the event", body = TrialResult),
        (status = 404, description = "There is no such rule", body = ErrorBody),
        (status = 412, description = "It does not match the event", body = ErrorBody), Refused, BodyRefused))]
pub(super) async fn of_rule(
    State(app): State<App>,
    Path(id): Path<String>,
    Body(fields): Body,
) -> Result<Response, ApiError> {
    let mut fields = Fields::known(fields, &["context", "stop_action_after_template_rendering"])?;
    let context = fields.object("context")?.unwrap_or_default();
    if fields.flag("stop_action_after_template_rendering")? == Some(false) {
        return Err(bad(
            "a test never runs the rule's actions; `stop_action_after_template_rendering` is true",
        ));
    }
    let rule = shown::one(&app, &id).ok_or_else(|| {
        ApiError::new(StatusCode::NOT_FOUND, "RULE_NOT_FOUND", "The rule could not be found")
    })?;
    run(&app, &id, &rule.sql, context).await
}

async fn run(
    app: &App,
    name: &str,
    sql: &str,
    context: serde_json::Map<String, serde_json::Value>,
) -> Result<Response, ApiError> {
    let program = program(name, sql)?;
    let mut columns = columns(&program, context, app.clock.wall_ms(), &app.node)?;
    columns.insert("metadata", [("rule_id", name)].into_iter().collect::<Map>());
    let (clock, turns) = (app.clock.clone(), app.trials.0.clone());
    let trial = async move {
        let turn = turns.acquire_owned().await;
        tokio::task::spawn_blocking(move || {
            let tried = program.try_on(&columns, &mut eval_context(clock, 0));
            // Kept until the work is done, also where nobody waits for it any more.
            drop(turn);
            answer(tried)
        })
        .await
    };
    match tokio::time::timeout(TRIAL_WAIT, trial).await {
        Ok(Ok(answered)) => {
            answered.map(|text| ([(header::CONTENT_TYPE, "application/json")], text).into_response())
        }
        Ok(Err(_)) => Err(ApiError::internal("the test was interrupted")),
        Err(_) => {
            Err(ApiError::bad_request(format!("the test takes longer than {} s", TRIAL_WAIT.as_secs())))
        }
    }
}

fn program(name: &str, sql: &str) -> Result<RuleProgram, ApiError> {
    let told = |wrong: &[Diagnostic]| {
        ApiError::bad_request(wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    };
    let rule = read_rule(name, "sql", sql).map_err(|wrong| told(&[wrong]))?;
    RuleProgram::compile(&rule).map_err(|wrong| told(&wrong))
}

/// The columns of the event that `context` describes; what it leaves open is filled in with examples.
fn columns(
    program: &RuleProgram,
    mut context: serde_json::Map<String, serde_json::Value>,
    now_ms: i64,
    node: &str,
) -> Result<Map, ApiError> {
    let mut named = |key: &str| match context.remove(key) {
        None => Ok(None),
        Some(serde_json::Value::String(name)) => kind(&name).map(Some),
        Some(_) => Err(bad(format!("`{key}` is a text"))),
    };
    let (event_type, event) = (named("event_type")?, named("event")?);
    // Without a word about it: the first event that the rule selects.
    let first = || EventKind::all().find(|kind| program.wants().kinds.contains(*kind));
    let kind = event_type.or(event).or_else(first).unwrap_or(EventKind::MessagePublish);
    let of_kind = Column::of(kind);
    let mut columns: Map =
        of_kind.iter().map(|it| (it.name(), events::example(kind, *it, now_ms, node))).collect();
    for (name, value) in context {
        match Column::from_name(&name).filter(|column| of_kind.contains(column)) {
            Some(column) => columns.insert(name, events::given(column, value).map_err(bad)?),
            None => {
                let distance = |column: &&Column| strsim::damerau_levenshtein(&name, column.name());
                let near = of_kind.iter().min_by_key(distance).map_or("", |column| column.name());
                let message =
                    format!("the event {} has no column `{name}`; did you mean `{near}`?", kind.name());
                return Err(bad(message));
            }
        };
    }
    Ok(columns)
}

/// `client_connected` or `client.connected`.
fn kind(name: &str) -> Result<EventKind, ApiError> {
    let found =
        EventKind::all().find(|kind| kind.name() == name || kind.name().replacen('.', "_", 1) == name);
    found.ok_or_else(|| {
        let known: Vec<_> = EventKind::all().map(|kind| kind.name().replacen('.', "_", 1)).collect();
        bad(format!("unknown event type `{name}`; known are {}", known.join(", ")))
    })
}

fn answer(tried: Result<Tried, EvalError>) -> Result<String, ApiError> {
    let mut out = String::new();
    let written = match tried {
        Ok(Tried::NoMatch) => {
            return Err(ApiError::new(StatusCode::PRECONDITION_FAILED, "NOT_MATCH", "SQL Not Match"));
        }
        Ok(Tried::Row(row)) => write_map(&row, &mut out),
        Ok(Tried::Rows(rows)) => {
            out.push('[');
            let written = rows.iter().enumerate().try_for_each(|(at, row)| {
                out.push_str(if at > 0 { "," } else { "" });
                write_map(row, &mut out)
            });
            out.push(']');
            written
        }
        Err(error) => return Err(ApiError::bad_request(fault(&error))),
    };
    match written {
        Ok(()) => Ok(out),
        Err(TooLong) => {
            Err(ApiError::bad_request(format!("the result is longer than {ANSWER_BYTES_MAX} bytes of JSON")))
        }
    }
}

/// Why the rule failed, as the reference says it: JSON in a text, under the name of the part that failed.
fn fault(error: &EvalError) -> String {
    let part = match error.stage {
        Stage::Select => "select_and_transform_error",
        Stage::Where => "match_conditions_error",
        Stage::Foreach => "select_and_collect_error",
        Stage::Do => "doeach_error",
        Stage::Incase => "match_incase_error",
    };
    if error.message.starts_with("payload is ") {
        json!({part: "decode_json_failed", "detail": error.message}).to_string()
    } else {
        json!({part: error.message}).to_string()
    }
}

struct TooLong;

/// JSON in which what is undefined is the text "undefined".
fn write_value(value: &Value, out: &mut String) -> Result<(), TooLong> {
    match value {
        Value::Undefined => out.push_str("\"undefined\""),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                write_value(item, out)?;
            }
            out.push(']');
        }
        Value::Map(map) => write_map(map, out)?,
        Value::Str(bytes) if out.len() + bytes.len() > ANSWER_BYTES_MAX => return Err(TooLong),
        Value::BigInt(int) => drop(write!(out, "{int}")),
        other => other.write_json(out),
    }
    if out.len() > ANSWER_BYTES_MAX { Err(TooLong) } else { Ok(()) }
}

fn write_map(map: &Map, out: &mut String) -> Result<(), TooLong> {
    out.push('{');
    for (at, (key, value)) in map.iter().enumerate() {
        out.push_str(if at > 0 { "," } else { "" });
        Value::str(key).write_json(out);
        out.push(':');
        write_value(value, out)?;
    }
    out.push('}');
    if out.len() > ANSWER_BYTES_MAX { Err(TooLong) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use muster_core::clock::ManualClock;

    use super::*;

    fn tried(sql: &str, context: serde_json::Value) -> String {
        let context = context.as_object().cloned().expect("an object");
        let run = || {
            let program = program("r", sql)?;
            let columns = columns(&program, context, 1_700_000_000_000, "n@h")?;
            answer(program.try_on(&columns, &mut eval_context(ManualClock::at(0), 0)))
        };
        run().unwrap_or_else(|error| format!("{error:?}"))
    }

    fn check(sql: &str, context: serde_json::Value, want: Expect) {
        want.assert_eq(&tried(sql, context));
    }

    #[test]
    fn results_are_rows_or_lists_of_rows() {
        let message = json!({"topic": "t/1", "payload": "{\"a\":[1,2.0],\"x\":null}", "qos": 2});
        check(
            "SELECT payload.a AS a, payload.x AS x, payload.gone AS gone, qos, clientid FROM \"t/+\"",
            message.clone(),
            expect![[r#"{"a":[1,2.0],"x":null,"gone":"undefined","qos":2,"clientid":"sensor-1"}"#]],
        );
        check(
            "FOREACH payload.a AS a DO a, nothing FROM \"t/#\"",
            message.clone(),
            expect![[r#"[{"a":1,"nothing":"undefined"},{"a":2.0,"nothing":"undefined"}]"#]],
        );
        check("FOREACH payload.none AS a FROM \"t/#\"", message, expect!["[]"]);
    }

    #[test]
    fn the_event_is_named_or_follows_from_the_rule() {
        let sql = "SELECT event, reason FROM \"$events/client/disconnected\"";
        let want = expect![[r#"{"event":"client.disconnected","reason":"kicked"}"#]];
        want.assert_eq(&tried(sql, json!({"reason": "kicked"})));
        want.assert_eq(&tried(sql, json!({"event_type": "client_disconnected", "reason": "kicked"})));
        want.assert_eq(&tried(sql, json!({"event": "client.disconnected", "reason": "kicked"})));
        check(
            "SELECT action, result FROM \"$events/client_check_authz_complete\"",
            json!({"event_type": "client_check_authz_complete", "action": "subscribe"}),
            expect![[r#"{"action":"subscribe","result":"allow"}"#]],
        );
    }

    #[test]
    fn what_does_not_match_is_no_error_of_the_rule() {
        for (sql, context) in [
            ("SELECT 1 FROM \"t/#\"", json!({"topic": "u"})),
            ("SELECT 1 FROM \"t/#\" WHERE qos = 2", json!({})),
            ("SELECT 1 FROM \"$events/client/connected\"", json!({"event_type": "message_publish"})),
            ("SELECT 1 FROM \"t/#\"", json!({"event_type": "client_connected"})),
            ("FOREACH payload.l FROM \"t/#\" WHERE qos = 2", json!({})),
        ] {
            let answer = tried(sql, context);
            assert!(answer.contains("412") && answer.contains("NOT_MATCH"), "{sql}: {answer}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (sql, context, want) in [
            ("SELECT", json!({}), "sql:1:7: error: "),
            ("SELECT nofn(1) FROM \"t\"", json!({}), "nofn"),
            ("SELECT 1 FROM \"$events/client/ping\"", json!({}), "Muster does not have this event"),
            ("SELECT 1 FROM \"t\"", json!({"event_type": "client_ping"}), "unknown event type `client_ping`"),
            (
                "SELECT 1 FROM \"t\"",
                json!({"topik": "t"}),
                "message.publish has no column `topik`; did you mean `topic`",
            ),
            ("SELECT 1 FROM \"t\"", json!({"qos": "1"}), "`qos` is a whole number"),
            ("SELECT 1 FROM \"t\"", json!({"flags": 1}), "`flags` is an object"),
            ("SELECT 1 FROM \"t\"", json!({"event_type": 1}), "`event_type` is a text"),
            (
                "SELECT payload.x FROM \"t/#\"",
                json!({"payload": "no JSON"}),
                "select_and_transform_error\\\\\\\":\\\\\\\"decode_json_failed",
            ),
            ("SELECT 1 FROM \"t/#\" WHERE payload.msg > 1", json!({}), "match_conditions_error"),
            ("FOREACH abs(qos + 'a') AS x FROM \"t/#\"", json!({}), "select_and_collect_error"),
            (
                "FOREACH payload.l AS x DO x / 0 AS y FROM \"t/#\"",
                json!({"payload": {"l": [1]}}),
                "doeach_error",
            ),
            (
                "FOREACH payload.l AS x INCASE x FROM \"t/#\"",
                json!({"payload": {"l": [1]}}),
                "match_incase_error",
            ),
        ] {
            let answer = tried(sql, context);
            let plain = answer.replace('\\', "");
            let want = want.replace('\\', "");
            assert!(answer.contains("400") && plain.contains(&want), "{sql}: {answer}\nwanted: {want}");
        }
    }

    #[test]
    fn an_answer_is_bounded() {
        // Each row has the whole event, and with it the list.
        let list: Vec<_> = (0..2_000).collect();
        let payload = json!({"l": list, "pad": "x".repeat(1_000)});
        let answer = tried("FOREACH payload.l AS x FROM \"t/#\"", json!({ "payload": payload }));
        assert!(answer.contains("longer than 4194304 bytes"), "{} bytes", answer.len());
    }

    #[test]
    fn everything_of_an_event_is_there() {
        let answer = tried("SELECT * FROM \"t/#\"", json!({"username": null, "payload": {"a": 1}}));
        let row: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        for column in Column::of(EventKind::MessagePublish) {
            assert!(row.get(column.name()).is_some(), "{}", column.name());
        }
        assert_eq!((&row["username"], &row["payload"]), (&json!("undefined"), &json!("{\"a\":1}")));
        assert!(row.get("event_type").is_none());
    }
}
