//! What delivery must not forget: checkpoints of the sinks that cannot keep their own, the boundaries of the batch
//! under way, and the dead letters. One SQLite file, durable at each answer. It must never know a target or a rule.

mod backfills;
mod lanes;
mod letters;
mod orders;
mod replays;

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::database::{Database, DatabaseError, Sync, Verdict};
use crate::error::SinkError;
use crate::sink::{Checkpoint, Cursor, PipelineId, Totals};

pub(crate) use replays::ReplayedLetters;

pub use backfills::{EndedReplay, NewReplay, StoredReplay};
pub use lanes::LanePlan;
pub(crate) use lanes::meeting;
pub use letters::{DeadLetter, LETTERS_MAX, LetterFilter, NewLetter};
pub use orders::Orders;

/// The delivery store; clones share it.
#[derive(Debug, Clone)]
pub struct DeliveryStore {
    database: Database,
}

/// The boundaries of a batch that was under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedBatch {
    /// The log that the offsets belong to.
    pub log_id: u128,
    /// Its first row, or what stood before it.
    pub from: Cursor,
    /// One past its last row.
    pub to: Cursor,
    /// The rule's text that made its rows, as a version; another version makes other rows.
    pub rule_version: String,
}

/// What is known of a pipeline, running or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPipeline {
    /// Which.
    pub id: PipelineId,
    /// What it has committed.
    pub checkpoint: Checkpoint,
    /// When, milliseconds since 1970.
    pub updated_ms: i64,
}

/// The books of a pipeline do not balance: the file was changed from outside, or we have a fault.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be read or written.
    #[error("the delivery store failed")]
    Database(#[from] DatabaseError),
    /// The books do not balance.
    #[error(
        "the delivery store says that {matched} rows matched, {delivered} were delivered and {dead} are dead"
    )]
    Unbalanced {
        /// Rows made.
        matched: u64,
        /// Rows delivered.
        delivered: u64,
        /// Rows set aside.
        dead: u64,
    },
}

impl From<StoreError> for SinkError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Database(_) => Self::unavailable("the delivery store cannot be used")
                .caused_by(error)
                .with_hint("look at the data directory: its disk may be full or read-only"),
            StoreError::Unbalanced { .. } => {
                Self::new(crate::error::ErrorKind::Fatal, "the books do not balance").caused_by(error)
            }
        }
    }
}

const SCHEMA: &str = include_str!("../../../../migrations/sqlite/delivery.sql");

fn schema(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(SCHEMA)
}

