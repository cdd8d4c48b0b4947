//! Tables of one row a key, and rows that come again.

use muster_sinks::{Memory, Sink};

use crate::db::{Db, batch, batch_at, durable, pipeline, refused, row};

const STATUS: &str = "CREATE TABLE device_status (clientid text PRIMARY KEY, seq bigint NOT NULL CHECK (seq <> 13), \
    event text, reason text, keepalive int, online boolean GENERATED ALWAYS AS (event = 'client.connected') STORED, \
    extra jsonb)";

async fn status(db: &Db) -> Box<dyn Sink> {
    let mut sink = db.sink_into("device_status", &[]);
    sink.open(&pipeline()).await.unwrap();
    sink
}

fn connected(client: &str, seq: u64) -> String {
    format!(r#"{{"clientid":"{client}","seq":{seq},"event":"client.connected","keepalive":60}}"#)
}

fn gone(client: &str, seq: u64) -> String {
    format!(r#"{{"clientid":"{client}","seq":{seq},"event":"client.disconnected","reason":"normal"}}"#)
}

#[tokio::test]
async fn late_rows_turn_nothing_back() {
    let Some(db) = Db::new(STATUS).await else { return };
    let mut sink = status(&db).await;
    let all = "SELECT clientid, seq, online, reason, keepalive FROM device_status ORDER BY 1";
    let first = [connected("a", 1), connected("b", 2), gone("a", 5), connected("c", 3)];
    durable(&mut sink, &batch(&first.each_ref().map(String::as_str))).await;
    // What the newer row does not name stays, in one batch as over two.
    assert_eq!(db.text(all).await, "a 5 f normal 60\nb 2 t - 60\nc 3 t - 60");
    let late =
        [connected("a", 4), gone("b", 2), gone("c", 9), connected("c", 8), connected("c", 10), gone("c", 7)];
    durable(&mut sink, &batch(&late.each_ref().map(String::as_str))).await;
    assert_eq!(db.text(all).await, "a 5 f normal 60\nb 2 t - 60\nc 10 t normal 60");
    let found = refused(&mut sink, &batch(&[r#"{"clientid":"d"}"#, r#"{"seq":1}"#])).await;
    assert!(found[0].1.contains("column `seq`, by which newer rows are told, is missing"), "{found:?}");
    assert!(found[1].1.contains("column `clientid`, which is the table's key, is missing"), "{found:?}");
}

#[tokio::test]
async fn a_refused_row_of_a_key_is_told_from_the_others() {
    let Some(db) = Db::new(STATUS).await else { return };
    let mut sink = status(&db).await;
    let rows = [connected("a", 12), gone("a", 13), connected("a", 14), connected("b", 13)];
    let found = refused(&mut sink, &batch(&rows.each_ref().map(String::as_str))).await;
    assert_eq!(found.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1, 3], "{found:?}");
    durable(&mut sink, &batch(&[&rows[0], &rows[2]])).await;
    assert_eq!(db.text("SELECT clientid, seq FROM device_status").await, "a 14");
}

#[tokio::test]
async fn keys_that_only_the_database_takes_for_one_are_no_trouble() {
    let table = "CREATE TABLE t (k numeric PRIMARY KEY, g float8, v text)";
    let Some(db) = Db::new(table).await else { return };
    let mut sink = db.opened(&[("key.t", "k"), ("guard.t", "g")]).await;
    let rows = batch(&[r#"{"k":"1","g":1,"v":"a"}"#, r#"{"k":"1.0","g":2,"v":"b"}"#]);
    durable(&mut sink, &rows).await;
    assert_eq!(db.text("SELECT v FROM t").await, "b");
    // Without a guard the later row wins.
    let mut sink = db.opened(&[("key.t", "k")]).await;
    durable(&mut sink, &batch(&[r#"{"k":1,"v":"c"}"#, r#"{"k":1,"v":"d"}"#])).await;
    assert_eq!(db.text("SELECT v FROM t").await, "d");
}

#[tokio::test]
async fn rows_that_come_again_double_nothing() {
    let table = "CREATE TABLE t (n bigint, at timestamptz DEFAULT '2000-01-01', _event_id uuid, _rule text, _row int); \
                 CREATE UNIQUE INDEX ON t (_event_id, _rule, _row, at)";
    let Some(db) = Db::new(table).await else { return };
    let mut sink = db.opened(&[]).await;
    let rows = |range: std::ops::Range<u64>| {
        batch_at(range.start, range.map(|n| row(&format!(r#"{{"n":{n}}}"#))).collect())
    };
    let count = "SELECT count(*), count(DISTINCT n) FROM t";
    durable(&mut sink, &rows(0..100)).await;
    // A reset to an earlier place: the same events in other batches, some of them new.
    for range in [50..120, 0..100, 120..130, 100..200] {
        durable(&mut sink, &rows(range)).await;
    }
    assert_eq!(db.text(count).await, "200 200");
    assert_eq!(db.text("SELECT n FROM t WHERE encode(uuid_send(_event_id), 'hex') LIKE '%05'").await, "5");
    // The very batch again, as after an answer that was lost.
    let again = rows(200..210);
    durable(&mut sink, &again).await;
    let mut sink = db.sink(&[]);
    assert_eq!(sink.open(&pipeline()).await.unwrap(), Memory::At(again.after));
    durable(&mut sink, &again).await;
    assert_eq!(db.text(count).await, "210 210");
}
