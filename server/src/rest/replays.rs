//! `/api/v1/replays`: recorded events through a rule once more, into its own sinks or another one.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::App;
use super::audit;
use super::reply::{ApiError, BodyRefused, ErrorBody, Path, Refused, Typed, rfc3339};
use crate::access::Caller;
use crate::error::{Error, ErrorKind, chain};
use crate::pipelines::{DryRun, ReplayRequest, ReplayStatus};

/// What is to be replayed.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReplayAsked)]
pub(super) struct Asked {
    #[schema(example = "alarms")]
    rule: String,
    /// `sink` or `sink.target`.
    into: Option<String>,
    /// The first event.
    #[schema(value_type = ReplayPlace)]
    from: Value,
    /// Before this one; up to now where it is left out.
    #[schema(value_type = Option<ReplayPlace>)]
    to: Option<Value>,
    /// Rows a second at most.
    #[schema(minimum = 1)]
    rate: Option<u32>,
    /// Only say what it would do.
    #[serde(default)]
    dry_run: bool,
    /// Where a dry run goes on.
    next: Option<u64>,
}

/// An offset, or a time such as 2026-01-02T03:04:05Z.
#[derive(serde::Serialize, utoipa::ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes what is read as JSON")]
enum ReplayPlace {
    Offset(u64),
    Time(String),
}

/// A replay.
#[derive(utoipa::ToSchema)]
#[schema(as = Replay)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct Described {
    id: i64,
    rule: String,
    sink: String,
    target: String,
    from: u64,
    to: u64,
    #[schema(required = true)]
    rate: Option<u32>,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(required = true, format = DateTime)]
    ended_at: Option<String>,
    /// `waiting`, `cancelled`, or what a pipeline may be doing.
    state: String,
    /// Everything before it is delivered.
    offset: u64,
    #[schema(nullable = false)]
    matched: Option<u64>,
    #[schema(nullable = false)]
    delivered: Option<u64>,
    #[schema(nullable = false)]
    dead: Option<u64>,
    #[schema(nullable = false)]
    pending: Option<u64>,
    last_error: Option<String>,
    hint: Option<String>,
    #[schema(format = DateTime)]
    next_attempt_at: Option<String>,
}

/// Replays.
#[derive(utoipa::ToSchema)]
#[schema(as = Replays)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct Several {
    data: Vec<Described>,
}

/// What a replay would do.
#[derive(utoipa::ToSchema)]
#[schema(as = ReplayDryRun)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct Dry {
    dry_run: bool,
    from: u64,
    to: u64,
    /// Where the next look begins; equal to `to` when all were looked at.
    next: u64,
    /// Events that the rule may select.
    events: u64,
    /// Those on which the rule fails.
    failed: u64,
    /// Rows for each target.
    rows: u64,
    targets: Vec<String>,
    first_rows: Vec<Value>,
}

/// Begins replays, one for each target, or says what they would do.
#[utoipa::path(
    post, path = "/replays", tag = "Replays", operation_id = "replays_create", request_body = Asked,
    responses((status = 200, description = "With `dry_run`: what it would do", body = Dry),
        (status = 201, description = "They have begun", body = Several), Refused, BodyRefused)
)]
pub(super) async fn create(
    State(app): State<App>,
    caller: Caller,
    Typed(asked): Typed<Asked>,
) -> Result<Response, ApiError> {
    let place = |name: &str, value: Value| match value {
        Value::String(text) => Ok(text),
        Value::Number(offset) => Ok(offset.to_string()),
        _ => Err(ApiError::bad_request(format!("{name}: an offset, or a time such as 2026-01-02T03:04:05Z"))),
    };
    if asked.rate == Some(0) {
        return Err(ApiError::bad_request("rate: rows a second, at least 1"));
    }
    let split = |text: &str| match text.split_once('.') {
        Some((sink, target)) => (sink.to_owned(), Some(target.to_owned())),
        None => (text.to_owned(), None),
    };
    let request = ReplayRequest {
        rule: asked.rule,
        into: asked.into.as_deref().map(split),
        from: place("from", asked.from)?,
        to: asked.to.map_or_else(|| Ok("latest".to_owned()), |to| place("to", to))?,
        rows_per_second: asked.rate,
    };
    if asked.dry_run {
        let dry = app.pipelines.try_replay(&request, asked.next).await.map_err(failed)?;
        return Ok(Json(shown_dry(&dry)).into_response());
    }
    let begun = app.pipelines.replay(&request).await.map_err(failed)?;
    audit::write(&app, &caller, "replays.create", &request.rule, json!({})).await;
    let data: Vec<_> = begun.iter().map(shown).collect();
    Ok((StatusCode::CREATED, Json(json!({"data": data}))).into_response())
}

