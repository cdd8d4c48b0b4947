//! Inputs that a broker must survive, and what the standard says it answers. After each, the broker still serves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test may fail loudly"
)]

mod support;

use muster_broker::Limits;
use muster_core::event::{Column, EventKind};
use support::{Client, Connect, Harness, PATIENCE, packet};
use tokio::io::AsyncWriteExt as _;

/// A message still finds its way.
async fn lives(harness: &Harness) {
    let mut client = harness.v5("witness").await;
    client.subscribe(1, &[("witness/#", 1)]).await;
    client.publish_with(0b010, 2, "witness/x", &[], b"!").await;
    let (mut acked, mut delivered) = (false, false);
    while !(acked && delivered) {
        match client.recv().await.first >> 4 {
            4 => acked = true,
            3 => delivered = true,
            other => panic!("packet type {other}"),
        }
    }
    client.stream.shutdown().await.unwrap();
}

#[tokio::test]
async fn topics_of_any_characters() {
    let harness = Harness::start().await;
    let mut subscriber = harness.v4("s").await;
    let topics = ["é/x", "日本/温度", "🦀", "/", "//a", " ", "a//b", "m/x"];
    for topic in topics {
        assert_eq!(subscriber.subscribe(1, &[(topic, 1)]).await, [1]);
        let mut publisher = harness.v5("p").await;
        publisher.publish1(1, topic, "hi").await;
        let message = subscriber.message().await;
        assert_eq!(message.topic, topic);
        subscriber.send_ack(0x40, message.pkid).await;
        subscriber.unsubscribe(2, &[topic]).await;
    }
    assert_eq!(subscriber.subscribe(3, &[("+/x", 0)]).await, [0]);
    subscriber.publish0("é/x", "own").await;
    assert_eq!(subscriber.message().await.topic, "é/x");
    lives(&harness).await;
}

#[tokio::test]
async fn topics_that_are_none_end_the_connection() {
    let harness = Harness::start().await;
    for topic in ["a/+/b", "a/#", "#", "+"] {
        let mut client = harness.v5("bad").await;
        client.publish_with(0b010, 1, topic, &[], b"").await;
        assert_eq!(client.disconnected().await, 0x90);
        let mut client = harness.v4("bad").await;
        client.publish_with(0, 0, topic, &[], b"").await;
        client.closed().await;
    }
    let mut client = harness.v5("bad").await;
    client.publish_with(0, 0, "", &[], b"").await;
    assert_eq!(client.disconnected().await, 0x82);
    let mut client = harness.v5("bad").await;
    client.publish_with(0, 0, "a\0b", &[], b"").await;
    assert_eq!(client.disconnected().await, 0x81);
    lives(&harness).await;
}

#[tokio::test]
async fn dollar_topics_are_hidden_from_leading_wildcards() {
    let harness = Harness::start().await;
    let mut all = harness.v4("all").await;
    all.subscribe(1, &[("#", 0)]).await;
    let mut plus = harness.v4("plus").await;
    plus.subscribe(1, &[("+/x", 0)]).await;
    let mut named = harness.v4("named").await;
    named.subscribe(1, &[("$own/#", 0)]).await;
    let mut publisher = harness.v4("p").await;
    publisher.publish1(1, "$own/x", "1").await;
    publisher.publish1(2, "own/x", "2").await;
    assert_eq!(named.message().await.topic, "$own/x");
    for client in [&mut all, &mut plus] {
        assert_eq!(client.message().await.topic, "own/x");
    }
    named.quiet().await;
}

#[tokio::test]
async fn client_ids_of_any_characters() {
    let harness = Harness::start().await;
    for clientid in ["a/b+c#", "$SYS/x", "é", "with space", "publishers", "s1"] {
        let mut client = harness.v4(clientid).await;
        client.subscribe(1, &[("t", 0)]).await;
        client.publish0("t", clientid).await;
        assert_eq!(client.message().await.text(), clientid);
        client.disconnect().await;
        assert_eq!(harness.disconnected(clientid).await, "normal");
    }
}

#[tokio::test]
async fn an_empty_client_id_is_replaced_where_the_standard_allows() {
    let harness = Harness::start().await;
    let client = Client::open(harness.addr(), Connect::v5("").resume()).await;
    assert_eq!(client.code(), 0);
    let props = client.connack.body.slice(3..);
    let at = props.iter().position(|byte| *byte == 18).unwrap();
    let assigned = String::from_utf8(props[at + 3..at + 3 + usize::from(props[at + 2])].to_vec()).unwrap();
    assert!(assigned.starts_with("auto-"), "{assigned}");
    assert!(harness.broker.client(&assigned).unwrap().connected);
    assert_eq!(Client::open(harness.addr(), Connect::v4("")).await.code(), 0);
    assert_eq!(Client::open(harness.addr(), Connect::v4("").resume()).await.code(), 2);
    let long = "x".repeat(2_000);
    assert_eq!(Client::open(harness.addr(), Connect::v5(&long)).await.code(), 0x85);
    let connack = harness.event_of(EventKind::ClientConnack, &long).await;
    assert_eq!(connack.get(Column::ReasonCode), "client_identifier_not_valid".into());
}

