//! Values and rows: what rules compute and sinks carry. Neutral ground between the two, so that neither needs to
//! know the other. It must never know how a value is evaluated (rules) or encoded for one target (sinks); JSON is
//! here because everybody needs it.

use std::fmt;

use bytes::Bytes;
use indexmap::IndexMap;
use num_bigint::BigInt;

/// One value. Integers are exact at any size, a string is bytes that are usually UTF-8 (an MQTT payload may be
/// anything), and [`Value::Undefined`] (absent) is not [`Value::Null`] (JSON `null`).
#[derive(Clone, Default, PartialEq)]
pub enum Value {
    /// Absent: a column that the event does not have, a key that the payload lacks. Sinks leave it out.
    #[default]
    Undefined,
    /// JSON `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer that fits 64 bits; the usual case.
    Int(i64),
    /// An integer beyond 64 bits. Constructors normalise: a value that fits is always [`Value::Int`].
    BigInt(Box<BigInt>),
    /// A double. Never NaN nor infinite when it came from JSON.
    Float(f64),
    /// A string or raw bytes.
    Str(Bytes),
    /// A list.
    Array(Vec<Value>),
    /// A map that keeps the order in which keys came.
    Map(Map),
}

/// A map from names to values in order of insertion; also a row.
#[derive(Clone, Default, PartialEq)]
pub struct Map(IndexMap<Box<str>, Value>);

/// What a rule makes of one event and a sink writes: column names to values.
pub type Row = Map;

impl Map {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty map with room for `capacity` keys.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(IndexMap::with_capacity(capacity))
    }

    /// The value under `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// The value under `key`, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.0.get_mut(key)
    }

    /// Sets `key`; a key that exists keeps its place.
    pub fn insert(&mut self, key: impl Into<Box<str>>, value: impl Into<Value>) -> Option<Value> {
        self.0.insert(key.into(), value.into())
    }

    /// Takes `key` out and keeps the order of the others.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.0.shift_remove(key)
    }

    /// Whether `key` is there.
    pub fn contains_key(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keys and values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.0.iter().map(|(k, v)| (k.as_ref(), v))
    }

    /// Keys in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.keys().map(AsRef::as_ref)
    }

    /// Values in order.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &Value> {
        self.0.values()
    }

    /// The row as one line of JSON; see [`Value::write_json`].
    pub fn to_json(&self) -> String {
        let mut out = String::with_capacity(16 + self.len() * 24);
        write_map(self, &mut out);
        out
    }
}

impl<K: Into<Box<str>>, V: Into<Value>> FromIterator<(K, V)> for Map {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

impl IntoIterator for Map {
    type Item = (Box<str>, Value);
    type IntoIter = indexmap::map::IntoIter<Box<str>, Value>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Value {
    /// A string value from a borrowed text.
    pub fn str(text: &str) -> Self {
        Self::Str(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// An integer of any size, normalised.
    pub fn big(int: BigInt) -> Self {
        match i64::try_from(&int) {
            Ok(small) => Self::Int(small),
            Err(_) => Self::BigInt(Box::new(int)),
        }
    }

    /// The text, when this is a string of valid UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The integer, when it is one that fits 64 bits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Int(int) => Some(*int),
            _ => None,
        }
    }

    /// Whether the value is absent.
    pub fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined)
    }

