//! REST: what operators ask. `/api/v5` in the shapes of EMQX v5, `/api/v1` for what that does not have, `/metrics` for
//! Prometheus. It reads the other parts and has rules changed by those whose business they are; it must never know how
//! they do their work.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use muster_broker::Broker;
use muster_core::clock::SharedClock;
use muster_core::journal::Journal;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

mod audit;
mod clients;
mod devices;
mod letters;
mod log;
mod operate;
mod pipelines;
mod prometheus;
mod replays;
mod reply;
mod rules;
mod stats;
mod status;

use crate::config::{Config, Durability, Http};
use crate::error::{Error, ErrorKind};
use crate::pipelines::Pipelines;
use reply::ApiError;

/// How long requests that are under way may take when the server stops.
const STOP_WAIT: Duration = Duration::from_millis(500);

/// What the endpoints look at. Cheap to clone.
#[derive(Clone)]
pub struct App {
    node: Arc<str>,
    database: Arc<std::path::Path>,
    clock: SharedClock,
    started: Duration,
    journal: Journal,
    broker: Broker,
    pipelines: Arc<Pipelines>,
    durability: Durability,
    maxima: Arc<stats::Maxima>,
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
        pipelines: &Arc<Pipelines>,
    ) -> Self {
        Self {
            node: config.node.as_str().into(),
            database: config.data.join(crate::platform::DATABASE).into(),
            clock: clock.clone(),
            started: clock.monotonic(),
            journal: journal.clone(),
            broker: broker.clone(),
            pipelines: pipelines.clone(),
            durability: config.journal.durability,
            maxima: Arc::default(),
            trials: rules::Trials::default(),
            meters: rules::Meters::new(clock.clone(), pipelines.clone()),
        }
    }
}

/// REST, served.
#[derive(Debug)]
pub struct RestServer {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl RestServer {
    /// Listens and serves.
    ///
    /// # Errors
    /// The address cannot be had, or is not a loopback address: there are no keys yet that would protect it.
    pub async fn start(http: &Http, app: App) -> Result<Self, Error> {
        let listen = http.listen;
        if !listen.ip().is_loopback() {
            let message =
                format!("cannot serve REST on {listen}: it asks for no key yet, so loopback addresses only");
            return Err(Error::new(ErrorKind::Config, message));
        }
        let cannot =
            |error| Error::because(ErrorKind::Start, format!("cannot listen on {listen} for REST"), error);
        let listener = TcpListener::bind(listen).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(app.meters.clone().run(stop.clone()));
        let router = router(http, app);
        let task = tokio::spawn(async move {
            let served =
                axum::serve(listener, router).with_graceful_shutdown(stopped.cancelled_owned()).await;
            if let Err(error) = served {
                tracing::error!(%error, "REST ended");
            }
        });
        Ok(Self { address, stop, task })
    }

    /// Where it is served.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more requests and ends those that take long.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(STOP_WAIT, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

fn router(http: &Http, app: App) -> Router {
    Router::new()
        .route("/status", get(status::status))
        .route("/metrics", get(prometheus::metrics))
        .route("/api/v5/status", get(status::status))
        .route("/api/v5/clients", get(clients::list))
        .route("/api/v5/clients/{clientid}", get(clients::one))
        .route("/api/v5/stats", get(stats::stats))
        .route("/api/v5/metrics", get(stats::metrics))
        .nest("/api/v5", rules::router())
        .route("/api/v1/pipelines", get(pipelines::list))
        .route("/api/v1/pipelines/pause", post(operate::pause))
        .route("/api/v1/pipelines/resume", post(operate::resume))
        .route("/api/v1/pipelines/reset", post(operate::reset))
        .route("/api/v1/dead-letters", get(letters::list).delete(letters::discard))
        .route("/api/v1/dead-letters/replay", post(letters::replay))
        .route("/api/v1/dead-letters/{id}", get(letters::one).delete(letters::discard_one))
        .route("/api/v1/replays", get(replays::list).post(replays::create))
        .route("/api/v1/replays/{id}", get(replays::one).delete(replays::end))
        .route("/api/v1/devices", get(devices::list))
        .route("/api/v1/devices/{clientid}", get(devices::one))
        .route("/api/v1/log", get(log::stats))
        .method_not_allowed_fallback(async || {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "METHOD_NOT_ALLOWED",
                "this path has no such method",
            )
        })
        .fallback(reply::path_not_found)
        .layer(DefaultBodyLimit::max(http.body_bytes_max))
        .layer(middleware::from_fn_with_state(http.request_timeout, limit_time))
        .with_state(app)
}

async fn limit_time(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let message = "the request took too long";
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", message).into_response()
        }
    }
}
