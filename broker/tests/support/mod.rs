//! A broker over a real journal in a temporary directory, and a client that speaks MQTT byte by byte, so that a test
//! sees exactly what is on the wire.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use muster_broker::{Broker, BrokerConfig, Environment, Limits, ListenerConfig, Wanted};
use muster_core::clock::SystemClock;
use muster_core::event::{Event, EventKind, EventKinds};
use muster_core::journal::Journal;
use muster_core::log::{Disk, LogConfig, RealDisk};
use muster_core::registry::Registry;
use muster_core::sessions::SessionStore;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest that anything in a test may take. Reached only where the test fails.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Harness {
    pub broker: Broker,
    pub journal: Journal,
    pub wanted: Wanted,
    pub dir: Arc<tempfile::TempDir>,
}

impl Harness {
    pub async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    pub async fn with(limits: Limits) -> Self {
        Self::in_dir(Arc::new(tempfile::tempdir().unwrap()), limits, |_| {}).await
    }

    pub async fn in_dir(
        dir: Arc<tempfile::TempDir>,
        limits: Limits,
        change: impl FnOnce(&mut Environment),
    ) -> Self {
        Self::on_disk(dir, RealDisk::shared(), limits, change).await
    }

    pub async fn on_disk(
        dir: Arc<tempfile::TempDir>,
        disk: Arc<dyn Disk>,
        limits: Limits,
        change: impl FnOnce(&mut Environment),
    ) -> Self {
        let config = BrokerConfig {
            listeners: vec![ListenerConfig::tcp(([127, 0, 0, 1], 0).into())],
            limits,
            ..BrokerConfig::default()
        };
        Self::with_config(dir, disk, config, change).await
    }

    pub async fn with_config(
        dir: Arc<tempfile::TempDir>,
        disk: Arc<dyn Disk>,
        config: BrokerConfig,
        change: impl FnOnce(&mut Environment),
    ) -> Self {
        let clock = SystemClock::shared();
        let log = LogConfig::new(dir.path().join("log"));
        let (journal, _) = Journal::open(log, disk, clock.clone()).unwrap();
        let registry = Registry::open(&dir.path().join("registry.db")).unwrap();
        let wanted = Wanted::none();
        let sessions = SessionStore::open(&dir.path().join("sessions.db")).unwrap();
        let mut environment = Environment::open(journal.clone(), registry, sessions, wanted.clone(), clock);
        change(&mut environment);
        let broker = Broker::start(config, environment).await.unwrap();
        Self { broker, journal, wanted, dir }
    }

    pub fn want_all(&self) {
        self.wanted.set(EventKinds::ALL);
    }

    pub fn addr(&self) -> SocketAddr {
        self.broker.local_addr()
    }

    /// A client that is connected with MQTT 3.1.1 and a clean session.
    pub async fn v4(&self, clientid: &str) -> Client {
        Client::connected(self.addr(), Connect::v4(clientid)).await
    }

    /// A client that is connected with MQTT 5 and a clean start.
    pub async fn v5(&self, clientid: &str) -> Client {
        Client::connected(self.addr(), Connect::v5(clientid)).await
    }

    /// Everything that was appended until now, once it is durable.
    pub async fn events(&self) -> Vec<Arc<Event>> {
        let end = self.journal.next_offset();
        if end > 0 {
            self.journal.durable(end - 1).await.unwrap();
        }
        let mut reader = self.journal.reader(0);
        let mut events = Vec::new();
        while reader.position() < end {
            events.extend(reader.next_batch().await.unwrap().events().iter().cloned());
        }
        events
    }

    /// `kind(clientid)` of each event, in order.
    pub async fn story(&self) -> Vec<String> {
        self.events().await.iter().map(|it| format!("{}({})", it.kind.name(), it.clientid())).collect()
    }

    /// Waits for the first event that fits.
    pub async fn event(&self, fits: impl Fn(&Event) -> bool) -> Arc<Event> {
        let mut reader = self.journal.reader(0);
        let search = async {
            loop {
                let batch = reader.next_batch().await.unwrap();
                if let Some(found) = batch.events().iter().find(|it| fits(it)) {
                    return Arc::clone(found);
                }
            }
        };
        timeout(PATIENCE, search).await.expect("the event did not come")
    }

