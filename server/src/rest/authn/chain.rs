//! The chain: which authenticators there are, in which order, and how they fare.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::super::audit;
use super::super::reply::{AnyBody, ApiError, Body, BodyRefused, ErrorBody, Refused};
use super::{App, IdPath, PathResult, in_path, known, text};
use crate::access::{Caller, Place};

/// An authenticator. Which fields it has besides follows from `mechanism` and `backend`; secrets are `******`, and
/// may be sent back so.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is read and written as JSON")]
pub(super) struct Authenticator {
    /// `password_based` or `jwt`.
    #[schema(example = "password_based")]
    mechanism: String,
    /// `built_in_database` or `http`; absent with `jwt`.
    #[schema(example = "built_in_database", nullable = false)]
    backend: Option<String>,
    /// Follows from mechanism and backend where it is absent.
    #[schema(example = "password_based:built_in_database")]
    id: Option<String>,
    /// Whether it is asked; true where it is absent.
    #[schema(nullable = false)]
    enable: Option<bool>,
}

/// How an authenticator fares.
#[derive(utoipa::ToSchema)]
#[schema(as = AuthenticatorStatus)]
#[expect(dead_code, reason = "describes what is written as JSON")]
pub(super) struct Status {
    /// `connected`, or `disconnected` where the server that it asks does not answer.
    status: String,
    /// What came of its questions.
    metrics: Metrics,
    /// The same by node.
    node_status: Vec<Value>,
    /// The same by node.
    node_metrics: Vec<Value>,
}

/// What came of an authenticator's questions.
#[derive(utoipa::ToSchema)]
#[schema(as = AuthenticatorMetrics)]
#[expect(dead_code, reason = "describes what is written as JSON")]
pub(super) struct Metrics {
    total: u64,
    success: u64,
    failed: u64,
    nomatch: u64,
    /// How often the server that it asks could not be asked.
    unavailable: u64,
}

/// One place in the order.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is read as JSON")]
pub(super) struct AuthenticatorInOrder {
    /// An authenticator.
    id: String,
}

/// Every authenticator, in the order in which they are asked.
#[utoipa::path(get, path = "/authentication", tag = "Authentication", operation_id = "authentication_list",
    responses((status = 200, description = "Every authenticator, in the order in which they are asked",
        body = Vec<Authenticator>), Refused))]
pub(super) async fn list(State(app): State<App>) -> Json<Value> {
    Json(app.access.authn.links().into())
}

/// Adds an authenticator, at the end of the chain.
#[utoipa::path(post, path = "/authentication", tag = "Authentication", operation_id = "authentication_create",
    request_body = Authenticator,
    responses((status = 200, description = "The authenticator, at the end of the chain", body = Authenticator),
        (status = 409, description = "There is one of this id", body = ErrorBody), BodyRefused, Refused))]
pub(super) async fn create(
    State(app): State<App>,
    caller: Caller,
    Body(fields): Body,
) -> Result<Json<Value>, ApiError> {
    let made = app.access.authn.create_link(fields).await?;
    let id = made["id"].as_str().unwrap_or_default();
    audit::write(&app, &caller, "authentication.create", id, json!({})).await;
    Ok(Json(made))
}

/// One authenticator.
#[utoipa::path(get, path = "/authentication/{id}", tag = "Authentication", operation_id = "authentication_get",
    params(IdPath),
    responses((status = 200, description = "The authenticator", body = Authenticator),
        (status = 400, description = "The path cannot be read", body = ErrorBody),
        (status = 404, description = "There is none", body = ErrorBody), Refused))]
pub(super) async fn one(State(app): State<App>, path: PathResult<String>) -> Result<Json<Value>, ApiError> {
    Ok(Json(app.access.authn.link(&in_path(path)?)?))
}

/// Changes an authenticator.
#[utoipa::path(put, path = "/authentication/{id}", tag = "Authentication", operation_id = "authentication_update",
    params(IdPath), request_body = Authenticator,
    responses((status = 200, description = "The authenticator as it is now", body = Authenticator),
        (status = 404, description = "There is none", body = ErrorBody), BodyRefused, Refused))]
