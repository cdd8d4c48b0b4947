//! `/mqtt/topic_metrics`: counters of single topics. It must never count anything itself.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::audit;
use super::reply::{ApiError, Body, BodyRefused, ErrorBody, Path, Refused, rfc3339};
use crate::access::Caller;
use crate::error::chain;
use crate::statistics::{TOPICS_MAX, TopicError, TopicNumbers};

/// The paths of it.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create, reset, clear)).routes(routes!(one, remove))
}

/// A topic that is counted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TopicMetrics)]
struct Counted {
    /// The topic.
    topic: String,
    /// Since when it is counted, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    create_time: Value,
    /// When counting began anew, RFC 3339.
    #[serde(skip_serializing_if = "Value::is_null")]
    #[schema(value_type = String, format = DateTime, required = false)]
    reset_time: Value,
    /// The numbers.
    metrics: Metrics,
}

/// Publishes to the topic: how many, and how many a second.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TopicNumbers)]
struct Metrics {
    /// Publishes.
    #[serde(rename = "messages.in.count")]
    count: u64,
    /// Publishes a second.
    #[serde(rename = "messages.in.rate")]
    rate: f64,
    /// Publishes with QoS 0.
    #[serde(rename = "messages.qos0.in.count")]
    qos0_count: u64,
    /// Publishes with QoS 0 a second.
    #[serde(rename = "messages.qos0.in.rate")]
    qos0_rate: f64,
    /// Publishes with QoS 1.
    #[serde(rename = "messages.qos1.in.count")]
    qos1_count: u64,
    /// Publishes with QoS 1 a second.
    #[serde(rename = "messages.qos1.in.rate")]
    qos1_rate: f64,
    /// Publishes with QoS 2.
    #[serde(rename = "messages.qos2.in.count")]
    qos2_count: u64,
    /// Publishes with QoS 2 a second.
    #[serde(rename = "messages.qos2.in.rate")]
    qos2_rate: f64,
}

impl From<TopicNumbers> for Counted {
    fn from(it: TopicNumbers) -> Self {
        let [qos0_count, qos1_count, qos2_count] = it.received_by_qos;
        let [qos0_rate, qos1_rate, qos2_rate] = it.rates_by_qos;
        let hundredths = |rate: f64| (rate * 100.0).round() / 100.0;
        Self {
            topic: it.topic,
            create_time: rfc3339(it.watched.created_at_ms),
            reset_time: it.watched.reset_at_ms.map_or(Value::Null, rfc3339),
            metrics: Metrics {
                count: qos0_count + qos1_count + qos2_count,
                rate: hundredths(qos0_rate + qos1_rate + qos2_rate),
                qos0_count,
                qos0_rate,
                qos1_count,
                qos1_rate,
                qos2_count,
                qos2_rate,
            },
        }
    }
}

/// A topic to count.
#[derive(Debug, Serialize, ToSchema)]
struct NewTopic {
    /// A topic name, without wildcards.
    #[schema(min_length = 1, max_length = 65535, pattern = "^[^+#\\x00]+$", example = "sensors/1/up")]
    topic: String,
}

/// What to do with the numbers.
#[derive(Debug, ToSchema)]
#[schema(as = TopicMetricsOrder)]
#[expect(dead_code, reason = "describes what Body reads")]
struct Order {
    /// `reset`: count anew.
    #[schema(pattern = "^reset$", example = "reset")]
    action: String,
    /// Which topic; all where it is left out.
    #[schema(required = false, nullable = false)]
    topic: Option<String>,
}

/// Every topic that is counted.
#[utoipa::path(
    get, path = "/mqtt/topic_metrics", tag = "Statistics", operation_id = "topic_metrics_list",
    responses((status = 200, description = "Topics with their numbers.", body = Vec<Counted>), Refused)
)]
async fn list(State(app): State<App>) -> Json<Vec<Counted>> {
    app.statistics.caught_up().await;
    Json(app.statistics.topics().into_iter().map(Counted::from).collect())
}

/// Begins to count publishes to a topic.
#[utoipa::path(
    post, path = "/mqtt/topic_metrics", tag = "Statistics", operation_id = "topic_metrics_create",
    request_body = NewTopic,
    responses((status = 200, description = "It is counted.", body = NewTopic),
        (status = 409, description = "So many topics are counted already.", body = ErrorBody),
        (status = 500, description = "It could not be stored.", body = ErrorBody), BodyRefused, Refused)
)]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Body(fields): Body,
) -> Result<Json<NewTopic>, ApiError> {
    let topic = match fields.get("topic") {
        Some(Value::String(topic)) => topic.clone(),
        _ => return Err(ApiError::bad_request("topic: a string is wanted")),
    };
    app.statistics.watch_topic(&topic).await.map_err(refusal)?;
    audit::write(&app, &caller, "topic_metrics.create", &topic, json!({})).await;
    Ok(Json(NewTopic { topic }))
}

