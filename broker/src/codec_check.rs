//! What is asked of arbitrary bytes from the network; the fuzz target of `broker/fuzz` and the tests share it. Packets
//! come out alike however the bytes are cut into reads, nothing panics, memory stays within a multiple of what was
//! sent, and a packet that was decoded is, written as a client would, the same packet.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::{BufMut as _, BytesMut};
use muster_core::event::proto;
use tokio::io::{AsyncRead, ReadBuf};

use crate::codec::encode::{self, PublishOut};
use crate::codec::{self, Ack, Connect, Packet, Publish, Qos, Split, Version, Will};
use crate::frame::{FrameReader, ReadError};

/// Largest packet that is let in.
const PACKET_BYTES_MAX: usize = 1 << 16;

/// Most memory for each byte that was sent: an empty user property is five bytes and becomes two texts of 24 each, in a
/// list that doubles.
const MEMORY_PER_BYTE_MAX: u64 = 32;

/// Most memory beside that: the buffer of a reader.
const MEMORY_BYTES_MAX: u64 = 256 << 10;

/// The first byte says which version is spoken, how the rest is cut into reads, and whether a CONNECT comes before it.
pub(crate) fn check(input: &[u8]) {
    let Some((choice, bytes)) = input.split_first() else { return };
    let version = [Version::V3, Version::V4, Version::V5][usize::from(choice & 0b11) % 3];
    let step = 1 + usize::from(choice >> 2 & 0b1_1111);
    let mut stream = Vec::new();
    if choice & 0x80 != 0 {
        stream.extend(connect(version));
    }
    stream.extend(bytes);
    let (mut whole, mut pieces) = (Vec::new(), Vec::new());
    read(&stream, usize::MAX, |result| whole.push(result));
    read(&stream, step, |result| pieces.push(result));
    assert_eq!(whole, pieces, "other packets when the bytes come in pieces");
    let memory = allocation_counter::measure(|| read(&stream, step, drop)).bytes_max;
    let memory_max = MEMORY_BYTES_MAX + MEMORY_PER_BYTE_MAX * stream.len() as u64;
    assert!(memory <= memory_max, "{memory} bytes of memory for {} that were sent", stream.len());
    let mut version = version;
    for packet in whole.into_iter().flatten() {
        if let Packet::Connect(connect) = &packet {
            version = connect.version;
        }
        round_trip(packet, version);
    }
}

/// What a connection makes of the bytes until its first error.
fn read(stream: &[u8], step: usize, mut each: impl FnMut(Result<Packet, String>)) {
    let mut reader = FrameReader::new(Pieces { rest: stream, step }, PACKET_BYTES_MAX);
    let mut version = Version::V4;
    loop {
        let frame = match now(reader.next()) {
            Ok(frame) => frame,
            Err(ReadError::Closed) => return,
            Err(error) => return each(Err(error.to_string())),
        };
        match codec::decode(frame, version) {
            Ok(packet) => {
                if let Packet::Connect(connect) = &packet {
                    version = connect.version;
                }
                each(Ok(packet));
            }
            Err(error) => return each(Err(error.to_string())),
        }
    }
}

/// A socket that has so many bytes at a time.
struct Pieces<'a> {
    rest: &'a [u8],
    step: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let count = self.rest.len().min(self.step).min(buffer.remaining());
        let (now, later) = self.rest.split_at(count);
        buffer.put_slice(now);
        self.rest = later;
        Poll::Ready(Ok(()))
    }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a source that always has an answer needs no waiting"),
    }
}

fn round_trip(packet: Packet, version: Version) {
    let mut out = BytesMut::new();
    write(&mut out, &packet, version);
    assert_eq!(decode_one(out, version), plain(packet.clone()), "written by a client");
    let mut out = BytesMut::new();
    match &packet {
        Packet::Publish(publish) => {
            write_as_server(&mut out, publish, version);
            let shown = Publish { alias: None, ..publish.clone() };
            assert_eq!(decode_one(out, version), plain(Packet::Publish(shown)), "written by the server");
        }
        Packet::PubAck(ack) => ack_round_trip(4, ack, version, Packet::PubAck),
        Packet::PubRec(ack) => ack_round_trip(5, ack, version, Packet::PubRec),
        Packet::PubRel(ack) => ack_round_trip(6, ack, version, Packet::PubRel),
        Packet::PubComp(ack) => ack_round_trip(7, ack, version, Packet::PubComp),
        _ => {}
    }
}

