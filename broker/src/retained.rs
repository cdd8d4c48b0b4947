//! Retained messages: kept here, not in the router, so that they survive a restart and obey retain handling and expiry.
//! Memory answers; the registry remembers.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock};

use muster_core::registry::{Registry, RegistryError, RetainedChange};
use muster_core::topic;

use crate::envelope::Envelope;

/// The last retained message of each topic.
pub(crate) struct Retained {
    messages: RwLock<BTreeMap<String, Envelope>>,
    registry: Registry,
    messages_max: usize,
    bytes_max: usize,
}

impl Retained {
    /// What the registry remembers.
    pub(crate) fn load(
        registry: Registry,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<Self, RegistryError> {
        let rows = registry.retained()?;
        let messages = rows.into_iter().filter_map(|(topic, message)| {
            let envelope = Envelope::decode(message.into());
            if envelope.is_none() {
                tracing::warn!(topic, "a retained message cannot be read and is ignored");
            }
            Some((topic, envelope?))
        });
        Ok(Self { messages: RwLock::new(messages.collect()), registry, messages_max, bytes_max })
    }

    /// Retains a message that was published with the retain flag; an empty one clears its topic.
    pub(crate) async fn apply(&self, topic: &str, envelope: &Envelope, now_ms: i64) {
        let Some(room) = self.registry.reserve().await else { return };
        let mut messages = self.messages.write().unwrap_or_else(PoisonError::into_inner);
        if envelope.payload.is_empty() {
            if messages.remove(topic).is_some() {
                room.change_retained(RetainedChange::Clear { topic: topic.to_owned() });
            }
            return;
        }
        let is_new = !messages.contains_key(topic);
        if envelope.payload.len() > self.bytes_max || is_new && messages.len() >= self.messages_max {
            tracing::warn!(topic, "not retained: a limit for retained messages is reached");
            return;
        }
        // A copy, so that a retained message does not keep the buffer that it arrived in.
        let message = envelope.encode();
        let Some(own) = Envelope::decode(message.clone()) else { return };
        messages.insert(topic.to_owned(), own);
        room.change_retained(RetainedChange::Set { topic: topic.to_owned(), message, set_at_ms: now_ms });
    }

    /// The messages that a subscription to `filter` is sent, except those whose time is over.
    pub(crate) fn matching(&self, filter: &str, now_ms: i64) -> Vec<(String, Envelope)> {
        let messages = self.messages.read().unwrap_or_else(PoisonError::into_inner);
        let Some(wildcard) = filter.find(['+', '#']) else {
            let found = messages.get_key_value(filter).into_iter();
            return found.filter(|(_, it)| !expired(it, now_ms)).map(own).collect();
        };
        // All that can match begins with what stands before the first wildcard; `a/#` also matches `a`.
        let prefix = &filter[..wildcard];
        let parent = prefix.strip_suffix('/').filter(|_| filter[wildcard..].starts_with('#'));
        let parent = parent.and_then(|name| messages.get_key_value(name)).into_iter();
        let range = messages.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let range = range.take_while(|(name, _)| name.starts_with(prefix));
        parent
            .chain(range.filter(|(name, _)| topic::matches(filter, name)))
            .filter(|(_, it)| !expired(it, now_ms))
            .map(own)
            .collect()
    }

    /// Waits until all changes so far are stored.
    pub(crate) async fn flush(&self) {
        self.registry.flush().await;
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}

fn own((topic, envelope): (&String, &Envelope)) -> (String, Envelope) {
    (topic.clone(), envelope.clone())
}

fn expired(envelope: &Envelope, now_ms: i64) -> bool {
    remaining_seconds(envelope, now_ms) == Some(0)
}

/// What is left of the message's life; none where it does not end.
pub(crate) fn remaining_seconds(envelope: &Envelope, now_ms: i64) -> Option<u32> {
    let interval = envelope.properties()?.message_expiry_interval?;
    let waited = now_ms.saturating_sub(envelope.received_at_ms).max(0) / 1_000;
    Some(interval.saturating_sub(u32::try_from(waited).unwrap_or(u32::MAX)))
}
