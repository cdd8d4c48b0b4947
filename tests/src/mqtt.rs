//! A small MQTT client of our own: it sends what it is told to, right or wrong, and shows each packet that comes
//! back. Tests that ask what a *good* client sees use mosquitto's, paho or rumqttc; this one is for bad devices, for
//! many devices at once, and for load.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::wait::soon;

/// Packet types, as in the upper half of a packet's first byte.
#[expect(missing_docs, reason = "the standard's names")]
pub mod kind {
    pub const CONNECT: u8 = 1;
    pub const CONNACK: u8 = 2;
    pub const PUBLISH: u8 = 3;
    pub const PUBACK: u8 = 4;
    pub const PUBREC: u8 = 5;
    pub const PUBREL: u8 = 6;
    pub const PUBCOMP: u8 = 7;
    pub const SUBSCRIBE: u8 = 8;
    pub const SUBACK: u8 = 9;
    pub const UNSUBSCRIBE: u8 = 10;
    pub const UNSUBACK: u8 = 11;
    pub const PINGREQ: u8 = 12;
    pub const PINGRESP: u8 = 13;
    pub const DISCONNECT: u8 = 14;
}

/// The protocol's version, as its number in CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1.
    V4 = 4,
    /// MQTT 5.
    V5 = 5,
}

/// Both versions, for tests that run once for each.
pub const VERSIONS: [Version; 2] = [Version::V4, Version::V5];

/// A packet as it came: the first byte and what follows the length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Type and flags.
    pub first: u8,
    /// Variable header and payload.
    pub body: Bytes,
}

impl Packet {
    /// One of [`kind`].
    pub fn kind(&self) -> u8 {
        self.first >> 4
    }

    /// The packet id of an ack.
    pub fn id(&self) -> u16 {
        u16::from_be_bytes([self.body[0], self.body[1]])
    }

    /// The packet id of a PUBLISH with QoS 1 or 2.
    pub fn publish_id(&self) -> u16 {
        let at = 2 + usize::from(u16::from_be_bytes([self.body[0], self.body[1]]));
        u16::from_be_bytes([self.body[at], self.body[at + 1]])
    }

    /// The reason of a v5 DISCONNECT or ack; 0, which means success, where it was left out.
    pub fn reason(&self) -> u8 {
        let at = if self.kind() == kind::DISCONNECT { 0 } else { 2 };
        self.body.get(at).copied().unwrap_or(0)
    }

    /// Topic and payload of a PUBLISH.
    pub fn message(&self, version: Version) -> (String, Bytes) {
        let mut body = self.body.clone();
        let length = usize::from(body.get_u16());
        let topic = String::from_utf8(body.split_to(length).to_vec()).expect("a topic is UTF-8");
        if self.first & 0b110 != 0 {
            body.advance(2);
        }
        if version == Version::V5 {
            let properties = usize::from(body.get_u8());
            assert!(properties < 128, "more properties than this client reads");
            body.advance(properties);
        }
        (topic, body)
    }
}

/// What a CONNECT says.
#[derive(Debug, Clone)]
pub struct Connect {
    /// The version.
    pub version: Version,
    /// The client's id.
    pub client_id: String,
    /// Clean session (3.1.1) or clean start (5).
    pub clean: bool,
    /// In seconds.
    pub keep_alive: u16,
    /// Session expiry, seconds (5 only).
    pub expiry: u32,
    /// Will: topic, payload, QoS, retain.
    pub will: Option<(String, Bytes, u8, bool)>,
    /// How long it waits, seconds (5 only).
    pub will_delay: u32,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
}

impl Connect {
    /// A clean session without a keep-alive.
    pub fn new(version: Version, client_id: &str) -> Self {
        let client_id = client_id.to_owned();
        Self {
            version,
            client_id,
            clean: true,
            keep_alive: 0,
            expiry: 0,
            will: None,
            will_delay: 0,
            username: None,
            password: None,
        }
    }

    /// The packet.
    pub fn encode(&self) -> Vec<u8> {
        let mut flags = u8::from(self.clean) << 1;
        if let Some((_, _, qos, retain)) = &self.will {
            flags |= 0b100 | qos << 3 | u8::from(*retain) << 5;
        }
        flags |= u8::from(self.username.is_some()) << 7 | u8::from(self.password.is_some()) << 6;
        let mut body = text("MQTT");
        body.extend([self.version as u8, flags]);
        body.extend(self.keep_alive.to_be_bytes());
        if self.version == Version::V5 {
            body.extend([5, 17]);
            body.extend(self.expiry.to_be_bytes());
        }
        body.extend(text(&self.client_id));
        if let Some((topic, payload, _, _)) = &self.will {
            if self.version == Version::V5 {
                body.extend([5, 24]);
                body.extend(self.will_delay.to_be_bytes());
            }
            body.extend(text(topic));
            body.extend(u16::try_from(payload.len()).expect("a short will").to_be_bytes());
            body.extend(payload);
        }
        for said in [&self.username, &self.password].into_iter().flatten() {
            body.extend(text(said));
        }
        packet(kind::CONNECT << 4, &body)
    }
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("at most 65,535 bytes").to_be_bytes();
    [&length, text.as_bytes()].concat()
}

