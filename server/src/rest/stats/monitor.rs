//! `/monitor`: what was going on, and what is.

use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::App;
use super::super::audit;
use super::super::nodes::known;
use super::super::reply::{ApiError, ErrorBody, Params, Path, Refused};
use crate::access::Caller;
use crate::statistics::{self, Flow, Sample};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, clear))
        .routes(routes!(of_node))
        .routes(routes!(current))
        .routes(routes!(current_of_node))
}

/// What was going on in a step of time: ten seconds, or a minute or ten for what is older than an hour or a day.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Sample)]
struct Shown {
    /// The step's time, milliseconds since 1970.
    time_stamp: i64,
    /// Connected clients.
    connections: u64,
    /// Connected clients.
    live_connections: u64,
    /// Sessions.
    cluster_sessions: u64,
    /// Different topic filters that are subscribed.
    topics: u64,
    /// Subscriptions.
    subscriptions: u64,
    /// Shared subscriptions.
    shared_subscriptions: u64,
    /// Retained messages.
    retained_msg_count: u64,
    /// Messages from clients in the step.
    received: u64,
    /// Messages to subscribers in the step.
    sent: u64,
    /// Messages that were dropped in the step.
    dropped: u64,
    /// Messages that were written to the event log in the step.
    persisted: u64,
    /// Bytes from clients in the step.
    received_bytes: u64,
    /// Bytes to clients in the step.
    sent_bytes: u64,
    /// Events that rules matched in the step.
    rules_matched: u64,
    /// Rows that were settled in the step.
    actions_executed: u64,
}

impl From<Sample> for Shown {
    fn from(it: Sample) -> Self {
        let Flow { received, sent, dropped, persisted, received_bytes, sent_bytes, .. } = it.flow;
        Self {
            time_stamp: it.at_ms,
            connections: it.connections,
            live_connections: it.connections,
            cluster_sessions: it.sessions,
            topics: it.topics,
            subscriptions: it.subscriptions,
            shared_subscriptions: it.shared_subscriptions,
            retained_msg_count: it.retained,
            received,
            sent,
            dropped,
            persisted,
            received_bytes,
            sent_bytes,
            rules_matched: it.flow.rules_matched,
            actions_executed: it.flow.actions_executed,
        }
    }
}

/// What there is now, and what happens a second.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MonitorCurrent)]
struct Current {
    /// Connected clients.
    connections: u64,
    /// Connected clients.
    live_connections: u64,
    /// Sessions.
    cluster_sessions: u64,
    /// Different topic filters that are subscribed.
    topics: u64,
    /// Subscriptions.
    subscriptions: u64,
    /// Shared subscriptions.
    shared_subscriptions: u64,
    /// Retained messages.
    retained_msg_count: u64,
    /// Messages from clients a second.
    received_msg_rate: f64,
    /// Messages to subscribers a second.
    sent_msg_rate: f64,
    /// Dropped messages a second.
    dropped_msg_rate: f64,
    /// Messages written to the event log a second.
    persisted_rate: f64,
    /// Bytes from clients a second.
    received_bytes_rate: f64,
    /// Bytes to clients a second.
    sent_bytes_rate: f64,
    /// Events that rules match a second.
    rules_matched_rate: f64,
    /// Rows that are settled a second.
    actions_executed_rate: f64,
    /// Milliseconds since the node started.
    node_uptime: u64,
}

/// Which samples.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what Params reads")]
struct Latest {
    /// Only the samples of the last so many seconds.
    #[param(required = false, minimum = 1)]
    latest: i64,
}

