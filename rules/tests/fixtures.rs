//! The reference page row by row, and sixty broken rules with what is said of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod common;

use common::fixture;
use muster_core::clock::ManualClock;
use muster_core::value::{Map, Value};
use muster_rules::ast::Statement;
use muster_rules::{EvalContext, RuleProgram, conformance, parse};

const PAYLOAD: &str = r#"{"x":1,"i":2,"s":"abc","n":null,"yes":true,"no":false,"d":1.5,"l":[1,2,3],"m":{"k":"v"},"j":"{\"k\":[7]}","big":123456789012345678901234567890,"num":"10","a-b":9,"end":"z","sensors":[{"id":"a","t":20},{"id":"b","t":31.5},{"id":"c"}]}"#;

fn columns() -> Map {
    let flags: Map = [("retain", true), ("dup", false)].into_iter().collect();
    let mut columns = Map::new();
    columns.insert("event", "message.publish");
    columns.insert("topic", "t/a/b");
    columns.insert("payload", PAYLOAD);
    columns.insert("qos", 1i64);
    columns.insert("clientid", "c1");
    columns.insert("flags", flags);
    columns.insert("timestamp", 1_700_000_000_000i64);
    columns
}

/// Runs a case: a whole rule, or an expression. Warnings do not show.
fn run(case: &str) -> String {
    let is_rule = case.to_uppercase().starts_with("SELECT") || case.to_uppercase().starts_with("FOREACH");
    let sql = if is_rule { case.to_owned() } else { format!("SELECT {case} AS v FROM \"t/#\"") };
    let (statements, problems) = parse("case.sql", &sql);
    if let Some(problem) = problems.iter().find(|problem| problem.is_error()) {
        return format!("error: {}", problem.message);
    }
    let Some(Statement::CreateRule(rule)) = statements.first() else { return "no rule".into() };
    let program = RuleProgram::compile(rule).unwrap();
    let mut ctx = EvalContext::new(ManualClock::at(1_700_000_000_123), 1);
    let mut rows = Vec::new();
    match program.run_on(&columns(), &mut ctx, &mut rows) {
        Err(error) => format!("fails: {error}"),
        Ok(()) if is_rule && rows.is_empty() => "no row".into(),
        Ok(()) if is_rule => rows.iter().map(|row| format!("{}\n", row.to_json())).collect(),
        Ok(()) => format!("{:?}", rows[0].get("v").unwrap_or(&Value::Undefined)),
    }
}

#[test]
fn language() {
    fixture("language.txt", run);
}

#[test]
fn functions() {
    fixture("functions.txt", run);
}

#[test]
fn every_function_is_in_the_fixtures() {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/functions.txt")).unwrap();
    let missing: Vec<_> = muster_rules::function_usages()
        .map(|(name, _)| name)
        .filter(|name| !text.contains(&format!("{name}(")))
        .collect();
    assert!(missing.is_empty(), "no fixture calls {missing:?}");
}

#[test]
fn every_function_is_in_the_reference() {
    let page = include_str!("../docs/reference.md").replace("\\|", "|");
    let missing: Vec<_> =
        muster_rules::function_usages().filter(|(_, usage)| !page.contains(&format!("`{usage}`"))).collect();
    assert!(missing.is_empty(), "the reference page lacks {missing:?}");
}

#[test]
fn broken_rules_are_explained() {
    let mut count = 0;
    fixture("broken.txt", |case| {
        count += 1;
        let (_, problems) = parse("rules/x.sql", case);
        assert!(!problems.is_empty(), "nothing is said of {case}");
        problems.iter().map(|problem| problem.render(false)).collect()
    });
    assert!(count >= 60, "only {count} broken rules");
}

/// Under the reference's own rules the additions are errors.
#[test]
fn additions_are_unknown_to_the_reference() {
    fixture("additions.txt", |case| {
        let request: Map = [("name", "x"), ("kind", "sql"), ("sql", case)].into_iter().collect();
        let mut request = request;
        request.insert("input", columns());
        let answer = conformance::answer(&request.to_json());
        let reference =
            if answer.contains("\"error\"") { "the reference: error" } else { "the reference: accepted" };
        format!("{reference}\n{}", run(case))
    });
}
