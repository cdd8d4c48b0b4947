//! What replays are made of: each rule that runs, and each sink that rules can name. Holds secrets, so it is never
//! shown. It must never know what a replay is.

use std::collections::BTreeMap;
use std::sync::Arc;

use muster_rules::RuleProgram;
use muster_rules::ast::{Rule, Select};
use muster_sinks::delivery::Limits;
use muster_sinks::{Built, PipelineId, SinkEnv};

use super::maker::SinkMaker;
use super::plan::{EMBEDDED, ListedTarget, START};

/// The rules and sinks of a plan.
#[derive(Clone, Default)]
pub(super) struct Recipes {
    pub(super) rules: BTreeMap<String, RuleRecipe>,
    pub(super) sinks: BTreeMap<String, SinkRecipe>,
}

impl std::fmt::Debug for Recipes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recipes").field("rules", &self.rules.keys()).finish_non_exhaustive()
    }
}

/// A rule, to be run once more.
#[derive(Clone)]
pub(super) struct RuleRecipe {
    pub(super) program: Arc<RuleProgram>,
    pub(super) select: Select,
    pub(super) version: String,
    /// What it says of its batches.
    pub(super) options: BTreeMap<String, String>,
    /// Where its rows go.
    pub(super) targets: Vec<PipelineId>,
}

/// A sink, to be opened once more.
#[derive(Clone, Default)]
pub(super) struct SinkRecipe {
    pub(super) kind: String,
    pub(super) options: BTreeMap<String, String>,
}

/// A rule into a target.
pub(super) struct Recipe {
    pub(super) id: PipelineId,
    pub(super) rule: RuleRecipe,
    pub(super) maker: SinkMaker,
    pub(super) limits: Limits,
    /// What it does, to be compared with what is running.
    pub(super) identity: RecipeIdentity,
}

/// Equal ones deliver the same rows in the same way.
#[derive(Clone, PartialEq)]
pub(super) struct RecipeIdentity {
    select: Select,
    kind: String,
    options: BTreeMap<String, String>,
}

impl RuleRecipe {
    pub(super) fn new(
        rule: &Rule,
        program: &Arc<RuleProgram>,
        version: String,
        targets: &[ListedTarget],
    ) -> Self {
        let mut options = rule.options.to_map();
        options.remove(START);
        let sinks = targets.iter().filter_map(|target| match target {
            ListedTarget::Sink { id, .. } => Some(id.clone()),
            // A replay is for tables; nobody wants old messages once more.
            ListedTarget::Republish { .. } => None,
        });
        let (program, select) = (program.clone(), rule.select.clone());
        Self { program, select, version, options, targets: sinks.collect() }
    }
}

impl Recipes {
    /// `rule` into `target` of `sink`.
    ///
    /// # Errors
    /// Why that cannot be, in words.
    pub(super) fn recipe(
        &self,
        rule: &str,
        sink: &str,
        target: Option<&str>,
        env: &SinkEnv,
    ) -> Result<Recipe, String> {
        let found = self.rules.get(rule).ok_or_else(|| format!("no rule `{rule}` runs"))?.clone();
        let embedded = || SinkRecipe { kind: EMBEDDED.to_owned(), ..SinkRecipe::default() };
        let declared = self.sinks.get(sink).cloned().or_else(|| (sink == EMBEDDED).then(embedded));
        let SinkRecipe { kind, mut options } = declared.ok_or_else(|| {
            let known: Vec<_> = self.sinks.keys().map(String::as_str).collect();
            format!("there is no sink `{sink}`; there are {EMBEDDED} and {}", known.join(", "))
        })?;
        options.extend(found.options.clone());
        let target = target.filter(|target| !target.is_empty()).map(str::to_owned);
        let identity =
            RecipeIdentity { select: found.select.clone(), kind: kind.clone(), options: options.clone() };
        let maker = SinkMaker::new(kind, (sink.to_owned(), target, rule.to_owned()), options, env.clone());
        let Built { limits, target, .. } = maker.make().map_err(|error| error.in_words())?;
        Ok(Recipe { id: PipelineId::new(rule, sink, target), rule: found, maker, limits, identity })
    }
}
