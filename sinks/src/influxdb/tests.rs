//! Lines against a reader of line protocol that shares nothing with the writer, the nanoseconds of rows, and what the
//! servers' words mean. How a real server reads the lines is tested in `tests/influxdb.rs`.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use expect_test::expect;
use muster_core::event::{EventKind, NewEvent, proto};
use muster_core::value::{Row, Value};
use num_bigint::BigInt;
use proptest::prelude::*;
use reqwest::StatusCode;

use super::answer::{Answer, Cause, Refusal, Verdict, judge};
use super::encode::{line, place};
use super::shape::{Floats, Nested, Shape, Tag, Template};
use crate::error::ErrorKind;
use crate::sink::BatchRow;

fn shape(tags: &[&str]) -> Shape {
    let mut tags: Vec<_> = tags.iter().map(|name| Tag::new(name, *name == "rule").unwrap()).collect();
    tags.sort();
    Shape {
        measurement: Template::parse("m").unwrap(),
        tags,
        fields: None,
        timestamp: None,
        nested: Nested::Json,
        floats: Floats::Of(vec!["t".into()]),
    }
}

fn at(offset: u64, index: u32, row: Row) -> BatchRow {
    let event = NewEvent {
        timestamp_ms: 1_700_000_000_123,
        kind: EventKind::MessagePublish,
        topic: "t".into(),
        body: proto::Event::default(),
    };
    BatchRow { event: Arc::new(event.at(1 << 64, offset)), index, row: row.into() }
}

fn row<const N: usize>(columns: [(&str, Value); N]) -> BatchRow {
    at(42, 0, columns.into_iter().collect())
}

fn written(shape: &Shape, row: &BatchRow) -> Result<String, String> {
    let mut out = String::new();
    let time = line(shape, "a rule", row, &mut out)?;
    assert!(out.ends_with(&format!(" {time}\n")), "{out}");
    Ok(out)
}

