//! A pause outlives the run in which it was ordered, also where it cannot be read when the next run begins.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]
#![allow(unreachable_pub, reason = "shared test code")]

mod support;

use std::path::Path;
use std::time::Duration;

use muster_sinks::PipelineId;
use muster_sinks::delivery::{DeliveryStore, PipelineState};
use support::bench::Bench;
use support::{until, until_settled};

/// A store in a folder; the file is away, and something that is no store is in its place.
async fn paused_in_a_store_that_is_away(bench: &mut Bench, dir: &Path) {
    let (file, away) = (dir.join("delivery.db"), dir.join("away.db"));
    let before = DeliveryStore::inline(&file);
    before.order_pause(&PipelineId::new("rule", "sink", ""), true).await.unwrap();
    drop(before);
    std::fs::rename(&file, &away).unwrap();
    std::fs::create_dir(&file).unwrap();
    bench.store = DeliveryStore::inline(&file);
}

fn come_back(dir: &Path) {
    let file = dir.join("delivery.db");
    std::fs::remove_dir(&file).unwrap();
    std::fs::rename(dir.join("away.db"), &file).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_cannot_be_read_at_the_start_holds_once_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::with_events(&["x"; 3]);
    paused_in_a_store_that_is_away(&mut bench, dir.path()).await;
    let running = bench.run();
    until("the trouble is shown", async || running.status().failures > 0).await;
    come_back(dir.path());
    until("the pause is known", async || running.status().state == PipelineState::Paused).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((running.status().state, bench.given().len()), (PipelineState::Paused, 0));
    bench.store.order_pause(running.id(), false).await.unwrap();
    running.resume();
    until_settled(&running, 3).await;
    assert_eq!(bench.given().concat(), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_resume_counts_more_than_a_pause_from_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::with_events(&["x"; 3]);
    paused_in_a_store_that_is_away(&mut bench, dir.path()).await;
    let running = bench.run();
    until("the trouble is shown", async || running.status().failures > 0).await;
    running.resume();
    come_back(dir.path());
    until_settled(&running, 3).await;
}