    pub async fn event_of(&self, kind: EventKind, clientid: &str) -> Arc<Event> {
        self.event(|it| it.kind == kind && it.clientid() == clientid).await
    }

    pub async fn disconnected(&self, clientid: &str) -> String {
        let event = self.event_of(EventKind::ClientDisconnected, clientid).await;
        reason(&event)
    }
}

pub fn reason(event: &Event) -> String {
    event.get(muster_core::event::Column::Reason).as_str().unwrap_or_default().to_owned()
}

/// The parts of a CONNECT.
#[derive(Clone)]
pub struct Connect {
    pub name: &'static str,
    pub level: u8,
    pub flags: u8,
    pub keep_alive: u16,
    pub clientid: String,
    /// Encoded, without length; MQTT 5.
    pub props: Vec<u8>,
    /// Will properties (MQTT 5), topic, payload.
    pub will: Option<(Vec<u8>, String, Vec<u8>)>,
    pub username: Option<String>,
    pub password: Option<Vec<u8>>,
}

pub const CLEAN: u8 = 0x02;

impl Connect {
    pub fn v4(clientid: &str) -> Self {
        Self {
            name: "MQTT",
            level: 4,
            flags: CLEAN,
            keep_alive: 60,
            clientid: clientid.to_owned(),
            props: Vec::new(),
            will: None,
            username: None,
            password: None,
        }
    }

    pub fn v5(clientid: &str) -> Self {
        Self { level: 5, ..Self::v4(clientid) }
    }

    /// Session expiry in seconds (MQTT 5).
    pub fn expiry(mut self, seconds: u32) -> Self {
        self.props.push(17);
        self.props.extend(seconds.to_be_bytes());
        self
    }

    pub fn prop(mut self, bytes: &[u8]) -> Self {
        self.props.extend(bytes);
        self
    }

    pub fn resume(mut self) -> Self {
        self.flags &= !CLEAN;
        self
    }

    pub fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive = seconds;
        self
    }

    pub fn login(mut self, username: &str, password: &[u8]) -> Self {
        self.flags |= 0xC0;
        self.username = Some(username.to_owned());
        self.password = Some(password.to_vec());
        self
    }

    pub fn will(mut self, props: &[u8], topic: &str, payload: &str, qos: u8, retain: bool) -> Self {
        self.flags |= 0x04 | qos << 3 | u8::from(retain) << 5;
        self.will = Some((props.to_vec(), topic.to_owned(), payload.as_bytes().to_vec()));
        self
    }

    pub fn bytes(&self) -> Bytes {
        let mut body = BytesMut::new();
        put_str(&mut body, self.name);
        body.put_u8(self.level);
        body.put_u8(self.flags);
        body.put_u16(self.keep_alive);
        if self.level == 5 {
            put_props(&mut body, &self.props);
        }
        put_str(&mut body, &self.clientid);
        if let Some((props, topic, payload)) = &self.will {
            if self.level == 5 {
                put_props(&mut body, props);
            }
            put_str(&mut body, topic);
            put_bytes(&mut body, payload);
        }
        if let Some(username) = &self.username {
            put_str(&mut body, username);
        }
        if let Some(password) = &self.password {
            put_bytes(&mut body, password);
        }
        packet(0x10, &body)
    }
}

pub fn put_str(out: &mut BytesMut, text: &str) {
    put_bytes(out, text.as_bytes());
}

pub fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u16(u16::try_from(bytes.len()).unwrap());
    out.put_slice(bytes);
}

pub fn put_props(out: &mut BytesMut, props: &[u8]) {
    put_varint(out, props.len());
    out.put_slice(props);
}

pub fn put_varint(out: &mut BytesMut, mut value: usize) {
    loop {
        let byte = (value & 0x7F) as u8;
        value >>= 7;
        out.put_u8(if value > 0 { byte | 0x80 } else { byte });
        if value == 0 {
            return;
        }
    }
}

pub fn packet(first: u8, body: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(first);
    put_varint(&mut out, body.len());
    out.put_slice(body);
    out.freeze()
}

