//! Lanes under faults: histories of appends, crashes, failing targets, and changes of the number of lanes at any
//! moment; at the end every row is in the target once, those of a client in order, and the books are exact. A failing
//! seed runs alone with `SEED=... cargo test -p muster-sinks --test lanes`; `SEEDS=...` asks for more of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]
#![allow(unreachable_pub, reason = "shared test code")]

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_core::clock::{SharedClock, SystemClock};
use muster_sinks::database::Databases;
use muster_sinks::delivery::{
    DeliveryStore, LETTERS_MAX, Lanes, LetterFilter, PipelineConfig, PipelineState, Start, Supply, Transform,
};
use muster_sinks::{PipelineId, Sink, SinkEnv, SinkSpec, build};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use support::simulated::{Simulated, Style, Target, TokioClock};
use support::{ByPayload, MemoryLog, noise, publish, small_batches};

/// Seeds of one run of the suite, for each style of target.
const SEEDS: u64 = 100;

/// Offsets and rows.
type Places = BTreeSet<(u64, u32)>;

const CLIENTS: [&str; 7] = ["a", "b", "c", "device-1", "device-2", "device-3", ""];

/// The target of a history: what makes a sink for it, and the rows that are there in the order in which they came.
trait World {
    fn sink(&self, seed: u64) -> Box<dyn Sink>;
    fn rows(&self) -> Vec<(u64, u32, String)>;
    fn set_faults(&self, percent: u32);
}

struct Faulty(Style, Arc<Mutex<Target>>);

impl World for Faulty {
    fn sink(&self, seed: u64) -> Box<dyn Sink> {
        Box::new(Simulated::new(self.0, &self.1, seed))
    }

    fn rows(&self) -> Vec<(u64, u32, String)> {
        self.1.lock().unwrap().rows.clone()
    }

    fn set_faults(&self, percent: u32) {
        self.1.lock().unwrap().faults = percent;
    }
}

/// A real file that remembers; its trouble is a lock of somebody else.
struct File {
    env: SinkEnv,
    lock: Mutex<rusqlite::Connection>,
    _dir: tempfile::TempDir,
}

impl File {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lock = rusqlite::Connection::open(dir.path().join("muster.db")).unwrap();
        lock.execute_batch(
            "PRAGMA journal_mode = WAL; \
             CREATE TABLE rule (clientid TEXT, \"offset\" INTEGER, part INTEGER, payload TEXT); \
             CREATE TRIGGER strict BEFORE INSERT ON rule WHEN new.payload = 'poison' \
             BEGIN SELECT raise(ABORT, 'poison is not taken'); END",
        )
        .unwrap();
        let env = SinkEnv {
            data_dir: dir.path().to_owned(),
            databases: Databases::default(),
            clock: SystemClock::shared(),
        };
        Self { env, lock: Mutex::new(lock), _dir: dir }
    }
}

impl World for File {
    fn sink(&self, _: u64) -> Box<dyn Sink> {
        let options = BTreeMap::new();
        let spec = SinkSpec { kind: "sqlite", name: "sink", target: None, rule: "rule", options: &options };
        build(&spec, &self.env).unwrap().sink
    }

    fn rows(&self) -> Vec<(u64, u32, String)> {
        let lock = self.lock.lock().unwrap();
        let mut rows = lock.prepare("SELECT \"offset\", part, clientid FROM rule ORDER BY rowid").unwrap();
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?, row.get(2)?));
        rows.query_map([], row).unwrap().map(Result::unwrap).collect()
    }

    fn set_faults(&self, percent: u32) {
        // Refused where the sink has the lock itself at this moment; then nothing is changed.
        drop(self.lock.lock().unwrap().execute_batch(if percent > 0 {
            "BEGIN IMMEDIATE"
        } else {
            "ROLLBACK"
        }));
    }
}

struct History<'a> {
    world: Arc<dyn World + Send + Sync>,
    rng: SmallRng,
    log: MemoryLog,
    store: DeliveryStore,
    clock: SharedClock,
    /// How long a step may take at most.
    step: Duration,
    style: &'a str,
}

