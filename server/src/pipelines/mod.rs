//! From rules to running pipelines: read the files and what was made over REST, plan, and bring what runs in line with
//! what is planned. Rules and sinks meet here and nowhere else. It must never know what a rule computes or how a sink
//! delivers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_broker::Wanted;
use muster_core::clock::SharedClock;
use muster_core::journal::Journal;
use muster_core::registry::Registry;
use muster_rules::Diagnostic;
use muster_sinks::delivery::{DeliveryStore, PipelineState, PipelineStatus, Stopped};
use muster_sinks::{PipelineId, SinkEnv};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::alarms::{Board, Definitions};
use crate::republish::Republisher;

mod actions;
mod beside;
mod change;
mod checks;
mod declared;
mod dry;
mod evaluation;
mod files;
mod holds;
mod maker;
mod managed;
mod operate;
mod plan;
mod recipes;
mod replays;
mod republish;
mod running;
mod secrets;
mod start;
mod texts;
mod transform;
mod watch;

pub use change::ChangeError;
pub(crate) use checks::check as check_sink;
pub use declared::Declared;
pub use managed::{MANAGED_RULES_MAX, ManagedRule, RulePatch};
pub use plan::{Identity, Listed, ListedTarget, Outlet, Plan, Planned, RuleFile, plan};

use beside::{Chosen, is_managed, plan_all_files, plan_what_can_run};
pub use dry::DryRun;
use evaluation::Evaluation;
pub use evaluation::RuleCounts;
pub(crate) use files::{EXTENSION, read_paths};
pub use holds::Cursors;
use holds::Holds;
pub use operate::{LettersReplayed, Which};
use recipes::Recipes;
use replays::UnderWay;
pub use replays::{REPLAYS_MAX, ReplayRequest, ReplayStatus};
use running::Running;
pub(crate) use transform::RuleTransform;
pub use transform::eval_context;
use watch::Watcher;

/// How long a pipeline may take to finish what is under way when its rule has changed or is gone.
const STOP_WAIT: Duration = Duration::from_secs(2);
/// How often a stop looks whether pipelines have reached the end of the log.
const DRAIN_LOOK: Duration = Duration::from_millis(10);

/// What pipelines are made of.
pub struct Parts {
    /// The log that they read.
    pub journal: Journal,
    /// Where delivery keeps its books.
    pub store: DeliveryStore,
    /// Where rules made over REST are kept.
    pub registry: Registry,
    /// What sinks need.
    pub env: SinkEnv,
    /// Where republished messages go.
    pub republisher: Republisher,
    /// Which events the broker is asked for.
    pub wanted: Wanted,
    /// The time.
    pub clock: SharedClock,
    /// The longest wait before a target that failed is tried again.
    pub retry_wait_max: Duration,
    /// Jitter and functions of chance start here.
    pub seed: u64,
}

/// All pipelines of the platform.
pub struct Pipelines {
    parts: Parts,
    folder: PathBuf,
    running: Mutex<BTreeMap<PipelineId, Running>>,
    /// How those are doing that are being started anew; locked only while `running` is.
    changing: Mutex<BTreeMap<PipelineId, PipelineStatus>>,
    /// What the pipelines of each rule share.
    evaluations: Mutex<BTreeMap<String, Arc<Evaluation>>>,
    /// Rules made over REST, by id.
    managed: Mutex<BTreeMap<String, ManagedRule>>,
    /// Held by whoever changes what runs.
    gate: tokio::sync::Mutex<Gate>,
    /// What keeps retention from what is not delivered yet.
    holds: Arc<Mutex<Holds>>,
    /// The alarms, for whoever runs them.
    alarms: tokio::sync::watch::Sender<Definitions>,
    /// Which of them are on.
    board: Board,
    /// What replays are made of.
    recipes: Mutex<Recipes>,
    /// Replays that have not ended.
    replays: UnderWay,
    /// The files that the last attempt to load looked at, and what was wrong with them.
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    /// The files of the last look.
    files: Vec<RuleFile>,
    /// The files that run: those of the last look that had no errors.
    running_files: Vec<RuleFile>,
    rules: usize,
    comments: BTreeMap<String, String>,
    listed: BTreeMap<String, Listed>,
    /// What is wrong with the files of the last look.
    file_problems: Vec<String>,
    /// What is wrong with rules made over REST.
    managed_problems: Vec<String>,
    /// Whether a start left files out, and not all files could be read since: what they define is not gone.
    is_partial: bool,
}

