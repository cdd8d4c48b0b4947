//! What rules cost, as ratios within one run: `cargo bench -p muster-rules`. Figures go to standard output.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "a benchmark measures time and may die"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use muster_core::clock::ManualClock;
use muster_core::event::{Event, EventKind, NewEvent, proto};
use muster_core::value::{Row, Value};
use muster_rules::ast::Statement;
use muster_rules::{EvalContext, RuleProgram, RuleSet, parse};

/// About 300 bytes, as a device sends them.
const PAYLOAD: &str = r#"{"device":"boiler-0042","site":"north hall","ts":1700000000123,"temp":41.5,"humidity":38.25,"battery":{"volts":3.61,"percent":87},"position":{"lat":48.137154,"lon":11.576124},"firmware":"4.12.0-rc1","flags":["calibrated","outdoor"],"counters":[10231,88,0,4],"rssi":-71,"note":null,"ok":true}"#;

const RULE: &str = r#"SELECT clientid, payload.temp AS temp, payload.battery.percent AS battery, topic FROM "sensors/+/up" WHERE payload.temp > 40"#;

fn event(topic: &str) -> Event {
    let body = proto::Event {
        node: "n1".into(),
        client: Some(proto::Client { clientid: "boiler-0042".into(), ..Default::default() }),
        message: Some(proto::Message { payload: PAYLOAD.into(), qos: 1, ..Default::default() }),
        ..Default::default()
    };
    NewEvent { timestamp_ms: 1_700_000_000_000, kind: EventKind::MessagePublish, topic: topic.into(), body }
        .at(7, 42)
}

fn rules(text: &str) -> Vec<RuleProgram> {
    let (statements, problems) = parse("bench.sql", text);
    assert!(problems.is_empty(), "{problems:?}");
    let compile = |statement: &Statement| match statement {
        Statement::CreateRule(rule) => RuleProgram::compile(rule).unwrap(),
        other => panic!("{other:?}"),
    };
    statements.iter().map(compile).collect()
}

/// Nanoseconds a call: the best of several rounds.
fn nanos(mut work: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..12 {
        let (mut calls, start) = (0u64, Instant::now());
        while start.elapsed() < Duration::from_millis(60) {
            for _ in 0..200 {
                work();
            }
            calls += 200;
        }
        best = best.min(start.elapsed().as_nanos() as f64 / calls as f64);
    }
    best
}

fn allocations(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}

/// The rule by hand, on serde_json's values.
fn by_hand(event: &Event) -> Option<Row> {
    if !muster_core::topic::matches("sensors/+/up", &event.topic) {
        return None;
    }
    let json: serde_json::Value = serde_json::from_slice(&event.payload()).ok()?;
    let temp = json.get("temp")?.as_f64()?;
    if temp <= 40.0 {
        return None;
    }
    let mut row = Row::with_capacity(4);
    row.insert("clientid", event.clientid());
    row.insert("temp", temp);
    row.insert("battery", json.get("battery")?.get("percent")?.as_i64()?);
    row.insert("topic", event.topic.as_str());
    Some(row)
}

#[derive(serde::Deserialize)]
struct Typed {
    temp: f64,
    battery: TypedBattery,
}

#[derive(serde::Deserialize)]
struct TypedBattery {
    percent: i64,
}

/// The rule by hand, on a struct of just the fields it needs.
fn typed(event: &Event) -> Option<Row> {
    if !muster_core::topic::matches("sensors/+/up", &event.topic) {
        return None;
    }
    let json: Typed = serde_json::from_slice(&event.payload()).ok()?;
    if json.temp <= 40.0 {
        return None;
    }
    let mut row = Row::with_capacity(4);
    row.insert("clientid", event.clientid());
    row.insert("temp", json.temp);
    row.insert("battery", json.battery.percent);
    row.insert("topic", event.topic.as_str());
    Some(row)
}

