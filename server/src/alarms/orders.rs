//! What operators order is in the log before it is done, and definitions are stored before anything is said under them.

use std::time::Duration;

use muster_core::clock::{Clock as _, ManualClock, SharedClock, SystemClock};
use muster_core::event::proto::event::Detail;
use muster_core::event::{EventKind, NewEvent, proto};
use muster_core::journal::Journal;
use muster_core::log::{LogConfig, RealDisk};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::tests::{lifecycle, program};
use super::{Board, Definitions, Engine, FORCE};

const PATIENCE: Duration = Duration::from_secs(60);

fn defined(all: &[(&str, &str)]) -> Definitions {
    let named = |(name, grace): &(&str, &str)| {
        let sql = format!(
            "CREATE ALARM {name} AS ABSENCE OF \"$events/client/connected\" FOR {grace} \
             AFTER \"$events/client/disconnected\";"
        );
        ((*name).to_owned(), program(&sql))
    };
    Definitions { programs: all.iter().map(named).collect(), is_partial: false }
}

/// What the log tells of alarms.
fn told(journal: &Journal) -> Vec<String> {
    let mut told = Vec::new();
    let mut reader = journal.reader(journal.first_offset());
    while let Some(batch) = reader.try_next_batch().expect("events") {
        for event in batch.events() {
            let Some(Detail::Alarm(it)) = &event.body.detail else { continue };
            let sign = if event.kind == EventKind::AlarmActivated { '+' } else { '-' };
            told.push(format!("{sign}{}/{} {}", it.name, event.clientid(), it.details));
        }
    }
    told
}

async fn append(journal: &Journal, event: NewEvent) {
    let offset = journal.append(event).await.expect("append").offset;
    journal.durable(offset).await.expect("durable");
}

async fn speak(engine: &mut Engine) {
    for _ in 0..2 {
        engine.read_to_end().await.expect("read");
        engine.speak().await.expect("it speaks");
    }
    engine.read_to_end().await.expect("read");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_ends_stays_ended_over_a_kill_and_another_definition() {
    let dir = tempfile::tempdir().expect("a folder");
    let clock = ManualClock::at(1_000_000);
    let config = LogConfig::new(dir.path().join("log"));
    let (journal, _) = Journal::open(config, RealDisk::shared(), clock.clone()).expect("a journal");
    let (define, definitions) = watch::channel(defined(&[("a", "60s")]));
    let shared: SharedClock = clock.clone();
    let open = || {
        let wired = (definitions.clone(), Board::default());
        Engine::open(&journal, dir.path(), &shared, "n", wired).expect("an engine")
    };
    let mut engine = open();
    append(&journal, lifecycle(EventKind::ClientDisconnected, "d", clock.wall_ms())).await;
    speak(&mut engine).await;
    clock.advance(Duration::from_secs(61));
    speak(&mut engine).await;
    assert_eq!(told(&journal), ["+a/d {}"]);

    // The order is durable; then the process ends before anybody has heard of it.
    let admin =
        proto::Admin { action: FORCE.to_owned(), object: "a/d".to_owned(), ..proto::Admin::default() };
    let body = proto::Event { detail: Some(Detail::Admin(admin)), ..proto::Event::default() };
    let event =
        NewEvent { timestamp_ms: clock.wall_ms(), kind: EventKind::Admin, topic: String::new(), body };
    append(&journal, event).await;
    drop(engine);
    let mut engine = open();
    speak(&mut engine).await;
    let forced = ["+a/d {}", "-a/d {\"reason\":\"force_deactivated\"}"];
    assert_eq!(told(&journal), forced);

    define.send_replace(defined(&[("a", "30s")]));
    assert!(engine.begin_definitions());
    engine.end_definitions().await.expect("the past is read");
    clock.advance(Duration::from_secs(100));
    speak(&mut engine).await;
    assert_eq!(told(&journal), forced, "it was not back");
    for kind in [EventKind::ClientConnected, EventKind::ClientDisconnected] {
        append(&journal, lifecycle(kind, "d", clock.wall_ms())).await;
    }
    speak(&mut engine).await;
    clock.advance(Duration::from_secs(31));
    speak(&mut engine).await;
    assert_eq!(told(&journal).len(), 3, "it was back, and went anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_said_under_a_definition_that_is_not_stored_and_others_go_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let clock = SystemClock::shared();
    let config = LogConfig::new(dir.path().join("log"));
    let (journal, _) = Journal::open(config, RealDisk::shared(), clock.clone()).expect("a journal");
    let (define, definitions) = watch::channel(defined(&[("old", "100ms")]));
    let board = Board::default();
    let wired = (definitions, board.clone());
    let engine = Engine::open(&journal, dir.path(), &clock, "n", wired).expect("an engine");

    // Nothing can be stored.
    let db = rusqlite::Connection::open(dir.path().join("alarms.db")).expect("the database");
    db.execute_batch("BEGIN IMMEDIATE").expect("a lock");
    let stop = CancellationToken::new();
    let task = tokio::spawn(engine.run(stop.clone()));
    define.send_replace(defined(&[("old", "100ms"), ("new", "100ms")]));
    until("the new one hears", || board.counts().len() == 2).await;
    append(&journal, lifecycle(EventKind::ClientDisconnected, "d", clock.wall_ms())).await;
    until("the old one tells", || !told(&journal).is_empty()).await;
    until("the new one waits", || board.counts().iter().any(|it| it.name == "new" && it.waiting == 1)).await;
    assert_eq!(told(&journal), ["+old/d {}"]);

    db.execute_batch("ROLLBACK").expect("it can be stored");
    until("the new one tells", || told(&journal).len() == 2).await;
    assert_eq!(told(&journal), ["+old/d {}", "+new/d {}"]);
    stop.cancel();
    task.await.expect("it ends in order");
}

async fn until(what: &str, mut probe: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !probe() {
        assert!(tokio::time::Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
