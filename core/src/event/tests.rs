//! The codec: what is written is read, and no bytes make it panic.

use expect_test::expect;
use proptest::prelude::*;

use super::proto::event::Detail;
use super::proto::{Client, Disconnection, Message, Properties, Subscription, UserProperty};
use super::*;

fn client() -> Client {
    Client {
        clientid: "dev-1".into(),
        username: Some("u".into()),
        session: 40,
        seq: 41,
        peername: "10.0.0.7:50123".into(),
        sockname: "10.0.0.1:1883".into(),
        proto_name: "MQTT".into(),
        proto_ver: 5,
        ..Client::default()
    }
}

fn event(kind: EventKind, topic: &str, body: proto::Event) -> Event {
    NewEvent { timestamp_ms: 1_700_000_000_000, kind, topic: topic.into(), body }.at(0xabc << 64, 42)
}

#[test]
fn columns_of_a_publish() {
    let props = Properties {
        content_type: Some("text/plain".into()),
        user_property: ["1", "2"].map(|value| UserProperty { key: "k".into(), value: value.into() }).into(),
        ..Properties::default()
    };
    let message = Message {
        payload: Bytes::from_static(b"{}"),
        qos: 1,
        props: Some(props),
        publish_received_at_ms: 1,
        ..Message::default()
    };
    let body = proto::Event {
        node: "muster@127.0.0.1".into(),
        client: Some(client()),
        message: Some(message),
        detail: None,
    };
    expect![[r#"{"event":"message.publish","timestamp":1700000000000,"node":"muster@127.0.0.1","id":"0000000000000ABC000000000000002A","event_id":"0000000000000ABC000000000000002A","offset":42,"clientid":"dev-1","username":"u","session":40,"seq":41,"peername":"10.0.0.7:50123","client_attrs":{},"topic":"a/b","qos":1,"payload":"{}","flags":{"retain":false,"dup":false},"pub_props":{"Content-Type":"text/plain","User-Property":{"k":"2"},"User-Property-Pairs":[{"key":"k","value":"1"},{"key":"k","value":"2"}]},"publish_received_at":1,"peerhost":"10.0.0.7"}"#]]
        .assert_eq(&event(EventKind::MessagePublish, "a/b", body).columns().to_json());
}

#[test]
fn a_column_that_the_kind_lacks_is_undefined() {
    let detail = Detail::Disconnected(Disconnection { reason: "kicked".into(), ..Disconnection::default() });
    let body = proto::Event { client: Some(client()), detail: Some(detail), ..proto::Event::default() };
    let event = event(EventKind::ClientDisconnected, "", body);
    assert_eq!(event.get(Column::Reason), "kicked".into());
    for absent in [Column::Topic, Column::Payload, Column::Qos, Column::Keepalive, Column::Mountpoint] {
        assert!(event.get(absent).is_undefined(), "{}", absent.name());
    }
}

#[test]
fn an_unknown_kind_is_named() {
    let error = Event::decode(0, 7, 0, 63, b"", Bytes::new()).unwrap_err();
    expect!["event at offset 7 is of the unknown kind 63; a newer version wrote it"]
        .assert_eq(&error.to_string());
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        clientid in ".{0,20}",
        username in proptest::option::of(".{0,20}"),
        seq: u64,
        payload in prop::collection::vec(any::<u8>(), 0..200),
        topic in ".{0,20}",
        offset: u64,
        qos in 0u32..3,
        detail: bool,
    ) {
        let detail = detail.then(|| Detail::Subscribed(Subscription { qos, ..Subscription::default() }));
        let body = proto::Event {
            node: "n".into(),
            client: Some(Client { clientid, username, seq, ..Client::default() }),
            message: Some(Message { payload: payload.into(), qos, ..Message::default() }),
            detail,
        };
        let new = NewEvent { timestamp_ms: -5, kind: EventKind::MessagePublish, topic, body };
        let bytes = new.encode_body();
        let topic = new.topic.clone();
        let read = Event::decode(9, offset, -5, new.kind.code(), topic.as_bytes(), bytes);
        prop_assert_eq!(read.unwrap(), new.at(9, offset));
    }

    #[test]
    fn no_bytes_panic(
        code: u16,
        topic in prop::collection::vec(any::<u8>(), 0..9),
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        if let Ok(event) = Event::decode(u128::MAX, u64::MAX, i64::MIN, code, &topic, body.into()) {
            let _ = event.columns().to_json();
        }
    }
}
