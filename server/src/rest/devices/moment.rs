//! `GET /api/v1/presence` and `/presence/timeline`: who was here at a moment, and how many came and went over time.

use axum::Json;
use axum::extract::{Query, State};
use serde_json::{Value, json};

use super::super::App;
use super::super::reply::{ApiError, ErrorBody, Page, Params, Refused, rfc3339};
use super::of_table;
use crate::config::duration;
use crate::presence::{self, BUCKET_MS_MIN, BUCKETS_MAX};

/// A timeline's time if nobody says how long.
const TIMELINE_MS: i64 = 24 * 3_600_000;
/// A bucket if nobody says how wide.
const BUCKET_MS: i64 = 5 * 60_000;

/// Who was here.
#[derive(utoipa::ToSchema)]
#[schema(as = PresenceAt)]
#[expect(dead_code, reason = "describes what is written as JSON")]
pub(super) struct Described {
    /// The moment that is meant.
    #[schema(format = DateTime)]
    at: String,
    /// How many were here.
    count: u64,
    /// Their client ids, in the order in which devices were first seen.
    data: Vec<String>,
    meta: Meta,
}

/// How to read on.
#[derive(utoipa::ToSchema)]
#[schema(as = PresenceMeta)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct Meta {
    limit: u64,
    hasnext: bool,
    /// For `cursor` of the next request, if there is more.
    #[schema(nullable = false)]
    cursor: Option<u64>,
}

/// A timeline.
#[derive(utoipa::ToSchema)]
#[schema(as = PresenceTimeline)]
#[expect(dead_code, reason = "describes what is written as JSON")]
pub(super) struct Timeline {
    data: Vec<Bucket>,
    /// The width of a bucket, in milliseconds.
    bucket: i64,
}

/// A bucket of time.
#[derive(utoipa::ToSchema)]
#[schema(as = PresenceBucket)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct Bucket {
    /// When it begins.
    #[schema(format = DateTime)]
    from: String,
    /// Open sessions at its end.
    online: i64,
    connects: i64,
    disconnects: i64,
}

/// Who was here at a moment.
#[utoipa::path(
    get,
    path = "/presence",
    tag = "Devices",
    operation_id = "presence_at",
    params(
        ("at" = Option<String>, Query, description = "RFC 3339 or milliseconds; now, if not given"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 10_000, description = "Client ids; 100 if not given"),
        ("cursor" = Option<u64>, Query, description = "`meta.cursor` of the answer before"),
    ),
    responses(
        (status = 200, description = "How many were here, and who", body = Described),
        (status = 400, description = "A parameter cannot be used", body = ErrorBody),
        (status = 500, description = "The history cannot be read", body = ErrorBody),
        Refused,
    ),
)]
pub(super) async fn at(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let params = Params::new(query);
    let limit = Page::from_params(&params)?.limit;
    let at_ms = params.time("at")?.unwrap_or_else(|| app.clock.wall_ms());
    let after = params.place("cursor")?.unwrap_or(0);
    let count = usize::try_from(limit).unwrap_or(usize::MAX);
    let present = of_table(&app, move |database| presence::present(database, at_ms, after, count)).await?;
    let mut meta = json!({"limit": limit, "hasnext": present.has_next});
    if let Some((number, _)) = present.page.last().filter(|_| present.has_next) {
        meta["cursor"] = (*number).into();
    }
    let clientids: Vec<_> = present.page.into_iter().map(|(_, clientid)| clientid).collect();
    let at = rfc3339(at_ms);
    if at.is_null() {
        return Err(ApiError::invalid_parameter("at: there is no such time"));
    }
    Ok(Json(json!({"at": at, "count": present.count, "data": clientids, "meta": meta})))
}

/// How many came, went and were here over time.
#[utoipa::path(
    get,
    path = "/presence/timeline",
    tag = "Devices",
    operation_id = "presence_timeline",
    params(
        ("from" = Option<String>, Query, description = "RFC 3339 or milliseconds; a day before `to`, if not given"),
        ("to" = Option<String>, Query, description = "RFC 3339 or milliseconds; now, if not given"),
        ("bucket" = Option<String>, Query, description = "Width of a bucket, whole minutes, e.g. `5m` (default)"),
    ),
    responses(
        (status = 200, description = "The buckets, the oldest first", body = Timeline),
        (status = 400, description = "A parameter cannot be used", body = ErrorBody),
        (status = 500, description = "The history cannot be read", body = ErrorBody),
        Refused,
    ),
)]
pub(super) async fn timeline(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let params = Params::new(query);
    let (from_ms, to_ms, bucket_ms) = span(&params, app.clock.wall_ms())?;
    let read = move |database: &std::path::Path| presence::timeline(database, from_ms, to_ms, bucket_ms);
    let buckets = of_table(&app, read).await?;
    let data: Vec<_> = buckets
        .iter()
        .map(|it| {
            let presence::Bucket { from_ms, online, connects, disconnects } = *it;
            json!({"from": rfc3339(from_ms), "online": online, "connects": connects, "disconnects": disconnects})
        })
        .collect();
    Ok(Json(json!({"data": data, "bucket": bucket_ms})))
}

/// Beginning, end and width of the buckets that are asked for; the beginning at a multiple of the width.
fn span(params: &Params, now_ms: i64) -> Result<(i64, i64, i64), ApiError> {
    let bucket_ms = params.parsed("bucket", |text| {
        let width = i64::try_from(duration(text).ok()?.as_millis()).ok()?;
        (width >= BUCKET_MS_MIN && width % BUCKET_MS_MIN == 0).then_some(width)
    })?;
    let bucket_ms = bucket_ms.unwrap_or(BUCKET_MS);
    let known = |name, time: Option<i64>| match time {
        Some(ms) if rfc3339(ms).is_null() => {
            Err(ApiError::invalid_parameter(format!("{name}: there is no such time")))
        }
        time => Ok(time),
    };
    let to_ms = known("to", params.time("to")?)?.unwrap_or(now_ms);
    let from_ms = known("from", params.time("from")?)?.unwrap_or_else(|| to_ms.saturating_sub(TIMELINE_MS));
    let from_ms = from_ms.div_euclid(bucket_ms) * bucket_ms;
    if (to_ms - from_ms) / bucket_ms >= BUCKETS_MAX {
        let reason = format!("bucket: more than {BUCKETS_MAX} of them; ask for wider ones or less time");
        return Err(ApiError::invalid_parameter(reason));
    }
    Ok((from_ms, to_ms, bucket_ms))
}
