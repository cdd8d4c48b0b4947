//! What only SQLite does; the contract suite tests what every sink must do.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use expect_test::expect;
use muster_core::clock::ManualClock;
use muster_core::event::{EventKind, NewEvent, proto};
use muster_core::value::{Row, Value};
use rusqlite::Connection;

use crate::database::Databases;
use crate::registry::{SinkEnv, SinkSpec, build};
use crate::sink::{
    Batch, BatchRow, Checkpoint, Cursor, Memory, Outcome, PipelineId, RowOutcome, Sink, Totals,
};
use crate::{ErrorKind, SinkError};

struct Fixture {
    dir: tempfile::TempDir,
    env: SinkEnv,
    pipeline: Arc<PipelineId>,
    offset: u64,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let env = SinkEnv {
            data_dir: dir.path().to_owned(),
            databases: Databases::default(),
            clock: ManualClock::at(7),
        };
        Self { dir, env, pipeline: Arc::new(PipelineId::new("rule", "sqlite", "t")), offset: 0 }
    }

    fn sink(&self, target: &str) -> Result<Box<dyn Sink>, SinkError> {
        self.sink_at("muster.db", target)
    }

    fn sink_at(&self, path: &str, target: &str) -> Result<Box<dyn Sink>, SinkError> {
        let options = BTreeMap::from([("path".to_owned(), path.to_owned())]);
        let spec =
            SinkSpec { kind: "sqlite", name: "s", target: Some(target), rule: "rule", options: &options };
        Ok(build(&spec, &self.env)?.sink)
    }

    async fn opened(&self, target: &str) -> Box<dyn Sink> {
        let mut sink = self.sink(target).unwrap();
        sink.open(&self.pipeline).await.unwrap();
        sink
    }

    /// A batch of events with one row each.
    fn batch(&mut self, rows: Vec<Row>) -> Batch {
        let rows: Vec<BatchRow> = rows
            .into_iter()
            .map(|row| {
                let event = NewEvent {
                    timestamp_ms: 0,
                    kind: EventKind::MessagePublish,
                    topic: "t".into(),
                    body: proto::Event::default(),
                };
                self.offset += 1;
                BatchRow { event: Arc::new(event.at(1 << 100, self.offset - 1)), index: 0, row: row.into() }
            })
            .collect();
        let many = self.offset;
        let totals = Totals { matched: many, delivered: many, dead: 0 };
        let after = Checkpoint { log_id: 1 << 100, cursor: Cursor::at(many), totals };
        let picked = (0..rows.len() as u32).collect();
        Batch::new(self.pipeline.clone(), after, 1, Arc::new(rows), picked)
    }

    fn sql(&self) -> Connection {
        Connection::open(self.dir.path().join("muster.db")).unwrap()
    }

    fn dump(&self, sql: &str) -> String {
        let connection = self.sql();
        let mut statement = connection.prepare(sql).unwrap();
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            let cells = (0..columns).map(|at| row.get::<_, rusqlite::types::Value>(at).unwrap());
            Ok(cells.map(|cell| format!("{cell:?}")).collect::<Vec<_>>().join(" | "))
        });
        rows.unwrap().map(|row| row.unwrap() + "\n").collect()
    }
}

fn row<const N: usize>(columns: [(&str, Value); N]) -> Row {
    columns.into_iter().collect()
}

fn durable(outcome: Outcome) -> Vec<String> {
    match outcome {
        Outcome::Durable(durable) => durable.notes().to_vec(),
        other => panic!("not durable: {other:?}"),
    }
}

fn refused(outcome: Outcome) -> Vec<Option<String>> {
    let Outcome::PerRow { rows, error: None } = outcome else { panic!("{outcome:?}") };
    let reason = |row: &RowOutcome| match row {
        RowOutcome::Rejected(error) => Some(error.in_words()),
        RowOutcome::Untried => None,
        RowOutcome::Durable => panic!("nothing is durable in a batch that was taken back"),
    };
    rows.iter().map(reason).collect()
}

