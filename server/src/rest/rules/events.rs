//! `GET /rule_events`: what rules can select, with an example of everything. The examples also fill in what a trial of
//! a rule leaves open.

use axum::Json;
use axum::extract::State;
use muster_core::event::{Column, ColumnType, EventId, EventKind};
use muster_core::value::{Map, Value};
use serde_json::json;

use super::super::App;
use super::super::reply::Refused;
use super::described::Event;
use Column as C;

/// Every event that a rule can select.
#[utoipa::path(get, path = "/rule_events", tag = "Rules", operation_id = "rule_events",
    responses((status = 200, description = "The events, with examples", body = Vec<Event>), Refused))]
pub(super) async fn list(State(app): State<App>) -> Json<serde_json::Value> {
    let now_ms = app.clock.wall_ms();
    Json(EventKind::all().map(|kind| event(kind, now_ms, &app.node)).collect())
}

fn event(kind: EventKind, now_ms: i64, node: &str) -> serde_json::Value {
    let columns: Vec<_> = Column::of(kind).into_iter().map(Column::name).collect();
    let tested: serde_json::Map<_, _> = test_columns(kind)
        .iter()
        .map(|(column, what)| {
            let example = to_json(&example(kind, *column, now_ms, node));
            (column.name().to_owned(), json!([example, what]))
        })
        .collect();
    json!({
        "event": kind.topics().first().copied().unwrap_or("$events/message_publish"),
        "title": {"en": kind.name().replace(['.', '_'], " ")},
        "description": {"en": description(kind)},
        "columns": columns,
        "test_columns": tested,
        "sql_example": sql_example(kind),
    })
}

fn to_json(value: &Value) -> serde_json::Value {
    serde_json::from_str(&value.to_json()).unwrap_or_default()
}

fn description(kind: EventKind) -> &'static str {
    match kind {
        EventKind::MessagePublish => "a message was published",
        EventKind::MessageDelivered => "a message was sent to a subscriber",
        EventKind::MessageAcked => "a subscriber has acknowledged a message",
        EventKind::MessageDropped => "a message went to nobody, mostly because nobody has subscribed",
        EventKind::DeliveryDropped => {
            "a message did not go to one of its subscribers, e.g. because its queue is full"
        }
        EventKind::ClientConnected => "a client has connected",
        EventKind::ClientDisconnected => "a client is gone, and why",
        EventKind::ClientConnack => "a CONNECT was answered",
        EventKind::ClientAuthn => "it was found out who a client is",
        EventKind::ClientAuthz => "it was decided whether a client may publish or subscribe",
        EventKind::SessionSubscribed => "a client has subscribed",
        EventKind::SessionUnsubscribed => "a client has unsubscribed",
        EventKind::AlarmActivated => "something is wrong",
        EventKind::AlarmDeactivated => "it is not wrong any more",
        EventKind::Admin => "somebody has changed something over REST",
        EventKind::NodeStarted => "the node has started",
        EventKind::NodeStopped => "the node stops",
        EventKind::NodeAlive => "nothing else was written for a while, and the node is alive",
    }
}

fn sql_example(kind: EventKind) -> String {
    match kind.topics().first() {
        None => "SELECT payload.msg AS msg FROM \"t/#\" WHERE msg = 'hello'".to_owned(),
        Some(topic) if Column::of(kind).contains(&C::Topic) => {
            format!("SELECT * FROM \"{topic}\" WHERE topic =~ 't/#'")
        }
        Some(topic) => format!("SELECT * FROM \"{topic}\""),
    }
}