/// Samples of the last seven days, the oldest first.
#[utoipa::path(
    get, path = "/monitor", tag = "Statistics", operation_id = "monitor_list", params(Latest),
    responses((status = 200, description = "Samples.", body = Vec<Shown>),
        (status = 400, description = "`latest` is no number of seconds.", body = ErrorBody), Refused)
)]
async fn list(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Vec<Shown>>, ApiError> {
    samples(&app, query)
}

/// Samples of one node.
#[utoipa::path(
    get, path = "/monitor/nodes/{node}", tag = "Statistics", operation_id = "monitor_of_node",
    params(("node" = String, Path, description = "The node's name."), Latest),
    responses((status = 200, description = "Samples.", body = Vec<Shown>),
        (status = 400, description = "`latest` is no number of seconds.", body = ErrorBody),
        (status = 404, description = "There is no such node.", body = ErrorBody), Refused)
)]
async fn of_node(
    State(app): State<App>,
    Path(node): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Vec<Shown>>, ApiError> {
    known(&app, &node)?;
    samples(&app, query)
}

/// Forgets all samples.
#[utoipa::path(
    delete, path = "/monitor", tag = "Statistics", operation_id = "monitor_clear",
    responses((status = 204, description = "They are gone."), Refused)
)]
async fn clear(State(app): State<App>, caller: Caller) -> StatusCode {
    app.statistics.clear_samples().await;
    audit::write(&app, &caller, "monitor.clear", "", json!({})).await;
    StatusCode::NO_CONTENT
}

/// What there is now, with the rates of the last ten seconds that are over.
#[utoipa::path(
    get, path = "/monitor_current", tag = "Statistics", operation_id = "monitor_current",
    responses((status = 200, description = "Gauges and rates.", body = Current), Refused)
)]
async fn current(State(app): State<App>) -> Json<Current> {
    Json(now(&app))
}

/// What there is now on one node.
#[utoipa::path(
    get, path = "/monitor_current/nodes/{node}", tag = "Statistics", operation_id = "monitor_current_of_node",
    params(("node" = String, Path, description = "The node's name.")),
    responses((status = 200, description = "Gauges and rates.", body = Current),
        (status = 404, description = "There is no such node.", body = ErrorBody), Refused)
)]
async fn current_of_node(
    State(app): State<App>,
    Path(node): Path<String>,
) -> Result<Json<Current>, ApiError> {
    known(&app, &node)?;
    Ok(Json(now(&app)))
}

fn samples(app: &App, query: Vec<(String, String)>) -> Result<Json<Vec<Shown>>, ApiError> {
    let seconds = |text: &str| text.parse().ok().filter(|seconds: &i64| *seconds > 0);
    let latest = Params::new(query).parsed("latest", seconds)?;
    let back_ms = latest.map(|seconds| seconds.saturating_mul(1_000));
    let from_ms = back_ms.map_or(i64::MIN, |ms| app.clock.wall_ms().saturating_sub(ms));
    Ok(Json(app.statistics.samples(from_ms).into_iter().map(Shown::from).collect()))
}

fn now(app: &App) -> Current {
    let (it, passed) = app.statistics.current();
    let rate = |count| statistics::rate(count, passed);
    Current {
        connections: it.connections,
        live_connections: it.connections,
        cluster_sessions: it.sessions,
        topics: it.topics,
        subscriptions: it.subscriptions,
        shared_subscriptions: it.shared_subscriptions,
        retained_msg_count: it.retained,
        received_msg_rate: rate(it.flow.received),
        sent_msg_rate: rate(it.flow.sent),
        dropped_msg_rate: rate(it.flow.dropped),
        persisted_rate: rate(it.flow.persisted),
        received_bytes_rate: rate(it.flow.received_bytes),
        sent_bytes_rate: rate(it.flow.sent_bytes),
        rules_matched_rate: rate(it.flow.rules_matched),
        actions_executed_rate: rate(it.flow.actions_executed),
        node_uptime: uptime_ms(app),
    }
}

/// Milliseconds since the node started.
pub(in crate::rest) fn uptime_ms(app: &App) -> u64 {
    let up: Duration = app.clock.monotonic().saturating_sub(app.started);
    u64::try_from(up.as_millis()).unwrap_or(u64::MAX)
}
