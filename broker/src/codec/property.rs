//! MQTT 5 properties: decoded into the event schema's `Properties`, encoded from it.

use bytes::{BufMut as _, Bytes, BytesMut};
use muster_core::event::proto;

use super::read::Reader;
use super::{DecodeError, encode};

pub(super) const PAYLOAD_FORMAT: u8 = 1;
pub(super) const MESSAGE_EXPIRY: u8 = 2;
pub(super) const CONTENT_TYPE: u8 = 3;
pub(super) const RESPONSE_TOPIC: u8 = 8;
pub(super) const CORRELATION_DATA: u8 = 9;
pub(super) const SUBSCRIPTION_ID: u8 = 11;
pub(super) const SESSION_EXPIRY: u8 = 17;
pub(super) const ASSIGNED_CLIENTID: u8 = 18;
pub(super) const SERVER_KEEP_ALIVE: u8 = 19;
pub(super) const AUTH_METHOD: u8 = 21;
pub(super) const AUTH_DATA: u8 = 22;
pub(super) const REQUEST_PROBLEM: u8 = 23;
pub(super) const WILL_DELAY: u8 = 24;
pub(super) const REQUEST_RESPONSE: u8 = 25;
pub(super) const REASON_STRING: u8 = 31;
pub(super) const RECEIVE_MAXIMUM: u8 = 33;
pub(super) const TOPIC_ALIAS_MAXIMUM: u8 = 34;
pub(super) const TOPIC_ALIAS: u8 = 35;
pub(super) const USER_PROPERTY: u8 = 38;
pub(super) const MAXIMUM_PACKET_SIZE: u8 = 39;

/// What a client may send with each packet.
pub(super) const OF_CONNECT: &[u8] = &[
    SESSION_EXPIRY,
    RECEIVE_MAXIMUM,
    MAXIMUM_PACKET_SIZE,
    TOPIC_ALIAS_MAXIMUM,
    REQUEST_RESPONSE,
    REQUEST_PROBLEM,
    USER_PROPERTY,
    AUTH_METHOD,
    AUTH_DATA,
];
pub(super) const OF_WILL: &[u8] = &[
    WILL_DELAY,
    PAYLOAD_FORMAT,
    MESSAGE_EXPIRY,
    CONTENT_TYPE,
    RESPONSE_TOPIC,
    CORRELATION_DATA,
    USER_PROPERTY,
];
pub(super) const OF_PUBLISH: &[u8] = &[
    PAYLOAD_FORMAT,
    MESSAGE_EXPIRY,
    CONTENT_TYPE,
    RESPONSE_TOPIC,
    CORRELATION_DATA,
    USER_PROPERTY,
    TOPIC_ALIAS,
];
pub(super) const OF_ACK: &[u8] = &[REASON_STRING, USER_PROPERTY];
pub(super) const OF_SUBSCRIBE: &[u8] = &[SUBSCRIPTION_ID, USER_PROPERTY];
pub(super) const OF_UNSUBSCRIBE: &[u8] = &[USER_PROPERTY];
pub(super) const OF_DISCONNECT: &[u8] = &[SESSION_EXPIRY, REASON_STRING, USER_PROPERTY];

/// The properties of a packet; the parts that no event shows stand beside.
#[derive(Debug, Default)]
pub(super) struct Properties {
    pub(super) shown: Option<proto::Properties>,
    pub(super) topic_alias: Option<u16>,
}

/// Reads the properties of a packet that may have those in `allowed`.
pub(super) fn read(reader: &mut Reader, allowed: &[u8]) -> Result<Properties, DecodeError> {
    let length = reader.varint()? as usize;
    let mut out = Properties::default();
    if length == 0 {
        return Ok(out);
    }
    let mut reader = Reader::new(reader.take(length)?);
    let mut seen = 0u64;
    while !reader.is_empty() {
        let id = reader.u8()?;
        if !allowed.contains(&id) {
            return Err(DecodeError::Protocol("a property that this packet cannot have"));
        }
        // Every allowed identifier is below 64.
        let bit = 1u64 << (id & 63);
        if id != USER_PROPERTY && seen & bit != 0 {
            return Err(DecodeError::Protocol("a property twice"));
        }
        seen |= bit;
        read_one(id, &mut reader, &mut out)?;
    }
    Ok(out)
}

