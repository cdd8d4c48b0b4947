//! Readers of events: shared groups at the tail, their own groups from the files behind it.

use std::sync::Arc;

use super::cache::{Cache, Decoded, Selection, Wanted};
use crate::event::{Event, EventKinds};
use crate::log::{LogError, Reader};

/// A batch is ended after so many events, so that a reader sees its progress.
const BATCH_EVENTS_MAX: usize = 1024;

/// Reads events in order.
#[derive(Debug)]
pub struct EventReader {
    log_id: u128,
    reader: Reader,
    cache: Arc<Cache>,
    wanted: Wanted,
    /// The group that the position is in, if one was read.
    current: Option<Arc<Decoded>>,
}

/// Events that follow one another, of the kinds that were asked for; it may hold none.
#[derive(Debug, Clone, Default)]
pub struct EventBatch {
    events: Vec<Arc<Event>>,
    /// The offset after the last record that was looked at, whether it was wanted or not.
    pub next_offset: u64,
}

impl EventBatch {
    /// The events, shared with other readers.
    pub fn events(&self) -> &[Arc<Event>] {
        &self.events
    }
}

impl EventReader {
    pub(super) fn new(log_id: u128, reader: Reader, cache: Arc<Cache>) -> Self {
        Self {
            log_id,
            reader,
            cache,
            wanted: Wanted { kinds: EventKinds::ALL, selection: None },
            current: None,
        }
    }

    /// Only events of `kinds`; of others the header alone is read.
    #[must_use]
    pub fn with_kinds(mut self, kinds: EventKinds) -> Self {
        self.set_kinds(kinds);
        self
    }

    /// From now on only events of `kinds`.
    pub fn set_kinds(&mut self, kinds: EventKinds) {
        self.wanted.kinds = kinds;
    }

    /// Only events that `selection` takes, by what the header says: of others the body is not decoded.
    #[must_use]
    pub fn with_selection(mut self, selection: Selection) -> Self {
        self.wanted.selection = Some(selection);
        self
    }

    /// The offset that comes next.
    pub fn position(&self) -> u64 {
        self.reader.position()
    }

    /// Goes on from `offset`.
    pub fn seek(&mut self, offset: u64) {
        self.reader.seek(offset);
    }

    /// What comes next, as soon as something is durable. The batch may hold no event that is wanted, but its
    /// `next_offset` is always beyond the position before. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// As [`Reader::next_batch`], and [`LogError::Event`] for a record at the position that is no event: seek beyond
    /// it to go on.
    pub async fn next_batch(&mut self) -> Result<EventBatch, LogError> {
        loop {
            if let Some(batch) = self.take_shared()? {
                return Ok(batch);
            }
            self.reader.ready().await?;
            if let Some(batch) = self.take_shared()? {
                return Ok(batch);
            }
            let position = self.reader.position();
            let records = self.reader.next_batch().await?;
            self.reader.seek(position);
            self.current = Some(Arc::new(Decoded::new(records)));
        }
    }

    /// What comes next; none if the end is reached. Reads files on this thread.
    ///
    /// # Errors
    /// As [`EventReader::next_batch`], but the end of a closed log is no error.
    pub fn try_next_batch(&mut self) -> Result<Option<EventBatch>, LogError> {
        if let Some(batch) = self.take_shared()? {
            return Ok(Some(batch));
        }
        let position = self.reader.position();
        let Some(records) = self.reader.try_next_batch()? else { return Ok(None) };
        self.reader.seek(position);
        self.current = Some(Arc::new(Decoded::new(records)));
        self.take_shared()
    }

    /// What comes next, if it can be had without reading files.
    fn take_shared(&mut self) -> Result<Option<EventBatch>, LogError> {
        let mut batch = EventBatch { events: Vec::new(), next_offset: self.position() };
        while batch.events.len() < BATCH_EVENTS_MAX
            && let Some(group) = self.group_at(batch.next_offset)
        {
            while batch.events.len() < BATCH_EVENTS_MAX && batch.next_offset < group.next_offset() {
                match group.event(self.log_id, batch.next_offset, &self.wanted) {
                    Ok(event) => batch.events.extend(event),
                    // What was good comes first; the next call begins with the error.
                    Err(_) if batch.next_offset > self.position() => return Ok(Some(self.take(batch))),
                    Err(error) => return Err(error),
                }
                batch.next_offset += 1;
            }
        }
        Ok((batch.next_offset > self.position()).then(|| self.take(batch)))
    }

    fn take(&mut self, batch: EventBatch) -> EventBatch {
        self.reader.seek(batch.next_offset);
        batch
    }

    /// The decoded group that `offset` is in, if it is durable and in memory.
    fn group_at(&mut self, offset: u64) -> Option<Arc<Decoded>> {
        if let Some(current) = self.current.as_ref().filter(|current| current.contains(offset)) {
            return Some(current.clone());
        }
        self.current = self
            .cache
            .get(offset)
            .or_else(|| self.reader.tail_group(offset).map(|records| self.cache.insert(records)));
        self.current.clone()
    }
}
