//! What of a row becomes measurement, tag and field, and which names InfluxDB can have. Names that are known beforehand
//! are checked and escaped once. It must never know HTTP or a batch.

use std::borrow::Cow;
use std::collections::HashSet;

use muster_core::value::{Map, Value};

/// Fields in a point; a row of more is refused.
const FIELDS_MAX: usize = 4_096;

/// How rows become points.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) measurement: Template,
    /// In the order of their keys.
    pub(super) tags: Vec<Tag>,
    /// The columns that become fields; without a list all that are no tag.
    pub(super) fields: Option<Vec<String>>,
    /// The column that says when; without one the event does.
    pub(super) timestamp: Option<String>,
    pub(super) nested: Nested,
    pub(super) floats: Floats,
}

/// What becomes of maps and lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nested {
    /// One string of JSON.
    Json,
    /// A field for each value in them: `a.b`, `list.0`.
    Flatten,
}

/// The columns whose integers are written as floats.
#[derive(Debug)]
pub(super) enum Floats {
    All,
    Of(Vec<String>),
}

/// A tag: the column, or the name under which the rule is a tag, and the key as it is written.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tag {
    pub(super) name: String,
    pub(super) key: String,
    /// Its value is the rule's name instead of a column's, unless the row has a column of that name.
    pub(super) is_rule: bool,
}

impl Tag {
    pub(super) fn new(name: &str, is_rule: bool) -> Result<Self, &'static str> {
        check_key(name)?;
        let mut key = String::new();
        escape(name, &[',', '=', ' '], &mut key);
        Ok(Self { name: name.to_owned(), key, is_rule })
    }
}

/// A measurement's name, with columns in it or without.
#[derive(Debug)]
pub(super) enum Template {
    /// The name and how it is written.
    Fixed {
        name: String,
        written: String,
    },
    Parts(Vec<Part>),
}

#[derive(Debug)]
pub(super) enum Part {
    Text(String),
    Column(String),
}

impl Template {
    pub(super) fn fixed(name: &str) -> Result<Self, String> {
        check_measurement(name)?;
        let mut written = String::new();
        escape(name, &[',', ' '], &mut written);
        Ok(Self::Fixed { name: name.to_owned(), written })
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (column, after) = after.split_once('}').ok_or("has a `${` without `}`")?;
            if column.is_empty() {
                return Err("has a `${}` without a column".into());
            }
            parts.extend((!before.is_empty()).then(|| Part::Text(before.to_owned())));
            parts.push(Part::Column(column.to_owned()));
            rest = after;
        }
        if parts.is_empty() {
            return Self::fixed(text);
        }
        parts.extend((!rest.is_empty()).then(|| Part::Text(rest.to_owned())));
        Ok(Self::Parts(parts))
    }

    /// The name for `row`.
    pub(super) fn name(&self, row: &Map) -> Result<String, String> {
        let parts = match self {
            Self::Fixed { name, .. } => return Ok(name.clone()),
            Self::Parts(parts) => parts,
        };
        let mut name = String::new();
        for part in parts {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Column(column) => {
                    let value = row.get(column).unwrap_or(&Value::Undefined);
                    let value = label(column, value)?;
                    let missing = || format!("the measurement's name needs the column `{column}`");
                    name.push_str(&value.ok_or_else(missing)?);
                }
            }
        }
        check_measurement(&name).map_err(|reason| format!("the measurement's name {reason}"))?;
        Ok(name)
    }

    /// Appends the name for `row` as it is written.
    pub(super) fn write(&self, row: &Map, out: &mut String) -> Result<(), String> {
        match self {
            Self::Fixed { written, .. } => out.push_str(written),
            Self::Parts(_) => escape(&self.name(row)?, &[',', ' '], out),
        }
        Ok(())
    }
}

/// A field's value; the type is for ever that of the first value that the server saw.
#[derive(Debug, PartialEq)]
pub(super) enum Field<'a> {
    Float(f64),
    Integer(i64),
    Boolean(bool),
    Text(Cow<'a, str>),
}

impl Field<'_> {
    /// The type's name in the server's words.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Float(_) => "float",
            Self::Integer(_) => "integer",
            Self::Boolean(_) => "boolean",
            Self::Text(_) => "string",
        }
    }
}

impl Shape {
    /// Calls `each` with every field that `row` has, its key checked.
    pub(super) fn fields<'a>(
        &self,
        row: &'a Map,
        each: impl FnMut(&str, Field<'a>) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut walk = Walk { shape: self, row, each, count: 0, path: String::new(), made: HashSet::new() };
        match &self.fields {
            Some(listed) => {
                for name in listed {
                    if let Some(value) = row.get(name) {
                        walk.column(name, value)?;
                    }
                }
            }
            None => {
                for (name, value) in row.iter().filter(|(name, _)| !self.is_taken(name)) {
                    walk.column(name, value)?;
                }
            }
        }
        Ok(())
    }

    /// Whether the column is a tag or the time.
    fn is_taken(&self, column: &str) -> bool {
        self.timestamp.as_deref() == Some(column)
            || self.tags.iter().any(|tag| !tag.is_rule && tag.name == column)
    }

    fn is_float(&self, key: &str) -> bool {
        match &self.floats {
            Floats::All => true,
            Floats::Of(names) => names.iter().any(|name| name == key),
        }
    }
}

struct Walk<'s, 'a, F> {
    shape: &'s Shape,
    row: &'a Map,
    each: F,
    count: usize,
    /// The key of what is being looked at inside a map or list.
    path: String,
    /// Keys that are no column's name, or may be another's too.
    made: HashSet<String>,
}

