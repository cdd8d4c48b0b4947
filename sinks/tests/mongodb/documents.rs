//! A document a row: types, repetitions, refusals, logins, steps.

use bytes::Bytes;
use mongodb::bson::{Binary, Bson, DateTime, doc, spec::BinarySubtype};
use muster_core::value::{Row, Value};
use muster_sinks::{ErrorKind, migrate, migrator};

use crate::{Fixture, batch, declared, env, letters, pipeline, reason, row, with_spec};

#[tokio::test]
async fn values_come_back_as_they_went() {
    let Some(fixture) = Fixture::new().await else { return };
    let mut sink = fixture.opened("t", &[]).await;
    let map: Row = row([("k", Value::from(1_i64)), ("none", Value::Null), ("gone", Value::Undefined)]);
    let full = row([
        ("int", Value::from(-3_i64)),
        ("large", Value::from(i64::MAX)),
        ("float", Value::from(0.1)),
        ("yes", Value::Bool(true)),
        ("nothing", Value::Null),
        ("absent", Value::Undefined),
        ("text", Value::from("grün \u{1f600}")),
        ("bytes", Value::Str(Bytes::from_static(&[0xff, 0x00, 0x80]))),
        ("list", Value::Array(vec![Value::from(1_i64), Value::from("x"), Value::Map(map.clone())])),
        ("map", Value::Map(map)),
        ("timestamp", Value::from(1_700_000_000_123_i64)),
        ("at", Value::from("2023-11-14T22:13:20.123Z")),
    ]);
    let outcome = sink.deliver(&batch(0, vec![full])).await.unwrap();
    assert_eq!(letters(&outcome, 1), "d");
    let at = DateTime::from_millis(1_700_000_000_123);
    let map = doc! { "k": 1_i64, "none": Bson::Null };
    let expected = doc! {
        "_id": "ABCD0000000000000000000000000000:0:rule",
        "int": -3_i64, "large": i64::MAX, "float": 0.1, "yes": true, "nothing": Bson::Null,
        "text": "grün \u{1f600}",
        "bytes": Binary { subtype: BinarySubtype::Generic, bytes: vec![0xff, 0x00, 0x80] },
        "list": [1_i64, "x", &map], "map": map, "timestamp": at, "at": at,
    };
    assert_eq!(fixture.all("t").await, [expected]);
}

fn numbered(many: i64) -> Vec<Row> {
    (0..many).map(|n| row([("n", Value::from(n))])).collect()
}

#[tokio::test]
async fn the_same_batch_twice_is_there_once() {
    let Some(fixture) = Fixture::new().await else { return };
    let mut sink = fixture.opened("t", &[]).await;
    for (first, many) in [(0, 300), (0, 300), (250, 100)] {
        let outcome = sink.deliver(&batch(first, numbered(many))).await.unwrap();
        assert_eq!(letters(&outcome, many as usize), "d".repeat(many as usize));
    }
    assert_eq!(fixture.collection("t").count_documents(doc! {}).await.unwrap(), 350);
    sink.check().await.unwrap();
}

#[tokio::test]
async fn a_row_that_breaks_another_unique_index_is_refused_also_when_it_comes_again() {
    let Some(fixture) = Fixture::new().await else { return };
    let index = doc! { "key": { "serial": 1 }, "name": "serials", "unique": true };
    fixture.database.run_command(doc! { "createIndexes": "t", "indexes": [index] }).await.unwrap();
    let mut sink = fixture.opened("t", &[]).await;
    let rows = |serials: &[i64]| serials.iter().map(|n| row([("serial", Value::from(*n))])).collect();
    for _ in 0..2 {
        let outcome = sink.deliver(&batch(0, rows(&[1, 2, 1, 3]))).await.unwrap();
        assert_eq!(letters(&outcome, 4), "ddrd");
        assert!(reason(&outcome, 2).contains("E11000 duplicate key"), "{}", reason(&outcome, 2));
    }
    // A row of our own in the middle of one that is there and one that is not.
    let outcome = sink.deliver(&batch(3, rows(&[3, 4, 2]))).await.unwrap();
    assert_eq!(letters(&outcome, 3), "ddr");
}

