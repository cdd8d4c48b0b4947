//! How a projection keeps up with the log: one reader from its cursor on, folding in memory what it reads and
//! committing when the projection says that it is time. It must never know what is projected.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use muster_core::event::{Event, EventKinds};
use muster_core::journal::{EventReader, Journal};
use muster_core::log::{LogError, LogErrorKind};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::error::chain;

/// How long a write that failed waits for the next attempt.
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// Whoever reads what is stored waits so long at most for it to reach what is durable.
const CATCH_UP_WAIT: Duration = Duration::from_millis(500);

/// State that is made of events alone, and stored with how far it has come.
pub trait Projection: Send + Sized + 'static {
    /// Why it cannot be stored.
    type Error: std::error::Error + Send + Sync + 'static;
    /// What it is called in messages.
    const NAME: &'static str;
    /// The events that it looks at.
    const KINDS: EventKinds;
    /// After so long without an event, what was taken in is committed.
    const QUIET: Duration;

    /// The next offset to read after a restart; none before the first commit.
    fn cursor(&self) -> Option<u64>;

    /// Takes in what was read; waits for nothing.
    fn take(&mut self, events: &[Arc<Event>], next_offset: u64);

    /// Whether it is time to commit.
    fn is_due(&self) -> bool;

    /// Whether something was taken in that is not committed.
    fn is_behind(&self) -> bool;

    /// Stores everything that was taken in and moves the cursor, all or nothing; it may be tried again.
    ///
    /// # Errors
    /// It cannot be stored now.
    fn commit(&mut self) -> Result<(), Self::Error>;
}

