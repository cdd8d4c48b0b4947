//! Counters of the whole broker. Written with relaxed atomics from every session, read by who asks.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::codec::Qos;

/// Types of packets; their numbers are the upper half of a packet's first byte.
pub(crate) const PACKET_TYPES: usize = 16;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters since the broker started.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
            /// Packets from clients, by the number of their type in MQTT.
            pub packets_received_by_type: [u64; PACKET_TYPES],
            /// Packets to clients, by the number of their type in MQTT.
            pub packets_sent_by_type: [u64; PACKET_TYPES],
        }

        #[derive(Debug, Default)]
        pub(crate) struct LiveCounters {
            $(pub(crate) $name: Counter,)*
            packets_received_by_type: [Counter; PACKET_TYPES],
            packets_sent_by_type: [Counter; PACKET_TYPES],
        }

        impl LiveCounters {
            pub(crate) fn read(&self) -> Counters {
                Counters {
                    $($name: self.$name.get(),)*
                    packets_received_by_type: self.packets_received_by_type.each_ref().map(Counter::get),
                    packets_sent_by_type: self.packets_sent_by_type.each_ref().map(Counter::get),
                }
            }
        }
    };
}

counters! {
    /// Bytes read from clients.
    bytes_received,
    /// Bytes written to clients.
    bytes_sent,
    /// Packets from clients.
    packets_received,
    /// Packets to clients.
    packets_sent,
    /// CONNECTs that were decoded.
    connects,
    /// CONNECTs that were refused.
    connects_refused,
    /// Connections that ended before or without a valid CONNECT.
    handshakes_failed,
    /// Publishes with QoS 0 from clients.
    messages_received_qos0,
    /// Publishes with QoS 1 from clients.
    messages_received_qos1,
    /// Publishes with QoS 2 from clients.
    messages_received_qos2,
    /// Publishes that were written to the event log, from clients, wills and operators.
    messages_published,
    /// Publishes that the event log refused.
    messages_refused,
    /// PUBACK and PUBREC to publishers.
    messages_acked,
    /// Messages that nobody subscribed to.
    messages_dropped_no_subscribers,
    /// Messages written to subscribers.
    messages_delivered,
    /// Of these: with QoS 0.
    messages_delivered_qos0,
    /// Of these: with QoS 1.
    messages_delivered_qos1,
    /// Of these: with QoS 2.
    messages_delivered_qos2,
    /// PUBACK and PUBREC from subscribers.
    deliveries_acked,
    /// Messages for one subscriber that were dropped, for any reason.
    deliveries_dropped,
    /// Of these: its queue was full.
    deliveries_dropped_queue_full,
    /// Of these: their time was over.
    deliveries_dropped_expired,
    /// Of these: the subscriber's own, which it does not want.
    deliveries_dropped_no_local,
    /// Of these: QoS 0, and the subscriber was away.
    deliveries_dropped_qos0,
    /// Of these: larger than the subscriber takes.
    deliveries_dropped_too_large,
    /// Things refused by the authorizer.
    authorizations_denied,
    /// Will messages published.
    wills_published,
    /// Sessions that began anew.
    sessions_created,
    /// Sessions that a later connection went on with.
    sessions_resumed,
    /// Sessions that ended.
    sessions_terminated,
}

impl LiveCounters {
    /// A packet came that begins with this byte.
    pub(crate) fn packet_received(&self, first: u8) {
        self.packets_received.add(1);
        of_type(&self.packets_received_by_type, first).add(1);
    }

    /// A packet goes out that begins with this byte.
    pub(crate) fn packet_sent(&self, first: u8) {
        self.packets_sent.add(1);
        of_type(&self.packets_sent_by_type, first).add(1);
    }

    /// A message was written to a subscriber.
    pub(crate) fn message_delivered(&self, qos: Qos) {
        self.messages_delivered.add(1);
        let by_qos = match qos {
            Qos::AtMostOnce => &self.messages_delivered_qos0,
            Qos::AtLeastOnce => &self.messages_delivered_qos1,
            Qos::ExactlyOnce => &self.messages_delivered_qos2,
        };
        by_qos.add(1);
    }
}

/// The counter of the type that is in the upper half of the first byte.
fn of_type(counters: &[Counter; PACKET_TYPES], first: u8) -> &Counter {
    &counters[usize::from(first >> 4)]
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How much of what there is now, and what was since the start.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Clients that are connected.
    pub connections: usize,
    /// Sessions, with or without a connection.
    pub sessions: usize,
    /// Subscriptions of all sessions.
    pub subscriptions: usize,
    /// Of these: shared ones.
    pub subscriptions_shared: usize,
    /// Different topic filters that are subscribed.
    pub topics: usize,
    /// Retained messages.
    pub retained: usize,
    /// Since the start.
    pub counters: Counters,
}
