//! Retained messages: they survive a restart, and obey retain handling and expiry.
//! Memory answers; the registry remembers, a moment later; what a crash took from it is read again out of the log.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Mutex, PoisonError, RwLock};

use muster_core::event::{EventKind, EventKinds};
use muster_core::journal::Journal;
use muster_core::registry::{Mark, Registry, Reserved, RetainedChange};
use muster_core::topic;

use crate::envelope::Envelope;
use crate::error::BrokerError;
use crate::under_way::{Pending, UnderWay};

/// A message that is about to be retained.
pub(crate) struct Retaining<'a> {
    room: Reserved<'a>,
    under_way: UnderWay<'a>,
}

/// The last retained message of each topic.
pub(crate) struct Retained {
    messages: RwLock<BTreeMap<String, Envelope>>,
    journal: Journal,
    registry: Registry,
    /// Publishes that are not retained yet.
    pending: Pending,
    /// Topics that were cleared a moment ago, by the offset of the event. Locked after `messages`.
    cleared: Mutex<HashMap<String, Option<u64>>>,
    messages_max: usize,
    bytes_max: usize,
}

impl Retained {
    /// What the registry remembers, and what the log knows beyond it.
    pub(crate) async fn load(
        registry: Registry,
        journal: Journal,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<Self, BrokerError> {
        let rows = registry.retained()?;
        let mark = registry.retained_mark()?;
        let messages = rows.into_iter().filter_map(|(topic, message)| {
            let envelope = Envelope::decode(message.into());
            if envelope.is_none() {
                tracing::warn!(topic, "a retained message cannot be read and is ignored");
            }
            Some((topic, envelope?))
        });
        let messages = RwLock::new(messages.collect());
        let (pending, cleared) = (Pending::default(), Mutex::default());
        let retained = Self { messages, journal, registry, pending, cleared, messages_max, bytes_max };
        retained.read_again(mark).await?;
        Ok(retained)
    }

    /// Says that a message which is about to be written to the log will be retained. Waits for room in the registry, so
    /// that nothing waits between the event and what follows from it. None where nothing can be stored any more.
    pub(crate) async fn begin(&self) -> Option<Retaining<'_>> {
        let room = self.registry.reserve().await?;
        Some(Retaining { room, under_way: self.pending.begin(&self.journal) })
    }

    /// Retains a message that was published with the retain flag; an empty one clears its topic. Of two at the same
    /// time the one counts whose event is the later.
    pub(crate) fn apply(
        &self,
        Retaining { room, under_way }: Retaining<'_>,
        topic: &str,
        envelope: &Envelope,
    ) {
        let mut messages = self.messages.write().unwrap_or_else(PoisonError::into_inner);
        let offset = self.offset_of(envelope);
        if messages.get(topic).is_some_and(|it| self.offset_of(it) > offset) || self.is_cleared(topic, offset)
        {
            return;
        }
        let change = if envelope.payload.is_empty() {
            self.note_cleared(topic, offset);
            if messages.remove(topic).is_none() {
                return;
            }
            RetainedChange::Clear { topic: topic.to_owned() }
        } else {
            let is_new = !messages.contains_key(topic);
            if envelope.payload.len() > self.bytes_max || is_new && messages.len() >= self.messages_max {
                tracing::warn!(topic, "not retained: a limit for retained messages is reached");
                return;
            }
            // A copy, so that a retained message does not keep the buffer that it arrived in.
            let message = envelope.encode();
            let Some(own) = Envelope::decode(message.clone()) else { return };
            messages.insert(topic.to_owned(), own);
            RetainedChange::Set { topic: topic.to_owned(), message, set_at_ms: envelope.received_at_ms }
        };
        drop(under_way);
        room.change_retained(change, self.mark());
    }

    /// Writes down that the log up to here needs not be read again; then waits until all is stored.
    pub(crate) async fn store_mark(&self) {
        if let Some(room) = self.registry.reserve().await {
            let _order = self.messages.write().unwrap_or_else(PoisonError::into_inner);
            room.mark_retained(self.mark());
        }
        self.registry.flush().await;
    }

