//! Alarms, planned: which events raise and clear them, and for which clients. Their run-time (waiting, raising,
//! clearing) is not here.

use muster_core::event::Event;

use crate::ast::{AlarmDef, Trigger};
use crate::diagnostic::{Diagnostic, Problem};
use crate::plan;
use crate::program::Node;
use crate::program::context::EvalContext;
use crate::program::env::{Base, Env};
use crate::program::eval::condition;
use crate::program::run::{EvalError, Stage};
use crate::program::source::Wants;

/// A compiled alarm.
#[derive(Debug, Clone, PartialEq)]
pub struct AlarmProgram {
    name: String,
    of: Wants,
    after: Option<Wants>,
    grace_ms: u64,
    condition: Option<Node>,
}

/// Longest grace time: a year.
pub const GRACE_MS_MAX: u64 = 366 * 24 * 3_600_000;

pub(crate) fn problems(alarm: &AlarmDef) -> Vec<Problem> {
    build(alarm).1
}

fn build(alarm: &AlarmDef) -> (AlarmProgram, Vec<Problem>) {
    let (of, after, grace_ms) = match &alarm.trigger {
        Trigger::Absence { of, grace_ms, after } => (of, Some(after), *grace_ms),
        Trigger::Presence { of } => (of, None, 0),
    };
    let (of_wants, mut problems) = plan::sources(of);
    let mut names = of.clone();
    let after_wants = after.map(|after| {
        let (wants, more) = plan::sources(after);
        problems.extend(more);
        names.extend(after.iter().cloned());
        wants
    });
    if after.is_some() && (grace_ms == 0 || grace_ms > GRACE_MS_MAX) {
        let problem = Problem::new(alarm.name.span, "the grace time is above zero and at most a year");
        problems.push(problem.help("write FOR 60s"));
    }
    let node = alarm.condition.as_ref().map(|expr| {
        let (node, more) = plan::condition(expr, &names);
        problems.extend(more);
        node
    });
    let name = alarm.name.text.clone();
    (AlarmProgram { name, of: of_wants, after: after_wants, grace_ms, condition: node }, problems)
}

impl AlarmProgram {
    /// Plans an alarm.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn compile(alarm: &AlarmDef) -> Result<Self, Vec<Diagnostic>> {
        let (program, problems) = build(alarm);
        let found: Vec<_> = problems.into_iter().map(|problem| problem.at(&alarm.source)).collect();
        if found.iter().any(Diagnostic::is_error) {
            return Err(found.into_iter().filter(Diagnostic::is_error).collect());
        }
        Ok(program)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is missed, or what raises it.
    pub fn of(&self) -> &Wants {
        &self.of
    }

    /// What starts the wait; none for an alarm that is raised by presence.
    pub fn after(&self) -> Option<&Wants> {
        self.after.as_ref()
    }

    /// How long it waits.
    pub fn grace_ms(&self) -> u64 {
        self.grace_ms
    }

    /// Whether the event counts.
    ///
    /// # Errors
    /// Where the condition fails on this event.
    pub fn holds(&self, event: &Event, ctx: &mut EvalContext) -> Result<bool, EvalError> {
        let Some(node) = &self.condition else { return Ok(true) };
        let env = Env { base: Base::Event(event, &self.name), over: None, out: None };
        condition(node, &env, ctx)
            .map_err(|fault| EvalError { stage: Stage::Where, message: fault.0.into_owned() })
    }
}
