//! `/nodes`: the node and how its machine is doing. There is one.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::reply::{ApiError, ErrorBody, Path, Refused};
use super::stats::{self, Numbers, uptime_ms};

/// The paths of it.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(one))
        .routes(routes!(metrics))
        .routes(routes!(stats))
}

/// A node. What the system does not tell is left out.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Node {
    /// Its name.
    pub(super) node: String,
    /// `running`.
    pub(super) node_status: &'static str,
    /// The version that runs.
    pub(super) version: &'static str,
    /// Milliseconds since it started.
    pub(super) uptime: u64,
    /// Connected clients.
    pub(super) connections: u64,
    /// Connected clients.
    pub(super) live_connections: u64,
    /// Sessions.
    pub(super) cluster_sessions: u64,
    /// The machine's memory, with its unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "7.67G", nullable = false)]
    pub(super) memory_total: Option<String>,
    /// Of this: not available, with its unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "512.00M", nullable = false)]
    pub(super) memory_used: Option<String>,
    /// Tasks that run or wait to, averaged over a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) load1: Option<f64>,
    /// The same over five minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) load5: Option<f64>,
    /// The same over fifteen minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) load15: Option<f64>,
    /// Most files and sockets that the process may have open.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) max_fds: Option<u64>,
}

/// Every node.
#[utoipa::path(
    get, path = "/nodes", tag = "Nodes", operation_id = "nodes_list",
    responses((status = 200, description = "The nodes.", body = Vec<Node>), Refused)
)]
async fn list(State(app): State<App>) -> Json<Vec<Node>> {
    Json(vec![node(&app).await])
}

/// One node.
#[utoipa::path(
    get, path = "/nodes/{node}", tag = "Nodes", operation_id = "nodes_get",
    params(("node" = String, Path, description = "The node's name.")),
    responses((status = 200, description = "The node.", body = Node),
        (status = 404, description = "There is no such node.", body = ErrorBody), Refused)
)]
async fn one(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Node>, ApiError> {
    known(&app, &name)?;
    Ok(Json(node(&app).await))
}

/// A node's counters.
#[utoipa::path(
    get, path = "/nodes/{node}/metrics", tag = "Nodes", operation_id = "nodes_metrics",
    params(("node" = String, Path, description = "The node's name.")),
    responses((status = 200, description = "Counters by name.", body = Numbers),
        (status = 404, description = "There is no such node.", body = ErrorBody), Refused)
)]
async fn metrics(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<Map<String, Value>>, ApiError> {
    known(&app, &name)?;
    Ok(Json(stats::counters(&app).await))
}

/// A node's gauges.
#[utoipa::path(
    get, path = "/nodes/{node}/stats", tag = "Nodes", operation_id = "nodes_stats",
    params(("node" = String, Path, description = "The node's name.")),
    responses((status = 200, description = "Gauges by name.", body = Numbers),
        (status = 404, description = "There is no such node.", body = ErrorBody), Refused)
)]
async fn stats(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<Map<String, Value>>, ApiError> {
    known(&app, &name)?;
    Ok(Json(stats::gauges(&app)))
}

/// Whether `name` is this node.
pub(super) fn known(app: &App, name: &str) -> Result<(), ApiError> {
    if *app.node == *name {
        return Ok(());
    }
    Err(ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "Node not found"))
}

/// The node as it is now.
pub(super) async fn node(app: &App) -> Node {
    // Files of the kernel: they answer at once, but nothing says so.
    let machine = tokio::task::spawn_blocking(Machine::read).await.unwrap_or_default();
    let (now, _) = app.statistics.current();
    let [load1, load5, load15] = machine.load;
    Node {
        node: app.node.to_string(),
        node_status: "running",
        version: env!("CARGO_PKG_VERSION"),
        uptime: uptime_ms(app),
        connections: now.connections,
        live_connections: now.connections,
        cluster_sessions: now.sessions,
        memory_total: machine.memory_bytes.map(|(total, _)| size(total)),
        memory_used: machine.memory_bytes.map(|(_, used)| size(used)),
        load1,
        load5,
        load15,
        max_fds: machine.files_max,
    }
}

/// What Linux tells of itself and of us.
#[derive(Debug, Default)]
struct Machine {
    load: [Option<f64>; 3],
    /// All of it, and what is not available.
    memory_bytes: Option<(u64, u64)>,
    files_max: Option<u64>,
}

impl Machine {
    fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self::parse(&text("/proc/loadavg"), &text("/proc/meminfo"), &text("/proc/self/limits"))
    }

    fn parse(load: &str, memory: &str, limits: &str) -> Self {
        let mut loads = load.split_whitespace().map(|it| it.parse().ok());
        let mut next = || loads.next().flatten();
        let kib = |name: &str| {
            let line = memory.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let memory_bytes = kib("MemTotal:")
            .zip(kib("MemAvailable:"))
            .map(|(total, free)| (total * 1_024, total.saturating_sub(free) * 1_024));
        let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let files_max = files.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Self { load: [next(), next(), next()], memory_bytes, files_max }
    }
}

/// Bytes in the largest unit that they reach.
fn size(bytes: u64) -> String {
    let units = [("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)];
    let (unit, of): (&str, u64) = units.into_iter().find(|(_, of)| bytes >= *of).unwrap_or(("B", 1));
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let count = bytes as f64 / of as f64;
    format!("{count:.2}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_read() {
        let it = Machine::parse(
            "0.50 1.25 2.00 1/234 5678\n",
            "MemTotal:        8046572 kB\nMemFree:  1 kB\nMemAvailable:    7522284 kB\n",
            "Limit    Soft Limit    Hard Limit    Units\nMax open files            1024    524288    files\n",
        );
        assert_eq!(it.load, [Some(0.5), Some(1.25), Some(2.0)]);
        assert_eq!(it.memory_bytes.map(|(total, used)| (size(total), size(used))), {
            Some(("7.67G".to_owned(), "512.00M".to_owned()))
        });
        assert_eq!(it.files_max, Some(1_024));
        let none = Machine::parse("", "nothing", "");
        assert_eq!((none.load, none.memory_bytes, none.files_max), ([None; 3], None, None));
        assert_eq!(size(12), "12.00B");
    }
}