    /// Applies what the log has from the mark on. Doing so twice changes nothing: the last message of a topic wins.
    async fn read_again(&self, mark: Option<Mark>) -> Result<(), BrokerError> {
        let first = self.journal.first_offset();
        let known = mark.filter(|mark| mark.log_id == self.journal.log_id()).map(|mark| mark.read_from);
        let mut reader = self.journal.reader(known.unwrap_or(first).max(first));
        reader.set_kinds(EventKinds::NONE.with(EventKind::MessagePublish));
        while let Some(batch) = reader.try_next_batch()? {
            for event in batch.events() {
                if let Some(envelope) = Envelope::of(event).filter(|it| it.retain)
                    && let Some(retaining) = self.begin().await
                {
                    self.apply(retaining, &event.topic, &envelope);
                }
            }
        }
        Ok(())
    }

    /// The offset of a message's event; none where it is of another log, and so older than all that happens here.
    fn offset_of(&self, envelope: &Envelope) -> Option<u64> {
        u64::try_from(u128::from_be_bytes(envelope.id).wrapping_sub(self.journal.log_id())).ok()
    }

    /// Whether the topic was cleared by an event after this offset.
    fn is_cleared(&self, topic: &str, offset: Option<u64>) -> bool {
        let cleared = self.cleared.lock().unwrap_or_else(PoisonError::into_inner);
        cleared.get(topic).is_some_and(|at| *at > offset)
    }

    /// Remembers that the topic was cleared while a message may be under way that was published before.
    fn note_cleared(&self, topic: &str, offset: Option<u64>) {
        let first = self.pending.first(&self.journal);
        let mut cleared = self.cleared.lock().unwrap_or_else(PoisonError::into_inner);
        cleared.retain(|_, at| at.is_some_and(|at| at >= first));
        cleared.insert(topic.to_owned(), offset);
    }

    fn mark(&self) -> Mark {
        let read_from = self.pending.first(&self.journal);
        Mark { log_id: self.journal.log_id(), read_from }
    }

    /// The next messages that a subscription to `filter` is sent, in the order of their topics: at most `count`,
    /// those after the topic `after`, and none whose time is over.
    pub(crate) fn matching(
        &self,
        filter: &str,
        after: Option<&str>,
        count: usize,
        now_ms: i64,
    ) -> Vec<(String, Envelope)> {
        let messages = self.messages.read().unwrap_or_else(PoisonError::into_inner);
        // All that can match begins with what stands before the first wildcard; `a/#` also matches `a`.
        let (prefix, is_exact) = match filter.find(['+', '#']) {
            None => (filter, true),
            Some(at) if filter[at..] == *"#" => {
                (filter[..at].strip_suffix('/').unwrap_or(&filter[..at]), false)
            }
            Some(at) => (&filter[..at], false),
        };
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let range = messages.range::<str, _>((from, Bound::Unbounded));
        let candidates =
            range.take_while(|(name, _)| if is_exact { *name == prefix } else { name.starts_with(prefix) });
        candidates
            .filter(|(name, it)| (is_exact || topic::matches(filter, name)) && !expired(it, now_ms))
            .take(count)
            .map(|(name, it)| (name.clone(), it.clone()))
            .collect()
    }

    /// Those whose topics `filter` matches, without the first `skip`, at most `count`; and how many there are. None of
    /// those whose time is over.
    pub(crate) fn page(
        &self,
        filter: Option<&str>,
        (skip, count): (usize, usize),
        now_ms: i64,
    ) -> (Vec<(String, Envelope)>, usize) {
        let messages = self.messages.read().unwrap_or_else(PoisonError::into_inner);
        let is_meant = |(name, it): &(&String, &Envelope)| {
            filter.is_none_or(|filter| topic::matches(filter, name)) && !expired(it, now_ms)
        };
        let mut total = 0;
        let mut page = Vec::new();
        for (name, envelope) in messages.iter().filter(is_meant) {
            if total >= skip && page.len() < count {
                page.push((name.clone(), envelope.clone()));
            }
            total += 1;
        }
        (page, total)
    }

    /// The message of one topic.
    pub(crate) fn get(&self, topic: &str, now_ms: i64) -> Option<Envelope> {
        let messages = self.messages.read().unwrap_or_else(PoisonError::into_inner);
        messages.get(topic).filter(|it| !expired(it, now_ms)).cloned()
    }

    /// The topics that have one, also those whose time is over.
    pub(crate) fn topics(&self) -> Vec<String> {
        self.messages.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.read().unwrap_or_else(PoisonError::into_inner).len()
    }
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
