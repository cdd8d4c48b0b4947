//! Delivery under faults that nobody can produce by hand: many seeds, each a history of appends, crashes, stops,
//! pauses and failing targets in simulated time; at the end every row is where it belongs, exactly once. A failing
//! seed runs alone with `SEED=... cargo test -p muster-sinks --test simulation`; `SEEDS=...` asks for more of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]
#![allow(unreachable_pub, reason = "shared test code")]

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_core::clock::SharedClock;
use muster_sinks::PipelineId;
use muster_sinks::delivery::{
    DeliveryStore, LETTERS_MAX, LetterFilter, Pipeline, PipelineConfig, PipelineHandle, Start, Transform,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use support::simulated::{Simulated, Style, Target, TokioClock};
use support::{ByPayload, MemoryLog, noise, publish, small_batches};

/// Seeds of one run of the suite, for each style of target.
const SEEDS: u64 = 150;

/// Offsets and rows.
type Places = BTreeSet<(u64, u32)>;

struct World {
    style: Style,
    rng: SmallRng,
    log: MemoryLog,
    store: DeliveryStore,
    target: Arc<Mutex<Target>>,
    clock: SharedClock,
    version: u32,
    committed: u64,
}

impl World {
    fn new(style: Style, seed: u64) -> Self {
        Self {
            style,
            rng: SmallRng::seed_from_u64(seed),
            log: MemoryLog::default(),
            store: DeliveryStore::inline(Path::new(":memory:")),
            target: Arc::default(),
            clock: Arc::new(TokioClock(tokio::time::Instant::now())),
            version: 0,
            committed: 0,
        }
    }

    fn id() -> PipelineId {
        PipelineId::new("rule", "sink", "")
    }

    fn start(&mut self) -> PipelineHandle {
        let sink = Simulated::new(self.style, &self.target, self.rng.random());
        let mut limits = small_batches();
        limits.batch_rows_max = self.rng.random_range(1..20);
        let config = PipelineConfig {
            id: Self::id(),
            rule_version: self.version.to_string(),
            start: Start::Earliest,
            paused: false,
            limits,
            retry_wait_max: muster_sinks::delivery::WAIT_MAX,
        };
        let rng = SmallRng::seed_from_u64(self.rng.random());
        let (log, clock) = (Arc::new(self.log.clone()), self.clock.clone());
        Pipeline::spawn(config, log, Box::new(ByPayload), Box::new(sink), self.store.clone(), clock, rng)
    }

    fn append(&mut self) {
        for _ in 0..self.rng.random_range(0..25) {
            let client = ["a", "b", "c", "d"][self.rng.random_range(0..4)];
            let payload = match self.rng.random_range(0..20) {
                0..8 => "hello",
                8..10 => "none",
                10..12 => "3",
                12 => "25",
                13 => "fail",
                14 => "poison",
                _ => "noise",
            };
            let at_ms = self.clock.wall_ms();
            self.log.append(if payload == "noise" { noise(at_ms) } else { publish(client, payload, at_ms) });
        }
    }

    async fn step(&mut self, running: PipelineHandle) -> PipelineHandle {
        let mut running = Some(running);
        let replays = self.style != Style::BatchTokens;
        match self.rng.random_range(0..14) {
            0 | 1 => {
                running.take().unwrap().kill().await;
            }
            2 => {
                let limit = Duration::from_millis(self.rng.random_range(0..100));
                let _ = running.take().unwrap().stop(limit).await;
                // A token is given for rows; other rows under a changed rule are another batch.
                self.version += u32::from(self.style != Style::BatchTokens);
            }
            3 => running.as_ref().unwrap().pause(),
            4 | 5 => running.as_ref().unwrap().resume(),
            6 => self.target.lock().unwrap().faults = [0, 10, 60, 100][self.rng.random_range(0..4)],
            7 if replays => {
                let patience = Duration::from_millis(self.rng.random_range(0..300));
                let replay = running.as_ref().unwrap().replay_letters(LetterFilter::default());
                // Given up or failed: the letters are there, or they are where they were going.
                drop(tokio::time::timeout(patience, replay).await);
            }
            8 if replays => self.target.lock().unwrap().cured ^= true,
            _ => self.append(),
        }
        for _ in 0..self.rng.random_range(0..4) {
            tokio::task::yield_now().await;
        }
        if self.rng.random_bool(0.7) {
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..200))).await;
        }
        if let Some(running) = &running {
            let status = running.status();
            assert_eq!(status.matched, status.delivered + status.dead + status.pending, "{status:?}");
        }
        self.cursor_stays_ahead().await;
        match running {
            Some(running) => running,
            None => self.start(),
        }
    }

    /// What is committed never goes back.
    async fn cursor_stays_ahead(&mut self) {
        let checkpoint = match self.style {
            Style::Transaction => {
                self.target.lock().unwrap().pipelines.get(&Self::id().to_string()).and_then(|it| it.0)
            }
            _ => self.store.checkpoint(&Self::id()).await.unwrap(),
        };
        let cursor = checkpoint.map_or(0, |checkpoint| checkpoint.cursor.offset);
        assert!(cursor >= self.committed, "the cursor went back from {} to {cursor}", self.committed);
        self.committed = cursor;
    }

    /// Faults end, a fresh event flows, and everything is in its place.
    async fn conclude(&mut self, running: PipelineHandle) {
        self.target.lock().unwrap().faults = 0;
        self.log.append(publish("fresh", "hello", self.clock.wall_ms()));
        running.resume();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(3600);
        while running.status().cursor < self.log.len() {
            assert!(tokio::time::Instant::now() < deadline, "stuck: {:?}", running.status());
            tokio::time::sleep(Duration::from_millis(500)).await;
            running.resume();
        }
        let cured = self.style != Style::BatchTokens;
        if cured {
            self.target.lock().unwrap().cured = true;
            running.replay_letters(LetterFilter::default()).await.unwrap();
        }
        let (delivered, dead) = self.expected(cured);
        let status = running.status();
        let books = (status.matched, status.delivered, status.dead, status.pending, status.lag_events);
        let (many, few) = (delivered.len() as u64, dead.len() as u64);
        assert_eq!(books, (many + few, many, few, 0, 0), "{status:?}");

        self.check_target(&delivered);
        let letters = self.store.letters(LetterFilter::default(), LETTERS_MAX).await.unwrap();
        let letters: BTreeMap<_, _> =
            letters.iter().map(|letter| ((letter.cursor.offset, letter.cursor.row), letter)).collect();
        assert_eq!(letters.keys().copied().collect::<Places>(), dead);
        for letter in letters.values() {
            assert_eq!(letter.row_json.is_some(), letter.reason.contains("poison"), "{letter:?}");
            assert_eq!(
                letter.reason.contains("zero"),
                letter.event().unwrap().payload() == "fail",
                "{letter:?}"
            );
        }
        running.stop(Duration::from_secs(1)).await;
    }

    /// Every row once, and those of a client in order.
    fn check_target(&self, delivered: &Places) {
        let target = self.target.lock().unwrap();
        let there: Vec<_> = target.rows.iter().map(|(offset, row, _)| (*offset, *row)).collect();
        assert_eq!(there.len(), delivered.len(), "rows in the target");
        assert_eq!(there.iter().copied().collect::<Places>(), *delivered);
        // A row that was dead for a while comes when it is replayed.
        let events = self.log.events();
        let was_poison = |offset: u64| &events[offset as usize].payload()[..] == b"poison";
        let mut last: HashMap<&str, (u64, u32)> = HashMap::new();
        for (offset, row, client) in target.rows.iter().filter(|(offset, ..)| !was_poison(*offset)) {
            let before = last.insert(client, (*offset, *row));
            assert!(before < Some((*offset, *row)), "{client}: {before:?} before {offset}.{row}");
        }
    }

    /// The rows that must be delivered, and those that must be dead.
    fn expected(&self, cured: bool) -> (Places, Places) {
        let (mut delivered, mut dead) = (Places::new(), Places::new());
        for event in self.log.events().iter().filter(|event| ByPayload.kinds().contains(event.kind)) {
            let mut rows = Vec::new();
            match (ByPayload.apply(event, &mut rows), &event.payload()[..]) {
                (Err(_), _) => drop(dead.insert((event.offset, 0))),
                (Ok(()), b"poison") if !cured => drop(dead.insert((event.offset, 0))),
                (Ok(()), _) => delivered.extend((0..).zip(&rows).map(|(row, _)| (event.offset, row))),
            }
        }
        (delivered, dead)
    }
}

async fn history(style: Style, seed: u64) {
    let mut world = World::new(style, seed);
    let mut running = world.start();
    for _ in 0..world.rng.random_range(5..60) {
        running = world.step(running).await;
    }
    world.conclude(running).await;
}

fn seeds(style: Style) {
    let given = |name| std::env::var(name).ok().map(|number| number.parse::<u64>().expect("a number"));
    let many = 0..given("SEEDS").unwrap_or(SEEDS);
    let seeds = given("SEED").map_or(many, |seed| seed..seed + 1);
    for seed in seeds {
        let run = std::panic::catch_unwind(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.unwrap().block_on(history(style, seed));
        });
        if let Err(panic) = run {
            eprintln!("{style:?}: failed with SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn rows_and_checkpoint_in_one_transaction() {
    seeds(Style::Transaction);
}

#[test]
fn rows_with_ids() {
    seeds(Style::RowIds);
}

#[test]
fn batches_with_tokens() {
    seeds(Style::BatchTokens);
}
