//! A rule's program as the delivery engine wants it.

use std::sync::Arc;

use muster_core::clock::SharedClock;
use muster_core::event::{Event, EventKind, EventKinds};
use muster_rules::{EvalContext, RuleProgram};
use muster_sinks::SharedRow;
use muster_sinks::delivery::Transform;

use super::evaluation::{Evaluation, Part};

/// What `getenv('NAME')` puts before the name: rules see no other variable, so that none of our secrets gets out.
const ENV_PREFIX: &str = "EMQXVAR_";

/// A pipeline's part in the evaluation of its rule, and a rule evaluated wherever it is tried.
pub(crate) struct RuleTransform {
    part: Arc<Part>,
    context: EvalContext,
    /// Whether the rows are republished.
    republishes: bool,
}

impl RuleTransform {
    pub(super) fn new(part: Arc<Part>, clock: SharedClock, seed: u64, republishes: bool) -> Self {
        Self { part, context: eval_context(clock, seed), republishes }
    }

    /// A rule of which no pipeline runs.
    pub(crate) fn alone(program: Arc<RuleProgram>, clock: SharedClock, seed: u64) -> Self {
        Self::new(Arc::new(Evaluation::alone(program).join()), clock, seed, false)
    }

    /// Whether the event is none of the rule's business although its FROM may name it: a message that is meant for
    /// subscribers only, and for REPUBLISH whatever comes of the rule's own messages.
    fn ignores(&self, event: &Event) -> bool {
        let Some(message) = &event.body.message else { return false };
        let is_direct = message.republication.as_ref().is_some_and(|it| it.direct);
        event.kind == EventKind::MessagePublish && is_direct
            || self.republishes && message.republished_by == self.part.program().name()
    }
}

/// The surroundings in which rules are evaluated, also when they are only tried out.
pub fn eval_context(clock: SharedClock, seed: u64) -> EvalContext {
    let now = jiff::Timestamp::from_millisecond(clock.wall_ms()).unwrap_or_default();
    let local = jiff::tz::TimeZone::system().to_offset(now).seconds();
    // What functions of chance give must not come again after a restart.
    let seed = seed ^ clock.wall_ms().unsigned_abs();
    EvalContext::new(clock, seed)
        .with_local_offset(local.into())
        .with_env(Arc::new(|name| std::env::var(format!("{ENV_PREFIX}{name}")).ok()))
}

impl Transform for RuleTransform {
    fn kinds(&self) -> EventKinds {
        self.part.program().wants().kinds
    }

    fn apply(&mut self, event: &Event, rows: &mut Vec<SharedRow>) -> Result<(), String> {
        if self.ignores(event) {
            return Ok(());
        }
        self.part.rows(event, &mut self.context, rows)
    }

    fn remembers(&self) -> bool {
        self.part.program().remembers()
    }
}
