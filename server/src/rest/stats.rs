//! `GET /api/v5/stats` and `/api/v5/metrics`: gauges and counters under the names of EMQX v5.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Json;
use axum::extract::{Query, State};
use serde_json::{Map, Value, json};

use super::App;
use super::reply::{ApiError, Params};

/// The largest value of each gauge that anybody was told.
#[derive(Debug, Default)]
pub(super) struct Maxima([AtomicUsize; GAUGES]);

const GAUGES: usize = 10;

/// Gauges: `X.count` now, and `X.max`, the most that was seen when somebody asked.
pub(super) async fn stats(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let stats = app.broker.stats();
    let gauges: [(&str, usize); GAUGES] = [
        ("connections", stats.connections),
        ("live_connections", stats.connections),
        ("channels", stats.connections),
        ("cluster_sessions", stats.sessions),
        ("sessions", stats.sessions),
        ("subscriptions", stats.subscriptions),
        ("suboptions", stats.subscriptions),
        ("subscriptions.shared", stats.subscriptions_shared),
        ("topics", stats.topics),
        ("retained", stats.retained),
    ];
    let mut all = Map::new();
    for ((name, count), max) in gauges.into_iter().zip(&app.maxima.0) {
        let max = max.fetch_max(count, Ordering::Relaxed).max(count);
        all.insert(format!("{name}.count"), count.into());
        all.insert(format!("{name}.max"), max.into());
    }
    aggregate(&app, query, all)
}

/// Counters since the start.
pub(super) async fn metrics(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let it = app.broker.stats().counters;
    let received = it.messages_received_qos0 + it.messages_received_qos1 + it.messages_received_qos2;
    let (matched, success, failed) = app.meters.totals();
    let all = json!({
        "bytes.received": it.bytes_received,
        "bytes.sent": it.bytes_sent,
        "packets.received": it.packets_received,
        "packets.sent": it.packets_sent,
        "client.connect": it.connects,
        "client.connected": it.connects - it.connects_refused.min(it.connects),
        "messages.received": received,
        "messages.qos0.received": it.messages_received_qos0,
        "messages.qos1.received": it.messages_received_qos1,
        "messages.qos2.received": it.messages_received_qos2,
        "messages.publish": it.messages_published,
        "messages.persisted": it.messages_published,
        "messages.sent": it.messages_delivered,
        "messages.delivered": it.messages_delivered,
        "messages.acked": it.deliveries_acked,
        "messages.dropped": it.messages_dropped_no_subscribers + it.messages_refused,
        "messages.dropped.no_subscribers": it.messages_dropped_no_subscribers,
        "delivery.dropped": it.deliveries_dropped,
        "delivery.dropped.queue_full": it.deliveries_dropped_queue_full,
        "delivery.dropped.expired": it.deliveries_dropped_expired,
        "authorization.deny": it.authorizations_denied,
        "rules.matched": matched,
        "actions.executed": success + failed,
        "actions.success": success,
        "actions.failed": failed,
    });
    match all {
        Value::Object(all) => aggregate(&app, query, all),
        _ => Err(ApiError::internal("no metrics")),
    }
}

/// One map, or, unless asked otherwise, a list with one map a node.
fn aggregate(
    app: &App,
    query: Vec<(String, String)>,
    mut all: Map<String, Value>,
) -> Result<Json<Value>, ApiError> {
    if Params::new(query).flag("aggregate")? == Some(true) {
        return Ok(Json(all.into()));
    }
    all.insert("node".to_owned(), (*app.node).into());
    Ok(Json(json!([all])))
}
