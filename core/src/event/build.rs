//! Events from columns by name, for whoever tries a rule without a log: the way back from [`Event::get`]. What is
//! built gives each column back as it was put in; what an event cannot hold is refused, never dropped.

use std::fmt;

use bytes::Bytes;

use super::column::Column as C;
use super::proto::{self, Client, Connection, Message, Properties, event::Detail};
use super::{Column, Event, EventId, EventKind};
use crate::value::{Map, Value};

/// Why columns make no event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnError {
    /// The column.
    pub column: String,
    /// What is wrong with it, as a sentence about the column.
    pub problem: String,
}

impl fmt::Display for ColumnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.column, self.problem)
    }
}

impl std::error::Error for ColumnError {}

/// The documented example of every column that events of `kind` have, as of the moment `now_ms`.
pub fn example(kind: EventKind, now_ms: i64) -> Map {
    let columns = Column::of(kind).into_iter();
    columns.map(|column| (column.name(), example_of(kind, column, now_ms))).collect()
}

/// `given` with the example of every column that it leaves out. Two columns that say the same thing (address and host,
/// the two ids) are not given apart, and times follow the given `timestamp`.
pub fn filled(kind: EventKind, now_ms: i64, given: &Map) -> Map {
    let now_ms = given.get(C::Timestamp.name()).and_then(Value::as_i64).unwrap_or(now_ms);
    let same_id: &[Column] = if has_message_id(kind) { &[] } else { &[C::Id, C::EventId] };
    let mut columns = example(kind, now_ms);
    for pair in [&[C::Peername, C::Peerhost], same_id] {
        if pair.iter().any(|column| given.contains_key(column.name())) {
            for column in pair {
                columns.remove(column.name());
            }
        }
    }
    for (name, value) in given.iter() {
        columns.insert(name, value.clone());
    }
    columns
}

fn example_of(kind: EventKind, column: Column, now_ms: i64) -> Value {
    let receives =
        matches!(kind, EventKind::MessageDelivered | EventKind::MessageAcked | EventKind::DeliveryDropped);
    match column {
        C::Event => kind.name().into(),
        C::Timestamp | C::PublishReceivedAt | C::DisconnectedAt | C::DeactivatedAt => now_ms.into(),
        C::ConnectedAt if kind != EventKind::ClientDisconnected => now_ms.into(),
        C::ActivatedAt if kind == EventKind::AlarmActivated => now_ms.into(),
        C::ConnectedAt | C::ActivatedAt => now_ms.saturating_sub(3_600_000).into(),
        C::Node => "muster@127.0.0.1".into(),
        C::Id if has_message_id(kind) => "0005D30CA66B5CA80000000000000001".into(),
        C::Id | C::EventId => "0005D30CA66B5CA8000000000000002A".into(),
        C::Offset => 42i64.into(),
        C::Clientid | C::Username
            if matches!(kind, EventKind::AlarmActivated | EventKind::AlarmDeactivated) =>
        {
            Value::Undefined
        }
        C::Clientid => if receives { "c_emqx_2" } else { "c_emqx" }.into(),
        C::Username => if receives { "u_emqx_2" } else { "u_emqx" }.into(),
        C::FromClientid => "c_emqx_1".into(),
        C::FromUsername => "u_emqx_1".into(),
        C::Session => 40i64.into(),
        C::Seq => 41i64.into(),
        C::Peername => "192.168.0.10:56431".into(),
        C::Peerhost => "192.168.0.10".into(),
        C::Sockname => "0.0.0.0:1883".into(),
        C::ProtoName => "MQTT".into(),
        C::ProtoVer => 5i64.into(),
        C::Keepalive => 60i64.into(),
        C::ReceiveMaximum => 32i64.into(),
        C::ExpiryInterval => 3_600i64.into(),
        C::CleanStart => true.into(),
        C::IsBridge | C::IsAnonymous | C::IsSuperuser | C::ByProxy => false.into(),
        C::ReasonCode => "success".into(),
        C::Reason => match kind {
            EventKind::MessageDropped => "no_subscribers",
            EventKind::DeliveryDropped => "queue_full",
            EventKind::NodeStopped => "SIGTERM",
            _ => "normal",
        }
        .into(),
        C::Topic => "t/a".into(),
        C::Qos => 1i64.into(),
        C::Payload => r#"{"msg": "hello"}"#.into(),
        C::Flags => [("retain", false), ("dup", false)].into_iter().collect::<Map>().into(),
        C::Action if kind == EventKind::Admin => "clients.kick".into(),
        C::Action => "publish".into(),
        C::AuthzSource => "file".into(),
        C::Result if kind == EventKind::Admin => "ok".into(),
        C::Result => "allow".into(),
        C::Name => "log_full".into(),
        C::Kind => "system".into(),
        C::Severity => "major".into(),
        C::Since => Value::Undefined,
        C::Duration => 3_600_000i64.into(),
        C::Message => "the event log is full".into(),
        C::Actor => "admin".into(),
        C::Object => "c_emqx".into(),
        C::Version => env!("CARGO_PKG_VERSION").into(),
        // Nobody has these unless something says so.
        C::Mountpoint => Value::Undefined,
        C::ClientAttrs
        | C::ConnProps
        | C::DisconnProps
        | C::SubProps
        | C::UnsubProps
        | C::PubProps
        | C::PubackProps
        | C::Details => Map::new().into(),
    }
}

