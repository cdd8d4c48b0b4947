//! A rule file and a payload, cut at the first zero byte: reading, planning and running them must neither panic nor
//! hang. `cargo +nightly fuzz run rule` in `rules/`.
#![no_main]

use std::str;

use libfuzzer_sys::fuzz_target;
use muster_core::clock::SystemClock;
use muster_core::value::{Map, Value};
use muster_rules::ast::Statement;
use muster_rules::{EvalContext, RuleProgram, conformance, parse};

fuzz_target!(|data: &[u8]| {
    let (text, payload) = match data.iter().position(|byte| *byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &b"{\"a\":[1,{\"b\":null}]}"[..]),
    };
    let Ok(text) = str::from_utf8(text) else { return };
    let (statements, problems) = parse("fuzz.sql", text);
    for problem in &problems {
        let _ = problem.render(false);
    }
    let columns: Map = [
        ("topic", Value::from("a/b")),
        ("payload", Value::Str(payload.to_vec().into())),
        ("qos", Value::Int(1)),
    ]
    .into_iter()
    .collect();
    let mut ctx = EvalContext::new(SystemClock::shared(), 1);
    for statement in &statements {
        let printed = statement.to_string();
        if let Statement::CreateRule(rule) = statement {
            let again = muster_rules::read_select(&rule.select.to_string());
            assert!(again.is_ok_and(|again| again == rule.select), "reads back differently: {printed}");
            if let Ok(program) = RuleProgram::compile(rule) {
                let _ = program.run_on(&columns, &mut ctx, &mut Vec::new());
            }
        }
    }
    let _ = conformance::answer(text);
});
