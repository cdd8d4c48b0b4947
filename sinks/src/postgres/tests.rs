//! Values in PostgreSQL's format; what a server makes of them is in sinks/tests/postgres.rs.

use expect_test::expect;
use muster_core::value::Value;

use super::encode::{Kind, field};

fn written(kind: &Kind, value: impl Into<Value>) -> String {
    let mut out = Vec::new();
    match field(kind, &value.into(), &mut out) {
        Ok(()) => out[4..].iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat(),
        Err(why) => why,
    }
}

#[test]
fn values_take_their_column_s_form() {
    let mut said = String::new();
    let mut show = |kind: Kind, value: Value| said += &format!("{kind:?}: {}\n", written(&kind, value));
    show(Kind::Int2, 32768_i64.into());
    show(Kind::Int2, (-2_i64).into());
    show(Kind::Int4, 1.0.into());
    show(Kind::Int4, 1.5.into());
    show(Kind::Int8, u64::MAX.into());
    show(Kind::Bool, "yes".into());
    show(Kind::Text, "a\0b".into());
    show(Kind::Text, bytes::Bytes::from_static(&[0xff]).into());
    show(Kind::Numeric, "-12345.6700".into());
    show(Kind::Numeric, 0.001.into());
    show(Kind::Numeric, 0_i64.into());
    show(Kind::Numeric, 100_000_000_i64.into());
    show(Kind::Timestamp, 946_684_800_001_i64.into());
    show(Kind::Timestamp, "2000-01-01T01:00:00+01:00".into());
    show(Kind::Timestamp, i64::MAX.into());
    show(Kind::Timestamp, "noon".into());
    show(Kind::Date, "1999-12-31".into());
    show(Kind::Uuid, "00112233-4455-6677-8899-aabbccddeeff".into());
    show(Kind::Uuid, "0011".into());
    show(Kind::Inet { cidr: false }, "10.0.0.1".into());
    show(Kind::Jsonb, r#"{"a":1}"#.into());
    show(Kind::Jsonb, "x\0".into());
    expect![[r#"
        Int2: it is out of range
        Int2: fffe
        Int4: 00000001
        Int4: it is of type float
        Int8: it is an integer out of range
        Bool: 01
        Text: it holds a NUL character, which PostgreSQL's texts cannot; a column of type bytea can
        Text: it holds bytes that are no UTF-8; a column of type bytea takes them
        Numeric: 0003000140000004000109291a2c
        Numeric: 0001ffff00000003000a
        Numeric: 0000000000000000
        Numeric: 00010002000000000001
        Timestamp: 00000000000003e8
        Timestamp: 0000000000000000
        Timestamp: it is no time in milliseconds since 1970
        Timestamp: it is no time as RFC 3339 has it
        Date: ffffffff
        Uuid: 00112233445566778899aabbccddeeff
        Uuid: it is a text of another form
        Inet { cidr: false }: 022000040a000001
        Jsonb: 017b2261223a317d
        Jsonb: it holds a NUL character, which PostgreSQL's texts cannot; a column of type bytea can
    "#]]
    .assert_eq(&said);
}
