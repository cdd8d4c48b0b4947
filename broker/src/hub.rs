//! What all sessions share, and the way of a message from its publisher to whoever subscribes.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use muster_core::clock::SharedClock;
use muster_core::event::proto::event::Detail;
use muster_core::event::{EventId, EventKind, proto};
use muster_core::journal::Journal;
use muster_core::log::LogError;
use prost::Message as _;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{Authenticator, Authorizer, Doorkeeper};
use crate::clients::Clients;
use crate::codec::Qos;
use crate::config::BrokerConfig;
use crate::envelope::{self, Envelope};
use crate::groups::{Group, Groups};
use crate::inbox::Message;
use crate::keeper::{Keeper, Options};
use crate::listener::Room;
use crate::record::Recorder;
use crate::retained::Retained;
use crate::stats::LiveCounters;
use crate::subscribers::{Mailbox, Recipients, Subscribers, Target};
use crate::wanted::Wanted;

/// What all sessions share.
pub(crate) struct Hub {
    pub(crate) config: BrokerConfig,
    pub(crate) journal: Journal,
    pub(crate) clock: SharedClock,
    pub(crate) wanted: Wanted,
    pub(crate) doorkeeper: Arc<dyn Doorkeeper>,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    pub(crate) clients: Clients,
    pub(crate) groups: Groups,
    pub(crate) retained: Retained,
    /// What sessions are owed that outlive their connections.
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) counters: LiveCounters,
    pub(crate) subscribers: Subscribers,
    /// All filters in their order, each with how many sessions and groups have it: for those who ask for a list.
    pub(crate) topics: Mutex<BTreeMap<String, usize>>,
    pub(crate) session_ids: AtomicU64,
    pub(crate) random: std::sync::Mutex<rand::rngs::StdRng>,
    /// For connections whose CONNECT is not there yet.
    pub(crate) room: Arc<Room>,
    /// For all connections.
    pub(crate) sockets: Arc<Semaphore>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// A message that is about to be published.
#[derive(Debug, Clone)]
pub(crate) struct NewMessage {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) props: Option<proto::Properties>,
    /// Empty for a client's own publish.
    pub(crate) origin: &'static str,
    pub(crate) republished_by: String,
    pub(crate) republication: Option<proto::Republication>,
    pub(crate) request: Option<proto::Request>,
    /// Of a client's QoS 2 publish; else 0.
    pub(crate) packet_id: u16,
}

/// What became of a publish.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Published {
    pub(crate) offset: u64,
    pub(crate) id: EventId,
    /// Whether somebody subscribes to it.
    pub(crate) matched: bool,
}

impl Hub {
    /// Writes the event, retains the message, and gives it to all who subscribe. Waits for neither the disk nor any
    /// subscriber.
    pub(crate) async fn publish(
        &self,
        recorder: &mut Recorder,
        message: NewMessage,
    ) -> Result<Published, LogError> {
        let NewMessage { topic, payload, qos, retain, dup, props, .. } = message;
        let NewMessage { origin, republished_by, republication, request, packet_id, .. } = message;
        let received_at_ms = recorder.wall_ms();
        let encoded_props = props.as_ref().map(|props| Bytes::from(props.encode_to_vec()));
        let mut shown = proto::Message {
            payload: payload.clone(),
            qos: u32::from(qos.as_u8()),
            retain,
            dup,
            props,
            publish_received_at_ms: received_at_ms,
            origin: origin.to_owned(),
            republished_by,
            republication,
            packet_id: u32::from(packet_id),
            ..Default::default()
        };
        let republished = envelope::republished(&shown);
        let retaining = if retain { self.retained.begin().await } else { None };
        let mut recipients = self.recipients(&topic, retain);
        let unwanted = self.wanted.contains(EventKind::MessageDropped).then(|| shown.clone());
        shown.request = request;
        let written =
            recorder.append(EventKind::MessagePublish, &topic, Some(std::mem::take(&mut shown)), None);
        let appended = written.await.inspect_err(|_| self.counters.messages_refused.add(1))?;
        self.counters.messages_published.add(1);
        let client = recorder.client();
        let envelope = Envelope {
            id: appended.id.to_bytes(),
            qos,
            retain,
            received_at_ms,
            from_clientid: Bytes::copy_from_slice(client.clientid.as_bytes()),
            from_username: client.username.as_ref().map(|name| Bytes::copy_from_slice(name.as_bytes())),
            props: encoded_props,
            republished,
            payload,
        };
        if let Some(retaining) = retaining {
            self.retained.apply(retaining, &topic, &envelope);
            // Who subscribed meanwhile may have looked for it before it was there.
            recipients.join(self.subscribers.matching(&topic));
        }
        let matched = !recipients.targets.is_empty();
        if matched {
            let is_kept = recipients.under_way.is_some();
            let dropped = recipients.give(appended.offset, &Message::published(&topic, envelope, is_kept));
            self.counters.deliveries_dropped.add(dropped);
            self.counters.deliveries_dropped_queue_full.add(dropped);
        } else {
            self.counters.messages_dropped_no_subscribers.add(1);
            if let Some(message) = unwanted {
                let message = proto::Message { id: appended.id.to_bytes().to_vec().into(), ..message };
                let detail = delivery("no_subscribers", None);
                recorder.note(EventKind::MessageDropped, &topic, Some(message), Some(detail)).await;
            }
        }
        Ok(Published { offset: appended.offset, id: appended.id, matched })
    }

