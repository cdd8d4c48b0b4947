//! Rows that replace each other, and rows that grow old, in SQLite. What it does with values and columns is tested
//! beside its code, what every sink must do in the contract.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]
#![allow(unreachable_pub, reason = "shared test code")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use expect_test::expect;
use muster_core::clock::{Clock, ManualClock};
use muster_core::event::NewEvent;
use muster_core::value::{Row, Value};
use muster_sinks::database::Databases;
use muster_sinks::{ErrorKind, Outcome, Sink, SinkEnv, SinkError};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rusqlite::Connection;
use support::{batch, opened, publish, refused, row};

const HOUR_MS: i64 = 60 * 60 * 1000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// A pipeline's sink, and its rule.
struct Target(&'static str, Box<dyn Sink>);

impl Target {
    async fn deliver(&mut self, first: u64, rows: Vec<(NewEvent, Row)>) -> Result<Outcome, SinkError> {
        self.1.deliver(&batch(self.0, first, rows)).await
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
    env: SinkEnv,
    next: u64,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(100 * DAY_MS);
        let env = SinkEnv {
            data_dir: dir.path().to_owned(),
            databases: Databases::default(),
            clock: clock.clone(),
        };
        Self { dir, clock, env, next: 0 }
    }

    async fn sink(&self, rule: &'static str, table: &str, options: &[(&str, &str)]) -> Target {
        Target(rule, opened("sqlite", (rule, Some(table)), &self.env, options).await.unwrap())
    }

    fn sql(&self) -> Connection {
        Connection::open(self.dir.path().join("muster.db")).unwrap()
    }

    fn dump(&self, sql: &str) -> String {
        let connection = self.sql();
        let mut statement = connection.prepare(sql).unwrap();
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            let cell = |at| match row.get::<_, rusqlite::types::Value>(at).unwrap() {
                rusqlite::types::Value::Null => "-".to_owned(),
                rusqlite::types::Value::Integer(int) => int.to_string(),
                rusqlite::types::Value::Text(text) => text,
                other => format!("{other:?}"),
            };
            Ok((0..columns).map(cell).collect::<Vec<_>>().join(" | "))
        });
        rows.unwrap().map(|row| row.unwrap() + "\n").collect()
    }

    fn count(&self, table: &str) -> usize {
        self.dump(&format!("SELECT count(*) FROM {table}")).trim().parse().unwrap()
    }

    /// Delivers rows that are of now.
    async fn put(&mut self, sink: &mut Target, rows: &[&str]) -> Result<Outcome, SinkError> {
        let rows: Vec<_> =
            rows.iter().map(|json| (publish("c", "x", self.clock.wall_ms()), row(json))).collect();
        self.next += rows.len() as u64;
        sink.deliver(self.next - rows.len() as u64, rows).await
    }
}

const STATUS: &str = "SELECT clientid, event, reason, seq FROM device_status ORDER BY clientid";

