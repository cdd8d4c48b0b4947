//! `GET /api/v1/pipelines`: how each rule's rows travel to each of its targets.

use axum::Json;
use axum::extract::{Query, State};
use serde_json::{Value, json};

use super::App;
use super::reply::{ApiError, Page, Params, rfc3339};

/// One entry a rule and target, with what is wrong with the rule files beside it; with `lanes=true` each lane, too.
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
