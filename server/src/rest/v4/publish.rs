//! `/mqtt/publish` and `/mqtt/publish_batch`: messages from operators. A message may have many topics, in `topics` with
//! commas between them; what is wrong with a message of a batch is said of that message alone.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, App, Code, Refusal};
use crate::access::Caller;
use crate::rest::publish::{self, Encoding, Message, Outcome};
use crate::rest::reply::{BodyRefused, Refused, Typed};

/// Most messages of one request.
const MESSAGES_MAX: usize = 10_000;
/// Nobody subscribes: here that is no reason to complain.
const NO_MATCHING_SUBSCRIBERS: u8 = 16;

/// The paths of it.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(publish)).routes(routes!(publish_batch))
}

/// A message to publish.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = V4Message)]
struct Asked {
    /// Where to. This or `topics`.
    topic: Option<String>,
    /// Where to: several, with commas between them.
    topics: Option<String>,
    /// In whose name.
    clientid: Option<String>,
    /// What.
    #[serde(default)]
    payload: String,
    /// How the payload is written.
    #[serde(default)]
    encoding: Encoding,
    /// At most, at least or exactly once.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 2)]
    qos: u8,
    /// Whether it is kept for later subscribers.
    #[serde(default)]
    retain: bool,
}

/// Publish a message to one or more topics.
#[utoipa::path(
    post, path = "/mqtt/publish", tag = "Older dialect", operation_id = "v4_publish", request_body = Asked,
    responses((status = 200, description = "Code 0: published", body = Answer), Refused, BodyRefused)
)]
async fn publish(State(app): State<App>, caller: Caller, Typed(asked): Typed<Asked>) -> Response {
    match one(&app, &caller, asked).await {
        Ok(()) => super::done(),
        Err(refusal) => refusal.into_response(),
    }
}

/// Publish many messages.
#[utoipa::path(
    post, path = "/mqtt/publish_batch", tag = "Older dialect", operation_id = "v4_publish_batch",
    request_body = Vec<Asked>,
    responses((status = 200, description = "Code 0: each message has its own code", body = Answer), Refused, BodyRefused)
)]
async fn publish_batch(State(app): State<App>, caller: Caller, Typed(asked): Typed<Vec<Asked>>) -> Response {
    if asked.len() > MESSAGES_MAX {
        let why = format!("at most {MESSAGES_MAX} messages in a request");
        return Refusal(Code::BadParameter, why).into_response();
    }
    let mut data = Vec::with_capacity(asked.len());
    for message in asked {
        let topic = message.topic.clone().or_else(|| message.topics.clone()).unwrap_or_default();
        let mut told = json!({"topic": topic, "code": 0});
        if let Err(Refusal(code, why)) = one(&app, &caller, message).await {
            told = json!({"topic": topic, "code": code as u16, "message": why});
        }
        data.push(told);
    }
    super::ok(Value::Array(data))
}

async fn one(app: &App, caller: &Caller, asked: Asked) -> Result<(), Refusal> {
    let Asked { topic, topics, clientid, payload, encoding, qos, retain } = asked;
    let topics: Vec<_> = match (topic, topics) {
        (Some(topic), None) => vec![topic],
        (None, Some(topics)) => topics.split(',').map(|topic| topic.trim().to_owned()).collect(),
        _ => return Err(Refusal(Code::MissingParameter, "one of topic and topics".to_owned())),
    };
    let of = |topic| Message {
        topic,
        payload: payload.clone(),
        payload_encoding: encoding,
        qos,
        retain,
        clientid: clientid.clone(),
        properties: None,
    };
    let bytes_max = app.broker.packet_bytes_max();
    let requests: Result<Vec<_>, _> =
        topics.into_iter().map(|topic| publish::request(of(topic), bytes_max)).collect();
    let requests = requests.map_err(|refusal| Refusal(Code::BadParameter, refusal.message))?;
    let (_, outcomes) = publish::publish_all(app, caller, requests).await;
    let refused = outcomes.into_iter().find_map(|outcome| match outcome {
        Outcome::Other(refusal) if refusal.reason_code != NO_MATCHING_SUBSCRIBERS => Some(refusal.message),
        _ => None,
    });
    refused.map_or(Ok(()), |why| Err(Refusal(Code::Unknown, why)))
}
