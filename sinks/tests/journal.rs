//! The whole way once, with nothing replaced: the real log, a pipeline, a real SQLite file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]
#![allow(unreachable_pub, reason = "shared test code")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use muster_core::clock::SystemClock;
use muster_core::journal::Journal;
use muster_core::log::{LogConfig, RealDisk};
use muster_sinks::database::Databases;
use muster_sinks::delivery::{
    DeliveryStore, LetterFilter, Pipeline, PipelineConfig, PipelineHandle, PipelineState, Start, Stopped,
};
use muster_sinks::{PipelineId, SinkEnv, SinkSpec, build};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use support::{ByPayload, noise, publish, until};

fn pipeline(dir: &Path, journal: &Journal, store: &DeliveryStore) -> PipelineHandle {
    let clock = SystemClock::shared();
    let env = SinkEnv { data_dir: dir.to_owned(), databases: Databases::default(), clock: clock.clone() };
    let options = BTreeMap::new();
    let spec =
        SinkSpec { kind: "sqlite", name: "sqlite", target: None, rule: "telemetry", options: &options };
    let built = build(&spec, &env).unwrap();
    let config = PipelineConfig {
        id: PipelineId::new("telemetry", "sqlite", built.target),
        rule_version: "1".into(),
        start: Start::Earliest,
        paused: false,
        limits: built.limits,
        retry_wait_max: muster_sinks::delivery::WAIT_MAX,
    };
    let source = Arc::new(journal.clone());
    let rng = SmallRng::seed_from_u64(1);
    Pipeline::spawn(config, source, Box::new(ByPayload), built.sink, store.clone(), clock, rng)
}

#[tokio::test]
async fn events_become_rows_and_a_restart_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let journal =
        Journal::open(LogConfig::new(dir.path().join("log")), RealDisk::shared(), SystemClock::shared())
            .unwrap()
            .0;
    let store = DeliveryStore::open(&dir.path().join("delivery.db")).unwrap();
    for at in 0..100 {
        let payload = if at == 50 { "fail" } else { "hello" };
        journal.append(publish("a", payload, at)).await.unwrap();
        journal.append(noise(at)).await.unwrap();
    }
    let running = pipeline(dir.path(), &journal, &store);
    until("the cursor to reach the end", async || running.status().cursor == 200).await;
    let status = running.status();
    assert_eq!(
        (status.matched, status.delivered, status.dead, status.pending),
        (100, 99, 1, 0),
        "{status:?}"
    );
    assert_eq!((status.lag_events, status.lag_ms, status.state), (0, 0, PipelineState::Running));
    assert!(status.notes[0].starts_with("CREATE TABLE \"telemetry\""), "{:?}", status.notes);
    assert_eq!(running.stop(Duration::from_secs(5)).await, Stopped::InTime);

    let appended = journal.append(publish("a", "again", 100)).await.unwrap();
    journal.durable(appended.offset).await.unwrap();
    let running = pipeline(dir.path(), &journal, &store);
    until("the last row", async || running.status().delivered == 100).await;
    assert_eq!(running.stop(Duration::from_secs(5)).await, Stopped::InTime);

    let database = rusqlite::Connection::open(dir.path().join("muster.db")).unwrap();
    let rows: (i64, i64, i64) = database
        .query_row("SELECT count(*), count(DISTINCT _event_id), max(\"offset\") FROM telemetry", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .unwrap();
    assert_eq!(rows, (100, 100, 200));
    let letters = store.letters(LetterFilter::default(), 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].reason, "division by zero in SELECT");
    assert_eq!(
        (letters[0].row_json.as_deref(), letters[0].event().unwrap().payload()),
        (None, "fail".into())
    );
}
