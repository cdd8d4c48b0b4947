//! The engine against a plain model of what definitions mean, while they change, and while it is stopped between any
//! two steps, also amid a change, and loses the end of the log with what it has said there, on a disk that forgets
//! what was not synced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use muster_core::clock::{Clock as _, ManualClock, SharedClock};
use muster_core::event::proto::event::Detail;
use muster_core::event::{EventKind, NewEvent, proto};
use muster_core::journal::Journal;
use muster_core::log::LogConfig;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::watch;

use self::sim_disk::{Faults, SimDisk};
use super::tests::{by_device, lifecycle, line, program};
use super::{Board, Definitions, Engine};

#[path = "../../../core/tests/support/sim_disk.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the disk of the log's own tests"
)]
mod sim_disk;

/// How long the engine may take for what it should do at once.
const PATIENCE: Duration = Duration::from_secs(30);
/// Who goes went so long before the event that tells of it, as with a connection that ends with the server.
const WENT_BEFORE_MS: i64 = 7_000;
const DEVICES: [&str; 4] = ["a-1", "a-2", "b-1", "b-2"];

/// A definition, plainly.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Plain {
    /// Missing for so long, of whom it is about, with a text of its own.
    Absence(i64, &'static str, &'static str),
    /// So many times in so long.
    Flapping(usize, i64),
}

const DEFINITIONS: [Option<Plain>; 7] = [
    None,
    Some(Plain::Absence(60_000, "", "one")),
    Some(Plain::Absence(30_000, "", "one")),
    Some(Plain::Absence(60_000, "a-", "one")),
    Some(Plain::Absence(60_000, "", "two")),
    Some(Plain::Flapping(3, 100_000)),
    Some(Plain::Flapping(2, 50_000)),
];

impl Plain {
    fn kind(self) -> &'static str {
        match self {
            Self::Absence(..) => "absence",
            Self::Flapping(..) => "flapping",
        }
    }

    fn sql(self) -> String {
        let limits = "storm_per_minute = 100000, max_active = 100000";
        match self {
            Self::Absence(ms, scope, text) => format!(
                "CREATE ALARM a WITH ({limits}, message = '{text}', clientid = '{scope}*') AS \
                 ABSENCE OF \"$events/client/connected\" FOR {ms}ms AFTER \"$events/client/disconnected\";"
            ),
            Self::Flapping(times, ms) => format!(
                "CREATE ALARM a WITH ({limits}) AS \
                 FLAPPING OF \"$events/client/disconnected\" {times} TIMES IN {ms}ms;"
            ),
        }
    }

    /// Whether only words differ.
    fn is_like(self, other: Self) -> bool {
        match (self, other) {
            (Self::Absence(ms, scope, _), Self::Absence(ms2, scope2, _)) => (ms, scope) == (ms2, scope2),
            _ => self == other,
        }
    }
}

/// What should be told, computed from the whole history each time.
#[derive(Default)]
struct Model {
    history: Vec<(i64, String, bool)>,
    definition: Option<Plain>,
    defined_ms: i64,
    /// Whether the definition was not taken over before an end, and is at the next start: what happens until then
    /// raises nothing.
    is_pending: bool,
    on: BTreeMap<String, (&'static str, i64)>,
    lines: Vec<String>,
}

impl Model {
    fn absent(&self, scope: &str) -> BTreeMap<String, i64> {
        let mut absent = BTreeMap::new();
        for (at_ms, device, comes) in self.history.iter().filter(|(_, device, _)| device.starts_with(scope)) {
            if *comes {
                absent.remove(device);
            } else {
                absent.entry(device.clone()).or_insert(*at_ms);
            }
        }
        absent
    }

    fn times(&self, device: &str) -> Vec<i64> {
        let gone = self.history.iter().filter(|(_, it, comes)| it == device && !comes);
        gone.map(|(at_ms, ..)| *at_ms).collect()
    }

    fn begins(&mut self, device: &str, kind: &'static str, at_ms: i64) {
        self.on.insert(device.to_owned(), (kind, at_ms));
        self.lines.push(format!("+{device} {kind} {at_ms}"));
    }

    fn ends(&mut self, device: &str, how: &str) {
        let (kind, at_ms) = self.on.remove(device).expect("it is on");
        self.lines.push(format!("-{device} {kind} {at_ms} {how}"));
    }

