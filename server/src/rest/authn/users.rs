//! The users of a built-in authenticator.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::super::audit;
use super::super::reply::{ApiError, Body, BodyRefused, ErrorBody, Page, Params, Refused};
use super::{App, IdPath, PathResult, UserPath, flag, in_path, known, text};
use crate::access::{Caller, UserFilter};

/// A user.
#[derive(utoipa::ToSchema)]
#[schema(as = DeviceUser)]
#[expect(dead_code, reason = "describes what is written as JSON")]
pub(super) struct User {
    /// The user name or client identifier.
    user_id: String,
    /// May do everything.
    is_superuser: bool,
}

/// A user to be made.
#[derive(utoipa::ToSchema)]
#[schema(as = NewDeviceUser)]
#[expect(dead_code, reason = "describes what is read as JSON")]
pub(super) struct NewUser {
    /// The user name or client identifier.
    #[schema(min_length = 1, max_length = 1024)]
    user_id: String,
    /// The password.
    #[schema(min_length = 1, max_length = 4096)]
    password: String,
    /// May do everything.
    is_superuser: Option<bool>,
}

/// What a user is to be from now on.
#[derive(utoipa::ToSchema)]
#[schema(as = DeviceUserChange)]
#[expect(dead_code, reason = "describes what is read as JSON")]
pub(super) struct UserChange {
    /// The password.
    #[schema(min_length = 1, max_length = 4096)]
    password: String,
    /// May do everything; as it is where absent.
    is_superuser: Option<bool>,
}

/// A page of users.
#[derive(utoipa::ToSchema)]
#[schema(as = DeviceUserPage)]
#[expect(dead_code, reason = "describes what is written as JSON")]
pub(super) struct UserPage {
    data: Vec<User>,
    meta: UserMeta,
}

/// Where a page stands.
#[derive(utoipa::ToSchema)]
#[schema(as = DeviceUserMeta)]
#[expect(dead_code, reason = "describes what is written as JSON")]
pub(super) struct UserMeta {
    page: u64,
    limit: u64,
    /// How many there are; absent with `like_user_id`.
    #[schema(nullable = false)]
    count: Option<u64>,
    hasnext: bool,
}

/// Which users are listed.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what is parsed elsewhere")]
pub(super) struct UserQuery {
    #[param(minimum = 1)]
    page: Option<u64>,
    #[param(minimum = 1, maximum = 10000)]
    limit: Option<u64>,
    /// Those whose name holds this.
    like_user_id: Option<String>,
    /// Those with this flag.
    is_superuser: Option<bool>,
}

/// One page of users, by name.
#[utoipa::path(get, path = "/authentication/{id}/users", tag = "Authentication", operation_id = "device_users_list",
    params(IdPath, UserQuery),
    responses((status = 200, description = "One page of users, by name", body = UserPage),
        (status = 400, description = "A parameter cannot be read, or there are no users here", body = ErrorBody),
        (status = 404, description = "There is no such authenticator", body = ErrorBody), Refused))]
pub(super) async fn list(
    State(app): State<App>,
    path: PathResult<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let params = Params::new(query);
    let page = Page::from_params(&params)?;
    let filter = UserFilter {
        like: params.one("like_user_id").map(str::to_owned),
        is_superuser: params.flag("is_superuser")?,
    };
    let skip = usize::try_from(page.skip()).unwrap_or(usize::MAX);
    let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
    let (users, total) = app.access.authn.list_users(&in_path(path)?, &filter, skip, limit)?;
    Ok(page.envelope(users, total, filter.like.is_some()))
}

/// Makes a user.
#[utoipa::path(post, path = "/authentication/{id}/users", tag = "Authentication", operation_id = "device_users_create",
    params(IdPath), request_body = NewUser,
    responses((status = 201, description = "The user", body = User),
        (status = 404, description = "There is no such authenticator", body = ErrorBody),
        (status = 409, description = "There is one of this name", body = ErrorBody), BodyRefused, Refused))]
pub(super) async fn create(
    State(app): State<App>,
    caller: Caller,
    path: PathResult<String>,
    Body(fields): Body,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let id = in_path(path)?;
    known(&fields, &["user_id", "password", "is_superuser"])?;
    let (name, password) = (text(&fields, "user_id")?, text(&fields, "password")?);
    let is_superuser = flag(&fields, "is_superuser")?.unwrap_or(false);
    let made = app.access.authn.create_user(&id, name, password, is_superuser).await?;
    let details = json!({"authenticator": id, "is_superuser": is_superuser});
    audit::write(&app, &caller, "users.create", name, details).await;
    Ok((StatusCode::CREATED, Json(made)))
}

/// One user.
#[utoipa::path(get, path = "/authentication/{id}/users/{user_id}", tag = "Authentication", operation_id = "device_users_get",
    params(UserPath),
    responses((status = 200, description = "The user", body = User),
        (status = 400, description = "The path cannot be read, or there are no users here", body = ErrorBody),
        (status = 404, description = "There is none", body = ErrorBody), Refused))]
pub(super) async fn one(
    State(app): State<App>,
    path: PathResult<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let (id, name) = in_path(path)?;
    Ok(Json(app.access.authn.user(&id, &name)?))
}

/// Gives a user another password.
#[utoipa::path(put, path = "/authentication/{id}/users/{user_id}", tag = "Authentication", operation_id = "device_users_update",
    params(UserPath), request_body = UserChange,
    responses((status = 200, description = "The user as it is now", body = User),
        (status = 404, description = "There is none", body = ErrorBody), BodyRefused, Refused))]
pub(super) async fn update(
    State(app): State<App>,
    caller: Caller,
    path: PathResult<(String, String)>,
    Body(fields): Body,
) -> Result<Json<Value>, ApiError> {
    let (id, name) = in_path(path)?;
    known(&fields, &["user_id", "password", "is_superuser"])?;
    let password = text(&fields, "password")?;
    let is_superuser = flag(&fields, "is_superuser")?;
    let made = app.access.authn.update_user(&id, &name, Some(password), is_superuser).await?;
    audit::write(&app, &caller, "users.update", &name, json!({"authenticator": id})).await;
    Ok(Json(made))
}

/// Removes a user.
#[utoipa::path(delete, path = "/authentication/{id}/users/{user_id}", tag = "Authentication", operation_id = "device_users_delete",
    params(UserPath),
    responses((status = 204, description = "The user is gone"),
        (status = 400, description = "The path cannot be read, or there are no users here", body = ErrorBody),
        (status = 404, description = "There is none", body = ErrorBody), Refused))]
pub(super) async fn remove(
    State(app): State<App>,
    caller: Caller,
    path: PathResult<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let (id, name) = in_path(path)?;
    app.access.authn.remove_user(&id, &name).await?;
    audit::write(&app, &caller, "users.delete", &name, json!({"authenticator": id})).await;
    Ok(StatusCode::NO_CONTENT)
}
