//! The everyday of a client: connect, subscribe, publish at each QoS, leave; and the events of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test may fail loudly"
)]

mod support;

use muster_core::event::{Column, EventKind};
use support::{Client, Connect, Harness};

#[tokio::test]
async fn a_day_of_a_client_is_written_once_and_in_order() {
    let harness = Harness::start().await;
    for level in [3, 4, 5] {
        let clientid = format!("day-{level}");
        let name = if level == 3 { "MQIsdp" } else { "MQTT" };
        let connect =
            Connect { level, name, ..Connect::v4(&clientid) }.keep_alive(33).login("ann", b"\xff\x00pw");
        let mut client = Client::connected(harness.addr(), connect).await;
        assert_eq!(client.subscribe(1, &[("t/#", 1)]).await, [1]);
        client.publish0("x/0", "zero").await;
        client.publish1(2, "x/1", "one").await;
        client.publish2(3, "x/2", "two").await;
        client.unsubscribe(4, &["t/#"]).await;
        client.disconnect().await;
        let last = harness.event_of(EventKind::ClientDisconnected, &clientid).await;
        let events: Vec<_> =
            harness.events().await.into_iter().filter(|it| it.clientid() == clientid).collect();
        let kinds: Vec<_> = events.iter().map(|it| it.kind.name()).collect();
        assert_eq!(
            kinds,
            [
                "client.check_authn_complete",
                "client.connack",
                "client.connected",
                "session.subscribed",
                "message.publish",
                "message.publish",
                "message.publish",
                "session.unsubscribed",
                "client.disconnected"
            ]
        );
        let first = &events[0];
        assert_eq!(first.session(), first.offset);
        for (at, event) in events.iter().enumerate() {
            assert_eq!(event.session(), first.session());
            assert_eq!(event.seq(), first.seq() + at as u64);
        }
        let connected = &events[2];
        let get = |column| connected.get(column);
        assert_eq!(get(Column::Username), "ann".into());
        assert_eq!(get(Column::ProtoVer), i64::from(level).into());
        assert_eq!(get(Column::ProtoName), name.into());
        assert_eq!(get(Column::Keepalive), 33i64.into());
        assert_eq!(get(Column::CleanStart), true.into());
        assert_eq!(get(Column::ExpiryInterval), 0i64.into());
        assert!(get(Column::Peername).as_str().unwrap().starts_with("127.0.0.1:"));
        assert_eq!(get(Column::Sockname), harness.addr().to_string().as_str().into());
        assert_eq!(support::reason(&last), "normal");
        assert!(last.get(Column::DisconnectedAt).as_i64() >= last.get(Column::ConnectedAt).as_i64());
        let publishes: Vec<_> = events.iter().filter(|it| it.kind == EventKind::MessagePublish).collect();
        assert_eq!(publishes[2].payload(), "two");
        assert_eq!(publishes[2].topic, "x/2");
        for event in &events {
            assert!(!format!("{event:?}").contains("pw"), "a password in {event:?}");
        }
    }
}

#[tokio::test]
async fn a_message_reaches_its_subscriber_with_the_smaller_qos() {
    let harness = Harness::start().await;
    let mut subscriber = harness.v5("sub").await;
    let mut publisher = harness.v4("pub").await;
    for (published, subscribed) in (0..3).flat_map(|p| (0..3).map(move |s| (p, s))) {
        assert_eq!(subscriber.subscribe(1, &[("a/+", subscribed)]).await, [subscribed]);
        let payload = format!("{published}{subscribed}");
        match published {
            0 => publisher.publish0("a/b", &payload).await,
            1 => drop(publisher.publish1(7, "a/b", &payload).await),
            _ => publisher.publish2(8, "a/b", &payload).await,
        }
        let message = subscriber.message().await;
        assert_eq!((message.topic.as_str(), message.text()), ("a/b", payload));
        assert_eq!(message.qos, published.min(subscribed));
        match message.qos {
            0 => {}
            1 => subscriber.send_ack(0x40, message.pkid).await,
            _ => {
                subscriber.send_ack(0x50, message.pkid).await;
                assert_eq!(subscriber.ack(0x62, message.pkid).await, 0);
                subscriber.send_ack(0x70, message.pkid).await;
            }
        }
    }
    subscriber.quiet().await;
}
