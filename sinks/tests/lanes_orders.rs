//! What an operator asks of a pipeline in lanes is asked of all of them, also while their number is changed; and a
//! pipeline with an end, at a pace.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]
#![allow(unreachable_pub, reason = "shared test code")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_core::clock::SharedClock;
use muster_sinks::delivery::{
    DeliveryStore, Ending, Lanes, LetterFilter, Orders, Pipeline, PipelineConfig, PipelineState, Scope,
    Start, Supply, WAIT_MAX,
};
use muster_sinks::{
    Batch, BoxFuture, Durable, ErrorKind, Memory, Outcome, Part, PipelineId, RowOutcome, Sink, SinkError,
};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use support::bench::TokioClock;
use support::{ByPayload, MemoryLog, publish, small_batches, until};

/// How often each event was delivered.
type Taken = Arc<Mutex<BTreeMap<u64, u32>>>;

/// Takes all rows but poison, and counts them.
struct Counting(Taken);

impl Sink for Counting {
    fn wants_recorded_batches(&self) -> bool {
        false
    }

    fn open<'a>(&'a mut self, _: &'a PipelineId) -> BoxFuture<'a, Result<Memory, SinkError>> {
        Box::pin(async { Ok(Memory::None) })
    }

    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<Outcome, SinkError>> {
        let mut taken = self.0.lock().unwrap();
        let mut rows = Vec::new();
        for row in batch.rows() {
            if row.row.json().contains("poison") {
                rows.push(RowOutcome::Rejected(SinkError::new(ErrorKind::RejectedRow, "poison")));
                continue;
            }
            *taken.entry(row.offset()).or_default() += 1;
            rows.push(RowOutcome::Durable);
        }
        let refused = rows.iter().any(|row| !matches!(row, RowOutcome::Durable));
        Box::pin(async move {
            Ok(if refused {
                Outcome::PerRow { rows, error: None }
            } else {
                Outcome::Durable(Durable::promise(batch))
            })
        })
    }

    fn check(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async { Ok(()) })
    }
}

struct Stage {
    log: MemoryLog,
    store: DeliveryStore,
    clock: SharedClock,
    taken: Taken,
}

impl Stage {
    fn new() -> Self {
        Self {
            log: MemoryLog::default(),
            store: DeliveryStore::inline(Path::new(":memory:")),
            clock: Arc::new(TokioClock(tokio::time::Instant::now())),
            taken: Taken::default(),
        }
    }

    fn append(&self, many: u64, payload: &str) {
        for n in 0..many {
            self.log.append(publish(&format!("device-{n}"), payload, 0));
        }
    }

    fn id() -> PipelineId {
        PipelineId::new("rule", "sink", "")
    }

    fn config(id: PipelineId) -> PipelineConfig {
        PipelineConfig {
            id,
            rule_version: "1".into(),
            start: Start::Earliest,
            paused: false,
            limits: small_batches(),
            retry_wait_max: WAIT_MAX,
        }
    }

    fn start(&self, lanes: u32) -> Lanes {
        let taken = self.taken.clone();
        let supply: Supply = Box::new(move || Ok((Box::new(ByPayload), Box::new(Counting(taken.clone())))));
        let (log, rng) = (Arc::new(self.log.clone()), SmallRng::seed_from_u64(1));
        let (store, clock) = (self.store.clone(), self.clock.clone());
        Lanes::spawn((Self::config(Self::id()), lanes), log, supply, store, clock, rng)
    }

    async fn settled(&self, running: &Lanes, lanes: u32) {
        until("all is settled", async || {
            let status = running.status();
            let there = (status.cursor, status.lanes, status.state);
            there == (self.log.len(), lanes, PipelineState::Running)
        })
        .await;
    }

