//! Replays of dead letters. Where the target keeps the checkpoint, a letter must go when the target has committed, and
//! only then; a crash may come between. So it is written down before which totals the target will have: the one who
//! opens it next sees whether it has them.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::{DeliveryStore, StoreError, int, put_checkpoint};
use crate::database::Verdict;
use crate::sink::{Checkpoint, PipelineId, Totals};

/// What becomes of letters once their replay is committed.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReplayedLetters {
    /// Numbers of letters that go.
    pub(crate) delivered: Vec<i64>,
    /// Numbers and reasons of letters that stay.
    pub(crate) dead: Vec<(i64, String)>,
}

impl DeliveryStore {
    /// Writes down what is being replayed, and which totals the target has once it is.
    pub(crate) async fn begin_replay(
        &self,
        pipeline: &PipelineId,
        after: Totals,
        letters: &ReplayedLetters,
    ) -> Result<(), StoreError> {
        let (key, letters) = (pipeline.to_string(), letters.clone());
        let write = move |connection: &Connection| {
            mark_dead(connection, &letters.dead)?;
            let ids = letters.delivered.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
            let sql = "INSERT OR REPLACE INTO replays VALUES (?1, ?2, ?3, ?4, ?5)";
            let Totals { matched, delivered, dead } = after;
            connection.prepare_cached(sql)?.execute(params![
                key,
                int(matched),
                int(delivered),
                int(dead),
                ids
            ])?;
            Ok(Verdict::Commit(()))
        };
        Ok(self.database.run(write).await?)
    }

    /// Ends a replay that was written down: its letters go if the target has the totals that it was to have.
    pub(crate) async fn conclude_replay(&self, pipeline: &PipelineId, has: Totals) -> Result<(), StoreError> {
        let key = pipeline.to_string();
        let write = move |connection: &Connection| {
            let sql = "DELETE FROM replays WHERE pipeline = ?1 RETURNING matched, delivered, dead, letters";
            let found: Option<([i64; 3], String)> = connection
                .prepare_cached(sql)?
                .query_row([&key], |row| Ok(([row.get(0)?, row.get(1)?, row.get(2)?], row.get(3)?)))
                .optional()?;
            if let Some((totals, ids)) = found
                && totals == [int(has.matched), int(has.delivered), int(has.dead)]
            {
                delete(connection, ids.split(',').filter_map(|id| id.parse().ok()))?;
            }
            Ok(Verdict::Commit(()))
        };
        Ok(self.database.run(write).await?)
    }

    /// Commits a replay where the checkpoint is kept here.
    pub(crate) async fn commit_replay(
        &self,
        pipeline: &Arc<PipelineId>,
        after: Checkpoint,
        letters: ReplayedLetters,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let id = pipeline.clone();
        let write = move |connection: &Connection| {
            mark_dead(connection, &letters.dead)?;
            delete(connection, letters.delivered.into_iter())?;
            put_checkpoint(connection, &id, &after, now_ms)?;
            Ok(Verdict::Commit(()))
        };
        Ok(self.database.run(write).await?)
    }
}

fn mark_dead(connection: &Connection, letters: &[(i64, String)]) -> rusqlite::Result<()> {
    let sql = "UPDATE dead_letters SET reason = ?2, attempts = attempts + 1 WHERE id = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    letters.iter().try_for_each(|(id, reason)| statement.execute(params![id, reason]).map(drop))
}

fn delete(connection: &Connection, mut ids: impl Iterator<Item = i64>) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("DELETE FROM dead_letters WHERE id = ?1")?;
    ids.try_for_each(|id| statement.execute([id]).map(drop))
}