/// The columns that a person is asked for who tries a rule out.
fn test_columns(kind: EventKind) -> &'static [(Column, &'static str)] {
    const CLIENTID: (Column, &str) = (C::Clientid, "the id of the client");
    const USERNAME: (Column, &str) = (C::Username, "the name that it gave");
    const TOPIC: (Column, &str) = (C::Topic, "the topic");
    const QOS: (Column, &str) = (C::Qos, "the quality of service");
    const PAYLOAD: (Column, &str) = (C::Payload, "the payload of the message");
    const REASON: (Column, &str) = (C::Reason, "why");
    const FROM: (Column, &str) = (C::FromClientid, "the id of the publisher");
    const NAME: (Column, &str) = (C::Name, "the name of the alarm");
    const MESSAGE: (Column, &str) = (C::Message, "what is wrong");
    const DETAILS: (Column, &str) = (C::Details, "more about it");
    const RESULT: (Column, &str) = (C::Result, "how it ended");
    match kind {
        EventKind::MessagePublish => &[CLIENTID, USERNAME, TOPIC, QOS, PAYLOAD],
        EventKind::MessageDropped => &[CLIENTID, USERNAME, TOPIC, QOS, PAYLOAD, REASON],
        EventKind::MessageDelivered | EventKind::MessageAcked => {
            &[FROM, CLIENTID, USERNAME, TOPIC, QOS, PAYLOAD]
        }
        EventKind::DeliveryDropped => &[FROM, CLIENTID, USERNAME, TOPIC, QOS, PAYLOAD, REASON],
        EventKind::ClientConnected => &[CLIENTID, USERNAME, (C::Peername, "where it comes from")],
        EventKind::ClientDisconnected => &[CLIENTID, USERNAME, REASON],
        EventKind::ClientConnack => &[CLIENTID, USERNAME, (C::ReasonCode, "the answer")],
        EventKind::ClientAuthn => &[
            CLIENTID,
            USERNAME,
            (C::ReasonCode, "the outcome"),
            (C::IsSuperuser, "whether it may do everything"),
            (C::IsAnonymous, "whether it gave no name"),
        ],
        EventKind::ClientAuthz => &[CLIENTID, USERNAME, TOPIC, (C::Action, "publish or subscribe"), RESULT],
        EventKind::SessionSubscribed | EventKind::SessionUnsubscribed => &[CLIENTID, USERNAME, TOPIC, QOS],
        EventKind::AlarmActivated => &[NAME, MESSAGE, DETAILS, (C::ActivatedAt, "since when")],
        EventKind::AlarmDeactivated => {
            &[NAME, MESSAGE, DETAILS, (C::ActivatedAt, "since when"), (C::DeactivatedAt, "until when")]
        }
        EventKind::Admin => {
            &[(C::Action, "what was done"), (C::Object, "to what"), (C::Actor, "by whom"), RESULT]
        }
        EventKind::NodeStarted => &[(C::Version, "which version")],
        EventKind::NodeStopped => &[(C::Version, "which version"), REASON],
        EventKind::NodeAlive => &[],
    }
}

/// What a column of such an event may hold.
pub(super) fn example(kind: EventKind, column: Column, now_ms: i64, node: &str) -> Value {
    let receiver = Column::of(kind).contains(&C::FromClientid);
    match column {
        C::Event => kind.name().into(),
        C::Node => node.into(),
        C::Timestamp
        | C::PublishReceivedAt
        | C::ConnectedAt
        | C::DisconnectedAt
        | C::ActivatedAt
        | C::Since
        | C::DeactivatedAt => now_ms.into(),
        C::Kind => "absence".into(),
        C::Severity => "major".into(),
        C::Duration => 60_000i64.into(),
        C::Id | C::EventId => {
            EventId::new(0x4d55_5354_4552_0000_0000_0000_0000_0000, 1_200).to_string().into()
        }
        C::Offset => Value::Int(1_200),
        C::Session => Value::Int(1_000),
        C::Seq => Value::Int(1_001),
        C::Clientid if receiver => "reader-1".into(),
        C::Username if receiver => "eve".into(),
        C::Clientid | C::FromClientid => "sensor-1".into(),
        C::Username | C::FromUsername => "ann".into(),
        C::Peername => "192.168.0.10:32781".into(),
        C::Peerhost => "192.168.0.10".into(),
        C::Sockname => "0.0.0.0:1883".into(),
        C::ProtoName => "MQTT".into(),
        C::ProtoVer => Value::Int(5),
        C::Mountpoint => Value::Undefined,
        C::Keepalive => Value::Int(60),
        C::ReceiveMaximum => Value::Int(32),
        C::ExpiryInterval => Value::Int(3_600),
        C::CleanStart => true.into(),
        C::IsBridge | C::IsAnonymous | C::IsSuperuser | C::ByProxy => false.into(),
        C::Reason => reason(kind).into(),
        C::ReasonCode => "success".into(),
        C::Action if kind == EventKind::Admin => "rules.create".into(),
        C::Action => "publish".into(),
        C::AuthzSource => "default".into(),
        C::Result if kind == EventKind::Admin => "success".into(),
        C::Result => "allow".into(),
        C::Topic => "t/a".into(),
        C::Qos => Value::Int(1),
        C::Payload => "{\"msg\": \"hello\"}".into(),
        C::Name => "alarm_name".into(),
        C::Message => "something is wrong".into(),
        C::Actor => "rest".into(),
        C::Object => "my_rule".into(),
        C::Version => env!("CARGO_PKG_VERSION").into(),
        C::Flags => map([("retain", false.into()), ("dup", false.into())]),
        C::ClientAttrs => map([("site", "north".into())]),
        C::Details => map([("extra", "details".into())]),
        C::PubProps => properties([("Message-Expiry-Interval", Value::Int(30))]),
        C::PubackProps => properties([("Reason-String", "OK".into())]),
        C::ConnProps => properties([("Session-Expiry-Interval", Value::Int(3_600))]),
        C::DisconnProps => properties([("Reason-String", "bye".into())]),
        C::SubProps | C::UnsubProps => properties([]),
    }
}

