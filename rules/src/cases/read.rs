//! Lines into cases. Everything that could make a case test something else than was meant is an error with its place.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use muster_core::event::{Column, Event, EventKind, filled};
use muster_core::topic;
use muster_core::value::{Map, Row, Value};

use super::{Case, CaseError, Course, Expected, NOW_DEFAULT_MS, locate};
use crate::diagnostic::nearest;
use crate::program::json;

/// What a case may say.
const FIELDS: &[&str] =
    &["name", "rule", "event", "now", "rows", "rows_contain", "no_match", "error", "ignore"];
/// What a case for an alarm may say.
const COURSE_FIELDS: &[&str] =
    &["name", "alarm", "events", "now", "until", "rows", "rows_contain", "no_match", "ignore"];
/// When an event of a course happens, in place of its `timestamp`: so long after `now`.
const AFTER: &str = "after";
/// Events in a course, at most.
const COURSE_EVENTS_MAX: usize = 1_000;
const EXPECTATIONS: &[&str] = &["rows", "rows_contain", "no_match", "error"];
const PAYLOAD_BASE64: &str = "payload_base64";

/// Reads a file of cases: one JSON object a line; blank lines and lines that begin with `//` or `#` are passed over.
/// Lines that are no case are in the second part.
pub fn read(text: &str) -> (Vec<Case>, Vec<CaseError>) {
    let (mut cases, mut errors) = (Vec::new(), Vec::new());
    for (at, line) in text.lines().enumerate() {
        let start = line.trim_start();
        if start.is_empty() || start.starts_with("//") || start.starts_with('#') {
            continue;
        }
        match (Line { text: line, number: at + 1 }).case() {
            Ok(case) => cases.push(case),
            Err(error) => errors.push(error),
        }
    }
    (cases, errors)
}

struct Line<'a> {
    text: &'a str,
    number: usize,
}

type Read<T> = Result<T, CaseError>;

