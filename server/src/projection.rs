//! How a projection keeps up with the log: one reader from its cursor on, folding in memory what it reads and
//! committing when the projection says that it is time. It must never know what is projected.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use muster_core::event::{Event, EventKinds};
use muster_core::journal::{EventReader, Journal};
use muster_core::log::{LogError, LogErrorKind};
use tokio::task::{JoinError, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::error::chain;

/// How long a write that failed waits for the next attempt.
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// After so long without an event, what was taken in is committed.
const QUIET: Duration = Duration::from_millis(500);

/// State that is made of events alone, and stored with how far it has come.
pub trait Projection: Send + Sized + 'static {
    /// Why it cannot be stored.
    type Error: std::error::Error + Send + Sync + 'static;
    /// What it is called in messages.
    const NAME: &'static str;
    /// The events that it looks at.
    const KINDS: EventKinds;

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
    needed: Needed,
}

/// From which offset on a projection still needs the log: everything before it is committed, or nothing to it.
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

impl<P: Projection> Follower<P> {
    /// Begins where the projection's cursor stands. What retention has taken meanwhile is passed over.
    pub fn over(projection: P, journal: &Journal) -> Self {
        let from = projection.cursor().unwrap_or_default().max(journal.first_offset());
        let needed = Needed(Arc::new(AtomicU64::new(from)));
        Self { projection, reader: journal.reader(from).with_kinds(P::KINDS), needed }
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

    /// Tells from which offset on the log is still needed, also while the projection runs.
    pub fn needed(&self) -> Needed {
        self.needed.clone()
    }

    /// What is projected.
    pub const fn projection(&self) -> &P {
        &self.projection
    }

    /// Follows the log until `stop`, then folds what is durable by then. The end is the log's end: nothing that a
    /// projection does can stop the platform, it is only late.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let batch = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                batch = self.reader.next_batch() => batch.map(Some),
                // Nothing more comes: what was taken in is not kept waiting for it.
                () = tokio::time::sleep(QUIET), if self.projection.is_behind() => Ok(None),
            };
            match batch {
                Ok(batch) => {
                    let is_quiet = batch.is_none();
                    if let Some(batch) = batch {
                        self.projection.take(batch.events(), batch.next_offset);
                    }
                    if !is_quiet && !self.projection.is_due() {
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
        let from = self.projection.cursor().filter(|_| self.projection.is_behind());
        match from {
            Some(cursor) => self.needed.move_to(cursor),
            // Before the first commit everything is needed from where it began.
            None if self.projection.is_behind() => {}
            None => self.needed.move_to(self.reader.position()),
        }
    }
}
