//! What a payload or a rule can make large, deep or slow ends at a named limit.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test fails by panicking"
)]

use muster_core::clock::ManualClock;
use muster_core::value::{Map, Row};
use muster_rules::ast::Statement;
use muster_rules::limits::{JSON_VALUES_MAX, KV_BYTES_MAX, LIKE_STEPS_MAX, VALUE_DEPTH_MAX};
use muster_rules::{EvalContext, EvalError, RuleProgram, parse};

fn context() -> EvalContext {
    EvalContext::new(ManualClock::at(0), 1)
}

fn program(text: &str) -> RuleProgram {
    let (statements, problems) = parse("x.sql", text);
    assert!(problems.is_empty(), "{problems:?}");
    match statements.first() {
        Some(Statement::CreateRule(rule)) => RuleProgram::compile(rule).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn run(program: &RuleProgram, ctx: &mut EvalContext, payload: &str) -> Result<Vec<Row>, EvalError> {
    let columns: Map = [("topic", "t"), ("payload", payload)].into_iter().collect();
    let mut rows = Vec::new();
    program.run_on(&columns, ctx, &mut rows).map(|()| rows)
}

/// The message of an expression that fails on this payload.
fn fault(expr: &str, payload: &str) -> String {
    let program = program(&format!("SELECT {expr} AS v FROM \"t\""));
    run(&program, &mut context(), payload).unwrap_err().message
}

#[test]
fn a_path_from_a_payload_makes_nothing_deeper_than_the_limit() {
    for (steps, is_ok) in [(VALUE_DEPTH_MAX, true), (VALUE_DEPTH_MAX + 1, false), (1_000_000, false)] {
        let payload = format!("{{\"p\":\"a{}\"}}", ".a".repeat(steps - 1));
        let program = program("SELECT map_put(payload.p, 1, map_new()) AS v FROM \"t\"");
        assert_eq!(run(&program, &mut context(), &payload).is_ok(), is_ok, "{steps}");
    }
}

#[test]
fn a_value_that_grows_with_each_event_ends_at_the_limit() {
    for growing in ["[kv_store_get('x')]", "map_put('a', kv_store_get('x'), map_new())"] {
        let program = program(&format!("SELECT kv_store_put('x', {growing}) AS v FROM \"t\""));
        let mut ctx = context();
        let grown = (0..10_000).take_while(|_| run(&program, &mut ctx, "{}").is_ok()).count();
        assert!((VALUE_DEPTH_MAX - 1..=VALUE_DEPTH_MAX).contains(&grown), "{growing}: {grown}");
    }
}

#[test]
fn a_path_of_a_select_makes_nothing_deeper_than_the_limit() {
    let path = |steps: usize| format!("a{}", ".b".repeat(steps - 1));
    let deep = |steps: usize| {
        let program = program(&format!("SELECT payload.x AS {} FROM \"t\"", path(steps)));
        run(&program, &mut context(), "{\"x\":1}")
    };
    assert!(deep(VALUE_DEPTH_MAX).is_ok());
    assert_eq!(deep(4_000).unwrap_err().message, "the value is nested too deeply");
}

#[test]
fn a_list_in_a_payload_multiplies_only_so_far() {
    let payload = format!("[{}{{\"n\":60000000}}]", "{\"n\":60000000},".repeat(50));
    let foreach = program("FOREACH payload AS e DO pad('', e.n) AS v FROM \"t\"");
    assert_eq!(
        run(&foreach, &mut context(), &payload).unwrap_err().message,
        "the rule makes too much of one event"
    );
    let pads = vec!["pad('', payload.n)"; 50].join(", ");
    assert_eq!(fault(&format!("[{pads}]"), "{\"n\":60000000}"), "the rule makes too much of one event");
    let columns = (0..50).map(|n| format!("pad('', payload.n) AS c{n}")).collect::<Vec<_>>().join(", ");
    let select = program(&format!("SELECT {columns} FROM \"t\""));
    assert!(run(&select, &mut context(), "{\"n\":60000000}").is_err());
    assert!(run(&select, &mut context(), "{\"n\":6}").is_ok());
}

#[test]
fn a_string_that_doubles_in_each_call_ends_at_the_limit() {
    let expr = format!("{}payload.x{}", "bin2hexstr(".repeat(40), ")".repeat(40));
    assert_eq!(fault(&expr, "{\"x\":\"abc\"}"), "the string is too long");
}

#[test]
fn the_store_is_bounded_in_bytes_and_keeps_no_payload() {
    let store = program("SELECT kv_store_put(payload.k, payload.v) AS v FROM \"t\"");
    let mut ctx = context();
    let value = "v".repeat(KV_BYTES_MAX / 4);
    let mut put =
        |key: &str, value: &str| run(&store, &mut ctx, &format!("{{\"k\":\"{key}\",\"v\":\"{value}\"}}"));
    for key in ["a", "b", "c", "a", "b"] {
        assert!(put(key, &value).is_ok(), "{key}");
    }
    assert_eq!(put("d", &value).unwrap_err().message, "the store is full");
    assert!(put("c", "small").is_ok());
    assert!(put("d", &value).is_ok());
}

#[test]
fn the_constants_of_a_rule_take_only_so_much() {
    for constant in ["[1..100000]", "pad('x', 60000000)"] {
        let text = format!("SELECT {} AS x FROM \"t\"", vec![constant; 200].join(" AS x, "));
        let (statements, problems) = parse("x.sql", &text);
        assert!(statements.is_empty());
        assert!(problems[0].to_string().contains("too much memory"), "{constant}: {}", problems[0]);
    }
}

#[test]
fn numbers_at_the_ends_of_their_range_overflow_nothing() {
    let (_, problems) = parse("x.sql", "SELECT [-9223372036854775807..9223372036854775807] AS x FROM \"t\"");
    assert!(problems.iter().any(|problem| problem.to_string().contains("the range is too long")));
    let low = "{\"l\":[1],\"n\":-9223372036854775808}";
    assert_eq!(fault("nth(payload.n, payload.l)", low), "lists count from 1");
    assert_eq!(fault("sublist(payload.n, 1, payload.l)", low), "lists count from 1");
    assert_eq!(fault("subbits('abc', payload.n, 1)", low), "bits count from 1");
    assert_eq!(fault("topic(payload.n)", low), "topic levels count from 1");
    let high = "{\"n\":170141183460469231731687303715884105727,\"o\":9223372036854775807}";
    assert_eq!(
        fault("format_date('nanosecond', payload.o, '%Y', payload.n)", high),
        "the time is out of range"
    );
}

/// A search whose cost is the product of two lengths would take hours here.
#[test]
fn searches_of_long_texts_end() {
    let text = "a".repeat(4 << 20);
    let needle = format!("{}b", "a".repeat(1 << 20));
    let payload = format!("{{\"t\":\"{text}\",\"n\":\"{needle}\"}}");
    let found = |expr: &str| {
        let program = program(&format!("SELECT {expr} AS v FROM \"t\""));
        run(&program, &mut context(), &payload).unwrap().remove(0).get("v").unwrap().to_json()
    };
    assert_eq!(found("find(payload.t, payload.n)"), "\"\"");
    assert_eq!(found("find(payload.t, payload.n, 'trailing')"), "\"\"");
    assert_eq!(found("length(split(payload.t, payload.n))"), "1");
    assert_eq!(found("strlen(replace(payload.t, payload.n, 'x'))"), text.len().to_string());
    assert_eq!(found("length(tokens(payload.t, payload.n))"), "0");
    assert_eq!(found("trim(payload.t, payload.n)"), "\"\"");
    assert!(text.len() < LIKE_STEPS_MAX);
    assert_eq!(found("payload.t LIKE '%b'"), "false");
    let message = fault("payload.t LIKE concat('%', payload.n)", &payload);
    assert_eq!(message, "LIKE takes too many steps on this text");
}

#[test]
fn a_payload_of_too_many_values_is_refused() {
    let payload = format!("[{}1]", "1,".repeat(JSON_VALUES_MAX));
    assert_eq!(fault("payload[1]", &payload), "payload is JSON text has too many values");
}
