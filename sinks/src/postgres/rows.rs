//! Which column each value of a row belongs to, and the rows of a batch as entries of a table. Pure.

use muster_core::event::EventId;
use muster_core::value::{Map, Row, Value};

use super::catalog::{EXTRA, OWN_COLUMNS, Table};
use super::encode::{self, Kind};
use super::upsert::{Conflict, Merging};
use crate::sink::{Batch, BatchRow};

/// Shapes of rows that are remembered at a time.
const SHAPES_MAX: usize = 64;

/// What a column gets from a row.
#[derive(Debug, Clone)]
pub(super) enum Field<'a> {
    /// The row has no such column.
    Absent,
    Value(&'a Value),
    Made(Value),
    Event(EventId),
    Rule(&'a str),
    Row(u32),
}

impl Field<'_> {
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    pub(super) fn encode(&self, kind: &Kind, out: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Self::Absent => encode::null(out),
            Self::Value(value) => return encode::field(kind, value, out),
            Self::Made(value) => return encode::field(kind, value, out),
            Self::Event(id) if matches!(kind, Kind::Uuid | Kind::Bytea) => {
                out.extend(16_i32.to_be_bytes());
                out.extend(id.to_bytes());
            }
            Self::Event(id) => return encode::field(kind, &id.to_string().into(), out),
            Self::Rule(rule) => return encode::field(kind, &(*rule).into(), out),
            Self::Row(row) => return encode::field(kind, &Value::from(*row), out),
        }
        Ok(())
    }
}

/// What becomes one row of the table, and which row of the batch it came from.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) source: usize,
    /// One a column of the table.
    pub(super) fields: Vec<Field<'a>>,
}

/// The rows of `batch` as entries of `table`, without those whose columns do not fit: why is noted in `refused`. With
/// `merging`, rows that replace each other become one.
pub(super) fn entries<'a>(
    table: &Table,
    conflict: &Conflict,
    batch: &'a Batch,
    merging: bool,
    refused: &mut Refused,
) -> Vec<Entry<'a>> {
    let mut fitter = Fitter { table, own: OWN_COLUMNS.map(|own| table.find(own)), shapes: Vec::new() };
    let mut merged = Merging::new(table, conflict, merging);
    for (source, row) in batch.rows().enumerate() {
        let fields = fitter.fields(&batch.pipeline.rule, row);
        if let Err(reason) = fields.and_then(|fields| merged.push(Entry { source, fields })) {
            refused.note(source, reason);
        }
    }
    merged.into_entries()
}

/// Rows of a batch that are refused, by their places, and why.
#[derive(Debug)]
pub(super) struct Refused {
    reasons: Vec<Option<String>>,
    any: bool,
}

impl Refused {
    /// None of `rows` rows yet.
    pub(super) fn none(rows: usize) -> Self {
        Self { reasons: vec![None; rows], any: false }
    }

    pub(super) fn note(&mut self, place: usize, reason: String) {
        if let Some(kept) = self.reasons.get_mut(place) {
            (*kept, self.any) = (Some(reason), true);
        }
    }

    pub(super) fn any(&self) -> bool {
        self.any
    }

    /// One a row of the batch.
    pub(super) fn into_reasons(self) -> Vec<Option<String>> {
        self.reasons
    }
}

/// Where the columns of rows with the same names belong.
struct Shape<'a> {
    row: &'a Row,
    places: Result<Vec<Option<usize>>, String>,
    /// Whether some have no place of their own.
    extra: bool,
}

struct Fitter<'t, 'a> {
    table: &'t Table,
    own: [Option<usize>; 3],
    shapes: Vec<Shape<'a>>,
}

impl<'a> Fitter<'_, 'a> {
    fn fields(&mut self, rule: &'a str, row: &'a BatchRow) -> Result<Vec<Field<'a>>, String> {
        let (table, own) = (self.table, self.own);
        let shape = self.shape(&row.row);
        let places = shape.places.as_ref().map_err(String::clone)?;
        let mut fields = vec![Field::Absent; table.columns.len()];
        let mut extra = Map::new();
        for ((name, value), place) in row.row.iter().zip(places) {
            match place {
                _ if value.is_undefined() => {}
                Some(place) => fields[*place] = Field::Value(value),
                None => drop(extra.insert(name, value.clone())),
            }
        }
        if shape.extra {
            put_extra(table, &mut fields, extra)?;
        }
        for (place, own) in
            own.iter().zip([Field::Event(row.event_id()), Field::Rule(rule), Field::Row(row.index)])
        {
            if let Some(place) = place {
                fields[*place] = own;
            }
        }
        Ok(fields)
    }

    fn shape(&mut self, row: &'a Row) -> &Shape<'a> {
        // Rows of one rule mostly look alike.
        let known = self.shapes.iter().rposition(|shape| row.keys().eq(shape.row.keys()));
        let at = known.unwrap_or_else(|| {
            if self.shapes.len() >= SHAPES_MAX {
                self.shapes.clear();
            }
            let places = self.places(row);
            let extra = places.as_ref().is_ok_and(|places| places.contains(&None));
            self.shapes.push(Shape { row, places, extra });
            self.shapes.len() - 1
        });
        &self.shapes[at]
    }

    fn places(&self, row: &Row) -> Result<Vec<Option<usize>>, String> {
        let mut places: Vec<Option<usize>> = Vec::with_capacity(row.len());
        for name in row.keys() {
            if OWN_COLUMNS.contains(&name) {
                return Err(format!("the column name `{name}` is reserved; give it an alias"));
            }
            let place = self.table.find(name);
            let Some(column) = place.map(|place| &self.table.columns[place]) else {
                places.push(None);
                continue;
            };
            if column.generated {
                let table = &self.table.sql;
                return Err(format!("PostgreSQL itself fills the column `{name}` of {table}; leave it out"));
            }
            if places.contains(&place) {
                return Err(format!("two columns of the row are the column `{}` of the table", column.name));
            }
            places.push(place);
        }
        Ok(places)
    }
}

/// What has no column of its own goes into `extra`, beside what the row itself has under that name.
fn put_extra(table: &Table, fields: &mut [Field<'_>], mut extra: Map) -> Result<(), String> {
    let Some(place) = table.extra() else {
        return match extra.keys().next() {
            Some(name) => Err(no_column(table, name)),
            None => Ok(()),
        };
    };
    if extra.is_empty() {
        return Ok(());
    }
    match &fields[place] {
        Field::Value(Value::Map(own)) => {
            own.iter().for_each(|(name, value)| drop(extra.insert(name, value.clone())));
        }
        Field::Value(other) => drop(extra.insert(EXTRA, (*other).clone())),
        _ => {}
    }
    fields[place] = Field::Made(extra.into());
    Ok(())
}

fn no_column(table: &Table, name: &str) -> String {
    format!(
        "the table {} has no column `{name}`, and no column `{EXTRA}` of type jsonb that takes what has none",
        table.sql
    )
}
