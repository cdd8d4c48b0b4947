//! Messages from operators: every answer of `/publish`, what subscribers and rules see, ten thousand in one request, a
//! kill in between, and messages that are kept.

use muster_tests::mqtt::{Client, Version};
use muster_tests::paho::Paho;
use muster_tests::{Home, Muster, need, tools, until};
use serde_json::{Value, json};

use crate::common::until_delivered;

const RULE: &str = "CREATE RULE seen INTO sqlite.seen AS SELECT topic, payload, clientid, qos FROM \"#\";\n";

async fn subscribed(muster: &Muster, filter: &str) -> Client {
    let mut client = Client::connect(muster.mqtt, Version::V5, "watcher").await;
    client.subscribe(filter, 1).await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_has_its_status() {
    let home = Home::with_rules(RULE);
    let muster = home.start().await;
    let _watcher = subscribed(&muster, "heard/#").await;
    let refused = |code: u8, message: &str| json!({"reason_code": code, "message": message});
    let cases = [
        (json!({"topic": "unheard", "payload": "1"}), 202, refused(16, "no_matching_subscribers")),
        (json!({"topic": "heard/+", "payload": "1"}), 400, refused(144, "topic_name_invalid")),
        (json!({"topic": "", "payload": "1"}), 400, refused(144, "topic_name_invalid")),
        (json!({"topic": "$SYS/a", "payload": "1"}), 400, refused(144, "topic_name_invalid")),
        (
            json!({"topic": "heard/a", "payload": "*", "payload_encoding": "base64"}),
            400,
            refused(131, "the payload is no Base64"),
        ),
        (
            json!({"topic": "heard/a", "payload": "x".repeat(1 << 20)}),
            413,
            json!({"code": "EXCEED_LIMIT", "message": "length limit exceeded"}),
        ),
    ];
    for (message, status, body) in cases {
        let (found, answer) = muster.send("POST", "/api/v5/publish", message.clone()).await;
        let shown: String = message.to_string().chars().take(100).collect();
        assert_eq!((found, &answer["reason_code"]), (status, &body["reason_code"]), "{shown}");
        assert_eq!(answer["code"], body["code"], "{shown}");
    }
    for wrong in
        [json!({"payload": "1"}), json!({"topic": 7, "payload": "1"}), json!([]), json!({"topic": "a"})]
    {
        let (status, answer) = muster.send("POST", "/api/v5/publish", wrong.clone()).await;
        assert_eq!((status, &answer["code"]), (400, &json!("BAD_REQUEST")), "{wrong}");
    }
    let (status, answer) =
        muster.send("POST", "/api/v5/publish", json!({"topic": "heard/a", "payload": "1"})).await;
    assert_eq!((status, answer["id"].as_str().map(str::len)), (200, Some(32)), "{answer}");

    // Of many, all are looked at before the first is published.
    let good = json!({"topic": "heard/b", "payload": "2"});
    let bulk = async |messages: Value| muster.send("POST", "/api/v5/publish/bulk", messages).await;
    let (status, answer) = bulk(json!([good, {"topic": "#", "payload": ""}])).await;
    assert_eq!((status, &answer["reason_code"]), (400, &json!(144)));
    let (status, answer) = bulk(json!([good, {"topic": "unheard", "payload": "3"}])).await;
    assert_eq!((status, answer[0]["id"].is_string(), &answer[1]["reason_code"]), (202, true, &json!(16)));
    assert_eq!(bulk(json!([good, good])).await.0, 200);
    until_delivered(&muster, "seen", "sqlite", 6).await;
    let topics = home.until_lines("SELECT topic FROM seen ORDER BY _event_id", 6).await;
    assert_eq!(topics, ["unheard", "heard/a", "heard/b", "unheard", "heard/b", "heard/b"]);
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_client_gets_bytes_and_properties() {
    let python = need!("paho");
    let home = Home::new();
    let muster = home.start().await;
    let (mut paho, _) = Paho::connect(&python, muster.mqtt, json!({"clientid": "p", "version": 5})).await;
    paho.order(json!({"do": "subscribe", "topics": ["commands/#"], "qos": 2})).await;
    paho.event("subscribed").await;
    let message = json!({
        "topic": "commands/7", "payload": "AAEC/w==", "payload_encoding": "base64", "qos": 2, "clientid": "console",
        "properties": {"user_properties": {"by": "me"}, "content_type": "x/y", "message_expiry_interval": 60},
    });
    assert_eq!(muster.send("POST", "/api/v5/publish", message).await.0, 200);
    let got = paho.event("message").await;
    assert_eq!((&got["topic"], &got["qos"]), (&json!("commands/7"), &json!(2)), "{got}");
    // The older dialect, by another way.
    let older = json!({"topics": "commands/1, commands/2", "payload": "go", "qos": 1});
    let (status, answer) = muster.send("POST", "/api/v4/mqtt/publish", older).await;
    assert_eq!((status, answer), (200, json!({"code": 0})));
    assert_eq!(paho.event("message").await["topic"], "commands/1");
    assert_eq!(paho.event("message").await["topic"], "commands/2");
    let batch =
        json!([{"topic": "commands/3", "payload": "x"}, {"topic": "+", "payload": "x"}, {"payload": "x"}]);
    let (_, answer) = muster.send("POST", "/api/v4/mqtt/publish_batch", batch).await;
    let codes: Vec<_> =
        answer["data"].as_array().expect("a list").iter().map(|it| it["code"].clone()).collect();
    assert_eq!(codes, [json!(0), json!(108), json!(107)]);
    paho.vanish().await;
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_in_one_request_survive_a_kill() {
    let home = Home::new();
    let muster = home.start().await;
    let messages: Vec<_> = (0..10_000)
        .map(|n| json!({"topic": "many/a", "payload": format!("{{\"n\":{n}}}"), "qos": 1}))
        .collect();
    let (status, answer) = muster.send("POST", "/api/v5/publish/bulk", json!(messages)).await;
    assert_eq!((status, answer.as_array().map(Vec::len)), (202, Some(10_000)));
    muster.kill().await;
    let log = home.log().await;
    let logged: Vec<_> =
        log.publishes().filter(|(topic, _)| *topic == "many/a").map(|(_, it)| it.to_vec()).collect();
    let sent: Vec<_> = (0..10_000).map(|n| format!("{{\"n\":{n}}}").into_bytes()).collect();
    assert!(logged == sent, "each once and in order: {} of 10,000 in the log", logged.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_kept_are_listed_and_deleted() {
    let subscriber = need!("mosquitto_sub");
    let home = Home::new();
    let muster = home.start().await;
    for topic in ["kept/a", "kept/b", "other"] {
        let message = json!({"topic": topic, "payload": format!("of {topic}"), "qos": 1, "retain": true});
        assert_eq!(muster.send("POST", "/api/v5/publish", message).await.0, 202);
    }
    let list = "/api/v5/mqtt/retainer/messages";
    let page = muster.json(&format!("{list}?topic=kept%2F%23&limit=1")).await;
    assert_eq!((&page["data"][0]["topic"], &page["meta"]["count"]), (&json!("kept/a"), &json!(2)), "{page}");
    let one = muster.json("/api/v5/mqtt/retainer/message/kept%2Fb").await;
    assert_eq!((&one["payload"], &one["qos"]), (&json!("b2Yga2VwdC9i"), &json!(1)));
    let delete = async |path: &str| muster.send("DELETE", path, Value::Null).await.0;
    assert_eq!(delete("/api/v5/mqtt/retainer/message/kept%2Fa").await, 204);
    assert_eq!(delete("/api/v5/mqtt/retainer/message/kept%2Fa").await, 404);
    assert_eq!(muster.get("/api/v5/mqtt/retainer/message/kept%2Fa").await.0, 404);
    // What is deleted is deleted in the log, too: a crash does not bring it back.
    muster.kill().await;
    let muster = home.start().await;
    let mut command = tools::mosquitto(&subscriber, muster.mqtt);
    command.args(["-i", "late", "-t", "#", "-q", "1", "-C", "2", "-F", "%r %t %p"]);
    let output = tools::output(tools::spawn(command.stdout(std::process::Stdio::piped()))).await;
    let mut lines: Vec<_> = output.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["1 kept/b of kept/b", "1 other of other"]);
    assert_eq!(muster.send("DELETE", list, Value::Null).await.0, 204);
    until("none is left", muster_tests::PATIENCE, async || {
        (muster.json(list).await["meta"]["count"] == 0).then_some(())
    })
    .await;
    muster.stop().await;
}
