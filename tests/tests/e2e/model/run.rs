//! The model's run: who does what, and when, by chance; then silence, and the questions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_tests::log::LogContents;
use muster_tests::muster::http_client;
use muster_tests::{Home, Muster, PATIENCE, long, seed, tools, until};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::alarms::{self, Clock};
use super::books::{Books, Entry};
use super::device::{Device, RunEnd, Seen, World};
use super::target::{self, Target};
use crate::common::pipelines;

/// A failed target is tried again this soon, so that a run has time for many faults.
const RETRIES: [&str; 2] = ["--set", "delivery.retry_wait_max=300ms"];
/// How long a target is away at most.
const OUTAGE_MAX: Duration = Duration::from_millis(600);
/// How far the clock is stepped at most, either way.
const STEP_MS_MAX: i64 = 3 * 24 * 3_600_000;
const LANES_MAX: u32 = 4;
/// The table of a rule that comes and goes, and of one that comes at the end. Both begin with the oldest event.
const COMING: &str = "coming";
const LATE: &str = "late";
/// How many moments presence is asked about, each time it is quiet.
const MOMENTS: usize = 10;
/// What is folded from the log into the embedded database.
const FOLDED: [&str; 8] = [
    "devices",
    "_muster_sessions",
    "_muster_minutes",
    "_muster_device_events",
    "_muster_history",
    "_muster_alarms",
    "_muster_alarm_history",
    "_muster_alarm_silences",
];
/// How long everybody is away at most between two runs of Muster, where alarms are the question.
const AWAY_MAX: Duration = Duration::from_millis(2_000);
/// No rule file at all, as far as the parser goes.
const BROKEN: &str = "CREATE RULE broken INTO sqlite.broken AS SELECT FROM WHERE;\n";

/// How much happens.
#[derive(Debug, Clone, Copy)]
struct Form {
    devices: usize,
    rounds: usize,
    /// At least.
    kills: usize,
    /// Of each device in a round.
    acts: usize,
    /// How long it may take until all is told when the faults have ended.
    settle_max: Duration,
}

impl Form {
    fn of_this_run() -> Self {
        if long() {
            Self { devices: 24, rounds: 60, kills: 40, acts: 25, settle_max: Duration::from_secs(300) }
        } else {
            Self { devices: 8, rounds: 14, kills: 9, acts: 16, settle_max: PATIENCE }
        }
    }
}

/// What happened, to be printed.
#[derive(Debug, Default)]
struct Tally {
    kills: usize,
    kills_at_start: usize,
    stops: usize,
    acts: usize,
    steps: usize,
    changes: usize,
    outages: usize,
    checks: usize,
    alarms: usize,
}

/// Everything that there is.
struct Play {
    form: Form,
    random: StdRng,
    home: Home,
    targets: Vec<Target>,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// How each run of Muster ended.
    ends: Vec<RunEnd>,
    tally: Tally,
    clock: Clock,
    /// Whether this is the last run, in which every rule is there.
    is_last: bool,
}

/// Runs the model against these targets, with a wall clock that is stepped or one that shows the time.
///
/// # Panics
/// When a promise is broken; the output holds the seed.
pub(super) async fn play(targets: Vec<Target>, clock: Clock) {
    let (form, seed, started) = (Form::of_this_run(), seed(), Instant::now());
    let mut play = Play {
        form,
        random: StdRng::seed_from_u64(seed),
        home: Home::new(),
        targets,
        seen: Arc::default(),
        ends: Vec::new(),
        tally: Tally::default(),
        clock,
        is_last: false,
    };
    play.write_rules();
    for left in (1..=form.rounds).rev() {
        play.round(left).await;
    }
    let books = play.last_words().await;
    println!(
        "model: seed {seed}, {:.1} s, {:?}, {} connections tried, {} in the log, {:?}",
        started.elapsed().as_secs_f64(),
        play.tally,
        play.seen.lock().expect("no test panics with it").len(),
        books.history.iter().filter(|entry| entry.reason.is_none()).count(),
        books.reasons(),
    );
    assert!(play.tally.kills >= form.kills, "{:?}", play.tally);
    assert!(play.tally.alarms > 0 || clock == Clock::Stepped, "{:?}", play.tally);
}

