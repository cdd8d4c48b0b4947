//! Rows as BSON: documents to insert. It is pure, and must never know a connection.

use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{
    DateTime, Decimal128, RawArrayBuf, RawBinaryRef, RawBsonRef, RawDocumentBuf, raw::CStr, raw::cstr,
};
use muster_core::value::{Map, Value};

use super::config::Config;
use crate::sink::BatchRow;

/// The largest document that MongoDB takes.
pub(super) const DOCUMENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How deep documents may be nested, MongoDB's own limit.
const DEPTH_MAX: usize = 100;
/// The longest text that can be a time.
const TIME_BYTES_MAX: usize = 64;

/// How rows of one collection are written.
pub(super) struct Encoder {
    /// Columns that hold times.
    pub(super) times: Vec<String>,
    /// The one that each row must have.
    pub(super) time_field: Option<String>,
    /// Whether rows are statuses, which have a column that says in a word what their event means.
    pub(super) online: bool,
}

impl Encoder {
    pub(super) fn new(config: &Config) -> Self {
        let time_field = config.time_series.as_ref().map(|series| series.time.clone());
        let mut times = config.times.clone();
        times.extend(time_field.clone());
        Self { times, time_field, online: config.collection == "device_status" }
    }

    /// A document of its own for a row.
    ///
    /// # Errors
    /// Why it can never be one, in words.
    pub(super) fn document(&self, rule: &str, row: &BatchRow) -> Result<RawDocumentBuf, String> {
        if row.row.contains_key("_id") {
            return Err("the column name `_id` is reserved: it is made of the event, the rule and the row's place, so \
                        that a row is there once; give it an alias, or name a key (`key.COLLECTION`)"
                .into());
        }
        let mut document = RawDocumentBuf::new();
        document.append(cstr!("_id"), id(rule, row).as_str());
        let mut timed = false;
        for (name, value) in present(&row.row) {
            timed |= self.put(&mut document, name, value)? && Some(name) == self.time_field.as_deref();
        }
        if let Some(name) = self.time_field.as_deref().filter(|_| !timed) {
            return Err(format!("the row has no time in `{name}`, and a time series needs one"));
        }
        self.put_online(&mut document, &row.row);
        check_size(&document)?;
        Ok(document)
    }

    /// Adds a column; whether it became a time.
    pub(super) fn put(
        &self,
        document: &mut RawDocumentBuf,
        name: &str,
        value: &Value,
    ) -> Result<bool, String> {
        let key = key(name)?;
        match self.time(name, value) {
            Some(time) => {
                document.append(key, time);
                Ok(true)
            }
            None => bound(value, 1, &mut |value| document.append(key, value)).map(|()| false),
        }
    }

    /// Whether the device is there, where a status does not say so itself.
    pub(super) fn put_online(&self, document: &mut RawDocumentBuf, row: &Map) {
        let event = row.get("event").and_then(Value::as_str).filter(|_| self.online);
        if let Some(event) = event.filter(|_| !row.contains_key("online")) {
            document.append(cstr!("online"), event == "client.connected");
        }
    }

    /// Milliseconds since 1970 or RFC 3339, in a column that holds times; anything else stays what it is.
    fn time(&self, name: &str, value: &Value) -> Option<DateTime> {
        if !self.times.iter().any(|time| time == name) {
            return None;
        }
        match value {
            Value::Int(ms) => Some(DateTime::from_millis(*ms)),
            Value::Str(_) => rfc3339(value.as_str()?),
            _ => None,
        }
    }
}

/// The document of a row, the same on every attempt and on every replay: `EVENT:ROW:RULE`, e.g.
/// `5C1D..0042:0:history`. The rule's name comes last because it may hold anything.
pub(super) fn id(rule: &str, row: &BatchRow) -> String {
    format!("{}:{}:{rule}", row.event_id(), row.index)
}

/// The columns that are written: those that are absent are left out.
pub(super) fn present(row: &Map) -> impl Iterator<Item = (&str, &Value)> {
    row.iter().filter(|(_, value)| !value.is_undefined())
}

/// Hands `value` as BSON to `take`. Integers are always 64 bits wide, so that a field's type does not depend on its
/// value; larger ones are decimals as long as these are exact.
pub(super) fn bound(value: &Value, depth: usize, take: &mut dyn FnMut(RawBsonRef<'_>)) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("the row is nested deeper than {DEPTH_MAX} levels"));
    }
    match value {
        Value::Undefined | Value::Null => take(RawBsonRef::Null),
        Value::Bool(flag) => take(RawBsonRef::Boolean(*flag)),
        Value::Int(int) => take(RawBsonRef::Int64(*int)),
        Value::Float(float) => take(RawBsonRef::Double(*float)),
        Value::BigInt(int) => {
            let digits = int.to_string();
            match digits.parse::<Decimal128>() {
                Ok(decimal) => take(RawBsonRef::Decimal128(decimal)),
                Err(_) => take(RawBsonRef::String(&digits)),
            }
        }
        Value::Str(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => match iso_date(text) {
                Some(time) => take(RawBsonRef::DateTime(time)),
                None => take(RawBsonRef::String(text)),
            },
            Err(_) => take(RawBsonRef::Binary(RawBinaryRef { subtype: BinarySubtype::Generic, bytes })),
        },
        Value::Array(items) => {
            let mut array = RawArrayBuf::new();
            for item in items {
                bound(item, depth + 1, &mut |item| array.push(item))?;
            }
            take(RawBsonRef::Array(&array));
        }
        Value::Map(map) => {
            let mut document = RawDocumentBuf::new();
            for (name, value) in present(map) {
                let key = key(name)?;
                bound(value, depth + 1, &mut |value| document.append(key, value))?;
            }
            take(RawBsonRef::Document(&document));
        }
    }
    Ok(())
}

/// Refuses what no server takes, before it spoils a whole batch.
pub(super) fn check_size(document: &RawDocumentBuf) -> Result<(), String> {
    let bytes = document.as_bytes().len();
    if bytes > DOCUMENT_BYTES_MAX {
        return Err(format!("the document has {bytes} bytes; MongoDB takes {DOCUMENT_BYTES_MAX}"));
    }
    Ok(())
}

fn key(name: &str) -> Result<&CStr, String> {
    name.try_into().map_err(|_| "the name of a column or key holds a NUL".to_owned())
}

/// What `mongo_date()` of a rule makes, `ISODate(...)`.
fn iso_date(text: &str) -> Option<DateTime> {
    rfc3339(text.strip_prefix("ISODate(")?.strip_suffix(')')?)
}

fn rfc3339(text: &str) -> Option<DateTime> {
    let likely = text.len() <= TIME_BYTES_MAX && text.starts_with(|first: char| first.is_ascii_digit());
    likely.then(|| DateTime::parse_rfc3339_str(text).ok()).flatten()
}
