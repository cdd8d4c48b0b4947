//! SUBSCRIBE and UNSUBSCRIBE: one answer a packet, when every filter of it is in force, and stored where the session is
//! kept.

use std::sync::Arc;

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
use crate::groups::Member;
use crate::inbox::Message;
use crate::keeper::Options;

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

/// A SUBACK that may wait for the store.
#[derive(Debug)]
pub(super) struct PendingSubAck {
    pkid: u16,
    codes: Vec<u8>,
    /// Filters whose retained messages follow the SUBACK.
    retained: Vec<String>,
}

impl Connection {
    pub(super) async fn on_subscribe(&mut self, subscribe: Subscribe) -> Result<(), End> {
        let Subscribe { pkid, filters, props } = subscribe;
        let id = props.as_ref().and_then(|props| props.subscription_identifier.first().copied());
        let mut pending = PendingSubAck { pkid, codes: Vec::new(), retained: Vec::new() };
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
                    let is_new = self.actor.subscribe(&filter.path, subscription).await;
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
        match self.actor.session.ticket.take() {
            Some(ticket) => self.later(ticket, Later::SubAck(pending)),
            None => self.complete(pending),
        }
        Ok(())
    }

    pub(super) async fn on_unsubscribe(&mut self, unsubscribe: Unsubscribe) -> Result<(), End> {
        let Unsubscribe { pkid, filters, props } = unsubscribe;
        let mut codes = Vec::with_capacity(filters.len());
        for filter in filters {
            let code = match self.actor.unsubscribe(&filter).await {
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
        match self.actor.session.ticket.take() {
            Some(ticket) => self.later(ticket, Later::UnsubAck { pkid, codes }),
            None => self.send(|out, version| encode::unsuback(out, version, pkid, &codes)),
        }
        Ok(())
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
        let backlog = &mut self.actor.session.backlog;
        for filter in retained {
            // Asked for again, they come from the first on; one entry a filter, so that their number is bounded.
            backlog.retain(|it| it.filter != filter);
            backlog.push_back(RetainedBacklog { filter, after: None });
        }
    }
}

impl Actor {
    /// Puts a subscription into the session, and in force; whether it is new. Where the session is kept, the client
    /// must not hear of it before it is stored.
    pub(super) async fn subscribe(&mut self, filter: &str, mut subscription: Subscription) -> bool {
        let held = self.session.subscriptions.get(filter).map(|held| held.number);
        subscription.number = held.unwrap_or(self.session.next_subscription);
        self.session.next_subscription = self.session.next_subscription.max(subscription.number + 1);
        let (options, is_shared) = (subscription.options(), subscription.is_shared);
        self.session.subscriptions.insert(filter.to_owned(), subscription);
        let since = self.hub.journal.next_offset();
        if is_shared {
            self.join(filter, options);
        } else {
            self.hub.subscribe(filter, self.session.mailbox.clone(), options);
        }
        if let Some(session) = self.session.kept().map(|kept| kept.session()) {
            let (filter, number) = (filter.to_owned(), options.number);
            let stored = StoredSubscription { filter, number, since, options: options.encode() };
            self.store(vec![Change::Subscribed(session, stored)]).await;
        }
        held.is_none()
    }

    /// Takes a subscription out of the session, and out of force.
    pub(super) async fn unsubscribe(&mut self, filter: &str) -> Option<Subscription> {
        let held = self.session.subscriptions.remove(filter)?;
        if held.is_shared {
            self.hub.groups.leave(&self.hub, filter, self.session.mailbox.session());
        } else {
            self.hub.unsubscribe(filter, self.session.mailbox.clone(), held.options());
        }
        if let Some(session) = self.session.kept().map(|kept| kept.session()) {
            let filter = filter.to_owned();
            self.store(vec![Change::Unsubscribed { session, filter }]).await;
        }
        Some(held)
    }

    /// Makes the session's shared subscriptions known under the facts of this connection.
    pub(crate) fn rejoin(&self) {
        for (filter, options) in self.session.shared_subscriptions() {
            self.join(&filter, options);
        }
    }

    fn join(&self, filter: &str, options: Options) {
        let (facts, mailbox) = (Arc::clone(&self.facts), self.session.mailbox.clone());
        self.hub.groups.join(&self.hub, filter, Member { facts, mailbox, options });
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
            let qos = envelope.qos.min(subscription.qos);
            let message = Message::new(&topic, envelope);
            let debt = match self.session.kept() {
                Some(kept) if qos > Qos::AtMostOnce => {
                    let offset = EventId::from_bytes(&message.envelope.id).map(|id| id.as_u128());
                    let offset = offset.unwrap_or_default().wrapping_sub(self.hub.journal.log_id());
                    // What the id says of another log is no offset; it still tells one message from the other.
                    let offset = u64::try_from(offset & u128::from(OFFSET_MAX)).unwrap_or_default();
                    kept.remember(offset, subscription.number, &message, qos, subscription.id)
                }
                _ => None,
            };
            let (retain, subscription_id) = (true, subscription.id);
            let delivery = Delivery { message, qos, retain, subscription_id, debt };
            self.enqueue(delivery).await;
        }
    }

    /// Lets the listing show the subscriptions as they are now.
    pub(crate) fn publish_subscriptions(&self) {
        *self.facts.subscriptions() = self.session.subscription_infos();
    }
}
