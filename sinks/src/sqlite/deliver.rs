//! What happens inside the transaction. It runs on the writer's thread.

use muster_core::value::Row;
use rusqlite::{CachedStatement, Connection, ErrorCode, OptionalExtension, params};

use super::encode::encode;
use super::table::{OWN_COLUMNS, Table, columns};
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
    },
    /// Nothing is written; why each row was refused, if it was.
    Refused(Vec<Option<String>>),
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

/// Writes the rows and the checkpoint, or nothing.
pub(super) fn write(
    connection: &Connection,
    table: &str,
    batch: &Batch,
    epoch: i64,
    now_ms: i64,
) -> rusqlite::Result<Verdict<Written>> {
    if !put_checkpoint(connection, batch, epoch, now_ms)? {
        return Ok(Verdict::Rollback(Written::Fenced));
    }
    if batch.is_empty() {
        return Ok(Verdict::Commit(Written::All { migrations: Vec::new() }));
    }
    let mut table = Table::read(connection, table)?;
    let mut refused: Vec<Option<String>> = Vec::with_capacity(batch.len());
    let mut shape: Option<&Row> = None;
    for row in batch.rows() {
        // Rows of one rule mostly look alike.
        let fits =
            if shape.is_some_and(|shape| same_shape(shape, &row.row)) { Ok(()) } else { table.fit(&row.row) };
        if fits.is_ok() {
            shape = Some(&row.row);
        }
        refused.push(fits.err());
    }
    let migrations = table.migrations();
    for migration in &migrations {
        connection.execute_batch(migration)?;
    }
    insert_all(connection, &table, batch, &mut refused)?;
    if refused.iter().any(Option::is_some) {
        return Ok(Verdict::Rollback(Written::Refused(refused)));
    }
    Ok(Verdict::Commit(Written::All { migrations }))
}

/// Whether the table could be written to, as far as can be told without writing.
pub(super) fn check(connection: &Connection, table: &str) -> rusqlite::Result<Verdict<()>> {
    Table::read(connection, table)?;
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
            Some((shape, statement)) if same_shape(shape, &row.row) => statement,
            other => &mut other.insert((&row.row, connection.prepare_cached(&table.insert(&row.row))?)).1,
        };
        if let Err(error) = insert(statement, &batch.pipeline.rule, row) {
            *refused = Some(about_the_row(error)?);
        }
    }
    Ok(())
}

fn insert(statement: &mut CachedStatement<'_>, rule: &str, row: &BatchRow) -> rusqlite::Result<usize> {
    statement.raw_bind_parameter(1, row.event_id().to_string())?;
    statement.raw_bind_parameter(2, rule)?;
    statement.raw_bind_parameter(3, row.index)?;
    for (at, (_, value)) in columns(&row.row).enumerate() {
        statement.raw_bind_parameter(at + 1 + OWN_COLUMNS.len(), encode(value))?;
    }
    statement.raw_execute()
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

fn same_shape(one: &Row, other: &Row) -> bool {
    std::ptr::eq(one, other) || columns(one).map(|(name, _)| name).eq(columns(other).map(|(name, _)| name))
}
