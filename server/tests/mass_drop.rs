//! Every device goes at the same moment, as when a network or a power line fails: all ends are in the log, presence is
//! right, everybody is missed in time, and it costs neither minutes nor gigabytes. Devices are bytes in memory here,
//! since no machine has sockets for so many at both ends; from the first byte on everything is the platform's own.
//! `MUSTER_LONG=1` has 100,000.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use muster::alarms::Board;
use muster::config::{Config, Layers};
use muster::platform::Platform;
use muster::presence::{Wanted, list};
use muster_core::clock::SystemClock;
use muster_core::event::proto::Alarm;
use muster_core::event::proto::event::Detail;
use muster_core::event::{Event, EventKind, EventKinds};
use muster_core::journal::Journal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long anything may take; reached only where the test fails.
const PATIENCE: Duration = Duration::from_secs(300);
/// Devices that connect at the same time.
const AT_ONCE: usize = 64;
/// To look through large tables all the time would be half of the work.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Bytes that may be under way to or from a device.
const LINE_BYTES: usize = 256;
/// The grace time of the alarm, and how many it tells one by one.
const GRACE_MS: i64 = 5_000;
const TOLD: usize = 500;
/// Who is due is to be told of or counted within this time. How busy the machine is decides whether it is met, so that
/// it is printed and not asserted.
const LATE_GOAL_MS: i64 = 1_000;
/// Beyond this, something waits for the wrong thing.
const LATE_MS_MAX: i64 = 10_000;

const RULES: &str = "CREATE RULE history INTO sqlite.history WITH (start = 'earliest') AS
SELECT clientid, event, reason, seq FROM \"$events/client/connected\", \"$events/client/disconnected\";
CREATE ALARM offline INTO sqlite.alarms WITH (storm_per_minute = 500) AS
ABSENCE OF \"$events/client/connected\" FOR 5s AFTER \"$events/client/disconnected\";
CREATE RULE status INTO sqlite.device_status WITH (start = 'earliest') AS
SELECT clientid, event, reason, seq FROM \"$events/client/connected\", \"$events/client/disconnected\";
";

