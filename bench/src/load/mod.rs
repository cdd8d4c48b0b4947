//! Loads: what is done to a broker, and what is counted meanwhile. A load knows a broker by its address alone, and by
//! its process where that was said.

pub(crate) mod connect;
pub(crate) mod pipeline;
mod publisher;
mod subscriber;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::Connection;
use crate::clock::{instant, now_us};
use crate::codec::Version;
use crate::counts::{Counts, Latencies, get};
use crate::outcome::Outcome;
use crate::process::{Watched, own_cpu_s};
use publisher::{Pace, Publisher};
use subscriber::Subscriber;

/// Connections that are made at a time before a load begins.
const CONNECTING_MAX: usize = 64;
/// How long what is under way may take after the last publish.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether all has come.
const LOOK: Duration = Duration::from_millis(20);

/// Who sends to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Nobody listens.
    Publish,
    /// Each subscriber gets all of all publishers.
    FanIn,
    /// All share one topic.
    FanOut,
    /// Publisher and subscriber of one number share a topic.
    PeerToPeer,
    /// Nobody listens to telemetry, and each device has a subscription of its own for commands.
    Devices,
}

/// How much of it, and how.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) broker: SocketAddr,
    pub(crate) version: Version,
    pub(crate) qos: u8,
    pub(crate) payload_bytes: usize,
    pub(crate) publishers: usize,
    pub(crate) subscribers: usize,
    /// Messages a second of all publishers together; none: as fast as they are acknowledged.
    pub(crate) rate: Option<f64>,
    /// Messages that one publisher has on the way.
    pub(crate) window: u16,
    /// Messages of each publisher; none: as many as fit into the time.
    pub(crate) messages: Option<u64>,
    pub(crate) warm_up: Duration,
    pub(crate) time: Duration,
    pub(crate) watched: Watched,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            broker: SocketAddr::from(([127, 0, 0, 1], 1883)),
            version: Version::V4,
            qos: 1,
            payload_bytes: 256,
            publishers: 100,
            subscribers: 1,
            rate: None,
            window: 20,
            messages: None,
            warm_up: Duration::from_secs(1),
            time: Duration::from_secs(5),
            watched: Watched::default(),
        }
    }
}

/// Moments of a run, by [`now_us`].
#[derive(Debug, Clone, Copy)]
struct Times {
    start: u64,
    measure: u64,
    end: u64,
}

impl Times {
    fn measured(&self, at_us: u64) -> bool {
        (self.measure..self.end).contains(&at_us)
    }
}

/// What all connections of a run share.
#[derive(Debug)]
struct Shared {
    load: Load,
    times: Times,
    counts: Counts,
    latencies: Latencies,
}

/// Runs a load whose clients publish.
pub(crate) async fn traffic(name: &str, load: Load, shape: Shape) -> io::Result<Outcome> {
    let mut publishers = open(&load, "publisher", load.publishers).await?;
    if shape == Shape::Devices {
        for (number, connection) in publishers.iter_mut().enumerate() {
            connection.subscribe(&format!("bench/{number}/command"), 1).await?;
        }
    }
    let listeners = if matches!(shape, Shape::Publish | Shape::Devices) { 0 } else { load.subscribers };
    let mut subscribers = open(&load, "subscriber", listeners).await?;
    for (number, connection) in subscribers.iter_mut().enumerate() {
        connection.subscribe(&filter(shape, number), load.qos).await?;
    }
    let start = now_us() + 50_000;
    let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 4);
    let measure = start + us(load.warm_up);
    let times = Times { start, measure, end: measure + us(load.time) };
    let shared = Arc::new(Shared { load, times, counts: Counts::default(), latencies: Latencies::new()? });
    let (stop, stopped) = watch::channel(false);
    let mut listening = JoinSet::new();
    for (number, connection) in subscribers.into_iter().enumerate() {
        let subscriber = Subscriber::new(number, connection, Arc::clone(&shared), stopped.clone());
        listening.spawn(subscriber.run());
    }
    let mut publishing = JoinSet::new();
    for (number, connection) in publishers.into_iter().enumerate() {
        let pace = Pace::of(&shared.load, times.start, number);
        let publisher = Publisher::new(number, &topic(shape, number), connection, Arc::clone(&shared), pace);
        publishing.spawn(publisher.run());
    }
    let measured = measure_window(&shared).await;
    while publishing.join_next().await.is_some() {}
    let fan = match shape {
        Shape::Publish | Shape::Devices => 0,
        Shape::PeerToPeer => 1,
        Shape::FanIn | Shape::FanOut => listeners as u64,
    };
    let arrived = if shared.load.qos == 0 { get(&shared.counts.sent) } else { get(&shared.counts.acked) };
    let expected = arrived * fan;
    until_received(&shared.counts, expected).await;
    let _told = stop.send(true);
    while listening.join_next().await.is_some() {}
    Ok(outcome(name, &shared, measured, fan, expected))
}

