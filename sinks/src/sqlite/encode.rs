//! Values as SQLite keeps them.

use muster_core::value::Value;
use rusqlite::types::{ToSqlOutput, Value as Owned, ValueRef};

/// The declared type of a column that is created for `value`. A column made for a `NULL` has none, and so keeps
/// whatever comes as it is.
pub(super) fn column_type(value: &Value) -> &'static str {
    match value {
        Value::Undefined | Value::Null => "",
        Value::Bool(_) | Value::Int(_) => " INTEGER",
        Value::Float(_) => " REAL",
        Value::Str(bytes) if std::str::from_utf8(bytes).is_err() => " BLOB",
        Value::BigInt(_) | Value::Str(_) | Value::Array(_) | Value::Map(_) => " TEXT",
    }
}

/// Booleans are 0 and 1, integers beyond 64 bits are text, maps and lists are JSON, bytes that are no text a blob.
pub(super) fn encode(value: &Value) -> ToSqlOutput<'_> {
    match value {
        Value::Undefined | Value::Null => ToSqlOutput::Owned(Owned::Null),
        Value::Bool(flag) => ToSqlOutput::Owned(Owned::Integer((*flag).into())),
        Value::Int(int) => ToSqlOutput::Owned(Owned::Integer(*int)),
        Value::BigInt(int) => ToSqlOutput::Owned(Owned::Text(int.to_string())),
        Value::Float(float) => ToSqlOutput::Owned(Owned::Real(*float)),
        Value::Str(bytes) => ToSqlOutput::Borrowed(match std::str::from_utf8(bytes) {
            Ok(text) => ValueRef::Text(text.as_bytes()),
            Err(_) => ValueRef::Blob(bytes),
        }),
        Value::Array(_) | Value::Map(_) => ToSqlOutput::Owned(Owned::Text(value.to_json())),
    }
}
