//! The will: what is published when a connection ends without the client having said goodbye.

use std::time::Duration;

use bytes::Bytes;
use muster_core::event::proto;
use muster_core::sessions::{Change, StoredWill};
use muster_core::topic;
use prost::Message as _;

use super::Actor;
use crate::access::Action;
use crate::codec::{Qos, Will};
use crate::hub::NewMessage;
use crate::keeper::Memory;

impl Will {
    /// How long it waits after the connection's end.
    pub(crate) fn delay(&self) -> Duration {
        let seconds = self.props.as_ref().and_then(|props| props.will_delay_interval).unwrap_or_default();
        Duration::from_secs(u64::from(seconds))
    }

    /// As it is stored.
    pub(crate) fn encode(&self) -> Bytes {
        let message = proto::Message {
            payload: self.payload.clone(),
            qos: u32::from(self.qos.as_u8()),
            retain: self.retain,
            props: self.props.clone(),
            ..proto::Message::default()
        };
        message.encode_to_vec().into()
    }

    /// What was stored; none where it cannot be read.
    pub(crate) fn decode(topic: String, body: Bytes) -> Option<Self> {
        let proto::Message { payload, qos, retain, props, .. } = proto::Message::decode(body).ok()?;
        let qos = u8::try_from(qos).ok().and_then(Qos::from_u8)?;
        Some(Self { topic, payload, qos, retain, props })
    }
}

impl Actor {
    /// The change that stores a will of this connection.
    pub(crate) fn will(&self, will: &Will) -> Change {
        let memory = Memory::new(&self.facts.fixed, &self.subject, self.session.expiry_seconds);
        Change::Will(StoredWill {
            clientid: self.clientid().to_owned(),
            session: self.recorder.client().session,
            facts: memory.encode(),
            topic: will.topic.clone(),
            body: will.encode(),
            due_at_ms: None,
        })
    }

    /// The client is gone, and its will waits.
    pub(super) async fn will_is_due(&self, delay: Duration) {
        let (clientid, session) = (self.clientid().to_owned(), self.recorder.client().session);
        let delay_ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
        let due_at_ms = self.recorder.wall_ms().saturating_add(delay_ms);
        // Nobody waits for it: without it, the delay begins anew after a crash.
        let _ticket = self.hub.keeper.write(vec![Change::WillDue { clientid, session, due_at_ms }]).await;
    }

    /// What is stored of a will is not needed any more: it was published, or never will be.
    pub(super) async fn forget_will(&mut self) {
        if std::mem::take(&mut self.left_will) {
            let (clientid, session) = (self.clientid().to_owned(), self.recorder.client().session);
            let _ticket = self.hub.keeper.write(vec![Change::NoWill { clientid, session }]).await;
        }
    }

    /// Publishes the will, if its client may publish there.
    pub(super) async fn publish_will(&mut self, will: Will) {
        let hub = std::sync::Arc::clone(&self.hub);
        // While the log may have it and the store does not know that, a start looks for it in the log.
        let _under_way = self.left_will.then(|| hub.keeper.begin());
        self.publish_it(will).await;
        self.forget_will().await;
    }

    async fn publish_it(&mut self, will: Will) {
        let Will { topic, payload, qos, retain, props } = will;
        if topic::validate_name(&topic).is_err() {
            return;
        }
        if !self.authorize(Action::Publish { qos, retain }, &topic).await {
            return;
        }
        // The delay is between client and server; what subscribers get is without it.
        let props = props.map(|mut props| {
            props.will_delay_interval = None;
            props
        });
        let message = NewMessage {
            topic,
            payload,
            qos,
            retain,
            dup: false,
            props,
            origin: "will",
            republished_by: String::new(),
            republication: None,
            request: None,
            packet_id: 0,
        };
        match self.hub.publish(&mut self.recorder, message).await {
            Ok(_) => self.hub.counters.wills_published.add(1),
            Err(error) => {
                tracing::warn!(clientid = self.clientid(), %error, "a will could not be published");
            }
        }
    }
}
