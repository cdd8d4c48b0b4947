//! `/publish`: messages from operators, one or many. A request is answered when its events are durable; of many, all
//! are looked at before the first is published. A request with an Idempotency-Key is published once, however often it
//! comes.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use muster_broker::{Accepted, BrokerError, PublishRequest};
use muster_core::event::EventId;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

mod keyed;
mod message;

use super::App;
use super::reply::ErrorBody;
use super::{audit, limits};
use crate::access::Caller;
use crate::error::chain;
use keyed::{Found, Keyed, Shape};
pub(super) use message::{Encoding, Message, request};

/// Most messages of one request.
const MESSAGES_MAX: usize = 10_000;
/// Nobody subscribes to the topic.
const NO_MATCHING_SUBSCRIBERS: u8 = 16;
/// Unspecified error.
const UNSPECIFIED: u8 = 131;

/// The paths of it. Many messages may be larger than other bodies.
pub(super) fn router(bulk_bytes_max: usize) -> OpenApiRouter<App> {
    let bulk = OpenApiRouter::new().routes(routes!(publish_bulk));
    let bulk = bulk.layer(limits::body(bulk_bytes_max));
    OpenApiRouter::new().routes(routes!(publish)).merge(bulk)
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Outcome {
    /// It is in the log, and somebody subscribes to its topic.
    Published {
        /// Its identity in the log, 32 hexadecimal digits.
        id: String,
    },
    /// What happened instead.
    Other(Refusal),
}

/// Why a message did not reach anybody, in MQTT's codes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Refusal {
    /// 16: nobody subscribes, rules have it all the same. 131: unspecified. 144: the topic. 151: the size.
    pub(super) reason_code: u8,
    /// The same in words.
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(reason_code: u8, message: impl Into<String>) -> Self {
        Self { reason_code, message: message.into() }
    }
}

/// Publish a message.
///
/// The message is an event like any other: rules see it. The answer comes when it is durable.
#[utoipa::path(
    post, path = "/publish", tag = "Publish", operation_id = "publish", request_body = Message,
    params(("Idempotency-Key" = Option<String>, Header, description = "Published once, however often it is sent",
        min_length = 1, max_length = 255)),
    responses(
        (status = 200, description = "Published, and somebody subscribes to the topic", body = Outcome),
        (status = 202, description = "Published; nobody subscribes to the topic", body = Outcome),
        (status = 400, description = "The message cannot be published, or the body is not one", body = Problem),
        (status = 409, description = "A request with this Idempotency-Key is under way", body = ErrorBody),
        (status = 422, description = "The Idempotency-Key was another request's", body = ErrorBody),
        (status = 503, description = "The log takes nothing", body = Problem),
    )
)]
async fn publish(State(app): State<App>, caller: Caller, asked: Keyed<Message>) -> Response {
    match message::request(asked.value, app.broker.packet_bytes_max()) {
        Ok(request) => keyed::publish(&app, &caller, asked.key, vec![request], Shape::One).await,
        Err(refusal) => (StatusCode::BAD_REQUEST, Json(refusal)).into_response(),
    }
}

