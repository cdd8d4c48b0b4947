//! `/banned`: who is shut out.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::reply::{
    ApiError, Body, BodyRefused, ErrorBody, Page, PageParams, Paged, Params, Path, Refused, rfc3339,
};
use super::{App, audit};
use crate::access::{Ban, BanError, BanKind, Caller};
use crate::platform::put_out;

/// Filters of the list: the parameter, the kind, and whether a part of the name is enough.
const FILTERS: [(&str, BanKind, bool); 7] = [
    ("clientid", BanKind::Clientid, false),
    ("username", BanKind::Username, false),
    ("peerhost", BanKind::Peerhost, false),
    ("like_clientid", BanKind::Clientid, true),
    ("like_username", BanKind::Username, true),
    ("like_peerhost", BanKind::Peerhost, true),
    ("like_peerhost_net", BanKind::PeerhostNet, true),
];

/// The paths of it.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create, clear)).routes(routes!(remove))
}

/// Whom it is about.
#[derive(utoipa::ToSchema, serde::Serialize)]
#[schema(as = BanKind)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes access::BanKind")]
enum Kind {
    Clientid,
    Username,
    Peerhost,
    ClientidRe,
    UsernameRe,
    PeerhostNet,
}

/// A ban to be.
#[derive(utoipa::ToSchema)]
#[schema(as = NewBan)]
#[expect(dead_code, reason = "describes what is read by hand")]
pub(super) struct Asked {
    r#as: Kind,
    /// The name, address, regular expression or range of addresses.
    #[schema(min_length = 1, example = "sensor-7")]
    who: String,
    /// Who made it; the caller, where nobody is named.
    by: Option<String>,
    /// Why.
    reason: Option<String>,
    /// From when on; now, where it is left out.
    at: Option<Moment>,
    /// Up to when; for ever, where it is left out.
    until: Option<Moment>,
}

/// RFC 3339, seconds since 1970, or `infinity` for what has no end.
#[derive(utoipa::ToSchema, serde::Serialize)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes what is read by hand")]
enum Moment {
    Seconds(i64),
    Text(String),
}

/// A ban.
#[derive(utoipa::ToSchema)]
#[schema(as = Ban)]
#[expect(dead_code, reason = "describes what is written by hand")]
struct Described {
    r#as: Kind,
    who: String,
    by: String,
    reason: String,
    #[schema(format = DateTime)]
    at: String,
    /// RFC 3339, or `infinity`.
    until: String,
}

fn shown(ban: &Ban) -> Value {
    json!({
        "as": ban.kind.name(),
        "who": ban.who,
        "by": ban.by,
        "reason": ban.reason,
        "at": rfc3339(ban.at_ms),
        "until": ban.until_ms.map_or_else(|| "infinity".into(), rfc3339),
    })
}

/// One page of those that are not over.
#[utoipa::path(get, path = "/banned", tag = "Banned", operation_id = "banned_list",
    params(
        PageParams,
        ("clientid" = Option<String>, Query, description = "Of this client id"),
        ("username" = Option<String>, Query, description = "Of this user name"),
        ("peerhost" = Option<String>, Query, description = "Of this address"),
        ("like_clientid" = Option<String>, Query, description = "Of client ids with this in them"),
        ("like_username" = Option<String>, Query, description = "Of user names with this in them"),
        ("like_peerhost" = Option<String>, Query, description = "Of addresses with this in them"),
        ("like_peerhost_net" = Option<String>, Query, description = "Of ranges with this in them"),
    ),
    responses((status = 200, description = "A page", body = Paged<Described>), (status = 400, body = ErrorBody), Refused))]
pub(super) async fn list(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let params = Params::new(query);
    let page = Page::from_params(&params)?;
    let asked = FILTERS.iter().filter_map(|(name, kind, like)| Some((params.one(name)?, *kind, *like)));
    let asked: Vec<_> = asked.collect();
    if asked.len() > 1 {
        return Err(ApiError::bad_request("only one filter at a time"));
    }
    let admits = |ban: &Ban| {
        asked.iter().all(|(text, kind, like)| {
            ban.kind == *kind && if *like { ban.who.contains(text) } else { ban.who == *text }
        })
    };
    let skip = usize::try_from(page.skip()).unwrap_or(usize::MAX);
    let (total, bans) = app.access.bans.list(admits, skip, usize::try_from(page.limit).unwrap_or(usize::MAX));
    let is_fuzzy = asked.iter().any(|(_, _, like)| *like);
    Ok(page.envelope(bans.iter().map(shown).collect(), total as u64, is_fuzzy))
}

