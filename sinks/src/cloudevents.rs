//! CloudEvents 1.0 (<https://cloudevents.io>): the attributes of a row's event, and the JSON envelope of its structured
//! mode. Pure: which header of which protocol an attribute becomes is the sink's business.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::sink::{Batch, BatchRow};

/// The content type of the structured mode.
pub(crate) const STRUCTURED: &str = "application/cloudevents+json";
/// The content type of a row as JSON, which is what `datacontenttype` says.
pub(crate) const JSON: &str = "application/json";
/// The content type of a text that an operator's template makes.
pub(crate) const TEXT: &str = "text/plain; charset=utf-8";

/// What happened, as others are told.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Data<'a> {
    /// A JSON text.
    Json(&'a str),
    /// Any other text.
    Text(&'a str),
}

impl<'a> Data<'a> {
    fn content_type(self) -> &'static str {
        match self {
            Self::Json(_) => JSON,
            Self::Text(_) => TEXT,
        }
    }
}

/// An event without its data.
#[derive(Debug, Clone)]
pub(crate) struct CloudEvent<'a> {
    id: String,
    source: String,
    kind: &'static str,
    subject: &'a str,
    time: String,
}

impl<'a> CloudEvent<'a> {
    /// The event of `row`: its id is made of the event, the rule and the row's place, so it is the same on every
    /// attempt and on every replay; its source is the node and the log.
    pub(crate) fn of(batch: &Batch, row: &'a BatchRow) -> Self {
        let event = &row.event;
        Self {
            id: format!("{}/{}/{}", row.event_id(), batch.pipeline.rule, row.index),
            source: format!("/{}/{:032X}", encoded(&event.body.node), batch.after.log_id),
            kind: event.kind.name(),
            subject: row.clientid(),
            time: rfc3339(event.timestamp_ms),
        }
    }

    /// The attributes by their names, apart from `datacontenttype`. `subject` is left out where there is no client.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let Self { id, source, kind, subject, time } = self;
        [
            ("specversion", "1.0"),
            ("id", id),
            ("source", source),
            ("type", *kind),
            ("subject", *subject),
            ("time", time),
        ]
        .into_iter()
        .filter(|(name, value)| *name != "subject" || !value.is_empty())
    }

    /// The envelope with `data` in it.
    pub(crate) fn structured(&self, data: Data<'_>) -> String {
        let mut out = String::from("{");
        for (name, value) in self.attributes().chain([("datacontenttype", data.content_type())]) {
            let _ = write!(out, "\"{name}\":{},", quoted(value));
        }
        out.push_str("\"data\":");
        match data {
            Data::Json(json) => out.push_str(json),
            Data::Text(text) => out.push_str(&quoted(text)),
        }
        out.push('}');
        out
    }
}

fn quoted(text: &str) -> Cow<'_, str> {
    serde_json::to_string(text).map_or(Cow::Borrowed("\"\""), Cow::Owned)
}

/// A name as a segment of a URI's path.
fn encoded(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'@' | b':' => {
                out.push(byte.into())
            }
            other => drop(write!(out, "%{other:02X}")),
        }
    }
    out
}

/// Milliseconds since 1970 as RFC 3339 in UTC.
fn rfc3339(ms: i64) -> String {
    const DAY_MS: i64 = 86_400_000;
    let (days, of_day) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
    // The calendar repeats every 400 years of 146,097 days; a year that begins in March ends with its leap day.
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (second, milli) = (of_day / 1_000 % 60, of_day % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn the_envelope_is_json_whatever_is_in_it() {
        let event = CloudEvent {
            id: "1/a \"rule\"/0".into(),
            source: format!("/{}/0", encoded("muster@host/1")),
            kind: "message.publish",
            subject: "",
            time: rfc3339(0),
        };
        assert_eq!(
            event.structured(Data::Json(r#"{"a":1}"#)),
            concat!(
                r#"{"specversion":"1.0","id":"1/a \"rule\"/0","source":"/muster@host%2F1/0","type":"message.publish","#,
                r#""time":"1970-01-01T00:00:00.000Z","datacontenttype":"application/json","data":{"a":1}}"#
            )
        );
        assert!(event.structured(Data::Text("a\nb")).ends_with(r#""data":"a\nb"}"#));
    }
}
