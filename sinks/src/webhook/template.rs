//! Templates of bodies, headers and addresses: `${a.b}` becomes a row's value, written as the place where it lands
//! asks for. Pure: it must never know a request.

use std::borrow::Cow;

use muster_core::value::{Row, Value};

use crate::cloudevents::percent_encode;

/// Where values land, and thus how they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lands {
    /// In a text: as they are.
    Text,
    /// In a JSON text: between quotes escaped, elsewhere as JSON.
    Json,
    /// In a path or a query: everything but letters, digits, `-`, `.`, `_` and `~` percent-encoded.
    Address,
}

/// A template, taken apart.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Value {
        /// The keys that lead to it; none for the whole row.
        way: Vec<String>,
        /// Whether it stands between JSON's quotes.
        quoted: bool,
    },
}

/// What a template is filled in with: a row, and names that stand where the row has no such column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) row: &'a Row,
    pub(super) event_id: &'a str,
    pub(super) rule: &'a str,
}

impl Template {
    /// Takes a template apart. Anything can be one: what is no placeholder stands for itself, `${$}` for a `$`.
    pub(super) fn new(template: &str) -> Self {
        let mut builder = Builder::default();
        let mut rest = template;
        while let Some((plain, tail)) = rest.split_once("${") {
            builder.text(plain);
            let name = tail.split_once('}').filter(|(name, _)| *name == "$" || is_name(name));
            match name {
                Some(("$", after)) => {
                    builder.text("$");
                    rest = after;
                }
                Some((name, after)) => {
                    builder.value(name);
                    rest = after;
                }
                None => {
                    builder.text("${");
                    rest = tail;
                }
            }
        }
        builder.text(rest);
        Self { parts: builder.parts }
    }

    /// Whether every row gives the same text.
    pub(super) fn is_constant(&self) -> bool {
        !self.parts.iter().any(|part| matches!(part, Part::Value { .. }))
    }

    /// What every text made from it begins with.
    pub(super) fn prefix(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }

    /// The text for one row, appended to `out`. A value that is not there is `null` in JSON, else nothing.
    pub(super) fn render(&self, scope: Scope<'_>, lands: Lands, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Value { way, quoted } => write(&scope.look_up(way), lands, *quoted, out),
            }
        }
    }

    /// The first placeholder that has nothing to say of a row.
    pub(super) fn unfilled(&self, scope: Scope<'_>) -> Option<String> {
        self.parts.iter().find_map(|part| match part {
            Part::Value { way, .. } if as_text(&scope.look_up(way)).is_empty() => Some(way.join(".")),
            _ => None,
        })
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_'))
}

#[derive(Default)]
struct Builder {
    parts: Vec<Part>,
    quoted: bool,
    escaped: bool,
}

impl Builder {
    fn text(&mut self, text: &str) {
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
            _ if text.is_empty() => {}
            _ => self.parts.push(Part::Text(text.to_owned())),
        }
    }

    fn value(&mut self, name: &str) {
        let name = name.strip_prefix('.').unwrap_or(name);
        let way = if name.is_empty() { Vec::new() } else { name.split('.').map(str::to_owned).collect() };
        self.parts.push(Part::Value { way, quoted: self.quoted });
    }
}

impl Scope<'_> {
    /// A value of the row. A text on the way that holds JSON is looked into, once.
    fn look_up(&self, way: &[String]) -> Value {
        let Some((first, rest)) = way.split_first() else { return Value::Map(self.row.clone()) };
        let Some(value) = self.row.get(first) else { return self.ours(first, rest) };
        let mut decoded = false;
        let mut here = Cow::Borrowed(value);
        for key in rest {
            if let Some(text) = here.as_str() {
                if decoded {
                    return Value::Undefined;
                }
                here = Cow::Owned(Value::from_json(text));
                decoded = true;
            }
            let next = match here.as_ref() {
                Value::Map(map) => map.get(key).cloned(),
                _ => None,
            };
            let Some(next) = next else { return Value::Undefined };
            here = Cow::Owned(next);
        }
        here.into_owned()
    }

    /// A name of ours, for which the row has no column.
    fn ours(&self, name: &str, rest: &[String]) -> Value {
        match name {
            _ if !rest.is_empty() => Value::Undefined,
            "row" => Value::Map(self.row.clone()),
            "event_id" => self.event_id.into(),
            "rule" => self.rule.into(),
            _ => Value::Undefined,
        }
    }
}

fn as_text(value: &Value) -> Cow<'_, [u8]> {
    match value {
        Value::Undefined | Value::Null => Cow::Borrowed(b""),
        Value::Str(bytes) => Cow::Borrowed(bytes),
        other => Cow::Owned(other.to_json().into_bytes()),
    }
}

