//! Decoded events at the tail, shared. A group of the log gets a slot for each of its records; the first reader that
//! wants a record decodes it, all others take the same event.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::event::{Event, EventError, EventKind, EventKinds};
use crate::log::{LogError, RecordBatch, RecordRef};

/// How much of the tail is kept decoded, counted in bytes of the log plus [`SLOT_BYTES`] a record.
pub const SHARED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What a decoded event takes beyond its bytes, roughly.
const SLOT_BYTES: usize = 640;

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

    /// The event at `offset`, if it is of one of `kinds`: of others only the header is looked at. A kind that this
    /// version does not know is nobody's.
    pub(super) fn event(
        &self,
        log_id: u128,
        offset: u64,
        kinds: EventKinds,
    ) -> Result<Option<Arc<Event>>, LogError> {
        let place = usize::try_from(offset - self.batch.first_offset()).unwrap_or(usize::MAX);
        let Some(slot) = self.slots.get(place) else { return Ok(None) };
        let record = self.batch.record_at(slot.at);
        if !EventKind::from_code(record.kind()).is_some_and(|kind| kinds.contains(kind)) {
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
