//! Texts with places for a row's columns: `telemetry.${region}`, `${payload.room}`. For topics, keys, paths and bodies
//! of any sink. It must never know where a text goes.

use muster_core::value::{Map, Row, Value};

/// A text, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Column(String),
}

impl Template {
    /// Takes `text` apart. `${name}` is a column, `${a.b}` one inside of a map, and `${$}` a dollar sign.
    ///
    /// # Errors
    /// What is wrong with it, to be put behind the option's name.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let Some((name, after)) = after.split_once('}') else {
                return Err("has a `${` without its `}`".to_owned());
            };
            plain.push_str(before);
            rest = after;
            match name {
                "" => return Err("has a `${}` that names no column".to_owned()),
                "$" => plain.push('$'),
                name => {
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(Part::Column(name.to_owned()));
                }
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { parts })
    }

    /// The text, where every row gives the same.
    pub(crate) fn constant(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text for `row`: strings as they are, everything else as JSON has it.
    ///
    /// # Errors
    /// Which column the row lacks, to be put behind what the text is for.
    pub(crate) fn render(&self, row: &Row) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Column(name) => match look_up(row, name) {
                    None | Some(Value::Undefined) => {
                        return Err(format!("needs the column `{name}`, which the row does not have"));
                    }
                    Some(Value::Null) => {
                        return Err(format!("needs the column `{name}`, which is null in the row"));
                    }
                    Some(Value::Str(bytes)) => out.extend_from_slice(bytes),
                    Some(value) => out.extend_from_slice(value.to_json().as_bytes()),
                },
            }
        }
        Ok(out)
    }
}

/// The column of that very name, else the way through maps.
fn look_up<'a>(row: &'a Map, name: &str) -> Option<&'a Value> {
    if let Some(value) = row.get(name) {
        return Some(value);
    }
    let (first, rest) = name.split_once('.')?;
    match row.get(first)? {
        Value::Map(map) => look_up(map, rest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let inner: Map = [("room", Value::from("hall")), ("n", Value::Int(7))].into_iter().collect();
        [
            ("clientid", Value::from("pump-7")),
            ("payload", inner.into()),
            ("a.b", true.into()),
            ("gone", Value::Null),
        ]
        .into_iter()
        .collect()
    }

    fn rendered(text: &str) -> Result<String, String> {
        let bytes = Template::parse(text)?.render(&row())?;
        Ok(String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn columns_take_their_places() {
        assert_eq!(rendered("").unwrap(), "");
        assert_eq!(rendered("plain $text}").unwrap(), "plain $text}");
        assert_eq!(rendered("a.${clientid}/${payload.room}-${payload.n}").unwrap(), "a.pump-7/hall-7");
        assert_eq!(rendered("${a.b}").unwrap(), "true");
        assert_eq!(rendered("${payload}").unwrap(), r#"{"room":"hall","n":7}"#);
        assert_eq!(rendered("${$}{x}").unwrap(), "${x}");
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(rendered("${topic}").unwrap_err().contains("`topic`, which the row does not have"));
        assert!(rendered("${payload.x}").unwrap_err().contains("`payload.x`"));
        assert!(rendered("${gone}").unwrap_err().contains("is null"));
        assert!(rendered("a${b").is_err() && rendered("${}").is_err());
    }

    #[test]
    fn a_text_without_places_is_constant() {
        assert_eq!(Template::parse("a ${$} b").unwrap().constant(), Some("a $ b"));
        assert_eq!(Template::parse("${a}").unwrap().constant(), None);
    }
}