fn write(value: &Value, lands: Lands, quoted: bool, out: &mut Vec<u8>) {
    match lands {
        Lands::Text => out.extend_from_slice(&as_text(value)),
        Lands::Json if quoted => {
            let text = as_text(value);
            let json = Value::str(&String::from_utf8_lossy(&text)).to_json();
            let inner = json.strip_prefix('"').and_then(|json| json.strip_suffix('"')).unwrap_or_default();
            out.extend_from_slice(inner.as_bytes());
        }
        Lands::Json => out.extend_from_slice(value.to_json().as_bytes()),
        Lands::Address => percent_encode(&as_text(value), |byte| b"-._~".contains(&byte), out),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn render(template: &str, row: &Row, lands: Lands) -> String {
        let scope = Scope { row, event_id: "E1", rule: "hot" };
        let mut out = Vec::new();
        Template::new(template).render(scope, lands, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn row() -> Row {
        let json = r#"{"a":1,"f":4.50,"s":"say \"hi\"\n","m":{"b":[1,{"c":null}]},
            "j":"{\"k\":{\"l\":2},\"n\":\"{\\\"o\\\":1}\"}","n":null,"t":"a/../ü"}"#;
        match Value::from_json(json) {
            Value::Map(map) => map,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_value_is_written_as_its_place_asks_for() {
        for (template, lands, expected) in [
            ("", Lands::Text, ""),
            ("t/${a}/x ${.a} ${f}", Lands::Text, "t/1/x 1 4.5"),
            ("${m.b} ${j.k.l}|${j.n.o}|${gone}|${n}|${a.x}", Lands::Text, r#"[1,{"c":null}] 2||||"#),
            ("${$}{a} $${a} ${a[1]} ${a-b} ${} ${a", Lands::Text, "${a} $1 ${a[1]} ${a-b} ${} ${a"),
            ("${event_id} ${rule} ${row.a}", Lands::Text, "E1 hot "),
            (
                r#"{"q":"${s}","v":${s},"n":${gone},"m":${m.b},"x":"\"${a}"}"#,
                Lands::Json,
                r#"{"q":"say \"hi\"\n","v":"say \"hi\"\n","n":null,"m":[1,{"c":null}],"x":"\"1"}"#,
            ),
            ("/d/${s}?x=${t}", Lands::Address, "/d/say%20%22hi%22%0A?x=a%2F..%2F%C3%BC"),
        ] {
            assert_eq!(render(template, &row(), lands), expected, "{template}");
        }
    }

    #[test]
    fn the_whole_row_and_columns_before_names_of_ours() {
        let row: Row = [("x", Value::Int(1)), ("rule", "mine".into())].into_iter().collect();
        assert_eq!(
            render("[${.},${row}]", &row, Lands::Json),
            r#"[{"x":1,"rule":"mine"},{"x":1,"rule":"mine"}]"#
        );
        assert_eq!(render("${rule}", &row, Lands::Text), "mine");
        let scope = Scope { row: &row, event_id: "E1", rule: "hot" };
        assert_eq!(Template::new("${x}${a.b}").unfilled(scope), Some("a.b".to_owned()));
        assert_eq!(Template::new("${x}").unfilled(scope), None);
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Undefined),
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e15..1e15_f64).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[\"\\\\${}\r\n\0 a]{0,12}".prop_map(Value::from),
            any::<Vec<u8>>().prop_map(|bytes| Value::Str(bytes.into())),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((any::<String>(), inner), 0..4)
                    .prop_map(|pairs| Value::Map(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Whatever a device sends, the body stays JSON of the template's shape, and the values come back.
        #[test]
        fn no_value_breaks_out_of_a_json_template(value in any_value(), text in any::<String>()) {
            let row: Row = [("v", value.clone()), ("t", text.as_str().into())].into_iter().collect();
            let body = render(r#"{"in":"<${t}>","as":${v},"also":"${v}","end":[${t}]}"#, &row, Lands::Json);
            let json: serde_json::Value = serde_json::from_str(&body).unwrap();
            prop_assert_eq!(&json["in"], &format!("<{text}>"));
            prop_assert_eq!(&json["end"][0], &text);
            prop_assert_eq!(&json["as"], &serde_json::from_str::<serde_json::Value>(&value.to_json()).unwrap());
            let also = String::from_utf8_lossy(&as_text(&value)).into_owned();
            prop_assert_eq!(&json["also"], &also);
            prop_assert_eq!(json.as_object().unwrap().len(), 4);
        }

        /// A value never adds a segment, a query, a fragment or a host to an address, and comes back.
        #[test]
        fn no_value_breaks_out_of_its_place_in_an_address(text in any::<String>()) {
            let row: Row = [("t", text.as_str())].into_iter().collect();
            let address = render("https://x.example/a/x${t}x/b?q=${t}&r=1", &row, Lands::Address);
            let url = reqwest::Url::parse(&address).unwrap();
            prop_assert_eq!(url.host_str(), Some("x.example"));
            prop_assert_eq!(url.path_segments().unwrap().count(), 3);
            prop_assert_eq!(url.fragment(), None);
            let query: Vec<_> = url.query_pairs().collect();
            prop_assert_eq!(query.len(), 2);
            prop_assert_eq!(query[0].1.as_ref(), text.as_str());
        }
    }
}
