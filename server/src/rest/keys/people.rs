//! `/login`, `/logout`, `/users`: people, their passwords and their tokens.

use std::net::SocketAddr;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::reply::{ApiError, Body, BodyRefused, ErrorBody, Path, Refused};
use super::super::{App, audit, guard, limits};
use super::{desc, failed, name, only, role, store};
use crate::access::{
    Caller, Denied, Means, PASSWORD_BYTES_MAX, PASSWORD_BYTES_MIN, Password, PersonRecord, Role,
};

/// Largest body of a login, the one that is read of anybody.
const LOGIN_BODY_BYTES_MAX: usize = 8 * 1_024;

/// The paths of it.
pub(super) fn router() -> OpenApiRouter<App> {
    let login = OpenApiRouter::new().routes(routes!(login)).layer(limits::body(LOGIN_BODY_BYTES_MAX));
    OpenApiRouter::new()
        .merge(login)
        .routes(routes!(logout))
        .routes(routes!(list, create))
        .routes(routes!(update, delete))
        .routes(routes!(change_password))
}

/// Who logs in.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is read by hand")]
struct Login {
    username: String,
    password: String,
}

/// A token for `Authorization: Bearer`, good for an hour.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is written by hand")]
struct Given {
    token: String,
    /// Of the server.
    version: String,
    role: Role,
}

/// Who logs out.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is read by hand")]
struct Logout {
    username: String,
}

/// Somebody who may log in.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is written by hand")]
struct Person {
    username: String,
    description: String,
    role: Role,
}

/// Who is to be able to log in.
#[derive(serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what is read by hand")]
struct NewPerson {
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9_.@-]*$", max_length = 256)]
    username: String,
    /// 8 to 256 bytes.
    #[schema(min_length = 8, max_length = 256)]
    password: String,
    #[schema(required = false, max_length = 1024)]
    description: String,
    #[schema(required = false)]
    role: Role,
}

/// What is to change of somebody.
#[derive(serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what is read by hand")]
struct PersonChange {
    #[schema(required = false, max_length = 1024)]
    description: String,
    #[schema(required = false)]
    role: Role,
}

/// A password for another.
#[derive(serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what is read by hand")]
struct PasswordChange {
    old_pwd: String,
    /// 8 to 256 bytes.
    #[schema(min_length = 8, max_length = 256)]
    new_pwd: String,
}

/// Gives a token to somebody who shows their password. The one path besides `/status` that asks for no key.
#[utoipa::path(post, path = "/login", tag = "Users", operation_id = "login", request_body = Login,
    responses((status = 200, body = Given), Refused, BodyRefused), security(()))]
async fn login(
    State(app): State<App>,
    peer: ConnectInfo<SocketAddr>,
    Body(body): Body,
) -> Result<Response, ApiError> {
    let (username, password) = (text(&body, "username")?, text(&body, "password")?);
    match app.access.keys.log_in(username, password, address(peer)).await {
        Ok((token, role)) => {
            let version = env!("CARGO_PKG_VERSION");
            let answer = json!({"token": token.reveal(), "version": version, "role": role});
            Ok(([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response())
        }
        Err(why) => Ok(wrong_password(why)),
    }
}

/// Ends the token that the request shows.
#[utoipa::path(post, path = "/logout", tag = "Users", operation_id = "logout", request_body = Logout,
    responses((status = 204, description = "The token is good for nothing any more"), Refused, BodyRefused))]
async fn logout(State(app): State<App>, headers: HeaderMap, Body(body): Body) -> Result<Response, ApiError> {
    let username = text(&body, "username")?;
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = shown.and_then(|shown| shown.split_once(' ')).map(|(_, token)| token.trim());
    if token.is_some_and(|token| app.access.keys.log_out(token, username)) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(guard::unauthorized("WRONG_TOKEN_OR_USERNAME", "the token is not of this user"))
}

/// Everybody who may log in.
#[utoipa::path(get, path = "/users", tag = "Users", operation_id = "users_list",
    responses((status = 200, body = [Person]), Refused))]
async fn list(State(app): State<App>) -> Json<Value> {
    Json(app.access.keys.people().iter().map(|(name, person)| shown(name, person)).collect())
}

/// Lets somebody log in.
#[utoipa::path(post, path = "/users", tag = "Users", operation_id = "users_create", request_body = NewPerson,
    responses((status = 200, body = Person), Refused, BodyRefused))]
async fn create(State(app): State<App>, caller: Caller, Body(body): Body) -> Result<Json<Value>, ApiError> {
    only(&body, &["username", "password", "description", "role"])?;
    let name = name(&body, "username")?;
    let _one_at_a_time = app.access.keys.change().await;
    if app.access.keys.people().contains_key(&name) {
        let message = "somebody is called so already";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "ALREADY_EXISTS", message));
    }
    let role = role(&body)?.unwrap_or(Role::Administrator);
    let description = desc(&body, "description")?.unwrap_or_default();
    let password = hashed(&app, text(&body, "password")?).await?;
    let person = PersonRecord { password, role, description, created_at_ms: app.clock.wall_ms() };
    put(&app, &name, &person).await?;
    audit::write(&app, &caller, "users.create", &name, json!({"role": role})).await;
    Ok(Json(shown(&name, &person)))
}

