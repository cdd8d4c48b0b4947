//! What MQTT sessions must find again after a restart, in an embedded SQLite database (`sessions.db`): sessions, their
//! subscriptions, messages that are owed to them, wills, and from where on the event log has to be read again. One
//! thread writes; all that waits at a time is one transaction and one sync of the disk. Changes are committed in the
//! order in which they are queued. It must never know what a session does with what stands here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, watch};

use crate::registry::Mark;

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{Stored, StoredDelivery, StoredInbound, StoredSession, StoredSubscription, StoredWill};

/// Each version's statements, in order. A version that has been released is never changed.
const MIGRATIONS: &[&str] = &[include_str!("../../../migrations/sqlite/sessions/0001_sessions.sql")];

/// Groups of changes that may wait for the disk; then sessions wait.
const QUEUE_GROUPS_MAX: usize = 4_096;

/// Groups of changes in one transaction.
const BATCH_GROUPS_MAX: usize = 1_024;

/// How long the writer waits before it tries again what the disk refused.
const RETRY_WAIT: Duration = Duration::from_millis(250);

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SessionsError {
    /// SQLite refused something.
    #[error("cannot {action} the store of sessions {}", path.display())]
    Sqlite {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A newer version wrote the file.
    #[error("{} has version {found}, this program knows versions up to {newest}; use a newer one", path.display())]
    NewerVersion {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: usize,
        /// The newest known.
        newest: usize,
    },
    /// The writer thread could not be started.
    #[error("cannot start the thread that stores sessions")]
    Thread(#[source] std::io::Error),
}

/// How far a message on its way to a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It waits for its turn.
    Waits,
    /// It was sent.
    Sent,
    /// QoS 2: the client has it and was told that its identifier is released.
    Released,
    /// QoS 2: the client has confirmed that. Remembered while the log could bring the message back.
    Done,
}

/// Which message for which subscription of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryKey {
    /// The offset of its publish.
    pub message: u64,
    /// The subscription's number.
    pub number: u32,
}

/// One change. Each names the session that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The session is there, with these facts.
    Session {
        /// Its number.
        session: u64,
        /// Its client.
        clientid: String,
        /// A JSON object.
        facts: String,
        /// Since when its client is away, milliseconds since 1970; none while it is connected.
        gone_at_ms: Option<i64>,
        /// Nothing that the log has before this offset concerns it; counts where the session is new.
        seen_to: u64,
    },
    /// The session ended: nothing of it is kept.
    Ended {
        /// Its number.
        session: u64,
    },
    /// The session has this subscription.
    Subscribed(u64, StoredSubscription),
    /// The session has it no more.
    Unsubscribed {
        /// The session.
        session: u64,
        /// The filter.
        filter: String,
    },
    /// The session is owed this message.
    Owed(u64, StoredDelivery),
    /// A message that is owed is so far now.
    Moved {
        /// The session.
        session: u64,
        /// Which message.
        key: DeliveryKey,
        /// How far.
        stage: Stage,
        /// Its packet identifier.
        pkid: u16,
    },
    /// A message is owed no more.
    Settled {
        /// The session.
        session: u64,
        /// Which message.
        key: DeliveryKey,
    },
    /// A QoS 2 publish from the client.
    Inbound(u64, StoredInbound),
    /// A packet identifier of the client is free.
    InboundGone {
        /// The session.
        session: u64,
        /// Which.
        pkid: u16,
    },
    /// What the session is owed of events before this offset is stored.
    SeenTo {
        /// The session.
        session: u64,
        /// The offset.
        offset: u64,
    },
    /// The client left a will.
    Will(StoredWill),
    /// The client is gone; its will is due then.
    WillDue {
        /// Whose.
        clientid: String,
        /// Of which connection.
        session: u64,
        /// Milliseconds since 1970.
        due_at_ms: i64,
    },
    /// A connection has no will any more.
    NoWill {
        /// Whose.
        clientid: String,
        /// Of which connection.
        session: u64,
    },
    /// From where on the log must be read again.
    Mark(Mark),
}

/// Says when a change is on the disk: [`SessionStore::stored`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

struct Group {
    changes: Vec<Change>,
    ticket: u64,
}

/// The open store. Clones share it; with the last one the thread ends.
#[derive(Clone)]
pub struct SessionStore {
    path: Arc<PathBuf>,
    queue: mpsc::Sender<Group>,
    tickets: Arc<AtomicU64>,
    stored: watch::Receiver<u64>,
    mark: watch::Receiver<Option<Mark>>,
}