impl<'a, F: FnMut(&str, Field<'a>) -> Result<(), String>> Walk<'_, 'a, F> {
    fn column(&mut self, name: &str, value: &'a Value) -> Result<(), String> {
        let nested = matches!(value, Value::Array(_) | Value::Map(_));
        if nested && self.shape.nested == Nested::Flatten {
            self.path.clear();
            self.path.push_str(name);
            return self.flatten(value);
        }
        self.leaf(name, value)
    }

    fn flatten(&mut self, value: &'a Value) -> Result<(), String> {
        let end = self.path.len();
        let down = |walk: &mut Self, key: &str, value: &'a Value| {
            walk.path.push('.');
            walk.path.push_str(key);
            let done = walk.flatten(value);
            walk.path.truncate(end);
            done
        };
        match value {
            Value::Map(map) => map.iter().try_for_each(|(key, value)| down(self, key, value)),
            Value::Array(items) => {
                items.iter().enumerate().try_for_each(|(at, value)| down(self, &at.to_string(), value))
            }
            _ => {
                let path = std::mem::take(&mut self.path);
                let done = self.leaf(&path, value);
                self.path = path;
                done
            }
        }
    }

    fn leaf(&mut self, key: &str, value: &'a Value) -> Result<(), String> {
        let field = match value {
            Value::Undefined | Value::Null => return Ok(()),
            Value::Bool(flag) => Field::Boolean(*flag),
            #[expect(clippy::cast_precision_loss, reason = "whoever asks for floats gets floats")]
            Value::Int(int) if self.shape.is_float(key) => Field::Float(*int as f64),
            Value::Int(int) => Field::Integer(*int),
            Value::BigInt(int) => Field::Text(int.to_string().into()),
            Value::Float(float) if float.is_finite() => Field::Float(*float),
            Value::Float(_) => {
                return Err(format!("`{key}` is no number that InfluxDB has (NaN or infinite)"));
            }
            Value::Str(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Field::Text(text.into()),
                Err(_) => return self.bytes(key, bytes),
            },
            Value::Array(_) | Value::Map(_) => Field::Text(value.to_json().into()),
        };
        self.emit(key, field)
    }

    /// Bytes that are no text, under a name that says what was done to them.
    fn bytes(&mut self, key: &str, bytes: &[u8]) -> Result<(), String> {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(bytes);
        let key = format!("{key}_base64");
        if self.row.contains_key(&key) {
            return Err(twice(&key));
        }
        self.emit(&key, Field::Text(text.into()))
    }

    fn emit(&mut self, key: &str, field: Field<'a>) -> Result<(), String> {
        check_key(key).map_err(|reason| format!("the column name `{}` {reason}", key.escape_debug()))?;
        self.count += 1;
        if self.count > FIELDS_MAX {
            return Err(format!("the row has more than {FIELDS_MAX} fields"));
        }
        if self.shape.nested == Nested::Flatten && !self.made.insert(key.to_owned()) {
            return Err(twice(key));
        }
        (self.each)(key, field)
    }
}

fn twice(key: &str) -> String {
    format!("two of the row's values would be the field `{}`; give one an alias", key.escape_debug())
}

/// The text of a value where a name or a tag needs one; none where there is nothing to say.
pub(super) fn label<'a>(column: &str, value: &'a Value) -> Result<Option<Cow<'a, str>>, String> {
    let text: Cow<'_, str> = match value {
        Value::Undefined | Value::Null => return Ok(None),
        Value::Bool(flag) => flag.to_string().into(),
        Value::Int(int) => int.to_string().into(),
        Value::BigInt(int) => int.to_string().into(),
        Value::Float(float) => format!("{float:?}").into(),
        Value::Str(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => return Err(format!("`{column}` is no UTF-8, which neither a tag nor a name may be")),
        },
        Value::Array(_) | Value::Map(_) => {
            let what = value.type_name();
            return Err(format!("`{column}` is of type {what}, which neither a tag nor a name may be"));
        }
    };
    Ok((!text.is_empty()).then_some(text))
}

fn check_measurement(name: &str) -> Result<(), &'static str> {
    if name.starts_with('#') {
        return Err("begins with `#`, which makes a line a comment");
    }
    if name.starts_with('_') {
        return Err("begins with `_`, which InfluxDB keeps for itself");
    }
    check_label(name)
}

/// A key of a tag or a field.
fn check_key(name: &str) -> Result<(), &'static str> {
    if name == "time" {
        return Err("is reserved: give it an alias, or make it the `timestamp`");
    }
    if name.starts_with('_') {
        return Err("begins with `_`, which InfluxDB keeps for itself; give it an alias");
    }
    check_label(name)
}

/// What can be written as a name or as a tag's value and is read again the same. Line protocol cannot escape a
/// backslash, and servers differ in what one means before a character that can be escaped.
pub(super) fn check_label(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    let mut escaped = false;
    for byte in text.bytes() {
        if byte < 0x20 || byte == 0x7f {
            return Err("holds a control character, which line protocol has only in string fields");
        }
        if escaped && matches!(byte, b',' | b' ' | b'=' | b'"') {
            return Err(
                "holds a backslash before a comma, a space, a quote or `=`, which line protocol cannot say",
            );
        }
        escaped = byte == b'\\';
    }
    if escaped { Err("ends in a backslash, which line protocol cannot say") } else { Ok(()) }
}

/// Appends `text` with a backslash before each of `special`, all of them ASCII.
pub(super) fn escape(text: &str, special: &[char], out: &mut String) {
    let mut rest = text;
    while let Some(at) = rest.find(special) {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        out.push('\\');
        let (special, after) = after.split_at(1);
        out.push_str(special);
        rest = after;
    }
    out.push_str(rest);
}
