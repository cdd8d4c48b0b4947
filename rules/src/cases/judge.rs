//! Whether a rule made what its case expects. Integers are compared exactly and floats by value; 1 is not 1.0, and an
//! absent column is not null.

use std::fmt;

use muster_core::value::{Map, Row, Value};

use super::{Case, Expected};

/// One way in which what came differs from what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where: `row 1, temp`; empty for the whole.
    pub at: String,
    /// What was expected there.
    pub expected: String,
    /// What came.
    pub got: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.at.is_empty() {
            write!(f, "{}: ", self.at)?;
        }
        write!(f, "expected {}, got {}", self.expected, self.got)
    }
}

/// Compares what a rule made of the case's event with what the case expects; nothing where they agree.
pub fn judge(case: &Case, outcome: Result<&[Row], &str>) -> Vec<Difference> {
    let whole = |expected: String, got: String| vec![Difference { at: String::new(), expected, got }];
    match (&case.expected, outcome) {
        (Expected::Rows(expected), Ok(rows)) => compare(case, expected, rows, false),
        (Expected::RowsContain(expected), Ok(rows)) => compare(case, expected, rows, true),
        (Expected::NoMatch, Ok([])) => Vec::new(),
        (Expected::NoMatch, Ok(rows)) => whole("no row".to_owned(), count(rows)),
        (Expected::Error(part), Err(message)) if message.contains(part.as_str()) => Vec::new(),
        (Expected::Error(part), Err(message)) => {
            whole(format!("an error with \"{part}\" in it"), format!("the error \"{message}\""))
        }
        (Expected::Error(part), Ok(rows)) => whole(format!("an error with \"{part}\" in it"), count(rows)),
        (Expected::Rows(expected) | Expected::RowsContain(expected), Err(message)) => {
            whole(number(expected.len()), format!("the error \"{message}\""))
        }
        (Expected::NoMatch, Err(message)) => whole("no row".to_owned(), format!("the error \"{message}\"")),
    }
}

fn number(rows: usize) -> String {
    match rows {
        0 => "no row".to_owned(),
        1 => "1 row".to_owned(),
        more => format!("{more} rows"),
    }
}

fn count(rows: &[Row]) -> String {
    let mut text = number(rows.len());
    for (n, row) in rows.iter().take(3).enumerate() {
        text.push_str(if n == 0 { ": " } else { ", " });
        text.push_str(&row.to_json());
    }
    if rows.len() > 3 {
        text.push_str(", ...");
    }
    text
}

fn compare(case: &Case, expected: &[Row], rows: &[Row], part: bool) -> Vec<Difference> {
    if expected.len() != rows.len() {
        let (expected, got) = (number(expected.len()), count(rows));
        return vec![Difference { at: String::new(), expected, got }];
    }
    let mut found = Vec::new();
    for (n, (expected, row)) in expected.iter().zip(rows).enumerate() {
        let at = if rows.len() == 1 { String::new() } else { format!("row {}", n + 1) };
        maps(expected, row, &at, part, Some(&case.ignore), &mut found);
    }
    found
}

fn maps(
    expected: &Map,
    got: &Map,
    at: &str,
    part: bool,
    ignore: Option<&[String]>,
    found: &mut Vec<Difference>,
) {
    let ignored = |key: &str| ignore.is_some_and(|ignore| ignore.iter().any(|it| it == key));
    let place = |key: &str| match (at, ignore) {
        ("", _) => key.to_owned(),
        (at, Some(_)) => format!("{at}, {key}"),
        (at, None) => format!("{at}.{key}"),
    };
    for (key, wanted) in expected.iter().filter(|(key, _)| !ignored(key)) {
        values(wanted, got.get(key).unwrap_or(&Value::Undefined), &place(key), part, found);
    }
    let more = got.iter().filter(|(key, value)| !expected.contains_key(key) && !value.is_undefined());
    for (key, value) in more.filter(|(key, _)| !part && !ignored(key)) {
        found.push(difference(&place(key), &Value::Undefined, value));
    }
}

fn values(expected: &Value, got: &Value, at: &str, part: bool, found: &mut Vec<Difference>) {
    match (expected, got) {
        (Value::Map(expected), Value::Map(got)) => maps(expected, got, at, part, None, found),
        (Value::Array(expected), Value::Array(got)) if expected.len() == got.len() => {
            for (n, (expected, got)) in expected.iter().zip(got).enumerate() {
                values(expected, got, &format!("{at}[{}]", n + 1), part, found);
            }
        }
        (expected, got) if expected == got => {}
        (expected, got) => found.push(difference(at, expected, got)),
    }
}

fn difference(at: &str, expected: &Value, got: &Value) -> Difference {
    Difference { at: at.to_owned(), expected: shown(expected), got: shown(got) }
}

/// A value with what cannot be seen in its JSON.
fn shown(value: &Value) -> String {
    match value {
        Value::Undefined => "nothing (absent)".to_owned(),
        Value::Str(bytes) if std::str::from_utf8(bytes).is_err() => {
            let hex: String = bytes.iter().take(32).map(|byte| format!("{byte:02x}")).collect();
            format!(
                "{} bytes that are no UTF-8: {hex}{}",
                bytes.len(),
                if bytes.len() > 32 { "..." } else { "" }
            )
        }
        other => format!("{} ({})", other.to_json(), other.type_name()),
    }
}