#[tokio::test]
async fn a_status_holds_one_row_a_client_and_never_goes_back() {
    let mut fixture = Fixture::new();
    let mut sink = fixture.sink("status", "device_status", &[]).await;
    let came = r#"{"clientid":"a","event":"connected","reason":null,"seq":5}"#;
    let outcome = fixture.put(&mut sink, &[came]).await.unwrap();
    let Outcome::Durable(durable) = outcome else { panic!("{outcome:?}") };
    expect![[r#"
        CREATE TABLE "device_status" (
          "clientid" TEXT,
          "event" TEXT,
          "reason",
          "seq" INTEGER,
          "_event_id" TEXT NOT NULL,
          "_rule" TEXT NOT NULL,
          "_row" INTEGER NOT NULL,
          PRIMARY KEY ("clientid")
        ) WITHOUT ROWID;"#]]
    .assert_eq(&durable.notes().join("\n"));
    // Late, repeated, another client, and newer: what a row does not say is not left over from the one before.
    let late = r#"{"clientid":"a","event":"disconnected","reason":"late","seq":4}"#;
    let again = r#"{"clientid":"a","event":"disconnected","reason":"again","seq":5}"#;
    let other = r#"{"clientid":"b","event":"disconnected","reason":"normal","seq":1}"#;
    assert_eq!(refused(fixture.put(&mut sink, &[late, again, other]).await), [""; 0]);
    assert_eq!(fixture.dump(STATUS), "a | connected | - | 5\nb | disconnected | normal | 1\n");
    let rows = vec![(
        publish("b", "x", 0),
        [
            ("clientid", "b".into()),
            ("event", "connected".into()),
            ("reason", Value::Undefined),
            ("seq", 2_i64.into()),
        ]
        .into_iter()
        .collect(),
    )];
    assert_eq!(refused(sink.deliver(90, rows).await), [""; 0]);
    let alarm = fixture.put(&mut sink, &[r#"{"clientid":"b","alarm":1,"seq":3}"#]).await;
    assert_eq!(refused(alarm), [""; 0]);
    assert_eq!(fixture.dump(STATUS), "a | connected | - | 5\nb | connected | - | 3\n");
    let missing = [r#"{"event":"connected","seq":9}"#, r#"{"clientid":"a"}"#, r#"{"clientid":null,"seq":9}"#];
    expect![[r#"
        the row has no `clientid`, of which `device_status` holds one row each
        the row has no `seq`, which tells newer rows of `device_status` from older ones
        the row has no `clientid`, of which `device_status` holds one row each"#]]
    .assert_eq(&refused(fixture.put(&mut sink, &missing).await).join("\n"));
}

#[tokio::test]
async fn in_whatever_order_rows_come_the_newest_stays() {
    for seed in 0..8 {
        eprintln!("SEED={seed}");
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut fixture = Fixture::new();
        let mut sinks = [
            fixture.sink("came", "device_status", &[]).await,
            fixture.sink("went", "device_status", &[]).await,
        ];
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        for _ in 0..40 {
            let rows: Vec<_> = (0..rng.random_range(1..20))
                .map(|_| {
                    let (client, seq) = (format!("c{}", rng.random_range(0..9)), rng.random_range(0..500));
                    newest.entry(client.clone()).and_modify(|was| *was = seq.max(*was)).or_insert(seq);
                    format!(r#"{{"clientid":"{client}","says":"{client} {seq}","seq":{seq}}}"#)
                })
                .collect();
            let rows: Vec<_> = rows.iter().map(String::as_str).collect();
            let sink = &mut sinks[rng.random_range(0..2)];
            assert_eq!(refused(fixture.put(sink, &rows).await), [""; 0]);
            if rng.random_bool(0.3) {
                // The answer was lost: the same again.
                fixture.next -= rows.len() as u64;
                assert_eq!(refused(fixture.put(sink, &rows).await), [""; 0]);
            }
        }
        let expected: String =
            newest.iter().map(|(client, seq)| format!("{client} | {client} {seq} | {seq}\n")).collect();
        assert_eq!(fixture.dump("SELECT clientid, says, seq FROM device_status ORDER BY clientid"), expected);
    }
}

#[tokio::test]
async fn a_table_that_was_there_before_gets_its_key_or_says_why_not() {
    let mut fixture = Fixture::new();
    // As an earlier version made it: one row an event.
    fixture
        .sql()
        .execute_batch(
            "CREATE TABLE device_status (clientid TEXT, event TEXT, reason TEXT, seq INTEGER, \
             _event_id TEXT NOT NULL, _rule TEXT NOT NULL, _row INTEGER NOT NULL, \
             PRIMARY KEY (_event_id, _rule, _row)) WITHOUT ROWID; \
             INSERT INTO device_status VALUES ('a', 'connected', NULL, 3, 'E1', 'status', 0), \
             ('a', 'disconnected', 'gone', 7, 'E2', 'status', 0), ('b', 'connected', NULL, NULL, 'E3', 'status', 0)",
        )
        .unwrap();
    let mut sink = fixture.sink("status", "device_status", &[]).await;
    let rows = [
        r#"{"clientid":"a","event":"connected","reason":"late","seq":6}"#,
        r#"{"clientid":"b","event":"disconnected","reason":"first","seq":1}"#,
    ];
    let error = fixture.put(&mut sink, &rows).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    expect!["the table `device_status` is to hold one row for each `clientid`, but has several for some; delete the older rows of each, or let the rule write into a table of another name"]
        .assert_eq(&format!("{}; {}", error.in_words(), error.hint()));
    assert_eq!(fixture.count("device_status"), 3, "nothing was changed");
    fixture.sql().execute_batch("DELETE FROM device_status WHERE seq = 3").unwrap();
    for _ in 0..2 {
        assert_eq!(refused(fixture.put(&mut sink, &rows).await), [""; 0]);
        fixture.next -= 2;
        assert_eq!(fixture.dump(STATUS), "a | disconnected | gone | 7\nb | disconnected | first | 1\n");
    }
    // A table of somebody's own, with the key and nothing of ours.
    fixture.sql().execute_batch("CREATE TABLE mine (clientid TEXT PRIMARY KEY, seq INTEGER)").unwrap();
    let mut mine = fixture.sink("mine", "mine", &[("key.mine", "ClientId"), ("guard.mine", "seq")]).await;
    let rows = [r#"{"clientid":"a","seq":6}"#, r#"{"clientid":"a","seq":5}"#];
    assert_eq!(refused(fixture.put(&mut mine, &rows).await), [""; 0]);
    assert_eq!(fixture.dump("SELECT clientid, seq FROM mine"), "a | 6\n");
    assert_eq!(fixture.dump("SELECT count(*) FROM sqlite_master WHERE name LIKE '_muster_%mine'"), "0\n");
}

#[tokio::test]
async fn a_key_of_several_columns_without_a_guard_lets_the_later_win_and_may_change() {
    let mut fixture = Fixture::new();
    fixture.sql().execute_batch("CREATE TABLE t (site TEXT, line INTEGER, v INTEGER, x INTEGER)").unwrap();
    let mut sink = fixture.sink("r", "t", &[("key.t", "site, line"), ("key.other", "x")]).await;
    let rows = [
        r#"{"site":"a","line":1,"v":1}"#,
        r#"{"site":"a","line":2,"v":2}"#,
        r#"{"site":"a","line":1,"v":3}"#,
    ];
    assert_eq!(refused(fixture.put(&mut sink, &rows).await), [""; 0]);
    assert_eq!(fixture.dump("SELECT site, line, v FROM t ORDER BY line"), "a | 1 | 3\na | 2 | 2\n");
    let mut sink = fixture.sink("r", "t", &[("key.t", "v")]).await;
    assert_eq!(refused(fixture.put(&mut sink, &[r#"{"site":"b","v":3}"#]).await), [""; 0]);
    assert_eq!(fixture.dump("SELECT site, line, v FROM t ORDER BY v"), "a | 2 | 2\nb | 1 | 3\n");
}

#[tokio::test]
async fn what_is_wrong_with_the_options_is_named() {
    let fixture = Fixture::new();
    let mut said = String::new();
    for options in [
        &[("retain_days", "-1")][..],
        &[("retain_days", "30d")],
        &[("retain_days.t", "x")],
        &[("guard.t", "seq")],
        &[("key.t", "a,")],
        &[("retain_hours", "3")],
    ] {
        let error = opened("sqlite", ("r", Some("t")), &fixture.env, options).await.err().unwrap();
        said += &(error.in_words().split("; known").next().unwrap().to_owned() + "\n");
    }
    expect![[r#"
        option `retain_days` of the sqlite sink `sink` must be a whole number of days, 0 for ever
        option `retain_days` of the sqlite sink `sink` must be a whole number of days, 0 for ever
        option `retain_days.t` of the sqlite sink `sink` must be a whole number of days, 0 for ever
        option `guard.t` of the sqlite sink `sink` is of no use without `key.t`
        option `key.t` of the sqlite sink `sink` names a column without a name
        a sqlite sink has no option `retain_hours`; did you mean `retain_days`?
    "#]]
    .assert_eq(&said);
}

/// `many` rows of each of the days `days` before now, oldest first, in batches of `many`.
async fn fill(fixture: &mut Fixture, sink: &mut Target, days: std::ops::Range<i64>, many: u64) {
    for day in days.rev() {
        let at_ms = fixture.clock.wall_ms() - day * DAY_MS;
        let rows = (0..many).map(|n| {
            let client = format!("d{day}-{n}");
            (publish(&client, "x", at_ms), row(&format!(r#"{{"clientid":"{client}","day":{day},"seq":1}}"#)))
        });
        let rows = rows.collect();
        assert_eq!(refused(sink.deliver(fixture.next, rows).await), [""; 0]);
        fixture.next += many;
    }
}

#[tokio::test]
async fn old_rows_go_in_bounded_steps_and_no_others() {
    let mut fixture = Fixture::new();
    let (mut kept, mut now) = (fixture.sink("a", "kept", &[]).await, fixture.sink("b", "t", &[]).await);
    for day in (0..10).rev() {
        fill(&mut fixture, &mut kept, day..day + 1, 10).await;
        fill(&mut fixture, &mut now, day..day + 1, 900).await;
    }
    fixture
        .sql()
        .execute_batch("INSERT INTO t (day, _event_id, _rule, _row) VALUES (99, '0', 'mine', 0)")
        .unwrap();
    assert_eq!(fixture.count("t"), 9_001);
    // Switched on later: what was written before counts, too.
    let days = [("retain_days", "3"), ("retain_days.kept", "0")];
    let mut sink = fixture.sink("b", "t", &days).await;
    let mut steps = Vec::new();
    for _ in 0..5 {
        // Nothing to write, only the cursor moves.
        assert_eq!(refused(sink.deliver(fixture.next, Vec::new()).await), [""; 0]);
        steps.push(fixture.count("t"));
    }
    assert_eq!(steps, [7_001, 5_001, 3_601, 3_601, 3_601]);
    expect![[r#"
        0 | 900
        1 | 900
        2 | 900
        3 | 900
        99 | 1
    "#]]
    .assert_eq(&fixture.dump("SELECT day, count(*) FROM t GROUP BY day"));
    // An hour later at the latest what is three days old goes, with the next rows.
    fixture.clock.advance(Duration::from_millis(HOUR_MS as u64));
    fill(&mut fixture, &mut sink, 0..1, 1).await;
    assert_eq!(fixture.dump("SELECT count(*) FROM t WHERE day = 3"), "0\n");
    let mut kept = fixture.sink("a", "kept", &days).await;
    fill(&mut fixture, &mut kept, 0..1, 1).await;
    assert_eq!(fixture.count("kept"), 101);
}

#[tokio::test]
async fn devices_that_are_long_gone_leave_the_status_too() {
    let mut fixture = Fixture::new();
    let days = [("retain_days.device_status", "7")];
    let mut sink = fixture.sink("s", "device_status", &days).await;
    fill(&mut fixture, &mut sink, 0..20, 3).await;
    fixture.clock.advance(Duration::from_millis(HOUR_MS as u64));
    // Back after a long time.
    let back = fixture.put(&mut sink, &[r#"{"clientid":"d19-0","day":0,"seq":2}"#]).await;
    assert_eq!(refused(back), [""; 0]);
    let days = fixture.dump("SELECT day, count(*) FROM device_status GROUP BY day ORDER BY day");
    assert_eq!(days, "0 | 4\n1 | 3\n2 | 3\n3 | 3\n4 | 3\n5 | 3\n6 | 3\n");
    assert_eq!(
        fixture.dump("SELECT count(*) FROM sqlite_master WHERE name = '_muster_age_device_status'"),
        "1\n"
    );
}

#[tokio::test]
async fn rows_that_somebody_else_holds_hold_up_nothing() {
    let mut fixture = Fixture::new();
    let mut sink = fixture.sink("b", "t", &[]).await;
    fill(&mut fixture, &mut sink, 0..10, 2).await;
    fixture
        .sql()
        .execute_batch("CREATE TRIGGER hold BEFORE DELETE ON t BEGIN SELECT raise(ABORT, 'no row goes'); END")
        .unwrap();
    let mut sink = fixture.sink("b", "t", &[("retain_days", "1")]).await;
    match fixture.put(&mut sink, &[r#"{"clientid":"x"}"#]).await.unwrap() {
        Outcome::Durable(durable) => {
            assert!(durable.notes().join(" ").contains("no row goes"), "{durable:?}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fixture.count("t"), 21);
}
