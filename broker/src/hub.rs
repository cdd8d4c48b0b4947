//! What all sessions share, and the way of a message from its publisher to whoever subscribes.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use muster_core::clock::SharedClock;
use muster_core::event::proto::event::Detail;
use muster_core::event::{EventId, EventKind, proto};
use muster_core::journal::Journal;
use muster_core::log::LogError;
use muster_core::topic::FilterIndex;
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
use crate::keeper::{Keeper, Kept, Options, Target};
use crate::listener::Room;
use crate::record::Recorder;
use crate::retained::Retained;
use crate::router::{Router, RouterStopped};
use crate::stats::LiveCounters;
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
    pub(crate) router: Router,
    pub(crate) clients: Clients,
    pub(crate) groups: Groups,
    pub(crate) retained: Retained,
    /// What sessions are owed that outlive their connections.
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) counters: LiveCounters,
    /// Who of those whom the router serves subscribes to what: asked before a message goes there, because the router's
    /// own search is slow when it finds nothing.
    pub(crate) index: RwLock<FilterIndex<u64>>,
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

/// Why a message was not published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    #[error("the event log refused the message")]
    Log(#[from] LogError),
    #[error(transparent)]
    Router(#[from] RouterStopped),
}

impl Hub {
    /// Writes the event, retains the message, and hands it to the router if somebody subscribes. Waits for neither
    /// the disk nor any subscriber.
    pub(crate) async fn publish(
        &self,
        recorder: &mut Recorder,
        message: NewMessage,
    ) -> Result<Published, PublishError> {
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
        let under_way = retain.then(|| self.retained.begin());
        let owed = self.keeper.owed(&topic);
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
        if let Some(under_way) = under_way {
            self.retained.apply(under_way, &topic, &envelope).await;
        }
        let is_routed = self.is_routed(&topic);
        let matched = is_routed || owed.is_some();
        if matched {
            let encoded = envelope.encode();
            if let Some(owed) = owed {
                let dropped = owed.give(appended.offset, &topic, &envelope, &encoded);
                self.counters.deliveries_dropped.add(dropped);
                self.counters.deliveries_dropped_queue_full.add(dropped);
            }
            if is_routed {
                self.router.publish(&topic, encoded).await?;
            }
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
        let under_way = self.retained.begin();
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
        self.retained.apply(under_way, topic, &envelope).await;
        Ok(appended.offset)
    }

    /// Whether some session subscribes to the topic.
    pub(crate) fn is_subscribed(&self, topic: &str) -> bool {
        self.keeper.any_match(topic) || self.is_routed(topic)
    }

    fn is_routed(&self, topic: &str) -> bool {
        self.index.read().unwrap_or_else(PoisonError::into_inner).any_match(topic)
    }

    pub(crate) fn index_insert(&self, filter: &str, session: u64) {
        let is_new = self.index.write().unwrap_or_else(PoisonError::into_inner).insert(filter, session);
        if is_new {
            self.list(filter);
        }
    }

    /// Has a session that outlives its connections owed the messages of a filter.
    pub(crate) fn owe(&self, filter: &str, kept: &Arc<Kept>, options: Options) {
        if self.keeper.insert(filter, Target::Session(Arc::clone(kept), options)) {
            self.list(filter);
        }
    }

    /// The end of that.
    pub(crate) fn owe_no_more(&self, filter: &str, kept: &Arc<Kept>, options: Options) {
        if self.keeper.remove(filter, &Target::Session(Arc::clone(kept), options)) {
            self.unlist(filter);
        }
    }

    /// Has a group dealt the messages of a filter.
    pub(crate) fn open_group(&self, filter: &str, group: &Arc<Group>) {
        if self.keeper.insert(filter, Target::Group(Arc::clone(group))) {
            self.list(filter);
        }
    }

    /// The end of that.
    pub(crate) fn close_group(&self, filter: &str, group: &Arc<Group>) {
        if self.keeper.remove(filter, &Target::Group(Arc::clone(group))) {
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

    pub(crate) fn index_remove(&self, filter: &str, session: u64) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let was_there = index.remove(filter, &session);
        drop(index);
        if was_there {
            self.unlist(filter);
        }
    }
}

/// The detail of an event about a delivery.
pub(crate) fn delivery(reason: &str, puback_props: Option<proto::Properties>) -> Detail {
    Detail::Delivery(proto::Delivery { reason: reason.to_owned(), puback_props })
}
