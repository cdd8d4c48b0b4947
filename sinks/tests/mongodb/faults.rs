//! The server dies, the way to it is cut: every row is there, and once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection};
use muster_core::clock::SystemClock;
use muster_sinks::delivery::{DeliveryStore, Pipeline, PipelineConfig, PipelineHandle, Start, WAIT_MAX};
use muster_sinks::{Built, PipelineId};
use muster_test_servers::{Proxy, Server};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::declared;
use crate::support::{ByPayload, MemoryLog, publish, small_batches, until, until_settled};

struct Running {
    log: MemoryLog,
    pipeline: PipelineHandle,
    _dir: tempfile::TempDir,
}

fn run(built: Built, seed: u64) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let store = DeliveryStore::open(&dir.path().join("delivery.db")).unwrap();
    let config = PipelineConfig {
        id: PipelineId::new("rule", "mongo", built.target),
        rule_version: "1".into(),
        retry_wait_max: WAIT_MAX,
        start: Start::Earliest,
        paused: false,
        limits: small_batches(),
    };
    let log = MemoryLog::default();
    let (source, clock) = (Arc::new(log.clone()), SystemClock::shared());
    let rng = SmallRng::seed_from_u64(seed);
    let pipeline = Pipeline::spawn(config, source, Box::new(ByPayload), built.sink, store, clock, rng);
    Running { log, pipeline, _dir: dir }
}

async fn offsets(collection: &Collection<Document>) -> Vec<i64> {
    let mut cursor = collection.find(doc! {}).await.unwrap();
    let mut offsets = Vec::new();
    while cursor.advance().await.unwrap() {
        offsets.push(cursor.deserialize_current().unwrap().get_i64("offset").unwrap());
    }
    offsets
}

fn address(server: std::net::SocketAddr) -> String {
    format!("mongodb://muster:secret@{server}/faults?authSource=admin")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_loses_and_doubles_nothing() {
    let Some(mut server) = Server::own("mongodb") else { return };
    let url = address(server.address());
    let running = run(declared("t", &[("url", &url), ("timeout_ms", "2000")]).unwrap(), 1);
    for round in 0..3_u64 {
        for _ in 0..300 {
            running.log.append(publish("a", "hello", 0));
        }
        let delivered = round * 300 + 50;
        until("some rows", async || running.pipeline.status().delivered >= delivered).await;
        server.kill();
        server.start();
    }
    until_settled(&running.pipeline, running.log.len()).await;
    let client = Client::with_uri_str(&url).await.unwrap();
    let found = offsets(&client.database("faults").collection("t")).await;
    assert_eq!(found.len(), 900);
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), (0..900).collect::<BTreeSet<_>>());
    running.pipeline.stop(Duration::from_secs(5)).await;
}

/// Rows into a collection and into one with a key, by a way that is cut at any moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_that_is_cut_at_any_moment_loses_and_doubles_nothing() {
    let Some(server) = Server::shared("mongodb") else { return };
    let client = Client::with_uri_str(address(server.address())).await.unwrap();
    for seed in 0..2 {
        eprintln!("SEED={seed}");
        let mut rng = SmallRng::seed_from_u64(seed);
        let proxy = Proxy::before(server.address()).await;
        let url = address(proxy.address());
        let (rows, last) = (format!("rows_{seed}"), format!("last_{seed}"));
        let (key, guard) = (format!("key.{last}"), format!("guard.{last}"));
        let common = [("url", url.as_str()), ("timeout_ms", "2000")];
        let status = [common[0], common[1], (&key, "clientid"), (&guard, "offset")];
        let running = [
            run(declared(&rows, &common).unwrap(), seed),
            run(declared(&last, &status).unwrap(), seed + 100),
        ];
        for _ in 0..25 {
            for _ in 0..rng.random_range(0..40) {
                let device = format!("d{}", rng.random_range(0..5));
                for one in &running {
                    one.log.append(publish(&device, "hello", 0));
                }
            }
            // Not a wait for anything: it moves the cut to another moment.
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..15))).await;
            proxy.cut();
        }
        for one in &running {
            until_settled(&one.pipeline, one.log.len()).await;
        }
        let database = client.database("faults");
        let found = offsets(&database.collection(&rows)).await;
        assert_eq!(found.len() as u64, running[0].log.len());
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>().len() as u64, running[0].log.len());
        let newest =
            running[1].log.events().into_iter().map(|event| (event.clientid().to_owned(), event.offset));
        let newest: std::collections::BTreeMap<_, _> = newest.collect();
        let newest: BTreeSet<_> = newest.into_values().map(|offset| offset as i64).collect();
        let found = offsets(&database.collection(&last)).await;
        assert_eq!(found.len(), newest.len());
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), newest);
        for one in running {
            one.pipeline.stop(Duration::from_secs(5)).await;
        }
    }
}
