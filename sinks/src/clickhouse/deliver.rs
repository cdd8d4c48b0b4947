//! A batch as one INSERT of JSONEachRow, and the token by which the server knows it again. It must never know a
//! connection's state.
//!
//! One INSERT is one block, since `max_insert_block_size` is above what a batch may have and one thread parses. A block
//! with rows of several partitions becomes a part in each, written one after the other; the server keeps the token for
//! each partition, so that a batch which broke off in between is completed by its repetition, and not doubled.

use muster_core::value::{Map, Value};

use super::client::Client;
use super::config::Config;
use super::encode;
use super::table::{EXTRA, OWN_COLUMNS, Table, name};
use super::types::Type;
use crate::error::{ErrorKind, SinkError};
use crate::sink::{Batch, BatchRow};

/// Rows of one block: ClickHouse's own default, or the batch where that is more.
const BLOCK_ROWS: usize = 1_048_449;
/// About how many bytes a row takes; the buffer grows where it is wrong.
const ROW_BYTES: usize = 256;

/// A batch as it is sent.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) rows: Vec<u8>,
    /// Which of the table's columns any row has.
    used: Vec<bool>,
    /// Why each row cannot be sent, if it cannot.
    pub(super) refused: Vec<Option<String>>,
}

impl Encoded {
    pub(super) fn has_refused(&self) -> bool {
        self.refused.iter().any(Option::is_some)
    }
}

/// Writes down the rows of `batch`.
pub(super) fn encode(table: &Table, batch: &Batch) -> Encoded {
    let mut encoded = Encoded {
        rows: Vec::with_capacity(batch.len() * ROW_BYTES),
        used: vec![false; table.columns.len()],
        refused: Vec::with_capacity(batch.len()),
    };
    let rule = Value::str(&batch.pipeline.rule);
    for row in batch.rows() {
        let start = encoded.rows.len();
        let written = write_row(table, row, &rule, &mut encoded);
        if written.is_err() {
            encoded.rows.truncate(start);
        }
        encoded.refused.push(written.err());
    }
    encoded
}

/// Sends `encoded`.
pub(super) async fn insert(
    client: &Client,
    config: &Config,
    table: &Table,
    batch: &Batch,
    encoded: Encoded,
) -> Result<(), SinkError> {
    let columns: Vec<_> = table
        .columns
        .iter()
        .zip(&encoded.used)
        .filter(|(_, used)| **used)
        .map(|(it, _)| name(&it.name))
        .collect();
    let columns = if columns.is_empty() { String::new() } else { format!(" ({})", columns.join(", ")) };
    let sql = format!("INSERT INTO {}{columns} FORMAT JSONEachRow", name(&config.table));
    let (block, token) = (batch.len().max(BLOCK_ROWS).to_string(), token(batch));
    let mut settings = vec![("date_time_input_format", "best_effort"), ("max_insert_block_size", &block)];
    if config.tokens {
        settings.extend([("insert_deduplication_token", token.as_str()), ("insert_deduplicate", "1")]);
        settings.push(("deduplicate_insert", "enable"));
    } else {
        // Without a token the server takes a batch for a repetition of one that has equal rows.
        settings.extend([("insert_deduplicate", "0"), ("deduplicate_insert", "disable")]);
    }
    settings.push(("input_format_parallel_parsing", "0"));
    settings.push(("async_insert", if config.async_insert { "1" } else { "0" }));
    if config.async_insert {
        settings.extend([("wait_for_async_insert", "1"), ("async_insert_deduplicate", "1")]);
    }
    if table.distributed {
        // Otherwise the answer comes before the rows have reached their shards.
        settings.push(("insert_distributed_sync", "1"));
    }
    settings.retain(|(name, _)| table.knows(name));
    settings.retain(|(name, _)| !config.settings.iter().any(|(own, _)| own == name));
    settings.extend(config.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    client.insert(&sql, &settings, encoded.rows).await
}

/// The same for every attempt at a batch, also after a crash. The number of rows that matched by then parts an attempt
/// from a delivery that an operator wants anew by a reset: that one counts its rows again, and must not be taken for a
/// repetition.
fn token(batch: &Batch) -> String {
    let id = batch.id().map(|id| id.to_string()).unwrap_or_default();
    format!("{} {id} {}", batch.pipeline, batch.after.totals.matched)
}

/// One row as a line. What it lacks has the column's default.
fn write_row(table: &Table, row: &BatchRow, rule: &Value, encoded: &mut Encoded) -> Result<(), String> {
    encoded.rows.push(b'{');
    let start = encoded.rows.len();
    let mut more: Vec<(&str, &Value)> = Vec::new();
    for (name, value) in row.row.iter().filter(|(_, value)| !value.is_undefined()) {
        if OWN_COLUMNS.contains(&name) {
            return Err(format!("the column name `{name}` is reserved; give it an alias"));
        }
        match table.find(name) {
            Some(at) if Some(at) == table.extra && matches!(value, Value::Map(_)) => more.push((name, value)),
            Some(at) => field(table, at, value, encoded, start)?,
            None => more.push((name, value)),
        }
    }
    if !more.is_empty() {
        extra(table, more, encoded, start)?;
    }
    let own = [Value::from(row.event_id().to_string()), rule.clone(), row.index.into()];
    for (at, value) in table.own.iter().zip(&own) {
        if let Some(at) = at {
            field(table, *at, value, encoded, start)?;
        }
    }
    encoded.rows.extend_from_slice(b"}\n");
    Ok(())
}

/// One column's value. A null where the type knows none is left out: the column then has its default.
fn field(table: &Table, at: usize, value: &Value, encoded: &mut Encoded, start: usize) -> Result<(), String> {
    let Some(column) = table.columns.get(at) else { return Ok(()) };
    if matches!(value, Value::Null) && !column.kind.takes_null() && column.kind != Type::Other {
        return Ok(());
    }
    let refused =
        |reason| format!("the column `{}` is {} and cannot hold {reason}", column.name, column.type_text);
    if column.computed {
        return Err(format!("the column `{}` is computed by the table; give it an alias", column.name));
    }
    if encoded.rows.len() > start {
        encoded.rows.push(b',');
    }
    encoded.rows.extend_from_slice(&column.key);
    encode::write(&column.kind, value, &mut encoded.rows).map_err(refused)?;
    if let Some(used) = encoded.used.get_mut(at) {
        *used = true;
    }
    Ok(())
}

/// What the table has no column for, in its column `extra`; a map that the row has under that name is part of it.
fn extra(
    table: &Table,
    more: Vec<(&str, &Value)>,
    encoded: &mut Encoded,
    start: usize,
) -> Result<(), String> {
    let Some(at) = table.extra else {
        let names: Vec<_> = more.iter().map(|(name, _)| format!("`{name}`")).collect();
        let (columns, it) = if names.len() == 1 { ("column", "it") } else { ("columns", "them") };
        return Err(format!(
            "the table has no {columns} {}, and no column `{EXTRA}` (String, JSON or Map) that would take {it}",
            names.join(", ")
        ));
    };
    let mut all = Map::new();
    for (name, value) in more {
        match value {
            Value::Map(map) if name == EXTRA => {
                for (name, value) in map.iter() {
                    all.insert(name, value.clone());
                }
            }
            _ => drop(all.insert(name, value.clone())),
        }
    }
    field(table, at, &Value::Map(all), encoded, start)
}

/// The error of a row that was not sent.
pub(super) fn refusal(reason: String) -> SinkError {
    SinkError::new(ErrorKind::RejectedRow, reason)
}
