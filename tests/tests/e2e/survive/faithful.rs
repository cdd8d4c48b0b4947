//! A client that does what the standard asks of it, over any number of connections: it keeps its side of QoS 1 and 2,
//! sends again what was not acknowledged, and takes nothing twice that it must not.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use muster_tests::mqtt::{self, Client, Connect, Packet, Version, kind, packet};
use muster_tests::wait::soon;

/// How far a publish of ours is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Published,
    Released,
}

/// The client's side of a session.
pub(super) struct Faithful {
    connect: Connect,
    topic: String,
    qos: u8,
    /// Ours that are not done, by packet identifier.
    outgoing: BTreeMap<u16, (u64, Sent)>,
    next_id: u16,
    next_number: u64,
    /// Ours that are.
    pub(super) done: u64,
    /// Identifiers of messages to us that the server has not released.
    unreleased: HashSet<u16>,
    /// How often we were given each number.
    pub(super) taken: HashMap<u64, usize>,
    /// How many numbers we were given.
    pub(super) progress: Arc<AtomicU64>,
    /// The same of those who subscribe to what we publish: we are not far ahead of them, since no queue is endless.
    followers: Vec<Arc<AtomicU64>>,
}

/// How often a publisher that is ahead looks whether the others follow.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(2);

/// How far a publisher may be ahead of a subscriber.
const LEAD_MAX: u64 = 500;

impl Faithful {
    pub(super) fn new(client_id: &str, topic: &str, qos: u8, followers: Vec<Arc<AtomicU64>>) -> Self {
        Self {
            connect: Connect { clean: false, ..Connect::new(Version::V4, client_id) },
            topic: topic.to_owned(),
            qos,
            outgoing: BTreeMap::new(),
            next_id: 1,
            next_number: 0,
            done: 0,
            unreleased: HashSet::new(),
            taken: HashMap::new(),
            progress: Arc::default(),
            followers,
        }
    }

    pub(super) fn name(&self) -> String {
        self.connect.client_id.clone()
    }

    pub(super) fn qos(&self) -> u8 {
        self.qos
    }

    /// Connects; none where nobody answers. A server that has forgotten the session is a failure.
    pub(super) async fn connect(&mut self, broker: SocketAddr, is_known: bool) -> Option<Client> {
        let (client, present, code) = soon("CONNACK", Client::greet(broker, &self.connect)).await.ok()?;
        assert_eq!((code, present), (0, is_known), "{}", self.connect.client_id);
        Some(client)
    }

    /// Publishes numbers up to `count`, `window` of them at a time, until all are done or the connection breaks.
    pub(super) async fn publish(&mut self, client: &mut Client, count: u64, window: usize) -> Option<()> {
        for (id, (number, sent)) in self.outgoing.clone() {
            let bytes = match sent {
                Sent::Published => self.bytes(number, id, true),
                Sent::Released => release(id),
            };
            client.send(&bytes).await.ok()?;
        }
        while self.done < count {
            let slowest =
                self.followers.iter().map(|it| it.load(Ordering::Relaxed)).min().unwrap_or_default();
            let next_max = count.min(slowest + LEAD_MAX);
            while self.outgoing.len() < window && self.next_number < next_max {
                let (id, number) = (self.free_id(), self.next_number);
                self.next_number += 1;
                self.outgoing.insert(id, (number, Sent::Published));
                client.send(&self.bytes(number, id, false)).await.ok()?;
            }
            if self.outgoing.is_empty() {
                // A server that is gone is noticed by the next publish.
                tokio::time::sleep(FOLLOW_INTERVAL).await;
                continue;
            }
            let packet = soon("an acknowledgement", client.receive()).await.ok()??;
            self.acknowledged(client, &packet).await?;
        }
        Some(())
    }

    async fn acknowledged(&mut self, client: &mut Client, packet: &Packet) -> Option<()> {
        let id = packet.id();
        match packet.kind() {
            kind::PUBACK | kind::PUBCOMP => {
                if self.outgoing.remove(&id).is_some() {
                    self.done += 1;
                }
            }
            kind::PUBREC => {
                if let Some((_, sent)) = self.outgoing.get_mut(&id) {
                    *sent = Sent::Released;
                }
                client.send(&release(id)).await.ok()?;
            }
            _ => return None,
        }
        Some(())
    }

    /// Takes up to `count` packets, or until the connection breaks or `enough` is true.
    pub(super) async fn take(
        &mut self,
        client: &mut Client,
        count: usize,
        mut enough: impl FnMut(&Self) -> bool,
    ) -> Option<()> {
        for _ in 0..count {
            if enough(self) {
                return Some(());
            }
            let packet = soon("a message", client.receive()).await.ok()??;
            match packet.kind() {
                kind::PUBLISH => self.published(client, &packet).await?,
                kind::PUBREL => {
                    self.unreleased.remove(&packet.id());
                    let complete = mqtt::packet(kind::PUBCOMP << 4, &packet.id().to_be_bytes());
                    client.send(&complete).await.ok()?;
                }
                _ => return None,
            }
        }
        Some(())
    }

    async fn published(&mut self, client: &mut Client, publish: &Packet) -> Option<()> {
        let (_, payload) = publish.message(Version::V4);
        let number = std::str::from_utf8(&payload).ok().and_then(|text| text.parse().ok()).expect("a number");
        let id = publish.publish_id();
        let qos = publish.first >> 1 & 3;
        if qos == 1 || self.unreleased.insert(id) {
            let times = self.taken.entry(number).or_default();
            *times += 1;
            if *times == 1 {
                self.progress.fetch_add(1, Ordering::Relaxed);
            }
        }
        let answer = if qos == 1 { kind::PUBACK } else { kind::PUBREC };
        client.send(&packet(answer << 4, &id.to_be_bytes())).await.ok()
    }

    fn bytes(&self, number: u64, id: u16, again: bool) -> Vec<u8> {
        let payload = number.to_string();
        let mut bytes = mqtt::publish(Version::V4, &self.topic, payload.as_bytes(), self.qos, false, id);
        bytes[0] |= u8::from(again) << 3;
        bytes
    }

    /// Few, so that they are used again and again.
    fn free_id(&mut self) -> u16 {
        loop {
            let id = self.next_id;
            self.next_id = self.next_id % 50 + 1;
            if !self.outgoing.contains_key(&id) {
                return id;
            }
        }
    }
}

fn release(id: u16) -> Vec<u8> {
    packet(kind::PUBREL << 4 | 2, &id.to_be_bytes())
}