fn reason(kind: EventKind) -> &'static str {
    match kind {
        EventKind::MessageDropped => "no_subscribers",
        EventKind::DeliveryDropped => "queue_full",
        EventKind::NodeStopped => "SIGTERM",
        _ => "normal",
    }
}

fn map<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    pairs.into_iter().collect::<Map>().into()
}

/// Properties with a user property among them.
fn properties<const N: usize>(named: [(&str, Value); N]) -> Value {
    let mut all: Map = named.into_iter().collect();
    all.insert("User-Property", map([("foo", "bar".into())]));
    all.insert("User-Property-Pairs", vec![map([("key", "foo".into()), ("value", "bar".into())])]);
    all.into()
}

/// Whether a JSON value given for a column can stand there, and as what: `null` for what is absent.
pub(super) fn given(column: Column, value: serde_json::Value) -> Result<Value, String> {
    use serde_json::Value as Json;
    let name = column.name();
    match (column.column_type(), value) {
        (_, Json::Null) => Ok(Value::Undefined),
        (ColumnType::Integer, Json::Number(it)) if it.is_i64() || it.is_u64() => Ok(Json::Number(it).into()),
        (ColumnType::Integer, _) => Err(format!("`{name}` is a whole number")),
        (ColumnType::Boolean, Json::Bool(flag)) => Ok(flag.into()),
        (ColumnType::Boolean, _) => Err(format!("`{name}` is true or false")),
        (ColumnType::String | ColumnType::Bytes, Json::String(text)) => Ok(text.into()),
        // A payload written as JSON and not as a text that holds JSON: what was meant is plain.
        (ColumnType::Bytes, other) => Ok(other.to_string().into()),
        (ColumnType::String, _) => Err(format!("`{name}` is a text")),
        (ColumnType::Map, Json::Object(fields)) => Ok(Json::Object(fields).into()),
        (ColumnType::Map, _) => Err(format!("`{name}` is an object")),
    }
}

#[cfg(test)]
mod tests {
    use muster_core::clock::ManualClock;
    use muster_rules::{EvalContext, RuleProgram, Tried, read_rule};

    use super::*;

    #[test]
    fn every_example_can_be_run_and_matches() {
        for kind in EventKind::all() {
            let shown = event(kind, 1_000, "n");
            let sql = shown["sql_example"].as_str().expect("a text");
            let rule = read_rule("r", "example", sql).unwrap_or_else(|error| panic!("{error}"));
            let program = RuleProgram::compile(&rule).unwrap_or_else(|errors| panic!("{errors:?}"));
            let columns = Column::of(kind).into_iter();
            let columns = columns.map(|it| (it.name(), example(kind, it, 1_000, "n"))).collect();
            let mut context = EvalContext::new(ManualClock::at(0), 1);
            let tried =
                program.try_on(&columns, &mut context).unwrap_or_else(|error| panic!("{sql}: {error}"));
            assert!(matches!(tried, Tried::Row(_)), "{sql}: {tried:?}");
        }
    }

    #[test]
    fn every_example_has_its_type_and_belongs_to_its_event() {
        for kind in EventKind::all() {
            for column in Column::of(kind) {
                let example = example(kind, column, 1_000, "n");
                if column != C::Mountpoint {
                    let back = given(column, to_json(&example)).expect("its own type");
                    assert_eq!(back, example, "{} of {}", column.name(), kind.name());
                }
            }
            for (column, _) in test_columns(kind) {
                assert!(Column::of(kind).contains(column), "{} of {}", column.name(), kind.name());
            }
        }
    }

    #[test]
    fn the_shape() {
        let shown = event(EventKind::ClientConnack, 1_000, "n");
        assert_eq!(shown["event"], "$events/client/connack");
        assert_eq!(shown["title"]["en"], "client connack");
        assert_eq!(shown["test_columns"]["reason_code"], json!(["success", "the answer"]));
        assert!(shown["columns"].as_array().is_some_and(|it| it.contains(&json!("conn_props"))));
        assert_eq!(event(EventKind::MessagePublish, 0, "n")["event"], "$events/message_publish");
    }
}
