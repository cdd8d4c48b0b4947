//! The fold itself: counters and an event in, counters out. Pure, so that it can be tested against any log. It must
//! never know where counters are kept.

use std::collections::BTreeMap;

use muster_core::event::proto::event::Detail;
use muster_core::event::{Event, EventKind, EventKinds};

/// The events that are counted.
pub(super) const KINDS: EventKinds = EventKinds::NONE
    .with(EventKind::MessagePublish)
    .with(EventKind::ClientConnected)
    .with(EventKind::ClientDisconnected)
    .with(EventKind::ClientConnack)
    .with(EventKind::ClientAuthn)
    .with(EventKind::ClientAuthz)
    .with(EventKind::SessionSubscribed)
    .with(EventKind::SessionUnsubscribed);

macro_rules! counts {
    ($($name:ident $text:literal,)*) => {
        /// What is counted from the log, under the names in which it is shown and stored.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Count { $($name,)* }

        impl Count {
            /// Every one.
            pub(super) const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name.
            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

counts! {
    Published "messages.publish",
    Received "messages.received",
    ReceivedQos0 "messages.qos0.received",
    ReceivedQos1 "messages.qos1.received",
    ReceivedQos2 "messages.qos2.received",
    Retained "messages.retained",
    Connack "client.connack",
    Connected "client.connected",
    Disconnected "client.disconnected",
    Authenticate "client.authenticate",
    Anonymous "client.auth.anonymous",
    AuthnSuccess "authentication.success",
    AuthnAnonymous "authentication.success.anonymous",
    AuthnFailure "authentication.failure",
    AuthzDeny "authorization.deny",
    Subscribe "client.subscribe",
    Unsubscribe "client.unsubscribe",
    TakenOver "session.takenover",
    Discarded "session.discarded",
}

/// Counters over all of a log, and over single topics of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Totals {
    counts: [u64; Count::ALL.len()],
    /// By the exact topic.
    pub topics: BTreeMap<String, Topic>,
    /// How far they reach.
    pub next_offset: u64,
}

/// Publishes to one topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Topic {
    /// Events before this offset do not count.
    pub from_offset: u64,
    /// Messages by QoS.
    pub received_by_qos: [u64; 3],
}

impl Totals {
    /// One counter.
    pub(super) fn get(&self, count: Count) -> u64 {
        self.counts.get(count as usize).copied().unwrap_or_default()
    }

    /// Sets one counter, where it was stored.
    pub(super) fn set(&mut self, count: Count, value: u64) {
        if let Some(counter) = self.counts.get_mut(count as usize) {
            *counter = value;
        }
    }

    /// Takes an event in.
    pub(super) fn fold(&mut self, event: &Event) {
        match event.kind {
            EventKind::MessagePublish => self.published(event),
            EventKind::ClientConnack => self.add(Count::Connack),
            EventKind::ClientConnected => self.add(Count::Connected),
            EventKind::ClientDisconnected => {
                self.add(Count::Disconnected);
                match &event.body.detail {
                    Some(Detail::Disconnected(it)) if it.reason == "takenover" => self.add(Count::TakenOver),
                    Some(Detail::Disconnected(it)) if it.reason == "discarded" => self.add(Count::Discarded),
                    _ => {}
                }
            }
            EventKind::ClientAuthn => self.authenticated(event),
            EventKind::ClientAuthz => {
                if let Some(Detail::Authz(it)) = &event.body.detail
                    && it.result == "deny"
                {
                    self.add(Count::AuthzDeny);
                }
            }
            EventKind::SessionSubscribed => self.add(Count::Subscribe),
            EventKind::SessionUnsubscribed => self.add(Count::Unsubscribe),
            _ => {}
        }
    }

    fn published(&mut self, event: &Event) {
        self.add(Count::Published);
        let Some(message) = &event.body.message else { return };
        if message.retain {
            self.add(Count::Retained);
        }
        let qos = usize::try_from(message.qos).unwrap_or_default().min(2);
        if message.origin.is_empty() || message.origin == "mqtt" {
            self.add(Count::Received);
            self.add([Count::ReceivedQos0, Count::ReceivedQos1, Count::ReceivedQos2][qos]);
        }
        if let Some(topic) = self.topics.get_mut(&event.topic)
            && event.offset >= topic.from_offset
        {
            topic.received_by_qos[qos] += 1;
        }
    }

    fn authenticated(&mut self, event: &Event) {
        self.add(Count::Authenticate);
        let Some(Detail::Authn(it)) = &event.body.detail else { return };
        if it.reason_code != "success" {
            return self.add(Count::AuthnFailure);
        }
        self.add(Count::AuthnSuccess);
        if it.is_anonymous {
            self.add(Count::Anonymous);
            self.add(Count::AuthnAnonymous);
        }
    }

    fn add(&mut self, count: Count) {
        if let Some(counter) = self.counts.get_mut(count as usize) {
            *counter += 1;
        }
    }
}
