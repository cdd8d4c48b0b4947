//! `/clients`, `/mqtt/subscribe`, `/subscriptions`, `/routes`: clients and what they listen to.

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use muster_broker::{ProxySubscribed, SubscriptionInfo};
use muster_core::topic;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, App, Code, Refusal};
use crate::access::Caller;
use crate::rest::reply::{BodyRefused, Page, PageParams, Params, Path, Refused, Typed};
use crate::rest::{audit, clients, subscriptions};

/// Most orders of one request.
const ORDERS_MAX: usize = 10_000;

/// Fields whose names differ: here, and under `/api/v5`.
const RENAMED: [(&str, &str); 6] = [
    ("max_subscriptions", "subscriptions_max"),
    ("inflight", "inflight_cnt"),
    ("max_inflight", "inflight_max"),
    ("max_mqueue", "mqueue_max"),
    ("awaiting_rel", "awaiting_rel_cnt"),
    ("max_awaiting_rel", "awaiting_rel_max"),
];

/// The paths of it.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(one, kick))
        .routes(routes!(subscribe))
        .routes(routes!(unsubscribe))
        .routes(routes!(subscribe_batch))
        .routes(routes!(unsubscribe_batch))
        .routes(routes!(subscriptions_list))
        .routes(routes!(subscriptions_of))
        .routes(routes!(routes_list))
        .routes(routes!(routes_of))
}

type Query4 = Query<Vec<(String, String)>>;

/// List clients; the filters are those of `/api/v5/clients`, with an underscore before them or without.
#[utoipa::path(
    get, path = "/clients", tag = "Older dialect", operation_id = "v4_clients", params(PageParams),
    responses((status = 200, description = "One page of them", body = Answer), Refused)
)]
async fn list(State(app): State<App>, Query(query): Query4) -> Result<Response, Refusal> {
    let Json(mut found) = clients::list(State(app), Query(query)).await?;
    if let Some(data) = found["data"].as_array_mut() {
        data.iter_mut().for_each(translate);
    }
    found["code"] = 0.into();
    Ok(Json(found).into_response())
}

/// Show a client: a list of one, or of none.
#[utoipa::path(
    get, path = "/clients/{clientid}", tag = "Older dialect", operation_id = "v4_client",
    params(("clientid" = String, Path, description = "The client")),
    responses((status = 200, description = "A list with the client, or an empty one", body = Answer), Refused)
)]
async fn one(State(app): State<App>, Path(clientid): Path<String>) -> Response {
    let found = clients::one(State(app), Path(clientid)).await.ok();
    let data = found.map(|Json(mut client)| {
        translate(&mut client);
        client
    });
    super::ok(Value::from_iter(data))
}

/// End a client's connection and session.
#[utoipa::path(
    delete, path = "/clients/{clientid}", tag = "Older dialect", operation_id = "v4_client_kick",
    params(("clientid" = String, Path, description = "The client")),
    responses((status = 200, description = "Code 0: it is gone; 112: it was not there", body = Answer), Refused)
)]
async fn kick(
    State(app): State<App>,
    caller: Caller,
    Path(clientid): Path<String>,
) -> Result<Response, Refusal> {
    if !app.broker.kick(&clientid).await {
        return Err(offline());
    }
    audit::write(&app, &caller, "clients.kick", &clientid, json!({})).await;
    Ok(super::done())
}

/// Topics to subscribe to in the name of a client, or not to any more.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = V4SubscribeOrder)]
struct Order {
    /// For whom.
    clientid: String,
    /// Which. This or `topics`.
    topic: Option<String>,
    /// Which: several, with commas between them.
    topics: Option<String>,
    /// At most with this QoS.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 2)]
    qos: u8,
}

impl Order {
    fn filters(&self) -> Result<Vec<String>, Refusal> {
        let filters: Vec<_> = match (&self.topic, &self.topics) {
            (Some(topic), None) => vec![topic.clone()],
            (None, Some(topics)) => topics.split(',').map(|topic| topic.trim().to_owned()).collect(),
            _ => return Err(Refusal(Code::MissingParameter, "one of topic and topics".to_owned())),
        };
        for filter in &filters {
            topic::validate_filter(filter)
                .map_err(|error| Refusal(Code::BadParameter, format!("{filter}: {error}")))?;
        }
        Ok(filters)
    }

    fn told(&self, done: Result<(), Refusal>) -> Value {
        let topic = self.topic.as_ref().or(self.topics.as_ref());
        match done {
            Ok(()) => json!({"clientid": self.clientid, "topic": topic, "code": 0}),
            Err(Refusal(code, why)) => {
                json!({"clientid": self.clientid, "topic": topic, "code": code as u16, "message": why})
            }
        }
    }
}

