//! What every endpoint shares: error bodies, parameters, pages and times, in the shapes that EMQX v5 clients expect.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::limits;

/// Most entries on one page.
const LIMIT_MAX: u64 = 10_000;
/// The last page that can be asked for: what fits into the integers of every client.
const PAGE_MAX: u64 = i64::MAX.cast_unsigned();
/// Entries on one page when nobody says how many.
const LIMIT_DEFAULT: u64 = 100;

/// The body of an error.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    /// What is wrong, in one upper-case word, for programs.
    #[schema(example = "BAD_REQUEST")]
    code: String,
    /// What is wrong, for people.
    message: String,
}

/// What every path may answer. Named among the `responses` of each.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "describes answers that are made in many places")]
pub(super) enum Refused {
    /// Nobody says who asks, or it is not true.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// Who asks may not do this.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// Path and query are too long.
    #[response(status = 414)]
    UriTooLong(ErrorBody),
    /// Somebody at this address was wrong too often; `Retry-After` says when to come again.
    #[response(status = 429)]
    TooOften(ErrorBody),
    /// The request took too long, the node stops, or the log takes nothing.
    #[response(status = 503)]
    Unavailable(ErrorBody),
}

/// What every path with a body may answer besides. Named among the `responses` of each.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "describes answers that are made in many places")]
pub(super) enum BodyRefused {
    /// The body is no JSON, or a field of it cannot be used.
    #[response(status = 400)]
    Bad(ErrorBody),
    /// The body did not arrive within `http.request_timeout`.
    #[response(status = 408)]
    TooLate(ErrorBody),
    /// The body is larger than `http.body_bytes_max`.
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// The body is not said to be JSON.
    #[response(status = 415)]
    MediaType(ErrorBody),
}

/// An error as a body `{"code", "message"}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    pub(super) fn invalid_parameter(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID_PARAMETER", message)
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message)
    }

    pub(super) fn clientid_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "CLIENTID_NOT_FOUND", "Client ID not found")
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody { code: self.code.to_owned(), message: self.message };
        (self.status, Json(body)).into_response()
    }
}

/// The answer to a path that is not there, in the form that the client accepts.
pub(super) async fn path_not_found(headers: HeaderMap) -> Response {
    const MESSAGE: &str = "Request Path Not Found";
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.contains("application/json") {
        ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", MESSAGE).into_response()
    } else if accept.contains("text/plain") {
        (StatusCode::NOT_FOUND, MESSAGE).into_response()
    } else {
        let page =
            format!("<!DOCTYPE html><html><head><title>404</title></head><body>{MESSAGE}</body></html>");
        (StatusCode::NOT_FOUND, Html(page)).into_response()
    }
}

/// A request's body: a JSON object.
#[derive(Debug)]
pub(super) struct Body(pub(super) Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        match AnyBody::from_request(request, state).await? {
            AnyBody(Value::Object(fields)) => Ok(Self(fields)),
            AnyBody(_) => Err(ApiError::bad_request("the body is no JSON object")),
        }
    }
}

/// A request's body: any JSON.
#[derive(Debug)]
pub(super) struct AnyBody(pub(super) Value);

impl<S: Send + Sync> FromRequest<S> for AnyBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let value = serde_json::from_slice(&json_bytes(request, state).await?);
        value.map(Self).map_err(|error| ApiError::bad_request(format!("the body is no JSON: {error}")))
    }
}

/// A request's body: JSON of one type.
#[derive(Debug)]
pub(super) struct Typed<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Typed<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        parsed(&json_bytes(request, state).await?).map(Self)
    }
}

/// What a body says.
pub(super) fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let parsed = serde_json::from_slice(bytes);
    parsed.map_err(|error| ApiError::bad_request(format!("the body cannot be used: {error}")))
}

/// What stands in a path, percent-decoded. What cannot be read is answered in the shape of every other error.
#[derive(Debug)]
pub(super) struct Path<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let read = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        read.map(|axum::extract::Path(it)| Self(it))
            .map_err(|rejection| ApiError::bad_request(rejection.body_text()))
    }
}

/// The bytes of a body that is said to be JSON.
pub(super) async fn json_bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let media_type = content_type.and_then(|it| it.split(';').next()).unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        let (status, code) = (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE");
        return Err(ApiError::new(status, code, "content-type:application/json Required"));
    }
    limits::check_body(&request)?;
    Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => limits::too_large(rejection.body_text()),
        status => ApiError::new(status, "BAD_REQUEST", rejection.body_text()),
    })
}

