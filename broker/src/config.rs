//! Where the broker listens, and every limit it keeps. Units stand last in each name.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use muster_core::tls::Tls;
use serde::{Deserialize, Serialize};

/// How the broker is set up.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Where it listens; at least one.
    pub listeners: Vec<ListenerConfig>,
    /// The common name in a client's certificate is its user name, whatever it says in CONNECT.
    pub username_from_certificate: bool,
    /// The node's name in events, `name@host`.
    pub node: String,
    /// Limits.
    pub limits: Limits,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            listeners: vec![ListenerConfig::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 1883)))],
            username_from_certificate: false,
            node: "muster@127.0.0.1".to_owned(),
            limits: Limits::default(),
        }
    }
}

/// What is spoken on a listener's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ListenerKind {
    /// MQTT.
    Tcp,
    /// MQTT over TLS.
    Ssl,
    /// MQTT over WebSockets.
    Ws,
    /// MQTT over WebSockets over TLS.
    Wss,
}

impl ListenerKind {
    /// Its name; there is one listener of each kind.
    pub fn id(self) -> &'static str {
        match self {
            Self::Tcp => "tcp:default",
            Self::Ssl => "ssl:default",
            Self::Ws => "ws:default",
            Self::Wss => "wss:default",
        }
    }

    /// The part of its name before the colon.
    pub fn name(self) -> &'static str {
        self.id().split(':').next().unwrap_or_default()
    }

    pub(crate) fn is_secure(self) -> bool {
        matches!(self, Self::Ssl | Self::Wss)
    }

    pub(crate) fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

/// A listener.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// What is spoken there.
    pub kind: ListenerKind,
    /// Its address; port 0 takes a free one.
    pub address: SocketAddr,
    /// Its certificate, where TLS is spoken.
    pub tls: Option<Tls>,
    /// The path of a WebSocket.
    pub ws_path: String,
    /// A load balancer says first who the client is.
    pub proxy_protocol: bool,
}

impl ListenerConfig {
    /// Plain MQTT.
    pub fn tcp(address: SocketAddr) -> Self {
        Self {
            kind: ListenerKind::Tcp,
            address,
            tls: None,
            ws_path: "/mqtt".to_owned(),
            proxy_protocol: false,
        }
    }
}

/// What one client, and all of them together, may use.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Clients that are connected at a time; a further CONNECT is answered with "quota exceeded".
    pub connections_max: usize,
    /// Sessions, with or without a connection; who would begin a further one is answered with "quota exceeded".
    pub sessions_max: usize,
    /// Connections whose CONNECT is not there yet; for a further one, the oldest is closed of the address that has the
    /// most.
    pub handshakes_max: usize,
    /// Of these, those from one address (of IPv6: one /64); for a further one, its oldest is closed.
    pub handshakes_per_address_max: usize,
    /// From the TCP connection to the whole CONNECT, with all that comes before it.
    pub connect_timeout_ms: u64,
    /// Largest packet from a client.
    pub packet_bytes_max: usize,
    /// Longest client identifier.
    pub clientid_bytes_max: usize,
    /// Publishes with QoS 1 and 2 that a client may have unacknowledged; then nothing more is read from it.
    pub receive_maximum: u16,
    /// Unacknowledged QoS 1 and 2 messages towards a client, unless it asks for fewer.
    pub inflight_max: u16,
    /// Messages that wait for a client, connected or not; beyond it the oldest is dropped and counted.
    pub queue_messages_max: usize,
    /// Bytes of topics and payloads that wait for a client; beyond it the oldest message is dropped and counted.
    pub queue_bytes_max: usize,
    /// Bytes on their way to a client's socket; beyond it messages wait in its queue.
    pub write_bytes_max: usize,
    /// Topic aliases that a client may set.
    pub topic_alias_maximum: u16,
    /// Subscriptions of one client.
    pub subscriptions_max: usize,
    /// Longest keep-alive; a client that asks for more, or for none, is given this one. 0: any.
    pub keep_alive_seconds_max: u16,
    /// Longest life of a session without a connection; also what MQTT 3.1.1 sessions get.
    pub session_expiry_seconds_max: u32,
    /// Retained messages; beyond it a new topic is not retained.
    pub retained_messages_max: usize,
    /// Payload of a retained message.
    pub retained_bytes_max: usize,
    /// How long a shutdown waits for clients to take their DISCONNECT.
    pub shutdown_timeout_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 100_000,
            sessions_max: 1_000_000,
            handshakes_max: 4_096,
            handshakes_per_address_max: 1_024,
            connect_timeout_ms: 10_000,
            packet_bytes_max: 1 << 20,
            clientid_bytes_max: 1_024,
            receive_maximum: 1_024,
            inflight_max: 32,
            queue_messages_max: 1_000,
            queue_bytes_max: 16 << 20,
            write_bytes_max: 256 << 10,
            topic_alias_maximum: 64,
            subscriptions_max: 1_000,
            keep_alive_seconds_max: 0,
            session_expiry_seconds_max: 7 * 24 * 3_600,
            retained_messages_max: 1_000_000,
            retained_bytes_max: 1 << 20,
            shutdown_timeout_ms: 2_000,
        }
    }
}

impl Limits {
    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(crate) fn shutdown_timeout(&self) -> Duration {
        Duration::from_millis(self.shutdown_timeout_ms)
    }
}
