//! `/api/v5/clients`: who has a session, in the shape that EMQX v5 clients expect, and what can be done with them. A
//! list is read step by step in the order of client ids; it never holds up clients that come and go.

use axum::Json;
use axum::extract::{Query, State};
use muster_broker::{Broker, ClientInfo, ClientView};
use serde_json::{Map, Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

mod actions;
mod body;
mod described;
mod messages;

use super::App;
use super::reply::{ApiError, ErrorBody, Page, PageParams, Paged, Params, Path, Refused, rfc3339};
pub(super) use actions::{Shown as Subscription, shown as subscription};
use described::{ClientQuery, Described};

/// Clients that are looked at before others have their turn.
const STEP_CLIENTS: usize = 512;

/// The paths about clients.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(one, actions::kick))
        .routes(routes!(actions::kick_bulk))
        .routes(routes!(actions::subscriptions))
        .routes(routes!(actions::subscribe))
        .routes(routes!(actions::subscribe_bulk))
        .routes(routes!(actions::unsubscribe))
        .routes(routes!(actions::unsubscribe_bulk))
        .routes(routes!(actions::keepalive))
        .routes(routes!(actions::sessions_count))
        .routes(routes!(messages::queued))
        .routes(routes!(messages::inflight))
}

/// Shows `visit` each client that comes after an identifier, in the order of identifiers, until it says false. Who
/// comes or goes meanwhile is seen or not; everybody else is seen once.
pub(super) async fn each(
    broker: &Broker,
    after: Option<&str>,
    mut visit: impl FnMut(&ClientView) -> bool + Send,
) {
    let mut after = after.map(str::to_owned);
    loop {
        let step = broker.clients_after(after.as_deref(), STEP_CLIENTS);
        if !step.iter().all(&mut visit) || step.len() < STEP_CLIENTS {
            return;
        }
        after = step.last().map(|last| last.fixed().clientid.clone());
        tokio::task::yield_now().await;
    }
}

/// One page of the clients that the filters let through, in the order of client ids.
#[utoipa::path(get, path = "/clients", tag = "Clients", operation_id = "clients_list", params(PageParams, ClientQuery),
    responses((status = 200, description = "A page of them", body = Paged<Described>),
        (status = 400, description = "A parameter cannot be used", body = ErrorBody), Refused))]
pub(super) async fn list(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let params = Params::new(query);
    let page = Page::from_params(&params)?;
    let filter = Filter::from_params(&params)?;
    let cursor = params.one("cursor");
    if cursor.is_some() && page.page > 1 {
        return Err(ApiError::invalid_parameter("cursor and page: only one of them can say where to begin"));
    }
    let is_uncounted = filter.is_fuzzy() || cursor.is_some();
    let whole = (!is_uncounted && filter.is_open()).then(|| app.broker.sessions() as u64);
    let (first, end) = (page.skip(), page.skip().saturating_add(page.limit));
    let mut seen = 0;
    let mut found = Vec::new();
    let mut visit = |view: &ClientView| {
        if filter.admits(view.fixed(), view.is_connected()) {
            if (first..end).contains(&seen) {
                found.push(view.clone());
            }
            seen += 1;
        }
        // One more than the page tells whether there is another; all of them only where they must be counted.
        (whole.is_none() && !is_uncounted) || seen <= end
    };
    if filter.clientids.is_empty() {
        each(&app.broker, cursor, visit).await;
    } else {
        let mut wanted: Vec<_> =
            filter.clientids.iter().filter(|id| cursor.is_none_or(|it| id.as_str() > it)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        wanted.into_iter().filter_map(|id| app.broker.client_view(id)).all(|view| visit(&view));
    }
    let last = found.last().map(|view| view.fixed().clientid.clone());
    let shown = found.iter().map(|view| filter.columns(client(&view.info()))).collect();
    let Json(mut answer) = page.envelope(shown, whole.unwrap_or(seen).max(seen), is_uncounted);
    if answer["meta"]["hasnext"] == true {
        answer["meta"]["cursor"] = last.into();
    }
    Ok(Json(answer))
}

/// One client.
#[utoipa::path(get, path = "/clients/{clientid}", tag = "Clients", operation_id = "clients_get",
    params(("clientid" = String, Path, description = "The client's id")),
    responses((status = 200, description = "The client", body = Described),
        (status = 404, description = "There is none", body = ErrorBody), Refused))]
pub(super) async fn one(
    State(app): State<App>,
    Path(clientid): Path<String>,
) -> Result<Json<Value>, ApiError> {
    app.broker.client(&clientid).map(|it| Json(client(&it))).ok_or_else(ApiError::clientid_not_found)
}