/// Subscribe in the name of a client.
#[utoipa::path(
    post, path = "/mqtt/subscribe", tag = "Older dialect", operation_id = "v4_subscribe", request_body = Order,
    responses((status = 200, description = "Code 0: the client has them", body = Answer), Refused, BodyRefused)
)]
async fn subscribe(
    State(app): State<App>,
    caller: Caller,
    Typed(order): Typed<Order>,
) -> Result<Response, Refusal> {
    subscribe_one(&app, &caller, &order).await.map(|()| super::done())
}

/// Unsubscribe in the name of a client.
#[utoipa::path(
    post, path = "/mqtt/unsubscribe", tag = "Older dialect", operation_id = "v4_unsubscribe", request_body = Order,
    responses((status = 200, description = "Code 0: the client has none of them", body = Answer), Refused, BodyRefused)
)]
async fn unsubscribe(
    State(app): State<App>,
    caller: Caller,
    Typed(order): Typed<Order>,
) -> Result<Response, Refusal> {
    unsubscribe_one(&app, &caller, &order).await.map(|()| super::done())
}

/// Subscribe in the name of many clients; each order has its own code.
#[utoipa::path(
    post, path = "/mqtt/subscribe_batch", tag = "Older dialect", operation_id = "v4_subscribe_batch",
    request_body = Vec<Order>,
    responses((status = 200, description = "What became of each", body = Answer), Refused, BodyRefused)
)]
async fn subscribe_batch(
    State(app): State<App>,
    caller: Caller,
    Typed(orders): Typed<Vec<Order>>,
) -> Result<Response, Refusal> {
    check_count(orders.len())?;
    let mut data = Vec::with_capacity(orders.len());
    for order in &orders {
        data.push(order.told(subscribe_one(&app, &caller, order).await));
    }
    Ok(super::ok(Value::Array(data)))
}

/// Unsubscribe in the name of many clients; each order has its own code.
#[utoipa::path(
    post, path = "/mqtt/unsubscribe_batch", tag = "Older dialect", operation_id = "v4_unsubscribe_batch",
    request_body = Vec<Order>,
    responses((status = 200, description = "What became of each", body = Answer), Refused, BodyRefused)
)]
async fn unsubscribe_batch(
    State(app): State<App>,
    caller: Caller,
    Typed(orders): Typed<Vec<Order>>,
) -> Result<Response, Refusal> {
    check_count(orders.len())?;
    let mut data = Vec::with_capacity(orders.len());
    for order in &orders {
        data.push(order.told(unsubscribe_one(&app, &caller, order).await));
    }
    Ok(super::ok(Value::Array(data)))
}

/// List subscriptions.
#[utoipa::path(
    get, path = "/subscriptions", tag = "Older dialect", operation_id = "v4_subscriptions", params(PageParams),
    responses((status = 200, description = "One page of them", body = Answer), Refused)
)]
async fn subscriptions_list(State(app): State<App>, Query(query): Query4) -> Result<Response, Refusal> {
    let Json(mut found) = subscriptions::list(State(app), Query(query)).await?;
    found["code"] = 0.into();
    Ok(Json(found).into_response())
}

/// List a client's subscriptions.
#[utoipa::path(
    get, path = "/subscriptions/{clientid}", tag = "Older dialect", operation_id = "v4_subscriptions_of",
    params(("clientid" = String, Path, description = "The client")),
    responses((status = 200, description = "Its subscriptions; none where it is not there", body = Answer), Refused)
)]
async fn subscriptions_of(State(app): State<App>, Path(clientid): Path<String>) -> Response {
    let held = app.broker.client_subscriptions(&clientid).unwrap_or_default();
    let shown = held
        .into_iter()
        .map(|it| json!({"node": &*app.node, "clientid": clientid, "topic": it.topic, "qos": it.qos}));
    super::ok(Value::from_iter(shown))
}

/// List topics that somebody subscribes to.
#[utoipa::path(
    get, path = "/routes", tag = "Older dialect", operation_id = "v4_routes", params(PageParams),
    responses((status = 200, description = "One page of them", body = Answer), Refused)
)]
async fn routes_list(State(app): State<App>, Query(query): Query4) -> Result<Response, Refusal> {
    let page = Page::from_params(&Params::new(query))?;
    let end = usize::try_from(page.skip().saturating_add(page.limit)).unwrap_or(usize::MAX);
    let topics = app.broker.topics_after(None, end);
    let skip = usize::try_from(page.skip()).unwrap_or(usize::MAX);
    let data = topics.iter().skip(skip).map(|topic| json!({"topic": topic, "node": &*app.node})).collect();
    Ok(super::page(page, data, app.broker.topics() as u64))
}

