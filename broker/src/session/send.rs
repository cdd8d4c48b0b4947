//! The way of messages to a client that is connected: how many at a time, what has to be stored before it may be sent,
//! and what the client's acknowledgements do.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use muster_core::event::EventKind;
use muster_core::sessions::Ticket;

use super::deliver::Drop;
use super::online::Connection;
use super::outbox::{Delivery, Stage};
use super::subscribe::PendingSubAck;
use super::{Actor, Session};
use crate::codec::encode::PublishOut;
use crate::codec::{Ack, Qos, Version, encode, reason};
use crate::hub::Hub;
use crate::retained::remaining_seconds;

const PUBREL: u8 = 6;

/// What is sent when something is stored.
pub(super) enum Later {
    SubAck(PendingSubAck),
    UnsubAck {
        pkid: u16,
        codes: Vec<u8>,
    },
    /// A message with QoS 2 that has its identifier.
    Publish {
        pkid: u16,
    },
    PubRel {
        pkid: u16,
    },
    PubComp {
        pkid: u16,
        code: u8,
    },
}

impl Connection {
    pub(super) async fn on_puback(&mut self, ack: Ack) {
        if let Some(delivery) = self.actor.session.outbox.acked(ack.pkid) {
            self.is_sent_now(ack.pkid);
            self.count_window();
            self.actor.hub.counters.deliveries_acked.add(1);
            self.actor.delivery_event(EventKind::MessageAcked, &delivery, "", ack.props).await;
        }
    }

    pub(super) async fn on_pubrec(&mut self, ack: Ack) {
        let pkid = ack.pkid;
        if ack.reason >= reason::UNSPECIFIED_ERROR {
            self.is_sent_now(pkid);
            if let Some(delivery) = self.actor.session.outbox.refused(pkid) {
                self.count_window();
                self.actor.delivery_event(EventKind::MessageAcked, &delivery, "", ack.props).await;
            }
            return;
        }
        self.is_sent_now(pkid);
        let (known, first) = self.actor.session.outbox.received(pkid);
        if let Some(delivery) = first {
            self.actor.hub.counters.deliveries_acked.add(1);
            self.actor.delivery_event(EventKind::MessageAcked, &delivery, "", ack.props).await;
        }
        let code = if known { reason::SUCCESS } else { reason::PACKET_IDENTIFIER_NOT_FOUND };
        // A client that was told to forget the identifier would take the message for a new one.
        let kept = self.actor.session.kept().cloned();
        if let (Some(kept), Some(debt)) = (kept, self.actor.session.outbox.debt(pkid))
            && let Some(ticket) = kept.released(&debt, pkid).await
        {
            return self.later(ticket, Later::PubRel { pkid });
        }
        self.send(|out, version| encode::ack(out, version, PUBREL, pkid, code));
    }

    /// Sends something when that is stored.
    pub(super) fn later(&mut self, ticket: Ticket, what: Later) {
        self.pending_stored.push_back((ticket, what));
    }

    /// Says when all that was changed in a kept session before is stored.
    pub(super) async fn barrier(&mut self) -> Option<Ticket> {
        self.actor.session.kept()?;
        self.actor.hub.keeper.write(Vec::new()).await
    }

    /// Sends what waited for the store.
    pub(super) async fn on_stored(&mut self) {
        while let Some((ticket, _)) = self.pending_stored.front()
            && self.actor.hub.keeper.store().is_stored(*ticket)
            && let Some((_, what)) = self.pending_stored.pop_front()
        {
            match what {
                Later::SubAck(pending) => self.complete(pending),
                Later::UnsubAck { pkid, codes } => {
                    self.send(|out, version| encode::unsuback(out, version, pkid, &codes));
                }
                Later::Publish { pkid } => self.publish_stored(pkid).await,
                Later::PubRel { pkid } => {
                    self.send(|out, version| encode::ack(out, version, PUBREL, pkid, reason::SUCCESS));
                }
                Later::PubComp { pkid, code } => self.complete_publish(pkid, code),
            }
        }
    }

    /// Sends a message with QoS 2 whose identifier is stored.
    async fn publish_stored(&mut self, pkid: u16) {
        let Some(delivery) = self.actor.session.outbox.stored(pkid) else { return };
        let expiry_seconds = remaining_seconds(delivery.envelope(), self.actor.recorder.wall_ms());
        if self.write_publish(&delivery, pkid, false, expiry_seconds).is_err() {
            self.actor.session.outbox.forget(pkid);
            return self.actor.dropped(&delivery, Drop::TooLarge).await;
        }
        self.count_delivered(&delivery).await;
    }

    async fn count_delivered(&mut self, delivery: &Delivery) {
        self.actor.hub.counters.message_delivered(delivery.qos);
        self.actor.facts.messages_sent[usize::from(delivery.qos.as_u8())].add(1);
        self.actor.delivery_event(EventKind::MessageDelivered, delivery, "", None).await;
    }

    pub(super) fn may_pump(&self) -> bool {
        let Session { outbox, backlog, .. } = &*self.actor.session;
        let has_some = outbox.queue_len() > 0 || !backlog.is_empty() || self.may_resend();
        has_some && self.out.len() < self.actor.hub.config.limits.write_bytes_max
    }