/// Whether the column `id` is that of another event, the publish.
fn has_message_id(kind: EventKind) -> bool {
    kind.is_message() && kind != EventKind::MessagePublish
}

impl Event {
    /// The event of which these are the columns; what is not there, or null, is absent. Address and host are one:
    /// `peerhost` without `peername` stands for an address with port 0.
    ///
    /// # Errors
    /// A column that events of `kind` do not have, or a value that the column cannot hold.
    pub fn from_columns(kind: EventKind, columns: &Map) -> Result<Self, ColumnError> {
        let known = Column::of(kind);
        let is_known = |name: &str| Column::from_name(name).filter(|column| known.contains(column)).is_some();
        if let Some(name) = columns.keys().find(|name| !is_known(name)) {
            return Err(error(name, format!("is no column of {}", kind.name())));
        }
        let get = Columns(columns);
        let offset = get.number(C::Offset)?;
        let own_id = if has_message_id(kind) { C::EventId } else { C::Id };
        let event_id = get.id(C::EventId)?.or(get.id(own_id)?).unwrap_or(u128::from(offset));
        // An alarm may be about no client.
        let may_lack = matches!(kind, EventKind::AlarmActivated | EventKind::AlarmDeactivated);
        let has_client = known.contains(&C::Clientid) && !(may_lack && get.value(C::Clientid).is_none());
        let event = Self {
            offset,
            id: EventId::new(event_id, 0),
            timestamp_ms: get.time(C::Timestamp)?,
            kind,
            topic: get.text(C::Topic)?,
            body: proto::Event {
                node: get.text(C::Node)?,
                client: has_client.then(|| client(&get)).transpose()?,
                message: kind.is_message().then(|| message(kind, &get)).transpose()?,
                detail: detail(kind, &get)?,
            },
        };
        // What was put in comes out again, or somebody would test a rule on something else than what was written.
        for (name, given) in columns.iter() {
            let found = Column::from_name(name).map(|column| event.get(column)).unwrap_or_default();
            if !agrees(given, &found) {
                return Err(error(name, format!("cannot be {given:?} here; the event would say {found:?}")));
            }
        }
        Ok(event)
    }
}

fn agrees(given: &Value, found: &Value) -> bool {
    match (given, found) {
        (Value::Null | Value::Undefined, found) => found.is_undefined(),
        // Flags and properties may have more than was given.
        (Value::Map(given), Value::Map(found)) => {
            given.iter().all(|(key, value)| found.get(key).is_some_and(|found| agrees(value, found)))
        }
        (given, found) => given == found,
    }
}

