//! The columns of an event: the names that rules bind at plan time, which kinds have which, and their types.

use crate::event::proto::{Client, Connection, Message, Properties};
use crate::event::{Event, EventId, EventKind};
use crate::value::{Map, Value};

/// What a column holds; `Undefined` is possible for each but the common ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// Text.
    String,
    /// Bytes that need not be UTF-8.
    Bytes,
    /// Names to values.
    Map,
}

macro_rules! columns {
    ($($variant:ident $name:literal $ty:ident,)*) => {
        /// A field of an event under the name that rules use.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "the names are the documentation; meaning in schemas/event.proto")]
        pub enum Column { $($variant,)* }

        const ALL: &[Column] = &[$(Column::$variant,)*];

        impl Column {
            /// The name in rules and rows.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it holds.
            pub const fn column_type(self) -> ColumnType {
                match self { $(Self::$variant => ColumnType::$ty,)* }
            }

            /// The column of this name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

columns! {
    // On every event.
    Event "event" String,
    Timestamp "timestamp" Integer,
    Node "node" String,
    Id "id" String,
    EventId "event_id" String,
    Offset "offset" Integer,
    // On events of a client.
    Clientid "clientid" String,
    Username "username" String,
    Session "session" Integer,
    Seq "seq" Integer,
    Peername "peername" String,
    Peerhost "peerhost" String,
    Sockname "sockname" String,
    ProtoName "proto_name" String,
    ProtoVer "proto_ver" Integer,
    ClientAttrs "client_attrs" Map,
    Mountpoint "mountpoint" String,
    // Connections.
    Keepalive "keepalive" Integer,
    CleanStart "clean_start" Boolean,
    ReceiveMaximum "receive_maximum" Integer,
    ExpiryInterval "expiry_interval" Integer,
    IsBridge "is_bridge" Boolean,
    ConnProps "conn_props" Map,
    DisconnProps "disconn_props" Map,
    ConnectedAt "connected_at" Integer,
    DisconnectedAt "disconnected_at" Integer,
    Reason "reason" String,
    ReasonCode "reason_code" String,
    IsAnonymous "is_anonymous" Boolean,
    IsSuperuser "is_superuser" Boolean,
    Action "action" String,
    AuthzSource "authz_source" String,
    Result "result" String,
    // Subscriptions and messages.
    Topic "topic" String,
    Qos "qos" Integer,
    SubProps "sub_props" Map,
    UnsubProps "unsub_props" Map,
    ByProxy "by_proxy" Boolean,
    Payload "payload" Bytes,
    Flags "flags" Map,
    PubProps "pub_props" Map,
    PubackProps "puback_props" Map,
    PublishReceivedAt "publish_received_at" Integer,
    FromClientid "from_clientid" String,
    FromUsername "from_username" String,
    // Alarms, audit, node.
    Name "name" String,
    Message "message" String,
    Details "details" Map,
    ActivatedAt "activated_at" Integer,
    DeactivatedAt "deactivated_at" Integer,
    Kind "kind" String,
    Severity "severity" String,
    Since "since" Integer,
    Duration "duration" Integer,
    Actor "actor" String,
    Object "object" String,
    Version "version" String,
}

use Column as C;

const COMMON: &[C] = &[C::Event, C::Timestamp, C::Node, C::Id, C::EventId, C::Offset];
const CLIENT: &[C] = &[C::Clientid, C::Username, C::Session, C::Seq, C::Peername, C::ClientAttrs];
const PROTOCOL: &[C] = &[C::Sockname, C::ProtoName, C::ProtoVer];
const MESSAGE: &[C] =
    &[C::Topic, C::Qos, C::Payload, C::Flags, C::PubProps, C::PublishReceivedAt, C::Peerhost];
const ALARM: &[C] = &[
    C::Name,
    C::Kind,
    C::Severity,
    C::Clientid,
    C::Username,
    C::Message,
    C::Details,
    C::ActivatedAt,
    C::Since,
];
const FROM: &[C] = &[C::FromClientid, C::FromUsername];
const HANDSHAKE: &[C] = &[C::Keepalive, C::CleanStart, C::ExpiryInterval, C::ConnectedAt, C::ConnProps];

impl Column {
    /// Every column.
    pub const fn all() -> &'static [Self] {
        ALL
    }

    /// The columns that events of `kind` have, in the order in which `SELECT *` gives them.
    pub fn of(kind: EventKind) -> Vec<Self> {
        let groups: &[&[C]] = match kind {
            EventKind::MessagePublish => &[CLIENT, MESSAGE],
            EventKind::MessageDelivered => &[CLIENT, MESSAGE, FROM],
            EventKind::MessageAcked => &[CLIENT, MESSAGE, FROM, &[C::PubackProps]],
            EventKind::MessageDropped => &[CLIENT, MESSAGE, &[C::Reason]],
            EventKind::DeliveryDropped => &[CLIENT, MESSAGE, FROM, &[C::Reason]],
            EventKind::ClientConnected => {
                &[CLIENT, PROTOCOL, HANDSHAKE, &[C::Mountpoint, C::ReceiveMaximum, C::IsBridge]]
            }
            EventKind::ClientDisconnected => {
                &[CLIENT, PROTOCOL, &[C::Reason, C::DisconnProps, C::ConnectedAt, C::DisconnectedAt]]
            }
            EventKind::ClientConnack => &[CLIENT, PROTOCOL, HANDSHAKE, &[C::ReasonCode]],
            EventKind::ClientAuthn => &[CLIENT, &[C::ReasonCode, C::IsAnonymous, C::IsSuperuser]],
            EventKind::ClientAuthz => {
                &[CLIENT, &[C::Peerhost, C::Topic, C::Action, C::AuthzSource, C::Result]]
            }
            EventKind::SessionSubscribed => {
                &[CLIENT, &[C::Peerhost, C::Topic, C::Qos, C::SubProps, C::ByProxy]]
            }
            EventKind::SessionUnsubscribed => {
                &[CLIENT, &[C::Peerhost, C::Topic, C::Qos, C::UnsubProps, C::ByProxy]]
            }
            EventKind::AlarmActivated => &[ALARM],
            EventKind::AlarmDeactivated => &[ALARM, &[C::DeactivatedAt, C::Duration]],
            EventKind::Admin => &[&[C::Action, C::Actor, C::Object, C::Details, C::Result]],
            EventKind::NodeStarted => &[&[C::Version]],
            EventKind::NodeStopped => &[&[C::Version, C::Reason]],
            EventKind::NodeAlive => &[],
        };
        COMMON.iter().chain(groups.iter().copied().flatten()).copied().collect()
    }
}

impl Event {
    /// The value of a column; undefined where this event has none. Costs what that column costs: nothing else is
    /// built.
    pub fn get(&self, column: Column) -> Value {
        match column {
            C::Event => self.kind.name().into(),
            C::Timestamp => self.timestamp_ms.into(),
            C::Node => self.body.node.as_str().into(),
            C::Id => self.message_id().to_string().into(),
            C::EventId => self.id.to_string().into(),
            C::Offset => self.offset.into(),
            C::Topic if self.has_topic() => self.topic.as_str().into(),
            C::Topic => Value::Undefined,
            C::Clientid
            | C::Username
            | C::Session
            | C::Seq
            | C::Peername
            | C::Peerhost
            | C::Sockname
            | C::ProtoName
            | C::ProtoVer
            | C::ClientAttrs
            | C::Mountpoint => {
                self.body.client.as_ref().map_or(Value::Undefined, |client| client_column(client, column))
            }
            C::Payload
            | C::Flags
            | C::PubProps
            | C::PublishReceivedAt
            | C::FromClientid
            | C::FromUsername => {
                self.body.message.as_ref().map_or(Value::Undefined, |message| message_column(message, column))
            }
            C::Qos if self.kind.is_message() => {
                self.body.message.as_ref().map_or(Value::Undefined, |message| message.qos.into())
            }
            _ => self.detail_column(column),
        }
    }

    /// Every column that has a value, in order; what `SELECT *` is made of.
    pub fn columns(&self) -> Map {
        let pairs = Column::of(self.kind).into_iter().map(|column| (column.name(), self.get(column)));
        pairs.filter(|(_, value)| !value.is_undefined()).collect()
    }

    /// The id of the message that the event is about; the event's own where there is none.
    pub fn message_id(&self) -> EventId {
        let named = self.body.message.as_ref().and_then(|message| EventId::from_bytes(&message.id));
        named.unwrap_or(self.id)
    }

    fn has_topic(&self) -> bool {
        self.kind.is_message()
            || matches!(
                self.kind,
                EventKind::ClientAuthz | EventKind::SessionSubscribed | EventKind::SessionUnsubscribed
            )
    }

    fn detail_column(&self, column: Column) -> Value {
        use crate::event::proto::event::Detail;
        let Some(detail) = &self.body.detail else { return Value::Undefined };
        match (detail, column) {
            (Detail::Connected(it) | Detail::Connack(it), _) => connection_column(it, column),
            (Detail::Disconnected(it), C::Reason) => it.reason.as_str().into(),
            (Detail::Disconnected(it), C::DisconnProps) => properties(it.props.as_ref()),
            (Detail::Disconnected(it), C::ConnectedAt) => it.connected_at_ms.into(),
            (Detail::Disconnected(it), C::DisconnectedAt) => it.disconnected_at_ms.into(),
            (Detail::Authn(it), C::ReasonCode) => it.reason_code.as_str().into(),
            (Detail::Authn(it), C::IsAnonymous) => it.is_anonymous.into(),
            (Detail::Authn(it), C::IsSuperuser) => it.is_superuser.into(),
            (Detail::Authz(it), C::Action) => it.action.as_str().into(),
            (Detail::Authz(it), C::AuthzSource) => it.source.as_str().into(),
            (Detail::Authz(it), C::Result) => it.result.as_str().into(),
            (Detail::Subscribed(it) | Detail::Unsubscribed(it), C::Qos) => it.qos.into(),
            (Detail::Subscribed(it) | Detail::Unsubscribed(it), C::ByProxy) => it.by_proxy.into(),
            (Detail::Subscribed(it), C::SubProps) | (Detail::Unsubscribed(it), C::UnsubProps) => {
                properties(it.props.as_ref())
            }
            (Detail::Delivery(it), C::Reason) if !it.reason.is_empty() => it.reason.as_str().into(),
            (Detail::Delivery(it), C::PubackProps) => properties(it.puback_props.as_ref()),
            (Detail::Alarm(it), C::Name) => it.name.as_str().into(),
            (Detail::Alarm(it), C::Message) => it.message.as_str().into(),
            (Detail::Alarm(it), C::Details) => Value::from_json(&it.details),
            (Detail::Alarm(it), C::ActivatedAt) => it.activated_at_ms.into(),
            (Detail::Alarm(it), C::DeactivatedAt) if it.deactivated_at_ms > 0 => it.deactivated_at_ms.into(),
            (Detail::Alarm(it), C::Kind) => or(&it.kind, "system"),
            (Detail::Alarm(it), C::Severity) => or(&it.severity, "major"),
            (Detail::Alarm(it), C::Since) if it.since_ms > 0 => it.since_ms.into(),
            (Detail::Alarm(it), C::Duration) if it.deactivated_at_ms > 0 => it.length_ms().into(),
            (Detail::Admin(it), C::Action) => it.action.as_str().into(),
            (Detail::Admin(it), C::Actor) => it.actor.as_str().into(),
            (Detail::Admin(it), C::Object) => it.object.as_str().into(),
            (Detail::Admin(it), C::Details) => Value::from_json(&it.details),
            (Detail::Admin(it), C::Result) => it.result.as_str().into(),
            (Detail::Lifecycle(it), C::Version) => it.version.as_str().into(),
            (Detail::Lifecycle(it), C::Reason) if !it.reason.is_empty() => it.reason.as_str().into(),
            _ => Value::Undefined,
        }
    }
}

impl crate::event::proto::Alarm {
    /// How long it lasted, when it is over. Where nothing is said of when it began to hold, from when it was told.
    pub fn length_ms(&self) -> i64 {
        match self.duration_ms {
            0 if self.since_ms == 0 => self.deactivated_at_ms.saturating_sub(self.activated_at_ms).max(0),
            length => length,
        }
    }
}

/// What old logs left out.
fn or(text: &str, meant: &str) -> Value {
    if text.is_empty() { meant.into() } else { text.into() }
}

fn client_column(client: &Client, column: Column) -> Value {
    match column {
        C::Clientid => client.clientid.as_str().into(),
        C::Username => client.username.as_deref().into(),
        C::Session => client.session.into(),
        C::Seq => client.seq.into(),
        C::Peername => text(&client.peername),
        C::Peerhost => text(host(&client.peername)),
        C::Sockname => text(&client.sockname),
        C::ProtoName => text(&client.proto_name),
        C::ProtoVer if client.proto_ver > 0 => client.proto_ver.into(),
        C::ClientAttrs => {
            let mut attrs: Vec<_> = client.attrs.iter().collect();
            attrs.sort_unstable();
            attrs.into_iter().map(|(key, value)| (key.as_str(), value.as_str())).collect::<Map>().into()
        }
        C::Mountpoint => client.mountpoint.as_deref().into(),
        _ => Value::Undefined,
    }
}

fn connection_column(connection: &Connection, column: Column) -> Value {
    match column {
        C::Keepalive => connection.keepalive_seconds.into(),
        C::CleanStart => connection.clean_start.into(),
        C::ReceiveMaximum => connection.receive_maximum.into(),
        C::ExpiryInterval => connection.expiry_interval_seconds.into(),
        C::IsBridge => connection.is_bridge.into(),
        C::ConnProps => properties(connection.props.as_ref()),
        C::ConnectedAt if connection.connected_at_ms > 0 => connection.connected_at_ms.into(),
        C::ReasonCode => text(&connection.reason_code),
        _ => Value::Undefined,
    }
}

fn message_column(message: &Message, column: Column) -> Value {
    match column {
        C::Payload => message.payload.clone().into(),
        C::Flags => [("retain", message.retain), ("dup", message.dup)].into_iter().collect::<Map>().into(),
        C::PubProps => properties(message.props.as_ref()),
        C::PublishReceivedAt => message.publish_received_at_ms.into(),
        C::FromClientid => text(&message.from_clientid),
        C::FromUsername => message.from_username.as_deref().into(),
        _ => Value::Undefined,
    }
}

/// MQTT 5 properties under the standard's names with hyphens. User properties come twice: as a map, in which the
/// last of equal keys wins, and as pairs, which keep order and duplicates.
fn properties(props: Option<&Properties>) -> Value {
    let Some(props) = props else { return Map::new().into() };
    let mut map = Map::new();
    let mut put = |name: &str, value: Value| {
        if !value.is_undefined() {
            map.insert(name, value);
        }
    };
    put("Payload-Format-Indicator", props.payload_format_indicator.into());
    put("Message-Expiry-Interval", props.message_expiry_interval.into());
    put("Content-Type", props.content_type.as_deref().into());
    put("Response-Topic", props.response_topic.as_deref().into());
    put("Correlation-Data", props.correlation_data.clone().into());
    put("Session-Expiry-Interval", props.session_expiry_interval.into());
    put("Receive-Maximum", props.receive_maximum.into());
    put("Maximum-Packet-Size", props.maximum_packet_size.into());
    put("Topic-Alias-Maximum", props.topic_alias_maximum.into());
    put("Request-Response-Information", props.request_response_information.into());
    put("Request-Problem-Information", props.request_problem_information.into());
    put("Authentication-Method", props.authentication_method.as_deref().into());
    put("Reason-String", props.reason_string.as_deref().into());
    put("Server-Reference", props.server_reference.as_deref().into());
    put("Will-Delay-Interval", props.will_delay_interval.into());
    match props.subscription_identifier.as_slice() {
        [] => {}
        [one] => put("Subscription-Identifier", (*one).into()),
        many => put("Subscription-Identifier", many.iter().map(|id| (*id).into()).collect::<Vec<_>>().into()),
    }
    if !props.user_property.is_empty() {
        let pairs = || props.user_property.iter().map(|pair| (pair.key.as_str(), pair.value.as_str()));
        put("User-Property", pairs().collect::<Map>().into());
        let list = pairs().map(|(key, value)| [("key", key), ("value", value)].into_iter().collect::<Map>());
        put("User-Property-Pairs", list.map(Value::Map).collect::<Vec<_>>().into());
    }
    map.into()
}

/// `host` of `host:port`; an IPv6 address loses its brackets.
fn host(peername: &str) -> &str {
    let host = peername.rsplit_once(':').map_or(peername, |(host, _)| host);
    host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host)
}

fn text(text: &str) -> Value {
    if text.is_empty() { Value::Undefined } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_belongs_to_some_kind_and_names_round_trip() {
        for column in Column::all() {
            assert_eq!(Column::from_name(column.name()), Some(*column));
            assert!(
                EventKind::all().any(|kind| Column::of(kind).contains(column)),
                "{} is in no kind",
                column.name()
            );
        }
        for kind in EventKind::all() {
            let mut columns = Column::of(kind);
            let before = columns.len();
            columns.sort_unstable();
            columns.dedup();
            assert_eq!(columns.len(), before, "{} names a column twice", kind.name());
        }
    }

    #[test]
    fn host_of_both_families() {
        assert_eq!(host("10.0.0.1:1883"), "10.0.0.1");
        assert_eq!(host("[::1]:1883"), "::1");
    }
}
