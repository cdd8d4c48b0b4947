//! The listener of REST: connections, by TLS or without, and how they begin and end. It must never know what an
//! endpoint does.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use muster_core::tls::Tls;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

mod connection;
mod line;
mod seats;

use super::{App, router};
use crate::access::LocalTls;
use crate::config::Http;
use crate::error::{Error, ErrorKind};
use connection::Service;
use line::{Line, Patience};
use seats::Seats;

/// How long requests that are under way may take when the server stops.
const STOP_WAIT: Duration = Duration::from_millis(500);

/// How long no connection is taken after the system had none to give.
const ACCEPT_WAIT: Duration = Duration::from_millis(100);

/// How often certificate and key are looked at.
const CERTIFICATE_LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is offered by TLS.
const PROTOCOLS: &[&[u8]] = &[b"http/1.1"];

/// What is answered where nobody else may come; the connection is not heard.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
    connection: close\r\ncontent-length: 75\r\n\r\n\
    {\"code\":\"SERVICE_UNAVAILABLE\",\"message\":\"too many connections are at work\"}";

/// REST, served.
#[derive(Debug)]
pub struct RestServer {
    address: SocketAddr,
    is_tls: bool,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl RestServer {
    /// Listens and serves.
    ///
    /// # Errors
    /// The address or the certificate cannot be had, or the secret of this machine cannot be written.
    pub async fn start(http: &Http, app: App) -> Result<Self, Error> {
        let listen = http.listen;
        let tls = http.tls.clone().map(|files| Tls::load(files, PROTOCOLS)).transpose();
        let tls = tls.map_err(|error| Error::because(ErrorKind::Start, "cannot serve REST by TLS", error))?;
        let cannot =
            |error| Error::because(ErrorKind::Start, format!("cannot listen on {listen} for REST"), error);
        let listener = TcpListener::bind(listen).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let keys = &app.access.keys;
        let local = http.tls.as_ref().map(|files| LocalTls::new(&files.certificates)).transpose()?;
        keys.publish_local(local.as_ref())?;
        warn_of_strangers(address.ip(), address, tls.is_some(), keys.is_open());
        let stop = CancellationToken::new();
        if let Some(tls) = tls.clone() {
            tokio::spawn(tls.follow(CERTIFICATE_LOOK_EVERY, app.clock.clone(), stop.clone()));
        }
        tokio::spawn(super::outbox::follow(app.clone(), stop.clone()));
        tokio::spawn(app.meters.clone().run(stop.clone()));
        let patience =
            Patience { header: http.header_timeout, idle: http.idle_timeout, request: http.request_timeout };
        let seats = Seats::new(http.connections_max, http.connections_per_address_max);
        let is_tls = tls.is_some();
        let service = Service { router: router(http, app), tls, stop: stop.clone() };
        let task = tokio::spawn(accept(listener, seats, patience, service));
        Ok(Self { address, is_tls, stop, task })
    }

    /// Where it is served.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http` or `https`.
    pub const fn scheme(&self) -> &'static str {
        if self.is_tls { "https" } else { "http" }
    }

    /// Takes no more requests and ends those that take long.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(STOP_WAIT, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

/// What an operator should know of an address that others can reach.
fn warn_of_strangers(ip: IpAddr, address: SocketAddr, is_tls: bool, is_open: bool) {
    if ip.to_canonical().is_loopback() {
        return;
    }
    if is_open {
        tracing::warn!(
            %address,
            "there is no API key yet: REST answers requests of this machine only; `muster key add` makes one"
        );
    }
    if !is_tls {
        tracing::warn!(
            %address,
            "REST is reached from other machines without TLS: keys, passwords and messages cross the network readable; \
             set http.tls_certificates and http.tls_key, or listen on 127.0.0.1 behind a proxy that speaks TLS"
        );
    }
}

/// Takes connections until it is stopped, and waits for those that have a request. Dropping it ends them all.
async fn accept(listener: TcpListener, seats: Seats, patience: Patience, service: Service) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = service.stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match seats.take(peer.ip()) {
                Some(seat) => {
                    let line = Line::new(seat, patience);
                    connections.spawn(service.clone().serve(stream, peer, line));
                }
                None => refuse(&stream, service.tls.is_some()),
            },
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "no connection to REST can be taken; trying on");
                tokio::time::sleep(ACCEPT_WAIT).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Says why, if the system takes it at once. By TLS that would take a handshake, and so costs what is short.
fn refuse(stream: &TcpStream, is_tls: bool) {
    if !is_tls {
        let _told = stream.try_write(FULL);
    }
}

/// Whether it was the peer who went away meanwhile.
fn is_of_the_peer(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_is_as_long_as_it_says() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).unwrap()["code"].is_string());
    }
}
