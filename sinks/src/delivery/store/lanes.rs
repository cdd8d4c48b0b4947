//! In how many lanes each pipeline is delivered, and the step from one number to another: one transaction, taken only
//! when every lane there was stands at the same place. It must never know how a lane is run.

use rusqlite::{Connection, OptionalExtension, params};

use super::{DeliveryStore, StoreError, balanced, checkpoint_at, put_checkpoint};
use crate::database::Verdict;
use crate::part::{Lane, Part};
use crate::sink::{Checkpoint, Cursor, PipelineId, Totals};

/// The lanes of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanePlan {
    /// How often it was changed; 0 is the pipeline as a whole.
    pub generation: u32,
    /// How many there are.
    pub lanes: u32,
}

impl LanePlan {
    /// Before any change.
    const WHOLE: Self = Self { generation: 0, lanes: 1 };

    /// The identities of the lanes of `whole`, in order.
    pub fn ids(self, whole: &PipelineId) -> Vec<PipelineId> {
        let Self { generation, lanes } = self;
        if generation == 0 {
            return vec![whole.clone()];
        }
        let lane = |at| whole.with_part(Part::Lane(Lane { at, of: lanes, generation }));
        (1..=lanes).map(lane).collect()
    }
}

impl DeliveryStore {
    /// The lanes in which `pipeline` is delivered.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn lane_plan(&self, pipeline: &PipelineId) -> Result<LanePlan, StoreError> {
        let id = pipeline.clone();
        self.read(move |connection| plan(connection, &id)).await
    }

    /// The least of the checkpoints of the lanes of `pipeline`; none where one of them has none.
    ///
    /// # Errors
    /// When the file cannot be used or its books do not balance.
    pub async fn least_checkpoint(&self, pipeline: &PipelineId) -> Result<Option<Checkpoint>, StoreError> {
        let id = pipeline.clone();
        let found = self.read(move |connection| {
            let sql = "SELECT log_id, cursor_offset, cursor_row, matched, delivered, dead FROM checkpoints \
                       WHERE pipeline = ?1";
            let mut statement = connection.prepare_cached(sql)?;
            let parts = parts(connection, &id)?.into_iter();
            parts
                .map(|part| statement.query_row([part.to_string()], |row| checkpoint_at(row, 0)).optional())
                .collect::<rusqlite::Result<Option<Vec<_>>>>()
        });
        let least = found.await?.and_then(|all| all.into_iter().min_by_key(|it| it.cursor));
        least.map(balanced).transpose()
    }

    /// Goes over from the lanes of `from`, which all stand at `place` and ended with `totals`, to `to` lanes that begin
    /// there: the first takes over the books and the dead letters. Whether it was done: not where an order to one of
    /// the lanes has come since, or the lanes are no longer those of `from`.
    ///
    /// # Errors
    /// When nothing was changed.
    pub async fn change_lanes(
        &self,
        pipeline: &PipelineId,
        (from, to): (LanePlan, u32),
        place: Checkpoint,
        now_ms: i64,
    ) -> Result<bool, StoreError> {
        let id = pipeline.clone();
        let change = move |connection: &Connection| {
            let old = from.ids(&id);
            if plan(connection, &id)? != from || has_orders(connection, &old)? {
                return Ok(Verdict::Rollback(false));
            }
            let plan = LanePlan { generation: from.generation + 1, lanes: to };
            let sql = "INSERT OR REPLACE INTO lanes VALUES (?1, ?2, ?3)";
            connection.prepare_cached(sql)?.execute(params![id.to_string(), plan.generation, plan.lanes])?;
            let new = plan.ids(&id);
            let mut totals = place.totals;
            for lane in &new {
                let checkpoint = Checkpoint { totals: std::mem::take(&mut totals), ..place };
                put_checkpoint(connection, lane, &checkpoint, now_ms)?;
            }
            for lane in &old {
                forget(connection, lane, new.first().unwrap_or(&id))?;
            }
            Ok(Verdict::Commit(true))
        };
        Ok(self.database.run(change).await?)
    }
}

/// The identities under which `id` is delivered: its lanes, or itself where it is a part already.
pub(super) fn parts(connection: &Connection, id: &PipelineId) -> rusqlite::Result<Vec<PipelineId>> {
    match id.part {
        Part::Whole => Ok(plan(connection, id)?.ids(id)),
        Part::Lane(_) | Part::Replay(_) => Ok(vec![id.clone()]),
    }
}

fn plan(connection: &Connection, id: &PipelineId) -> rusqlite::Result<LanePlan> {
    let sql = "SELECT generation, lanes FROM lanes WHERE pipeline = ?1";
    let read = |row: &rusqlite::Row<'_>| Ok(LanePlan { generation: row.get(0)?, lanes: row.get(1)? });
    let found = connection.prepare_cached(sql)?.query_row([id.to_string()], read).optional()?;
    Ok(found.unwrap_or(LanePlan::WHOLE))
}

fn has_orders(connection: &Connection, lanes: &[PipelineId]) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM orders WHERE pipeline = ?1 AND reset_to IS NOT NULL)";
    let mut statement = connection.prepare_cached(sql)?;
    for lane in lanes {
        if statement.query_row([lane.to_string()], |row| row.get(0))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Forgets a lane that is no more; its dead letters are those of `heir`.
fn forget(connection: &Connection, lane: &PipelineId, heir: &PipelineId) -> rusqlite::Result<()> {
    let key = lane.to_string();
    for table in ["checkpoints", "batches", "replays"] {
        connection.execute(&format!("DELETE FROM {table} WHERE pipeline = ?1"), [&key])?;
    }
    let sql = "UPDATE OR REPLACE dead_letters SET pipeline = ?2 WHERE pipeline = ?1";
    connection.execute(sql, [&key, &heir.to_string()])?;
    Ok(())
}

/// The place where lanes met, and their books together; none where they stand at different places.
pub(crate) fn meeting(lanes: &[Checkpoint]) -> Option<Checkpoint> {
    let first = lanes.first()?;
    let mut all = Checkpoint { totals: Totals::default(), ..*first };
    for Checkpoint { log_id, cursor, totals } in lanes {
        if (*log_id, *cursor) != (first.log_id, first.cursor) || *cursor != Cursor::at(cursor.offset) {
            return None;
        }
        all.totals.matched += totals.matched;
        all.totals.delivered += totals.delivered;
        all.totals.dead += totals.dead;
    }
    Some(all)
}
