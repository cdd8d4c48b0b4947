//! Counters of the whole broker. Written with relaxed atomics from every session, read by who asks.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters since the broker started.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)* }

        #[derive(Debug, Default)]
        pub(crate) struct LiveCounters { $(pub(crate) $name: Counter,)* }

        impl LiveCounters {
            pub(crate) fn read(&self) -> Counters {
                Counters { $($name: self.$name.get(),)* }
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
    /// PUBACK and PUBREC from subscribers.
    deliveries_acked,
    /// Messages for one subscriber that were dropped, for any reason.
    deliveries_dropped,
    /// Of these: its queue was full.
    deliveries_dropped_queue_full,
    /// Of these: their time was over.
    deliveries_dropped_expired,
    /// Messages that lagging readers of the router missed.
    deliveries_missed,
    /// Things refused by the authorizer.
    authorizations_denied,
    /// Will messages published.
    wills_published,
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
