//! `/api_key`, `/login`, `/logout`, `/users`: who may manage. A secret leaves here once, in the answer that made it.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::reply::{ApiError, Body, BodyRefused, Path, Refused, rfc3339};
use super::{App, audit};
use crate::access::{Caller, KeyRecord, NewKey, Role, is_name};

mod people;

/// Longest description of a key or a person.
const DESC_BYTES_MAX: usize = 1_024;

/// The paths of it.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(one, update, delete))
        .merge(people::router())
}

/// An API key.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is written by hand")]
struct ApiKey {
    name: String,
    /// The public half: the user name of HTTP Basic.
    api_key: String,
    desc: String,
    enable: bool,
    /// Whether its time is over.
    expired: bool,
    /// RFC 3339, or `infinity`.
    expired_at: String,
    created_at: String,
    role: Role,
}

/// A new API key.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is written by hand")]
struct NewApiKey {
    name: String,
    api_key: String,
    /// Shown here and never again.
    api_secret: String,
    desc: String,
    enable: bool,
    expired: bool,
    expired_at: String,
    created_at: String,
    role: Role,
}

/// What a key is to be.
#[derive(serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what is read by hand")]
struct KeyAsked {
    /// Letters and digits of ASCII, and - _ . @ after the first.
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9_.@-]*$", max_length = 256)]
    name: String,
    #[schema(required = false, max_length = 1024)]
    desc: String,
    #[schema(required = false, default = true)]
    enable: bool,
    /// RFC 3339, seconds since 1970, or `infinity`.
    #[schema(required = false)]
    expired_at: Expiry,
    #[schema(required = false)]
    role: Role,
}

/// What is to change of a key.
#[derive(serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what is read by hand")]
struct KeyChange {
    #[schema(required = false, max_length = 1024)]
    desc: String,
    #[schema(required = false)]
    enable: bool,
    /// RFC 3339, seconds since 1970, or `infinity`.
    #[schema(required = false)]
    expired_at: Expiry,
    #[schema(required = false)]
    role: Role,
}

/// RFC 3339, `infinity`, or seconds since 1970.
#[derive(serde::Deserialize, serde::Serialize, utoipa::ToSchema)]
#[serde(untagged)]
enum Expiry {
    Seconds(i64),
    Text(String),
}

/// Every key, without its secret.
#[utoipa::path(get, path = "/api_key", tag = "API keys", operation_id = "api_keys_list",
    responses((status = 200, body = [ApiKey]), Refused))]
async fn list(State(app): State<App>) -> Json<Value> {
    let now = app.clock.wall_ms();
    Json(app.access.keys.keys().iter().map(|(name, key)| shown(name, key, now)).collect())
}

/// Makes a key. Its secret is in the answer and nowhere else.
#[utoipa::path(post, path = "/api_key", tag = "API keys", operation_id = "api_keys_create",
    request_body = KeyAsked, responses((status = 200, body = NewApiKey), Refused, BodyRefused))]
async fn create(State(app): State<App>, caller: Caller, Body(body): Body) -> Result<Json<Value>, ApiError> {
    only(&body, &["name", "desc", "enable", "expired_at", "role"])?;
    let name = name(&body, "name")?;
    let now = app.clock.wall_ms();
    let keys = &app.access.keys;
    let _one_at_a_time = keys.change().await;
    if keys.keys().contains_key(&name) {
        return Err(ApiError::bad_request("there is a key of this name already"));
    }
    let new = NewKey {
        role: role(&body)?.unwrap_or(Role::Administrator),
        desc: desc(&body, "desc")?.unwrap_or_default(),
        enable: flag(&body, "enable")?.unwrap_or(true),
        expired_at_ms: expired_at(&body)?.unwrap_or_default(),
        created_at_ms: now,
    };
    let (key, secret) = new.make().map_err(|error| failed(&error))?;
    let change = keys.stored().put_key(&name, &key).map_err(|error| failed(&error))?;
    store(&app, vec![change]).await?;
    audit::write(&app, &caller, "keys.create", &name, json!({"role": key.role})).await;
    let mut answer = shown(&name, &key, now);
    if let Some(answer) = answer.as_object_mut() {
        answer.insert("api_secret".to_owned(), secret.reveal().into());
    }
    Ok(Json(answer))
}

/// One key, without its secret.
#[utoipa::path(get, path = "/api_key/{name}", tag = "API keys", operation_id = "api_keys_get",
    params(("name" = String, Path, description = "What it is called")),
    responses((status = 200, body = ApiKey), (status = 404, body = super::reply::ErrorBody), Refused))]
async fn one(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    let key = found(&app, &name)?;
    Ok(Json(shown(&name, &key, app.clock.wall_ms())))
}

/// Changes what a key may, and until when; its secret stays.
#[utoipa::path(put, path = "/api_key/{name}", tag = "API keys", operation_id = "api_keys_update",
    params(("name" = String, Path, description = "What it is called")), request_body = KeyChange,
    responses((status = 200, body = ApiKey), (status = 404, body = super::reply::ErrorBody), Refused, BodyRefused))]
