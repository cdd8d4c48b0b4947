//! What a subscriber gets: options of subscriptions, retained messages, shared subscriptions, limits of the client,
//! and the events about deliveries.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test may fail loudly"
)]

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use muster_broker::{BrokerError, Limits, ProxySubscribed, PublishRequest, Qos, SubscriptionInfo};
use muster_core::event::{Column, EventKind, proto};
use support::{Client, Connect, Harness, reason};

const NO_LOCAL: u8 = 0b100;
const RETAIN_AS_PUBLISHED: u8 = 0b1000;
const RETAIN_IF_NEW: u8 = 0b1_0000;
const RETAIN_NEVER: u8 = 0b10_0000;

#[tokio::test]
async fn no_local_keeps_own_messages_away() {
    let harness = Harness::start().await;
    harness.want_all();
    let mut client = harness.v5("c").await;
    client.subscribe(1, &[("own", NO_LOCAL), ("all", 0)]).await;
    client.publish0("own", "1").await;
    client.publish0("all", "2").await;
    assert_eq!(client.message().await.text(), "2");
    harness.v5("other").await.publish0("own", "3").await;
    assert_eq!(client.message().await.text(), "3");
    let dropped = harness.event_of(EventKind::DeliveryDropped, "c").await;
    assert_eq!(reason(&dropped), "no_local");
}

#[tokio::test]
async fn retained_messages_come_with_the_subscription_as_it_asks() {
    let harness = Harness::start().await;
    let mut publisher = harness.v5("p").await;
    publisher.publish_with(0b011, 1, "r/a", &[3, 0, 1, b'c'], b"a").await;
    publisher.ack(0x40, 1).await;
    publisher.publish_with(0b001, 0, "r/b/c", &[], b"b").await;
    publisher.publish_with(0b001, 0, "r", &[], b"r").await;
    publisher.publish_with(0b011, 2, "$r", &[], b"hidden").await;
    publisher.ack(0x40, 2).await;
    assert_eq!(harness.broker.stats().retained, 4);

    let mut all = harness.v5("all").await;
    all.subscribe(1, &[("r/#", 1)]).await;
    let mut got = HashMap::new();
    for _ in 0..3 {
        let message = all.message().await;
        assert!(message.retain);
        if message.qos > 0 {
            all.send_ack(0x40, message.pkid).await;
        }
        got.insert(message.topic.clone(), (message.text(), message.qos));
    }
    assert_eq!(got["r/a"], ("a".to_owned(), 1));
    assert_eq!(got["r/b/c"], ("b".to_owned(), 0));
    assert_eq!(got["r"], ("r".to_owned(), 0));
    // Again, because that is what it asked for; then only if it is new, which it is not; then never.
    all.subscribe(2, &[("r/#", 0)]).await;
    for _ in 0..3 {
        assert!(all.message().await.retain);
    }
    all.subscribe(3, &[("r/#", RETAIN_IF_NEW)]).await;
    all.quiet().await;
    let mut others = harness.v5("others").await;
    others.subscribe(1, &[("r/a", RETAIN_NEVER)]).await;
    others.subscribe(2, &[("r/+", RETAIN_IF_NEW)]).await;
    assert_eq!(others.message().await.topic, "r/a");
    others.quiet().await;
    // Hidden from wildcards, not from its own name.
    others.subscribe(3, &[("#", 0)]).await;
    for _ in 0..3 {
        others.message().await;
    }
    others.quiet().await;
    others.subscribe(4, &[("$r", 0)]).await;
    assert_eq!(others.message().await.text(), "hidden");
}

#[tokio::test]
async fn more_retained_messages_than_the_queue_holds_all_arrive() {
    let harness = Harness::with(Limits { queue_messages_max: 10, ..Limits::default() }).await;
    let mut publisher = harness.v4("p").await;
    for at in 0..300u16 {
        publisher.publish_with(0b011, at + 1, &format!("r/{at:03}"), &[], b"x").await;
        publisher.ack(0x40, at + 1).await;
    }
    let mut client = harness.v4("c").await;
    client.subscribe(1, &[("r/#", 1), ("+/007", 0)]).await;
    let mut got = 0;
    for _ in 0..301 {
        let message = client.message().await;
        got += 1;
        if message.qos > 0 {
            client.send_ack(0x40, message.pkid).await;
        }
    }
    client.quiet().await;
    assert_eq!(got, 301);
    assert_eq!(harness.broker.stats().counters.deliveries_dropped, 0);
}

