//! Numbers that survive a restart. Counters of what the event log holds are a projection of it: exact, also after a
//! crash, since the fold goes on at its cursor. What no event holds (bytes, packets, deliveries) is added up and stored
//! now and then. It must never know who asks, nor be waited for by those whose work it counts.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use muster_broker::Stats;
use muster_core::clock::SharedClock;
use muster_core::event::{Event, EventKinds};
use muster_core::journal::Journal;
use muster_core::registry::Registry;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

mod fold;
mod monitor;
mod node;
mod store;
#[cfg(test)]
mod tests;
mod topics;

pub use monitor::{Flow, SAMPLE_SECONDS, Sample};
pub use node::{RuleNumbers, Sources};
pub use store::StoreError;
pub use topics::{TOPICS_MAX, TopicError, TopicNumbers, Watched};

use crate::access::Collection;
use crate::error::{Error, ErrorKind, chain};
use crate::projection::{Follower, Projection};
use fold::{Count, Totals};
use monitor::{Change, Samples};
use node::Sums;
use store::{Snapshot, Store};

/// The fold is committed at least this often while events come; a crash has it read again so much of the log.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// And at least this often while events pass that are not counted.
const COMMIT_EVENTS: u64 = 100_000;
/// Whoever asks for counters waits so long at most for the fold to reach what is durable.
const CATCH_UP_WAIT: Duration = Duration::from_millis(500);
/// Changes of samples that wait for a database that cannot be written.
const CHANGES_MAX: usize = 1_000;

/// All numbers. Clones are the same.
#[derive(Debug, Clone)]
pub struct Statistics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    clock: SharedClockDebug,
    journal: Journal,
    store: Arc<Mutex<Store>>,
    totals: Arc<Mutex<Totals>>,
    folded: watch::Receiver<u64>,
    sources: OnceLock<Sources>,
    sums: Mutex<Sums>,
    peaks: Mutex<BTreeMap<String, u64>>,
    samples: Mutex<Samples>,
    /// Not stored yet.
    changes: Mutex<Vec<Change>>,
    now: Mutex<Now>,
    collection: Collection<Watched>,
    watched: Mutex<BTreeMap<String, Watched>>,
    looks: Mutex<BTreeMap<String, topics::Looks>>,
    changing_topics: tokio::sync::Mutex<()>,
}

/// A clock has nothing to show.
struct SharedClockDebug(SharedClock);

impl std::fmt::Debug for SharedClockDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("clock")
    }
}

impl std::ops::Deref for SharedClockDebug {
    type Target = SharedClock;

    fn deref(&self) -> &SharedClock {
        &self.0
    }
}

/// The last look, and what came between it and the one before.
#[derive(Debug, Clone, Copy, Default)]
struct Now {
    looked: Option<(Duration, Flow)>,
    flow: Flow,
    passed: Duration,
}

/// The fold with its place in the log.
pub type CountsFollower = Follower<Counts>;

/// The fold as a projection.
#[derive(Debug)]
pub struct Counts {
    store: Arc<Mutex<Store>>,
    totals: Arc<Mutex<Totals>>,
    folded: watch::Sender<u64>,
    clock: SharedClockDebug,
    cursor: Option<u64>,
    committed_at: Duration,
    is_behind: bool,
}

/// Keeps all numbers up until `stop`: what is in the log, then what is not.
pub fn keep(statistics: Statistics, counts: CountsFollower, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let ((), ()) = tokio::join!(counts.run(stop.clone()), statistics.run(stop));
    })
}

