//! What happened, as the whole platform sees it: an [`Event`] is one record of the log, decoded. Fields follow
//! `schemas/event.proto`; [`Column`] is how rules and people name them. It must never know who writes an event
//! (broker, server) or who reads it.

use std::fmt;

use bytes::Bytes;
use prost::Message as _;

mod build;
mod column;
mod kind;
#[cfg(test)]
mod tests;
/// The types of `schemas/event.proto`.
#[allow(missing_docs, reason = "generated; documented in schemas/event.proto")]
#[allow(clippy::all, reason = "generated")]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/muster.event.v1.rs"));
}

pub use build::{ColumnError, example, filled};
pub use column::{Column, ColumnType};
pub use kind::{EventKind, EventKinds};

/// An event as it was written: its place in the log, its time, and its body.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its place in the log.
    pub offset: u64,
    /// Equal on every replay.
    pub id: EventId,
    /// When it happened, milliseconds since 1970 by the node's wall clock.
    pub timestamp_ms: i64,
    /// What happened.
    pub kind: EventKind,
    /// The topic of a message, the filter of a subscription, the topic asked about in an authorization; else empty.
    pub topic: String,
    /// Everything else.
    pub body: proto::Event,
}

/// An event that is still to be written: the log gives it its offset.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// When it happened, milliseconds since 1970.
    pub timestamp_ms: i64,
    /// What happened.
    pub kind: EventKind,
    /// As in [`Event::topic`].
    pub topic: String,
    /// Everything else.
    pub body: proto::Event,
}

/// A record body that is no event: damaged in a way the checksum cannot see, or foreign.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// A newer version wrote a kind that this one does not know. A reader skips it.
    #[error("event at offset {offset} is of the unknown kind {code}; a newer version wrote it")]
    UnknownKind {
        /// Where it stands.
        offset: u64,
        /// The kind's number.
        code: u16,
    },
    /// The topic in the record's header is not UTF-8.
    #[error("event at offset {offset} has a topic that is not UTF-8")]
    Topic {
        /// Where it stands.
        offset: u64,
    },
    /// The body is no Protocol Buffers message of `schemas/event.proto`.
    #[error("event at offset {offset} cannot be decoded")]
    Body {
        /// Where it stands.
        offset: u64,
        /// What the decoder found.
        source: prost::DecodeError,
    },
}

impl NewEvent {
    /// The bytes that go into the record's body.
    pub fn encode_body(&self) -> Bytes {
        self.body.encode_to_vec().into()
    }

    /// What a reader will see once the log has given it `offset`.
    pub fn at(self, log_id: u128, offset: u64) -> Event {
        Event {
            offset,
            id: EventId::new(log_id, offset),
            timestamp_ms: self.timestamp_ms,
            kind: self.kind,
            topic: self.topic,
            body: self.body,
        }
    }
}

impl Event {
    /// Decodes a record's parts. `body` is shared with the payload, not copied.
    ///
    /// # Errors
    /// [`EventError`] says what is wrong with which record.
    pub fn decode(
        log_id: u128,
        offset: u64,
        timestamp_ms: i64,
        code: u16,
        topic: &[u8],
        body: Bytes,
    ) -> Result<Self, EventError> {
        let kind = EventKind::from_code(code).ok_or(EventError::UnknownKind { offset, code })?;
        let topic = std::str::from_utf8(topic).map_err(|_| EventError::Topic { offset })?.to_owned();
        let body = proto::Event::decode(body).map_err(|source| EventError::Body { offset, source })?;
        Ok(Self { offset, id: EventId::new(log_id, offset), timestamp_ms, kind, topic, body })
    }

    /// The client that the event is about; empty where there is none.
    pub fn clientid(&self) -> &str {
        self.body.client.as_ref().map_or("", |client| client.clientid.as_str())
    }

    /// The client's session number; 0 where there is none.
    pub fn session(&self) -> u64 {
        self.body.client.as_ref().map_or(0, |client| client.session)
    }

    /// The client's sequence number; 0 where there is none.
    pub fn seq(&self) -> u64 {
        self.body.client.as_ref().map_or(0, |client| client.seq)
    }

    /// The body as it stands in the log, apart from fields of newer versions.
    pub fn encode_body(&self) -> Bytes {
        self.body.encode_to_vec().into()
    }

    /// The payload of the message; empty where there is none.
    pub fn payload(&self) -> Bytes {
        self.body.message.as_ref().map(|message| message.payload.clone()).unwrap_or_default()
    }
}

/// The identity of an event in the world: the log's id plus the offset, as one 128-bit number. Two logs share an id
/// by accident with a chance below 1 in 10^18 for a billion logs of a billion events.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(u128);

impl EventId {
    /// The id of the event at `offset` of the log `log_id`.
    pub const fn new(log_id: u128, offset: u64) -> Self {
        Self(log_id.wrapping_add(offset as u128))
    }

    /// The id as a number.
    pub const fn as_u128(self) -> u128 {
        self.0
    }

    /// The id as 16 bytes, big endian.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The id whose [`EventId::to_bytes`] these are.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(u128::from_be_bytes(bytes)))
    }
}

/// 32 hexadecimal digits in upper case, as MQTT platforms print a message id.
impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032X}", self.0)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