fn topic(shape: Shape, number: usize) -> String {
    if shape == Shape::FanOut { "bench/all".to_owned() } else { format!("bench/{number}/up") }
}

fn filter(shape: Shape, number: usize) -> String {
    match shape {
        Shape::FanOut => "bench/all".to_owned(),
        Shape::FanIn => "bench/+/up".to_owned(),
        _ => format!("bench/{number}/up"),
    }
}

/// Makes connections, a bounded number at a time.
async fn open(load: &Load, role: &'static str, count: usize) -> io::Result<Vec<Connection>> {
    let (broker, version) = (load.broker, load.version);
    let mut connections = Vec::with_capacity(count);
    let mut opening = JoinSet::new();
    for number in 0..count {
        opening.spawn(async move {
            Ok((number, Connection::open(broker, version, &format!("bench-{role}-{number}"), true).await?))
        });
        if opening.len() >= CONNECTING_MAX {
            connections.extend(opening.join_next().await);
        }
    }
    while let Some(done) = opening.join_next().await {
        connections.push(done);
    }
    let connections = connections.into_iter().map(|done| done.map_err(io::Error::other)?);
    let mut connections = connections.collect::<io::Result<Vec<(usize, Connection)>>>()?;
    connections.sort_by_key(|(number, _)| *number);
    Ok(connections.into_iter().map(|(_, connection)| connection).collect())
}

/// Processor time of the server and of us, and seconds, from the end of the warm-up to the end.
async fn measure_window(shared: &Shared) -> (Option<f64>, f64, f64) {
    tokio::time::sleep_until(instant(shared.times.measure)).await;
    let (server, own, begun) = (shared.load.watched.cpu_s(), own_cpu_s(), now_us());
    let done = async || {
        let all = shared.load.messages.map(|messages| messages * shared.load.publishers as u64);
        while all.is_none_or(|all| get(&shared.counts.acked) < all) && now_us() < shared.times.end {
            sleep(LOOK).await;
        }
    };
    done().await;
    // Nothing counts as measured after the end, however late this task woke.
    let seconds = now_us().min(shared.times.end).saturating_sub(begun).max(1) as f64 / 1e6;
    let server = shared.load.watched.cpu_s().zip(server).map(|(after, before)| after - before);
    (server, own_cpu_s() - own, seconds)
}

/// Waits until all has come, or nothing comes any more.
async fn until_received(counts: &Counts, expected: u64) {
    let (mut last, mut since) = (get(&counts.received), now_us());
    while get(&counts.received) - get(&counts.duplicated) < expected {
        sleep(LOOK).await;
        let received = get(&counts.received);
        if received != last {
            (last, since) = (received, now_us());
        } else if now_us() - since > 2_000_000 {
            break;
        }
    }
}

fn outcome(
    name: &str,
    shared: &Shared,
    (server_cpu_s, load_cpu_s, seconds): (Option<f64>, f64, f64),
    fan: u64,
    expected: u64,
) -> Outcome {
    let counts = &shared.counts;
    let in_window = get(if fan > 0 { &counts.received_in_window } else { &counts.in_window });
    let duplicated = get(&counts.duplicated);
    let received = get(&counts.received);
    let unanswered = get(&counts.sent) - get(&counts.acked).min(get(&counts.sent));
    let mut outcome = Outcome {
        scenario: name.to_owned(),
        rate: in_window as f64 / seconds,
        unit: if fan > 0 { "deliveries" } else { "publishes" }.to_owned(),
        measured_s: seconds,
        sent: get(&counts.sent),
        acked: get(&counts.acked),
        expected,
        received,
        lost: if fan > 0 { expected.saturating_sub(received - duplicated) } else { unanswered },
        duplicated: duplicated + get(&counts.unexpected),
        refused: get(&counts.refused),
        errors: get(&counts.errors),
        latency: shared.latencies.summary(),
        load_cpu_s,
        ..Outcome::default()
    };
    if shared.load.qos == 0 && fan == 0 {
        outcome.lost = 0;
    }
    outcome.set_server(server_cpu_s, in_window, shared.load.watched.peak_bytes());
    outcome
}
