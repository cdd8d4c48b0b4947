//! What an operator does with a client: ends its session, subscribes and unsubscribes for it, changes its keep-alive.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use futures_util::{StreamExt as _, stream};
use muster_broker::{ClientView, ProxySubscribed, SubscriptionInfo};
use serde_json::{Value, json};

use super::body::{self, List};
use super::each;
use crate::access::Caller;
use crate::rest::reply::{ApiError, Body, BodyRefused, ErrorBody, Params, Path, Refused};
use crate::rest::{App, audit};

/// Clients that are kicked at a time.
const KICKS_MAX: usize = 64;

/// A subscription of a client.
#[derive(Debug, utoipa::ToSchema)]
#[schema(as = Subscription)]
#[expect(dead_code, reason = "describes what `shown` makes")]
pub(in crate::rest) struct Shown {
    node: String,
    clientid: String,
    topic: String,
    #[schema(minimum = 0, maximum = 2)]
    qos: u8,
    #[schema(minimum = 0, maximum = 1)]
    nl: u8,
    #[schema(minimum = 0, maximum = 1)]
    rap: u8,
    #[schema(minimum = 0, maximum = 2)]
    rh: u8,
    durable: bool,
}

/// What to subscribe to.
#[derive(Debug, utoipa::ToSchema)]
#[schema(as = SubscriptionAsked)]
#[expect(dead_code, reason = "describes what is read by hand")]
struct Asked {
    #[schema(min_length = 1)]
    topic: String,
    #[schema(minimum = 0, maximum = 2, default = 0)]
    qos: Option<u8>,
    #[schema(minimum = 0, maximum = 1, default = 0)]
    nl: Option<u8>,
    #[schema(minimum = 0, maximum = 1, default = 0)]
    rap: Option<u8>,
    #[schema(minimum = 0, maximum = 2, default = 0)]
    rh: Option<u8>,
}

/// A topic filter.
#[derive(Debug, utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is read by hand")]
struct TopicAsked {
    #[schema(min_length = 1)]
    topic: String,
}

/// A keep-alive.
#[derive(Debug, utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is read by hand")]
struct KeepaliveAsked {
    /// Seconds; 0: the client may be silent for as long as it likes.
    #[schema(minimum = 0, maximum = 65535)]
    interval: u32,
}

/// A subscription in the usual shape.
pub(in crate::rest) fn shown(node: &str, clientid: &str, it: &SubscriptionInfo) -> Value {
    json!({
        "node": node,
        "clientid": clientid,
        "topic": it.topic,
        "qos": it.qos,
        "nl": u8::from(it.no_local),
        "rap": u8::from(it.retain_as_published),
        "rh": it.retain_handling,
        "durable": false,
    })
}

/// Ends a client's connection and discards its session.
#[utoipa::path(delete, path = "/clients/{clientid}", tag = "Clients", operation_id = "clients_kick",
    params(("clientid" = String, Path, description = "The client's id")),
    responses((status = 204, description = "It is gone"), (status = 404, body = ErrorBody), Refused))]
pub(super) async fn kick(
    State(app): State<App>,
    caller: Caller,
    Path(clientid): Path<String>,
) -> Result<StatusCode, ApiError> {
    if !app.broker.kick(&clientid).await {
        return Err(ApiError::clientid_not_found());
    }
    audit::write(&app, &caller, "clients.kick", &clientid, json!({})).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Does so with many. Who is not there is passed over.
#[utoipa::path(post, path = "/clients/kickout/bulk", tag = "Clients", operation_id = "clients_kick_bulk",
    request_body = Vec<String>,
    responses((status = 204, description = "They are gone"), Refused, BodyRefused))]