    fn speak(&mut self, now_ms: i64) {
        match self.definition {
            None => {}
            Some(Plain::Absence(grace_ms, scope, _)) => {
                for (device, since_ms) in self.absent(scope) {
                    let due_ms = (since_ms + grace_ms).max(self.defined_ms);
                    if due_ms <= now_ms && !self.on.contains_key(&device) {
                        self.begins(&device, "absence", due_ms);
                    }
                }
            }
            Some(Plain::Flapping(_, window_ms)) => {
                for (device, (_, at_ms)) in self.on.clone() {
                    let over_ms = self.times(&device).last().unwrap_or(&at_ms) + window_ms;
                    if over_ms <= now_ms {
                        self.ends(&device, &over_ms.to_string());
                    }
                }
            }
        }
    }

    fn see(&mut self, device: &str, comes: bool, now_ms: i64) {
        self.history.push((now_ms, device.to_owned(), comes));
        let is_on = self.on.contains_key(device);
        match self.definition {
            Some(Plain::Absence(..)) if comes && is_on => self.ends(device, &now_ms.to_string()),
            Some(Plain::Flapping(many, window_ms)) if !comes && !is_on && !self.is_pending => {
                let lately = self.times(device).into_iter().filter(|at| *at > now_ms - window_ms);
                if lately.count() >= many {
                    self.begins(device, "flapping", now_ms);
                }
            }
            _ => {}
        }
    }

    fn define(&mut self, definition: Option<Plain>, now_ms: i64) {
        if self.replace(definition) {
            self.defined_ms = now_ms;
            self.speak(now_ms);
        }
    }

    /// The process ends before anything was told under a definition, or stored; until the next start.
    fn define_later(&mut self, definition: Option<Plain>) {
        self.is_pending = self.replace(definition);
    }

    fn start(&mut self, now_ms: i64) {
        if std::mem::take(&mut self.is_pending) {
            self.defined_ms = now_ms;
        }
    }

    /// Ends what is on and not by this definition; whether it means something else.
    fn replace(&mut self, definition: Option<Plain>) -> bool {
        let before = std::mem::replace(&mut self.definition, definition);
        match (before, definition) {
            (Some(before), Some(after)) if before.is_like(after) => return false,
            (None, None) => return false,
            _ => {}
        }
        let on: Vec<_> = self.on.iter().map(|(device, (kind, _))| (device.clone(), *kind)).collect();
        for (device, kind) in on {
            let stays = match definition {
                Some(Plain::Absence(_, scope, _)) => {
                    kind == "absence" && self.absent(scope).contains_key(&device)
                }
                Some(it) => it.kind() == kind,
                None => false,
            };
            if !stays {
                self.ends(
                    &device,
                    if definition.is_some() { "definition_changed" } else { "definition_removed" },
                );
            }
        }
        true
    }
}

#[derive(Debug, Clone)]
enum Step {
    Wait(i64),
    Comes(usize),
    Goes(usize),
    /// Another definition; this happens before the past is read for it.
    Define(usize, Vec<(usize, bool)>),
    /// Another definition, but the end comes amid it.
    Cut(usize, Vec<(usize, bool)>, Cut),
    Checkpoint,
    Kill,
    /// Time passes, and from then on nothing is synced: what is said and what happens may be lost.
    Power(i64, Vec<(usize, bool)>),
}

/// Where the end comes amid another definition.
#[derive(Debug, Clone)]
enum Cut {
    /// While the past is read for it; then time passes.
    Before(i64),
    /// With what happened last, which nobody has heard, and may be lost.
    Loss(Vec<(usize, bool)>, i64),
    /// Right after it was taken over, before anything is told.
    After(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let few = || prop::collection::vec((0..DEVICES.len(), any::<bool>()), 0..4);
    let cut = prop_oneof![
        (0..70_000_i64).prop_map(Cut::Before),
        (few(), 0..70_000_i64).prop_map(|(few, wait)| Cut::Loss(few, wait)),
        (0..70_000_i64).prop_map(Cut::After),
    ];
    let step = prop_oneof![
        6 => (1..70_000_i64).prop_map(Step::Wait),
        3 => (0..DEVICES.len()).prop_map(Step::Comes),
        6 => (0..DEVICES.len()).prop_map(Step::Goes),
        2 => (0..DEFINITIONS.len(), few()).prop_map(|(which, few)| Step::Define(which, few)),
        1 => (0..DEFINITIONS.len(), few(), cut).prop_map(|(which, few, cut)| Step::Cut(which, few, cut)),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Kill),
        2 => (0..70_000_i64, few()).prop_map(|(wait, few)| Step::Power(wait, few)),
    ];
    // Most stories begin with one.
    let define = (1..DEFINITIONS.len(), few()).prop_map(|(which, few)| Step::Define(which, few));
    (define, prop::collection::vec(step, 1..60)).prop_map(|(define, mut steps)| {
        steps.insert(0, define);
        steps
    })
}

struct World {
    disk: SimDisk,
    data: TempDir,
    clock: Arc<ManualClock>,
    definitions: watch::Sender<Definitions>,
    running: Option<(Journal, Engine)>,
    /// The offset after the last event of a device that the model knows.
    known: u64,
    model: Model,
}

impl World {
    fn new() -> Self {
        Self {
            disk: SimDisk::new(1),
            data: tempfile::tempdir().expect("a folder"),
            clock: ManualClock::at(1_000_000),
            definitions: watch::channel(Definitions::default()).0,
            running: None,
            known: 0,
            model: Model::default(),
        }
    }

