//! Rule files end to end: statements read, rules compiled and run on events.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test fails by panicking"
)]

use expect_test::{Expect, expect};
use muster_core::clock::ManualClock;
use muster_core::event::{Event, EventKind, NewEvent, proto};
use muster_rules::ast::Statement;
use muster_rules::{AlarmProgram, EvalContext, RuleProgram, RuleSet, parse, parse_files};

fn message(topic: &str, payload: &str) -> Event {
    let body = proto::Event {
        node: "n1".into(),
        client: Some(proto::Client { clientid: "c1".into(), session: 3, seq: 4, ..Default::default() }),
        message: Some(proto::Message { payload: payload.to_owned().into(), qos: 1, ..Default::default() }),
        ..Default::default()
    };
    NewEvent { timestamp_ms: 1_700_000_000_000, kind: EventKind::MessagePublish, topic: topic.into(), body }
        .at(7, 42)
}

fn connected() -> Event {
    let body = proto::Event {
        node: "n1".into(),
        client: Some(proto::Client {
            clientid: "c1".into(),
            username: Some("u1".into()),
            ..Default::default()
        }),
        ..Default::default()
    };
    NewEvent { timestamp_ms: 1, kind: EventKind::ClientConnected, topic: String::new(), body }.at(7, 43)
}

fn programs(text: &str) -> Vec<RuleProgram> {
    let (statements, problems) = parse("rules/test.sql", text);
    assert!(problems.is_empty(), "{problems:?}");
    let rules = statements.iter().filter_map(|statement| match statement {
        Statement::CreateRule(rule) => Some(RuleProgram::compile(rule).unwrap()),
        _ => None,
    });
    rules.collect()
}

fn check(text: &str, events: &[Event], expected: Expect) {
    let mut ctx = EvalContext::new(ManualClock::at(0), 1);
    let mut out = String::new();
    for program in programs(text) {
        for event in events {
            let mut rows = Vec::new();
            if !program.matches(event) {
                out.push_str(&format!("{}: no match\n", program.name()));
                continue;
            }
            match program.run(event, &mut ctx, &mut rows) {
                Ok(()) => out.push_str(&format!("{}: {rows:?}\n", program.name())),
                Err(error) => out.push_str(&format!("{}: {error}\n", program.name())),
            }
        }
    }
    expected.assert_eq(&out);
}

