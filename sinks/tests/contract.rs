//! What every sink must do, run against each with its real target: crashes at any moment, a target that goes away and
//! comes back, rows that it refuses. Adding a sink means adding a subject here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]
#![allow(unreachable_pub, reason = "shared test code")]

#[path = "support/influx.rs"]
mod influx;
mod subjects {
    pub mod clickhouse;
    pub mod influxdb;
    mod mongodb;
    pub mod postgres;
}
#[path = "subjects/kafka.rs"]
mod kafka;
#[path = "support/kafka.rs"]
mod kafka_server;
mod support;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use muster_core::clock::SystemClock;
use muster_sinks::database::Databases;
use muster_sinks::delivery::{
    DeliveryStore, LetterFilter, Limits, Pipeline, PipelineConfig, PipelineHandle, Replayed, Start, Stopped,
};
use muster_sinks::{Built, PipelineId, SinkEnv, SinkSpec, build, kinds};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use subjects::clickhouse::{BY_KEY, BY_TOKEN, ClickHouseSubject};
use subjects::postgres::PostgresSubject;
use support::{ByPayload, MemoryLog, noise, publish};

/// Ids that a receiver has seen, and the places of the rows that it took.
type Taken = (HashSet<String>, Vec<Place>);

/// An offset and a row.
type Place = (i64, i64);

/// A target of the contract, with the switches of the test.
trait Subject {
    /// The sink as a rule file declares it; called anew after each crash.
    fn build(&self) -> Built;
    /// Makes the target unreachable.
    fn go_away(&self);
    /// Makes it reachable again.
    fn come_back(&self);
    /// Takes what it refused from now on.
    fn be_cured(&self);
    /// The offsets and rows that are there, as somebody sees them who obeys the target's rules.
    fn rows(&self) -> Vec<(i64, i64)>;
}

/// The environment of a process: what was asked of a file before a crash is done before what is asked after it.
fn env(dir: &Path) -> SinkEnv {
    SinkEnv { data_dir: dir.to_owned(), databases: Databases::default(), clock: SystemClock::shared() }
}

fn built(kind: &str, env: &SinkEnv, options: &[(&str, &str)]) -> Built {
    let options: BTreeMap<_, _> =
        options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    build(&SinkSpec { kind, name: "sink", target: None, rule: "rule", options: &options }, env).unwrap()
}

struct SqliteSubject {
    _dir: tempfile::TempDir,
    env: SinkEnv,
    lock: rusqlite::Connection,
}

impl SqliteSubject {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lock = rusqlite::Connection::open(dir.path().join("muster.db")).unwrap();
        lock.execute_batch(
            "PRAGMA journal_mode = WAL; \
             CREATE TABLE rule (\"offset\" INTEGER, part INTEGER, payload TEXT); \
             CREATE TRIGGER strict BEFORE INSERT ON rule WHEN new.payload = 'poison' \
             BEGIN SELECT raise(ABORT, 'poison is not taken'); END",
        )
        .unwrap();
        Self { env: env(dir.path()), _dir: dir, lock }
    }
}

impl Subject for SqliteSubject {
    fn build(&self) -> Built {
        built("sqlite", &self.env, &[])
    }

    fn go_away(&self) {
        // Refused where the sink has the lock itself at this moment; then the target stays.
        drop(self.lock.execute_batch("BEGIN IMMEDIATE"));
    }

    fn come_back(&self) {
        drop(self.lock.execute_batch("ROLLBACK"));
    }

    fn be_cured(&self) {
        self.lock.execute_batch("DROP TRIGGER strict").unwrap();
    }

    fn rows(&self) -> Vec<(i64, i64)> {
        let mut rows = self.lock.prepare("SELECT \"offset\", part FROM rule").unwrap();
        rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    }
}

/// A receiver that obeys Standard Webhooks: an id that it has seen is taken for a repetition.
struct WebhookSubject {
    url: String,
    options: &'static [(&'static str, &'static str)],
    away: Arc<AtomicBool>,
    cured: Arc<AtomicBool>,
    taken: Arc<Mutex<Taken>>,
}

impl WebhookSubject {
    async fn new(options: &'static [(&'static str, &'static str)]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (away, cured) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let taken: Arc<Mutex<Taken>> = Arc::default();
        let (away_now, cured_now, taken_now) = (away.clone(), cured.clone(), taken.clone());
        let take = post(async move |headers: HeaderMap, body: String| {
            if away_now.load(Ordering::SeqCst) {
                return StatusCode::SERVICE_UNAVAILABLE;
            }
            if body.contains("poison") && !cured_now.load(Ordering::SeqCst) {
                return StatusCode::UNPROCESSABLE_ENTITY;
            }
            let mut taken = taken_now.lock().unwrap();
            if taken.0.insert(headers["webhook-id"].to_str().unwrap().to_owned()) {
                let rows: serde_json::Value = serde_json::from_str(&body).unwrap();
                let rows = if rows.is_array() { rows } else { serde_json::Value::Array(vec![rows]) };
                let place = |row: &serde_json::Value| {
                    // The data of a CloudEvent.
                    let row = row.get("data").unwrap_or(row);
                    (row["offset"].as_i64().unwrap(), row["part"].as_i64().unwrap())
                };
                taken.1.extend(rows.as_array().unwrap().iter().map(place));
            }
            StatusCode::OK
        });
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/", take)).await.unwrap() });
        Self { url, options, away, cured, taken }
    }
}

