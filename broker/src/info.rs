//! What the broker tells others about a client and its subscriptions: plain values, copied at the time of asking.

use std::net::SocketAddr;

use bytes::Bytes;
use muster_core::event::EventId;

use crate::config::ListenerKind;

/// A listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerInfo {
    /// What is spoken there.
    pub kind: ListenerKind,
    /// Its address, with the port that it has.
    pub bind: SocketAddr,
    /// The path, of a WebSocket.
    pub path: Option<String>,
    /// Whether it takes connections.
    pub running: bool,
    /// Connections that it has, with those of which nothing was heard yet.
    pub current_connections: usize,
    /// Most clients, on all listeners together.
    pub max_connections: usize,
}

/// A client with a session, connected or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientInfo {
    /// Client identifier.
    pub clientid: String,
    /// User name, if one was given.
    pub username: Option<String>,
    /// The node that it is on.
    pub node: String,
    /// `address:port` of the client.
    pub peername: String,
    /// `address:port` that it reached.
    pub sockname: String,
    /// The listener, e.g. `tcp:default`.
    pub listener: String,
    /// `MQTT` or `MQIsdp`.
    pub proto_name: String,
    /// 3, 4 or 5.
    pub proto_ver: u8,
    /// Whether it is connected now.
    pub connected: bool,
    /// When the last connection was made.
    pub connected_at_ms: i64,
    /// When the session was made.
    pub created_at_ms: i64,
    /// When the last connection ended; none while connected.
    pub disconnected_at_ms: Option<i64>,
    /// As in its CONNECT.
    pub clean_start: bool,
    /// How long the session outlives the connection.
    pub expiry_interval_seconds: u32,
    /// 0: none.
    pub keepalive_seconds: u16,
    /// Whether it says to be a bridge.
    pub is_bridge: bool,
    /// The number of its connection in events.
    pub session: u64,
    /// Subscriptions.
    pub subscriptions_count: usize,
    /// Most subscriptions.
    pub subscriptions_max: usize,
    /// Messages sent to it and not acknowledged.
    pub inflight_count: usize,
    /// Most of these.
    pub inflight_max: usize,
    /// Messages that wait for it.
    pub queue_count: usize,
    /// Most of these.
    pub queue_max: usize,
    /// QoS 2 publishes from it that it has not released.
    pub awaiting_release_count: usize,
    /// Most of these.
    pub awaiting_release_max: usize,
    /// Bytes from it, over this connection.
    pub bytes_received: u64,
    /// Packets from it.
    pub packets_received: u64,
    /// Publishes from it, by QoS.
    pub messages_received_by_qos: [u64; 3],
    /// Bytes to it.
    pub bytes_sent: u64,
    /// Packets to it.
    pub packets_sent: u64,
    /// Messages to it, by QoS.
    pub messages_sent_by_qos: [u64; 3],
    /// Messages for it that were dropped.
    pub messages_dropped: u64,
    /// Of these: its queue was full.
    pub messages_dropped_queue_full: u64,
    /// Of these: their time was over.
    pub messages_dropped_expired: u64,
    /// Of these: larger than it takes.
    pub messages_dropped_too_large: u64,
}

/// A retained message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedInfo {
    /// The identity of its publish.
    pub id: EventId,
    /// Its topic.
    pub topic: String,
    /// What it says.
    pub payload: Bytes,
    /// 0, 1 or 2.
    pub qos: u8,
    /// When it was published.
    pub published_at_ms: i64,
    /// Who published it; may be empty.
    pub from_clientid: String,
    /// By which user name.
    pub from_username: Option<String>,
}

/// Which of the messages that are held for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Those that wait for their turn.
    Queued,
    /// Those that were sent and are not acknowledged.
    Inflight,
}

/// Which messages that are held for a client are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldQuery {
    /// Of which.
    pub held: Held,
    /// Those behind this place; 0: from the first.
    pub after: u64,
    /// At most so many.
    pub count_max: usize,
    /// At most so many bytes of payloads, but at least one message.
    pub payload_bytes_max: usize,
}

/// A message that is held for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldMessage {
    /// Grows from message to message.
    pub place: u64,
    /// As the client gets it.
    pub retain: bool,
    /// What it is, with the QoS of its delivery. The payload of one that the client has received (QoS 2) is gone.
    pub info: RetainedInfo,
}

/// Some of the messages that are held for a client, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldPage {
    /// The place of the oldest that is there at all.
    pub start: Option<u64>,
    /// Those that were asked for.
    pub messages: Vec<HeldMessage>,
}

/// A subscription.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubscriptionInfo {
    /// The topic filter, with `$share/GROUP/` where it is shared.
    pub topic: String,
    /// Most QoS.
    pub qos: u8,
    /// Not the client's own messages.
    pub no_local: bool,
    /// The retain flag as the publisher set it.
    pub retain_as_published: bool,
    /// 0, 1 or 2.
    pub retain_handling: u8,
    /// Comes with each message.
    pub subscription_id: Option<u32>,
}
