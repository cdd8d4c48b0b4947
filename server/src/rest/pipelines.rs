//! `GET /api/v1/pipelines`: how each rule's rows travel to each of its targets.

use axum::Json;
use axum::extract::{Query, State};
use serde_json::{Value, json};

use super::App;
use super::reply::{ApiError, ErrorBody, Meta, Page, PageParams, Params, Refused, rfc3339};

/// How a rule's rows travel to one of its targets.
#[derive(utoipa::ToSchema)]
#[schema(as = Pipeline)]
#[expect(dead_code, reason = "describes PipelineStatus and what is written beside it")]
pub(super) struct Described {
    rule: String,
    sink: String,
    /// The table, topic or collection; empty where there is none.
    target: String,
    lanes: u32,
    /// `starting`, `running`, `retrying`, `paused`, `stalled`, `done` or `stopped`.
    state: String,
    /// Rows made, and events on which the rule failed: delivered, dead and pending.
    matched: u64,
    delivered: u64,
    dead: u64,
    pending: u64,
    /// Everything before this offset is committed.
    cursor: u64,
    lag_events: u64,
    lag_ms: u64,
    /// Failed attempts since the last success.
    failures: u32,
    /// Milliseconds since 1970.
    #[schema(required = true)]
    next_attempt_at_ms: Option<i64>,
    #[schema(required = true)]
    last_error: Option<String>,
    /// Milliseconds since 1970.
    #[schema(required = true)]
    last_error_at_ms: Option<i64>,
    /// What can be done, while something is wrong.
    #[schema(required = true)]
    hint: Option<String>,
    notes: Vec<String>,
    /// In lists: the comment above the rule.
    comment: Option<String>,
    /// In lists.
    #[schema(nullable = false)]
    lag_seconds: Option<f64>,
    /// In lists.
    #[schema(format = DateTime)]
    last_error_at: Option<String>,
    /// In lists.
    #[schema(format = DateTime)]
    next_attempt_at: Option<String>,
    /// In lists with `lanes=true`: each lane in the same words.
    #[schema(nullable = false, value_type = Option<Vec<Object>>)]
    lane_status: Option<Vec<Value>>,
}

/// A page of pipelines.
#[derive(utoipa::ToSchema)]
#[schema(as = PipelinePage)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct Listed {
    data: Vec<Described>,
    meta: Meta,
    /// What is wrong with rules and rule files.
    problems: Vec<String>,
}

/// One entry a rule and target, with what is wrong with the rule files beside it; with `lanes=true` each lane, too.
#[utoipa::path(
    get, path = "/pipelines", tag = "Pipelines", operation_id = "pipelines_list",
    params(
        PageParams,
        ("rule" = Option<String>, Query, description = "Of this rule"),
        ("sink" = Option<String>, Query, description = "To this sink"),
        ("lanes" = Option<bool>, Query, description = "Whether to show each lane, too"),
    ),
    responses(
        (status = 200, description = "A page of them", body = Listed),
        (status = 400, description = "A parameter cannot be used", body = ErrorBody),
        Refused,
    )
)]
pub(super) async fn list(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let params = Params::new(query);
    let page = Page::from_params(&params)?;
    let lanes = params.flag("lanes")? == Some(true);
    let all = app.pipelines.status_with_lanes();
    let wanted = all.iter().filter(|(it, _)| {
        params.one("rule").is_none_or(|rule| rule == it.rule)
            && params.one("sink").is_none_or(|sink| sink == it.sink)
    });
    let shown: Vec<_> = wanted
        .map(|(it, of_lanes)| {
            let mut entry = json!(it);
            if let Some(entry) = entry.as_object_mut() {
                entry.insert("comment".to_owned(), app.pipelines.comment(&it.rule).into());
                entry.insert("lag_seconds".to_owned(), seconds(it.lag_ms).into());
                entry.insert("last_error_at".to_owned(), it.last_error_at_ms.map_or(Value::Null, rfc3339));
                entry
                    .insert("next_attempt_at".to_owned(), it.next_attempt_at_ms.map_or(Value::Null, rfc3339));
                if lanes {
                    entry.insert("lane_status".to_owned(), json!(of_lanes));
                }
            }
            entry
        })
        .collect();
    let total = shown.len() as u64;
    let skip = usize::try_from(page.skip()).unwrap_or(usize::MAX);
    let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
    let shown = shown.into_iter().skip(skip).take(limit).collect();
    let Json(mut body) = page.envelope(shown, total, false);
    if let Some(body) = body.as_object_mut() {
        body.insert("problems".to_owned(), app.pipelines.problems().into());
    }
    Ok(Json(body))
}

/// Milliseconds as seconds, exact to the millisecond.
pub(super) fn seconds(ms: u64) -> f64 {
    std::time::Duration::from_millis(ms).as_secs_f64()
}
