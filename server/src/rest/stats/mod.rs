//! `/stats`, `/metrics` and `/monitor`: gauges, counters and samples under the names of EMQX v5. What each of them
//! counts is in `docs/statistics.md`. It must never count anything itself.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Query, State};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::reply::{ApiError, ErrorBody, Params, Refused};

mod monitor;

pub(super) use monitor::uptime_ms;

/// The paths of it.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(metrics)).routes(routes!(stats)).merge(monitor::router())
}

/// Numbers by name. Those of a node have its name in `node`.
#[derive(Debug, ToSchema)]
#[schema(value_type = Object)]
#[expect(dead_code, reason = "describes what is written as a map")]
pub(super) struct Numbers(BTreeMap<String, u64>);

/// One map, or a list with one map a node.
#[derive(Debug, ToSchema, serde::Serialize)]
#[schema(as = NumbersByNode)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes what is written as maps")]
enum Shown {
    /// With `aggregate=true`.
    Sum(BTreeMap<String, Value>),
    /// Without.
    Nodes(Vec<BTreeMap<String, Value>>),
}

/// How to show it.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what Params reads")]
struct Aggregate {
    /// Whether to answer with one map of sums instead of a list of maps, one a node.
    #[param(required = false, default = false)]
    aggregate: bool,
}

/// Counters since the data directory was made; see the page on statistics for what each counts.
#[utoipa::path(
    get, path = "/metrics", tag = "Statistics", operation_id = "metrics", params(Aggregate),
    responses((status = 200, description = "Counters by name.", body = Shown),
        (status = 400, description = "`aggregate` is neither true nor false.", body = ErrorBody), Refused)
)]
async fn metrics(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let aggregate = aggregate(query)?;
    Ok(Json(shown(&app, aggregate, counters(&app).await)))
}

/// Gauges: `X.count` now, and `X.max`, the most that was seen.
#[utoipa::path(
    get, path = "/stats", tag = "Statistics", operation_id = "stats", params(Aggregate),
    responses((status = 200, description = "Gauges by name.", body = Shown),
        (status = 400, description = "`aggregate` is neither true nor false.", body = ErrorBody), Refused)
)]
async fn stats(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let aggregate = aggregate(query)?;
    Ok(Json(shown(&app, aggregate, gauges(&app))))
}

/// Every counter, with what was durable at the time of asking.
pub(super) async fn counters(app: &App) -> Map<String, Value> {
    app.statistics.caught_up().await;
    app.statistics.counters().into_iter().map(|(name, value)| (name, value.into())).collect()
}

/// Every gauge.
pub(super) fn gauges(app: &App) -> Map<String, Value> {
    let mut all = Map::new();
    for (name, count, max) in app.statistics.gauges() {
        all.insert(format!("{name}.count"), count.into());
        all.insert(format!("{name}.max"), max.into());
    }
    all
}

fn aggregate(query: Vec<(String, String)>) -> Result<bool, ApiError> {
    Ok(Params::new(query).flag("aggregate")? == Some(true))
}

fn shown(app: &App, aggregate: bool, mut all: Map<String, Value>) -> Value {
    if aggregate {
        return all.into();
    }
    all.insert("node".to_owned(), (*app.node).into());
    Value::Array(vec![all.into()])
}