impl Statistics {
    /// Opens what is stored under `data`, and gives the projection that keeps it up.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(
        data: &Path,
        journal: &Journal,
        registry: &Registry,
        clock: &SharedClock,
    ) -> Result<(Self, CountsFollower), Error> {
        let unusable = |error| Error::because(ErrorKind::Start, "cannot read the statistics", error);
        let store = Store::open(data, journal.log_id()).map_err(unusable)?;
        let (cursor, mut totals) = store.totals().map_err(unusable)?;
        let collection = Collection::new("topic_metrics", registry);
        let watched = collection.load()?;
        totals.topics = topics::reconcile(&watched, totals.topics, journal.next_offset());
        let Snapshot { counters, peaks } = store.snapshot().map_err(unusable)?;
        let samples = Samples::load(store.samples().map_err(unusable)?);
        let (folded, folded_now) = watch::channel(totals.next_offset);
        let (store, totals) = (Arc::new(Mutex::new(store)), Arc::new(Mutex::new(totals)));
        let counts = Counts {
            store: store.clone(),
            totals: totals.clone(),
            folded,
            clock: SharedClockDebug(clock.clone()),
            cursor,
            committed_at: clock.monotonic(),
            is_behind: false,
        };
        let inner = Inner {
            clock: SharedClockDebug(clock.clone()),
            journal: journal.clone(),
            store,
            totals,
            folded: folded_now,
            sources: OnceLock::new(),
            sums: Mutex::new(Sums::load(counters)),
            peaks: Mutex::new(peaks),
            samples: Mutex::new(samples),
            changes: Mutex::default(),
            now: Mutex::default(),
            collection,
            watched: Mutex::new(watched),
            looks: Mutex::default(),
            changing_topics: tokio::sync::Mutex::default(),
        };
        Ok((Self { inner: Arc::new(inner) }, Follower::over(counts, journal)))
    }

    /// Says who is asked for what no event holds.
    pub fn attach(&self, sources: Sources) {
        // Asked of once; a second answer would count twice.
        let _first = self.inner.sources.set(sources);
    }

    /// Looks and stores what it sees every ten seconds, and once more at the end.
    pub async fn run(self, stop: CancellationToken) {
        // What the last run left to be counted is not of the first ten seconds of this one.
        let durable = self.inner.journal.durable_offset();
        let mut folded = self.inner.folded.clone();
        drop(stop.run_until_cancelled(folded.wait_for(|offset| *offset >= durable)).await);
        let mut looks = tokio::time::interval(Duration::from_secs(SAMPLE_SECONDS));
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(looks.tick()).await.is_some() {
            self.look();
            self.save().await;
        }
        self.sums();
        self.save().await;
    }

    /// Waits, not long, until what is durable now has been counted.
    pub async fn caught_up(&self) {
        let durable = self.inner.journal.durable_offset();
        let mut folded = self.inner.folded.clone();
        // A fold that is far behind, or gone, shows what it has.
        drop(tokio::time::timeout(CATCH_UP_WAIT, folded.wait_for(|offset| *offset >= durable)).await);
    }

    /// Every counter, by the names of the reference.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let mut all = self.sums();
        let totals = self.lock_totals();
        all.extend(Count::ALL.iter().map(|count| (count.name().to_owned(), totals.get(*count))));
        // The log is where messages are kept.
        all.insert("messages.persisted".to_owned(), totals.get(Count::Published));
        all
    }

    /// Gauges: now, and the most that was seen.
    pub fn gauges(&self) -> Vec<(&'static str, u64, u64)> {
        let Some(stats) = self.stats() else { return Vec::new() };
        let mut peaks = lock(&self.inner.peaks);
        let gauge = |(name, now): (&'static str, u64)| {
            let peak = peaks.entry(name.to_owned()).or_default();
            *peak = now.max(*peak);
            (name, now, *peak)
        };
        gauges(&stats).into_iter().map(gauge).collect()
    }

    /// What there is now, with what came between the last two looks and how far they were apart.
    pub fn current(&self) -> (Sample, Duration) {
        let Now { flow, passed, .. } = *lock(&self.inner.now);
        (self.sample(flow), passed)
    }

    /// Samples since a time, the oldest first.
    pub fn samples(&self, from_ms: i64) -> Vec<Sample> {
        lock(&self.inner.samples).since(from_ms)
    }

    /// Forgets all samples.
    pub async fn clear_samples(&self) {
        let change = lock(&self.inner.samples).clear();
        lock(&self.inner.changes).push(change);
        self.save().await;
    }

    fn stats(&self) -> Option<Stats> {
        self.inner.sources.get().map(|sources| sources.broker.stats())
    }

    fn sums(&self) -> BTreeMap<String, u64> {
        let mut sums = lock(&self.inner.sums);
        match self.inner.sources.get() {
            Some(sources) => sums.look(sources).clone(),
            None => sums.sums().clone(),
        }
    }

    fn sample(&self, flow: Flow) -> Sample {
        let stats = self.stats().unwrap_or_default();
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        Sample {
            at_ms: self.inner.clock.wall_ms(),
            connections: number(stats.connections),
            sessions: number(stats.sessions),
            topics: number(stats.topics),
            subscriptions: number(stats.subscriptions),
            shared_subscriptions: number(stats.subscriptions_shared),
            retained: number(stats.retained),
            flow,
        }
    }

    /// Takes a sample of what came since the last look.
    fn look(&self) {
        let at = self.inner.clock.monotonic();
        let total = flow(&self.counters());
        self.gauges();
        self.look_at_topics(at);
        let before = {
            let mut now = lock(&self.inner.now);
            let before = now.looked.replace((at, total));
            if let Some((before_at, before)) = before {
                (now.flow, now.passed) = (total.since(before), at.saturating_sub(before_at));
            }
            before
        };
        if let Some((_, before)) = before {
            let changes = lock(&self.inner.samples).push(self.sample(total.since(before)));
            lock(&self.inner.changes).extend(changes);
        }
    }

    async fn save(&self) {
        let this = self.clone();
        let saved = tokio::task::spawn_blocking(move || this.try_save()).await;
        if let Ok(Err(error)) = saved {
            warn!(error = %chain(&error), "statistics could not be stored; they are next time");
        }
    }

    fn try_save(&self) -> Result<(), StoreError> {
        // One at a time: what is stored later is the newer.
        let mut store = lock(&self.inner.store);
        let snapshot = Snapshot {
            counters: lock(&self.inner.sums).sums().clone(),
            peaks: lock(&self.inner.peaks).clone(),
        };
        let changes = std::mem::take(&mut *lock(&self.inner.changes));
        let saved = store.save_snapshot(&snapshot, &changes);
        if saved.is_err() && changes.len() < CHANGES_MAX {
            let mut waiting = lock(&self.inner.changes);
            let newer = std::mem::replace(&mut *waiting, changes);
            waiting.extend(newer);
        }
        saved
    }

    fn lock_totals(&self) -> MutexGuard<'_, Totals> {
        lock(&self.inner.totals)
    }

    fn lock_watched(&self) -> MutexGuard<'_, BTreeMap<String, Watched>> {
        lock(&self.inner.watched)
    }

    fn lock_looks(&self) -> MutexGuard<'_, BTreeMap<String, topics::Looks>> {
        lock(&self.inner.looks)
    }
}

