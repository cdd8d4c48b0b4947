//! Alarms: `/api/v5/alarms` in the shape of the reference, `/api/v1/alarms` with all that is known of them. What is
//! listed was folded from the log; what operators do is an `admin` event, durable before it is answered, and folded as
//! well.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::devices::of_table;
use super::reply::{
    ApiError, Body, BodyRefused, ErrorBody, Page, PageParams, Paged, Params, Refused, rfc3339,
};
use super::{App, audit};
use crate::access::Caller;
use crate::alarms::FORCE;
use crate::presence::{self, CLEAR, Told, WantedAlarms};

mod silence;
mod v1;

pub(super) use v1::router as v1;

/// What is served here.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, clear)).routes(routes!(force_deactivate))
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

/// What else is known of it, with the alarm's own, such as `count` and `clientids` of a storm.
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

/// One page of alarms, the latest first.
#[utoipa::path(get, path = "/alarms", tag = "Alarms", operation_id = "alarms_list",
    params(
        PageParams,
        ("activated" = Option<bool>, Query, description = "Those that are on (default), or those that are over"),
    ),
    responses((status = 200, description = "A page", body = Paged<Described>), (status = 400, body = ErrorBody),
        (status = 500, body = ErrorBody), Refused))]
async fn list(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let params = Params::new(query);
    let page = Page::from_params(&params)?;
    let now_ms = app.clock.wall_ms();
    let wanted = WantedAlarms {
        active: Some(params.flag("activated")?.unwrap_or(true)),
        offset: page.skip(),
        limit: page.limit,
        ..WantedAlarms::default()
    };
    let (alarms, total) = of_table(&app, move |database| presence::alarms(database, &wanted)).await?;
    let shown = alarms.iter().map(|it| {
        let name =
            if it.clientid.is_empty() { it.name.clone() } else { format!("{}/{}", it.name, it.clientid) };
        let lasts_ms = || now_ms.saturating_sub(it.activated_at_ms).max(0);
        json!({
            "node": &*app.node,
            "name": name,
            "message": it.message,
            "details": details(it),
            "duration": it.duration_ms.unwrap_or_else(lasts_ms),
            "activate_at": rfc3339(it.activated_at_ms),
            "deactivate_at": it.deactivated_at_ms.map_or_else(|| "infinity".into(), rfc3339),
        })
    });
    Ok(page.envelope(shown.collect(), total, false))
}

/// The alarm's own, such as the number of a storm, with what is known of each.
fn details(it: &Told) -> Value {
    let own: Option<serde_json::Map<_, _>> = serde_json::from_str(&it.details).ok();
    let mut all = own.unwrap_or_default();
    let known = json!({
        "alarm": it.name,
        "kind": it.kind,
        "severity": it.severity,
        "clientid": (!it.clientid.is_empty()).then_some(&it.clientid),
        "username": it.username,
        "since": (it.since_ms > 0).then(|| rfc3339(it.since_ms)),
    });
    all.extend(known.as_object().cloned().unwrap_or_default());
    Value::Object(all)
}

/// Forgets the alarms that are over. They stay in the event log and in the alarms' targets.
#[utoipa::path(delete, path = "/alarms", tag = "Alarms", operation_id = "alarms_clear",
    responses((status = 204, description = "They are forgotten"), Refused))]
async fn clear(State(app): State<App>, caller: Caller) -> Result<StatusCode, ApiError> {
    order(&app, &caller, CLEAR, "", json!({})).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends an alarm about a device, or all of a name with its storm; it is raised again only after the device was back.
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
    let on = app.pipelines.board().on(name);
    if on == 0 {
        return Err(ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "no such alarm is on"));
    }
    // The engine reads it from the log, so that it is neither lost nor done twice.
    order(&app, &caller, FORCE, name, json!({"ended": on})).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Writes what an operator wants of alarms; the offset of its event, which is durable. Lists show it a moment later.
async fn order(
    app: &App,
    caller: &Caller,
    action: &str,
    object: &str,
    details: Value,
) -> Result<u64, ApiError> {
    audit::record(app, caller, action, object, details).await.map_err(|error| {
        tracing::warn!(%error, action, object, "the log takes nothing now");
        let message = "the event log takes nothing now, and this would stand nowhere else";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", message)
    })
}
