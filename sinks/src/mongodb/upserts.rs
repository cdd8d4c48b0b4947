//! Collections that hold one document a key: rows become statements that replace what is older. It is pure, and must
//! never know a connection.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use mongodb::bson::{Bson, Document, RawBsonRef, RawDocumentBuf, doc, raw::CString, raw::cstr, rawdoc};
use muster_core::value::{Map, Row, Value};

use super::encode::{DOCUMENT_BYTES_MAX, Encoder, bound, present};
use crate::sink::BatchRow;
use crate::upsert::Upsert;

/// What a statement may take beside its document.
const STATEMENT_BYTES: usize = 4 * 1024;

/// Rows of one key as one statement.
pub(super) struct Statement {
    /// The places of the rows in the batch, in order.
    pub(super) rows: Vec<usize>,
    /// The element of an `update` command.
    pub(super) update: RawDocumentBuf,
    /// Finds a document that is as new, or newer.
    pub(super) newer: Option<Document>,
    /// `{_id: key}`, as a query answers it.
    pub(super) id: RawDocumentBuf,
}

/// What a batch comes to.
pub(super) struct Statements {
    pub(super) all: Vec<Statement>,
    /// Rows that cannot be statements, and why.
    pub(super) refused: Vec<(usize, String)>,
}

/// Rows of one key as they are gathered.
struct Gathered<'a> {
    rows: Vec<usize>,
    id: RawDocumentBuf,
    guard: Option<Bson>,
    row: Cow<'a, Row>,
}

/// One statement a key, or with `merge` unset one a row. Columns of a key's rows are laid over each other in the order
/// of the log, as they would be if each row were a statement; so what comes out does not depend on where a batch ends.
pub(super) fn statements<'a>(
    encoder: &Encoder,
    upsert: &Upsert,
    rows: impl Iterator<Item = (usize, &'a BatchRow)>,
    merge: bool,
) -> Statements {
    let mut gathered: Vec<Gathered<'_>> = Vec::new();
    let mut by_key: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut refused = Vec::new();
    for (at, row) in rows {
        let row: &Row = &row.row;
        let read = id(upsert, row).and_then(|id| Ok((id, guard(encoder, upsert, row)?)));
        let (id, guard) = match read.and_then(|read| check_names(row).map(|()| read)) {
            Ok(read) => read,
            Err(reason) => {
                refused.push((at, reason));
                continue;
            }
        };
        let new = |id| Gathered { rows: vec![at], id, guard: guard.clone(), row: Cow::Borrowed(row) };
        match by_key.entry(id.as_bytes().to_vec()) {
            Entry::Occupied(there) if merge => {
                if let Some(there) = gathered.get_mut(*there.get()) {
                    there.add(at, row, guard);
                }
            }
            Entry::Occupied(_) => gathered.push(new(id)),
            Entry::Vacant(place) => {
                place.insert(gathered.len());
                gathered.push(new(id));
            }
        }
    }
    let mut all = Vec::with_capacity(gathered.len());
    for one in gathered {
        match one.statement(encoder, upsert) {
            Ok(update) => {
                let newer = one.newer(upsert);
                all.push(Statement { rows: one.rows, update, newer, id: one.id });
            }
            Err(reason) => refused.extend(one.rows.iter().map(|at| (*at, reason.clone()))),
        }
    }
    Statements { all, refused }
}

impl<'a> Gathered<'a> {
    fn add(&mut self, at: usize, row: &'a Row, guard: Option<Bson>) {
        self.rows.push(at);
        // A row that is not newer than the one before it changes nothing, here as in the collection.
        if let (Some(there), Some(new)) = (&self.guard, &guard)
            && compare(there, new).is_some_and(Ordering::is_ge)
        {
            return;
        }
        self.guard = guard;
        let merged = self.row.to_mut();
        for (name, value) in present(row) {
            merged.insert(name, value.clone());
        }
    }

    /// Changes the document of the key if it is older, and makes it where there is none. Where there is a newer one,
    /// none is found that is older, and the one to be made has an `_id` that exists: the server refuses it.
    fn statement(&self, encoder: &Encoder, upsert: &Upsert) -> Result<RawDocumentBuf, String> {
        let mut filter = self.id.clone();
        if let (Some(name), Some(guard)) = (&upsert.guard, &self.guard) {
            let older = doc! { "$not": { "$gte": guard.clone() } };
            let older = RawDocumentBuf::try_from(&older).map_err(|error| error.to_string())?;
            let name =
                CString::try_from(name.as_str()).map_err(|_| "the guard's name holds a NUL".to_owned())?;
            filter.append(name, &older);
        }
        let mut set = RawDocumentBuf::new();
        for (name, value) in present(&self.row).filter(|(name, _)| *name != "_id") {
            encoder.put(&mut set, name, value)?;
        }
        encoder.put_online(&mut set, &self.row);
        let bytes = set.as_bytes().len() + filter.as_bytes().len() + STATEMENT_BYTES;
        if bytes > DOCUMENT_BYTES_MAX {
            return Err(format!("the document has some {bytes} bytes; MongoDB takes {DOCUMENT_BYTES_MAX}"));
        }
        let mut change = RawDocumentBuf::new();
        change.append(cstr!("$set"), &set);
        Ok(rawdoc! { "q": filter, "u": change, "multi": false, "upsert": true })
    }

