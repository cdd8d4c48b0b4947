//! REPUBLISH: the message that a row gives.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

use expect_test::{Expect, expect};
use muster_core::event::{Event, EventKind, NewEvent, proto};
use muster_core::value::{Map, Value};
use muster_rules::ast::{Statement, Target};
use muster_rules::{Outgoing, Republish, parse};

/// What the rule saw: a publish with user properties.
fn event() -> Event {
    let pair = |value: &str| proto::UserProperty { key: "k".into(), value: value.into() };
    let props = proto::Properties { user_property: vec![pair("1"), pair("2")], ..Default::default() };
    let message = proto::Message { props: Some(props), ..Default::default() };
    let body = proto::Event { message: Some(message), ..Default::default() };
    NewEvent { timestamp_ms: 0, kind: EventKind::MessagePublish, topic: "in".into(), body }.at(1, 2)
}

fn row(json: &str) -> Map {
    match Value::from_json(json) {
        Value::Map(map) => map,
        other => panic!("{other:?}"),
    }
}

/// What `REPUBLISH TO {republish}` makes of a row, in a line.
fn said(republish: &str, json: &str) -> String {
    let text = format!("CREATE RULE r REPUBLISH TO {republish} AS SELECT * FROM \"in\"");
    let (statements, problems) = parse("r.sql", &text);
    let [Statement::CreateRule(rule)] = statements.as_slice() else { panic!("{problems:?}") };
    let [Target::Republish { topic, options }] = rule.into.as_slice() else { panic!("{rule:?}") };
    let republish = Republish::compile(rule, topic, options).expect("it was read without errors");
    match republish.message(&row(json), &event()) {
        Err(error) => format!("refused: {error}"),
        Ok(Outgoing { topic, payload, qos, retain, direct_dispatch, props }) => {
            let mut line = format!("{topic} {} qos {qos}", String::from_utf8_lossy(&payload));
            for (flag, set) in [("retain", retain), ("direct", direct_dispatch)] {
                line.push_str(&if set { format!(" {flag}") } else { String::new() });
            }
            let Some(props) = props else { return line };
            let users = props.user_property.iter().map(|it| format!("{}={}", it.key, it.value));
            let users = users.collect::<Vec<_>>().join(",");
            let correlation = props.correlation_data.as_deref().map(String::from_utf8_lossy);
            let others = [
                props.payload_format_indicator.map(|it| format!("format {it}")),
                props.message_expiry_interval.map(|it| format!("expiry {it}")),
                props.content_type.map(|it| format!("type {it}")),
                props.response_topic.map(|it| format!("response {it}")),
                correlation.map(|it| format!("correlation {it}")),
            ];
            let others = others.into_iter().flatten().collect::<Vec<_>>().join(" ");
            format!("{line} [{users}] {others}").trim_end().to_owned()
        }
    }
}

fn check(cases: &[(&str, &str)], expect: Expect) {
    let lines: Vec<_> = cases.iter().map(|(republish, json)| said(republish, json)).collect();
    expect.assert_eq(&lines.join("\n"));
}

