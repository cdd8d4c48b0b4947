//! The target table: what it has, what must be added so that a batch fits, and the statement that writes a row. Names
//! come from rules and payloads, so each is quoted.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;

use muster_core::value::{Row, Value};
use rusqlite::Connection;

use super::config::Target;
use super::encode::column_type;
use crate::upsert::Upsert;

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
    target: &'a Target,
    exists: bool,
    has_own: bool,
    /// In lower case: SQLite takes `Temp` and `temp` for one.
    columns: HashSet<String>,
    /// The sets of columns that are unique together; read only where rows replace each other.
    unique: Vec<BTreeSet<String>>,
    added: Vec<(String, &'static str)>,
}

impl<'a> Table<'a> {
    pub(super) fn read(connection: &Connection, target: &'a Target) -> rusqlite::Result<Self> {
        let mut statement = connection.prepare_cached("SELECT name FROM pragma_table_xinfo(?1)")?;
        let columns: HashSet<String> = statement
            .query_map([&target.table], |row| row.get::<_, String>(0))?
            .map(|column| column.map(|name| name.to_ascii_lowercase()))
            .collect::<Result<_, _>>()?;
        let has_own = OWN_COLUMNS.iter().all(|(own, _)| columns.contains(*own));
        let unique = match &target.upsert {
            Some(_) => unique(connection, &target.table)?,
            None => Vec::new(),
        };
        Ok(Self { target, exists: !columns.is_empty(), has_own, columns, unique, added: Vec::new() })
    }

    /// Whether rows of ours can be in it.
    pub(super) fn has_own(&self) -> bool {
        self.has_own
    }

    /// What a row lacks to be compared with the one that it may replace.
    ///
    /// # Errors
    /// Which column, in words.
    pub(super) fn comparable(&self, row: &Row) -> Result<(), String> {
        let Some(Upsert { key, guard }) = &self.target.upsert else { return Ok(()) };
        let missing = |name: &&String| {
            let named = row.iter().find(|(column, _)| column.eq_ignore_ascii_case(name));
            matches!(named, None | Some((_, Value::Undefined | Value::Null)))
        };
        let table = &self.target.table;
        if let Some(name) = key.iter().find(missing) {
            return Err(format!("the row has no `{name}`, of which `{table}` holds one row each"));
        }
        match guard.as_ref().filter(missing) {
            Some(name) => {
                Err(format!("the row has no `{name}`, which tells newer rows of `{table}` from older ones"))
            }
            None => Ok(()),
        }
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
        let (name, table) = (&self.target.table, quote(&self.target.table));
        if !self.exists {
            return vec![self.create()];
        }
        let mut migrations = Vec::new();
        for (name, kind) in &self.added {
            migrations.push(format!("ALTER TABLE {table} ADD COLUMN {}{kind};", quote(name)));
        }
        if !self.has_own {
            for (name, kind) in OWN_COLUMNS.iter().filter(|(own, _)| !self.columns.contains(*own)) {
                // Rows that are there already have no event: SQLite takes their NULLs for different from each other.
                let kind = kind.trim_end_matches(" NOT NULL");
                migrations.push(format!("ALTER TABLE {table} ADD COLUMN {}{kind};", quote(name)));
            }
        }
        match &self.target.upsert {
            None if self.has_own => {}
            None => {
                let index = quote(&format!("_muster_once_{name}"));
                migrations.push(format!("CREATE UNIQUE INDEX IF NOT EXISTS {index} ON {table} ({KEY});"));
            }
            Some(upsert) if self.is_unique(upsert.key.iter().map(String::as_str)) => {}
            Some(upsert) => {
                // One of this name is of another key that the options once named.
                let (index, key) = (quote(&format!("_muster_key_{name}")), list(&upsert.key));
                migrations.push(format!("DROP INDEX IF EXISTS {index};"));
                migrations.push(format!("CREATE UNIQUE INDEX {index} ON {table} ({key});"));
            }
        }
        migrations
    }

