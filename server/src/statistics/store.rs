//! Where numbers are kept: `DATA/statistics.db`. It must never know what they count.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::fold::{Count, Topic, Totals};
use super::monitor::{Change, Sample};

/// The file.
const FILE: &str = "statistics.db";
/// The shape that this version knows, in `user_version`.
const SHAPE: u32 = 1;
const SCHEMA: &str = include_str!("../../../migrations/sqlite/statistics.sql");
/// How long a write waits for somebody who reads the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// What can go wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error("the statistics in {path} cannot be used")]
    Sqlite {
        /// The database.
        path: String,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A newer version wrote the database.
    #[error("{path} was written by a newer version of Muster (shape {found}, this version knows {SHAPE})")]
    Newer {
        /// The database.
        path: String,
        /// The shape that it has.
        found: u32,
    },
}

/// The one connection.
#[derive(Debug)]
pub(super) struct Store {
    db: Connection,
    path: String,
    log_id: String,
}

/// What is kept beside the fold.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) counters: BTreeMap<String, u64>,
    pub(super) peaks: BTreeMap<String, u64>,
}

impl Store {
    /// Opens the database. What was counted of another log is forgotten.
    ///
    /// # Errors
    /// The database cannot be opened or is of a newer version.
    pub(super) fn open(data: &Path, log_id: u128) -> Result<Self, StoreError> {
        let path = data.join(FILE);
        let shown = path.display().to_string();
        let wrap = |source| StoreError::Sqlite { path: shown.clone(), source };
        let db = Connection::open(&path).map_err(wrap)?;
        let found = prepare(&db).map_err(wrap)?;
        if found > SHAPE {
            return Err(StoreError::Newer { path: shown, found });
        }
        let store = Self { db, path: shown, log_id: format!("{log_id:032X}") };
        store.begin().map_err(|source| store.error(source))?;
        Ok(store)
    }

    fn begin(&self) -> Result<(), rusqlite::Error> {
        self.db.execute_batch(SCHEMA)?;
        self.db.pragma_update(None, "user_version", SHAPE)?;
        let log_id: Option<String> =
            self.db.query_row("SELECT log_id FROM fold", [], |row| row.get(0)).optional()?;
        if log_id.is_some_and(|id| id != self.log_id) {
            self.db.execute_batch(
                "BEGIN; DELETE FROM fold; DELETE FROM counters; DELETE FROM topics; DELETE FROM snapshots;
                 DELETE FROM samples; COMMIT",
            )?;
        }
        Ok(())
    }

    /// The fold as it was committed, with its cursor; none before the first commit.
    pub(super) fn totals(&self) -> Result<(Option<u64>, Totals), StoreError> {
        let read = || {
            let cursor = self.db.query_row("SELECT cursor FROM fold", [], |row| number(row, 0)).optional()?;
            let mut totals = Totals::default();
            totals.next_offset = cursor.unwrap_or_default();
            let stored = self.pairs("SELECT name, value FROM counters")?;
            for count in Count::ALL {
                totals.set(*count, stored.get(count.name()).copied().unwrap_or_default());
            }
            let mut topics = self.db.prepare("SELECT topic, from_offset, qos0, qos1, qos2 FROM topics")?;
            let rows = topics.query_map([], |row| {
                let received_by_qos = [number(row, 2)?, number(row, 3)?, number(row, 4)?];
                Ok((row.get(0)?, Topic { from_offset: number(row, 1)?, received_by_qos }))
            })?;
            totals.topics = rows.collect::<Result<_, _>>()?;
            Ok((cursor, totals))
        };
        read().map_err(|source| self.error(source))
    }

    /// Stores the fold, with its cursor, in one transaction.
    pub(super) fn save_totals(&mut self, totals: &Totals) -> Result<(), StoreError> {
        self.try_save_totals(totals).map_err(|source| self.error(source))
    }

