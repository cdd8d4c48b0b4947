//! The target table: what it has, and what must be added so that a batch fits. Names come from rules and payloads,
//! so each is quoted.

use std::collections::HashSet;
use std::fmt::Write as _;

use muster_core::value::{Row, Value};
use rusqlite::Connection;

use super::encode::column_type;

/// The columns that make a row unique, so that a replay doubles nothing: which event, by which rule, which of its
/// rows.
pub(super) const OWN_COLUMNS: [(&str, &str); 3] =
    [("_event_id", " TEXT NOT NULL"), ("_rule", " TEXT NOT NULL"), ("_row", " INTEGER NOT NULL")];

/// The unique key that they form.
const KEY: &str = r#""_event_id", "_rule", "_row""#;

/// Columns that a table may grow to; SQLite's own limit is 2,000.
const COLUMNS_MAX: usize = 1_000;

/// A name, quoted.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What a table has, and what is being added to it.
#[derive(Debug)]
pub(super) struct Table<'a> {
    name: &'a str,
    exists: bool,
    has_key: bool,
    /// In lower case: SQLite takes `Temp` and `temp` for one.
    columns: HashSet<String>,
    added: Vec<(String, &'static str)>,
}

impl<'a> Table<'a> {
    pub(super) fn read(connection: &Connection, name: &'a str) -> rusqlite::Result<Self> {
        let mut statement = connection.prepare_cached("SELECT name FROM pragma_table_xinfo(?1)")?;
        let columns: HashSet<String> = statement
            .query_map([name], |row| row.get::<_, String>(0))?
            .map(|column| column.map(|name| name.to_ascii_lowercase()))
            .collect::<Result<_, _>>()?;
        let has_key = OWN_COLUMNS.iter().all(|(own, _)| columns.contains(*own));
        Ok(Self { name, exists: !columns.is_empty(), has_key, columns, added: Vec::new() })
    }

    /// Makes room for `row`.
    ///
    /// # Errors
    /// Why the row can never fit, in words.
    pub(super) fn fit(&mut self, row: &Row) -> Result<(), String> {
        let mut seen = HashSet::with_capacity(row.len());
        // Absent values too: so that the table's columns come in the rule's order.
        for (name, value) in row.iter() {
            let lower = name.to_ascii_lowercase();
            if OWN_COLUMNS.iter().any(|(own, _)| *own == lower) {
                return Err(format!("the column name `{name}` is reserved; give it an alias"));
            }
            if name.contains('\0') {
                return Err("a column's name holds a NUL".into());
            }
            if !seen.insert(lower.clone()) {
                return Err(format!(
                    "the row has the column `{name}` twice; SQLite does not tell case apart"
                ));
            }
            if self.columns.contains(&lower) {
                self.refine(name, value);
                continue;
            }
            if self.columns.len() >= COLUMNS_MAX {
                return Err(format!("the table would have more than {COLUMNS_MAX} columns"));
            }
            self.columns.insert(lower);
            self.added.push((name.to_owned(), column_type(value)));
        }
        Ok(())
    }

    /// Declares the type of a column that is being added and of which only `NULL`s were seen so far.
    fn refine(&mut self, name: &str, value: &Value) {
        let untyped =
            |added: &&mut (String, &'static str)| added.1.is_empty() && added.0.eq_ignore_ascii_case(name);
        if let Some(added) = self.added.iter_mut().find(untyped) {
            added.1 = column_type(value);
        }
    }

    /// The statements that make the table what [`Table::fit`] asked for.
    pub(super) fn migrations(&self) -> Vec<String> {
        let table = quote(self.name);
        if !self.exists {
            return vec![self.create()];
        }
        let mut migrations = Vec::new();
        for (name, kind) in &self.added {
            migrations.push(format!("ALTER TABLE {table} ADD COLUMN {}{kind};", quote(name)));
        }
        if !self.has_key {
            for (name, kind) in OWN_COLUMNS.iter().filter(|(own, _)| !self.columns.contains(*own)) {
                // Rows that are there already have no event: SQLite takes their NULLs for different from each other.
                let kind = kind.trim_end_matches(" NOT NULL");
                migrations.push(format!("ALTER TABLE {table} ADD COLUMN {}{kind};", quote(name)));
            }
            let index = quote(&format!("_muster_once_{}", self.name));
            migrations.push(format!("CREATE UNIQUE INDEX IF NOT EXISTS {index} ON {table} ({KEY});"));
        }
        migrations
    }

    fn create(&self) -> String {
        let mut sql = format!("CREATE TABLE {} (\n", quote(self.name));
        let own = OWN_COLUMNS.iter().map(|(name, kind)| (*name, *kind));
        for (name, kind) in self.added.iter().map(|(name, kind)| (name.as_str(), *kind)).chain(own) {
            let _ = writeln!(sql, "  {}{kind},", quote(name));
        }
        // Event ids grow, so rows are appended; without a row id the key needs no second tree.
        let _ = write!(sql, "  PRIMARY KEY ({KEY})\n) WITHOUT ROWID;");
        sql
    }

    /// The statement that inserts a row of `row`'s columns; a row that is there already is left alone.
    pub(super) fn insert(&self, row: &Row) -> String {
        let mut sql = format!("INSERT INTO {} ({KEY}", quote(self.name));
        let mut holders = String::from("?1, ?2, ?3");
        for (at, (name, _)) in columns(row).enumerate() {
            let _ = write!(sql, ", {}", quote(name));
            let _ = write!(holders, ", ?{}", at + 1 + OWN_COLUMNS.len());
        }
        let _ = write!(sql, ") VALUES ({holders}) ON CONFLICT ({KEY}) DO NOTHING");
        sql
    }
}

/// The columns of a row that are written: those that are absent are left out.
pub(super) fn columns(row: &Row) -> impl Iterator<Item = (&str, &Value)> {
    row.iter().filter(|(_, value)| !value.is_undefined())
}
