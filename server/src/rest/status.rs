//! `GET /status`: whether the node runs, for load balancers and people.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::App;
use super::reply::Params;
use crate::error::chain;

/// Whether the node runs.
#[derive(utoipa::ToSchema)]
#[schema(as = NodeRuns)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct Runs {
    node_name: String,
    cluster: String,
    /// `started` or `stopped`.
    broker_status: String,
    /// `running` or `not_running`.
    app_status: String,
    version: String,
    /// Why nothing is acknowledged, if it is so.
    #[schema(required = true)]
    why: Option<String>,
    log: super::log::Numbers,
}

/// Whether the node runs.
///
/// Two lines of text, and a third that says why if nothing is acknowledged; or JSON on request. Whoever asks should
/// come again after so many seconds.
#[utoipa::path(
    get, path = "/status", tag = "Status", operation_id = "status",
    params(("format" = Option<String>, Query, description = "`json` for JSON", example = "json")),
    responses(
        (status = 200, description = "It runs",
            content((String = "text/plain", example = "Node muster@a is started\nmuster is running\n"), (Runs = "application/json"))),
        (status = 503, description = "It runs, but nothing is acknowledged", content((String = "text/plain"), (Runs = "application/json"))),
    ),
    security(()),
)]
pub(super) async fn status(State(app): State<App>, Query(query): Query<Vec<(String, String)>>) -> Response {
    // While the log takes nothing, publishes are not acknowledged: devices are better off with another node.
    let why = app.journal.log().check().err().map(|error| chain(&error));
    let runs = why.is_none();
    let code = if runs { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let retry = [(header::RETRY_AFTER, "15")];
    if Params::new(query).one("format") == Some("json") {
        let body = json!({
            "node_name": &*app.node,
            "cluster": "single",
            "broker_status": if runs { "started" } else { "stopped" },
            "app_status": if runs { "running" } else { "not_running" },
            "version": env!("CARGO_PKG_VERSION"),
            "why": why,
            "log": super::log::numbers(&app),
        });
        return (code, retry, Json(body)).into_response();
    }
    let (broker, platform) = if runs { ("started", "running") } else { ("stopped", "not running") };
    let why = why.map_or_else(String::new, |why| format!("{why}\n"));
    (code, retry, format!("Node {} is {broker}\nmuster is {platform}\n{why}", app.node)).into_response()
}