/// Publish many messages.
///
/// All are looked at first: if one cannot be published, none is. They are published in their order, and the answer
/// comes when all are durable.
#[utoipa::path(
    post, path = "/publish/bulk", tag = "Publish", operation_id = "publish_bulk", request_body = Vec<Message>,
    params(("Idempotency-Key" = Option<String>, Header, description = "Published once, however often it is sent",
        min_length = 1, max_length = 255)),
    responses(
        (status = 200, description = "All are published, and each has a subscriber", body = Vec<Outcome>),
        (status = 202, description = "All are published; to some topic nobody subscribes", body = Vec<Outcome>),
        (status = 400, description = "A message cannot be published, or the body is no list", body = Problem),
        (status = 409, description = "A request with this Idempotency-Key is under way", body = ErrorBody),
        (status = 422, description = "The Idempotency-Key was another request's", body = ErrorBody),
        (status = 503, description = "The log took some of them or none", body = Problem),
    )
)]
async fn publish_bulk(State(app): State<App>, caller: Caller, asked: Keyed<Vec<Message>>) -> Response {
    let Keyed { value: messages, key } = asked;
    if messages.len() > MESSAGES_MAX {
        let refusal = Refusal::new(UNSPECIFIED, format!("at most {MESSAGES_MAX} messages in a request"));
        return (StatusCode::BAD_REQUEST, Json(refusal)).into_response();
    }
    let bytes_max = app.broker.packet_bytes_max();
    let requests: Result<Vec<_>, _> =
        messages.into_iter().map(|message| message::request(message, bytes_max)).collect();
    match requests {
        Ok(requests) => keyed::publish(&app, &caller, key, requests, Shape::Many).await,
        Err(refusal) => (StatusCode::BAD_REQUEST, Json(refusal)).into_response(),
    }
}

/// The body of a refused request: MQTT's code where the message is wrong, a word where the request is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes answers that are made in two places")]
enum Problem {
    /// One message is refused.
    Message(Refusal),
    /// Each message with what became of it.
    Messages(Vec<Outcome>),
    /// The request is refused.
    Request(ErrorBody),
}

/// Publishes in order, waits once for the disk, and says what became of each.
pub(super) async fn publish_all(
    app: &App,
    caller: &Caller,
    requests: Vec<PublishRequest>,
) -> (StatusCode, Vec<Outcome>) {
    publish_rest(app, caller, requests, &Found::new()).await
}

/// The same of a request that was begun earlier: what was `found` in the log is not published again.
async fn publish_rest(
    app: &App,
    caller: &Caller,
    requests: Vec<PublishRequest>,
    found: &Found,
) -> (StatusCode, Vec<Outcome>) {
    let first_topic = requests.first().map(|request| request.topic.clone());
    let count = requests.len();
    let mut accepted = Vec::with_capacity(count);
    for (index, request) in (0..).zip(requests) {
        accepted.push(match found.get(&index) {
            Some(offset) => Ok(Accepted {
                offset: *offset,
                id: EventId::new(app.journal.log_id(), *offset),
                has_subscribers: app.broker.has_subscribers(&request.topic),
            }),
            None => app.broker.submit(request).await,
        });
    }
    let last = accepted.iter().filter_map(|it| it.as_ref().ok()).map(|it| it.offset).max();
    let durable = match last {
        Some(offset) => app.journal.durable(offset).await,
        None => Ok(()),
    };
    let durable = durable.map_err(|error| {
        tracing::warn!(%error, "messages from an operator are not durable");
    });
    let outcomes: Vec<_> = accepted.into_iter().map(|it| outcome(it, durable.is_ok())).collect();
    if let Some(topic) = first_topic {
        let published = outcomes.iter().filter(|(status, _)| status.is_success()).count();
        let details = json!({"messages": count, "published": published});
        audit::write(app, caller, "messages.publish", &topic, details).await;
    }
    let worst = outcomes.iter().map(|(status, _)| *status).max().unwrap_or(StatusCode::OK);
    (worst, outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

fn outcome(accepted: Result<Accepted, BrokerError>, durable: bool) -> (StatusCode, Outcome) {
    let failed = || Outcome::Other(Refusal::new(UNSPECIFIED, "failed_to_dispatch"));
    match accepted {
        Ok(_) if !durable => (StatusCode::SERVICE_UNAVAILABLE, failed()),
        Ok(it) if it.has_subscribers => (StatusCode::OK, Outcome::Published { id: it.id.to_string() }),
        Ok(_) => {
            let nobody = Refusal::new(NO_MATCHING_SUBSCRIBERS, "no_matching_subscribers");
            (StatusCode::ACCEPTED, Outcome::Other(nobody))
        }
        Err(error) => {
            tracing::warn!(error = %chain(&error), "a message from an operator was not published");
            (StatusCode::SERVICE_UNAVAILABLE, failed())
        }
    }
}
