//! The subscriber's side as far as no socket is needed: what comes from the router or a group becomes a queued
//! delivery, or is dropped with a reason.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use muster_core::event::{EventKind, proto};

use super::outbox::Delivery;
use super::{Actor, Subscription};
use crate::codec::Qos;
use crate::envelope::Envelope;
use crate::groups::GroupMessage;
use crate::hub;
use crate::keeper::Owed;

/// Why a message for one subscriber was dropped; the names in events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drop {
    QueueFull,
    NoLocal,
    Expired,
    /// QoS 0 is not kept for who is away.
    Qos0,
    TooLarge,
}

impl Drop {
    const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::NoLocal => "no_local",
            Self::Expired => "expired",
            Self::Qos0 => "qos0_msg",
            Self::TooLarge => "packet_too_large",
        }
    }
}

impl Actor {
    /// A message from the router for one of the session's subscriptions.
    pub(super) async fn routed(&mut self, number: u32, topic: Bytes, message: Bytes, missed: u64) {
        if missed > 0 {
            self.hub.counters.deliveries_missed.add(missed);
            self.hub.counters.deliveries_dropped.add(missed);
            self.facts.dropped.add(missed);
            tracing::warn!(
                clientid = self.clientid(),
                missed,
                "lagged behind the router and missed messages"
            );
        }
        // Unsubscribed meanwhile: nothing more is owed.
        let Some(filter) = self.session.filters.get(&number) else { return };
        let Some(subscription) = self.session.subscriptions.get(filter).cloned() else { return };
        // Inside the router every topic stands under a mount, so that a leading wildcard matches `$` topics there.
        if topic.first() == Some(&b'$') && filter.starts_with(['+', '#']) {
            return;
        }
        self.offer(&subscription, topic, message).await;
    }

    /// A message from a shared group.
    pub(super) async fn shared(&mut self, message: GroupMessage) {
        let Some(subscription) = self.session.subscriptions.get(&*message.filter).cloned() else { return };
        self.offer(&subscription, message.topic, message.message).await;
    }

    /// A message that the session is owed.
    pub(super) async fn owed(&mut self, owed: Owed) {
        let Owed { topic, envelope, qos, retain, subscription_id, is_own, debt } = owed;
        let delivery = Delivery { topic, envelope, qos, retain, subscription_id, debt };
        if is_own {
            self.dropped(&delivery, Drop::NoLocal).await;
        } else if !self.facts.is_connected() && delivery.qos == Qos::AtMostOnce {
            self.dropped(&delivery, Drop::Qos0).await;
        } else {
            self.enqueue(delivery).await;
        }
    }

    async fn offer(&mut self, subscription: &Subscription, topic: Bytes, message: Bytes) {
        let Some(envelope) = Envelope::decode(message) else {
            tracing::error!("a message came back from the router damaged");
            return;
        };
        let delivery = Delivery {
            topic,
            qos: envelope.qos.min(subscription.qos),
            retain: envelope.retain && subscription.retain_as_published,
            subscription_id: subscription.id,
            envelope,
            debt: None,
        };
        if subscription.no_local && delivery.envelope.from_clientid == self.clientid().as_bytes() {
            self.dropped(&delivery, Drop::NoLocal).await;
        } else if !self.facts.is_connected() && delivery.qos == Qos::AtMostOnce {
            self.dropped(&delivery, Drop::Qos0).await;
        } else {
            self.enqueue(delivery).await;
        }
    }

    /// Queues a delivery; the oldest is dropped where there is no room.
    pub(super) async fn enqueue(&mut self, delivery: Delivery) {
        if let Some(oldest) = self.session.outbox.push(delivery) {
            self.dropped(&oldest, Drop::QueueFull).await;
        }
        self.facts.queued.store(self.session.outbox.queue_len(), Ordering::Relaxed);
    }

    /// Counts a dropped delivery, and writes its event if somebody asks for it.
    pub(super) async fn dropped(&mut self, delivery: &Delivery, why: Drop) {
        self.hub.counters.deliveries_dropped.add(1);
        self.facts.dropped.add(1);
        match why {
            Drop::QueueFull => {
                self.hub.counters.deliveries_dropped_queue_full.add(1);
                self.facts.dropped_queue_full.add(1);
            }
            Drop::Expired => {
                self.hub.counters.deliveries_dropped_expired.add(1);
                self.facts.dropped_expired.add(1);
            }
            Drop::TooLarge => {
                self.hub.counters.deliveries_dropped_too_large.add(1);
                self.facts.dropped_too_large.add(1);
            }
            Drop::NoLocal => self.hub.counters.deliveries_dropped_no_local.add(1),
            Drop::Qos0 => self.hub.counters.deliveries_dropped_qos0.add(1),
        }
        self.delivery_event(EventKind::DeliveryDropped, delivery, why.name(), None).await;
    }

    /// Writes an event about a delivery, if somebody asks for its kind.
    pub(super) async fn delivery_event(
        &mut self,
        kind: EventKind,
        delivery: &Delivery,
        reason: &str,
        puback_props: Option<proto::Properties>,
    ) {
        if !self.wants(kind) {
            return;
        }
        let envelope = &delivery.envelope;
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let message = proto::Message {
            id: Bytes::copy_from_slice(&envelope.id),
            payload: envelope.payload.clone(),
            qos: u32::from(delivery.qos.as_u8()),
            retain: delivery.retain,
            dup: false,
            props: envelope.properties(),
            publish_received_at_ms: envelope.received_at_ms,
            from_clientid: text(&envelope.from_clientid),
            from_username: envelope.from_username.as_ref().map(text),
            ..envelope.origin()
        };
        let detail = Some(hub::delivery(reason, puback_props));
        self.recorder.note(kind, delivery.topic(), Some(message), detail).await;
    }
}
