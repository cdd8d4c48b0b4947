//! `GET /api/v1/devices/{clientid}/history`: what happened to a device, the latest first.

use axum::Json;
use axum::extract::{Query, State};
use serde_json::{Value, json};

use super::super::App;
use super::super::reply::{ApiError, ErrorBody, Page, Params, Path, Refused, rfc3339};
use super::{known, of_table};
use crate::presence::{self, Happened, Part};

/// A part of a device's history.
#[derive(utoipa::ToSchema)]
#[schema(as = DeviceHistory)]
#[expect(dead_code, reason = "describes what is written as JSON")]
pub(super) struct Described {
    /// The latest first.
    data: Vec<Entry>,
    meta: Meta,
}

/// Something that happened to a device.
#[derive(utoipa::ToSchema)]
#[schema(as = DeviceHistoryEntry)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct Entry {
    /// Of the event; null where the event itself was not seen, only what followed from it.
    #[schema(required = true)]
    offset: Option<u64>,
    #[schema(format = DateTime)]
    at: String,
    /// The event's name, e.g. `client.disconnected`.
    kind: String,
    /// Of comings and goings.
    #[schema(required = true)]
    session: Option<u64>,
    /// How long the session had lasted when it ended, in milliseconds.
    #[schema(required = true)]
    duration: Option<i64>,
    /// Why it ended.
    #[schema(required = true)]
    reason: Option<String>,
    /// What else there is to say.
    #[schema(value_type = Object)]
    detail: Value,
}

/// How to read on.
#[derive(utoipa::ToSchema)]
#[schema(as = DeviceHistoryMeta)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct Meta {
    limit: u64,
    hasnext: bool,
    /// For `cursor` of the next request, if there is more.
    #[schema(nullable = false)]
    cursor: Option<u64>,
}

/// What happened to a device, the latest first.
#[utoipa::path(
    get,
    path = "/devices/{clientid}/history",
    tag = "Devices",
    operation_id = "devices_history",
    params(
        ("clientid" = String, Path, description = "The client id"),
        ("from" = Option<String>, Query, description = "Nothing before this time: RFC 3339 or milliseconds"),
        ("to" = Option<String>, Query, description = "Nothing from this time on: RFC 3339 or milliseconds"),
        ("kind" = Option<String>, Query, description = "`client.connected`, `client.disconnected`, \
          `session.subscribed`, `session.unsubscribed`, `alarm.activated` or `alarm.deactivated`; may be repeated"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 10_000, description = "Entries; 100 if not given"),
        ("cursor" = Option<u64>, Query, description = "`meta.cursor` of the answer before"),
    ),
    responses(
        (status = 200, description = "A part of its history", body = Described),
        (status = 400, description = "A parameter cannot be used", body = ErrorBody),
        (status = 404, description = "No device of this id was ever seen", body = ErrorBody),
        (status = 500, description = "The history cannot be read", body = ErrorBody),
        Refused,
    ),
)]
pub(super) async fn history(
    State(app): State<App>,
    Path(clientid): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let params = Params::new(query);
    let limit = Page::from_params(&params)?.limit;
    let part = part(&params, limit)?;
    let device = known(&app, clientid).await?;
    let mut entries =
        of_table(&app, move |database| presence::history(database, device.number, &part)).await?;
    let count = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_next = entries.len() > count;
    entries.truncate(count);
    let mut meta = json!({"limit": limit, "hasnext": has_next});
    if let Some(last) = entries.last().filter(|_| has_next) {
        meta["cursor"] = last.offset.or(last.session).into();
    }
    Ok(Json(json!({"data": entries.iter().map(happened_json).collect::<Vec<_>>(), "meta": meta})))
}

fn part(params: &Params, limit: u64) -> Result<Part, ApiError> {
    let kinds = params.all("kind");
    if let Some(unknown) = kinds.iter().find(|name| presence::SHOWN.iter().all(|kind| kind.name() != **name))
    {
        let names = presence::shown_names();
        return Err(ApiError::invalid_parameter(format!("kind: {unknown:?} is none of {names}")));
    }
    Ok(Part {
        from_ms: params.time("from")?,
        to_ms: params.time("to")?,
        kinds: kinds.into_iter().map(str::to_owned).collect(),
        before: params.place("cursor")?,
        limit: usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(1),
    })
}

/// Something that happened, as JSON.
pub(crate) fn happened_json(it: &Happened) -> Value {
    json!({
        "offset": it.offset,
        "at": rfc3339(it.at_ms),
        "kind": it.kind,
        "session": it.session,
        "duration": it.duration_ms,
        "reason": it.reason,
        "detail": it.detail,
    })
}