#[tokio::test]
async fn each_value_has_its_type_and_a_new_column_its_migration() {
    let mut fixture = Fixture::new();
    let mut sink = fixture.opened("a \"quoted\" table").await;
    let first = row([
        ("int", Value::Int(42)),
        ("big", u64::MAX.into()),
        ("float", 1.5.into()),
        ("flag", true.into()),
        ("text", "Grüße".into()),
        ("raw", Bytes::from_static(&[0xff, 0]).into()),
        ("map", Value::Map(row([("a", Value::Int(1))]))),
        ("list", vec![Value::Null, Value::Int(2)].into()),
        ("null", Value::Null),
        ("gone", Value::Undefined),
    ]);
    let second = row([("int", Value::Int(43)), ("née; DROP TABLE x", "new".into())]);
    let notes = durable(sink.deliver(&fixture.batch(vec![first])).await.unwrap());
    expect![[r#"
        CREATE TABLE "a ""quoted"" table" (
          "int" INTEGER,
          "big" TEXT,
          "float" REAL,
          "flag" INTEGER,
          "text" TEXT,
          "raw" BLOB,
          "map" TEXT,
          "list" TEXT,
          "null",
          "gone",
          "_event_id" TEXT NOT NULL,
          "_rule" TEXT NOT NULL,
          "_row" INTEGER NOT NULL,
          PRIMARY KEY ("_event_id", "_rule", "_row")
        ) WITHOUT ROWID;"#]]
    .assert_eq(&notes.join("\n"));
    let notes = durable(sink.deliver(&fixture.batch(vec![second])).await.unwrap());
    expect![[r#"ALTER TABLE "a ""quoted"" table" ADD COLUMN "née; DROP TABLE x" TEXT;"#]]
        .assert_eq(&notes.join("\n"));
    expect![[r#"
        Integer(42) | Text("18446744073709551615") | Real(1.5) | Integer(1) | Text("Grüße") | Blob([255, 0]) | Text("{\"a\":1}") | Text("[null,2]") | Null | Null | Text("00000010000000000000000000000000") | Text("rule") | Integer(0) | Null
        Integer(43) | Null | Null | Null | Null | Null | Null | Null | Null | Null | Text("00000010000000000000000000000001") | Text("rule") | Integer(0) | Text("new")
    "#]]
    .assert_eq(&fixture.dump("SELECT * FROM \"a \"\"quoted\"\" table\" ORDER BY _event_id"));
}

#[tokio::test]
async fn columns_come_in_the_rules_order_and_an_absent_value_waits_for_its_type() {
    let mut fixture = Fixture::new();
    let mut sink = fixture.opened("history").await;
    let came =
        row([("id", "a".into()), ("reason", Value::Undefined), ("was", Value::Null), ("at", Value::Int(1))]);
    let went =
        row([("id", "a".into()), ("reason", "normal".into()), ("was", 1.5.into()), ("at", Value::Int(2))]);
    let notes = durable(sink.deliver(&fixture.batch(vec![came, went])).await.unwrap());
    expect![[r#"
        CREATE TABLE "history" (
          "id" TEXT,
          "reason" TEXT,
          "was" REAL,
          "at" INTEGER,
          "_event_id" TEXT NOT NULL,
          "_rule" TEXT NOT NULL,
          "_row" INTEGER NOT NULL,
          PRIMARY KEY ("_event_id", "_rule", "_row")
        ) WITHOUT ROWID;"#]]
    .assert_eq(&notes.join("\n"));
}

#[tokio::test]
async fn the_same_row_again_is_left_as_it_is_and_other_rules_have_theirs() {
    let mut fixture = Fixture::new();
    let mut sink = fixture.opened("t").await;
    let batch = fixture.batch(vec![row([("a", Value::Int(1))]), row([("a", Value::Int(2))])]);
    durable(sink.deliver(&batch).await.unwrap());
    durable(sink.deliver(&batch).await.unwrap());
    fixture.pipeline = Arc::new(PipelineId::new("other", "sqlite", "t"));
    let mut other = fixture.opened("t").await;
    let mut batch = batch.clone();
    batch.pipeline = fixture.pipeline.clone();
    durable(other.deliver(&batch).await.unwrap());
    expect![[r#"
        Integer(1) | Text("other")
        Integer(1) | Text("rule")
        Integer(2) | Text("other")
        Integer(2) | Text("rule")
    "#]]
    .assert_eq(&fixture.dump("SELECT a, _rule FROM t ORDER BY 1, 2"));
}

#[tokio::test]
async fn a_table_of_the_users_own_is_used_and_its_constraints_hold() {
    let mut fixture = Fixture::new();
    fixture.sql().execute_batch("CREATE TABLE t (a INTEGER UNIQUE); INSERT INTO t VALUES (1), (2)").unwrap();
    let mut sink = fixture.opened("t").await;
    let batch = fixture.batch(vec![row([("a", Value::Int(3))]), row([("a", Value::Int(2))])]);
    let refused_rows = refused(sink.deliver(&batch).await.unwrap());
    assert_eq!(refused_rows, [None, Some("UNIQUE constraint failed: t.a".to_owned())]);
    assert_eq!(fixture.dump("SELECT count(*) FROM t"), "Integer(2)\n", "nothing of the batch stays");
    let notes = durable(sink.deliver(&fixture.batch(vec![row([("a", Value::Int(3))])])).await.unwrap());
    assert_eq!(notes.len(), 4, "three columns and an index: {notes:?}");
    assert_eq!(fixture.dump("SELECT count(*), count(_event_id) FROM t"), "Integer(3) | Integer(1)\n");
}

#[tokio::test]
async fn rows_that_no_table_can_hold_are_refused_with_words() {
    let mut fixture = Fixture::new();
    let mut sink = fixture.opened("t").await;
    let wide: Row = (0..1001).map(|at| (format!("c{at}"), Value::Int(at))).collect();
    let batch = fixture.batch(vec![
        row([("Temp", Value::Int(1)), ("temp", Value::Int(2))]),
        row([("_Row", Value::Int(1))]),
        row([("ok", Value::Int(1))]),
        wide,
    ]);
    let reasons = refused(sink.deliver(&batch).await.unwrap());
    let reasons: Vec<_> = reasons.into_iter().map(|reason| reason.unwrap_or_default()).collect();
    expect![[r#"
        the row has the column `temp` twice; SQLite does not tell case apart
        the column name `_Row` is reserved; give it an alias

        the table would have more than 1000 columns"#]]
    .assert_eq(&reasons.join("\n"));
}

#[tokio::test]
async fn the_target_remembers_and_fences_the_one_before() {
    let mut fixture = Fixture::new();
    let mut first = fixture.sink("t").unwrap();
    assert_eq!(first.open(&fixture.pipeline).await.unwrap(), Memory::Fresh);
    let batch = fixture.batch(vec![row([("a", Value::Int(1))])]);
    durable(first.deliver(&batch).await.unwrap());
    let mut second = fixture.sink("t").unwrap();
    assert_eq!(second.open(&fixture.pipeline).await.unwrap(), Memory::At(batch.after));
    let late = fixture.batch(vec![row([("a", Value::Int(2))])]);
    assert_eq!(first.deliver(&late).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(fixture.dump("SELECT count(*) FROM t"), "Integer(1)\n");
    durable(second.deliver(&late).await.unwrap());
}

#[tokio::test]
async fn what_is_wrong_with_the_file_has_its_kind() {
    let fixture = Fixture::new();
    let dir = fixture.dir.path();
    std::fs::write(
        dir.join("text.db"),
        "this is no database, but it is long enough to be looked at".repeat(30),
    )
    .unwrap();
    fixture.sql().execute_batch("CREATE TABLE real (a); CREATE VIEW seen AS SELECT a FROM real").unwrap();
    for (path, kind) in [("missing/x.db", ErrorKind::Misconfigured), ("text.db", ErrorKind::Fatal)] {
        let error = fixture.sink_at(path, "t").unwrap().open(&fixture.pipeline).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{path}: {}", error.in_words());
        assert!(error.in_words().contains(path), "{}", error.in_words());
    }
    let mut fixture = fixture;
    let mut view = fixture.opened("seen").await;
    let error = view.deliver(&fixture.batch(vec![row([("a", Value::Int(1))])])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{}", error.in_words());
    let lock = fixture.sql();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut sink = fixture.sink("t").unwrap();
    let error = sink.open(&fixture.pipeline).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.in_words());
    lock.execute_batch("ROLLBACK").unwrap();
    sink.open(&fixture.pipeline).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_takes_back_all_and_passes() {
    let mut fixture = Fixture::new();
    let mut sink = fixture.opened("t").await;
    durable(sink.deliver(&fixture.batch(vec![row([("a", "x".into())])])).await.unwrap());
    let database =
        fixture.env.databases.get(&fixture.dir.path().join("muster.db"), crate::database::Sync::Full);
    let database = database.unwrap();
    let pages = |pages: u32| {
        let database = &database;
        async move {
            let limit = move |connection: &Connection| {
                connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
                Ok(crate::database::Verdict::Commit(()))
            };
            database.run(limit).await.unwrap();
        }
    };
    pages(20).await;
    let large = fixture.batch(vec![row([("a", "y".repeat(200_000).into())])]);
    let error = sink.deliver(&large).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.in_words());
    assert!(error.hint().contains("disk is full"), "{}", error.hint());
    assert_eq!(fixture.dump("SELECT count(*) FROM t"), "Integer(1)\n");
    pages(10_000).await;
    durable(sink.deliver(&large).await.unwrap());
    assert_eq!(fixture.dump("SELECT count(*) FROM t"), "Integer(2)\n");
}

#[test]
fn reserved_names_are_refused_at_once() {
    let fixture = Fixture::new();
    for name in ["", "sqlite_x", "_muster_pipelines", "a\0b"] {
        assert!(fixture.sink(name).is_err(), "{name:?}");
    }
}
