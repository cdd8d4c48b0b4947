//! Alarms under a clock that is given: what is told, once, and when; against a plain model; and how exact a full
//! engine is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use muster_core::clock::{Clock as _, ManualClock, SystemClock};
use muster_core::event::proto::event::Detail;
use muster_core::event::{Event, EventKind, NewEvent, proto};
use muster_core::journal::Journal;
use muster_core::log::{LogConfig, RealDisk};
use muster_rules::ast::Statement;
use muster_rules::{AlarmProgram, EvalContext};
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::{Board, Definitions, Engine, Notice, State};
use crate::presence::Silence;

pub(super) fn program(sql: &str) -> Arc<AlarmProgram> {
    let (statements, problems) = muster_rules::parse("a.sql", sql);
    assert!(problems.is_empty(), "{problems:?}");
    let [Statement::CreateAlarm(alarm)] = statements.as_slice() else { panic!("{statements:?}") };
    Arc::new(AlarmProgram::compile(alarm).expect("an alarm"))
}

pub(super) fn offline(options: &str) -> Arc<AlarmProgram> {
    program(&format!(
        "CREATE ALARM offline {options} AS ABSENCE OF \"$events/client/connected\" FOR 60s \
         AFTER \"$events/client/disconnected\" WHERE username <> 'probe';"
    ))
}

pub(super) fn lifecycle(kind: EventKind, client: &str, at_ms: i64) -> NewEvent {
    let client = proto::Client {
        clientid: client.to_owned(),
        username: Some("u".to_owned()),
        ..proto::Client::default()
    };
    let body = proto::Event { client: Some(client), ..proto::Event::default() };
    NewEvent { timestamp_ms: at_ms, kind, topic: String::new(), body }
}

/// What an event says, in short.
pub(super) fn line(kind: EventKind, device: &str, it: &proto::Alarm) -> String {
    let what = format!("{device} {} {}", it.kind, it.activated_at_ms);
    let details: serde_json::Value = serde_json::from_str(&it.details).expect("JSON");
    match (kind, details["reason"].as_str()) {
        (EventKind::AlarmActivated, _) => format!("+{what}"),
        (_, Some(reason)) => format!("-{what} {reason}"),
        (_, None) => format!("-{what} {}", it.deactivated_at_ms),
    }
}

/// The lines of each device, in their order.
pub(super) fn by_device(lines: &[String]) -> BTreeMap<&str, Vec<&str>> {
    let mut all: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in lines {
        let device = line.get(1..).and_then(|it| it.split(' ').next()).unwrap_or_default();
        all.entry(device).or_default().push(line);
    }
    all
}

/// A state that reads what it writes.
pub(super) struct Bench {
    pub(super) state: State,
    context: EvalContext,
    offset: u64,
    /// Everything that happened, as the log has it.
    pub(super) log: Vec<Event>,
    pub(super) told: Vec<(EventKind, String, proto::Alarm)>,
}

impl Bench {
    pub(super) fn new(program: &Arc<AlarmProgram>) -> Self {
        let state = State::new(program.name(), Some(program.clone()));
        let context = crate::pipelines::eval_context(ManualClock::at(0), 1);
        Self { state, context, offset: 0, log: Vec::new(), told: Vec::new() }
    }

    fn event(&mut self, event: NewEvent) -> Event {
        self.offset += 1;
        let event = event.at(1, self.offset);
        self.log.push(event.clone());
        event
    }

    pub(super) fn see(&mut self, kind: EventKind, client: &str, at_ms: i64) {
        self.see_event(lifecycle(kind, client, at_ms));
    }

    pub(super) fn see_event(&mut self, event: NewEvent) {
        let event = self.event(event);
        self.state.fold(&event, &mut self.context);
    }

    /// The process ends, with all that was not stored; the next one reads the log from `place` on.
    pub(super) fn restart(&mut self, stored: &State, place: usize) {
        self.state = stored.clone();
        for event in &self.log[place..] {
            match &event.body.detail {
                Some(Detail::Alarm(_)) => self.state.fold_own(event),
                _ => self.state.fold(event, &mut self.context),
            }
        }
    }

