//! The registry: what must be found again after a restart and is no history, in an embedded SQLite database
//! (`registry.db`): retained messages, and up to where the event log is in them; rules made over REST; documents of
//! operators. Writes are queued and committed in batches by one thread, so that no session waits for SQLite. It must
//! never know what a message, a rule or a document means.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::sync::{mpsc, oneshot};

mod documents;
mod rules;
#[cfg(test)]
mod tests;

pub use documents::{Document, DocumentChange};
pub use rules::StoredRule;

/// Each version's statements, in order. A version that has been released is never changed.
const MIGRATIONS: &[&str] = &[
    include_str!("../../../migrations/sqlite/registry/0001_retained.sql"),
    include_str!("../../../migrations/sqlite/registry/0002_mark.sql"),
    include_str!("../../../migrations/sqlite/registry/0003_rules.sql"),
    include_str!("../../../migrations/sqlite/registry/0004_documents.sql"),
];

/// The name of the mark of retained messages.
const RETAINED: &str = "retained";

/// Changes that may wait for the database; then publishers of retained messages wait.
const QUEUE_CHANGES_MAX: usize = 4_096;

/// Changes in one transaction.
const BATCH_CHANGES_MAX: usize = 1_024;

/// Why the registry cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// SQLite refused something.
    #[error("cannot {action} the registry {}", path.display())]
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
    #[error("cannot start the registry's thread")]
    Thread(#[source] std::io::Error),
    /// The writer thread is gone.
    #[error("the registry's thread has ended; nothing can be stored any more")]
    Ended,
}

/// A change of a retained message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetainedChange {
    /// This is the topic's message now.
    Set {
        /// Its topic.
        topic: String,
        /// The message with its envelope.
        message: Bytes,
        /// When, milliseconds since 1970.
        set_at_ms: i64,
    },
    /// The topic has none any more.
    Clear {
        /// The topic.
        topic: String,
    },
}

/// A place in an event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Which log.
    pub log_id: u128,
    /// Everything before this offset is in the registry.
    pub read_from: u64,
}

enum Command {
    Retained(RetainedChange, Mark),
    Mark(Mark),
    Rule(rules::RuleChange, oneshot::Sender<Result<(), rusqlite::Error>>),
    Documents(Vec<DocumentChange>, oneshot::Sender<Result<(), rusqlite::Error>>),
    Flush(oneshot::Sender<()>),
}

/// The open registry. Clones share it.
#[derive(Clone)]
pub struct Registry {
    path: Arc<PathBuf>,
    reader: Arc<Mutex<Connection>>,
    queue: mpsc::Sender<Command>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Registry {
    /// Opens or creates the database and brings it to the newest version.
    ///
    /// # Errors
    /// [`RegistryError`] says which file and why.
    pub fn open(path: &Path) -> Result<Self, RegistryError> {
        let mut writer = connect(path)?;
        migrate(&mut writer, path)?;
        let reader = connect(path)?;
        let (queue, commands) = mpsc::channel(QUEUE_CHANGES_MAX);
        std::thread::Builder::new()
            .name("muster-registry".to_owned())
            .spawn(move || write_all(writer, commands))
            .map_err(RegistryError::Thread)?;
        Ok(Self { path: Arc::new(path.to_owned()), reader: Arc::new(Mutex::new(reader)), queue })
    }

    /// Every retained message that is committed.
    ///
    /// # Errors
    /// [`RegistryError::Sqlite`].
    pub fn retained(&self) -> Result<Vec<(String, Vec<u8>)>, RegistryError> {
        self.read(|reader| {
            let mut statement = reader.prepare("SELECT topic, message FROM retained")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        })
    }

    /// From where retained messages must be read out of the log again; none where that was never written.
    ///
    /// # Errors
    /// [`RegistryError::Sqlite`].
    pub fn retained_mark(&self) -> Result<Option<Mark>, RegistryError> {
        let found = self.read(|reader| {
            let sql = "SELECT log_id, read_from FROM mark WHERE name = ?1";
            let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, [u8; 16]>(0)?, row.get::<_, i64>(1)?));
            reader.query_row(sql, [RETAINED], row).optional()
        })?;
        Ok(found.map(|(log_id, read_from)| Mark {
            log_id: u128::from_be_bytes(log_id),
            read_from: read_from.unsigned_abs(),
        }))
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, RegistryError> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        read(&reader).map_err(|source| self.sqlite("read", source))
    }

    fn sqlite(&self, action: &'static str, source: rusqlite::Error) -> RegistryError {
        RegistryError::Sqlite { action, path: self.path.to_path_buf(), source }
    }

    /// Room for one change; waits only while the queue is full. Changes are committed in the order in which
    /// [`Reserved::change_retained`] is called, so that a caller can do that under the lock that orders them.
    pub async fn reserve(&self) -> Option<Reserved<'_>> {
        // The thread ends only when every sender is gone.
        self.queue.reserve().await.ok().map(Reserved)
    }

    /// Waits until everything queued so far is committed.
    pub async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.queue.send(Command::Flush(done)).await.is_ok() {
            drop(wait.await);
        }
    }
}