    fn now_ms(&self) -> i64 {
        self.clock.wall_ms()
    }

    fn engine(&mut self) -> &mut Engine {
        &mut self.running.as_mut().expect("it runs").1
    }

    fn journal(&self) -> Journal {
        self.running.as_ref().expect("it runs").0.clone()
    }

    async fn start(&mut self) {
        let clock: SharedClock = self.clock.clone();
        let config = LogConfig::new("/sim");
        let (journal, _) = Journal::open(config, self.disk.shared(), clock.clone()).expect("a journal");
        // What was not known to be durable may have survived.
        let mut reader = journal.reader(self.known.max(journal.first_offset()));
        while let Some(batch) = reader.try_next_batch().expect("the log is read") {
            for event in batch.events() {
                let comes = event.kind == EventKind::ClientConnected;
                if comes || event.kind == EventKind::ClientDisconnected {
                    self.model.see(event.clientid(), comes, event.timestamp_ms);
                }
            }
        }
        self.known = journal.next_offset();
        let now_ms = self.now_ms();
        self.model.start(now_ms);
        let wired = (self.definitions.subscribe(), Board::default());
        let engine = Engine::open(&journal, self.data.path(), &clock, "n", wired).expect("an engine");
        self.running = Some((journal, engine));
        self.speak().await;
    }

    async fn speak(&mut self) {
        // Ends follow from what is read of the beginnings.
        for _ in 0..2 {
            self.engine().read_to_end().await.expect("the log is read");
            self.engine().speak().await.expect("it speaks");
        }
        self.known = self.journal().next_offset();
        let now_ms = self.now_ms();
        self.model.speak(now_ms);
    }

    fn event(&self, device: usize, comes: bool) -> NewEvent {
        let kind = if comes { EventKind::ClientConnected } else { EventKind::ClientDisconnected };
        let mut event = lifecycle(kind, DEVICES[device], self.now_ms());
        let disconnected_at_ms = self.now_ms() - WENT_BEFORE_MS;
        let end = proto::Disconnection { disconnected_at_ms, ..proto::Disconnection::default() };
        event.body.detail = (!comes).then_some(Detail::Disconnected(end));
        event
    }

    async fn see(&mut self, device: usize, comes: bool) {
        let journal = self.journal();
        let offset = journal.append(self.event(device, comes)).await.expect("an append").offset;
        journal.durable(offset).await.expect("it is durable");
        self.model.see(DEVICES[device], comes, self.now_ms());
        self.speak().await;
    }

