//! Permissions by REST: they hold at once for who is connected, for foreign clients of both versions, and after a
//! restart; and what is denied leaves no trace but the denial.

use std::process::Stdio;

use bytes::Bytes;
use muster_core::event::EventKind;
use muster_tests::mqtt::{Client, Version, kind, publish};
use muster_tests::paho::Paho;
use muster_tests::{Home, Muster, need, tools};
use serde_json::{Value, json};

const RULES: &str = "/api/v5/authorization/sources/built_in_database/rules";

async fn put(muster: &Muster, method: &str, path: &str, body: Value) {
    let (status, answer) = muster.send(method, path, body).await;
    assert_eq!(status, 204, "{method} {path}: {answer}");
}

/// The reason code of the PUBACK to a publish with QoS 1.
async fn answered(client: &mut Client, topic: &str, payload: &str) -> u8 {
    let id = client.id();
    let packet = publish(Version::V5, topic, payload.as_bytes(), 1, false, id);
    client.send(&packet).await.expect("sent");
    client.expect(kind::PUBACK).await.reason()
}

/// Nobody but their owner has anything to do with a device's topics.
fn own_topics() -> Value {
    json!({"rules": [
        {"topic": "devices/${clientid}/#", "permission": "allow", "action": "all"},
        {"topic": "devices/#", "permission": "deny", "action": "all"},
    ]})
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_clients_are_denied_in_their_own_words() {
    let publisher = need!("mosquitto_pub");
    let subscriber = need!("mosquitto_sub");
    let python = need!("paho");
    let home = Home::new();
    let muster = home.start().await;
    put(&muster, "POST", &format!("{RULES}/all"), own_topics()).await;

    // MQTT 5 is told so, 3.1.1 gets a plain acknowledgement; the message is nowhere in either case.
    let options = json!({"clientid": "p5", "version": 5});
    let (mut paho, _) = Paho::connect(&python, muster.mqtt, options).await;
    paho.order(json!({"do": "publish", "topic": "devices/other/up", "payload": "1", "qos": 1})).await;
    assert_eq!(paho.event("published").await["code"], 135);
    paho.order(json!({"do": "publish", "topic": "devices/p5/up", "payload": "2", "qos": 1})).await;
    // 16: written, and nobody subscribes.
    assert_eq!(paho.event("published").await["code"], 16);
    paho.vanish().await;
    let mut command = tools::mosquitto(&publisher, muster.mqtt);
    tools::run(command.args(["-V", "311", "-i", "p3", "-q", "1", "-t", "devices/other/up", "-m", "3"])).await;

    let mut command = tools::mosquitto(&subscriber, muster.mqtt);
    command.args(["-V", "311", "-i", "s3", "-t", "devices/#", "-W", "5"]).stderr(Stdio::piped());
    let (said, good) = tools::try_run(&mut command).await;
    assert!(said.to_lowercase().contains("denied"), "{good}: {said}");
    let mut watcher = Client::connect(muster.mqtt, Version::V5, "s5").await;
    assert_eq!(watcher.subscribe("devices/s5/#", 1).await, 1);
    assert_eq!(watcher.subscribe("devices/+/up", 1).await, 135);
    // In order: that somebody was denied is written, and nobody waits for it.
    muster.stop().await;

    let log = home.log().await;
    let published: Vec<_> = log.publishes().map(|(topic, _)| topic.to_owned()).collect();
    assert_eq!(published, ["devices/p5/up"]);
    let denied: Vec<_> =
        log.of(EventKind::ClientAuthz).map(|it| format!("{} {}", it.clientid(), it.topic)).collect();
    assert_eq!(denied, ["p5 devices/other/up", "p3 devices/other/up", "s3 devices/#", "s5 devices/+/up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_holds_at_once_and_over_a_restart() {
    let home = Home::new();
    let muster = home.start().await;
    let mut device = Client::connect(muster.mqtt, Version::V5, "d").await;
    let mut watcher = Client::connect(muster.mqtt, Version::V5, "w").await;
    assert_eq!(watcher.subscribe("a/b", 1).await, 1);
    let deny =
        json!([{"clientid": "d", "rules": [{"topic": "a/b", "permission": "deny", "action": "publish"}]}]);
    // Often enough that the answer is remembered.
    device.publish_all("a/b", ["1", "2", "3"].map(Bytes::from), 1).await;
    put(&muster, "POST", &format!("{RULES}/clients"), deny).await;
    assert_eq!(answered(&mut device, "a/b", "denied").await, 135);
    let list = muster.json(&format!("{RULES}/clients?like_clientid=d")).await;
    assert_eq!(list["data"][0]["rules"][0]["topic"], "a/b", "{list}");
    muster.kill().await;

    let muster = home.start().await;
    let mut device = Client::connect(muster.mqtt, Version::V5, "d").await;
    assert_eq!(answered(&mut device, "a/b", "denied again").await, 135);
    put(&muster, "DELETE", &format!("{RULES}/clients/d"), Value::Null).await;
    device.publish_all("a/b", [Bytes::from("4")], 1).await;

    // Who is to be cut off, is.
    let mut settings = muster.json("/api/v5/authorization/settings").await;
    settings["deny_action"] = "disconnect".into();
    settings["no_match"] = "deny".into();
    let (status, answer) = muster.send("PUT", "/api/v5/authorization/settings", settings).await;
    assert_eq!((status, &answer["no_match"]), (200, &json!("deny")), "{answer}");
    let packet = publish(Version::V5, "a/b", b"5", 1, false, 9);
    device.send(&packet).await.expect("sent");
    let last = device.until_closed().await;
    assert_eq!(last.last().map(|it| (it.kind(), it.reason())), Some((14, 135)), "DISCONNECT, not authorized");
    muster.kill().await;
    let log = home.log().await;
    let published: Vec<_> = log.publishes().map(|(_, it)| String::from_utf8_lossy(it).into_owned()).collect();
    assert_eq!(published, ["1", "2", "3", "4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_dialect_has_permissions_too() {
    let home = Home::new();
    let muster = home.start().await;
    let rules = json!([
        {"clientid": "d", "topic": "a/#", "action": "pub", "access": "deny"},
        {"topic": "b", "action": "pubsub", "access": "deny"},
    ]);
    let (status, answer) = muster.send("POST", "/api/v4/acl", rules).await;
    assert_eq!((status, &answer["code"]), (200, &json!(0)), "{answer}");
    let mut device = Client::connect(muster.mqtt, Version::V5, "d").await;
    // To subscribe is not forbidden; to another topic than it publishes to, so that nothing comes in between.
    assert_eq!(device.subscribe("a/2", 0).await, 0);
    assert_eq!(device.subscribe("b", 0).await, 135);
    assert_eq!(answered(&mut device, "a/1", "denied").await, 135);
    let found = muster.json("/api/v4/acl/clientid/d").await;
    assert_eq!((&found["code"], found["data"].as_array().map(Vec::len)), (&json!(0), Some(1)), "{found}");
    assert_eq!(muster.send("DELETE", "/api/v4/acl/clientid/d/topic/a%2F%23", Value::Null).await.1["code"], 0);
    device.publish_all("a/1", [Bytes::from("allowed")], 1).await;
    // The other orders of the dialect, on the same client.
    let order = json!({"clientid": "d", "topics": "x/1,x/2", "qos": 1});
    assert_eq!(muster.send("POST", "/api/v4/mqtt/subscribe", order).await.1, json!({"code": 0}));
    let held = muster.json("/api/v4/subscriptions/d").await;
    assert_eq!(held["data"].as_array().map(Vec::len), Some(3), "{held}");
    let batch = json!([{"clientid": "d", "topic": "x/1"}, {"clientid": "nobody", "topic": "x/1"}]);
    let (_, answer) = muster.send("POST", "/api/v4/mqtt/unsubscribe_batch", batch).await;
    assert_eq!(
        (&answer["data"][0]["code"], &answer["data"][1]["code"]),
        (&json!(0), &json!(112)),
        "{answer}"
    );
    let one = muster.json("/api/v4/clients/d").await;
    assert_eq!(
        (&one["data"][0]["clientid"], one["data"][0]["max_inflight"].is_u64()),
        (&json!("d"), true),
        "{one}"
    );
    assert_eq!(muster.json("/api/v4/clients/nobody").await["data"], json!([]));
    assert_eq!(muster.send("DELETE", "/api/v4/clients/d", Value::Null).await.1["code"], 0);
    assert_eq!(muster.send("DELETE", "/api/v4/clients/d", Value::Null).await.1["code"], 112);
    muster.kill().await;
    let log = home.log().await;
    let published: Vec<_> = log.publishes().map(|(_, it)| String::from_utf8_lossy(it).into_owned()).collect();
    assert_eq!(published, ["allowed"]);
}
