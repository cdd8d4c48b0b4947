//! Which publishes are between their event and what has to be done about it, so that it is known from where on the log
//! must be read again after a crash. It must never know what has to be done.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use muster_core::journal::Journal;

/// Offsets before which the events of publishes that are under way cannot stand, and how many each.
#[derive(Debug, Default)]
pub(crate) struct Pending(Mutex<BTreeMap<u64, usize>>);

/// A publish whose event may be anywhere from here on; done with when it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay<'a> {
    pending: &'a Pending,
    offset: u64,
}

impl Pending {
    /// Says that an event is about to be written.
    pub(crate) fn begin(&self, journal: &Journal) -> UnderWay<'_> {
        let mut offsets = self.offsets();
        // Asked while nobody can ask for the first of them, which would otherwise miss this one.
        let offset = journal.next_offset();
        *offsets.entry(offset).or_default() += 1;
        UnderWay { pending: self, offset }
    }

    /// Before this offset nothing is under way.
    pub(crate) fn first(&self, journal: &Journal) -> u64 {
        let offsets = self.offsets();
        offsets.keys().next().copied().unwrap_or_else(|| journal.next_offset())
    }

    fn offsets(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut offsets = self.pending.offsets();
        if let Some(count) = offsets.get_mut(&self.offset) {
            *count -= 1;
            if *count == 0 {
                offsets.remove(&self.offset);
            }
        }
    }
}
