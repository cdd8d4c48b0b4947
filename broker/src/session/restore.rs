//! A session as it is put together again at a start.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use muster_core::sessions::{Stage as StoredStage, StoredDelivery, StoredInbound};

use super::outbox::{Delivery, Stage};
use super::{Session, Subscription};
use crate::clients::Facts;
use crate::codec::Qos;
use crate::envelope::Envelope;
use crate::inbox::Message;
use crate::keeper::{Kept, Options};

impl Session {
    pub(crate) fn restore_subscription(&mut self, filter: String, options: Options) {
        let Options { number, qos, no_local, retain_as_published, retain_handling, id } = options;
        let is_shared = filter.starts_with("$share/");
        self.next_subscription = self.next_subscription.max(number.saturating_add(1));
        let subscription =
            Subscription { number, qos, no_local, retain_as_published, retain_handling, id, is_shared };
        self.subscriptions.insert(filter, subscription);
    }

    /// The filter of a subscription.
    pub(crate) fn filter_of(&self, number: u32) -> Option<&str> {
        let found = self.subscriptions.iter().find(|(_, it)| it.number == number);
        found.map(|(filter, _)| filter.as_str())
    }

    pub(crate) fn plain_subscriptions(&self) -> Vec<(String, Options)> {
        self.some_subscriptions(false)
    }

    pub(crate) fn shared_subscriptions(&self) -> Vec<(String, Options)> {
        self.some_subscriptions(true)
    }

    /// All of them.
    pub(crate) fn subscriptions_with_options(&self) -> Vec<(String, Options)> {
        self.subscriptions.iter().map(|(filter, it)| (filter.clone(), it.options())).collect()
    }

    fn some_subscriptions(&self, is_shared: bool) -> Vec<(String, Options)> {
        let some = self.subscriptions.iter().filter(|(_, it)| it.is_shared == is_shared);
        some.map(|(filter, it)| (filter.clone(), it.options())).collect()
    }

    pub(crate) fn restore_inbound(&mut self, kept: &Arc<Kept>, inbound: StoredInbound) {
        kept.recall_inbound(inbound);
        if !inbound.released {
            self.unreleased.insert(inbound.pkid, inbound.message);
        }
    }

    pub(crate) fn restore_unreleased(&mut self, pkid: u16, message: u64) {
        self.unreleased.insert(pkid, message);
    }

    /// A message that the client is owed; what cannot be read is given up.
    pub(crate) fn restore_delivery(&mut self, kept: &Arc<Kept>, stored: StoredDelivery) {
        let StoredDelivery { key, stage, pkid, topic, body, retain, subscription_id, .. } = stored;
        let qos = Qos::from_u8(stored.qos).unwrap_or(Qos::AtLeastOnce);
        if stage == StoredStage::Done {
            return kept.recall_done(key);
        }
        // Dropped where the message cannot be read, so that its row goes.
        let debt = kept.recall(key, qos);
        let envelope = match Envelope::decode(body) {
            Some(envelope) => envelope,
            None if stage == StoredStage::Released => Envelope::nothing(qos),
            None => {
                tracing::error!(topic, "a message that was owed cannot be read and is lost");
                return;
            }
        };
        let message = Message::new(&topic, envelope);
        let delivery = Delivery { message, qos, retain, subscription_id, debt };
        match stage {
            StoredStage::Waits | StoredStage::Done => self.outbox.push(delivery),
            StoredStage::Sent => self.outbox.at_stage(pkid, Stage::Sent, delivery),
            StoredStage::Released => self.outbox.at_stage(pkid, Stage::Released, delivery),
        }
    }

    /// All is there.
    pub(crate) fn restored(&mut self) {
        self.outbox.restored();
    }

    /// Lets others see how much waits.
    pub(crate) fn count(&self, facts: &Facts) {
        facts.queued.store(self.outbox.queue_len(), Ordering::Relaxed);
        facts.inflight.store(self.outbox.inflight_len(), Ordering::Relaxed);
        facts.awaiting_release.store(self.unreleased.len(), Ordering::Relaxed);
    }
}