#[test]
fn a_rule_file_is_read_and_runs() {
    check(
        r#"
        CREATE SINK warehouse TYPE postgres WITH (url = '${env:PG_URL}', batch_rows = 500, tls = true);
        -- Who came and went.
        CREATE RULE history INTO warehouse.device_history AS
        SELECT clientid, event, username FROM "$events/client/+";
        CREATE RULE hot INTO kafka.telemetry, sqlite.telemetry WITH (start = 'earliest') AS
        SELECT clientid, payload.temp AS temp, topic FROM "sensors/+/up" WHERE payload.temp > 40;
        SELECT * FROM '#' -- all
        "#,
        &[message("sensors/1/up", r#"{"temp":41.5}"#), message("sensors/1/up", r#"{"temp":7}"#), connected()],
        expect![[r##"
            history: no match
            history: no match
            history: [{"clientid":"c1","event":"client.connected","username":"u1"}]
            hot: [{"clientid":"c1","temp":41.5,"topic":"sensors/1/up"}]
            hot: []
            hot: no match
            test: [{"event":"message.publish","timestamp":1700000000000,"node":"n1","id":"00000000000000000000000000000031","event_id":"00000000000000000000000000000031","offset":42,"clientid":"c1","session":3,"seq":4,"client_attrs":{},"topic":"sensors/1/up","qos":1,"payload":"{\"temp\":41.5}","flags":{"retain":false,"dup":false},"pub_props":{},"publish_received_at":0,"metadata":{"rule_id":"test"}}]
            test: [{"event":"message.publish","timestamp":1700000000000,"node":"n1","id":"00000000000000000000000000000031","event_id":"00000000000000000000000000000031","offset":42,"clientid":"c1","session":3,"seq":4,"client_attrs":{},"topic":"sensors/1/up","qos":1,"payload":"{\"temp\":7}","flags":{"retain":false,"dup":false},"pub_props":{},"publish_received_at":0,"metadata":{"rule_id":"test"}}]
            test: no match
        "##]],
    );
}

#[test]
fn a_rule_that_fails_says_where_and_why() {
    check(
        r#"SELECT payload.temp + 1 AS x FROM "t" WHERE payload.ok = true"#,
        &[message("t", "no json"), message("t", r#"{"temp":null}"#)],
        expect![[r#"
            test: SELECT: payload is not JSON, at byte 0
            test: SELECT: cannot compute null + integer
        "#]],
    );
}

#[test]
fn a_payload_is_parsed_once_for_all_rules() {
    let text = r#"CREATE RULE a AS SELECT payload.temp AS t, payload.x AS x FROM "s/#" WHERE payload.temp > 1;
        CREATE RULE b AS FOREACH payload.list AS l DO l, payload.temp AS t FROM "s/+", "s/1";
        CREATE RULE c AS SELECT clientid FROM "s/1";
        CREATE RULE d AS SELECT payload.temp AS t FROM "other""#;
    let set = RuleSet::new(programs(text));
    let mut ctx = EvalContext::new(ManualClock::at(0), 1);
    let mut seen = Vec::new();
    for (n, payload) in [r#"{"temp":2,"list":[1,2]}"#, r#"{"temp":0}"#].iter().enumerate() {
        set.run(&message("s/1", payload), &mut ctx, &mut Vec::new(), |rule, rows| {
            seen.push(format!("{} {}", rule.name(), rows.unwrap().len()));
        });
        assert!(format!("{ctx:?}").contains(&format!("parses: {}", n + 1)), "{ctx:?}");
    }
    seen[..3].sort();
    seen[3..].sort();
    assert_eq!(seen, ["a 1", "b 2", "c 1", "a 0", "b 0", "c 1"]);
}

#[test]
fn alarms_and_comments_are_read() {
    let text = r#"CREATE RULE r AS SELECT clientid FROM "t";
        COMMENT ON RULE r IS 'what it is for';
        CREATE ALARM offline INTO ops AS
        ABSENCE OF "$events/client/connected" FOR 1m30s AFTER "$events/client/disconnected" WHERE username = 'u1'"#;
    let (statements, problems) = parse("a.sql", text);
    assert!(problems.is_empty(), "{problems:?}");
    let alarm = statements.iter().find_map(|statement| match statement {
        Statement::CreateAlarm(alarm) => Some(AlarmProgram::compile(alarm).unwrap()),
        _ => None,
    });
    let alarm = alarm.unwrap();
    assert_eq!((alarm.name(), alarm.grace_ms()), ("offline", 90_000));
    let mut ctx = EvalContext::new(ManualClock::at(0), 1);
    assert!(alarm.of().matches(&connected()) && alarm.holds(&connected(), &mut ctx).unwrap());
    assert!(!alarm.after().unwrap().matches(&connected()));
}

#[test]
fn statements_are_printed_as_they_are_read() {
    let text = r#"CREATE SINK pg TYPE postgres WITH (url = '${env:PG}', batch.rows = 5, tls = true);
CREATE RULE r INTO pg.public.t REPUBLISH TO 'x/${clientid}' WITH (qos = 1, mqtt_properties."Content-Type" = '${t}') WITH (start = 'latest') AS SELECT clientid, qos + 1 AS "next one" FROM "t/#" WHERE qos > 0;
CREATE ALARM a INTO pg AS PRESENCE OF "$events/client/+" WHERE NOT (username = 'x' AND qos = 1);
COMMENT ON RULE r IS 'so'"#;
    let (statements, _) = parse("a.sql", text);
    let printed: Vec<_> = statements.iter().map(ToString::to_string).collect();
    assert_eq!(printed.join(";\n"), text);
}

#[test]
fn names_are_unique_over_all_files() {
    let one = "CREATE RULE a AS SELECT clientid FROM \"x\";\nCREATE SINK s TYPE kafka";
    let two = "CREATE RULE a AS SELECT clientid FROM \"y\";\n\nCREATE SINK s TYPE kafka";
    let (statements, problems) = parse_files([("one.sql", one), ("two.sql", two)]);
    assert_eq!(statements.len(), 2);
    let text: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
    expect![[r#"
        two.sql:1:13: error: there are two rules named `a`; the other one is at one.sql:1:13; rename one
        two.sql:3:13: error: there are two sinks named `s`; the other one is at one.sql:2:13; rename one
    "#]]
    .assert_eq(&text);
}

#[test]
fn what_a_rule_wants_is_known() {
    let program =
        programs(r##"SELECT 1 AS x FROM "a/#", "$events/client_connected", "$events/session/+""##).remove(0);
    let wants = program.wants();
    assert_eq!(wants.filters, ["a/#"]);
    let kinds: Vec<_> =
        EventKind::all().filter(|kind| wants.kinds.contains(*kind)).map(EventKind::name).collect();
    assert_eq!(kinds, ["message.publish", "client.connected", "session.subscribed", "session.unsubscribed"]);
}
