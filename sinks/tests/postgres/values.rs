//! Values of every type, and where they go.

use bytes::Bytes;
use expect_test::expect;
use muster_core::value::{Row, Value};

use crate::db::{Db, batch, batch_at, durable, refused};

#[tokio::test]
async fn values_arrive_as_the_column_s_type() {
    let table = "CREATE DOMAIN small AS int CHECK (value < 100); CREATE TYPE mood AS ENUM ('glad', 'sad'); \
        CREATE TABLE t (tx text, vc varchar(9), bo boolean, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, \
        nu numeric, n2 numeric(6,2), tz timestamptz, ts timestamp, da date, jb jsonb, js json, uu uuid, by bytea, \
        ip inet, ne cidr, ta text[], ia int[], dm small, en mood, iv interval, ch char(3), ti time)";
    let Some(db) = Db::new(table).await else { return };
    db.client.batch_execute("SET TimeZone = 'UTC'").await.unwrap();
    let mut sink = db.opened(&[]).await;
    let rows = batch(&[
        r#"{"tx":"ä'\"\\","vc":"123456789","bo":true,"i2":-32768,"i4":2147483647,"i8":-9223372036854775808,
            "f4":1.5,"f8":-1e300,"nu":-12345678901234567,"n2":1234.567,"tz":1700000000123,"ts":"2024-02-29T12:00:00Z",
            "da":"2024-02-29","jb":{"a":[1,null,"x"]},"js":[1.0],"uu":"00112233445566778899AABBCCDDEEFF",
            "by":"raw","ip":"10.0.0.1","ne":"10.1.0.0/16","ta":["a",null,"b\"c"],"ia":[1,2],"dm":99}"#,
        r#"{"tx":7,"vc":true,"bo":"off","i2":"12","i4":3.0,"i8":false,"f4":1,"f8":"2.5","nu":"0.00010","n2":null,
            "tz":"2024-02-29T12:00:00.5+02:00","ts":-1,"da":1700000000000,"jb":"text","js":"{\"k\" : 1}","ip":"::1",
            "ta":[],"ia":[],"tx2":null}"#
            .replace(",\"tx2\":null", "")
            .as_str(),
    ]);
    durable(&mut sink, &rows).await;
    // Types that only PostgreSQL can read from text go by way of the staging table.
    durable(&mut sink, &batch(&[r#"{"en":"sad","iv":"1 day 2 s","ch":"ab","ti":"12:30"}"#])).await;
    expect![[r#"
        ä'"\ 123456789 t -32768 2147483647 -9223372036854775808 1.5 -1e+300 -12345678901234567 1234.57 2023-11-14 22:13:20.123+00 2024-02-29 12:00:00 2024-02-29 {"a": [1, null, "x"]} [1.0] 00112233-4455-6677-8899-aabbccddeeff \x726177 10.0.0.1 10.1.0.0/16 {a,NULL,"b\"c"} {1,2} 99 - - - -
        7 true f 12 3 0 1 2.5 0.00010 - 2024-02-29 10:00:00.5+00 1969-12-31 23:59:59.999 2023-11-14 "text" {"k" : 1} - - ::1 - {} {} - - - - -
        - - - - - - - - - - - - - - - - - - - - - - sad 1 day 00:00:02 ab  12:30:00"#]]
    .assert_eq(&db.text("SELECT * FROM t").await);
}

#[tokio::test]
async fn large_integers_and_bytes_are_exact() {
    let Some(db) = Db::new("CREATE TABLE t (big numeric, raw bytea, json jsonb, txt text)").await else {
        return;
    };
    let mut sink = db.opened(&[]).await;
    let digits = "1234567890".repeat(20);
    let big = || Value::big(format!("-{digits}").parse().unwrap());
    let raw = Bytes::from_static(&[0, 0xff, 0xfe, b'a']);
    let row: Row = [("big", big()), ("raw", raw.into()), ("json", vec![big()].into()), ("txt", big())]
        .into_iter()
        .collect();
    durable(&mut sink, &batch_at(0, vec![row])).await;
    let said = db.text("SELECT big, raw, json, txt FROM t").await;
    assert_eq!(said, format!("-{digits} \\x00fffe61 [-{digits}] -{digits}"));
}

#[tokio::test]
async fn a_value_that_cannot_be_is_refused_with_column_and_type() {
    let Some(db) =
        Db::new("CREATE TABLE t (tx text, i4 int4, tz timestamptz, jb jsonb, ia int[], uu uuid)").await
    else {
        return;
    };
    let mut sink = db.opened(&[]).await;
    let rows = batch(&[
        r#"{"tx":"well"}"#,
        r#"{"tx":"a\u0000b"}"#,
        r#"{"i4":2147483648}"#,
        r#"{"i4":"seven"}"#,
        r#"{"tz":"yesterday"}"#,
        r#"{"jb":{"k":["a\u0000"]}}"#,
        r#"{"ia":[1,"x"]}"#,
        r#"{"uu":[]}"#,
        r#"{"_rule":"mine"}"#,
        r#"{"stranger":1}"#,
        r#"{"tx":"well","TX":"twice"}"#,
    ]);
    let mut said = String::new();
    for (at, why) in refused(&mut sink, &rows).await {
        said += &format!("{at}: {why}\n");
    }
    expect![[r#"
        1: the value of column `tx` is not of type text: it holds a NUL character, which PostgreSQL's texts cannot; a column of type bytea can
        2: the value of column `i4` is not of type integer: it is out of range
        3: the value of column `i4` is not of type integer: it is a text of another form
        4: the value of column `tz` is not of type timestamp with time zone: it is no time as RFC 3339 has it
        5: the value of column `jb` is not of type jsonb: it holds a NUL character, which PostgreSQL's texts cannot; a column of type bytea can
        6: the value of column `ia` is not of type integer[]: of its element 2: it is a text of another form
        7: the value of column `uu` is not of type uuid: it is of type array
        8: the column name `_rule` is reserved; give it an alias
        9: the table "public"."t" has no column `stranger`, and no column `extra` of type jsonb that takes what has none
        10: two columns of the row are the column `tx` of the table
    "#]]
    .assert_eq(&said);
    assert_eq!(db.text("SELECT count(*) FROM t").await, "0", "nothing was kept");
}

#[tokio::test]
async fn extra_takes_what_has_no_column() {
    let table = "CREATE TABLE t (a int, extra jsonb, made int GENERATED ALWAYS AS (a + 1) STORED, \
                 kept text DEFAULT 'kept')";
    let Some(db) = Db::new(table).await else { return };
    let mut sink = db.opened(&[]).await;
    let rows = batch(&[
        r#"{"a":1,"b":2,"c":{"d":null}}"#,
        r#"{"A":2,"extra":{"own":true},"b":"x"}"#,
        r#"{"a":3,"extra":[1],"b":"x"}"#,
        r#"{"a":4,"kept":null}"#,
        r#"{"a":5,"kept":"given"}"#,
    ]);
    durable(&mut sink, &rows).await;
    expect![[r#"
        1 2 kept {"b": 2, "c": {"d": null}}
        2 3 kept {"b": "x", "own": true}
        3 4 kept {"b": "x", "extra": [1]}
        4 5 - -
        5 6 given -"#]]
    .assert_eq(&db.text("SELECT a, made, kept, extra FROM t ORDER BY a").await);
    let why = refused(&mut sink, &batch(&[r#"{"a":1,"made":2}"#])).await;
    assert!(why[0].1.contains("fills the column `made`"), "{why:?}");
}
