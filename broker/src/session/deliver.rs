//! The subscriber's side as far as no socket is needed: what has arrived becomes a queued delivery, or is dropped with
//! a reason.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use muster_core::event::{EventKind, proto};

use super::Actor;
use super::outbox::Delivery;
use crate::codec::Qos;
use crate::hub;
use crate::inbox::Arrived;

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
    /// A message for one of the session's subscriptions.
    pub(super) async fn arrived(&mut self, arrived: Arrived) {
        let Arrived { message, qos, retain, subscription_id, is_own, debt } = arrived;
        let delivery = Delivery { message, qos, retain, subscription_id, debt };
        if is_own {
            self.dropped(&delivery, Drop::NoLocal).await;
        } else if !self.facts.is_connected() && delivery.qos == Qos::AtMostOnce {
            self.dropped(&delivery, Drop::Qos0).await;
        } else {
            self.enqueue(delivery).await;
        }
    }

    /// Queues a delivery; the oldest are dropped where there is no room.
    pub(super) async fn enqueue(&mut self, delivery: Delivery) {
        while let Some(oldest) = self.session.outbox.make_room(&delivery) {
            self.dropped(&oldest, Drop::QueueFull).await;
        }
        self.session.outbox.push(delivery);
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
        let envelope = delivery.envelope();
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