/// Show whether somebody subscribes to a topic.
#[utoipa::path(
    get, path = "/routes/{topic}", tag = "Older dialect", operation_id = "v4_routes_of",
    params(("topic" = String, Path, description = "The filter; a `/` in it is written `%2F`")),
    responses((status = 200, description = "A list with it, or an empty one", body = Answer), Refused)
)]
async fn routes_of(State(app): State<App>, Path(topic): Path<String>) -> Response {
    let found = app.broker.has_topic(&topic).then(|| json!({"topic": topic, "node": &*app.node}));
    super::ok(Value::from_iter(found))
}

async fn subscribe_one(app: &App, caller: &Caller, order: &Order) -> Result<(), Refusal> {
    if order.qos > 2 {
        return Err(Refusal(Code::BadParameter, "qos is 0, 1 or 2".to_owned()));
    }
    let filters = order.filters()?;
    let of = |topic: &String| SubscriptionInfo {
        topic: topic.clone(),
        qos: order.qos,
        ..SubscriptionInfo::default()
    };
    let asked = filters.iter().map(of).collect();
    match app.broker.subscribe(&order.clientid, asked).await {
        Ok(ProxySubscribed::Done) => {}
        Ok(ProxySubscribed::TooMany) => {
            return Err(Refusal(
                Code::BadParameter,
                "the client would have too many subscriptions".to_owned(),
            ));
        }
        Ok(ProxySubscribed::NoClient) => return Err(offline()),
        Err(error) => return Err(Refusal(Code::BadParameter, error.to_string())),
    }
    let details = json!({"topics": filters, "qos": order.qos});
    audit::write(app, caller, "clients.subscribe", &order.clientid, details).await;
    Ok(())
}

async fn unsubscribe_one(app: &App, caller: &Caller, order: &Order) -> Result<(), Refusal> {
    let filters = order.filters()?;
    app.broker.unsubscribe(&order.clientid, filters.clone()).await.ok_or_else(offline)?;
    audit::write(app, caller, "clients.unsubscribe", &order.clientid, json!({"topics": filters})).await;
    Ok(())
}

fn check_count(count: usize) -> Result<(), Refusal> {
    let why = || format!("at most {ORDERS_MAX} orders in a request");
    if count > ORDERS_MAX { Err(Refusal(Code::BadParameter, why())) } else { Ok(()) }
}

fn offline() -> Refusal {
    Refusal(Code::ClientOffline, "the client is not there".to_owned())
}

/// Gives a client the names and times of this dialect.
fn translate(client: &mut Value) {
    let Some(fields) = client.as_object_mut() else { return };
    for (here, there) in RENAMED {
        if let Some(value) = fields.remove(there) {
            fields.insert(here.to_owned(), value);
        }
    }
    for name in ["connected_at", "created_at", "disconnected_at"] {
        written_time(fields, name);
    }
}

/// `2026-01-02T03:04:05.678+00:00` becomes `2026-01-02 03:04:05`.
fn written_time(fields: &mut Map<String, Value>, name: &str) {
    if let Some(Value::String(text)) = fields.get_mut(name) {
        *text = text.chars().take(19).map(|c| if c == 'T' { ' ' } else { c }).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_in_this_dialect() {
        let mut client =
            json!({"clientid": "a", "inflight_max": 32, "created_at": "2026-01-02T03:04:05.678+00:00"});
        translate(&mut client);
        assert_eq!(client, json!({"clientid": "a", "max_inflight": 32, "created_at": "2026-01-02 03:04:05"}));
    }

    #[test]
    fn topics_are_one_or_several() {
        let order = |topic: Option<&str>, topics: Option<&str>| Order {
            clientid: "c".to_owned(),
            topic: topic.map(str::to_owned),
            topics: topics.map(str::to_owned),
            qos: 0,
        };
        assert_eq!(order(None, Some("a, b/#")).filters().expect("good"), ["a", "b/#"]);
        assert_eq!(order(Some("a,b"), None).filters().expect("good"), ["a,b"]);
        let code = |order: Order| order.filters().expect_err("wrong").0;
        assert_eq!(code(order(None, None)), Code::MissingParameter);
        assert_eq!(code(order(Some("a"), Some("b"))), Code::MissingParameter);
        assert_eq!(code(order(Some("a/#/b"), None)), Code::BadParameter);
    }
}
