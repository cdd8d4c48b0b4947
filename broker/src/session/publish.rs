//! The publisher's side: a PUBLISH is checked, written to the log, handed on, and acknowledged when it is durable.
//! QoS 2 is handled here alone: an identifier that is not released is not published twice.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use muster_core::journal::Journal;
use muster_core::log::LogError;
use muster_core::topic;

use super::online::{Connection, End};
use super::send::Later;
use crate::access::Action;
use crate::codec::{Publish, Qos, Version, encode, reason};
use crate::hub::NewMessage;

const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const PUBCOMP: u8 = 7;

/// An acknowledgement that waits for its turn and for the disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct PendingAck {
    /// None where nothing was written.
    offset: Option<u64>,
    kind: u8,
    pkid: u16,
    code: u8,
}

impl Connection {
    pub(super) async fn on_publish(&mut self, mut publish: Publish) -> Result<(), End> {
        self.resolve_alias(&mut publish)?;
        let qos = publish.qos;
        let counters = &self.actor.hub.counters;
        [
            &counters.messages_received_qos0,
            &counters.messages_received_qos1,
            &counters.messages_received_qos2,
        ][usize::from(qos.as_u8())]
        .add(1);
        self.actor.facts.messages_received[usize::from(qos.as_u8())].add(1);
        if topic::validate_name(&publish.topic).is_err() {
            return Err(End::Refused { code: reason::TOPIC_NAME_INVALID, reason: "topic_name_invalid" });
        }
        if let Some(response) = publish.props.as_ref().and_then(|props| props.response_topic.as_deref())
            && topic::validate_name(response).is_err()
        {
            return Err(End::Refused { code: reason::PROTOCOL_ERROR, reason: "protocol_error" });
        }
        if qos == Qos::ExactlyOnce && self.is_repeated(publish.pkid)? {
            return Ok(());
        }
        let action = Action::Publish { qos, retain: publish.retain };
        if !self.authorize(action, &publish.topic).await? {
            return self.deny(qos, publish.pkid);
        }
        self.write(publish).await
    }

