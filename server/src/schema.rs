//! JSON Schema of each event, made from the columns that the code knows. The files under `schemas/` are golden copies
//! that a test holds against this.

use muster_core::event::{Column, ColumnType, EventKind};
use serde_json::{Map, Value, json};

/// Columns that every event has, whatever its kind; all others may be absent from a row.
const ALWAYS: &[Column] =
    &[Column::Event, Column::Timestamp, Column::Node, Column::Id, Column::EventId, Column::Offset];

/// The schema of `SELECT *` over events of `kind`, as text that ends in a newline.
pub fn of_event(kind: EventKind) -> String {
    let mut properties = Map::new();
    for column in Column::of(kind) {
        let mut property = type_of(column.column_type());
        if column == Column::Event
            && let Some(property) = property.as_object_mut()
        {
            property.insert("const".to_owned(), json!(kind.name()));
        }
        properties.insert(column.name().to_owned(), property);
    }
    let always: Vec<_> = ALWAYS.iter().map(|column| column.name()).collect();
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": format!("urn:muster:event:{}", kind.name()),
        "title": kind.name(),
        "description": from(kind),
        "type": "object",
        "properties": properties,
        "required": always,
    });
    format!("{schema:#}\n")
}

/// The name of the schema's file.
pub fn file_name(kind: EventKind) -> String {
    format!("{}.schema.json", kind.name())
}

fn from(kind: EventKind) -> String {
    match kind.topics().first() {
        Some(topic) => {
            format!("FROM \"{topic}\"; a field that is not required is left out when it has no value")
        }
        None => {
            "FROM a topic filter; a field that is not required is left out when it has no value".to_owned()
        }
    }
}

fn type_of(column_type: ColumnType) -> Value {
    match column_type {
        ColumnType::Integer => json!({"type": "integer"}),
        ColumnType::Boolean => json!({"type": "boolean"}),
        ColumnType::String => json!({"type": "string"}),
        ColumnType::Bytes => json!({
            "type": "string",
            "description": "any bytes; in JSON each sequence that is no UTF-8 is replaced by U+FFFD",
        }),
        ColumnType::Map => json!({"type": "object"}),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// `UPDATE_GOLDEN=1 cargo test -p muster schema` writes the files anew.
    #[test]
    fn files_under_schemas_are_what_the_code_says() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas");
        for kind in EventKind::all() {
            let (path, want) = (folder.join(file_name(kind)), of_event(kind));
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                std::fs::write(&path, &want).expect("write the golden file");
            }
            let found = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(found == want, "{} is stale; run with UPDATE_GOLDEN=1", path.display());
        }
        let files = std::fs::read_dir(&folder).expect("the folder");
        let schemas = files.filter(|file| {
            let name = file.as_ref().expect("an entry").file_name();
            name.to_string_lossy().ends_with(".schema.json")
        });
        assert_eq!(schemas.count(), EventKind::all().len(), "a file of a kind that is no more");
    }
}
