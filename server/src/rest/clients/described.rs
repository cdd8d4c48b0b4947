//! A client and the questions about clients, for those who describe them. It must never be read or written itself.

use std::collections::BTreeMap;

/// A client. With `fields` only what is named there.
#[derive(utoipa::ToSchema, serde::Serialize)]
#[schema(as = Client)]
pub(super) struct Described {
    #[schema(nullable = false)]
    clientid: Option<String>,
    username: Option<String>,
    #[schema(nullable = false)]
    node: Option<String>,
    #[schema(nullable = false)]
    ip_address: Option<String>,
    peerport: Option<u16>,
    port: Option<u16>,
    /// For example `tcp:default`.
    #[schema(nullable = false)]
    listener: Option<String>,
    #[schema(nullable = false)]
    proto_name: Option<String>,
    /// 3, 4 or 5.
    #[schema(nullable = false)]
    proto_ver: Option<u8>,
    #[schema(nullable = false)]
    connected: Option<bool>,
    #[schema(nullable = false, format = DateTime)]
    connected_at: Option<String>,
    #[schema(nullable = false, format = DateTime)]
    created_at: Option<String>,
    /// Only of those who are gone.
    #[schema(nullable = false, format = DateTime)]
    disconnected_at: Option<String>,
    #[schema(nullable = false)]
    clean_start: Option<bool>,
    /// Seconds.
    #[schema(nullable = false)]
    expiry_interval: Option<u32>,
    /// Seconds.
    #[schema(nullable = false)]
    keepalive: Option<u16>,
    #[schema(nullable = false)]
    is_bridge: Option<bool>,
    #[schema(nullable = false)]
    is_expired: Option<bool>,
    #[schema(nullable = false)]
    is_persistent: Option<bool>,
    #[schema(nullable = false)]
    durable: Option<bool>,
    #[schema(nullable = false)]
    enable_authn: Option<bool>,
    mountpoint: Option<String>,
    #[schema(nullable = false)]
    client_attrs: Option<BTreeMap<String, String>>,
    #[schema(nullable = false)]
    session: Option<u64>,
    #[schema(nullable = false)]
    subscriptions_cnt: Option<u64>,
    #[schema(nullable = false)]
    subscriptions_max: Option<u64>,
    #[schema(nullable = false)]
    inflight_cnt: Option<u64>,
    #[schema(nullable = false)]
    inflight_max: Option<u64>,
    #[schema(nullable = false)]
    mqueue_len: Option<u64>,
    #[schema(nullable = false)]
    mqueue_max: Option<u64>,
    #[schema(nullable = false)]
    mqueue_dropped: Option<u64>,
    #[schema(nullable = false)]
    awaiting_rel_cnt: Option<u64>,
    #[schema(nullable = false)]
    awaiting_rel_max: Option<u64>,
    #[schema(nullable = false)]
    recv_oct: Option<u64>,
    #[schema(nullable = false)]
    recv_pkt: Option<u64>,
    #[schema(nullable = false)]
    recv_cnt: Option<u64>,
    #[schema(nullable = false)]
    recv_msg: Option<u64>,
    #[serde(rename = "recv_msg.qos0")]
    #[schema(nullable = false)]
    recv_msg_qos0: Option<u64>,
    #[serde(rename = "recv_msg.qos1")]
    #[schema(nullable = false)]
    recv_msg_qos1: Option<u64>,
    #[serde(rename = "recv_msg.qos2")]
    #[schema(nullable = false)]
    recv_msg_qos2: Option<u64>,
    #[schema(nullable = false)]
    send_oct: Option<u64>,
    #[schema(nullable = false)]
    send_pkt: Option<u64>,
    #[schema(nullable = false)]
    send_cnt: Option<u64>,
    #[schema(nullable = false)]
    send_msg: Option<u64>,
    #[serde(rename = "send_msg.qos0")]
    #[schema(nullable = false)]
    send_msg_qos0: Option<u64>,
    #[serde(rename = "send_msg.qos1")]
    #[schema(nullable = false)]
    send_msg_qos1: Option<u64>,
    #[serde(rename = "send_msg.qos2")]
    #[schema(nullable = false)]
    send_msg_qos2: Option<u64>,
    #[serde(rename = "send_msg.dropped")]
    #[schema(nullable = false)]
    send_msg_dropped: Option<u64>,
    #[serde(rename = "send_msg.dropped.expired")]
    #[schema(nullable = false)]
    send_msg_dropped_expired: Option<u64>,
    #[serde(rename = "send_msg.dropped.queue_full")]
    #[schema(nullable = false)]
    send_msg_dropped_queue_full: Option<u64>,
    #[serde(rename = "send_msg.dropped.too_large")]
    #[schema(nullable = false)]
    send_msg_dropped_too_large: Option<u64>,
}

/// Whether clients are connected.
#[derive(utoipa::ToSchema, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes what Params reads")]
pub(super) enum ConnState {
    Connected,
    Idle,
    Disconnected,
}

/// What lists of clients can be asked for.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what Params reads")]
pub(super) struct ClientQuery {
    /// On this node.
    node: Option<String>,
    /// With one of these ids; the parameter may be repeated.
    clientid: Option<Vec<String>>,
    /// With one of these user names; the parameter may be repeated.
    username: Option<Vec<String>>,
    /// From this address.
    ip_address: Option<String>,
    /// Who is connected, or is not.
    #[param(inline)]
    conn_state: Option<ConnState>,
    /// Who asked for a clean session, or did not.
    clean_start: Option<bool>,
    /// 3, 4 or 5.
    #[param(minimum = 0, maximum = 255)]
    proto_ver: Option<u8>,
    /// Part of the client id; leaves `meta.count` out.
    like_clientid: Option<String>,
    /// Part of the user name; leaves `meta.count` out.
    like_username: Option<String>,
    /// RFC 3339, or milliseconds since 1970.
    #[param(example = "2026-01-02T03:04:05Z")]
    gte_created_at: Option<String>,
    /// RFC 3339, or milliseconds since 1970.
    #[param(example = "2026-01-02T03:04:05Z")]
    lte_created_at: Option<String>,
    /// RFC 3339, or milliseconds since 1970.
    #[param(example = "2026-01-02T03:04:05Z")]
    gte_connected_at: Option<String>,
    /// RFC 3339, or milliseconds since 1970.
    #[param(example = "2026-01-02T03:04:05Z")]
    lte_connected_at: Option<String>,
    /// Which fields to show, with commas between them; `all` without it.
    #[param(example = "clientid,username")]
    fields: Option<String>,
    /// Behind this client id: `meta.cursor` of the page before. Not together with a `page` beyond 1.
    cursor: Option<String>,
}
