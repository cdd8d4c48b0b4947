//! Recorded events through a rule once more: into another table, at a pace, over a kill, and without doubling what a
//! target knows.

use bytes::Bytes;
use muster_tests::mqtt::{Client, Version};
use muster_tests::webhook::Webhook;
use muster_tests::{Home, Muster, PATIENCE, until};
use serde_json::{Value, json};

use crate::common::until_delivered;

async fn publish(muster: &Muster, range: std::ops::Range<usize>) {
    let mut client = Client::connect(muster.mqtt, Version::V5, "device").await;
    let count = range.len();
    let payloads = range.map(|n| Bytes::from(format!("{{\"n\":{n}}}")));
    assert_eq!(client.publish_all("sensors/a/up", payloads, 50).await.acked, count);
}

/// What `muster ARGUMENTS` prints about the running platform.
async fn muster(home: &Home, muster: &Muster, arguments: &[&str]) -> String {
    let http = muster.http.to_string();
    let output = home.command(&[arguments, &["--http", &http]].concat()).output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let all = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {all}");
    all
}

async fn until_done(muster: &Muster, id: &Value) -> Value {
    until("the replay is done", PATIENCE, async || {
        let replay = muster.json(&format!("/api/v1/replays/{id}")).await;
        let books = ["delivered", "dead", "pending"].map(|name| replay[name].as_u64().unwrap_or_default());
        let matched = replay["matched"].as_u64().unwrap_or_default();
        assert_eq!(matched, books.iter().sum::<u64>(), "{replay}");
        (replay["state"] == "done").then_some(replay)
    })
    .await
}

const RULES: &str =
    "CREATE RULE telemetry INTO sqlite.telemetry AS SELECT payload.n AS n FROM \"sensors/+/up\";\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_into_the_same_table_doubles_nothing_and_into_another_fills_it() {
    let home = Home::with_rules(RULES);
    let platform = home.start().await;
    publish(&platform, 0..500).await;
    until_delivered(&platform, "telemetry", "sqlite", 500).await;

    let replay = ["replay", "--rule", "telemetry", "--from", "earliest", "--to", "latest"];
    let dry = muster(&home, &platform, &[&replay[..], &["--dry-run"]].concat()).await;
    for part in ["telemetry > sqlite.telemetry: 500 rows", "{\"n\":0}"] {
        assert!(dry.contains(part), "{part} in {dry}");
    }
    assert_eq!(platform.json("/api/v1/replays").await["data"], json!([]));

    let told = muster(&home, &platform, &replay).await;
    assert!(told.contains("telemetry > sqlite.telemetry") && told.contains("done"), "{told}");
    assert_eq!(home.lines("SELECT count(*), count(DISTINCT n) FROM telemetry"), ["500|500"]);

    let other = [&replay[..], &["--into", "sqlite.again"]].concat();
    muster(&home, &platform, &other).await;
    assert_eq!(home.lines("SELECT count(*), count(DISTINCT n) FROM again"), ["500|500"]);
    let all = platform.json("/api/v1/replays").await;
    let books: Vec<_> = all["data"].as_array().unwrap().iter().map(|it| it["delivered"].clone()).collect();
    assert_eq!(books, [500, 500]);
    // The rule's own pipeline knows nothing of it.
    assert_eq!(crate::common::pipeline(&platform, "telemetry", "sqlite").await["delivered"], 500);
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_goes_on_after_a_kill_and_keeps_its_pace() {
    let home = Home::with_rules(RULES);
    let platform = home.start().await;
    publish(&platform, 0..300).await;
    until_delivered(&platform, "telemetry", "sqlite", 300).await;
    let asked = json!({"rule": "telemetry", "into": "sqlite.slow", "from": "earliest", "rate": 100});
    let (status, begun) = platform.send("POST", "/api/v1/replays", asked).await;
    assert_eq!(status, 201, "{begun}");
    let id = begun["data"][0]["id"].clone();
    until("some rows are there", PATIENCE, async || {
        let replay = platform.json(&format!("/api/v1/replays/{id}")).await;
        let delivered = replay["delivered"].as_u64().unwrap_or_default();
        assert!(delivered < 300, "300 rows at 100 a second are not there at once: {replay}");
        (delivered > 0).then_some(())
    })
    .await;
    platform.kill().await;
    let platform = home.start().await;
    let replay = until_done(&platform, &id).await;
    assert_eq!((&replay["matched"], &replay["delivered"]), (&300.into(), &300.into()), "{replay}");
    assert_eq!(home.lines("SELECT count(*), count(DISTINCT n) FROM slow"), ["300|300"]);
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_gets_the_same_ids_and_a_replay_can_be_cancelled() {
    let hook = Webhook::start().await;
    let home = Home::with_rules(&format!(
        "CREATE SINK hook TYPE webhook WITH (url = '{}', lanes = 3);\n\
         CREATE RULE telemetry INTO hook AS SELECT payload.n AS n FROM \"sensors/+/up\";\n",
        hook.url()
    ));
    let platform = home.start().await;
    publish(&platform, 0..50).await;
    until_delivered(&platform, "telemetry", "hook", 50).await;
    let lanes = platform.json("/api/v1/pipelines?lanes=true").await["data"][0].clone();
    assert_eq!((&lanes["lanes"], lanes["lane_status"].as_array().unwrap().len()), (&3.into(), 3), "{lanes}");
    let asked = json!({"rule": "telemetry", "from": "earliest", "to": "latest"});
    let (_, begun) = platform.send("POST", "/api/v1/replays", asked.clone()).await;
    until_done(&platform, &begun["data"][0]["id"]).await;
    let ids: Vec<_> = hook.rows().iter().map(|row| row["n"].clone()).collect();
    assert_eq!(ids.len(), 100, "each came twice");

    let slow = json!({"rule": "telemetry", "from": "earliest", "rate": 1});
    let (_, begun) = platform.send("POST", "/api/v1/replays", slow).await;
    let path = format!("/api/v1/replays/{}", begun["data"][0]["id"]);
    assert_eq!(platform.send("DELETE", &path, Value::Null).await.0, 204);
    assert_eq!(platform.json(&path).await["state"], "cancelled");
    assert_eq!(platform.send("DELETE", &path, Value::Null).await.0, 204);
    assert_eq!(platform.send("GET", &path, Value::Null).await.0, 404);

    for (wrong, part) in [
        (json!({"rule": "nobody", "from": 0}), "no rule `nobody`"),
        (json!({"rule": "telemetry", "into": "nowhere", "from": 0}), "no sink `nowhere`"),
        (json!({"rule": "telemetry", "from": 7, "to": 7}), "no event"),
        (json!({"rule": "telemetry", "from": "soon"}), "from: `soon`"),
        (json!({"rule": "telemetry", "from": 0, "rate": 0}), "rate"),
    ] {
        let (status, answer) = platform.send("POST", "/api/v1/replays", wrong).await;
        assert!(status == 400 && answer["message"].as_str().unwrap().contains(part), "{part}: {answer}");
    }
    platform.stop().await;
}
