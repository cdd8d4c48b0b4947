//! A target that is dead, silent or slow holds up nobody else: beside it another pipeline of the same log and the same
//! store comes to the end, counted and not timed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]
#![allow(unreachable_pub, reason = "shared test code")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use muster_core::clock::SystemClock;
use muster_sinks::delivery::{
    DeliveryStore, Lanes, Pipeline, PipelineConfig, PipelineHandle, PipelineState, Start, Supply, WAIT_MAX,
};
use muster_sinks::{Batch, BoxFuture, Durable, ErrorKind, Memory, Outcome, PipelineId, Sink, SinkError};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use support::{ByPayload, MemoryLog, publish, small_batches, until, until_settled};
use tokio::sync::Semaphore;

/// Events of the log: hundreds of batches.
const EVENTS: u64 = 2_000;

/// What is wrong with the neighbour.
#[derive(Debug, Clone)]
enum Trouble {
    /// It never answers to an attempt to open it.
    SilentAtTheDoor,
    /// It never answers to a batch.
    Silent,
    /// It refuses every batch for now.
    Down,
    /// It waits for an operator.
    Broken,
    /// It takes a batch only when it is allowed to.
    Slow(Arc<Semaphore>),
}

struct Neighbour(Trouble);

impl Sink for Neighbour {
    fn wants_recorded_batches(&self) -> bool {
        true
    }

    fn open<'a>(&'a mut self, _: &'a PipelineId) -> BoxFuture<'a, Result<Memory, SinkError>> {
        Box::pin(async {
            if matches!(self.0, Trouble::SilentAtTheDoor) {
                std::future::pending::<()>().await;
            }
            Ok(Memory::None)
        })
    }

    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<Outcome, SinkError>> {
        Box::pin(async move {
            match &self.0 {
                Trouble::SilentAtTheDoor | Trouble::Silent => std::future::pending().await,
                Trouble::Down => Err(SinkError::unavailable("down")),
                Trouble::Broken => Err(SinkError::new(ErrorKind::Fatal, "broken")),
                Trouble::Slow(allowed) => {
                    allowed.acquire().await.unwrap().forget();
                    Ok(Outcome::Durable(Durable::promise(batch)))
                }
            }
        })
    }

    fn check(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async { Ok(()) })
    }
}

/// A target that takes everything, and counts the rows.
struct Well(Arc<AtomicU64>);

impl Sink for Well {
    fn wants_recorded_batches(&self) -> bool {
        false
    }

    fn open<'a>(&'a mut self, _: &'a PipelineId) -> BoxFuture<'a, Result<Memory, SinkError>> {
        Box::pin(async { Ok(Memory::None) })
    }

    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<Outcome, SinkError>> {
        self.0.fetch_add(batch.len() as u64, Ordering::SeqCst);
        Box::pin(async move { Ok(Outcome::Durable(Durable::promise(batch))) })
    }

    fn check(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async { Ok(()) })
    }
}

struct Street {
    log: MemoryLog,
    store: DeliveryStore,
    _dir: tempfile::TempDir,
}

impl Street {
    fn new() -> Self {
        let log = MemoryLog::default();
        for n in 0..EVENTS {
            log.append(publish(&format!("device-{}", n % 50), "x", 0));
        }
        let dir = tempfile::tempdir().unwrap();
        Self { log, store: DeliveryStore::open(&dir.path().join("delivery.db")).unwrap(), _dir: dir }
    }

    fn config(sink: &str) -> PipelineConfig {
        PipelineConfig {
            id: PipelineId::new("rule", sink, ""),
            rule_version: "1".into(),
            start: Start::Earliest,
            paused: false,
            limits: small_batches(),
            retry_wait_max: WAIT_MAX,
        }
    }

    fn start(&self, name: &str, sink: Box<dyn Sink>) -> PipelineHandle {
        let (log, rng) = (Arc::new(self.log.clone()), SmallRng::seed_from_u64(1));
        let (store, clock) = (self.store.clone(), SystemClock::shared());
        Pipeline::spawn(Self::config(name), log, Box::new(ByPayload), sink, store, clock, rng)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_neighbour_in_trouble() {
    let gate = Arc::new(Semaphore::new(0));
    for trouble in [
        Trouble::SilentAtTheDoor,
        Trouble::Silent,
        Trouble::Down,
        Trouble::Broken,
        Trouble::Slow(gate.clone()),
    ] {
        let street = Street::new();
        let held = street.start("held", Box::new(Neighbour(trouble.clone())));
        let counted = Arc::new(AtomicU64::new(0));
        let well = street.start("well", Box::new(Well(counted.clone())));
        until_settled(&well, EVENTS).await;
        assert_eq!(counted.load(Ordering::SeqCst), EVENTS, "{trouble:?}");
        let status = held.status();
        assert_eq!((status.delivered, status.cursor), (0, 0), "{trouble:?}: {status:?}");
        // What the neighbour holds in memory is bounded: the batch that is under way, and the next one.
        assert!(status.pending <= 2 * small_batches().batch_rows_max as u64 + 7, "{trouble:?}: {status:?}");
        if let Trouble::Slow(gate) = trouble {
            gate.add_permits(EVENTS as usize);
            until_settled(&held, EVENTS).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_of_one_pipeline_do_not_wait_for_each_other() {
    let street = Street::new();
    let (gate, mut made) = (Arc::new(Semaphore::new(0)), 0);
    let slow = gate.clone();
    let counted = Arc::new(AtomicU64::new(0));
    let rows = counted.clone();
    // The lane that the pipeline had as a whole, and three lanes, the first of which is held.
    let supply: Supply = Box::new(move || {
        made += 1;
        let sink: Box<dyn Sink> = match made {
            2 => Box::new(Neighbour(Trouble::Slow(slow.clone()))),
            _ => Box::new(Well(rows.clone())),
        };
        Ok((Box::new(ByPayload), sink))
    });
    let (log, rng) = (Arc::new(street.log.clone()), SmallRng::seed_from_u64(1));
    let (store, clock) = (street.store.clone(), SystemClock::shared());
    let lanes = Lanes::spawn((Street::config("lanes"), 3), log, supply, store, clock, rng);
    until("the others are at the end", async || {
        let all = lanes.lanes();
        all.len() == 3 && all[1..].iter().all(|it| it.cursor == EVENTS)
    })
    .await;
    let held = lanes.lanes()[0].clone();
    assert_eq!((held.delivered, held.state), (0, PipelineState::Running), "{held:?}");
    gate.add_permits(EVENTS as usize);
    until("all are at the end", async || lanes.status().cursor == EVENTS).await;
    let all = lanes.status();
    assert_eq!((all.lanes, all.matched, all.delivered), (3, EVENTS, EVENTS), "{all:?}");
    assert_eq!(counted.load(Ordering::SeqCst) + lanes.lanes()[0].delivered, EVENTS);
}