#[tokio::test]
async fn silence_ends_a_connection_unless_its_keep_alive_is_zero() {
    let harness = Harness::start().await;
    let mut never = Client::connected(harness.addr(), Connect::v5("never").keep_alive(0)).await;
    let mut soon = Client::connected(harness.addr(), Connect::v5("soon").keep_alive(1)).await;
    let mut soon_v4 = Client::connected(harness.addr(), Connect::v4("soon4").keep_alive(1)).await;
    assert_eq!(soon.disconnected().await, 0x8D);
    soon_v4.closed().await;
    assert_eq!(harness.disconnected("soon").await, "keepalive_timeout");
    let event = harness.event_of(EventKind::ClientDisconnected, "soon4").await;
    let lived = event.get(Column::DisconnectedAt).as_i64().unwrap()
        - event.get(Column::ConnectedAt).as_i64().unwrap();
    assert!((1_400..4_000).contains(&lived), "{lived} ms");
    never.quiet().await;
}

#[tokio::test]
async fn the_server_may_shorten_the_keep_alive() {
    let harness = Harness::with(Limits { keep_alive_seconds_max: 50, ..Limits::default() }).await;
    let client = Client::connected(harness.addr(), Connect::v5("c").keep_alive(0)).await;
    assert!(client.connack.body.windows(3).any(|it| it == [19, 0, 50]), "{:?}", client.connack);
    assert_eq!(harness.broker.client("c").unwrap().keepalive_seconds, 50);
}

#[tokio::test]
async fn unsubscribing_what_is_not_held_is_answered() {
    let harness = Harness::start().await;
    let mut v5 = harness.v5("v5").await;
    assert_eq!(v5.subscribe(1, &[("a", 0), ("b/#", 1), ("c/+/d", 2), ("a/#/b", 0)]).await, [0, 1, 2, 0x8F]);
    assert_eq!(v5.unsubscribe(2, &["never", "a", "b/#", "a"]).await, [0x11, 0, 0, 0x11]);
    let mut v4 = harness.v4("v4").await;
    assert_eq!(v4.subscribe(1, &[("a", 2), ("a/#/b", 0), ("b", 1)]).await, [2, 0x80, 1]);
    v4.unsubscribe(2, &["never"]).await;
    v4.unsubscribe(3, &["never", "a"]).await;
    v4.quiet().await;
    lives(&harness).await;
}

#[tokio::test]
async fn a_packet_that_is_too_large() {
    let harness = Harness::with(Limits { packet_bytes_max: 1_000, ..Limits::default() }).await;
    let mut v5 = harness.v5("v5").await;
    assert!(v5.connack.body.windows(5).any(|it| it == [39, 0, 0, 3, 232]));
    v5.publish_with(0b010, 1, "t", &[], &[b'x'; 1_000]).await;
    assert_eq!(v5.disconnected().await, 0x95);
    assert_eq!(harness.disconnected("v5").await, "packet_too_large");
    let mut v4 = harness.v4("v4").await;
    // Only the header is sent: it is refused before anything is kept for it.
    v4.send(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]).await;
    v4.closed().await;
    let mut exact = harness.v4("exact").await;
    exact.publish1(1, "t", &"x".repeat(1_000 - 3 - 3 - 2)).await;
    lives(&harness).await;
}

#[tokio::test]
async fn bytes_that_are_no_mqtt() {
    let harness = Harness::start().await;
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0xFF; 64], &[0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]]
    {
        let mut client = Client::socket(harness.addr(), 4).await;
        client.send(garbage).await;
        client.closed().await;
        let mut client = harness.v5("garbage").await;
        client.send(garbage).await;
        let code = client.disconnected().await;
        assert!([0x81, 0x82].contains(&code), "{code:x} for {garbage:?}");
    }
    assert_eq!(harness.disconnected("garbage").await, "protocol_error");
    lives(&harness).await;
}

#[tokio::test]
async fn packets_that_only_a_server_sends() {
    let harness = Harness::start().await;
    for first in [0x00, 0x20, 0x90, 0xB0, 0xD0] {
        let mut client = harness.v5("server").await;
        client.send(&packet(first, &[0, 1, 0])).await;
        assert_eq!(client.disconnected().await, 0x82, "{first:x}");
        let mut client = Client::socket(harness.addr(), 5).await;
        client.send(&packet(first, &[])).await;
        client.closed().await;
    }
    lives(&harness).await;
}

