//! Alarms about devices in the tables: a device that stays away is one row, which its return completes, over `kill -9`.

use muster_tests::mqtt::{Client, Version};
use muster_tests::{Home, PATIENCE, until};

use super::expected;
use super::store::{Store, migrate, rules, start, until_told};

const ALARM: &str = "CREATE ALARM missing WITH (severity = 'critical') AS \
    ABSENCE OF \"$events/client/connected\" FOR 300ms AFTER \"$events/client/disconnected\";\n";

/// Runs two outages against a target and compares.
///
/// # Panics
/// When a row is another, is missing, or is there twice.
pub(super) async fn play<S: Store>(store: S) {
    let home = Home::with_rules(&rules::<S>());
    home.write_rules("alarms.sql", ALARM);
    migrate(&home, &store).await;
    let mut muster = start(&home, &store).await;
    let told = async |raised: usize, over: usize| {
        until(&format!("{raised} are raised, {over} are over"), PATIENCE, async || {
            let rows = store.rows(&home, "device_alarms", &["event"]).await;
            let ended = rows.iter().filter(|row| row[0] == "alarm.deactivated").count();
            (rows.len() == raised && ended == over).then_some(())
        })
        .await;
    };
    let mut meter = Client::connect(muster.mqtt, Version::V5, "meter").await;
    for round in 1..=2 {
        // The connection breaks, the second time together with the server.
        drop(meter);
        if round == 2 {
            muster.kill().await;
            muster = start(&home, &store).await;
        }
        told(round, round - 1).await;
        meter = Client::connect(muster.mqtt, Version::V5, "meter").await;
        told(round, round).await;
    }
    until_told(&muster).await;
    muster.kill().await;
    drop(meter);
    let rows = store.rows(&home, "device_alarms", &["name", "clientid", "offset", "duration"]).await;
    let expected = expected::alarms(&home.log().await);
    assert!(expected.len() >= 2 && expected.iter().all(|row| row[1] == "meter"), "{expected:?}");
    assert_eq!(expected::sorted(rows), expected, "one row an alarm");
}