pub(super) async fn update(
    State(app): State<App>,
    caller: Caller,
    path: PathResult<String>,
    Body(fields): Body,
) -> Result<Json<Value>, ApiError> {
    let id = in_path(path)?;
    let made = app.access.authn.update_link(&id, fields).await?;
    audit::write(&app, &caller, "authentication.update", &id, json!({})).await;
    Ok(Json(made))
}

/// Removes an authenticator and its users.
#[utoipa::path(delete, path = "/authentication/{id}", tag = "Authentication", operation_id = "authentication_delete",
    params(IdPath),
    responses((status = 204, description = "It is gone, and its users with it"),
        (status = 400, description = "The path cannot be read", body = ErrorBody),
        (status = 404, description = "There is none", body = ErrorBody), Refused))]
pub(super) async fn remove(
    State(app): State<App>,
    caller: Caller,
    path: PathResult<String>,
) -> Result<StatusCode, ApiError> {
    let id = in_path(path)?;
    app.access.authn.remove_link(&id).await?;
    audit::write(&app, &caller, "authentication.delete", &id, json!({})).await;
    Ok(StatusCode::NO_CONTENT)
}

/// How an authenticator fares.
#[utoipa::path(get, path = "/authentication/{id}/status", tag = "Authentication",
    operation_id = "authentication_status", params(IdPath),
    responses((status = 200, description = "How it fares", body = Status),
        (status = 400, description = "The path cannot be read", body = ErrorBody),
        (status = 404, description = "There is none", body = ErrorBody), Refused))]
pub(super) async fn status(
    State(app): State<App>,
    path: PathResult<String>,
) -> Result<Json<Value>, ApiError> {
    let (is_up, metrics) = app.access.authn.link_status(&in_path(path)?)?;
    let status = if is_up { "connected" } else { "disconnected" };
    let node = &*app.node;
    Ok(Json(json!({
        "status": status,
        "metrics": metrics,
        "node_status": [{"node": node, "status": status}],
        "node_metrics": [{"node": node, "metrics": metrics}],
    })))
}

/// In which order they are asked.
#[utoipa::path(put, path = "/authentication/order", tag = "Authentication", operation_id = "authentication_order",
    request_body = Vec<AuthenticatorInOrder>,
    responses((status = 204, description = "They are asked in this order from now on"), BodyRefused, Refused))]
pub(super) async fn order(
    State(app): State<App>,
    caller: Caller,
    AnyBody(body): AnyBody,
) -> Result<StatusCode, ApiError> {
    let list = body.as_array().ok_or_else(|| ApiError::bad_request("the body is no list"))?;
    let ids = list.iter().map(|it| {
        let fields =
            it.as_object().ok_or_else(|| ApiError::bad_request("an entry of the list is no object"))?;
        known(fields, &["id"])?;
        text(fields, "id").map(str::to_owned)
    });
    app.access.authn.order_links(&ids.collect::<Result<Vec<_>, _>>()?).await?;
    audit::write(&app, &caller, "authentication.order", "", json!({})).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Where an authenticator goes.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes what is parsed elsewhere")]
pub(super) struct PositionPath {
    /// For example `password_based:built_in_database`.
    id: String,
    /// `front`, `rear`, `before:ID` or `after:ID`.
    position: String,
}

/// Moves an authenticator in the chain.
#[utoipa::path(put, path = "/authentication/{id}/position/{position}", tag = "Authentication",
    operation_id = "authentication_position", params(PositionPath),
    responses((status = 204, description = "It is asked there from now on"),
        (status = 400, description = "The position is none", body = ErrorBody),
        (status = 404, description = "There is no such authenticator", body = ErrorBody), Refused))]
pub(super) async fn position(
    State(app): State<App>,
    caller: Caller,
    path: PathResult<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let (id, position) = in_path(path)?;
    let place = match (position.as_str(), position.split_once(':')) {
        ("front", _) => Place::Front,
        ("rear", _) => Place::Rear,
        (_, Some(("before", other))) => Place::Before(other.to_owned()),
        (_, Some(("after", other))) => Place::After(other.to_owned()),
        _ => return Err(ApiError::bad_request("the position is none of front, rear, before:ID, after:ID")),
    };
    app.access.authn.move_link(&id, &place).await?;
    audit::write(&app, &caller, "authentication.move", &id, json!({"position": position})).await;
    Ok(StatusCode::NO_CONTENT)
}