#[test]
fn every_type_has_its_form() {
    let map: Row = [("a", Value::from(1_i64)), ("b", Value::Array(vec![Value::Null, "x\"y".into()]))]
        .into_iter()
        .collect();
    let row = row([
        ("clientid", "pump 1,a=b".into()),
        ("node", "".into()),
        ("int", Value::Int(-7)),
        ("t", Value::Int(20)),
        ("big", Value::big(BigInt::from(u64::MAX))),
        ("float", Value::Float(4.0)),
        ("small", Value::Float(1e-300)),
        ("yes", Value::Bool(true)),
        ("text", "say \"hi\" \\ and\nmore".into()),
        ("bytes", Value::Str(vec![0xff, 0].into())),
        ("none", Value::Null),
        ("gone", Value::Undefined),
        ("map", Value::Map(map)),
        ("odd, name=", Value::Int(1)),
    ]);
    let mut shape = shape(&["clientid", "node", "rule", "absent"]);
    expect![[r#"
        m,clientid=pump\ 1\,a\=b,rule=a\ rule int=-7i,t=20.0,big="18446744073709551615",float=4.0,small=1e-300,yes=true,text="say \"hi\" \\ and
        more",bytes_base64="/wA=",map="{\"a\":1,\"b\":[null,\"x\\\"y\"]}",odd\,\ name\==1i 1700000000123000042
    "#]]
    .assert_eq(&written(&shape, &row).unwrap());
    shape.nested = Nested::Flatten;
    shape.fields = Some(vec!["map".into(), "absent".into()]);
    shape.measurement = Template::parse("${clientid}, ${int}").unwrap();
    expect![[r#"
        pump\ 1\,a=b\,\ -7,clientid=pump\ 1\,a\=b,rule=a\ rule map.a=1i,map.b.1="x\"y" 1700000000123000042
    "#]]
    .assert_eq(&written(&shape, &row).unwrap());
}

#[test]
fn what_cannot_be_said_is_refused_in_words() {
    let shape_of = shape;
    let shape = shape(&["clientid", "rule"]);
    let x = || ("x", Value::Int(1));
    let mut said = String::new();
    for row in [
        row([("clientid", "a".into())]),
        row([("x", Value::Null)]),
        row([("x", Value::Float(f64::NAN))]),
        row([("time", Value::Int(1))]),
        row([("_field", Value::Int(1))]),
        row([("a\nb", Value::Int(1))]),
        row([("", Value::Int(1))]),
        row([x(), ("clientid", "a\nb".into())]),
        row([x(), ("clientid", "a\\".into())]),
        row([x(), ("clientid", "a\\ b".into())]),
        row([x(), ("clientid", Value::Array(vec![]))]),
        row([x(), ("clientid", Value::Str(vec![0xff].into()))]),
        row([x(), ("clientid", "y".repeat(65_530).into())]),
    ] {
        let mut out = "before\n".to_owned();
        said += &(line(&shape, "r", &row, &mut out).unwrap_err() + "\n");
        assert_eq!(out, "before\n", "what was begun is taken back");
    }
    let bytes = || ("b", Value::Str(vec![0xff].into()));
    said += &(written(&shape, &row([bytes(), ("b_base64", Value::Int(1))])).unwrap_err() + "\n");
    let mut flat = shape_of(&[]);
    flat.nested = Nested::Flatten;
    let map: Row = [("b", Value::Int(1))].into_iter().collect();
    said += &(written(&flat, &row([("a.b", Value::Int(1)), ("a", Value::Map(map))])).unwrap_err() + "\n");
    let mut named = shape_of(&[]);
    named.measurement = Template::parse("${kind}").unwrap();
    said += &(written(&named, &row([x()])).unwrap_err() + "\n");
    said += &(written(&named, &row([x(), ("kind", "#1".into())])).unwrap_err() + "\n");
    named = shape_of(&[]);
    named.timestamp = Some("at".into());
    for time in [Value::Null, "yesterday".into(), Value::Int(i64::MAX / 1000)] {
        said += &(written(&named, &row([x(), ("at", time)])).unwrap_err() + "\n");
    }
    expect![[r#"
        the row has no field: all its columns are tags or empty
        the row has no field: all its columns are tags or empty
        `x` is no number that InfluxDB has (NaN or infinite)
        the column name `time` is reserved: give it an alias, or make it the `timestamp`
        the column name `_field` begins with `_`, which InfluxDB keeps for itself; give it an alias
        the column name `a\nb` holds a control character, which line protocol has only in string fields
        the column name `` is empty
        `clientid` cannot be a tag: it holds a control character, which line protocol has only in string fields
        `clientid` cannot be a tag: it ends in a backslash, which line protocol cannot say
        `clientid` cannot be a tag: it holds a backslash before a comma, a space, a quote or `=`, which line protocol cannot say
        `clientid` is of type array, which neither a tag nor a name may be
        `clientid` is no UTF-8, which neither a tag nor a name may be
        measurement, tags and a field's name have more than 65535 bytes
        two of the row's values would be the field `b_base64`; give one an alias
        two of the row's values would be the field `a.b`; give one an alias
        the measurement's name needs the column `kind`
        the measurement's name begins with `#`, which makes a line a comment
        `at`, which says when, is missing
        `at`, which says when, is neither milliseconds since 1970 nor a time as RFC 3339 has it
        the time is outside of the years 1678 to 2262, which InfluxDB has
    "#]]
    .assert_eq(&said);
}

#[test]
fn the_time_is_the_columns_millisecond_and_the_events_place_in_it() {
    let mut shape = shape(&[]);
    shape.timestamp = Some("at".into());
    for (time, expected) in [
        (Value::Int(1_000), "1000000042"),
        (Value::Float(1_000.0), "1000000042"),
        ("1970-01-01T00:00:01Z".into(), "1000000042"),
        ("1970-01-01T02:00:01.0009999+02:00".into(), "1000000042"),
        ("1969-12-31T23:59:59.9985Z".into(), "-1999958"),
    ] {
        let line = written(&shape, &row([("at", time.clone()), ("x", Value::Bool(true))])).unwrap();
        assert_eq!(line, format!("m x=true {expected}\n"), "{time:?}");
    }
}

#[test]
fn no_two_rows_of_a_millisecond_share_a_nanosecond() {
    // A burst of a thousand events of a hundred rows each, across the end of the places.
    let mut seen = HashSet::new();
    for offset in 999_500..1_000_500 {
        for row in 0..100 {
            assert!(seen.insert(place(offset, row)), "event {offset}, row {row}");
        }
    }
    // What the documentation promises: rows whose numbers differ by d are far apart, up to d = 1000.
    for d in 1..=1000_u32 {
        let apart = place(0, d).min(1_000_000 - place(0, d));
        assert!(apart * u64::from(d) > 330_000, "{d}: {apart}");
    }
    // Events of one row each keep their order, apart from one in a million.
    assert!(place(7, 0) < place(8, 0) && place(1_000_000, 0) == 0);
    // One event may have as many rows as there are places.
    let rows: HashSet<_> = (0..1_000_000).map(|row| place(5, row)).collect();
    assert_eq!(rows.len(), 1_000_000);
}

/// A point as a reader of its own makes it of a line: one pass over the characters, as the specification has it.
#[derive(Debug, Default, PartialEq)]
struct Read {
    measurement: String,
    tags: BTreeMap<String, String>,
    fields: BTreeMap<String, String>,
    at: String,
}

fn read(text: &str) -> Vec<Read> {
    let mut rest = text.chars().peekable();
    let mut points = Vec::new();
    // A name or tag value up to one of `ends`; the end itself is taken.
    fn word(
        rest: &mut std::iter::Peekable<std::str::Chars<'_>>,
        special: &str,
        ends: &str,
    ) -> (String, char) {
        let mut word = String::new();
        loop {
            match rest.next().expect("a line that goes on") {
                '\\' if rest.peek().is_some_and(|next| special.contains(*next)) => word.extend(rest.next()),
                end if ends.contains(end) => return (word, end),
                plain => word.push(plain),
            }
        }
    }
    while rest.peek().is_some() {
        let mut point = Read::default();
        let mut end;
        (point.measurement, end) = word(&mut rest, ", ", ", ");
        while end == ',' {
            let (key, _) = word(&mut rest, ",= ", "=");
            let value;
            (value, end) = word(&mut rest, ",= ", ", ");
            assert!(point.tags.insert(key, value).is_none(), "a tag twice");
        }
        end = ',';
        while end == ',' {
            let (key, _) = word(&mut rest, ",= ", "=");
            let mut value = String::new();
            if rest.next_if_eq(&'"').is_some() {
                let (text, _) = word(&mut rest, "\"\\", "\"");
                value = format!("text {text}");
                end = rest.next().unwrap();
            } else {
                let (plain, found) = word(&mut rest, "", ", ");
                value.push_str(&plain);
                end = found;
            }
            assert!(point.fields.insert(key, value).is_none(), "a field twice");
        }
        (point.at, _) = word(&mut rest, "", "\n");
        points.push(point);
    }
    points
}

fn sayable(text: &str) -> bool {
    super::shape::check_label(text).is_ok()
}

fn nasty() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[a-z]{0,4}",
        Just("\\".into()),
        Just("\"".into()),
        Just(",".into()),
        Just("=".into()),
        Just(" ".into()),
        Just("\n".into()),
        Just("i".into()),
        "[ -~äß€😀]{1,3}",
    ];
    prop::collection::vec(part, 0..6).prop_map(|parts: Vec<String>| parts.concat())
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        nasty().prop_map(Value::from),
        any::<i64>().prop_map(Value::Int),
        any::<f64>().prop_filter("finite", |float| float.is_finite()).prop_map(Value::Float),
        any::<bool>().prop_map(Value::Bool),
        Just(Value::Null),
    ]
}

fn expected(value: &Value) -> Option<String> {
    Some(match value {
        Value::Str(_) => format!("text {}", value.as_str().unwrap()),
        Value::Int(int) => format!("{int}i"),
        Value::Float(float) => {
            let text = format!("{float:?}");
            assert_eq!(text.parse::<f64>().unwrap().to_bits(), float.to_bits());
            text
        }
        Value::Bool(flag) => flag.to_string(),
        _ => return None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn another_reader_reads_what_was_meant(
        rows in prop::collection::vec(
            (nasty(), nasty(), prop::collection::vec((nasty(), scalar()), 0..5)), 1..4),
    ) {
        let mut shape = shape(&["tag one"]);
        shape.measurement = Template::parse("${name}").unwrap();
        // Whatever a column is called, it means itself.
        shape.floats = Floats::Of(Vec::new());
        let (mut text, mut meant) = (String::new(), Vec::new());
        for (number, (name, tag, columns)) in rows.into_iter().enumerate() {
            let mut all: Row = [("name", Value::from(name.as_str())), ("tag one", tag.as_str().into())].into_iter().collect();
            for (key, value) in columns.into_iter().filter(|(key, _)| key != "name") {
                all.insert(key, value);
            }
            let sayable = sayable(&name) && !name.starts_with(['#', '_']) && (tag.is_empty() || sayable(&tag))
                && all.iter().all(|(key, value)| {
                    *value == Value::Null || sayable(key) && key != "time" && !key.starts_with('_')
                });
            let row = at(number as u64, 0, all.clone());
            match line(&shape, "r", &row, &mut text) {
                Err(reason) => prop_assert!(!sayable, "{reason}: {all:?}"),
                Ok(time) => {
                    prop_assert!(sayable, "{all:?}");
                    let fields = all.iter().filter(|(key, _)| *key != "tag one");
                    let fields = fields.filter_map(|(key, value)| Some((key.to_owned(), expected(value)?)));
                    let tags = Some(tag).filter(|tag| !tag.is_empty()).map(|tag| ("tag one".to_owned(), tag));
                    meant.push(Read {
                        measurement: name,
                        tags: tags.into_iter().collect(),
                        fields: fields.collect(),
                        at: time.to_string(),
                    });
                }
            }
        }
        prop_assert_eq!(read(&text), meant);
    }
}

fn refusal(said: &str) -> Refusal {
    Refusal::read(said)
}

#[test]
fn the_servers_words_are_understood() {
    let conflict = |measurement: &str, field: &str| Cause::Conflict {
        measurement: measurement.into(),
        field: field.into(),
        is: "string".into(),
    };
    let types = "is type string, already exists as type float";
    let said = format!(
        "partial write: field type conflict: input field \"a\" on measurement \"m\" {types} dropped=3"
    );
    let found = refusal(&said);
    assert_eq!((found.dropped, found.cause), (Some(3), conflict("m", "a")));
    assert!(found.reason.starts_with("field type conflict") && found.reason.ends_with("float"));
    // InfluxDB 2 says more before it, and names may hold anything.
    let found = refusal(&format!("failure writing points to database: {said}"));
    assert_eq!((found.dropped, found.cause), (Some(3), conflict("m", "a")));
    let odd = format!("field type conflict: input field \"a\" b\" on measurement \"m\" is type x\" {types}");
    assert_eq!(refusal(&odd).cause, conflict("m\" is type x", "a\" b"));
    let found = refusal("partial write: points beyond retention policy dropped=12");
    assert_eq!((found.dropped, found.cause), (Some(12), Cause::Retention));
    let found = refusal("unable to parse 'a b': bad 'x'\nunable to parse 'c\nd e': invalid boolean");
    assert_eq!(found.cause, Cause::Unparsable(vec!["a b".into(), "c\nd e".into()]));
    let found = refusal("partial write: something new dropped=many");
    assert_eq!((found.dropped, found.cause), (None, Cause::Other));
}

#[test]
fn each_answer_has_its_kind() {
    let judged = |status: u16, text: &str| {
        let status = StatusCode::from_u16(status).unwrap();
        let answer = Answer { status, retry_after: None, version: None, text: text.into() };
        judge(&answer, "http://influx", "the bucket `b`")
    };
    assert_eq!(judged(204, "").unwrap(), Verdict::Written);
    for (status, text) in [
        (400, r#"{"error":"partial write: x dropped=1"}"#),
        (422, r#"{"code":"unprocessable entity","message":"x"}"#),
        (413, "too large"),
    ] {
        assert!(matches!(judged(status, text).unwrap(), Verdict::Refused(_)), "{status}");
    }
    for (status, text, kind, word) in [
        (200, "<html>please log in", ErrorKind::Misconfigured, "no answer of InfluxDB"),
        (302, "", ErrorKind::Misconfigured, "redirects"),
        (400, r#"{"message":"Please provide either orgID or org"}"#, ErrorKind::Misconfigured, "`org`"),
        (401, r#"{"error":"authorization failed"}"#, ErrorKind::Misconfigured, "`token`"),
        (403, "", ErrorKind::Misconfigured, "the bucket `b`"),
        (404, r#"{"error":"database not found: \"x\""}"#, ErrorKind::Misconfigured, "muster migrate"),
        (404, r#"{"message":"organization name \"x\" not found"}"#, ErrorKind::Misconfigured, "`org`"),
        (404, "404 page not found", ErrorKind::Misconfigured, "`api`"),
        (500, r#"{"error":"retention policy not found: x"}"#, ErrorKind::Misconfigured, "retention policy"),
        (500, r#"{"error":"timeout"}"#, ErrorKind::Unavailable, "nothing to do"),
        (503, "", ErrorKind::Unavailable, "nothing to do"),
        (429, "", ErrorKind::Throttled { retry_after: None }, "asks for less"),
        (
            400,
            r#"{"error":"partial write: max-values-per-tag limit exceeded (100000/100000): measurement=\"m\" dropped=1"}"#,
            ErrorKind::Misconfigured,
            "`tags`",
        ),
    ] {
        let error = judged(status, text).unwrap_err();
        assert_eq!(error.kind(), kind, "{status} {text}");
        assert!(error.hint().contains(word), "{status} {text}: {}", error.hint());
    }
}