/// What `GET /clients` can be asked for; an empty list or none lets everything through.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Filter {
    node: Option<String>,
    clientids: Vec<String>,
    usernames: Vec<String>,
    ip_address: Option<String>,
    connected: Option<bool>,
    clean_start: Option<bool>,
    proto_ver: Option<u8>,
    like_clientid: Option<String>,
    like_username: Option<String>,
    created_at: (Option<i64>, Option<i64>),
    connected_at: (Option<i64>, Option<i64>),
    fields: Option<Vec<String>>,
}

impl Filter {
    fn from_params(params: &Params) -> Result<Self, ApiError> {
        let text = |name| params.one(name).map(str::to_owned);
        let all = |name| params.all(name).into_iter().map(str::to_owned).collect();
        let connected = params.parsed("conn_state", |state| match state {
            "connected" => Some(true),
            // No session of ours is ever idle: it is there once its client is connected.
            "idle" | "disconnected" => Some(false),
            _ => None,
        })?;
        let fields = params.one("fields").filter(|fields| *fields != "all");
        Ok(Self {
            node: text("node"),
            clientids: all("clientid"),
            usernames: all("username"),
            ip_address: text("ip_address"),
            connected,
            clean_start: params.flag("clean_start")?,
            proto_ver: params.parsed("proto_ver", |text| text.parse().ok())?,
            like_clientid: text("like_clientid"),
            like_username: text("like_username"),
            created_at: (params.time("gte_created_at")?, params.time("lte_created_at")?),
            connected_at: (params.time("gte_connected_at")?, params.time("lte_connected_at")?),
            fields: fields.map(|fields| fields.split(',').map(|field| field.trim().to_owned()).collect()),
        })
    }

    fn admits(&self, client: &ClientInfo, is_connected: bool) -> bool {
        let username = client.username.as_deref();
        let one_of = |wanted: &[String], have: Option<&str>| {
            wanted.is_empty() || have.is_some_and(|have| wanted.iter().any(|want| want == have))
        };
        let like = |wanted: &Option<String>, have: Option<&str>| {
            wanted.as_ref().is_none_or(|part| have.is_some_and(|have| have.contains(part.as_str())))
        };
        let within = |(from, to): (Option<i64>, Option<i64>), at: i64| {
            from.is_none_or(|from| from <= at) && to.is_none_or(|to| at <= to)
        };
        self.node.as_ref().is_none_or(|node| *node == client.node)
            && one_of(&self.clientids, Some(&client.clientid))
            && one_of(&self.usernames, username)
            && like(&self.like_clientid, Some(&client.clientid))
            && like(&self.like_username, username)
            && self.ip_address.as_ref().is_none_or(|ip| ip == split(&client.peername).0)
            && self.connected.is_none_or(|connected| connected == is_connected)
            && self.clean_start.is_none_or(|clean_start| clean_start == client.clean_start)
            && self.proto_ver.is_none_or(|proto_ver| proto_ver == client.proto_ver)
            && within(self.created_at, client.created_at_ms)
            && within(self.connected_at, client.connected_at_ms)
    }

    /// Whether it lets everybody through.
    fn is_open(&self) -> bool {
        Self { fields: None, ..self.clone() } == Self::default()
    }

    /// Whether the reference leaves the count out for such a search.
    fn is_fuzzy(&self) -> bool {
        let range = |(from, to): (Option<i64>, Option<i64>)| from.or(to).is_some();
        self.like_clientid.is_some()
            || self.like_username.is_some()
            || range(self.created_at)
            || range(self.connected_at)
    }

    fn columns(&self, client: Value) -> Value {
        match (&self.fields, client) {
            (Some(fields), Value::Object(all)) => {
                let kept = all.into_iter().filter(|(name, _)| fields.contains(name));
                Value::Object(kept.collect::<Map<_, _>>())
            }
            (_, client) => client,
        }
    }
}

/// Address and port of `address:port`; an IPv6 address loses its brackets.
fn split(peername: &str) -> (&str, Option<u16>) {
    let (host, port) = peername.rsplit_once(':').unwrap_or((peername, ""));
    let host = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
    (host, port.parse().ok())
}

