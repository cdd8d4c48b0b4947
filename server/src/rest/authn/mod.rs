//! `/authentication`: who may connect, in the shapes of EMQX v5. Passwords and secrets go in and never come out.

use axum::extract::Path;
use axum::http::StatusCode;
use serde_json::{Map, Value};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

mod chain;
mod import;
mod users;

use super::App;
use super::reply::ApiError;
use crate::access::ChangeError;
use crate::error::chain as causes;

/// The paths of it.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(chain::list, chain::create))
        .routes(routes!(chain::order))
        .routes(routes!(chain::one, chain::update, chain::remove))
        .routes(routes!(chain::status))
        .routes(routes!(chain::position))
        .routes(routes!(users::list, users::create))
        .routes(routes!(users::one, users::update, users::remove))
        .routes(routes!(import::import))
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::NotFound(what) => Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", what),
            ChangeError::Exists(what) => Self::new(StatusCode::CONFLICT, "ALREADY_EXISTS", what),
            ChangeError::Invalid(why) => Self::bad_request(why),
            ChangeError::Busy => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "SERVICE_UNAVAILABLE",
                "too many passwords wait to be hashed; try again",
            ),
            ChangeError::Storage(error) => {
                tracing::warn!(error = %causes(&error), "a change of authentication cannot be stored");
                Self::internal("the change cannot be stored; see the log")
            }
        }
    }
}

/// An authenticator's id in a path.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes what is parsed elsewhere")]
struct IdPath {
    /// For example `password_based:built_in_database`.
    id: String,
}

/// A user in a path.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes what is parsed elsewhere")]
struct UserPath {
    /// For example `password_based:built_in_database`.
    id: String,
    /// The user.
    user_id: String,
}

type PathResult<T> = Result<Path<T>, axum::extract::rejection::PathRejection>;

/// What stands in the path; what is no text there is no client's error of shape, but a bad request.
fn in_path<T>(path: PathResult<T>) -> Result<T, ApiError> {
    path.map(|Path(value)| value).map_err(|_| ApiError::bad_request("the path cannot be read"))
}

/// A text of a body that must be there.
fn text<'a>(fields: &'a Map<String, Value>, key: &str) -> Result<&'a str, ApiError> {
    let found = fields.get(key).ok_or_else(|| ApiError::bad_request(format!("{key}: is missing")))?;
    found.as_str().ok_or_else(|| ApiError::bad_request(format!("{key}: is no text")))
}

/// A flag of a body, if it is there.
fn flag(fields: &Map<String, Value>, key: &str) -> Result<Option<bool>, ApiError> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(ApiError::bad_request(format!("{key}: is neither true nor false"))),
    }
}

/// Refuses keys that mean nothing.
fn known(fields: &Map<String, Value>, keys: &[&str]) -> Result<(), ApiError> {
    match fields.keys().find(|key| !keys.contains(&key.as_str())) {
        Some(key) => Err(ApiError::bad_request(format!("{key}: is no field of this body"))),
        None => Ok(()),
    }
}