/// Counts anew, one topic or all.
#[utoipa::path(
    put, path = "/mqtt/topic_metrics", tag = "Statistics", operation_id = "topic_metrics_reset",
    request_body = Order,
    responses((status = 204, description = "Counting began anew."),
        (status = 404, description = "The topic is not counted.", body = ErrorBody),
        (status = 500, description = "It could not be stored.", body = ErrorBody), BodyRefused, Refused)
)]
async fn reset(State(app): State<App>, caller: Caller, Body(fields): Body) -> Result<StatusCode, ApiError> {
    if fields.get("action").and_then(Value::as_str) != Some("reset") {
        return Err(ApiError::bad_request("action: only `reset` is known"));
    }
    let topics = match fields.get("topic") {
        None => app.statistics.topics().into_iter().map(|it| it.topic).collect(),
        Some(Value::String(topic)) => vec![topic.clone()],
        Some(_) => return Err(ApiError::bad_request("topic: a string is wanted")),
    };
    for topic in topics {
        app.statistics.reset_topic(&topic).await.map_err(refusal)?;
        audit::write(&app, &caller, "topic_metrics.reset", &topic, json!({})).await;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Ends counting every topic.
#[utoipa::path(
    delete, path = "/mqtt/topic_metrics", tag = "Statistics", operation_id = "topic_metrics_clear",
    responses((status = 204, description = "No topic is counted any more."),
        (status = 500, description = "It could not be stored.", body = ErrorBody), Refused)
)]
async fn clear(State(app): State<App>, caller: Caller) -> Result<StatusCode, ApiError> {
    if app.statistics.unwatch_topics(None).await.map_err(refusal)? {
        audit::write(&app, &caller, "topic_metrics.clear", "", json!({})).await;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// One topic.
#[utoipa::path(
    get, path = "/mqtt/topic_metrics/{topic}", tag = "Statistics", operation_id = "topic_metrics_get",
    params(("topic" = String, Path, description = "The topic, percent-encoded.")),
    responses((status = 200, description = "The topic with its numbers.", body = Counted),
        (status = 404, description = "The topic is not counted.", body = ErrorBody), Refused)
)]
async fn one(State(app): State<App>, Path(topic): Path<String>) -> Result<Json<Counted>, ApiError> {
    app.statistics.caught_up().await;
    let found = app.statistics.topic(&topic).ok_or(TopicError::Unknown);
    found.map(|it| Json(it.into())).map_err(refusal)
}

/// Ends counting a topic.
#[utoipa::path(
    delete, path = "/mqtt/topic_metrics/{topic}", tag = "Statistics", operation_id = "topic_metrics_remove",
    params(("topic" = String, Path, description = "The topic, percent-encoded.")),
    responses((status = 204, description = "It is not counted any more."),
        (status = 404, description = "The topic is not counted.", body = ErrorBody),
        (status = 500, description = "It could not be stored.", body = ErrorBody), Refused)
)]
async fn remove(
    State(app): State<App>,
    caller: Caller,
    Path(topic): Path<String>,
) -> Result<StatusCode, ApiError> {
    if !app.statistics.unwatch_topics(Some(&topic)).await.map_err(refusal)? {
        return Err(refusal(TopicError::Unknown));
    }
    audit::write(&app, &caller, "topic_metrics.remove", &topic, json!({})).await;
    Ok(StatusCode::NO_CONTENT)
}

fn refusal(error: TopicError) -> ApiError {
    let bad = |message: String| ApiError::new(StatusCode::BAD_REQUEST, "BAD_TOPIC", message);
    match error {
        TopicError::Bad(why) => bad(why),
        TopicError::Exists => bad("the topic is counted already".to_owned()),
        TopicError::Full => {
            let message = format!("no more than {TOPICS_MAX} topics are counted");
            ApiError::new(StatusCode::CONFLICT, "EXCEED_LIMIT", message)
        }
        TopicError::Unknown => {
            ApiError::new(StatusCode::NOT_FOUND, "TOPIC_NOT_FOUND", "the topic is not counted")
        }
        TopicError::Store(error) => {
            tracing::error!(error = %chain(&error), "topic metrics cannot be stored");
            ApiError::internal("it could not be stored; see the log")
        }
    }
}