#[tokio::test]
async fn the_retain_flag_of_a_live_message_follows_retain_as_published() {
    let harness = Harness::start().await;
    let mut plain = harness.v5("plain").await;
    plain.subscribe(1, &[("t", 0)]).await;
    let mut kept = harness.v5("kept").await;
    kept.subscribe(1, &[("t", RETAIN_AS_PUBLISHED)]).await;
    let mut publisher = harness.v4("p").await;
    publisher.publish_with(0b001, 0, "t", &[], b"x").await;
    assert!(!plain.message().await.retain);
    assert!(kept.message().await.retain);
}

#[tokio::test]
async fn only_an_empty_message_with_the_retain_flag_clears() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    {
        let harness = Harness::in_dir(Arc::clone(&dir), Limits::default(), |_| {}).await;
        let mut publisher = harness.v4("p").await;
        publisher.publish_with(0b011, 1, "keep", &[], b"kept").await;
        publisher.ack(0x40, 1).await;
        publisher.publish_with(0b011, 2, "clear", &[], b"x").await;
        publisher.ack(0x40, 2).await;
        publisher.publish_with(0b010, 3, "keep", &[], b"").await;
        publisher.ack(0x40, 3).await;
        publisher.publish_with(0b011, 4, "clear", &[], b"").await;
        publisher.ack(0x40, 4).await;
        assert_eq!(harness.broker.stats().retained, 1);
        harness.broker.shutdown().await;
        harness.journal.close().await.unwrap();
    }
    // They survive a restart.
    let harness = Harness::in_dir(dir, Limits::default(), |_| {}).await;
    let mut client = harness.v5("c").await;
    client.subscribe(1, &[("#", 1)]).await;
    let message = client.message().await;
    assert_eq!((message.topic.as_str(), message.text().as_str(), message.retain), ("keep", "kept", true));
    client.quiet().await;
}

