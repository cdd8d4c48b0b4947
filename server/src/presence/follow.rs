//! The table as a projection: how it keeps up with the log.

use std::sync::Arc;
use std::time::Duration;

use muster_core::clock::SharedClock;
use muster_core::event::{Event, EventKind, EventKinds};
use muster_core::journal::Journal;

use super::fold;
use super::history;
use super::store::{Store, StoreError};
use crate::projection::{self, Projection};

/// The cursor moves at least this often while events pass that no device is in: a restart reads no more than that
/// anew, and an idle device costs no write a publish.
const EMPTY_COMMIT_EVENTS: u64 = 10_000;

/// Events of so long are one transaction, which costs more than the rows in it; whoever asks over REST has what there
/// is committed at once.
const PACE: Duration = Duration::from_millis(100);
/// And no more events than these, so that memory is bounded and others may write to the database in between.
const PENDING_EVENTS_MAX: usize = 4_096;

/// The table with what it has still to take in.
pub struct Devices {
    store: Store,
    clock: SharedClock,
    pending: Vec<Arc<Event>>,
    next_offset: u64,
    committed_at: Duration,
}

/// The table with its place in the log.
pub type Follower = projection::Follower<Devices>;

impl Follower {
    /// Begins where the store's cursor stands.
    pub fn new(mut store: Store, journal: &Journal, clock: SharedClock) -> Self {
        store.begin_at(journal.first_offset());
        let next_offset = store.cursor().unwrap_or_default();
        let committed_at = clock.monotonic();
        Self::over(Devices { store, clock, pending: Vec::new(), next_offset, committed_at }, journal)
    }

    /// What is in the table.
    pub const fn store(&self) -> &Store {
        &self.projection().store
    }
}

impl Projection for Devices {
    type Error = StoreError;
    const NAME: &'static str = "presence";
    /// Devices come and go, and alarms; what else belongs to a device's history; and what operators
    /// say of alarms.
    const KINDS: EventKinds = fold::KINDS
        .union(history::KINDS)
        .with(EventKind::AlarmActivated)
        .with(EventKind::AlarmDeactivated)
        .with(EventKind::Admin);
    const QUIET: Duration = PACE;

    fn cursor(&self) -> Option<u64> {
        self.store.cursor()
    }

    fn take(&mut self, events: &[Arc<Event>], next_offset: u64) {
        self.pending.extend_from_slice(events);
        self.next_offset = next_offset;
    }

    fn is_due(&self) -> bool {
        let passed = self.next_offset.saturating_sub(self.store.cursor().unwrap_or_default());
        let waited = || self.clock.monotonic().saturating_sub(self.committed_at);
        passed >= EMPTY_COMMIT_EVENTS
            || self.pending.len() >= PENDING_EVENTS_MAX
            || self.is_behind() && waited() >= PACE
    }

    fn is_behind(&self) -> bool {
        !self.pending.is_empty()
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        if self.next_offset > self.store.cursor().unwrap_or_default() {
            self.store.apply(self.pending.iter().map(Arc::as_ref), self.next_offset)?;
            self.pending.clear();
        }
        self.committed_at = self.clock.monotonic();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use muster_core::clock::{ManualClock, SystemClock};
    use muster_core::event::NewEvent;
    use muster_core::log::{LogConfig, RealDisk};

    use super::super::fold::tests::{connected, disconnected};
    use super::super::list::{Wanted, list};
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn new(event: Event) -> NewEvent {
        NewEvent { timestamp_ms: event.timestamp_ms, kind: event.kind, topic: event.topic, body: event.body }
    }

    #[tokio::test]
    async fn a_transaction_has_what_came_in_a_while_and_no_more_than_memory_is_for() {
        let dir = tempfile::tempdir().expect("a folder");
        let clock = ManualClock::at(1_000);
        let config = LogConfig::new(dir.path().join("log"));
        let (journal, _) = Journal::open(config, RealDisk::shared(), clock.clone()).expect("a journal");
        let store = Store::open(&dir.path().join("muster.db"), journal.log_id()).expect("store");
        let follower = Follower::new(store, &journal, clock.clone());
        let mut devices = follower.into_projection();
        let event = Arc::new(connected("a", 0, 1, 1));
        devices.take(&[Arc::clone(&event)], 1);
        assert!(!devices.is_due() && devices.is_behind());
        clock.advance(PACE - Duration::from_millis(1));
        assert!(!devices.is_due());
        clock.advance(Duration::from_millis(1));
        assert!(devices.is_due());
        devices.commit().expect("commit");
        assert!(!devices.is_behind());
        devices.take(&vec![Arc::clone(&event); PENDING_EVENTS_MAX - 1], 2);
        assert!(!devices.is_due());
        devices.take(&[event], 3);
        assert!(devices.is_due());
    }

    #[tokio::test]
    async fn the_table_follows_the_log_and_commits_when_stopped() {
        let dir = tempfile::tempdir().expect("a folder");
        let (journal, _) =
            Journal::open(LogConfig::new(dir.path().join("log")), Arc::new(RealDisk), SystemClock::shared())
                .expect("a journal");
        let path = dir.path().join("muster.db");
        journal.append(new(connected("a", 0, 1, 1))).await.expect("append");
        let store = Store::open(&path, journal.log_id()).expect("store");
        let stop = CancellationToken::new();
        let task = tokio::spawn(Follower::new(store, &journal, SystemClock::shared()).run(stop.clone()));
        journal.append(new(connected("b", 0, 2, 2))).await.expect("append");
        let last = journal.append(new(disconnected("a", 0, 1, 3, "normal"))).await.expect("append");
        journal.durable(last.offset).await.expect("durable");
        stop.cancel();
        task.await.expect("the task ends");

        let (devices, total) = list(&path, &Wanted { limit: 10, ..Wanted::default() }).expect("list");
        assert_eq!(total, 2);
        let states: Vec<_> = devices.iter().map(|it| (it.clientid.as_str(), it.online)).collect();
        assert_eq!(states, [("a", false), ("b", true)]);
        let store = Store::open(&path, journal.log_id()).expect("store");
        assert_eq!(store.cursor(), Some(journal.durable_offset()));
    }
}