fn read_one(id: u8, reader: &mut Reader, out: &mut Properties) -> Result<(), DecodeError> {
    if id == TOPIC_ALIAS {
        out.topic_alias = Some(reader.u16()?);
        return Ok(());
    }
    let shown = out.shown.get_or_insert_default();
    match id {
        PAYLOAD_FORMAT => shown.payload_format_indicator = Some(u32::from(flag(reader)?)),
        MESSAGE_EXPIRY => shown.message_expiry_interval = Some(reader.u32()?),
        CONTENT_TYPE => shown.content_type = Some(reader.string()?),
        RESPONSE_TOPIC => shown.response_topic = Some(reader.string()?),
        CORRELATION_DATA => shown.correlation_data = Some(own(&reader.bytes()?)),
        SUBSCRIPTION_ID => match reader.varint()? {
            0 => return Err(DecodeError::Protocol("subscription identifier 0")),
            id => shown.subscription_identifier.push(id),
        },
        SESSION_EXPIRY => shown.session_expiry_interval = Some(reader.u32()?),
        AUTH_METHOD => shown.authentication_method = Some(reader.string()?),
        // A credential: read past it, keep it nowhere.
        AUTH_DATA => drop(reader.bytes()?),
        REQUEST_PROBLEM => shown.request_problem_information = Some(flag(reader)?),
        WILL_DELAY => shown.will_delay_interval = Some(reader.u32()?),
        REQUEST_RESPONSE => shown.request_response_information = Some(flag(reader)?),
        REASON_STRING => shown.reason_string = Some(reader.string()?),
        RECEIVE_MAXIMUM => match reader.u16()? {
            0 => return Err(DecodeError::Protocol("receive maximum 0")),
            maximum => shown.receive_maximum = Some(u32::from(maximum)),
        },
        TOPIC_ALIAS_MAXIMUM => shown.topic_alias_maximum = Some(u32::from(reader.u16()?)),
        MAXIMUM_PACKET_SIZE => match reader.u32()? {
            0 => return Err(DecodeError::Protocol("maximum packet size 0")),
            maximum => shown.maximum_packet_size = Some(maximum),
        },
        USER_PROPERTY => {
            let (key, value) = (reader.string()?, reader.string()?);
            shown.user_property.push(proto::UserProperty { key, value });
        }
        _ => return Err(DecodeError::Protocol("an unknown property")),
    }
    Ok(())
}

fn flag(reader: &mut Reader) -> Result<bool, DecodeError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Protocol("a flag that is neither 0 nor 1")),
    }
}

/// A copy, so that a small property that is kept does not keep the packet's buffer.
fn own(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// Appends the properties that a PUBLISH from the server may have, without their length.
pub(super) fn write_publish(
    out: &mut BytesMut,
    props: &proto::Properties,
    expiry_seconds: Option<u32>,
    ids: &[u32],
) {
    if let Some(format) = props.payload_format_indicator {
        out.put_u8(PAYLOAD_FORMAT);
        out.put_u8(u8::from(format != 0));
    }
    if let Some(seconds) = expiry_seconds {
        out.put_u8(MESSAGE_EXPIRY);
        out.put_u32(seconds);
    }
    if let Some(text) = &props.content_type {
        out.put_u8(CONTENT_TYPE);
        encode::string(out, text);
    }
    if let Some(text) = &props.response_topic {
        out.put_u8(RESPONSE_TOPIC);
        encode::string(out, text);
    }
    if let Some(data) = &props.correlation_data {
        out.put_u8(CORRELATION_DATA);
        encode::bytes(out, data);
    }
    for id in ids {
        out.put_u8(SUBSCRIPTION_ID);
        encode::varint(out, *id as usize);
    }
    for pair in &props.user_property {
        out.put_u8(USER_PROPERTY);
        encode::string(out, &pair.key);
        encode::string(out, &pair.value);
    }
}
