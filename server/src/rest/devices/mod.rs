//! `GET /api/v1/devices`: the roll call, from the presence projection. Unlike `/api/v5/clients` it also knows who is
//! gone, since when, and why.

use axum::Json;
use axum::extract::{Query, State};
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::reply::{ApiError, ErrorBody, Page, PageParams, Paged, Params, Path, Refused, rfc3339};
use crate::config::duration;
use crate::presence::{self, AlarmOn, Device, Place, Sort, StoreError, Wanted};

mod history;
mod messages;
mod moment;

pub(crate) use history::happened_json;

/// What is served here.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(one))
        .routes(routes!(history::history))
        .routes(routes!(messages::messages))
        .routes(routes!(moment::at))
        .routes(routes!(moment::timeline))
}

/// A device.
#[derive(utoipa::ToSchema)]
#[schema(as = Device)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct Described {
    clientid: String,
    /// Whether it is connected.
    online: bool,
    /// Since when it is, or is not.
    #[schema(format = DateTime)]
    since: String,
    /// The last sign of presence: when it came or, if it is gone, when it went.
    #[schema(format = DateTime)]
    last_seen: String,
    /// Why it went the last time.
    #[schema(required = true)]
    reason: Option<String>,
    #[schema(required = true, format = DateTime)]
    connected_at: Option<String>,
    #[schema(required = true, format = DateTime)]
    disconnected_at: Option<String>,
    /// Its latest session.
    session: u64,
    /// The latest event that counted.
    seq: u64,
    connects: u64,
    disconnects: u64,
    /// In the last 24 hours.
    connects_last_day: u64,
    /// In the last 24 hours.
    disconnects_last_day: u64,
    /// The longest time that it was away, in milliseconds; the present one counts.
    longest_outage: i64,
    /// Whether it went five times within ten minutes, the last time not longer ago than that.
    flapping: bool,
    /// The alarms about it that are on, the oldest first.
    alarms: Vec<DescribedAlarm>,
    #[schema(required = true)]
    username: Option<String>,
    /// Address and port from which it came.
    peername: String,
    proto_name: String,
    proto_ver: u32,
    /// Seconds.
    keepalive: u32,
    clean_start: bool,
    /// Seconds for which its session is kept.
    expiry_interval: u64,
    #[schema(required = true)]
    mountpoint: Option<String>,
    client_attrs: std::collections::BTreeMap<String, String>,
}

/// An alarm about a device.
#[derive(utoipa::ToSchema)]
#[schema(as = DeviceAlarm)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct DescribedAlarm {
    name: String,
    /// `critical`, `major`, `minor`, `warning` or `info`.
    severity: String,
    /// When it fell due.
    #[schema(format = DateTime)]
    activated_at: String,
}

/// One page of devices.
#[utoipa::path(
    get,
    path = "/devices",
    tag = "Devices",
    operation_id = "devices_list",
    params(
        PageParams,
        ("online" = Option<bool>, Query, description = "Only those that are here, or only those that are gone"),
        ("like_clientid" = Option<String>, Query, description = "Part of the client id; leaves `meta.count` out"),
        ("username" = Option<String>, Query, description = "The user name of the latest session"),
        ("offline_longer_than" = Option<String>, Query, description = "Gone for longer than this, e.g. `1h`"),
        ("flapping" = Option<bool>, Query, description = "Only those that come and go all the time, or only others"),
        ("sort" = Option<String>, Query, description = "`clientid` (default), `since`, `last_seen`, `connects`, \
          `disconnects` or `longest_outage`"),
        ("order" = Option<String>, Query, description = "`asc` (default) or `desc`"),
        ("cursor" = Option<String>, Query, description = "`meta.cursor` of the page before, instead of `page`"),
    ),
    responses(
        (status = 200, description = "A page of them", body = Paged<Described>),
        (status = 400, description = "A parameter cannot be used", body = ErrorBody),
        (status = 500, description = "The table of devices cannot be read", body = ErrorBody),
        Refused,
    ),
)]
async fn list(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let params = Params::new(query);
    let page = Page::from_params(&params)?;
    let now_ms = app.clock.wall_ms();
    let wanted = wanted(&params, page, now_ms)?;
    let (sort, fuzzy, from) = (wanted.sort, wanted.like_clientid.is_some(), wanted.after.is_some());
    let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
    let (mut devices, total) = read(&app, wanted).await?;
    let has_next = devices.len() > limit;
    devices.truncate(limit);
    let cursor = devices.last().filter(|_| has_next).map(|it| Place::behind(it, sort).to_token());
    let data = described(&app, devices, now_ms).await?;
    let Json(mut answer) = page.envelope(data, total, fuzzy);
    answer["meta"]["hasnext"] = has_next.into();
    if let Some(cursor) = cursor {
        answer["meta"]["cursor"] = cursor.into();
    }
    if from {
        // Whoever reads on from a place counts no pages.
        answer["meta"]["page"] = 1.into();
    }
    Ok(Json(answer))
}

