//! A document a key: the newest wins, whatever comes late or twice.

use std::collections::BTreeMap;

use mongodb::bson::{Document, doc};
use muster_core::value::{Row, Value};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::{Fixture, batch, letters, reason, row};

fn status(client: &str, seq: i64, event: &str) -> Row {
    row([("clientid", Value::from(client)), ("seq", Value::from(seq)), ("event", Value::from(event))])
}

async fn by_client(fixture: &Fixture, collection: &str) -> BTreeMap<String, Document> {
    let all = fixture.all(collection).await.into_iter();
    all.map(|found| (found.get_str("clientid").unwrap().to_owned(), found)).collect()
}

#[tokio::test]
async fn a_late_row_changes_nothing_and_counts_as_delivered() {
    let Some(fixture) = Fixture::new().await else { return };
    let mut sink = fixture.opened("device_status", &[]).await;
    let (on, off) = ("client.connected", "client.disconnected");
    let mut connected = status("a", 5, on);
    connected.insert("keepalive", 60_i64);
    let first = batch(0, vec![connected, status("b", 7, on), status("b", 9, off)]);
    for late in [
        first.clone(),
        first.clone(),
        // Late rows before, between and after one that is new.
        batch(3, vec![status("b", 8, on), status("a", 6, off), status("c", 1, on), status("b", 1, on)]),
        first,
        batch(3, vec![status("b", 8, on), status("a", 6, off), status("c", 1, on), status("b", 1, on)]),
    ] {
        let outcome = sink.deliver(&late).await.unwrap();
        assert_eq!(letters(&outcome, late.len()), "d".repeat(late.len()));
    }
    let found = by_client(&fixture, "device_status").await;
    let a = doc! { "_id": "a", "clientid": "a", "seq": 6_i64, "event": off, "keepalive": 60_i64, "online": false };
    assert_eq!(sorted(&found["a"]), sorted(&a), "columns that a newer row lacks stay");
    assert_eq!((found["b"].get_i64("seq").unwrap(), found["b"].get_bool("online").unwrap()), (9, false));
    assert_eq!((found["c"].get_i64("seq").unwrap(), found["c"].get_bool("online").unwrap()), (1, true));
    assert_eq!(found.len(), 3);
}

fn sorted(document: &Document) -> BTreeMap<String, mongodb::bson::Bson> {
    document.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Batches of the history of some clients, again and again and in any order: the end is the newest row of each.
#[tokio::test]
async fn batches_in_any_order_end_at_the_newest_rows() {
    let Some(fixture) = Fixture::new().await else { return };
    for seed in 0..3 {
        eprintln!("SEED={seed}");
        let mut rng = SmallRng::seed_from_u64(seed);
        let table = format!("status_{seed}");
        let options = [(format!("key.{table}"), "clientid"), (format!("guard.{table}"), "seq")];
        let options: Vec<_> = options.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let mut sink = fixture.opened(&table, &options).await;
        let mut newest: BTreeMap<String, i64> = BTreeMap::new();
        let rows: Vec<Row> = (0..400_i64)
            .map(|seq| {
                let client = format!("c{}", rng.random_range(0..20));
                newest.insert(client.clone(), seq);
                status(&client, seq, "e")
            })
            .collect();
        let mut batches: Vec<_> = rows.chunks(37).map(<[Row]>::to_vec).zip((0..).step_by(37)).collect();
        batches.extend(batches.clone());
        batches.shuffle(&mut rng);
        for (rows, first) in batches {
            let many = rows.len();
            let outcome = sink.deliver(&batch(first, rows)).await.unwrap();
            assert_eq!(letters(&outcome, many), "d".repeat(many));
        }
        let found = by_client(&fixture, &table).await;
        let found: BTreeMap<_, _> =
            found.into_iter().map(|(client, found)| (client, found.get_i64("seq").unwrap())).collect();
        assert_eq!(found, newest);
    }
}

#[tokio::test]
async fn a_key_of_many_columns_and_rows_that_do_not_fit() {
    let Some(fixture) = Fixture::new().await else { return };
    let mut sink = fixture.opened("latest", &[("key.latest", "site, n")]).await;
    let place = |site: &str, n: i64, temp: f64| {
        row([("site", Value::from(site)), ("n", Value::from(n)), ("temp", Value::from(temp))])
    };
    let mut odd = place("a", 3, 1.0);
    odd.insert("payload.temp", 3.0);
    let rows = vec![
        place("a", 1, 1.0),
        place("b", 1, 2.0),
        odd,
        row([("n", Value::from(1_i64))]),
        place("a", 1, 3.0),
    ];
    let outcome = sink.deliver(&batch(0, rows)).await.unwrap();
    assert_eq!(letters(&outcome, 5), "ddrrd");
    assert!(reason(&outcome, 2).contains("cannot be named `payload.temp`"));
    assert!(reason(&outcome, 3).contains("lacks the key column `site`"));
    let mut temps: Vec<_> = fixture.all("latest").await;
    temps.sort_by_key(|found| found.get_f64("temp").unwrap() as i64);
    let ids: Vec<_> = temps.iter().map(|found| found.get_document("_id").unwrap().clone()).collect();
    assert_eq!(ids, [doc! { "site": "b", "n": 1_i64 }, doc! { "site": "a", "n": 1_i64 }]);
}

#[tokio::test]
async fn another_unique_index_refuses_a_status_and_no_other() {
    let Some(fixture) = Fixture::new().await else { return };
    let index = doc! { "key": { "badge": 1 }, "name": "badges", "unique": true };
    fixture
        .database
        .run_command(doc! { "createIndexes": "device_status", "indexes": [index] })
        .await
        .unwrap();
    let mut sink = fixture.opened("device_status", &[]).await;
    let with = |client: &str, seq: i64, badge: i64| {
        let mut row = status(client, seq, "client.connected");
        row.insert("badge", badge);
        row
    };
    let rows = vec![with("a", 1, 1), with("b", 1, 1), with("c", 1, 3), with("a", 2, 1)];
    for _ in 0..2 {
        let outcome = sink.deliver(&batch(0, rows.clone())).await.unwrap();
        assert_eq!(letters(&outcome, 4), "drdd");
    }
    assert_eq!(by_client(&fixture, "device_status").await.len(), 2);
}