#[tokio::test(flavor = "multi_thread")]
async fn everybody_goes_at_once() {
    let count: usize = if std::env::var_os("MUSTER_LONG").is_some() { 100_000 } else { 3_000 };
    let dir = tempfile::tempdir().expect("a folder");
    let platform = start(dir.path()).await;
    let database = dir.path().join("data/muster.db");
    let empty = memory("VmRSS:");

    let started = Instant::now();
    let lines = connect(&platform, count).await;
    let connected = started.elapsed();
    until("presence has them all", || online(&database) == count as u64).await;
    let (known, idle) = (started.elapsed(), memory("VmRSS:"));

    let before = platform.journal().next_offset();
    let pulled = Instant::now();
    drop(lines);
    let missed =
        tokio::spawn(missed(platform.journal().clone(), platform.pipelines().board().clone(), before, count));
    let reasons = ends(platform.journal(), before, count).await;
    let logged = pulled.elapsed();
    until("presence knows that all are gone", || online(&database) == 0).await;
    let right = pulled.elapsed();
    let statuses =
        "SELECT count(*) FROM device_status WHERE event = 'client.disconnected' AND reason = 'tcp_closed'";
    until("the tables have them all", || {
        rows(&database, statuses) == count && rows(&database, "SELECT count(*) FROM history") == 2 * count
    })
    .await;
    let delivered = pulled.elapsed();
    assert_eq!(reasons, HashMap::from([("tcp_closed".to_owned(), count)]));
    let (devices, total) =
        list(&database, &Wanted { limit: u64::MAX >> 1, ..Wanted::default() }).expect("devices");
    assert_eq!(total, count as u64);
    let once = |it: &muster::presence::Device| !it.online && (it.connects, it.disconnects) == (1, 1);
    assert!(devices.iter().all(once), "{:?}", devices.iter().find(|it| !once(it)));

    let Missed { told, told_late_ms, storm_late_ms, all_late_ms } = missed.await.expect("alarms");
    println!(
        "alarms: {told} of {count} told one by one, {told_late_ms} ms after their deadline at most; the summary of the \
         others {storm_late_ms} ms after the first of theirs, everybody due told or counted within {all_late_ms} ms \
         (goal: {LATE_GOAL_MS} ms)"
    );
    println!(
        "mass drop: {count} devices connected in {:.1} s (presence after {:.1} s); gone at once: all ends in the log \
         after {:.2} s, presence right after {:.2} s, both tables after {:.2} s; memory {} MiB empty, {} MiB with all \
         connected, {} MiB at most",
        connected.as_secs_f64(),
        known.as_secs_f64(),
        logged.as_secs_f64(),
        right.as_secs_f64(),
        delivered.as_secs_f64(),
        empty,
        idle,
        memory("VmHWM:")
    );
    assert!(told_late_ms.max(storm_late_ms).max(all_late_ms) <= LATE_MS_MAX, "within {LATE_MS_MAX} ms");
    let storm = everybody_is_told(platform.journal(), before, count).await;
    let storms = "SELECT count(*) FROM _muster_alarm_history WHERE kind = 'storm'";
    until("the list has the number that was told last", || {
        let sql = format!("{storms} AND json_extract(details, '$.count') = {storm}");
        (rows(&database, storms), rows(&database, &sql)) == (1, 1)
    })
    .await;

    let again = connect(&platform, count).await;
    until("presence has them all again", || online(&database) == count as u64).await;
    until("nobody is missed", || platform.pipelines().board().active().is_empty()).await;
    until("all that was raised is over", || still_on(platform.journal(), before) == 0).await;
    drop(again);
    platform.stop("test").await.expect("a stop in order");
}

async fn start(dir: &Path) -> Platform {
    std::fs::create_dir(dir.join("rules")).expect("a folder");
    std::fs::write(dir.join("rules/all.sql"), RULES).expect("rules");
    let mut layers = Layers::default();
    let text = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let free = || "127.0.0.1:0".to_owned();
    let most = ("mqtt.connections_max", "200000".to_owned());
    for (key, value) in [
        ("data", text("data")),
        ("rules", text("rules")),
        ("mqtt.listen", free()),
        ("http.listen", free()),
        most,
    ] {
        layers.add_flag("test", key, value).expect(key);
    }
    let config = Config::from_layers(&layers).expect("a configuration");
    Platform::start(config, SystemClock::shared()).await.expect("a platform")
}

