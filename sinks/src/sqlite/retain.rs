//! Retention: rows of events that are older than so many days are deleted, a bounded number in each transaction. How
//! old a row is follows from its event's id: ids grow with the log, and of each hour the first one is written down.
//! It must never know what the rows hold.

use muster_core::event::EventId;
use rusqlite::{Connection, OptionalExtension, params};

use super::table::quote;
use crate::sink::Batch;

/// The unit of the table of times: a row may stay this much longer than it was asked for.
const HOUR_MS: i64 = 60 * 60 * 1000;
/// Rows that a transaction may delete however few it writes, and how many for each row that it writes: old rows go
/// faster than new ones come.
const ROWS_MIN: usize = 2_000;
const ROWS_FOR_EACH: usize = 2;

/// What a sink remembers so that work is not done in vain. Losing it costs time only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Memo {
    /// The hour whose first event is known to be written down.
    noted: Option<i64>,
    /// The hour up to which nothing is left to be deleted.
    swept: Option<i64>,
}

/// Writes down the first event of each hour that the batch brings.
pub(super) fn note(connection: &Connection, batch: &Batch, memo: &mut Memo) -> rusqlite::Result<()> {
    let log_id = batch.after.log_id;
    for row in batch.rows() {
        let hour = row.event.timestamp_ms.div_euclid(HOUR_MS);
        if memo.noted == Some(hour) {
            continue;
        }
        // Another pipeline, or a replay, may be further back in the hour.
        let sql = "INSERT INTO _muster_times (log, hour, event_id) VALUES (?1, ?2, ?3) \
                   ON CONFLICT (log, hour) DO UPDATE SET event_id = min(event_id, excluded.event_id)";
        let first = EventId::new(log_id, 0).to_string();
        connection.prepare_cached(sql)?.execute(params![first, hour, row.event_id().to_string()])?;
        memo.noted = Some(hour);
    }
    Ok(())
}

/// Whether there may be rows to delete.
pub(super) fn is_due(memo: &Memo, retain_ms: i64, now_ms: i64) -> bool {
    memo.swept != Some(hour_of(retain_ms, now_ms))
}

/// Deletes rows of `table` that are older than `retain_ms`, as many as one transaction may.
pub(super) fn sweep(
    connection: &Connection,
    table: &str,
    (retain_ms, now_ms): (i64, i64),
    written: usize,
    memo: &mut Memo,
) -> rusqlite::Result<()> {
    let hour = hour_of(retain_ms, now_ms);
    if memo.swept.is_none() {
        // The key of most tables begins with the event's id; where it does not, each step would read all rows.
        let led = "SELECT 1 FROM pragma_index_list(?1) AS list, pragma_index_info(list.name) AS column \
                   WHERE column.seqno = 0 AND column.name = '_event_id'";
        if !connection.prepare_cached(led)?.exists([table])? {
            let (index, table) = (quote(&format!("_muster_age_{table}")), quote(table));
            connection.execute_batch(&format!("CREATE INDEX {index} ON {table} (_event_id)"))?;
        }
    }
    // The first event of an hour that stays; all before it are older. None: all are.
    let sql = "SELECT log, (SELECT event_id FROM _muster_times AS next WHERE next.log = known.log \
               AND next.hour >= ?1 ORDER BY next.hour LIMIT 1) FROM (SELECT DISTINCT log FROM _muster_times) AS known";
    let mut of_logs = connection.prepare_cached(sql)?;
    let logs =
        of_logs.query_map([hour], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?)))?;
    let mut left = ROWS_MIN.max(written.saturating_mul(ROWS_FOR_EACH));
    for log in logs {
        let (first, end) = log?;
        let Some(end) = end.or_else(|| end_of_log(&first)) else { continue };
        let deleted = delete(connection, table, &first, &end, left)?;
        left = left.saturating_sub(deleted);
        if left == 0 {
            return Ok(());
        }
    }
    memo.swept = Some(hour);
    Ok(())
}

/// Deletes the oldest rows from `first` on and before `end`, about `rows_max` of them; how many, `rows_max` at most.
fn delete(
    connection: &Connection,
    table: &str,
    first: &str,
    end: &str,
    rows_max: usize,
) -> rusqlite::Result<usize> {
    let table = quote(table);
    let range = "_event_id >= ?1 AND _event_id < ?2";
    let sql = format!("SELECT _event_id FROM {table} WHERE {range} ORDER BY _event_id LIMIT 1 OFFSET ?3");
    let offset = i64::try_from(rows_max).unwrap_or(i64::MAX).saturating_sub(1);
    let last: Option<String> = connection
        .prepare_cached(&sql)?
        .query_row(params![first, end, offset], |row| row.get(0))
        .optional()?;
    let Some(last) = last else {
        return connection
            .prepare_cached(&format!("DELETE FROM {table} WHERE {range}"))?
            .execute([first, end]);
    };
    // Rows of one event go together.
    let sql = format!("DELETE FROM {table} WHERE _event_id >= ?1 AND _event_id <= ?2");
    connection.prepare_cached(&sql)?.execute([first, last.as_str()])?;
    Ok(rows_max)
}

/// The id that no event of the log whose first id is `first` can reach.
fn end_of_log(first: &str) -> Option<String> {
    let log_id = u128::from_str_radix(first, 16).ok()?;
    Some(EventId::new(log_id, u64::MAX).to_string())
}

fn hour_of(retain_ms: i64, now_ms: i64) -> i64 {
    now_ms.saturating_sub(retain_ms).div_euclid(HOUR_MS)
}