/// Room for one change in the queue.
pub struct Reserved<'a>(mpsc::Permit<'a, Command>);

impl Reserved<'_> {
    /// Queues a change of a retained message, and with it from where the log must be read again.
    pub fn change_retained(self, change: RetainedChange, mark: Mark) {
        self.0.send(Command::Retained(change, mark));
    }

    /// Queues only from where the log must be read again.
    pub fn mark_retained(self, mark: Mark) {
        self.0.send(Command::Mark(mark));
    }
}

impl std::fmt::Debug for Reserved<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reserved")
    }
}

/// Lets nobody but the owner read the file: secrets of authenticators and hashes of passwords stand in it. SQLite gives
/// the files beside it the same mode. A file that is there is never opened for this: closing it again would take away
/// the locks that SQLite has on it in this process.
#[cfg(unix)]
pub(crate) fn keep_private(path: &Path) {
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    const OWNER_ONLY: u32 = 0o600;
    // What fails here fails again, and is told, when SQLite opens the file.
    if path.exists() {
        drop(std::fs::set_permissions(path, std::fs::Permissions::from_mode(OWNER_ONLY)));
    } else {
        drop(std::fs::OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(path));
    }
}

#[cfg(not(unix))]
pub(crate) const fn keep_private(_: &Path) {}

fn connect(path: &Path) -> Result<Connection, RegistryError> {
    keep_private(path);
    let open = || {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        Ok(connection)
    };
    open().map_err(|source| RegistryError::Sqlite { action: "open", path: path.to_owned(), source })
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), RegistryError> {
    let sqlite = |action| {
        let path = path.to_owned();
        move |source| RegistryError::Sqlite { action, path, source }
    };
    let version: Option<i64> = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .optional()
        .map_err(sqlite("read the version of"))?;
    let found = usize::try_from(version.unwrap_or_default()).unwrap_or(usize::MAX);
    if found > MIGRATIONS.len() {
        return Err(RegistryError::NewerVersion { path: path.to_owned(), found, newest: MIGRATIONS.len() });
    }
    for (version, statements) in (1i64..).zip(MIGRATIONS).skip(found) {
        let mut step = || {
            let transaction = connection.transaction()?;
            transaction.execute_batch(statements)?;
            transaction.pragma_update(None, "user_version", version)?;
            transaction.commit()
        };
        step().map_err(sqlite("migrate"))?;
    }
    Ok(())
}

fn write_all(mut connection: Connection, mut commands: mpsc::Receiver<Command>) {
    let mut batch = Vec::with_capacity(BATCH_CHANGES_MAX);
    while commands.blocking_recv_many(&mut batch, BATCH_CHANGES_MAX) > 0 {
        let mut flushed = Vec::new();
        let mut changes = Vec::new();
        let mut newest_mark = None;
        for command in batch.drain(..) {
            match command {
                Command::Retained(change, mark) => {
                    changes.push(change);
                    newest_mark = Some(mark);
                }
                Command::Mark(mark) => newest_mark = Some(mark),
                Command::Rule(change, done) => {
                    let _ = done.send(rules::write(&mut connection, &change)); // who waits may have gone
                }
                Command::Documents(changes, done) => {
                    let _ = done.send(documents::write(&mut connection, &changes)); // who waits may have gone
                }
                Command::Flush(done) => flushed.push(done),
            }
        }
        if let Err(error) = write(&mut connection, &changes, newest_mark) {
            // Memory still answers rightly, but what is lost here is lost at the next start.
            tracing::error!(changes = changes.len(), %error, "retained messages could not be stored");
        }
        for done in flushed {
            let _ = done.send(()); // who waits may have gone
        }
    }
}

fn write(
    connection: &mut Connection,
    changes: &[RetainedChange],
    mark: Option<Mark>,
) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction()?;
    {
        let mut set = transaction.prepare_cached(
            "INSERT INTO retained (topic, message, set_at_ms) VALUES (?1, ?2, ?3)
             ON CONFLICT (topic) DO UPDATE SET message = excluded.message, set_at_ms = excluded.set_at_ms",
        )?;
        let mut clear = transaction.prepare_cached("DELETE FROM retained WHERE topic = ?1")?;
        for change in changes {
            match change {
                RetainedChange::Set { topic, message, set_at_ms } => {
                    set.execute(params![topic, message.as_ref(), set_at_ms])?
                }
                RetainedChange::Clear { topic } => clear.execute(params![topic])?,
            };
        }
    }
    if let Some(Mark { log_id, read_from }) = mark {
        let read_from = i64::try_from(read_from).unwrap_or(i64::MAX);
        transaction.execute(
            "INSERT INTO mark (name, log_id, read_from) VALUES (?1, ?2, ?3)
             ON CONFLICT (name) DO UPDATE SET log_id = excluded.log_id, read_from = excluded.read_from",
            params![RETAINED, log_id.to_be_bytes(), read_from],
        )?;
    }
    transaction.commit()
}
