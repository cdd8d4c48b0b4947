//! Requests a second that a pipeline makes of rows, against a bare reqwest client that sends the same bodies to the
//! same receiver in the same run, one and eight at a time. `cargo bench --workspace --bench webhook [-- ROWS]`
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
use muster_sinks::delivery::{DeliveryStore, Pipeline, PipelineConfig, Start, WAIT_MAX};
use muster_sinks::{PipelineId, SinkEnv, SinkSpec, build};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use support::{ByPayload, MemoryLog, publish};

const ROWS: usize = 8_000;
/// Devices that rows come from.
const CLIENTS: usize = 1_000;
/// Each side runs so often, in turns; the fastest counts.
const ROUNDS: usize = 3;

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
    let next = Arc::new(AtomicUsize::new(0));
    let start = now();
    let send = |_| {
        let (client, bodies, next, url) = (client.clone(), bodies.clone(), next.clone(), url.to_owned());
        tokio::spawn(async move {
            while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
                let request = client.post(&url).header("content-type", "application/json").body(body.clone());
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

#[expect(clippy::disallowed_methods, reason = "a benchmark measures with the machine's clock")]
fn now() -> Instant {
    Instant::now()
}

fn main() {
    let rows: usize = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(ROWS);
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
        let (mut plain, mut piped) = (Duration::MAX, Duration::MAX);
        for _ in 0..ROUNDS {
            let dir = tempfile::tempdir().unwrap();
            plain = plain.min(runtime.block_on(bare(&url, bodies.clone(), in_flight)));
            let options = [("in_flight", &*in_flight.to_string()), ("secret", secret)];
            piped = piped.min(runtime.block_on(pipeline(dir.path(), &url, &log, &options)));
        }
        let rate = |took: Duration| rows as f64 / took.as_secs_f64();
        println!(
            "in_flight {in_flight}: bare reqwest {:>7.0}, sink {:>7.0}, ratio {:.2}",
            rate(plain),
            rate(piped),
            rate(piped) / rate(plain)
        );
    }
}
