//! What an operator does in the name of a client: subscriptions that the client did not ask for, and their end.

use muster_core::event::EventKind;
use muster_core::event::proto::event::Detail;

use super::subscribe::RetainedBacklog;
use super::{Actor, Subscription};
use crate::codec::Qos;
use crate::info::SubscriptionInfo;
use crate::router::RouterStopped;

impl Actor {
    /// Subscribes for the client. The caller has checked the filter.
    pub(super) async fn proxy_subscribe(&mut self, asked: SubscriptionInfo) -> Result<(), RouterStopped> {
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
        // Nobody waits for the router's word: the operator is answered when it was asked.
        let is_new = self.subscribe(&filter, subscription, &mut Vec::new()).await?;
        if !is_shared && (retain_handling == 0 || retain_handling == 1 && is_new) {
            let backlog = RetainedBacklog { filter: filter.clone(), after: None };
            self.session.backlog.push_back(backlog);
        }
        let detail = Some(Detail::Subscribed(event));
        self.recorder.note(EventKind::SessionSubscribed, &filter, None, detail).await;
        self.publish_subscriptions();
        Ok(())
    }

    /// Unsubscribes for the client; whether it was subscribed.
    pub(super) async fn proxy_unsubscribe(&mut self, filter: &str) -> Result<bool, RouterStopped> {
        let Some(held) = self.unsubscribe(filter).await? else { return Ok(false) };
        let detail = Some(Detail::Unsubscribed(held.event(None, true)));
        self.recorder.note(EventKind::SessionUnsubscribed, filter, None, detail).await;
        self.publish_subscriptions();
        Ok(true)
    }
}
