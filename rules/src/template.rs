//! Templates: `${a.b}` in topics, keys, paths and bodies. Values are taken from a rule's row. What a value looks like
//! depends on where it lands: as it is in a text, escaped in JSON, percent-encoded in a path, and a parameter in SQL.

use std::borrow::Cow;

use bytes::Bytes;
use muster_core::value::{Map, Value};

use crate::program::path::Way;
use crate::program::{json, text};

/// Where a rendered value lands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Context {
    /// A plain text: values are not escaped, as the reference has it.
    #[default]
    Text,
    /// A JSON text: inside of quotes a value is escaped, outside it is written as JSON.
    Json,
    /// A path or query of a URL: everything but letters, digits, `-`, `.`, `_` and `~` is percent-encoded.
    Url,
    /// A topic: what would make it invalid or another topic (`+`, `#`, NUL) becomes `_`.
    Topic,
}

/// What stands for a value that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Missing {
    /// The word `undefined`, as in the reference.
    #[default]
    Undefined,
    /// The word `null`.
    Null,
    /// Nothing.
    Empty,
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Value {
        way: Vec<Way>,
        /// Whether an odd number of JSON's quotes stands before it.
        quoted: bool,
    },
}

/// A template, taken apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    parts: Vec<Part>,
}

impl Template {
    /// Takes a template apart. Anything can be one: what is no placeholder stands for itself.
    pub fn new(template: &str) -> Self {
        let mut builder = Builder::default();
        let mut rest = template;
        while let Some((plain, tail)) = rest.split_once("${") {
            builder.text(plain);
            if let Some(after) = tail.strip_prefix("$}") {
                builder.text("$");
                rest = after;
                continue;
            }
            let end = tail.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_')));
            match end.and_then(|end| tail.split_at_checked(end)) {
                Some((name, after)) if after.starts_with('}') => {
                    builder.value(name);
                    rest = after.get(1..).unwrap_or_default();
                }
                _ => {
                    builder.text("${");
                    rest = tail;
                }
            }
        }
        builder.text(rest);
        Self { parts: builder.parts }
    }

    /// Whether every row gives the same text.
    pub fn is_constant(&self) -> bool {
        !self.parts.iter().any(|part| matches!(part, Part::Value { .. }))
    }

    /// The names of its placeholders: `a.b`; the empty name for the whole row.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Value { way, .. } => Some(
                way.iter()
                    .map(|way| match way {
                        Way::Key(key) => key.as_ref(),
                        _ => "",
                    })
                    .collect::<Vec<_>>()
                    .join("."),
            ),
        })
    }

    /// The template as a topic filter that every topic made from it matches, a placeholder standing for one level.
    pub(crate) fn as_filter(&self) -> String {
        let mut marked = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => marked.push_str(text),
                Part::Value { .. } => marked.push('\0'),
            }
        }
        let level = |level: &str| if level.contains('\0') { "+".to_owned() } else { level.to_owned() };
        marked.split('/').map(level).collect::<Vec<_>>().join("/")
    }

    /// What stands outside of its placeholders.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Value { .. } => None,
        })
    }

    /// What every text made from it begins with.
    pub(crate) fn prefix(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }

    /// The value itself where the template is one placeholder and nothing else.
    pub(crate) fn value(&self, row: &Map) -> Option<Value> {
        match self.parts.as_slice() {
            [Part::Value { way, .. }] => Some(look_up(row, way)),
            _ => None,
        }
    }

    /// The plain text for one row; none where one of its values is not there.
    pub(crate) fn render_known(&self, row: &Map) -> Option<Bytes> {
        let is_missing = |part: &Part| match part {
            Part::Text(_) => false,
            Part::Value { way, .. } => look_up(row, way).is_undefined(),
        };
        let known = !self.parts.iter().any(is_missing);
        known.then(|| self.render(row, Context::Text, Missing::Undefined))
    }

    /// The text for one row.
    pub fn render(&self, row: &Map, context: Context, missing: Missing) -> Bytes {
        let mut out = Vec::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Value { way, quoted } => {
                    let value = look_up(row, way);
                    write(&value, context, *quoted, missing, &mut out);
                }
            }
        }
        out.into()
    }

    /// SQL with parameters, and the parameters' values: `marker(1)` is the first parameter's mark, `$1` or `?`.
    /// Values never become part of the statement. An absent value and JSON null are SQL's NULL.
    pub fn parameters(&self, row: &Map, marker: impl Fn(usize) -> String) -> (String, Vec<Value>) {
        let (mut sql, mut values) = (String::new(), Vec::new());
        for part in &self.parts {
            match part {
                Part::Text(text) => sql.push_str(text),
                Part::Value { way, .. } => {
                    values.push(match look_up(row, way) {
                        Value::Undefined => Value::Null,
                        value => value,
                    });
                    sql.push_str(&marker(values.len()));
                }
            }
        }
        (sql, values)
    }
}

#[derive(Default)]
struct Builder {
    parts: Vec<Part>,
    quoted: bool,
    escaped: bool,
}

impl Builder {
    fn text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        for byte in text.bytes() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.quoted => self.escaped = true,
                b'"' => self.quoted = !self.quoted,
                _ => {}
            }
        }
        match self.parts.last_mut() {
            Some(Part::Text(last)) => last.push_str(text),
            _ => self.parts.push(Part::Text(text.to_owned())),
        }
    }

    fn value(&mut self, name: &str) {
        let name = name.strip_prefix('.').unwrap_or(name);
        let way = if name.is_empty() {
            Vec::new()
        } else {
            name.split('.').map(|key| Way::Key(key.into())).collect()
        };
        self.parts.push(Part::Value { way, quoted: self.quoted });
    }
}

