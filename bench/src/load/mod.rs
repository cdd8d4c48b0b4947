//! Loads: what is done to a broker, and what is counted meanwhile. A load knows a broker by its address alone, and by
//! its process where that was said.

pub(crate) mod connect;
mod pacer;
pub(crate) mod pipeline;
mod progress;
mod publisher;
mod subscriber;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use crate::client::{Connection, Target};
use crate::clock::{instant, now_us};
use crate::codec::Version;
use crate::counts::{Counts, Latencies, get};
use crate::outcome::Outcome;
use crate::process::{Watched, own_cpu_s};
use pacer::Turns;
use publisher::Publisher;
use subscriber::Subscriber;

/// Connections that are made at a time before a load begins.
const CONNECTING_MAX: usize = 64;
/// How long what is due or under way may take after the end.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// How long the broker may take to let a client in before a load begins.
const OPEN_MAX: Duration = Duration::from_secs(20);
/// How long it is listened after the last message that was expected: what comes then came twice.
const GRACE: Duration = Duration::from_millis(300);
/// How long a connected broker is left alone before the first message.
const BEFORE_US: u64 = 50_000;
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
    pub(crate) target: Arc<Target>,
    /// What ids of clients and topics begin with.
    pub(crate) prefix: String,
    pub(crate) qos: u8,
    pub(crate) payload_bytes: usize,
    pub(crate) publishers: usize,
    pub(crate) subscribers: usize,
    /// Messages a second of all publishers together; none: as fast as they are acknowledged.
    pub(crate) rate: Option<f64>,
    /// Messages that one publisher has on the way.
    pub(crate) window: u16,
    /// Messages of each publisher, measured from the first on; none: as many as fit into the time.
    pub(crate) messages: Option<u64>,
    pub(crate) warm_up: Duration,
    pub(crate) time: Duration,
    /// How long what is due or under way may take after the end.
    pub(crate) drain: Duration,
    pub(crate) watched: Watched,
    /// Whether a line a second says how it goes.
    pub(crate) progress: bool,
}

impl Load {
    /// Of an open loop: when who is due.
    fn turns(&self, times: &Times) -> Option<Turns> {
        let each_us = 1e6 / self.rate?;
        Some(Turns { start_us: times.start, each_us, end_us: times.end })
    }

    fn command_topic(&self, number: usize) -> String {
        format!("{}/{number}/command", self.prefix)
    }

    fn topic(&self, shape: Shape, number: usize) -> String {
        let prefix = &self.prefix;
        if shape == Shape::FanOut { format!("{prefix}/all") } else { format!("{prefix}/{number}/up") }
    }

    fn filter(&self, shape: Shape, number: usize) -> String {
        let prefix = &self.prefix;
        match shape {
            Shape::FanOut => format!("{prefix}/all"),
            Shape::FanIn => format!("{prefix}/+/up"),
            _ => format!("{prefix}/{number}/up"),
        }
    }
}

impl Default for Load {
    fn default() -> Self {
        Self {
            target: Arc::new(Target::new(SocketAddr::from(([127, 0, 0, 1], 1883)), Version::V4)),
            prefix: "bench".to_owned(),
            qos: 1,
            payload_bytes: 256,
            publishers: 100,
            subscribers: 1,
            rate: None,
            window: 20,
            messages: None,
            warm_up: Duration::from_secs(1),
            time: Duration::from_secs(5),
            drain: DRAIN_MAX,
            watched: Watched::default(),
            progress: false,
        }
    }
}

/// Moments of a run, by [`now_us`].
#[derive(Debug, Clone, Copy)]
struct Times {
    start: u64,
    measure: u64,
    end: u64,
    /// When what has not come by then is lost.
    given_up: u64,
}

