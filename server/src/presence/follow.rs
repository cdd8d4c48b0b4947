//! The table as a projection: how it keeps up with the log.

use std::sync::Arc;

use muster_core::event::{Event, EventKind, EventKinds};
use muster_core::journal::Journal;

use super::fold;
use super::history;
use super::store::{Store, StoreError};
use crate::projection::{self, Projection};

/// The cursor moves at least this often while events pass that no device is in: a restart reads no more than that
/// anew, and an idle device costs no write a publish.
const EMPTY_COMMIT_EVENTS: u64 = 10_000;

/// The table with what it has still to take in.
#[derive(Debug)]
pub struct Devices {
    store: Store,
    pending: Vec<Arc<Event>>,
    next_offset: u64,
}

/// The table with its place in the log.
pub type Follower = projection::Follower<Devices>;

impl Follower {
    /// Begins where the store's cursor stands.
    pub fn new(mut store: Store, journal: &Journal) -> Self {
        store.begin_at(journal.first_offset());
        let next_offset = store.cursor().unwrap_or_default();
        Self::over(Devices { store, pending: Vec::new(), next_offset }, journal)
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

    fn cursor(&self) -> Option<u64> {
        self.store.cursor()
    }

    fn take(&mut self, events: &[Arc<Event>], next_offset: u64) {
        self.pending.extend_from_slice(events);
        self.next_offset = next_offset;
    }

    fn is_due(&self) -> bool {
        let passed = self.next_offset.saturating_sub(self.store.cursor().unwrap_or_default());
        self.is_behind() || passed >= EMPTY_COMMIT_EVENTS
    }

    fn is_behind(&self) -> bool {
        !self.pending.is_empty()
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        if self.next_offset > self.store.cursor().unwrap_or_default() {
            self.store.apply(self.pending.iter().map(Arc::as_ref), self.next_offset)?;
            self.pending.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use muster_core::clock::SystemClock;
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
    async fn the_table_follows_the_log_and_commits_when_stopped() {
        let dir = tempfile::tempdir().expect("a folder");
        let (journal, _) =
            Journal::open(LogConfig::new(dir.path().join("log")), Arc::new(RealDisk), SystemClock::shared())
                .expect("a journal");
        let path = dir.path().join("muster.db");
        journal.append(new(connected("a", 0, 1, 1))).await.expect("append");
        let store = Store::open(&path, journal.log_id()).expect("store");
        let stop = CancellationToken::new();
        let task = tokio::spawn(Follower::new(store, &journal).run(stop.clone()));
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