fn error(column: &str, problem: impl Into<String>) -> ColumnError {
    ColumnError { column: column.to_owned(), problem: problem.into() }
}

fn wrong(column: &str, wanted: &str, found: &Value) -> ColumnError {
    error(column, format!("is {wanted}, not {} {found:?}", found.type_name()))
}

struct Columns<'a>(&'a Map);

impl Columns<'_> {
    fn value(&self, column: Column) -> Option<&Value> {
        self.0.get(column.name()).filter(|value| !matches!(value, Value::Null | Value::Undefined))
    }

    fn maybe_text(&self, column: Column) -> Result<Option<String>, ColumnError> {
        let Some(value) = self.value(column) else { return Ok(None) };
        let text = value.as_str().ok_or_else(|| wrong(column.name(), "text", value))?;
        Ok(Some(text.to_owned()))
    }

    fn text(&self, column: Column) -> Result<String, ColumnError> {
        Ok(self.maybe_text(column)?.unwrap_or_default())
    }

    fn number<T: TryFrom<i64> + Default>(&self, column: Column) -> Result<T, ColumnError> {
        let Some(value) = self.value(column) else { return Ok(T::default()) };
        number(column.name(), value)
    }

    fn time(&self, column: Column) -> Result<i64, ColumnError> {
        self.number(column)
    }

    fn flag(&self, column: Column) -> Result<bool, ColumnError> {
        match self.value(column) {
            None => Ok(false),
            Some(value) => flag(column.name(), value),
        }
    }

    fn map(&self, column: Column) -> Result<Option<&Map>, ColumnError> {
        match self.value(column) {
            None => Ok(None),
            Some(Value::Map(map)) => Ok(Some(map)),
            Some(other) => Err(wrong(column.name(), "a map", other)),
        }
    }

    /// A map that is written down as JSON.
    fn details(&self) -> Result<String, ColumnError> {
        Ok(self.map(C::Details)?.map(Map::to_json).unwrap_or_default())
    }

    fn id(&self, column: Column) -> Result<Option<u128>, ColumnError> {
        let Some(value) = self.value(column) else { return Ok(None) };
        let digits = value.as_str().filter(|text| text.len() == 32);
        let id = digits.and_then(|digits| u128::from_str_radix(digits, 16).ok());
        id.map(Some).ok_or_else(|| wrong(column.name(), "32 hexadecimal digits in upper case", value))
    }

    fn properties(&self, column: Column) -> Result<Option<Properties>, ColumnError> {
        self.map(column)?.map(properties).transpose()
    }
}

fn number<T: TryFrom<i64>>(name: &str, value: &Value) -> Result<T, ColumnError> {
    let found = value.as_i64().and_then(|int| T::try_from(int).ok());
    found.ok_or_else(|| wrong(name, "an integer of its range", value))
}

fn flag(name: &str, value: &Value) -> Result<bool, ColumnError> {
    match value {
        Value::Bool(flag) => Ok(*flag),
        other => Err(wrong(name, "true or false", other)),
    }
}

fn string(name: &str, value: &Value) -> Result<String, ColumnError> {
    value.as_str().map(str::to_owned).ok_or_else(|| wrong(name, "text", value))
}

fn client(get: &Columns) -> Result<Client, ColumnError> {
    let mut attrs = std::collections::HashMap::new();
    for (key, value) in get.map(C::ClientAttrs)?.into_iter().flat_map(Map::iter) {
        attrs.insert(key.to_owned(), string(C::ClientAttrs.name(), value)?);
    }
    let host = get.maybe_text(C::Peerhost)?.map(|host| match host.contains(':') {
        true => format!("[{host}]:0"),
        false => format!("{host}:0"),
    });
    Ok(Client {
        clientid: get.text(C::Clientid)?,
        username: get.maybe_text(C::Username)?,
        session: get.number(C::Session)?,
        seq: get.number(C::Seq)?,
        peername: get.maybe_text(C::Peername)?.or(host).unwrap_or_default(),
        sockname: get.text(C::Sockname)?,
        proto_name: get.text(C::ProtoName)?,
        proto_ver: get.number(C::ProtoVer)?,
        attrs,
        mountpoint: get.maybe_text(C::Mountpoint)?,
    })
}

