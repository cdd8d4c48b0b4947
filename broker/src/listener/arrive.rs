//! From a TCP connection to bytes that should be MQTT: PROXY header, TLS, WebSocket, in this order, each only where the
//! listener asks for it. Whoever calls limits the time.

use std::io;
use std::net::SocketAddr;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::place::Placed;
use super::proxy::{self, Addresses, ProxyError};
use super::websocket;
use super::{Endpoints, Listener, Slot, Socket};
use crate::config::ListenerKind;

/// Why a connection is closed before its first packet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArriveError {
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error("no TLS came about")]
    Tls(#[source] io::Error),
    #[error("no WebSocket came about")]
    WebSocket(#[source] Box<tokio_tungstenite::tungstenite::Error>),
}

impl Listener {
    /// Does what comes before the first packet.
    pub(crate) async fn arrive(
        &self,
        mut tcp: Placed,
        peer: SocketAddr,
        slot: &mut Slot,
    ) -> Result<(Socket, Endpoints), ArriveError> {
        let announced = if self.proxy_protocol { proxy::read(&mut tcp).await? } else { None };
        if let Some(Addresses { client, .. }) = announced {
            slot.move_to(client.ip());
        }
        let reached = announced.map(|it| it.reached).or_else(|| tcp.tcp.local_addr().ok());
        let mut endpoints = Endpoints {
            peername: announced.map_or(peer, |it| it.client).to_string(),
            sockname: reached.map(|it| it.to_string()).unwrap_or_default(),
            listener: self.kind.id(),
            cert_common_name: None,
            is_buffered: self.kind != ListenerKind::Tcp,
        };
        let socket: Socket = match self.kind {
            ListenerKind::Tcp => Box::new(tcp),
            ListenerKind::Ssl => Box::new(self.secure(tcp, &mut endpoints).await?),
            ListenerKind::Ws => {
                let opened = websocket::accept(tcp, &self.ws_path, self.packet_bytes_max).await;
                Box::new(opened.map_err(ArriveError::WebSocket)?)
            }
            ListenerKind::Wss => {
                let secure = self.secure(tcp, &mut endpoints).await?;
                let opened = websocket::accept(secure, &self.ws_path, self.packet_bytes_max).await;
                Box::new(opened.map_err(ArriveError::WebSocket)?)
            }
        };
        Ok((socket, endpoints))
    }

    async fn secure(&self, tcp: Placed, endpoints: &mut Endpoints) -> Result<TlsStream<Placed>, ArriveError> {
        let tls = self.tls.as_ref().ok_or_else(|| ArriveError::Tls(io::ErrorKind::NotFound.into()))?;
        let stream = TlsAcceptor::from(tls.config()).accept(tcp).await.map_err(ArriveError::Tls)?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        endpoints.cert_common_name = shown.and_then(|it| super::certificate::common_name(it));
        Ok(stream)
    }
}
