//! `/authorization/sources/built_in_database/rules`: the rules of clients, of users, and for everybody.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use muster_broker::authz::Owner;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::App;
use super::super::audit;
use super::super::reply::{AnyBody, ApiError, BodyRefused, ErrorBody, Page, Params, Path, Refused};
use super::body::{ClientRules, ClientRulesPage, OtherRules, RulesForAll, UserRules, UserRulesPage, read};
use super::shown;
use crate::access::{Caller, RefusedRules};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(purge))
        .routes(routes!(all, put_all, remove_all))
        .routes(routes!(clients, create_clients))
        .routes(routes!(client, put_client, remove_client))
        .routes(routes!(users, create_users))
        .routes(routes!(user, put_user, remove_user))
}

/// Removes every rule. The source must be disabled.
#[utoipa::path(delete, path = "/authorization/sources/built_in_database/rules", tag = "Authorization",
    operation_id = "authorization_rules_purge",
    responses((status = 204, description = "No rule is left"),
        (status = 400, description = "The source is enabled", body = ErrorBody), Refused))]
async fn purge(State(app): State<App>, caller: Caller) -> Result<StatusCode, ApiError> {
    app.access.authz.purge().await.map_err(refusal)?;
    audit::write(&app, &caller, "authorization.rules.purge", "", json!({})).await;
    Ok(StatusCode::NO_CONTENT)
}

/// The rules for everybody.
#[utoipa::path(get, path = "/authorization/sources/built_in_database/rules/all", tag = "Authorization",
    operation_id = "authorization_rules_all",
    responses((status = 200, body = RulesForAll), Refused))]
async fn all(State(app): State<App>) -> Json<Value> {
    Json(json!({"rules": shown(&app.access.authz.all())}))
}

/// Other rules for everybody.
#[utoipa::path(post, path = "/authorization/sources/built_in_database/rules/all", tag = "Authorization",
    operation_id = "authorization_rules_all_put", request_body = RulesForAll,
    responses((status = 204, description = "They count"), BodyRefused, Refused))]
async fn put_all(
    State(app): State<App>,
    caller: Caller,
    AnyBody(value): AnyBody,
) -> Result<StatusCode, ApiError> {
    let RulesForAll { rules } = read(value)?;
    let details = json!({"rules": shown(&rules)});
    app.access.authz.set_all(rules).await.map_err(refusal)?;
    audit::write(&app, &caller, "authorization.rules.update", "all", details).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes the rules for everybody.
#[utoipa::path(delete, path = "/authorization/sources/built_in_database/rules/all", tag = "Authorization",
    operation_id = "authorization_rules_all_delete",
    responses((status = 204, description = "Gone"), Refused))]
async fn remove_all(State(app): State<App>, caller: Caller) -> Result<StatusCode, ApiError> {
    app.access.authz.set_all(Vec::new()).await.map_err(refusal)?;
    audit::write(&app, &caller, "authorization.rules.delete", "all", json!({})).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Clients with rules, in the order of their names.
#[utoipa::path(get, path = "/authorization/sources/built_in_database/rules/clients", tag = "Authorization",
    operation_id = "authorization_rules_clients",
    params(
        ("page" = Option<u64>, Query, description = "From 1", minimum = 1),
        ("limit" = Option<u64>, Query, description = "Entries on a page", minimum = 1, maximum = 10000),
        ("like_clientid" = Option<String>, Query, description = "A part of the name")),
    responses((status = 200, body = ClientRulesPage), (status = 400, description = "No such page", body = ErrorBody),
        Refused))]
async fn clients(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    list(&app, Owner::Client, "clientid", Params::new(query))
}

/// Gives clients rules that have none: all of them, or none.
#[utoipa::path(post, path = "/authorization/sources/built_in_database/rules/clients", tag = "Authorization",
    operation_id = "authorization_rules_clients_create", request_body = Vec<ClientRules>,
    responses((status = 204, description = "They count"),
        (status = 409, description = "One has rules already", body = ErrorBody), BodyRefused, Refused))]
async fn create_clients(
    State(app): State<App>,
    caller: Caller,
    AnyBody(value): AnyBody,
) -> Result<StatusCode, ApiError> {
    let details = value.clone();
    let entries: Vec<ClientRules> = read(value)?;
    let entries = entries.into_iter().map(|it| (it.clientid, it.rules)).collect();
    app.access.authz.create(Owner::Client, entries).await.map_err(refusal)?;
    audit::write(&app, &caller, "authorization.rules.create", "clients", json!({"entries": details})).await;
    Ok(StatusCode::NO_CONTENT)
}

/// The rules of one client.
#[utoipa::path(get, path = "/authorization/sources/built_in_database/rules/clients/{clientid}",
    tag = "Authorization", operation_id = "authorization_rules_client", params(("clientid" = String, Path, description = "The client's name")),
    responses((status = 200, body = ClientRules), (status = 404, description = "It has no rules", body = ErrorBody),
        Refused))]
async fn client(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let rules = app.access.authz.owned(Owner::Client, &id).ok_or_else(not_found)?;
    Ok(Json(json!({"clientid": id, "rules": shown(&rules)})))
}

/// Gives a client other rules.
#[utoipa::path(put, path = "/authorization/sources/built_in_database/rules/clients/{clientid}",
    tag = "Authorization", operation_id = "authorization_rules_client_put", request_body = OtherRules,
    params(("clientid" = String, Path, description = "The client's name")),
    responses((status = 204, description = "They count"),
        (status = 404, description = "It has no rules", body = ErrorBody), BodyRefused, Refused))]
