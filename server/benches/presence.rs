//! How fast presence is folded, how long "who was here at that moment" takes, and what the history weighs, by table and
//! index. `cargo bench -p muster --bench presence`; `PRESENCE_EVENTS=300000` for a quick look.
//! Goal: any moment in under 200 ms with ten million events, while sessions are open and when all are over; it ends
//! with status 1 where that is missed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, reason = "a benchmark")]

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use muster::presence::{Store, present, timeline};
use muster_core::event::proto::event::Detail;
use muster_core::event::proto::{Client, Connection, Disconnection};
use muster_core::event::{Event, EventKind, NewEvent, proto};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Devices of the fleet.
const DEVICES: usize = 100_000;
/// Events in one transaction, as the platform has them when it is behind.
const BATCH_EVENTS: usize = 4_096;
const START_MS: i64 = 1_750_000_000_000;
/// Events unless the environment says how many.
const EVENTS: u64 = 10_000_000;
/// A line says so often how far it is.
const PROGRESS_EVENTS: u64 = 1_000_000;
/// Moments that are asked about at a time.
const MOMENTS: usize = 200;
/// How long the slowest answer may take.
const GOAL: Duration = Duration::from_millis(200);

fn event(connected: bool, device: usize, offset: u64, session: u64, at_ms: i64, came_ms: i64) -> Event {
    let client = Client {
        clientid: format!("device-{device:06}"),
        username: Some("fleet".to_owned()),
        session,
        seq: offset,
        peername: "10.1.2.3:40000".to_owned(),
        proto_name: "MQTT".to_owned(),
        proto_ver: 5,
        ..Client::default()
    };
    let (kind, detail) = if connected {
        let it = Connection { connected_at_ms: at_ms, keepalive_seconds: 60, ..Connection::default() };
        (EventKind::ClientConnected, Detail::Connected(it))
    } else {
        let it = Disconnection {
            reason: "keepalive_timeout".to_owned(),
            connected_at_ms: came_ms,
            disconnected_at_ms: at_ms,
            ..Disconnection::default()
        };
        (EventKind::ClientDisconnected, Detail::Disconnected(it))
    };
    let body = proto::Event { client: Some(client), detail: Some(detail), ..proto::Event::default() };
    NewEvent { timestamp_ms: at_ms, kind, topic: String::new(), body }.at(7, offset)
}

/// A fleet whose devices come and go by chance, and the table that follows it.
struct Fleet {
    store: Store,
    random: StdRng,
    /// Session and beginning of each device that is here.
    open: Vec<Option<(u64, i64)>>,
    now_ms: i64,
}

impl Fleet {
    fn new(path: &Path) -> Self {
        let store = Store::open(path, 7).expect("a store");
        Self { store, random: StdRng::seed_from_u64(1), open: vec![None; DEVICES], now_ms: START_MS }
    }

    fn next(&mut self, offset: u64) -> Event {
        self.now_ms += self.random.random_range(0..40);
        let device = self.random.random_range(0..DEVICES);
        match self.open[device].take() {
            Some((session, came_ms)) => event(false, device, offset, session, self.now_ms, came_ms),
            None => {
                self.open[device] = Some((offset, self.now_ms));
                event(true, device, offset, offset, self.now_ms, self.now_ms)
            }
        }
    }

    /// Folds so many events.
    fn live(&mut self, events: u64) {
        let mut batch = Vec::with_capacity(BATCH_EVENTS);
        let mut folding = Duration::ZERO;
        for offset in 1..=events {
            batch.push(self.next(offset));
            if batch.len() == BATCH_EVENTS || offset == events {
                let begun = Instant::now();
                self.store.apply(&batch, offset + 1).expect("fold");
                folding += begun.elapsed();
                batch.clear();
            }
            if offset % PROGRESS_EVENTS == 0 {
                eprintln!("{offset} of {events} events, {:.0} s", folding.as_secs_f64());
            }
        }
        let rate = events as f64 / folding.as_secs_f64();
        println!("folded {events} events of {DEVICES} devices: {rate:.0} events/s");
    }

    /// Everybody who is here goes at once.
    fn drop_all(&mut self, events: u64) {
        let here = self.open.iter_mut().enumerate().filter_map(|(device, it)| Some((device, it.take()?)));
        let ends: Vec<_> = (1..)
            .zip(here)
            .map(|(at, (device, (session, came_ms)))| {
                event(false, device, events + at, session, self.now_ms + 1, came_ms)
            })
            .collect();
        let begun = Instant::now();
        for part in ends.chunks(10_000) {
            let last = part.last().map_or(0, |event| event.offset);
            self.store.apply(part, last + 1).expect("fold");
        }
        println!("{} devices gone at once: {:.2} s", ends.len(), begun.elapsed().as_secs_f64());
    }

    /// Asks who was here at moments of chance; whether the slowest answer was fast enough.
    fn ask(&mut self, path: &Path, when: &str) -> bool {
        let mut took: Vec<_> = (0..MOMENTS)
            .map(|_| {
                let at = self.random.random_range(START_MS..self.now_ms);
                let begun = Instant::now();
                let here = present(path, at, 0, 100).expect("an answer");
                (begun.elapsed(), here.count)
            })
            .collect();
        took.sort_unstable();
        let (p50, p99, most) = (took[MOMENTS / 2], took[MOMENTS * 99 / 100], took[MOMENTS - 1]);
        let ms = |it: Duration| it.as_secs_f64() * 1e3;
        println!(
            "who was here at one of {MOMENTS} random moments, {when}: p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms \
             (with {} here); goal {:.0} ms",
            ms(p50.0),
            ms(p99.0),
            ms(most.0),
            most.1,
            ms(GOAL)
        );
        most.0 <= GOAL
    }
}

/// What each table and index weighs, once all of it is in the database itself.
fn weigh(path: &Path, sessions: u64) {
    let db = rusqlite::Connection::open(path).expect("the database");
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("a checkpoint");
    let bytes = std::fs::metadata(path).expect("the database").len();
    let a_session = |bytes: u64| bytes as f64 / sessions.max(1) as f64;
    println!("the database has {bytes} bytes: {:.0} a session", a_session(bytes));
    let sql =
        "SELECT name, pgsize, ncell FROM dbstat WHERE aggregate = TRUE AND ncell > 0 ORDER BY pgsize DESC";
    let mut statement = db.prepare(sql).expect("SQLite with dbstat");
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)));
    for row in rows.expect("sizes") {
        let (name, bytes, cells) = row.expect("a size");
        let a_session = a_session(bytes.unsigned_abs());
        println!("  {name:<36} {bytes:>13} bytes, {cells:>10} cells, {a_session:>6.1} bytes a session");
    }
}

fn main() -> ExitCode {
    let wanted = std::env::var("PRESENCE_EVENTS").ok().and_then(|text| text.parse().ok());
    let events: u64 = wanted.unwrap_or(EVENTS);
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("muster.db");
    let mut fleet = Fleet::new(&path);
    fleet.live(events);
    let is_fast = fleet.ask(&path, "with open sessions");
    fleet.drop_all(events);
    let is_fast = fleet.ask(&path, "with none open") && is_fast;
    let begun = Instant::now();
    let bucket = ((fleet.now_ms - START_MS) / 500 / 60_000).max(1) * 60_000;
    let from = START_MS.div_euclid(bucket) * bucket;
    let buckets = timeline(&path, from, fleet.now_ms, bucket).expect("a timeline");
    println!("a timeline of {} buckets: {:.1} ms", buckets.len(), begun.elapsed().as_secs_f64() * 1e3);
    weigh(&path, events / 2);
    if is_fast { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
