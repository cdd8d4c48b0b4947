//! Rows a second into MongoDB by a pipeline, against the driver's `insert_many` of the same documents in batches of the
//! same size, in the same run. `cargo bench -p muster-sinks --bench mongodb [-- ROWS]`, with
//! `MUSTER_TEST_MONGODB=IP:PORT` for a server of your own (user `muster`, password `secret`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a tool, not the product"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mongodb::bson::{DateTime, Document, doc};
use mongodb::{Client, Database};
use muster_core::clock::SystemClock;
use muster_core::event::{Event, EventKind, EventKinds, NewEvent, proto};
use muster_core::value::Row;
use muster_sinks::database::Databases;
use muster_sinks::delivery::{
    DeliveryStore, LogReader, LogSource, Pipeline, PipelineConfig, ReadBatch, SourceError, Start, Transform,
};
use muster_sinks::{BoxFuture, PipelineId, SharedRow, SinkEnv, SinkSpec, build};
use muster_test_servers::Server;
use rand::SeedableRng;
use rand::rngs::SmallRng;

const ROWS: u64 = 40_000;
/// Documents in a batch: the sink's default, for both.
const BATCH_ROWS: usize = 2_000;
/// Each side runs so often; the fastest counts.
const ROUNDS: usize = 3;
/// So many devices send them.
const DEVICES: u64 = 1_000;

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
        row.insert("temp", temp(event));
        row.insert("seq", event.offset);
        row.insert("timestamp", event.timestamp_ms);
        rows.push(row.into());
        Ok(())
    }
}

fn temp(event: &Event) -> f64 {
    20.0 + (event.offset % 100) as f64 / 10.0
}

/// The document that the sink makes of an event's row.
fn document(event: &Event) -> Document {
    doc! {
        "_id": format!("{}:0:telemetry", event.id),
        "clientid": event.clientid(),
        "topic": event.topic.as_str(),
        "temp": temp(event),
        "seq": event.offset as i64,
        "timestamp": DateTime::from_millis(event.timestamp_ms),
    }
}

fn events(rows: u64) -> Vec<Arc<Event>> {
    let event = |offset| {
        let clientid = format!("device-{}", offset % DEVICES);
        let client = proto::Client { clientid, ..Default::default() };
        let body = proto::Event { client: Some(client), ..Default::default() };
        let topic = format!("sensors/{}/up", offset % DEVICES);
        let new = NewEvent { timestamp_ms: offset as i64, kind: EventKind::MessagePublish, topic, body };
        Arc::new(new.at(1 << 100, offset))
    };
    (0..rows).map(event).collect()
}

/// The driver alone: documents are made and inserted batch by batch.
async fn bare(database: &Database, events: &[Arc<Event>]) -> Duration {
    let collection = database.collection("bare");
    let start = now();
    for chunk in events.chunks(BATCH_ROWS) {
        let documents: Vec<Document> = chunk.iter().map(|event| document(event)).collect();
        collection.insert_many(documents).ordered(false).await.unwrap();
    }
    start.elapsed()
}

async fn pipeline(url: &str, events: Arc<Vec<Arc<Event>>>) -> Duration {
    let (clock, dir) = (SystemClock::shared(), tempfile::tempdir().unwrap());
    let env = SinkEnv { data_dir: dir.path().into(), databases: Databases::default(), clock: clock.clone() };
    let options = BTreeMap::from([
        ("url".to_owned(), url.to_owned()),
        ("batch_rows".to_owned(), BATCH_ROWS.to_string()),
    ]);
    let spec =
        SinkSpec { kind: "mongodb", name: "mongo", target: None, rule: "telemetry", options: &options };
    let built = build(&spec, &env).unwrap();
    let config = PipelineConfig {
        id: PipelineId::new("telemetry", "mongo", built.target),
        rule_version: "1".into(),
        start: Start::Earliest,
        paused: false,
        limits: built.limits,
        retry_wait_max: muster_sinks::delivery::WAIT_MAX,
    };
    let store = DeliveryStore::open(&dir.path().join("delivery.db")).unwrap();
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

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let rows = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(ROWS);
    let Some(server) = Server::shared("mongodb") else { return };
    let (events, name) = (Arc::new(events(rows)), format!("bench_{}", std::process::id()));
    let url = format!("mongodb://muster:secret@{}/{name}?authSource=admin", server.address());
    let database = Client::with_uri_str(&url).await.unwrap().database(&name);
    let (mut plain, mut piped) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        database.drop().await.unwrap();
        plain = plain.min(bare(&database, &events).await);
        piped = piped.min(pipeline(&url, events.clone()).await);
    }
    database.drop().await.unwrap();
    let rate = |took: Duration| rows as f64 / took.as_secs_f64();
    println!("{rows} rows of 5 columns and their key, {BATCH_ROWS} in a batch, write concern majority");
    println!("insert_many alone           {:>9.0} rows/s", rate(plain));
    println!("pipeline, a document a row  {:>9.0} rows/s", rate(piped));
    println!("ratio                       {:>9.2}", rate(piped) / rate(plain));
}
