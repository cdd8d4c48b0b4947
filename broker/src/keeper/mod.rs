//! What sessions that outlive their connections are owed, and how it survives the process. A message goes to them
//! without the router, in the moment in which it is published, so that it is known of each event who is owed it:
//! - A debt lives in the session's ledger ([`Kept`]) until it is settled. One that lives for longer than a moment gets
//!   a row in the store; most never do.
//! - The store knows from where on the log has to be read again ([`Keeper::flush`]): before that place every debt has
//!   a row or is settled. A start finds all others in the log ([`restore`]).
//!
//! Shared groups go the same way. It must never know sockets or packets.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use muster_core::journal::Journal;
use muster_core::registry::Mark;
use muster_core::sessions::{Change, SessionStore, Ticket};
use muster_core::topic::FilterIndex;
use tokio_util::sync::CancellationToken;

use crate::codec::Qos;
use crate::envelope::Envelope;
use crate::groups::Group;

mod facts;
mod kept;
mod ledger;
pub(crate) mod restore;

pub(crate) use facts::{Memory, Options};
pub(crate) use kept::{Debt, Kept, Owed};

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

/// Who gets the messages of a filter.
#[derive(Clone)]
pub(crate) enum Target {
    /// A session, for one of its subscriptions.
    Session(Arc<Kept>, Options),
    /// A member of a shared group.
    Group(Arc<Group>),
}

/// Equal are those that replace each other.
impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Session(one, of), Self::Session(other, as_well)) => {
                one.session() == other.session() && of.number == as_well.number
            }
            (Self::Group(one), Self::Group(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

/// All of it.
pub(crate) struct Keeper {
    store: SessionStore,
    journal: Journal,
    index: RwLock<FilterIndex<Target>>,
    /// How many there are in the index: asked for each publish.
    targets: AtomicUsize,
    /// Offsets before which the events of publishes whose debts are not in a ledger yet cannot stand; how many each.
    under_way: Mutex<BTreeMap<u64, usize>>,
    /// Sessions of which something is to be written.
    dirty: Mutex<HashMap<u64, Arc<Kept>>>,
    /// How many flushes there were.
    generation: AtomicU64,
    /// Held by whoever changes a ledger and writes what that changes in the store, so that both happen in one order.
    /// Taken before any ledger.
    order: Mutex<()>,
}

/// A publish whose event may be anywhere from here on, and whose debts are not in any ledger yet.
pub(crate) struct UnderWay<'a> {
    keeper: &'a Keeper,
    offset: u64,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut under_way = self.keeper.under_way();
        if let Some(count) = under_way.get_mut(&self.offset) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.offset);
            }
        }
    }
}

/// Whom a message will be owed to.
pub(crate) struct OwedTo<'a> {
    targets: Vec<Target>,
    _under_way: UnderWay<'a>,
}

impl OwedTo<'_> {
    pub(super) fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Gives the message, whose event has this offset, to all of them; how many found no room.
    pub(crate) fn give(self, offset: u64, topic: &str, envelope: &Envelope, message: &Bytes) -> u64 {
        let topic = Bytes::copy_from_slice(topic.as_bytes());
        let mut dropped = 0;
        for target in &self.targets {
            match target {
                Target::Session(kept, options) => {
                    dropped += kept.owe(offset, *options, &topic, message, envelope);
                }
                Target::Group(group) => dropped += group.give(offset, &topic, message, envelope),
            }
        }
        dropped
    }
}

impl Keeper {
    pub(crate) fn new(store: SessionStore, journal: Journal) -> Arc<Self> {
        Arc::new(Self {
            store,
            journal,
            index: RwLock::default(),
            targets: AtomicUsize::new(0),
            under_way: Mutex::default(),
            dirty: Mutex::default(),
            generation: AtomicU64::new(0),
            order: Mutex::default(),
        })
    }

    /// Who is owed a message to this topic; none where nobody is. Asked before the event is written.
    pub(crate) fn owed(&self, topic: &str) -> Option<OwedTo<'_>> {
        if self.targets.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut targets = Vec::new();
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.for_each_match(topic, |target| targets.push(target.clone()));
        drop(index);
        (!targets.is_empty()).then(|| OwedTo { targets, _under_way: self.begin() })
    }

    /// Whether somebody is.
    pub(crate) fn any_match(&self, topic: &str) -> bool {
        self.targets.load(Ordering::Acquire) > 0
            && self.index.read().unwrap_or_else(PoisonError::into_inner).any_match(topic)
    }

    /// Says that an event is about to be written that somebody will have to remember.
    pub(crate) fn begin(&self) -> UnderWay<'_> {
        let mut under_way = self.under_way();
        let offset = self.journal.next_offset();
        *under_way.entry(offset).or_default() += 1;
        UnderWay { keeper: self, offset }
    }

    /// Has the messages of a filter (not `$share/`) owed to somebody; whether it is new. An equal target is replaced.
    pub(crate) fn insert(&self, filter: &str, target: Target) -> bool {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = index.insert(filter, target);
        self.targets.store(index.len(), Ordering::Release);
        is_new
    }

    /// The end of that; whether it was so.
    pub(crate) fn remove(&self, filter: &str, target: &Target) -> bool {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let was_there = index.remove(filter, target);
        self.targets.store(index.len(), Ordering::Release);
        was_there
    }

    /// How many filters with how many targets each there are, all together.
    pub(crate) fn len(&self) -> usize {
        self.targets.load(Ordering::Acquire)
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

    fn read_from(&self) -> u64 {
        let under_way = self.under_way();
        let settled = under_way.keys().next().copied().unwrap_or_else(|| self.journal.next_offset());
        // The store never knows of what the log may still lose: another event would have that offset then.
        settled.min(self.journal.durable_offset())
    }

    fn under_way(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The QoS with which a subscription gets a message.
fn effective(envelope: &Envelope, options: &Options) -> Qos {
    envelope.qos.min(options.qos)
}