impl History<'_> {
    fn id() -> PipelineId {
        PipelineId::new("rule", "sink", "rule")
    }

    fn start(&mut self) -> Lanes {
        let mut limits = small_batches();
        limits.batch_rows_max = self.rng.random_range(1..20);
        let config = PipelineConfig {
            id: Self::id(),
            rule_version: "1".into(),
            start: Start::Earliest,
            paused: false,
            limits,
            retry_wait_max: muster_sinks::delivery::WAIT_MAX,
        };
        let lanes = [1, 1, 2, 3, 4, 7, 16][self.rng.random_range(0..7)];
        let mut seeds = SmallRng::seed_from_u64(self.rng.random());
        let world = self.world.clone();
        let supply: Supply = Box::new(move || Ok((Box::new(ByPayload), world.sink(seeds.random()))));
        let rng = SmallRng::seed_from_u64(self.rng.random());
        let log = Arc::new(self.log.clone());
        Lanes::spawn((config, lanes), log, supply, self.store.clone(), self.clock.clone(), rng)
    }

    fn append(&mut self) {
        for _ in 0..self.rng.random_range(0..40) {
            let client = CLIENTS[self.rng.random_range(0..CLIENTS.len())];
            let payload = match self.rng.random_range(0..20) {
                0..9 => "hello",
                9 => "none",
                10..12 => "3",
                12 => "25",
                13 => "fail",
                14 => "poison",
                _ => "noise",
            };
            self.log.append(if payload == "noise" { noise(0) } else { publish(client, payload, 0) });
        }
    }

    async fn step(&mut self, running: Lanes) -> Lanes {
        let mut running = Some(running);
        match self.rng.random_range(0..12) {
            0 | 1 => running.take().unwrap().kill().await,
            2 | 3 => {
                let limit = self.step.mul_f64(self.rng.random_range(0.0..1.0));
                let _ = running.take().unwrap().stop(limit).await;
            }
            4 => running.as_ref().unwrap().pause(),
            5 => running.as_ref().unwrap().resume(),
            6 => self.world.set_faults([0, 0, 10, 60][self.rng.random_range(0..4)]),
            7 => {
                let patience = self.step.mul_f64(self.rng.random_range(0.0..2.0));
                let replay = running.as_ref().unwrap().replay_letters(LetterFilter::default());
                drop(tokio::time::timeout(patience, replay).await);
            }
            _ => self.append(),
        }
        tokio::time::sleep(self.step.mul_f64(self.rng.random_range(0.0..1.0))).await;
        if let Some(running) = &running {
            for status in running.lanes().into_iter().chain([running.status()]) {
                let books = status.delivered + status.dead + status.pending;
                assert_eq!(status.matched, books, "{status:?}");
            }
        }
        match running {
            Some(running) => running,
            None => self.start(),
        }
    }

    /// Faults end, a fresh event flows, and everything is in its place.
    async fn conclude(&mut self, running: Lanes) {
        self.world.set_faults(0);
        self.log.append(publish("fresh", "hello", 0));
        self.settle(&running).await;
        let (delivered, dead) = self.expected();
        let status = running.status();
        let books = (status.matched, status.delivered, status.dead, status.pending, status.lag_events);
        let (many, few) = (delivered.len() as u64, dead.len() as u64);
        assert_eq!(books, (many + few, many, few, 0, 0), "{status:?}");
        let rows = self.world.rows();
        let there: Places = rows.iter().map(|(offset, row, _)| (*offset, *row)).collect();
        assert_eq!((rows.len(), &there), (delivered.len(), &delivered), "rows in the target");
        let mut last: HashMap<&str, (u64, u32)> = HashMap::new();
        for (offset, row, client) in &rows {
            let before = last.insert(client, (*offset, *row));
            assert!(before < Some((*offset, *row)), "{client}: {before:?} before {offset}.{row}");
        }
        let letters = self.store.letters(LetterFilter::default(), LETTERS_MAX).await.unwrap();
        let places: Places = letters.iter().map(|it| (it.cursor.offset, it.cursor.row)).collect();
        assert_eq!((letters.len(), places), (dead.len(), dead));
        let replayed = running.replay_letters(LetterFilter::default()).await.unwrap();
        assert_eq!((replayed.delivered, replayed.still_dead), (0, few), "each letter belongs to one lane");
        running.stop(Duration::from_secs(5)).await;
    }

    async fn settle(&self, running: &Lanes) {
        let deadline = tokio::time::Instant::now() + 3_000 * self.step.max(Duration::from_millis(20));
        // One after another, they all come to the end under the number of lanes that is wanted.
        let done = |running: &Lanes| {
            let status = running.status();
            status.cursor == self.log.len() && status.state == PipelineState::Running
        };
        while !done(running) {
            assert!(tokio::time::Instant::now() < deadline, "{}: stuck: {:?}", self.style, running.status());
            running.resume();
            tokio::time::sleep(self.step).await;
        }
    }

    fn expected(&self) -> (Places, Places) {
        let (mut delivered, mut dead) = (Places::new(), Places::new());
        for event in self.log.events().iter().filter(|event| ByPayload.kinds().contains(event.kind)) {
            let mut rows = Vec::new();
            match (ByPayload.apply(event, &mut rows), &event.payload()[..]) {
                (Err(_), _) | (Ok(()), b"poison") => drop(dead.insert((event.offset, 0))),
                (Ok(()), _) => delivered.extend((0..).zip(&rows).map(|(row, _)| (event.offset, row))),
            }
        }
        (delivered, dead)
    }

    /// How often the number of lanes was changed.
    async fn run(mut self) -> u32 {
        let mut running = self.start();
        for _ in 0..self.rng.random_range(5..50) {
            running = self.step(running).await;
        }
        self.conclude(running).await;
        self.store.lane_plan(&Self::id()).await.unwrap().generation
    }
}