impl Subject for WebhookSubject {
    fn build(&self) -> Built {
        let options = [self.options, &[("url", &*self.url)]].concat();
        built("webhook", &env(Path::new("/nowhere")), &options)
    }

    fn go_away(&self) {
        self.away.store(true, Ordering::SeqCst);
    }

    fn come_back(&self) {
        self.away.store(false, Ordering::SeqCst);
    }

    fn be_cured(&self) {
        self.cured.store(true, Ordering::SeqCst);
    }

    fn rows(&self) -> Vec<(i64, i64)> {
        self.taken.lock().unwrap().1.clone()
    }
}

struct Contract<'a> {
    subject: &'a dyn Subject,
    log: MemoryLog,
    store: DeliveryStore,
    rng: SmallRng,
    alive: BTreeSet<(i64, i64)>,
    dead: BTreeSet<(i64, i64)>,
    cursor: u64,
}

impl Contract<'_> {
    fn start(&mut self) -> PipelineHandle {
        let Built { sink, target, .. } = self.subject.build();
        let config = PipelineConfig {
            id: PipelineId::new("rule", "sink", target),
            rule_version: "1".into(),
            retry_wait_max: muster_sinks::delivery::WAIT_MAX,
            start: Start::Earliest,
            paused: false,
            limits: Limits {
                batch_rows_max: 16,
                batch_bytes_max: 1 << 20,
                batch_wait: Duration::from_millis(2),
                dead_letters_per_minute_max: 100_000,
            },
        };
        let rng = SmallRng::seed_from_u64(self.rng.random());
        let (log, clock) = (Arc::new(self.log.clone()), SystemClock::shared());
        Pipeline::spawn(config, log, Box::new(ByPayload), sink, self.store.clone(), clock, rng)
    }

    fn append(&mut self, many: usize) {
        for _ in 0..many {
            let payload =
                ["hello", "hello", "3", "none", "poison", "fail", "noise"][self.rng.random_range(0..7)];
            if payload == "noise" {
                self.log.append(noise(0));
                continue;
            }
            let offset = self.log.append(publish("a", payload, 0)) as i64;
            match payload {
                "poison" | "fail" => drop(self.dead.insert((offset, 0))),
                "none" => {}
                rows => self.alive.extend((0..rows.parse().unwrap_or(1)).map(|part| (offset, part))),
            }
        }
    }

    fn books_balance(&mut self, running: &PipelineHandle) {
        let status = running.status();
        assert_eq!(status.matched, status.delivered + status.dead + status.pending, "{status:?}");
        // A pipeline that has not opened its target yet knows no cursor.
        if status.cursor > 0 {
            assert!(status.cursor >= self.cursor, "the cursor went back from {}: {status:?}", self.cursor);
            self.cursor = status.cursor;
        }
    }

    async fn conclude(&mut self, running: PipelineHandle) {
        self.subject.come_back();
        support::until_settled(&running, self.log.len()).await;
        self.books_balance(&running);
        let status = running.status();
        let (alive, dead) = (self.alive.len() as u64, self.dead.len() as u64);
        assert_eq!((status.delivered, status.dead, status.pending), (alive, dead, 0), "{status:?}");
        let rows = self.subject.rows();
        assert_eq!(rows.len(), self.alive.len(), "rows in the target");
        assert!(rows.is_sorted(), "one client's rows in order");
        assert_eq!(rows.into_iter().collect::<BTreeSet<_>>(), self.alive);
        let letters = self.store.letters(LetterFilter::default(), 1000).await.unwrap();
        let letters: Vec<_> = letters
            .iter()
            .map(|letter| (letter.cursor.offset as i64, i64::from(letter.cursor.row)))
            .collect();
        assert_eq!(letters.len(), self.dead.len(), "dead letters");
        assert_eq!(letters.into_iter().collect::<BTreeSet<_>>(), self.dead);
        self.replay(&running).await;
        assert_eq!(running.stop(Duration::from_secs(5)).await, Stopped::InTime);
    }

    /// Rows that were refused are delivered once they are taken; what the rule fails on stays.
    async fn replay(&mut self, running: &PipelineHandle) {
        let failed = |log: &MemoryLog, offset: i64| &log.events()[offset as usize].payload()[..] == b"fail";
        let (still, cured): (BTreeSet<Place>, BTreeSet<Place>) =
            self.dead.iter().copied().partition(|(offset, _)| failed(&self.log, *offset));
        self.subject.be_cured();
        let replayed = running.replay_letters(LetterFilter::default()).await.unwrap();
        let expected = Replayed { delivered: cured.len() as u64, still_dead: still.len() as u64 };
        assert_eq!(replayed, expected);
        self.alive.extend(cured);
        self.books_balance(running);
        let status = running.status();
        let (alive, still) = (self.alive.len() as u64, still.len() as u64);
        assert_eq!((status.delivered, status.dead, status.pending), (alive, still, 0), "{status:?}");
        assert_eq!(self.subject.rows().len(), self.alive.len(), "rows in the target");
        assert_eq!(self.subject.rows().into_iter().collect::<BTreeSet<_>>(), self.alive);
        assert_eq!(self.store.count_letters(LetterFilter::default()).await.unwrap(), still);
    }
}