async fn put_client(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    AnyBody(value): AnyBody,
) -> Result<StatusCode, ApiError> {
    let OtherRules { rules, .. } = read(value)?;
    let details = json!({"rules": shown(&rules)});
    app.access.authz.replace(Owner::Client, &id, rules).await.map_err(refusal)?;
    audit::write(&app, &caller, "authorization.rules.update", &id, details).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes the rules of a client.
#[utoipa::path(delete, path = "/authorization/sources/built_in_database/rules/clients/{clientid}",
    tag = "Authorization", operation_id = "authorization_rules_client_delete",
    params(("clientid" = String, Path, description = "The client's name")),
    responses((status = 204, description = "Gone"),
        (status = 404, description = "It has no rules", body = ErrorBody), Refused))]
async fn remove_client(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    app.access.authz.remove(Owner::Client, &id).await.map_err(refusal)?;
    audit::write(&app, &caller, "authorization.rules.delete", &id, json!({})).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Users with rules, in the order of their names.
#[utoipa::path(get, path = "/authorization/sources/built_in_database/rules/users", tag = "Authorization",
    operation_id = "authorization_rules_users",
    params(
        ("page" = Option<u64>, Query, description = "From 1", minimum = 1),
        ("limit" = Option<u64>, Query, description = "Entries on a page", minimum = 1, maximum = 10000),
        ("like_username" = Option<String>, Query, description = "A part of the name")),
    responses((status = 200, body = UserRulesPage), (status = 400, description = "No such page", body = ErrorBody),
        Refused))]
async fn users(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    list(&app, Owner::User, "username", Params::new(query))
}

/// Gives users rules that have none: all of them, or none.
#[utoipa::path(post, path = "/authorization/sources/built_in_database/rules/users", tag = "Authorization",
    operation_id = "authorization_rules_users_create", request_body = Vec<UserRules>,
    responses((status = 204, description = "They count"),
        (status = 409, description = "One has rules already", body = ErrorBody), BodyRefused, Refused))]
async fn create_users(
    State(app): State<App>,
    caller: Caller,
    AnyBody(value): AnyBody,
) -> Result<StatusCode, ApiError> {
    let details = value.clone();
    let entries: Vec<UserRules> = read(value)?;
    let entries = entries.into_iter().map(|it| (it.username, it.rules)).collect();
    app.access.authz.create(Owner::User, entries).await.map_err(refusal)?;
    audit::write(&app, &caller, "authorization.rules.create", "users", json!({"entries": details})).await;
    Ok(StatusCode::NO_CONTENT)
}

/// The rules of one user.
#[utoipa::path(get, path = "/authorization/sources/built_in_database/rules/users/{username}",
    tag = "Authorization", operation_id = "authorization_rules_user", params(("username" = String, Path, description = "The user's name")),
    responses((status = 200, body = UserRules), (status = 404, description = "It has no rules", body = ErrorBody),
        Refused))]
async fn user(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let rules = app.access.authz.owned(Owner::User, &id).ok_or_else(not_found)?;
    Ok(Json(json!({"username": id, "rules": shown(&rules)})))
}

/// Gives a user other rules.
#[utoipa::path(put, path = "/authorization/sources/built_in_database/rules/users/{username}",
    tag = "Authorization", operation_id = "authorization_rules_user_put", request_body = OtherRules,
    params(("username" = String, Path, description = "The user's name")),
    responses((status = 204, description = "They count"),
        (status = 404, description = "It has no rules", body = ErrorBody), BodyRefused, Refused))]
async fn put_user(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    AnyBody(value): AnyBody,
) -> Result<StatusCode, ApiError> {
    let OtherRules { rules, .. } = read(value)?;
    let details = json!({"rules": shown(&rules)});
    app.access.authz.replace(Owner::User, &id, rules).await.map_err(refusal)?;
    audit::write(&app, &caller, "authorization.rules.update", &id, details).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes the rules of a user.
#[utoipa::path(delete, path = "/authorization/sources/built_in_database/rules/users/{username}",
    tag = "Authorization", operation_id = "authorization_rules_user_delete",
    params(("username" = String, Path, description = "The user's name")),
    responses((status = 204, description = "Gone"),
        (status = 404, description = "It has no rules", body = ErrorBody), Refused))]
async fn remove_user(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    app.access.authz.remove(Owner::User, &id).await.map_err(refusal)?;
    audit::write(&app, &caller, "authorization.rules.delete", &id, json!({})).await;
    Ok(StatusCode::NO_CONTENT)
}

fn list(app: &App, owner: Owner, key: &str, params: Params) -> Result<Json<Value>, ApiError> {
    let page = Page::from_params(&params)?;
    let like = params.one(&format!("like_{key}"));
    let skip = usize::try_from(page.skip()).unwrap_or(usize::MAX);
    let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
    let (found, total) = app.access.authz.page(owner, like, skip, limit);
    let entry = |(id, rules): (String, Vec<_>)| json!({key: id, "rules": shown(&rules)});
    Ok(page.envelope(found.into_iter().map(entry).collect(), total as u64, like.is_some()))
}

fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "no such rules")
}

/// Why a change was not made, as an answer.
pub(in crate::rest) fn refusal(error: RefusedRules) -> ApiError {
    let message = error.to_string();
    match error {
        RefusedRules::NotFound => not_found(),
        RefusedRules::Exists(_) => ApiError::new(StatusCode::CONFLICT, "ALREADY_EXISTS", message),
        RefusedRules::Rule { .. }
        | RefusedRules::TooMany(_)
        | RefusedRules::Owner
        | RefusedRules::Full
        | RefusedRules::Enabled => ApiError::bad_request(message),
        RefusedRules::Store(error) => {
            let error = crate::error::chain(&error);
            tracing::error!(%error, "permissions could not be stored");
            ApiError::internal(message)
        }
    }
}