/// Connects devices; the lines are theirs.
async fn connect(platform: &Platform, count: usize) -> Vec<DuplexStream> {
    let mut tasks = JoinSet::new();
    for first in 0..AT_ONCE {
        let broker = platform.broker().clone();
        tasks.spawn(async move {
            let mut lines = Vec::new();
            for number in (first..count).step_by(AT_ONCE) {
                let (mut line, far) = tokio::io::duplex(LINE_BYTES);
                let address = Ipv4Addr::from(0x0A00_0000 + u32::try_from(number).expect("few"));
                broker.serve(far, SocketAddr::from((address, 7)));
                line.write_all(&connect_packet(&format!("device-{number:06}"))).await.expect("a line");
                let mut connack = [0; 4];
                line.read_exact(&mut connack).await.expect("CONNACK");
                assert_eq!(connack, [0x20, 2, 0, 0], "device {number}");
                lines.push(line);
            }
            lines
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

/// MQTT 3.1.1, a clean session, no keep-alive.
fn connect_packet(clientid: &str) -> Vec<u8> {
    let id = clientid.as_bytes();
    let length = |bytes: usize| u8::try_from(bytes).expect("short");
    let mut bytes = vec![0x10, length(12 + id.len()), 0, 4];
    bytes.extend(b"MQTT\x04\x02\0\0\0");
    bytes.push(length(id.len()));
    bytes.extend(id);
    bytes
}

/// The reasons of so many disconnects from `offset` on, once they are durable; each of another device.
async fn ends(journal: &Journal, offset: u64, count: usize) -> HashMap<String, usize> {
    let mut reader = journal.reader(offset).with_kinds(EventKinds::NONE.with(EventKind::ClientDisconnected));
    let mut reasons: HashMap<String, usize> = HashMap::new();
    let mut devices = HashSet::new();
    while devices.len() < count {
        let batch =
            tokio::time::timeout(PATIENCE, reader.next_batch()).await.expect("all ends").expect("events");
        for event in batch.events() {
            let Some(Detail::Disconnected(end)) = &event.body.detail else { panic!("{event:?}") };
            assert!(devices.insert(Arc::<str>::from(event.clientid())), "once each: {event:?}");
            *reasons.entry(end.reason.clone()).or_default() += 1;
        }
    }
    reasons
}

/// How everybody was missed.
struct Missed {
    told: usize,
    told_late_ms: i64,
    storm_late_ms: i64,
    all_late_ms: i64,
}

/// Watches the alarms from `offset` on until all who went are told of, or counted by the alarm that stands for them.
async fn missed(journal: Journal, board: Board, offset: u64, count: usize) -> Missed {
    let counted = tokio::spawn(counted(journal.clone(), board, offset, count));
    let kinds = EventKinds::NONE.with(EventKind::ClientDisconnected).with(EventKind::AlarmActivated);
    let mut reader = journal.reader(offset).with_kinds(kinds);
    let (mut dues, mut told, mut told_late_ms, mut storm_late_ms) = (HashMap::new(), 0, 0, None);
    while told < TOLD || storm_late_ms.is_none() {
        let batch =
            tokio::time::timeout(PATIENCE, reader.next_batch()).await.expect("alarms").expect("events");
        for event in batch.events() {
            let Some(Detail::Alarm(alarm)) = &event.body.detail else {
                dues.insert(event.clientid().to_owned(), event.timestamp_ms + GRACE_MS);
                continue;
            };
            if alarm.kind == "storm" {
                let first_ms = dues.values().min().expect("somebody");
                storm_late_ms = Some(event.timestamp_ms - first_ms);
                continue;
            }
            let due_ms = dues.remove(event.clientid()).expect("it went, and is told of once");
            assert_eq!(alarm.activated_at_ms, due_ms, "{event:?}");
            assert!(event.timestamp_ms >= due_ms, "never early: {event:?}");
            told_late_ms = told_late_ms.max(event.timestamp_ms - due_ms);
            told += 1;
        }
    }
    let all_late_ms = counted.await.expect("everybody is counted");
    Missed { told, told_late_ms, storm_late_ms: storm_late_ms.unwrap_or_default(), all_late_ms }
}

/// How late everybody is missed, at the worst moment: those who are due by the log against those who are told of or
/// counted.
async fn counted(journal: Journal, board: Board, offset: u64, count: usize) -> i64 {
    let mut reader = journal.reader(offset).with_kinds(EventKinds::NONE.with(EventKind::ClientDisconnected));
    let (mut dues, mut late_ms): (Vec<i64>, i64) = (Vec::new(), 0);
    let end = Instant::now() + PATIENCE;
    loop {
        while let Some(batch) = reader.try_next_batch().expect("events") {
            dues.extend(batch.events().iter().map(|event| event.timestamp_ms + GRACE_MS));
            dues.sort_unstable();
        }
        let before_ms = SystemClock::shared().wall_ms();
        let counts = board.counts();
        let missed = counts.iter().map(|it| it.held).sum::<usize>() + told(&board);
        // Whoever was due then and is not missed yet.
        if let Some(due_ms) = dues.get(missed) {
            late_ms = late_ms.max(before_ms - due_ms);
        } else if missed == count {
            return late_ms;
        }
        assert!(Instant::now() < end, "{missed} of {count} are missed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What alarms say from `offset` on: events of raising and of ending, in order.
fn said(journal: &Journal, offset: u64) -> Vec<Arc<Event>> {
    let kinds = EventKinds::NONE.with(EventKind::AlarmActivated).with(EventKind::AlarmDeactivated);
    let mut reader = journal.reader(offset).with_kinds(kinds);
    let mut said = Vec::new();
    while let Some(batch) = reader.try_next_batch().expect("events") {
        said.extend(batch.events().iter().cloned());
    }
    said
}

fn alarm(event: &Event) -> &Alarm {
    let Some(Detail::Alarm(alarm)) = &event.body.detail else { panic!("{event:?}") };
    alarm
}

/// Waits until what was told is right: some by name, each once, and one storm that stands for all others. Gives for how
/// many that is.
async fn everybody_is_told(journal: &Journal, offset: u64, count: usize) -> usize {
    let end = Instant::now() + PATIENCE;
    loop {
        let (mut named, mut storms, mut counted) = (HashSet::new(), HashSet::new(), 0);
        let said = said(journal, offset);
        for event in said.iter().filter(|it| it.kind == EventKind::AlarmActivated) {
            let alarm = alarm(event);
            if alarm.kind != "storm" {
                assert!(named.insert(event.clientid().to_owned()), "told twice: {event:?}");
                continue;
            }
            storms.insert(alarm.activated_at_ms);
            let details: serde_json::Value = serde_json::from_str(&alarm.details).expect("JSON");
            counted = usize::try_from(details["count"].as_u64().expect("a number")).expect("few");
            let some = details["clientids"].as_array().expect("names");
            let some: HashSet<_> = some.iter().filter_map(|it| it.as_str()).collect();
            assert_eq!(some.len(), counted.min(100), "{alarm:?}");
            assert!(some.iter().all(|id| !named.contains(*id)), "told by name, and counted: {alarm:?}");
        }
        assert_eq!((named.len(), storms.len()), (TOLD, 1));
        if named.len() + counted == count {
            return counted;
        }
        assert!(Instant::now() < end, "{} are told, {counted} counted, of {count}", named.len());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How much of what was raised from `offset` on has not ended; nothing ended twice.
fn still_on(journal: &Journal, offset: u64) -> usize {
    let mut on: HashSet<(String, i64)> = HashSet::new();
    let mut over: HashSet<(String, i64)> = HashSet::new();
    for event in said(journal, offset) {
        let which = (event.clientid().to_owned(), alarm(&event).activated_at_ms);
        if event.kind == EventKind::AlarmDeactivated {
            assert!(on.remove(&which), "it ends after it began: {event:?}");
            assert!(over.insert(which), "it ends once: {event:?}");
        } else {
            assert!(on.insert(which) || alarm(&event).kind == "storm", "raised once: {event:?}");
        }
    }
    on.len()
}

fn told(board: &Board) -> usize {
    board.active().iter().filter(|it| it.kind == "absence").count()
}

fn online(database: &Path) -> u64 {
    let wanted = Wanted { online: Some(true), limit: 1, ..Wanted::default() };
    list(database, &wanted).map_or(u64::MAX, |(_, count)| count)
}

/// A number from the database; 0 while there is no such table.
fn rows(database: &Path, sql: &str) -> usize {
    let ask = || rusqlite::Connection::open(database)?.query_row(sql, [], |row| row.get::<_, i64>(0));
    ask().map_or(0, |count| usize::try_from(count).expect("a count"))
}

async fn until(what: &str, mut probe: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !probe() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A line of this process's status, in MiB.
fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the system says so");
    let line = status.lines().find_map(|line| line.strip_prefix(what)).expect("its size");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}
