//! `/api/v1/alarms`: every alarm that was raised, and who has seen it.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::App;
use super::super::devices::of_table;
use super::super::reply::{
    ApiError, BodyRefused, ErrorBody, Page, PageParams, Paged, Params, Path, Refused, Typed, rfc3339,
};
use super::{order, silence};
use crate::access::Caller;
use crate::presence::{self, ACKNOWLEDGE, Told, WantedAlarms};

/// Longest comment, in bytes.
pub(super) const COMMENT_BYTES_MAX: usize = 1_024;

/// What is served here.
pub(in crate::rest) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(acknowledge))
        .routes(routes!(silence::list, silence::begin))
        .routes(routes!(silence::end))
}

/// An alarm that was raised.
#[derive(utoipa::ToSchema)]
#[schema(as = RaisedAlarm)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct Described {
    /// The offset of the event that raised it.
    id: u64,
    name: String,
    /// Whom it is about; null where it is about no one device.
    #[schema(required = true)]
    clientid: Option<String>,
    #[schema(required = true)]
    username: Option<String>,
    /// `absence`, `silence`, `presence`, `flapping`, `storm` or `system`.
    kind: String,
    /// `critical`, `major`, `minor`, `warning` or `info`.
    severity: String,
    message: String,
    #[schema(value_type = Object)]
    details: Value,
    /// Whether it is on.
    active: bool,
    /// Since when the device was absent, of absences.
    #[schema(required = true, format = DateTime)]
    since: Option<String>,
    #[schema(format = DateTime)]
    activated_at: String,
    #[schema(required = true, format = DateTime)]
    deactivated_at: Option<String>,
    /// How long it lasted, in milliseconds; an absence from its beginning on.
    #[schema(required = true)]
    duration: Option<i64>,
    #[schema(required = true, format = DateTime)]
    acknowledged_at: Option<String>,
    #[schema(required = true)]
    acknowledged_by: Option<String>,
    #[schema(required = true)]
    comment: Option<String>,
}

/// That somebody has seen it.
#[derive(serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AlarmAcknowledgement)]
pub(super) struct Acknowledgement {
    /// What is to be said with it; at most 1,024 bytes.
    #[serde(default)]
    comment: String,
}

/// Alarms that were raised, the latest first.
#[utoipa::path(get, path = "/alarms", tag = "Alarms", operation_id = "alarms_raised",
    params(
        PageParams,
        ("active" = Option<bool>, Query, description = "Only those that are on, or only those that are over"),
        ("name" = Option<String>, Query, description = "The alarm's name"),
        ("clientid" = Option<String>, Query, description = "Whom it is about"),
        ("severity" = Option<String>, Query, description = "How grave it is"),
        ("acknowledged" = Option<bool>, Query, description = "Only those that were seen, or only those that were not"),
    ),
    responses((status = 200, description = "A page", body = Paged<Described>), (status = 400, body = ErrorBody),
        (status = 500, body = ErrorBody), Refused))]
async fn list(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let params = Params::new(query);
    let page = Page::from_params(&params)?;
    let text = |name| params.one(name).map(str::to_owned);
    let wanted = WantedAlarms {
        active: params.flag("active")?,
        name: text("name"),
        clientid: text("clientid"),
        severity: text("severity"),
        acknowledged: params.flag("acknowledged")?,
        offset: page.skip(),
        limit: page.limit,
    };
    let (alarms, total) = of_table(&app, move |database| presence::alarms(database, &wanted)).await?;
    Ok(page.envelope(alarms.iter().map(shown).collect(), total, false))
}

/// Says that somebody has seen an alarm. Saying it again replaces what was said.
#[utoipa::path(post, path = "/alarms/{id}/acknowledge", tag = "Alarms", operation_id = "alarms_acknowledge",
    params(("id" = u64, Path, description = "The alarm's id")),
    request_body = Acknowledgement,
    responses((status = 204, description = "It is said"),
        (status = 404, description = "There is no such alarm", body = ErrorBody), (status = 500, body = ErrorBody), Refused, BodyRefused))]
async fn acknowledge(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<u64>,
    Typed(body): Typed<Acknowledgement>,
) -> Result<StatusCode, ApiError> {
    check_comment(&body.comment)?;
    let known = of_table(&app, move |database| presence::alarm(database, id)).await?;
    if known.is_none() {
        return Err(ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "no alarm has this id"));
    }
    order(&app, &caller, ACKNOWLEDGE, &id.to_string(), json!({"comment": body.comment})).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn check_comment(comment: &str) -> Result<(), ApiError> {
    if comment.len() <= COMMENT_BYTES_MAX {
        return Ok(());
    }
    Err(ApiError::bad_request(format!("comment: has more than {COMMENT_BYTES_MAX} bytes")))
}

fn shown(it: &Told) -> Value {
    let time = |at: Option<i64>| at.map_or(Value::Null, rfc3339);
    let details: Value = serde_json::from_str(&it.details).unwrap_or_else(|_| json!({}));
    json!({
        "id": it.id,
        "name": it.name,
        "clientid": (!it.clientid.is_empty()).then_some(&it.clientid),
        "username": it.username,
        "kind": it.kind,
        "severity": it.severity,
        "message": it.message,
        "details": details,
        "active": it.deactivated_at_ms.is_none(),
        "since": time(Some(it.since_ms).filter(|since| *since > 0)),
        "activated_at": rfc3339(it.activated_at_ms),
        "deactivated_at": time(it.deactivated_at_ms),
        "duration": it.duration_ms,
        "acknowledged_at": time(it.acknowledged_at_ms),
        "acknowledged_by": it.acknowledged_by,
        "comment": it.comment,
    })
}
