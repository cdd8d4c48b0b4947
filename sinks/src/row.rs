//! A row as all sinks of its rule share it: made once, measured once, and written as JSON at most once. It must never
//! know who made it or where it goes.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use muster_core::value::{Map, Row, Value};

/// A row that cannot change any more; clones share it, and the JSON that one of them was asked for.
#[derive(Debug, Clone)]
pub struct SharedRow(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    row: Row,
    bytes: usize,
    json: OnceLock<Box<str>>,
}

impl SharedRow {
    /// About how many bytes it takes, on the wire and in memory.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// As a JSON object; written by the first who asks.
    pub fn json(&self) -> &str {
        self.0.json.get_or_init(|| self.0.row.to_json().into())
    }

    /// Whether both are one row, not merely equal ones.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl From<Row> for SharedRow {
    fn from(row: Row) -> Self {
        Self(Arc::new(Shared { bytes: map_bytes(&row), row, json: OnceLock::new() }))
    }
}

impl Deref for SharedRow {
    type Target = Row;

    fn deref(&self) -> &Row {
        &self.0.row
    }
}

fn map_bytes(map: &Map) -> usize {
    map.iter().map(|(key, value)| key.len() + value_bytes(value) + 4).sum()
}

fn value_bytes(value: &Value) -> usize {
    match value {
        Value::Undefined | Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => 8,
        Value::BigInt(int) => usize::try_from(int.bits() / 3).unwrap_or(usize::MAX),
        Value::Str(bytes) => bytes.len(),
        Value::Array(items) => items.iter().map(|item| value_bytes(item) + 1).sum(),
        Value::Map(map) => map_bytes(map),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_written_once_for_all_clones() {
        let row: Row = [("a", Value::from(1_i64)), ("b", Value::from("x"))].into_iter().collect();
        let first = SharedRow::from(row.clone());
        let second = first.clone();
        assert_eq!(first.json(), r#"{"a":1,"b":"x"}"#);
        assert!(std::ptr::eq(first.json(), second.json()));
        assert!(first.is(&second) && !first.is(&SharedRow::from(row)));
    }
}
