//! Many users in one request: a JSON array, or a file of CSV or JSON in a form.

use axum::Json;
use axum::body::Bytes;
use axum::extract::multipart::MultipartError;
use axum::extract::{FromRequest, Multipart, Query, Request, State};
use axum::http::{StatusCode, header};
use serde_json::{Value, json};

use super::super::reply::{AnyBody, ApiError, BodyRefused, ErrorBody, Params, Refused};
use super::super::{audit, limits};
use super::{App, IdPath, PathResult, in_path};
use crate::access::{Caller, ImportRow, ImportType, rows_of_csv, rows_of_json};

/// Most users in one request.
const ROWS_MAX: usize = 100_000;

/// A user to be imported: `password` with `type=plain`, `password_hash` and `salt` with `type=hash`.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is read as JSON")]
pub(super) struct ImportedUser {
    user_id: String,
    #[schema(nullable = false)]
    password: Option<String>,
    #[schema(nullable = false)]
    password_hash: Option<String>,
    #[schema(nullable = false)]
    salt: Option<String>,
    #[schema(nullable = false)]
    is_superuser: Option<bool>,
}

/// What came of an import.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is written as JSON")]
pub(super) struct ImportCounts {
    /// Rows that came.
    total: u64,
    /// New users.
    success: u64,
    /// Users that were there and are replaced.
    #[schema(rename = "override")]
    overridden: u64,
    /// Rows of a name that came again behind them.
    skipped: u64,
    /// Rows that cannot be used.
    failed: u64,
}

/// What the rows hold.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what is parsed elsewhere")]
pub(super) struct ImportQuery {
    /// `plain` (passwords) or `hash` (hashes made by the authenticator's algorithm).
    #[param(example = "plain")]
    r#type: Option<String>,
}

/// Makes many users.
#[utoipa::path(post, path = "/authentication/{id}/import_users", tag = "Authentication", operation_id = "device_users_import",
    params(IdPath, ImportQuery), request_body = Vec<ImportedUser>,
    responses((status = 200, description = "What came of it", body = ImportCounts),
        (status = 404, description = "There is no such authenticator", body = ErrorBody), BodyRefused, Refused))]
pub(super) async fn import(
    State(app): State<App>,
    caller: Caller,
    path: PathResult<String>,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let id = in_path(path)?;
    let params = Params::new(query);
    let kind = match params.one("type") {
        None | Some("plain") => ImportType::Plain,
        Some("hash") => ImportType::Hash,
        Some(_) => return Err(ApiError::bad_request("type: is plain or hash")),
    };
    let rows = rows(request, kind).await?;
    if rows.len() > ROWS_MAX {
        return Err(ApiError::bad_request(format!("at most {ROWS_MAX} users in one request")));
    }
    let counts = app.access.authn.import_users(&id, kind, rows).await?;
    let shown = json!({
        "total": counts.total, "success": counts.success, "override": counts.overridden,
        "skipped": counts.skipped, "failed": counts.failed,
    });
    audit::write(&app, &caller, "users.import", &id, shown.clone()).await;
    Ok(Json(shown))
}

async fn rows(request: Request, kind: ImportType) -> Result<Vec<Option<ImportRow>>, ApiError> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let is_form = content_type.is_some_and(|it| it.to_ascii_lowercase().starts_with("multipart/form-data"));
    if !is_form {
        let AnyBody(body) = AnyBody::from_request(request, &()).await?;
        return rows_of_json(body.to_string().as_bytes(), kind).map_err(ApiError::bad_request);
    }
    let (name, file) = file_of(request).await?;
    let parsed = match name.to_ascii_lowercase().rsplit_once('.') {
        Some((_, "csv")) => rows_of_csv(&file, kind),
        Some((_, "json")) => rows_of_json(&file, kind),
        _ => Err("the file's name ends neither in .csv nor in .json".to_owned()),
    };
    parsed.map_err(ApiError::bad_request)
}

/// The file in the form's field `filename`, and what it is called.
async fn file_of(request: Request) -> Result<(String, Bytes), ApiError> {
    limits::check_body(&request)?;
    let form = Multipart::from_request(request, &()).await;
    let mut form = form.map_err(|_| ApiError::bad_request("the form cannot be read"))?;
    while let Some(field) = form.next_field().await.map_err(|error| unreadable(&error))? {
        if field.name() == Some("filename") {
            let name = field.file_name().unwrap_or_default().to_owned();
            return Ok((name, field.bytes().await.map_err(|error| unreadable(&error))?));
        }
    }
    Err(ApiError::bad_request("the form has no file in a field `filename`"))
}

fn unreadable(error: &MultipartError) -> ApiError {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return limits::too_large("the body is too large");
    }
    ApiError::bad_request("the form cannot be read")
}