impl DeliveryStore {
    /// The store in the file `path`, which is created at the first use.
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        Ok(Self { database: Database::start(path, Sync::Full, schema)? })
    }

    /// The store in the file `path` without a thread of its own: for simulations.
    pub fn inline(path: &Path) -> Self {
        Self { database: Database::inline(path, Sync::Normal, schema) }
    }

    /// What `pipeline` has committed.
    ///
    /// # Errors
    /// When the file cannot be used or its books do not balance.
    pub async fn checkpoint(&self, pipeline: &PipelineId) -> Result<Option<Checkpoint>, StoreError> {
        let key = pipeline.to_string();
        let found = self.read(move |connection| {
            let sql = "SELECT log_id, cursor_offset, cursor_row, matched, delivered, dead FROM checkpoints \
                       WHERE pipeline = ?1";
            connection.prepare_cached(sql)?.query_row([key], |row| checkpoint_at(row, 0)).optional()
        });
        found.await?.map(balanced).transpose()
    }

    /// Every pipeline that ever committed here, also those whose rule is gone.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn pipelines(&self) -> Result<Vec<KnownPipeline>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT rule, sink, target, pipeline, updated_ms, log_id, cursor_offset, cursor_row, matched, \
                       delivered, dead FROM checkpoints ORDER BY pipeline";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map([], |row| {
                let key: String = row.get(3)?;
                let id = PipelineId::of_key(row.get(0)?, row.get(1)?, row.get(2)?, &key);
                Ok(KnownPipeline { id, updated_ms: row.get(4)?, checkpoint: checkpoint_at(row, 5)? })
            })?;
            rows.collect()
        })
        .await
    }

    /// Commits `checkpoint` with the dead letters that it counts, in one piece; the recorded batch is done with.
    ///
    /// # Errors
    /// When nothing was committed.
    pub async fn commit(
        &self,
        pipeline: &Arc<PipelineId>,
        checkpoint: Checkpoint,
        letters: Vec<NewLetter>,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let id = pipeline.clone();
        let write = move |connection: &Connection| {
            letters::put(connection, &id, &letters, now_ms)?;
            put_checkpoint(connection, &id, &checkpoint, now_ms)?;
            let passed = "DELETE FROM batches WHERE pipeline = ?1 \
                          AND (to_offset < ?2 OR (to_offset = ?2 AND to_row <= ?3))";
            let cursor = checkpoint.cursor;
            connection.prepare_cached(passed)?.execute(params![
                id.to_string(),
                int(cursor.offset),
                cursor.row
            ])?;
            Ok(Verdict::Commit(()))
        };
        Ok(self.database.run(write).await?)
    }

    /// Writes down where the next batch begins and ends.
    ///
    /// # Errors
    /// When it was not written.
    pub async fn record_batch(&self, pipeline: &PipelineId, batch: RecordedBatch) -> Result<(), StoreError> {
        let key = pipeline.to_string();
        let write = move |connection: &Connection| {
            let sql = "INSERT OR REPLACE INTO batches VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
            let RecordedBatch { log_id, from, to, rule_version } = &batch;
            let log_id = log_id.to_be_bytes();
            let (from_offset, to_offset) = (int(from.offset), int(to.offset));
            connection.prepare_cached(sql)?.execute(params![
                key,
                log_id,
                from_offset,
                from.row,
                to_offset,
                to.row,
                rule_version
            ])?;
            Ok(Verdict::Commit(()))
        };
        Ok(self.database.run(write).await?)
    }

    /// The batch that was under way, if any.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn recorded_batch(&self, pipeline: &PipelineId) -> Result<Option<RecordedBatch>, StoreError> {
        let key = pipeline.to_string();
        self.read(move |connection| {
            let sql = "SELECT log_id, from_offset, from_row, to_offset, to_row, rule_version FROM batches \
                       WHERE pipeline = ?1";
            let read = |row: &Row<'_>| {
                Ok(RecordedBatch {
                    log_id: u128::from_be_bytes(row.get(0)?),
                    from: Cursor { offset: uint(row.get(1)?), row: row.get(2)? },
                    to: Cursor { offset: uint(row.get(3)?), row: row.get(4)? },
                    rule_version: row.get(5)?,
                })
            };
            connection.prepare_cached(sql)?.query_row([key], read).optional()
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        Ok(self.database.run(|connection| job(connection).map(Verdict::Commit)).await?)
    }
}

fn put_checkpoint(
    connection: &Connection,
    id: &PipelineId,
    checkpoint: &Checkpoint,
    now_ms: i64,
) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO checkpoints VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    let Checkpoint { log_id, cursor, totals } = checkpoint;
    connection.prepare_cached(sql)?.execute(params![
        id.to_string(),
        id.rule,
        id.sink,
        id.target,
        log_id.to_be_bytes(),
        int(cursor.offset),
        cursor.row,
        int(totals.matched),
        int(totals.delivered),
        int(totals.dead),
        now_ms
    ])?;
    Ok(())
}

/// Reads a checkpoint from the six columns from `first` on.
pub(crate) fn checkpoint_at(row: &Row<'_>, first: usize) -> rusqlite::Result<Checkpoint> {
    Ok(Checkpoint {
        log_id: u128::from_be_bytes(row.get(first)?),
        cursor: Cursor { offset: uint(row.get(first + 1)?), row: row.get(first + 2)? },
        totals: Totals {
            matched: uint(row.get(first + 3)?),
            delivered: uint(row.get(first + 4)?),
            dead: uint(row.get(first + 5)?),
        },
    })
}

/// A checkpoint whose books balance.
pub(crate) fn balanced(checkpoint: Checkpoint) -> Result<Checkpoint, StoreError> {
    let Totals { matched, delivered, dead } = checkpoint.totals;
    if checkpoint.totals.balanced() {
        Ok(checkpoint)
    } else {
        Err(StoreError::Unbalanced { matched, delivered, dead })
    }
}

/// SQLite's integers are signed; no offset or count of ours comes near the end of the range.
pub(crate) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn uint(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
