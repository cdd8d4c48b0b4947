//! `/authorization`: who may publish and subscribe where, in the shapes of EMQX v5. A change answers when it is stored
//! and counts for every client that is connected.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use muster_broker::Action;
use muster_broker::authz::{CachedAnswer, Rule};
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

mod body;
mod rules;
mod sources;

pub(in crate::rest) use rules::refusal;

use super::App;
use super::audit;
use super::reply::{AnyBody, ApiError, BodyRefused, ErrorBody, Path, Refused};
use crate::access::{AuthzSettings, Caller};
use body::read;

/// The paths of it.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(settings, put_settings))
        .routes(routes!(forget))
        .routes(routes!(answers, forget_answers))
        .merge(sources::router())
        .merge(rules::router())
}

/// What holds for everybody.
#[utoipa::path(get, path = "/authorization/settings", tag = "Authorization",
    operation_id = "authorization_settings",
    responses((status = 200, body = AuthzSettings), Refused))]
async fn settings(State(app): State<App>) -> Json<AuthzSettings> {
    Json(app.access.authz.settings())
}

/// Other settings; what is left out is as it was in the beginning.
#[utoipa::path(put, path = "/authorization/settings", tag = "Authorization",
    operation_id = "authorization_settings_put", request_body = AuthzSettings,
    responses((status = 200, body = AuthzSettings), BodyRefused, Refused))]
async fn put_settings(
    State(app): State<App>,
    caller: Caller,
    AnyBody(value): AnyBody,
) -> Result<Json<AuthzSettings>, ApiError> {
    let details = value.clone();
    let wanted: AuthzSettings = read(value)?;
    wanted.check().map_err(ApiError::bad_request)?;
    app.access.authz.set_settings(wanted.clone()).await.map_err(refusal)?;
    audit::write(&app, &caller, "authorization.settings", "", details).await;
    Ok(Json(wanted))
}

/// Has every session forget what it remembers of answers.
#[utoipa::path(delete, path = "/authorization/cache", tag = "Authorization",
    operation_id = "authorization_cache_delete",
    responses((status = 204, description = "Forgotten"), Refused))]
async fn forget(State(app): State<App>, caller: Caller) -> StatusCode {
    app.access.authz.forget_answers();
    audit::write(&app, &caller, "authorization.cache.delete", "", json!({})).await;
    StatusCode::NO_CONTENT
}

/// An answer that a session remembers.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is written by hand")]
struct RememberedAnswer {
    access: RememberedAction,
    /// Topic, or filter of a subscription.
    topic: String,
    /// `allow` or `deny`.
    #[schema(pattern = "^(allow|deny)$")]
    result: String,
    /// For how long it has been remembered, milliseconds.
    age: u64,
}

/// What was asked for.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is written by hand")]
struct RememberedAction {
    /// `publish` or `subscribe`.
    #[schema(pattern = "^(publish|subscribe)$")]
    action_type: String,
    #[schema(minimum = 0, maximum = 2)]
    qos: u8,
    /// Of a publish only.
    #[schema(required = false)]
    retain: Option<bool>,
}

/// What the session of a client remembers.
#[utoipa::path(get, path = "/clients/{clientid}/authorization/cache", tag = "Authorization",
    operation_id = "client_authorization_cache",
    params(("clientid" = String, Path, description = "Client identifier")),
    responses((status = 200, body = Vec<RememberedAnswer>),
        (status = 404, description = "No such client", body = ErrorBody), Refused))]
async fn answers(State(app): State<App>, Path(clientid): Path<String>) -> Result<Json<Value>, ApiError> {
    let found = app.broker.authz_answers(&clientid).await.ok_or_else(ApiError::clientid_not_found)?;
    Ok(Json(found.into_iter().map(answer).collect()))
}

/// Has the session of a client forget it.
#[utoipa::path(delete, path = "/clients/{clientid}/authorization/cache", tag = "Authorization",
    operation_id = "client_authorization_cache_delete",
    params(("clientid" = String, Path, description = "Client identifier")),
    responses((status = 204, description = "Forgotten"),
        (status = 404, description = "No such client", body = ErrorBody), Refused))]
async fn forget_answers(
    State(app): State<App>,
    caller: Caller,
    Path(clientid): Path<String>,
) -> Result<StatusCode, ApiError> {
    if !app.broker.forget_authz_answers(&clientid).await {
        return Err(ApiError::clientid_not_found());
    }
    audit::write(&app, &caller, "clients.authorization_cache.delete", &clientid, json!({})).await;
    Ok(StatusCode::NO_CONTENT)
}

fn answer(it: CachedAnswer) -> Value {
    let access = match it.action {
        Action::Publish { qos, retain } => {
            json!({"action_type": "publish", "qos": qos.as_u8(), "retain": retain})
        }
        Action::Subscribe { qos } => json!({"action_type": "subscribe", "qos": qos.as_u8()}),
    };
    let age = u64::try_from(it.age.as_millis()).unwrap_or(u64::MAX);
    json!({"access": access, "topic": it.topic, "result": if it.allow { "allow" } else { "deny" }, "age": age})
}

fn shown(rules: &[Rule]) -> Value {
    serde_json::to_value(rules).unwrap_or_default()
}
