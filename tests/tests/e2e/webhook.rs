//! A target that goes away and comes back: nothing lost, order kept, nobody else disturbed, the books exact.

use axum::http::StatusCode;
use bytes::Bytes;
use muster_tests::mqtt::{Client, Version};
use muster_tests::webhook::Webhook;
use muster_tests::{Home, PATIENCE, until};

use crate::common::{pipeline, until_delivered};

fn rules(url: &str) -> String {
    format!(
        "CREATE SINK hook TYPE webhook WITH (url = '{url}', retry_wait_max_ms = 500);\n\
         CREATE RULE telemetry INTO sqlite.telemetry, hook AS\n\
         SELECT payload.n AS n FROM \"sensors/+/up\";\n"
    )
}

/// Publishes the numbers of a range, one after the other.
async fn publish_range(client: &mut Client, range: std::ops::Range<usize>) {
    let count = range.len();
    let payloads = range.map(|n| Bytes::from(format!("{{\"n\":{n}}}")));
    assert_eq!(client.publish_all("sensors/a/up", payloads, 50).await.acked, count);
}

async fn until_failing(muster: &muster_tests::Muster) {
    until("the pipeline to the webhook has failed", PATIENCE, async || {
        let it = pipeline(muster, "telemetry", "hook").await;
        (it["state"] == "retrying" && it["failures"].as_u64() > Some(0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_delays_and_loses_nothing() {
    let mut hook = Webhook::start().await;
    let home = Home::with_rules(&rules(&hook.url()));
    // What the sink says of itself goes before what the platform says of all.
    let waits = ["--set", "delivery.retry_wait_max=600s"];
    let muster = home.start_with(&waits).await;
    let mut client = Client::connect(muster.mqtt, Version::V5, "device").await;
    publish_range(&mut client, 0..100).await;
    until_delivered(&muster, "telemetry", "hook", 100).await;

    hook.down().await;
    publish_range(&mut client, 100..1_100).await;
    until_failing(&muster).await;
    // The other sink, and the devices, go on.
    until_delivered(&muster, "telemetry", "sqlite", 1_100).await;
    let down = pipeline(&muster, "telemetry", "hook").await;
    assert_eq!(down["delivered"], 100, "{down}");
    assert!(down["lag_events"].as_u64() > Some(0) && down["last_error"].is_string(), "{down}");

    // A restart in the middle of it changes nothing.
    muster.kill().await;
    let muster = home.start_with(&waits).await;
    let mut client = Client::connect(muster.mqtt, Version::V5, "device").await;
    publish_range(&mut client, 1_100..1_200).await;
    until_failing(&muster).await;
    assert_eq!(pipeline(&muster, "telemetry", "hook").await["delivered"], 100);

    hook.up().await;
    until_delivered(&muster, "telemetry", "hook", 1_200).await;
    until_delivered(&muster, "telemetry", "sqlite", 1_200).await;
    let up = pipeline(&muster, "telemetry", "hook").await;
    assert_eq!(
        (&up["matched"], &up["dead"], &up["lag_events"]),
        (&1_200.into(), &0.into(), &0.into()),
        "{up}"
    );
    let numbers = hook.rows().iter().map(|row| row["n"].as_u64().expect("a number")).collect::<Vec<_>>();
    assert_eq!(numbers, (0..1_200).collect::<Vec<_>>(), "each once and in order");
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_answers_503_is_tried_again_with_the_same_batch() {
    let hook = Webhook::start().await;
    let home = Home::with_rules(&rules(&hook.url()));
    let muster = home.start_with(&["--set", "delivery.retry_wait_max=600s"]).await;
    let mut client = Client::connect(muster.mqtt, Version::V4, "device").await;
    hook.answer(StatusCode::SERVICE_UNAVAILABLE);
    publish_range(&mut client, 0..50).await;
    until("three attempts", PATIENCE, async || (hook.requests().len() >= 3).then_some(())).await;
    let refused = hook.requests();
    hook.answer(StatusCode::OK);
    until_delivered(&muster, "telemetry", "hook", 50).await;
    let accepted = hook.requests().into_iter().find(|request| request.status.is_success()).expect("one");
    assert!(refused.iter().take(3).all(|request| request.body == accepted.body), "the very same batch");
    let id = |request: &muster_tests::webhook::Request| request.headers.get("webhook-id").cloned();
    assert!(id(&accepted).is_some() && refused.iter().take(3).all(|request| id(request) == id(&accepted)));
    let numbers = hook.rows().iter().map(|row| row["n"].as_u64().expect("a number")).collect::<Vec<_>>();
    assert_eq!(numbers, (0..50).collect::<Vec<_>>());
    muster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_a_rule_cannot_handle_is_counted_dead_and_stops_nothing() {
    let home = Home::with_rules(
        "CREATE RULE sums INTO sqlite.sums AS SELECT payload.n * 2 AS double FROM \"sensors/+/up\";\n",
    );
    let muster = home.start().await;
    let mut client = Client::connect(muster.mqtt, Version::V5, "device").await;
    for payload in [r#"{"n":1}"#, r#"{"n":"one"}"#, "no JSON", r#"{"n":2}"#] {
        client.publish("sensors/a/up", payload.as_bytes(), 1, false).await;
    }
    until("all are accounted for", PATIENCE, async || {
        let it = pipeline(&muster, "sums", "sqlite").await;
        (it["delivered"] == 2 && it["dead"] == 2 && it["matched"] == 4 && it["pending"] == 0).then_some(())
    })
    .await;
    assert_eq!(home.lines("SELECT double FROM sums ORDER BY _event_id"), ["2", "4"]);
    muster.stop().await;
    // The numbers survive a restart.
    let muster = home.start().await;
    until("the numbers are there again", PATIENCE, async || {
        let it = pipeline(&muster, "sums", "sqlite").await;
        (it["delivered"] == 2 && it["dead"] == 2 && it["matched"] == 4).then_some(())
    })
    .await;
    muster.stop().await;
}