    pub(super) fn at(&mut self, now_ms: i64) -> Vec<String> {
        let before = self.told.len();
        // Ends follow from what is read of the beginnings.
        for _ in 0..2 {
            for Notice { kind, client, body } in self.state.due(now_ms) {
                let id = client.map(|(id, _)| id.to_string()).unwrap_or_default();
                let mut new = lifecycle(kind, &id, now_ms);
                new.body.detail = Some(Detail::Alarm(body.clone()));
                let event = self.event(new);
                self.state.fold_own(&event);
                self.told.push((kind, id, body));
            }
        }
        let line = |(kind, id, body): &(EventKind, String, proto::Alarm)| {
            let sign = if *kind == EventKind::AlarmActivated { '+' } else { '-' };
            format!("{sign}{id} {} {}", body.kind, body.activated_at_ms)
        };
        self.told[before..].iter().map(line).collect()
    }
}

#[test]
fn who_stays_away_is_told_once_and_so_is_the_return() {
    let mut bench = Bench::new(&offline("WITH (message = '${clientid} since ${since}')"));
    bench.see(EventKind::ClientDisconnected, "a", 1_000);
    assert!(bench.at(60_999).is_empty());
    assert_eq!(bench.at(61_000), ["+a absence 61000"]);
    assert_eq!(bench.told[0].2.message, "a since 1970-01-01T00:00:01Z");
    bench.see(EventKind::ClientDisconnected, "a", 62_000);
    assert!(bench.at(500_000).is_empty(), "it is raised once");
    assert!(bench.at(0).is_empty(), "a clock that steps back takes nothing back");
    bench.see(EventKind::ClientConnected, "a", 501_000);
    assert_eq!(bench.at(501_000), ["-a absence 61000"]);
    assert_eq!(bench.told[1].2.duration_ms, 500_000);
    bench.see(EventKind::ClientDisconnected, "b", 502_000);
    bench.see(EventKind::ClientConnected, "b", 503_000);
    assert!(bench.at(900_000).is_empty(), "who comes back in time is not told");
}

/// What a connection that ended with the server is told by is written at the next start.
#[test]
fn an_outage_counts_from_when_the_device_went_and_the_grace_from_when_it_could_come_back() {
    let mut bench = Bench::new(&offline(""));
    let mut event = lifecycle(EventKind::ClientDisconnected, "a", 50_000);
    let end = proto::Disconnection { disconnected_at_ms: 4_000, ..proto::Disconnection::default() };
    event.body.detail = Some(Detail::Disconnected(end));
    bench.see_event(event);
    assert!(bench.at(109_999).is_empty());
    assert_eq!(bench.at(110_000), ["+a absence 110000"]);
    bench.see(EventKind::ClientConnected, "a", 120_000);
    assert_eq!(bench.at(120_000), ["-a absence 110000"]);
    let times = |at: usize| (bench.told[at].2.since_ms, bench.told[at].2.duration_ms);
    assert_eq!((times(0), times(1)), ((4_000, 0), (4_000, 116_000)));
}

#[test]
fn a_clock_that_is_ahead_for_a_moment_forgets_no_silence() {
    let board = Board::default();
    let (by, comment) = ("ops".to_owned(), String::new());
    board.silence(Silence { id: 1, name: None, clientid: None, until_ms: 100, by, comment });
    let silent = [50, 200, 50].map(|now_ms| board.is_silent("offline", "a", now_ms));
    assert_eq!(silent, [true, false, true]);
}

#[test]
fn beyond_the_limits_one_stands_for_many() {
    let mut bench = Bench::new(&offline("WITH (storm_per_minute = 3, max_active = 4)"));
    for n in 0..200 {
        bench.see(EventKind::ClientDisconnected, &format!("d{n:03}"), 0);
    }
    assert_eq!(bench.at(60_000).len(), 3);
    assert_eq!(bench.at(60_400), ["+ storm 60400"]);
    let details: serde_json::Value = serde_json::from_str(&bench.told[3].2.details).expect("JSON");
    assert_eq!(
        (details["count"].as_u64(), details["clientids"].as_array().map(Vec::len)),
        (Some(197), Some(100))
    );
    for n in 0..200 {
        bench.see(EventKind::ClientConnected, &format!("d{n:03}"), 61_000);
    }
    let mut ends = bench.at(61_000);
    ends.sort();
    assert_eq!(ends, ["- storm 60400", "-d000 absence 60000", "-d001 absence 60000", "-d002 absence 60000"]);
    assert_eq!(bench.state.next_due_ms(), None);
}

