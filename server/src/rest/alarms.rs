//! `/alarms`: what is on. The platform's own alarms come from the presence projection, those about devices from the
//! board of the engine.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::reply::{
    ApiError, Body, BodyRefused, ErrorBody, Page, PageParams, Paged, Params, Refused, rfc3339,
};
use super::{App, audit};
use crate::access::Caller;

/// What is served here.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(force_deactivate))
}

/// An alarm that is on.
#[derive(utoipa::ToSchema)]
#[schema(as = Alarm)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct Described {
    node: String,
    /// `NAME/CLIENTID`, or the name alone where it is about no one device.
    name: String,
    message: String,
    details: Details,
    /// Milliseconds so far.
    duration: i64,
    #[schema(format = DateTime)]
    activate_at: String,
    /// `infinity` while it is on.
    deactivate_at: String,
}

/// What else is known of it.
#[derive(utoipa::ToSchema)]
#[schema(as = AlarmDetails)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct Details {
    alarm: String,
    kind: String,
    severity: String,
    #[schema(required = true)]
    clientid: Option<String>,
    #[schema(required = true)]
    username: Option<String>,
    #[schema(required = true, format = DateTime)]
    since: Option<String>,
}

/// Which alarm is to end.
#[derive(utoipa::ToSchema)]
#[schema(as = AlarmName)]
#[expect(dead_code, reason = "describes what is read as JSON")]
struct Named {
    /// `NAME/CLIENTID`, or `NAME` for all devices.
    name: String,
}

/// One page of alarms about devices that are on. Those that are over are in the log and in the alarms' targets.
#[utoipa::path(get, path = "/alarms", tag = "Alarms", operation_id = "alarms_list",
    params(
        PageParams,
        ("activated" = Option<bool>, Query, description = "true (default): those that are on; false: none are kept"),
    ),
    responses((status = 200, description = "A page", body = Paged<Described>), (status = 400, body = ErrorBody), Refused))]
async fn list(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let params = Params::new(query);
    let page = Page::from_params(&params)?;
    let now_ms = app.clock.wall_ms();
    let active = match params.flag("activated")? {
        Some(false) => Vec::new(),
        _ => app.pipelines.board().active(),
    };
    let total = active.len() as u64;
    let skip = usize::try_from(page.skip()).unwrap_or(usize::MAX);
    let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
    let shown = active.iter().skip(skip).take(limit).map(|it| {
        let name =
            if it.clientid.is_empty() { it.name.clone() } else { format!("{}/{}", it.name, it.clientid) };
        json!({
            "node": &*app.node,
            "name": name,
            "message": it.message,
            "details": {
                "alarm": it.name,
                "kind": it.kind,
                "severity": it.severity,
                "clientid": (!it.clientid.is_empty()).then_some(&it.clientid),
                "username": it.username,
                "since": (it.since_ms > 0).then(|| rfc3339(it.since_ms)),
            },
            "duration": now_ms.saturating_sub(it.activated_at_ms).max(0),
            "activate_at": rfc3339(it.activated_at_ms),
            "deactivate_at": "infinity",
        })
    });
    Ok(page.envelope(shown.collect(), total, false))
}

/// Ends an alarm about a device; it is raised again only after the device was back.
#[utoipa::path(post, path = "/alarms/force_deactivate", tag = "Alarms", operation_id = "alarms_force_deactivate",
    request_body = Named,
    responses((status = 204, description = "It ends"), (status = 404, description = "It is not on", body = ErrorBody),
        Refused, BodyRefused))]
async fn force_deactivate(
    State(app): State<App>,
    caller: Caller,
    Body(fields): Body,
) -> Result<StatusCode, ApiError> {
    let Some(name) = fields.get("name").and_then(Value::as_str) else {
        return Err(ApiError::bad_request("name: must be text"));
    };
    let ended = app.pipelines.board().force_deactivate(name, app.clock.wall_ms());
    if ended == 0 {
        return Err(ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "no such alarm is on"));
    }
    audit::write(&app, &caller, "alarms.force_deactivate", name, json!({"ended": ended})).await;
    Ok(StatusCode::NO_CONTENT)
}
