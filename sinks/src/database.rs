//! One SQLite file, written by one thread, for many asynchronous callers. Jobs that wait together share one
//! transaction (each in its own savepoint) and one sync to disk; a job is answered when that transaction is
//! committed. It must never know what the jobs write.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

/// Jobs that may wait for the thread; beyond it callers wait.
const QUEUE_JOBS_MAX: usize = 256;
/// Jobs that share one transaction.
const GROUP_JOBS_MAX: usize = 64;
/// How long a lock held by another process is waited for before the job fails. The other jobs wait too.
const BUSY_WAIT: Duration = Duration::from_secs(1);
/// Prepared statements kept.
const STATEMENTS_MAX: usize = 256;

/// How much a commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sync {
    /// A power cut (`PRAGMA synchronous = FULL`).
    Full,
    /// The end of the process; a power cut may take back the last transactions, whole (`NORMAL`).
    Normal,
}

/// What becomes of a job's writes.
#[derive(Debug)]
pub enum Verdict<T> {
    /// Keep them.
    Commit(T),
    /// Take them back; the answer is given all the same.
    Rollback(T),
}

/// Why a job's writes are not there.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DatabaseError {
    /// The file could not be opened, written or committed.
    #[error("{doing} {path}")]
    Sqlite {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: String,
        /// What SQLite says.
        source: Arc<rusqlite::Error>,
    },
    /// The thread has ended.
    #[error("the database {path} is closed")]
    Closed {
        /// The file.
        path: String,
    },
}

impl DatabaseError {
    /// SQLite's own error, if it is one.
    pub fn sqlite(&self) -> Option<&rusqlite::Error> {
        match self {
            Self::Sqlite { source, .. } => Some(source),
            Self::Closed { .. } => None,
        }
    }
}

/// A handle on the file; clones share the thread, which ends after the last one is gone.
#[derive(Clone)]
pub struct Database {
    path: Arc<PathBuf>,
    way: Way,
}

#[derive(Clone)]
enum Way {
    Thread(mpsc::Sender<Box<dyn Job>>),
    Inline(Arc<Mutex<Writer>>),
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Database {
    /// A database whose thread opens `path` at the first job and again after a failure. `schema` prepares each
    /// connection.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(path: &Path, sync: Sync, schema: Schema) -> std::io::Result<Self> {
        let (sender, jobs) = mpsc::channel(QUEUE_JOBS_MAX);
        let writer = Writer { path: path.to_owned(), sync, schema, connection: None };
        std::thread::Builder::new().name("sqlite-writer".into()).spawn(move || writer.run(jobs))?;
        Ok(Self { path: Arc::new(path.to_owned()), way: Way::Thread(sender) })
    }

    /// A database that does each job at once on the caller's thread: for a simulation, where nothing may happen
    /// at the same time as anything else.
    pub fn inline(path: &Path, sync: Sync, schema: Schema) -> Self {
        let writer = Writer { path: path.to_owned(), sync, schema, connection: None };
        Self { path: Arc::new(path.to_owned()), way: Way::Inline(Arc::new(Mutex::new(writer))) }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `job` in a transaction and answers once it is committed. A dropped future does not take the job back.
    ///
    /// # Errors
    /// When nothing of the job was written.
    pub async fn run<T, F>(&self, job: F) -> Result<T, DatabaseError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<Verdict<T>> + Send + 'static,
    {
        let closed = || DatabaseError::Closed { path: self.path.display().to_string() };
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Typed { job: Some(job), done: None, reply: Some(reply) });
        match &self.way {
            Way::Thread(sender) => sender.send(job).await.map_err(|_| closed())?,
            Way::Inline(writer) => writer.lock().unwrap_or_else(PoisonError::into_inner).group(vec![job]),
        }
        answer.await.map_err(|_| closed())?
    }
}

/// Prepares a fresh connection: creates or migrates what must be there.
pub type Schema = fn(&Connection) -> rusqlite::Result<()>;

/// A [`Schema`] that asks for nothing.
pub fn no_schema(_: &Connection) -> rusqlite::Result<()> {
    Ok(())
}

trait Job: Send {
    /// Does the work; whether the writes are to be kept.
    fn work(&mut self, connection: &Connection) -> bool;
    /// Answers; `failed` is why nothing of the whole group was written.
    fn answer(&mut self, path: &Path, failed: Option<&DatabaseError>);
}

struct Typed<T, F> {
    job: Option<F>,
    done: Option<rusqlite::Result<T>>,
    reply: Option<oneshot::Sender<Result<T, DatabaseError>>>,
}