/// Whether what runs may still be changed.
#[derive(Default)]
struct Gate {
    closed: bool,
}

impl Gate {
    fn check(&self) -> Result<(), ChangeError> {
        if self.closed { Err(ChangeError::Stopping) } else { Ok(()) }
    }
}

/// What loading rules changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New pipelines.
    pub started: Vec<PipelineId>,
    /// Pipelines that go on from their cursor under a changed rule or sink.
    pub changed: Vec<PipelineId>,
    /// Pipelines whose rule is gone; their cursor is kept, but holds the log no longer.
    pub stopped: Vec<PipelineId>,
}

impl Changes {
    fn between(running: &BTreeMap<PipelineId, Running>, plan: &Plan) -> Self {
        let identities = running.iter().map(|(id, it)| (id, &it.identity)).collect();
        Self::between_identities(&identities, plan)
    }

    fn between_identities(running: &BTreeMap<&PipelineId, &Identity>, plan: &Plan) -> Self {
        let mut changes = Self::default();
        for (id, planned) in &plan.pipelines {
            match running.get(id) {
                None => changes.started.push(id.clone()),
                Some(identity) if **identity != planned.identity => changes.changed.push(id.clone()),
                Some(_) => {}
            }
        }
        let gone = running.keys().filter(|id| !plan.pipelines.contains_key(id));
        changes.stopped = gone.map(|id| (*id).clone()).collect();
        changes
    }
}

impl Pipelines {
    /// Pipelines over the rule files of `folder`, none of them running yet.
    pub fn new(folder: &Path, parts: Parts) -> Self {
        Self {
            parts,
            folder: folder.to_owned(),
            running: Mutex::default(),
            changing: Mutex::default(),
            evaluations: Mutex::default(),
            managed: Mutex::default(),
            gate: tokio::sync::Mutex::default(),
            holds: Arc::default(),
            alarms: tokio::sync::watch::Sender::default(),
            board: Board::default(),
            recipes: Mutex::default(),
            replays: UnderWay::default(),
            loaded: Mutex::default(),
        }
    }

    /// Starts everything that can run. A file or rule with errors is reported and left out: devices must not stay
    /// outside because of it, and what it would have delivered waits in the log.
    ///
    /// # Errors
    /// The folder can be neither made nor read, or the rules made over REST cannot be read.
    pub async fn start(&self) -> io::Result<Changes> {
        let _gate = self.gate.lock().await;
        if files::make_folder(&self.folder)? {
            info!(folder = %self.folder.display(), "made a folder for rules with an example in it");
        }
        let files = files::read_folder(&self.folder)?;
        let managed = stored_rules(&self.parts.registry)?;
        let chosen = plan_what_can_run(&files, &managed.values().collect::<Vec<_>>(), &self.parts.env);
        *lock(&self.managed) = managed;
        report(&chosen.diagnostics, "left out at the start");
        self.note_files(files, &chosen.diagnostics);
        lock(&self.loaded).is_partial = chosen.diagnostics.iter().any(|it| it.is_error() && !is_managed(it));
        self.note(&chosen);
        if chosen.diagnostics.iter().any(Diagnostic::is_error) {
            // Which pipelines the files with errors would have had, nobody can say: all that ever ran keep their place.
            let known = self.parts.store.pipelines().await.map_err(io::Error::other)?;
            lock(&self.holds).keep_known(&self.parts.journal, known);
        }
        Ok(self.apply(chosen.plan).await)
    }

