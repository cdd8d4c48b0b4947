//! What an operator does in the name of a client: subscriptions that the client did not ask for, and their end.

use std::collections::HashSet;
use std::sync::Arc;

use muster_core::event::EventKind;
use muster_core::event::proto::event::Detail;

use super::subscribe::RetainedBacklog;
use super::{Actor, Subscription};
use crate::codec::Qos;
use crate::info::SubscriptionInfo;

impl Actor {
    /// Subscribes for the client, to all of it or, where it would have too many then, to nothing; whether it did. The
    /// caller has checked the filters.
    pub(super) async fn proxy_subscribe(&mut self, asked: Vec<SubscriptionInfo>) -> bool {
        let held = &self.session.subscriptions;
        let new: HashSet<_> =
            asked.iter().map(|it| it.topic.as_str()).filter(|filter| !held.contains_key(*filter)).collect();
        if held.len() + new.len() > self.hub.config.limits.subscriptions_max {
            return false;
        }
        for subscription in asked {
            self.proxy_subscribe_one(subscription).await;
        }
        self.publish_subscriptions();
        self.wait_until_stored().await;
        true
    }

    async fn proxy_subscribe_one(&mut self, asked: SubscriptionInfo) {
        let SubscriptionInfo { topic: filter, no_local, retain_as_published, retain_handling, .. } = asked;
        let is_shared = filter.starts_with("$share/");
        let subscription = Subscription {
            number: 0,
            qos: Qos::from_u8(asked.qos).unwrap_or_default(),
            no_local,
            retain_as_published,
            retain_handling,
            id: asked.subscription_id,
            is_shared,
        };
        let event = subscription.event(None, true);
        let is_new = self.subscribe(&filter, subscription).await;
        if !is_shared && (retain_handling == 0 || retain_handling == 1 && is_new) {
            let backlog = RetainedBacklog { filter: filter.clone(), after: None };
            self.session.backlog.push_back(backlog);
        }
        let detail = Some(Detail::Subscribed(event));
        self.recorder.note(EventKind::SessionSubscribed, &filter, None, detail).await;
    }

    /// Unsubscribes for the client; which of them it was subscribed to.
    pub(super) async fn proxy_unsubscribe(&mut self, filters: Vec<String>) -> Vec<bool> {
        let mut found = Vec::with_capacity(filters.len());
        for filter in filters {
            let held = self.unsubscribe(&filter).await;
            found.push(held.is_some());
            if let Some(held) = held {
                let detail = Some(Detail::Unsubscribed(held.event(None, true)));
                self.recorder.note(EventKind::SessionUnsubscribed, &filter, None, detail).await;
            }
        }
        self.publish_subscriptions();
        self.wait_until_stored().await;
        found
    }

    /// The operator hears of it when it is stored.
    async fn wait_until_stored(&mut self) {
        if let Some(ticket) = self.session.ticket.take() {
            let hub = Arc::clone(&self.hub);
            hub.shutdown.run_until_cancelled(hub.keeper.stored(ticket)).await;
        }
    }
}
