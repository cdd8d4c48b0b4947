//! Ctrl-C: devices are told, everything is put in order, quickly.

use std::time::Duration;

use bytes::Bytes;
use muster_tests::mqtt::{Client, Version, kind};
use muster_tests::paho::Paho;
use muster_tests::{Home, need};
use serde_json::json;

use crate::common::{HISTORY, TELEMETRY, history};

/// MQTT 5: server shutting down.
const SERVER_SHUTTING_DOWN: u8 = 0x8B;
const STOP_TIME_MAX: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_tells_clients_commits_sinks_and_leaves_a_clean_log() {
    const MESSAGES: usize = 5_000;
    let home = Home::with_rules(&format!("{TELEMETRY}{HISTORY}"));
    let muster = home.start().await;
    let mut v5 = Client::connect(muster.mqtt, Version::V5, "five").await;
    let mut v4 = Client::connect(muster.mqtt, Version::V4, "four").await;
    let mut publisher = Client::connect(muster.mqtt, Version::V5, "publisher").await;
    let payloads = (0..MESSAGES).map(|n| Bytes::from(format!("{{\"n\":{n}}}")));
    let progress = publisher.publish_all("sensors/a/up", payloads, 100).await;
    assert_eq!(progress.acked, MESSAGES);

    let (status, output, took) = muster.interrupt().await;
    assert!(status.success(), "{status}:\n{}", output.join("\n"));
    assert!(took < STOP_TIME_MAX, "{took:?}");
    for client in [&mut v5, &mut publisher] {
        let goodbye = client.until_closed().await;
        assert_eq!(goodbye.len(), 1, "{goodbye:?}");
        assert_eq!((goodbye[0].kind(), goodbye[0].reason()), (kind::DISCONNECT, SERVER_SHUTTING_DOWN));
    }
    assert_eq!(v4.until_closed().await, [], "3.1.1 has no DISCONNECT from a server");

    assert_eq!(
        home.lines("SELECT count(*), count(DISTINCT n) FROM telemetry"),
        [format!("{MESSAGES}|{MESSAGES}")]
    );
    for client_id in ["five", "four", "publisher"] {
        assert_eq!(history(&home, client_id), ["connected", "disconnected server_shutting_down"]);
    }
    let log = home.log().await;
    assert!(log.report.clean && log.report.torn_tail.is_none(), "{:?}", log.report);

    // Nobody was left open: the next start adds nothing about them.
    let muster = home.start().await;
    let _other = Client::connect(muster.mqtt, Version::V4, "other").await;
    crate::common::until_history(&home, "other", &["connected"]).await;
    assert_eq!(home.lines("SELECT count(*) FROM history WHERE reason = 'server_restart'"), ["0"]);
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paho_is_told_by_the_server() {
    let python = need!("paho");
    let home = Home::new();
    let muster = home.start().await;
    let options = json!({"clientid": "paho", "version": 5});
    let (mut paho, _) = Paho::connect(&python, muster.mqtt, options).await;
    muster.stop().await;
    let disconnected = paho.event("disconnected").await;
    // Its reason is not asked for: paho reads one only where properties follow it.
    assert_eq!(disconnected["by_server"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_under_load_is_quick_and_keeps_what_was_acknowledged() {
    let home = Home::with_rules(TELEMETRY);
    let muster = home.start().await;
    let mut publisher = Client::connect(muster.mqtt, Version::V5, "publisher").await;
    let (first, started) = tokio::sync::oneshot::channel();
    let mut first = Some(first);
    let publishing = tokio::spawn(async move {
        let payloads = (0..).map(|n| Bytes::from(format!("{{\"n\":{n}}}")));
        let on_ack = &mut |_| {
            first.take().map(|first| first.send(()));
        };
        publisher.publish_timed("sensors/a/up", payloads, 100, on_ack).await.acked
    });
    started.await.expect("an ack");
    let (status, _, took) = muster.interrupt().await;
    assert!(status.success() && took < STOP_TIME_MAX, "{status} {took:?}");
    let acked = publishing.await.expect("the publisher");
    let muster = home.start().await;
    let mut client = Client::connect(muster.mqtt, Version::V4, "last").await;
    client.publish("sensors/last/up", br#"{"n":-1}"#, 1, false).await;
    home.until_lines("SELECT n FROM telemetry WHERE n = -1", 1).await;
    let rows = home.lines("SELECT n FROM telemetry WHERE n >= 0 ORDER BY _event_id");
    assert!(rows.len() >= acked, "{} rows, {acked} acknowledged", rows.len());
    assert!(rows.iter().enumerate().all(|(n, row)| *row == n.to_string()), "once each and in order");
    muster.stop().await;
}
