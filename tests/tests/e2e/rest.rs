//! REST and metrics, as management clients and scrapers see them.

use muster_tests::mqtt::{Client, Connect, Version};
use muster_tests::{Home, exposition};
use serde_json::json;

use crate::common::{HISTORY, TELEMETRY, pipeline, until_delivered, until_history};

#[tokio::test(flavor = "multi_thread")]
async fn status_clients_and_stats() {
    let home = Home::with_rules(HISTORY);
    let muster = home.start().await;
    let (status, body) = muster.get("/status").await;
    assert_eq!(status, 200);
    assert!(body.contains("is running"), "{body}");
    assert_eq!(muster.json("/status?format=json").await["app_status"], "running");

    let connect =
        Connect { keep_alive: 30, username: Some("ann".into()), ..Connect::new(Version::V5, "a/b+c#") };
    let (mut device, _, _) = Client::greet(muster.mqtt, &connect).await.expect("a connection");
    let _other = Client::connect(muster.mqtt, Version::V4, "other").await;
    device.subscribe("t/#", 1).await;

    let clients = muster.json("/api/v5/clients").await;
    assert_eq!(clients["meta"]["count"], 2, "{clients}");
    let found = |id: &str| {
        clients["data"].as_array().expect("a list").iter().find(|it| it["clientid"] == id).cloned()
    };
    let device_row = found("a/b+c#").expect("the device");
    for (field, value) in [
        ("username", json!("ann")),
        ("connected", json!(true)),
        ("proto_ver", json!(5)),
        ("keepalive", json!(30)),
        ("clean_start", json!(true)),
        ("ip_address", json!("127.0.0.1")),
        ("subscriptions_cnt", json!(1)),
    ] {
        assert_eq!(device_row[field], value, "{field}: {device_row}");
    }
    assert!(found("other").is_some());
    let page = muster.json("/api/v5/clients?limit=1&page=2").await;
    assert_eq!(page["data"].as_array().map(Vec::len), Some(1), "{page}");

    let stats = muster.json("/api/v5/stats").await;
    let stats = if stats.is_array() { stats[0].clone() } else { stats };
    assert_eq!(
        (&stats["connections.count"], &stats["subscriptions.count"]),
        (&json!(2), &json!(1)),
        "{stats}"
    );

    device.disconnect().await;
    until_history(&home, "a/b+c#", &["connected", "disconnected normal"]).await;
    assert_eq!(muster.json("/api/v5/clients").await["meta"]["count"], 1);

    assert_eq!(muster.get("/api/v5/nothing").await.0, 404);
    let (status, body) = muster.get("/api/v5/clients?limit=none").await;
    assert_eq!(status, 400);
    assert!(
        serde_json::from_str::<serde_json::Value>(&body).is_ok_and(|it| it["code"].is_string()),
        "{body}"
    );
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_and_metrics_tell_the_same_story() {
    let home = Home::with_rules(&format!("{TELEMETRY}{HISTORY}"));
    let muster = home.start().await;
    let mut device = Client::connect(muster.mqtt, Version::V5, "device").await;
    for n in 0..7 {
        device.publish("sensors/a/up", format!("{{\"n\":{n}}}").as_bytes(), 1, false).await;
    }
    device.publish("elsewhere", b"x", 1, false).await;
    until_delivered(&muster, "telemetry", "sqlite", 7).await;
    let it = pipeline(&muster, "telemetry", "sqlite").await;
    assert_eq!(
        (&it["matched"], &it["dead"], &it["target"]),
        (&json!(7), &json!(0), &json!("telemetry")),
        "{it}"
    );
    assert!(it["cursor"].is_u64() && it["lag_events"].is_u64(), "{it}");
    until_delivered(&muster, "history", "sqlite", 1).await;

    let (status, text) = muster.get("/metrics").await;
    assert_eq!(status, 200);
    let samples = exposition::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let sum = |family: &str, label: &str| -> f64 {
        let of = samples
            .iter()
            .filter(|(series, _)| series.split('{').next() == Some(family) && series.contains(label));
        of.map(|(_, value)| *value).sum()
    };
    assert_eq!(sum("muster_mqtt_connections", ""), 1.0);
    assert_eq!(sum("muster_mqtt_published_messages_total", ""), 8.0);
    assert_eq!(sum("muster_pipeline_matched_rows_total", "rule=\"telemetry\""), 7.0);
    assert!(!text.contains("clientid"), "no label without bound:\n{text}");
    muster.stop().await;
}
