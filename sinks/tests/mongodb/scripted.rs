//! Answers of MongoDB that the server of the other tests never gives, played by one of ours: validators, write
//! concerns, elections, rights, time series.

use std::sync::{Arc, Mutex};

use mongodb::bson::{Bson, Document, doc};
use muster_core::value::{Row, Value};
use muster_sinks::{ErrorKind, Outcome, Sink, SinkError};

use crate::played::{Asked, start};
use crate::{batch, declared, letters, pipeline, reason, row};

async fn opened(
    target: &str,
    options: &[(&str, &str)],
    answer: impl FnMut(&Asked) -> Document + Send + 'static,
) -> Box<dyn Sink> {
    let url = format!("mongodb://{}/db", start(answer).await);
    let mut all = vec![("url", url.as_str()), ("timeout_ms", "2000")];
    all.extend(options);
    let mut sink = declared(target, &all).unwrap().sink;
    sink.open(&pipeline(target)).await.unwrap();
    sink
}

fn rows(many: i64) -> Vec<Row> {
    (0..many).map(|n| row([("clientid", Value::from(format!("c{n}"))), ("seq", Value::from(n))])).collect()
}

async fn delivered(target: &str, answer: Document) -> Result<Outcome, SinkError> {
    let mut sink = opened(target, &[], move |_| answer.clone()).await;
    sink.deliver(&batch(0, rows(3))).await
}

fn failed(code: i32) -> Document {
    doc! { "ok": 0.0, "code": code, "codeName": "Name", "errmsg": "words" }
}

#[tokio::test]
async fn an_error_of_a_command_is_of_the_right_kind() {
    for (code, kind) in [
        (10107, ErrorKind::Unavailable),
        (11600, ErrorKind::Unavailable),
        (13, ErrorKind::Misconfigured),
        (73, ErrorKind::Misconfigured),
        (121, ErrorKind::RejectedBatch),
        (16500, ErrorKind::Throttled { retry_after: None }),
        (99_999, ErrorKind::Unavailable),
    ] {
        for target in ["t", "device_status"] {
            let error = delivered(target, failed(code)).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{code} into {target}: {}", error.in_words());
        }
    }
}

#[tokio::test]
async fn a_write_that_was_not_confirmed_is_tried_again() {
    let unconfirmed = |code: i32| {
        doc! { "ok": 1.0, "n": 3, "writeConcernError": { "code": code, "codeName": "Name", "errmsg": "timed out" } }
    };
    for target in ["t", "device_status"] {
        let error = delivered(target, unconfirmed(64)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.in_words().contains("did not confirm the write: timed out"), "{}", error.in_words());
        let error = delivered(target, unconfirmed(100)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured);
        assert!(error.hint().contains("write_concern"));
    }
}

#[tokio::test]
async fn what_we_ask_of_a_write_is_sent_with_it() {
    for (options, concern) in [
        (&[][..], doc! { "w": "majority", "wtimeout": 2000, "j": true }),
        (&[("write_concern", "1"), ("journal", "false")][..], doc! { "w": 1, "wtimeout": 2000, "j": false }),
    ] {
        for target in ["t", "device_status"] {
            let seen: Arc<Mutex<Vec<Document>>> = Arc::default();
            let sent = seen.clone();
            let answer = move |asked: &Asked| {
                let mut concern = asked.command.get_document("writeConcern").unwrap().clone();
                if let Ok(number) = concern.get_i64("wtimeout") {
                    concern.insert("wtimeout", number as i32);
                }
                sent.lock().unwrap().push(concern);
                assert!(!asked.command.get_bool("ordered").unwrap());
                doc! { "ok": 1.0, "n": 3 }
            };
            let mut sink = opened(target, options, answer).await;
            assert_eq!(letters(&sink.deliver(&batch(0, rows(3))).await.unwrap(), 3), "ddd");
            let (seen, expected) = (seen.lock().unwrap(), Bson::from(concern.clone()));
            assert_eq!(seen.len(), 1);
            let ordered = |document: &Document| {
                let mut pairs: Vec<_> = document.iter().map(|(k, v)| format!("{k}={v}")).collect();
                pairs.sort();
                pairs
            };
            assert_eq!(ordered(&seen[0]), ordered(expected.as_document().unwrap()), "{target}");
        }
    }
}

#[tokio::test]
async fn documents_that_a_validator_refuses_stand_alone() {
    let refused = doc! { "index": 1, "code": 121, "errmsg": "Document failed validation" };
    let answer = doc! { "ok": 1.0, "n": 2, "writeErrors": [refused] };
    for target in ["t", "device_status"] {
        let outcome = delivered(target, answer.clone()).await.unwrap();
        assert_eq!(letters(&outcome, 3), "drd");
        assert!(reason(&outcome, 1).contains("Document failed validation (code 121)"));
    }
}

