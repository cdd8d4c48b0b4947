//! The target table as PostgreSQL's catalog describes it. It must never change anything.

use std::collections::{BTreeSet, HashMap};

use tokio_postgres::types::Type;

use super::client::{Connection, quote};
use super::encode::Kind;
use crate::error::SinkError;

/// The columns that make rows unique, so that a replay doubles nothing: which event, by which rule, which of its rows.
pub(super) const OWN_COLUMNS: [&str; 3] = ["_event_id", "_rule", "_row"];
/// The column that takes what has no column of its own.
pub(super) const EXTRA: &str = "extra";

#[derive(Debug, PartialEq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// The type as SQL names it, without its length.
    pub(super) type_name: String,
    /// Whether PostgreSQL fills it where a row leaves it out.
    pub(super) has_default: bool,
    /// Whether only PostgreSQL may fill it.
    pub(super) generated: bool,
}

#[derive(Debug, PartialEq)]
pub(super) struct Table {
    pub(super) oid: u32,
    /// Changes with the table's columns.
    pub(super) stamp: String,
    /// Quoted, with its schema.
    pub(super) sql: String,
    pub(super) columns: Vec<Column>,
    names: HashMap<String, usize>,
    /// The columns of each unique index that can settle a conflict.
    pub(super) unique: Vec<Vec<String>>,
    /// Where `COPY` into it is refused, or would go around its rules.
    pub(super) no_copy: bool,
    pub(super) may_insert: bool,
    pub(super) may_update: bool,
}

const COLUMNS: &str = "\
SELECT a.attname::text, coalesce(b.oid, t.oid), coalesce(b.typname, t.typname)::text, \
  coalesce(b.typtype, t.typtype)::text, coalesce(b.typelem, t.typelem), coalesce(b.typcategory, t.typcategory)::text, \
  format_type(coalesce(b.oid, t.oid), NULL), a.atthasdef OR a.attidentity <> '', \
  a.attgenerated <> '' OR a.attidentity = 'a' \
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
LEFT JOIN pg_type b ON b.oid = t.typbasetype AND t.typtype = 'd' \
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

const UNIQUE: &str = "\
SELECT ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place) \
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum WHERE k.place <= i.indnkeyatts) \
FROM pg_index i WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate \
  AND i.indpred IS NULL AND i.indexprs IS NULL ORDER BY i.indexrelid";

const FIND: &str = "\
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, row_security_active(c.oid), \
  has_table_privilege(c.oid, 'INSERT') OR has_any_column_privilege(c.oid, 'INSERT'), \
  has_any_column_privilege(c.oid, 'UPDATE') AND has_any_column_privilege(c.oid, 'SELECT'), \
  c.xmin::text \
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1::text)";

impl Table {
    /// The table `name`; none where there is none.
    pub(super) async fn read(
        connection: &Connection,
        schema: Option<&str>,
        name: &str,
    ) -> Result<Option<Self>, SinkError> {
        let doing = "looking at the table";
        let wanted = schema.map_or(String::new(), |schema| quote(schema) + ".") + &quote(name);
        let found = connection.ask(doing, FIND, &[&wanted]).await?;
        let Some(found) = found.first() else { return Ok(None) };
        let oid: u32 = found.get(0);
        let (schema, name, kind): (String, String, String) = (found.get(1), found.get(2), found.get(3));
        if !["r", "p", "f", "v"].contains(&&*kind) {
            return Err(SinkError::misconfigured(format!("`{name}` is no table")));
        }
        let columns = connection.ask(doing, COLUMNS, &[&oid]).await?;
        let columns: Vec<Column> = columns.iter().map(column).collect();
        let names = columns.iter().enumerate().map(|(at, column)| (column.name.clone(), at)).collect();
        let unique = connection.ask(doing, UNIQUE, &[&oid]).await?;
        Ok(Some(Self {
            oid,
            stamp: found.get(7),
            sql: format!("{}.{}", quote(&schema), quote(&name)),
            columns,
            names,
            unique: unique.iter().map(|row| row.get(0)).collect(),
            // Row security refuses COPY; a view takes it only with a trigger of one kind.
            no_copy: found.get::<_, bool>(4) || kind == "v",
            may_insert: found.get(5),
            may_update: found.get(6),
        }))
    }

    /// The column that a row means by `name`: exactly that one, or the one that PostgreSQL makes of the name when it
    /// is not quoted.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.names.get(name).or_else(|| self.names.get(&name.to_ascii_lowercase())).copied()
    }

    /// The column that takes what has no column of its own.
    pub(super) fn extra(&self) -> Option<usize> {
        let at = *self.names.get(EXTRA)?;
        matches!(self.columns[at].kind, Kind::Json | Kind::Jsonb).then_some(at)
    }

    /// The columns of the unique index that tells a row that is there already by our own columns.
    pub(super) fn once(&self) -> Option<&[String]> {
        let ours = |index: &&Vec<String>| OWN_COLUMNS.iter().all(|own| index.iter().any(|name| name == own));
        self.unique.iter().filter(ours).min_by_key(|index| index.len()).map(Vec::as_slice)
    }

    /// Whether a unique index is on exactly the columns of `key`.
    pub(super) fn has_key(&self, key: &[String]) -> bool {
        let key: BTreeSet<_> = key.iter().collect();
        self.unique.iter().any(|index| index.iter().collect::<BTreeSet<_>>() == key)
    }
}

fn column(row: &tokio_postgres::Row) -> Column {
    let (oid, name, class): (u32, String, String) = (row.get(1), row.get(2), row.get(3));
    let (element, category): (u32, String) = (row.get(4), row.get(5));
    let kind = match Type::from_oid(oid) {
        _ if class == "e" => Kind::AsText,
        _ if name == "citext" => Kind::Text,
        _ if category == "A" && element != 0 => match Type::from_oid(element).as_ref().map(Kind::of) {
            Some(Kind::AsText) | None => Kind::AsText,
            Some(kind) => Kind::Array { element, kind: Box::new(kind) },
        },
        Some(known) => Kind::of(&known),
        None => Kind::AsText,
    };
    Column { name: row.get(0), kind, type_name: row.get(6), has_default: row.get(7), generated: row.get(8) }
}
