//! Replays of recorded events: what was asked for, and how it ended. Each is a pipeline of its own, whose cursor and
//! books are kept like those of any other. It must never know a rule or how rows are delivered.

use rusqlite::{Connection, Row, params};

use super::{DeliveryStore, StoreError, int, put_checkpoint, uint};
use crate::database::Verdict;
use crate::part::Part;
use crate::sink::{Checkpoint, Cursor, PipelineId, Totals};

/// Replays in one answer.
const REPLAYS_MAX: u32 = 1_000;

/// What is to be replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewReplay {
    /// The rule, and where its rows go.
    pub pipeline: PipelineId,
    /// The log that the offsets belong to.
    pub log_id: u128,
    /// The first event.
    pub from: u64,
    /// One past the last.
    pub to: u64,
    /// At most so many rows a second.
    pub rows_per_second: Option<u32>,
}

/// A replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReplay {
    /// Its number; it is part of the pipeline's identity.
    pub id: i64,
    /// What was asked for, under the identity of its own.
    pub asked: NewReplay,
    /// When, milliseconds since 1970.
    pub created_ms: i64,
    /// How it ended; none while it has not.
    pub ended: Option<EndedReplay>,
}

/// How a replay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedReplay {
    /// Whether an operator ended it before it was through.
    pub cancelled: bool,
    /// When, milliseconds since 1970.
    pub at_ms: i64,
    /// How far it came.
    pub cursor: u64,
    /// Its books then.
    pub totals: Totals,
}

impl DeliveryStore {
    /// Writes down what is to be replayed, all or nothing, and where each begins.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn create_replays(
        &self,
        asked: Vec<NewReplay>,
        now_ms: i64,
    ) -> Result<Vec<StoredReplay>, StoreError> {
        let create = move |connection: &Connection| {
            let mut created = Vec::with_capacity(asked.len());
            for mut asked in asked {
                // Never used again, also not by a store that is made anew: targets remember replays by it.
                let sql = "SELECT max(?1, ifnull(max(id) + 1, 0)) FROM log_replays";
                let id = connection.prepare_cached(sql)?.query_row([now_ms], |row| row.get(0))?;
                let sql = "INSERT INTO log_replays (id, rule, sink, target, log_id, from_offset, to_offset, \
                           rows_per_second, created_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
                let PipelineId { rule, sink, target, .. } = &asked.pipeline;
                let (log_id, from, to) = (asked.log_id.to_be_bytes(), int(asked.from), int(asked.to));
                let rate = asked.rows_per_second;
                let values = params![id, rule, sink, target, log_id, from, to, rate, now_ms];
                connection.prepare_cached(sql)?.execute(values)?;
                asked.pipeline = asked.pipeline.with_part(Part::Replay(id));
                let (log_id, cursor) = (asked.log_id, Cursor::at(asked.from));
                let checkpoint = Checkpoint { log_id, cursor, totals: Totals::default() };
                put_checkpoint(connection, &asked.pipeline, &checkpoint, now_ms)?;
                created.push(StoredReplay { id, asked, created_ms: now_ms, ended: None });
            }
            Ok(Verdict::Commit(created))
        };
        Ok(self.database.run(create).await?)
    }

    /// The replays, newest first; those that have not ended are among them, however old.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn replays(&self) -> Result<Vec<StoredReplay>, StoreError> {
        self.read(|connection| {
            let sql = format!(
                "SELECT id, rule, sink, target, log_id, from_offset, to_offset, rows_per_second, created_ms, ended_ms, \
                 cancelled, cursor_offset, matched, delivered, dead FROM log_replays \
                 ORDER BY ended_ms IS NULL DESC, id DESC LIMIT {REPLAYS_MAX}"
            );
            connection.prepare_cached(&sql)?.query_map([], replay)?.collect()
        })
        .await
    }

    /// Writes down how a replay ended, unless it has ended before. Its cursor is not kept any longer.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn end_replay(&self, pipeline: &PipelineId, ended: EndedReplay) -> Result<(), StoreError> {
        let Part::Replay(id) = pipeline.part else { return Ok(()) };
        let key = pipeline.to_string();
        let end = move |connection: &Connection| {
            let sql = "UPDATE log_replays SET ended_ms = ?2, cancelled = ?3, cursor_offset = ?4, matched = ?5, \
                       delivered = ?6, dead = ?7 WHERE id = ?1 AND ended_ms IS NULL";
            let Totals { matched, delivered, dead } = ended.totals;
            let (at_ms, cursor) = (ended.at_ms, int(ended.cursor));
            let values = params![id, at_ms, ended.cancelled, cursor, int(matched), int(delivered), int(dead)];
            connection.prepare_cached(sql)?.execute(values)?;
            for table in ["checkpoints", "batches", "orders", "replays"] {
                connection.execute(&format!("DELETE FROM {table} WHERE pipeline = ?1"), [&key])?;
            }
            Ok(Verdict::Commit(()))
        };
        Ok(self.database.run(end).await?)
    }

    /// Forgets a replay that has ended; whether there was one.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn forget_replay(&self, id: i64) -> Result<bool, StoreError> {
        self.read(move |connection| {
            let sql = "DELETE FROM log_replays WHERE id = ?1 AND ended_ms IS NOT NULL";
            Ok(connection.prepare_cached(sql)?.execute([id])? > 0)
        })
        .await
    }
}

fn replay(row: &Row<'_>) -> rusqlite::Result<StoredReplay> {
    let id = row.get(0)?;
    let pipeline =
        PipelineId::new(row.get::<_, String>(1)?, row.get::<_, String>(2)?, row.get::<_, String>(3)?);
    let ended = match row.get(9)? {
        None => None,
        Some(at_ms) => Some(EndedReplay {
            at_ms,
            cancelled: row.get(10)?,
            cursor: uint(row.get(11)?),
            totals: Totals {
                matched: uint(row.get(12)?),
                delivered: uint(row.get(13)?),
                dead: uint(row.get(14)?),
            },
        }),
    };
    Ok(StoredReplay {
        id,
        asked: NewReplay {
            pipeline: pipeline.with_part(Part::Replay(id)),
            log_id: u128::from_be_bytes(row.get(4)?),
            from: uint(row.get(5)?),
            to: uint(row.get(6)?),
            rows_per_second: row.get(7)?,
        },
        created_ms: row.get(8)?,
        ended,
    })
}
