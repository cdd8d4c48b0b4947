//! Rows a second into ClickHouse by the sink, against a bare HTTP insert of the same JSONEachRow in equal batches and
//! against the crate `clickhouse`, in the same run. The server is `tests/servers/clickhouse`, or the one that
//! `MUSTER_TEST_CLICKHOUSE` names. `cargo bench -p muster-sinks --bench clickhouse [-- ROWS]`
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
use std::time::{Duration, Instant};

use muster_core::clock::SystemClock;
use muster_core::event::{Event, EventKind, NewEvent, proto};
use muster_core::value::Row;
use muster_sinks::database::Databases;
use muster_sinks::{
    Batch, BatchRow, Checkpoint, Cursor, Outcome, PipelineId, SharedRow, SinkEnv, SinkSpec, Totals, build,
};
use muster_test_servers::Server;

const ROWS: usize = 400_000;
/// Rows in a batch: the sink's default, for all.
const BATCH_ROWS: usize = 20_000;
/// Each side runs so often; the fastest counts.
const ROUNDS: usize = 3;
const COLUMNS: &str = "clientid, topic, temp, n, at, _event_id, _rule, _row";

fn events(rows: usize) -> Vec<BatchRow> {
    let event = |offset: u64| {
        let client = proto::Client { clientid: format!("device-{}", offset % 1000), ..Default::default() };
        let body = proto::Event { client: Some(client), ..Default::default() };
        let topic = format!("sensors/{}/up", offset % 1000);
        let timestamp_ms = 1_700_000_000_000 + offset as i64;
        NewEvent { timestamp_ms, kind: EventKind::MessagePublish, topic, body }.at(1 << 100, offset)
    };
    let batch_row = |offset| {
        let event = Arc::new(event(offset));
        BatchRow { row: telemetry(&event), event, index: 0 }
    };
    (0..rows as u64).map(batch_row).collect()
}

fn telemetry(event: &Event) -> SharedRow {
    let mut row = Row::with_capacity(5);
    row.insert("clientid", event.clientid());
    row.insert("topic", event.topic.as_str());
    row.insert("temp", 20.0 + (event.offset % 100) as f64 / 10.0);
    row.insert("n", event.offset);
    row.insert("at", event.timestamp_ms);
    row.into()
}

/// What the bare sides send: prepared before the clock runs.
fn prepared(rows: &[BatchRow]) -> Vec<bytes::Bytes> {
    let line = |row: &BatchRow| {
        let (json, id) = (row.row.json().trim_end_matches('}'), row.event_id());
        // The column takes seconds with a fraction where it is not told otherwise.
        let (at, seconds) = (row.event.timestamp_ms, row.event.timestamp_ms as f64 / 1000.0);
        let json = json.replace(&format!("\"at\":{at}"), &format!("\"at\":{seconds:.3}"));
        format!("{json},\"_event_id\":\"{id}\",\"_rule\":\"telemetry\",\"_row\":0}}\n")
    };
    rows.chunks(BATCH_ROWS).map(|rows| rows.iter().map(line).collect::<String>().into()).collect()
}

async fn create(http: &reqwest::Client, url: &str) {
    for sql in [
        "DROP TABLE IF EXISTS bench",
        "CREATE TABLE bench (clientid String, topic String, temp Float64, n UInt64, at DateTime64(3), \
         _event_id String, _rule LowCardinality(String), _row UInt32) ENGINE = ReplacingMergeTree \
         ORDER BY (clientid, at, _event_id, _rule, _row) SETTINGS non_replicated_deduplication_window = 1000",
    ] {
        let answer = http.post(url).body(sql).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }
}

/// One POST after the other, as plain as can be.
async fn bare(http: &reqwest::Client, url: &str, bodies: &[bytes::Bytes]) -> Duration {
    create(http, url).await;
    let start = now();
    for body in bodies {
        let sql = format!("INSERT INTO bench ({COLUMNS}) FORMAT JSONEachRow");
        let query = [("query", sql.as_str()), ("input_format_parallel_parsing", "0"), ("async_insert", "0")];
        let address = reqwest::Url::parse_with_params(url, &query).unwrap();
        let answer = http.post(address).body(body.clone()).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }
    start.elapsed()
}

