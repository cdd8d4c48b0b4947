//! Messages on their way to a client: a bounded queue, and the window of those that wait for an acknowledgement.
//! Plain data, no sockets.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::codec::Qos;
use crate::envelope::Envelope;

/// A message for one subscription of one client.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    /// UTF-8.
    pub(super) topic: Bytes,
    pub(super) envelope: Envelope,
    /// The smaller of published and subscribed.
    pub(super) qos: Qos,
    pub(super) retain: bool,
    pub(super) subscription_id: Option<u32>,
}

impl Delivery {
    pub(super) fn topic(&self) -> &str {
        std::str::from_utf8(&self.topic).unwrap_or_default()
    }
}

/// How far an unacknowledged message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// PUBLISH was sent.
    Sent,
    /// PUBREC came and PUBREL was sent: the message is the client's, the identifier still ours.
    Released,
}

/// A message that waits for an acknowledgement.
#[derive(Debug, Clone)]
pub(super) struct Inflight {
    pub(super) pkid: u16,
    pub(super) stage: Stage,
    pub(super) delivery: Delivery,
}

/// Queue and window.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: VecDeque<Delivery>,
    queue_messages_max: usize,
    inflight: VecDeque<Inflight>,
    last_pkid: u16,
}

impl Outbox {
    pub(super) fn new(queue_messages_max: usize) -> Self {
        Self { queue: VecDeque::new(), queue_messages_max, inflight: VecDeque::new(), last_pkid: 0 }
    }

    /// Queues a message; gives back the oldest one where there is no room for both.
    pub(super) fn push(&mut self, delivery: Delivery) -> Option<Delivery> {
        let dropped = if self.queue.len() >= self.queue_messages_max { self.queue.pop_front() } else { None };
        self.queue.push_back(delivery);
        dropped
    }

    /// The next message to send, if the window has room for it.
    pub(super) fn pop(&mut self, inflight_max: usize) -> Option<Delivery> {
        let next = self.queue.front()?;
        if next.qos > Qos::AtMostOnce && self.inflight.len() >= inflight_max {
            return None;
        }
        let next = self.queue.pop_front();
        if self.queue.is_empty() && self.queue.capacity() > 64 {
            self.queue = VecDeque::new();
        }
        next
    }

    /// A packet identifier that is not in use.
    pub(super) fn next_pkid(&mut self) -> u16 {
        loop {
            self.last_pkid = self.last_pkid.checked_add(1).unwrap_or(1);
            if self.inflight.iter().all(|it| it.pkid != self.last_pkid) {
                return self.last_pkid;
            }
        }
    }

    pub(super) fn sent(&mut self, pkid: u16, delivery: Delivery) {
        self.inflight.push_back(Inflight { pkid, stage: Stage::Sent, delivery });
    }

    /// PUBACK: the message, if it was waiting for one.
    pub(super) fn acked(&mut self, pkid: u16) -> Option<Delivery> {
        self.remove(pkid, Stage::Sent, Qos::AtLeastOnce)
    }

    /// PUBREC with an error: the message is given up.
    pub(super) fn refused(&mut self, pkid: u16) -> Option<Delivery> {
        self.remove(pkid, Stage::Sent, Qos::ExactlyOnce)
    }

    /// PUBREC: whether the identifier is one of ours, and the message if this is the first time.
    pub(super) fn received(&mut self, pkid: u16) -> (bool, Option<Delivery>) {
        let Some(found) =
            self.inflight.iter_mut().find(|it| it.pkid == pkid && it.delivery.qos == Qos::ExactlyOnce)
        else {
            return (false, None);
        };
        if found.stage == Stage::Released {
            return (true, None);
        }
        found.stage = Stage::Released;
        let delivery = found.delivery.clone();
        // The client has it: a payload that is never sent again need not be kept.
        found.delivery.envelope.payload = Bytes::new();
        (true, Some(delivery))
    }

    /// PUBCOMP: whether the identifier was waiting for it.
    pub(super) fn completed(&mut self, pkid: u16) -> bool {
        self.remove(pkid, Stage::Released, Qos::ExactlyOnce).is_some()
    }

    /// Gives up a message.
    pub(super) fn forget(&mut self, pkid: u16) {
        self.inflight.retain(|it| it.pkid != pkid);
    }

    /// All that waits for an acknowledgement, oldest first.
    pub(super) fn inflight(&self) -> impl Iterator<Item = &Inflight> {
        self.inflight.iter()
    }

    pub(super) fn inflight_len(&self) -> usize {
        self.inflight.len()
    }

    pub(super) fn queue_len(&self) -> usize {
        self.queue.len()
    }

    /// Takes QoS 0 messages out of the queue: they are not kept for a client that has gone.
    pub(super) fn drain_qos0(&mut self) -> VecDeque<Delivery> {
        let (gone, kept): (VecDeque<_>, _) = self.queue.drain(..).partition(|it| it.qos == Qos::AtMostOnce);
        self.queue = kept;
        gone
    }

    fn remove(&mut self, pkid: u16, stage: Stage, qos: Qos) -> Option<Delivery> {
        let at = self
            .inflight
            .iter()
            .position(|it| it.pkid == pkid && it.stage == stage && it.delivery.qos == qos)?;
        self.inflight.remove(at).map(|it| it.delivery)
    }
}
