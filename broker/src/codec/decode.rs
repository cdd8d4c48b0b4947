//! Packets that clients send, from a frame.

use super::property::{self, Properties};
use super::read::Reader;
use super::reason;
use super::{
    Ack, Connect, DecodeError, Disconnect, Filter, Frame, PUBLISH, Packet, Publish, Qos, Secret, Subscribe,
    Unsubscribe, Version, Will, required_flags,
};

/// Decodes a frame by the rules of `version`; that of CONNECT is in the packet.
pub(crate) fn decode(frame: Frame, version: Version) -> Result<Packet, DecodeError> {
    let flags = frame.first & 0x0F;
    let kind = frame.first >> 4;
    let required = if kind == PUBLISH { flags } else { required_flags(kind) };
    // MQTT 3.1 let clients set DUP on these.
    let dup_in_v3 = version == Version::V3 && matches!(kind, 6 | 8 | 10) && flags & !0b1000 == required;
    if flags != required && !dup_in_v3 {
        return Err(DecodeError::Malformed("reserved flags are set"));
    }
    let mut reader = Reader::new(frame.body);
    let packet = match kind {
        1 => Packet::Connect(Box::new(connect(&mut reader)?)),
        3 => return publish(flags, reader, version).map(Packet::Publish),
        4 => Packet::PubAck(ack(&mut reader, version)?),
        5 => Packet::PubRec(ack(&mut reader, version)?),
        6 => Packet::PubRel(ack(&mut reader, version)?),
        7 => Packet::PubComp(ack(&mut reader, version)?),
        8 => Packet::Subscribe(subscribe(&mut reader, version)?),
        10 => Packet::Unsubscribe(unsubscribe(&mut reader, version)?),
        12 => Packet::PingReq,
        14 => Packet::Disconnect(disconnect(&mut reader, version)?),
        // No extended authentication is offered, so the content does not matter.
        15 if version == Version::V5 => return Ok(Packet::Auth),
        _ => return Err(DecodeError::Protocol("a packet type that clients do not send")),
    };
    if !reader.is_empty() {
        return Err(DecodeError::Malformed("bytes after the packet's end"));
    }
    Ok(packet)
}

fn properties(reader: &mut Reader, version: Version, allowed: &[u8]) -> Result<Properties, DecodeError> {
    if version < Version::V5 { Ok(Properties::default()) } else { property::read(reader, allowed) }
}

fn connect(reader: &mut Reader) -> Result<Connect, DecodeError> {
    let name = reader.string()?;
    let level = reader.u8()?;
    let version = match (name.as_str(), level & 0x7F) {
        ("MQIsdp", 3) => Version::V3,
        ("MQTT", 4) => Version::V4,
        ("MQTT", 5) => Version::V5,
        ("MQTT" | "MQIsdp", _) => return Err(DecodeError::Version { level }),
        _ => return Err(DecodeError::Malformed("not the name of the protocol")),
    };
    let flags = reader.u8()?;
    if flags & 0x01 != 0 && version > Version::V3 {
        return Err(DecodeError::Malformed("reserved flag in CONNECT"));
    }
    let keep_alive_seconds = reader.u16()?;
    let props = properties(reader, version, property::OF_CONNECT)?.shown.unwrap_or_default();
    let clientid = reader.string()?;
    let will = will(flags, reader, version)?;
    let username = if flags & 0x80 != 0 { Some(reader.string()?) } else { None };
    if flags & 0x40 != 0 && username.is_none() && version < Version::V5 {
        return Err(DecodeError::Malformed("a password without a user name"));
    }
    let password = if flags & 0x40 != 0 { Some(Secret(reader.bytes()?)) } else { None };
    Ok(Connect {
        version,
        is_bridge: level & 0x80 != 0,
        clean_start: flags & 0x02 != 0,
        keep_alive_seconds,
        clientid,
        username,
        password,
        will,
        props,
    })
}

