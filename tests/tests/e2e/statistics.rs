//! Numbers: what clients did is what is told, and it is still told after a stop and after a crash.

use std::time::Duration;

use muster_tests::mqtt::{Client, Version};
use muster_tests::{Home, Muster, exposition, need, tools, until};
use serde_json::{Value, json};

const METRICS: &str = "/api/v5/metrics?aggregate=true";
const TOPICS: &str = "/api/v5/mqtt/topic_metrics";

/// Longer than two looks of the sampler.
const TWO_SAMPLES: Duration = Duration::from_secs(60);

fn assert_numbers(all: &Value, expected: &[(&str, u64)]) {
    for (name, value) in expected {
        assert_eq!(all[name], *value, "{name}: {all}");
    }
}

/// One subscriber that gets three messages of five, for the `times`th time since the log began.
async fn traffic(muster: &Muster, times: u64) {
    let mut subscriber = Client::connect(muster.mqtt, Version::V5, "subscriber").await;
    assert_eq!(subscriber.subscribe("wanted/+", 1).await, 1);
    let mut publisher = Client::connect(muster.mqtt, Version::V5, "publisher").await;
    // A peak is one that somebody saw.
    muster.json("/api/v5/stats").await;
    for (topic, qos) in [("wanted/a", 0), ("wanted/a", 1), ("wanted/b", 2), ("other", 1), ("other", 2)] {
        publisher.publish(topic, b"x", qos, false).await;
    }
    for _ in 0..3 {
        subscriber.receive().await.expect("a packet").expect("a message");
    }
    publisher.disconnect().await;
    // Its place is taken: the later one does not go on with the session.
    drop(Client::connect(muster.mqtt, Version::V5, "subscriber").await);
    until("all are gone", Duration::from_secs(20), async || {
        (muster.json(METRICS).await["client.disconnected"] == 3 * times).then_some(())
    })
    .await;
}