    fn newer(&self, upsert: &Upsert) -> Option<Document> {
        let mut filter: Document = Document::try_from(&*self.id).ok()?;
        filter.insert(upsert.guard.clone()?, doc! { "$gte": self.guard.clone()? });
        Some(filter)
    }
}

/// `{_id: ..}`: the value of the key's column, or a document of its columns in the order of the option.
fn id(upsert: &Upsert, row: &Row) -> Result<RawDocumentBuf, String> {
    let mut id = RawDocumentBuf::new();
    if row.contains_key("_id") && upsert.key != ["_id"] {
        return Err("the column name `_id` is reserved for the key; give it an alias".into());
    }
    if let [column] = &upsert.key[..] {
        bound(key_value(column, row)?, 1, &mut |value| id.append(cstr!("_id"), value))?;
        return Ok(id);
    }
    let mut parts = RawDocumentBuf::new();
    for column in &upsert.key {
        let name = CString::try_from(column.as_str()).map_err(|_| "the key's name holds a NUL".to_owned())?;
        bound(key_value(column, row)?, 2, &mut |value| parts.append(&name, value))?;
    }
    id.append(cstr!("_id"), RawBsonRef::Document(&parts));
    Ok(id)
}

fn key_value<'a>(column: &str, row: &'a Map) -> Result<&'a Value, String> {
    match row.get(column) {
        None | Some(Value::Undefined | Value::Null) => {
            Err(format!("the row lacks the key column `{column}`"))
        }
        Some(Value::Array(_) | Value::Map(_)) => {
            Err(format!("the key column `{column}` must be a number or a text, not a list or a map"))
        }
        Some(value) => Ok(value),
    }
}

fn guard(encoder: &Encoder, upsert: &Upsert, row: &Row) -> Result<Option<Bson>, String> {
    let Some(name) = upsert.guard.as_deref() else { return Ok(None) };
    match row.get(name) {
        Some(value @ (Value::Int(_) | Value::Float(_) | Value::Str(_))) => {
            let mut one = RawDocumentBuf::new();
            encoder.put(&mut one, name, value)?;
            let guard = Document::try_from(&*one).map_err(|error| error.to_string())?;
            Ok(guard.get(name).cloned())
        }
        None | Some(Value::Undefined | Value::Null) => {
            Err(format!("the row lacks the guard column `{name}`"))
        }
        Some(value) => {
            Err(format!("the guard column `{name}` is a {}, which has no order", value.type_name()))
        }
    }
}

/// In `$set`, a point in a name is a way into a document, and a dollar an order.
fn check_names(row: &Row) -> Result<(), String> {
    let odd = |name: &&str| name.is_empty() || name.contains('.') || name.starts_with('$');
    match present(row).map(|(name, _)| name).find(odd) {
        Some(name) => Err(format!(
            "a column cannot be named `{name}` where a collection has a key: no name may be empty, hold a point or \
             begin with a dollar; give it an alias"
        )),
        None => Ok(()),
    }
}

/// As the server compares: values of different types have no order, and then the later one counts.
fn compare(one: &Bson, other: &Bson) -> Option<Ordering> {
    match (one, other) {
        (Bson::Int64(one), Bson::Int64(other)) => Some(one.cmp(other)),
        (Bson::String(one), Bson::String(other)) => Some(one.cmp(other)),
        (Bson::DateTime(one), Bson::DateTime(other)) => Some(one.cmp(other)),
        (Bson::Double(one), Bson::Double(other)) => one.partial_cmp(other),
        #[expect(
            clippy::cast_precision_loss,
            reason = "the server does it exactly; mixed guards are not worth it"
        )]
        (Bson::Int64(one), Bson::Double(other)) => (*one as f64).partial_cmp(other),
        #[expect(clippy::cast_precision_loss, reason = "as above")]
        (Bson::Double(one), Bson::Int64(other)) => one.partial_cmp(&(*other as f64)),
        _ => None,
    }
}
