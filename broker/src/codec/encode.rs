//! Packets that the server sends, as bytes.

use bytes::{BufMut as _, Bytes, BytesMut};
use muster_core::event::proto;

use super::property::{self, ASSIGNED_CLIENTID, SERVER_KEEP_ALIVE};
use super::{Qos, Version, reason};

/// Largest remaining length of a packet.
const REMAINING_BYTES_MAX: usize = 268_435_455;

/// What CONNACK tells a client of MQTT 5 about the server.
#[derive(Debug, Default, Clone)]
pub(crate) struct ConnAck<'a> {
    pub(crate) session_present: bool,
    pub(crate) code: u8,
    pub(crate) session_expiry_seconds: Option<u32>,
    pub(crate) receive_maximum: u16,
    pub(crate) packet_bytes_max: u32,
    pub(crate) topic_alias_maximum: u16,
    pub(crate) assigned_clientid: Option<&'a str>,
    pub(crate) server_keep_alive_seconds: Option<u16>,
}

/// A PUBLISH to a client.
#[derive(Debug, Clone)]
pub(crate) struct PublishOut<'a> {
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a Bytes,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) pkid: u16,
    pub(crate) props: Option<&'a proto::Properties>,
    /// What is left of the message's life.
    pub(crate) expiry_seconds: Option<u32>,
    pub(crate) subscription_ids: &'a [u32],
}

/// A packet that does not fit: into MQTT at all, or into what the client takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLarge;

pub(crate) fn connack(out: &mut BytesMut, version: Version, ack: &ConnAck<'_>) {
    let session_present = u8::from(ack.session_present);
    if version < Version::V5 {
        out.put_slice(&[0x20, 2, session_present, reason::connack_v4(ack.code)]);
        return;
    }
    let mut props = BytesMut::new();
    if ack.code == reason::SUCCESS {
        if let Some(seconds) = ack.session_expiry_seconds {
            props.put_u8(property::SESSION_EXPIRY);
            props.put_u32(seconds);
        }
        props.put_u8(property::RECEIVE_MAXIMUM);
        props.put_u16(ack.receive_maximum);
        props.put_u8(property::MAXIMUM_PACKET_SIZE);
        props.put_u32(ack.packet_bytes_max);
        props.put_u8(property::TOPIC_ALIAS_MAXIMUM);
        props.put_u16(ack.topic_alias_maximum);
        // Retained messages, wildcards, subscription identifiers and shared subscriptions: all there.
        for id in [37, 40, 41, 42] {
            props.put_slice(&[id, 1]);
        }
        if let Some(clientid) = ack.assigned_clientid {
            props.put_u8(ASSIGNED_CLIENTID);
            string(&mut props, clientid);
        }
        if let Some(seconds) = ack.server_keep_alive_seconds {
            props.put_u8(SERVER_KEEP_ALIVE);
            props.put_u16(seconds);
        }
    }
    out.put_u8(0x20);
    varint(out, 2 + varint_len(props.len()) + props.len());
    out.put_slice(&[session_present, ack.code]);
    varint(out, props.len());
    out.put_slice(&props);
}

/// PUBACK (4), PUBREC (5), PUBREL (6), PUBCOMP (7).
pub(crate) fn ack(out: &mut BytesMut, version: Version, kind: u8, pkid: u16, code: u8) {
    let first = kind << 4 | if kind == 6 { 0b0010 } else { 0 };
    if version < Version::V5 || code == reason::SUCCESS {
        out.put_slice(&[first, 2]);
        out.put_u16(pkid);
    } else {
        out.put_slice(&[first, 3]);
        out.put_u16(pkid);
        out.put_u8(code);
    }
}

/// SUBACK (9) with one code a filter.
pub(crate) fn suback(out: &mut BytesMut, version: Version, pkid: u16, codes: &[u8]) {
    let v5 = version == Version::V5;
    out.put_u8(0x90);
    varint(out, 2 + usize::from(v5) + codes.len());
    out.put_u16(pkid);
    if v5 {
        out.put_u8(0);
        out.put_slice(codes);
    } else {
        out.extend(codes.iter().map(|code| if *code >= 0x80 { 0x80 } else { *code }));
    }
}

/// UNSUBACK (11); MQTT 3.1.1 has no codes in it.
pub(crate) fn unsuback(out: &mut BytesMut, version: Version, pkid: u16, codes: &[u8]) {
    out.put_u8(0xB0);
    if version < Version::V5 {
        out.put_u8(2);
        out.put_u16(pkid);
        return;
    }
    varint(out, 3 + codes.len());
    out.put_u16(pkid);
    out.put_u8(0);
    out.put_slice(codes);
}

pub(crate) fn pingresp(out: &mut BytesMut) {
    out.put_slice(&[0xD0, 0]);
}

/// DISCONNECT; only MQTT 5 knows one from the server.
pub(crate) fn disconnect(out: &mut BytesMut, version: Version, code: u8) {
    if version == Version::V5 {
        out.put_slice(&[0xE0, 1, code]);
    }
}

/// PUBLISH, unless it is larger than `packet_bytes_max`; then nothing is written.
pub(crate) fn publish(
    out: &mut BytesMut,
    version: Version,
    publish: &PublishOut<'_>,
    packet_bytes_max: usize,
) -> Result<(), TooLarge> {
    let mut props = BytesMut::new();
    if version == Version::V5 {
        let none = proto::Properties::default();
        let shown = publish.props.unwrap_or(&none);
        property::write_publish(&mut props, shown, publish.expiry_seconds, publish.subscription_ids);
    }
    let mut remaining = 2 + publish.topic.len() + publish.payload.len();
    if publish.qos > Qos::AtMostOnce {
        remaining += 2;
    }
    if version == Version::V5 {
        remaining += varint_len(props.len()) + props.len();
    }
    if remaining > REMAINING_BYTES_MAX || 1 + varint_len(remaining) + remaining > packet_bytes_max {
        return Err(TooLarge);
    }
    out.reserve(1 + varint_len(remaining) + remaining);
    out.put_u8(0x30 | u8::from(publish.dup) << 3 | publish.qos.as_u8() << 1 | u8::from(publish.retain));
    varint(out, remaining);
    string(out, publish.topic);
    if publish.qos > Qos::AtMostOnce {
        out.put_u16(publish.pkid);
    }
    if version == Version::V5 {
        varint(out, props.len());
        out.put_slice(&props);
    }
    out.put_slice(publish.payload);
    Ok(())
}

/// Text with its length. Longer text than the protocol can carry never gets here: all of it came out of a packet or
/// was checked as a topic.
pub(super) fn string(out: &mut BytesMut, text: &str) {
    bytes(out, text.as_bytes());
}

pub(super) fn bytes(out: &mut BytesMut, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.put_u16(length);
    out.put_slice(&bytes[..usize::from(length)]);
}

pub(super) fn varint(out: &mut BytesMut, mut value: usize) {
    loop {
        let byte = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            out.put_u8(byte);
            return;
        }
        out.put_u8(byte | 0x80);
    }
}

const fn varint_len(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}
