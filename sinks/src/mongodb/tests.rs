//! What can be told without a server: options, documents, statements, and what codes mean.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use expect_test::expect;
use mongodb::bson::{Bson, DateTime, Decimal128, Document, doc};
use muster_core::clock::ManualClock;
use muster_core::event::{EventKind, NewEvent, proto};
use muster_core::value::{Row, Value};

use super::codes::Meaning;
use super::encode::Encoder;
use super::migrate::commands;
use super::upserts::statements;
use crate::database::Databases;
use crate::registry::{SinkEnv, SinkSpec, build, migrator};
use crate::sink::BatchRow;
use crate::upsert::Upsert;
use crate::{ErrorKind, SinkError};

const URL: (&str, &str) = ("url", "mongodb://u:hush1@m1:27017,m2/fleet");

fn env() -> SinkEnv {
    SinkEnv { data_dir: "/nowhere".into(), databases: Databases::default(), clock: ManualClock::at(7) }
}

fn declared<T>(
    target: &str,
    options: &[(&str, &str)],
    made: impl Fn(&SinkSpec<'_>) -> Result<T, SinkError>,
) -> Result<T, SinkError> {
    let options: BTreeMap<_, _> =
        options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    made(&SinkSpec { kind: "mongodb", name: "m", target: Some(target), rule: "rule", options: &options })
}

#[test]
fn what_is_wrong_is_named_and_no_secret_is_shown() {
    let mut said = String::new();
    let mut refused = |target, options: &[(&str, &str)]| {
        let error = declared(target, options, |spec| build(spec, &env())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured);
        said += &(error.in_words() + "\n");
    };
    refused("t", &[]);
    refused("t", &[("url", "http://hush2@x")]);
    refused("t", &[("url", "mongodb+srv://hush3@x/db")]);
    refused("t", &[("url", "mongodb://u:hush4/x@y:1/db")]);
    refused("t", &[("url", "mongodb://m1:27017")]);
    refused("t", &[URL, ("database", "a.b")]);
    refused("system.users", &[URL]);
    refused("_muster_migrations", &[URL]);
    refused("a$b", &[URL]);
    refused("t", &[URL, ("username", "u")]);
    refused("t", &[URL, ("password", "hush5")]);
    refused("t", &[URL, ("auth_mechanism", "NTLM")]);
    refused("t", &[URL, ("auth_source", "admin")]);
    refused("t", &[URL, ("write_concern", "0")]);
    refused("t", &[URL, ("journal", "maybe")]);
    refused("t", &[URL, ("timeout_ms", "0")]);
    refused("t", &[URL, ("time_field", "at")]);
    refused("device_status", &[URL, ("time_series", "true")]);
    refused("t", &[URL, ("time_series", "true"), ("meta_field", "timestamp")]);
    refused("t", &[URL, ("guard.t", "seq")]);
    refused("t", &[URL, ("keep_days", "0")]);
    expect![[r#"
        the mongodb sink `m` needs the option `url`
        option `url` of the mongodb sink `m` must begin with mongodb://
        option `url` of the mongodb sink `m` must begin with mongodb://; list the servers instead of a mongodb+srv name
        option `url` of the mongodb sink `m` is no address of MongoDB
        option `database` of the mongodb sink `m` is missing, and the address names no database either
        option `database` of the mongodb sink `m` must be a name without / \ . " $ and spaces
        the collection name `system.users` is reserved; choose another
        the collection name `_muster_migrations` is reserved; choose another
        the collection name `a$b` must not be empty, hold a `$` or a NUL, nor begin or end with a point
        option `password` of the mongodb sink `m` is missing beside `username`
        option `username` of the mongodb sink `m` is missing beside `password`
        option `auth_mechanism` of the mongodb sink `m` must be one of `SCRAM-SHA-256`, `SCRAM-SHA-1`, `MONGODB-X509`, `PLAIN`
        option `username` of the mongodb sink `m` is missing beside `auth_source` or `auth_mechanism`; in the address they are `authSource` and `authMechanism`
        option `write_concern` of the mongodb sink `m` must be `majority` or a number from 1
        option `journal` of the mongodb sink `m` must be one of `true`, `false`
        option `timeout_ms` of the mongodb sink `m` must be between 1 and 600000
        option `time_field` of the mongodb sink `m` is of no use without `time_series = 'true'`
        option `time_series` of the mongodb sink `m` cannot go together with a key: documents of a time series are not replaced
        option `meta_field` of the mongodb sink `m` must be another column than `time_field`
        option `guard.t` of the mongodb sink `m` is of no use without `key.t`
        option `keep_days` of the mongodb sink `m` must be between 1 and 24855
    "#]]
    .assert_eq(&said);
    assert!(!said.contains("hush"), "a secret is shown");
}

fn encoder(times: &[&str]) -> Encoder {
    Encoder { times: times.iter().map(|&time| time.to_owned()).collect(), time_field: None, online: false }
}

fn batch_row(offset: u64, row: Row) -> BatchRow {
    let event = NewEvent {
        timestamp_ms: 0,
        kind: EventKind::MessagePublish,
        topic: "t".into(),
        body: proto::Event::default(),
    };
    BatchRow { event: Arc::new(event.at(0xab << 120, offset)), index: 0, row: row.into() }
}

fn document(encoder: &Encoder, row: Row) -> Result<Document, String> {
    encoder.document("rule", &batch_row(7, row)).map(|raw| Document::try_from(&*raw).unwrap())
}

#[test]
fn values_keep_their_types() {
    let big: Value = Value::big("123456789012345678901234567890".parse().unwrap());
    let huge: Value = Value::big("1234567890123456789012345678901234567890".parse().unwrap());
    let map: Row =
        [("b.c", Value::from(1_i64)), ("$d", Value::Null), ("gone", Value::Undefined)].into_iter().collect();
    let row: Row = [
        ("int", Value::from(3_i64)),
        ("large", Value::from(i64::MAX)),
        ("big", big),
        ("huge", huge),
        ("float", Value::from(0.5)),
        ("yes", Value::Bool(true)),
        ("nothing", Value::Null),
        ("absent", Value::Undefined),
        ("text", Value::from("7")),
        ("bytes", Value::Str(Bytes::from_static(&[0xff, 0x00]))),
        ("list", Value::Array(vec![Value::from(1_i64), Value::Undefined, Value::from("x")])),
        ("map", Value::Map(map)),
        ("timestamp", Value::from(1_700_000_000_000_i64)),
        ("at", Value::from("2023-11-14T22:13:20Z")),
        ("connected_at", Value::from("never")),
        ("other_time", Value::from(1_700_000_000_000_i64)),
        ("date", Value::from("ISODate(2023-11-14T22:13:20.000Z)")),
    ]
    .into_iter()
    .collect();
    let at = DateTime::from_millis(1_700_000_000_000);
    let bytes =
        mongodb::bson::Binary { subtype: mongodb::bson::spec::BinarySubtype::Generic, bytes: vec![0xff, 0] };
    let expected = doc! {
        "_id": "AB000000000000000000000000000007:0:rule",
        "int": 3_i64, "large": i64::MAX,
        "big": "123456789012345678901234567890".parse::<Decimal128>().unwrap(),
        "huge": "1234567890123456789012345678901234567890",
        "float": 0.5, "yes": true, "nothing": Bson::Null, "text": "7", "bytes": bytes,
        "list": [1_i64, Bson::Null, "x"],
        "map": { "b.c": 1_i64, "$d": Bson::Null },
        "timestamp": at, "at": at, "connected_at": "never", "other_time": 1_700_000_000_000_i64, "date": at,
    };
    assert_eq!(document(&encoder(&["timestamp", "at", "connected_at"]), row).unwrap(), expected);
}

#[test]
fn what_no_server_takes_is_refused_beforehand() {
    let encoder_of = encoder(&[]);
    let refused =
        |name: &str, value: Value| document(&encoder_of, [(name, value)].into_iter().collect()).unwrap_err();
    assert!(refused("_id", Value::from(1_i64)).contains("`_id` is reserved"));
    assert_eq!(refused("a\0b", Value::Null), "the name of a column or key holds a NUL");
    let large = Value::Str(vec![b'x'; 16 * 1024 * 1024].into());
    assert_eq!(refused("a", large), "the document has 16777278 bytes; MongoDB takes 16777216");
    let deep = (0..101).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
    assert_eq!(refused("a", deep), "the row is nested deeper than 100 levels");
    let series = Encoder { time_field: Some("ts".into()), ..encoder(&["ts"]) };
    let row = |value| [("ts", value)].into_iter().collect::<Row>();
    assert!(document(&series, row(Value::from("soon"))).unwrap_err().contains("no time in `ts`"));
    assert!(document(&series, row(Value::from(5_i64))).is_ok());
}

/// Rows of `clientid`, `seq` and a column of their own.
fn status(rows: &[(&str, i64, &str)]) -> Vec<BatchRow> {
    let row = |(client, seq, column): &(&str, i64, &str)| {
        [("clientid", Value::from(*client)), ("seq", Value::from(*seq)), (*column, Value::from(*seq))]
            .into_iter()
            .collect::<Row>()
    };
    rows.iter().map(row).zip(1..).map(|(row, offset)| batch_row(offset, row)).collect()
}

#[test]
fn rows_of_a_key_become_one_statement_as_if_they_came_one_by_one() {
    let upsert = Upsert { key: vec!["clientid".into()], guard: Some("seq".into()) };
    let rows = status(&[("a", 1, "x"), ("b", 9, "x"), ("a", 3, "y"), ("a", 2, "z"), ("a", 3, "z")]);
    let made = statements(&encoder(&[]), &upsert, rows.iter().enumerate(), true);
    let shown: Vec<_> = made
        .all
        .iter()
        .map(|one| format!("{:?} {}", one.rows, Document::try_from(&*one.update).unwrap()))
        .collect();
    expect![[r#"
        [0, 2, 3, 4] { "q": { "_id": "a", "seq": { "$not": { "$gte": 3 } } }, "u": { "$set": { "clientid": "a", "seq": 3, "x": 1, "y": 3 } }, "multi": false, "upsert": true }
        [1] { "q": { "_id": "b", "seq": { "$not": { "$gte": 9 } } }, "u": { "$set": { "clientid": "b", "seq": 9, "x": 9 } }, "multi": false, "upsert": true }"#]]
    .assert_eq(&shown.join("\n"));
    assert_eq!(statements(&encoder(&[]), &upsert, rows.iter().enumerate(), false).all.len(), 5);
}

#[test]
fn rows_without_a_key_or_a_guard_are_refused() {
    let upsert = Upsert { key: vec!["a".into(), "b".into()], guard: Some("n".into()) };
    let row = |pairs: &[(&str, Value)]| {
        batch_row(1, pairs.iter().map(|(name, value)| (*name, value.clone())).collect::<Row>())
    };
    let one = Value::from(1_i64);
    let rows = [
        row(&[("a", one.clone()), ("b", Value::from("x")), ("n", one.clone())]),
        row(&[("a", one.clone()), ("n", one.clone())]),
        row(&[("a", one.clone()), ("b", Value::Array(vec![])), ("n", one.clone())]),
        row(&[("a", one.clone()), ("b", one.clone())]),
        row(&[("a", one.clone()), ("b", one.clone()), ("n", Value::Bool(true))]),
        row(&[("a", one.clone()), ("b", one.clone()), ("n", one.clone()), ("c.d", one.clone())]),
        row(&[("a", one.clone()), ("b", one.clone()), ("n", one.clone()), ("_id", one)]),
    ];
    let made = statements(&encoder(&[]), &upsert, rows.iter().enumerate(), true);
    assert_eq!(Document::try_from(&*made.all[0].id).unwrap(), doc! { "_id": { "a": 1_i64, "b": "x" } });
    assert_eq!(made.all.len(), 1);
    let reasons: Vec<_> = made.refused.iter().map(|(at, reason)| format!("{at}: {reason}")).collect();
    expect![[r#"
        1: the row lacks the key column `b`
        2: the key column `b` must be a number or a text, not a list or a map
        3: the row lacks the guard column `n`
        4: the guard column `n` is a boolean, which has no order
        5: a column cannot be named `c.d` where a collection has a key: no name may be empty, hold a point or begin with a dollar; give it an alias
        6: the column name `_id` is reserved for the key; give it an alias"#]]
    .assert_eq(&reasons.join("\n"));
}

#[test]
fn a_status_says_whether_the_device_is_there() {
    let row = |event: &str| [("event", Value::from(event))].into_iter().collect::<Row>();
    let status = Encoder { online: true, ..encoder(&[]) };
    assert!(document(&status, row("client.connected")).unwrap().get_bool("online").unwrap());
    assert!(!document(&status, row("client.disconnected")).unwrap().get_bool("online").unwrap());
    assert!(!document(&encoder(&[]), row("client.connected")).unwrap().contains_key("online"));
}

#[test]
fn codes_have_the_meaning_that_loses_nothing() {
    assert_eq!(Meaning::of(13).kind(), ErrorKind::Misconfigured, "Unauthorized");
    assert_eq!(Meaning::of(18).kind(), ErrorKind::Misconfigured, "AuthenticationFailed");
    assert_eq!(Meaning::of(10107).kind(), ErrorKind::Unavailable, "NotWritablePrimary");
    assert_eq!(Meaning::of(64).kind(), ErrorKind::Unavailable, "WriteConcernFailed");
    assert_eq!(Meaning::of(121).kind(), ErrorKind::RejectedBatch, "DocumentValidationFailure");
    assert_eq!(Meaning::of(987_654).kind(), ErrorKind::Unavailable, "of a command, what nobody knows");
    assert_eq!(Meaning::of_document(987_654), Meaning::Document, "of a document, what nobody knows");
    assert_eq!(Meaning::of_document(189), Meaning::Passing, "PrimarySteppedDown");
    assert_eq!(Meaning::of_document(11000), Meaning::Duplicate);
}

#[test]
fn each_step_is_a_list_of_commands() {
    let steps = |options: &[(&str, &str)]| {
        declared("t", options, |spec| migrator(spec, &env())).unwrap().unwrap().migrations()
    };
    assert_eq!(steps(&[URL]).len(), 4);
    let steps = steps(&[URL, ("keep_days", "30")]);
    for (step, version) in steps.iter().zip(1..) {
        assert_eq!(step.version, version);
        assert!(!commands(&step.text).unwrap().is_empty(), "{}", step.name);
    }
    assert!(steps[3].text.contains("\"expireAfterSeconds\": 2592000"));
}
