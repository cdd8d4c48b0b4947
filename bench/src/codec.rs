//! As much of MQTT 3.1.1 and 5 as a load generator needs: packets are written into a buffer that is used again, and
//! read as slices of the buffer that they came in. It must never know of sockets.

/// Largest packet that is read; more means that the stream is out of step.
const PACKET_BYTES_MAX: usize = 16 << 20;

pub(crate) const PUBACK: u8 = 0x40;
pub(crate) const PUBREC: u8 = 0x50;
pub(crate) const PUBREL: u8 = 0x62;
pub(crate) const PUBCOMP: u8 = 0x70;
pub(crate) const DISCONNECT: [u8; 2] = [0xe0, 0];
pub(crate) const PINGREQ: [u8; 2] = [0xc0, 0];

/// The version that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Version {
    /// MQTT 3.1.1
    #[value(name = "3.1.1", alias = "4")]
    V4,
    /// MQTT 5
    #[value(name = "5")]
    V5,
}

/// What a broker may send.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    ConnAck {
        code: u8,
    },
    SubAck {
        code: u8,
    },
    Publish {
        qos: u8,
        id: u16,
        payload: &'a [u8],
    },
    /// PUBACK, PUBREC, PUBREL or PUBCOMP, by its first byte.
    Ack {
        kind: u8,
        id: u16,
        code: u8,
    },
    PingResp,
    Disconnect,
    Other,
}

/// The stream is no MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("what the broker sent is no MQTT")
    }
}

impl std::error::Error for Malformed {}

/// A name and a password, where a broker wants them.
pub(crate) type Credentials<'a> = (Option<&'a str>, Option<&'a str>);

pub(crate) fn connect(
    out: &mut Vec<u8>,
    version: Version,
    client_id: &str,
    clean: bool,
    (username, password): Credentials<'_>,
) {
    let v5 = version == Version::V5;
    // A session that is kept is kept for an hour.
    let properties: &[u8] = match (v5, clean) {
        (false, _) => &[],
        (true, true) => &[0],
        (true, false) => &[5, 0x11, 0, 0, 0x0e, 0x10],
    };
    let texts = [Some(client_id), username, password];
    let texts_bytes = texts.iter().flatten().map(|text| 2 + text.len()).sum::<usize>();
    out.push(0x10);
    length(out, 10 + properties.len() + texts_bytes);
    text(out, "MQTT");
    out.push(if v5 { 5 } else { 4 });
    let flag = |bit: u8, set: bool| if set { bit } else { 0 };
    out.push(flag(2, clean) | flag(0x80, username.is_some()) | flag(0x40, password.is_some()));
    // Ten minutes: no run is as long, so that nobody pings.
    out.extend_from_slice(&600_u16.to_be_bytes());
    out.extend_from_slice(properties);
    texts.into_iter().flatten().for_each(|it| text(out, it));
}

pub(crate) fn subscribe(out: &mut Vec<u8>, version: Version, filter: &str, qos: u8) {
    let v5 = version == Version::V5;
    out.push(0x82);
    length(out, 2 + usize::from(v5) + 2 + filter.len() + 1);
    // One subscription a connection: one number does.
    out.extend_from_slice(&1_u16.to_be_bytes());
    if v5 {
        out.push(0);
    }
    text(out, filter);
    out.push(qos);
}

pub(crate) fn ack(out: &mut Vec<u8>, kind: u8, id: u16) {
    let [high, low] = id.to_be_bytes();
    out.extend_from_slice(&[kind, 2, high, low]);
}

/// A PUBLISH to be patched and sent again and again: the packet, where its id stands, and where its payload begins.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    pub(crate) bytes: Vec<u8>,
    pub(crate) id_at: Option<usize>,
    pub(crate) payload_at: usize,
}

pub(crate) fn publish(version: Version, topic: &str, qos: u8, payload: &[u8]) -> Template {
    let v5 = usize::from(version == Version::V5);
    let id_bytes = if qos > 0 { 2 } else { 0 };
    let mut bytes = vec![0x30 | (qos << 1)];
    length(&mut bytes, 2 + topic.len() + id_bytes + v5 + payload.len());
    text(&mut bytes, topic);
    let id_at = (qos > 0).then_some(bytes.len());
    bytes.resize(bytes.len() + id_bytes + v5, 0);
    let payload_at = bytes.len();
    bytes.extend_from_slice(payload);
    Template { bytes, id_at, payload_at }
}

