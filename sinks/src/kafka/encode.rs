//! Rows as Kafka's records: topic, key, value and headers. Pure.

use std::borrow::Cow;

use muster_core::value::Row;
use rdkafka::message::{Header, OwnedHeaders};

use crate::cloudevents::{self, Attributes};
use crate::sink::{Batch, BatchRow};
use crate::template::Template;

/// Kafka's limit on a topic's name.
const TOPIC_BYTES_MAX: usize = 249;
/// Headers of our own, and the content type.
const OWN_HEADERS: usize = 6;
/// Attributes of a CloudEvent.
const ATTRIBUTES: usize = 7;

/// The content type of a text that an operator's template makes.
const TEXT: &str = "text/plain; charset=utf-8";

/// What a record's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    CloudEventsStructured,
    CloudEventsBinary,
}

/// How rows become records.
#[derive(Debug)]
pub(super) struct Encoder {
    pub(super) topic: Template,
    /// The client's id where none is given.
    pub(super) key: Option<Template>,
    /// The row as JSON where none is given.
    pub(super) value: Option<Template>,
    pub(super) format: Format,
}

/// A record without its topic.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) key: Option<Cow<'a, [u8]>>,
    pub(super) value: Cow<'a, [u8]>,
    pub(super) headers: OwnedHeaders,
}

impl Encoder {
    /// The topic of `row`; why it has none, for its dead letter.
    pub(super) fn topic(&self, row: &Row) -> Result<Cow<'_, str>, String> {
        if let Some(topic) = self.topic.constant() {
            return Ok(topic.into());
        }
        let topic = self.topic.render(row).map_err(|what| format!("the topic {what}"))?;
        let named = |what| format!("the topic `{}` {what}", String::from_utf8_lossy(&topic));
        match topic_error(&topic) {
            Some(what) => Err(named(what)),
            None => String::from_utf8(topic).map(Cow::Owned).map_err(|_| "the topic is no text".to_owned()),
        }
    }

    /// The record of `row`; why it has none, for its dead letter.
    pub(super) fn record<'a>(&self, batch: &Batch, row: &'a BatchRow) -> Result<Record<'a>, String> {
        let key = match &self.key {
            Some(key) => Some(Cow::Owned(key.render(&row.row).map_err(|what| format!("the key {what}"))?)),
            None => Some(Cow::Borrowed(row.clientid().as_bytes())),
        };
        // A record without a key goes to any partition; one with an empty key would go to the same as all others.
        let key = key.filter(|key| !key.is_empty());
        let (value, content_type) = match &self.value {
            Some(value) => {
                let value = value.render(&row.row).map_err(|what| format!("the value {what}"))?;
                (Cow::Owned(value), TEXT)
            }
            None => (Cow::Borrowed(row.row.json().as_bytes()), cloudevents::JSON),
        };
        if self.format == Format::Json {
            return Ok(Record { key, value, headers: headers(batch, row, content_type, 0) });
        }
        let (id, source) = (cloudevents::id(row), cloudevents::source(&batch.pipeline.rule));
        let event = Attributes {
            id: &id,
            source: &source,
            kind: &cloudevents::kind(row),
            subject: row.clientid(),
            time_ms: row.event.timestamp_ms,
            content_type,
        };
        if self.format == Format::CloudEventsBinary {
            let mut headers = headers(batch, row, content_type, ATTRIBUTES);
            for (name, value) in event.pairs() {
                headers = headers.insert(Header { key: &format!("ce_{name}"), value: Some(&value) });
            }
            return Ok(Record { key, value, headers });
        }
        let value = Cow::Owned(event.structured(&value).into_bytes());
        Ok(Record { key, value, headers: headers(batch, row, cloudevents::STRUCTURED, 0) })
    }
}

/// What every record says of the row in it: the same on every attempt and on every replay.
fn headers(batch: &Batch, row: &BatchRow, content_type: &str, more: usize) -> OwnedHeaders {
    let id = row.event_id().to_string();
    let (offset, index) = (row.offset().to_string(), row.index.to_string());
    OwnedHeaders::new_with_capacity(OWN_HEADERS + more)
        .insert(Header { key: "muster-event-id", value: Some(&id) })
        .insert(Header { key: "muster-offset", value: Some(&offset) })
        .insert(Header { key: "muster-event", value: Some(row.event.kind.name()) })
        .insert(Header { key: "muster-rule", value: Some(&batch.pipeline.rule) })
        .insert(Header { key: "muster-row", value: Some(&index) })
        .insert(Header { key: "content-type", value: Some(content_type) })
}

/// What is wrong with a topic's name; nothing where Kafka takes it.
pub(super) fn topic_error(name: &[u8]) -> Option<String> {
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name == b"." || name == b".." {
        return Some("is no name that Kafka takes".to_owned());
    }
    if name.len() > TOPIC_BYTES_MAX {
        return Some(format!("has {} bytes; Kafka takes {TOPIC_BYTES_MAX}", name.len()));
    }
    let bad = name.iter().position(|byte| !good(byte))?;
    let bad = String::from_utf8_lossy(&name[bad..]).chars().next().unwrap_or_default();
    Some(format!("has a `{bad}`; Kafka takes letters, digits, `.`, `_` and `-`"))
}