/// All of them, newest first, those that are under way before the others.
#[utoipa::path(
    get, path = "/replays", tag = "Replays", operation_id = "replays_list",
    responses((status = 200, description = "All of them", body = Several), Refused)
)]
pub(super) async fn list(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let all = app.pipelines.replays().await.map_err(failed)?;
    Ok(Json(json!({"data": all.iter().map(shown).collect::<Vec<_>>()})))
}

/// One replay.
#[utoipa::path(
    get, path = "/replays/{id}", tag = "Replays", operation_id = "replays_get",
    params(("id" = i64, Path, description = "Its number")),
    responses((status = 200, description = "The replay", body = Described),
        (status = 404, description = "There is none", body = ErrorBody), Refused)
)]
pub(super) async fn one(State(app): State<App>, Path(id): Path<i64>) -> Result<Json<Value>, ApiError> {
    let all = app.pipelines.replays().await.map_err(failed)?;
    all.iter().find(|it| it.stored.id == id).map(|it| Json(shown(it))).ok_or_else(not_found)
}

/// Ends one that is under way, or forgets one that has ended.
#[utoipa::path(
    delete, path = "/replays/{id}", tag = "Replays", operation_id = "replays_end",
    params(("id" = i64, Path, description = "Its number")),
    responses((status = 204, description = "It has ended, or is forgotten"),
        (status = 404, description = "There is none", body = ErrorBody), Refused)
)]
pub(super) async fn end(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
) -> Result<StatusCode, ApiError> {
    if !app.pipelines.end_replay(id).await.map_err(failed)? {
        return Err(not_found());
    }
    audit::write(&app, &caller, "replays.end", &id.to_string(), json!({})).await;
    Ok(StatusCode::NO_CONTENT)
}

fn shown(it: &ReplayStatus) -> Value {
    let ReplayStatus { stored, status, waits_for } = it;
    let asked = &stored.asked;
    let mut all = json!({
        "id": stored.id,
        "rule": asked.pipeline.rule,
        "sink": asked.pipeline.sink,
        "target": asked.pipeline.target,
        "from": asked.from,
        "to": asked.to,
        "rate": asked.rows_per_second,
        "created_at": rfc3339(stored.created_ms),
        "ended_at": stored.ended.map_or(Value::Null, |ended| rfc3339(ended.at_ms)),
    });
    let now = match (&stored.ended, status) {
        (Some(ended), _) => json!({
            "state": if ended.cancelled { "cancelled" } else { "done" },
            "offset": ended.cursor,
            "matched": ended.totals.matched,
            "delivered": ended.totals.delivered,
            "dead": ended.totals.dead,
            "pending": 0,
        }),
        (None, Some(status)) => json!({
            "state": status.state,
            // Before its target is open it stands where it began.
            "offset": status.cursor.max(asked.from),
            "matched": status.matched,
            "delivered": status.delivered,
            "dead": status.dead,
            "pending": status.pending,
            "last_error": status.last_error,
            "hint": status.hint,
            "next_attempt_at": status.next_attempt_at_ms.map_or(Value::Null, rfc3339),
        }),
        (None, None) => json!({"state": "waiting", "offset": asked.from, "hint": waits_for}),
    };
    if let (Some(all), Value::Object(now)) = (all.as_object_mut(), now) {
        all.extend(now);
    }
    all
}

fn shown_dry(dry: &DryRun) -> Value {
    let parsed = |text: &String| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.as_str()));
    let mut all = json!(dry);
    if let Some(all) = all.as_object_mut() {
        all.insert("first_rows".to_owned(), dry.first_rows.iter().map(parsed).collect());
        all.insert("dry_run".to_owned(), true.into());
    }
    all
}

fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "there is no such replay")
}

fn failed(error: Error) -> ApiError {
    match error.kind() {
        ErrorKind::Config => ApiError::bad_request(error.to_string()),
        ErrorKind::Start => {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", error.to_string())
        }
        _ => {
            tracing::warn!(error = %chain(&error), "a replay failed");
            ApiError::internal("the replay could not be carried out; see the log")
        }
    }
}