/// What [`traffic`] comes to in the log, `times` times.
fn of_log(times: u64) -> Vec<(&'static str, u64)> {
    [
        ("messages.publish", 5),
        ("messages.persisted", 5),
        ("messages.received", 5),
        ("messages.qos0.received", 1),
        ("messages.qos1.received", 2),
        ("messages.qos2.received", 2),
        ("client.connack", 3),
        ("client.connected", 3),
        ("client.disconnected", 3),
        ("client.authenticate", 3),
        ("client.subscribe", 1),
    ]
    .map(|(name, count)| (name, count * times))
    .to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_survive_a_stop_and_those_of_the_log_a_crash() {
    let home = Home::with_rules("");
    let muster = home.start().await;
    traffic(&muster, 1).await;
    let all = muster.json(METRICS).await;
    assert_numbers(&all, &of_log(1));
    let beside = [
        ("messages.sent", 3),
        ("messages.dropped.no_subscribers", 2),
        ("authorization.allow", 6),
        ("packets.connect.received", 3),
        ("packets.connack.sent", 3),
        ("packets.publish.received", 5),
        ("packets.publish.sent", 3),
        ("packets.subscribe.received", 1),
        ("packets.suback.sent", 1),
        ("session.created", 3),
    ];
    assert_numbers(&all, &beside);
    let peak = muster.json("/api/v5/stats?aggregate=true").await["connections.max"].clone();
    assert_eq!(peak, 2);
    muster.stop().await;

    let muster = home.start().await;
    let again = muster.json(METRICS).await;
    assert_numbers(&again, &of_log(1));
    assert_numbers(&again, &beside);
    assert_eq!(muster.json("/api/v5/stats?aggregate=true").await["connections.max"], peak);
    traffic(&muster, 2).await;
    muster.kill().await;

    let muster = home.start().await;
    assert_numbers(&muster.json(METRICS).await, &of_log(2));
    let of_node = muster.json("/api/v5/metrics").await[0].clone();
    let node = of_node["node"].as_str().expect("a name");
    assert_numbers(&muster.json(&format!("/api/v5/nodes/{node}/metrics")).await, &of_log(2));
    assert_eq!(muster.get("/api/v5/nodes/nobody@nowhere/metrics").await.0, 404);
    let v4 = muster.json("/api/v4/metrics").await;
    assert_eq!((&v4["code"], &v4["data"][0]["metrics"]["messages.publish"]), (&json!(0), &json!(10)));
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_is_counted() {
    let publisher = need!("mosquitto_pub");
    let home = Home::with_rules("");
    let muster = home.start().await;
    for qos in ["0", "1", "2", "2"] {
        tools::run(tools::mosquitto(&publisher, muster.mqtt).args(["-q", qos, "-t", "t", "-m", "x"])).await;
    }
    let all = until("four were counted", Duration::from_secs(20), async || {
        let all = muster.json(METRICS).await;
        (all["client.disconnected"] == 4).then_some(all)
    })
    .await;
    let expected = [
        ("messages.qos0.received", 1),
        ("messages.qos1.received", 1),
        ("messages.qos2.received", 2),
        ("packets.puback.sent", 1),
        ("packets.pubrec.sent", 2),
        ("packets.pubrel.received", 2),
        ("packets.pubcomp.sent", 2),
        ("packets.disconnect.received", 4),
        ("client.connected", 4),
    ];
    assert_numbers(&all, &expected);
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_counted_one_by_one() {
    let home = Home::with_rules("");
    let muster = home.start().await;
    let mut device = Client::connect(muster.mqtt, Version::V4, "device").await;
    device.publish("a/b", b"before", 1, false).await;
    let topic = json!({"topic": "a/b"});
    assert_eq!(muster.send("POST", TOPICS, topic.clone()).await, (200, topic.clone()));
    let (status, refused) = muster.send("POST", TOPICS, topic).await;
    assert_eq!((status, &refused["code"]), (400, &json!("BAD_TOPIC")));
    assert_eq!(muster.send("POST", TOPICS, json!({"topic": "a/#"})).await.0, 400);
    assert_eq!(muster.send("POST", TOPICS, json!({"topic": 1})).await.0, 400);
    for qos in [0, 1, 2, 2] {
        device.publish("a/b", b"x", qos, false).await;
    }
    device.publish("a/c", b"x", 1, false).await;
    let counted = [
        ("messages.in.count", 4),
        ("messages.qos0.in.count", 1),
        ("messages.qos1.in.count", 1),
        ("messages.qos2.in.count", 2),
    ];
    let one = format!("{TOPICS}/a%2Fb");
    assert_numbers(&muster.json(&one).await["metrics"], &counted);
    muster.kill().await;

    let muster = home.start().await;
    assert_numbers(&muster.json(TOPICS).await[0]["metrics"], &counted);
    assert_eq!(muster.send("PUT", TOPICS, json!({"action": "reset", "topic": "a/b"})).await.0, 204);
    let reset = muster.json(&one).await;
    assert!(reset["reset_time"].is_string(), "{reset}");
    assert_numbers(&reset["metrics"], &[("messages.in.count", 0)]);
    assert_eq!(muster.send("DELETE", &one, json!({})).await.0, 204);
    assert_eq!(muster.get(&one).await.0, 404);
    assert_eq!(muster.send("DELETE", &one, json!({})).await.0, 404);
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_come_and_stay() {
    let home = Home::with_rules("");
    let muster = home.start().await;
    traffic(&muster, 1).await;
    let received = |samples: &Value| -> u64 {
        let samples = samples.as_array().expect("a list");
        samples.iter().map(|it| it["received"].as_u64().expect("a number")).sum()
    };
    until("a sample", TWO_SAMPLES, async || {
        (received(&muster.json("/api/v5/monitor").await) == 5).then_some(())
    })
    .await;
    let now = muster.json("/api/v5/monitor_current").await;
    assert!(now["received_msg_rate"].is_f64() && now["connections"] == 0, "{now}");
    assert_eq!(muster.get("/api/v5/monitor?latest=0").await.0, 400);
    muster.stop().await;

    let muster = home.start().await;
    assert_eq!(received(&muster.json("/api/v5/monitor").await), 5);
    assert_eq!(muster.send("DELETE", "/api/v5/monitor", json!({})).await.0, 204);
    assert_eq!(muster.json("/api/v5/monitor").await, json!([]));
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_gets_the_names_of_the_reference() {
    let home = Home::with_rules("");
    let muster = home.start().await;
    traffic(&muster, 1).await;
    let (status, text) = muster.get("/api/v5/prometheus/stats").await;
    assert_eq!(status, 200);
    // Counters of the reference do not end in `_total`; all else is checked.
    let renamed = with_total(&text);
    let samples = exposition::parse(&renamed).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(samples.get("emqx_messages_publish_total"), Some(&5.0), "{text}");
    assert_eq!(samples.get("emqx_connections_count"), Some(&0.0), "{text}");
    muster.stop().await;
}

/// The text as it would be if each counter's name ended as ours do.
fn with_total(text: &str) -> String {
    let kind = |line: &str| line.strip_prefix("# TYPE ")?.strip_suffix(" counter").map(str::to_owned);
    let counters: std::collections::BTreeSet<_> = text.lines().filter_map(kind).collect();
    let line = |line: &str| {
        let words = line
            .split(' ')
            .map(|word| if counters.contains(word) { format!("{word}_total") } else { word.to_owned() });
        words.collect::<Vec<_>>().join(" ") + "\n"
    };
    text.lines().map(line).collect()
}
