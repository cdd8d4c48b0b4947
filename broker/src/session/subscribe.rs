//! SUBSCRIBE and UNSUBSCRIBE: one answer a packet, when the router has taken every filter of it.

use std::sync::Arc;

use bytes::Bytes;
use muster_core::event::proto::event::Detail;
use muster_core::event::{EventId, EventKind};
use muster_core::sessions::{Change, StoredSubscription};
use muster_core::topic;

use super::online::{Connection, End};
use super::outbox::Delivery;
use super::send::Later;
use super::{Actor, Subscription};
use crate::access::Action;
use crate::codec::{Filter, Qos, Subscribe, Unsubscribe, encode, reason};
use crate::groups::{Member, Way};
use crate::keeper::Kept;
use crate::router::RouterStopped;

/// Largest offset that the store can hold.
const OFFSET_MAX: u64 = u64::MAX >> 1;

/// Retained messages that are queued at a time.
const RETAINED_MESSAGES_STEP: usize = 64;

/// Retained messages that a subscription is still owed: those after a topic.
#[derive(Debug)]
pub(super) struct RetainedBacklog {
    pub(super) filter: String,
    pub(super) after: Option<String>,
}

/// A SUBACK that waits for the router.
#[derive(Debug)]
pub(super) struct PendingSubAck {
    pkid: u16,
    codes: Vec<u8>,
    /// What the router still has to confirm.
    tokens: Vec<u16>,
    /// Filters whose retained messages follow the SUBACK.
    retained: Vec<String>,
}

impl Connection {
    pub(super) async fn on_subscribe(&mut self, subscribe: Subscribe) -> Result<(), End> {
        let Subscribe { pkid, filters, props } = subscribe;
        let id = props.as_ref().and_then(|props| props.subscription_identifier.first().copied());
        let mut pending = PendingSubAck { pkid, codes: Vec::new(), tokens: Vec::new(), retained: Vec::new() };
        for filter in filters {
            let code = match self.check(&filter).await? {
                Some(refused) => refused,
                None => {
                    let subscription = Subscription {
                        number: 0,
                        qos: filter.qos,
                        no_local: filter.no_local,
                        retain_as_published: filter.retain_as_published,
                        retain_handling: filter.retain_handling,
                        id,
                        is_shared: filter.path.starts_with("$share/"),
                    };
                    let event = subscription.event(props.clone(), false);
                    let is_new =
                        self.actor.subscribe(&filter.path, subscription, &mut pending.tokens).await?;
                    let wants_retained = match filter.retain_handling {
                        0 => true,
                        1 => is_new,
                        _ => false,
                    };
                    if wants_retained && !filter.path.starts_with("$share/") {
                        pending.retained.push(filter.path.clone());
                    }
                    let detail = Some(Detail::Subscribed(event));
                    self.actor.recorder.note(EventKind::SessionSubscribed, &filter.path, None, detail).await;
                    filter.qos.as_u8()
                }
            };
            pending.codes.push(code);
        }
        self.actor.publish_subscriptions();
        if let Some(ticket) = self.actor.session.ticket.take() {
            self.later(ticket, Later::SubAck(pending));
        } else if pending.tokens.is_empty() {
            self.complete(pending);
        } else {
            self.pending_subacks.push(pending);
        }
        Ok(())
    }

    /// The router has taken a filter.
    pub(super) fn on_subscribed(&mut self, token: u16) {
        for pending in &mut self.pending_subacks {
            pending.tokens.retain(|it| *it != token);
        }
        while let Some(at) = self.pending_subacks.iter().position(|it| it.tokens.is_empty()) {
            let done = self.pending_subacks.remove(at);
            self.complete(done);
        }
    }