/// One history: what must hold at its end holds for every sink.
async fn history(subject: &dyn Subject, seed: u64) {
    eprintln!("SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let mut contract = Contract {
        subject,
        log: MemoryLog::default(),
        store: DeliveryStore::open(&dir.path().join("delivery.db")).unwrap(),
        rng: SmallRng::seed_from_u64(seed),
        alive: BTreeSet::new(),
        dead: BTreeSet::new(),
        cursor: 0,
    };
    let mut running = contract.start();
    for round in 0..12 {
        let many = contract.rng.random_range(0..60);
        contract.append(many);
        match round % 4 {
            0 => subject.go_away(),
            2 => subject.come_back(),
            _ => {}
        }
        // Not a wait for anything: it moves the crash to another moment.
        tokio::time::sleep(Duration::from_millis(contract.rng.random_range(0..25))).await;
        contract.books_balance(&running);
        if contract.rng.random_bool(0.7) {
            running.kill().await;
            running = contract.start();
        }
    }
    contract.conclude(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() {
    for seed in 0..4 {
        history(&SqliteSubject::new(), seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres() {
    let own = ", _event_id uuid, _rule text, _row int, UNIQUE (_event_id, _rule, _row)";
    for (seed, columns) in ["", own, "", own].into_iter().enumerate() {
        let Some(subject) = PostgresSubject::new(columns).await else { return };
        history(&subject, seed as u64).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clickhouse() {
    for (seed, engine) in [BY_TOKEN, BY_KEY].into_iter().enumerate() {
        let Some(subject) = ClickHouseSubject::new(engine).await else { return };
        history(&subject, seed as u64).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_transactions() {
    let Some(mut subject) = kafka::KafkaSubject::new().await else { return };
    for seed in 0..4 {
        history(subject.anew().await, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhook_rows() {
    for seed in 0..4 {
        history(&WebhookSubject::new(&[]).await, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhook_batches() {
    for seed in 0..4 {
        history(&WebhookSubject::new(&[("batch", "true")]).await, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhook_templates() {
    const OPTIONS: &[(&str, &str)] = &[
        ("body", r#"{"offset":${offset},"part":${part},"of":"${clientid}","payload":"${payload}"}"#),
        ("in_flight", "4"),
    ];
    for seed in 0..2 {
        history(&WebhookSubject::new(OPTIONS).await, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhook_cloudevents() {
    for seed in 0..2 {
        history(&WebhookSubject::new(&[("format", "cloudevents_structured")]).await, seed).await;
        history(&WebhookSubject::new(&[("format", "cloudevents_batch")]).await, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn influxdb_points() {
    for seed in 0..4 {
        let Some(subject) = subjects::influxdb::InfluxSubject::new(seed % 2 == 1).await else { return };
        history(&subject, seed).await;
    }
}

#[test]
fn each_kind_has_its_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    // A subject stands here or in a file of its own in `subjects/`.
    let mut here = std::fs::read_to_string(root.join("sinks/tests/contract.rs")).unwrap();
    for file in std::fs::read_dir(root.join("sinks/tests/subjects")).into_iter().flatten() {
        here += &std::fs::read_to_string(file.unwrap().path()).unwrap();
    }
    for kind in kinds() {
        let page =
            std::fs::read_to_string(root.join(kind.page)).unwrap_or_else(|_| panic!("no {}", kind.page));
        assert!(page.contains(kind.example), "{} does not show: {}", kind.page, kind.example);
        for option in kind.options {
            assert!(
                page.contains(&format!("`{}", option.name)),
                "{} does not explain `{}`",
                kind.page,
                option.name
            );
        }
        assert!(
            here.contains(&format!("built(\"{}\"", kind.name)),
            "`{}` has no subject in the contract",
            kind.name
        );
        assert!(kind.example.contains(&format!("TYPE {} ", kind.name)));
        let steps = std::fs::read_dir(root.join("migrations").join(kind.name)).is_ok_and(|it| it.count() > 0);
        assert!(steps || !kind.migrates(), "`{}` has no steps in migrations/{0}/", kind.name);
    }
}
