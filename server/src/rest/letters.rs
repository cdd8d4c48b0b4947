//! `/api/v1/dead-letters`: rows that a target refused and events on which a rule failed, to be looked at, delivered
//! after all, or discarded.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use muster_sinks::delivery::{DeadLetter, LetterFilter, StoreError};
use serde::Deserialize;
use serde_json::{Value, json};

use super::reply::{ApiError, BodyRefused, ErrorBody, Params, Path, Refused, Typed, rfc3339};
use super::{App, audit};
use crate::access::Caller;

/// Letters in one answer, and in one replay, when nobody says how many.
const LIMIT_DEFAULT: u32 = 100;
/// Most letters in one answer, and in one replay: a request is to end within its time.
const LIMIT_MAX: u32 = 1_000;

/// A dead letter: a row that a target refused, or an event on which a rule failed.
#[derive(utoipa::ToSchema, serde::Serialize)]
#[schema(as = DeadLetter)]
struct Summary {
    id: i64,
    rule: String,
    rule_version: String,
    sink: String,
    target: String,
    /// The event's place in the log.
    offset: u64,
    row_index: u32,
    event_id: String,
    event: String,
    #[schema(format = DateTime)]
    event_at: String,
    attempts: u32,
    reason: String,
    #[schema(format = DateTime)]
    created_at: String,
}

/// A dead letter with its row and its event.
#[derive(utoipa::ToSchema, serde::Serialize)]
#[schema(as = WholeDeadLetter)]
struct Whole {
    #[serde(flatten)]
    summary: Summary,
    /// The row as it was; none where the rule failed before it made one.
    row: Value,
    /// The event's columns.
    #[schema(required = false)]
    columns: Value,
    /// Why they cannot be read.
    #[schema(nullable = false)]
    columns_error: Option<String>,
}

/// A page of dead letters.
#[derive(utoipa::ToSchema)]
#[schema(as = DeadLetterPage)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct Letters {
    data: Vec<Summary>,
    meta: LettersMeta,
}

/// Which part of the dead letters it is.
#[derive(utoipa::ToSchema)]
#[schema(as = DeadLetterMeta)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct LettersMeta {
    limit: u32,
    count: u64,
    /// What `after` of the next page is to be.
    #[schema(required = true)]
    next: Option<i64>,
}

/// How many letters are gone.
#[derive(utoipa::ToSchema)]
#[schema(as = DeadLettersDiscarded)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct Discarded {
    discarded: u64,
}

/// What became of letters that had another chance.
#[derive(utoipa::ToSchema)]
#[schema(as = DeadLettersReplayed)]
#[expect(dead_code, reason = "describes LettersReplayed")]
struct Replayed {
    delivered: u64,
    still_dead: u64,
    /// Those whose pipeline does not run.
    not_running: u64,
    /// The last letter that was looked at; none when there are no more.
    #[schema(required = true)]
    last_id: Option<i64>,
}

/// Which letters are meant.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what Params reads")]
struct LetterQuery {
    rule: Option<String>,
    sink: Option<String>,
    target: Option<String>,
    id: Option<i64>,
    /// Of events from then on: RFC 3339, or milliseconds since 1970.
    #[param(example = "2026-01-02T03:04:05Z")]
    from: Option<String>,
    /// Of events before then.
    #[param(example = "2026-01-02T03:04:05Z")]
    to: Option<String>,
}