    /// Writes the event that takes a topic its retained message, and takes it; the event's offset.
    pub(crate) async fn clear_retained(&self, recorder: &mut Recorder, topic: &str) -> Result<u64, LogError> {
        let received_at_ms = recorder.wall_ms();
        let message = proto::Message {
            retain: true,
            publish_received_at_ms: received_at_ms,
            origin: "rest".to_owned(),
            ..proto::Message::default()
        };
        let retaining = self.retained.begin().await;
        let appended = recorder.append(EventKind::MessagePublish, topic, Some(message), None).await?;
        let envelope = Envelope {
            id: appended.id.to_bytes(),
            qos: Qos::AtMostOnce,
            retain: true,
            received_at_ms,
            from_clientid: Bytes::new(),
            from_username: None,
            props: None,
            republished: None,
            payload: Bytes::new(),
        };
        if let Some(retaining) = retaining {
            self.retained.apply(retaining, topic, &envelope);
        }
        Ok(appended.offset)
    }

    /// Who gets a message to this topic. Asked before its event is written: whoever has to remember it finds the event
    /// again after a crash. Somebody may still join them where the message is retained.
    fn recipients(&self, topic: &str, retain: bool) -> Recipients<'_> {
        let targets = self.subscribers.matching(topic);
        let under_way = (retain || Recipients::outlive(&targets)).then(|| self.keeper.begin());
        Recipients { targets, under_way }
    }

    /// Gives a session the messages of a filter.
    pub(crate) fn subscribe(&self, filter: &str, mailbox: Mailbox, options: Options) {
        if self.subscribers.insert(filter, Target::Session(mailbox, options)) {
            self.list(filter);
        }
    }

    /// The end of that.
    pub(crate) fn unsubscribe(&self, filter: &str, mailbox: Mailbox, options: Options) {
        if self.subscribers.remove(filter, &Target::Session(mailbox, options)) {
            self.unlist(filter);
        }
    }

    /// Has a group dealt the messages of a filter.
    pub(crate) fn open_group(&self, filter: &str, group: &Arc<Group>) {
        if self.subscribers.insert(filter, Target::Group(Arc::clone(group))) {
            self.list(filter);
        }
    }

    /// The end of that.
    pub(crate) fn close_group(&self, filter: &str, group: &Arc<Group>) {
        if self.subscribers.remove(filter, &Target::Group(Arc::clone(group))) {
            self.unlist(filter);
        }
    }

    fn list(&self, filter: &str) {
        *self.topics.lock().unwrap_or_else(PoisonError::into_inner).entry(filter.to_owned()).or_default() +=
            1;
    }

    fn unlist(&self, filter: &str) {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = topics.get_mut(filter) {
            *count -= 1;
            if *count == 0 {
                topics.remove(filter);
            }
        }
    }
}

/// The detail of an event about a delivery.
pub(crate) fn delivery(reason: &str, puback_props: Option<proto::Properties>) -> Detail {
    Detail::Delivery(proto::Delivery { reason: reason.to_owned(), puback_props })
}