impl<T, F> Job for Typed<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> rusqlite::Result<Verdict<T>> + Send,
{
    fn work(&mut self, connection: &Connection) -> bool {
        let Some(job) = self.job.take() else { return false };
        let (done, keep) = match job(connection) {
            Ok(Verdict::Commit(done)) => (Ok(done), true),
            Ok(Verdict::Rollback(done)) => (Ok(done), false),
            Err(error) => (Err(error), false),
        };
        self.done = Some(done);
        keep
    }

    fn answer(&mut self, path: &Path, failed: Option<&DatabaseError>) {
        let Some(reply) = self.reply.take() else { return };
        let answer = match (self.done.take(), failed) {
            (Some(Err(error)), _) => Err(sqlite_error("writing to", path, error)),
            (_, Some(failed)) => Err(failed.clone()),
            (Some(Ok(done)), None) => Ok(done),
            (None, None) => Err(DatabaseError::Closed { path: path.display().to_string() }),
        };
        // Nobody waits any more when the caller was stopped; the writes stand.
        drop(reply.send(answer));
    }
}

struct Writer {
    path: PathBuf,
    sync: Sync,
    schema: Schema,
    connection: Option<Connection>,
}

impl Writer {
    fn run(mut self, mut jobs: mpsc::Receiver<Box<dyn Job>>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP_JOBS_MAX {
                let Ok(next) = jobs.try_recv() else { break };
                group.push(next);
            }
            self.group(group);
        }
    }

    fn group(&mut self, mut jobs: Vec<Box<dyn Job>>) {
        let failed = self.transaction(&mut jobs).err();
        if failed.is_some() {
            // A connection that failed to commit is not trusted again.
            self.connection = None;
        }
        for job in &mut jobs {
            job.answer(&self.path, failed.as_ref());
        }
    }

    fn transaction(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<(), DatabaseError> {
        let path = self.path.clone();
        let connection = self.connection()?;
        let begin = TransactionBehavior::Immediate;
        let failed = |doing| move |error| sqlite_error(doing, &path, error);
        let transaction =
            rusqlite::Transaction::new_unchecked(connection, begin).map_err(failed.clone()("locking"))?;
        for job in jobs {
            transaction.execute_batch("SAVEPOINT job").map_err(failed.clone()("writing to"))?;
            let undo = if job.work(&transaction) { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" };
            // Fails where an error of the job (a full disk) ended the whole transaction: then nobody's writes stand.
            transaction.execute_batch(undo).map_err(failed.clone()("writing to"))?;
        }
        transaction.commit().map_err(failed("committing to"))
    }

    fn connection(&mut self) -> Result<&Connection, DatabaseError> {
        if self.connection.is_none() {
            let opened = self.open().map_err(|error| sqlite_error("opening", &self.path, error))?;
            self.connection = Some(opened);
        }
        self.connection
            .as_ref()
            .ok_or_else(|| DatabaseError::Closed { path: self.path.display().to_string() })
    }

    fn open(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open(&self.path)?;
        connection.busy_timeout(BUSY_WAIT)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        let sync = match self.sync {
            Sync::Full => "FULL",
            Sync::Normal => "NORMAL",
        };
        connection.pragma_update(None, "synchronous", sync)?;
        (self.schema)(&connection)?;
        Ok(connection)
    }
}

fn sqlite_error(doing: &'static str, path: &Path, source: rusqlite::Error) -> DatabaseError {
    DatabaseError::Sqlite { doing, path: path.display().to_string(), source: Arc::new(source) }
}

/// The databases of this process, so that all who write to one file share its one thread. A file stays open: a new
/// thread beside one that still has jobs would do them out of order.
#[derive(Debug, Clone, Default)]
pub struct Databases {
    open: Arc<Mutex<HashMap<PathBuf, (Sync, Database)>>>,
}

impl Databases {
    /// The database at `path`, started if nobody has it open. The first caller's `sync` holds.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn get(&self, path: &Path, sync: Sync) -> std::io::Result<Database> {
        let path = std::path::absolute(path)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((kept, database)) = open.get(&path) {
            if *kept != sync {
                tracing::warn!(path = %path.display(), ?kept, "one file is asked for with two kinds of sync");
            }
            return Ok(database.clone());
        }
        let database = Database::start(&path, sync, no_schema)?;
        open.insert(path, (sync, database.clone()));
        Ok(database)
    }
}