/// One page, oldest first; `meta.next` is what `after` of the next page is to be.
#[utoipa::path(
    get, path = "/dead-letters", tag = "Dead letters", operation_id = "dead_letters_list",
    params(
        LetterQuery,
        ("after" = Option<i64>, Query, description = "Only those behind this one"),
        ("limit" = Option<u32>, Query, description = "At most so many, 100 unless told", minimum = 1, maximum = 1000),
    ),
    responses(
        (status = 200, description = "A page of them", body = Letters),
        (status = 400, description = "A parameter cannot be used", body = ErrorBody),
        Refused,
    )
)]
pub(super) async fn list(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let params = Params::new(query);
    let limit = limit(params.parsed("limit", |text| text.parse().ok())?)?;
    let mut filter = filter(&params)?;
    filter.after_id = params.parsed("after", |text| text.parse().ok())?;
    let store = app.pipelines.store();
    let letters = store.letters(filter.clone(), limit).await.map_err(unreadable)?;
    let count = store.count_letters(LetterFilter { after_id: None, ..filter }).await.map_err(unreadable)?;
    let full = letters.len() == limit as usize;
    let next = letters.last().filter(|_| full).map(|letter| letter.id);
    let data: Vec<_> = letters.iter().map(summary).collect();
    Ok(Json(json!({"data": data, "meta": {"limit": limit, "count": count, "next": next}})))
}

/// One letter, with its row and its event.
#[utoipa::path(
    get, path = "/dead-letters/{id}", tag = "Dead letters", operation_id = "dead_letters_get",
    params(("id" = i64, Path, description = "Its number")),
    responses((status = 200, description = "The letter", body = Whole),
        (status = 404, description = "There is none", body = ErrorBody), Refused)
)]
pub(super) async fn one(State(app): State<App>, Path(id): Path<i64>) -> Result<Json<Value>, ApiError> {
    let letter = app.pipelines.store().letter(id).await.map_err(unreadable)?.ok_or_else(not_found)?;
    Ok(Json(whole(&letter)))
}

/// Discards one letter.
#[utoipa::path(
    delete, path = "/dead-letters/{id}", tag = "Dead letters", operation_id = "dead_letters_delete",
    params(("id" = i64, Path, description = "Its number")),
    responses((status = 204, description = "It is gone"),
        (status = 404, description = "There is none", body = ErrorBody), Refused)
)]
pub(super) async fn discard_one(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<i64>,
) -> Result<StatusCode, ApiError> {
    let filter = LetterFilter { id: Some(id), ..LetterFilter::default() };
    if app.pipelines.store().discard_letters(filter).await.map_err(unreadable)? == 0 {
        return Err(not_found());
    }
    audit::write(&app, &caller, "dead_letters.discard", &id.to_string(), json!({"discarded": 1})).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Discards the letters that the query means; all of them only if it says `all=true`.
#[utoipa::path(
    delete, path = "/dead-letters", tag = "Dead letters", operation_id = "dead_letters_discard",
    params(LetterQuery, ("all" = Option<bool>, Query, description = "Without anything else: all of them")),
    responses((status = 200, description = "How many are gone", body = Discarded),
        (status = 400, description = "Nothing says which are meant", body = ErrorBody), Refused)
)]
pub(super) async fn discard(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let params = Params::new(query);
    let filter = filter(&params)?;
    if filter == LetterFilter::default() && params.flag("all")? != Some(true) {
        let message = "say which letters are meant (rule, sink, target, id, from, to), or all=true";
        return Err(ApiError::invalid_parameter(message));
    }
    let object = filter.rule.clone().unwrap_or_default();
    let discarded = app.pipelines.store().discard_letters(filter).await.map_err(unreadable)?;
    audit::write(&app, &caller, "dead_letters.discard", &object, json!({"discarded": discarded})).await;
    tracing::info!(discarded, "dead letters discarded on request");
    Ok(Json(json!({"discarded": discarded})))
}