fn message(kind: EventKind, get: &Columns) -> Result<Message, ColumnError> {
    let payload = match get.value(C::Payload) {
        None => Bytes::new(),
        Some(Value::Str(bytes)) => bytes.clone(),
        Some(other) => return Err(wrong(C::Payload.name(), "text or bytes", other)),
    };
    let mut flags = [("retain", false), ("dup", false)];
    for (key, value) in get.map(C::Flags)?.into_iter().flat_map(Map::iter) {
        let known = flags.iter_mut().find(|(name, _)| *name == key);
        let (_, place) =
            known.ok_or_else(|| error(C::Flags.name(), format!("holds retain and dup, not {key}")))?;
        *place = flag(C::Flags.name(), value)?;
    }
    let [(_, retain), (_, dup)] = flags;
    let id = if has_message_id(kind) { get.id(C::Id)? } else { None };
    Ok(Message {
        id: id.map(|id| Bytes::copy_from_slice(&id.to_be_bytes())).unwrap_or_default(),
        payload,
        qos: get.number(C::Qos)?,
        retain,
        dup,
        props: get.properties(C::PubProps)?,
        publish_received_at_ms: get.time(C::PublishReceivedAt)?,
        from_clientid: get.text(C::FromClientid)?,
        from_username: get.maybe_text(C::FromUsername)?,
        ..Message::default()
    })
}

fn detail(kind: EventKind, get: &Columns) -> Result<Option<Detail>, ColumnError> {
    let subscription = |props| -> Result<_, ColumnError> {
        let (qos, by_proxy) = (get.number(C::Qos)?, get.flag(C::ByProxy)?);
        Ok(proto::Subscription { qos, by_proxy, props: get.properties(props)?, ..Default::default() })
    };
    Ok(Some(match kind {
        EventKind::MessagePublish => return Ok(None),
        EventKind::MessageDelivered
        | EventKind::MessageAcked
        | EventKind::MessageDropped
        | EventKind::DeliveryDropped => Detail::Delivery(proto::Delivery {
            reason: get.text(C::Reason)?,
            puback_props: get.properties(C::PubackProps)?,
        }),
        EventKind::ClientConnected => Detail::Connected(connection(get)?),
        EventKind::ClientConnack => Detail::Connack(connection(get)?),
        EventKind::ClientDisconnected => Detail::Disconnected(proto::Disconnection {
            reason: get.text(C::Reason)?,
            props: get.properties(C::DisconnProps)?,
            connected_at_ms: get.time(C::ConnectedAt)?,
            disconnected_at_ms: get.time(C::DisconnectedAt)?,
        }),
        EventKind::ClientAuthn => Detail::Authn(proto::Authn {
            reason_code: get.text(C::ReasonCode)?,
            is_anonymous: get.flag(C::IsAnonymous)?,
            is_superuser: get.flag(C::IsSuperuser)?,
        }),
        EventKind::ClientAuthz => Detail::Authz(proto::Authz {
            action: get.text(C::Action)?,
            source: get.text(C::AuthzSource)?,
            result: get.text(C::Result)?,
        }),
        EventKind::SessionSubscribed => Detail::Subscribed(subscription(C::SubProps)?),
        EventKind::SessionUnsubscribed => Detail::Unsubscribed(subscription(C::UnsubProps)?),
        EventKind::AlarmActivated | EventKind::AlarmDeactivated => Detail::Alarm(proto::Alarm {
            name: get.text(C::Name)?,
            message: get.text(C::Message)?,
            details: get.details()?,
            activated_at_ms: get.time(C::ActivatedAt)?,
            deactivated_at_ms: get.time(C::DeactivatedAt)?,
            kind: get.text(C::Kind)?,
            severity: get.text(C::Severity)?,
            since_ms: get.time(C::Since)?,
            duration_ms: get.time(C::Duration)?,
        }),
        EventKind::Admin => Detail::Admin(proto::Admin {
            action: get.text(C::Action)?,
            actor: get.text(C::Actor)?,
            object: get.text(C::Object)?,
            details: get.details()?,
            result: get.text(C::Result)?,
        }),
        EventKind::NodeAlive => return Ok(None),
        EventKind::NodeStarted | EventKind::NodeStopped => Detail::Lifecycle(proto::Lifecycle {
            version: get.text(C::Version)?,
            reason: get.text(C::Reason)?,
        }),
    }))
}

