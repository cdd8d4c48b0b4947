//! A target that takes nothing is an alarm that rules can carry: told once, over a restart too, and so is its end.

use axum::http::StatusCode;
use bytes::Bytes;
use muster_tests::mqtt::{Client, Version};
use muster_tests::webhook::Webhook;
use muster_tests::{Home, PATIENCE, until};

use crate::common::{pipeline, until_delivered};

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_is_told_once_over_a_restart_and_so_is_its_end() {
    let hook = Webhook::start().await;
    let home = Home::with_rules(&format!(
        "CREATE SINK hook TYPE webhook WITH (url = '{}');\n\
         CREATE RULE telemetry INTO hook AS SELECT payload.n AS n FROM \"sensors/+/up\";\n\
         CREATE RULE alarms INTO sqlite.alarms AS SELECT event, name, details.rule AS rule, message\n\
         FROM \"$events/sys/alarm_activated\", \"$events/sys/alarm_deactivated\";\n",
        hook.url()
    ));
    let platform = home.start().await;
    hook.answer(StatusCode::UNAUTHORIZED);
    let mut client = Client::connect(platform.mqtt, Version::V5, "device").await;
    client.publish_all("sensors/a/up", [Bytes::from("{\"n\":1}")], 1).await;
    let told = "SELECT event, name, rule FROM alarms";
    assert_eq!(home.until_lines(told, 1).await, ["alarm.activated|sink_stalled|telemetry"]);
    let (_, metrics) = platform.get("/metrics").await;
    assert!(
        metrics.contains("muster_pipeline_stalled{rule=\"telemetry\",sink=\"hook\",target=\"\"} 1"),
        "{metrics}"
    );
    platform.stop().await;

    let platform = home.start().await;
    until("it stands still again", PATIENCE, async || {
        (pipeline(&platform, "telemetry", "hook").await["state"] == "stalled").then_some(())
    })
    .await;
    hook.answer(StatusCode::OK);
    until_delivered(&platform, "telemetry", "hook", 1).await;
    let all = home.until_lines(told, 2).await;
    assert_eq!(all, ["alarm.activated|sink_stalled|telemetry", "alarm.deactivated|sink_stalled|telemetry"]);
    platform.stop().await;
}
