//! `GET /api/v1/devices/{clientid}/messages`: what a device published, read out of the log. The log has no index by
//! client, so that a request looks at a bounded part of it and says where the next one goes on.

use axum::Json;
use axum::extract::{Query, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_core::event::{Event, EventKind, EventKinds};
use muster_core::journal::Journal;
use muster_core::log::LogError;
use muster_core::topic;
use serde_json::{Value, json};

use super::super::App;
use super::super::reply::{ApiError, ErrorBody, Page, Params, Path, Refused, rfc3339};

/// Offsets of the log that one request looks at.
const SCAN_OFFSETS_MAX: u64 = 500_000;
/// Payload bytes in one answer; the first message comes whatever it weighs.
const PAYLOAD_BYTES_MAX: usize = 4 << 20;

/// What a device published.
#[derive(utoipa::ToSchema)]
#[schema(as = DeviceMessages)]
#[expect(dead_code, reason = "describes what is written as JSON")]
pub(super) struct Described {
    /// The oldest first.
    data: Vec<Message>,
    meta: Meta,
}

/// A message out of the log.
#[derive(utoipa::ToSchema)]
#[schema(as = DeviceMessage)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct Message {
    /// Of its event.
    offset: u64,
    /// The message's id.
    id: String,
    #[schema(format = DateTime)]
    at: String,
    topic: String,
    qos: u32,
    retain: bool,
    /// The payload as it is, or in base64.
    payload: String,
    /// `plain`, or `base64` where the payload is no UTF-8.
    payload_encoding: String,
}

/// How far the log was read.
#[derive(utoipa::ToSchema)]
#[schema(as = DeviceMessagesMeta)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct Meta {
    limit: u64,
    /// Whether there may be more behind `cursor`.
    hasnext: bool,
    /// The offset up to which the log was read; for `cursor` of the next request.
    cursor: u64,
}

/// What is wanted of the log.
struct Asked {
    clientid: String,
    filter: Option<String>,
    from: Option<u64>,
    from_ms: Option<i64>,
    to_ms: Option<i64>,
    limit: usize,
}

/// What was found of it.
struct Found {
    messages: Vec<Value>,
    position: u64,
    has_next: bool,
}

/// What a device published, out of the event log, the oldest first.
#[utoipa::path(
    get,
    path = "/devices/{clientid}/messages",
    tag = "Devices",
    operation_id = "devices_messages",
    params(
        ("clientid" = String, Path, description = "The client id"),
        ("topic" = Option<String>, Query, description = "A topic filter, e.g. `sensors/+/up`"),
        ("from" = Option<String>, Query, description = "Nothing before this time: RFC 3339 or milliseconds"),
        ("to" = Option<String>, Query, description = "Nothing from this time on: RFC 3339 or milliseconds"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 10_000, description = "Messages; 100 if not given"),
        ("cursor" = Option<u64>, Query, description = "`meta.cursor` of the answer before, instead of `from`"),
    ),
    responses(
        (status = 200, description = "Messages, and how far the log was read for them", body = Described),
        (status = 400, description = "A parameter cannot be used", body = ErrorBody),
        (status = 500, description = "The log cannot be read", body = ErrorBody),
        Refused,
    ),
)]
pub(super) async fn messages(
    State(app): State<App>,
    Path(clientid): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let params = Params::new(query);
    let limit = Page::from_params(&params)?.limit;
    let filter = params.one("topic").map(str::to_owned);
    if let Some(error) = filter.as_deref().and_then(|filter| topic::validate_filter(filter).err()) {
        return Err(ApiError::invalid_parameter(format!("topic: {error}")));
    }
    let asked = Asked {
        clientid,
        filter,
        from: params.place("cursor")?,
        from_ms: params.time("from")?,
        to_ms: params.time("to")?,
        limit: usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let journal = app.journal.clone();
    let found = match tokio::task::spawn_blocking(move || scan(&journal, &asked)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::warn!(error = %crate::error::chain(&error), "messages cannot be read");
            return Err(ApiError::internal("the event log cannot be read; see the log"));
        }
        Err(_) => return Err(ApiError::internal("the request was interrupted")),
    };
    let meta = json!({"limit": limit, "hasnext": found.has_next, "cursor": found.position});
    Ok(Json(json!({"data": found.messages, "meta": meta})))
}

fn scan(journal: &Journal, asked: &Asked) -> Result<Found, LogError> {
    let at_time = || asked.from_ms.map_or(Ok(0), |ms| journal.offset_at_time(ms));
    let from = asked.from.map_or_else(at_time, Ok)?;
    let from = from.clamp(journal.first_offset(), journal.durable_offset());
    let end = journal.durable_offset().min(from.saturating_add(SCAN_OFFSETS_MAX));
    let mut reader = journal.reader(from).with_kinds(EventKinds::NONE.with(EventKind::MessagePublish));
    let (mut messages, mut payload_bytes) = (Vec::new(), 0);
    while reader.position() < end {
        let Some(batch) = reader.try_next_batch()? else { break };
        for event in batch.events().iter().filter(|event| event.offset < end && is_asked_for(asked, event)) {
            let bytes = event.body.message.as_ref().map_or(0, |message| message.payload.len());
            let is_full = messages.len() >= asked.limit || payload_bytes + bytes > PAYLOAD_BYTES_MAX;
            if is_full && !messages.is_empty() {
                return Ok(Found { messages, position: event.offset, has_next: true });
            }
            payload_bytes += bytes;
            messages.push(shown(event));
        }
    }
    Ok(Found { messages, position: end, has_next: end < journal.durable_offset() })
}

fn is_asked_for(asked: &Asked, event: &Event) -> bool {
    event.clientid() == asked.clientid
        && asked.from_ms.is_none_or(|from_ms| event.timestamp_ms >= from_ms)
        && asked.to_ms.is_none_or(|to_ms| event.timestamp_ms < to_ms)
        && asked.filter.as_deref().is_none_or(|filter| topic::matches(filter, &event.topic))
}

fn shown(event: &Event) -> Value {
    let message = event.body.message.clone().unwrap_or_default();
    let (payload, encoding) = match std::str::from_utf8(&message.payload) {
        Ok(text) => (text.to_owned(), "plain"),
        Err(_) => (STANDARD.encode(&message.payload), "base64"),
    };
    json!({
        "offset": event.offset,
        "id": event.id.to_string(),
        "at": rfc3339(event.timestamp_ms),
        "topic": event.topic,
        "qos": message.qos,
        "retain": message.retain,
        "payload": payload,
        "payload_encoding": encoding,
    })
}