impl Play {
    async fn round(&mut self, left: usize) {
        self.while_it_is_down().await;
        let muster = Muster::start(self.home.stepped(&RETRIES)).await;
        let world = self.world(&muster);
        let kill = self.form.kills.saturating_sub(self.tally.kills) >= left || self.random.random_bool(0.6);
        // Some are killed amid everything, others when all is quiet and has been looked at.
        let amid = self.random.random_bool(0.7);
        let mut devices = self.devices(&world);
        let total = self.form.devices * self.form.acts;
        let ends_at = if amid { self.random.random_range(1..total) } else { total };
        self.make_trouble(&world, &mut devices, ends_at).await;
        let mut open = Vec::new();
        if !amid {
            while let Some(done) = devices.join_next().await {
                open.push(done.expect("a device"));
            }
            self.check(&muster).await;
        }
        self.end(muster, &world, kill).await;
        while let Some(done) = devices.join_next().await {
            done.expect("a device");
        }
        self.tally.acts += world.acts.load(Ordering::SeqCst);
        drop(open);
    }

    /// The clock, the rules and the beginning itself may be troubled, too.
    async fn while_it_is_down(&mut self) {
        if self.random.random_bool(0.3) {
            self.step_clock();
        }
        if self.random.random_bool(0.3) {
            self.write_rules();
        }
        if self.clock == Clock::Right {
            tokio::time::sleep(AWAY_MAX.mul_f64(self.random.random())).await;
        }
        if self.random.random_bool(0.3) {
            let mut child = tools::spawn(&mut self.home.stepped(&RETRIES));
            tokio::time::sleep(Duration::from_millis(self.random.random_range(0..800))).await;
            child.start_kill().expect("it runs");
            child.wait().await.expect("its end");
            self.tally.kills_at_start += 1;
        }
    }

    fn world(&self, muster: &Muster) -> Arc<World> {
        Arc::new(World {
            run: self.ends.len(),
            broker: muster.mqtt,
            http: muster.http,
            asker: http_client(),
            ending: AtomicBool::new(false),
            acts: AtomicUsize::new(0),
            seen: Arc::clone(&self.seen),
        })
    }

    fn devices(&mut self, world: &Arc<World>) -> JoinSet<Device> {
        let mut devices = JoinSet::new();
        for number in 0..self.form.devices {
            let random = StdRng::seed_from_u64(self.random.random());
            let device = Device::new(format!("d{number}"), random, Arc::clone(world));
            devices.spawn(device.live(self.form.acts));
        }
        devices
    }

    /// Steps the clock, changes rules and breaks targets until so many things are done by the devices.
    async fn make_trouble(&mut self, world: &World, devices: &mut JoinSet<Device>, ends_at: usize) {
        let acts = || world.acts.load(Ordering::SeqCst);
        while acts() < ends_at && !devices.is_empty() {
            // Never beyond the last one.
            let next = (acts() + self.random.random_range(1..=8)).min(ends_at);
            until("the devices go on", PATIENCE, async || (acts() >= next).then_some(())).await;
            match self.random.random_range(0..10) {
                0..3 => self.step_clock(),
                3..5 => self.write_rules(),
                5 => {
                    // A mistake stops nothing that runs.
                    self.home.write_rules("rules.sql", BROKEN);
                    tokio::time::sleep(Duration::from_millis(self.random.random_range(0..150))).await;
                    self.write_rules();
                }
                6..9 => self.break_a_target().await,
                _ => {}
            }
        }
    }

    fn step_clock(&mut self) {
        if self.clock == Clock::Right {
            return;
        }
        let by_ms = match self.random.random_range(0..4) {
            0 => 0,
            1 => self.random.random_range(-5_000..5_000),
            _ => self.random.random_range(-STEP_MS_MAX..STEP_MS_MAX),
        };
        self.home.step_clock(by_ms);
        self.tally.steps += 1;
    }

    /// The same rules, in other lanes; beside them one that nobody asks about, or none, one that comes and goes, and at
    /// last one that has all of the past before it.
    fn write_rules(&mut self) {
        let mut text = alarms::definition(self.random.random_range(0..3));
        for target in &self.targets {
            text += &target.rules(self.random.random_range(1..=LANES_MAX));
        }
        if self.random.random_bool(0.5) {
            let other = self.random.random_range(0..3);
            text += &format!("CREATE RULE other{other} INTO sqlite.other AS SELECT clientid FROM \"m/#\";\n");
        }
        if self.is_last || self.random.random_bool(0.5) {
            text += &target::extra_rule(COMING);
        }
        if self.is_last {
            text += &target::extra_rule(LATE);
        }
        self.home.write_rules("rules.sql", &text);
        self.tally.changes += 1;
    }