    fn try_save_totals(&mut self, totals: &Totals) -> Result<(), rusqlite::Error> {
        let tx = self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        {
            let mut put =
                tx.prepare_cached("INSERT OR REPLACE INTO counters (name, value) VALUES (?1, ?2)")?;
            for count in Count::ALL {
                put.execute(params![count.name(), int(totals.get(*count))])?;
            }
            tx.execute("DELETE FROM topics", [])?;
            let mut put = tx.prepare_cached("INSERT INTO topics VALUES (?1, ?2, ?3, ?4, ?5)")?;
            for (name, topic) in &totals.topics {
                let [qos0, qos1, qos2] = topic.received_by_qos.map(int);
                put.execute(params![name, int(topic.from_offset), qos0, qos1, qos2])?;
            }
        }
        tx.execute(
            "INSERT OR REPLACE INTO fold (id, log_id, cursor) VALUES (1, ?1, ?2)",
            params![self.log_id, int(totals.next_offset)],
        )?;
        tx.commit()
    }

    /// What was kept beside the fold.
    pub(super) fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let of = |kind| self.pairs(&format!("SELECT name, value FROM snapshots WHERE kind = '{kind}'"));
        let read = || Ok(Snapshot { counters: of("counter")?, peaks: of("peak")? });
        read().map_err(|source| self.error(source))
    }

    /// Stores what is beside the fold, and changes of samples, in one transaction.
    pub(super) fn save_snapshot(
        &mut self,
        snapshot: &Snapshot,
        changes: &[Change],
    ) -> Result<(), StoreError> {
        self.try_save_snapshot(snapshot, changes).map_err(|source| self.error(source))
    }

    fn try_save_snapshot(&mut self, snapshot: &Snapshot, changes: &[Change]) -> Result<(), rusqlite::Error> {
        let tx = self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        {
            let mut put = tx.prepare_cached("INSERT OR REPLACE INTO snapshots VALUES (?1, ?2, ?3)")?;
            for (kind, values) in [("counter", &snapshot.counters), ("peak", &snapshot.peaks)] {
                for (name, value) in values {
                    put.execute(params![kind, name, int(*value)])?;
                }
            }
            let mut put = tx.prepare_cached("INSERT OR REPLACE INTO samples VALUES (?1, ?2, ?3)")?;
            let mut remove = tx.prepare_cached("DELETE FROM samples WHERE tier = ?1 AND at = ?2")?;
            for change in changes {
                match change {
                    Change::Put(tier, sample) => {
                        let body = serde_json::to_string(sample).unwrap_or_else(|_| "{}".to_owned());
                        put.execute(params![int(*tier as u64), sample.at_ms, body])?
                    }
                    Change::Remove(tier, at_ms) => remove.execute(params![int(*tier as u64), at_ms])?,
                    Change::Clear => tx.execute("DELETE FROM samples", [])?,
                };
            }
        }
        tx.commit()
    }

    /// Every sample, the oldest of each tier first.
    pub(super) fn samples(&self) -> Result<Vec<(usize, Sample)>, StoreError> {
        let read = || {
            let mut all = self.db.prepare("SELECT tier, body FROM samples ORDER BY tier, at")?;
            let rows = all.query_map([], |row| Ok((number(row, 0)?, row.get::<_, String>(1)?)))?;
            let mut samples = Vec::new();
            for row in rows {
                let (tier, body) = row?;
                // What cannot be understood is no loss that anybody should be stopped by.
                let tier = usize::try_from(tier).unwrap_or(usize::MAX);
                samples.extend(serde_json::from_str(&body).ok().map(|sample| (tier, sample)));
            }
            Ok(samples)
        };
        read().map_err(|source| self.error(source))
    }

    fn pairs(&self, sql: &str) -> Result<BTreeMap<String, u64>, rusqlite::Error> {
        let mut statement = self.db.prepare(sql)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, number(row, 1)?)))?;
        rows.collect()
    }

    fn error(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Sqlite { path: self.path.clone(), source }
    }
}

/// Returns the shape that the database has.
fn prepare(db: &Connection) -> Result<u32, rusqlite::Error> {
    db.busy_timeout(BUSY_TIMEOUT)?;
    // What is folded is folded again where a power cut took the last commits; they stay whole.
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// SQLite's integers are signed; no number of ours comes near their end.
fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn number(row: &rusqlite::Row<'_>, at: usize) -> Result<u64, rusqlite::Error> {
    row.get(at).map(|number: i64| u64::try_from(number).unwrap_or_default())
}