impl Times {
    /// Where the number of messages is given, no warm-up could be taken from them.
    fn of(load: &Load) -> Self {
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 4);
        let start = now_us() + BEFORE_US;
        let measure = start + if load.messages.is_some() { 0 } else { us(load.warm_up) };
        let end = measure + us(load.time);
        Self { start, measure, end, given_up: end + us(load.drain) }
    }

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
    lags: Latencies,
}

/// Processor time while it was measured.
#[derive(Debug, Clone, Copy)]
struct Cpu {
    server_s: Option<f64>,
    own_s: f64,
}

/// Runs a load whose clients publish.
pub(crate) async fn traffic(name: &str, load: Load, shape: Shape) -> io::Result<Outcome> {
    let mut publishers = open(&load, "publisher", load.publishers).await?;
    if shape == Shape::Devices {
        for (number, connection) in publishers.iter_mut().enumerate() {
            connection.subscribe(&load.command_topic(number), 1).await?;
        }
    }
    let listeners = if matches!(shape, Shape::Publish | Shape::Devices) { 0 } else { load.subscribers };
    let mut subscribers = open(&load, "subscriber", listeners).await?;
    for (number, connection) in subscribers.iter_mut().enumerate() {
        connection.subscribe(&load.filter(shape, number), load.qos).await?;
    }
    let (times, counts, latencies, lags) =
        (Times::of(&load), Counts::default(), Latencies::new()?, Latencies::new()?);
    let shared = Arc::new(Shared { load, times, counts, latencies, lags });
    let (stop, stopped) = watch::channel(false);
    let mut listening = JoinSet::new();
    for (number, connection) in subscribers.into_iter().enumerate() {
        let subscriber = Subscriber::new(number, connection, Arc::clone(&shared), stopped.clone());
        listening.spawn(subscriber.run());
    }
    let (mut publishing, pacer) = publish(&shared, shape, publishers);
    let telling = shared.load.progress.then(|| tokio::spawn(progress::tell(Arc::clone(&shared))));
    let cpu = measure_window(&shared).await;
    while publishing.join_next().await.is_some() {}
    match pacer {
        Some(pacer) if pacer.is_finished() => pacer.await.map_err(io::Error::other)??,
        // The messages were fewer than the time.
        Some(pacer) => pacer.abort(),
        None => {}
    }
    let fan = match shape {
        Shape::Publish | Shape::Devices => 0,
        Shape::PeerToPeer => 1,
        Shape::FanIn | Shape::FanOut => listeners as u64,
    };
    until_received(&shared.counts, fan).await;
    telling.inspect(|task| task.abort());
    let _told = stop.send(true);
    while listening.join_next().await.is_some() {}
    Ok(outcome(name, &shared, cpu, fan))
}

type Pacing = tokio::task::JoinHandle<io::Result<()>>;

/// Sets all publishers going, and in an open loop what wakes them.
fn publish(
    shared: &Arc<Shared>,
    shape: Shape,
    connections: Vec<Connection>,
) -> (JoinSet<()>, Option<Pacing>) {
    let clients: Arc<[Notify]> = connections.iter().map(|_| Notify::new()).collect();
    let mut publishing = JoinSet::new();
    for (number, connection) in connections.into_iter().enumerate() {
        let topic = shared.load.topic(shape, number);
        let publisher = Publisher::new(number, &topic, connection, Arc::clone(shared), Arc::clone(&clients));
        publishing.spawn(publisher.run());
    }
    let turns = shared.load.turns(&shared.times);
    (publishing, turns.map(|turns| tokio::spawn(pacer::run(turns, clients))))
}

