//! `GET /api/v1/devices`: the roll call, from the presence projection. Unlike `/api/v5/clients` it also knows who is
//! gone, since when, and why.

use axum::Json;
use axum::extract::{Query, State};
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::reply::{ApiError, ErrorBody, Page, PageParams, Paged, Params, Path, Refused, rfc3339};
use crate::presence::{self, Device, Wanted};

/// What is served here.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(one))
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

/// One page of devices, in the order of client ids.
#[utoipa::path(
    get,
    path = "/devices",
    tag = "Devices",
    operation_id = "devices_list",
    params(
        PageParams,
        ("online" = Option<bool>, Query, description = "Only those that are here, or only those that are gone"),
        ("like_clientid" = Option<String>, Query, description = "Part of the client id; leaves `meta.count` out"),
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
    let wanted = Wanted {
        online: params.flag("online")?,
        clientid: None,
        like_clientid: params.one("like_clientid").map(str::to_owned),
        offset: page.skip(),
        limit: page.limit,
    };
    let fuzzy = wanted.like_clientid.is_some();
    let (devices, total) = read(&app, wanted).await?;
    Ok(page.envelope(devices.iter().map(device).collect(), total, fuzzy))
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
    let wanted = Wanted { clientid: Some(clientid), limit: 1, ..Wanted::default() };
    let (devices, _) = read(&app, wanted).await?;
    devices.first().map(|it| Json(device(it))).ok_or_else(ApiError::clientid_not_found)
}

async fn read(app: &App, wanted: Wanted) -> Result<(Vec<Device>, u64), ApiError> {
    let database = app.database.clone();
    let read = tokio::task::spawn_blocking(move || presence::list(&database, &wanted)).await;
    match read {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => {
            tracing::warn!(error = %crate::error::chain(&error), "devices cannot be read");
            Err(ApiError::internal("the table of devices cannot be read; see the log"))
        }
        Err(_) => Err(ApiError::internal("the request was interrupted")),
    }
}

fn device(it: &Device) -> Value {
    let time = |at: Option<i64>| at.map_or(Value::Null, rfc3339);
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