    async fn break_a_target(&mut self) {
        let at = self.random.random_range(0..self.targets.len());
        let (how, lasts) = (self.random.random_range(0..4), OUTAGE_MAX.mul_f64(self.random.random()));
        let target = &mut self.targets[at];
        target.down(&self.home, how).await;
        tokio::time::sleep(lasts).await;
        target.up(how).await;
        self.tally.outages += 1;
    }

    async fn end(&mut self, muster: Muster, world: &World, kill: bool) {
        world.ending.store(true, Ordering::SeqCst);
        let mut end = RunEnd::default();
        if kill {
            muster.kill().await;
            end.killed_at = Some(Instant::now());
            end.killed_ms = (self.clock == Clock::Right).then(|| jiff::Timestamp::now().as_millisecond());
            self.tally.kills += 1;
        } else {
            muster.stop().await;
            self.tally.stops += 1;
        }
        self.ends.push(end);
    }

    /// A run without faults, which ends with some devices connected; then a kill and one more look.
    async fn last_words(&mut self) -> Books {
        self.is_last = true;
        self.write_rules();
        let muster = Muster::start(self.home.stepped(&RETRIES)).await;
        let world = self.world(&muster);
        let mut devices = self.devices(&world);
        let mut open = Vec::new();
        while let Some(done) = devices.join_next().await {
            open.push(done.expect("a device"));
        }
        self.check(&muster).await;
        self.end(muster, &world, true).await;
        drop(open);
        let muster = Muster::start(self.home.stepped(&RETRIES)).await;
        let books = self.check(&muster).await;
        assert!(books.devices.values().all(|device| !device.online), "nobody has come back");
        muster.stop().await;
        self.fold_anew().await;
        books
    }

    /// The same log makes the same tables, down to the last row.
    async fn fold_anew(&self) {
        let tables = || FOLDED.map(|table| self.home.lines(&format!("SELECT * FROM {table}")));
        let before = tables();
        tools::run(&mut self.home.command(&["presence", "rebuild"])).await;
        for ((table, before), after) in FOLDED.iter().zip(before).zip(tables()) {
            assert_eq!(before, after, "{table}, folded anew");
        }
    }

