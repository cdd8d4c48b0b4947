//! Rows a second into PostgreSQL by a pipeline, against `psql`'s `\\copy` of the same rows from a file into an equal
//! table of the same server, in the same run. `cargo bench -p muster-sinks --bench postgres [-- ROWS]`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a tool, not the product"
)]

use std::collections::BTreeMap;
use std::process::Command;
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
use muster_test_servers::Server;
use rand::SeedableRng;
use rand::rngs::SmallRng;

const ROWS: u64 = 300_000;
/// Each side runs so often; the fastest counts.
const ROUNDS: usize = 3;

/// A table, and what fills it.
struct Case {
    name: &'static str,
    create: &'static str,
    /// What is copied: the columns that are not generated.
    columns: &'static str,
    star: bool,
}

const CASES: [Case; 3] = [
    Case {
        name: "telemetry, no key",
        create: "CREATE TABLE $table (clientid text, topic text, temp float8, n bigint, at timestamptz)",
        columns: "clientid, topic, temp, n, at",
        star: false,
    },
    Case {
        name: "telemetry, own columns",
        create: "CREATE TABLE $table (clientid text, topic text, temp float8, n bigint, at timestamptz, \
                 _event_id uuid, _rule text, _row int, UNIQUE (_event_id, _rule, _row))",
        columns: "clientid, topic, temp, n, at, _event_id, _rule, _row",
        star: false,
    },
    Case {
        name: "device_messages",
        create: "CREATE TABLE $table (LIKE device_messages INCLUDING ALL)",
        columns: "timestamp, clientid, username, topic, qos, payload, event, peername, peerhost, \
                  publish_received_at, node, session, seq, id, event_id, \"offset\", flags, pub_props, client_attrs, \
                  extra, _event_id, _rule, _row",
        star: true,
    },
];

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

/// `SELECT *`, or what a rule on telemetry selects.
struct Rule(bool);

impl Transform for Rule {
    fn kinds(&self) -> EventKinds {
        EventKinds::ALL
    }

    fn apply(&mut self, event: &Event, rows: &mut Vec<SharedRow>) -> Result<(), String> {
        if self.0 {
            rows.push(event.columns().into());
            return Ok(());
        }
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
        let clientid = format!("device-{}", offset % 1000);
        let client = proto::Client {
            clientid,
            seq: offset,
            peername: "10.0.0.1:51234".into(),
            proto_name: "MQTT".into(),
            proto_ver: 5,
            ..Default::default()
        };
        let payload = format!(r#"{{"temp":{},"humidity":61,"battery":3.61,"rssi":-71}}"#, offset % 100);
        let message = proto::Message { payload: payload.into(), qos: 1, ..Default::default() };
        let body = proto::Event {
            node: "muster@127.0.0.1".into(),
            client: Some(client),
            message: Some(message),
            ..Default::default()
        };
        let topic = format!("sensors/{}/up", offset % 1000);
        let timestamp_ms = 1_700_000_000_000 + offset as i64;
        Arc::new(NewEvent { timestamp_ms, kind: EventKind::MessagePublish, topic, body }.at(1 << 100, offset))
    };
    (0..rows).map(event).collect()
}

fn psql(server: &Server, sql: &str) -> Duration {
    let (host, port) = (server.address().ip().to_string(), server.address().port().to_string());
    let start = now();
    let done = Command::new("psql")
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h", &host, "-p", &port, "-c", sql])
        .output()
        .unwrap();
    assert!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
    start.elapsed()
}

fn spec<'a>(table: &'a str, options: &'a BTreeMap<String, String>) -> SinkSpec<'a> {
    SinkSpec { kind: "postgres", name: "pg", target: Some(table), rule: "telemetry", options }
}

async fn pipeline(server: &Server, table: &str, star: bool, events: Arc<Vec<Arc<Event>>>) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let clock = SystemClock::shared();
    let env = SinkEnv { data_dir: "/nowhere".into(), databases: Databases::default(), clock: clock.clone() };
    let url = format!("postgres://postgres@{}/postgres", server.address());
    let options = BTreeMap::from([("url".to_owned(), url)]);
    let built = build(&spec(table, &options), &env).unwrap();
    let config = PipelineConfig {
        id: PipelineId::new("telemetry", "pg", built.target),
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
    let running = Pipeline::spawn(config, source, Box::new(Rule(star)), built.sink, store, clock, rng);
    while running.status().delivered < end {
        assert!(running.status().last_error.is_none(), "{:?}", running.status());
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
    let server = Server::own("postgres").unwrap();
    psql(&server, include_str!("../../migrations/postgres/0004_device_messages.sql"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows");
    let file = file.display();
    println!("{rows} rows, PostgreSQL and both clients on this machine; rows/s: pipeline, \\copy, ratio");
    for (at, Case { name, create, columns, star }) in CASES.iter().enumerate() {
        let (mut copied, mut piped) = (Duration::MAX, Duration::MAX);
        for round in 0..ROUNDS {
            let (ours, theirs) = (format!("t{at}_{round}"), format!("u{at}_{round}"));
            for table in [&ours, &theirs] {
                psql(&server, &create.replace("$table", table));
            }
            psql(&server, "CHECKPOINT");
            piped = piped.min(runtime.block_on(pipeline(&server, &ours, *star, events.clone())));
            psql(&server, &format!("\\copy {ours} ({columns}) TO '{file}'"));
            psql(&server, "CHECKPOINT");
            copied = copied.min(psql(&server, &format!("\\copy {theirs} ({columns}) FROM '{file}'")));
            psql(&server, &format!("DROP TABLE {ours}; DROP TABLE {theirs}"));
        }
        let rate = |took: Duration| rows as f64 / took.as_secs_f64();
        println!("{name:<24} {:>9.0} {:>9.0} {:>6.2}", rate(piped), rate(copied), rate(piped) / rate(copied));
    }
}
