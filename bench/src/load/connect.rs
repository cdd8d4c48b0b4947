//! Loads of connections: a storm of new ones, ten thousand that do nothing, and all of them coming back at once.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use super::{Load, open};
use crate::client::Connection;
use crate::clock::{instant, now_us};
use crate::counts::{Counts, Latencies, add, get};
use crate::outcome::Outcome;
use crate::process::own_cpu_s;

/// How long one attempt to connect may take before it is made again.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// How long a client waits after an attempt that failed.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Attempts of one client.
const ATTEMPTS_MAX: usize = 20;

/// Connects so many clients, all at once or at a rate, each with one subscription; the rate is until the last is in.
pub(crate) async fn connect(name: &str, load: Load, at_once: usize) -> io::Result<Outcome> {
    let (outcome, connections) = storm(name, &load, at_once, true).await?;
    close(connections).await;
    Ok(outcome)
}

/// All clients are connected, lose their lines in one moment, and come back at once.
pub(crate) async fn reconnect(name: &str, load: Load, at_once: usize) -> io::Result<Outcome> {
    let (_, connections) = storm(name, &load, super::CONNECTING_MAX, false).await?;
    // Without a word, as when the network breaks; sessions stay.
    drop(connections);
    let (outcome, connections) = storm(name, &load, at_once, false).await?;
    close(connections).await;
    Ok(outcome)
}

/// Connections that do nothing: what each of them costs the server in memory.
pub(crate) async fn idle(name: &str, load: Load) -> io::Result<Outcome> {
    let before = load.watched.resident_bytes();
    let start = now_us();
    let mut connections = open(&load, "idle", load.publishers).await?;
    let seconds = (now_us() - start) as f64 / 1e6;
    for (number, connection) in connections.iter_mut().enumerate() {
        connection.subscribe(&format!("bench/{number}/command"), 1).await?;
    }
    sleep(load.warm_up).await;
    let (cpu, own) = (load.watched.cpu_s(), own_cpu_s());
    sleep(load.time).await;
    let count = connections.len();
    let mut outcome = Outcome {
        scenario: name.to_owned(),
        rate: count as f64 / seconds,
        unit: "connections".to_owned(),
        measured_s: load.time.as_secs_f64(),
        sent: load.publishers as u64,
        acked: count as u64,
        load_cpu_s: own_cpu_s() - own,
        ..Outcome::default()
    };
    let cpu = load.watched.cpu_s().zip(cpu).map(|(after, before)| after - before);
    outcome.set_server(cpu, 0, load.watched.peak_bytes());
    if let (Some(after), Some(before)) = (load.watched.resident_bytes(), before) {
        let each = after.saturating_sub(before) as f64 / count.max(1) as f64;
        outcome.more.insert("bytes a connection".to_owned(), each);
    }
    close(connections).await;
    Ok(outcome)
}

async fn storm(
    name: &str,
    load: &Load,
    at_once: usize,
    clean: bool,
) -> io::Result<(Outcome, Vec<Connection>)> {
    let counts = Arc::new(Counts::default());
    let latencies = Arc::new(Latencies::new()?);
    let seats = Arc::new(Semaphore::new(at_once.max(1)));
    let (start, cpu, own) = (now_us(), load.watched.cpu_s(), own_cpu_s());
    let mut opening = JoinSet::new();
    for number in 0..load.publishers {
        let (load, counts, latencies) = (load.clone(), Arc::clone(&counts), Arc::clone(&latencies));
        let seats = Arc::clone(&seats);
        let due = start + load.rate.map_or(0, |rate| (number as f64 * 1e6 / rate) as u64);
        opening.spawn(async move {
            sleep_until(instant(due)).await;
            let _seat = seats.acquire().await.ok()?;
            let connection = persist(&load, number, clean, &counts).await?;
            latencies.record(number, &mut vec![now_us() - due]);
            add(&counts.acked, 1);
            Some(connection)
        });
    }
    let mut connections = Vec::with_capacity(load.publishers);
    while let Some(done) = opening.join_next().await {
        connections.extend(done.ok().flatten());
    }
    let seconds = (now_us() - start) as f64 / 1e6;
    let back = get(&counts.acked);
    let mut outcome = Outcome {
        scenario: name.to_owned(),
        rate: back as f64 / seconds,
        unit: "connections".to_owned(),
        measured_s: seconds,
        sent: load.publishers as u64,
        acked: back,
        lost: load.publishers as u64 - back,
        errors: get(&counts.errors),
        latency: latencies.summary(),
        load_cpu_s: own_cpu_s() - own,
        ..Outcome::default()
    };
    outcome.more.insert("seconds until all are in".to_owned(), seconds);
    let cpu = load.watched.cpu_s().zip(cpu).map(|(after, before)| after - before);
    outcome.set_server(cpu, back, load.watched.peak_bytes());
    Ok((outcome, connections))
}

/// Tries until it is in and has subscribed.
async fn persist(load: &Load, number: usize, clean: bool, counts: &Counts) -> Option<Connection> {
    let name = format!("bench-storm-{number}");
    for _ in 0..ATTEMPTS_MAX {
        let attempt = async {
            let mut connection = Connection::open(load.broker, load.version, &name, clean).await?;
            connection.subscribe(&format!("bench/{number}/command"), 1).await?;
            Ok::<_, io::Error>(connection)
        };
        if let Ok(Ok(connection)) = timeout(ATTEMPT_MAX, attempt).await {
            return Some(connection);
        }
        add(&counts.errors, 1);
        sleep(AGAIN_AFTER).await;
    }
    None
}

async fn close(connections: Vec<Connection>) {
    for connection in connections {
        connection.close().await;
    }
}
