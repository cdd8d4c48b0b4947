//! `/mqtt/retainer`: messages that are kept for later subscribers. Deleting one is what an empty retained publish does:
//! it stands in the log, and subscribers to its topic are told nothing.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_broker::RetainedInfo;
use muster_core::topic;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::audit;
use super::reply::{ApiError, ErrorBody, Page, PageParams, Params, Path, Refused, rfc3339};
use crate::access::Caller;
use crate::error::chain;

/// The paths of it.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, clear)).routes(routes!(one, remove))
}

/// A retained message.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RetainedMessage)]
struct Shown {
    /// Its identity in the log, 32 hexadecimal digits.
    msgid: String,
    /// Its topic.
    topic: String,
    /// At most, at least or exactly once.
    #[schema(minimum = 0, maximum = 2)]
    qos: u8,
    /// When it was published.
    #[schema(format = DateTime)]
    publish_at: String,
    /// Who published it.
    from_clientid: Option<String>,
    /// By which user name.
    from_username: Option<String>,
    /// What it says, in Base64. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    payload: Option<String>,
}

/// One page of them.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RetainedMessagePage)]
struct ShownPage {
    data: Vec<Shown>,
    meta: super::reply::Meta,
}

/// List retained messages, in the order of topics.
#[utoipa::path(
    get, path = "/mqtt/retainer/messages", tag = "Retained", operation_id = "retained_list",
    params(
        PageParams,
        ("topic" = Option<String>, Query, description = "Only topics that this filter matches"),
    ),
    responses(
        (status = 200, description = "One page of them", body = ShownPage),
        (status = 400, description = "A parameter cannot be used", body = ErrorBody),
        Refused,
    )
)]
async fn list(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let params = Params::new(query);
    let page = Page::from_params(&params)?;
    let filter = params.one("topic").filter(|filter| !filter.is_empty());
    if let Some(filter) = filter {
        topic::validate_filter(filter)
            .map_err(|error| ApiError::invalid_parameter(format!("topic: {error}")))?;
    }
    let skip = usize::try_from(page.skip()).unwrap_or(usize::MAX);
    let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
    let (found, total) = app.broker.retained(filter, skip, limit);
    let data = found.iter().map(|it| json!(shown(it, false))).collect();
    Ok(page.envelope(data, total as u64, false))
}

/// Delete every retained message.
#[utoipa::path(
    delete, path = "/mqtt/retainer/messages", tag = "Retained", operation_id = "retained_clear",
    responses((status = 204, description = "There is none any more"), Refused)
)]
async fn clear(State(app): State<App>, caller: Caller) -> Result<StatusCode, ApiError> {
    let count = app.broker.clear_retained(None).await.map_err(|error| failed(&error))?;
    audit::write(&app, &caller, "retained.clear", "", json!({"messages": count})).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Show the retained message of a topic.
#[utoipa::path(
    get, path = "/mqtt/retainer/message/{topic}", tag = "Retained", operation_id = "retained_show",
    params(("topic" = String, Path, description = "The topic; a `/` in it is written `%2F`")),
    responses(
        (status = 200, description = "The message", body = Shown),
        (status = 404, description = "The topic has none", body = ErrorBody),
        Refused,
    )
)]
async fn one(State(app): State<App>, Path(topic): Path<String>) -> Result<Json<Shown>, ApiError> {
    let found = app.broker.retained_message(&topic).ok_or_else(not_found)?;
    Ok(Json(shown(&found, true)))
}

/// Delete the retained message of a topic.
#[utoipa::path(
    delete, path = "/mqtt/retainer/message/{topic}", tag = "Retained", operation_id = "retained_delete",
    params(("topic" = String, Path, description = "The topic; a `/` in it is written `%2F`")),
    responses(
        (status = 204, description = "It has none any more"),
        (status = 404, description = "The topic has none", body = ErrorBody),
        Refused,
    )
)]
async fn remove(
    State(app): State<App>,
    caller: Caller,
    Path(topic): Path<String>,
) -> Result<StatusCode, ApiError> {
    let count = app.broker.clear_retained(Some(&topic)).await.map_err(|error| failed(&error))?;
    if count == 0 {
        return Err(not_found());
    }
    audit::write(&app, &caller, "retained.delete", &topic, json!({})).await;
    Ok(StatusCode::NO_CONTENT)
}

fn shown(it: &RetainedInfo, with_payload: bool) -> Shown {
    Shown {
        msgid: it.id.to_string(),
        topic: it.topic.clone(),
        qos: it.qos,
        publish_at: rfc3339(it.published_at_ms).as_str().unwrap_or_default().to_owned(),
        from_clientid: Some(it.from_clientid.clone()).filter(|it| !it.is_empty()),
        from_username: it.from_username.clone(),
        payload: with_payload.then(|| STANDARD.encode(&it.payload)),
    }
}

fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "Viewed message doesn't exist")
}

fn failed(error: &muster_broker::BrokerError) -> ApiError {
    tracing::warn!(error = %chain(error), "retained messages could not be deleted");
    let message = "the event log takes nothing now; GET /status says why";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", message)
}