#[tokio::test]
async fn a_second_connect_and_a_first_packet_that_is_none() {
    let harness = Harness::start().await;
    let mut v5 = harness.v5("twice").await;
    v5.send(&Connect::v5("twice").bytes()).await;
    assert_eq!(v5.disconnected().await, 0x82);
    assert_eq!(harness.disconnected("twice").await, "protocol_error");
    let mut v4 = harness.v4("twice4").await;
    v4.send(&Connect::v4("twice4").bytes()).await;
    v4.closed().await;
    let mut late = Client::socket(harness.addr(), 4).await;
    late.send(&[0xC0, 0]).await;
    late.closed().await;
    lives(&harness).await;
}

#[tokio::test]
async fn a_connection_that_says_nothing() {
    let harness = Harness::with(Limits { connect_timeout_ms: 50, ..Limits::default() }).await;
    let mut silent = Client::socket(harness.addr(), 4).await;
    silent.closed().await;
    let mut slow = Client::socket(harness.addr(), 4).await;
    slow.send(&[0x10, 30, 0, 4]).await;
    slow.closed().await;
    lives(&harness).await;
}

#[tokio::test]
async fn one_client_too_many() {
    let harness = Harness::with(Limits { connections_max: 2, ..Limits::default() }).await;
    let _a = harness.v4("a").await;
    let mut b = harness.v5("b").await;
    assert_eq!(Client::open(harness.addr(), Connect::v5("c")).await.code(), 0x97);
    assert_eq!(Client::open(harness.addr(), Connect::v4("c")).await.code(), 3);
    let refused = harness.event_of(EventKind::ClientConnack, "c").await;
    assert_eq!(refused.get(Column::ReasonCode), "quota_exceeded".into());
    // Who is in may come again: the old connection makes room.
    let again = harness.v5("b").await;
    assert_eq!(b.disconnected().await, 0x8E);
    assert_eq!(harness.broker.stats().connections, 2);
    again.disconnect().await;
    harness.disconnected("b").await;
}

#[tokio::test]
async fn a_session_without_its_client_takes_nobodys_place() {
    let limits = Limits { connections_max: 2, handshakes_max: 1, ..Limits::default() };
    let harness = Harness::with(limits).await;
    for number in 0..20 {
        let clientid = format!("kept-{number}");
        let client = Client::connected(harness.addr(), Connect::v4(&clientid).resume()).await;
        client.disconnect().await;
        harness.disconnected(&clientid).await;
    }
    assert_eq!(harness.broker.stats().sessions, 20);
    let given_back = async {
        while harness.broker.listeners()[0].current_connections > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, given_back).await.expect("no connection counts any more");
}