fn connection(get: &Columns) -> Result<Connection, ColumnError> {
    Ok(Connection {
        keepalive_seconds: get.number(C::Keepalive)?,
        clean_start: get.flag(C::CleanStart)?,
        receive_maximum: get.number(C::ReceiveMaximum)?,
        expiry_interval_seconds: get.number(C::ExpiryInterval)?,
        is_bridge: get.flag(C::IsBridge)?,
        props: get.properties(C::ConnProps)?,
        connected_at_ms: get.time(C::ConnectedAt)?,
        reason_code: get.text(C::ReasonCode)?,
    })
}

/// MQTT 5 properties from the names that columns show.
fn properties(map: &Map) -> Result<Properties, ColumnError> {
    let mut props = Properties::default();
    for (name, value) in map.iter().filter(|(_, value)| !matches!(value, Value::Null | Value::Undefined)) {
        let int = || number::<u32>(name, value);
        match name {
            "Payload-Format-Indicator" => props.payload_format_indicator = Some(int()?),
            "Message-Expiry-Interval" => props.message_expiry_interval = Some(int()?),
            "Content-Type" => props.content_type = Some(string(name, value)?),
            "Response-Topic" => props.response_topic = Some(string(name, value)?),
            "Correlation-Data" => props.correlation_data = Some(string(name, value)?.into()),
            "Session-Expiry-Interval" => props.session_expiry_interval = Some(int()?),
            "Receive-Maximum" => props.receive_maximum = Some(int()?),
            "Maximum-Packet-Size" => props.maximum_packet_size = Some(int()?),
            "Topic-Alias-Maximum" => props.topic_alias_maximum = Some(int()?),
            "Request-Response-Information" => props.request_response_information = Some(flag(name, value)?),
            "Request-Problem-Information" => props.request_problem_information = Some(flag(name, value)?),
            "Authentication-Method" => props.authentication_method = Some(string(name, value)?),
            "Reason-String" => props.reason_string = Some(string(name, value)?),
            "Server-Reference" => props.server_reference = Some(string(name, value)?),
            "Will-Delay-Interval" => props.will_delay_interval = Some(int()?),
            "Subscription-Identifier" => match value {
                Value::Array(ids) => {
                    props.subscription_identifier =
                        ids.iter().map(|id| number(name, id)).collect::<Result<_, _>>()?;
                }
                one => props.subscription_identifier = vec![number(name, one)?],
            },
            // Of the two spellings the pairs say more.
            "User-Property" if map.contains_key("User-Property-Pairs") => {}
            "User-Property" | "User-Property-Pairs" => props.user_property = user_properties(name, value)?,
            _ => return Err(error(name, "is no MQTT 5 property")),
        }
    }
    Ok(props)
}

