//! What sessions that outlive their connections are owed, and how it survives the process. Of each event it is known
//! who is owed it:
//! - A debt lives in the session's ledger ([`Kept`]) until it is settled. One that lives for longer than a moment gets
//!   a row in the store; most never do.
//! - The store knows from where on the log has to be read again ([`Keeper::flush`]): before that place every debt has
//!   a row or is settled. A start finds all others in the log ([`restore`]).
//!
//! Shared groups go the same way. It must never know sockets or packets.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_core::journal::Journal;
use muster_core::registry::Mark;
use muster_core::sessions::{Change, SessionStore, Ticket};
use tokio_util::sync::CancellationToken;

use crate::under_way::{Pending, UnderWay};

mod facts;
mod kept;
mod ledger;
pub(crate) mod restore;

pub(crate) use facts::{Memory, Options};
pub(crate) use kept::{Debt, Kept};

/// How long a debt may live without a row. A subscriber's acknowledgement usually comes sooner.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

/// How many of these pass before the log's end is written down although nobody is owed anything.
const FLUSHES_PER_MARK: u32 = 25;

/// Which debts get a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Those that were not settled within a moment.
    Old,
    /// All of them: the server stops.
    All,
}

/// All of it.
pub(crate) struct Keeper {
    store: SessionStore,
    journal: Journal,
    /// Publishes whose debts are not in a ledger yet.
    pending: Pending,
    /// Sessions of which something is to be written.
    dirty: Mutex<HashMap<u64, Arc<Kept>>>,
    /// How many flushes there were.
    generation: AtomicU64,
    /// Held by whoever changes a ledger and writes what that changes in the store, so that both happen in one order.
    /// Taken before any ledger.
    order: Mutex<()>,
}

impl Keeper {
    pub(crate) fn new(store: SessionStore, journal: Journal) -> Arc<Self> {
        Arc::new(Self {
            store,
            journal,
            pending: Pending::default(),
            dirty: Mutex::default(),
            generation: AtomicU64::new(0),
            order: Mutex::default(),
        })
    }

    /// Says that an event is about to be written that somebody will have to remember.
    pub(crate) fn begin(&self) -> UnderWay<'_> {
        self.pending.begin(&self.journal)
    }

    /// Queues changes to be stored together; none where nothing can be stored any more.
    pub(crate) async fn write(&self, changes: Vec<Change>) -> Option<Ticket> {
        Some(self.store.reserve().await?.write(changes))
    }

    /// Waits until it is stored.
    pub(crate) async fn stored(&self, ticket: Ticket) {
        self.store.stored(ticket).await;
    }

    pub(crate) fn store(&self) -> &SessionStore {
        &self.store
    }

    /// Something of this session is to be written.
    fn soil(&self, kept: &Arc<Kept>) {
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        dirty.entry(kept.session()).or_insert_with(|| Arc::clone(kept));
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Writes what has to be written until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (mut flushes, mut marked) = (0u32, 0);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(FLUSH_INTERVAL) => {}
            }
            flushes = flushes.wrapping_add(1);
            let is_idle = self.dirty.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
            let is_due = flushes.is_multiple_of(FLUSHES_PER_MARK) && self.journal.next_offset() != marked;
            if !is_idle || is_due {
                marked = self.journal.next_offset();
                // Nobody waits for it.
                let _ticket = self.flush(Extent::Old).await;
            }
        }
    }

    /// Gives rows to debts that have none, takes the rows of those that are settled, and writes down from where the
    /// log must be read again.
    pub(crate) async fn flush(&self, extent: Extent) -> Option<Ticket> {
        let room = self.store.reserve().await?;
        let generation = match extent {
            // A debt that began after the flush before this one may still be settled soon.
            Extent::Old => Some(self.generation.fetch_add(1, Ordering::Relaxed)),
            Extent::All => None,
        };
        let _order = self.order();
        // In this order: what is not under way any more is in the ledgers that are looked at below.
        let upper = self.read_from();
        let dirty = std::mem::take(&mut *self.dirty.lock().unwrap_or_else(PoisonError::into_inner));
        let mut changes = Vec::new();
        let mut read_from = upper;
        for kept in dirty.into_values() {
            let left = kept.flush(generation, upper, &mut changes);
            read_from = read_from.min(left.read_from);
            if left.is_dirty {
                self.soil(&kept);
            }
        }
        changes.push(Change::Mark(Mark { log_id: self.journal.log_id(), read_from }));
        Some(room.write(changes))
    }

    fn order(&self) -> MutexGuard<'_, ()> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Events before it are durable, and what somebody is owed of them is in the ledgers. The store never knows of what
    /// the log may still lose: another event would have that offset then.
    fn read_from(&self) -> u64 {
        self.pending.first(&self.journal).min(self.journal.durable_offset())
    }
}
