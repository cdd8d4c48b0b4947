//! How fast presence is folded, how long "who was here at that moment" takes, and what the history weighs.
//! `cargo bench -p muster --bench presence`; `PRESENCE_EVENTS=10000000` for the size that the goals are about.
//! Goal: any moment in under 200 ms with ten million events.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, reason = "a benchmark")]

use std::time::{Duration, Instant};

use muster::presence::{Store, present, timeline};
use muster_core::event::proto::event::Detail;
use muster_core::event::proto::{Client, Connection, Disconnection};
use muster_core::event::{Event, EventKind, NewEvent, proto};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Devices of the fleet.
const DEVICES: usize = 100_000;
/// Events in one transaction, as the platform has them under load.
const BATCH_EVENTS: usize = 1_000;
const START_MS: i64 = 1_750_000_000_000;

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

fn main() {
    let wanted = std::env::var("PRESENCE_EVENTS").ok().and_then(|text| text.parse().ok());
    let events: u64 = wanted.unwrap_or(1_000_000);
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("muster.db");
    let mut store = Store::open(&path, 7).expect("a store");
    let mut random = StdRng::seed_from_u64(1);
    let mut open: Vec<Option<(u64, i64)>> = vec![None; DEVICES];
    let mut now_ms = START_MS;
    let mut batch = Vec::with_capacity(BATCH_EVENTS);
    let mut folding = Duration::ZERO;
    for offset in 1..=events {
        now_ms += random.random_range(0..40);
        let device = random.random_range(0..DEVICES);
        match open[device].take() {
            Some((session, came_ms)) => batch.push(event(false, device, offset, session, now_ms, came_ms)),
            None => {
                open[device] = Some((offset, now_ms));
                batch.push(event(true, device, offset, offset, now_ms, now_ms));
            }
        }
        if batch.len() == BATCH_EVENTS || offset == events {
            let begun = Instant::now();
            store.apply(&batch, offset + 1).expect("fold");
            folding += begun.elapsed();
            batch.clear();
        }
    }
    let rate = events as f64 / folding.as_secs_f64();
    println!("folded {events} events of {DEVICES} devices: {rate:.0} events/s");

    let begun = Instant::now();
    let gone: Vec<_> =
        (1..).zip(&open).enumerate().filter_map(|(device, (at, it))| Some((device, at, (*it)?))).collect();
    let ends: Vec<_> = gone
        .iter()
        .map(|(device, at, (session, came))| event(false, *device, events + at, *session, now_ms + 1, *came))
        .collect();
    let made = begun.elapsed();
    let mut again = Store::open(&path, 7).expect("a store");
    let begun = Instant::now();
    for part in ends.chunks(10_000) {
        let last = part.last().map_or(0, |event| event.offset);
        again.apply(part, last + 1).expect("fold");
    }
    println!(
        "{} devices gone at once: {:.2} s (made in {made:.2?})",
        ends.len(),
        begun.elapsed().as_secs_f64()
    );

    let mut took: Vec<_> = (0..200)
        .map(|_| {
            let at = random.random_range(START_MS..now_ms);
            let begun = Instant::now();
            let here = present(&path, at, 0, 100).expect("an answer");
            (begun.elapsed(), here.count)
        })
        .collect();
    took.sort_unstable();
    let (p50, p99, most) = (took[100], took[198], took[199]);
    println!(
        "who was here at one of 200 random moments: p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms (with {} here); goal 200 ms",
        p50.0.as_secs_f64() * 1e3,
        p99.0.as_secs_f64() * 1e3,
        most.0.as_secs_f64() * 1e3,
        most.1
    );
    let begun = Instant::now();
    let bucket = ((now_ms - START_MS) / 500 / 60_000).max(1) * 60_000;
    let from = START_MS.div_euclid(bucket) * bucket;
    let buckets = timeline(&path, from, now_ms, bucket).expect("a timeline");
    println!("a timeline of {} buckets: {:.1} ms", buckets.len(), begun.elapsed().as_secs_f64() * 1e3);
    let bytes: u64 = std::fs::metadata(&path).expect("the database").len();
    println!("the database has {bytes} bytes: {:.0} a session", bytes as f64 / (events as f64 / 2.0));
}
