//! A target that is away costs disk, and nothing else: Muster's memory stays as it was, devices notice nothing, and
//! what was missed is delivered much faster than it came. The figures are printed.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_tests::mqtt::{Client, VERSIONS};
use muster_tests::{Home, Muster, PATIENCE, long, until};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::sqlite::Sqlite;
use super::target::Target;
use super::webhook::{Requests, Webhook};
use crate::common::pipeline;

/// Messages a second, all devices together.
const RATE: u64 = 1_000;
const DEVICES: u64 = 50;
/// Bytes that each payload has beside its numbers, so that what memory would have to hold is worth measuring.
const PADDING_BYTES: usize = 300;
/// What an outage may add to the memory of the process, however long it is.
const GROWTH_BYTES_MAX: u64 = 64 << 20;
/// A target is caught up with when its newest row is no older.
const CAUGHT_UP_MS: u64 = 500;

/// How long it takes.
struct Form {
    before: Duration,
    outage: Duration,
}

impl Form {
    fn of_this_run() -> Self {
        let (before, outage) = if long() { (20, 600) } else { (4, 8) };
        Self { before: Duration::from_secs(before), outage: Duration::from_secs(outage) }
    }

    /// Generous: the promise is a twentieth, but machines are shared.
    fn catch_up_max(&self) -> Duration {
        self.outage + PATIENCE
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_webhook() {
    costs_disk_only(Webhook::new(Requests::Batches).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_sqlite() {
    costs_disk_only(Sqlite::new()).await;
}

/// Lets the target be away while devices publish.
///
/// # Panics
/// When memory grows, a message is lost, or the target is not caught up with.
async fn costs_disk_only(mut target: impl Target) {
    let form = Form::of_this_run();
    let home = Home::with_rules(&format!(
        "CREATE SINK target TYPE {};\n\
         CREATE RULE outage INTO {} AS\n\
         SELECT clientid AS client, payload.n AS n, payload.n AS v FROM \"outage/+/up\";\n",
        target.declaration(),
        target.destination()
    ));
    let muster = home.start_with(&["--set", "delivery.retry_wait_max=1s"]).await;
    let devices = Devices::start(&muster);
    sleep(form.before).await;

    let (log_before, memory_before) = (bytes_in(&home.data().join("log")), muster.memory_bytes());
    let began = Instant::now();
    target.down(false).await;
    let mut memory_most = 0;
    while began.elapsed() < form.outage {
        sleep(Duration::from_millis(500)).await;
        memory_most = memory_most.max(muster.memory_bytes());
    }
    let lasted = began.elapsed();
    let missed = pipeline(&muster, "outage", "target").await["lag_events"].as_u64().expect("a number");
    let log_bytes = bytes_in(&home.data().join("log")) - log_before;

    let (ended, limit) = (Instant::now(), form.catch_up_max());
    target.up().await;
    until("the target is caught up with", limit, async || {
        memory_most = memory_most.max(muster.memory_bytes());
        let it = pipeline(&muster, "outage", "target").await;
        (it["lag_ms"].as_u64().expect("a number") <= CAUGHT_UP_MS).then_some(())
    })
    .await;
    let caught_up = ended.elapsed();
    let acks = devices.stop().await;
    until("everything is delivered", limit, async || {
        let it = pipeline(&muster, "outage", "target").await;
        (it["delivered"] == acks.len() && it["pending"] == 0).then_some(())
    })
    .await;
    muster.stop().await;
    assert_eq!(target.rows().await.len(), acks.len(), "each message is there once");

    let p99 = |from: Instant, to: Instant| p99(acks.iter().filter(|(at, _)| (from..to).contains(at)));
    let mib = |bytes: u64| bytes / (1 << 20);
    println!(
        "outage: {:.0} s at {RATE}/s; {missed} events missed, caught up with in {:.1} s ({:.0} times as fast as they \
         came, while more came); log +{} MiB; memory {} MiB before, {} MiB at most; acks within (99 of 100): {:?} \
         before, {:?} during, {:?} while catching up",
        lasted.as_secs_f64(),
        caught_up.as_secs_f64(),
        lasted.as_secs_f64() / caught_up.as_secs_f64(),
        mib(log_bytes),
        mib(memory_before),
        mib(memory_most),
        p99(began - form.before, began),
        p99(began, ended),
        p99(ended, ended + caught_up)
    );
    let growth = memory_most.saturating_sub(memory_before);
    assert!(growth <= GROWTH_BYTES_MAX, "an outage took {} MiB of memory", mib(growth));
    assert!(missed >= RATE * form.outage.as_secs() / 2, "the devices were held up: {missed} events missed");
}

/// Devices that publish at an even pace until they are stopped, each of them the next message when the last one is
/// acknowledged.
struct Devices {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    acks: Acks,
}

/// When each message was sent, and how long its ack took.
type Acks = Arc<Mutex<Vec<(Instant, Duration)>>>;

impl Devices {
    fn start(muster: &Muster) -> Self {
        let (mut tasks, stop, acks) = (JoinSet::new(), Arc::new(AtomicBool::new(false)), Acks::default());
        for number in 0..DEVICES {
            let (broker, stop, acks) = (muster.mqtt, Arc::clone(&stop), Arc::clone(&acks));
            tasks.spawn(async move {
                let name = format!("c{number}");
                let version = VERSIONS[usize::from(number % 2 == 0)];
                let mut client = Client::connect(broker, version, &name).await;
                let (topic, padding) = (format!("outage/{name}/up"), "x".repeat(PADDING_BYTES));
                let mut beat = interval(Duration::from_millis(1_000 * DEVICES / RATE));
                // Late ones are made up for: the rate is what counts.
                beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
                for n in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    beat.tick().await;
                    let at = Instant::now();
                    let payload = format!("{{\"n\":{n},\"padding\":\"{padding}\"}}");
                    client.publish(&topic, payload.as_bytes(), 1, false).await;
                    acks.lock().expect("no device panics with it").push((at, at.elapsed()));
                }
                client.disconnect().await;
            });
        }
        Self { tasks, stop, acks }
    }

    async fn stop(mut self) -> Vec<(Instant, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(done) = self.tasks.join_next().await {
            done.expect("a device");
        }
        std::mem::take(&mut *self.acks.lock().expect("no device panics with it"))
    }
}

/// Within what time 99 of 100 acks came.
fn p99<'a>(acks: impl Iterator<Item = &'a (Instant, Duration)>) -> Duration {
    let mut took: Vec<Duration> = acks.map(|(_, took)| *took).collect();
    took.sort_unstable();
    took.get(took.len() * 99 / 100).copied().unwrap_or_default()
}

fn bytes_in(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).expect("the log's folder");
    // A file may be renamed while we look.
    files.filter_map(|file| file.ok()?.metadata().ok()).map(|it| it.len()).sum()
}
