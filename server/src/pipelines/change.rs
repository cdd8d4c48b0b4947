//! Changes of the rules made over REST. One at a time, and never while files are loaded: a change is planned with the
//! files that run, stored, and applied, in this order; what is wrong with it leaves everything as it was.

use muster_core::registry::RegistryError;
use muster_rules::Diagnostic;
use rand::rngs::SmallRng;
use rand::{RngCore as _, SeedableRng as _};

use super::beside::{Chosen, is_managed, plan_all_files};
use super::managed::{MANAGED_RULES_MAX, ManagedRule, RulePatch};
use super::{Pipelines, lock};

/// Longest id of a rule, in bytes.
const ID_BYTES_MAX: usize = 255;

/// Why a rule was not changed.
#[derive(Debug)]
pub enum ChangeError {
    /// There is no such rule.
    NotFound,
    /// There is a rule of this name; where it is defined, if in a file.
    Exists(Option<String>),
    /// A file defines the rule: only there it can be changed. Where.
    InFile(String),
    /// What cannot be an id, and why.
    Id(&'static str),
    /// What is wrong with the rule.
    Rule(Vec<Diagnostic>),
    /// What is wrong with the rule files, which ran before.
    Files(Vec<Diagnostic>),
    /// There are too many.
    Full,
    /// It cannot be stored.
    Registry(RegistryError),
    /// The platform stops.
    Stopping,
}

impl Pipelines {
    /// Makes a rule and runs it, unless it is not enabled. An id that is empty is chosen: the name if it can be one.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing is changed then.
    pub async fn create_rule(&self, rule: ManagedRule) -> Result<ManagedRule, ChangeError> {
        let gate = self.gate.lock().await;
        gate.check()?;
        let mut rule = rule;
        if rule.id.is_empty() {
            rule.id = self.free_id(&rule.name);
        }
        check_id(&rule.id).map_err(ChangeError::Id)?;
        if let Some(listed) = self.in_file(&rule.id) {
            return Err(ChangeError::Exists(Some(listed)));
        }
        {
            let managed = lock(&self.managed);
            if managed.contains_key(&rule.id) {
                return Err(ChangeError::Exists(None));
            }
            if managed.len() >= MANAGED_RULES_MAX {
                return Err(ChangeError::Full);
            }
        }
        let now_ms = self.parts.clock.wall_ms();
        (rule.created_at_ms, rule.modified_at_ms) = (now_ms, now_ms);
        self.put_rule(rule).await
    }

    /// Changes a rule as `patch` says.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing is changed then.
    pub async fn update_rule(&self, id: &str, patch: RulePatch) -> Result<ManagedRule, ChangeError> {
        let gate = self.gate.lock().await;
        gate.check()?;
        if let Some(place) = self.in_file(id) {
            return Err(ChangeError::InFile(place));
        }
        let before = self.managed_rule(id).ok_or(ChangeError::NotFound)?;
        self.put_rule(patch.apply(before, self.parts.clock.wall_ms())).await
    }

    /// Stops a rule and forgets it. Its cursor is kept: a rule that comes back under its id goes on from there.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing is changed then.
    pub async fn remove_rule(&self, id: &str) -> Result<(), ChangeError> {
        let gate = self.gate.lock().await;
        gate.check()?;
        if self.managed_rule(id).is_none() {
            return Err(self.in_file(id).map_or(ChangeError::NotFound, ChangeError::InFile));
        }
        let mut rules = self.managed_rules();
        rules.retain(|rule| rule.id != id);
        let chosen = self.plan_with_rules(&rules)?;
        self.parts.registry.remove_rule(id).await.map_err(ChangeError::Registry)?;
        lock(&self.managed).remove(id);
        self.use_plan(chosen).await;
        Ok(())
    }

    /// Every rule made over REST, in the order of ids.
    pub fn managed_rules(&self) -> Vec<ManagedRule> {
        lock(&self.managed).values().cloned().collect()
    }

    /// One rule made over REST.
    pub fn managed_rule(&self, id: &str) -> Option<ManagedRule> {
        lock(&self.managed).get(id).cloned()
    }

    async fn put_rule(&self, rule: ManagedRule) -> Result<ManagedRule, ChangeError> {
        // The rule comes first: of two that cannot stand together, it is the one that is wrong.
        let others = self.managed_rules().into_iter().filter(|it| it.id != rule.id);
        let mut rules: Vec<_> = std::iter::once(rule.clone()).chain(others).collect();
        if let Some(first) = rules.first_mut() {
            // What does not run yet must be right, too.
            first.enable = true;
        }
        let about = rule.place();
        let tried = self.plan_with_rules(&rules)?;
        let wrong: Vec<_> =
            tried.diagnostics.iter().filter(|it| it.is_error() && it.file() == about).collect();
        if !wrong.is_empty() {
            return Err(ChangeError::Rule(wrong.into_iter().cloned().collect()));
        }
        let chosen = if rule.enable {
            tried
        } else {
            rules.splice(..1, [rule.clone()]);
            self.plan_with_rules(&rules)?
        };
        let stored = rule.to_stored().map_err(|error| {
            tracing::error!(%error, rule = %rule.id, "a rule cannot be written as JSON");
            ChangeError::Id("it cannot be written as JSON")
        })?;
        self.parts.registry.put_rule(stored).await.map_err(ChangeError::Registry)?;
        lock(&self.managed).insert(rule.id.clone(), rule.clone());
        self.use_plan(chosen).await;
        Ok(rule)
    }

