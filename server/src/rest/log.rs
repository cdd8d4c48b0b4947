//! `GET /api/v1/log`: the event log in numbers.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::App;

/// The log in numbers.
pub(super) async fn stats(State(app): State<App>) -> Json<Value> {
    let stats = app.journal.log().stats();
    Json(json!({
        "log_id": format!("{:032X}", stats.log_id),
        "first_offset": stats.first_offset,
        "next_offset": stats.next_offset,
        "durable_offset": stats.durable_offset,
        "segments": stats.segments,
        "bytes": stats.bytes,
        "queued_bytes": stats.queued_bytes,
        "refuses": stats.refuses.map(|kind| format!("{kind:?}")),
    }))
}
