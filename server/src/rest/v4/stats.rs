//! `/metrics`, `/stats`, `/nodes`: numbers, under the names of the older dialect.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::App;
use super::super::nodes::{Node, known, node};
use super::super::reply::{Path, Refused};
use super::super::stats;
use super::{Answer, Code, Refusal, ok};

/// What is called otherwise here: the name under `/api/v5`, and the dialect's.
const RENAMED: [(&str, &str); 3] = [
    ("authorization.deny", "client.acl.deny"),
    ("session.takenover", "session.takeovered"),
    ("actions.failed", "actions.failure"),
];

/// The paths of it.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(all_metrics))
        .routes(routes!(all_stats))
        .routes(routes!(nodes))
        .routes(routes!(one_node))
        .routes(routes!(metrics_of_node))
        .routes(routes!(stats_of_node))
}

/// Counters, a map a node.
#[utoipa::path(
    get, path = "/metrics", tag = "Older dialect", operation_id = "v4_metrics",
    responses((status = 200, description = "Counters by name.", body = Answer), Refused)
)]
async fn all_metrics(State(app): State<App>) -> Response {
    ok(json!([{"node": &*app.node, "metrics": counters(&app).await}]))
}

/// Gauges, a map a node.
#[utoipa::path(
    get, path = "/stats", tag = "Older dialect", operation_id = "v4_stats",
    responses((status = 200, description = "Gauges by name.", body = Answer), Refused)
)]
async fn all_stats(State(app): State<App>) -> Response {
    ok(json!([{"node": &*app.node, "stats": stats::gauges(&app)}]))
}

/// Every node.
#[utoipa::path(
    get, path = "/nodes", tag = "Older dialect", operation_id = "v4_nodes",
    responses((status = 200, description = "The nodes.", body = Answer), Refused)
)]
async fn nodes(State(app): State<App>) -> Response {
    ok(json!([shown(node(&app).await)]))
}

/// One node.
#[utoipa::path(
    get, path = "/nodes/{node}", tag = "Older dialect", operation_id = "v4_node",
    params(("node" = String, Path, description = "The node's name.")),
    responses((status = 200, description = "The node.", body = Answer), Refused)
)]
async fn one_node(State(app): State<App>, Path(name): Path<String>) -> Response {
    match known(&app, &name) {
        Ok(()) => ok(shown(node(&app).await)),
        Err(_) => unknown(),
    }
}

/// A node's counters.
#[utoipa::path(
    get, path = "/nodes/{node}/metrics", tag = "Older dialect", operation_id = "v4_node_metrics",
    params(("node" = String, Path, description = "The node's name.")),
    responses((status = 200, description = "Counters by name.", body = Answer), Refused)
)]
async fn metrics_of_node(State(app): State<App>, Path(name): Path<String>) -> Response {
    match known(&app, &name) {
        Ok(()) => ok(counters(&app).await),
        Err(_) => unknown(),
    }
}

/// A node's gauges.
#[utoipa::path(
    get, path = "/nodes/{node}/stats", tag = "Older dialect", operation_id = "v4_node_stats",
    params(("node" = String, Path, description = "The node's name.")),
    responses((status = 200, description = "Gauges by name.", body = Answer), Refused)
)]
async fn stats_of_node(State(app): State<App>, Path(name): Path<String>) -> Response {
    match known(&app, &name) {
        Ok(()) => ok(stats::gauges(&app)),
        Err(_) => unknown(),
    }
}

fn unknown() -> Response {
    Refusal(Code::BadParameter, "there is no such node".to_owned()).into_response()
}

async fn counters(app: &App) -> Map<String, Value> {
    let mut all = stats::counters(app).await;
    for (name, here) in RENAMED {
        if let Some(value) = all.remove(name) {
            all.insert(here.to_owned(), value);
        }
    }
    all
}

/// The node with its state and its time in words.
fn shown(node: Node) -> Value {
    let seconds = node.uptime / 1_000;
    let (minutes, hours) = (seconds / 60 % 60, seconds / 3_600);
    let uptime =
        format!("{} days, {} hours, {minutes} minutes, {} seconds", hours / 24, hours % 24, seconds % 60);
    let mut shown = json!(node);
    shown["node_status"] = "Running".into();
    shown["uptime"] = uptime.into();
    shown
}
