//! A rule of today over the events of the past: from the moment that it names, each event is in the tables once and
//! none before is, although devices come, go and publish all the while and Muster is killed in the middle of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use muster_core::clock::SystemClock;
use muster_tests::mqtt::{Client, Connect, Version};
use muster_tests::wait::soon;
use muster_tests::{Home, Muster, PATIENCE, until};
use tokio::task::JoinHandle;

use super::expected;
use super::store::{Store, migrate, rfc3339, rules, start, until_told};
use crate::common::pipelines;

/// Devices that come and go.
const DEVICES: usize = 6;
/// Messages that are recorded before the rule is there, beside those of the devices that come and go.
const RECORDED: usize = 3_000;
/// Rows in a batch, so that there are many, and a moment in the middle of them.
const BATCH_ROWS: usize = 50;

/// Devices that come, publish and go until they are told to stop, or the server is killed.
struct Crowd {
    stop: Arc<AtomicBool>,
    devices: Vec<JoinHandle<()>>,
}

impl Crowd {
    fn start(muster: &Muster) -> Self {
        let (stop, broker) = (Arc::new(AtomicBool::new(false)), muster.mqtt);
        let device = |number: usize| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let (id, mut round) = (format!("device-{number}"), 0_usize);
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    if !come_and_go(broker, &id, round).await {
                        return;
                    }
                }
            })
        };
        let devices = (0..DEVICES).map(device).collect();
        Self { stop, devices }
    }

    /// Waits until they have recorded something more.
    async fn move_on(muster: &Muster, events: u64) {
        let appended = async || muster.json("/api/v1/log").await["next_offset"].as_u64().expect("an offset");
        let first = appended().await;
        until("more events", PATIENCE, async || (appended().await >= first + events).then_some(())).await;
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for device in self.devices {
            soon("a device of the crowd ends", device).await.expect("a device");
        }
    }
}

/// A device comes, publishes, and goes with a word every other time. False when the server is gone.
///
/// # Panics
/// When a step takes too long; the message names the device and the step.
async fn come_and_go(broker: SocketAddr, id: &str, round: usize) -> bool {
    let step = |what: &str| format!("{id}, round {round}: {what}");
    let connect = Connect::new(Version::V5, id);
    let Ok((mut client, _, 0)) = soon(&step("CONNACK"), Client::greet(broker, &connect)).await else {
        return false;
    };
    let payloads = (0..5).map(|n| Bytes::from(format!("{{\"n\":{n}}}")));
    let topic = format!("devices/{id}/up");
    let done = soon(&step("PUBACK"), client.publish_all(&topic, payloads, 5)).await;
    if done.acked < 5 {
        return false;
    }
    if round.is_multiple_of(2) {
        soon(&step("DISCONNECT is sent"), client.send(&[0xe0, 0])).await.ok();
        soon(&step("the close after DISCONNECT"), client.until_closed()).await;
    }
    true
}

/// Runs the backfill against a target and compares.
///
/// # Panics
/// When an event is missing, is there twice, or is from before.
pub(super) async fn play<S: Store>(store: S) {
    let home = Home::new();
    let muster = start(&home, &store).await;
    let mut stays = Client::connect(muster.mqtt, Version::V5, "stays").await;
    let crowd = Crowd::start(&muster);
    Crowd::move_on(&muster, 200).await;
    let start_ms = SystemClock::shared().wall_ms();
    let payloads = (0..RECORDED).map(|n| Bytes::from(format!("{{\"n\":{n}}}")));
    assert_eq!(stays.publish_all("devices/stays/up", payloads, 100).await.acked, RECORDED);

    let asked = format!("start = '{}', batch_rows = {BATCH_ROWS}", rfc3339(start_ms));
    let text = rules::<S>();
    assert!(text.contains("start = 'earliest'"), "{text}");
    home.write_rules("rules.sql", &text.replace("start = 'earliest'", &asked));
    migrate(&home, &store).await;
    let in_the_middle = async || {
        let all = pipelines(&muster).await;
        let messages = all.iter().find(|it| it["rule"] == "device_messages")?;
        let delivered = messages["delivered"].as_u64().expect("a number");
        (delivered > 0).then_some(delivered)
    };
    let delivered = until("the backfill has begun", PATIENCE, in_the_middle).await;
    muster.kill().await;
    crowd.stop().await;
    println!("{}: killed after {delivered} of at least {RECORDED} messages", S::NAME);

    let muster = start(&home, &store).await;
    let crowd = Crowd::start(&muster);
    Crowd::move_on(&muster, 200).await;
    crowd.stop().await;
    let _stays = Client::connect(muster.mqtt, Version::V5, "stays").await;
    until_told(&muster).await;
    muster.kill().await;
    compare(&store, &home, start_ms).await;
}

async fn compare<S: Store>(store: &S, home: &Home, start_ms: i64) {
    let log = home.log().await;
    let first = log.events.iter().find(|it| it.timestamp_ms >= start_ms).expect("events since").offset;
    let history = store.rows(home, "device_history", &["clientid", "event", "offset"]).await;
    assert_eq!(expected::sorted(history), expected::history(&log, first), "the history");
    let messages = expected::sorted(store.rows(home, "device_messages", &["clientid", "offset"]).await);
    let told = expected::messages(&log, first);
    assert_eq!(messages.len(), told.len(), "as many messages");
    assert!(messages == told, "each message once");
    let status = store.rows(home, "device_status", &["clientid", "event", "offset"]).await;
    assert_eq!(expected::sorted(status), expected::status(&log, first), "the status");
}
