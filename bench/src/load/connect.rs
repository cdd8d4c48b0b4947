//! Loads of connections: a storm of new ones, ten thousand that do nothing, and all of them coming back at once.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::pacer::{self, Turns};
use super::{BEFORE_US, Load, open};
use crate::client::{Connection, Failure};
use crate::clock::now_us;
use crate::counts::Latencies;
use crate::outcome::Outcome;
use crate::process::own_cpu_s;

/// How long a first attempt to connect may take before it is made again: as long as the system waits before it asks
/// anew. Each further one may take twice as long as the one before it, since a server that is slow under a storm would
/// otherwise answer none but those who have gone.
const ATTEMPT_FIRST: Duration = Duration::from_secs(1);
/// How long any attempt may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(8);
/// How long a client waits after an attempt that failed.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Attempts of one client.
const ATTEMPTS_MAX: usize = 20;

/// Connects so many clients, all at once or at a rate, each with one subscription; the rate is until the last is in.
pub(crate) async fn connect(name: &str, load: Load, at_once: usize) -> io::Result<Outcome> {
    let (outcome, connections) = storm(name, &load, at_once, true).await?;
    close(connections);
    Ok(outcome)
}

/// All clients are connected, lose their lines in one moment, and come back at once.
pub(crate) async fn reconnect(name: &str, load: Load, at_once: usize) -> io::Result<Outcome> {
    let (_, connections) = storm(name, &load, super::CONNECTING_MAX, false).await?;
    // Without a word, as when the network breaks; sessions stay.
    drop(connections);
    let (outcome, connections) = storm(name, &load, at_once, false).await?;
    close(connections);
    Ok(outcome)
}

/// Connections that do nothing: what each of them costs the server in memory.
pub(crate) async fn idle(name: &str, load: Load) -> io::Result<Outcome> {
    let before = load.watched.resident_bytes();
    let start = now_us();
    let mut connections = open(&load, "idle", load.publishers).await?;
    let seconds = (now_us() - start) as f64 / 1e6;
    for (number, connection) in connections.iter_mut().enumerate() {
        connection.subscribe(&load.command_topic(number), 1).await?;
    }
    let meter = load.watched.meter();
    sleep(load.warm_up).await;
    let (cpu, own) = (meter.used(), own_cpu_s());
    sleep(load.time).await;
    let count = connections.len();
    let mut outcome = Outcome {
        scenario: name.to_owned(),
        rate: count as f64 / seconds,
        unit: "connections".to_owned(),
        measured_s: load.time.as_secs_f64(),
        due: load.publishers as u64,
        sent: load.publishers as u64,
        acked: Some(count as u64),
        lost: Some((load.publishers - count) as u64),
        load_cpu_s: own_cpu_s() - own,
        ..Outcome::default()
    };
    outcome.set_server(meter.since(cpu.as_ref()), 0, load.watched.peak_bytes());
    if let (Some(after), Some(before)) = (load.watched.resident_bytes(), before) {
        let each = after.saturating_sub(before) as f64 / count.max(1) as f64;
        outcome.more.insert("bytes a connection".to_owned(), each);
    }
    close(connections);
    Ok(outcome)
}

/// What one client went through.
struct Arrival {
    connection: Option<Connection>,
    failures: Vec<Failure>,
}

async fn storm(
    name: &str,
    load: &Load,
    at_once: usize,
    clean: bool,
) -> io::Result<(Outcome, Vec<Connection>)> {
    let (latencies, lags) = (Arc::new(Latencies::new()?), Arc::new(Latencies::new()?));
    let seats = Arc::new(Semaphore::new(at_once.max(1)));
    let clients: Arc<[Notify]> = (0..load.publishers).map(|_| Notify::new()).collect();
    let meter = load.watched.meter();
    let (cpu, own) = (meter.used(), own_cpu_s());
    let start = now_us() + if load.rate.is_some() { BEFORE_US } else { 0 };
    let turns = load.rate.map(|rate| Turns::all(start, rate, load.publishers as u64));
    let pacing = turns.map(|turns| tokio::spawn(pacer::run(turns, Arc::clone(&clients))));
    let mut opening = JoinSet::new();
    for number in 0..load.publishers {
        let (load, latencies, lags) = (load.clone(), Arc::clone(&latencies), Arc::clone(&lags));
        let (seats, clients) = (Arc::clone(&seats), Arc::clone(&clients));
        opening.spawn(async move {
            let due = match (turns, clients.get(number)) {
                (Some(turns), Some(client)) => {
                    client.notified().await;
                    let due = turns.due_us(number as u64);
                    lags.record(number, &mut vec![now_us().saturating_sub(due)]);
                    due
                }
                _ => start,
            };
            let _seat = seats.acquire().await.ok()?;
            let arrival = persist(&load, number, clean).await;
            latencies.record(number, &mut vec![now_us().saturating_sub(due)]);
            Some(arrival)
        });
    }
    let (mut connections, mut failures) = (Vec::with_capacity(load.publishers), Vec::new());
    while let Some(done) = opening.join_next().await {
        let Some(arrival) = done.ok().flatten() else { continue };
        connections.extend(arrival.connection);
        failures.extend(arrival.failures);
    }
    pacing.inspect(|pacing| pacing.abort());
    let seconds = now_us().saturating_sub(start) as f64 / 1e6;
    let back = connections.len() as u64;
    let mut outcome = Outcome {
        scenario: name.to_owned(),
        rate: back as f64 / seconds,
        unit: "connections".to_owned(),
        measured_s: seconds,
        due: load.publishers as u64,
        sent: load.publishers as u64,
        acked: Some(back),
        lost: Some(load.publishers as u64 - back),
        errors: failures.len() as u64,
        latency: latencies.summary(),
        lag: lags.summary(),
        load_cpu_s: own_cpu_s() - own,
        ..Outcome::default()
    };
    outcome.more.insert("seconds until all are in".to_owned(), seconds);
    for kind in Failure::ALL {
        let count = failures.iter().filter(|it| **it == kind).count();
        outcome.more.insert(kind.name().to_owned(), count as f64);
    }
    outcome.set_server(meter.since(cpu.as_ref()), back, load.watched.peak_bytes());
    Ok((outcome, connections))
}

/// Tries until it is in and has subscribed.
async fn persist(load: &Load, number: usize, clean: bool) -> Arrival {
    let id = format!("{}-storm-{number}", load.prefix);
    let (mut failures, mut time_max) = (Vec::new(), ATTEMPT_FIRST);
    for _ in 0..ATTEMPTS_MAX {
        let attempt = async {
            let mut connection = Connection::open(&load.target, &id, clean, time_max).await?;
            connection.subscribe(&load.command_topic(number), 1).await?;
            Ok::<_, io::Error>(connection)
        };
        match timeout(time_max, attempt).await {
            Ok(Ok(connection)) => return Arrival { connection: Some(connection), failures },
            Ok(Err(error)) => failures.push(Failure::of(&error)),
            Err(_) => failures.push(Failure::TimedOut),
        }
        if failures.last() == Some(&Failure::TimedOut) {
            time_max = (time_max * 2).min(ATTEMPT_MAX);
        }
        sleep(AGAIN_AFTER).await;
    }
    Arrival { connection: None, failures }
}

fn close(connections: Vec<Connection>) {
    connections.into_iter().for_each(Connection::close);
}