    /// Asks until all agree.
    async fn check(&mut self, muster: &Muster) -> Books {
        self.tally.checks += 1;
        let end = Instant::now() + self.form.settle_max;
        loop {
            let error = match self.agreement(muster).await {
                Ok(found) => return found,
                Err(error) => error,
            };
            assert!(Instant::now() < end, "not within {} s: {error}", self.form.settle_max.as_secs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether the devices, presence and all tables agree with the log.
    async fn agreement(&mut self, muster: &Muster) -> Result<Books, String> {
        // Whatever happens: matched = delivered + dead + pending.
        for pipeline in pipelines(muster).await {
            if pipeline["pending"] != 0 || pipeline["lag_events"] != 0 {
                return Err(format!("still under way: {pipeline}"));
            }
            assert_eq!(pipeline["dead"], 0, "{pipeline}");
        }
        let log = LogContents::of_running(&self.home.data().join("log"));
        let books = Books::of(&log);
        let seen = self.seen.lock().expect("no test panics with it").clone();
        books.agree_with(&seen, &self.ends)?;
        self.presence_agrees(&books, muster).await?;
        self.moments_agree(&books, muster).await?;
        for target in &self.targets {
            target_agrees(target, &self.home, &books).await?;
        }
        if self.is_last {
            for table in [COMING, LATE] {
                history_agrees(table, target::extra_rows(&self.home, table), &books)?;
            }
        }
        self.tally.alarms = alarms::agree(&self.home, muster, &log, self.clock).await?;
        Ok(books)
    }

    async fn presence_agrees(&self, books: &Books, muster: &Muster) -> Result<(), String> {
        let table: BTreeMap<String, Vec<String>> = self
            .home
            .lines(
                "SELECT clientid, online, since, connected_at, disconnected_at, reason, session, seq, connects, \
                 disconnects, username, peername, longest_outage, flapping_until FROM devices",
            )
            .into_iter()
            .map(|line| {
                let mut cells = line.split('|').map(str::to_owned);
                (cells.next().expect("a client"), cells.collect())
            })
            .collect();
        let expected: BTreeMap<String, Vec<String>> =
            books.devices.iter().map(|(id, device)| (id.clone(), device.cells())).collect();
        same("the table of devices", &table, &expected)?;
        let listed = muster.json("/api/v1/devices?limit=1000").await;
        let listed = listed["data"].as_array().ok_or("no data")?;
        let listed: BTreeMap<String, String> = listed.iter().map(listed_device).collect();
        let expected: BTreeMap<String, String> = books
            .devices
            .iter()
            .map(|(id, it)| {
                let reason = it.reason.clone().map_or(Value::Null, Value::String);
                let (session, seq, online, connects) = (it.session, it.seq, it.online, it.connects);
                let shown = format!("{online} {reason} {session} {seq} {connects} {}", it.disconnects);
                (id.clone(), shown)
            })
            .collect();
        same("the list of devices", &listed, &expected)
    }

    /// Who was here at moments of the past; with a clock that shows the time, how often each came and went today.
    async fn moments_agree(&mut self, books: &Books, muster: &Muster) -> Result<(), String> {
        for _ in 0..MOMENTS {
            let at = books.moment(&mut self.random);
            let answer = muster.json(&format!("/api/v1/presence?at={}&limit=1000", at.max(0))).await;
            let here = answer["data"].as_array().ok_or("no data")?;
            let here: BTreeSet<_> = here.iter().filter_map(Value::as_str).collect();
            let expected = books.present(at);
            if here != expected || answer["count"] != expected.len() {
                return Err(format!("at {at} were here {answer}, and not {expected:?}"));
            }
        }
        if self.clock == Clock::Stepped {
            return Ok(());
        }
        let listed = muster.json("/api/v1/devices?limit=1000").await;
        for it in listed["data"].as_array().ok_or("no data")? {
            let today = [&it["connects_last_day"], &it["disconnects_last_day"]];
            if today != [&it["connects"], &it["disconnects"]] {
                return Err(format!("all of it was today: {it}"));
            }
        }
        Ok(())
    }
}

fn listed_device(it: &Value) -> (String, String) {
    let (online, reason, session, seq) = (&it["online"], &it["reason"], &it["session"], &it["seq"]);
    let id = it["clientid"].as_str().expect("a client id").to_owned();
    (id, format!("{online} {reason} {session} {seq} {} {}", it["connects"], it["disconnects"]))
}

async fn target_agrees(target: &Target, home: &Home, books: &Books) -> Result<(), String> {
    let name = target.name();
    history_agrees(name, target.history(home).await, books)?;
    let Some(status) = target.status(home).await else { return Ok(()) };
    let last: BTreeMap<String, Entry> =
        books.history.iter().map(|entry| (entry.clientid.clone(), entry.clone())).collect();
    // Of one that is here, some targets keep why it went the last time and others do not.
    let plain = |mut entry: Entry| {
        entry.reason = entry.reason.filter(|_| entry.event == "client.disconnected");
        entry
    };
    let status: BTreeMap<_, _> = status.into_iter().map(|(id, entry)| (id, plain(entry))).collect();
    same(&format!("{name}: the status"), &status, &last)
}

fn history_agrees(name: &str, mut history: Vec<Entry>, books: &Books) -> Result<(), String> {
    let mut expected = books.history.clone();
    history.sort();
    expected.sort();
    for (found, expected) in history.iter().zip(&expected) {
        if found != expected {
            return Err(format!("{name}: the history has {found:?} for {expected:?}"));
        }
    }
    if history.len() != expected.len() {
        return Err(format!("{name}: {} rows of history for {}", history.len(), expected.len()));
    }
    Ok(())
}

/// Says where two maps differ.
fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &BTreeMap<String, T>,
    expected: &BTreeMap<String, T>,
) -> Result<(), String> {
    let keys = found.keys().chain(expected.keys());
    match keys.into_iter().find(|key| found.get(*key) != expected.get(*key)) {
        Some(key) => Err(format!("{what} has {:?} for {:?}", found.get(key), expected.get(key))),
        None => Ok(()),
    }
}
