//! Decoded events at the tail, shared. A group of the log gets a slot for each of its records; the first reader that
//! wants a record decodes it, all others take the same event.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::event::{Event, EventError, EventKind, EventKinds};
use crate::log::{LogError, RecordBatch, RecordRef};

/// How much of the tail is kept decoded, counted in bytes of the log plus what a decoded event takes beyond them.
pub const SHARED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What a decoded event takes beyond its bytes: the event itself, its place, and some short strings.
const SLOT_BYTES: usize = size_of::<Event>() + size_of::<Slot>() + 128;

#[derive(Debug, Default)]
pub(super) struct Cache {
    groups: Mutex<Groups>,
}

#[derive(Debug, Default)]
struct Groups {
    newest: VecDeque<Arc<Decoded>>,
    bytes: usize,
}

/// A group of records, decoded as far as anybody wanted.
#[derive(Debug)]
pub(super) struct Decoded {
    batch: RecordBatch,
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    at: usize,
    event: OnceLock<Arc<Event>>,
}

/// What a reader wants to see.
pub(super) struct Wanted {
    pub(super) kinds: EventKinds,
    pub(super) selection: Option<Selection>,
}

/// Says whether an event of this kind and topic is wanted.
pub type Selection = Arc<dyn Fn(EventKind, &str) -> bool + Send + Sync>;

impl Wanted {
    /// A kind that this version does not know is nobody's. A topic that is no text is everybody's, so that the error
    /// is seen.
    fn includes(&self, record: &RecordRef<'_>) -> bool {
        let kind = EventKind::from_code(record.kind()).filter(|kind| self.kinds.contains(*kind));
        let Some(kind) = kind else { return false };
        match (&self.selection, std::str::from_utf8(record.topic())) {
            (Some(selection), Ok(topic)) => selection(kind, topic),
            _ => true,
        }
    }
}

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted").field("kinds", &self.kinds).finish_non_exhaustive()
    }
}

impl Cache {
    /// The group that `offset` is in, if it is at the tail.
    pub(super) fn get(&self, offset: u64) -> Option<Arc<Decoded>> {
        let groups = self.lock();
        let at = groups.newest.partition_point(|group| group.batch.next_offset() <= offset);
        groups.newest.get(at).filter(|group| group.batch.first_offset() <= offset).cloned()
    }

    /// Takes in a whole group of the tail; if somebody was faster, theirs is the answer.
    pub(super) fn insert(&self, batch: RecordBatch) -> Arc<Decoded> {
        let group = Arc::new(Decoded::new(batch));
        let mut groups = self.lock();
        let at =
            groups.newest.partition_point(|other| other.batch.next_offset() <= group.batch.first_offset());
        if let Some(same) = groups.newest.get(at)
            && same.batch.first_offset() <= group.batch.first_offset()
        {
            return same.clone();
        }
        groups.bytes += group.cost();
        groups.newest.insert(at, group.clone());
        while groups.bytes > SHARED_BYTES_MAX {
            let Some(oldest) = groups.newest.pop_front() else { break };
            groups.bytes -= oldest.cost();
        }
        group
    }

    fn lock(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Decoded {
    pub(super) fn new(batch: RecordBatch) -> Self {
        let slots = batch.iter().map(|record| Slot { at: record.at(), event: OnceLock::new() }).collect();
        Self { batch, slots }
    }

    pub(super) fn next_offset(&self) -> u64 {
        self.batch.next_offset()
    }

    pub(super) fn contains(&self, offset: u64) -> bool {
        (self.batch.first_offset()..self.batch.next_offset()).contains(&offset)
    }

    /// The event at `offset`, if it is wanted: of others only the header is looked at.
    pub(super) fn event(
        &self,
        log_id: u128,
        offset: u64,
        wanted: &Wanted,
    ) -> Result<Option<Arc<Event>>, LogError> {
        let place = usize::try_from(offset - self.batch.first_offset()).unwrap_or(usize::MAX);
        let Some(slot) = self.slots.get(place) else { return Ok(None) };
        let record = self.batch.record_at(slot.at);
        if !wanted.includes(&record) {
            return Ok(None);
        }
        if let Some(event) = slot.event.get() {
            return Ok(Some(event.clone()));
        }
        let event = Arc::new(decode(log_id, &record).map_err(|error| LogError::Event(Arc::new(error)))?);
        Ok(Some(slot.event.get_or_init(|| event).clone()))
    }

    fn cost(&self) -> usize {
        self.batch.bytes().len() + self.slots.len() * SLOT_BYTES
    }
}

fn decode(log_id: u128, record: &RecordRef<'_>) -> Result<Event, EventError> {
    Event::decode(
        log_id,
        record.offset(),
        record.timestamp_ms(),
        record.kind(),
        record.topic(),
        record.body_bytes(),
    )
}
