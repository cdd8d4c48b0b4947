//! Lines read and outcomes judged.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use expect_test::{Expect, expect};
use muster_core::event::Column;
use muster_core::value::Value;

use super::*;
use crate::program::json;

fn case(line: &str) -> Case {
    let (mut cases, errors) = read(line);
    assert!(errors.is_empty(), "{errors:?}");
    cases.remove(0)
}

#[test]
fn comments_and_blank_lines_are_passed_over() {
    let text = "// one\n\n  # two\n{\"event\":{},\"no_match\":true}\n{\"name\":\"b\",\"rule\":\"r\",\"now\":5,\"event\":{\"event\":\"client.connected\"},\"rows\":{\"a\":1}}";
    let (cases, errors) = read(text);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!((cases[0].name.as_str(), cases[0].line, cases[0].now_ms), ("line 4", 4, NOW_DEFAULT_MS));
    assert_eq!((cases[1].rule.as_deref(), cases[1].now_ms, cases[1].rule_column), (Some("r"), 5, 20));
    assert_eq!(cases[1].event.get(Column::Timestamp), 5i64.into());
}

#[test]
fn payloads_in_every_spelling() {
    let payload = |event: &str| case(&format!(r#"{{"event":{event},"no_match":true}}"#)).event.payload();
    assert_eq!(payload(r#"{"payload":"a b"}"#), "a b");
    assert_eq!(
        payload(r#"{"payload":{"b":12345678901234567890123,"a":[1.50,null]}}"#),
        r#"{"b":12345678901234567890123,"a":[1.5,null]}"#
    );
    assert_eq!(payload(r#"{"payload":null}"#), "null");
    assert_eq!(payload(r#"{"payload_base64":"/wA="}"#), &[0xff, 0][..]);
    assert_eq!(payload("{}"), r#"{"msg": "hello"}"#);
}

#[test]
fn bad_lines_are_told_with_their_place() {
    let lines = [
        "{\"event\":{},\"rows\":[{\"a\":}]}",
        "  [1]",
        r#"{"event":{},"row":[{}]}"#,
        r#"{"event":{}}"#,
        r#"{"event":{},"rows":[{}],"no_match":true}"#,
        r#"{"event":{},"no_match":false}"#,
        r#"{"event":{},"rows":[1]}"#,
        r#"{"event":{"temp":1},"no_match":true}"#,
        r#"{"event":{"clientdi":"x"},"no_match":true}"#,
        r#"{"event":{"event":"client.conected"},"no_match":true}"#,
        r#"{"event":{"qos":"1"},"no_match":true}"#,
        r#"{"event":{"topic":"a/+"},"no_match":true}"#,
        r#"{"event":{"payload":"","payload_base64":""},"no_match":true}"#,
        r#"{"event":{"event":"node.started","payload_base64":""},"no_match":true}"#,
        r#"{"event":{},"now":"noon","no_match":true}"#,
        r#"{"event":{},"ignore":"a","no_match":true}"#,
        r#"{"event":[],"no_match":true}"#,
    ];
    let told: String = read(&lines.join("\n")).1.iter().map(|error| format!("{error}\n")).collect();
    assert_eq!(told.lines().count(), lines.len());
    expect![[r#"
        1:26: this line is not JSON from here on
        2:3: a case is a JSON object: {"event":{...},"rows":[...]}
        3:19: a case has no field `row`; did you mean `now`?
        4:1: a case says one of `rows`, `rows_contain`, `no_match`, `error`
        5:36: a case says one of `rows`, `rows_contain`, `no_match`, `error`
        6:24: write "no_match":true, or the rows that are expected
        7:20: `rows` is a list of rows, each an object
        8:18: `temp` is no column of message.publish
        9:22: `clientdi` is no column of message.publish; did you mean `clientid`?
        10:19: no event has this name; there are message.publish, message.delivered, message.acked, message.dropped, delivery.dropped, client.connected, client.disconnected, client.connack, client.check_authn_complete, client.check_authz_complete, session.subscribed, session.unsubscribed, alarm.activated, alarm.deactivated, admin, node.started, node.stopped, node.alive
        11:17: `qos` is an integer of its range, not string "1"
        12:19: nobody can publish to it: `+` and `#` are for filters, not for the name of a topic
        13:41: an event has either `payload` or `payload_base64`
        14:51: node.started has no payload
        15:19: `now` is a time such as "2026-01-02T03:04:05Z", or milliseconds since 1970
        16:22: `ignore` is a list of column names
        17:10: an event is an object of columns: {"event":"message.publish","topic":"a/b"}
    "#]].assert_eq(&told);
}

fn judged(expectation: &str, outcome: Result<&str, &str>, expected: Expect) {
    let case = case(&format!(r#"{{"event":{{}},{expectation}}}"#));
    let rows: Vec<Row> = match outcome.map(|json| json::decode(&json.to_owned().into()).unwrap()) {
        Ok(Value::Array(rows)) => rows
            .into_iter()
            .map(|row| match row {
                Value::Map(row) => row,
                other => panic!("{other:?}"),
            })
            .collect(),
        _ => Vec::new(),
    };
    let found = judge(&case, outcome.map(|_| rows.as_slice()));
    expected.assert_eq(&found.iter().map(|it| format!("{it}\n")).collect::<String>());
}

#[test]
fn rows_are_compared_exactly() {
    judged(r#""rows":[{"a":1,"b":1.0,"c":null}]"#, Ok(r#"[{"c":null,"b":1.00,"a":1}]"#), expect![""]);
    judged(
        r#""rows":[{"a":1,"b":null,"c":12345678901234567890}]"#,
        Ok(r#"[{"a":1.0,"c":12345678901234567891,"d":2}]"#),
        expect![[r#"
            a: expected 1 (integer), got 1.0 (float)
            b: expected null (null), got nothing (absent)
            c: expected 12345678901234567890 (integer), got 12345678901234567891 (integer)
            d: expected nothing (absent), got 2 (integer)
        "#]],
    );
    judged(
        r#""rows":[{"a":{"x":[1,{"y":2}]}},{}]"#,
        Ok(r#"[{"a":{"x":[1,{"y":3}],"z":null}},{}]"#),
        expect![[r#"
            row 1, a.x[2].y: expected 2 (integer), got 3 (integer)
            row 1, a.z: expected nothing (absent), got null (null)
        "#]],
    );
    judged(
        r#""rows":[{"a":1}]"#,
        Ok("[]"),
        expect![[r#"
        expected 1 row, got no row
    "#]],
    );
    judged(
        r#""rows":[{"a":1}]"#,
        Err("SELECT: payload is not JSON, at byte 0"),
        expect![[r#"
        expected 1 row, got the error "SELECT: payload is not JSON, at byte 0"
    "#]],
    );
}

#[test]
fn parts_and_exceptions() {
    judged(r#""rows_contain":[{"a":{"x":1}}]"#, Ok(r#"[{"a":{"x":1,"y":2},"b":1}]"#), expect![""]);
    judged(
        r#""rows_contain":[{"a":2}]"#,
        Ok(r#"[{"a":1,"b":1}]"#),
        expect![[r#"
        a: expected 2 (integer), got 1 (integer)
    "#]],
    );
    judged(r#""rows":[{"a":1}],"ignore":["b"]"#, Ok(r#"[{"a":1,"b":7}]"#), expect![""]);
}

#[test]
fn no_match_and_errors() {
    judged(r#""no_match":true"#, Ok("[]"), expect![""]);
    judged(r#""rows":[]"#, Ok("[]"), expect![""]);
    judged(
        r#""no_match":true"#,
        Ok(r#"[{"a":1},{"a":2},{"a":3},{"a":4}]"#),
        expect![[r#"
        expected no row, got 4 rows: {"a":1}, {"a":2}, {"a":3}, ...
    "#]],
    );
    judged(
        r#""no_match":true"#,
        Err("WHERE: no"),
        expect![[r#"
        expected no row, got the error "WHERE: no"
    "#]],
    );
    judged(r#""error":"not JSON""#, Err("SELECT: payload is not JSON, at byte 0"), expect![""]);
    judged(
        r#""error":"null""#,
        Err("SELECT: payload is not JSON, at byte 0"),
        expect![[r#"
        expected an error with "null" in it, got the error "SELECT: payload is not JSON, at byte 0"
    "#]],
    );
    judged(
        r#""error":"x""#,
        Ok(r#"[{"a":1}]"#),
        expect![[r#"
        expected an error with "x" in it, got 1 row: {"a":1}
    "#]],
    );
}
