//! `/api/v5/rules`: rules in the shapes of EMQX v5. Those that stand in a file are shown beside those made here, and
//! only the latter can be changed here. A change answers when it is stored and runs.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use muster_rules::Diagnostic;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

mod body;
mod described;
mod engine;
mod events;
mod filter;
mod metrics;
mod rates;
mod shown;
mod trial;

use super::App;
use super::audit;
use super::reply::{ApiError, Body, BodyRefused, ErrorBody, Page, PageParams, Paged, Params, Path, Refused};
use crate::access::Caller;
use crate::pipelines::{ChangeError, MANAGED_RULES_MAX};
use body::bad;
use described::{Change, Described, New, RuleQuery};
use filter::Filter;
pub(super) use metrics::Meters;
pub(super) use trial::Trials;

/// The paths about rules.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(one, update, remove))
        .routes(routes!(metrics::show))
        .routes(routes!(metrics::reset))
        .routes(routes!(trial::of_rule))
        .routes(routes!(trial::of_sql))
        .routes(routes!(events::list))
        .routes(routes!(engine::show, engine::put))
}

/// One page of rules, in the order of ids: those made over REST, and those that stand in files.
#[utoipa::path(get, path = "/rules", tag = "Rules", operation_id = "rules_list", params(PageParams, RuleQuery),
    responses((status = 200, description = "A page of them", body = Paged<Described>),
        (status = 400, description = "A parameter cannot be used", body = ErrorBody), Refused))]
async fn list(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let params = Params::new(query);
    let page = Page::from_params(&params)?;
    let filter = Filter::from_params(&params)?;
    let statuses = app.pipelines.status();
    let found: Vec<_> = shown::all(&app).into_iter().filter(|rule| filter.admits(rule)).collect();
    let skip = usize::try_from(page.skip()).unwrap_or(usize::MAX);
    let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
    let data = found.iter().skip(skip).take(limit).map(|rule| rule.to_json(&statuses)).collect();
    Ok(page.envelope(data, found.len() as u64, filter.is_fuzzy()))
}

/// One rule.
#[utoipa::path(get, path = "/rules/{id}", tag = "Rules", operation_id = "rules_get",
    params(("id" = String, Path, description = "The rule's id")),
    responses((status = 200, description = "The rule", body = Described),
        (status = 404, description = "There is none", body = ErrorBody), Refused))]
async fn one(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    shown(&app, &id).map(Json)
}

/// Makes a rule. The answer comes when it is stored and runs.
#[utoipa::path(post, path = "/rules", tag = "Rules", operation_id = "rules_create", request_body = New,
    responses((status = 201, description = "The rule", body = Described), Refused, BodyRefused))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Body(fields): Body,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let rule = body::new_rule(fields)?;
    let made = app.pipelines.create_rule(rule).await.map_err(refusal)?;
    audit::write(&app, &caller, "rules.create", &made.id, json!({})).await;
    Ok((StatusCode::CREATED, Json(shown(&app, &made.id)?)))
}

/// Changes a rule that was made here.
#[utoipa::path(put, path = "/rules/{id}", tag = "Rules", operation_id = "rules_update",
    params(("id" = String, Path, description = "The rule's id")), request_body = Change,
    responses((status = 200, description = "The rule as it is now", body = Described),
        (status = 404, description = "There is none", body = ErrorBody), Refused, BodyRefused))]
async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    Body(fields): Body,
) -> Result<Json<Value>, ApiError> {
    let patch = body::patch(&id, fields)?;
    let before = app.pipelines.managed_rule(&id).map(|rule| rule.sql);
    let rule = app.pipelines.update_rule(&id, patch).await.map_err(refusal)?;
    if !rule.enable || before.is_some_and(|sql| sql != rule.sql) {
        app.meters.forget(&id);
    }
    audit::write(&app, &caller, "rules.update", &id, json!({})).await;
    shown(&app, &id).map(Json)
}

/// Removes a rule that was made here.
#[utoipa::path(delete, path = "/rules/{id}", tag = "Rules", operation_id = "rules_delete",
    params(("id" = String, Path, description = "The rule's id")),
    responses((status = 204, description = "It is gone"),
        (status = 400, description = "It stands in a file", body = ErrorBody),
        (status = 404, description = "There is none", body = ErrorBody), Refused))]
async fn remove(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    app.pipelines.remove_rule(&id).await.map_err(refusal)?;
    app.meters.forget(&id);
    audit::write(&app, &caller, "rules.delete", &id, json!({})).await;
    Ok(StatusCode::NO_CONTENT)
}

fn shown(app: &App, id: &str) -> Result<Value, ApiError> {
    let rule = shown::one(app, id).ok_or_else(not_found)?;
    Ok(rule.to_json(&app.pipelines.status()))
}

fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "Rule Id Not Found")
}

fn refusal(error: ChangeError) -> ApiError {
    let unavailable =
        |message| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", message);
    match error {
        ChangeError::NotFound => not_found(),
        ChangeError::Exists(None) => ApiError::bad_request("rule id already exists"),
        ChangeError::Exists(Some(place)) => {
            ApiError::bad_request(format!("rule id already exists: it is defined in {place}"))
        }
        ChangeError::InFile(place) => ApiError::bad_request(format!(
            "the rule is defined in {place}; it can be changed there, and only there"
        )),
        ChangeError::Id(why) => bad(why),
        ChangeError::Rule(wrong) => bad(told(&wrong)),
        ChangeError::Files(wrong) => {
            let message =
                format!("the rule files have errors, so that nothing can be changed: {}", told(&wrong));
            ApiError::internal(message)
        }
        ChangeError::Full => {
            let message =
                format!("there are {MANAGED_RULES_MAX} rules made over REST, and there can be no more");
            ApiError::new(StatusCode::BAD_REQUEST, "EXCEED_LIMIT", message)
        }
        ChangeError::Registry(error) => {
            let error = crate::error::chain(&error);
            tracing::error!(%error, "a rule made over REST could not be stored");
            ApiError::internal("the rule could not be stored; see the log")
        }
        ChangeError::Stopping => unavailable("the node is stopping"),
    }
}

fn told(wrong: &[Diagnostic]) -> String {
    wrong.iter().filter(|it| it.is_error()).map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
