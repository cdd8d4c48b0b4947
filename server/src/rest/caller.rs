//! Who asks, as endpoints see it: whom the guard let in. Where no guard stands, nobody asks.

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde_json::{Value, json};

use crate::access::{Caller, Means};

/// The answer to nobody.
type Nobody = (StatusCode, Json<Value>);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Nobody;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Nobody> {
        parts.extensions.get::<Self>().cloned().ok_or_else(nobody)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Means {
    type Rejection = Nobody;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Nobody> {
        parts.extensions.get::<Self>().copied().ok_or_else(nobody)
    }
}

fn nobody() -> Nobody {
    let message = "Support authorization: basic/bearer";
    let body = json!({"code": "AUTHORIZATION_HEADER_ERROR", "message": message});
    (StatusCode::UNAUTHORIZED, Json(body))
}