/// Makes connections, a bounded number at a time.
async fn open(load: &Load, role: &'static str, count: usize) -> io::Result<Vec<Connection>> {
    let mut connections = Vec::with_capacity(count);
    let mut opening = JoinSet::new();
    for number in 0..count {
        let (target, id) = (Arc::clone(&load.target), format!("{}-{role}-{number}", load.prefix));
        opening.spawn(async move { Ok((number, Connection::open(&target, &id, true, OPEN_MAX).await?)) });
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

/// From the end of the warm-up to the end, or until all messages are acknowledged where their number is given.
async fn measure_window(shared: &Shared) -> Cpu {
    let meter = shared.load.watched.meter();
    sleep_until(instant(shared.times.measure)).await;
    let (server, own) = (meter.used(), own_cpu_s());
    match shared.load.messages.map(|each| each * shared.load.publishers as u64) {
        None => sleep_until(instant(shared.times.end)).await,
        Some(all) => {
            while get(&shared.counts.acked) < all && now_us() < shared.times.end {
                sleep(LOOK).await;
            }
        }
    }
    Cpu { server_s: meter.since(server.as_ref()), own_s: own_cpu_s() - own }
}

/// Waits until all has come, or nothing comes any more.
async fn until_received(counts: &Counts, fan: u64) {
    let expected = get(&counts.sent) * fan;
    let (mut last, mut since) = (get(&counts.received), now_us());
    while get(&counts.received).saturating_sub(get(&counts.duplicated)) < expected {
        sleep(LOOK).await;
        let received = get(&counts.received);
        if received != last {
            (last, since) = (received, now_us());
        } else if now_us() - since > 2_000_000 {
            break;
        }
    }
    if fan > 0 {
        sleep(GRACE).await;
    }
}

/// What subscribers lack of what was due; without them, what was not acknowledged. None with QoS 0 without
/// subscribers, if the broker has read all: what it did with it nobody knows.
fn lost(shared: &Shared, fan: u64) -> Option<u64> {
    let counts = &shared.counts;
    let due = get(&counts.due);
    if fan > 0 {
        let distinct = get(&counts.received).saturating_sub(get(&counts.duplicated));
        return Some((due * fan).saturating_sub(distinct));
    }
    let unanswered = due.saturating_sub(get(&counts.acked));
    (shared.load.qos > 0 || unanswered > 0).then_some(unanswered)
}

/// The time that counts belong to: shorter than was asked for only where all messages were sent before.
fn seconds(shared: &Shared) -> f64 {
    let Times { measure, end, .. } = shared.times;
    let last = get(&shared.counts.last_us).clamp(measure + 1, end.max(measure + 1));
    let until = if shared.load.messages.is_some() { last } else { end };
    until.saturating_sub(measure).max(1) as f64 / 1e6
}

fn outcome(name: &str, shared: &Shared, cpu: Cpu, fan: u64) -> Outcome {
    let counts = &shared.counts;
    let (in_window, lost) =
        (get(if fan > 0 { &counts.received_in_window } else { &counts.in_window }), lost(shared, fan));
    if let Some(lost) = lost.filter(|_| fan > 0) {
        // When they were due is not known any more; they were given up no sooner than this.
        shared.latencies.record_many(now_us().saturating_sub(shared.times.end), lost);
    }
    let (qos, seconds) = (shared.load.qos, seconds(shared));
    let mut outcome = Outcome {
        scenario: name.to_owned(),
        rate: in_window as f64 / seconds,
        unit: if fan > 0 { "deliveries" } else { "publishes" }.to_owned(),
        measured_s: seconds,
        due: get(&counts.due),
        sent: get(&counts.sent),
        acked: (qos > 0).then(|| get(&counts.acked)),
        expected: get(&counts.due) * fan,
        received: get(&counts.received),
        lost,
        duplicated: get(&counts.duplicated) + get(&counts.unexpected),
        refused: get(&counts.refused),
        errors: get(&counts.errors),
        latency: shared.latencies.summary(),
        lag: shared.lags.summary(),
        load_cpu_s: cpu.own_s,
        ..Outcome::default()
    };
    if qos == 0 {
        let read = get(&counts.acked) as f64;
        outcome.more.insert("read by the broker at last, as PINGRESP told".to_owned(), read);
    }
    outcome.set_server(cpu.server_s, in_window, shared.load.watched.peak_bytes());
    outcome
}