/// The same bodies by ClickHouse's own client, compressed.
async fn by_crate(http: &reqwest::Client, url: &str, bodies: &[bytes::Bytes]) -> Duration {
    create(http, url).await;
    let client = clickhouse::Client::default().with_url(url).with_compression(clickhouse::Compression::Lz4);
    let client = client.with_setting("input_format_parallel_parsing", "0").with_setting("async_insert", "0");
    let start = now();
    for body in bodies {
        let sql = format!("INSERT INTO bench ({COLUMNS}) FORMAT JSONEachRow");
        let mut insert = client.insert_formatted_with(sql);
        insert.send(body.clone()).await.unwrap();
        insert.end().await.unwrap();
    }
    start.elapsed()
}

/// The sink, rows to acknowledgement: it writes the JSON itself.
async fn sink(http: &reqwest::Client, url: &str, rows: &[BatchRow], compression: &str) -> Duration {
    create(http, url).await;
    let options: BTreeMap<_, _> = [("url", url), ("compression", compression)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let spec = SinkSpec {
        kind: "clickhouse",
        name: "c",
        target: Some("bench"),
        rule: "telemetry",
        options: &options,
    };
    let env = SinkEnv {
        data_dir: "/nowhere".into(),
        databases: Databases::default(),
        clock: SystemClock::shared(),
    };
    let pipeline = Arc::new(PipelineId::new("telemetry", "c", "bench"));
    let mut sink = build(&spec, &env).unwrap().sink;
    sink.open(&pipeline).await.unwrap();
    let start = now();
    let mut done = 0;
    for chunk in rows.chunks(BATCH_ROWS) {
        done += chunk.len() as u64;
        let totals = Totals { matched: done, delivered: done, dead: 0 };
        let after = Checkpoint { log_id: 1 << 100, cursor: Cursor::at(done), totals };
        let picked = (0..chunk.len() as u32).collect();
        let batch = Batch::new(pipeline.clone(), after, 1, Arc::new(chunk.to_vec()), picked);
        assert!(matches!(sink.deliver(&batch).await.unwrap(), Outcome::Durable(_)));
    }
    start.elapsed()
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures with the machine's clock")]
fn now() -> Instant {
    Instant::now()
}

fn main() {
    let rows = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(ROWS);
    let Some(server) = Server::shared("clickhouse") else { return };
    let address: SocketAddr = server.address();
    drop(rustls::crypto::ring::default_provider().install_default());
    let url = format!("http://{address}/");
    let events = events(rows);
    let bodies = prepared(&events);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut best = [Duration::MAX; 4];
    runtime.block_on(async {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        for _ in 0..ROUNDS {
            best[0] = best[0].min(bare(&http, &url, &bodies).await);
            best[1] = best[1].min(by_crate(&http, &url, &bodies).await);
            best[2] = best[2].min(sink(&http, &url, &events, "lz4").await);
            best[3] = best[3].min(sink(&http, &url, &events, "none").await);
        }
    });
    let bytes: usize = bodies.iter().map(bytes::Bytes::len).sum();
    println!("{rows} rows of 8 columns, {BATCH_ROWS} in an INSERT, {} bytes of JSON a row", bytes / rows);
    let sides =
        ["bare HTTP, prepared JSON", "crate clickhouse, LZ4, prepared JSON", "sink, LZ4", "sink, plain"];
    for (side, took) in sides.iter().zip(best) {
        let (rate, ratio) = (rows as f64 / took.as_secs_f64(), best[0].as_secs_f64() / took.as_secs_f64());
        println!("{side:<38}{rate:>9.0} rows/s{ratio:>7.2}");
    }
}