/// A value of the row. A string on the way that holds JSON is looked into once, not again inside of it.
fn look_up(row: &Map, way: &[Way]) -> Value {
    let Some((Way::Key(first), rest)) = way.split_first() else { return Value::Map(row.clone()) };
    let Some(value) = row.get(first) else { return Value::Undefined };
    let mut decoded = false;
    let mut here = Cow::Borrowed(value);
    for step in rest {
        let Way::Key(key) = step else { return Value::Undefined };
        if let Value::Str(text) = here.as_ref() {
            match json::decode(text) {
                Ok(inner) if !decoded => here = Cow::Owned(inner),
                _ => return Value::Undefined,
            }
            decoded = true;
        }
        let next = match here.as_ref() {
            Value::Map(map) => map.get(key).cloned(),
            _ => None,
        };
        match next {
            Some(next) => here = Cow::Owned(next),
            None => return Value::Undefined,
        }
    }
    here.into_owned()
}

fn write(value: &Value, context: Context, quoted: bool, missing: Missing, out: &mut Vec<u8>) {
    if context == Context::Json && !quoted {
        let json = match value {
            Value::Undefined => "null".to_owned(),
            other => other.to_json(),
        };
        out.extend_from_slice(json.as_bytes());
        return;
    }
    let text = match (value, missing) {
        (Value::Undefined, Missing::Null) => Cow::Borrowed(&b"null"[..]),
        (Value::Undefined, Missing::Empty) => Cow::Borrowed(&b""[..]),
        _ => text::bytes_of(value).unwrap_or(Cow::Borrowed(b"")),
    };
    match context {
        Context::Text => out.extend_from_slice(&text),
        Context::Json => {
            let json = Value::str(&String::from_utf8_lossy(&text)).to_json();
            let inner = json.strip_prefix('"').and_then(|json| json.strip_suffix('"')).unwrap_or_default();
            out.extend_from_slice(inner.as_bytes());
        }
        Context::Url => {
            for byte in text.iter() {
                if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
                    out.push(*byte);
                } else {
                    out.extend_from_slice(format!("%{byte:02X}").as_bytes());
                }
            }
        }
        Context::Topic => {
            let safe = |byte: &u8| if matches!(byte, b'+' | b'#' | 0) { b'_' } else { *byte };
            out.extend(text.iter().map(safe));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Map {
        let json = r#"{"a":1,"f":4.50,"s":"say \"hi\"","m":{"b":[1,{"c":null}]},"j":"{\"k\":{\"l\":2},\"n\":\"{\\\"o\\\":1}\"}","n":null,"l":[97,98],"t":"a/+/#"}"#;
        match json::decode(&Bytes::from_static(json.as_bytes())) {
            Ok(Value::Map(map)) => map,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn text_follows_the_reference() {
        for (template, expected) in [
            ("", ""),
            ("t/${a}/x", "t/1/x"),
            ("${.a}", "1"),
            ("${f}", "4.5"),
            ("${m.b}", r#"[1,{"c":null}]"#),
            ("${j.k.l}", "2"),
            ("${j.n.o}", "undefined"),
            ("${gone} ${gone.x} ${a.x}", "undefined undefined undefined"),
            ("${n}", "null"),
            ("${l}", "ab"),
            ("${$}{a}", "${a}"),
            ("$${a}", "$1"),
            ("${a[1]} ${a-b} ${a", "${a[1]} ${a-b} ${a"),
            (r#"{"q":"${s}"}"#, r#"{"q":"say "hi""}"#),
        ] {
            let text = Template::new(template).render(&row(), Context::Text, Missing::Undefined);
            assert_eq!(String::from_utf8_lossy(&text), expected, "{template}");
        }
        let whole = Template::new("${.}").render(
            &[("x", Value::Int(1))].into_iter().collect(),
            Context::Text,
            Missing::Null,
        );
        assert_eq!(whole, r#"{"x":1}"#);
    }

    #[test]
    fn a_value_is_escaped_for_the_place_it_lands_in() {
        for (template, context, expected) in [
            (
                r#"{"q":"${s}","v":${s},"n":${gone},"m":${m.b},"x":"\"${a}"}"#,
                Context::Json,
                r#"{"q":"say \"hi\"","v":"say \"hi\"","n":null,"m":[1,{"c":null}],"x":"\"1"}"#,
            ),
            ("/d/${s}?x=${t}", Context::Url, "/d/say%20%22hi%22?x=a%2F%2B%2F%23"),
            ("out/${t}", Context::Topic, "out/a/_/_"),
        ] {
            let text = Template::new(template).render(&row(), context, Missing::Undefined);
            assert_eq!(String::from_utf8_lossy(&text), expected, "{template}");
        }
        let (sql, values) = Template::new("INSERT INTO t VALUES (${s}, ${a}, ${gone})")
            .parameters(&row(), |n| format!("${n}"));
        assert_eq!(sql, "INSERT INTO t VALUES ($1, $2, $3)");
        assert_eq!(values, [r#"say "hi""#.into(), Value::Int(1), Value::Null]);
    }
}