    fn plan_with_rules(&self, rules: &[ManagedRule]) -> Result<Chosen, ChangeError> {
        let files = lock(&self.loaded).running_files.clone();
        let rules: Vec<_> = rules.iter().collect();
        plan_all_files(&files, &rules, &self.parts.env)
            .map_err(|wrong| ChangeError::Files(wrong.into_iter().filter(|it| !is_managed(it)).collect()))
    }

    /// Runs what was planned; what does not run any more holds the log no longer.
    async fn use_plan(&self, chosen: Chosen) {
        self.note(&chosen);
        let changes = self.apply(chosen.plan).await;
        lock(&self.holds).forget(&changes.stopped);
    }

    /// Where a file defines the rule.
    fn in_file(&self, id: &str) -> Option<String> {
        let loaded = lock(&self.loaded);
        let listed = loaded.listed.get(id).filter(|it| !it.is_managed());
        listed.map(|it| it.place.clone())
    }

    /// An id that no rule has: the name, if it can be one.
    fn free_id(&self, name: &str) -> String {
        let taken =
            |id: &str| lock(&self.managed).contains_key(id) || lock(&self.loaded).listed.contains_key(id);
        if check_id(name).is_ok() && !taken(name) {
            return name.to_owned();
        }
        let now = self.parts.clock.wall_ms().unsigned_abs();
        let mut chance = SmallRng::seed_from_u64(self.parts.seed ^ now);
        loop {
            let id = format!("rule_{:08x}", chance.next_u32());
            if !taken(&id) {
                return id;
            }
        }
    }
}

/// Whether EMQX, too, would take it: letters and digits, after the first also `-` and `_`.
fn check_id(id: &str) -> Result<(), &'static str> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match id {
        "" => Err("a rule's id cannot be empty"),
        _ if id.len() > ID_BYTES_MAX => Err("a rule's id has at most 255 characters"),
        _ if id.starts_with(|c: char| c.is_ascii_alphanumeric()) && id.chars().all(good) => Ok(()),
        _ => Err("a rule's id begins with a letter or digit and goes on with letters, digits, `-` and `_`"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use muster_broker::Wanted;
    use muster_core::clock::ManualClock;
    use muster_core::journal::Journal;
    use muster_core::log::{LogConfig, RealDisk};
    use muster_core::registry::Registry;
    use muster_sinks::SinkEnv;
    use muster_sinks::delivery::DeliveryStore;

    use super::super::managed::tests::managed;
    use super::super::{Parts, Pipelines};
    use super::*;
    use crate::republish::Republisher;

    const ALARM: &str = "CREATE ALARM offline INTO sqlite.alarms AS ABSENCE OF \"$events/client/connected\" \
                         FOR 1m AFTER \"$events/client/disconnected\";\n";

    fn pipelines(folder: &Path) -> Pipelines {
        let clock = ManualClock::at(1_000);
        let log = LogConfig::new(folder.join("log"));
        let (journal, _) = Journal::open(log, RealDisk::shared(), clock.clone()).expect("a journal");
        let parts = Parts {
            journal,
            store: DeliveryStore::open(&folder.join("delivery.db")).expect("a store"),
            registry: Registry::open(&folder.join("registry.db")).expect("a registry"),
            env: SinkEnv { data_dir: folder.to_owned(), databases: Default::default(), clock: clock.clone() },
            republisher: Republisher::new().1,
            wanted: Wanted::none(),
            clock,
            retry_wait_max: Duration::from_secs(1),
            seed: 1,
        };
        Pipelines::new(&folder.join("rules"), parts)
    }

    #[tokio::test]
    async fn what_a_file_defines_that_was_broken_at_the_start_is_not_gone_when_a_rule_changes() {
        let dir = tempfile::tempdir().expect("a folder");
        let rules = dir.path().join("rules");
        std::fs::create_dir(&rules).expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(rules.join(name), text).expect("a file");
        write("good.sql", "CREATE RULE good INTO sqlite AS SELECT topic FROM \"g\";");
        write("alarm.sql", &format!("{ALARM} CREATE RULE"));
        let pipelines = pipelines(dir.path());
        pipelines.start().await.expect("what is good runs");
        let alarms = pipelines.alarms();
        let shown = || {
            let it = alarms.borrow();
            (it.programs.len(), it.is_partial)
        };
        assert_eq!(shown(), (0, true));
        let rule = managed("r", "SELECT topic FROM \"a\"", &["sqlite:t"]);
        pipelines.create_rule(rule).await.expect("a rule");
        assert_eq!(shown(), (0, true), "after one was made");
        pipelines.update_rule("r", RulePatch::default()).await.expect("a change");
        assert_eq!(shown(), (0, true), "after it was changed");
        // Nor when somebody makes another mistake.
        write("good.sql", "CREATE RULE");
        assert_eq!(pipelines.reload().await, None);
        pipelines.remove_rule("r").await.expect("it goes");
        assert_eq!(shown(), (0, true), "after it was removed");

        write("good.sql", "");
        write("alarm.sql", ALARM);
        pipelines.reload().await.expect("all files can be read");
        assert_eq!(shown(), (1, false));
        pipelines.create_rule(managed("s", "SELECT 1 AS a FROM \"a\"", &[])).await.expect("a rule");
        assert_eq!(shown(), (1, false));
        pipelines.stop(Duration::from_secs(5)).await;
    }

    #[test]
    fn ids() {
        for good in ["a", "0", "rule-1_x", &"x".repeat(255)] {
            assert_eq!(check_id(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "_a", "a b", "a/b", "a.b", "ä", "a:b", &"x".repeat(256)] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }
}
