//! MQTT 3.1, 3.1.1 and 5 packets as bytes: what a client may send is decoded, what a server may send is encoded.
//! Properties are decoded straight into those of the event schema, so that they are parsed once.
//!
//! `rumqttd::protocol` is not used for this: packet identifier, QoS and the DUP flag of its PUBLISH are private to
//! that crate, its passwords must be UTF-8, it prints them with `{:?}`, it accepts reserved flags and repeated
//! properties, and two packet types panic it. Here every read is bounds-checked by [`read::Reader`] and every packet
//! type that only a server sends is refused by its first byte.
//!
//! It must never know sessions, topics' meaning or sockets.

use std::fmt;

use bytes::{Buf as _, Bytes, BytesMut};
use muster_core::event::proto;

mod decode;
pub(crate) mod encode;
mod property;
mod read;
pub(crate) mod reason;
#[cfg(test)]
mod tests;

pub(crate) use decode::decode;

/// Longest fixed header: a type byte and four bytes of length.
const FIXED_HEADER_BYTES_MAX: usize = 5;

/// The protocol that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V3,
    V4,
    V5,
}

impl Version {
    /// The protocol level in CONNECT.
    pub(crate) const fn level(self) -> u8 {
        match self {
            Self::V3 => 3,
            Self::V4 => 4,
            Self::V5 => 5,
        }
    }

    /// The protocol name in CONNECT.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V3 => "MQIsdp",
            Self::V4 | Self::V5 => "MQTT",
        }
    }
}

/// Quality of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Qos {
    /// At most once.
    #[default]
    AtMostOnce,
    /// At least once.
    AtLeastOnce,
    /// Exactly once.
    ExactlyOnce,
}

impl Qos {
    /// The QoS of this number.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }

    /// Its number.
    pub const fn as_u8(self) -> u8 {
        self as u8
    }
}

/// A packet that a client may send.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Packet {
    Connect(Box<Connect>),
    Publish(Publish),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    Subscribe(Subscribe),
    Unsubscribe(Unsubscribe),
    PingReq,
    Disconnect(Disconnect),
    Auth,
}

/// Bytes that are never printed.
#[derive(Clone, PartialEq)]
pub(crate) struct Secret(pub(crate) Bytes);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    /// Set by bridges in the highest bit of the protocol level.
    pub(crate) is_bridge: bool,
    pub(crate) clean_start: bool,
    pub(crate) keep_alive_seconds: u16,
    pub(crate) clientid: String,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) will: Option<Will>,
    pub(crate) props: proto::Properties,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) props: Option<proto::Properties>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Publish {
    pub(crate) dup: bool,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    /// 0 with QoS 0.
    pub(crate) pkid: u16,
    /// Empty where `alias` stands for it.
    pub(crate) topic: String,
    pub(crate) alias: Option<u16>,
    pub(crate) props: Option<proto::Properties>,
    pub(crate) payload: Bytes,
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ack {
    pub(crate) pkid: u16,
    pub(crate) reason: u8,
    pub(crate) props: Option<proto::Properties>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Subscribe {
    pub(crate) pkid: u16,
    pub(crate) filters: Vec<Filter>,
    pub(crate) props: Option<proto::Properties>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Filter {
    pub(crate) path: String,
    pub(crate) qos: Qos,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    /// 0: send retained messages, 1: only with a new subscription, 2: never.
    pub(crate) retain_handling: u8,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Unsubscribe {
    pub(crate) pkid: u16,
    pub(crate) filters: Vec<String>,
    pub(crate) props: Option<proto::Properties>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Disconnect {
    pub(crate) reason: u8,
    pub(crate) props: Option<proto::Properties>,
}

/// Why bytes are no packet. The words are for our log; the code goes to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    #[error("packet of {bytes} bytes is larger than allowed")]
    TooLarge { bytes: usize },
    #[error("protocol level {level} is not supported")]
    Version { level: u8 },
}

impl DecodeError {
    /// The reason code of MQTT 5.
    pub(crate) const fn reason(self) -> u8 {
        match self {
            Self::Malformed(_) => reason::MALFORMED_PACKET,
            Self::Protocol(_) => reason::PROTOCOL_ERROR,
            Self::TooLarge { .. } => reason::PACKET_TOO_LARGE,
            Self::Version { .. } => reason::UNSUPPORTED_PROTOCOL_VERSION,
        }
    }
}

/// A packet that has arrived completely but is not decoded.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// Type and flags.
    pub(crate) first: u8,
    pub(crate) body: Bytes,
}

/// Packet type of CONNECT in the upper half of the first byte.
pub(crate) const CONNECT: u8 = 1;

/// Packet type of PUBLISH, the only one with flags of its own.
const PUBLISH: u8 = 3;

/// The flags that every packet but PUBLISH must have.
const fn required_flags(packet_type: u8) -> u8 {
    if matches!(packet_type, 6 | 8 | 10) { 0b0010 } else { 0 }
}

/// What [`split`] found.
#[derive(Debug)]
pub(crate) enum Split {
    Frame(Frame),
    /// This many bytes more are needed at least.
    Needs(usize),
}

/// Takes the next whole packet out of `buffer`. A packet that only a server sends, one with reserved flags, and one
/// that is too large, is refused as soon as its header is there.
pub(crate) fn split(buffer: &mut BytesMut, packet_bytes_max: usize) -> Result<Split, DecodeError> {
    let Some(&first) = buffer.first() else { return Ok(Split::Needs(2)) };
    if !sent_by_clients(first >> 4) {
        return Err(DecodeError::Protocol("a packet type that clients do not send"));
    }
    // DUP is let through where MQTT 3.1 had it; decoding knows the version.
    if first >> 4 != PUBLISH && first & 0b0111 != required_flags(first >> 4) {
        return Err(DecodeError::Malformed("reserved flags are set"));
    }
    let mut length = 0usize;
    let mut header = 1;
    loop {
        let Some(&byte) = buffer.get(header) else { return Ok(Split::Needs(1)) };
        length |= usize::from(byte & 0x7F) << (7 * (header - 1));
        header += 1;
        if byte & 0x80 == 0 {
            break;
        }
        if header == FIXED_HEADER_BYTES_MAX {
            return Err(DecodeError::Malformed("a length of more than four bytes"));
        }
    }
    let total = header + length;
    if total > packet_bytes_max {
        return Err(DecodeError::TooLarge { bytes: total });
    }
    if buffer.len() < total {
        return Ok(Split::Needs(total - buffer.len()));
    }
    let mut body = buffer.split_to(total).freeze();
    body.advance(header);
    Ok(Split::Frame(Frame { first, body }))
}

const fn sent_by_clients(packet_type: u8) -> bool {
    // CONNECT, PUBLISH, PUBACK..PUBCOMP, SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT, AUTH.
    matches!(packet_type, 1 | 3..=8 | 10 | 12 | 14 | 15)
}
