//! What to tell an operator whose table is missing: a statement that makes one which fits the rows. Pure.

use std::fmt::Write as _;

use indexmap::IndexMap;
use muster_core::value::Value;

use super::client::quote;
use crate::sink::Batch;
use crate::upsert::Upsert;

/// Rows that are looked at.
const ROWS_MAX: usize = 100;
/// Whole numbers from here on (the year 2001) may be milliseconds.
const TIME_MS_MIN: i64 = 1_000_000_000_000;

/// A `CREATE TABLE` that fits the rows of `batch`.
pub(super) fn create_table(table: &str, upsert: Option<&Upsert>, batch: &Batch) -> String {
    let mut columns: IndexMap<&str, &'static str> = IndexMap::new();
    for row in batch.rows().take(ROWS_MAX) {
        for (name, value) in row.row.iter() {
            let kind = columns.entry(name).or_default();
            *kind = wider(kind, column_type(name, value));
        }
    }
    let key = upsert.map(|upsert| upsert.key.as_slice()).unwrap_or_default();
    let mut sql = format!("CREATE TABLE {table} (");
    for (name, kind) in &columns {
        let kind = if kind.is_empty() { "text" } else { kind };
        let _ = write!(sql, "{} {kind}, ", quote(name));
    }
    if !columns.contains_key("extra") {
        sql += "extra jsonb, ";
    }
    if key.is_empty() {
        sql += "_event_id uuid NOT NULL, _rule text NOT NULL, _row integer NOT NULL, \
                UNIQUE (_event_id, _rule, _row));";
    } else {
        let key = key.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ");
        let _ = write!(sql, "PRIMARY KEY ({key}));");
    }
    sql
}

fn column_type(name: &str, value: &Value) -> &'static str {
    match value {
        Value::Undefined | Value::Null => "",
        Value::Int(ms)
            if *ms >= TIME_MS_MIN && (name == "timestamp" || name == "at" || name.ends_with("_at")) =>
        {
            "timestamptz"
        }
        Value::Bool(_) => "boolean",
        Value::Int(_) => "bigint",
        Value::BigInt(_) => "numeric",
        Value::Float(_) => "double precision",
        Value::Str(bytes) if std::str::from_utf8(bytes).is_err() || bytes.contains(&0) => "bytea",
        Value::Str(_) => "text",
        Value::Array(_) | Value::Map(_) => "jsonb",
    }
}

/// The type that takes values of both.
fn wider(one: &'static str, other: &'static str) -> &'static str {
    match (one, other) {
        _ if one == other || other.is_empty() => one,
        ("", _) => other,
        ("text", "bytea") | ("bytea", "text") => "bytea",
        ("bigint" | "timestamptz", "bigint" | "timestamptz") => "bigint",
        ("bigint" | "double precision", "bigint" | "double precision") => "double precision",
        ("bigint" | "numeric" | "double precision", "bigint" | "numeric" | "double precision") => "numeric",
        _ => "jsonb",
    }
}