/// Shuts somebody out: at once or from `at` on, when the sessions that are there end.
#[utoipa::path(post, path = "/banned", tag = "Banned", operation_id = "banned_create", request_body = Asked,
    responses((status = 200, description = "The ban", body = Described),
        (status = 500, description = "It could not be stored", body = ErrorBody), Refused, BodyRefused))]
pub(super) async fn create(
    State(app): State<App>,
    caller: Caller,
    Body(fields): Body,
) -> Result<Json<Value>, ApiError> {
    let ban = read(&fields, &caller, app.clock.wall_ms())?;
    app.access.bans.add(ban.clone()).await.map_err(|error| match error {
        BanError::Exists => ApiError::new(StatusCode::BAD_REQUEST, "ALREADY_EXISTS", "there is such a ban"),
        BanError::Bad(why) => ApiError::bad_request(why),
        BanError::Store(error) => ApiError::internal(error.to_string()),
    })?;
    let ended = put_out(&app.broker, &app.access.bans).await;
    let answer = shown(&ban);
    let details = json!({"ban": answer, "sessions_ended": ended});
    audit::write(&app, &caller, "banned.create", &ban.who, details).await;
    Ok(Json(answer))
}

/// Ends a ban.
#[utoipa::path(delete, path = "/banned/{as}/{who}", tag = "Banned", operation_id = "banned_delete",
    params(("as" = String, Path, description = "The kind"), ("who" = String, Path, description = "Of whom")),
    responses((status = 204, description = "It has ended"), (status = 404, body = ErrorBody),
        (status = 500, description = "It could not be stored", body = ErrorBody), Refused))]
pub(super) async fn remove(
    State(app): State<App>,
    caller: Caller,
    Path((kind, who)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let missing = || ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "there is no such ban");
    let kind: BanKind = kind.parse().map_err(|()| missing())?;
    let was_there = app.access.bans.remove(kind, &who).await;
    if !was_there.map_err(|error| ApiError::internal(error.to_string()))? {
        return Err(missing());
    }
    audit::write(&app, &caller, "banned.delete", &who, json!({"as": kind.name()})).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends all bans.
#[utoipa::path(delete, path = "/banned", tag = "Banned", operation_id = "banned_clear",
    responses((status = 204, description = "There are none any more"),
        (status = 500, description = "It could not be stored", body = ErrorBody), Refused))]
async fn clear(State(app): State<App>, caller: Caller) -> Result<StatusCode, ApiError> {
    app.access.bans.clear().await.map_err(|error| ApiError::internal(error.to_string()))?;
    audit::write(&app, &caller, "banned.clear", "banned", json!({})).await;
    Ok(StatusCode::NO_CONTENT)
}

fn read(fields: &Map<String, Value>, caller: &Caller, now_ms: i64) -> Result<Ban, ApiError> {
    let text = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(ApiError::bad_request(format!("{name}: must be text"))),
    };
    let missing = |name: &str| ApiError::bad_request(format!("{name}: is missing"));
    let kind = text("as")?.ok_or_else(|| missing("as"))?;
    let kind = kind.parse().map_err(|()| ApiError::bad_request("as: no kind of ban"))?;
    let ban = Ban {
        kind,
        who: text("who")?.ok_or_else(|| missing("who"))?,
        by: text("by")?.unwrap_or_else(|| caller.name.clone()),
        reason: text("reason")?.unwrap_or_default(),
        at_ms: time(fields, "at")?.unwrap_or(now_ms),
        until_ms: time(fields, "until")?,
    };
    if ban.until_ms.is_some_and(|until| until <= now_ms || until <= ban.at_ms) {
        return Err(ApiError::bad_request("until: is over already"));
    }
    Ok(ban)
}

/// Milliseconds; none where nothing is said, or `infinity`.
fn time(fields: &Map<String, Value>, name: &str) -> Result<Option<i64>, ApiError> {
    let seconds = |seconds: i64| jiff::Timestamp::from_second(seconds).ok();
    let at = match fields.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text == "infinity" && name == "until" => return Ok(None),
        Some(Value::String(text)) => {
            text.parse().ok().and_then(seconds).or_else(|| text.parse::<jiff::Timestamp>().ok())
        }
        Some(value) => value.as_i64().and_then(seconds),
    };
    let at =
        at.ok_or_else(|| ApiError::bad_request(format!("{name}: neither RFC 3339 nor seconds since 1970")))?;
    Ok(Some(at.as_millisecond()))
}
