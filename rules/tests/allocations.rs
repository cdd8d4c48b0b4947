//! A rule that does not concern an event costs no memory.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test fails by panicking")]

use muster_core::event::{EventKind, NewEvent, proto};
use muster_rules::ast::Statement;
use muster_rules::{RuleProgram, RuleSet, parse};

#[test]
fn a_rule_that_does_not_match_allocates_nothing() {
    let mut text = String::from("CREATE RULE c AS SELECT clientid FROM \"$events/client/+\";\n");
    for n in 0..1_000 {
        text.push_str(&format!(
            "CREATE RULE r{n} AS SELECT payload.x AS x FROM \"plant/{n}/+\", \"plant/+/{n}\";\n"
        ));
    }
    let (statements, problems) = parse("many.sql", &text);
    assert!(problems.is_empty());
    let rules = statements.iter().map(|statement| match statement {
        Statement::CreateRule(rule) => RuleProgram::compile(rule).unwrap(),
        other => panic!("{other:?}"),
    });
    let set = RuleSet::new(rules.collect());
    let body = proto::Event { message: Some(proto::Message::default()), ..Default::default() };
    let event =
        NewEvent { timestamp_ms: 0, kind: EventKind::MessagePublish, topic: "office/7/x".into(), body }
            .at(1, 1);
    let mut seen = 0;
    let counted = allocation_counter::measure(|| {
        set.for_each_match(&event, |_| seen += 1);
        for rule in set.rules() {
            seen += usize::from(rule.matches(&event));
        }
    });
    assert_eq!((counted.count_total, seen), (0, 0));
}