    pub(super) async fn on_unsubscribe(&mut self, unsubscribe: Unsubscribe) -> Result<(), End> {
        let Unsubscribe { pkid, filters, props } = unsubscribe;
        let mut codes = Vec::with_capacity(filters.len());
        for filter in filters {
            let code = match self.actor.unsubscribe(&filter).await? {
                Some(subscription) => {
                    let detail = Some(Detail::Unsubscribed(subscription.event(props.clone(), false)));
                    self.actor.recorder.note(EventKind::SessionUnsubscribed, &filter, None, detail).await;
                    reason::SUCCESS
                }
                None if topic::validate_filter(&filter).is_err() => reason::TOPIC_FILTER_INVALID,
                None => reason::NO_SUBSCRIPTION_EXISTED,
            };
            codes.push(code);
        }
        self.actor.publish_subscriptions();
        self.complete_without_link();
        match self.actor.session.ticket.take() {
            Some(ticket) => self.later(ticket, Later::UnsubAck { pkid, codes }),
            None => self.send(|out, version| encode::unsuback(out, version, pkid, &codes)),
        }
        Ok(())
    }

    /// With the last subscription the link has gone, and with it what it had still to confirm.
    pub(super) fn complete_without_link(&mut self) {
        if self.actor.session.link.is_none() {
            for pending in std::mem::take(&mut self.pending_subacks) {
                self.complete(pending);
            }
        }
    }

    /// The code with which a filter is refused, if it is.
    async fn check(&mut self, filter: &Filter) -> Result<Option<u8>, End> {
        let is_shared = filter.path.starts_with("$share/") || filter.path == "$share";
        if topic::validate_filter(&filter.path).is_err() {
            return Ok(Some(reason::TOPIC_FILTER_INVALID));
        }
        if filter.no_local && is_shared {
            return Err(End::Refused { code: reason::PROTOCOL_ERROR, reason: "protocol_error" });
        }
        if !self.authorize(Action::Subscribe { qos: filter.qos }, &filter.path).await? {
            return Ok(Some(reason::NOT_AUTHORIZED));
        }
        let subscriptions = &self.actor.session.subscriptions;
        if subscriptions.len() >= self.actor.hub.config.limits.subscriptions_max
            && !subscriptions.contains_key(&filter.path)
        {
            return Ok(Some(reason::QUOTA_EXCEEDED));
        }
        Ok(None)
    }

    /// Sends the SUBACK; the retained messages follow as far as there is room for them.
    pub(super) fn complete(&mut self, pending: PendingSubAck) {
        let PendingSubAck { pkid, codes, retained, .. } = pending;
        self.send(|out, version| encode::suback(out, version, pkid, &codes));
        let backlog = retained.into_iter().map(|filter| RetainedBacklog { filter, after: None });
        self.actor.session.backlog.extend(backlog);
    }
}

impl Actor {
    /// Puts a subscription into the session and, if it is new, into index and router; whether it is new. What the
    /// router has to confirm is added to `tokens`.
    pub(super) async fn subscribe(
        &mut self,
        filter: &str,
        mut subscription: Subscription,
        tokens: &mut Vec<u16>,
    ) -> Result<bool, RouterStopped> {
        let held = self.session.subscriptions.get(filter).map(|held| held.number);
        let number = held.unwrap_or(self.session.next_subscription);
        subscription.number = number;
        if let Some(kept) = self.session.kept.clone() {
            self.subscribe_kept(&kept, filter, subscription).await;
            return Ok(held.is_none());
        }
        let is_shared = subscription.is_shared;
        self.session.subscriptions.insert(filter.to_owned(), subscription);
        if held.is_some() {
            return Ok(false);
        }
        self.session.next_subscription += 1;
        if is_shared {
            self.join(filter);
            return Ok(true);
        }
        self.session.filters.insert(number, filter.to_owned());
        self.hub.index_insert(filter, self.session.id);
        if self.session.link.is_none() {
            self.session.link = Some(self.hub.router.link().await?);
        }
        let token = self.session.next_token;
        self.session.next_token = token.wrapping_add(1);
        if let Some(link) = &mut self.session.link {
            link.subscribe(filter, number, token).await?;
            tokens.push(token);
        }
        Ok(true)
    }

