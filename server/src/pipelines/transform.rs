//! A rule's program as the delivery engine wants it.

use std::sync::Arc;

use muster_core::clock::SharedClock;
use muster_core::event::{Event, EventKinds};
use muster_rules::EvalContext;
use muster_sinks::SharedRow;
use muster_sinks::delivery::Transform;

use super::evaluation::Part;

/// What `getenv('NAME')` puts before the name: rules see no other variable, so that none of our secrets gets out.
const ENV_PREFIX: &str = "EMQXVAR_";

/// A pipeline's part in the evaluation of its rule.
pub(super) struct RuleTransform {
    part: Part,
    context: EvalContext,
}

impl RuleTransform {
    pub(super) fn new(part: Part, clock: SharedClock, seed: u64) -> Self {
        Self { part, context: eval_context(clock, seed) }
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
        self.part.rows(event, &mut self.context, rows)
    }
}