/// Changes what somebody may, or how they are described. Nobody changes what they may themselves.
#[utoipa::path(put, path = "/users/{username}", tag = "Users", operation_id = "users_update",
    params(("username" = String, Path, description = "What they are called")), request_body = PersonChange,
    responses((status = 200, body = Person), (status = 404, body = ErrorBody), Refused, BodyRefused))]
async fn update(
    State(app): State<App>,
    caller: Caller,
    means: Means,
    Path(username): Path<String>,
    Body(body): Body,
) -> Result<Json<Value>, ApiError> {
    let _one_at_a_time = app.access.keys.change().await;
    let mut person = found(&app, &username)?;
    only(&body, &["description", "role"])?;
    person.description = desc(&body, "description")?.unwrap_or(person.description);
    let role = role(&body)?.unwrap_or(person.role);
    if means == Means::Token && caller.name == username && role != person.role {
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "NOT_ALLOWED", "Cannot change own role"));
    }
    person.role = role;
    put(&app, &username, &person).await?;
    audit::write(&app, &caller, "users.update", &username, json!({"role": person.role})).await;
    Ok(Json(shown(&username, &person)))
}

/// Lets somebody log in no more; their tokens end. Nobody removes themselves.
#[utoipa::path(delete, path = "/users/{username}", tag = "Users", operation_id = "users_delete",
    params(("username" = String, Path, description = "What they are called")),
    responses((status = 204, description = "They are gone"), (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody), Refused))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    means: Means,
    Path(username): Path<String>,
) -> Result<StatusCode, ApiError> {
    let _one_at_a_time = app.access.keys.change().await;
    found(&app, &username)?;
    if means == Means::Token && caller.name == username {
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "NOT_ALLOWED", "Cannot delete self"));
    }
    store(&app, vec![app.access.keys.stored().remove_person(&username)]).await?;
    audit::write(&app, &caller, "users.delete", &username, json!({})).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Another password for the one that is known. Everybody may change their own; tokens of the old one end.
#[utoipa::path(post, path = "/users/{username}/change_pwd", tag = "Users", operation_id = "users_change_pwd",
    params(("username" = String, Path, description = "What they are called")), request_body = PasswordChange,
    responses((status = 204, description = "The new one is good from now on"), (status = 404, body = ErrorBody),
        Refused, BodyRefused))]
async fn change_password(
    State(app): State<App>,
    caller: Caller,
    Path(username): Path<String>,
    peer: ConnectInfo<SocketAddr>,
    Body(body): Body,
) -> Result<Response, ApiError> {
    if caller.role != Role::Administrator && caller.name != username {
        let message = "only an administrator may change the password of somebody else";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "UNAUTHORIZED_ROLE", message));
    }
    found(&app, &username)?;
    only(&body, &["old_pwd", "new_pwd"])?;
    let (old, new) = (text(&body, "old_pwd")?, text(&body, "new_pwd")?);
    if let Err(why) = app.access.keys.check_password(&username, old, address(peer)).await {
        return Ok(wrong_password(why));
    }
    let password = hashed(&app, new).await?;
    let _one_at_a_time = app.access.keys.change().await;
    let person = PersonRecord { password, ..found(&app, &username)? };
    put(&app, &username, &person).await?;
    audit::write(&app, &caller, "users.change_pwd", &username, json!({})).await;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn wrong_password(why: Denied) -> Response {
    match why {
        Denied::TooOften(_) => guard::denied(why),
        _ => guard::unauthorized("BAD_USERNAME_OR_PWD", "Check your username and password"),
    }
}

fn shown(name: &str, person: &PersonRecord) -> Value {
    json!({"username": name, "description": person.description, "role": person.role})
}

fn found(app: &App, name: &str) -> Result<PersonRecord, ApiError> {
    let not_found = || ApiError::new(StatusCode::NOT_FOUND, "USER_NOT_FOUND", "nobody is called so");
    app.access.keys.people().remove(name).ok_or_else(not_found)
}

async fn put(app: &App, name: &str, person: &PersonRecord) -> Result<(), ApiError> {
    let change = app.access.keys.stored().put_person(name, person).map_err(|error| failed(&error))?;
    store(app, vec![change]).await
}

async fn hashed(app: &App, text: &str) -> Result<Password, ApiError> {
    if !(PASSWORD_BYTES_MIN..=PASSWORD_BYTES_MAX).contains(&text.len()) {
        let message = format!("a password has {PASSWORD_BYTES_MIN} to {PASSWORD_BYTES_MAX} bytes");
        return Err(ApiError::bad_request(message));
    }
    let text = text.to_owned();
    let hashed = app.access.keys.hash(move || Password::new(&text)).await;
    let interrupted = || ApiError::internal("the password could not be hashed");
    hashed.ok_or_else(interrupted)?.map_err(|error| failed(&error))
}

fn text<'a>(body: &'a Map<String, Value>, field: &str) -> Result<&'a str, ApiError> {
    let text = body.get(field).and_then(Value::as_str);
    text.ok_or_else(|| ApiError::bad_request(format!("{field}: a text is missing")))
}

fn address(ConnectInfo(peer): ConnectInfo<SocketAddr>) -> std::net::IpAddr {
    peer.ip().to_canonical()
}
