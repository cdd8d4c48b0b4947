//! Values for every type, and rows for a table; without a server.

use std::sync::Arc;

use bytes::Bytes;
use expect_test::expect;
use muster_core::event::{EventKind, NewEvent, proto};
use muster_core::value::{Row, Value};
use serde_json::json;

use super::deliver;
use super::encode::write;
use super::table::Table;
use super::types::Type;
use crate::sink::{Batch, BatchRow, Checkpoint, Cursor, PipelineId, Totals};

fn row<const N: usize>(columns: [(&str, Value); N]) -> Row {
    columns.into_iter().collect()
}

#[test]
fn values_are_exact_or_refused() {
    let float = Value::Float;
    let cases: Vec<(&str, Vec<Value>)> = vec![
        (
            "UInt8",
            vec![
                255_i64.into(),
                256_i64.into(),
                (-1_i64).into(),
                true.into(),
                float(4.0),
                float(4.5),
                "0042".into(),
                "x".into(),
            ],
        ),
        ("Int8", vec![(-128_i64).into(), 128_i64.into(), "-129".into(), "-0".into()]),
        ("UInt64", vec![u64::MAX.into(), "18446744073709551616".into(), float(1e19), float(1e20)]),
        ("Int64", vec![i64::MIN.into(), "9223372036854775808".into(), "-9223372036854775808".into()]),
        (
            "Int128",
            vec![
                "170141183460469231731687303715884105727".into(),
                "170141183460469231731687303715884105728".into(),
            ],
        ),
        ("Int128", vec!["-170141183460469231731687303715884105728".into()]),
        (
            "Float32",
            vec![
                1_i64.into(),
                float(0.1),
                float(1e300),
                float(f64::NAN),
                float(f64::NEG_INFINITY),
                "1e3".into(),
            ],
        ),
        (
            "Decimal(9, 2)",
            vec![
                "1234567.89".into(),
                "12345678".into(),
                "0.001".into(),
                float(0.125),
                (-5_i64).into(),
                "1e3".into(),
            ],
        ),
        ("Bool", vec![true.into(), 0_i64.into(), "true".into(), 2_i64.into()]),
        (
            "String",
            vec![
                "a\"\\\n\u{1}é".into(),
                Bytes::from_static(b"\xff\xfe").into(),
                5_i64.into(),
                float(4.0),
                row([("a", 1_i64.into())]).into(),
            ],
        ),
        ("FixedString(2)", vec!["ab".into(), "abc".into()]),
        (
            "Date",
            vec![
                1_700_000_000_000_i64.into(),
                "2024-02-29".into(),
                (-1_i64).into(),
                "2149-06-07".into(),
                "x".into(),
            ],
        ),
        ("Date32", vec!["1900-01-01".into(), "1899-12-31".into()]),
        (
            "DateTime",
            vec![
                1_700_000_000_999_i64.into(),
                "2106-02-07T06:28:15Z".into(),
                "2106-02-07T06:28:16Z".into(),
                (-1_i64).into(),
            ],
        ),
        (
            "DateTime64(3, 'UTC')",
            vec![
                1_700_000_000_123_i64.into(),
                (-1_i64).into(),
                "2024-05-06T07:08:09.1239+02:00".into(),
                float(5.0),
            ],
        ),
        (
            "DateTime64(9)",
            vec![
                "2262-04-11T23:47:15Z".into(),
                "2263-01-01T00:00:00Z".into(),
                "yesterday".into(),
                i64::MAX.into(),
            ],
        ),
        ("UUID", vec!["61f0c404-5cb3-11e7-907b-a6006ad3dba0".into(), "61f0c404".into(), 5_i64.into()]),
        ("IPv4", vec!["1.2.3.4".into(), "1.2.3.4:5".into()]),
        ("IPv6", vec!["::1".into(), "1.2.3.4".into(), "x".into()]),
        ("Enum8('on' = 1, 'off' = 2)", vec!["on".into(), 2_i64.into(), "x".into(), 3_i64.into()]),
        (
            "Array(Nullable(Int8))",
            vec![vec![1_i64.into(), Value::Null].into(), vec![300_i64.into()].into(), 1_i64.into()],
        ),
        ("Array(Int8)", vec![vec![Value::Null].into()]),
        ("Map(String, Float64)", vec![row([("a", 1_i64.into()), ("b", Value::Null)]).into(), "x".into()]),
        ("Map(UInt8, String)", vec![row([("7", true.into())]).into(), row([("x", 1_i64.into())]).into()]),
        (
            "Tuple(a Int8, b Nullable(String))",
            vec![
                row([("a", 1_i64.into())]).into(),
                vec![1_i64.into(), "x".into()].into(),
                row([("c", 1_i64.into())]).into(),
            ],
        ),
        ("Tuple(Int8, String)", vec![vec![1_i64.into(), "x".into()].into(), vec![1_i64.into()].into()]),
        (
            "JSON",
            vec![
                row([("a", vec![1_i64.into()].into())]).into(),
                "{\"a\":1}".into(),
                "[1]".into(),
                5_i64.into(),
            ],
        ),
        ("LowCardinality(Nullable(String))", vec![Value::Null, "x".into()]),
        ("Variant(String, Int64)", vec!["x".into(), 5_i64.into(), Value::Null]),
    ];
    let mut said = String::new();
    for (text, values) in cases {
        said += &format!("{text}\n");
        let kind = Type::parse(text);
        for value in values {
            let mut out = Vec::new();
            let written = write(&kind, &value, &mut out);
            let result = match &written {
                Ok(()) => String::from_utf8_lossy(&out).into_owned(),
                Err(reason) => format!("refused: {reason}"),
            };
            said += &format!("    {value:?} -> {result}\n");
        }
    }
    expect![[r#"
        UInt8
            255 -> 255
            256 -> refused: an integer of 3 digits
            -1 -> refused: a negative integer of 1 digits
            true -> 1
            4.0 -> 4
            4.5 -> refused: a number with a fraction
            "0042" -> 42
            "x" -> refused: a string that is no whole number
        Int8
            -128 -> -128
            128 -> refused: an integer of 3 digits
            "-129" -> refused: a negative integer of 3 digits
            "-0" -> 0
        UInt64
            18446744073709551615 -> 18446744073709551615
            "18446744073709551616" -> refused: an integer of 20 digits
            1e19 -> 10000000000000000000
            1e20 -> refused: an integer of 21 digits
        Int64
            -9223372036854775808 -> -9223372036854775808
            "9223372036854775808" -> refused: an integer of 19 digits
            "-9223372036854775808" -> -9223372036854775808
        Int128
            "170141183460469231731687303715884105727" -> 170141183460469231731687303715884105727
            "170141183460469231731687303715884105728" -> refused: an integer of 39 digits
        Int128
            "-170141183460469231731687303715884105728" -> -170141183460469231731687303715884105728
        Float32
            1 -> 1
            0.1 -> 0.1
            1e300 -> refused: a number beyond 32 bits
            null -> "nan"
            null -> "-inf"
            "1e3" -> 1000.0
        Decimal(9, 2)
            "1234567.89" -> "1234567.89"
            "12345678" -> refused: a number with 8 digits before the point
            "0.001" -> refused: a number with 3 digits behind the point
            0.125 -> "0.12"
            -5 -> "-5"
            "1e3" -> refused: a string that is no decimal number
        Bool
            true -> true
            0 -> false
            "true" -> true
            2 -> refused: an integer
        String
            "a\"\\\n\u0001é" -> "a\"\\\u000a\u0001é"
            "��" -> "��"
            5 -> "5"
            4.0 -> "4.0"
            {"a":1} -> "{\"a\":1}"
        FixedString(2)
            "ab" -> "ab"
            "abc" -> refused: a string of 3 bytes
        Date
            1700000000000 -> "2023-11-14"
            "2024-02-29" -> "2024-02-29"
            -1 -> refused: a time beyond what the type holds
            "2149-06-07" -> refused: a time beyond what the type holds
            "x" -> refused: what is no time (whole milliseconds since 1970, or text as 2024-05-06T07:08:09Z)
        Date32
            "1900-01-01" -> "1900-01-01"
            "1899-12-31" -> refused: a time beyond what the type holds
        DateTime
            1700000000999 -> "2023-11-14T22:13:20Z"
            "2106-02-07T06:28:15Z" -> "2106-02-07T06:28:15Z"
            "2106-02-07T06:28:16Z" -> refused: a time beyond what the type holds
            -1 -> refused: a time beyond what the type holds
        DateTime64(3, 'UTC')
            1700000000123 -> "2023-11-14T22:13:20.123Z"
            -1 -> "1969-12-31T23:59:59.999Z"
            "2024-05-06T07:08:09.1239+02:00" -> "2024-05-06T05:08:09.123Z"
            5.0 -> "1970-01-01T00:00:00.005Z"
        DateTime64(9)
            "2262-04-11T23:47:15Z" -> "2262-04-11T23:47:15.000000000Z"
            "2263-01-01T00:00:00Z" -> refused: a time beyond what the type holds
            "yesterday" -> refused: what is no time (whole milliseconds since 1970, or text as 2024-05-06T07:08:09Z)
            9223372036854775807 -> refused: a time beyond what the type holds
        UUID
            "61f0c404-5cb3-11e7-907b-a6006ad3dba0" -> "61f0c404-5cb3-11e7-907b-a6006ad3dba0"
            "61f0c404" -> refused: what is no UUID
            5 -> refused: what is no UUID
        IPv4
            "1.2.3.4" -> "1.2.3.4"
            "1.2.3.4:5" -> refused: what is no IPv4 address
        IPv6
            "::1" -> "::1"
            "1.2.3.4" -> "1.2.3.4"
            "x" -> refused: what is no IP address
        Enum8('on' = 1, 'off' = 2)
            "on" -> "on"
            2 -> "off"
            "x" -> refused: what is no element of it
            3 -> refused: what is no element of it
        Array(Nullable(Int8))
            [1,null] -> [1,null]
            [300] -> refused: an integer of 3 digits
            1 -> refused: an integer
        Array(Int8)
            [null] -> refused: null
        Map(String, Float64)
            {"a":1,"b":null} -> {"a":1}
            "x" -> refused: this string
        Map(UInt8, String)
            {"7":true} -> {"7":"true"}
            {"x":1} -> refused: a string that is no whole number
        Tuple(a Int8, b Nullable(String))
            {"a":1} -> {"a":1,"b":null}
            [1,"x"] -> {"a":1,"b":"x"}
            {"c":1} -> refused: a map with `c`
        Tuple(Int8, String)
            [1,"x"] -> [1,"x"]
            [1] -> refused: an array
        JSON
            {"a":[1]} -> {"a":[1]}
            "{\"a\":1}" -> {"a":1}
            "[1]" -> refused: a string that is no JSON object
            5 -> refused: an integer
        LowCardinality(Nullable(String))
            null -> null
            "x" -> "x"
        Variant(String, Int64)
            "x" -> "x"
            5 -> 5
            null -> null
    "#]].assert_eq(&said);
}

fn table(columns: &[(&str, &str, &str)]) -> Table {
    let cells: Vec<_> =
        columns.iter().map(|(name, kind, default)| vec![json!(name), json!(kind), json!(default)]).collect();
    Table::new(&cells)
}

fn encoded(table: &Table, rows: Vec<Row>) -> String {
    let many = rows.len() as u64;
    let rows: Vec<_> = rows
        .into_iter()
        .zip(0..)
        .map(|(row, offset)| {
            let body = proto::Event::default();
            let event =
                NewEvent { timestamp_ms: 0, kind: EventKind::MessagePublish, topic: "t".into(), body };
            BatchRow { event: Arc::new(event.at(1 << 100, offset)), index: 0, row: row.into() }
        })
        .collect();
    let totals = Totals { matched: many, delivered: many, dead: 0 };
    let after = Checkpoint { log_id: 1 << 100, cursor: Cursor::at(many), totals };
    let picked = (0..rows.len() as u32).collect();
    let batch = Batch::new(Arc::new(PipelineId::new("rule", "s", "t")), after, 1, Arc::new(rows), picked);
    let encoded = deliver::encode(table, &batch);
    let refused = encoded.refused.iter().flatten().map(|reason| format!("{reason}\n"));
    String::from_utf8_lossy(&encoded.rows).into_owned() + &refused.collect::<String>()
}

#[test]
fn the_largest_integers_are_known() {
    let most = "115792089237316195423570985008687907853269984665640564039457584007913129639935";
    let least = "-57896044618658097711785492504343953926634992332820282019728792003956564819968";
    for (kind, text) in [("UInt256", most), ("Int256", least)] {
        let beyond = text.replace("935", "936").replace("968", "969");
        assert!(write(&Type::parse(kind), &text.into(), &mut Vec::new()).is_ok(), "{text}");
        assert!(write(&Type::parse(kind), &beyond.as_str().into(), &mut Vec::new()).is_err(), "{beyond}");
    }
}

#[test]
fn rows_fit_the_table_or_say_why_not() {
    let plain = table(&[("a", "Int8", ""), ("b", "Nullable(String)", ""), ("c", "Int8", "ALIAS")]);
    let rows = vec![
        row([("a", 1_i64.into()), ("b", Value::Null), ("gone", Value::Undefined)]),
        row([("a", Value::Null), ("b", "x".into())]),
        row([]),
        row([("a", 1_i64.into()), ("x", 2_i64.into())]),
        row([("x", 1_i64.into()), ("y", 2_i64.into())]),
        row([("c", 1_i64.into())]),
        row([("b", "kept?".into()), ("a", 1000_i64.into())]),
        row([("_rule", "me".into())]),
    ];
    expect![[r#"
        {"a":1,"b":null}
        {"b":"x"}
        {}
        the table has no column `x`, and no column `extra` (String, JSON or Map) that would take it
        the table has no columns `x`, `y`, and no column `extra` (String, JSON or Map) that would take them
        the column `c` is computed by the table; give it an alias
        the column `a` is Int8 and cannot hold an integer of 4 digits
        the column name `_rule` is reserved; give it an alias
    "#]]
    .assert_eq(&encoded(&plain, rows));
}

#[test]
fn what_has_no_column_goes_into_extra_and_own_columns_are_filled() {
    let more = || {
        let extra = row([("n", 1_i64.into())]);
        vec![
            row([("a", 1_i64.into())]),
            row([("x", "1".into()), ("y", vec![2_i64.into()].into()), ("extra", extra.into())]),
        ]
    };
    let own = ("_event_id", "String", "");
    let mut said = String::new();
    for kind in ["String", "JSON", "Map(String, String)", "Int8"] {
        let columns =
            [("a", "Int8", ""), ("extra", kind, ""), own, ("_rule", "String", ""), ("_row", "UInt32", "")];
        said += &encoded(&table(&columns), more());
    }
    expect![[r#"
        {"a":1,"_event_id":"00000010000000000000000000000000","_rule":"rule","_row":0}
        {"extra":"{\"x\":\"1\",\"y\":[2],\"n\":1}","_event_id":"00000010000000000000000000000001","_rule":"rule","_row":0}
        {"a":1,"_event_id":"00000010000000000000000000000000","_rule":"rule","_row":0}
        {"extra":{"x":"1","y":[2],"n":1},"_event_id":"00000010000000000000000000000001","_rule":"rule","_row":0}
        {"a":1,"_event_id":"00000010000000000000000000000000","_rule":"rule","_row":0}
        {"extra":{"x":"1","y":"[2]","n":"1"},"_event_id":"00000010000000000000000000000001","_rule":"rule","_row":0}
        {"a":1,"_event_id":"00000010000000000000000000000000","_rule":"rule","_row":0}
        the column `extra` is Int8 and cannot hold a map
    "#]].assert_eq(&said);
}
