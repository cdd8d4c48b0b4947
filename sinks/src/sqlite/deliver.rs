//! What happens inside the transaction. It runs on the writer's thread.

use muster_core::event::EventId;
use muster_core::value::Row;
use rusqlite::{CachedStatement, Connection, ErrorCode, OptionalExtension, params};

use super::config::Target;
use super::encode::encode;
use super::retain::{self, Memo};
use super::table::{OWN_COLUMNS, Table};
use crate::database::Verdict;
use crate::delivery::{checkpoint_at, int};
use crate::sink::{Batch, BatchRow, Checkpoint, PipelineId};

const SCHEMA: &str = include_str!("../../../migrations/sqlite/sink.sql");

/// What came of a batch.
#[derive(Debug)]
pub(super) enum Written {
    /// Rows and checkpoint are written.
    All {
        /// What was changed in the schema.
        migrations: Vec<String>,
        /// What need not be done again.
        memo: Memo,
    },
    /// Nothing is written; why each row was refused, if it was.
    Refused(Vec<Option<String>>),
    /// Nothing is written; the table holds rows of which only one may be there.
    Doubled,
    /// Nothing is written; somebody else owns the pipeline.
    Fenced,
}

/// Takes the pipeline over: whoever had it cannot write any more. Answers with the new epoch and what was committed.
pub(super) fn take_over(
    connection: &Connection,
    pipeline: &PipelineId,
) -> rusqlite::Result<Verdict<(i64, Option<Checkpoint>)>> {
    connection.execute_batch(SCHEMA)?;
    let key = pipeline.to_string();
    let sql = "INSERT INTO _muster_pipelines (pipeline, epoch) VALUES (?1, 1) \
               ON CONFLICT (pipeline) DO UPDATE SET epoch = epoch + 1 RETURNING epoch";
    let epoch = connection.query_row(sql, [&key], |row| row.get(0))?;
    let sql = "SELECT log_id, cursor_offset, cursor_row, matched, delivered, dead FROM _muster_pipelines \
               WHERE pipeline = ?1 AND log_id IS NOT NULL";
    let checkpoint = connection.query_row(sql, [&key], |row| checkpoint_at(row, 0)).optional()?;
    Ok(Verdict::Commit((epoch, checkpoint)))
}

/// Writes the rows and the checkpoint, or nothing; deletes some that are too old.
pub(super) fn write(
    connection: &Connection,
    target: &Target,
    batch: &Batch,
    epoch: i64,
    now_ms: i64,
    mut memo: Memo,
) -> rusqlite::Result<Verdict<Written>> {
    if !put_checkpoint(connection, batch, epoch, now_ms)? {
        return Ok(Verdict::Rollback(Written::Fenced));
    }
    let mut migrations = Vec::new();
    if !batch.is_empty() {
        let mut table = Table::read(connection, target)?;
        let mut refused = fit(&mut table, batch);
        migrations = table.migrations();
        for migration in &migrations {
            match connection.execute_batch(migration) {
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                    return Ok(Verdict::Rollback(Written::Doubled));
                }
                done => done?,
            }
        }
        insert_all(connection, &table, batch, &mut refused)?;
        if refused.iter().any(Option::is_some) {
            return Ok(Verdict::Rollback(Written::Refused(refused)));
        }
        retain::note(connection, batch, &mut memo)?;
    }
    migrations.extend(retain_some(connection, target, batch.len(), now_ms, &mut memo)?);
    Ok(Verdict::Commit(Written::All { migrations, memo }))
}

/// Makes room for the rows; why some of them can never be there.
fn fit(table: &mut Table<'_>, batch: &Batch) -> Vec<Option<String>> {
    let mut refused: Vec<Option<String>> = Vec::with_capacity(batch.len());
    let mut shape: Option<&Row> = None;
    for row in batch.rows() {
        // Rows of one rule mostly look alike.
        let alike = shape.is_some_and(|shape| same_shape(table, shape, &row.row));
        let fits = if alike { Ok(()) } else { table.fit(&row.row) };
        if fits.is_ok() {
            shape = Some(&row.row);
        }
        refused.push(fits.and_then(|()| table.comparable(&row.row)).err());
    }
    refused
}

