//! How much a pipeline is slowed by a neighbour in trouble: rows a second from a real log into an SQLite file, alone,
//! and beside one whose target is silent, is down, or is slow. `cargo bench -p muster-sinks --bench isolation [--
//! ROWS]`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a tool, not the product"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_core::clock::SystemClock;
use muster_core::event::{Event, EventKind, EventKinds, NewEvent, proto};
use muster_core::journal::Journal;
use muster_core::log::{Durability, LogConfig, RealDisk};
use muster_core::value::Row;
use muster_sinks::database::Databases;
use muster_sinks::delivery::{
    DeliveryStore, Pipeline, PipelineConfig, PipelineHandle, Start, Transform, WAIT_MAX,
};
use muster_sinks::{
    Batch, BoxFuture, Durable, Memory, Outcome, PipelineId, SharedRow, Sink, SinkEnv, SinkError, SinkSpec,
    build,
};
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// Enough that the two batches which each pipeline gathers at its start are of no weight.
const ROWS: u64 = 600_000;
/// Each neighbour is measured so often, in turns; the fastest counts.
const ROUNDS: usize = 3;
/// What a slow target takes for a batch. Much less, and it is no slow target but a second one that works.
const SLOW: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
enum Neighbour {
    Silent,
    Down,
    Slow,
}

impl Sink for Neighbour {
    fn wants_recorded_batches(&self) -> bool {
        true
    }

    fn open<'a>(&'a mut self, _: &'a PipelineId) -> BoxFuture<'a, Result<Memory, SinkError>> {
        Box::pin(async { Ok(Memory::None) })
    }

    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<Outcome, SinkError>> {
        Box::pin(async move {
            match self {
                Self::Silent => std::future::pending().await,
                Self::Down => Err(SinkError::unavailable("down")),
                Self::Slow => {
                    tokio::time::sleep(SLOW).await;
                    Ok(Outcome::Durable(Durable::promise(batch)))
                }
            }
        })
    }

    fn check(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async { Ok(()) })
    }
}

struct Telemetry;

impl Transform for Telemetry {
    fn kinds(&self) -> EventKinds {
        EventKinds::ALL
    }

    fn apply(&mut self, event: &Event, rows: &mut Vec<SharedRow>) -> Result<(), String> {
        let mut row = Row::with_capacity(3);
        row.insert("clientid", event.clientid());
        row.insert("topic", event.topic.as_str());
        row.insert("n", event.offset);
        rows.push(row.into());
        Ok(())
    }
}

async fn journal(dir: &Path, rows: u64) -> Journal {
    let config = LogConfig { durability: Durability::Os, ..LogConfig::new(dir.join("log")) };
    let journal = Journal::open(config, RealDisk::shared(), SystemClock::shared()).unwrap().0;
    for n in 0..rows {
        let client = proto::Client { clientid: format!("device-{}", n % 1000), ..Default::default() };
        let body = proto::Event { client: Some(client), ..Default::default() };
        let topic = format!("sensors/{}/up", n % 1000);
        let event = NewEvent { timestamp_ms: n as i64, kind: EventKind::MessagePublish, topic, body };
        journal.append(event).await.unwrap();
    }
    journal.durable(rows - 1).await.unwrap();
    journal
}

fn start(
    journal: &Journal,
    store: &DeliveryStore,
    dir: &Path,
    neighbour: Option<Neighbour>,
) -> PipelineHandle {
    let clock = SystemClock::shared();
    let env = SinkEnv { data_dir: dir.to_owned(), databases: Databases::default(), clock: clock.clone() };
    let (name, options) = (if neighbour.is_some() { "neighbour" } else { "measured" }, BTreeMap::new());
    let spec = SinkSpec { kind: "sqlite", name, target: None, rule: "telemetry", options: &options };
    let built = build(&spec, &env).unwrap();
    let config = PipelineConfig {
        id: PipelineId::new("telemetry", name, built.target),
        rule_version: "1".into(),
        start: Start::Earliest,
        paused: false,
        limits: built.limits,
        retry_wait_max: WAIT_MAX,
    };
    let sink = neighbour.map_or(built.sink, |it| Box::new(it));
    let (source, rng) = (Arc::new(journal.clone()), SmallRng::seed_from_u64(1));
    Pipeline::spawn(config, source, Box::new(Telemetry), sink, store.clone(), clock, rng)
}

async fn measure(journal: &Journal, rows: u64, neighbour: Option<Neighbour>) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let store = DeliveryStore::open(&dir.path().join("delivery.db")).unwrap();
    let begun = now();
    let beside = neighbour.map(|it| start(journal, &store, dir.path(), Some(it)));
    let measured = start(journal, &store, dir.path(), None);
    while measured.status().delivered < rows {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = begun.elapsed();
    measured.stop(Duration::from_secs(5)).await;
    if let Some(beside) = beside {
        beside.kill().await;
    }
    took
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures with the machine's clock")]
fn now() -> Instant {
    Instant::now()
}

fn main() {
    let rows = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(ROWS);
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let journal = runtime.block_on(journal(dir.path(), rows));
    let cases = [None, Some(Neighbour::Silent), Some(Neighbour::Down), Some(Neighbour::Slow)]
        .map(|it| (it, Duration::MAX));
    let mut cases = cases;
    for _ in 0..ROUNDS {
        for (neighbour, best) in &mut cases {
            *best = (*best).min(runtime.block_on(measure(&journal, rows, *neighbour)));
        }
    }
    let alone = cases[0].1.as_secs_f64();
    println!("{rows} rows from the log into SQLite, best of {ROUNDS}; the goal is a ratio of at least 0.95");
    for (neighbour, best) in &cases {
        let (name, took) =
            (neighbour.map_or("alone".to_owned(), |it| format!("beside {it:?}")), best.as_secs_f64());
        println!("{name:<15} {:>9.0} rows/s   ratio {:.3}", rows as f64 / took, alone / took);
    }
}