fn ack_round_trip(kind: u8, ack: &Ack, version: Version, packet: impl FnOnce(Ack) -> Packet) {
    let mut out = BytesMut::new();
    encode::ack(&mut out, version, kind, ack.pkid, ack.reason);
    assert_eq!(decode_one(out, version), packet(Ack { props: None, ..ack.clone() }), "written by the server");
}

fn write_as_server(out: &mut BytesMut, publish: &Publish, version: Version) {
    let publish = PublishOut {
        topic: &publish.topic,
        payload: &publish.payload,
        qos: publish.qos,
        retain: publish.retain,
        dup: publish.dup,
        pkid: publish.pkid,
        props: publish.props.as_ref(),
        expiry_seconds: publish.props.as_ref().and_then(|props| props.message_expiry_interval),
        subscription_ids: &[],
    };
    assert!(encode::publish(out, version, &publish, usize::MAX).is_ok(), "it is no larger than it was");
}

fn decode_one(mut bytes: BytesMut, version: Version) -> Packet {
    match codec::split(&mut bytes, usize::MAX) {
        Ok(Split::Frame(frame)) => {
            assert!(bytes.is_empty(), "bytes after the packet");
            plain(codec::decode(frame, version).unwrap_or_else(|error| panic!("{error}")))
        }
        other => panic!("no packet: {other:?}"),
    }
}

/// The packet with empty properties as none.
fn plain(mut packet: Packet) -> Packet {
    let tidy = |props: &mut Option<proto::Properties>| {
        if props.as_ref().is_some_and(|props| *props == proto::Properties::default()) {
            *props = None;
        }
    };
    match &mut packet {
        Packet::Connect(connect) => {
            if let Some(will) = &mut connect.will {
                tidy(&mut will.props);
            }
        }
        Packet::Publish(publish) => tidy(&mut publish.props),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            tidy(&mut ack.props);
        }
        Packet::Subscribe(subscribe) => tidy(&mut subscribe.props),
        Packet::Unsubscribe(unsubscribe) => tidy(&mut unsubscribe.props),
        Packet::Disconnect(disconnect) => tidy(&mut disconnect.props),
        Packet::PingReq | Packet::Auth => {}
    }
    packet
}

/// The smallest CONNECT.
fn connect(version: Version) -> Vec<u8> {
    let mut out = BytesMut::new();
    let connect = Connect {
        version,
        is_bridge: false,
        clean_start: true,
        keep_alive_seconds: 0,
        clientid: "c".into(),
        username: None,
        password: None,
        will: None,
        props: proto::Properties::default(),
    };
    write(&mut out, &Packet::Connect(Box::new(connect)), version);
    out.to_vec()
}

/// The packet as a client writes it, by the standard and not by our encoder.
fn write(out: &mut BytesMut, packet: &Packet, version: Version) {
    let v5 = version == Version::V5;
    let mut body = BytesMut::new();
    let put_props = |body: &mut BytesMut, props: Option<&proto::Properties>, alias: Option<u16>| {
        if v5 {
            properties(body, props, alias);
        }
    };
    let ack = |body: &mut BytesMut, ack: &Ack| {
        body.put_u16(ack.pkid);
        if v5 {
            body.put_u8(ack.reason);
            properties(body, ack.props.as_ref(), None);
        }
    };
    let first = match packet {
        Packet::Connect(connect) => {
            write_connect(&mut body, connect);
            0x10
        }
        Packet::Publish(publish) => {
            text(&mut body, publish.topic.as_bytes());
            if publish.qos != Qos::AtMostOnce {
                body.put_u16(publish.pkid);
            }
            put_props(&mut body, publish.props.as_ref(), publish.alias);
            body.put_slice(&publish.payload);
            0x30 | u8::from(publish.dup) << 3 | publish.qos.as_u8() << 1 | u8::from(publish.retain)
        }
        Packet::PubAck(packet) => {
            ack(&mut body, packet);
            0x40
        }
        Packet::PubRec(packet) => {
            ack(&mut body, packet);
            0x50
        }
        Packet::PubRel(packet) => {
            ack(&mut body, packet);
            0x62
        }
        Packet::PubComp(packet) => {
            ack(&mut body, packet);
            0x70
        }
        Packet::Subscribe(subscribe) => {
            body.put_u16(subscribe.pkid);
            put_props(&mut body, subscribe.props.as_ref(), None);
            for filter in &subscribe.filters {
                text(&mut body, filter.path.as_bytes());
                let flags = u8::from(filter.no_local) << 2 | u8::from(filter.retain_as_published) << 3;
                body.put_u8(filter.qos.as_u8() | flags | filter.retain_handling << 4);
            }
            0x82
        }
        Packet::Unsubscribe(unsubscribe) => {
            body.put_u16(unsubscribe.pkid);
            put_props(&mut body, unsubscribe.props.as_ref(), None);
            unsubscribe.filters.iter().for_each(|filter| text(&mut body, filter.as_bytes()));
            0xA2
        }
        Packet::PingReq => 0xC0,
        Packet::Disconnect(disconnect) => {
            if v5 {
                body.put_u8(disconnect.reason);
                properties(&mut body, disconnect.props.as_ref(), None);
            }
            0xE0
        }
        Packet::Auth => 0xF0,
    };
    out.put_u8(first);
    number(out, body.len());
    out.put_slice(&body);
}

