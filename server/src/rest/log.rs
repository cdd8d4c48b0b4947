//! `GET /api/v1/log`: the event log in numbers.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::reply::Refused;

/// What is served here.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(stats))
}

/// The log in numbers.
#[utoipa::path(
    get,
    path = "/log",
    tag = "Log",
    operation_id = "log_stats",
    responses((status = 200, description = "Ends, size, limits and promises of the log", body = Object), Refused),
)]
async fn stats(State(app): State<App>) -> Json<Value> {
    Json(numbers(&app))
}

/// What an operator wants to know of the log: its ends, its size and limits, what it promises, who holds it back.
pub(super) fn numbers(app: &App) -> Value {
    let stats = app.journal.log().stats();
    let hold = stats.slowest_hold.map(|(name, offset)| {
        let behind = stats.durable_offset.saturating_sub(offset);
        json!({ "name": name, "offset": offset, "lag_events": behind })
    });
    json!({
        "log_id": format!("{:032X}", stats.log_id),
        "first_offset": stats.first_offset,
        "next_offset": stats.next_offset,
        "durable_offset": stats.durable_offset,
        "segments": stats.segments,
        "segments_compressed": stats.segments_compressed,
        "bytes": stats.bytes,
        "raw_bytes": stats.raw_bytes,
        "queued_bytes": stats.queued_bytes,
        "refuses": stats.refuses.map(|kind| format!("{kind:?}")),
        "durability": app.durability.to_string(),
        "loss_window": app.durability.loss_window(),
        "cap_bytes": stats.cap_bytes,
        "cap_used_percent": stats.cap_bytes.map(|cap| crate::platform::percent(stats.bytes, cap)),
        "cap_alarm": stats.cap_alarm,
        "slowest_hold": hold,
    })
}
