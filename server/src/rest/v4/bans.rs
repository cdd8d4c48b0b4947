//! `/banned`: who is shut out.

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, App, Refusal};
use crate::access::Caller;
use crate::rest::bans;
use crate::rest::reply::{Body, BodyRefused, PageParams, Path, Refused};

/// The paths of it.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(remove))
}

/// List bans.
#[utoipa::path(
    get, path = "/banned", tag = "Older dialect", operation_id = "v4_banned", params(PageParams),
    responses((status = 200, description = "One page of them", body = Answer), Refused)
)]
async fn list(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, Refusal> {
    let Json(mut found) = bans::list(State(app), Query(query)).await?;
    found["code"] = 0.into();
    Ok(Json(found).into_response())
}

/// Shut somebody out.
#[utoipa::path(
    post, path = "/banned", tag = "Older dialect", operation_id = "v4_banned_create", request_body = bans::Asked,
    responses((status = 200, description = "Code 0: the ban", body = Answer), Refused, BodyRefused)
)]
async fn create(State(app): State<App>, caller: Caller, body: Body) -> Result<Response, Refusal> {
    let Json(ban) = bans::create(State(app), caller, body).await?;
    Ok(super::ok(ban))
}

/// End a ban.
#[utoipa::path(
    delete, path = "/banned/{as}/{who}", tag = "Older dialect", operation_id = "v4_banned_delete",
    params(("as" = String, Path, description = "The kind"), ("who" = String, Path, description = "Of whom")),
    responses((status = 200, description = "Code 0: it has ended", body = Answer), Refused)
)]
async fn remove(
    State(app): State<App>,
    caller: Caller,
    path: Path<(String, String)>,
) -> Result<Response, Refusal> {
    bans::remove(State(app), caller, path).await?;
    Ok(super::done())
}
