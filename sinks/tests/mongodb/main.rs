//! The MongoDB sink against a server that speaks its protocol (`tests/servers/mongodb` says which), and against one
//! that plays a part where no such server can be had. What every sink must do is in `contract.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]
#![allow(unreachable_pub, reason = "shared test code")]

mod documents;
mod faults;
mod played;
mod scripted;
mod statuses;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mongodb::bson::Document;
use mongodb::{Client, Collection, Database};
use muster_core::clock::ManualClock;
use muster_core::value::{Row, Value};
use muster_sinks::database::Databases;
use muster_sinks::{
    Batch, BatchRow, Built, Checkpoint, Cursor, Outcome, PipelineId, RowOutcome, Sink, SinkEnv, SinkError,
    SinkSpec, Totals, build,
};
use muster_test_servers::Server;

/// Each test has a database of its own.
static DATABASES: AtomicU64 = AtomicU64::new(0);

fn env() -> SinkEnv {
    SinkEnv { data_dir: "/nowhere".into(), databases: Databases::default(), clock: ManualClock::at(7) }
}

/// The sink of `address` as a rule file declares it.
fn declared(target: &str, options: &[(&str, &str)]) -> Result<Built, SinkError> {
    with_spec(target, options, |spec| build(spec, &env()))
}

fn with_spec<T>(target: &str, options: &[(&str, &str)], f: impl Fn(&SinkSpec<'_>) -> T) -> T {
    let options: BTreeMap<_, _> =
        options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    f(&SinkSpec { kind: "mongodb", name: "mongo", target: Some(target), rule: "rule", options: &options })
}

/// A database on a server, and our own look into it.
struct Fixture {
    _server: Arc<Server>,
    url: String,
    database: Database,
}

impl Fixture {
    async fn new() -> Option<Self> {
        let server = Server::shared("mongodb")?;
        let name = format!("test_{}_{}", std::process::id(), DATABASES.fetch_add(1, Ordering::SeqCst));
        let url = format!("mongodb://muster:secret@{}/{name}?authSource=admin", server.address());
        let database = Client::with_uri_str(&url).await.unwrap().database(&name);
        Some(Self { _server: server, url, database })
    }

    async fn opened(&self, target: &str, options: &[(&str, &str)]) -> Box<dyn Sink> {
        let mut all = vec![("url", self.url.as_str())];
        all.extend(options);
        let mut sink = declared(target, &all).unwrap().sink;
        sink.open(&pipeline(target)).await.unwrap();
        sink
    }

    fn collection(&self, name: &str) -> Collection<Document> {
        self.database.collection(name)
    }

    async fn all(&self, name: &str) -> Vec<Document> {
        let mut cursor = self.collection(name).find(Document::new()).await.unwrap();
        let mut all = Vec::new();
        while cursor.advance().await.unwrap() {
            all.push(cursor.deserialize_current().unwrap());
        }
        all
    }
}

fn pipeline(target: &str) -> PipelineId {
    PipelineId::new("rule", "mongo", target)
}

/// Rows of events from offset `first` on.
fn batch(first: u64, rows: Vec<Row>) -> Batch {
    let end = first + rows.len() as u64;
    let rows: Vec<BatchRow> = rows
        .into_iter()
        .zip(first..)
        .map(|(row, offset)| {
            let event = support::publish("a", "", 0).at(support::LOG_ID, offset);
            BatchRow { event: Arc::new(event), index: 0, row: row.into() }
        })
        .collect();
    let totals = Totals { matched: end, delivered: end, dead: 0 };
    let after = Checkpoint { log_id: support::LOG_ID, cursor: Cursor::at(end), totals };
    let picked = (0..rows.len() as u32).collect();
    Batch::new(Arc::new(pipeline("t")), after, 1, Arc::new(rows), picked)
}

fn row<const N: usize>(columns: [(&str, Value); N]) -> Row {
    columns.into_iter().collect()
}

/// What became of each row in a letter: `d`urable, `r`ejected, `u`ntried.
fn letters(outcome: &Outcome, rows: usize) -> String {
    match outcome {
        Outcome::Durable(_) => "d".repeat(rows),
        Outcome::PerRow { rows, .. } => rows
            .iter()
            .map(|row| match row {
                RowOutcome::Durable => 'd',
                RowOutcome::Rejected(_) => 'r',
                RowOutcome::Untried => 'u',
            })
            .collect(),
    }
}

/// Why the row at `place` was refused.
fn reason(outcome: &Outcome, place: usize) -> String {
    match outcome {
        Outcome::PerRow { rows, .. } => match &rows[place] {
            RowOutcome::Rejected(error) => error.in_words(),
            other => panic!("{other:?}"),
        },
        Outcome::Durable(_) => panic!("all of it was taken"),
    }
}