/// Which letters are to be replayed.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DeadLettersReplay)]
pub(super) struct Replay {
    id: Option<i64>,
    rule: Option<String>,
    sink: Option<String>,
    target: Option<String>,
    from: Option<Time>,
    to: Option<Time>,
    /// Letters up to this number have had their chance.
    after: Option<i64>,
    /// How many at most.
    #[schema(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Milliseconds since 1970, or RFC 3339.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
enum Time {
    Millis(i64),
    Text(String),
}

impl Time {
    fn ms(self, name: &str) -> Result<i64, ApiError> {
        match self {
            Self::Millis(ms) => Ok(ms),
            Self::Text(text) => text.parse().map(|at: jiff::Timestamp| at.as_millisecond()).map_err(|_| {
                ApiError::invalid_parameter(format!("{name}: write it as 2026-01-02T03:04:05Z"))
            }),
        }
    }
}

/// Gives letters another chance: their events go through the rules as they are now.
#[utoipa::path(
    post, path = "/dead-letters/replay", tag = "Dead letters", operation_id = "dead_letters_replay",
    request_body = Replay,
    responses((status = 200, description = "What became of them", body = Replayed),
        (status = 404, description = "There is no such letter", body = ErrorBody), Refused, BodyRefused)
)]
pub(super) async fn replay(
    State(app): State<App>,
    caller: Caller,
    Typed(asked): Typed<Replay>,
) -> Result<Json<Value>, ApiError> {
    let limit = limit(asked.limit)?;
    let filter = LetterFilter {
        pipeline: None,
        rule: asked.rule,
        sink: asked.sink,
        target: asked.target,
        id: asked.id,
        after_id: asked.after,
        to_id: None,
        from_ms: asked.from.map(|at| at.ms("from")).transpose()?,
        to_ms: asked.to.map(|at| at.ms("to")).transpose()?,
    };
    match app.pipelines.replay_letters(&filter, limit).await {
        Ok(replayed) if replayed.last_id.is_none() && filter.id.is_some() => Err(not_found()),
        Ok(replayed) => {
            let object =
                filter.rule.clone().or_else(|| filter.id.map(|id| id.to_string())).unwrap_or_default();
            audit::write(&app, &caller, "dead_letters.replay", &object, json!(replayed)).await;
            Ok(Json(json!(replayed)))
        }
        Err(error) => {
            let message = format!("{}; letters that were not delivered are still there", error.in_words());
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", message))
        }
    }
}

fn limit(asked: Option<u32>) -> Result<u32, ApiError> {
    match asked.unwrap_or(LIMIT_DEFAULT) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        _ => Err(ApiError::invalid_parameter(format!("limit: 1 to {LIMIT_MAX}"))),
    }
}

fn filter(params: &Params) -> Result<LetterFilter, ApiError> {
    let text = |name| params.one(name).map(str::to_owned);
    Ok(LetterFilter {
        pipeline: None,
        rule: text("rule"),
        sink: text("sink"),
        target: text("target"),
        id: params.parsed("id", |text| text.parse().ok())?,
        after_id: None,
        to_id: None,
        from_ms: params.time("from")?,
        to_ms: params.time("to")?,
    })
}

fn summary(letter: &DeadLetter) -> Value {
    json!({
        "id": letter.id,
        "rule": letter.pipeline.rule,
        "rule_version": letter.rule_version,
        "sink": letter.pipeline.sink,
        "target": letter.pipeline.target,
        "offset": letter.cursor.offset,
        "row_index": letter.cursor.row,
        "event_id": letter.event_id,
        "event": letter.event_name(),
        "event_at": rfc3339(letter.event_ms),
        "attempts": letter.attempts,
        "reason": letter.reason,
        "created_at": rfc3339(letter.created_ms),
    })
}

/// With the row as it was, none where the rule failed before it made one, and the event's columns, or why they cannot
/// be read.
fn whole(letter: &DeadLetter) -> Value {
    let parsed = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
    let mut all = summary(letter);
    if let Some(all) = all.as_object_mut() {
        all.insert("row".to_owned(), letter.row_json.as_deref().map_or(Value::Null, parsed));
        match letter.event() {
            Ok(event) => all.insert("columns".to_owned(), parsed(&event.columns().to_json())),
            Err(error) => all.insert("columns_error".to_owned(), error.to_string().into()),
        };
    }
    all
}

fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "there is no such dead letter")
}

fn unreadable(error: StoreError) -> ApiError {
    tracing::warn!(error = %crate::error::chain(&error), "dead letters cannot be read");
    ApiError::internal("the delivery store cannot be used; see the log")
}