    fn is_unique<'k>(&self, key: impl Iterator<Item = &'k str>) -> bool {
        let key: BTreeSet<String> = key.map(str::to_ascii_lowercase).collect();
        self.unique.contains(&key)
    }

    fn create(&self) -> String {
        let mut sql = format!("CREATE TABLE {} (\n", quote(&self.target.table));
        let own = OWN_COLUMNS.iter().map(|(name, kind)| (*name, *kind));
        for (name, kind) in self.added.iter().map(|(name, kind)| (name.as_str(), *kind)).chain(own) {
            let _ = writeln!(sql, "  {}{kind},", quote(name));
        }
        let key = self.target.upsert.as_ref().map_or_else(|| KEY.to_owned(), |upsert| list(&upsert.key));
        // Event ids grow, so rows are appended; without a row id the key needs no second tree.
        let _ = write!(sql, "  PRIMARY KEY ({key})\n) WITHOUT ROWID;");
        sql
    }

    /// The statement that writes a row of `row`'s columns. A row that is there already is left alone; where rows
    /// replace each other, an older one gives way and a newer one stays.
    pub(super) fn insert(&self, row: &Row) -> String {
        let mut sql = format!("INSERT INTO {} AS _muster_was ({KEY}", quote(&self.target.table));
        let mut holders = String::from("?1, ?2, ?3");
        for (at, (name, _)) in self.written(row).enumerate() {
            let _ = write!(sql, ", {}", quote(name));
            let _ = write!(holders, ", ?{}", at + 1 + OWN_COLUMNS.len());
        }
        let _ = write!(sql, ") VALUES ({holders})");
        let Some(Upsert { key, guard }) = &self.target.upsert else {
            let _ = write!(sql, " ON CONFLICT ({KEY}) DO NOTHING");
            return sql;
        };
        let is_key = |name: &&str| key.iter().any(|key| key.eq_ignore_ascii_case(name));
        let own = OWN_COLUMNS.iter().map(|(name, _)| *name);
        let replaced =
            own.clone().chain(self.written(row).map(|(name, _)| name)).filter(|name| !is_key(name));
        let set: Vec<_> = replaced.map(|name| format!("{0} = excluded.{0}", quote(name))).collect();
        let _ = write!(sql, " ON CONFLICT ({}) DO UPDATE SET {}", list(key), set.join(", "));
        if let Some(guard) = guard {
            // A row that was there before us has no guard yet.
            let _ =
                write!(sql, " WHERE _muster_was.{0} IS NULL OR excluded.{0} > _muster_was.{0}", quote(guard));
        }
        if self.is_unique(own) {
            let _ = write!(sql, " ON CONFLICT ({KEY}) DO NOTHING");
        }
        sql
    }

    /// The columns of a row that are written. Those that are absent are left out, but for a row that replaces
    /// another: what was there before it says nothing about it.
    pub(super) fn written<'r>(&self, row: &'r Row) -> impl Iterator<Item = (&'r str, &'r Value)> {
        let all = self.target.upsert.is_some();
        row.iter().filter(move |(_, value)| all || !value.is_undefined())
    }
}

/// Names, quoted, with commas between.
fn list(names: &[String]) -> String {
    names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ")
}

/// The sets of columns, in lower case, of which no two rows have the same values.
fn unique(connection: &Connection, table: &str) -> rusqlite::Result<Vec<BTreeSet<String>>> {
    // A column of an index that is an expression has no name, and the number of a row as key has no index.
    let sql = "SELECT list.name, coalesce(lower(column.name), '') \
               FROM pragma_index_list(?1) AS list, pragma_index_info(list.name) AS column \
               WHERE list.\"unique\" AND NOT list.partial \
               UNION ALL SELECT '', lower(name) FROM pragma_table_info(?1) WHERE pk > 0";
    let mut statement = connection.prepare_cached(sql)?;
    let pairs =
        statement.query_map([table], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let mut sets: HashMap<String, BTreeSet<String>> = HashMap::new();
    for pair in pairs {
        let (index, column) = pair?;
        sets.entry(index).or_default().insert(column);
    }
    Ok(sets.into_values().collect())
}
