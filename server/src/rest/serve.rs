//! The listener of REST: connections and how they end. It must never know what an endpoint does.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{App, router};
use crate::config::Http;
use crate::error::{Error, ErrorKind};

/// How long requests that are under way may take when the server stops.
const STOP_WAIT: Duration = Duration::from_millis(500);

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
    /// The address cannot be had, or the secret of this machine cannot be written.
    pub async fn start(http: &Http, app: App) -> Result<Self, Error> {
        let listen = http.listen;
        let cannot =
            |error| Error::because(ErrorKind::Start, format!("cannot listen on {listen} for REST"), error);
        let listener = TcpListener::bind(listen).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let keys = &app.access.keys;
        keys.publish_local()?;
        if keys.is_open() && !address.ip().is_loopback() {
            tracing::warn!(
                %address,
                "there is no API key yet: REST answers requests of this machine only; `muster key add` makes one"
            );
        }
        let stop = CancellationToken::new();
        tokio::spawn(super::outbox::follow(app.clone(), stop.clone()));
        tokio::spawn(app.meters.clone().run(stop.clone()));
        let task = tokio::spawn(serve(listener, router(http, app), stop.clone()));
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

async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let served = axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "REST ended");
    }
}