    async fn write(&mut self, publish: Publish) -> Result<(), End> {
        let Publish { dup, qos, retain, pkid, topic, props, payload, .. } = publish;
        let (origin, republished_by, republication, request) = ("", String::new(), None, None);
        let message = NewMessage {
            topic,
            payload,
            qos,
            retain,
            dup,
            props,
            origin,
            republished_by,
            republication,
            request,
            packet_id: if qos == Qos::ExactlyOnce { pkid } else { 0 },
        };
        let hub = Arc::clone(&self.actor.hub);
        let kept = self.actor.session.kept().cloned().filter(|_| qos == Qos::ExactlyOnce);
        // Until the ledger knows of the identifier, a start looks for it in the log.
        let _under_way = kept.as_ref().map(|_| hub.keeper.begin());
        let published = hub.publish(&mut self.actor.recorder, message).await;
        let (offset, code) = match published {
            Ok(done) if done.matched || self.version < Version::V5 => (done.offset, reason::SUCCESS),
            Ok(done) => (done.offset, reason::NO_MATCHING_SUBSCRIBERS),
            Err(error) => {
                self.refuse(qos, pkid, &error);
                return Ok(());
            }
        };
        match qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => self.ack_when_durable(offset, PUBACK, pkid, code),
            Qos::ExactlyOnce => {
                if let Some(kept) = kept {
                    kept.received(pkid, offset);
                }
                self.actor.session.unreleased.insert(pkid, offset);
                self.count_unreleased();
                self.ack_when_durable(offset, PUBREC, pkid, code);
            }
        }
        Ok(())
    }

    /// PUBREL: the client will not send this message again.
    pub(super) async fn on_pubrel(&mut self, pkid: u16) {
        let known = self.actor.session.unreleased.remove(&pkid);
        self.count_unreleased();
        let code = if known.is_some() { reason::SUCCESS } else { reason::PACKET_IDENTIFIER_NOT_FOUND };
        // Were it forgotten that the identifier is free, the client's next message under it would be taken for this.
        // One
        // that is not known may have been released a moment ago, on an earlier connection.
        let ticket = match (self.actor.session.kept().cloned(), known) {
            (Some(kept), Some(offset)) => kept.release(pkid, offset).await,
            _ => self.barrier().await,
        };
        if let Some(ticket) = ticket {
            return self.later(ticket, Later::PubComp { pkid, code });
        }
        self.complete_publish(pkid, code);
    }

    pub(super) fn complete_publish(&mut self, pkid: u16, code: u8) {
        self.send(|out, version| encode::ack(out, version, PUBCOMP, pkid, code));
    }

    /// Acknowledges what has become durable, in the order in which it came. After an error nothing is acknowledged
    /// but that there is no room, which MQTT 5 has a code for.
    pub(super) fn acknowledge(&mut self, durable: Result<(), LogError>) {
        if let Err(error) = durable {
            let Some(refused) = self.pending_acks.pop_front() else { return };
            tracing::warn!(clientid = self.actor.clientid(), %error, "a publish is not acknowledged");
            self.actor.session.unreleased.remove(&refused.pkid);
            if let Some(kept) = self.actor.session.kept() {
                kept.not_received(refused.pkid);
            }
            if self.version == Version::V5 && matches!(error, LogError::DiskFull { .. }) {
                let PendingAck { kind, pkid, .. } = refused;
                self.send(|out, version| encode::ack(out, version, kind, pkid, reason::QUOTA_EXCEEDED));
            }
            return;
        }
        let durable_offset = self.actor.hub.journal.durable_offset();
        while let Some(ack) = self.pending_acks.front().copied() {
            if ack.offset.is_some_and(|offset| offset >= durable_offset) {
                break;
            }
            self.pending_acks.pop_front();
            self.actor.hub.counters.messages_acked.add(1);
            self.send(|out, version| encode::ack(out, version, ack.kind, ack.pkid, ack.code));
        }
    }

    /// Whether nothing more may be read until acknowledgements have gone out.
    pub(super) fn is_window_full(&self) -> bool {
        self.pending_acks.len() >= usize::from(self.actor.hub.config.limits.receive_maximum)
    }

    fn ack_when_durable(&mut self, offset: u64, kind: u8, pkid: u16, code: u8) {
        self.pending_acks.push_back(PendingAck { offset: Some(offset), kind, pkid, code });
    }

    /// Answers a QoS 2 publish that came before and was not released: it is acknowledged again, not published again.
    fn is_repeated(&mut self, pkid: u16) -> Result<bool, End> {
        if let Some(offset) = self.actor.session.unreleased.get(&pkid).copied() {
            self.ack_when_durable(offset, PUBREC, pkid, reason::SUCCESS);
            return Ok(true);
        }
        let receive_maximum = usize::from(self.actor.hub.config.limits.receive_maximum);
        if self.version == Version::V5 && self.actor.session.unreleased.len() >= receive_maximum {
            return Err(End::Refused {
                code: reason::RECEIVE_MAXIMUM_EXCEEDED,
                reason: "receive_maximum_exceeded",
            });
        }
        Ok(false)
    }

    /// A publish that the client may not make: MQTT 5 is told so; MQTT 3.1.1 knows no such answer, so that its client
    /// gets a plain acknowledgement (3.1.1, 3.3.5).
    fn deny(&mut self, qos: Qos, pkid: u16) -> Result<(), End> {
        let code = if self.version == Version::V5 { reason::NOT_AUTHORIZED } else { reason::SUCCESS };
        let kind = match qos {
            Qos::AtMostOnce => return Ok(()),
            Qos::AtLeastOnce => PUBACK,
            Qos::ExactlyOnce => PUBREC,
        };
        self.pending_acks.push_back(PendingAck { offset: None, kind, pkid, code });
        Ok(())
    }

    /// The log takes no event now. MQTT 5 is told when the disk is full; else there is no answer, so that the client
    /// keeps the message.
    fn refuse(&mut self, qos: Qos, pkid: u16, error: &LogError) {
        tracing::warn!(clientid = self.actor.clientid(), %error, "a publish is not acknowledged");
        let kind = match qos {
            Qos::AtMostOnce => return,
            Qos::AtLeastOnce => PUBACK,
            Qos::ExactlyOnce => PUBREC,
        };
        if self.version == Version::V5 && matches!(error, LogError::DiskFull { .. }) {
            self.pending_acks.push_back(PendingAck {
                offset: None,
                kind,
                pkid,
                code: reason::QUOTA_EXCEEDED,
            });
        }
    }

    /// Puts the topic that an alias stands for into the packet, or learns an alias.
    fn resolve_alias(&mut self, publish: &mut Publish) -> Result<(), End> {
        let Some(alias) = publish.alias else {
            return if publish.topic.is_empty() && self.version == Version::V5 {
                Err(End::Refused { code: reason::PROTOCOL_ERROR, reason: "protocol_error" })
            } else {
                Ok(())
            };
        };
        if alias > self.actor.hub.config.limits.topic_alias_maximum {
            return Err(End::Refused { code: reason::TOPIC_ALIAS_INVALID, reason: "topic_alias_invalid" });
        }
        if !publish.topic.is_empty() {
            self.aliases.insert(alias, publish.topic.clone());
        } else if let Some(topic) = self.aliases.get(&alias) {
            publish.topic.clone_from(topic);
        } else {
            return Err(End::Refused { code: reason::PROTOCOL_ERROR, reason: "protocol_error" });
        }
        Ok(())
    }

    fn count_unreleased(&self) {
        let count = self.actor.session.unreleased.len();
        self.actor.facts.awaiting_release.store(count, Ordering::Relaxed);
    }
}

/// Waits until the first pending acknowledgement may go out.
pub(super) async fn first_durable(journal: &Journal, pending: &VecDeque<PendingAck>) -> Result<(), LogError> {
    match pending.front() {
        None => std::future::pending().await,
        Some(PendingAck { offset: None, .. }) => Ok(()),
        Some(PendingAck { offset: Some(offset), .. }) => journal.durable(*offset).await,
    }
}
