//! Requests with an `Idempotency-Key`: the first one publishes, each further one gets its answer. After a crash in the
//! middle the log says which messages were written, since each carries the key's hash and its index; the next request
//! with the key publishes the others. It must never know what a message says.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts as _, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use muster_broker::PublishRequest;
use muster_core::event::{Event, EventKind, EventKinds, proto};
use muster_core::log::LogError;
use serde::de::DeserializeOwned;

use super::{App, Outcome, publish_rest};
use crate::access::{Answer, Begun, Caller, Means, RequestKey, Search, UnderWay, hash};
use crate::error::chain;
use crate::rest::reply::{ApiError, json_bytes, parsed};

/// The header that the key stands in.
const HEADER: &str = "idempotency-key";
/// Says of an answer that it is an earlier one.
const REPLAYED: &str = "idempotent-replayed";
/// Longest key.
const KEY_BYTES_MAX: usize = 255;

/// Indexes of messages that are in the log, and where.
pub(super) type Found = HashMap<u32, u64>;

/// A request's body, and whether it may come again.
pub(super) struct Keyed<T> {
    pub(super) value: T,
    pub(super) key: Option<Key>,
}

/// A key, and what it was sent with.
pub(super) struct Key {
    key: RequestKey,
    request: [u8; 32],
}

/// How outcomes are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// The outcome of the one message.
    One,
    /// A list.
    Many,
}

impl<T: DeserializeOwned> FromRequest<App> for Keyed<T> {
    type Rejection = Response;

    async fn from_request(request: Request, app: &App) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let written = key_of(&parts.headers).map_err(IntoResponse::into_response)?;
        let caller =
            Caller::from_request_parts(&mut parts, app).await.map_err(IntoResponse::into_response)?;
        let means = Means::from_request_parts(&mut parts, app).await.map_err(IntoResponse::into_response)?;
        let path = parts.uri.path().to_owned();
        let bytes = json_bytes(Request::from_parts(parts, body), app).await;
        let bytes = bytes.map_err(IntoResponse::into_response)?;
        let value = parsed(&bytes).map_err(IntoResponse::into_response)?;
        let key = written.map(|written| Key {
            key: RequestKey::new(means, &caller.name, &written),
            request: hash(&[path.as_bytes(), &bytes]),
        });
        Ok(Self { value, key })
    }
}

