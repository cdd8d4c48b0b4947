//! Listeners: they take connections, over TCP, TLS, WebSockets and both, and start a task for each as long as there is
//! room. What comes before the first packet happens in that task. They must never know a packet.

mod arrive;
mod certificate;
mod place;
mod proxy;
mod room;
mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use muster_core::tls::Tls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use arrive::ArriveError;
use place::{Place, Placed};
pub(crate) use room::{Room, Slot};

use crate::config::{ListenerConfig, ListenerKind};
use crate::connect;
use crate::error::BrokerError;
use crate::hub::Hub;
use crate::info::ListenerInfo;

/// A pause after an error of `accept`, which is most often a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that the system may hold until they are accepted; of a burst beyond it, each waits a second or more.
const BACKLOG: u32 = 4_096;

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
    /// The name in the client's certificate, if it showed one that we trust.
    pub(crate) cert_common_name: Option<String>,
    /// What is written may wait in the socket until it is flushed.
    pub(crate) is_buffered: bool,
}

/// A connection of which nothing was heard yet.
pub(crate) struct Knock {
    pub(crate) listener: Arc<Listener>,
    pub(crate) tcp: Placed,
    pub(crate) peer: SocketAddr,
    /// Its place among those of which nothing was heard yet.
    pub(crate) slot: Slot,
}

/// An address that is listened on.
pub(crate) struct Listener {
    kind: ListenerKind,
    bind: SocketAddr,
    tls: Option<Tls>,
    ws_path: String,
    proxy_protocol: bool,
    packet_bytes_max: usize,
    connections: AtomicUsize,
    is_running: AtomicBool,
    /// What accepts connections, while somebody does.
    running: Mutex<Option<Running>>,
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Listener {
    /// Takes the address.
    pub(crate) fn bind(
        config: &ListenerConfig,
        packet_bytes_max: usize,
    ) -> Result<(Self, TcpListener), BrokerError> {
        let ListenerConfig { kind, address, tls, ws_path, proxy_protocol } = config.clone();
        if kind.is_secure() && tls.is_none() {
            return Err(BrokerError::NoCertificate { listener: kind.id() });
        }
        let socket = listen(address)?;
        let bind = socket.local_addr().map_err(|source| BrokerError::Listen { address, source })?;
        let listener = Self {
            kind,
            bind,
            tls,
            ws_path,
            proxy_protocol,
            packet_bytes_max,
            connections: AtomicUsize::new(0),
            is_running: AtomicBool::new(false),
            running: Mutex::default(),
        };
        Ok((listener, socket))
    }

    /// Accepts connections from now on.
    pub(crate) async fn open(self: &Arc<Self>, hub: &Arc<Hub>, socket: TcpListener) {
        self.spawn(hub, socket, &mut *self.running.lock().await);
    }

    /// The same again, where it was stopped.
    pub(crate) async fn start(self: &Arc<Self>, hub: &Arc<Hub>) -> Result<(), BrokerError> {
        let mut running = self.running.lock().await;
        if running.is_none() {
            self.spawn(hub, listen(self.bind)?, &mut running);
        }
        Ok(())
    }

    /// Accepts no more; the address is free when this returns.
    pub(crate) async fn stop(&self) {
        if let Some(Running { stop, task }) = self.running.lock().await.take() {
            self.is_running.store(false, Ordering::Relaxed);
            stop.cancel();
            // Ends in no other way.
            drop(task.await);
        }
    }

    fn spawn(self: &Arc<Self>, hub: &Arc<Hub>, socket: TcpListener, running: &mut Option<Running>) {
        let stop = hub.shutdown.child_token();
        let task = tokio::spawn(run(Arc::clone(hub), Arc::clone(self), socket, stop.clone()));
        *running = Some(Running { stop, task });
        self.is_running.store(true, Ordering::Relaxed);
    }

    pub(crate) fn kind(&self) -> ListenerKind {
        self.kind
    }

    /// What others may know of it.
    pub(crate) fn info(&self, max_connections: usize) -> ListenerInfo {
        ListenerInfo {
            kind: self.kind,
            bind: self.bind,
            path: self.kind.is_websocket().then(|| self.ws_path.clone()),
            running: self.is_running.load(Ordering::Relaxed),
            current_connections: self.connections.load(Ordering::Relaxed),
            max_connections,
        }
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, BrokerError> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let listening = socket.and_then(|socket| {
        // Connections of an earlier run that are about to end do not keep the address.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    });
    listening.map_err(|source| BrokerError::Listen { address, source })
}

/// How many sockets may be open on all listeners together: those who are connected, those of which nothing was heard
/// yet, and as many again who are being looked at or told that they may not come in.
pub(crate) fn sockets(connections_max: usize, handshakes_max: usize) -> Arc<Semaphore> {
    let most = connections_max.saturating_add(handshakes_max.saturating_mul(2));
    Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)))
}

/// Accepts connections until it is stopped.
async fn run(hub: Arc<Hub>, listener: Arc<Listener>, socket: TcpListener, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = socket.accept() => accepted,
        };
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                // Whoever says nothing holds a descriptor that somebody else could use.
                hub.room.make_room();
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let slot = Room::enter(&hub.room, peer.ip());
        let Some(place) = Place::take(&hub.sockets, &listener) else {
            tracing::warn!(%peer, "no room for another connection");
            continue;
        };
        // Small packets are the rule here; a socket that cannot be told so works all the same.
        drop(tcp.set_nodelay(true));
        let knock = Knock { listener: Arc::clone(&listener), tcp: Placed::new(tcp, place), peer, slot };
        hub.tasks.spawn(connect::serve(Arc::clone(&hub), knock));
    }
}