    /// As [`Actor::subscribe`], for a session that outlives its connections: in force at once, and stored.
    async fn subscribe_kept(&mut self, kept: &Arc<Kept>, filter: &str, subscription: Subscription) {
        let options = subscription.options();
        let since = self.hub.journal.next_offset();
        self.session.next_subscription = self.session.next_subscription.max(options.number + 1);
        let is_shared = subscription.is_shared;
        self.session.subscriptions.insert(filter.to_owned(), subscription);
        if is_shared {
            self.join(filter);
        } else {
            self.hub.owe(filter, kept, options);
        }
        let (filter, number) = (filter.to_owned(), options.number);
        let stored = StoredSubscription { filter, number, since, options: options.encode() };
        self.store(vec![Change::Subscribed(kept.session(), stored)]).await;
    }

    /// Takes a subscription out of session, index and router.
    pub(super) async fn unsubscribe(&mut self, filter: &str) -> Result<Option<Subscription>, RouterStopped> {
        let Some(held) = self.session.subscriptions.remove(filter) else { return Ok(None) };
        if held.is_shared {
            self.hub.groups.leave(&self.hub, filter, self.session.id);
        }
        if let Some(kept) = self.session.kept.clone() {
            if !held.is_shared {
                self.hub.owe_no_more(filter, &kept, held.options());
            }
            let (session, filter) = (kept.session(), filter.to_owned());
            self.store(vec![Change::Unsubscribed { session, filter }]).await;
            return Ok(Some(held));
        }
        if held.is_shared {
            return Ok(Some(held));
        }
        self.session.filters.remove(&held.number);
        self.hub.index_remove(filter, self.session.id);
        if self.session.filters.is_empty() {
            // The last one: the link is not needed any more.
            self.session.link = None;
        } else if let Some(link) = &mut self.session.link {
            link.unsubscribe(filter, held.number).await?;
        }
        Ok(Some(held))
    }

    /// Makes the session's shared subscriptions known under the facts of this connection.
    pub(crate) fn rejoin(&mut self) {
        let held = &self.session.subscriptions;
        let shared: Vec<_> =
            held.iter().filter(|(_, it)| it.is_shared).map(|(name, _)| name.clone()).collect();
        for filter in shared {
            self.join(&filter);
        }
    }

    fn join(&mut self, filter: &str) {
        let held = self.session.subscriptions.get(filter).map(Subscription::options);
        let way = match (&self.session.kept, held) {
            (Some(kept), Some(options)) => Way::Kept(Arc::clone(kept), options),
            _ => Way::Task(self.session.group_sender()),
        };
        let member = Member { session: self.session.id, facts: self.facts.clone(), way };
        self.hub.groups.join(&self.hub, filter, member);
    }

    /// Queues some of the retained messages that are owed for subscriptions; there may be more of them than the queue
    /// holds.
    pub(super) async fn enqueue_retained(&mut self) {
        let Some(RetainedBacklog { filter, after }) = self.session.backlog.pop_front() else { return };
        let Some(subscription) = self.session.subscriptions.get(&filter).cloned() else { return };
        let count = RETAINED_MESSAGES_STEP.min(self.hub.config.limits.queue_messages_max);
        let found = self.hub.retained.matching(&filter, after.as_deref(), count, self.recorder.wall_ms());
        if found.len() == count {
            let after = found.last().map(|(topic, _)| topic.clone());
            self.session.backlog.push_front(RetainedBacklog { filter, after });
        }
        for (topic, envelope) in found {
            let (topic, qos) = (Bytes::from(topic), envelope.qos.min(subscription.qos));
            let debt = match &self.session.kept {
                Some(kept) if qos > Qos::AtMostOnce => {
                    let offset = EventId::from_bytes(&envelope.id).map(|id| id.as_u128());
                    let offset = offset.unwrap_or_default().wrapping_sub(self.hub.journal.log_id());
                    // What the id says of another log is no offset; it still tells one message from the other.
                    let message = u64::try_from(offset & u128::from(OFFSET_MAX)).unwrap_or_default();
                    kept.remember(message, subscription.number, (&topic, &envelope), qos, subscription.id)
                }
                _ => None,
            };
            let (retain, subscription_id) = (true, subscription.id);
            let delivery = Delivery { topic, envelope, qos, retain, subscription_id, debt };
            self.enqueue(delivery).await;
        }
    }

    /// Lets the listing show the subscriptions as they are now.
    pub(crate) fn publish_subscriptions(&self) {
        *self.facts.subscriptions() = self.session.subscription_infos();
    }
}
