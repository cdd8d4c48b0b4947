//! `/subscriptions` and `/topics`: who listens to what. Subscriptions are read client by client in the order of client
//! ids, each client's in the order of filters; topics come in their order.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use muster_broker::SubscriptionInfo;
use muster_core::topic::{self, Share};
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::clients::{Subscription, each, subscription};
use super::reply::{ApiError, ErrorBody, Page, PageParams, Paged, Params, Path, Refused};

/// Topics that are looked at while nobody can subscribe.
const STEP_TOPICS: usize = 512;

/// The paths of it.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(topics)).routes(routes!(topic))
}

/// A topic filter that somebody subscribes with.
#[derive(utoipa::ToSchema)]
#[schema(as = Topic)]
#[expect(dead_code, reason = "describes what is written as JSON")]
struct Route {
    topic: String,
    node: String,
}

/// What `GET /subscriptions` can be asked for.
struct Filter<'a> {
    clientid: Option<&'a str>,
    qos: Option<u8>,
    topic: Option<&'a str>,
    match_topic: Option<&'a str>,
    share_group: Option<&'a str>,
}

impl Filter<'_> {
    fn admits(&self, it: &SubscriptionInfo) -> bool {
        let share = Share::parse(&it.topic);
        let (group, filter) = share.map_or((None, it.topic.as_str()), |it| (Some(it.group), it.filter));
        self.qos.is_none_or(|qos| qos == it.qos)
            && self.topic.is_none_or(|topic| topic == it.topic || topic == filter)
            && self.match_topic.is_none_or(|name| topic::matches(filter, name))
            && self.share_group.is_none_or(|wanted| group == Some(wanted))
    }
}

/// One page of all subscriptions that the filters let through.
#[utoipa::path(get, path = "/subscriptions", tag = "Subscriptions", operation_id = "subscriptions_list",
    params(
        PageParams,
        ("node" = Option<String>, Query, description = "On this node"),
        ("clientid" = Option<String>, Query, description = "Of this client"),
        ("qos" = Option<u8>, Query, description = "With this QoS", minimum = 0, maximum = 2),
        ("topic" = Option<String>, Query, description = "With exactly this filter"),
        ("match_topic" = Option<String>, Query, description = "That messages to this topic reach"),
        ("share_group" = Option<String>, Query, description = "In this group"),
    ),
    responses((status = 200, description = "A page", body = Paged<Subscription>), (status = 400, body = ErrorBody), Refused))]
pub(super) async fn list(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let params = Params::new(query);
    let page = Page::from_params(&params)?;
    let filter = Filter {
        clientid: params.one("clientid"),
        qos: params.parsed("qos", |text| text.parse().ok().filter(|qos| *qos <= 2))?,
        topic: params.one("topic"),
        match_topic: params.one("match_topic"),
        share_group: params.one("share_group"),
    };
    if params.one("node").is_some_and(|node| *node != *app.node) {
        return Ok(page.envelope(Vec::new(), 0, false));
    }
    let wanted = page.skip()..page.skip().saturating_add(page.limit);
    let (mut seen, mut found) = (0, Vec::new());
    let mut visit = |view: &muster_broker::ClientView| {
        view.with_subscriptions(|held| {
            for it in held.iter().filter(|it| filter.admits(it)) {
                if wanted.contains(&seen) {
                    found.push((view.clone(), it.clone()));
                }
                seen += 1;
            }
        });
        true
    };
    match filter.clientid {
        Some(clientid) => {
            if let Some(view) = app.broker.client_view(clientid) {
                visit(&view);
            }
        }
        None => each(&app.broker, None, visit).await,
    }
    let shown = found.iter().map(|(view, it)| subscription(&app.node, &view.fixed().clientid, it)).collect();
    Ok(page.envelope(shown, seen, filter.match_topic.is_some()))
}

/// One page of all topic filters that somebody subscribes with.
#[utoipa::path(get, path = "/topics", tag = "Subscriptions", operation_id = "topics_list",
    params(
        PageParams,
        ("node" = Option<String>, Query, description = "On this node"),
        ("topic" = Option<String>, Query, description = "Exactly this one"),
    ),
    responses((status = 200, description = "A page", body = Paged<Route>), (status = 400, body = ErrorBody), Refused))]
async fn topics(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let params = Params::new(query);
    let page = Page::from_params(&params)?;
    let entry = |topic: &str| json!({"topic": topic, "node": *app.node});
    if params.one("node").is_some_and(|node| *node != *app.node) {
        return Ok(page.envelope(Vec::new(), 0, false));
    }
    if let Some(topic) = params.one("topic") {
        let is_there = app.broker.has_topic(topic);
        let shown = if is_there && page.page == 1 { vec![entry(topic)] } else { Vec::new() };
        return Ok(page.envelope(shown, u64::from(is_there), false));
    }
    let (mut seen, mut shown, mut after) = (0, Vec::new(), None::<String>);
    let wanted = page.skip()..page.skip().saturating_add(page.limit);
    while seen < wanted.end {
        let step = app.broker.topics_after(after.as_deref(), STEP_TOPICS);
        for topic in &step {
            if wanted.contains(&seen) {
                shown.push(entry(topic));
            }
            seen += 1;
        }
        if step.len() < STEP_TOPICS {
            break;
        }
        after = step.last().cloned();
        tokio::task::yield_now().await;
    }
    Ok(page.envelope(shown, app.broker.topics() as u64, false))
}

/// One topic filter, if somebody subscribes with it.
#[utoipa::path(get, path = "/topics/{topic}", tag = "Subscriptions", operation_id = "topics_one",
    params(("topic" = String, Path, description = "The filter, with each / written as %2F")),
    responses((status = 200, description = "Where it is", body = Vec<Route>), (status = 404, body = ErrorBody),
        Refused))]
async fn topic(State(app): State<App>, Path(topic): Path<String>) -> Result<Json<Value>, ApiError> {
    if !app.broker.has_topic(&topic) {
        return Err(ApiError::new(StatusCode::NOT_FOUND, "TOPIC_NOT_FOUND", "Topic not found"));
    }
    Ok(Json(json!([{"topic": topic, "node": *app.node}])))
}