fn one_rule() {
    let program = rules(RULE).remove(0);
    let event = event("sensors/42/up");
    let mut ctx = EvalContext::new(ManualClock::at(0), 1);
    let mut rows = Vec::new();
    program.run(&event, &mut ctx, &mut rows).unwrap();
    assert_eq!(rows.first(), by_hand(&event).as_ref());
    assert_eq!(rows.first(), typed(&event).as_ref());
    // A new payload for each event, as it comes from the log: nothing is remembered from the one before.
    let payloads: Vec<bytes::Bytes> =
        (0..64).map(|_| bytes::Bytes::copy_from_slice(PAYLOAD.as_bytes())).collect();
    let mut events: Vec<Event> = payloads.iter().map(|_| event.clone()).collect();
    for (event, payload) in events.iter_mut().zip(payloads) {
        event.body.message.as_mut().unwrap().payload = payload;
    }
    let mut at = 0;
    let mut next = || {
        at = (at + 1) % events.len();
        &events[at]
    };
    let rule = nanos(|| {
        let event = next();
        rows.clear();
        if program.matches(event) {
            program.run(event, &mut ctx, &mut rows).unwrap();
        }
        black_box(&rows);
    });
    let hand = nanos(|| drop(black_box(by_hand(next()))));
    let struct_ = nanos(|| drop(black_box(typed(next()))));
    println!("one rule on {} bytes of JSON, 4 fields out", PAYLOAD.len());
    println!("  rule                        {rule:8.0} ns  {:8.0} events/s", 1e9 / rule);
    println!("  by hand, serde_json::Value  {hand:8.0} ns  rule is {:.2} x as fast (goal >= 2)", hand / rule);
    println!("  by hand, typed struct       {struct_:8.0} ns  rule is {:.2} x as fast", struct_ / rule);
    println!(
        "  a payload parsed by serde_json alone {:.0} ns",
        nanos(|| drop(black_box(serde_json::from_str::<serde_json::Value>(PAYLOAD))))
    );
}

fn many_rules() {
    let text = |names: &mut dyn Iterator<Item = usize>| -> String {
        names
            .map(|n| {
                format!("CREATE RULE r{n} AS SELECT clientid, payload.temp AS temp FROM \"plant/{n}/+\";\n")
            })
            .collect()
    };
    let matching = |set: &mut String| {
        for n in 0..3 {
            set.push_str(&format!(
                "CREATE RULE m{n} AS SELECT clientid, payload.temp AS temp, payload.rssi AS rssi FROM \"sensors/+/up\" WHERE payload.temp > {n};\n"
            ));
        }
    };
    let mut few = String::new();
    matching(&mut few);
    let mut many = text(&mut (0..997));
    matching(&mut many);
    let (few, many) = (RuleSet::new(rules(&few)), RuleSet::new(rules(&many)));
    let event = event("sensors/42/up");
    let mut ctx = EvalContext::new(ManualClock::at(0), 1);
    let mut rows = Vec::new();
    let mut cost = |set: &RuleSet| {
        nanos(|| {
            let mut made = 0;
            set.run(&event, &mut ctx, &mut rows, |_, result| made += result.unwrap().len());
            assert_eq!(black_box(made), 3);
        })
    };
    let (three, thousand) = (cost(&few), cost(&many));
    println!(
        "1,000 rules of which 3 match   {thousand:8.0} ns, those 3 alone {three:.0} ns: {:.2} x (goal <= 1.3)",
        thousand / three
    );
    let other = Event { topic: "office/1/up".into(), ..event };
    let mut seen = 0;
    let count = allocations(|| many.for_each_match(&other, |_| seen += 1));
    let alone = allocations(|| assert!(!black_box(many.rules()[0].matches(&other))));
    println!(
        "allocations for an event that no rule matches: {count} of 1,000 rules, {alone} of one (goal 0)"
    );
    assert_eq!((count, alone, seen), (0, 0, 0));
}

fn payloads() {
    let big: String = format!("[{}]", vec![PAYLOAD; 3_000].join(","));
    let program = rules(r#"SELECT payload[3000].temp AS t FROM "t""#).remove(0);
    let mut event = event("t");
    event.body.message.as_mut().unwrap().payload = big.clone().into();
    let mut rows = Vec::new();
    let took = nanos(|| {
        let mut ctx = EvalContext::new(ManualClock::at(0), 1);
        rows.clear();
        program.run(&event, &mut ctx, &mut rows).unwrap();
    });
    assert_eq!(rows[0].get("t"), Some(&Value::Float(41.5)));
    println!(
        "a payload of {} KiB             {:8.0} us, {:.0} MB/s",
        big.len() / 1024,
        took / 1e3,
        big.len() as f64 / took * 1e3
    );
}

fn main() {
    one_rule();
    many_rules();
    payloads();
}
