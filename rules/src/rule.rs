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

/// What a rule makes of columns that somebody made up.
#[derive(Debug, Clone, PartialEq)]
pub enum Tried {
    /// FROM does not name the event, or WHERE does not hold.
    NoMatch,
    /// SELECT's row.
    Row(Row),
    /// FOREACH's rows; none where the list is empty, or no list, or INCASE holds for no element.
    Rows(Vec<Row>),
}

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
        run(&self.program, Base::Event(event, &self.name), ctx, rows).map(|_| ())
    }

    /// The rows that the rule makes of columns given by name, for trying rules out. None also means that FROM does
    /// not name the event, which is told by its columns `event` and `topic`.
    ///
    /// # Errors
    /// As [`RuleProgram::run`].
    pub fn run_on(&self, columns: &Map, ctx: &mut EvalContext, rows: &mut Vec<Row>) -> Result<(), EvalError> {
        if !self.names(columns) {
            return Ok(());
        }
        run(&self.program, Base::Map(columns), ctx, rows).map(|_| ())
    }

    /// As [`RuleProgram::run_on`], telling "no match" from "no rows".
    ///
    /// # Errors
    /// As [`RuleProgram::run`].
    pub fn try_on(&self, columns: &Map, ctx: &mut EvalContext) -> Result<Tried, EvalError> {
        let mut rows = Vec::new();
        if !self.names(columns) || !run(&self.program, Base::Map(columns), ctx, &mut rows)? {
            return Ok(Tried::NoMatch);
        }
        match (self.program.foreach.is_some(), rows.pop()) {
            (false, Some(row)) => Ok(Tried::Row(row)),
            (_, last) => {
                rows.extend(last);
                Ok(Tried::Rows(rows))
            }
        }
    }

    /// Whether FROM names the event of these columns.
    fn names(&self, columns: &Map) -> bool {
        let text = |name| columns.get(name).and_then(|value| value.as_str());
        let event = text("event").unwrap_or("message.publish");
        matches_named(&self.from, event, text("topic").unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use muster_core::clock::ManualClock;
    use muster_core::value::Value;

    use super::*;
    use crate::ast::{Name, Options, Statement, Target};
    use crate::diagnostic::Span;
    use crate::{parse_files_and, read_rule};

    fn tried(sql: &str, payload: &str) -> Tried {
        let rule = read_rule("r", "test", sql).expect("a rule");
        let program = RuleProgram::compile(&rule).expect("a program");
        let columns = [("topic", Value::from("t/1")), ("payload", payload.into())].into_iter().collect();
        program.try_on(&columns, &mut EvalContext::new(ManualClock::at(0), 1)).expect("no fault")
    }

    #[test]
    fn no_match_is_not_no_rows() {
        let row = |n: i64| Row::from_iter([("n", n)]);
        for (sql, want) in [
            ("SELECT 1 AS n FROM \"t/#\"", Tried::Row(row(1))),
            ("SELECT 1 AS n FROM \"u/#\"", Tried::NoMatch),
            ("SELECT 1 AS n FROM \"$events/client/connected\"", Tried::NoMatch),
            ("SELECT 1 AS n FROM \"t/#\" WHERE payload.x = 1", Tried::NoMatch),
            ("FOREACH payload.l AS n DO n FROM \"t/#\"", Tried::Rows(vec![row(1), row(2)])),
            ("FOREACH payload.l AS n DO n INCASE n > 1 FROM \"t/#\"", Tried::Rows(vec![row(2)])),
            ("FOREACH payload.l AS n INCASE n > 2 FROM \"t/#\"", Tried::Rows(vec![])),
            ("FOREACH payload.none AS n FROM \"t/#\"", Tried::Rows(vec![])),
            ("FOREACH payload.l AS n FROM \"t/#\" WHERE payload.x = 1", Tried::NoMatch),
        ] {
            assert_eq!(tried(sql, r#"{"l":[1,2]}"#), want, "{sql}");
        }
    }

    #[test]
    fn rules_of_no_file_stand_beside_those_of_files() {
        let republish = |name: &str, from: &str, to: &str| {
            let mut rule = read_rule(name, "made", &format!("SELECT * FROM \"{from}\"")).expect("a rule");
            let topic = Name { text: to.to_owned(), span: Span::default() };
            rule.into = vec![Target::Republish { topic, options: Options::default() }];
            rule
        };
        let file = "CREATE RULE a REPUBLISH TO 'y' AS SELECT * FROM \"x\";";
        let (statements, problems) = parse_files_and([("f.sql", file)], |seen| {
            assert_eq!(seen.count(), 1);
            (vec![republish("a", "p", "q"), republish("b", "y", "x"), republish("c", "p", "q")], Vec::new())
        });
        let names = statements.iter().map(|it| match it {
            Statement::CreateRule(rule) => rule.name.text.as_str(),
            _ => "",
        });
        assert_eq!(names.collect::<Vec<_>>(), ["a", "b", "c"]);
        let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "made:1:1: error: there are two rules named `a`; the other one is at f.sql:1:13; rename one",
                "made:1:1: error: these rules republish in a circle: b -> a -> b; republish to a topic that none \
                 of their FROM matches",
            ]
        );
    }
}
