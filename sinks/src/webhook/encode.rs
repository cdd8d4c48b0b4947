//! Bodies, ids and signatures, as Standard Webhooks has them (<https://www.standardwebhooks.com>).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use crate::sink::{Batch, BatchRow};

/// The body and id of one request.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) id: String,
    pub(super) body: String,
}

/// One row: its id is made of the event, the rule and the row's place, so it is the same on every attempt.
pub(super) fn row(rule: &str, row: &BatchRow) -> Message {
    let id = format!("msg_{}_{}_{}", row.event_id(), row.index, token(rule));
    Message { id, body: row.row.json().to_owned() }
}

/// A batch, as an array. None where it has no row.
pub(super) fn batch(batch: &Batch) -> Option<Message> {
    let id = batch.id()?;
    let crate::sink::BatchId { first, last, rows } = id;
    let rule = token(&batch.pipeline.rule);
    let id = format!("batch_{}_{}_{}_{}_{rows}_{rule}", first.0, first.1, last.0, last.1);
    let rows: Vec<&str> = batch.rows().map(|row| row.row.json()).collect();
    Some(Message { id, body: format!("[{}]", rows.join(",")) })
}

/// The value of `webhook-signature`.
pub(super) fn signature(key: &hmac::Key, message: &Message, timestamp_s: i64) -> String {
    let signed = format!("{}.{timestamp_s}.{}", message.id, message.body);
    format!("v1,{}", STANDARD.encode(hmac::sign(key, signed.as_bytes())))
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