fn will(flags: u8, reader: &mut Reader, version: Version) -> Result<Option<Will>, DecodeError> {
    let qos = Qos::from_u8(flags >> 3 & 0b11).ok_or(DecodeError::Malformed("QoS 3 of the will"))?;
    let retain = flags & 0x20 != 0;
    if flags & 0x04 == 0 {
        if flags & 0x38 != 0 {
            return Err(DecodeError::Malformed("flags of a will without a will"));
        }
        return Ok(None);
    }
    let props = properties(reader, version, property::OF_WILL)?.shown;
    let topic = reader.string()?;
    let payload = reader.bytes()?;
    Ok(Some(Will { topic, payload: payload.to_vec().into(), qos, retain, props }))
}

fn publish(flags: u8, mut reader: Reader, version: Version) -> Result<Publish, DecodeError> {
    let qos = Qos::from_u8(flags >> 1 & 0b11).ok_or(DecodeError::Malformed("QoS 3"))?;
    let dup = flags & 0x08 != 0;
    if dup && qos == Qos::AtMostOnce {
        return Err(DecodeError::Malformed("DUP with QoS 0"));
    }
    let topic = reader.string()?;
    let pkid = if qos == Qos::AtMostOnce { 0 } else { reader.pkid()? };
    let props = properties(&mut reader, version, property::OF_PUBLISH)?;
    if props.topic_alias == Some(0) {
        return Err(DecodeError::Protocol("topic alias 0"));
    }
    Ok(Publish {
        dup,
        qos,
        retain: flags & 0x01 != 0,
        pkid,
        topic,
        alias: props.topic_alias,
        props: props.shown,
        payload: reader.into_rest(),
    })
}

fn ack(reader: &mut Reader, version: Version) -> Result<Ack, DecodeError> {
    let pkid = reader.pkid()?;
    if version < Version::V5 || reader.is_empty() {
        return Ok(Ack { pkid, reason: reason::SUCCESS, props: None });
    }
    let reason = reader.u8()?;
    let props = if reader.is_empty() { None } else { property::read(reader, property::OF_ACK)?.shown };
    Ok(Ack { pkid, reason, props })
}

fn subscribe(reader: &mut Reader, version: Version) -> Result<Subscribe, DecodeError> {
    let pkid = reader.pkid()?;
    let props = properties(reader, version, property::OF_SUBSCRIBE)?.shown;
    let mut filters = Vec::new();
    while !reader.is_empty() {
        let path = reader.string()?;
        let options = reader.u8()?;
        let reserved = if version == Version::V5 { 0b1100_0000 } else { 0b1111_1100 };
        if options & reserved != 0 {
            return Err(DecodeError::Malformed("reserved bits in the options of a subscription"));
        }
        let qos = Qos::from_u8(options & 0b11).ok_or(DecodeError::Malformed("QoS 3 of a subscription"))?;
        let retain_handling = options >> 4 & 0b11;
        if retain_handling == 3 {
            return Err(DecodeError::Protocol("retain handling 3"));
        }
        filters.push(Filter {
            path,
            qos,
            no_local: options & 0b100 != 0,
            retain_as_published: options & 0b1000 != 0,
            retain_handling,
        });
    }
    if filters.is_empty() {
        return Err(DecodeError::Protocol("SUBSCRIBE without a filter"));
    }
    Ok(Subscribe { pkid, filters, props })
}

fn unsubscribe(reader: &mut Reader, version: Version) -> Result<Unsubscribe, DecodeError> {
    let pkid = reader.pkid()?;
    let props = properties(reader, version, property::OF_UNSUBSCRIBE)?.shown;
    let mut filters = Vec::new();
    while !reader.is_empty() {
        filters.push(reader.string()?);
    }
    if filters.is_empty() {
        return Err(DecodeError::Protocol("UNSUBSCRIBE without a filter"));
    }
    Ok(Unsubscribe { pkid, filters, props })
}

fn disconnect(reader: &mut Reader, version: Version) -> Result<Disconnect, DecodeError> {
    if version < Version::V5 || reader.is_empty() {
        return Ok(Disconnect { reason: reason::SUCCESS, props: None });
    }
    let reason = reader.u8()?;
    let props = if reader.is_empty() { None } else { property::read(reader, property::OF_DISCONNECT)?.shown };
    Ok(Disconnect { reason, props })
}