#[tokio::test]
async fn refused_rows_among_thousands_are_named_one_by_one() {
    let Some(fixture) = Fixture::new().await else { return };
    let index = doc! { "key": { "serial": 1 }, "name": "serials", "unique": true };
    fixture.database.run_command(doc! { "createIndexes": "t", "indexes": [index] }).await.unwrap();
    let mut sink = fixture.opened("t", &[]).await;
    let rows = (0..3_000_i64).map(|n| row([("serial", Value::from(if n % 100 == 7 { -1 } else { n }))]));
    let mut rows: Vec<Row> = rows.collect();
    rows[500].insert("_id", "mine");
    let outcome = sink.deliver(&batch(0, rows)).await.unwrap();
    let expected = |n: usize| if n == 500 || (n % 100 == 7 && n != 7) { 'r' } else { 'd' };
    assert_eq!(letters(&outcome, 3_000), (0..3_000).map(expected).collect::<String>());
    assert!(reason(&outcome, 500).contains("`_id` is reserved"));
    assert_eq!(fixture.collection("t").count_documents(doc! {}).await.unwrap(), 2_970);
}

#[tokio::test]
async fn a_row_that_is_too_large_does_not_spoil_the_others() {
    let Some(fixture) = Fixture::new().await else { return };
    let mut sink = fixture.opened("t", &[]).await;
    let blob = |bytes: usize| row([("blob", Value::Str(vec![b'x'; bytes].into()))]);
    let outcome =
        sink.deliver(&batch(0, vec![blob(1), blob(16 << 20), blob(15 << 20), blob(2)])).await.unwrap();
    assert_eq!(letters(&outcome, 4), "drdd");
    assert!(reason(&outcome, 1).contains("MongoDB takes 16777216"));
    assert_eq!(fixture.collection("t").count_documents(doc! {}).await.unwrap(), 3);
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why() {
    let Some(fixture) = Fixture::new().await else { return };
    let url = fixture.url.replace("muster:secret@", "");
    let mut wrong =
        declared("t", &[("url", &url), ("username", "muster"), ("password", "hush")]).unwrap().sink;
    let mut nobody = declared("t", &[("url", &url)]).unwrap().sink;
    for (sink, hint) in [(&mut wrong, "see that `username`"), (&mut nobody, "")] {
        let opened = sink.open(&pipeline("t")).await;
        // Who needs no login to be answered needs one to write.
        let error = match opened {
            Err(error) => error,
            Ok(_) => sink.deliver(&batch(0, numbered(1))).await.unwrap_err(),
        };
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{}", error.in_words());
        assert!(error.hint().contains(hint), "{}", error.hint());
        assert!(!error.in_words().contains("hush"));
    }
    let right =
        [("url", url.as_str()), ("username", "muster"), ("password", "secret"), ("auth_source", "admin")];
    declared("t", &right).unwrap().sink.open(&pipeline("t")).await.unwrap();
    // An address where nobody listens is no mistake: somebody may come.
    let nowhere = format!("mongodb://{}/db", muster_test_servers::free_address());
    let mut nowhere = declared("t", &[("url", &nowhere), ("timeout_ms", "300")]).unwrap().sink;
    assert_eq!(nowhere.open(&pipeline("t")).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn files_for_tls_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let url = ("url", "mongodb://127.0.0.1:1/db");
    for (path, said) in
        [("/nowhere/ca.pem", "cannot read `ca_file`"), (empty.to_str().unwrap(), "no certificate")]
    {
        let mut sink = declared("t", &[url, ("ca_file", path)]).unwrap().sink;
        let error = sink.open(&pipeline("t")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured);
        assert!(error.in_words().contains(said), "{}", error.in_words());
    }
}

#[tokio::test]
async fn each_step_is_taken_once() {
    let Some(fixture) = Fixture::new().await else { return };
    let options = [("url", fixture.url.as_str())];
    let mut target = with_spec("t", &options, |spec| migrator(spec, &env())).unwrap().unwrap();
    let taken = migrate::migrate(&mut *target, true, |_| {}).await.unwrap();
    assert_eq!(taken.len(), 4);
    assert_eq!(target.applied().await.unwrap(), [0_u32; 0], "a dry run takes none");
    let mut told = Vec::new();
    migrate::migrate(&mut *target, false, |step| told.push(step.name.clone())).await.unwrap();
    assert_eq!(told, ["device_status", "device_history", "device_messages", "device_alarms"]);
    let mut applied = target.applied().await.unwrap();
    applied.sort_unstable();
    assert_eq!(applied, [1, 2, 3, 5]);
    assert!(migrate::migrate(&mut *target, false, |_| {}).await.unwrap().is_empty());
    // A crash between a step and its note: it is taken again.
    for step in target.migrations() {
        target.apply(&step).await.unwrap();
    }
    let mut names = fixture.collection("device_messages").list_index_names().await.unwrap();
    names.sort();
    assert_eq!(names, ["_id_", "by_client", "by_time", "by_topic"]);
}
