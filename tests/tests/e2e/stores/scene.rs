//! A history in which everything happens that a query could stumble over, and the comparison of tables and answers.

use axum::http::StatusCode;
use bytes::Bytes;
use muster_core::clock::SystemClock;
use muster_tests::mqtt::{Client, Version};
use muster_tests::webhook::Webhook;
use muster_tests::{Home, Muster, PATIENCE, until};

use super::expected;
use super::store::{Asked, QUERIES, Store, migrate, rules, start, until_told};
use crate::common::pipeline;

/// Who takes part, and somebody who does not. The first is whom the queries name.
const CLIENTS: [&str; 7] = ["meter-1", "steady", "flappy", "taken", "gone", "late", "nobody"];

async fn connect(muster: &Muster, client: &str) -> Client {
    Client::connect(muster.mqtt, Version::V5, client).await
}

async fn now_ms() -> i64 {
    // In a millisecond of its own: what comes later is later.
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let now = SystemClock::shared().wall_ms();
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    now
}

/// Comes and goes so often.
async fn flap(muster: &Muster, times: usize) {
    for at in 0..times {
        let mut client = connect(muster, "flappy").await;
        client.publish("devices/flappy/up", b"{}", 1, false).await;
        if at % 2 == 0 {
            client.disconnect().await;
        }
    }
}

/// Runs the scene against a target and compares.
///
/// # Panics
/// When the target says anything else than the log.
pub(super) async fn play<S: Store>(store: S) {
    let hook = Webhook::start().await;
    let stall = format!(
        "CREATE SINK stalling TYPE webhook WITH (url = '{}');\n\
         CREATE RULE stalling INTO stalling AS SELECT clientid FROM \"stall\";\n",
        hook.url()
    );
    let home = Home::with_rules(&rules::<S>());
    home.write_rules("stalling.sql", &stall);
    migrate(&home, &store).await;
    let muster = start(&home, &store).await;
    let _before = connect(&muster, "meter-1").await;
    flap(&muster, 2).await;
    connect(&muster, "gone").await.disconnect().await;
    let since_ms = now_ms().await;

    let _steady = connect(&muster, "steady").await;
    let _taken = connect(&muster, "taken").await;
    let _takes = connect(&muster, "taken").await;
    flap(&muster, 5).await;
    // An alarm that begins and ends.
    hook.answer(StatusCode::UNAUTHORIZED);
    let mut staller = connect(&muster, "staller").await;
    staller.publish_all("stall", [Bytes::from_static(b"{}")], 1).await;
    until_stalled(&muster, true).await;
    hook.answer(StatusCode::OK);
    until_stalled(&muster, false).await;
    until_told(&muster).await;
    muster.kill().await;

    let muster = start(&home, &store).await;
    let _steady = connect(&muster, "steady").await;
    let _late = connect(&muster, "late").await;
    let until_ms = now_ms().await;
    flap(&muster, 1).await;
    connect(&muster, "steady").await.disconnect().await;
    let _last = connect(&muster, "taken").await;
    until_told(&muster).await;
    // What it had not logged yet, it will not log any more.
    muster.kill().await;
    compare(&store, &home, since_ms, until_ms).await;
}

async fn until_stalled(muster: &Muster, stalled: bool) {
    until("the alarm begins or ends", PATIENCE, async || {
        let alarms = pipeline(muster, "device_alarms", "devices").await;
        let matched = if stalled { 1 } else { 2 };
        (alarms["matched"].as_u64() >= Some(matched)).then_some(())
    })
    .await;
}

async fn compare<S: Store>(store: &S, home: &Home, since_ms: i64, until_ms: i64) {
    let log = home.log().await;
    let history = store.rows(home, "device_history", &["clientid", "event", "offset"]).await;
    assert_eq!(expected::sorted(history), expected::history(&log, 0), "the history");
    let status = store.rows(home, "device_status", &["clientid", "event", "offset"]).await;
    assert_eq!(expected::sorted(status), expected::status(&log, 0), "the status");
    let alarms = store.rows(home, "device_alarms", &["name", "clientid", "offset", "duration"]).await;
    let told = expected::alarms(&log);
    assert!(told.iter().any(|row| !row[3].is_empty()), "an alarm that is over: {told:?}");
    assert_eq!(expected::sorted(alarms), told, "the alarms");
    for query in QUERIES {
        let std::ops::Range { start, end } = S::SHIPPED_MS;
        let asked = Asked { client: CLIENTS[0].to_owned(), since_ms: start, until_ms: end };
        if let Some(answer) = store.shipped(home, query).await {
            assert_eq!(answer, expected::answer(&log, query, &asked), "{query} as it is shipped");
        }
        for client in if query == "uptime" { &CLIENTS[..] } else { &CLIENTS[..1] } {
            let asked = Asked { client: (*client).to_owned(), since_ms, until_ms };
            if let Some(answer) = store.answer(home, query, &asked).await {
                assert_eq!(answer, expected::answer(&log, query, &asked), "{query} {asked:?}");
            }
        }
    }
}