fn client(it: &ClientInfo) -> Value {
    let (ip_address, peer_port) = split(&it.peername);
    let (_, port) = split(&it.sockname);
    let mut client = json!({
        "clientid": it.clientid,
        "username": it.username,
        "node": it.node,
        "ip_address": ip_address,
        "peerport": peer_port,
        "port": port,
        "listener": it.listener,
        "proto_name": it.proto_name,
        "proto_ver": it.proto_ver,
        "connected": it.connected,
        "connected_at": rfc3339(it.connected_at_ms),
        "created_at": rfc3339(it.created_at_ms),
        "clean_start": it.clean_start,
        "expiry_interval": it.expiry_interval_seconds,
        "keepalive": it.keepalive_seconds,
        "is_bridge": it.is_bridge,
        "is_expired": false,
        "is_persistent": it.expiry_interval_seconds > 0,
        "durable": false,
        "enable_authn": true,
        "mountpoint": null,
        "client_attrs": {},
        "session": it.session,
    });
    if let Some(client) = client.as_object_mut() {
        client.extend(counters(it).map(|(name, value)| (name.to_owned(), value.into())));
        if let Some(at) = it.disconnected_at_ms {
            client.insert("disconnected_at".to_owned(), rfc3339(at));
        }
    }
    client
}

fn counters(it: &ClientInfo) -> impl Iterator<Item = (&'static str, u64)> {
    let [received_qos0, received_qos1, received_qos2] = it.messages_received_by_qos;
    let [sent_qos0, sent_qos1, sent_qos2] = it.messages_sent_by_qos;
    [
        ("subscriptions_cnt", it.subscriptions_count as u64),
        ("subscriptions_max", it.subscriptions_max as u64),
        ("inflight_cnt", it.inflight_count as u64),
        ("inflight_max", it.inflight_max as u64),
        ("mqueue_len", it.queue_count as u64),
        ("mqueue_max", it.queue_max as u64),
        ("mqueue_dropped", it.messages_dropped_queue_full),
        ("awaiting_rel_cnt", it.awaiting_release_count as u64),
        ("awaiting_rel_max", it.awaiting_release_max as u64),
        ("recv_oct", it.bytes_received),
        ("recv_pkt", it.packets_received),
        ("recv_cnt", it.packets_received),
        ("recv_msg", received_qos0 + received_qos1 + received_qos2),
        ("recv_msg.qos0", received_qos0),
        ("recv_msg.qos1", received_qos1),
        ("recv_msg.qos2", received_qos2),
        ("send_oct", it.bytes_sent),
        ("send_pkt", it.packets_sent),
        ("send_cnt", it.packets_sent),
        ("send_msg", sent_qos0 + sent_qos1 + sent_qos2),
        ("send_msg.qos0", sent_qos0),
        ("send_msg.qos1", sent_qos1),
        ("send_msg.qos2", sent_qos2),
        ("send_msg.dropped", it.messages_dropped),
        ("send_msg.dropped.expired", it.messages_dropped_expired),
        ("send_msg.dropped.queue_full", it.messages_dropped_queue_full),
        ("send_msg.dropped.too_large", it.messages_dropped_too_large),
    ]
    .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> ClientInfo {
        ClientInfo {
            clientid: "sensor/1".to_owned(),
            username: Some("fleet".to_owned()),
            node: "n".to_owned(),
            peername: "[::1]:5000".to_owned(),
            connected: true,
            connected_at_ms: 1_000,
            created_at_ms: 500,
            proto_ver: 5,
            ..ClientInfo::default()
        }
    }

    fn admits(query: &[(&str, &str)]) -> bool {
        let pairs = query.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Filter::from_params(&Params::new(pairs)).expect("a filter").admits(&info(), true)
    }

    #[test]
    fn filters() {
        for (query, want) in [
            (&[][..], true),
            (&[("clientid", "a"), ("clientid", "sensor/1")], true),
            (&[("clientid", "sensor")], false),
            (&[("like_clientid", "sensor")], true),
            (&[("_like_clientid", "x")], false),
            (&[("username", "fleet"), ("proto_ver", "4")], false),
            (&[("like_username", "lee"), ("proto_ver", "5")], true),
            (&[("conn_state", "connected"), ("ip_address", "::1")], true),
            (&[("conn_state", "disconnected")], false),
            (&[("gte_connected_at", "1000"), ("lte_created_at", "1970-01-01T00:00:00.500+00:00")], true),
            (&[("gte_connected_at", "1001")], false),
            (&[("node", "other")], false),
        ] {
            assert_eq!(admits(query), want, "{query:?}");
        }
        let bad = Params::new(vec![("conn_state".to_owned(), "asleep".to_owned())]);
        assert_eq!(
            Filter::from_params(&bad).unwrap_err(),
            ApiError::invalid_parameter("conn_state: cannot be read")
        );
    }

    #[test]
    fn the_shape() {
        let shown = client(&info());
        assert_eq!(shown["connected_at"], "1970-01-01T00:00:01.000+00:00");
        assert_eq!(shown["peerport"], 5000);
        assert!(shown.get("disconnected_at").is_none(), "only of those who are gone");
        let filter = Filter { fields: Some(vec!["clientid".to_owned()]), ..Filter::default() };
        assert_eq!(filter.columns(shown), json!({"clientid": "sensor/1"}));
    }
}