    /// How many events were delivered so often.
    fn times(&self) -> BTreeMap<u32, usize> {
        let mut times = BTreeMap::new();
        self.taken.lock().unwrap().values().for_each(|it| *times.entry(*it).or_default() += 1);
        times
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_for_all_lanes_and_over_a_change_of_their_number() {
    let stage = Stage::new();
    stage.append(100, "x");
    let running = stage.start(4);
    stage.settled(&running, 4).await;
    stage.store.order_pause(&Stage::id(), true).await.unwrap();
    running.pause();
    running.kill().await;
    stage.append(100, "x");
    let running = stage.start(2);
    tokio::time::sleep(Duration::from_secs(600)).await;
    let status = running.status();
    assert_eq!((status.state, status.delivered), (PipelineState::Paused, 100), "{status:?}");
    stage.store.order_pause(&Stage::id(), false).await.unwrap();
    running.resume();
    stage.settled(&running, 2).await;
    assert_eq!(stage.times(), BTreeMap::from([(1, 200)]));
    let status = running.status();
    assert_eq!((status.matched, status.delivered, status.pending), (200, 200, 0), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_one_of_all_lanes_also_of_those_that_are_to_come() {
    for lanes in [3, 1, 5] {
        let stage = Stage::new();
        stage.append(90, "x");
        stage.append(3, "fail");
        let running = stage.start(3);
        stage.settled(&running, 3).await;
        // Ordered, and not carried out before the next start.
        stage.store.order_reset(&Stage::id(), 30).await.unwrap();
        running.kill().await;
        assert_eq!(stage.store.orders(&Stage::id()).await.unwrap().reset_to, Some(30));
        let running = stage.start(lanes);
        stage.settled(&running, lanes).await;
        until("the order is done", async || {
            stage.store.orders(&Stage::id()).await.unwrap() == Orders::default()
        })
        .await;
        stage.settled(&running, lanes).await;
        assert_eq!(stage.times(), BTreeMap::from([(1, 30), (2, 60)]), "{lanes} lanes");
        let status = running.status();
        // What was delivered twice counts twice, what is dead is made anew and counts once.
        let books = (status.matched, status.delivered, status.dead, status.pending);
        assert_eq!(books, (153, 150, 3, 0), "{lanes} lanes: {status:?}");
        assert_eq!(stage.store.count_letters(LetterFilter::default()).await.unwrap(), 3);
        // And while it runs.
        stage.store.order_reset(&Stage::id(), 90).await.unwrap();
        running.reset(90);
        stage.settled(&running, lanes).await;
        assert_eq!(stage.times(), BTreeMap::from([(1, 30), (2, 60)]), "{lanes} lanes");
    }
}

#[tokio::test(start_paused = true)]
async fn dead_letters_go_over_to_the_lanes_that_come() {
    let stage = Stage::new();
    stage.append(20, "x");
    stage.append(20, "poison");
    let running = stage.start(4);
    stage.settled(&running, 4).await;
    running.stop(Duration::from_secs(1)).await;
    let running = stage.start(2);
    stage.settled(&running, 2).await;
    let letters = stage.store.letters(LetterFilter::default(), 100).await.unwrap();
    assert_eq!(letters.len(), 20);
    let first = stage.store.lane_plan(&Stage::id()).await.unwrap().ids(&Stage::id()).remove(0);
    assert!(letters.iter().all(|letter| letter.pipeline == first), "{first}");
    let replayed = running.replay_letters(LetterFilter::default()).await.unwrap();
    assert_eq!(
        (replayed.delivered, replayed.still_dead),
        (0, 20),
        "they are poison still, and looked at once"
    );
    let status = running.status();
    assert_eq!((status.matched, status.delivered, status.dead), (40, 20, 20), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_with_an_end_keeps_its_pace_and_stops_there() {
    let stage = Stage::new();
    stage.append(400, "x");
    let id = Stage::id().with_part(Part::Replay(7));
    let config = PipelineConfig { start: Start::Offset(50), ..Stage::config(id.clone()) };
    let scope = Scope { ending: Ending::At(350), rows_per_second: Some(100), ..Scope::default() };
    let begun = tokio::time::Instant::now();
    let running = Pipeline::spawn_within(
        (config, scope),
        Arc::new(stage.log.clone()),
        Box::new(ByPayload),
        Box::new(Counting(stage.taken.clone())),
        stage.store.clone(),
        stage.clock.clone(),
        SmallRng::seed_from_u64(1),
    );
    let done = running.done().await.unwrap();
    let took = begun.elapsed();
    assert_eq!((done.cursor.offset, done.totals.delivered), (350, 300));
    assert_eq!((running.status().state, running.status().pending), (PipelineState::Done, 0));
    assert_eq!(stage.times(), BTreeMap::from([(1, 300)]));
    assert!((Duration::from_millis(2_800)..Duration::from_secs(4)).contains(&took), "{took:?}");
    // Nothing of it is in the books of the rule's own pipeline.
    assert_eq!(stage.store.checkpoint(&Stage::id()).await.unwrap(), None);
    assert_eq!(stage.store.checkpoint(&id).await.unwrap(), Some(done));
}