/// Deletes rows that are too old; a word to the operator where the table does not let them go.
fn retain_some(
    connection: &Connection,
    target: &Target,
    written: usize,
    now_ms: i64,
    memo: &mut Memo,
) -> rusqlite::Result<Option<String>> {
    let Some(retain_ms) = target.retain_ms.filter(|retain_ms| retain::is_due(memo, *retain_ms, now_ms))
    else {
        return Ok(None);
    };
    if !Table::read(connection, target)?.has_own() {
        return Ok(None);
    }
    match retain::sweep(connection, &target.table, (retain_ms, now_ms), written, memo) {
        // A trigger or a reference of the user's own. It must not hold up what is new.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            Ok(Some(format!("rows that are too old cannot be deleted: {error}")))
        }
        done => done.map(|()| None),
    }
}

/// Whether the table could be written to, as far as can be told without writing.
pub(super) fn check(connection: &Connection, target: &Target) -> rusqlite::Result<Verdict<()>> {
    Table::read(connection, target)?;
    connection.execute_batch(SCHEMA)?;
    Ok(Verdict::Rollback(()))
}

/// Whether the epoch is still ours.
fn put_checkpoint(connection: &Connection, batch: &Batch, epoch: i64, now_ms: i64) -> rusqlite::Result<bool> {
    let Checkpoint { log_id, cursor, totals } = batch.after;
    let sql = "UPDATE _muster_pipelines SET log_id = ?3, cursor_offset = ?4, cursor_row = ?5, matched = ?6, \
               delivered = ?7, dead = ?8, updated_ms = ?9 WHERE pipeline = ?1 AND epoch = ?2";
    let changed = connection.prepare_cached(sql)?.execute(params![
        batch.pipeline.to_string(),
        epoch,
        log_id.to_be_bytes(),
        int(cursor.offset),
        cursor.row,
        int(totals.matched),
        int(totals.delivered),
        int(totals.dead),
        now_ms
    ])?;
    Ok(changed == 1)
}

fn insert_all(
    connection: &Connection,
    table: &Table<'_>,
    batch: &Batch,
    refused: &mut [Option<String>],
) -> rusqlite::Result<()> {
    let mut prepared: Option<(&Row, CachedStatement<'_>)> = None;
    for (row, refused) in batch.rows().zip(refused).filter(|(_, refused)| refused.is_none()) {
        let statement = match &mut prepared {
            Some((shape, statement)) if same_shape(table, shape, &row.row) => statement,
            other => {
                let mut statement = connection.prepare_cached(&table.insert(&row.row))?;
                // Stays bound from row to row.
                statement.raw_bind_parameter(2, &*batch.pipeline.rule)?;
                &mut other.insert((&row.row, statement)).1
            }
        };
        if let Err(error) = insert(statement, table, row) {
            *refused = Some(about_the_row(error)?);
        }
    }
    Ok(())
}

fn insert(statement: &mut CachedStatement<'_>, table: &Table<'_>, row: &BatchRow) -> rusqlite::Result<usize> {
    let id = digits(row.event_id());
    statement.raw_bind_parameter(1, std::str::from_utf8(&id).unwrap_or_default())?;
    statement.raw_bind_parameter(3, row.index)?;
    for (at, (_, value)) in table.written(&row.row).enumerate() {
        statement.raw_bind_parameter(at + 1 + OWN_COLUMNS.len(), encode(value))?;
    }
    statement.raw_execute()
}

/// An event's id as its `Display` writes it, without the cost of formatting.
fn digits(id: EventId) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let (mut text, mut rest) = ([b'0'; 32], id.as_u128());
    for place in text.iter_mut().rev() {
        *place = DIGITS.get((rest & 15) as usize).copied().unwrap_or(b'0');
        rest >>= 4;
    }
    text
}

/// The words of an error that is about the row alone; any other is about the database.
fn about_the_row(error: rusqlite::Error) -> rusqlite::Result<String> {
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) => {
            Ok(error.to_string())
        }
        _ => Err(error),
    }
}

fn same_shape(table: &Table<'_>, one: &Row, other: &Row) -> bool {
    let names = |row| table.written(row).map(|(name, _)| name);
    std::ptr::eq(one, other) || names(one).eq(names(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_the_digits_that_it_shows() {
        for id in [0, 7, 0xabcd << 112, u128::MAX] {
            let id = EventId::new(id, 0);
            assert_eq!(std::str::from_utf8(&digits(id)).unwrap(), id.to_string());
        }
    }
}
