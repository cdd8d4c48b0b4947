//! `/publish`: messages from operators, one or many. A request is answered when its events are durable; of many, all
//! are looked at before the first is published.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use muster_broker::{Accepted, BrokerError, PublishRequest};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

mod message;

use super::App;
use super::audit;
use super::reply::Typed;
use crate::access::Caller;
use crate::error::chain;
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
    let bulk = bulk.layer(axum::extract::DefaultBodyLimit::max(bulk_bytes_max));
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
    responses(
        (status = 200, description = "Published, and somebody subscribes to the topic", body = Outcome),
        (status = 202, description = "Published; nobody subscribes to the topic", body = Outcome),
        (status = 400, description = "The message cannot be published, or the body is not one", body = Problem),
        (status = 503, description = "The log takes nothing", body = Problem),
    )
)]
async fn publish(State(app): State<App>, caller: Caller, Typed(message): Typed<Message>) -> Response {
    let request = match message::request(message, app.broker.packet_bytes_max()) {
        Ok(request) => request,
        Err(refusal) => return (StatusCode::BAD_REQUEST, Json(refusal)).into_response(),
    };
    let (status, outcomes) = publish_all(&app, &caller, vec![request]).await;
    match outcomes.into_iter().next() {
        Some(outcome) => (status, Json(outcome)).into_response(),
        None => status.into_response(),
    }
}

/// Publish many messages.
///
/// All are looked at first: if one cannot be published, none is. They are published in their order, and the answer
/// comes when all are durable.
#[utoipa::path(
    post, path = "/publish/bulk", tag = "Publish", operation_id = "publish_bulk", request_body = Vec<Message>,
    responses(
        (status = 200, description = "All are published, and each has a subscriber", body = Vec<Outcome>),
        (status = 202, description = "All are published; to some topic nobody subscribes", body = Vec<Outcome>),
        (status = 400, description = "A message cannot be published, or the body is no list", body = Problem),
        (status = 503, description = "The log took some of them or none", body = Problem),
    )
)]
async fn publish_bulk(
    State(app): State<App>,
    caller: Caller,
    Typed(messages): Typed<Vec<Message>>,
) -> Response {
    if messages.len() > MESSAGES_MAX {
        let refusal = Refusal::new(UNSPECIFIED, format!("at most {MESSAGES_MAX} messages in a request"));
        return (StatusCode::BAD_REQUEST, Json(refusal)).into_response();
    }
    let bytes_max = app.broker.packet_bytes_max();
    let requests: Result<Vec<_>, _> =
        messages.into_iter().map(|message| message::request(message, bytes_max)).collect();
    match requests {
        Ok(requests) => {
            let (status, outcomes) = publish_all(&app, &caller, requests).await;
            (status, Json(outcomes)).into_response()
        }
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
    Request(super::reply::ErrorBody),
}

/// Publishes in order, waits once for the disk, and says what became of each.
pub(super) async fn publish_all(
    app: &App,
    caller: &Caller,
    requests: Vec<PublishRequest>,
) -> (StatusCode, Vec<Outcome>) {
    let first_topic = requests.first().map(|request| request.topic.clone());
    let count = requests.len();
    let mut accepted = Vec::with_capacity(count);
    for request in requests {
        accepted.push(app.broker.submit(request).await);
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
