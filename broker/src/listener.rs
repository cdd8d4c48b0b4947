//! The TCP listener: takes connections and starts a task for each, as long as there is room.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::connect;
use crate::hub::Hub;

/// A pause after an error of `accept`, which is most often a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bytes both ways, over whatever.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// A client's connection.
pub(crate) type Socket = Box<dyn Stream>;

/// Where a connection comes from and where it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Endpoints {
    /// The client.
    pub(crate) peername: String,
    /// Our side.
    pub(crate) sockname: String,
    /// The listener's name.
    pub(crate) listener: &'static str,
}

/// Accepts connections until the broker shuts down.
pub(crate) async fn run(hub: Arc<Hub>, listener: TcpListener) {
    let limits = &hub.config.limits;
    let room = limits.connections_max.saturating_add(limits.handshakes_max).min(Semaphore::MAX_PERMITS);
    let room = Arc::new(Semaphore::new(room));
    loop {
        let accepted = tokio::select! {
            () = hub.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            tracing::warn!(%peer, "no room for another connection");
            continue;
        };
        // Small packets are the rule here; a socket that cannot be told so works all the same.
        drop(socket.set_nodelay(true));
        let sockname = socket.local_addr().map(|it: SocketAddr| it.to_string()).unwrap_or_default();
        let endpoints = Endpoints { peername: peer.to_string(), sockname, listener: "tcp:default" };
        let task = connect::serve(Arc::clone(&hub), Box::new(socket), endpoints);
        hub.tasks.spawn(async move {
            task.await;
            drop(permit);
        });
    }
}
