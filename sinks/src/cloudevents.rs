//! CloudEvents 1.0 (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md>): what a row is called as
//! one, the same by whatever sink it goes, its envelope and its attributes. Pure: it must never know who sends it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_core::value::Value;

use crate::sink::BatchRow;

/// The content type of one event in structured mode.
pub(crate) const STRUCTURED: &str = "application/cloudevents+json";
/// The content type of a batch.
pub(crate) const BATCH: &str = "application/cloudevents-batch+json";

/// The content type of a row.
pub(crate) const JSON: &str = "application/json";

/// A row's id: of its event and its place among the event's rows. With the source, which names the rule, it is unique,
/// and equal on every attempt and on every replay.
pub(crate) fn id(row: &BatchRow) -> String {
    format!("{}.{}", row.event_id(), row.index)
}

/// The source of a rule's rows.
pub(crate) fn source(rule: &str) -> String {
    let mut source = b"/muster/rules/".to_vec();
    percent_encode(rule.as_bytes(), |byte| b"-._~".contains(&byte), &mut source);
    String::from_utf8(source).unwrap_or_default()
}

/// The type of a row: of its event.
pub(crate) fn kind(row: &BatchRow) -> String {
    format!("muster.{}", row.event.kind.name())
}

/// The attributes of an event. `source` and `id` together are unique.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a> {
    pub(crate) id: &'a str,
    /// A URI reference.
    pub(crate) source: &'a str,
    pub(crate) kind: &'a str,
    /// What the event is about; empty where there is nothing.
    pub(crate) subject: &'a str,
    /// When it happened, milliseconds since 1970.
    pub(crate) time_ms: i64,
    /// What the data is.
    pub(crate) content_type: &'a str,
}

impl Attributes<'_> {
    /// Names and values, in this order, apart from `datacontenttype`. The extension `partitionkey` says whose events
    /// keep their order.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&'static str, String)> {
        let subject = (!self.subject.is_empty()).then(|| self.subject.to_owned());
        [
            ("specversion", Some("1.0".to_owned())),
            ("id", Some(self.id.to_owned())),
            ("source", Some(self.source.to_owned())),
            ("type", Some(self.kind.to_owned())),
            ("time", rfc3339(self.time_ms)),
            ("subject", subject.clone()),
            ("partitionkey", subject),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }

    /// The event as a JSON object. Data is JSON where its content type says so, else a text, else base64.
    pub(crate) fn structured(&self, data: &[u8]) -> String {
        let mut json = String::with_capacity(data.len() + 256);
        for (name, value) in self.pairs().chain([("datacontenttype", self.content_type.to_owned())]) {
            json.push_str(if json.is_empty() { "{\"" } else { ",\"" });
            json.push_str(name);
            json.push_str("\":");
            Value::from(value).write_json(&mut json);
        }
        match std::str::from_utf8(data) {
            Ok(text) if is_json(self.content_type) => {
                json.push_str(",\"data\":");
                json.push_str(text);
            }
            Ok(text) => {
                json.push_str(",\"data\":");
                Value::from(text).write_json(&mut json);
            }
            Err(_) => {
                json.push_str(",\"data_base64\":\"");
                STANDARD.encode_string(data, &mut json);
                json.push('"');
            }
        }
        json.push('}');
        json
    }

    /// The attributes as headers; the data is the body, its content type the request's.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (String, String)> {
        self.pairs().map(|(name, value)| (format!("ce-{name}"), header_value(&value)))
    }
}

/// Whether a content type promises one JSON text.
pub(crate) fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind == "text/json" || kind.ends_with("+json")
}

/// As the binding asks: what is not printable ASCII, space, quote and percent are percent-encoded.
fn header_value(value: &str) -> String {
    let mut out = Vec::with_capacity(value.len());
    percent_encode(
        value.as_bytes(),
        |byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'%'),
        &mut out,
    );
    String::from_utf8(out).unwrap_or_default()
}

/// `2023-11-14T22:13:20.000Z`; none outside of the years 0 to 9999, which RFC 3339 does not know.
fn rfc3339(time_ms: i64) -> Option<String> {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    let (days, ms) = (time_ms.div_euclid(DAY_MS), time_ms.rem_euclid(DAY_MS));
    // Days since 0000-03-01 in eras of 400 years (146,097 days), so that the leap day is a year's last day.
    let shifted = days.checked_add(719_468)?;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    (0..=9999).contains(&year).then(|| {
        format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
    })
}

/// Appends `bytes`, percent-encoded but for letters, digits and what `keep` keeps.
pub(crate) fn percent_encode(bytes: &[u8], keep: impl Fn(u8) -> bool, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || keep(byte) {
            out.push(byte);
        } else {
            out.extend([b'%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes() -> Attributes<'static> {
        Attributes {
            id: "E1.0",
            source: "/muster/rules/hot",
            kind: "muster.message.publish",
            subject: "pümp \"7\" 100%",
            time_ms: 1_700_000_000_042,
            content_type: "application/json",
        }
    }

    #[test]
    fn structured_holds_json_text_or_bytes() {
        let head = r#"{"specversion":"1.0","id":"E1.0","source":"/muster/rules/hot","type":"muster.message.publish","time":"2023-11-14T22:13:20.042Z","subject":"pümp \"7\" 100%","partitionkey":"pümp \"7\" 100%","#;
        let json = attributes().structured(br#"{"a":1}"#);
        assert_eq!(json, format!(r#"{head}"datacontenttype":"application/json","data":{{"a":1}}}}"#));
        let text = Attributes { content_type: "text/plain", ..attributes() };
        assert!(
            text.structured(b"a \"b\"").ends_with(r#","datacontenttype":"text/plain","data":"a \"b\""}"#)
        );
        assert!(text.structured(&[0xff]).ends_with(r#","data_base64":"/w=="}"#));
    }

    #[test]
    fn headers_hold_what_headers_can() {
        let headers: Vec<_> =
            attributes().headers().map(|(name, value)| format!("{name}: {value}")).collect();
        assert_eq!(
            headers[1..4],
            ["ce-id: E1.0", "ce-source: /muster/rules/hot", "ce-type: muster.message.publish"]
        );
        assert_eq!(headers[5], "ce-subject: p%C3%BCmp%20%227%22%20100%25");
        let none = Attributes { subject: "", ..attributes() };
        assert_eq!(none.headers().count(), 5);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (ms, text) in [
            (0, Some("1970-01-01T00:00:00.000Z")),
            (-1, Some("1969-12-31T23:59:59.999Z")),
            (951_782_400_000, Some("2000-02-29T00:00:00.000Z")),
            (4_107_542_399_999, Some("2100-02-28T23:59:59.999Z")),
            (4_107_542_400_000, Some("2100-03-01T00:00:00.000Z")),
            (253_402_300_799_999, Some("9999-12-31T23:59:59.999Z")),
            (253_402_300_800_000, None),
            (i64::MIN, None),
            (i64::MAX, None),
        ] {
            assert_eq!(rfc3339(ms).as_deref(), text, "{ms}");
        }
    }

    #[test]
    fn json_by_its_content_type() {
        assert!(is_json("application/json; charset=utf-8") && is_json("Application/Vnd.X+JSON"));
        assert!(!is_json("text/plain") && !is_json("application/x-ndjson"));
    }
}
