//! REPUBLISH: rows that become messages, seen by foreign clients and by other rules; once each, whatever is killed.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use muster_core::event::{Event, EventKind, proto};
use muster_tests::mqtt::{Client, VERSIONS, Version};
use muster_tests::paho::Paho;
use muster_tests::{Home, Muster, PATIENCE, long, need, seed, tools, until};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use tokio::task::JoinSet;

use crate::common::{pipeline, publish, until_delivered};

#[tokio::test(flavor = "multi_thread")]
async fn rows_reach_subscribers_and_other_rules() {
    let publisher = need!("mosquitto_pub");
    let subscriber = need!("mosquitto_sub");
    let home = Home::with_rules(
        "CREATE RULE hot INTO sqlite.hot, REPUBLISH TO 'alerts/${clientid}' WITH (qos = 1, retain = true),\n\
         REPUBLISH TO 'raw/${clientid}' WITH (payload = '${raw}', direct_dispatch = true) AS\n\
         SELECT clientid, payload.temp AS temp, payload AS raw, 0 AS qos FROM \"sensors/+/up\"\n\
         WHERE payload.temp > 40;\n\
         CREATE RULE seen INTO sqlite.seen AS\n\
         SELECT clientid, username, topic, payload.temp AS temp, qos, flags.retain AS retain\n\
         FROM \"alerts/#\", \"raw/#\";\n",
    );
    let muster = home.start().await;
    let mut command = tools::mosquitto(&subscriber, muster.mqtt);
    command.args([
        "-i",
        "watcher",
        "-t",
        "alerts/#",
        "-t",
        "raw/#",
        "-q",
        "1",
        "-C",
        "4",
        "-F",
        "%t %p %q %r",
    ]);
    let watcher = tools::spawn(command.stdout(Stdio::piped()));
    until("the watcher has subscribed", PATIENCE, async || {
        (muster.json("/api/v5/stats?aggregate=true").await["subscriptions.count"] == 2).then_some(())
    })
    .await;
    publish(&publisher, &muster, "boiler", "sensors/boiler/up", r#"{"temp": 72.5}"#).await;
    publish(&publisher, &muster, "boiler", "sensors/boiler/up", r#"{"temp": 7}"#).await;
    publish(&publisher, &muster, "kettle", "sensors/kettle/up", r#"{"temp": 99}"#).await;

    let mut lines: Vec<_> = tools::output(watcher).await.lines().map(str::to_owned).collect();
    // Two pipelines do not wait for each other.
    lines.sort_unstable();
    let row = |client: &str, temp: &str| {
        format!(r#"{{"clientid":"{client}","temp":{temp},"raw":"{{\"temp\": {temp}}}","qos":0}}"#)
    };
    let expected = [
        format!("alerts/boiler {} 1 0", row("boiler", "72.5")),
        format!("alerts/kettle {} 1 0", row("kettle", "99")),
        r#"raw/boiler {"temp": 72.5} 0 0"#.to_owned(),
        r#"raw/kettle {"temp": 99} 0 0"#.to_owned(),
    ];
    assert_eq!(lines, expected);

    // Whoever comes later gets what is retained, also after a restart.
    muster.stop().await;
    let muster = home.start().await;
    let mut command = tools::mosquitto(&subscriber, muster.mqtt);
    command.args(["-i", "late", "-t", "alerts/boiler", "-q", "1", "-C", "1", "-F", "%t %p %q %r"]);
    let late = tools::output(tools::spawn(command.stdout(Stdio::piped()))).await;
    assert_eq!(late.trim(), format!("alerts/boiler {} 1 1", row("boiler", "72.5")));

    // Other rules see the message, from the rule; what is for subscribers only they do not.
    let columns = "clientid, coalesce(username, '-'), topic, temp, qos, retain";
    let seen = home.until_lines(&format!("SELECT {columns} FROM seen ORDER BY topic"), 2).await;
    assert_eq!(seen, ["hot|-|alerts/boiler|72.5|1|1", "hot|-|alerts/kettle|99|1|1"]);
    until_delivered(&muster, "hot", "republish", 2).await;
    until_delivered(&muster, "hot", "sqlite", 2).await;
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_of_mqtt_5_go_with_the_message() {
    let publisher = need!("mosquitto_pub");
    let python = need!("paho");
    let home = Home::with_rules(
        "CREATE RULE forward REPUBLISH TO 'out' WITH (payload = '${payload}',\n\
         user_properties = '${pub_props.User-Property}', user_properties.via = 'forward',\n\
         mqtt_properties.content_type = 'text/plain', mqtt_properties.\"Response-Topic\" = 're/${clientid}') AS\n\
         SELECT clientid, payload, 1 AS qos FROM \"in\";\n",
    );
    let muster = home.start().await;
    let (mut paho, _) =
        Paho::connect(&python, muster.mqtt, json!({"clientid": "watcher", "version": 5})).await;
    paho.order(json!({"do": "subscribe", "topics": ["out"], "qos": 2})).await;
    paho.event("subscribed").await;
    let mut command = tools::mosquitto(&publisher, muster.mqtt);
    command.args(["-V", "5", "-q", "1", "-i", "p", "-t", "in", "-m", "x"]);
    tools::run(command.args(["-D", "PUBLISH", "user-property", "a", "1"])).await;
    let message = paho.event("message").await;
    assert_eq!(
        (&message["topic"], &message["payload"], &message["qos"]),
        (&json!("out"), &json!("x"), &json!(1))
    );
    let expected = json!({
        "UserProperty": [["a", "1"], ["via", "forward"]],
        "ContentType": "text/plain",
        "ResponseTopic": "re/p",
    });
    assert_eq!(message["properties"], expected);
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_gives_no_message_dies_alone_and_circles_end() {
    let publisher = need!("mosquitto_pub");
    let home = Home::with_rules(
        "CREATE RULE wild REPUBLISH TO '${payload.to}' WITH (payload = '${payload}') AS\n\
         SELECT payload FROM \"in\";\n\
         CREATE RULE ping REPUBLISH TO '${to}' WITH (payload = '${payload}') AS\n\
         SELECT 'pong/a' AS to, payload FROM \"ping/+\";\n\
         CREATE RULE pong REPUBLISH TO '${to}' WITH (payload = '${payload}') AS\n\
         SELECT 'ping/a' AS to, payload FROM \"pong/+\";\n\
         CREATE RULE own REPUBLISH TO 'own/${x}' AS SELECT 1 AS x FROM \"own/#\";\n",
    );
    let muster = home.start().await;
    for to in ["", "$SYS/x", "good"] {
        publish(&publisher, &muster, "p", "in", &format!("{{\"to\": \"{to}\"}}")).await;
    }
    let settled = async |rule: &str, delivered: u64, dead: u64| {
        let what = format!("{rule} settles {delivered} and {dead}");
        until(&what, PATIENCE, async || {
            let it = pipeline(&muster, rule, "republish").await;
            (it["delivered"] == delivered && it["dead"] == dead && it["pending"] == 0).then_some(it)
        })
        .await
    };
    let wild = settled("wild", 1, 2).await;
    assert!(wild["last_error"].as_str().is_some_and(|text| text.contains("$SYS/")), "{wild}");

    // The static look cannot see this circle; a counter ends it, and says so.
    publish(&publisher, &muster, "p", "ping/start", "x").await;
    let ping = settled("ping", 8, 1).await;
    assert!(ping["last_error"].as_str().is_some_and(|text| text.contains("circle")), "{ping}");
    settled("pong", 8, 0).await;
    // A rule does not republish what it republished.
    publish(&publisher, &muster, "p", "own/start", "x").await;
    settled("own", 1, 0).await;
    muster.stop().await;
    let log = home.log().await;
    assert_eq!(log.publishes().filter(|(topic, _)| topic.starts_with("own/")).count(), 2);
}

/// The row that a republished message was made of.
fn made_of(event: &Event) -> Option<(&str, proto::Republication)> {
    let message = event.body.message.as_ref()?;
    Some((message.republished_by.as_str(), message.republication?))
}

/// Whatever the moment of the kill, each message gives one republished one, the next rule sees it once, and the
/// messages of one client keep their order.
#[tokio::test(flavor = "multi_thread")]
async fn kills_at_random_moments_neither_lose_nor_double_a_republished_row() {
    const PUBLISHERS: usize = 4;
    let mut random = StdRng::seed_from_u64(seed());
    let rounds = if long() { 40 } else { 6 };
    let home = Home::with_rules(
        "CREATE RULE again REPUBLISH TO 'again/${clientid}' WITH (qos = 1) AS\n\
         SELECT clientid, payload.n AS n FROM \"sensors/+/up\";\n\
         CREATE RULE kept INTO sqlite.kept AS SELECT topic, payload.n AS n FROM \"again/#\";\n",
    );
    let mut sent = [0; PUBLISHERS];
    // How often a kill came between messages and the cursor's commit.
    let mut between = 0;
    let mut kill = async |muster: Muster| {
        between += usize::from(muster.output().iter().any(|line| line.contains("were republished already")));
        muster.kill().await;
    };
    for round in 0..rounds {
        let muster = home.start().await;
        let acks = Arc::new(AtomicUsize::new(0));
        let mut publishers = JoinSet::new();
        for (number, first) in sent.iter().copied().enumerate() {
            let (broker, acks, window) = (muster.mqtt, Arc::clone(&acks), random.random_range(1..50));
            publishers.spawn(async move {
                let mut client = Client::connect(broker, VERSIONS[number % 2], &format!("p{number}")).await;
                let payloads = (first..).map(|n: usize| Bytes::from(format!("{{\"n\":{n}}}")));
                let count = &mut |_| {
                    acks.fetch_add(1, Ordering::Relaxed);
                };
                let topic = format!("sensors/p{number}/up");
                (number, client.publish_timed(&topic, payloads, window, count).await)
            });
        }
        let kill_at = random.random_range(1..3_000);
        until("enough acks for a kill", PATIENCE, async || {
            (acks.load(Ordering::Relaxed) >= kill_at).then_some(())
        })
        .await;
        kill(muster).await;
        while let Some(done) = publishers.join_next().await {
            let (number, progress) = done.expect("a publisher");
            sent[number] += progress.sent;
        }
        eprintln!("round {round}: killed after {kill_at} acks");
        // Also while it catches up with what was published and not republished.
        for _ in 0..random.random_range(0..3) {
            let muster = home.start().await;
            kill(muster).await;
        }
    }
    let muster = home.start().await;
    let mut client = Client::connect(muster.mqtt, Version::V5, "last").await;
    client.publish("sensors/last/up", br#"{"n":0}"#, 1, false).await;
    home.until_lines("SELECT n FROM kept WHERE topic = 'again/last'", 1).await;
    let again = pipeline(&muster, "again", "republish").await;
    muster.stop().await;

    let log = home.log().await;
    let mut sources = BTreeMap::new();
    let mut republished = BTreeMap::new();
    for event in log.of(EventKind::MessagePublish) {
        if event.topic.starts_with("sensors/") {
            sources.insert(event.offset, event.clientid().to_owned());
        } else if let Some((rule, made_of)) = made_of(event) {
            assert_eq!((rule, made_of.row, made_of.target, made_of.depth), ("again", 0, 0, 1));
            let twice = republished.insert(made_of.offset, event.offset);
            assert_eq!(twice, None, "the row of {} was published twice", made_of.offset);
        }
    }
    assert!(sources.keys().eq(republished.keys()), "each publish gives one message, nothing else does");
    assert!(republished.values().is_sorted(), "in the order of what they are made of");
    assert_eq!(again["delivered"], sources.len());
    let kept = home.lines("SELECT count(*), count(DISTINCT topic || n) FROM kept");
    assert_eq!(kept, [format!("{0}|{0}", sources.len())]);
    eprintln!("{} messages republished; {between} kills came before a commit", sources.len());
}
