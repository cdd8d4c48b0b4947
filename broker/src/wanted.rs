//! Which of the events that are written on request somebody asks for now.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use muster_core::event::{EventKind, EventKinds};

/// A set of kinds that rules' owner sets and sessions read on each message. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Wanted(Arc<AtomicU64>);

impl Wanted {
    /// Nothing is wanted.
    pub fn none() -> Self {
        Self::default()
    }

    /// Replaces the set; sessions see it with their next event.
    pub fn set(&self, kinds: EventKinds) {
        self.0.store(kinds.bits(), Ordering::Relaxed);
    }

    /// The set.
    pub fn get(&self) -> EventKinds {
        EventKinds::from_bits(self.0.load(Ordering::Relaxed))
    }

    /// Whether somebody asks for `kind`.
    pub fn contains(&self, kind: EventKind) -> bool {
        self.get().contains(kind)
    }
}
