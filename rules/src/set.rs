//! Many rules at once: which of them an event concerns is found by its kind and topic, not by asking each.

use muster_core::event::{Event, EventKind};
use muster_core::topic::{self, FilterIndex};
use muster_core::value::Row;

use crate::program::context::EvalContext;
use crate::program::run::EvalError;
use crate::rule::RuleProgram;

/// Rules under an index of event kinds and topics. Finding the rules of an event costs about as much as there are
/// rules that match, however many there are, and allocates nothing.
#[derive(Debug, Default)]
pub struct RuleSet {
    rules: Vec<RuleProgram>,
    /// The rules of each kind of event but `message.publish`.
    by_kind: Vec<(EventKind, Vec<usize>)>,
    /// Rule and number of the filter in it.
    by_topic: FilterIndex<(usize, usize)>,
}

impl RuleSet {
    /// Indexes the rules.
    pub fn new(rules: Vec<RuleProgram>) -> Self {
        let mut set = Self { by_topic: FilterIndex::new(), ..Self::default() };
        for (at, rule) in rules.iter().enumerate() {
            for (n, filter) in rule.wants().filters.iter().enumerate() {
                set.by_topic.insert(filter, (at, n));
            }
        }
        for kind in EventKind::all().filter(|kind| *kind != EventKind::MessagePublish) {
            let wanting = rules.iter().enumerate().filter(|(_, rule)| rule.wants().kinds.contains(kind));
            let wanting: Vec<_> = wanting.map(|(at, _)| at).collect();
            if !wanting.is_empty() {
                set.by_kind.push((kind, wanting));
            }
        }
        set.rules = rules;
        set
    }

    /// Every rule.
    pub fn rules(&self) -> &[RuleProgram] {
        &self.rules
    }

    /// Calls `visit` once with each rule whose FROM names the event.
    pub fn for_each_match<'a>(&'a self, event: &Event, mut visit: impl FnMut(&'a RuleProgram)) {
        if event.kind != EventKind::MessagePublish {
            let found = self.by_kind.iter().find(|(kind, _)| *kind == event.kind);
            for at in found.map_or(&[][..], |(_, rules)| rules) {
                if let Some(rule) = self.rules.get(*at) {
                    visit(rule);
                }
            }
            return;
        }
        self.by_topic.for_each_match(&event.topic, |(at, n)| {
            let Some(rule) = self.rules.get(*at) else { return };
            // Of several filters that match, the first speaks for the rule.
            let earlier = rule.wants().filters.get(..*n).unwrap_or_default();
            if !earlier.iter().any(|filter| topic::matches(filter, &event.topic)) {
                visit(rule);
            }
        });
    }

    /// Runs every rule that the event concerns. `done` gets the rule and its rows; rows are used again for the next.
    pub fn run(
        &self,
        event: &Event,
        ctx: &mut EvalContext,
        rows: &mut Vec<Row>,
        mut done: impl FnMut(&RuleProgram, Result<&[Row], EvalError>),
    ) {
        self.for_each_match(event, |rule| {
            rows.clear();
            match rule.run(event, ctx, rows) {
                Ok(()) => done(rule, Ok(rows)),
                Err(error) => done(rule, Err(error)),
            }
        });
        rows.clear();
    }
}