#[tokio::test]
async fn one_session_too_many() {
    let harness = Harness::with(Limits { sessions_max: 2, ..Limits::default() }).await;
    let kept = |clientid: &str| Connect::v5(clientid).expiry(60);
    Client::connected(harness.addr(), kept("a")).await.disconnect().await;
    let _b = harness.v5("b").await;
    assert_eq!(Client::open(harness.addr(), kept("c")).await.code(), 0x97);
    // Who has one comes back to it, or to a new one in its place.
    Client::connected(harness.addr(), kept("a").resume()).await.disconnect().await;
    harness.v5("a").await.disconnect().await;
    let ended = async {
        while harness.broker.stats().sessions > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("a session without expiry ends with its connection");
    Client::connected(harness.addr(), kept("c")).await.disconnect().await;
}

#[tokio::test]
async fn versions_that_are_not_spoken() {
    let harness = Harness::start().await;
    let mut client = Client::socket(harness.addr(), 4).await;
    client.send(&Connect { level: 2, ..Connect::v4("old") }.bytes()).await;
    assert_eq!(client.recv().await.body[..], [0, 1]);
    client.closed().await;
    let mut client = Client::socket(harness.addr(), 5).await;
    client.send(&Connect { level: 6, ..Connect::v4("new") }.bytes()).await;
    assert_eq!(client.recv().await.body[..], [0, 0x84, 0]);
    client.closed().await;
    let mut client = Client::socket(harness.addr(), 4).await;
    client.send(&Connect { name: "MQTX", ..Connect::v4("x") }.bytes()).await;
    client.closed().await;
    // A bridge sets the highest bit of the level.
    let bridge = Client::open(harness.addr(), Connect { level: 0x84, ..Connect::v4("bridge") }).await;
    assert_eq!(bridge.code(), 0);
    assert!(harness.broker.client("bridge").unwrap().is_bridge);
}

#[tokio::test]
async fn properties_that_may_not_be() {
    let harness = Harness::start().await;
    let twice = [0x02, 0, 0, 0, 1, 0x02, 0, 0, 0, 1];
    let unknown = [0x7F, 0];
    let of_the_server = [0x0B, 1];
    let alias_zero = [0x23, 0, 0];
    let alias_unknown = [0x23, 0, 9];
    for (props, topic, code) in [
        (&twice[..], "t", 0x82),
        (&unknown, "t", 0x82),
        (&of_the_server, "t", 0x82),
        (&alias_zero, "t", 0x82),
        (&alias_unknown, "", 0x82),
        (&[0x23, 0xFF, 0xFF], "t", 0x94),
    ] {
        let mut client = harness.v5("props").await;
        client.publish_with(0b010, 1, topic, props, b"").await;
        assert_eq!(client.disconnected().await, code, "{props:?}");
    }
    let refused = Client::open(harness.addr(), Connect::v5("auth").prop(&[21, 0, 1, b'x'])).await;
    assert_eq!(refused.code(), 0x8C);
    lives(&harness).await;
}

#[tokio::test]
async fn topic_aliases_are_learnt_and_used() {
    let harness = Harness::start().await;
    let mut subscriber = harness.v5("s").await;
    subscriber.subscribe(1, &[("#", 0)]).await;
    let mut publisher = harness.v5("p").await;
    publisher.publish_with(0, 0, "a", &[0x23, 0, 1], b"1").await;
    publisher.publish_with(0, 0, "", &[0x23, 0, 1], b"2").await;
    publisher.publish_with(0, 0, "b", &[0x23, 0, 1], b"3").await;
    publisher.publish_with(0, 0, "", &[0x23, 0, 1], b"4").await;
    for (topic, payload) in [("a", "1"), ("a", "2"), ("b", "3"), ("b", "4")] {
        let message = subscriber.message().await;
        assert_eq!((message.topic.as_str(), message.text().as_str()), (topic, payload));
    }
}

#[tokio::test]
async fn a_qos2_publish_is_published_once_until_it_is_released() {
    let harness = Harness::start().await;
    let mut client = harness.v5("twice").await;
    for flags in [0b100, 0b1100, 0b1100] {
        client.publish_with(flags, 9, "t", &[], b"x").await;
        client.ack(0x50, 9).await;
    }
    client.send_ack(0x62, 9).await;
    assert_eq!(client.ack(0x70, 9).await, 0);
    client.send_ack(0x62, 9).await;
    assert_eq!(client.ack(0x70, 9).await, 0x92);
    client.publish_with(0b100, 9, "t", &[], b"y").await;
    client.ack(0x50, 9).await;
    let events = harness.events().await;
    let published = events.iter().filter(|it| it.kind == EventKind::MessagePublish).count();
    assert_eq!(published, 2);
}

#[tokio::test]
async fn acks_come_in_order_for_a_burst_larger_than_the_window() {
    let harness = Harness::with(Limits { receive_maximum: 8, ..Limits::default() }).await;
    let mut client = harness.v4("burst").await;
    let mut burst = Vec::new();
    for pkid in 1..=500u16 {
        burst.extend(client.publish_bytes(0b010, pkid, "t", &[], b"payload"));
    }
    client.send(&burst).await;
    for pkid in 1..=500u16 {
        client.ack(0x40, pkid).await;
    }
    let events = harness.events().await;
    assert_eq!(events.iter().filter(|it| it.kind == EventKind::MessagePublish).count(), 500);
}

#[tokio::test]
async fn a_packet_in_single_bytes() {
    let harness = Harness::start().await;
    let mut client = Client::socket(harness.addr(), 4).await;
    for byte in Connect::v4("slow").bytes() {
        client.send(&[byte]).await;
    }
    assert_eq!(client.recv().await.body[1], 0);
    for byte in client.publish_bytes(0b010, 1, "t", &[], b"slow") {
        client.send(&[byte]).await;
    }
    client.ack(0x40, 1).await;
}

#[tokio::test]
async fn a_client_that_asks_and_never_reads_is_not_served_without_limit() {
    let harness = Harness::with(Limits { write_bytes_max: 4_096, ..Limits::default() }).await;
    let mut client = harness.v4("deaf").await;
    // Far more answers than all buffers on the way hold; the server stops reading before it keeps them.
    let pings = [0xC0, 0].repeat(32 << 10);
    let mut sent = 0;
    let flood = async {
        while sent < 64 << 20 {
            client.send(&pings).await;
            sent += pings.len();
        }
    };
    tokio::time::timeout(std::time::Duration::from_millis(1_500), flood).await.unwrap_err();
    assert!(harness.broker.kick("deaf").await);
    lives(&harness).await;
}