impl Template {
    pub(crate) fn set_id(&mut self, id: u16) {
        if let Some(at) = self.id_at {
            self.bytes[at..at + 2].copy_from_slice(&id.to_be_bytes());
        }
    }

    pub(crate) fn payload(&mut self) -> &mut [u8] {
        &mut self.bytes[self.payload_at..]
    }
}

fn length(out: &mut Vec<u8>, mut rest: usize) {
    loop {
        let byte = u8::try_from(rest & 0x7f).unwrap_or(0);
        rest >>= 7;
        out.push(byte | if rest > 0 { 0x80 } else { 0 });
        if rest == 0 {
            break;
        }
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    let bytes = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&bytes.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The remaining length behind the first byte, and how many bytes it took. None when more bytes are needed.
fn read_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(4) {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return if value > PACKET_BYTES_MAX { Err(Malformed) } else { Ok(Some((value, at + 1))) };
        }
    }
    if bytes.len() >= 4 { Err(Malformed) } else { Ok(None) }
}

/// The first packet of a stream and its size. None when it is not complete yet.
pub(crate) fn next(bytes: &[u8], version: Version) -> Result<Option<(Packet<'_>, usize)>, Malformed> {
    let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
    let Some((length, took)) = read_length(rest)? else { return Ok(None) };
    let Some(body) = rest.get(took..took + length) else { return Ok(None) };
    let packet = read(*first, body, version == Version::V5).ok_or(Malformed)?;
    Ok(Some((packet, 1 + took + length)))
}

fn read(first: u8, body: &[u8], v5: bool) -> Option<Packet<'_>> {
    Some(match first >> 4 {
        2 => Packet::ConnAck { code: *body.get(1)? },
        3 => read_publish(first, body, v5)?,
        4..=7 => Packet::Ack { kind: first, id: u16_at(body, 0)?, code: body.get(2).copied().unwrap_or(0) },
        9 => Packet::SubAck { code: *body.last()? },
        13 => Packet::PingResp,
        14 => Packet::Disconnect,
        _ => Packet::Other,
    })
}

fn read_publish(first: u8, body: &[u8], v5: bool) -> Option<Packet<'_>> {
    let qos = (first >> 1) & 3;
    let mut at = 2 + usize::from(u16_at(body, 0)?);
    let mut id = 0;
    if qos > 0 {
        id = u16_at(body, at)?;
        at += 2;
    }
    if v5 {
        let (properties, took) = read_length(body.get(at..)?).ok()??;
        at += took + properties;
    }
    Some(Packet::Publish { qos, id, payload: body.get(at..)? })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_is_read_back_in_both_versions_and_every_qos() {
        for version in [Version::V4, Version::V5] {
            for qos in 0..=2 {
                let mut template = publish(version, "bench/1/up", qos, &[b'x'; 300]);
                template.set_id(513);
                let id = if qos > 0 { 513 } else { 0 };
                let expected = Packet::Publish { qos, id, payload: &[b'x'; 300] };
                assert_eq!(next(&template.bytes, version), Ok(Some((expected, template.bytes.len()))));
            }
        }
    }

    #[test]
    fn a_packet_is_read_only_when_it_is_whole() {
        let packet = publish(Version::V4, "t", 1, &[0; 200]).bytes;
        for end in 0..packet.len() {
            assert_eq!(next(&packet[..end], Version::V4), Ok(None), "{end} of {} bytes", packet.len());
        }
    }

    #[test]
    fn acks_keep_their_kind_and_id() {
        for kind in [PUBACK, PUBREC, PUBREL, PUBCOMP] {
            let mut out = Vec::new();
            ack(&mut out, kind, 0x1234);
            assert_eq!(next(&out, Version::V5), Ok(Some((Packet::Ack { kind, id: 0x1234, code: 0 }, 4))));
        }
    }

    #[test]
    fn a_length_that_does_not_end_is_refused() {
        assert_eq!(next(&[0x30, 0xff, 0xff, 0xff, 0xff], Version::V4), Err(Malformed));
        assert_eq!(next(&[0x40, 1, 0], Version::V4), Err(Malformed));
    }

    #[test]
    fn connect_says_its_length() {
        for (version, clean) in [(Version::V4, true), (Version::V5, true), (Version::V5, false)] {
            let mut out = Vec::new();
            for credentials in [(None, None), (Some("me"), None), (Some("me"), Some("secret"))] {
                out.clear();
                connect(&mut out, version, "device-1", clean, credentials);
                assert_eq!(usize::from(out[1]), out.len() - 2, "{version:?} {clean} {credentials:?}");
            }
        }
    }
}