    /// The name of the type, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined => "undefined",
            Self::Null => "null",
            Self::Bool(_) => "boolean",
            Self::Int(_) | Self::BigInt(_) => "integer",
            Self::Float(_) => "float",
            Self::Str(_) => "string",
            Self::Array(_) => "array",
            Self::Map(_) => "map",
        }
    }

    /// Appends the value as compact JSON: exact integers, floats with a fraction (`4.0`), keys in order. A key whose
    /// value is undefined is left out; an undefined list element becomes `null`, since positions count; bytes that
    /// are no UTF-8 have each bad sequence replaced by U+FFFD.
    pub fn write_json(&self, out: &mut String) {
        use fmt::Write as _;
        match self {
            Self::Undefined | Self::Null => out.push_str("null"),
            Self::Bool(true) => out.push_str("true"),
            Self::Bool(false) => out.push_str("false"),
            Self::Int(int) => drop(write!(out, "{int}")),
            Self::BigInt(int) => drop(write!(out, "{int}")),
            Self::Float(float) if float.is_finite() => drop(write!(out, "{float:?}")),
            Self::Float(_) => out.push_str("null"),
            Self::Str(bytes) => write_json_str(&String::from_utf8_lossy(bytes), out),
            Self::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    item.write_json(out);
                }
                out.push(']');
            }
            Self::Map(map) => write_map(map, out),
        }
    }

    /// The value of a JSON text that we wrote ourselves; a text that is no JSON is taken as a string, so that nothing
    /// is lost to a reader.
    pub fn from_json(text: &str) -> Self {
        match serde_json::from_str::<serde_json::Value>(text) {
            Ok(json) => json.into(),
            Err(_) => text.into(),
        }
    }

    /// The value as compact JSON; see [`Value::write_json`].
    pub fn to_json(&self) -> String {
        let mut out = String::new();
        self.write_json(&mut out);
        out
    }
}

fn write_map(map: &Map, out: &mut String) {
    out.push('{');
    let mut first = true;
    for (key, value) in map.iter().filter(|(_, v)| !v.is_undefined()) {
        if !first {
            out.push(',');
        }
        first = false;
        write_json_str(key, out);
        out.push(':');
        value.write_json(out);
    }
    out.push('}');
}

fn write_json_str(text: &str, out: &mut String) {
    use fmt::Write as _;
    out.push('"');
    let mut plain_from = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..=0x1f => "",
            _ => continue,
        };
        // Every byte matched above is ASCII, so `at` is a character boundary.
        out.push_str(text.get(plain_from..at).unwrap_or_default());
        if escape.is_empty() {
            let _ = write!(out, "\\u{byte:04x}");
        } else {
            out.push_str(escape);
        }
        plain_from = at + 1;
    }
    out.push_str(text.get(plain_from..).unwrap_or_default());
    out.push('"');
}

/// JSON, for messages and tests; a value may hold a payload, so it belongs in no log line.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_undefined() { f.write_str("undefined") } else { f.write_str(&self.to_json()) }
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_json())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Int(value.into())
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::big(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::str(value)
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Str(value.into())
    }
}

impl From<Bytes> for Value {
    fn from(value: Bytes) -> Self {
        Self::Str(value)
    }
}

impl From<Vec<Value>> for Value {
    fn from(value: Vec<Value>) -> Self {
        Self::Array(value)
    }
}

impl From<Map> for Value {
    fn from(value: Map) -> Self {
        Self::Map(value)
    }
}

/// Integers beyond 64 bits become floats here; whoever needs them exact (rules, on payloads) has its own decoder.
impl From<serde_json::Value> for Value {
    fn from(json: serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(flag) => Self::Bool(flag),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(int), _) => Self::Int(int),
                (None, Some(int)) => int.into(),
                (None, None) => number.as_f64().map_or(Self::Null, Self::Float),
            },
            serde_json::Value::String(text) => text.into(),
            serde_json::Value::Array(items) => Self::Array(items.into_iter().map(Into::into).collect()),
            serde_json::Value::Object(map) => {
                map.into_iter().map(|(k, v)| (k, Self::from(v))).collect::<Map>().into()
            }
        }
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Undefined, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn json_is_exact_and_leaves_the_absent_out() {
        let row: Row = [
            ("int", Value::Int(i64::MIN)),
            ("big", Value::big(BigInt::from(u64::MAX) * 10)),
            ("float", Value::Float(4.0)),
            ("gone", Value::Undefined),
            ("null", Value::Null),
            ("text", "a\"\\\n\u{1}é".into()),
            ("list", vec![Value::Undefined, true.into()].into()),
            ("raw", Bytes::from_static(&[0xff, b'a']).into()),
        ]
        .into_iter()
        .collect();
        expect![[r#"{"int":-9223372036854775808,"big":184467440737095516150,"float":4.0,"null":null,"text":"a\"\\\n\u0001é","list":[null,true],"raw":"�a"}"#]]
            .assert_eq(&row.to_json());
    }

    #[test]
    fn integers_are_normalised() {
        assert_eq!(Value::from(7u64), Value::Int(7));
        assert!(matches!(Value::from(u64::MAX), Value::BigInt(_)));
    }
}