pub(super) async fn kick_bulk(
    State(app): State<App>,
    caller: Caller,
    List(entries): List,
) -> Result<StatusCode, ApiError> {
    let ids: Option<Vec<String>> = entries.iter().map(|it| it.as_str().map(str::to_owned)).collect();
    let ids = ids.ok_or_else(|| ApiError::bad_request("an entry is no client id"))?;
    let asked = ids.len();
    let ended = stream::iter(ids).map(|id| {
        let broker = app.broker.clone();
        async move { broker.kick(&id).await }
    });
    let ended = ended.buffer_unordered(KICKS_MAX).fold(0_u64, async |sum, one| sum + u64::from(one)).await;
    let details = json!({"asked": asked, "kicked": ended});
    audit::write(&app, &caller, "clients.kick_bulk", "clients", details).await;
    Ok(StatusCode::NO_CONTENT)
}

/// What a client is subscribed to, in the order of filters.
#[utoipa::path(get, path = "/clients/{clientid}/subscriptions", tag = "Clients",
    operation_id = "clients_subscriptions", params(("clientid" = String, Path, description = "The client's id")),
    responses((status = 200, body = Vec<Shown>), (status = 404, body = ErrorBody), Refused))]
pub(super) async fn subscriptions(
    State(app): State<App>,
    Path(clientid): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let view = app.broker.client_view(&clientid).ok_or_else(ApiError::clientid_not_found)?;
    let list = view.with_subscriptions(<[SubscriptionInfo]>::to_vec);
    Ok(Json(list.iter().map(|it| shown(&app.node, &clientid, it)).collect()))
}

/// Subscribes for a client that is connected, or whose session is kept. Nobody is asked whether it may.
#[utoipa::path(post, path = "/clients/{clientid}/subscribe", tag = "Clients", operation_id = "clients_subscribe",
    params(("clientid" = String, Path, description = "The client's id")), request_body = Asked,
    responses((status = 200, body = Shown), (status = 404, body = ErrorBody), Refused, BodyRefused))]
pub(super) async fn subscribe(
    State(app): State<App>,
    caller: Caller,
    Path(clientid): Path<String>,
    Body(fields): Body,
) -> Result<Json<Value>, ApiError> {
    let asked = body::subscription(&fields)?;
    let answer = shown(&app.node, &clientid, &asked);
    subscribe_all(&app, &caller, &clientid, vec![asked]).await?;
    Ok(Json(answer))
}

/// Does so for many filters: for all, or for none.
#[utoipa::path(post, path = "/clients/{clientid}/subscribe/bulk", tag = "Clients",
    operation_id = "clients_subscribe_bulk", params(("clientid" = String, Path, description = "The client's id")),
    request_body = Vec<Asked>,
    responses((status = 200, body = Vec<Shown>), (status = 404, body = ErrorBody), Refused, BodyRefused))]
pub(super) async fn subscribe_bulk(
    State(app): State<App>,
    caller: Caller,
    Path(clientid): Path<String>,
    List(entries): List,
) -> Result<Json<Value>, ApiError> {
    let read = entries.into_iter().map(|entry| body::subscription(&body::object(entry)?));
    let asked: Vec<_> = read.collect::<Result<_, ApiError>>()?;
    let answer = asked.iter().map(|it| shown(&app.node, &clientid, it)).collect();
    subscribe_all(&app, &caller, &clientid, asked).await?;
    Ok(Json(answer))
}

async fn subscribe_all(
    app: &App,
    caller: &Caller,
    clientid: &str,
    asked: Vec<SubscriptionInfo>,
) -> Result<(), ApiError> {
    let topics: Vec<_> = asked.iter().map(|it| it.topic.clone()).collect();
    let done = app.broker.subscribe(clientid, asked).await;
    match done.map_err(|_| ApiError::invalid_parameter("topic: not a topic filter"))? {
        ProxySubscribed::Done => {}
        ProxySubscribed::TooMany => {
            let message = "the client would have more subscriptions than it may";
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "EXCEED_LIMIT", message));
        }
        ProxySubscribed::NoClient => return Err(ApiError::clientid_not_found()),
    }
    audit::write(app, caller, "clients.subscribe", clientid, json!({"topics": topics})).await;
    Ok(())
}

/// Unsubscribes for a client.
#[utoipa::path(post, path = "/clients/{clientid}/unsubscribe", tag = "Clients",
    operation_id = "clients_unsubscribe", params(("clientid" = String, Path, description = "The client's id")),
    request_body = TopicAsked,
    responses((status = 204, description = "It is not subscribed any more"), (status = 404, body = ErrorBody),
        Refused, BodyRefused))]