    /// Everything before these is committed.
    pub fn cursors(&self) -> Cursors {
        let mut all: Vec<_> = self.replay_cursors();
        let running = lock(&self.running);
        all.extend(running.iter().map(|(id, running)| (id.clone(), running.handle.status().cursor)));
        Cursors::of(all.into_iter())
    }

    /// Lets go of what stands before `cursors` in the log.
    pub fn release(&self, cursors: &Cursors) {
        lock(&self.holds).advance(cursors);
    }

    /// Looks at the files again; none where nothing changed or where they have errors, which are reported and leave
    /// everything as it was.
    pub async fn reload(&self) -> Option<Changes> {
        let gate = self.gate.lock().await;
        gate.check().ok()?;
        let files = match files::read_folder(&self.folder) {
            Ok(files) => files,
            Err(error) => {
                warn!(%error, folder = %self.folder.display(), "cannot read the rules; those that run go on");
                return None;
            }
        };
        if lock(&self.loaded).files == files {
            return None;
        }
        let managed = self.managed_rules();
        let chosen = plan_all_files(&files, &managed.iter().collect::<Vec<_>>(), &self.parts.env);
        let chosen = match chosen {
            Ok(chosen) => chosen,
            Err(diagnostics) => {
                report(&diagnostics, "the rules that run go on unchanged");
                self.note_files(files, &diagnostics);
                return None;
            }
        };
        for diagnostic in &chosen.diagnostics {
            let run = if diagnostic.is_error() { "the rule does not run" } else { "used all the same" };
            warn!("{diagnostic} ({run})");
        }
        self.note_files(files, &chosen.diagnostics);
        lock(&self.loaded).is_partial = false;
        self.note(&chosen);
        let planned: BTreeSet<_> = chosen.plan.pipelines.keys().cloned().collect();
        let left_out = |rule: &ManagedRule| rule.enable && !chosen.plan.listed.contains_key(&rule.id);
        let waiting = managed.iter().filter(|rule| left_out(rule)).map(|rule| rule.id.clone()).collect();
        let changes = self.apply(chosen.plan).await;
        // All files could be read: what no rule wants any more holds the log no longer.
        lock(&self.holds).retain(&planned, &waiting);
        let count = |ids: &Vec<PipelineId>| ids.len();
        let (started, changed, stopped) =
            (count(&changes.started), count(&changes.changed), count(&changes.stopped));
        info!(started, changed, stopped, "rules loaded anew");
        Some(changes)
    }

    /// Loads anew whenever the folder changes, until `stop`.
    pub async fn follow_folder(&self, stop: CancellationToken) {
        let watcher = Watcher::new(&self.folder);
        loop {
            // The folder may have changed before it was watched.
            self.reload().await;
            if stop.run_until_cancelled(watcher.changed()).await.is_none() {
                return;
            }
        }
    }

    /// How each pipeline is doing. One that is being started anew is as it was before.
    pub fn status(&self) -> Vec<PipelineStatus> {
        self.status_with_lanes().into_iter().map(|(status, _)| status).collect()
    }

    /// How each pipeline is doing, and each of its lanes.
    pub fn status_with_lanes(&self) -> Vec<(PipelineStatus, Vec<PipelineStatus>)> {
        let running = lock(&self.running);
        let changing = lock(&self.changing).clone();
        let mut all: BTreeMap<_, _> = changing.into_iter().map(|(id, it)| (id, (it, Vec::new()))).collect();
        all.extend(running.iter().map(|(id, it)| (id.clone(), (it.handle.status(), it.handle.lanes()))));
        all.into_values().collect()
    }

    /// What is wrong with the rule files, as of the last look, and with rules made over REST.
    pub fn problems(&self) -> Vec<String> {
        let loaded = lock(&self.loaded);
        loaded.file_problems.iter().chain(&loaded.managed_problems).cloned().collect()
    }