/// The key that a request has, if it has one.
fn key_of(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut all = headers.get_all(HEADER).iter();
    let Some(value) = all.next() else { return Ok(None) };
    let is_good = |text: &&str| {
        (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let text = value.to_str().ok().filter(is_good);
    match (text, all.next()) {
        (Some(text), None) => Ok(Some(text.to_owned())),
        _ => Err(ApiError::bad_request(format!(
            "Idempotency-Key: one of 1 to {KEY_BYTES_MAX} visible ASCII characters is wanted"
        ))),
    }
}

/// Publishes messages that can be published, or answers what was answered.
pub(super) async fn publish(
    app: &App,
    caller: &Caller,
    key: Option<Key>,
    mut requests: Vec<PublishRequest>,
    shape: Shape,
) -> Response {
    let Some(Key { key, request }) = key else {
        let (status, outcomes) = publish_rest(app, caller, requests, &Found::new()).await;
        return answer(status, outcomes, shape)
            .map_or_else(IntoResponse::into_response, |it| sent(it, false));
    };
    let under_way = match app.access.requests.begin(key, request).await {
        Ok(Begun::Do(under_way)) => under_way,
        Ok(Begun::Again(answer)) => return sent(answer, true),
        Ok(Begun::UnderWay) => {
            let message = "a request with this Idempotency-Key is under way; come again";
            return ApiError::new(StatusCode::CONFLICT, "CONFLICT", message).into_response();
        }
        Ok(Begun::Other) => {
            let message = "this Idempotency-Key was given to another request";
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            return ApiError::new(status, "IDEMPOTENCY_KEY_REUSED", message).into_response();
        }
        Err(error) => return unavailable("a request with a key could not be stored", &error).into_response(),
    };
    for (index, request) in (0..).zip(&mut requests) {
        let key_sha256 = key.bytes().to_vec().into();
        request.request = Some(proto::Request { key_sha256, index });
    }
    match publish_once(app, caller, under_way, &key, requests, shape).await {
        Ok(answer) => sent(answer, false),
        Err(error) => error.into_response(),
    }
}

async fn publish_once(
    app: &App,
    caller: &Caller,
    under_way: UnderWay,
    key: &RequestKey,
    requests: Vec<PublishRequest>,
    shape: Shape,
) -> Result<Answer, ApiError> {
    let search = under_way.search();
    if search.from < search.until.min(app.journal.first_offset()) {
        let message = "what the request with this Idempotency-Key has published is not in the log any more";
        return Err(ApiError::new(StatusCode::CONFLICT, "CONFLICT", message));
    }
    let found = find(app, key, search, &requests).await;
    let found = found.map_err(|error| unavailable("the log cannot be searched for a request", &error))?;
    if !found.is_empty() {
        tracing::info!(messages = found.len(), "of a request that came again were published already");
    }
    let (status, outcomes) = publish_rest(app, caller, requests, &found).await;
    let answer = answer(status, outcomes, shape)?;
    // What the log did not take is what the same request can still do.
    if status.is_success() {
        under_way.answer(&answer).await;
    }
    Ok(answer)
}

/// Which messages of the request are in the log.
async fn find(
    app: &App,
    key: &RequestKey,
    search: Search,
    requests: &[PublishRequest],
) -> Result<Found, LogError> {
    let mut found = Found::new();
    let Some(last) = search.until.checked_sub(1).filter(|last| *last >= search.from) else {
        return Ok(found);
    };
    app.journal.durable(last).await?;
    let topics: HashSet<String> = requests.iter().map(|it| it.topic.clone()).collect();
    let selection = Arc::new(move |_: EventKind, topic: &str| topics.contains(topic));
    let reader = app.journal.reader(search.from);
    let mut reader =
        reader.with_kinds(EventKinds::NONE.with(EventKind::MessagePublish)).with_selection(selection);
    while reader.position() < search.until {
        for event in reader.next_batch().await?.events() {
            if let Some(index) = index_of(event, key) {
                found.entry(index).or_insert(event.offset);
            }
        }
    }
    Ok(found)
}

/// Which message of the request it is, if it is one.
fn index_of(event: &Event, key: &RequestKey) -> Option<u32> {
    let request = event.body.message.as_ref()?.request.as_ref()?;
    (request.key_sha256 == key.bytes()[..]).then_some(request.index)
}

fn answer(status: StatusCode, outcomes: Vec<Outcome>, shape: Shape) -> Result<Answer, ApiError> {
    let body = match shape {
        Shape::One => serde_json::to_string(&outcomes.first()),
        Shape::Many => serde_json::to_string(&outcomes),
    };
    let body = body.map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(Answer { status: status.as_u16(), body })
}

fn sent(answer: Answer, is_replayed: bool) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let mut response = (status, json, answer.body).into_response();
    if is_replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

fn unavailable(what: &str, error: &(dyn std::error::Error + 'static)) -> ApiError {
    tracing::warn!(error = %chain(error), "{what}");
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_short_and_visible() {
        let of = |values: &[&[u8]]| {
            let values = values.iter().map(|it| HeaderValue::from_bytes(it).expect("a header"));
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HEADER, value);
            }
            key_of(&headers)
        };
        assert_eq!(of(&[]), Ok(None));
        let longest = "k".repeat(KEY_BYTES_MAX);
        for good in ["x", "8e03978e-40d5-43e8-bc93-6894a57f9324", "\"quoted\"", &longest] {
            assert_eq!(of(&[good.as_bytes()]), Ok(Some(good.to_owned())));
        }
        let too_long = "k".repeat(KEY_BYTES_MAX + 1);
        for bad in [&b""[..], b"a b", b"a\tb", "ä".as_bytes(), too_long.as_bytes()] {
            assert!(of(&[bad]).is_err(), "{bad:?}");
        }
        assert!(of(&[b"a", b"a"]).is_err(), "two of them");
    }
}