/// A packet: its first byte, its length, its body.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    loop {
        let low = u8::try_from(length % 128).expect("seven bits");
        length /= 128;
        bytes.push(low | u8::from(length > 0) << 7);
        if length == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

/// A PUBLISH; `id` counts for QoS 1 and 2 alone.
pub fn publish(version: Version, topic: &str, payload: &[u8], qos: u8, retain: bool, id: u16) -> Vec<u8> {
    let mut body = text(topic);
    if qos > 0 {
        body.extend(id.to_be_bytes());
    }
    if version == Version::V5 {
        body.push(0);
    }
    body.extend_from_slice(payload);
    packet(kind::PUBLISH << 4 | qos << 1 | u8::from(retain), &body)
}

/// A connection to a broker.
#[derive(Debug)]
pub struct Client {
    version: Version,
    stream: TcpStream,
    read: BytesMut,
    next_id: u16,
}

impl Client {
    /// Opens the connection and says nothing.
    pub async fn open(broker: SocketAddr, version: Version) -> io::Result<Self> {
        Self::over(TcpStream::connect(broker).await?, version)
    }

    /// The same over a connection that is there.
    pub fn over(stream: TcpStream, version: Version) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { version, stream, read: BytesMut::with_capacity(4096), next_id: 1 })
    }

    /// The address that the broker sees it come from.
    ///
    /// # Panics
    /// When there is no connection any more.
    pub fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().expect("a connection")
    }

    /// Connects and gives CONNACK's session-present flag and code.
    pub async fn greet(broker: SocketAddr, connect: &Connect) -> io::Result<(Self, bool, u8)> {
        let mut client = Self::open(broker, connect.version).await?;
        client.send(&connect.encode()).await?;
        let Some(connack) = client.receive().await? else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        assert_eq!(connack.kind(), kind::CONNACK, "{connack:?}");
        Ok((client, connack.body[0] & 1 == 1, connack.body[1]))
    }

    /// Connects as a clean session.
    ///
    /// # Panics
    /// When the broker does not accept it.
    pub async fn connect(broker: SocketAddr, version: Version, client_id: &str) -> Self {
        let connect = Connect::new(version, client_id);
        let (client, _, code) = soon("CONNACK", Self::greet(broker, &connect)).await.expect("a connection");
        assert_eq!(code, 0, "CONNACK of {client_id}");
        client
    }

    /// The next packet id.
    pub fn id(&mut self) -> u16 {
        let id = self.next_id;
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        id
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Says that nothing more will come, and goes on reading.
    pub async fn half_close(&mut self) {
        // Fails where the broker has closed already, which is as good.
        let _ = self.stream.shutdown().await;
    }

    /// The next packet, `None` when the broker has closed the connection.
    pub async fn receive(&mut self) -> io::Result<Option<Packet>> {
        loop {
            if let Some(packet) = take_packet(&mut self.read) {
                return Ok(Some(packet));
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// The next packet, which must be of `expected` kind.
    ///
    /// # Panics
    /// When it is another, or none.
    pub async fn expect(&mut self, expected: u8) -> Packet {
        let received = soon(&format!("a packet of kind {expected}"), self.receive()).await;
        let packet = received.expect("a connection").unwrap_or_else(|| panic!("closed; expected {expected}"));
        assert_eq!(packet.kind(), expected, "{packet:?}");
        packet
    }

    /// Waits until the broker closes the connection; the packets that came before it did.
    pub async fn until_closed(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        // A reset is a close too: the broker need not read what a bad client has sent.
        while let Ok(Some(packet)) = soon("the broker closes the connection", self.receive()).await {
            packets.push(packet);
        }
        packets
    }

    /// Subscribes to one filter and gives the code of the SUBACK.
    pub async fn subscribe(&mut self, filter: &str, qos: u8) -> u8 {
        let id = self.id();
        let mut body = id.to_be_bytes().to_vec();
        if self.version == Version::V5 {
            body.push(0);
        }
        body.extend(text(filter));
        body.push(qos);
        self.send(&packet(kind::SUBSCRIBE << 4 | 2, &body)).await.expect("a connection");
        let suback = self.expect(kind::SUBACK).await;
        assert_eq!(suback.id(), id);
        suback.body[suback.body.len() - 1]
    }

    /// Unsubscribes from one filter and gives the UNSUBACK.
    pub async fn unsubscribe(&mut self, filter: &str) -> Packet {
        let id = self.id();
        let mut body = id.to_be_bytes().to_vec();
        if self.version == Version::V5 {
            body.push(0);
        }
        body.extend(text(filter));
        self.send(&packet(kind::UNSUBSCRIBE << 4 | 2, &body)).await.expect("a connection");
        let unsuback = self.expect(kind::UNSUBACK).await;
        assert_eq!(unsuback.id(), id);
        unsuback
    }

    /// Publishes at QoS 0, 1 or 2 and waits for the whole exchange.
    pub async fn publish(&mut self, topic: &str, payload: &[u8], qos: u8, retain: bool) {
        let id = self.id();
        let bytes = publish(self.version, topic, payload, qos, retain, id);
        self.send(&bytes).await.expect("a connection");
        match qos {
            0 => {}
            1 => assert_eq!(self.expect(kind::PUBACK).await.id(), id),
            _ => {
                assert_eq!(self.expect(kind::PUBREC).await.id(), id);
                let release = packet(kind::PUBREL << 4 | 2, &id.to_be_bytes());
                self.send(&release).await.expect("a connection");
                assert_eq!(self.expect(kind::PUBCOMP).await.id(), id);
            }
        }
    }

    /// Publishes all messages at QoS 1, at most `window` of them unacknowledged, and gives how many were sent and
    /// acknowledged when it was done, the broker said goodbye, or the connection broke. Acks come in the order of
    /// the publishes.
    pub async fn publish_all(
        &mut self,
        topic: &str,
        payloads: impl IntoIterator<Item = Bytes>,
        window: usize,
    ) -> Progress {
        self.publish_timed(topic, payloads, window, &mut |_| {}).await
    }

    /// As [`Client::publish_all`], and tells `on_ack` how long each ack took.
    pub async fn publish_timed(
        &mut self,
        topic: &str,
        payloads: impl IntoIterator<Item = Bytes>,
        window: usize,
        on_ack: &mut (impl FnMut(Duration) + Send),
    ) -> Progress {
        let mut payloads = payloads.into_iter();
        let mut progress = Progress::default();
        let mut waiting = VecDeque::with_capacity(window);
        let mut out = Vec::new();
        loop {
            out.clear();
            for payload in payloads.by_ref().take(window - waiting.len()) {
                let id = self.id();
                out.extend(publish(self.version, topic, &payload, 1, false, id));
                waiting.push_back((id, Instant::now()));
                progress.sent += 1;
            }
            if waiting.is_empty() || self.send(&out).await.is_err() {
                return progress;
            }
            let Ok(Some(first)) = soon("PUBACK", self.receive()).await else { return progress };
            let mut next = Some(first);
            while let Some(ack) = next {
                if ack.kind() == kind::DISCONNECT {
                    return progress;
                }
                assert!(ack.kind() == kind::PUBACK && ack.reason() < 0x80, "{ack:?}");
                let (id, sent_at) = waiting.pop_front().expect("one ack for each publish");
                assert_eq!(ack.id(), id, "acks come in the order of the publishes");
                on_ack(sent_at.elapsed());
                progress.acked += 1;
                next = take_packet(&mut self.read);
            }
        }
    }

    /// Says goodbye.
    pub async fn disconnect(mut self) {
        self.send(&packet(kind::DISCONNECT << 4, &[])).await.expect("a connection");
        self.until_closed().await;
    }
}

/// How far a series of publishes came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Written to the socket.
    pub sent: usize,
    /// Acknowledged by the broker.
    pub acked: usize,
}

/// Splits a whole packet off the front of `buffer`, if one is there.
pub fn take_packet(buffer: &mut BytesMut) -> Option<Packet> {
    let (mut length, mut header) = (0, 1);
    loop {
        let byte = *buffer.get(header)?;
        length |= usize::from(byte & 127) << (7 * (header - 1));
        header += 1;
        if byte & 128 == 0 {
            break;
        }
        assert!(header < 5, "the broker sent a length of more than four bytes");
    }
    if buffer.len() < header + length {
        return None;
    }
    let first = buffer[0];
    buffer.advance(header);
    Some(Packet { first, body: buffer.split_to(length).freeze() })
}