    /// The rules that run, by name.
    pub fn listed(&self) -> BTreeMap<String, Listed> {
        lock(&self.loaded).listed.clone()
    }

    /// The alarms that are defined, now and whenever that changes.
    pub fn alarms(&self) -> tokio::sync::watch::Receiver<Definitions> {
        self.alarms.subscribe()
    }

    /// Which alarms about devices are on.
    pub const fn board(&self) -> &Board {
        &self.board
    }

    /// How many rules run.
    pub fn rules(&self) -> usize {
        lock(&self.loaded).rules
    }

    /// What a rule did since it was loaded; none where no pipeline of it runs.
    pub fn rule_counts(&self, rule: &str) -> Option<RuleCounts> {
        lock(&self.evaluations).get(rule).map(|evaluation| evaluation.counts())
    }

    /// Begins to count anew what a rule does; whether there is such a rule.
    pub fn reset_rule_counts(&self, rule: &str) -> bool {
        lock(&self.evaluations).get(rule).map(|evaluation| evaluation.reset_counts()).is_some()
    }

    /// What is said of a rule in the rule files.
    pub fn comment(&self, rule: &str) -> Option<String> {
        lock(&self.loaded).comments.get(rule).cloned()
    }

    /// Lets pipelines that work reach the end of the log, then stops all; what takes longer than `limit` is done after
    /// the next start.
    pub async fn stop(&self, limit: Duration) {
        let deadline = tokio::time::Instant::now() + limit;
        // Who changes something just now is waited for, and nobody changes anything after.
        match tokio::time::timeout(limit / 4, self.gate.lock()).await {
            Ok(mut gate) => gate.closed = true,
            Err(_) => warn!("a change of the rules is still under way"),
        }
        let behind = |it: &PipelineStatus| {
            let works = matches!(it.state, PipelineState::Running | PipelineState::Starting);
            works && (it.lag_events > 0 || it.pending > 0)
        };
        // Half of the time is for reaching the end, the other half for the last commit.
        let drained = tokio::time::Instant::now() + limit / 2;
        while self.status().iter().any(behind) && tokio::time::Instant::now() < drained {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        self.stop_replays(limit / 4).await;
        let running = std::mem::take(&mut *lock(&self.running));
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        stop_all(running, left).await;
    }

    async fn apply(&self, mut plan: Plan) -> Changes {
        // Asked for before anything that wants it runs; what nobody wants any more is let go after.
        let wanted = self.parts.wanted.get();
        self.parts.wanted.set(wanted.union(plan.kinds()));
        let changes = Changes::between(&lock(&self.running), &plan);
        let mut ending = BTreeMap::new();
        {
            let mut running = lock(&self.running);
            for id in &changes.changed {
                let before = running.get(id).map(|it| (id.clone(), it.handle.status()));
                lock(&self.changing).extend(before);
            }
            for id in changes.changed.iter().chain(&changes.stopped) {
                ending.extend(running.remove_entry(id));
            }
        }
        stop_all(ending, STOP_WAIT).await;
        let rules: BTreeSet<_> = plan.pipelines.keys().map(|id| id.rule.clone()).collect();
        lock(&self.evaluations).retain(|rule, _| rules.contains(rule));
        self.parts.wanted.set(plan.kinds());
        for id in changes.started.iter().chain(&changes.changed) {
            if let Some(planned) = plan.pipelines.remove(id) {
                let running = self.spawn(id, planned).await;
                let mut all = lock(&self.running);
                all.insert(id.clone(), running);
                lock(&self.changing).remove(id);
            }
        }
        self.follow_replays().await;
        changes
    }

    /// Notes the files of a look, and what is wrong with them.
    fn note_files(&self, files: Vec<RuleFile>, diagnostics: &[Diagnostic]) {
        let wrong = diagnostics.iter().filter(|it| !is_managed(it)).map(ToString::to_string).collect();
        let mut loaded = lock(&self.loaded);
        loaded.files = files;
        loaded.file_problems = wrong;
    }

    /// Notes what runs from now on.
    fn note(&self, chosen: &Chosen) {
        let Chosen { plan, files, diagnostics } = chosen;
        let wrong = diagnostics.iter().filter(|it| is_managed(it)).map(ToString::to_string).collect();
        let mut loaded = lock(&self.loaded);
        loaded.managed_problems = wrong;
        loaded.running_files.clone_from(files);
        loaded.rules = plan.rules;
        loaded.comments.clone_from(&plan.comments);
        loaded.listed.clone_from(&plan.listed);
        lock(&self.recipes).clone_from(&plan.recipes);
        let is_partial = loaded.is_partial;
        self.alarms.send_replace(Definitions { programs: plan.alarms.clone(), is_partial });
    }
}

/// The rules made over REST, by id.
fn stored_rules(registry: &Registry) -> io::Result<BTreeMap<String, ManagedRule>> {
    let mut rules = BTreeMap::new();
    for stored in registry.rules().map_err(io::Error::other)? {
        let id = stored.id.clone();
        match ManagedRule::from_stored(stored) {
            Ok(rule) => drop(rules.insert(id, rule)),
            Err(error) => {
                return Err(io::Error::other(format!("the stored rule `{id}` cannot be read: {error}")));
            }
        }
    }
    Ok(rules)
}

/// Checks files and folders offline; what is wrong with them, and how many rules and pipelines they hold.
///
/// # Errors
/// One of them cannot be read.
pub fn check(paths: &[PathBuf], env: &SinkEnv) -> io::Result<(Plan, Vec<Diagnostic>)> {
    Ok(plan(&files::read_paths(paths)?, env))
}

fn report(diagnostics: &[Diagnostic], consequence: &str) {
    for diagnostic in diagnostics {
        warn!("{diagnostic} ({consequence})");
    }
}

async fn stop_all(pipelines: BTreeMap<PipelineId, Running>, limit: Duration) {
    let mut stops = JoinSet::new();
    for (id, Running { handle, .. }) in pipelines {
        stops.spawn(async move {
            match handle.stop(limit).await {
                Stopped::InTime => {}
                Stopped::Late => {
                    warn!(pipeline = %id, "did not answer in time; what was under way is tried again later");
                }
                Stopped::Crashed => warn!(pipeline = %id, "had ended by a fault of its own"),
            }
        });
    }
    while stops.join_next().await.is_some() {}
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use muster_core::clock::ManualClock;

    use super::*;

    #[test]
    fn only_what_differs_is_touched() {
        let env =
            SinkEnv { data_dir: "/nowhere".into(), databases: Default::default(), clock: ManualClock::at(0) };
        let planned = |rules: &[(&str, &str)]| {
            let text = |(name, filter): &(&str, &str)| {
                format!("CREATE RULE {name} INTO sqlite AS SELECT topic FROM \"{filter}\";\n")
            };
            let file = RuleFile { name: "f.sql".to_owned(), text: rules.iter().map(text).collect() };
            let (plan, diagnostics) = plan(&[file], &env);
            assert!(diagnostics.is_empty(), "{diagnostics:?}");
            plan
        };
        let before = planned(&[("stays", "s"), ("changes", "c"), ("goes", "g")]);
        let after = planned(&[("changes", "c/#"), ("stays", "s"), ("comes", "n")]);
        let running = before.pipelines.iter().map(|(id, it)| (id, &it.identity)).collect();
        let changes = Changes::between_identities(&running, &after);
        let id = |rule: &str| vec![PipelineId::new(rule, "sqlite", rule)];
        assert_eq!(changes, Changes { started: id("comes"), changed: id("changes"), stopped: id("goes") });
    }
}