#[test]
fn without_options_the_row_is_the_payload_and_its_columns_say_the_rest() {
    check(
        &[
            ("'out/${id}'", r#"{"id":"a+b","n":1.50}"#),
            ("'out/${gone}/${m.x}'", r#"{"m":{"x":[1]}}"#),
            ("'out'", r#"{"qos":2,"retain":true,"user_properties":{"a":1,"b":"x"}}"#),
            ("'out'", r#"{"qos":null,"retain":null,"user_properties":"none"}"#),
            ("'out'", r#"{"user_properties":[{"key":"a","value":1},{"key":"a","value":2},{"key":"b"},3]}"#),
            ("'out'", r#"{"user_properties":"{\"a\":true}"}"#),
        ],
        expect![[r#"
            out/a_b {"id":"a+b","n":1.5} qos 0
            out/undefined/[1] {"m":{"x":[1]}} qos 0
            out {"qos":2,"retain":true,"user_properties":{"a":1,"b":"x"}} qos 2 retain [a=1,b=x]
            out {"qos":null,"retain":null,"user_properties":"none"} qos 0
            out {"user_properties":[{"key":"a","value":1},{"key":"a","value":2},{"key":"b"},3]} qos 0 [a=1,a=2]
            out {"user_properties":"{\"a\":true}"} qos 0 [a=true]"#]],
    );
}

#[test]
fn every_option_is_a_template() {
    check(
        &[
            ("'out' WITH (payload = '${payload}', qos = '${q}', retain = '${r}')", r#"{"payload":"x","q":1,"r":1}"#),
            ("'out' WITH (payload = '', qos = 1, retain = true, direct_dispatch = true)", r#"{"a":"b"}"#),
            ("'out' WITH (payload = '{\"q\": ${q}, \"g\": ${gone}}')", r#"{"q":"{\"a\":1}"}"#),
            ("'out' WITH (direct_dispatch = '${d}')", r#"{"d":"true"}"#),
            ("'out' WITH (user_properties = '${pub_props.User-Property}', user_properties.x = '${n}')", r#"{"n":1}"#),
            ("'out' WITH (user_properties.x.y = '${gone}', user_properties.\"a b\" = 'c')", "{}"),
            (
                "'out' WITH (mqtt_properties.payload_format_indicator = 1, mqtt_properties.\"Message-Expiry-Interval\" = 60,
                 mqtt_properties.content_type = '${t}', mqtt_properties.response_topic = 're/${n}',
                 mqtt_properties.correlation_data = '${n}')",
                r#"{"t":"text/plain","n":7}"#,
            ),
            (
                "'out' WITH (mqtt_properties.payload_format_indicator = 2, mqtt_properties.message_expiry_interval = 'soon',
                 mqtt_properties.content_type = '${gone}')",
                "{}",
            ),
        ],
        expect![[r#"
            out x qos 1 retain
            out {"a":"b"} qos 1 retain direct
            out {"q": {"a":1}, "g": undefined} qos 0
            out {"d":"true"} qos 0 direct
            out {"n":1} qos 0 [k=1,k=2,x=1]
            out {} qos 0 [a b=c]
            out {"n":7,"t":"text/plain"} qos 0 [] format 1 expiry 60 type text/plain response re/7 correlation 7
            out {} qos 0"#]],
    );
}

#[test]
fn a_row_that_gives_no_message_says_why() {
    let long = format!("{{\"x\":\"{}\"}}", "y".repeat(70_000));
    check(
        &[
            ("'${x}'", r#"{"x":""}"#),
            ("'${x}'", &long),
            ("'${x}'", r#"{"x":"$SYS/uptime"}"#),
            ("'${x}'", r#"{"x":"$share/g/t"}"#),
            ("'out'", r#"{"qos":3}"#),
            ("'out'", r#"{"qos":"high"}"#),
            ("'out' WITH (retain = '${x}')", r#"{"x":"maybe"}"#),
            ("'out' WITH (mqtt_properties.response_topic = '${x}')", r#"{"x":"a/#"}"#),
            ("'out' WITH (mqtt_properties.correlation_data = '${x}')", &long),
            ("'out' WITH (mqtt_properties.content_type = '${x}')", r#"{"x":"a\u0000"}"#),
            ("'out' WITH (user_properties.x = '${x}')", &long),
        ],
        expect![[r#"
            refused: cannot publish to the topic ``: a topic has at least one character
            refused: cannot publish to the topic `yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy...`: a topic has at most 65535 bytes
            refused: cannot publish to the topic `$SYS/uptime`: no message can be published below `$SYS/`
            refused: cannot publish to the topic `$share/g/t`: no message can be published below `$share/`
            refused: `3` cannot be the message's qos; it is 0, 1 or 2
            refused: `high` cannot be the message's qos; it is 0, 1 or 2
            refused: `maybe` cannot be the message's retain; it is true or false
            refused: response_topic is none: `+` and `#` are for filters, not for the name of a topic
            refused: correlation_data has more than 65535 bytes
            refused: content_type is no text that MQTT can carry
            refused: the value of a user property has more than 65535 bytes"#]],
    );
}
