//! Thousands of real sockets go at once: the devices' ends all close, and everybody is missed in time; then, with as
//! many connected again and nobody missed, the whole process is killed.

use std::collections::HashMap;
use std::time::Duration;

use muster_core::event::EventKind;
use muster_core::event::proto::event::Detail;
use muster_tests::log::LogContents;
use muster_tests::mqtt::{Client, VERSIONS};
use muster_tests::{Home, Muster, PATIENCE, until};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::books::Books;

const DEVICES: usize = 5_000;
/// Devices that connect at the same time.
const AT_ONCE: usize = 50;
/// Of whom so many are told of by name in a minute.
const NAMED: usize = 500;
const GRACE_MS: i64 = 2_000;
const RULES: &str = "CREATE ALARM offline INTO sqlite.alarms WITH (storm_per_minute = 500) AS
ABSENCE OF \"$events/client/connected\" FOR 2s AFTER \"$events/client/disconnected\";
";
/// What is printed as the goal; how busy the machine is decides whether it is met.
const LATE_GOAL_MS: i64 = 1_000;
/// Beyond this, something waits for the wrong thing.
const LATE_MS_MAX: i64 = 10_000;

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_sockets_at_once() {
    let home = Home::with_rules(RULES);
    let muster = home.start().await;
    let empty = muster.memory_bytes();
    let clients = connect(&muster).await;
    until_online(&muster, DEVICES).await;
    let idle = muster.memory_bytes();
    let pulled = Instant::now();
    drop(clients);
    until_online(&muster, 0).await;
    let right = pulled.elapsed();
    let books = Books::of(&LogContents::of_running(&home.data().join("log")));
    assert_eq!(
        books.reasons(),
        HashMap::from([("(came)", DEVICES), ("tcp_closed", DEVICES)]).into_iter().collect()
    );
    until_on(&muster, NAMED + 1).await;
    let (named_late_ms, summary_late_ms) = until_all_are_missed(&home).await;

    let clients = connect(&muster).await;
    until_online(&muster, DEVICES).await;
    until_on(&muster, 0).await;
    let highest = muster.memory_bytes_max();
    muster.kill().await;
    drop(clients);
    let started = Instant::now();
    let muster = home.start().await;
    let again = started.elapsed();
    // Before a listener was open.
    assert_eq!(online(&muster).await, 0);
    muster.stop().await;
    let books = Books::of(&home.log().await);
    let expected = [("(came)", 2 * DEVICES), ("server_restart", DEVICES), ("tcp_closed", DEVICES)];
    assert_eq!(books.reasons(), expected.into_iter().collect());
    assert!(books.devices.values().all(|it| !it.online && (it.connects, it.disconnects) == (2, 2)));
    let mib = |bytes: u64| bytes / (1024 * 1024);
    println!(
        "mass drop: {DEVICES} sockets closed at once, presence right after {:.2} s; {NAMED} told by name, \
         {named_late_ms} ms after their deadline at most, the summary of the others {summary_late_ms} ms after the \
         first of theirs (goal: {LATE_GOAL_MS} ms); killed with as many connected, up again and presence right after \
         {:.2} s; memory {} MiB empty, {} MiB with all connected, {} MiB at most",
        right.as_secs_f64(),
        again.as_secs_f64(),
        mib(empty),
        mib(idle),
        mib(highest)
    );
}

/// Waits until so many alarms are on.
async fn until_on(muster: &Muster, count: usize) {
    until(&format!("{count} alarms are on"), PATIENCE, async || {
        let active = muster.json("/api/v1/alarms?active=true&limit=1").await;
        (active["meta"]["count"] == count).then_some(())
    })
    .await;
}

/// Waits until each device is told of by name or counted in the one alarm that stands for many; how late the last name
/// and the first summary were, in milliseconds.
async fn until_all_are_missed(home: &Home) -> (i64, i64) {
    until("everybody is missed", PATIENCE, async || {
        let log = LogContents::of_running(&home.data().join("log"));
        let ends = log.of(EventKind::ClientDisconnected);
        let mut dues: HashMap<_, _> = ends.map(|it| (it.clientid(), it.timestamp_ms + GRACE_MS)).collect();
        let (mut named_late_ms, mut summaries) = (0, Vec::new());
        for event in log.of(EventKind::AlarmActivated) {
            let Some(Detail::Alarm(alarm)) = &event.body.detail else { panic!("{event:?}") };
            if alarm.kind == "storm" {
                summaries.push((event.timestamp_ms, alarm));
                continue;
            }
            let due_ms = dues.remove(event.clientid()).expect("it went, and is told of once");
            assert!(event.timestamp_ms >= due_ms, "never early: {event:?}");
            named_late_ms = named_late_ms.max(event.timestamp_ms - due_ms);
        }
        let ((first_ms, _), (_, last)) = (summaries.first()?, summaries.last()?);
        let details: serde_json::Value = serde_json::from_str(&last.details).expect("JSON");
        if details["count"] != DEVICES - NAMED {
            return None;
        }
        assert_eq!(dues.len(), DEVICES - NAMED, "so many by name");
        let summary_late_ms = first_ms - dues.values().min()?;
        assert!(
            named_late_ms.max(summary_late_ms) <= LATE_MS_MAX,
            "{named_late_ms} ms, {summary_late_ms} ms"
        );
        Some((named_late_ms, summary_late_ms))
    })
    .await
}

async fn connect(muster: &Muster) -> Vec<Client> {
    let mut tasks = JoinSet::new();
    for first in 0..AT_ONCE {
        let broker = muster.mqtt;
        tasks.spawn(async move {
            let mut clients = Vec::new();
            for number in (first..DEVICES).step_by(AT_ONCE) {
                clients
                    .push(Client::connect(broker, VERSIONS[number % 2], &format!("device-{number}")).await);
            }
            clients
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

/// How many devices are online, as presence has it.
async fn online(muster: &Muster) -> u64 {
    let page = muster.json("/api/v1/devices?online=true&limit=1").await;
    page["meta"]["count"].as_u64().unwrap_or_else(|| panic!("no count: {page}"))
}

async fn until_online(muster: &Muster, count: usize) {
    let limit = PATIENCE.max(Duration::from_secs(120));
    until(&format!("{count} devices are online"), limit, async || {
        (online(muster).await == count as u64).then_some(())
    })
    .await;
}