    /// Moves queued messages towards the socket, as far as window and buffer allow.
    pub(super) async fn pump(&mut self) {
        let write_bytes_max = self.actor.hub.config.limits.write_bytes_max;
        let mut moved = false;
        while self.may_resend() && self.out.len() < write_bytes_max {
            self.resend_one().await;
        }
        while self.out.len() < write_bytes_max {
            if self.actor.session.outbox.queue_len() == 0 && !self.actor.session.backlog.is_empty() {
                self.actor.enqueue_retained().await;
                continue;
            }
            let Some(delivery) = self.actor.session.outbox.pop(self.inflight_max) else { break };
            moved = true;
            let expiry_seconds = remaining_seconds(delivery.envelope(), self.actor.recorder.wall_ms());
            if expiry_seconds == Some(0) {
                self.actor.dropped(&delivery, Drop::Expired).await;
                continue;
            }
            let pkid =
                if delivery.qos == Qos::AtMostOnce { 0 } else { self.actor.session.outbox.next_pkid() };
            if let Some(ticket) = self.assign(&delivery, pkid).await {
                self.actor.session.outbox.at_stage(pkid, Stage::Storing(ticket), delivery);
                self.later(ticket, Later::Publish { pkid });
                continue;
            }
            if self.write_publish(&delivery, pkid, false, expiry_seconds).is_err() {
                self.actor.dropped(&delivery, Drop::TooLarge).await;
                continue;
            }
            self.count_delivered(&delivery).await;
            if delivery.qos > Qos::AtMostOnce {
                self.actor.session.outbox.sent(pkid, delivery);
            }
        }
        if moved {
            let Actor { session, facts, .. } = &self.actor;
            facts.queued.store(session.outbox.queue_len(), Ordering::Relaxed);
            self.count_window();
        }
    }

    /// Lets others see how much is unacknowledged.
    pub(super) fn count_window(&self) {
        let Actor { session, facts, .. } = &self.actor;
        facts.inflight.store(session.outbox.inflight_len(), Ordering::Relaxed);
    }

    /// Has the identifier of a message stored that the session is owed; where it must not be sent before, says when
    /// that is done.
    async fn assign(&mut self, delivery: &Delivery, pkid: u16) -> Option<Ticket> {
        let (kept, debt) = (self.actor.session.kept()?, delivery.debt.as_ref()?);
        match delivery.qos {
            Qos::ExactlyOnce => kept.assign(debt, pkid).await,
            _ => {
                kept.sent(debt, pkid);
                None
            }
        }
    }

    /// Sends again what an earlier connection of the session left unacknowledged; messages only as far as the client
    /// takes so many now.
    pub(super) async fn resend(&mut self) {
        let waiting: Vec<_> = self.actor.session.outbox.inflight().cloned().collect();
        let is_released = waiting.iter().any(|it| it.stage == Stage::Released);
        // That they are released may not be stored yet.
        let stored = if is_released { self.barrier().await } else { None };
        for inflight in waiting {
            let pkid = inflight.pkid;
            match inflight.stage {
                Stage::Storing(ticket) => self.later(ticket, Later::Publish { pkid }),
                Stage::Released => match stored {
                    Some(ticket) => self.later(ticket, Later::PubRel { pkid }),
                    None => {
                        self.send(|out, version| encode::ack(out, version, PUBREL, pkid, reason::SUCCESS))
                    }
                },
                Stage::Sent => self.unsent.push_back(pkid),
            }
        }
    }

    /// Whether there is room for a message that an earlier connection has sent.
    fn may_resend(&self) -> bool {
        let underway = self.actor.session.outbox.inflight_len() - self.unsent.len();
        !self.unsent.is_empty() && underway < self.inflight_max
    }

    /// A late acknowledgement, meant for an earlier connection, is one all the same.
    fn is_sent_now(&mut self, pkid: u16) {
        self.unsent.retain(|it| *it != pkid);
    }

    async fn resend_one(&mut self) {
        let Some(pkid) = self.unsent.pop_front() else { return };
        let Some(delivery) = self.actor.session.outbox.sent_as(pkid) else { return };
        let expiry = remaining_seconds(delivery.envelope(), self.actor.recorder.wall_ms());
        if self.write_publish(&delivery, pkid, true, expiry).is_err() {
            // It takes smaller packets than before; nothing will ever acknowledge this one.
            self.actor.session.outbox.forget(pkid);
            self.count_window();
            self.actor.dropped(&delivery, Drop::TooLarge).await;
        }
    }

    fn write_publish(
        &mut self,
        delivery: &Delivery,
        pkid: u16,
        dup: bool,
        expiry_seconds: Option<u32>,
    ) -> Result<(), encode::TooLarge> {
        let props = if self.version == Version::V5 { delivery.envelope().properties() } else { None };
        let publish = PublishOut {
            topic: delivery.topic(),
            payload: &delivery.envelope().payload,
            qos: delivery.qos,
            retain: delivery.retain,
            dup,
            pkid,
            props: props.as_ref(),
            expiry_seconds,
            subscription_ids: delivery.subscription_id.as_slice(),
        };
        let at = self.out.len();
        encode::publish(&mut self.out, self.version, &publish, self.packet_bytes_max)?;
        self.count_sent(at);
        Ok(())
    }
}

/// Waits until the first thing that waits for the store is there.
pub(super) async fn first_stored(hub: &Hub, pending: &VecDeque<(Ticket, Later)>) {
    match pending.front() {
        Some((ticket, _)) => hub.keeper.stored(*ticket).await,
        None => std::future::pending().await,
    }
}