#[test]
fn a_storm_ends_when_those_who_are_left_can_be_told_one_by_one() {
    let mut bench = Bench::new(&offline("WITH (storm_per_minute = 3)"));
    for n in 0..20 {
        bench.see(EventKind::ClientDisconnected, &format!("d{n:02}"), 0);
    }
    assert_eq!(bench.at(60_000).len(), 3);
    assert_eq!(bench.at(60_300), ["+ storm 60300"]);
    assert!(bench.at(200_000).is_empty(), "17 are more than 3 a minute");
    // Who was told and comes back has no part in it.
    bench.see(EventKind::ClientConnected, "d00", 200_001);
    assert_eq!(bench.at(200_001), ["-d00 absence 60000"]);
    for n in 3..17 {
        bench.see(EventKind::ClientConnected, &format!("d{n:02}"), 200_002);
    }
    let mut told = bench.at(200_002);
    told.sort();
    let expected = ["+d17 absence 60000", "+d18 absence 60000", "+d19 absence 60000", "- storm 60300"];
    assert_eq!(told, expected, "each who is still missing has an alarm of its own");
    let end =
        &bench.told.iter().find(|(kind, _, it)| it.kind == "storm" && *kind == EventKind::AlarmDeactivated);
    assert_eq!(end.expect("told").2.details, r#"{"count":17,"told":3}"#);
    for n in 0..20 {
        bench.see(EventKind::ClientConnected, &format!("d{n:02}"), 300_000);
    }
    assert_eq!(bench.at(300_000).len(), 5, "each is over once: two of the first three, and the last three");
    assert_eq!(bench.state.next_due_ms(), None);
}

#[test]
fn no_storm_outlives_its_definition_or_those_whom_nobody_sees_return() {
    let mut bench = Bench::new(&offline("WITH (storm_per_minute = 1)"));
    for n in 0..5 {
        bench.see(EventKind::ClientDisconnected, &format!("d{n}"), 0);
    }
    bench.at(60_000);
    assert_eq!(bench.at(60_300), ["+ storm 60300"]);
    bench.state.redefine(None, None, 61_000);
    assert_eq!(bench.at(61_000).len(), 2);
    assert!(bench.state.is_empty(), "{:?}", bench.state);

    let sql = "CREATE ALARM p WITH (storm_per_minute = 1, clear_after = '5s') AS \
               PRESENCE OF \"$events/client/connected\";";
    let mut bench = Bench::new(&program(sql));
    for n in 0..5 {
        bench.see(EventKind::ClientConnected, &format!("d{n}"), 1_000);
    }
    assert_eq!(bench.at(1_000), ["+d0 presence 1000"]);
    assert_eq!(bench.at(1_300), ["+ storm 1300"]);
    assert!(bench.at(5_999).is_empty());
    let mut told = bench.at(6_000);
    told.sort();
    assert_eq!(told, ["- storm 1300", "-d0 presence 1000"]);
    assert_eq!(bench.state.next_due_ms(), None);
}

#[test]
fn flapping_is_over_after_a_window_without() {
    let sql = "CREATE ALARM f AS FLAPPING OF \"$events/client/disconnected\" 3 TIMES IN 10s;";
    let mut bench = Bench::new(&program(sql));
    for at_ms in [0, 4_000, 20_000, 21_000] {
        bench.see(EventKind::ClientDisconnected, "a", at_ms);
        assert!(bench.at(at_ms).is_empty());
    }
    bench.see(EventKind::ClientDisconnected, "a", 22_000);
    assert_eq!(bench.at(22_000), ["+a flapping 22000"]);
    bench.see(EventKind::ClientDisconnected, "a", 30_000);
    assert!(bench.at(39_999).is_empty());
    assert_eq!(bench.at(40_000), ["-a flapping 22000"]);
    assert_eq!(bench.state.next_due_ms(), None);
}

#[test]
fn what_presence_raises_is_over_at_once_or_after_a_time() {
    let sql = "CREATE ALARM p WITH (clear_after = '5s') AS PRESENCE OF \"$events/client/connected\";";
    let mut bench = Bench::new(&program(sql));
    bench.see(EventKind::ClientConnected, "a", 1_000);
    assert_eq!(bench.at(1_000), ["+a presence 1000"]);
    assert_eq!(bench.at(6_000), ["-a presence 1000"]);
}

#[test]
fn another_definition_ends_what_does_not_hold_and_leaves_the_rest() {
    let mut bench = Bench::new(&offline(""));
    for client in ["a-1", "b-1"] {
        bench.see(EventKind::ClientDisconnected, client, 0);
    }
    bench.at(60_000);
    let narrow = offline("WITH (clientid = 'a-+')");
    let mut anew = State::new("offline", Some(narrow.clone()));
    for client in ["a-1", "b-1"] {
        let event = lifecycle(EventKind::ClientDisconnected, client, 0).at(1, 1);
        anew.fold(&event, &mut bench.context);
    }
    bench.state.redefine(Some(narrow), Some(anew), 70_000);
    assert_eq!(bench.at(70_000), ["-b-1 absence 60000"]);
    assert!(bench.told.last().expect("told").2.details.contains("definition_changed"));
    bench.state.redefine(None, None, 80_000);
    assert_eq!(bench.at(80_000), ["-a-1 absence 60000"]);
}

proptest! {
    /// A device is told exactly when its absence reached the grace time before it returned.
    #[test]
    fn as_a_plain_model_says(steps in prop::collection::vec((0..4_u8, any::<bool>(), 1..40_000_i64), 1..200)) {
        let mut bench = Bench::new(&offline("WITH (storm_per_minute = 100000, max_active = 100000)"));
        let mut model: BTreeMap<String, (i64, bool)> = BTreeMap::new();
        let mut expected = Vec::new();
        let mut now_ms = 0;
        for (device, comes, wait_ms) in steps {
            now_ms += wait_ms;
            let client = format!("d{device}");
            for (id, (since_ms, told)) in &mut model {
                if !*told && *since_ms + 60_000 <= now_ms {
                    *told = true;
                    expected.push(format!("+{id} absence {}", *since_ms + 60_000));
                }
            }
            bench.at(now_ms);
            if comes {
                bench.see(EventKind::ClientConnected, &client, now_ms);
                if let Some((since_ms, true)) = model.remove(&client) {
                    expected.push(format!("-{client} absence {}", since_ms + 60_000));
                }
            } else {
                bench.see(EventKind::ClientDisconnected, &client, now_ms);
                model.entry(client).or_insert((now_ms, false));
            }
            bench.at(now_ms);
        }
        let mut told: Vec<_> = bench.told.iter().map(|(kind, id, body)| {
            let sign = if *kind == EventKind::AlarmActivated { '+' } else { '-' };
            format!("{sign}{id} absence {}", body.activated_at_ms)
        }).collect();
        told.sort();
        expected.sort();
        prop_assert_eq!(told, expected);
    }
}

/// Who is not heard while a rule file cannot be read is heard of once it can be.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_at_the_start_takes_nothing_away_and_misses_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let clock = ManualClock::at(1_000_000);
    let config = LogConfig::new(dir.path().join("log"));
    let (journal, _) = Journal::open(config, RealDisk::shared(), clock.clone()).expect("a journal");
    let see = async |kind: EventKind, client: &str| {
        let offset = journal.append(lifecycle(kind, client, clock.wall_ms())).await.expect("append").offset;
        journal.durable(offset).await.expect("durable");
    };
    let readable = || [("offline".to_owned(), offline(""))].into();
    let run = async |programs: BTreeMap<String, Arc<AlarmProgram>>, client: &str, kind: EventKind| {
        let definitions = Definitions { is_partial: programs.is_empty(), programs };
        let (_keep, receiver) = tokio::sync::watch::channel(definitions);
        let (shared, board): (muster_core::clock::SharedClock, _) = (clock.clone(), Board::default());
        let wired = (receiver, board.clone());
        let mut engine = Engine::open(&journal, dir.path(), &shared, "n", wired).expect("an engine");
        see(kind, client).await;
        engine.read_to_end().await.expect("read");
        clock.advance(Duration::from_secs(60));
        for _ in 0..2 {
            engine.speak().await.expect("it speaks");
            engine.read_to_end().await.expect("read");
        }
        engine.checkpoint(true).await.expect("it is stored");
        board.active().into_iter().map(|it| it.clientid).collect::<Vec<_>>()
    };
    assert_eq!(run(readable(), "a", EventKind::ClientDisconnected).await, ["a"]);
    assert_eq!(run(BTreeMap::new(), "a", EventKind::ClientConnected).await, ["a"], "it stays on");
    assert_eq!(run(BTreeMap::new(), "b", EventKind::ClientDisconnected).await, ["a"], "nobody hears");
    assert_eq!(run(readable(), "c", EventKind::ClientConnected).await, ["b"]);
}

