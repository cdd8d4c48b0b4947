//! `POST /api/v1/pipelines/{pause,resume,reset}`: what an operator does with pipelines. Each names a rule, and a sink
//! and a target if not all of them are meant, and is answered with how those pipelines are doing now.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use muster_sinks::delivery::PipelineStatus;
use serde::Deserialize;
use serde_json::{Value, json};

use super::reply::{ApiError, BodyRefused, ErrorBody, Refused, Typed};
use super::{App, audit};
use crate::access::Caller;
use crate::error::{Error, ErrorKind, chain};
use crate::pipelines::Which;

/// Which pipelines are meant.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PipelinesMeant)]
pub(super) struct Meant {
    #[schema(example = "alarms")]
    rule: String,
    sink: Option<String>,
    target: Option<String>,
    /// Where to go on: `earliest`, `latest`, an offset or a time. Of a reset alone.
    #[schema(value_type = Option<ResetTo>)]
    to: Option<Value>,
}

/// `earliest`, `latest`, an offset or a time.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes what is read as JSON")]
enum ResetTo {
    Offset(u64),
    Place(String),
}

/// How those pipelines are doing now.
#[derive(utoipa::ToSchema)]
#[schema(as = PipelinesNow)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct Now {
    data: Vec<super::pipelines::Described>,
}

type Body = Typed<Meant>;

/// Halts pipelines until they are resumed, also over a restart.
#[utoipa::path(
    post, path = "/pipelines/pause", tag = "Pipelines", operation_id = "pipelines_pause", request_body = Meant,
    responses((status = 200, description = "How they are doing now", body = Now),
        (status = 404, description = "No such pipeline runs", body = ErrorBody), Refused, BodyRefused)
)]
pub(super) async fn pause(
    State(app): State<App>,
    caller: Caller,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let which = without_place(body)?;
    let answer = answer(app.pipelines.pause(&which).await)?;
    told(&app, &caller, "pipelines.pause", &which, json!({})).await;
    Ok(answer)
}

/// Lets pipelines go on.
#[utoipa::path(
    post, path = "/pipelines/resume", tag = "Pipelines", operation_id = "pipelines_resume", request_body = Meant,
    responses((status = 200, description = "How they are doing now", body = Now),
        (status = 404, description = "No such pipeline runs", body = ErrorBody), Refused, BodyRefused)
)]
pub(super) async fn resume(
    State(app): State<App>,
    caller: Caller,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let which = without_place(body)?;
    let answer = answer(app.pipelines.resume(&which).await)?;
    told(&app, &caller, "pipelines.resume", &which, json!({})).await;
    Ok(answer)
}

/// Lets pipelines go on from another place: rows are delivered again, or left out.
#[utoipa::path(
    post, path = "/pipelines/reset", tag = "Pipelines", operation_id = "pipelines_reset", request_body = Meant,
    responses((status = 200, description = "How they are doing now", body = Now),
        (status = 404, description = "No such pipeline runs", body = ErrorBody), Refused, BodyRefused)
)]
pub(super) async fn reset(
    State(app): State<App>,
    caller: Caller,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let (which, to) = meant(body);
    let to = match to {
        Some(Value::String(text)) => text,
        Some(Value::Number(offset)) => offset.to_string(),
        _ => {
            return Err(bad(
                "`to` is missing: earliest, latest, an offset, or a time such as 2026-01-02T03:04:05Z",
            ));
        }
    };
    let answer = answer(app.pipelines.reset(&which, &to).await)?;
    told(&app, &caller, "pipelines.reset", &which, json!({"to": to})).await;
    Ok(answer)
}

async fn told(app: &App, caller: &Caller, action: &str, which: &Which, mut details: Value) {
    if let Some(details) = details.as_object_mut() {
        details.insert("sink".to_owned(), which.sink.clone().into());
        details.insert("target".to_owned(), which.target.clone().into());
    }
    audit::write(app, caller, action, &which.rule, details).await;
}

fn meant(Typed(Meant { rule, sink, target, to }): Body) -> (Which, Option<Value>) {
    (Which { rule, sink, target }, to)
}

fn without_place(body: Body) -> Result<Which, ApiError> {
    match meant(body) {
        (which, None) => Ok(which),
        _ => Err(bad("`to` is of a reset alone")),
    }
}

fn answer(done: Result<Vec<PipelineStatus>, Error>) -> Result<Json<Value>, ApiError> {
    match done {
        Ok(pipelines) if pipelines.is_empty() => {
            let message = "no such pipeline runs; GET /api/v1/pipelines lists those that do";
            Err(ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", message))
        }
        Ok(pipelines) => Ok(Json(json!({"data": pipelines}))),
        Err(error) if error.kind() == ErrorKind::Config => Err(bad(error.to_string())),
        Err(error) => {
            tracing::warn!(error = %chain(&error), "an order to a pipeline failed");
            Err(ApiError::internal("the order could not be carried out; see the log"))
        }
    }
}

fn bad(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message)
}
