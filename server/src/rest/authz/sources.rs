//! `/authorization/sources`: where rules come from. There is one kind, the rules made over REST, so that an order of
//! sources has nothing to order; its paths are there for clients that ask.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::App;
use super::super::audit;
use super::super::reply::{AnyBody, ApiError, BodyRefused, ErrorBody, Path, Refused};
use super::body::read;
use super::rules::refusal;
use crate::access::{AuthzSource, AuthzSourceType, Caller};

const BUILT_IN: &str = "built_in_database";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(order))
        .routes(routes!(one, replace, remove))
        .routes(routes!(place))
}

/// Every source.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is written by hand")]
struct AuthorizationSources {
    sources: Vec<AuthzSource>,
}

/// Every source, in the order in which they are asked.
#[utoipa::path(get, path = "/authorization/sources", tag = "Authorization",
    operation_id = "authorization_sources",
    responses((status = 200, body = AuthorizationSources), Refused))]
async fn list(State(app): State<App>) -> Json<Value> {
    let sources: Vec<_> = app.access.authz.source().into_iter().collect();
    Json(json!({"sources": sources}))
}

/// Adds a source.
#[utoipa::path(post, path = "/authorization/sources", tag = "Authorization",
    operation_id = "authorization_sources_create", request_body = AuthzSource,
    responses((status = 204, description = "Added"), BodyRefused, Refused))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    AnyBody(value): AnyBody,
) -> Result<StatusCode, ApiError> {
    let source = read_source(value)?;
    app.access
        .authz
        .set_source(Some(source), false)
        .await
        .map_err(|error| ApiError::bad_request(refusal(error).message()))?;
    audit::write(&app, &caller, "authorization.sources.create", BUILT_IN, json!({})).await;
    Ok(StatusCode::NO_CONTENT)
}

/// One source.
#[utoipa::path(get, path = "/authorization/sources/{type}", tag = "Authorization",
    operation_id = "authorization_source",
    params(("type" = String, Path, description = "`built_in_database`")),
    responses((status = 200, body = AuthzSource), (status = 404, description = "No such source", body = ErrorBody),
        Refused))]
async fn one(State(app): State<App>, Path(kind): Path<String>) -> Result<Json<AuthzSource>, ApiError> {
    let source = app.access.authz.source().filter(|_| kind == BUILT_IN);
    source.map(Json).ok_or_else(not_found)
}

/// Changes a source: whether it is asked, and how many rules it takes.
#[utoipa::path(put, path = "/authorization/sources/{type}", tag = "Authorization",
    operation_id = "authorization_source_put",
    params(("type" = String, Path, description = "`built_in_database`")), request_body = AuthzSource,
    responses((status = 204, description = "Changed"), (status = 404, description = "No such source", body = ErrorBody),
        BodyRefused, Refused))]
async fn replace(
    State(app): State<App>,
    caller: Caller,
    Path(kind): Path<String>,
    AnyBody(value): AnyBody,
) -> Result<StatusCode, ApiError> {
    let source = read_source(value)?;
    if kind != BUILT_IN {
        return Err(not_found());
    }
    let details = json!({"enable": source.enable, "max_rules": source.max_rules});
    app.access.authz.set_source(Some(source), true).await.map_err(refusal)?;
    audit::write(&app, &caller, "authorization.sources.update", BUILT_IN, details).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes a source away. Its rules are kept.
#[utoipa::path(delete, path = "/authorization/sources/{type}", tag = "Authorization",
    operation_id = "authorization_source_delete",
    params(("type" = String, Path, description = "`built_in_database`")),
    responses((status = 204, description = "Gone"), (status = 404, description = "No such source", body = ErrorBody),
        Refused))]
async fn remove(
    State(app): State<App>,
    caller: Caller,
    Path(kind): Path<String>,
) -> Result<StatusCode, ApiError> {
    if kind != BUILT_IN {
        return Err(not_found());
    }
    app.access.authz.set_source(None, true).await.map_err(refusal)?;
    audit::write(&app, &caller, "authorization.sources.delete", BUILT_IN, json!({})).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Where a source goes.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct SourcePosition {
    /// `front`, `rear`, `before:TYPE` or `after:TYPE`.
    #[schema(pattern = "^(front|rear)$")]
    position: String,
}

/// Moves a source. Among one it stays where it is.
#[utoipa::path(post, path = "/authorization/sources/{type}/move", tag = "Authorization",
    operation_id = "authorization_source_move",
    params(("type" = String, Path, description = "`built_in_database`")), request_body = SourcePosition,
    responses((status = 204, description = "Moved"), (status = 404, description = "No such source", body = ErrorBody),
        BodyRefused, Refused))]
async fn place(
    State(app): State<App>,
    Path(kind): Path<String>,
    AnyBody(value): AnyBody,
) -> Result<StatusCode, ApiError> {
    let SourcePosition { position } = read(value)?;
    app.access.authz.source().filter(|_| kind == BUILT_IN).ok_or_else(not_found)?;
    match position.as_str() {
        "front" | "rear" => Ok(StatusCode::NO_CONTENT),
        _ => Err(ApiError::bad_request("position: front or rear; there is no other source")),
    }
}

/// A source in an order.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct SourceInOrder {
    #[serde(rename = "type")]
    kind: AuthzSourceType,
}

/// In which order sources are asked: every one, once.
#[utoipa::path(put, path = "/authorization/sources/order", tag = "Authorization",
    operation_id = "authorization_sources_order", request_body = Vec<SourceInOrder>,
    responses((status = 204, description = "In this order"), BodyRefused, Refused))]
async fn order(State(app): State<App>, AnyBody(value): AnyBody) -> Result<StatusCode, ApiError> {
    let asked: Vec<SourceInOrder> = read(value)?;
    let there: Vec<_> = app.access.authz.source().into_iter().map(|it| it.kind).collect();
    if asked.iter().map(|it| it.kind).ne(there) {
        return Err(ApiError::bad_request("each source that there is stands in the order once"));
    }
    Ok(StatusCode::NO_CONTENT)
}

fn read_source(value: Value) -> Result<AuthzSource, ApiError> {
    let source: AuthzSource = read(value)?;
    source.check().map_err(ApiError::bad_request)?;
    Ok(source)
}

fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "no such source")
}
