//! The task that keeps the table up with the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use muster_core::event::{Event, EventKind, EventKinds};
use muster_core::journal::{EventReader, Journal};
use muster_core::log::{LogError, LogErrorKind};
use tokio::task::{JoinError, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::fold::KINDS;
use super::store::{Store, StoreError};

/// The cursor moves at least this often while events pass that no device is in: a restart reads no more than that
/// anew, and an idle device costs no write a publish.
const EMPTY_COMMIT_EVENTS: u64 = 10_000;
/// How long a write that failed waits for the next attempt.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// Devices come and go, and alarms.
const FOLLOWED: EventKinds = KINDS.with(EventKind::AlarmActivated).with(EventKind::AlarmDeactivated);

/// Why the projection cannot follow.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The log cannot be read.
    #[error("presence cannot read the event log")]
    Log(#[from] LogError),
    /// The table cannot be written.
    #[error("presence cannot be written")]
    Store(#[from] StoreError),
    /// The write was torn off.
    #[error("presence was interrupted")]
    Task(#[from] JoinError),
}

/// The projection with its place in the log.
#[derive(Debug)]
pub struct Follower {
    store: Store,
    reader: EventReader,
    needed: Needed,
}

/// From which offset on the projection still needs the log: everything before it is committed, or is about no device.
#[derive(Debug, Clone)]
pub struct Needed(Arc<AtomicU64>);

impl Needed {
    /// The offset now.
    pub fn from(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn move_to(&self, offset: u64) {
        self.0.store(offset, Ordering::Release);
    }
}

impl Follower {
    /// Begins where the store's cursor stands. What retention has taken meanwhile is passed over.
    pub fn new(store: Store, journal: &Journal) -> Self {
        let from = store.cursor().unwrap_or_default().max(journal.first_offset());
        let needed = Needed(Arc::new(AtomicU64::new(from)));
        Self { store, reader: journal.reader(from).with_kinds(FOLLOWED), needed }
    }

    /// Folds everything that is durable now, and commits.
    ///
    /// # Errors
    /// The log cannot be read or the table not written.
    pub fn catch_up(&mut self) -> Result<(), FollowError> {
        while let Some(batch) = self.reader.try_next_batch()? {
            let events = batch.events().iter().map(Arc::as_ref);
            self.store.apply(events, batch.next_offset)?;
            self.needed.move_to(batch.next_offset);
        }
        Ok(())
    }

    /// Tells from which offset on the log is still needed, also while the projection runs.
    pub fn needed(&self) -> Needed {
        self.needed.clone()
    }

    /// What is in the table.
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// Follows the log until `stop`, then folds what is durable by then. The end is the log's end: nothing the table
    /// does can stop the platform, it is only late.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let batch = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                batch = self.reader.next_batch() => batch,
            };
            match batch {
                Ok(batch) => {
                    let due = !batch.events().is_empty()
                        || batch.next_offset - self.store.cursor().unwrap_or_default() >= EMPTY_COMMIT_EVENTS;
                    if due {
                        let events = batch.events().to_vec();
                        self = match self.apply(events, batch.next_offset, &stop).await {
                            Ok(follower) => follower,
                            Err(error) => {
                                error!(error = %crate::error::chain(&error), "presence has stopped");
                                return;
                            }
                        };
                    } else {
                        self.needed.move_to(batch.next_offset);
                    }
                }
                Err(error) if error.kind() == LogErrorKind::Event => {
                    warn!(%error, offset = self.reader.position(), "presence passes over a record");
                    self.reader.seek(self.reader.position() + 1);
                }
                Err(error) if error.kind() == LogErrorKind::Closed => break,
                Err(error) => {
                    error!(error = %crate::error::chain(&error), "presence has stopped; it goes on after a restart");
                    return;
                }
            }
        }
        if let Err(error) = self.catch_up() {
            warn!(error = %crate::error::chain(&error), "presence is behind; it catches up at the next start");
        }
    }

    /// Applies events on a thread that may wait for the disk, again and again until it works or the platform stops.
    async fn apply(
        mut self,
        events: Vec<Arc<Event>>,
        next_offset: u64,
        stop: &CancellationToken,
    ) -> Result<Self, FollowError> {
        let events = Arc::new(events);
        loop {
            let batch = events.clone();
            let (follower, result) = spawn_blocking(move || {
                let result = self.store.apply(batch.iter().map(Arc::as_ref), next_offset);
                (self, result)
            })
            .await?;
            self = follower;
            let Err(error) = result else {
                self.needed.move_to(next_offset);
                return Ok(self);
            };
            warn!(error = %crate::error::chain(&error), "presence could not be written; trying again");
            tokio::select! {
                () = stop.cancelled() => {
                    // Not committed, so it is read again.
                    self.reader.seek(self.store.cursor().unwrap_or_default());
                    return Ok(self);
                }
                () = tokio::time::sleep(RETRY_WAIT) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_core::clock::SystemClock;
    use muster_core::event::NewEvent;
    use muster_core::log::{LogConfig, RealDisk};

    use super::super::fold::tests::{connected, disconnected};
    use super::super::store::{Wanted, list};
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
