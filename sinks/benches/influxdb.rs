//! Points a second into InfluxDB by the sink, against bare posts of the same prepared bodies to the same server, in the
//! same run. `cargo bench -p muster-sinks --bench influxdb [-- ROWS]`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a tool, not the product"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use muster_core::clock::SystemClock;
use muster_core::event::{EventKind, NewEvent, proto};
use muster_core::value::Row;
use muster_sinks::database::Databases;
use muster_sinks::{
    Batch, BatchRow, Checkpoint, Cursor, Outcome, PipelineId, Sink, SinkEnv, SinkSpec, Totals, build,
};
use muster_test_servers::Server;

const ROWS: u64 = 200_000;
/// Rows in a request: the sink's default, for both.
const REQUEST_ROWS: usize = 5_000;
/// Each side runs so often, in turns; the fastest counts.
const ROUNDS: usize = 3;
const TOKEN: &str = "muster:muster-secret";

fn batches(rows: u64) -> Vec<Batch> {
    let row = |offset| {
        let client = proto::Client { clientid: format!("device-{}", offset % 1000), ..Default::default() };
        let body = proto::Event { client: Some(client), ..Default::default() };
        let topic = format!("sensors/{}/up", offset % 1000);
        let timestamp_ms = 1_700_000_000_000 + offset as i64;
        let event =
            NewEvent { timestamp_ms, kind: EventKind::MessagePublish, topic, body }.at(1 << 100, offset);
        let mut row = Row::with_capacity(5);
        row.insert("clientid", event.clientid());
        row.insert("topic", event.topic.as_str());
        row.insert("temp", 20.0 + (offset % 100) as f64 / 10.0);
        row.insert("n", offset);
        row.insert("ok", true);
        BatchRow { event: Arc::new(event), index: 0, row: row.into() }
    };
    let rows: Vec<_> = (0..rows).map(row).collect();
    let pipeline = Arc::new(PipelineId::new("telemetry", "tsdb", "telemetry"));
    let batch = |rows: &[BatchRow]| {
        let cursor = Cursor::at(rows.last().map_or(0, |row| row.offset() + 1));
        let after = Checkpoint { log_id: 1 << 100, cursor, totals: Totals::default() };
        let picked = (0..rows.len() as u32).collect();
        Batch::new(pipeline.clone(), after, 1, Arc::new(rows.to_vec()), picked)
    };
    rows.chunks(REQUEST_ROWS).map(batch).collect()
}

fn sink(url: &str, bucket: &str, gzip: &str) -> Box<dyn Sink> {
    let given = [("url", url), ("bucket", bucket), ("token", TOKEN), ("gzip", gzip)];
    let options: BTreeMap<_, _> = given.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let env = SinkEnv { data_dir: ".".into(), databases: Databases::default(), clock: SystemClock::shared() };
    let spec =
        SinkSpec { kind: "influxdb", name: "tsdb", target: None, rule: "telemetry", options: &options };
    build(&spec, &env).unwrap().sink
}

async fn deliver(mut sink: Box<dyn Sink>, batches: &[Batch]) -> Duration {
    sink.open(&batches[0].pipeline).await.unwrap();
    let start = now();
    for batch in batches {
        assert!(matches!(sink.deliver(batch).await.unwrap(), Outcome::Durable(_)));
    }
    start.elapsed()
}

/// The bodies that the sink sends, as a server sees them.
async fn bodies(batches: &[Batch], gzip: &str) -> Vec<Bytes> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen: Arc<Mutex<Vec<Bytes>>> = Arc::default();
    let taken = seen.clone();
    let router = Router::new()
        .fallback(async move |body: Bytes| {
            taken.lock().unwrap().push(body);
            StatusCode::NO_CONTENT
        })
        .layer(axum::extract::DefaultBodyLimit::disable());
    let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    deliver(sink(&url, "b", gzip), batches).await;
    server.abort();
    std::mem::take(&mut *seen.lock().unwrap())
}

async fn bare(http: &reqwest::Client, url: &str, bucket: &str, gzip: &str, bodies: &[Bytes]) -> Duration {
    let url = format!("{url}/api/v2/write?bucket={bucket}&precision=ns");
    let start = now();
    for body in bodies {
        let mut request =
            http.post(&url).header("authorization", format!("Token {TOKEN}")).body(body.clone());
        if gzip == "true" {
            request = request.header("content-encoding", "gzip");
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NO_CONTENT, "{}", answer.text().await.unwrap());
    }
    start.elapsed()
}

/// An empty bucket, so that each round meets the same server.
async fn empty(http: &reqwest::Client, url: &str, bucket: &str) {
    for statement in ["DROP", "CREATE"] {
        let request = http.post(format!("{url}/query")).basic_auth("muster", Some("muster-secret"));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = request.body(format!("q={statement}+DATABASE+{bucket}")).send().await.unwrap();
        assert!(!answer.text().await.unwrap().contains("error"));
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures with the machine's clock")]
fn now() -> Instant {
    Instant::now()
}

fn main() {
    let rows = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(ROWS);
    let Some(server) = Server::own("influxdb") else { return };
    drop(rustls::crypto::ring::default_provider().install_default());
    let url = format!("http://{}", server.address());
    let batches = batches(rows);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    println!("{rows} points of 1 tag column, the rule's tag and 4 fields, {REQUEST_ROWS} in a request");
    runtime.block_on(async {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        for gzip in ["true", "false"] {
            let bodies = bodies(&batches, gzip).await;
            let bytes: usize = bodies.iter().map(Bytes::len).sum();
            let (mut plain, mut sunk) = (Duration::MAX, Duration::MAX);
            for _ in 0..ROUNDS {
                empty(&http, &url, "bare").await;
                plain = plain.min(bare(&http, &url, "bare", gzip, &bodies).await);
                empty(&http, &url, "sink").await;
                sunk = sunk.min(deliver(sink(&url, "sink", gzip), &batches).await);
            }
            let rate = |took: Duration| rows as f64 / took.as_secs_f64();
            println!("gzip = {gzip}: {} bytes a point", bytes as u64 / rows);
            println!("  bare posts of prepared bodies  {:>9.0} points/s", rate(plain));
            println!("  sink                           {:>9.0} points/s", rate(sunk));
            println!("  ratio                          {:>9.2}", rate(sunk) / rate(plain));
        }
    });
}
