//! A rule ready to run, for whoever has events: [`RuleProgram`].

use muster_core::event::Event;
use muster_core::value::{Map, Row};

use crate::ast::Rule;
use crate::diagnostic::Diagnostic;
use crate::plan;
use crate::program::Program;
use crate::program::context::EvalContext;
use crate::program::env::Base;
use crate::program::run::{EvalError, run};
use crate::program::source::{Wants, matches_named};
use crate::syntax::Mode;

/// A compiled rule. It is immutable and can be shared by threads; what changes is in the [`EvalContext`].
#[derive(Debug, Clone, PartialEq)]
pub struct RuleProgram {
    name: String,
    program: Program,
    wants: Wants,
    from: Vec<String>,
    remembers: bool,
}

impl RuleProgram {
    /// Plans a rule.
    ///
    /// # Errors
    /// Everything that is wrong with it; warnings are not among them, [`crate::parse_files`] tells those, too.
    pub fn compile(rule: &Rule) -> Result<Self, Vec<Diagnostic>> {
        let plan = plan::select(&rule.select, Mode::Extended);
        let errors: Vec<_> = plan.problems.into_iter().map(|problem| problem.at(&rule.source)).collect();
        if errors.iter().any(Diagnostic::is_error) {
            return Err(errors.into_iter().filter(Diagnostic::is_error).collect());
        }
        let from = rule.select.from.iter().map(|name| name.text.clone()).collect();
        let (name, remembers) = (rule.name.text.clone(), plan.remembers);
        Ok(Self { name, program: plan.program, wants: plan.wants, from, remembers })
    }

    pub(crate) fn new(name: &str, plan: plan::Plan, from: Vec<String>) -> Self {
        let plan::Plan { program, wants, remembers, .. } = plan;
        Self { name: name.to_owned(), program, wants, from, remembers }
    }

    /// The rule's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which events the rule looks at: kinds, and filters on the topics of published messages.
    pub fn wants(&self) -> &Wants {
        &self.wants
    }

    /// Whether its rows may follow from events before this one, by `kv_store_put` and its like: then every
    /// [`EvalContext`] has to see all events.
    pub fn remembers(&self) -> bool {
        self.remembers
    }

    /// Whether FROM names the event. Allocates nothing.
    pub fn matches(&self, event: &Event) -> bool {
        self.wants.matches(event)
    }

    /// Adds the rows that the rule makes of an event that it matches. None means that WHERE or INCASE did not hold.
    ///
    /// # Errors
    /// Where a part of the rule fails on this event; then no row is added.
    pub fn run(&self, event: &Event, ctx: &mut EvalContext, rows: &mut Vec<Row>) -> Result<(), EvalError> {
        run(&self.program, Base::Event(event, &self.name), ctx, rows)
    }

    /// The rows that the rule makes of columns given by name, for trying rules out. None also means that FROM does
    /// not name the event, which is told by its columns `event` and `topic`.
    ///
    /// # Errors
    /// As [`RuleProgram::run`].
    pub fn run_on(&self, columns: &Map, ctx: &mut EvalContext, rows: &mut Vec<Row>) -> Result<(), EvalError> {
        let text = |name| columns.get(name).and_then(|value| value.as_str());
        let event = text("event").unwrap_or("message.publish");
        if !matches_named(&self.from, event, text("topic").unwrap_or_default()) {
            return Ok(());
        }
        run(&self.program, Base::Map(columns), ctx, rows)
    }
}
