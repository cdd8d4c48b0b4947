//! `/listeners`: where devices connect. There is one listener of each kind; what is not configured is not listed.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use muster_broker::ListenerInfo;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::reply::{ApiError, ErrorBody, Path};
use super::{App, audit};
use crate::access::Caller;

/// The paths of it.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(one))
        .routes(routes!(start))
        .routes(routes!(stop))
        .routes(routes!(restart))
}

/// A listener.
#[derive(Debug, Serialize, ToSchema)]
struct Listener {
    /// Its name.
    #[schema(example = "tcp:default")]
    id: &'static str,
    /// `tcp`, `ssl`, `ws` or `wss`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The part of its name behind the colon.
    name: &'static str,
    /// Its address.
    #[schema(example = "0.0.0.0:1883")]
    bind: String,
    /// The path, of a WebSocket.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "/mqtt")]
    path: Option<String>,
    /// Always: one that is not wanted is not listed.
    enable: bool,
    /// Whether it takes connections.
    running: bool,
    /// Connections that it has, with those of which nothing was heard yet.
    current_connections: usize,
    /// Most clients, on all listeners together.
    max_connections: usize,
    /// The last three once more, as other clients expect them.
    status: Status,
    /// The same for each node. There is one.
    node_status: Vec<NodeStatus>,
}

/// How a listener is doing.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
struct Status {
    /// Whether it takes connections.
    running: bool,
    /// Connections that it has.
    current_connections: usize,
    /// Most clients, on all listeners together.
    max_connections: usize,
}

/// How a listener is doing on a node.
#[derive(Debug, Serialize, ToSchema)]
struct NodeStatus {
    /// The node's name.
    node: String,
    /// How it is doing there.
    status: Status,
}

/// All listeners.
#[utoipa::path(
    get,
    path = "/listeners",
    tag = "Listeners",
    operation_id = "listeners_list",
    responses((status = 200, description = "All of them", body = [Listener])),
)]
async fn list(State(app): State<App>) -> Json<Vec<Listener>> {
    Json(app.broker.listeners().into_iter().map(|it| listener(&app, it)).collect())
}

/// One listener.
#[utoipa::path(
    get,
    path = "/listeners/{id}",
    tag = "Listeners",
    operation_id = "listeners_one",
    params(("id" = String, Path, description = "Its name", example = "tcp:default")),
    responses(
        (status = 200, description = "The listener", body = Listener),
        (status = 404, description = "There is no such listener", body = ErrorBody),
    ),
)]
async fn one(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Listener>, ApiError> {
    Ok(Json(listener(&app, found(&app, &id)?)))
}

/// Has a listener take connections again.
#[utoipa::path(
    post,
    path = "/listeners/{id}/start",
    tag = "Listeners",
    operation_id = "listeners_start",
    params(("id" = String, Path, description = "Its name", example = "tcp:default")),
    responses(
        (status = 200, description = "It takes connections", body = Listener),
        (status = 404, description = "There is no such listener", body = ErrorBody),
        (status = 409, description = "Somebody else has its address now", body = ErrorBody),
    ),
)]
async fn start(
    State(app): State<App>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Json<Listener>, ApiError> {
    change(&app, &id, &caller, Change::Start).await
}

/// Has a listener take no more connections, until it is started again or the server is. Those that it has stay.
#[utoipa::path(
    post,
    path = "/listeners/{id}/stop",
    tag = "Listeners",
    operation_id = "listeners_stop",
    params(("id" = String, Path, description = "Its name", example = "tcp:default")),
    responses(
        (status = 200, description = "It takes none", body = Listener),
        (status = 404, description = "There is no such listener", body = ErrorBody),
    ),
)]
async fn stop(
    State(app): State<App>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Json<Listener>, ApiError> {
    change(&app, &id, &caller, Change::Stop).await
}

/// Stops a listener and starts it again. Connections that it has stay.
#[utoipa::path(
    post,
    path = "/listeners/{id}/restart",
    tag = "Listeners",
    operation_id = "listeners_restart",
    params(("id" = String, Path, description = "Its name", example = "tcp:default")),
    responses(
        (status = 200, description = "It takes connections", body = Listener),
        (status = 404, description = "There is no such listener", body = ErrorBody),
        (status = 409, description = "Somebody else has its address now", body = ErrorBody),
    ),
)]
async fn restart(
    State(app): State<App>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Json<Listener>, ApiError> {
    change(&app, &id, &caller, Change::Restart).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Start,
    Stop,
    Restart,
}

async fn change(app: &App, id: &str, caller: &Caller, change: Change) -> Result<Json<Listener>, ApiError> {
    let kind = found(app, id)?.kind;
    if change != Change::Start {
        app.broker.stop_listener(kind).await;
    }
    if change != Change::Stop {
        app.broker
            .start_listener(kind)
            .await
            .map_err(|error| ApiError::new(StatusCode::CONFLICT, "CONFLICT", crate::error::chain(&error)))?;
    }
    let action = match change {
        Change::Start => "listener.start",
        Change::Stop => "listener.stop",
        Change::Restart => "listener.restart",
    };
    audit::write(app, caller, action, kind.id(), json!({})).await;
    Ok(Json(listener(app, found(app, id)?)))
}

fn found(app: &App, id: &str) -> Result<ListenerInfo, ApiError> {
    let found = app.broker.listeners().into_iter().find(|it| it.kind.id() == id);
    found.ok_or_else(|| {
        ApiError::new(StatusCode::NOT_FOUND, "BAD_LISTENER_ID", "there is no listener of this name")
    })
}

fn listener(app: &App, it: ListenerInfo) -> Listener {
    let ListenerInfo { kind, bind, path, running, current_connections, max_connections } = it;
    let status = Status { running, current_connections, max_connections };
    Listener {
        id: kind.id(),
        kind: kind.name(),
        name: "default",
        bind: bind.to_string(),
        path,
        enable: true,
        running,
        current_connections,
        max_connections,
        status,
        node_status: vec![NodeStatus { node: app.node.to_string(), status }],
    }
}
