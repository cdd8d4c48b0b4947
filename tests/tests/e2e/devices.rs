//! Odd and bad devices: whatever one of them sends, it gets the standard's answer or is closed, and the others never
//! notice.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use muster_tests::mqtt::{Client, Connect, VERSIONS, Version, kind, packet, publish};
use muster_tests::paho::Paho;
use muster_tests::{Home, Muster, need, seed, tools};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

use crate::common::{HISTORY, TELEMETRY, history, until_history};

/// A device that has been there all along still is, and a new one is served.
async fn assert_alive(muster: &mut Muster, witness: &mut Client) {
    assert!(muster.is_running());
    witness.publish("witness", b"x", 0, false).await;
    let echo = witness.expect(kind::PUBLISH).await;
    assert_eq!(echo.message(Version::V4), ("witness".to_owned(), Bytes::from_static(b"x")));
    Client::connect(muster.mqtt, Version::V5, "newcomer").await.disconnect().await;
}

async fn witness(broker: SocketAddr) -> Client {
    let mut witness = Client::connect(broker, Version::V4, "witness").await;
    assert_eq!(witness.subscribe("witness", 0).await, 0);
    witness
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_begin_with_a_letter_beyond_ascii() {
    let python = need!("paho");
    let publisher = need!("mosquitto_pub");
    let home =
        Home::with_rules("CREATE RULE all INTO sqlite.everything AS SELECT topic, payload FROM \"#\";\n");
    let mut muster = home.start().await;
    let mut watch = witness(muster.mqtt).await;
    for version in [4, 5] {
        let options = json!({"clientid": format!("é{version}"), "version": version});
        let (mut paho, _) = Paho::connect(&python, muster.mqtt, options).await;
        paho.order(json!({"do": "subscribe", "topics": ["é/+", "日本/#"], "qos": 1})).await;
        assert_eq!(paho.event("subscribed").await["codes"], json!([1, 1]));
        for topic in ["é/x", "日本", "日本/東京"] {
            paho.order(json!({"do": "publish", "topic": topic, "payload": "hüllo", "qos": 1})).await;
            let message = paho.event("message").await;
            assert_eq!((&message["topic"], &message["payload"]), (&json!(topic), &json!("hüllo")));
        }
        paho.disconnect().await;
    }
    tools::run(tools::mosquitto(&publisher, muster.mqtt).args(["-q", "1", "-t", "é/x", "-m", "x"])).await;
    assert_alive(&mut muster, &mut watch).await;
    // Three by each paho, one by mosquitto, one by the witness.
    home.until_lines("SELECT topic FROM everything", 8).await;
    assert_eq!(home.lines("SELECT count(*) FROM everything WHERE topic = 'é/x'"), ["3"]);
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_ids_with_every_sign() {
    let python = need!("paho");
    let home = Home::with_rules(HISTORY);
    let mut muster = home.start().await;
    let mut watch = witness(muster.mqtt).await;
    for (at, client_id) in
        ["a/b+c#", "$SYS", "é", " ", "a b", "../x", "%41", "\"quoted\"", "<b>"].into_iter().enumerate()
    {
        let version = if at % 2 == 0 { 5 } else { 4 };
        let options = json!({"clientid": client_id, "version": version});
        let (mut paho, connected) = Paho::connect(&python, muster.mqtt, options).await;
        assert_eq!(connected["code"], 0, "{client_id}");
        paho.order(json!({"do": "subscribe", "topics": ["t"], "qos": 1})).await;
        paho.event("subscribed").await;
        paho.order(json!({"do": "publish", "topic": "t", "payload": client_id, "qos": 2})).await;
        assert_eq!(paho.event("message").await["payload"], client_id);
        paho.disconnect().await;
        until_history(&home, client_id, &["connected", "disconnected normal"]).await;
    }
    assert_alive(&mut muster, &mut watch).await;
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keep_alive_zero_is_no_keep_alive_and_another_is_kept() {
    let home = Home::with_rules(HISTORY);
    let mut muster = home.start().await;
    let mut watch = witness(muster.mqtt).await;
    for version in VERSIONS {
        let mut silent = Client::connect(muster.mqtt, version, &format!("silent-{version:?}")).await;
        let id = format!("late-{version:?}");
        let connect = Connect { keep_alive: 1, ..Connect::new(version, &id) };
        let (mut late, _, code) = Client::greet(muster.mqtt, &connect).await.expect("a connection");
        assert_eq!(code, 0);
        let started = tokio::time::Instant::now();
        let goodbye = late.until_closed().await;
        let waited = started.elapsed();
        assert!(waited > Duration::from_millis(1400) && waited < Duration::from_secs(10), "{waited:?}");
        match version {
            Version::V4 => assert_eq!(goodbye, []),
            Version::V5 => assert_eq!((goodbye[0].kind(), goodbye[0].reason()), (kind::DISCONNECT, 0x8D)),
        }
        until_history(&home, &id, &["connected", "disconnected keepalive_timeout"]).await;
        silent.publish("t", b"still here", 1, false).await;
        silent.send(&packet(kind::PINGREQ << 4, &[])).await.expect("a connection");
        silent.expect(kind::PINGRESP).await;
    }
    assert_alive(&mut muster, &mut watch).await;
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unsubscribing_from_what_was_never_subscribed_is_answered() {
    let python = need!("paho");
    let home = Home::new();
    let mut muster = home.start().await;
    let mut watch = witness(muster.mqtt).await;
    let mut v4 = Client::connect(muster.mqtt, Version::V4, "four").await;
    assert_eq!(v4.unsubscribe("never/subscribed").await.body.len(), 2);
    let mut v5 = Client::connect(muster.mqtt, Version::V5, "five").await;
    let no_subscription_existed = 0x11;
    assert_eq!(v5.unsubscribe("never/subscribed").await.body.last(), Some(&no_subscription_existed));

    let options = json!({"clientid": "paho", "version": 5});
    let (mut paho, _) = Paho::connect(&python, muster.mqtt, options).await;
    paho.order(json!({"do": "subscribe", "topics": ["a", "b"], "qos": 1})).await;
    paho.event("subscribed").await;
    paho.order(json!({"do": "unsubscribe", "topics": ["a", "x", "b"]})).await;
    assert_eq!(paho.event("unsubscribed").await["codes"], json!([0, no_subscription_existed, 0]));
    paho.disconnect().await;
    assert_alive(&mut muster, &mut watch).await;
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_packet_closes_its_sender_alone() {
    const LIMIT: usize = 1024 * 1024;
    let home = Home::with_rules(&format!(
        "{HISTORY}CREATE RULE size INTO sqlite.sizes AS SELECT topic FROM \"big\";"
    ));
    let mut muster = home.start().await;
    let mut watch = witness(muster.mqtt).await;
    for version in VERSIONS {
        let id = format!("big-{version:?}");
        let mut client = Client::connect(muster.mqtt, version, &id).await;
        client.publish("big", &vec![b'x'; LIMIT - 100], 1, false).await;
        let too_big = publish(version, "big", &vec![b'x'; LIMIT + 1], 1, false, 9);
        // The broker may close before it has read all of it.
        let _ = client.send(&too_big).await;
        let goodbye = client.until_closed().await;
        if let Some(last) = goodbye.last() {
            assert_eq!((version, last.kind(), last.reason()), (Version::V5, kind::DISCONNECT, 0x95));
        }
        until_history(&home, &id, &["connected", "disconnected packet_too_large"]).await;
    }
    assert_alive(&mut muster, &mut watch).await;
    assert_eq!(home.until_lines("SELECT topic FROM sizes", 2).await.len(), 2);
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_port_hurts_nobody() {
    let home = Home::with_rules(HISTORY);
    let mut muster = home.start().await;
    let mut watch = witness(muster.mqtt).await;
    let mut random = StdRng::seed_from_u64(seed());
    let mut garbage: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0x16, 3, 1, 0, 200, 1, 0, 0, 196],
        vec![0xFF; 5],
        vec![0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
        packet(kind::PUBLISH << 4, b"\0\x01t"),
        packet(kind::PINGREQ << 4, &[]),
        packet(kind::CONNECT << 4, b"\0\x04MQTX\x04\x02\0\0\0\x01a"),
        packet(kind::CONNECT << 4, b"\0\x04MQTT\x04\x03\0\0\0\x01a"),
    ];
    // Each type a server alone may send, whole and cut short: some of them break the codec behind.
    for first in [0x20, 0x40, 0x50, 0x62, 0x70, 0x90, 0xB0, 0xD0, 0xE0, 0xF0] {
        garbage.push(packet(first, &[0, 1, 0, 0]));
        garbage.push(packet(first, &[]));
    }
    for _ in 0..200 {
        let length = random.random_range(1..200);
        garbage.push((0..length).map(|_| random.random()).collect());
    }
    for bytes in &garbage {
        let mut client = Client::open(muster.mqtt, Version::V4).await.expect("the port is open");
        client.send(bytes).await.expect("a connection");
        client.half_close().await;
        client.until_closed().await;
    }
    // The same from devices that were let in first.
    for (number, bytes) in garbage.iter().enumerate() {
        let version = VERSIONS[number % 2];
        let mut client = Client::connect(muster.mqtt, version, &format!("bad-{number}")).await;
        client.send(bytes).await.expect("a connection");
        client.half_close().await;
        client.until_closed().await;
    }
    assert_alive(&mut muster, &mut watch).await;
    for number in 0..garbage.len() {
        let id = format!("bad-{number}");
        let events = async || {
            let events = history(&home, &id);
            (events.len() == 2 && events[1].starts_with("disconnected ")).then_some(())
        };
        muster_tests::until(&format!("{id} came and went"), muster_tests::PATIENCE, events).await;
    }
    muster.stop().await;
}

/// Topics and filters that the standard forbids close their sender.
#[tokio::test(flavor = "multi_thread")]
async fn forbidden_topics_are_refused() {
    let home = Home::with_rules(TELEMETRY);
    let mut muster = home.start().await;
    let mut watch = witness(muster.mqtt).await;
    for version in VERSIONS {
        for topic in ["sensors/+/up", "a/#", "", "a\0b"] {
            let mut client = Client::connect(muster.mqtt, version, "wild").await;
            client.send(&publish(version, topic, b"{}", 1, false, 1)).await.expect("a connection");
            let goodbye = client.until_closed().await;
            assert!(goodbye.iter().all(|packet| packet.kind() == kind::DISCONNECT), "{topic:?}: {goodbye:?}");
        }
    }
    assert_alive(&mut muster, &mut watch).await;
    muster.stop().await;
}
