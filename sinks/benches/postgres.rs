//! Rows a second into SQLite by a pipeline, against bare prepared inserts of the same rows in equal transactions, in
//! the same run. `cargo bench -p muster-sinks [-- ROWS]`
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
use muster_core::value::Row;
use muster_sinks::database::Databases;
use muster_sinks::delivery::{
    DeliveryStore, LogReader, LogSource, Pipeline, PipelineConfig, ReadBatch, SourceError, Start, Transform,
};
use muster_sinks::{BoxFuture, PipelineId, SharedRow, SinkEnv, SinkSpec, build};
use rand::SeedableRng;
use rand::rngs::SmallRng;

const ROWS: u64 = 500_000;
/// Rows in a transaction: the sink's default, for both.
const TRANSACTION_ROWS: usize = 5_000;
/// Each side runs so often; the fastest counts.
const ROUNDS: usize = 3;

struct Events(Arc<Vec<Arc<Event>>>);
struct EventsReader(Arc<Vec<Arc<Event>>>, usize);

impl LogSource for Events {
    fn log_id(&self) -> u128 {
        1
    }

    fn first_offset(&self) -> u64 {
        0
    }

    fn end_offset(&self) -> u64 {
        self.0.len() as u64
    }

    fn offset_at_time(&self, _: i64) -> Result<u64, SourceError> {
        Ok(0)
    }

    fn reader(&self, offset: u64, _: EventKinds) -> Box<dyn LogReader> {
        Box::new(EventsReader(self.0.clone(), offset as usize))
    }
}

impl LogReader for EventsReader {
    fn next(&mut self) -> BoxFuture<'_, Result<ReadBatch, SourceError>> {
        Box::pin(async move {
            if self.1 == self.0.len() {
                std::future::pending::<()>().await;
            }
            let end = (self.1 + 1024).min(self.0.len());
            let events = self.0[self.1..end].to_vec();
            self.1 = end;
            Ok(ReadBatch { events, next_offset: end as u64 })
        })
    }
}

struct Telemetry;

impl Transform for Telemetry {
    fn kinds(&self) -> EventKinds {
        EventKinds::ALL
    }

    fn apply(&mut self, event: &Event, rows: &mut Vec<SharedRow>) -> Result<(), String> {
        let mut row = Row::with_capacity(5);
        row.insert("clientid", event.clientid());
        row.insert("topic", event.topic.as_str());
        row.insert("temp", 20.0 + (event.offset % 100) as f64 / 10.0);
        row.insert("n", event.offset);
        row.insert("at", event.timestamp_ms);
        rows.push(row.into());
        Ok(())
    }
}

fn events(rows: u64) -> Vec<Arc<Event>> {
    let event = |offset| {
        let client = proto::Client { clientid: format!("device-{}", offset % 1000), ..Default::default() };
        let body = proto::Event { client: Some(client), ..Default::default() };
        let topic = format!("sensors/{}/up", offset % 1000);
        let new = NewEvent { timestamp_ms: offset as i64, kind: EventKind::MessagePublish, topic, body };
        Arc::new(new.at(1 << 100, offset))
    };
    (0..rows).map(event).collect()
}

/// A loop that binds and steps one prepared statement: the limit of one connection.
fn bare(dir: &Path, events: &[Arc<Event>]) -> Duration {
    let connection = rusqlite::Connection::open(dir.join("bare.db")).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
             CREATE TABLE telemetry (clientid TEXT, topic TEXT, temp REAL, n INTEGER, at INTEGER, \
             _event_id TEXT NOT NULL, _rule TEXT NOT NULL, _row INTEGER NOT NULL, \
             PRIMARY KEY (_event_id, _rule, _row)) WITHOUT ROWID",
        )
        .unwrap();
    let start = now();
    let mut insert =
        connection.prepare("INSERT INTO telemetry VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)").unwrap();
    for chunk in events.chunks(TRANSACTION_ROWS) {
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        for event in chunk {
            let temp = 20.0 + (event.offset % 100) as f64 / 10.0;
            let (n, id) = (event.offset as i64, event.id.to_string());
            let row =
                (event.clientid(), event.topic.as_str(), temp, n, event.timestamp_ms, id, "telemetry", 0);
            insert.execute(row).unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
    }
    start.elapsed()
}

async fn pipeline(dir: &Path, events: Arc<Vec<Arc<Event>>>) -> Duration {
    let clock = SystemClock::shared();
    let env = SinkEnv { data_dir: dir.to_owned(), databases: Databases::default(), clock: clock.clone() };
    let options = BTreeMap::from([("batch_rows".to_owned(), TRANSACTION_ROWS.to_string())]);
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
    let store = DeliveryStore::open(&dir.join("delivery.db")).unwrap();
    let end = events.len() as u64;
    let start = now();
    let rng = SmallRng::seed_from_u64(1);
    let source = Arc::new(Events(events));
    let running = Pipeline::spawn(config, source, Box::new(Telemetry), built.sink, store, clock, rng);
    while running.status().delivered < end {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = start.elapsed();
    running.stop(Duration::from_secs(5)).await;
    took
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures with the machine's clock")]
fn now() -> Instant {
    Instant::now()
}

fn main() {
    let rows = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(ROWS);
    let events = Arc::new(events(rows));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (mut plain, mut piped) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        let dir = tempfile::tempdir().unwrap();
        plain = plain.min(bare(dir.path(), &events));
        piped = piped.min(runtime.block_on(pipeline(dir.path(), events.clone())));
    }
    let rate = |took: Duration| rows as f64 / took.as_secs_f64();
    println!(
        "{rows} rows of 5 columns and their key, {TRANSACTION_ROWS} in a transaction, WAL, synchronous = FULL"
    );
    println!("bare prepared inserts  {:>9.0} rows/s", rate(plain));
    println!("pipeline into SQLite   {:>9.0} rows/s", rate(piped));
    println!("ratio                  {:>9.2}", rate(piped) / rate(plain));
}