/// Why a projection cannot follow.
#[derive(Debug, thiserror::Error)]
pub enum FollowError<E: std::error::Error + 'static> {
    /// The log cannot be read.
    #[error("the event log cannot be read")]
    Log(#[from] LogError),
    /// The projection cannot be written.
    #[error("a projection cannot be written")]
    Store(#[source] E),
    /// The write was torn off.
    #[error("a projection was interrupted")]
    Task(#[source] JoinError),
}

/// A projection with its place in the log.
#[derive(Debug)]
pub struct Follower<P> {
    projection: P,
    reader: EventReader,
    stored: watch::Sender<u64>,
    wish: Arc<Wish>,
}

/// What somebody waits for.
#[derive(Debug, Default)]
struct Wish {
    /// The offset to which everything is to be stored.
    to: AtomicU64,
    made: Notify,
}

impl Wish {
    /// Whether it is for what is not stored, and all of it was read.
    fn is_for(&self, stored: u64, read_to: u64) -> bool {
        let to = self.to.load(Ordering::Acquire);
        stored < to && to <= read_to
    }

    /// Waits until there is such a wish, `at_most` so long.
    async fn wait(&self, stored: u64, read_to: u64, at_most: Duration) {
        let made = async {
            while !self.is_for(stored, read_to) {
                self.made.notified().await;
            }
        };
        let _in_time = tokio::time::timeout(at_most, made).await;
    }
}

/// How far a projection has come, also while it runs.
#[derive(Debug, Clone)]
pub struct Progress {
    stored: watch::Receiver<u64>,
    wish: Arc<Wish>,
}

impl Progress {
    /// From which offset on it still needs the log: everything before it is committed, or nothing to it.
    pub fn needed_from(&self) -> u64 {
        *self.stored.borrow()
    }

    /// Has everything before `offset` committed now, and waits for it, not long: a projection that is far behind, or
    /// gone, has what it has.
    pub async fn reach(&mut self, offset: u64) {
        if self.needed_from() >= offset {
            return;
        }
        self.wish.to.fetch_max(offset, Ordering::AcqRel);
        self.wish.made.notify_one();
        let _in_time = tokio::time::timeout(CATCH_UP_WAIT, self.stored.wait_for(|it| *it >= offset)).await;
    }
}

impl<P: Projection> Follower<P> {
    /// Begins where the projection's cursor stands. What retention has taken meanwhile is passed over.
    pub fn over(projection: P, journal: &Journal) -> Self {
        let from = projection.cursor().unwrap_or_default().max(journal.first_offset());
        let reader = journal.reader(from).with_kinds(P::KINDS);
        Self { projection, reader, stored: watch::Sender::new(from), wish: Arc::default() }
    }

    /// Folds everything that is durable now, and commits.
    ///
    /// # Errors
    /// The log cannot be read or the projection not written.
    pub fn catch_up(&mut self) -> Result<(), FollowError<P::Error>> {
        while let Some(batch) = self.reader.try_next_batch()? {
            self.projection.take(batch.events(), batch.next_offset);
            if self.projection.is_due() {
                self.projection.commit().map_err(FollowError::Store)?;
            }
        }
        self.projection.commit().map_err(FollowError::Store)?;
        self.let_go();
        Ok(())
    }

    /// How far it has come, also while it runs.
    pub fn progress(&self) -> Progress {
        Progress { stored: self.stored.subscribe(), wish: Arc::clone(&self.wish) }
    }

    /// What is projected.
    pub const fn projection(&self) -> &P {
        &self.projection
    }

    /// What is projected, without its place.
    #[cfg(test)]
    pub fn into_projection(self) -> P {
        self.projection
    }

    /// Follows the log until `stop`, then folds what is durable by then. The end is the log's end: nothing that a
    /// projection does can stop the platform, it is only late.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let (stored, read_to) = (*self.stored.borrow(), self.reader.position());
            let batch = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                batch = self.reader.next_batch() => batch.map(Some),
                // Nothing more comes, or somebody wants it: what was taken in is not kept waiting.
                () = self.wish.wait(stored, read_to, P::QUIET), if self.projection.is_behind() => Ok(None),
            };
            match batch {
                Ok(batch) => {
                    let is_over = batch.is_none();
                    if let Some(batch) = batch {
                        self.projection.take(batch.events(), batch.next_offset);
                    }
                    if !(is_over
                        || self.projection.is_due()
                        || self.projection.is_behind() && self.is_wanted())
                    {
                        self.let_go();
                        continue;
                    }
                    self = match self.commit(&stop).await {
                        Ok(follower) => follower,
                        Err(error) => {
                            error!(error = %chain(&error), "{} stopped", P::NAME);
                            return;
                        }
                    };
                }
                Err(error) if error.kind() == LogErrorKind::Event => {
                    warn!(%error, offset = self.reader.position(), "{} passed over a record", P::NAME);
                    self.reader.seek(self.reader.position() + 1);
                }
                Err(error) if error.kind() == LogErrorKind::Closed => break,
                Err(error) => {
                    error!(error = %chain(&error), "{} stopped; it goes on after a restart", P::NAME);
                    return;
                }
            }
        }
        if let Err(error) = self.catch_up() {
            warn!(error = %chain(&error), "{} is behind; it catches up at the next start", P::NAME);
        }
    }

    /// Whether somebody waits for what was taken in, and more of it need not be read first.
    fn is_wanted(&self) -> bool {
        self.wish.is_for(*self.stored.borrow(), self.reader.position())
    }

    /// Commits on a thread that may wait for the disk, again and again until it works or the platform stops.
    async fn commit(mut self, stop: &CancellationToken) -> Result<Self, FollowError<P::Error>> {
        loop {
            let committing = spawn_blocking(move || {
                let result = self.projection.commit();
                (self, result)
            });
            let (follower, result) = committing.await.map_err(FollowError::Task)?;
            self = follower;
            let Err(error) = result else {
                self.let_go();
                return Ok(self);
            };
            warn!(error = %chain(&error), "{} could not be written; trying again", P::NAME);
            tokio::select! {
                () = stop.cancelled() => return Ok(self),
                () = tokio::time::sleep(RETRY_WAIT) => {}
            }
        }
    }

    /// Lets go of what is not needed of the log any more.
    fn let_go(&self) {
        let place = match self.projection.cursor() {
            Some(cursor) if self.projection.is_behind() => cursor,
            // Before the first commit everything is needed from where it began.
            None if self.projection.is_behind() => return,
            _ => self.reader.position(),
        };
        self.stored.send_if_modified(|stored| std::mem::replace(stored, place) != place);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use muster_core::clock::SystemClock;
    use muster_core::event::{EventKind, NewEvent, proto};
    use muster_core::log::{LogConfig, RealDisk};

    use super::*;

    /// Commits only when somebody wants it.
    struct Count {
        taken: u64,
        committed: watch::Sender<u64>,
        next_offset: u64,
        cursor: Option<u64>,
    }

    impl Projection for Count {
        type Error = Infallible;
        const NAME: &'static str = "a count";
        const KINDS: EventKinds = EventKinds::NONE.with(EventKind::NodeStarted);
        const QUIET: Duration = Duration::from_secs(3_600);

        fn cursor(&self) -> Option<u64> {
            self.cursor
        }

        fn take(&mut self, events: &[Arc<Event>], next_offset: u64) {
            self.taken += events.len() as u64;
            self.next_offset = next_offset;
        }

        fn is_due(&self) -> bool {
            false
        }

        fn is_behind(&self) -> bool {
            *self.committed.borrow() < self.taken
        }

        fn commit(&mut self) -> Result<(), Infallible> {
            self.committed.send_replace(self.taken);
            self.cursor = Some(self.next_offset);
            Ok(())
        }
    }

    async fn append(journal: &Journal, kind: EventKind) -> u64 {
        let event = NewEvent { timestamp_ms: 1, kind, topic: String::new(), body: proto::Event::default() };
        let appended = journal.append(event).await.expect("append");
        journal.durable(appended.offset).await.expect("durable");
        journal.durable_offset()
    }

    #[tokio::test]
    async fn what_somebody_wants_is_committed_and_the_rest_waits() {
        let dir = tempfile::tempdir().expect("a folder");
        let config = LogConfig::new(dir.path().join("log"));
        let (journal, _) =
            Journal::open(config, RealDisk::shared(), SystemClock::shared()).expect("a journal");
        let (committed, commits) = watch::channel(0);
        let count = Count { taken: 0, committed, next_offset: 0, cursor: None };
        let follower = Follower::over(count, &journal);
        let mut progress = follower.progress();
        let stop = CancellationToken::new();
        let task = tokio::spawn(follower.run(stop.clone()));

        let end = append(&journal, EventKind::NodeStarted).await;
        progress.reach(end).await;
        assert_eq!((*commits.borrow(), progress.needed_from()), (1, end));
        let end = append(&journal, EventKind::NodeStopped).await;
        progress.reach(end).await;
        assert_eq!((*commits.borrow(), progress.needed_from()), (1, end), "nothing of that concerns it");

        // Wanted before it is there: it is committed as soon as it is read, and what is not wanted is not.
        let mut early = progress.clone();
        let wanted = end + 2;
        let early = tokio::spawn(async move {
            while early.needed_from() < wanted {
                early.reach(wanted).await;
            }
        });
        append(&journal, EventKind::NodeStarted).await;
        append(&journal, EventKind::NodeStarted).await;
        early.await.expect("no panic");
        assert_eq!(*commits.borrow(), 3);
        append(&journal, EventKind::NodeStarted).await;
        assert_eq!((*commits.borrow(), progress.needed_from()), (3, wanted), "nobody wants the last one");

        stop.cancel();
        task.await.expect("the task ends");
        assert_eq!(*commits.borrow(), 4);
        progress.reach(journal.durable_offset() + 1).await;
        assert_eq!(progress.needed_from(), journal.durable_offset(), "nobody waits for what has ended");
    }
}
