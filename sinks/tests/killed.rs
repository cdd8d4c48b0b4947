//! A real process with the real log and a real SQLite file, killed with SIGKILL again and again: afterwards every
//! event is in the table exactly once, or in the dead letters exactly once, and the books say so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]
#![allow(unreachable_pub, reason = "shared test code")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use muster_core::clock::SystemClock;
use muster_core::journal::Journal;
use muster_core::log::{LogConfig, RealDisk};
use muster_sinks::database::Databases;
use muster_sinks::delivery::{
    DeliveryStore, LETTERS_MAX, LetterFilter, Limits, Pipeline, PipelineConfig, PipelineHandle, Start,
};
use muster_sinks::{PipelineId, SinkEnv, SinkSpec, build};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use support::{ByPayload, publish, until, until_settled};

/// How often the process is killed.
const KILLS: u32 = 20;
/// Tells the child where to work.
const DIR: &str = "MUSTER_TEST_CHILD_DIR";
/// Tells the child to append nothing, to deliver what is there, and to end.
const DRAIN: &str = "MUSTER_TEST_CHILD_DRAIN";

fn journal(dir: &Path) -> Journal {
    Journal::open(LogConfig::new(dir.join("log")), RealDisk::shared(), SystemClock::shared()).unwrap().0
}

fn start(dir: &Path, journal: &Journal) -> PipelineHandle {
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
        limits: Limits { batch_rows_max: 50, ..built.limits },
        retry_wait_max: muster_sinks::delivery::WAIT_MAX,
    };
    let store = DeliveryStore::open(&dir.join("delivery.db")).unwrap();
    let source = Arc::new(journal.clone());
    let rng = SmallRng::seed_from_u64(u64::from(std::process::id()));
    Pipeline::spawn(config, source, Box::new(ByPayload), built.sink, store, clock, rng)
}

/// Not a test of its own: what the killed process does. Without its directory it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let journal = journal(&dir);
    let running = start(&dir, &journal);
    if std::env::var_os(DRAIN).is_some() {
        until_settled(&running, journal.durable_offset()).await;
        running.stop(Duration::from_secs(5)).await;
        journal.close().await.unwrap();
        return;
    }
    loop {
        let next = journal.next_offset();
        for offset in next..next + 20 {
            let payload = match offset % 50 {
                7 => "fail",
                11 => "poison",
                13 => "5",
                _ => "hello",
            };
            journal.append(publish("a", payload, 0)).await.unwrap();
        }
        journal.durable(next).await.unwrap();
        // The table grows about as fast as the log, so that the kill finds both at work.
        until("delivery to keep up", async || running.status().lag_events < 500).await;
    }
}

fn spawn(dir: &Path, drain: bool) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["child", "--exact", "--nocapture"]).env(DIR, dir).stdout(Stdio::null());
    if drain {
        command.env(DRAIN, "1");
    }
    command.spawn().unwrap()
}

fn rows(database: &rusqlite::Connection) -> i64 {
    database.query_row("SELECT count(*) FROM telemetry", [], |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_twenty_times() {
    let dir = tempfile::tempdir().unwrap();
    // A table that refuses some rows.
    let database = rusqlite::Connection::open(dir.path().join("muster.db")).unwrap();
    database.busy_timeout(Duration::from_secs(5)).unwrap();
    database
        .execute_batch(
            "PRAGMA journal_mode = WAL; CREATE TABLE telemetry (payload TEXT CHECK (payload <> 'poison'))",
        )
        .unwrap();
    let mut rng = SmallRng::seed_from_u64(42);
    for _ in 0..KILLS {
        let before = rows(&database);
        let mut child = spawn(dir.path(), false);
        let growth = rng.random_range(1..300);
        until("the table to grow", async || rows(&database) >= before + growth).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let drained = tokio::task::spawn_blocking({
        let mut child = spawn(dir.path(), true);
        move || child.wait().unwrap()
    });
    assert!(drained.await.unwrap().success(), "the last process delivers what is left");
    check(dir.path(), &database).await;
}

async fn check(dir: &Path, database: &rusqlite::Connection) {
    let journal = journal(dir);
    let (mut alive, mut dead) = (0, 0);
    let end = journal.durable_offset();
    let mut reader = journal.reader(0);
    while reader.position() < end {
        for event in reader.next_batch().await.unwrap().events() {
            match &event.payload()[..] {
                b"fail" | b"poison" => dead += 1,
                b"5" => alive += 5,
                _ => alive += 1,
            }
        }
    }
    assert_eq!(rows(database), alive, "rows in the table");
    let letters = DeliveryStore::open(&dir.join("delivery.db")).unwrap();
    let letters = letters.letters(LetterFilter::default(), LETTERS_MAX).await.unwrap();
    assert_eq!(letters.len() as i64, dead, "dead letters");
    let sql = "SELECT cursor_offset, matched, delivered, dead, epoch FROM _muster_pipelines";
    let books: [i64; 5] = database
        .query_row(sql, [], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?]))
        .unwrap();
    assert_eq!(books, [end as i64, alive + dead, alive, dead, i64::from(KILLS) + 1]);
    eprintln!("killed {KILLS} times: {end} events, {alive} rows, {dead} dead letters");
}