fn wanted(params: &Params, page: Page, now_ms: i64) -> Result<Wanted, ApiError> {
    let sort = params.parsed("sort", Sort::named)?.unwrap_or_default();
    let descending = params.parsed("order", |text| match text {
        "asc" => Some(false),
        "desc" => Some(true),
        _ => None,
    })?;
    let gone_for_ms =
        params.parsed("offline_longer_than", |text| i64::try_from(duration(text).ok()?.as_millis()).ok())?;
    Ok(Wanted {
        online: params.flag("online")?,
        clientid: None,
        like_clientid: params.one("like_clientid").map(str::to_owned),
        username: params.one("username").map(str::to_owned),
        gone_before_ms: gone_for_ms.map(|ms| now_ms.saturating_sub(ms)),
        flapping: params.flag("flapping")?,
        now_ms,
        sort,
        descending: descending.unwrap_or(false),
        after: params.parsed("cursor", |text| Place::from_token(text, sort))?,
        offset: page.skip(),
        // One more says whether there is another page.
        limit: page.limit.saturating_add(1),
    })
}

/// One device.
#[utoipa::path(
    get,
    path = "/devices/{clientid}",
    tag = "Devices",
    operation_id = "devices_one",
    params(("clientid" = String, Path, description = "The client id")),
    responses(
        (status = 200, description = "The device", body = Described),
        (status = 400, description = "The client id is no UTF-8", body = ErrorBody),
        (status = 404, description = "No device of this id was ever seen", body = ErrorBody),
        (status = 500, description = "The table of devices cannot be read", body = ErrorBody),
        Refused,
    ),
)]
async fn one(State(app): State<App>, Path(clientid): Path<String>) -> Result<Json<Value>, ApiError> {
    let device = known(&app, clientid).await?;
    let mut shown = described(&app, vec![device], app.clock.wall_ms()).await?;
    shown.pop().map(Json).ok_or_else(ApiError::clientid_not_found)
}

/// The device of this client id.
async fn known(app: &App, clientid: String) -> Result<Device, ApiError> {
    let wanted = Wanted { clientid: Some(clientid), limit: 1, ..Wanted::default() };
    let (mut devices, _) = read(app, wanted).await?;
    devices.pop().ok_or_else(ApiError::clientid_not_found)
}

async fn read(app: &App, wanted: Wanted) -> Result<(Vec<Device>, u64), ApiError> {
    of_table(app, move |database| presence::list(database, &wanted)).await
}

/// What a question to the tables of presence is answered, with all that is durable by now.
pub(super) async fn of_table<T: Send + 'static>(
    app: &App,
    ask: impl FnOnce(&std::path::Path) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, ApiError> {
    app.presence.clone().reach(app.journal.durable_offset()).await;
    let database = app.database.clone();
    match tokio::task::spawn_blocking(move || ask(&database)).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => {
            tracing::warn!(error = %crate::error::chain(&error), "devices cannot be read");
            Err(ApiError::internal("the table of devices cannot be read; see the log"))
        }
        Err(_) => Err(ApiError::internal("the request was interrupted")),
    }
}

async fn described(app: &App, devices: Vec<Device>, now_ms: i64) -> Result<Vec<Value>, ApiError> {
    of_table(app, move |database| {
        let last_day = presence::last_day(database, &devices, now_ms)?;
        let alarms = presence::alarms_on(database, &devices)?;
        let all = devices.iter().zip(last_day).zip(&alarms);
        Ok(all.map(|((it, last_day), alarms)| device_json(it, last_day, alarms, now_ms)).collect())
    })
    .await
}

/// A device as JSON; `last_day` is how often it came and went in the last day, `alarms` are those about it that are on.
pub(crate) fn device_json(it: &Device, last_day: (u64, u64), alarms: &[AlarmOn], now_ms: i64) -> Value {
    let away_ms = if it.online { 0 } else { now_ms.saturating_sub(it.since_ms) };
    let longest_outage_ms = it.longest_outage_ms.max(away_ms);
    let time = |at: Option<i64>| at.map_or(Value::Null, rfc3339);
    let alarms = alarms.iter().map(
        |it| json!({"name": it.name, "severity": it.severity, "activated_at": rfc3339(it.activated_at_ms)}),
    );
    json!({
        "clientid": it.clientid,
        "online": it.online,
        "since": rfc3339(it.since_ms),
        "last_seen": rfc3339(it.last_seen_ms),
        "reason": it.reason,
        "connected_at": time(it.connected_at_ms),
        "disconnected_at": time(it.disconnected_at_ms),
        "session": it.session,
        "seq": it.seq,
        "connects": it.connects,
        "disconnects": it.disconnects,
        "connects_last_day": last_day.0,
        "disconnects_last_day": last_day.1,
        "longest_outage": longest_outage_ms,
        "flapping": it.flapping_until_ms > now_ms,
        "alarms": alarms.collect::<Vec<_>>(),
        "username": it.username,
        "peername": it.peername,
        "proto_name": it.proto_name,
        "proto_ver": it.proto_ver,
        "keepalive": it.keepalive_seconds,
        "clean_start": it.clean_start,
        "expiry_interval": it.expiry_interval_seconds,
        "mountpoint": it.mountpoint,
        "client_attrs": it.attrs,
    })
}