    async fn stop(&mut self) {
        let (journal, engine) = self.running.take().expect("it runs");
        drop(engine);
        let _failed = journal.close().await;
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Wait(ms) => {
                self.clock.advance(Duration::from_millis(ms.unsigned_abs()));
                self.speak().await;
            }
            Step::Comes(device) => self.see(device, true).await,
            Step::Goes(device) => self.see(device, false).await,
            Step::Define(which, meanwhile) => {
                let looks_back = self.begin(which, meanwhile).await;
                if looks_back {
                    self.engine().end_definitions().await.expect("the past is read");
                }
                let (definition, now_ms) = (DEFINITIONS[which], self.now_ms());
                self.model.define(definition, now_ms);
                self.speak().await;
                // As the engine does at once.
                self.engine().checkpoint(false).await.expect("it is stored");
            }
            Step::Cut(which, meanwhile, cut) => self.cut(which, meanwhile, cut).await,
            Step::Checkpoint => self.engine().checkpoint(true).await.expect("it is stored"),
            Step::Kill => {
                self.stop().await;
                self.disk.kill();
                self.start().await;
            }
            Step::Power(ms, lost) => {
                self.clock.advance(Duration::from_millis(ms.unsigned_abs()));
                self.disk.set_faults(Faults { sync_in: Some(0), ..Faults::default() });
                let now_ms = self.now_ms();
                self.model.speak(now_ms);
                let _may_fail = self.engine().speak().await;
                self.lose(lost).await;
                self.start().await;
            }
        }
    }

    /// The definition is there; where it has to look back, the rest happens before it has.
    async fn begin(&mut self, which: usize, meanwhile: Vec<(usize, bool)>) -> bool {
        let named = |it: Plain| ("a".to_owned(), program(&it.sql()));
        let programs = DEFINITIONS[which].map(named).into_iter().collect();
        self.definitions.send_replace(Definitions { programs, is_partial: false });
        let looks_back = self.engine().begin_definitions();
        if looks_back {
            for (device, comes) in meanwhile {
                self.see(device, comes).await;
            }
        }
        looks_back
    }

    async fn cut(&mut self, which: usize, meanwhile: Vec<(usize, bool)>, cut: Cut) {
        let looks_back = self.begin(which, meanwhile).await;
        let (definition, now_ms) = (DEFINITIONS[which], self.now_ms());
        let down_ms = match cut {
            Cut::Before(ms) => {
                self.model.define_later(definition);
                self.stop().await;
                self.disk.kill();
                ms
            }
            Cut::Loss(lost, ms) => {
                self.model.define_later(definition);
                self.lose(lost).await;
                ms
            }
            Cut::After(ms) => {
                if looks_back {
                    self.engine().end_definitions().await.expect("the past is read");
                    self.model.define(definition, now_ms);
                } else {
                    self.model.define_later(definition);
                }
                self.stop().await;
                self.disk.kill();
                ms
            }
        };
        self.clock.advance(Duration::from_millis(down_ms.unsigned_abs()));
        self.start().await;
    }

    /// The power goes, with what was appended last.
    async fn lose(&mut self, last: Vec<(usize, bool)>) {
        self.disk.set_faults(Faults { sync_in: Some(0), ..Faults::default() });
        let journal = self.journal();
        for (device, comes) in last {
            let _may_fail = journal.append(self.event(device, comes)).await;
        }
        drop(journal);
        self.stop().await;
        self.disk.crash();
    }

    /// What the log tells. When a definition changed is not compared: after a loss it changes a little later.
    fn told(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let journal = self.journal();
        let mut reader = journal.reader(journal.first_offset());
        while let Some(batch) = reader.try_next_batch().expect("the log is read") {
            for event in batch.events() {
                let Some(Detail::Alarm(it)) = &event.body.detail else { continue };
                let went = (it.since_ms + WENT_BEFORE_MS, event.clientid().to_owned(), false);
                assert!(it.kind != "absence" || self.model.history.contains(&went), "{event:?}");
                lines.push(line(event.kind, event.clientid(), it));
            }
        }
        lines
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("MUSTER_LONG").is_some() { 2_000 } else { 48 },
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_stops_or_is_lost_the_log_tells_what_definitions_mean(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let (told, expected) = runtime.expect("a runtime").block_on(async {
            let mut world = World::new();
            world.start().await;
            for step in steps {
                let what = format!("{step:?}");
                tokio::time::timeout(PATIENCE, world.take(step)).await.expect(&what);
            }
            let told = world.told();
            world.stop().await;
            (told, world.model.lines)
        });
        prop_assert_eq!(by_device(&told), by_device(&expected));
    }
}