fn write_connect(body: &mut BytesMut, connect: &Connect) {
    text(body, connect.version.name().as_bytes());
    body.put_u8(connect.version.level() | u8::from(connect.is_bridge) << 7);
    let will = connect.will.as_ref();
    let will_flags = |will: &Will| 4 | will.qos.as_u8() << 3 | u8::from(will.retain) << 5;
    body.put_u8(
        u8::from(connect.clean_start) << 1
            | will.map_or(0, will_flags)
            | u8::from(connect.password.is_some()) << 6
            | u8::from(connect.username.is_some()) << 7,
    );
    body.put_u16(connect.keep_alive_seconds);
    let v5 = connect.version == Version::V5;
    if v5 {
        properties(body, Some(&connect.props), None);
    }
    text(body, connect.clientid.as_bytes());
    if let Some(will) = will {
        if v5 {
            properties(body, will.props.as_ref(), None);
        }
        text(body, will.topic.as_bytes());
        text(body, &will.payload);
    }
    if let Some(username) = &connect.username {
        text(body, username.as_bytes());
    }
    if let Some(password) = &connect.password {
        text(body, &password.0);
    }
}

fn text(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u16(u16::try_from(bytes.len()).unwrap_or_else(|_| panic!("longer than it can have come")));
    out.put_slice(bytes);
}

fn number(out: &mut BytesMut, mut value: usize) {
    while value > 0x7F {
        out.put_u8((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Properties by the numbers of the standard (MQTT 5.0, 2.2.2.2), behind their length.
fn properties(out: &mut BytesMut, props: Option<&proto::Properties>, alias: Option<u16>) {
    let none = proto::Properties::default();
    let props = props.unwrap_or(&none);
    let mut body = BytesMut::new();
    let bytes = [
        (1, props.payload_format_indicator.map(|value| value as u8)),
        (23, props.request_problem_information.map(u8::from)),
        (25, props.request_response_information.map(u8::from)),
    ];
    let shorts = [(33, props.receive_maximum), (34, props.topic_alias_maximum), (35, alias.map(u32::from))];
    let longs = [
        (2, props.message_expiry_interval),
        (17, props.session_expiry_interval),
        (24, props.will_delay_interval),
        (39, props.maximum_packet_size),
    ];
    let texts = [
        (3, props.content_type.as_deref().map(str::as_bytes)),
        (8, props.response_topic.as_deref().map(str::as_bytes)),
        (9, props.correlation_data.as_deref()),
        (21, props.authentication_method.as_deref().map(str::as_bytes)),
        (31, props.reason_string.as_deref().map(str::as_bytes)),
    ];
    for (id, value) in bytes {
        value.into_iter().for_each(|value| body.put_slice(&[id, value]));
    }
    for (id, value) in shorts {
        value.into_iter().for_each(|value| body.put_slice(&[id, (value >> 8) as u8, value as u8]));
    }
    for (id, value) in longs {
        if let Some(value) = value {
            body.put_u8(id);
            body.put_u32(value);
        }
    }
    for (id, value) in texts {
        if let Some(value) = value {
            body.put_u8(id);
            text(&mut body, value);
        }
    }
    for id in &props.subscription_identifier {
        body.put_u8(11);
        number(&mut body, *id as usize);
    }
    for pair in &props.user_property {
        body.put_u8(38);
        text(&mut body, pair.key.as_bytes());
        text(&mut body, pair.value.as_bytes());
    }
    number(out, body.len());
    out.put_slice(&body);
}
