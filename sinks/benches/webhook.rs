//! Requests a second that the sink makes of rows, alone and in a pipeline, against a bare reqwest client that sends the
//! same bodies to the same receiver in the same run, one and eight at a time.
//! `cargo bench --workspace --bench webhook [-- ROWS] [OPTION=VALUE]`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a tool, not the product"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use muster_core::clock::SystemClock;
use muster_sinks::database::Databases;
use muster_sinks::delivery::{DeliveryStore, Pipeline, PipelineConfig, Start, Transform, WAIT_MAX};
use muster_sinks::{BatchRow, Outcome, PipelineId, SinkEnv, SinkSpec, build};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use support::{ByPayload, MemoryLog, batch_of, opened, publish};

const ROWS: usize = 8_000;
/// Devices that rows come from.
const CLIENTS: usize = 1_000;
/// Each side runs so often, in turns; the fastest counts.
const ROUNDS: usize = 3;
/// An id as long as the sink's.
const ID: &str = "msg_ABCD0000000000000000000000000001_0_hot";
/// Rows in a batch: the sink's default.
const BATCH_ROWS: usize = 100;

/// A receiver in threads of its own, as it would be on another machine.
fn receiver() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let take = post(|body: String| async move {
                drop(body);
                StatusCode::NO_CONTENT
            });
            axum::serve(listener, Router::new().route("/", take)).await.unwrap();
        });
    });
    url
}

/// Tasks that each send one body after the other over one shared client.
async fn bare(url: &str, bodies: Arc<Vec<String>>, in_flight: usize) -> Duration {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = reqwest::Url::parse(url).unwrap();
    let next = Arc::new(AtomicUsize::new(0));
    let start = now();
    let send = |_| {
        let (client, bodies, next, url) = (client.clone(), bodies.clone(), next.clone(), url.clone());
        tokio::spawn(async move {
            while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
                // As many headers as the sink sends, but the same each time.
                let request = client
                    .post(url.clone())
                    .header("content-type", "application/json")
                    .header("webhook-id", ID)
                    .header("idempotency-key", ID)
                    .header("webhook-timestamp", 1_700_000_000)
                    .header("webhook-signature", "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=")
                    .body(body.clone());
                let answer = request.send().await.unwrap();
                assert!(answer.status().is_success());
                drop(answer.bytes().await.unwrap());
            }
        })
    };
    for task in (0..in_flight).map(send).collect::<Vec<_>>() {
        task.await.unwrap();
    }
    start.elapsed()
}

/// The sink alone, batch by batch, as a pipeline would hand them to it.
async fn sink(url: &str, log: &MemoryLog, options: &[(&str, &str)]) -> Duration {
    let env = SinkEnv {
        data_dir: "/nowhere".into(),
        databases: Databases::default(),
        clock: SystemClock::shared(),
    };
    let mut sink =
        opened("webhook", ("hot", None), &env, &[&[("url", url)], options].concat()).await.unwrap();
    let mut made = Vec::new();
    let rows: Vec<BatchRow> = log
        .events()
        .into_iter()
        .map(|event| {
            ByPayload.apply(&event, &mut made).unwrap();
            BatchRow { index: 0, row: made.pop().unwrap(), event }
        })
        .collect();
    // In a task, as a pipeline is: the thread that waits for the end is none of the runtime's.
    let sending = tokio::spawn(async move {
        let start = now();
        for rows in rows.chunks(BATCH_ROWS) {
            let outcome = sink.deliver(&batch_of("hot", rows.to_vec())).await.unwrap();
            assert!(matches!(outcome, Outcome::Durable(_)), "{outcome:?}");
        }
        start.elapsed()
    });
    sending.await.unwrap()
}

async fn pipeline(dir: &Path, url: &str, log: &MemoryLog, options: &[(&str, &str)]) -> Duration {
    let clock = SystemClock::shared();
    let env = SinkEnv { data_dir: dir.to_owned(), databases: Databases::default(), clock: clock.clone() };
    let mut options: BTreeMap<_, _> =
        options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    options.insert("url".into(), url.into());
    let built =
        build(&SinkSpec { kind: "webhook", name: "ops", target: None, rule: "hot", options: &options }, &env)
            .unwrap();
    let config = PipelineConfig {
        id: PipelineId::new("hot", "ops", built.target),
        rule_version: "1".into(),
        start: Start::Earliest,
        paused: false,
        limits: built.limits,
        retry_wait_max: WAIT_MAX,
    };
    let store = DeliveryStore::open(&dir.join("delivery.db")).unwrap();
    let rng = SmallRng::seed_from_u64(1);
    let start = now();
    let source = Arc::new(log.clone());
    let running = Pipeline::spawn(config, source, Box::new(ByPayload), built.sink, store, clock, rng);
    while running.status().delivered < log.len() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = start.elapsed();
    running.stop(Duration::from_secs(5)).await;
    took
}

/// CPU time of the process so far, the receiver's threads included.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// The shortest time and the least CPU time of a side's rounds.
#[derive(Clone, Copy)]
struct Best(Duration, Duration);

impl Best {
    fn of(&mut self, run: impl FnOnce() -> Duration) {
        let before = cpu();
        let took = run();
        *self = Self(self.0.min(took), self.1.min(cpu() - before));
    }

    fn line(&self, name: &str, rows: usize, bare: &Self) {
        let rate = rows as f64 / self.0.as_secs_f64();
        let (ratio, cpu) =
            (bare.0.as_secs_f64() / self.0.as_secs_f64(), self.1.as_secs_f64() / rows as f64 * 1e6);
        println!(
            "  {name:<13} {rate:>7.0} requests/s, ratio {ratio:.2}; {cpu:>5.0} us of CPU each, receiver included"
        );
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures with the machine's clock")]
fn now() -> Instant {
    Instant::now()
}

fn main() {
    let rows: usize = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(ROWS);
    let more: Vec<String> = std::env::args().skip(1).collect();
    let more: Vec<_> = more.iter().filter_map(|arg| arg.split_once('=')).collect();
    // The bare client has no provider of TLS to choose from until somebody installs one.
    drop(rustls::crypto::ring::default_provider().install_default());
    let log = MemoryLog::default();
    for at in 0..rows {
        log.append(publish(&format!("device-{}", at % CLIENTS), &format!("reading {at}"), at as i64));
    }
    let body = |at| {
        format!(r#"{{"clientid":"device-{}","offset":{at},"part":0,"payload":"reading {at}"}}"#, at % CLIENTS)
    };
    let bodies = Arc::new((0..rows).map(body).collect::<Vec<_>>());
    let url = receiver();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    println!("{rows} rows of {CLIENTS} devices, requests/s; best of {ROUNDS}; the sink signs each");
    for in_flight in [1, 8] {
        let best = Best(Duration::MAX, Duration::MAX);
        let (mut plain, mut alone, mut piped) = (best, best, best);
        for _ in 0..ROUNDS {
            let dir = tempfile::tempdir().unwrap();
            let number = in_flight.to_string();
            let options = [&[("in_flight", &*number), ("secret", secret)], &more[..]].concat();
            plain.of(|| runtime.block_on(bare(&url, bodies.clone(), in_flight)));
            alone.of(|| runtime.block_on(sink(&url, &log, &options)));
            piped.of(|| runtime.block_on(pipeline(dir.path(), &url, &log, &options)));
        }
        println!("in_flight {in_flight}:");
        plain.line("bare reqwest", rows, &plain);
        alone.line("sink", rows, &plain);
        piped.line("pipeline", rows, &plain);
    }
}