fn user_properties(name: &str, value: &Value) -> Result<Vec<proto::UserProperty>, ColumnError> {
    let pair = |key: &Value, value: &Value| -> Result<_, ColumnError> {
        Ok(proto::UserProperty { key: string(name, key)?, value: string(name, value)? })
    };
    match value {
        Value::Map(map) => map.iter().map(|(key, value)| pair(&key.into(), value)).collect(),
        Value::Array(pairs) => {
            let both = |it: &Value| match it {
                Value::Map(map) => Some((map.get("key")?.clone(), map.get("value")?.clone())),
                _ => None,
            };
            let wanted = || wrong(name, "a list of maps with key and value", value);
            pairs
                .iter()
                .map(|it| both(it).ok_or_else(wanted).and_then(|(key, value)| pair(&key, &value)))
                .collect()
        }
        other => Err(wrong(name, "a map of texts", other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(
        kind: EventKind,
        columns: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Result<Event, String> {
        Event::from_columns(kind, &columns.into_iter().collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn every_kind_gives_its_example_back() {
        for kind in EventKind::all() {
            let columns = example(kind, 1_700_000_000_000);
            let event =
                Event::from_columns(kind, &columns).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
            let names: Vec<_> = Column::of(kind).into_iter().map(Column::name).collect();
            assert!(columns.keys().eq(names.iter().copied()), "{kind:?} has another order");
            for (name, value) in columns.iter().filter(|(_, value)| !value.is_undefined()) {
                assert_eq!(event.columns().get(name), Some(value), "{kind:?}: {name}");
            }
            // What is written is what is read.
            let again = Event::decode(
                event.id.as_u128().wrapping_sub(event.offset.into()),
                event.offset,
                event.timestamp_ms,
                kind.code(),
                event.topic.as_bytes(),
                event.encode_body(),
            );
            assert_eq!(again.expect("it was encoded").columns(), event.columns());
        }
    }

    #[test]
    fn properties_and_addresses_come_back() {
        let user: Map = [("a", "1")].into_iter().collect();
        let props: Map = [
            ("Content-Type", Value::from("text/plain")),
            ("User-Property", user.into()),
            ("Subscription-Identifier", vec![1i64.into(), 2i64.into()].into()),
        ]
        .into_iter()
        .collect();
        let columns = [("pub_props", props.into()), ("peerhost", "::1".into()), ("username", Value::Null)];
        let event = build(EventKind::MessagePublish, columns).expect("an event");
        assert_eq!(event.get(C::Peername), "[::1]:0".into());
        assert_eq!(event.get(C::Username), Value::Undefined);
        assert_eq!(
            event.get(C::PubProps).to_json(),
            r#"{"Content-Type":"text/plain","Subscription-Identifier":[1,2],"User-Property":{"a":"1"},"User-Property-Pairs":[{"key":"a","value":"1"}]}"#
        );
    }

    #[test]
    fn what_an_event_cannot_hold_is_refused() {
        let publish =
            |name, value: Value| build(EventKind::MessagePublish, [(name, value)]).expect_err("refused");
        assert_eq!(publish("temp", 1i64.into()), "`temp` is no column of message.publish");
        assert_eq!(publish("reason", "x".into()), "`reason` is no column of message.publish");
        assert_eq!(publish("qos", "1".into()), r#"`qos` is an integer of its range, not string "1""#);
        assert_eq!(publish("qos", (-1i64).into()), "`qos` is an integer of its range, not integer -1");
        assert_eq!(
            publish("clientid", Value::Null),
            r#"`clientid` cannot be null here; the event would say """#
        );
        assert_eq!(
            publish("flags", [("sys", true)].into_iter().collect::<Map>().into()),
            "`flags` holds retain and dup, not sys"
        );
        let given: Map =
            [("id", "0005D30CA66B5CA80000000000000007"), ("peerhost", "10.0.0.1")].into_iter().collect();
        let event =
            Event::from_columns(EventKind::MessagePublish, &filled(EventKind::MessagePublish, 0, &given));
        assert_eq!(
            event.expect("no example stands against it").get(C::EventId),
            given.get("id").cloned().expect("an id")
        );
        let ids = [
            ("id", Value::from("0005D30CA66B5CA8000000000000002A")),
            ("event_id", "0005D30CA66B5CA8000000000000002B".into()),
        ];
        assert!(build(EventKind::MessagePublish, ids).expect_err("two ids").starts_with("`id` cannot be"));
        let hosts = [("peerhost", Value::from("10.0.0.1")), ("peername", "10.0.0.2:1".into())];
        assert!(build(EventKind::ClientConnected, hosts.clone()).is_err(), "it has no peerhost");
        assert!(build(EventKind::MessagePublish, hosts).is_err(), "they differ");
    }
}