impl std::fmt::Debug for SessionStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SessionStore {
    /// Opens or creates the database, and reads all that is there.
    ///
    /// # Errors
    /// [`SessionsError`] says which file and why.
    pub fn open(path: &Path) -> Result<(Self, Stored), SessionsError> {
        let sqlite = |action| {
            let path = path.to_owned();
            move |source| SessionsError::Sqlite { action, path, source }
        };
        let mut connection = write::connect(path).map_err(sqlite("open"))?;
        let newest = MIGRATIONS.len();
        let found = write::migrate(&mut connection, MIGRATIONS).map_err(sqlite("migrate"))?;
        if found > newest {
            return Err(SessionsError::NewerVersion { path: path.to_owned(), found, newest });
        }
        let stored = read::all(&connection).map_err(sqlite("read"))?;
        let (queue, groups) = mpsc::channel(QUEUE_GROUPS_MAX);
        let (done, stored_to) = watch::channel(0);
        let (marked, mark) = watch::channel(stored.mark);
        let writer = Writer { connection, groups, done, marked };
        std::thread::Builder::new()
            .name("muster-sessions".to_owned())
            .spawn(move || writer.run())
            .map_err(SessionsError::Thread)?;
        let path = Arc::new(path.to_owned());
        Ok((Self { path, queue, tickets: Arc::default(), stored: stored_to, mark }, stored))
    }

    /// Room for a group of changes; waits while the disk is behind.
    pub async fn reserve(&self) -> Option<Room<'_>> {
        // The thread ends only when every sender is gone.
        let permit = self.queue.reserve().await.ok()?;
        Some(Room { permit, tickets: &self.tickets })
    }

    /// Waits until what the ticket was given for is on the disk.
    pub async fn stored(&self, ticket: Ticket) {
        let mut stored = self.stored.clone();
        if stored.wait_for(|stored| *stored >= ticket.0).await.is_err() {
            // Without the thread nothing is ever stored.
            std::future::pending::<()>().await;
        }
    }

    /// Whether it is on the disk now.
    pub fn is_stored(&self, ticket: Ticket) -> bool {
        *self.stored.borrow() >= ticket.0
    }

    /// From where on the log must be read again, as far as that is on the disk.
    pub fn mark(&self) -> Option<Mark> {
        *self.mark.borrow()
    }
}

/// Room for one group of changes in the queue. Whoever changes something under a lock takes the room first.
pub struct Room<'a> {
    permit: mpsc::Permit<'a, Group>,
    tickets: &'a AtomicU64,
}

impl std::fmt::Debug for Room<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Room")
    }
}

impl Room<'_> {
    /// Queues changes that are committed together.
    pub fn write(self, changes: Vec<Change>) -> Ticket {
        // Tickets may be taken in another order than rooms are filled: who has the later ticket waits a little longer,
        // never too short, because the writer counts a ticket as reached only with all before it.
        let ticket = self.tickets.fetch_add(1, Ordering::SeqCst) + 1;
        self.permit.send(Group { changes, ticket });
        Ticket(ticket)
    }
}

struct Writer {
    connection: Connection,
    groups: mpsc::Receiver<Group>,
    done: watch::Sender<u64>,
    marked: watch::Sender<Option<Mark>>,
}

impl Writer {
    fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_GROUPS_MAX);
        // Tickets that were committed ahead of one before them.
        let mut ahead = std::collections::BTreeSet::new();
        let mut reached = 0;
        while self.groups.blocking_recv_many(&mut batch, BATCH_GROUPS_MAX) > 0 {
            self.commit(&batch);
            ahead.extend(batch.iter().map(|group| group.ticket));
            while ahead.remove(&(reached + 1)) {
                reached += 1;
            }
            let changes = batch.drain(..).flat_map(|group| group.changes);
            let mark =
                changes.filter_map(|it| if let Change::Mark(mark) = it { Some(mark) } else { None }).last();
            // Before whoever waits for the commit is told of it: they may ask for the mark.
            if mark.is_some() {
                self.marked.send_replace(mark);
            }
            self.done.send_replace(reached);
        }
    }

    /// Commits, however long it takes: nothing is left out, because what comes later builds upon it.
    #[expect(clippy::disallowed_methods, reason = "the disk says nobody when it has room again")]
    fn commit(&mut self, batch: &[Group]) {
        let mut is_told = false;
        while let Err(error) = write::apply(&mut self.connection, batch.iter().flat_map(|it| &it.changes)) {
            if !std::mem::replace(&mut is_told, true) {
                tracing::error!(%error, "sessions cannot be stored; trying again until it works");
            }
            if self.groups.is_closed() {
                tracing::error!(groups = batch.len(), "the last changes of sessions are lost");
                return;
            }
            std::thread::sleep(RETRY_WAIT);
        }
        if is_told {
            tracing::info!("sessions are stored again");
        }
    }
}
