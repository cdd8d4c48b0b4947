//! What happens where a row meets one that is there: nothing for one that is delivered again, or a newer row of the
//! same key takes the place of the older. Rows of one key in one batch are brought together before, since one
//! statement cannot touch a row twice. Pure.

use std::collections::HashMap;
use std::fmt::Write as _;

use muster_core::value::Value;

use super::catalog::Table;
use super::client::quote;
use super::encode::Kind;
use super::rows::{Entry, Field};
use super::{number, time};
use crate::error::SinkError;
use crate::upsert::Upsert;

/// What a table does about a row that is there already.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Conflict {
    /// It cannot know one: only the checkpoint keeps rows from coming twice.
    None,
    /// A row that is there by these columns is left as it is.
    Once(Vec<String>),
    /// A newer row replaces the one of its key.
    Newest { key: Vec<usize>, guard: Option<usize> },
}

impl Conflict {
    /// What `table` does, by its indexes and the options.
    pub(super) fn of(table: &Table, upsert: Option<&Upsert>) -> Result<Self, SinkError> {
        let Some(upsert) = upsert else {
            return Ok(table.once().map_or(Self::None, |columns| Self::Once(columns.to_vec())));
        };
        let place = |name: &String| {
            table.find(name).ok_or_else(|| {
                let message = format!("the table {} has no column `{name}`", table.sql);
                SinkError::misconfigured(message).with_hint("see the sink's options `key.` and `guard.`")
            })
        };
        let key = upsert.key.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let guard = upsert.guard.as_ref().map(place).transpose()?;
        let names: Vec<_> = key.iter().map(|at| table.columns[*at].name.clone()).collect();
        if !table.has_key(&names) {
            let columns = names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ");
            let message = format!("the table {} has no unique index on ({columns})", table.sql);
            return Err(SinkError::misconfigured(message)
                .with_hint(format!("CREATE UNIQUE INDEX ON {} ({columns});", table.sql)));
        }
        Ok(Self::Newest { key, guard })
    }

    /// The end of an `INSERT` of these columns.
    pub(super) fn clause(&self, table: &Table, columns: &[usize]) -> String {
        let name = |at: &usize| quote(&table.columns[*at].name);
        match self {
            Self::None => String::new(),
            Self::Once(index) => {
                let index = index.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ");
                format!(" ON CONFLICT ({index}) DO NOTHING")
            }
            Self::Newest { key, guard } => {
                let target = key.iter().map(name).collect::<Vec<_>>().join(", ");
                let set = columns.iter().filter(|at| !key.contains(at)).map(name);
                let set = set.map(|name| format!("{name} = excluded.{name}")).collect::<Vec<_>>().join(", ");
                if set.is_empty() {
                    return format!(" ON CONFLICT ({target}) DO NOTHING");
                }
                let mut clause = format!(" ON CONFLICT ({target}) DO UPDATE SET {set}");
                if let Some(guard) = guard.as_ref().map(name) {
                    let _ = write!(clause, " WHERE t.{guard} IS NULL OR excluded.{guard} > t.{guard}");
                }
                clause
            }
        }
    }
}

/// A value of a guard, in the order of its column.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
enum Order {
    Whole(i128),
    Float(f64),
    Bytes(Vec<u8>),
}

fn order(kind: &Kind, value: &Value) -> Result<Order, String> {
    let order = match kind {
        Kind::Timestamp | Kind::Date => time::micros(value).map(|micros| Order::Whole(micros.into())),
        Kind::Numeric => match (number::integer(value), value) {
            (Some(int), _) => Some(Order::Float(number::float(&Value::Int(int)).unwrap_or_default())),
            _ => number::float(value).map(Order::Float),
        },
        Kind::Float4 | Kind::Float8 => number::float(value).map(Order::Float),
        Kind::Int2 | Kind::Int4 | Kind::Int8 => number::integer(value).map(|int| Order::Whole(int.into())),
        _ => match value {
            Value::Str(bytes) => Some(Order::Bytes(bytes.to_vec())),
            _ => None,
        },
    };
    order.ok_or_else(|| "its value cannot be compared".into())
}

/// Brings the rows of one key together.
pub(super) struct Merging<'t, 'a> {
    table: &'t Table,
    /// Key and guard, where rows replace each other.
    by: Option<(&'t [usize], Option<usize>)>,
    merge: bool,
    entries: Vec<Entry<'a>>,
    /// By key: the place of its entry, and its guard.
    newest: HashMap<Vec<u8>, (usize, Option<Order>)>,
}

impl<'t, 'a> Merging<'t, 'a> {
    pub(super) fn new(table: &'t Table, conflict: &'t Conflict, merge: bool) -> Self {
        let by = match conflict {
            Conflict::Newest { key, guard } => Some((key.as_slice(), *guard)),
            Conflict::None | Conflict::Once(_) => None,
        };
        Self { table, by, merge, entries: Vec::new(), newest: HashMap::new() }
    }

    /// Takes a row; one that is newer lays its columns over those of the older.
    pub(super) fn push(&mut self, entry: Entry<'a>) -> Result<(), String> {
        let Some((key, guard)) = self.by else {
            self.entries.push(entry);
            return Ok(());
        };
        let id = key_of(self.table, key, &entry)?;
        let order = guard.map(|at| self.guard_of(at, &entry)).transpose()?;
        if !self.merge {
            self.entries.push(entry);
            return Ok(());
        }
        match self.newest.get_mut(&id) {
            None => {
                self.newest.insert(id, (self.entries.len(), order));
                self.entries.push(entry);
            }
            Some((_, newest)) if guard.is_some() && order <= *newest => {}
            Some((at, newest)) => {
                *newest = order;
                let older = &mut self.entries[*at];
                older.source = entry.source;
                for (field, newer) in older.fields.iter_mut().zip(entry.fields) {
                    if !newer.is_absent() {
                        *field = newer;
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn into_entries(self) -> Vec<Entry<'a>> {
        self.entries
    }

    fn guard_of(&self, at: usize, entry: &Entry<'_>) -> Result<Order, String> {
        let column = &self.table.columns[at];
        let about = |why: &str| format!("column `{}`, by which newer rows are told, {why}", column.name);
        match &entry.fields[at] {
            Field::Value(Value::Null) | Field::Absent => Err(about("is missing")),
            Field::Value(value) => {
                order(&column.kind, value).map_err(|why| about(&format!("cannot be used: {why}")))
            }
            _ => Err(about("cannot be one of Muster's own")),
        }
    }
}

/// The key's bytes.
pub(super) fn key_of(table: &Table, key: &[usize], entry: &Entry<'_>) -> Result<Vec<u8>, String> {
    let mut id = Vec::new();
    for at in key {
        let column = &table.columns[*at];
        if matches!(entry.fields[*at], Field::Absent | Field::Value(Value::Null)) {
            return Err(format!("column `{}`, which is the table's key, is missing", column.name));
        }
        entry.fields[*at].encode(&column.kind, &mut id).map_err(|why| refusal(table, *at, &why))?;
    }
    Ok(id)
}

/// Why a row is refused that has a value which its column cannot hold.
pub(super) fn refusal(table: &Table, at: usize, why: &str) -> String {
    let column = &table.columns[at];
    format!("the value of column `{}` is not of type {}: {why}", column.name, column.type_name)
}
