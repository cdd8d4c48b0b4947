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
#[derive(utoipa::ToSchema)]
#[schema(as = LogNumbers)]
#[expect(dead_code, reason = "describes what is written as JSON")]
pub(super) struct Numbers {
    /// 32 hexadecimal digits.
    #[schema(pattern = "^[0-9A-F]{32}$")]
    log_id: String,
    first_offset: u64,
    /// The offset that the next event gets.
    next_offset: u64,
    /// Everything before it is durable.
    durable_offset: u64,
    segments: u64,
    segments_compressed: u64,
    /// On the disk.
    bytes: u64,
    /// Before compression.
    raw_bytes: u64,
    /// Waiting to be written.
    queued_bytes: u64,
    /// Why appends are refused now, if they are.
    #[schema(required = true)]
    refuses: Option<String>,
    durability: String,
    /// What a power cut can lose.
    loss_window: String,
    #[schema(required = true)]
    cap_bytes: Option<u64>,
    #[schema(required = true)]
    cap_used_percent: Option<u64>,
    cap_alarm: bool,
    /// Who holds the log back most.
    #[schema(required = true)]
    slowest_hold: Option<Hold>,
}

/// Who holds the log back, and how far.
#[derive(utoipa::ToSchema)]
#[schema(as = LogHold)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct Hold {
    name: String,
    offset: u64,
    lag_events: u64,
}

/// The log in numbers.
#[utoipa::path(
    get,
    path = "/log",
    tag = "Log",
    operation_id = "log_stats",
    responses((status = 200, description = "Ends, size, limits and promises of the log", body = Numbers), Refused),
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
