//! A rule's program as the delivery engine wants it.

use std::sync::Arc;

use muster_core::clock::SharedClock;
use muster_core::event::{Event, EventKinds};
use muster_core::value::Row;
use muster_rules::{EvalContext, RuleProgram};
use muster_sinks::delivery::Transform;

/// Runs one rule's program.
pub(super) struct RuleTransform {
    program: Arc<RuleProgram>,
    context: EvalContext,
}

impl RuleTransform {
    pub(super) fn new(program: Arc<RuleProgram>, clock: SharedClock, seed: u64) -> Self {
        Self { program, context: EvalContext::new(clock, seed) }
    }
}

impl Transform for RuleTransform {
    fn kinds(&self) -> EventKinds {
        self.program.wants().kinds
    }

    fn apply(&mut self, event: &Event, rows: &mut Vec<Row>) -> Result<(), String> {
        if !self.program.matches(event) {
            return Ok(());
        }
        self.program.run(event, &mut self.context, rows).map_err(|error| error.to_string())
    }
}