#[tokio::test]
async fn documents_that_an_election_caught_are_tried_again() {
    let refused = doc! { "index": 2, "code": 189, "errmsg": "stepped down" };
    let answer = doc! { "ok": 1.0, "n": 2, "writeErrors": [refused] };
    for target in ["t", "device_status"] {
        let outcome = delivered(target, answer.clone()).await.unwrap();
        assert_eq!(letters(&outcome, 3), "ddu");
        let Outcome::PerRow { error: Some(error), .. } = outcome else { panic!("no reason") };
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
}

/// Rows of one key are one statement; where the server refuses that, the rows go one by one.
#[tokio::test]
async fn a_refused_statement_of_many_rows_is_taken_apart() {
    let answer = |asked: &Asked| {
        let updates = asked.command.get_array("updates").unwrap();
        let bad = |update: &Bson| update.as_document().unwrap().to_string().contains("bad");
        let errors: Vec<_> = updates.iter().zip(0_i32..).filter(|(update, _)| bad(update)).collect();
        let errors = errors.into_iter().map(|(_, at)| doc! { "index": at, "code": 121, "errmsg": "no" });
        let errors: Vec<_> = errors.collect();
        let mut answer = doc! { "ok": 1.0, "n": (updates.len() - errors.len()) as i32 };
        if !errors.is_empty() {
            answer.insert("writeErrors", errors);
        }
        answer
    };
    let mut sink = opened("device_status", &[], answer).await;
    let status = |seq: i64, note: &str| {
        row([("clientid", Value::from("a")), ("seq", Value::from(seq)), ("note", Value::from(note))])
    };
    let rows = vec![status(1, "good"), status(2, "bad"), status(3, "good"), status(4, "bad")];
    assert_eq!(letters(&sink.deliver(&batch(0, rows)).await.unwrap(), 4), "drdr");
}

/// Such a collection takes an `_id` twice: after an attempt in doubt the sink asks before it writes.
#[tokio::test]
async fn a_time_series_is_asked_after_a_doubt_and_only_then() {
    let there: Arc<Mutex<Vec<Document>>> = Arc::default();
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let fail: Arc<Mutex<bool>> = Arc::default();
    let (stored, asked_for, failing) = (there.clone(), log.clone(), fail.clone());
    let answer = move |asked: &Asked| {
        asked_for.lock().unwrap().push(asked.name.clone());
        match asked.name.as_str() {
            "insert" => {
                stored.lock().unwrap().extend(asked.documents.clone());
                if *failing.lock().unwrap() {
                    failed(11600)
                } else {
                    doc! { "ok": 1.0, "n": asked.documents.len() as i32 }
                }
            }
            "find" => {
                let filter = asked.command.get_document("filter").unwrap();
                assert!(filter.contains_key("ts"), "asked without a range of time: {filter}");
                let ids = filter.get_document("_id").unwrap().get_array("$in").unwrap();
                let stored = stored.lock().unwrap();
                let found = stored.iter().filter(|document| ids.contains(document.get("_id").unwrap()));
                let found: Vec<_> =
                    found.map(|document| doc! { "_id": document.get_str("_id").unwrap() }).collect();
                doc! { "ok": 1.0, "cursor": { "id": 0_i64, "ns": "db.t", "firstBatch": found } }
            }
            "listCollections" => {
                doc! { "ok": 1.0, "cursor": { "id": 0_i64, "ns": "db.x", "firstBatch": [] } }
            }
            "create" => {
                let series = asked.command.get_document("timeseries").unwrap();
                assert_eq!(series, &doc! { "timeField": "ts", "metaField": "clientid" });
                doc! { "ok": 1.0 }
            }
            other => panic!("{other}"),
        }
    };
    let options = [("time_series", "true"), ("time_field", "ts"), ("meta_field", "clientid")];
    let mut sink = opened("t", &options, answer).await;
    assert!(sink.wants_recorded_batches());
    let row = |n: i64| row([("clientid", Value::from("a")), ("ts", Value::from(n))]);
    let (first, second) = (batch(0, (0..3).map(row).collect()), batch(3, (3..6).map(row).collect()));
    sink.deliver(&first).await.unwrap();
    *fail.lock().unwrap() = true;
    sink.deliver(&second).await.unwrap_err();
    *fail.lock().unwrap() = false;
    sink.deliver(&second).await.unwrap();
    assert_eq!(there.lock().unwrap().len(), 6, "the answer was lost, the documents were not");
    sink.deliver(&batch(6, vec![row(6)])).await.unwrap();
    let log = log.lock().unwrap().join(" ");
    // The driver tries a write again by itself only where there is a replica set.
    assert_eq!(log, "listCollections create find insert insert find insert");
}

#[tokio::test]
async fn rights_are_checked_without_writing() {
    let privileges = |actions: &[&str], database: &str| {
        let resource = doc! { "db": database, "collection": "" };
        let privilege = doc! { "resource": resource, "actions": actions };
        doc! { "ok": 1.0, "authInfo": {
        "authenticatedUsers": [{ "user": "u", "db": "admin" }], "authenticatedUserPrivileges": [privilege] } }
    };
    let check = async |target: &str, answer: Document| {
        let mut sink = opened(target, &[], move |_| answer.clone()).await;
        sink.check().await.map_err(|error| error.in_words())
    };
    check("t", privileges(&["insert", "find"], "db")).await.unwrap();
    check("t", privileges(&["insert", "find"], "")).await.unwrap();
    let said = check("t", privileges(&["find"], "db")).await.unwrap_err();
    assert_eq!(said, "the user may not insert in db.t");
    let said = check("device_status", privileges(&["insert", "find"], "db")).await.unwrap_err();
    assert_eq!(said, "the user may not update in db.device_status");
    check("t", privileges(&["insert", "find"], "other")).await.unwrap_err();
}