/// The parameters of a query. A name may be written with or without a leading underscore.
#[derive(Debug, Default)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    pub(super) fn new(pairs: Vec<(String, String)>) -> Self {
        let bare = |name: String| name.strip_prefix('_').map(str::to_owned).unwrap_or(name);
        Self(pairs.into_iter().map(|(name, value)| (bare(name), value)).collect())
    }

    /// The last value of `name`.
    pub(super) fn one(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Every value of a name that may be repeated.
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    /// A value that must be one of `true` and `false`.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.parsed(name, |text| text.parse().ok())
    }

    /// A value that `parse` understands.
    pub(super) fn parsed<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(text) = self.one(name) else { return Ok(None) };
        let value = parse(text);
        value.map(Some).ok_or_else(|| ApiError::invalid_parameter(format!("{name}: cannot be read")))
    }

    /// A place in a list: a whole number that fits into the integers of every client.
    pub(super) fn place(&self, name: &str) -> Result<Option<u64>, ApiError> {
        self.parsed(name, |text| u64::try_from(text.parse::<i64>().ok()?).ok())
    }

    /// Milliseconds since 1970, written as such or as RFC 3339.
    pub(super) fn time(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.parsed(name, |text| {
            let millis = text.parse().ok();
            millis.or_else(|| text.parse().ok().map(|at: jiff::Timestamp| at.as_millisecond()))
        })
    }
}

/// What stands beside the data of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Meta {
    page: u64,
    limit: u64,
    /// How many there are; left out where a search by likeness makes counting expensive.
    #[schema(nullable = false)]
    count: Option<u64>,
    /// Whether there is another page.
    hasnext: bool,
    /// Of lists that can be read on from a place: what `cursor` of the next page is to be.
    #[schema(nullable = false)]
    cursor: Option<String>,
}

/// One page of a list.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes what Page writes")]
pub(super) struct Paged<T: ToSchema> {
    data: Vec<T>,
    meta: Meta,
}

/// The parameters of every list.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what Page reads")]
pub(super) struct PageParams {
    /// Which page.
    #[param(minimum = 1, default = 1)]
    page: Option<u64>,
    /// Entries on a page.
    #[param(minimum = 1, maximum = 10_000, default = 100)]
    limit: Option<u64>,
}

/// Which part of a list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) page: u64,
    pub(super) limit: u64,
}

impl Page {
    pub(super) fn from_params(params: &Params) -> Result<Self, ApiError> {
        let number = |name, default| match params.one(name).map(str::parse::<u64>) {
            None => Some(default),
            Some(Ok(number @ 1..=PAGE_MAX)) => Some(number),
            Some(_) => None,
        };
        match (number("page", 1), number("limit", LIMIT_DEFAULT)) {
            (Some(page), Some(limit)) if limit <= LIMIT_MAX => Ok(Self { page, limit }),
            _ => Err(ApiError::invalid_parameter("page_limit_invalid")),
        }
    }

    /// How many entries come before the page.
    pub(super) const fn skip(self) -> u64 {
        (self.page - 1).saturating_mul(self.limit)
    }

    /// One page of `total` entries in the usual envelope. `fuzzy` leaves the count out, as clients of the reference
    /// expect of searches by likeness.
    pub(super) fn envelope(self, data: Vec<Value>, total: u64, fuzzy: bool) -> Json<Value> {
        let hasnext = self.skip().saturating_add(self.limit) < total;
        let mut meta = json!({"page": self.page, "limit": self.limit, "hasnext": hasnext});
        if !fuzzy && let Some(meta) = meta.as_object_mut() {
            meta.insert("count".to_owned(), total.into());
        }
        Json(json!({"data": data, "meta": meta}))
    }
}

/// A time as the reference prints it: RFC 3339 with milliseconds and a numeric offset.
pub(super) fn rfc3339(ms: i64) -> Value {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(at) => at.strftime("%Y-%m-%dT%H:%M:%S%.3f+00:00").to_string().into(),
        Err(_) => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Params {
        Params::new(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn pages() {
        let page = |pairs: &[(&str, &str)]| Page::from_params(&params(pairs));
        assert_eq!(page(&[]), Ok(Page { page: 1, limit: 100 }));
        assert_eq!(page(&[("_page", "3"), ("limit", "10000")]), Ok(Page { page: 3, limit: 10_000 }));
        let invalid = Err(ApiError::invalid_parameter("page_limit_invalid"));
        for bad in
            [[("page", "0")], [("page", "x")], [("limit", "0")], [("limit", "10001")], [("limit", "-1")]]
        {
            assert_eq!(page(&bad), invalid, "{bad:?}");
        }
        let meta = |page: u64, total, fuzzy| {
            Page { page, limit: 10 }.envelope(vec![], total, fuzzy).0["meta"].to_string()
        };
        assert_eq!(meta(1, 11, false), r#"{"count":11,"hasnext":true,"limit":10,"page":1}"#);
        assert_eq!(meta(2, 20, false), r#"{"count":20,"hasnext":false,"limit":10,"page":2}"#);
        assert_eq!(meta(1, 11, true), r#"{"hasnext":true,"limit":10,"page":1}"#);
    }

    #[test]
    fn times_in_both_spellings() {
        assert_eq!(rfc3339(1_767_323_045_678), "2026-01-02T03:04:05.678+00:00");
        let params = params(&[("a", "1767323045678"), ("b", "2026-01-02T03:04:05.678+00:00"), ("c", "noon")]);
        assert_eq!(params.time("a"), Ok(Some(1_767_323_045_678)));
        assert_eq!(params.time("b"), Ok(Some(1_767_323_045_678)));
        assert_eq!(params.time("d"), Ok(None));
        assert!(params.time("c").is_err());
    }
}