pub(super) async fn unsubscribe(
    State(app): State<App>,
    caller: Caller,
    Path(clientid): Path<String>,
    Body(fields): Body,
) -> Result<StatusCode, ApiError> {
    unsubscribe_all(&app, &caller, &clientid, vec![body::topic(&fields)?]).await
}

/// Does so for many filters.
#[utoipa::path(post, path = "/clients/{clientid}/unsubscribe/bulk", tag = "Clients",
    operation_id = "clients_unsubscribe_bulk", params(("clientid" = String, Path, description = "The client's id")),
    request_body = Vec<TopicAsked>,
    responses((status = 204, description = "It is not subscribed to any of them any more"),
        (status = 404, body = ErrorBody), Refused, BodyRefused))]
pub(super) async fn unsubscribe_bulk(
    State(app): State<App>,
    caller: Caller,
    Path(clientid): Path<String>,
    List(entries): List,
) -> Result<StatusCode, ApiError> {
    let read = entries.into_iter().map(|entry| body::topic(&body::object(entry)?));
    unsubscribe_all(&app, &caller, &clientid, read.collect::<Result<_, ApiError>>()?).await
}

async fn unsubscribe_all(
    app: &App,
    caller: &Caller,
    clientid: &str,
    topics: Vec<String>,
) -> Result<StatusCode, ApiError> {
    let held =
        app.broker.unsubscribe(clientid, topics.clone()).await.ok_or_else(ApiError::clientid_not_found)?;
    let ended: Vec<_> =
        topics.into_iter().zip(held).filter_map(|(topic, held)| held.then_some(topic)).collect();
    if !ended.is_empty() {
        audit::write(app, caller, "clients.unsubscribe", clientid, json!({"topics": ended})).await;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Changes how long a connected client may be silent; the new time counts from now.
#[utoipa::path(put, path = "/clients/{clientid}/keepalive", tag = "Clients", operation_id = "clients_keepalive",
    params(("clientid" = String, Path, description = "The client's id")), request_body = KeepaliveAsked,
    responses((status = 200, description = "The client", body = super::Described), (status = 404, body = ErrorBody),
        Refused, BodyRefused))]
pub(super) async fn keepalive(
    State(app): State<App>,
    caller: Caller,
    Path(clientid): Path<String>,
    Body(fields): Body,
) -> Result<Json<Value>, ApiError> {
    let seconds = fields.get("interval").and_then(Value::as_u64).and_then(|it| u16::try_from(it).ok());
    let seconds =
        seconds.ok_or_else(|| ApiError::bad_request("interval: must be a number from 0 to 65535"))?;
    if !app.broker.set_keep_alive(&clientid, seconds).await {
        return Err(ApiError::clientid_not_found());
    }
    audit::write(&app, &caller, "clients.keepalive", &clientid, json!({"interval": seconds})).await;
    let client = app.broker.client(&clientid).ok_or_else(ApiError::clientid_not_found)?;
    Ok(Json(super::client(&client)))
}

/// How many sessions are connected, or were at some time since.
#[utoipa::path(get, path = "/sessions_count", tag = "Clients", operation_id = "sessions_count",
    params(("since" = Option<i64>, Query, description = "Seconds since 1970", minimum = 0)),
    responses((status = 200, description = "The number", body = String, content_type = "text/plain"),
        (status = 400, body = ErrorBody), Refused))]
pub(super) async fn sessions_count(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<String, ApiError> {
    let since = Params::new(query).parsed("since", |text| text.parse::<i64>().ok().filter(|it| *it >= 0))?;
    let since_ms = since.unwrap_or(0).saturating_mul(1_000);
    let mut count = 0_u64;
    each(&app.broker, None, |view: &ClientView| {
        let is_counted =
            view.is_connected() || view.info().disconnected_at_ms.is_some_and(|at| at >= since_ms);
        count += u64::from(is_counted);
        true
    })
    .await;
    Ok(count.to_string())
}
