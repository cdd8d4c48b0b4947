//! Lines that break, processes that meet, futures that are dropped: nothing is lost and nothing doubled, also in a
//! table that has no key.

use std::sync::Arc;
use std::time::Duration;

use muster_core::clock::SystemClock;
use muster_sinks::delivery::{DeliveryStore, Limits, Pipeline, PipelineConfig, Start, Stopped};
use muster_sinks::{ErrorKind, PipelineId};
use muster_test_servers::Proxy;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::db::{Db, batch, batch_at, built, durable, pipeline, row};
use crate::support::{ByPayload, MemoryLog, publish, until_settled};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_breaks_anywhere_doubles_nothing() {
    let Some(db) =
        Db::new("CREATE TABLE t (clientid text, \"offset\" bigint, part bigint, payload text)").await
    else {
        return;
    };
    let seed = 20;
    eprintln!("SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let proxy = Proxy::before(db.address).await;
    let dir = tempfile::tempdir().unwrap();
    let log = MemoryLog::default();
    let sink = built("t", &[("url", &db.url_by(proxy.address()))]).unwrap().sink;
    let config = PipelineConfig {
        id: PipelineId::new("rule", "pg", "t"),
        rule_version: "1".into(),
        retry_wait_max: Duration::from_millis(20),
        start: Start::Earliest,
        paused: false,
        limits: Limits {
            batch_rows_max: 50,
            batch_bytes_max: 1 << 20,
            batch_wait: Duration::from_millis(1),
            dead_letters_per_minute_max: 100_000,
        },
    };
    let store = DeliveryStore::open(&dir.path().join("delivery.db")).unwrap();
    let (source, clock) = (Arc::new(log.clone()), SystemClock::shared());
    let running =
        Pipeline::spawn(config, source, Box::new(ByPayload), sink, store, clock, SmallRng::seed_from_u64(1));
    let cuts = 300;
    for _ in 0..cuts {
        for _ in 0..rng.random_range(1..40) {
            log.append(publish("a", "3", 0));
        }
        // Not a wait for anything: it moves the cut to another moment.
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..12_000))).await;
        proxy.cut();
    }
    until_settled(&running, log.len()).await;
    let rows = log.len() * 3;
    let said = db.text("SELECT count(*), count(DISTINCT (\"offset\", part)) FROM t").await;
    assert_eq!(said, format!("{rows} {rows}"), "after {cuts} cuts");
    assert_eq!(running.status().delivered, rows);
    assert_eq!(running.stop(Duration::from_secs(5)).await, Stopped::InTime);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_lost_is_noticed_by_the_next_attempt() {
    let Some(db) = Db::new("CREATE TABLE t (n bigint)").await else { return };
    let proxy = Proxy::before(db.address).await;
    let mut sink = built("t", &[("url", &db.url_by(proxy.address()))]).unwrap().sink;
    sink.open(&pipeline()).await.unwrap();
    durable(&mut sink, &batch(&[r#"{"n":0}"#])).await;
    // The commit of another session of the same pipeline stands for the one whose answer was lost.
    let lost = batch(&[r#"{"n":1}"#, r#"{"n":2}"#]);
    // Long enough for a busy machine to see the commit before the answer is there.
    proxy.delay(Duration::from_millis(200));
    let committed = async {
        let sql = "SELECT delivered FROM _muster_pipelines";
        let wanted = lost.after.totals.delivered.to_string();
        while db.text(sql).await != wanted {
            tokio::task::yield_now().await;
        }
        proxy.cut();
    };
    let (delivered, ()) = tokio::join!(sink.deliver(&lost), committed);
    assert_eq!(delivered.unwrap_err().kind(), ErrorKind::Unavailable, "the answer is lost");
    proxy.delay(Duration::ZERO);
    durable(&mut sink, &lost).await;
    assert_eq!(db.text("SELECT n FROM t ORDER BY n").await, "0\n1\n2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_future_that_is_dropped_leaves_nothing_that_doubles() {
    let Some(db) = Db::new("CREATE TABLE t (n bigint)").await else { return };
    let mut sink = db.opened(&[]).await;
    let mut rng = SmallRng::seed_from_u64(5);
    let mut rows = 0;
    for first in 0..60_u64 {
        let many = rng.random_range(1..3000);
        let next = batch_at(first, (0..many).map(|n| row(&format!(r#"{{"n":{n}}}"#))).collect());
        for _ in 0..3 {
            let wait = Duration::from_micros(rng.random_range(0..9_000));
            drop(tokio::time::timeout(wait, sink.deliver(&next)).await);
        }
        durable(&mut sink, &next).await;
        rows += many;
        assert_eq!(db.text("SELECT count(*) FROM t").await, rows.to_string());
    }
}

#[tokio::test]
async fn a_second_process_fences_the_first() {
    let Some(db) = Db::new("CREATE TABLE t (n bigint)").await else { return };
    let (mut first, mut second) = (db.opened(&[]).await, db.opened(&[]).await);
    let rows = batch(&[r#"{"n":1}"#]);
    let error = first.deliver(&rows).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert!(error.in_words().starts_with("another process writes rule > pg.t into 127.0.0.1:"));
    durable(&mut second, &rows).await;
    first.open(&pipeline()).await.unwrap();
    assert_eq!(second.deliver(&batch(&[r#"{"n":2}"#])).await.unwrap_err().kind(), ErrorKind::Fenced);
    durable(&mut first, &batch(&[r#"{"n":2}"#])).await;
    assert_eq!(db.text("SELECT n FROM t ORDER BY n").await, "1\n2");
}

#[tokio::test]
async fn a_server_that_confirms_too_early_is_told_otherwise() {
    let Some(db) =
        Db::new("CREATE TABLE t (n bigint, s text DEFAULT current_setting('synchronous_commit'))").await
    else {
        return;
    };
    let sql = format!("ALTER DATABASE {} SET synchronous_commit = off", db.name);
    db.client.batch_execute(&sql).await.unwrap();
    let mut sink = db.opened(&[]).await;
    durable(&mut sink, &batch(&[r#"{"n":1}"#])).await;
    assert_eq!(db.text("SELECT s FROM t").await, "on");
}