async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Body(body): Body,
) -> Result<Json<Value>, ApiError> {
    let _one_at_a_time = app.access.keys.change().await;
    let mut key = found(&app, &name)?;
    only(&body, &["desc", "enable", "expired_at", "role"])?;
    key.desc = desc(&body, "desc")?.unwrap_or(key.desc);
    key.enable = flag(&body, "enable")?.unwrap_or(key.enable);
    key.expired_at_ms = expired_at(&body)?.unwrap_or(key.expired_at_ms);
    key.role = role(&body)?.unwrap_or(key.role);
    let change = app.access.keys.stored().put_key(&name, &key).map_err(|error| failed(&error))?;
    store(&app, vec![change]).await?;
    let details = json!({"role": key.role, "enable": key.enable});
    audit::write(&app, &caller, "keys.update", &name, details).await;
    Ok(Json(shown(&name, &key, app.clock.wall_ms())))
}

/// Takes a key back.
#[utoipa::path(delete, path = "/api_key/{name}", tag = "API keys", operation_id = "api_keys_delete",
    params(("name" = String, Path, description = "What it is called")),
    responses((status = 204, description = "It opens nothing any more"),
        (status = 404, body = super::reply::ErrorBody), Refused))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let _one_at_a_time = app.access.keys.change().await;
    found(&app, &name)?;
    store(&app, vec![app.access.keys.stored().remove_key(&name)]).await?;
    audit::write(&app, &caller, "keys.delete", &name, json!({})).await;
    Ok(StatusCode::NO_CONTENT)
}

fn shown(name: &str, key: &KeyRecord, now_ms: i64) -> Value {
    json!({
        "name": name,
        "api_key": key.key,
        "desc": key.desc,
        "enable": key.enable,
        "expired": key.is_expired(now_ms),
        "expired_at": key.expired_at_ms.map_or_else(|| Value::from("infinity"), rfc3339),
        "created_at": rfc3339(key.created_at_ms),
        "role": key.role,
    })
}

fn found(app: &App, name: &str) -> Result<KeyRecord, ApiError> {
    let not_found = || ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "there is no such key");
    app.access.keys.keys().remove(name).ok_or_else(not_found)
}

/// Makes changes durable, and has them count.
async fn store(app: &App, changes: Vec<muster_core::registry::DocumentChange>) -> Result<(), ApiError> {
    let keys = &app.access.keys;
    keys.stored().commit(changes).await.map_err(|error| failed(&error))?;
    keys.reload().map_err(|error| failed(&error))
}

fn failed(error: &crate::error::Error) -> ApiError {
    tracing::warn!(error = %crate::error::chain(error), "a key or a person could not be stored");
    ApiError::internal("it could not be stored; see the log")
}

fn only(body: &Map<String, Value>, known: &[&str]) -> Result<(), ApiError> {
    match body.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(ApiError::bad_request(format!("{key}: unknown; there are {}", known.join(", ")))),
        None => Ok(()),
    }
}

fn name(body: &Map<String, Value>, field: &str) -> Result<String, ApiError> {
    let text = body.get(field).and_then(Value::as_str).filter(|text| is_name(text));
    let why = "letters and digits of ASCII, and - _ . @ after the first, at most 256";
    text.map(str::to_owned).ok_or_else(|| ApiError::bad_request(format!("{field}: {why}")))
}

fn desc(body: &Map<String, Value>, field: &str) -> Result<Option<String>, ApiError> {
    match body.get(field) {
        None => Ok(None),
        Some(Value::String(text)) if text.len() <= DESC_BYTES_MAX => Ok(Some(text.clone())),
        Some(_) => Err(ApiError::bad_request(format!("{field}: a text of at most {DESC_BYTES_MAX} bytes"))),
    }
}

fn flag(body: &Map<String, Value>, field: &str) -> Result<Option<bool>, ApiError> {
    let wrong = || ApiError::bad_request(format!("{field}: true or false"));
    body.get(field).map(|value| value.as_bool().ok_or_else(wrong)).transpose()
}

fn role(body: &Map<String, Value>) -> Result<Option<Role>, ApiError> {
    let wrong = || ApiError::bad_request("role: one of administrator, viewer, publisher");
    body.get("role").map(|it| it.as_str().and_then(Role::parse).ok_or_else(wrong)).transpose()
}

/// None where it is not said; none within that where it is for ever.
fn expired_at(body: &Map<String, Value>) -> Result<Option<Option<i64>>, ApiError> {
    let Some(value) = body.get("expired_at") else { return Ok(None) };
    let ms = match value {
        Value::String(text) if matches!(text.as_str(), "infinity" | "undefined") => return Ok(Some(None)),
        Value::String(text) => text.parse().ok().map(|at: jiff::Timestamp| at.as_millisecond()),
        Value::Number(seconds) => seconds
            .as_i64()
            .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
            .map(jiff::Timestamp::as_millisecond),
        _ => None,
    };
    let why = "expired_at: RFC 3339, seconds since 1970, or infinity";
    ms.map(|ms| Some(Some(ms))).ok_or_else(|| ApiError::bad_request(why))
}