/// A whole engine over a real log: 100,000 timers armed, two thousand of which fall due over two seconds.
async fn deadlines() -> i64 {
    const ARMED: usize = 100_000;
    const DUE: usize = 2_000;
    let dir = tempfile::tempdir().expect("a folder");
    let clock = SystemClock::shared();
    let config = LogConfig::new(dir.path().join("log"));
    let (journal, _) = Journal::open(config, RealDisk::shared(), clock.clone()).expect("a journal");
    let alarm = offline("WITH (storm_per_minute = 1000000, max_active = 1000000)");
    let definitions = Definitions { programs: [("offline".to_owned(), alarm)].into(), is_partial: false };
    let (_keep, receiver) = tokio::sync::watch::channel(definitions);
    let gone = async |n: usize, at_ms: i64| {
        let event = lifecycle(EventKind::ClientDisconnected, &format!("device-{n}"), at_ms);
        journal.append(event).await.expect("append").offset
    };
    let mut last = 0;
    let now_ms = clock.wall_ms();
    for n in DUE..ARMED {
        last = gone(n, now_ms).await;
    }
    journal.durable(last).await.expect("durable");
    let board = Board::default();
    let engine =
        Engine::open(&journal, dir.path(), &clock, "n", (receiver, board.clone())).expect("an engine");
    let stop = CancellationToken::new();
    let task = tokio::spawn(engine.run(stop.clone()));
    // With all of them armed, some fall due one after the other, from a second from now on.
    let soon_ms = clock.wall_ms() - 59_000;
    for n in 0..DUE {
        gone(n, soon_ms + i64::try_from(n).unwrap_or(0)).await;
    }
    let mut reader = journal
        .reader(last + 1)
        .with_kinds(muster_core::event::EventKinds::NONE.with(EventKind::AlarmActivated));
    let mut errors = Vec::new();
    while errors.len() < DUE {
        let batch = tokio::time::timeout(Duration::from_secs(60), reader.next_batch()).await;
        for event in batch.expect("in time").expect("read").events() {
            let Some(Detail::Alarm(alarm)) = &event.body.detail else { continue };
            errors.push(event.timestamp_ms - alarm.activated_at_ms);
        }
    }
    while board.active().len() < DUE {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    task.await.expect("the engine ends");
    errors.sort_unstable();
    let p99 = errors[DUE * 99 / 100];
    println!(
        "{ARMED} timers: deadline error p50 {} ms, p99 {p99} ms, max {} ms",
        errors[DUE / 2],
        errors[DUE - 1]
    );
    assert!(errors[0] >= 0, "never early");
    p99
}

/// How busy the machine is decides what is seen: the goal is held where nothing else runs, by the best of three.
#[tokio::test(flavor = "multi_thread")]
async fn deadlines_are_kept_with_100_000_timers() {
    const GOAL_MS: i64 = 100;
    const LATE_MS_MAX: i64 = 1_000;
    let mut p99 = deadlines().await;
    if std::env::var_os("MUSTER_LONG").is_some() {
        for _ in 1..3 {
            p99 = p99.min(deadlines().await);
        }
        assert!(p99 < GOAL_MS, "{p99} ms");
    }
    assert!(p99 < LATE_MS_MAX, "far beyond what a busy machine excuses: {p99} ms");
}

/// What a timer weighs: a device that is waited for, with a name of sixteen bytes and a user name.
/// `MUSTER_LONG=1` arms 1,000,000 of them.
#[test]
fn a_timer_weighs_little() {
    let armed: usize = if std::env::var_os("MUSTER_LONG").is_some() { 1_000_000 } else { 100_000 };
    let resident = || -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|it| it.trim().strip_suffix(" kB")?.parse::<usize>().ok());
        kib.unwrap_or_default() * 1024
    };
    let mut bench = Bench::new(&offline("WITH (max_active = 10)"));
    let (before, began) = (resident(), tokio::time::Instant::now());
    for n in 0..armed {
        bench.see(EventKind::ClientDisconnected, &format!("device-{n:09}"), i64::try_from(n).expect("small"));
        // What a checkpoint takes.
        if n % 10_000 == 0 {
            bench.state.take_dirty();
        }
    }
    let took = began.elapsed();
    let bytes = resident().saturating_sub(before) / armed;
    println!("{armed} timers: {bytes} bytes each, armed in {} ms", took.as_millis());
    assert_eq!(bench.state.armed().len(), armed);
    // Other tests run beside this one, so that only a gross mistake is told.
    assert!(bytes < 2_000, "{bytes} bytes a timer");
}