/// A packet from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub first: u8,
    pub body: Bytes,
}

/// A PUBLISH from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub payload: Bytes,
    pub qos: u8,
    pub retain: bool,
    pub dup: bool,
    pub pkid: u16,
    pub props: Bytes,
}

impl Message {
    pub fn text(&self) -> String {
        String::from_utf8(self.payload.to_vec()).unwrap()
    }
}

pub struct Client {
    pub stream: TcpStream,
    buffer: BytesMut,
    pub level: u8,
    pub connack: Packet,
}

impl Client {
    /// A socket that has said nothing yet.
    pub async fn socket(addr: SocketAddr, level: u8) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: BytesMut::new(), level, connack: Packet { first: 0, body: Bytes::new() } }
    }

    /// Sends CONNECT and takes CONNACK, whatever it says.
    pub async fn open(addr: SocketAddr, connect: Connect) -> Self {
        let mut client = Self::socket(addr, connect.level & 0x7F).await;
        client.send(&connect.bytes()).await;
        client.connack = client.recv().await;
        assert_eq!(client.connack.first, 0x20, "not a CONNACK: {:?}", client.connack);
        client
    }

    pub async fn connected(addr: SocketAddr, connect: Connect) -> Self {
        let client = Self::open(addr, connect).await;
        assert_eq!(client.code(), 0, "refused: {:?}", client.connack);
        client
    }

    pub fn code(&self) -> u8 {
        self.connack.body[1]
    }

    pub fn session_present(&self) -> bool {
        self.connack.body[0] == 1
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next packet; none where the server has closed.
    pub async fn next(&mut self) -> Option<Packet> {
        timeout(PATIENCE, self.read_packet()).await.expect("no packet came")
    }

    pub async fn recv(&mut self) -> Packet {
        self.next().await.expect("the server closed the connection")
    }

    /// The server has closed, and sent nothing before.
    pub async fn closed(&mut self) {
        assert_eq!(self.next().await, None);
    }

    /// The server says why, and closes.
    pub async fn disconnected(&mut self) -> u8 {
        let packet = self.recv().await;
        assert_eq!(packet.first, 0xE0, "not a DISCONNECT: {packet:?}");
        self.closed().await;
        packet.body[0]
    }

    async fn read_packet(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.split() {
                return Some(packet);
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    fn split(&mut self) -> Option<Packet> {
        let (mut length, mut header) = (0usize, 1);
        loop {
            let byte = *self.buffer.get(header)?;
            length |= usize::from(byte & 0x7F) << (7 * (header - 1));
            header += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        if self.buffer.len() < header + length {
            return None;
        }
        let first = self.buffer[0];
        self.buffer.advance(header);
        Some(Packet { first, body: self.buffer.split_to(length).freeze() })
    }

    pub async fn subscribe(&mut self, pkid: u16, filters: &[(&str, u8)]) -> Vec<u8> {
        self.subscribe_with(pkid, &[], filters).await
    }

    /// Subscribes and gives the codes of the SUBACK.
    pub async fn subscribe_with(&mut self, pkid: u16, props: &[u8], filters: &[(&str, u8)]) -> Vec<u8> {
        self.send_subscribe(pkid, props, filters).await;
        let ack = self.recv().await;
        assert_eq!(ack.first, 0x90, "not a SUBACK: {ack:?}");
        assert_eq!(ack.body[..2], pkid.to_be_bytes());
        ack.body[if self.level == 5 { 3 } else { 2 }..].to_vec()
    }

    /// Subscribes while messages come, which may be sent before the SUBACK (MQTT 5.0, 3.8.4); passes over them.
    pub async fn subscribe_amid_messages(&mut self, pkid: u16, filters: &[(&str, u8)]) {
        self.send_subscribe(pkid, &[], filters).await;
        while self.recv().await.first != 0x90 {}
    }

    async fn send_subscribe(&mut self, pkid: u16, props: &[u8], filters: &[(&str, u8)]) {
        let mut body = BytesMut::new();
        body.put_u16(pkid);
        if self.level == 5 {
            put_props(&mut body, props);
        }
        for (filter, options) in filters {
            put_str(&mut body, filter);
            body.put_u8(*options);
        }
        self.send(&packet(0x82, &body)).await;
    }

    pub async fn unsubscribe(&mut self, pkid: u16, filters: &[&str]) -> Vec<u8> {
        let mut body = BytesMut::new();
        body.put_u16(pkid);
        if self.level == 5 {
            put_props(&mut body, &[]);
        }
        for filter in filters {
            put_str(&mut body, filter);
        }
        self.send(&packet(0xA2, &body)).await;
        let ack = self.recv().await;
        assert_eq!(ack.first, 0xB0, "not an UNSUBACK: {ack:?}");
        assert_eq!(ack.body[..2], pkid.to_be_bytes());
        ack.body.get(3..).unwrap_or_default().to_vec()
    }

    /// Sends a PUBLISH; `flags` is the lower half of the first byte.
    pub async fn publish_with(&mut self, flags: u8, pkid: u16, topic: &str, props: &[u8], payload: &[u8]) {
        let bytes = self.publish_bytes(flags, pkid, topic, props, payload);
        self.send(&bytes).await;
    }

    pub fn publish_bytes(&self, flags: u8, pkid: u16, topic: &str, props: &[u8], payload: &[u8]) -> Bytes {
        let mut body = BytesMut::new();
        put_str(&mut body, topic);
        if flags & 0b110 != 0 {
            body.put_u16(pkid);
        }
        if self.level == 5 {
            put_props(&mut body, props);
        }
        body.put_slice(payload);
        packet(0x30 | flags, &body)
    }

    pub async fn publish0(&mut self, topic: &str, payload: &str) {
        self.publish_with(0, 0, topic, &[], payload.as_bytes()).await;
    }

    /// Publishes with QoS 1 and waits for the acknowledgement; its code.
    pub async fn publish1(&mut self, pkid: u16, topic: &str, payload: &str) -> u8 {
        self.publish_with(0b010, pkid, topic, &[], payload.as_bytes()).await;
        self.ack(0x40, pkid).await
    }

    /// Publishes with QoS 2, through all four packets.
    pub async fn publish2(&mut self, pkid: u16, topic: &str, payload: &str) {
        self.publish_with(0b100, pkid, topic, &[], payload.as_bytes()).await;
        self.ack(0x50, pkid).await;
        self.send_ack(0x62, pkid).await;
        assert_eq!(self.ack(0x70, pkid).await, 0);
    }

    /// Takes an acknowledgement of this type and identifier; its code.
    pub async fn ack(&mut self, first: u8, pkid: u16) -> u8 {
        let ack = self.recv().await;
        assert_eq!((ack.first, &ack.body[..2]), (first, &pkid.to_be_bytes()[..]), "{ack:?}");
        ack.body.get(2).copied().unwrap_or_default()
    }

    pub async fn send_ack(&mut self, first: u8, pkid: u16) {
        self.send(&packet(first, &pkid.to_be_bytes())).await;
    }

    /// The next packet, which is a PUBLISH.
    pub async fn message(&mut self) -> Message {
        let Packet { first, mut body } = self.recv().await;
        assert_eq!(first >> 4, 3, "not a PUBLISH: {first:x} {body:?}");
        let length = usize::from(body.get_u16());
        let topic = String::from_utf8(body.split_to(length).to_vec()).unwrap();
        let qos = first >> 1 & 0b11;
        let pkid = if qos > 0 { body.get_u16() } else { 0 };
        let mut props = Bytes::new();
        if self.level == 5 {
            let length = usize::from(body.get_u8());
            assert!(length < 128);
            props = body.split_to(length);
        }
        let (retain, dup) = (first & 1 != 0, first & 8 != 0);
        Message { topic, payload: body, qos, retain, dup, pkid, props }
    }

    /// Nothing was waiting: a PINGREQ is answered before any other packet comes.
    pub async fn quiet(&mut self) {
        self.send(&[0xC0, 0]).await;
        let packet = self.recv().await;
        assert_eq!(packet.first, 0xD0, "something else came first: {packet:?}");
    }

    pub async fn disconnect(mut self) {
        self.send(&[0xE0, 0]).await;
        self.closed().await;
    }
}
