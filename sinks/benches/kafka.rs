//! Rows a second into Kafka by a pipeline, exactly once and at least once, against librdkafka's plain producer with the
//! same settings and the same records, in the same run. `cargo bench --bench kafka [-- ROWS]`; with `KAFKA_BENCH=1` the
//! broker's virtual machine compiles what is hot.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a tool, not the product"
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

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
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, ProducerContext};

const ROWS: u64 = 200_000;
const PARTITIONS: i32 = 6;
const CODEC: &str = "lz4";
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

/// Records that were written.
struct Counted(Arc<AtomicU64>);

impl ClientContext for Counted {}

impl ProducerContext for Counted {
    type DeliveryOpaque = ();

    fn delivery(&self, delivered: &DeliveryResult<'_>, (): ()) {
        assert!(delivered.is_ok(), "{:?}", delivered.as_ref().err());
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A loop that formats and sends, and waits once at its end: the limit of one producer.
fn plain(brokers: SocketAddr, topic: &str, events: &[Arc<Event>]) -> Duration {
    let written = Arc::new(AtomicU64::new(0));
    let producer: BaseProducer<Counted> = ClientConfig::new()
        .set("bootstrap.servers", brokers.to_string())
        .set("enable.idempotence", "true")
        .set("compression.type", CODEC)
        .set("partitioner", "murmur2_random")
        .set("queue.buffering.max.messages", "0")
        .create_with_context(Counted(written.clone()))
        .unwrap();
    let start = now();
    for event in events {
        let (id, offset) = (event.id.to_string(), event.offset.to_string());
        let value = format!(
            r#"{{"clientid":"{}","topic":"{}","temp":{},"n":{},"at":{}}}"#,
            event.clientid(),
            event.topic,
            20.0 + (event.offset % 100) as f64 / 10.0,
            event.offset,
            event.timestamp_ms
        );
        let headers = OwnedHeaders::new_with_capacity(6)
            .insert(Header { key: "muster-event-id", value: Some(&id) })
            .insert(Header { key: "muster-offset", value: Some(&offset) })
            .insert(Header { key: "muster-event", value: Some("message.publish") })
            .insert(Header { key: "muster-rule", value: Some("telemetry") })
            .insert(Header { key: "muster-row", value: Some("0") })
            .insert(Header { key: "content-type", value: Some("application/json") });
        let record = BaseRecord::to(topic).key(event.clientid()).payload(&value).headers(headers);
        producer.send(record.timestamp(event.timestamp_ms)).map_err(|(error, _)| error).unwrap();
        if event.offset % 1000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    while written.load(Ordering::Relaxed) < events.len() as u64 {
        producer.poll(Duration::from_millis(1));
    }
    start.elapsed()
}

async fn pipeline(
    brokers: SocketAddr,
    topic: &str,
    delivery: &str,
    events: Arc<Vec<Arc<Event>>>,
) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let clock = SystemClock::shared();
    let env =
        SinkEnv { data_dir: dir.path().to_owned(), databases: Databases::default(), clock: clock.clone() };
    let brokers = brokers.to_string();
    let options = [("brokers", brokers.as_str()), ("compression", CODEC), ("delivery", delivery)];
    let options: BTreeMap<String, String> =
        options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let spec =
        SinkSpec { kind: "kafka", name: "kafka", target: Some(topic), rule: "telemetry", options: &options };
    let built = build(&spec, &env).unwrap();
    let config = PipelineConfig {
        id: PipelineId::new("telemetry", "kafka", built.target),
        rule_version: "1".into(),
        start: Start::Earliest,
        paused: false,
        limits: built.limits,
        retry_wait_max: muster_sinks::delivery::WAIT_MAX,
    };
    let store = DeliveryStore::open(&dir.path().join("delivery.db")).unwrap();
    let end = events.len() as u64;
    let rng = SmallRng::seed_from_u64(1);
    let source = Arc::new(Events(events));
    // Counted from the first commit on, and scaled to all rows: a pipeline is taken over once, not for each batch.
    let running = Pipeline::spawn(config, source, Box::new(Telemetry), built.sink, store, clock, rng);
    let (mut start, mut first) = (now(), 0);
    while running.status().delivered < end {
        if first == 0 {
            first = running.status().delivered;
            start = if first == 0 { start } else { now() };
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = start.elapsed();
    running.stop(Duration::from_secs(5)).await;
    took.mul_f64(end as f64 / (end - first) as f64)
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures with the machine's clock")]
fn now() -> Instant {
    Instant::now()
}

async fn topic(brokers: SocketAddr, name: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers.to_string()).create().unwrap();
    let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1));
    let made = admin.create_topics([&topic], &AdminOptions::new()).await.unwrap();
    assert!(made.iter().all(Result::is_ok), "{made:?}");
}

fn main() {
    let rows = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(ROWS);
    let events = Arc::new(events(rows));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let Some(server) = Server::own("kafka") else { return };
    let brokers = server.address();
    let mut best = [Duration::MAX; 3];
    for round in 0..ROUNDS {
        for (side, delivery) in ["plain", "exactly_once", "at_least_once"].into_iter().enumerate() {
            let name = format!("{delivery}.{round}");
            runtime.block_on(topic(brokers, &name));
            let took = match side {
                0 => plain(brokers, &name, &events),
                _ => runtime.block_on(pipeline(brokers, &name, delivery, events.clone())),
            };
            best[side] = best[side].min(took);
        }
    }
    let rate = |side: usize| rows as f64 / best[side].as_secs_f64();
    println!(
        "{rows} rows of 5 columns and 6 headers, {CODEC}, acks = all, {PARTITIONS} partitions, best of {ROUNDS}"
    );
    println!("plain idempotent producer      {:>9.0} rows/s", rate(0));
    println!("pipeline, exactly once         {:>9.0} rows/s, ratio {:.2}", rate(1), rate(1) / rate(0));
    println!("pipeline, at least once        {:>9.0} rows/s, ratio {:.2}", rate(2), rate(2) / rate(0));
}