fn seeds(style: Style) {
    let given = |name| std::env::var(name).ok().map(|number| number.parse::<u64>().expect("a number"));
    let many = 0..given("SEEDS").unwrap_or(SEEDS);
    let seeds = given("SEED").map_or(many, |seed| seed..seed + 1);
    let mut changes = 0;
    for seed in seeds {
        let run = std::panic::catch_unwind(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.unwrap().block_on(async {
                let history = History {
                    world: Arc::new(Faulty(style, Arc::default())),
                    rng: SmallRng::seed_from_u64(seed),
                    log: MemoryLog::default(),
                    store: DeliveryStore::inline(Path::new(":memory:")),
                    clock: Arc::new(TokioClock(tokio::time::Instant::now())),
                    step: Duration::from_millis(200),
                    style: "simulated",
                };
                history.run().await
            })
        });
        match run {
            Ok(changed) => changes += changed,
            Err(panic) => {
                eprintln!("{style:?}: failed with SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(changes > 0, "the number of lanes was never changed");
}

#[test]
fn a_target_that_remembers() {
    seeds(Style::Transaction);
}

#[test]
fn a_target_that_knows_rows() {
    seeds(Style::RowIds);
}

#[test]
fn a_target_that_knows_batches() {
    seeds(Style::BatchTokens);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_file_that_remembers() {
    let mut changes = 0;
    for seed in 0..6 {
        eprintln!("SEED={seed}");
        let dir = tempfile::tempdir().unwrap();
        let history = History {
            world: Arc::new(File::new()),
            rng: SmallRng::seed_from_u64(seed),
            log: MemoryLog::default(),
            store: DeliveryStore::open(&dir.path().join("delivery.db")).unwrap(),
            clock: SystemClock::shared(),
            step: Duration::from_millis(20),
            style: "sqlite",
        };
        changes += history.run().await;
    }
    assert!(changes > 0, "the number of lanes was never changed");
}