/// Copies the registry as it is, with what SQLite keeps beside it.
fn copy_database(from: &Path, to: &Path) {
    for name in ["registry.db", "registry.db-wal"] {
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

#[tokio::test]
async fn what_a_crash_took_from_the_registry_is_read_again_from_the_log() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let kept = dir.path().join("kept");
    {
        let harness = Harness::in_dir(Arc::clone(&dir), Limits::default(), |_| {}).await;
        let mut publisher = Client::connected(harness.addr(), Connect::v5("p").login("pia", b"x")).await;
        publisher.publish_with(0b011, 1, "clear", &[], b"old").await;
        publisher.ack(0x40, 1).await;
        harness.broker.shutdown().await;
        // The registry as it is now is what the crash will leave.
        std::fs::create_dir(&kept).unwrap();
        copy_database(dir.path(), &kept);
        harness.journal.close().await.unwrap();
    }
    {
        let harness = Harness::in_dir(Arc::clone(&dir), Limits::default(), |_| {}).await;
        let mut publisher = Client::connected(harness.addr(), Connect::v5("p").login("pia", b"x")).await;
        for (pkid, topic, payload) in [(1, "a", "1"), (2, "a", "2"), (3, "clear", "")] {
            publisher.publish_with(0b011, pkid, topic, &[3, 0, 1, b'c'], payload.as_bytes()).await;
            publisher.ack(0x40, pkid).await;
        }
        harness.broker.shutdown().await;
        harness.journal.close().await.unwrap();
    }
    // In a place of its own: whoever closes the database last removes its journal by name, and that may be yet to come.
    let crashed = Arc::new(tempfile::tempdir().unwrap());
    copy_database(&kept, crashed.path());
    std::fs::rename(dir.path().join("log"), crashed.path().join("log")).unwrap();
    let harness = Harness::in_dir(crashed, Limits::default(), |_| {}).await;
    let mut client = harness.v5("c").await;
    client.subscribe(1, &[("#", NO_LOCAL)]).await;
    let message = client.message().await;
    assert_eq!((message.topic.as_str(), message.text().as_str(), message.qos), ("a", "2", 0));
    assert_eq!(message.props[..], [3, 0, 1, b'c']);
    client.quiet().await;
}

#[tokio::test]
async fn messages_grow_old() {
    let harness = Harness::start().await;
    harness.want_all();
    let mut away = Client::connected(harness.addr(), Connect::v5("away").expiry(60)).await;
    away.subscribe(1, &[("t", 1)]).await;
    away.disconnect().await;
    harness.disconnected("away").await;
    let mut publisher = harness.v5("p").await;
    publisher.publish_with(0b011, 1, "t", &[2, 0, 0, 0, 1], b"short").await;
    publisher.ack(0x40, 1).await;
    publisher.publish_with(0b011, 2, "u", &[2, 0, 0, 0, 100], b"long").await;
    publisher.ack(0x40, 2).await;
    // A keep-alive of one second that runs out tells that a second has passed.
    let mut clock = Client::connected(harness.addr(), Connect::v4("clock").keep_alive(1)).await;
    clock.closed().await;
    let mut back = Client::connected(harness.addr(), Connect::v5("away").expiry(60).resume()).await;
    back.quiet().await;
    let expired = harness.event_of(EventKind::DeliveryDropped, "away").await;
    assert_eq!(reason(&expired), "expired");
    back.subscribe(2, &[("#", 0)]).await;
    let message = back.message().await;
    assert_eq!(message.topic, "u");
    // What is left of its life is told.
    assert_eq!(message.props[0], 2);
    let left = u32::from_be_bytes(message.props[1..5].try_into().unwrap());
    assert!((90..=99).contains(&left), "{left}");
    back.quiet().await;
}

#[tokio::test]
async fn properties_and_subscription_identifiers_arrive() {
    let harness = Harness::start().await;
    let mut subscriber = harness.v5("s").await;
    subscriber.subscribe_with(1, &[11, 0x81, 0x01], &[("t/#", 0)]).await;
    let mut old = harness.v4("old").await;
    old.subscribe(1, &[("t/#", 0)]).await;
    let mut publisher = harness.v5("p").await;
    let props = [1, 1, 3, 0, 1, b'c', 8, 0, 1, b'r', 9, 0, 1, 0xFF, 38, 0, 1, b'k', 0, 1, b'v'];
    publisher.publish_with(0, 0, "t/x", &props, b"x").await;
    let message = subscriber.message().await;
    let expected =
        [1, 1, 3, 0, 1, b'c', 8, 0, 1, b'r', 9, 0, 1, 0xFF, 11, 0x81, 0x01, 38, 0, 1, b'k', 0, 1, b'v'];
    assert_eq!(message.props[..], expected);
    assert_eq!(old.message().await.text(), "x");
    let held = harness.broker.client_subscriptions("s").unwrap();
    assert_eq!(held[0].subscription_id, Some(129));
}

#[tokio::test]
async fn overlapping_subscriptions_deliver_once_each() {
    let harness = Harness::start().await;
    let mut client = harness.v5("c").await;
    client.subscribe_with(1, &[11, 1], &[("a/#", 0)]).await;
    client.subscribe_with(2, &[11, 2], &[("a/b", 0)]).await;
    client.publish0("a/b", "x").await;
    let mut ids = [client.message().await.props[1], client.message().await.props[1]];
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
    client.quiet().await;
}

#[tokio::test]
async fn a_client_gets_no_more_than_its_receive_maximum_at_a_time() {
    let harness = Harness::start().await;
    let connect = Connect::v5("narrow").prop(&[33, 0, 2]);
    let mut narrow = Client::connected(harness.addr(), connect).await;
    narrow.subscribe(1, &[("t", 1)]).await;
    let mut publisher = harness.v4("p").await;
    for at in 1..=5u16 {
        publisher.publish1(at, "t", &at.to_string()).await;
    }
    let (one, two) = (narrow.message().await, narrow.message().await);
    narrow.quiet().await;
    // Out of order on purpose.
    narrow.send_ack(0x40, two.pkid).await;
    let three = narrow.message().await;
    assert_eq!(three.text(), "3");
    narrow.send_ack(0x40, one.pkid).await;
    assert_eq!(narrow.message().await.text(), "4");
    narrow.quiet().await;
    // An acknowledgement of nothing changes nothing.
    narrow.send_ack(0x40, 999).await;
    narrow.quiet().await;
}

#[tokio::test]
async fn what_is_sent_again_keeps_to_the_new_receive_maximum() {
    let harness = Harness::start().await;
    let connect = |receive_maximum| Connect::v5("narrow").resume().expiry(60).prop(&[33, 0, receive_maximum]);
    let mut wide = Client::connected(harness.addr(), connect(9)).await;
    wide.subscribe(1, &[("t", 1)]).await;
    let mut publisher = harness.v4("p").await;
    for at in 1..=6u16 {
        publisher.publish1(at, "t", &at.to_string()).await;
    }
    let mut pkids = Vec::new();
    for _ in 0..5 {
        pkids.push(wide.message().await.pkid);
    }
    wide.message().await;
    drop(wide);
    let mut narrow = Client::connected(harness.addr(), connect(2)).await;
    for (at, pkid) in (1..).zip(&pkids) {
        let again = narrow.message().await;
        assert_eq!((again.text(), again.dup, again.pkid), (at.to_string(), true, *pkid));
        if at >= 2 {
            narrow.quiet().await;
            narrow.send_ack(0x40, pkids[at - 2]).await;
        }
    }
    publisher.publish1(7, "t", "7").await;
    assert_eq!(narrow.message().await.text(), "6");
    narrow.quiet().await;
    narrow.send_ack(0x40, pkids[4]).await;
    let new = narrow.message().await;
    assert_eq!((new.text().as_str(), new.dup), ("7", false));
}

#[tokio::test]
async fn a_client_gets_no_packet_that_is_larger_than_it_takes() {
    let harness = Harness::start().await;
    harness.want_all();
    let mut small = Client::connected(harness.addr(), Connect::v5("small").prop(&[39, 0, 0, 0, 60])).await;
    small.subscribe(1, &[("t", 1)]).await;
    let mut publisher = harness.v4("p").await;
    publisher.publish1(1, "t", &"x".repeat(100)).await;
    publisher.publish1(2, "t", "fits").await;
    assert_eq!(small.message().await.text(), "fits");
    let dropped = harness.event_of(EventKind::DeliveryDropped, "small").await;
    assert_eq!(reason(&dropped), "packet_too_large");
}

#[tokio::test]
async fn a_shared_subscription_deals_each_message_to_one_member() {
    let harness = Harness::start().await;
    let mut members = Vec::new();
    for at in 0..3 {
        let mut member = harness.v5(&format!("m{at}")).await;
        assert_eq!(member.subscribe(1, &[("$share/g/t/+", 1), ("$share/g/other", 1)]).await, [1, 1]);
        members.push(member);
    }
    let mut lone = harness.v5("lone").await;
    lone.subscribe(1, &[("$share/h/t/+", 0)]).await;
    assert_eq!(harness.broker.stats().subscriptions_shared, 7);
    let mut publisher = harness.v4("p").await;
    for at in 0..9u16 {
        publisher.publish1(at + 1, "t/x", &at.to_string()).await;
    }
    for at in 0..9 {
        assert_eq!(lone.message().await.text(), at.to_string());
    }
    let mut got = Vec::new();
    for member in &mut members {
        for _ in 0..3 {
            let message = member.message().await;
            member.send_ack(0x40, message.pkid).await;
            got.push(message.text());
        }
        member.quiet().await;
    }
    got.sort_unstable();
    assert_eq!(got, (0..9).map(|it| it.to_string()).collect::<Vec<_>>());

    // Who leaves gets nothing more; giving up one filter keeps the other.
    let mut last = members.pop().unwrap();
    assert_eq!(last.unsubscribe(2, &["$share/g/t/+"]).await, [0]);
    let gone = members.pop().unwrap();
    gone.disconnect().await;
    harness.disconnected("m1").await;
    for at in 10..14u16 {
        publisher.publish1(at, "t/x", &at.to_string()).await;
    }
    for at in 10..14 {
        let message = members[0].message().await;
        assert_eq!(message.text(), at.to_string());
        members[0].send_ack(0x40, message.pkid).await;
    }
    last.quiet().await;
    let held = harness.broker.client_subscriptions("m2").unwrap();
    assert_eq!(held.len(), 1);
    assert_eq!(last.subscribe(9, &[("$share/g", 0), ("$share//t", 0), ("$share/g+/t", 0)]).await, [0x8F; 3]);
}

#[tokio::test]
async fn deliveries_are_recorded_only_while_somebody_asks() {
    let harness = Harness::start().await;
    let mut subscriber = harness.v5("s").await;
    subscriber.subscribe(1, &[("t", 1)]).await;
    let mut publisher = Client::connected(harness.addr(), Connect::v5("p").login("pia", b"x")).await;
    publisher.publish1(1, "t", "quiet").await;
    let message = subscriber.message().await;
    subscriber.send_ack(0x40, message.pkid).await;
    assert_eq!(publisher.publish1(2, "nobody", "quiet").await, 0x10);
    subscriber.quiet().await;
    let events = harness.events().await;
    assert!(events.iter().all(|it| !it.kind.is_on_request()));

    harness.want_all();
    publisher.publish1(3, "t", "loud").await;
    let message = subscriber.message().await;
    subscriber.send_ack(0x40, message.pkid).await;
    publisher.publish1(4, "nobody", "lost").await;
    let published = harness.event(|it| it.kind == EventKind::MessagePublish && it.payload() == "loud").await;
    for kind in [EventKind::MessageDelivered, EventKind::MessageAcked] {
        let event = harness.event_of(kind, "s").await;
        assert_eq!(event.message_id(), published.id);
        assert_eq!(event.get(Column::FromClientid), "p".into());
        assert_eq!(event.get(Column::FromUsername), "pia".into());
        assert_eq!(event.get(Column::Qos), 1i64.into());
        assert_eq!(event.payload(), "loud");
        assert!(event.seq() > event.session());
    }
    let dropped = harness.event_of(EventKind::MessageDropped, "p").await;
    let lost = harness.event(|it| it.kind == EventKind::MessagePublish && it.payload() == "lost").await;
    assert_eq!(reason(&dropped), "no_subscribers");
    assert_eq!(dropped.message_id(), lost.id);
    assert_eq!(dropped.payload(), "lost");
}

#[tokio::test]
async fn the_platform_publishes_too() {
    let harness = Harness::start().await;
    let mut subscriber = harness.v5("s").await;
    subscriber.subscribe(1, &[("cmd/#", 1)]).await;
    let request = PublishRequest {
        clientid: "api".to_owned(),
        topic: "cmd/1".to_owned(),
        payload: "go".into(),
        qos: Qos::AtLeastOnce,
        ..Default::default()
    };
    let outcome = harness.broker.publish(request.clone()).await.unwrap();
    assert!(outcome.has_subscribers);
    assert_eq!(subscriber.message().await.text(), "go");
    let event = harness.event(|it| it.offset == outcome.offset).await;
    assert_eq!((event.id, event.clientid(), event.session()), (outcome.id, "api", 0));
    assert_eq!(event.body.message.as_ref().unwrap().origin, "rest");
    let nowhere = PublishRequest { topic: "cmd".to_owned(), ..request.clone() };
    assert!(harness.broker.publish(nowhere).await.unwrap().has_subscribers);
    let nobody = PublishRequest { topic: "nobody".to_owned(), ..request.clone() };
    assert!(!harness.broker.publish(nobody).await.unwrap().has_subscribers);
    let wrong = PublishRequest { topic: "cmd/#".to_owned(), ..request };
    assert!(harness.broker.publish(wrong).await.is_err());
}

#[tokio::test]
async fn who_republished_a_message_stands_on_every_event_about_it() {
    let harness = Harness::start().await;
    harness.want_all();
    let republication = proto::Republication { offset: 7, row: 1, depth: 3, ..Default::default() };
    let request = PublishRequest {
        clientid: "rule".to_owned(),
        topic: "again".to_owned(),
        payload: "x".into(),
        qos: Qos::AtLeastOnce,
        retain: true,
        republished_by: "rule".to_owned(),
        republication: Some(republication),
        ..Default::default()
    };
    // To nobody first, then as a retained message, then at once.
    let accepted = harness.broker.submit(request.clone()).await.unwrap();
    let mut subscriber = harness.v5("s").await;
    subscriber.subscribe(1, &[("again", 1)]).await;
    for _ in 0..2 {
        let message = subscriber.message().await;
        subscriber.send_ack(0x40, message.pkid).await;
        harness.broker.publish(request.clone()).await.unwrap();
    }
    for (kind, offset) in [
        (EventKind::MessagePublish, accepted.offset),
        (EventKind::MessageDropped, accepted.offset),
        (EventKind::MessageDelivered, accepted.offset),
        (EventKind::MessageAcked, accepted.offset + 1),
    ] {
        let event = harness.event(|it| it.kind == kind && it.offset >= offset).await;
        let message = event.body.message.as_ref().unwrap();
        assert_eq!((message.republished_by.as_str(), message.republication), ("rule", Some(republication)));
    }
    let payload = "x".repeat(Limits::default().packet_bytes_max);
    let large = harness.broker.submit(PublishRequest { payload: payload.into(), ..request }).await;
    assert!(matches!(large, Err(BrokerError::TooLarge { .. })), "{large:?}");
}

#[tokio::test]
async fn an_operator_subscribes_in_the_name_of_a_client() {
    let harness = Harness::start().await;
    let mut publisher = harness.v4("p").await;
    publisher.publish_with(0b011, 1, "t/kept", &[], b"kept").await;
    publisher.ack(0x40, 1).await;
    let broker = &harness.broker;
    let wish = |topic: &str| SubscriptionInfo { topic: topic.to_owned(), qos: 1, ..Default::default() };
    let mut client = Client::connected(harness.addr(), Connect::v5("c").expiry(60)).await;
    assert_eq!(broker.subscribe("c", vec![wish("t/#")]).await.unwrap(), ProxySubscribed::Done);
    let nobody = broker.subscribe("nobody", vec![wish("t/#")]).await.unwrap();
    assert_eq!(nobody, ProxySubscribed::NoClient);
    assert!(broker.subscribe("c", vec![wish("good"), wish("t/#/x")]).await.is_err());
    let kept = client.message().await;
    assert_eq!((kept.text().as_str(), kept.retain), ("kept", true));
    client.send_ack(0x40, kept.pkid).await;
    let subscribed = harness.event_of(EventKind::SessionSubscribed, "c").await;
    assert_eq!(subscribed.get(Column::ByProxy), true.into());
    assert_eq!(broker.client_subscriptions("c").unwrap().len(), 1);
    // Also while it is away.
    client.disconnect().await;
    harness.disconnected("c").await;
    let filters = || vec!["t/#".to_owned()];
    assert_eq!(broker.unsubscribe("c", filters()).await, Some(vec![true]));
    assert_eq!(broker.unsubscribe("c", filters()).await, Some(vec![false]));
    assert_eq!(broker.unsubscribe("nobody", filters()).await, None);
    assert_eq!(broker.subscribe("c", vec![wish("u")]).await.unwrap(), ProxySubscribed::Done);
    let mut back = Client::connected(harness.addr(), Connect::v5("c").expiry(60).resume()).await;
    publisher.publish1(2, "t/x", "no more").await;
    publisher.publish1(3, "u", "yes").await;
    assert_eq!(back.message().await.text(), "yes");
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_delays_nobody() {
    let harness = Harness::with(Limits { queue_messages_max: 50, ..Limits::default() }).await;
    let mut stuck = harness.v4("stuck").await;
    stuck.subscribe(1, &[("t", 0)]).await;
    let mut fast = harness.v4("fast").await;
    fast.subscribe(1, &[("t", 0)]).await;
    let mut publisher = harness.v4("p").await;
    let payload = "x".repeat(60_000);
    for at in 1..=400u16 {
        publisher.publish1(at, "t", &payload).await;
        assert_eq!(fast.message().await.payload.len(), payload.len());
    }
    // Its socket is full, its queue too: the rest was dropped and counted.
    let dropped = harness.broker.client("stuck").unwrap().messages_dropped_queue_full;
    assert!(dropped > 0, "nothing was dropped");
    assert!(harness.broker.kick("stuck").await);
}
