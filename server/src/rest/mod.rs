//! REST: what operators ask. `/api/v5` in the shapes of EMQX v5, `/api/v1` for what that does not have, `/metrics` for
//! Prometheus. It reads the other parts and has rules changed by those whose business they are; it must never know how
//! they do their work.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware;
use axum::routing::get;
use muster_broker::Broker;
use muster_core::clock::SharedClock;
use muster_core::journal::Journal;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

mod alarms;
mod audit;
mod authn;
mod authz;
mod bans;
mod caller;
mod clients;
mod devices;
mod guard;
mod keys;
mod letters;
mod limits;
mod listeners;
mod log;
mod nodes;
mod openapi;
mod operate;
mod outbox;
mod pipelines;
mod prometheus;
mod publish;
mod replays;
mod reply;
mod retained;
mod rules;
mod serve;
mod stats;
mod status;
mod subscriptions;
mod topic_metrics;
mod v4;

use crate::access::Access;
use crate::config::{Config, Durability, Http};
use crate::pipelines::Pipelines;
use crate::projection::Progress;
use crate::statistics::{Sources, Statistics};
pub(crate) use devices::{device_json, happened_json};
use reply::ApiError;
pub use serve::RestServer;

/// What the endpoints look at. Cheap to clone.
#[derive(Clone)]
pub struct App {
    node: Arc<str>,
    database: Arc<std::path::Path>,
    clock: SharedClock,
    started: Duration,
    journal: Journal,
    broker: Broker,
    access: Access,
    pipelines: Arc<Pipelines>,
    durability: Durability,
    statistics: Statistics,
    presence: Progress,
    trials: rules::Trials,
    meters: rules::Meters,
}

impl App {
    /// The endpoints of a platform.
    pub fn new(
        config: &Config,
        clock: &SharedClock,
        journal: &Journal,
        broker: &Broker,
        access: &Access,
        pipelines: &Arc<Pipelines>,
        (statistics, presence): (&Statistics, Progress),
    ) -> Self {
        let meters = rules::Meters::new(clock.clone(), pipelines.clone());
        let of_rules = meters.clone();
        let authz = access.authz.clone();
        statistics.attach(Sources {
            broker: broker.clone(),
            permissions: Box::new(move || authz.counts()),
            rules: Box::new(move || of_rules.by_rule()),
        });
        Self {
            node: config.node.as_str().into(),
            database: config.data.join(crate::platform::DATABASE).into(),
            clock: clock.clone(),
            started: clock.monotonic(),
            journal: journal.clone(),
            broker: broker.clone(),
            access: access.clone(),
            pipelines: pipelines.clone(),
            durability: config.journal.durability,
            statistics: statistics.clone(),
            presence,
            trials: rules::Trials::default(),
            meters,
        }
    }
}

/// Everything that is served, with its description.
fn api(bulk_bytes_max: usize) -> OpenApiRouter<App> {
    openapi::described()
        .routes(routes!(status::status))
        .routes(routes!(prometheus::metrics))
        .nest("/api/v5", v5(bulk_bytes_max))
        .nest("/api/v4", v4::router())
        .nest("/api/v1", v1())
}

fn router(http: &Http, app: App) -> Router {
    let (router, document) = api(http.bulk_body_bytes_max).split_for_parts();
    router
        .merge(openapi::served(&document))
        .method_not_allowed_fallback(async || {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "METHOD_NOT_ALLOWED",
                "this path has no such method",
            )
        })
        .fallback(reply::path_not_found)
        .layer(limits::body(http.body_bytes_max))
        .layer(middleware::from_fn_with_state(http.request_timeout, limits::limit_time))
        .layer(middleware::from_fn_with_state(app.clone(), guard::guard))
        .layer(middleware::from_fn(limits::limit_uri))
        .with_state(app)
}

fn v5(bulk_bytes_max: usize) -> OpenApiRouter<App> {
    OpenApiRouter::new()
        // The same as `/status`, and described there.
        .route("/status", get(status::status))
        .merge(clients::router())
        .merge(rules::router())
        .merge(keys::router())
        .merge(authn::router())
        .merge(authz::router())
        .merge(bans::router())
        .merge(subscriptions::router())
        .merge(publish::router(bulk_bytes_max))
        .merge(retained::router())
        .merge(stats::router())
        .merge(nodes::router())
        .merge(listeners::router())
        .merge(topic_metrics::router())
        .merge(prometheus::router())
        .merge(alarms::router())
}

fn v1() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(pipelines::list))
        .routes(routes!(operate::pause))
        .routes(routes!(operate::resume))
        .routes(routes!(operate::reset))
        .routes(routes!(letters::list, letters::discard))
        .routes(routes!(letters::replay))
        .routes(routes!(letters::one, letters::discard_one))
        .routes(routes!(replays::list, replays::create))
        .routes(routes!(replays::one, replays::end))
        .merge(devices::router())
        .merge(alarms::v1())
        .merge(log::router())
}