impl Projection for Counts {
    type Error = StoreError;
    const NAME: &'static str = "counting";
    const KINDS: EventKinds = fold::KINDS;
    const QUIET: Duration = Duration::from_millis(500);

    fn cursor(&self) -> Option<u64> {
        self.cursor
    }

    fn take(&mut self, events: &[Arc<Event>], next_offset: u64) {
        let mut totals = lock(&self.totals);
        for event in events {
            totals.fold(event);
        }
        totals.next_offset = next_offset;
        drop(totals);
        self.is_behind |= !events.is_empty();
        self.folded.send_replace(next_offset);
    }

    fn is_due(&self) -> bool {
        let passed = lock(&self.totals).next_offset.saturating_sub(self.cursor.unwrap_or_default());
        passed >= COMMIT_EVENTS
            || self.is_behind && self.clock.monotonic().saturating_sub(self.committed_at) >= COMMIT_INTERVAL
    }

    fn is_behind(&self) -> bool {
        self.is_behind
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        let totals = lock(&self.totals).clone();
        if self.cursor != Some(totals.next_offset) {
            lock(&self.store).save_totals(&totals)?;
            self.cursor = Some(totals.next_offset);
        }
        self.is_behind = false;
        self.committed_at = self.clock.monotonic();
        Ok(())
    }
}

/// Per second, rounded to hundredths.
pub fn rate(count: u64, passed: Duration) -> f64 {
    let seconds = passed.as_secs_f64();
    if seconds <= 0.0 {
        return 0.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate is no count")]
    let rate = count as f64 / seconds;
    (rate * 100.0).round() / 100.0
}

/// Gauges by the names of the reference.
fn gauges(stats: &Stats) -> Vec<(&'static str, u64)> {
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    vec![
        ("connections", number(stats.connections)),
        ("live_connections", number(stats.connections)),
        ("channels", number(stats.connections)),
        ("cluster_sessions", number(stats.sessions)),
        ("sessions", number(stats.sessions)),
        ("subscriptions", number(stats.subscriptions)),
        ("suboptions", number(stats.subscriptions)),
        ("subscriptions.shared", number(stats.subscriptions_shared)),
        ("topics", number(stats.topics)),
        ("retained", number(stats.retained)),
    ]
}

fn flow(counters: &BTreeMap<String, u64>) -> Flow {
    let of = |name: &str| counters.get(name).copied().unwrap_or_default();
    Flow {
        received: of("messages.received"),
        sent: of("messages.sent"),
        dropped: of("messages.dropped").saturating_add(of("delivery.dropped")),
        persisted: of("messages.persisted"),
        received_bytes: of("bytes.received"),
        sent_bytes: of("bytes.sent"),
        rules_matched: of("rules.matched"),
        actions_executed: of("actions.executed"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
