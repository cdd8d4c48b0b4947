//! `/api/v1/alarms/silences`: alarms that are listed and not told for a while.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::super::App;
use super::super::devices::of_table;
use super::super::reply::{ApiError, BodyRefused, ErrorBody, Path, Refused, Typed, rfc3339};
use super::order;
use super::v1::check_comment;
use crate::access::Caller;
use crate::alarms::SILENCES_MAX;
use crate::config::duration;
use crate::presence::{self, SILENCE, Silence, UNSILENCE};

/// Longest silence.
const SILENCE_MS_MAX: i64 = 366 * 86_400_000;

/// What is silent.
#[derive(utoipa::ToSchema)]
#[schema(as = AlarmSilence)]
#[expect(dead_code, reason = "describes what is written as JSON")]
pub(super) struct Described {
    id: u64,
    /// Alarms of this name; null: of any.
    #[schema(required = true)]
    name: Option<String>,
    /// About clients like this; null: about anybody.
    #[schema(required = true)]
    clientid: Option<String>,
    #[schema(format = DateTime)]
    until: String,
    by: String,
    comment: String,
}

/// All of them.
#[derive(utoipa::ToSchema)]
#[schema(as = AlarmSilences)]
#[expect(dead_code, reason = "describes what is written as JSON")]
pub(super) struct All {
    data: Vec<Described>,
}

/// What is to be silent.
#[derive(serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewAlarmSilence)]
pub(super) struct New {
    /// Alarms of this name; left out: of any.
    #[serde(default)]
    name: Option<String>,
    /// About clients whose id is like this, in which `*` is anything; left out: about anybody.
    #[serde(default)]
    clientid: Option<String>,
    /// For how long, e.g. `2h`; at most a year.
    #[serde(rename = "for")]
    #[schema(example = "2h", pattern = "^[1-9][0-9]{0,2}(m|h|d)$")]
    lasts: String,
    /// Why; at most 1,024 bytes.
    #[serde(default)]
    comment: String,
}

/// What is silent now.
#[utoipa::path(get, path = "/alarms/silences", tag = "Alarms", operation_id = "alarms_silences",
    responses((status = 200, description = "All of them", body = All), (status = 500, body = ErrorBody), Refused))]
pub(super) async fn list(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let now_ms = app.clock.wall_ms();
    let mut silences = of_table(&app, move |database| presence::silent(database, now_ms)).await?;
    silences.retain(|it| now_ms < it.until_ms);
    Ok(Json(json!({"data": silences.iter().map(shown).collect::<Vec<_>>()})))
}

/// Lists alarms and tells nobody for a while: their notices go to no target. It counts from the next one on.
#[utoipa::path(post, path = "/alarms/silences", tag = "Alarms", operation_id = "alarms_silence",
    request_body = New,
    responses((status = 201, description = "It is silent", body = Described),
        (status = 409, description = "There are too many", body = ErrorBody), (status = 500, body = ErrorBody),
        Refused, BodyRefused))]
pub(super) async fn begin(
    State(app): State<App>,
    caller: Caller,
    Typed(new): Typed<New>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    check_comment(&new.comment)?;
    let ms = duration(&new.lasts).ok().and_then(|it| i64::try_from(it.as_millis()).ok());
    let Some(ms) = ms.filter(|ms| (1..=SILENCE_MS_MAX).contains(ms)) else {
        return Err(ApiError::bad_request("for: a time of at most a year, such as 30m, 2h or 7d"));
    };
    let now_ms = app.clock.wall_ms();
    let silences = of_table(&app, move |database| presence::silent(database, now_ms)).await?;
    if silences.iter().filter(|it| now_ms < it.until_ms).count() >= SILENCES_MAX {
        let message = format!("there are {SILENCES_MAX} silences, and there cannot be more");
        return Err(ApiError::new(StatusCode::CONFLICT, "CONFLICT", message));
    }
    let until_ms = now_ms.saturating_add(ms);
    let New { name, clientid, comment, .. } = new;
    let details = json!({"name": name, "clientid": clientid, "until": until_ms, "comment": comment});
    let id = order(&app, &caller, SILENCE, name.as_deref().unwrap_or("*"), details).await?;
    let silence = Silence { id, name, clientid, until_ms, by: caller.name, comment };
    let answer = shown(&silence);
    app.pipelines.board().silence(silence);
    Ok((StatusCode::CREATED, Json(answer)))
}

/// Ends a silence.
#[utoipa::path(delete, path = "/alarms/silences/{id}", tag = "Alarms", operation_id = "alarms_unsilence",
    params(("id" = u64, Path, description = "The silence's id")),
    responses((status = 204, description = "It is told again"), (status = 400, body = ErrorBody),
        (status = 404, description = "There is no such silence", body = ErrorBody),
        (status = 500, body = ErrorBody), Refused))]
pub(super) async fn end(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<u64>,
) -> Result<StatusCode, ApiError> {
    let now_ms = app.clock.wall_ms();
    let silences = of_table(&app, move |database| presence::silent(database, now_ms)).await?;
    if !silences.iter().any(|it| it.id == id && now_ms < it.until_ms) {
        return Err(ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "no silence has this id"));
    }
    order(&app, &caller, UNSILENCE, &id.to_string(), json!({})).await?;
    app.pipelines.board().unsilence(id);
    Ok(StatusCode::NO_CONTENT)
}

fn shown(it: &Silence) -> Value {
    json!({
        "id": it.id,
        "name": it.name,
        "clientid": it.clientid,
        "until": rfc3339(it.until_ms),
        "by": it.by,
        "comment": it.comment,
    })
}
