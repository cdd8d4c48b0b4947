//! A row or a batch as one request: its id, its body, its headers and its address. Ids and signatures are those of
//! Standard Webhooks (<https://www.standardwebhooks.com>). Pure: it must never know a connection.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use ring::hmac;

use super::shape::{Format, Shape};
use super::template::{Lands, Scope};
use crate::cloudevents::{self, Attributes, is_json};
use crate::error::{ErrorKind, SinkError};
use crate::sink::{Batch, BatchRow};

/// One request.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) id: String,
    pub(super) body: Vec<u8>,
    pub(super) content_type: HeaderValue,
    /// Headers that are made of the row.
    pub(super) headers: HeaderMap,
    /// The address, where it is made of the row.
    pub(super) url: Option<Url>,
}

/// One row: its id is made of the event, the rule and the row's place, so it is the same on every attempt.
pub(super) fn row(shape: &Shape, rule: &str, row: &BatchRow) -> Result<Message, SinkError> {
    let event_id = row.event_id().to_string();
    let scope = Scope { row: &row.row, event_id: &event_id, rule };
    let data = data(shape, scope, row);
    let mut headers = HeaderMap::new();
    let (body, content_type) = match shape.format {
        Format::Json | Format::CloudEventsBatch => (data, shape.content_type.clone()),
        Format::CloudEventsStructured => {
            let json = with_attributes(shape, scope, row, |event| event.structured(&data))?;
            (json.into_bytes(), HeaderValue::from_static(cloudevents::STRUCTURED))
        }
        Format::CloudEventsBinary => {
            let attributes = with_attributes(shape, scope, row, |event| event.headers().collect::<Vec<_>>())?;
            for (name, value) in attributes {
                headers.insert(header_name(&name)?, header_value(&name, value.as_bytes())?);
            }
            (data, shape.content_type.clone())
        }
    };
    for (name, template) in &shape.row_headers {
        let mut value = Vec::new();
        template.render(scope, Lands::Text, &mut value);
        // An empty header says no more than none.
        if !value.is_empty() {
            headers.insert(name.clone(), header_value(name.as_str(), &value)?);
        }
    }
    let id = format!("msg_{event_id}_{}_{}", row.index, token(rule));
    Ok(Message { id, body, content_type, headers, url: shape.address.of_row(scope)? })
}

/// A batch in one body. None where it has no row.
pub(super) fn batch(shape: &Shape, batch: &Batch) -> Option<Result<Message, SinkError>> {
    let crate::sink::BatchId { first, last, rows } = batch.id()?;
    let rule = token(&batch.pipeline.rule);
    let id = format!("batch_{}_{}_{}_{}_{rows}_{rule}", first.0, first.1, last.0, last.1);
    let body_and_type = bodies(shape, batch);
    let message =
        |(body, content_type)| Message { id, body, content_type, headers: HeaderMap::new(), url: None };
    Some(body_and_type.map(message))
}

/// The rows as a JSON array where each is JSON, else one a line.
fn bodies(shape: &Shape, batch: &Batch) -> Result<(Vec<u8>, HeaderValue), SinkError> {
    let (array, content_type) = match shape.format {
        Format::CloudEventsBatch => (true, HeaderValue::from_static(cloudevents::BATCH)),
        _ => (is_json(shape.content_type_text()), shape.content_type.clone()),
    };
    let mut body = if array { vec![b'['] } else { Vec::new() };
    for (at, row) in batch.rows().enumerate() {
        if at > 0 {
            body.push(if array { b',' } else { b'\n' });
        }
        let event_id = row.event_id().to_string();
        let scope = Scope { row: &row.row, event_id: &event_id, rule: &batch.pipeline.rule };
        let data = data(shape, scope, row);
        if shape.format == Format::CloudEventsBatch {
            body.extend(with_attributes(shape, scope, row, |event| event.structured(&data))?.into_bytes());
        } else {
            body.extend(data);
        }
    }
    body.push(if array { b']' } else { b'\n' });
    Ok((body, content_type))
}

/// What the row itself becomes: JSON as it is, or what the template makes of it.
fn data(shape: &Shape, scope: Scope<'_>, row: &BatchRow) -> Vec<u8> {
    let Some(template) = &shape.body else { return row.row.json().as_bytes().to_vec() };
    let mut data = Vec::new();
    template.render(scope, shape.lands(), &mut data);
    data
}

/// Calls `write` with the attributes of a row as a CloudEvent.
fn with_attributes<T>(
    shape: &Shape,
    scope: Scope<'_>,
    row: &BatchRow,
    write: impl FnOnce(Attributes<'_>) -> T,
) -> Result<T, SinkError> {
    let mut source = Vec::new();
    match &shape.ce_source {
        Some(template) => template.render(scope, Lands::Address, &mut source),
        None => source.extend_from_slice(cloudevents::source(scope.rule).as_bytes()),
    }
    let mut kind = Vec::new();
    match &shape.ce_type {
        Some(template) => template.render(scope, Lands::Text, &mut kind),
        None => kind.extend_from_slice(cloudevents::kind(row).as_bytes()),
    }
    for (what, value) in [("ce_source", &source), ("ce_type", &kind)] {
        if value.is_empty() {
            return Err(rejected(format!("`{what}` comes out empty, and a CloudEvent must have it")));
        }
    }
    Ok(write(Attributes {
        id: &cloudevents::id(row),
        source: &String::from_utf8_lossy(&source),
        kind: &String::from_utf8_lossy(&kind),
        subject: row.clientid(),
        time_ms: row.event.timestamp_ms,
        content_type: shape.content_type_text(),
    }))
}

fn header_name(name: &str) -> Result<HeaderName, SinkError> {
    name.parse().map_err(|_| rejected(format!("`{name}` is no name of a header")))
}

fn header_value(name: &str, value: &[u8]) -> Result<HeaderValue, SinkError> {
    let value = HeaderValue::from_bytes(value);
    let mut value =
        value.map_err(|_| rejected(format!("the header `{name}` cannot hold what the row has for it")))?;
    value.set_sensitive(true);
    Ok(value)
}

/// What is wrong with a row, without what the row holds.
pub(super) fn rejected(why: String) -> SinkError {
    SinkError::new(ErrorKind::RejectedRow, why)
}

/// The value of `webhook-signature`: one signature a key, so that a receiver may know either while they change.
pub(super) fn signatures(keys: &[hmac::Key], message: &Message, timestamp_s: i64) -> String {
    let sign = |key: &hmac::Key| {
        let mut signed = hmac::Context::with_key(key);
        signed.update(format!("{}.{timestamp_s}.", message.id).as_bytes());
        signed.update(&message.body);
        format!("v1,{}", STANDARD.encode(signed.sign()))
    };
    keys.iter().map(sign).collect::<Vec<_>>().join(" ")
}

/// A rule's name as a part of an id: the point separates the parts of what is signed, so it may not occur.
pub(super) fn token(name: &str) -> String {
    use std::fmt::Write as _;
    let mut token = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => token.push(char::from(byte)),
            _ => drop(write!(token, "~{byte:02x}")),
        }
    }
    token
}