impl Line<'_> {
    fn error(&self, path: &[&str], message: impl Into<String>) -> CaseError {
        let first = || locate::value_of(self.text, path.get(..1)?);
        let byte = locate::value_of(self.text, path).or_else(first).unwrap_or_else(|| self.begin());
        self.error_at(byte, message)
    }

    fn error_at(&self, byte: usize, message: impl Into<String>) -> CaseError {
        CaseError { line: self.number, column: locate::column(self.text, byte), message: message.into() }
    }

    fn begin(&self) -> usize {
        self.text.len() - self.text.trim_start().len()
    }

    fn case(&self) -> Read<Case> {
        let bytes = Bytes::copy_from_slice(self.text.as_bytes());
        let Value::Map(fields) = json::decode(&bytes).map_err(|fault| self.no_json(&fault.to_string()))?
        else {
            return Err(
                self.error_at(self.begin(), "a case is a JSON object: {\"event\":{...},\"rows\":[...]}")
            );
        };
        let is_course = ["alarm", "events", "until"].iter().any(|name| fields.contains_key(name));
        let known = if is_course { COURSE_FIELDS } else { FIELDS };
        for name in fields.keys() {
            if !known.contains(&name) {
                let help = nearest(name, known.iter().copied());
                let help = help.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
                return Err(self.error(&[name], format!("a case has no field `{name}`{help}")));
            }
        }
        let now_ms = self.time("now", fields.get("now"))?.unwrap_or(NOW_DEFAULT_MS);
        let rule = fields.get("rule").map(|value| self.text_of("rule", value)).transpose()?;
        let name = fields.get("name").map(|value| self.text_of("name", value)).transpose()?;
        let chosen = if is_course { "alarm" } else { "rule" };
        let rule_byte = locate::value_of(self.text, &[chosen]).unwrap_or_else(|| self.begin());
        let course = is_course.then(|| self.course(&fields, now_ms)).transpose()?;
        let event = match course.as_ref().and_then(|course| course.events.first()) {
            Some(first) => first.clone(),
            None => Arc::new(self.event("event", fields.get("event"), now_ms)?),
        };
        Ok(Case {
            name: name.unwrap_or_else(|| format!("line {}", self.number)),
            rule,
            line: self.number,
            rule_column: locate::column(self.text, rule_byte),
            event,
            course,
            now_ms,
            expected: self.expected(&fields)?,
            ignore: self.ignore(&fields)?,
        })
    }

    /// The reader tells the byte; a person wants the column.
    fn no_json(&self, fault: &str) -> CaseError {
        match fault.split_once(", at byte ").and_then(|(what, byte)| Some((what, byte.parse().ok()?))) {
            Some((what, byte)) => self.error_at(byte, format!("this line is {what} from here on")),
            None => self.error_at(self.begin(), format!("this line is {fault}")),
        }
    }

    fn text_of(&self, field: &str, value: &Value) -> Read<String> {
        let wrong = || self.error(&[field], format!("`{field}` is text"));
        value.as_str().map(str::to_owned).ok_or_else(wrong)
    }

    fn time(&self, field: &str, value: Option<&Value>) -> Read<Option<i64>> {
        match value {
            None => Ok(None),
            Some(Value::Int(ms)) => Ok(Some(*ms)),
            Some(other) => {
                let time = other.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
                let help = format!(
                    "`{field}` is a time such as \"2026-01-02T03:04:05Z\", or milliseconds since 1970"
                );
                time.map(|it| Some(it.as_millisecond())).ok_or_else(|| self.error(&[field], help))
            }
        }
    }

    fn course(&self, fields: &Map, now_ms: i64) -> Read<Course> {
        let alarm = fields.get("alarm").map(|value| self.text_of("alarm", value)).transpose()?;
        let given = match fields.get("events") {
            Some(Value::Array(given)) if (1..=COURSE_EVENTS_MAX).contains(&given.len()) => given,
            _ => {
                let help =
                    format!("`events` is a list of at least one event and at most {COURSE_EVENTS_MAX}");
                return Err(self.error(&["events"], help));
            }
        };
        let (mut events, mut last_ms) = (Vec::new(), i64::MIN);
        for (number, value) in given.iter().enumerate() {
            let which = format!("event {}", number + 1);
            let mut value = value.clone();
            let mut at_ms = now_ms;
            if let Value::Map(columns) = &mut value
                && let Some(after) = columns.remove(AFTER)
            {
                let after = self.duration(&which, &after)?;
                at_ms = now_ms.saturating_add(after);
            }
            let event = self.event("events", Some(&value), at_ms)?;
            if event.timestamp_ms < last_ms {
                let message = format!("{which} is earlier than the one before it");
                return Err(self.error(&["events"], message));
            }
            last_ms = event.timestamp_ms;
            events.push(Arc::new(event));
        }
        let until_ms = match fields.get("until") {
            Some(Value::Str(_)) if self.time("until", fields.get("until")).is_err() => {
                now_ms.saturating_add(self.duration("until", fields.get("until").unwrap_or(&Value::Null))?)
            }
            other => self.time("until", other)?.unwrap_or(last_ms),
        };
        Ok(Course { alarm, events, until_ms })
    }

    /// How long after `now`, in milliseconds.
    fn duration(&self, what: &str, value: &Value) -> Read<i64> {
        let ms = value.as_str().and_then(crate::syntax::parse_duration).and_then(|ms| i64::try_from(ms).ok());
        let field = if what == "until" { "until" } else { "events" };
        ms.ok_or_else(|| self.error(&[field], format!("{what}: a duration after `now`, such as \"30s\"")))
    }

    /// An event; `field` is where it stands.
    fn event(&self, field: &str, value: Option<&Value>, now_ms: i64) -> Read<Event> {
        let Some(Value::Map(given)) = value else {
            let help = "an event is an object of columns: {\"event\":\"message.publish\",\"topic\":\"a/b\"}";
            return Err(self.error(&[field], help));
        };
        let mut given = given.clone();
        let name = given.get("event").cloned();
        let name = name.as_ref().map_or(Some(EventKind::MessagePublish.name()), Value::as_str);
        let kind = name.and_then(EventKind::from_name).ok_or_else(|| {
            let kinds: Vec<_> = EventKind::all().map(EventKind::name).collect();
            self.error(&[field, "event"], format!("no event has this name; there are {}", kinds.join(", ")))
        })?;
        self.payload(field, kind, &mut given)?;
        if let (EventKind::MessagePublish, Some(topic)) = (kind, given.get("topic").and_then(Value::as_str)) {
            topic::validate_name(topic).map_err(|error| {
                self.error(&[field, "topic"], format!("nobody can publish to it: {error}"))
            })?;
        }
        let columns = filled(kind, now_ms, &given);
        Event::from_columns(kind, &columns).map_err(|error| {
            let known = Column::of(kind).into_iter().map(Column::name);
            let meant = nearest(&error.column, known).filter(|meant| *meant != error.column);
            let help = meant.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
            self.error(&[field, &error.column], format!("{error}{help}"))
        })
    }

    /// A payload may be text, base64, or any other JSON, which is written as JSON text.
    fn payload(&self, field: &str, kind: EventKind, given: &mut Map) -> Read<()> {
        if let Some(encoded) = given.remove(PAYLOAD_BASE64) {
            let place = [field, PAYLOAD_BASE64];
            if given.contains_key("payload") {
                return Err(self.error(&place, "an event has either `payload` or `payload_base64`"));
            }
            if !kind.is_message() {
                return Err(self.error(&place, format!("{} has no payload", kind.name())));
            }
            let bytes = encoded.as_str().and_then(|text| STANDARD.decode(text).ok());
            let bytes = bytes.ok_or_else(|| self.error(&place, "this is no base64"))?;
            given.insert("payload", Bytes::from(bytes));
        } else if let Some(payload) = given.get_mut("payload")
            && !matches!(payload, Value::Str(_))
        {
            *payload = payload.to_json().into();
        }
        Ok(())
    }

    fn expected(&self, fields: &Map) -> Read<Expected> {
        let said: Vec<_> = EXPECTATIONS.iter().filter(|name| fields.contains_key(name)).copied().collect();
        let [said] = said.as_slice() else {
            let message = "a case says one of `rows`, `rows_contain`, `no_match`, `error`";
            return Err(self.error(said.get(1..2).unwrap_or_default(), message));
        };
        match (*said, fields.get(said)) {
            ("rows" | "rows_contain", Some(Value::Array(rows))) if rows.is_empty() => Ok(Expected::NoMatch),
            ("rows", Some(value)) => self.rows(said, value).map(Expected::Rows),
            ("rows_contain", Some(value)) => self.rows(said, value).map(Expected::RowsContain),
            ("error", Some(value)) => self.text_of("error", value).map(Expected::Error),
            (_, Some(Value::Bool(true))) => Ok(Expected::NoMatch),
            _ => Err(self.error(&["no_match"], "write \"no_match\":true, or the rows that are expected")),
        }
    }

    fn rows(&self, field: &str, value: &Value) -> Read<Vec<Row>> {
        let row = |row: &Value| match row {
            Value::Map(row) => Ok(row.clone()),
            _ => Err(self.error(&[field], format!("`{field}` is a list of rows, each an object"))),
        };
        match value {
            Value::Array(rows) => rows.iter().map(row).collect(),
            other => row(other).map(|row| vec![row]),
        }
    }

    fn ignore(&self, fields: &Map) -> Read<Vec<String>> {
        let wrong = || self.error(&["ignore"], "`ignore` is a list of column names");
        match fields.get("ignore") {
            None => Ok(Vec::new()),
            Some(Value::Array(names)) => {
                names.iter().map(|name| name.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
            }
            Some(_) => Err(wrong()),
        }
    }
}
