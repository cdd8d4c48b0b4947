//! `/api/v4`: the older dialect of the platform guide. It answers nearly everything with status 200 and says in a code
//! whether it went well: `{"code": 0, "data": .., "meta": ..}`. Each path does what its twin under `/api/v5` does, by
//! the same means.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::App;
use super::reply::{ApiError, Page};

mod acl;
mod bans;
mod clients;
mod publish;
mod stats;
mod users;

/// The paths of the dialect.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(users::router())
        .merge(acl::router())
        .merge(clients::router())
        .merge(bans::router())
        .merge(publish::router())
        .merge(stats::router())
}

/// What went wrong, as the dialect numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
#[expect(dead_code, reason = "each is named where it is needed")]
pub(super) enum Code {
    Unknown = 102,
    WrongLogin = 103,
    EmptyLogin = 104,
    NoSuchUser = 105,
    MissingParameter = 107,
    BadParameter = 108,
    NoJson = 109,
    ClientOffline = 112,
    UserExists = 113,
}

/// The body of every answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = V4Answer)]
pub(super) struct Answer {
    /// 0: it went well. Else what went wrong: 102 unknown, 103 and 104 the login, 105 no such user, 107 a missing and
    /// 108 a wrong parameter, 109 no JSON, 112 the client is not there, 113 there is such a user.
    code: u16,
    /// What was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
    /// Which part of a list it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, nullable = false)]
    meta: Option<Value>,
    /// What went wrong, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    message: Option<String>,
}

/// A good answer.
pub(super) fn ok(data: impl Into<Value>) -> Response {
    Json(json!({"code": 0, "data": data.into()})).into_response()
}

/// A good answer that has nothing to say.
pub(super) fn done() -> Response {
    Json(json!({"code": 0})).into_response()
}

/// One page of a list.
pub(super) fn page(page: Page, data: Vec<Value>, total: u64) -> Response {
    let meta = json!({"page": page.page, "limit": page.limit, "count": total});
    Json(json!({"code": 0, "data": data, "meta": meta})).into_response()
}

/// An answer that it did not go well, and why.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) Code, pub(super) String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({"code": self.0 as u16, "message": self.1});
        (StatusCode::OK, Json(body)).into_response()
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self(Code::BadParameter, error.message().to_owned())
    }
}
