//! A database of its own on the shared server, a sink into it, and batches made of JSON.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use muster_core::clock::SystemClock;
use muster_core::event::{EventKind, NewEvent, proto};
use muster_core::value::{Row, Value};
use muster_sinks::database::Databases;
use muster_sinks::{
    Batch, BatchRow, Built, Checkpoint, Cursor, Outcome, PipelineId, RowOutcome, Sink, SinkEnv, SinkError,
    SinkSpec, Totals, build,
};
use muster_test_servers::Server;
use tokio_postgres::NoTls;

pub const LOG_ID: u128 = 0xabcd_0000_0000_0000_0000_0000_0000_0000;

pub struct Db {
    _server: Arc<Server>,
    pub address: SocketAddr,
    pub name: String,
    pub client: tokio_postgres::Client,
}

impl Db {
    /// A database after `sql`. None where there is no server.
    pub async fn new(sql: &str) -> Option<Self> {
        let server = Server::shared("postgres")?;
        Some(Self::on(server, sql).await)
    }

    pub async fn on(server: Arc<Server>, sql: &str) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let address = server.address();
        let name = format!("test_{}_{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let admin = client(address, "postgres").await;
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let client = client(address, &name).await;
        client.batch_execute(sql).await.unwrap();
        Self { _server: server, address, name, client }
    }

    pub fn url(&self) -> String {
        self.url_by(self.address)
    }

    pub fn url_by(&self, address: SocketAddr) -> String {
        format!("postgres://postgres@{address}/{}", self.name)
    }

    /// A sink into the table `t`, for the rule `rule`.
    pub fn sink(&self, options: &[(&str, &str)]) -> Box<dyn Sink> {
        self.sink_into("t", options)
    }

    pub fn sink_into(&self, table: &str, options: &[(&str, &str)]) -> Box<dyn Sink> {
        let url = self.url();
        let mut all = vec![("url", &*url)];
        all.extend(options);
        built(table, &all).unwrap().sink
    }

    pub async fn opened(&self, options: &[(&str, &str)]) -> Box<dyn Sink> {
        let mut sink = self.sink(options);
        sink.open(&pipeline()).await.unwrap();
        sink
    }

    /// Rows as text, fields parted by a blank, rows by a line.
    pub async fn text(&self, sql: &str) -> String {
        let mut lines = Vec::new();
        for message in self.client.simple_query(sql).await.unwrap() {
            if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
                let fields: Vec<_> = (0..row.len()).map(|at| row.get(at).unwrap_or("-")).collect();
                lines.push(fields.join(" "));
            }
        }
        lines.join("\n")
    }
}

pub async fn client(address: SocketAddr, database: &str) -> tokio_postgres::Client {
    let url = format!("postgres://postgres@{address}/{database}");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    client
}

pub fn env() -> SinkEnv {
    SinkEnv { data_dir: "/nowhere".into(), databases: Databases::default(), clock: SystemClock::shared() }
}

pub fn options(options: &[(&str, &str)]) -> BTreeMap<String, String> {
    options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub fn built(table: &str, given: &[(&str, &str)]) -> Result<Built, SinkError> {
    let options = options(given);
    let spec =
        SinkSpec { kind: "postgres", name: "pg", target: Some(table), rule: "rule", options: &options };
    build(&spec, &env())
}

pub fn pipeline() -> PipelineId {
    PipelineId::new("rule", "pg", "t")
}

pub fn row(json: &str) -> Row {
    match Value::from_json(json) {
        Value::Map(map) => map,
        other => panic!("{other:?} is no row"),
    }
}

/// A batch of events from `first` on, with one row each.
pub fn batch_at(first: u64, rows: Vec<Row>) -> Batch {
    static DELIVERED: AtomicU64 = AtomicU64::new(1);
    let many = rows.len() as u64;
    let delivered = DELIVERED.fetch_add(many, Ordering::Relaxed) + many;
    let rows: Vec<BatchRow> = rows
        .into_iter()
        .zip(first..)
        .map(|(row, offset)| {
            let new = NewEvent {
                timestamp_ms: 0,
                kind: EventKind::MessagePublish,
                topic: "t".into(),
                body: proto::Event::default(),
            };
            BatchRow { event: Arc::new(new.at(LOG_ID, offset)), index: 0, row: row.into() }
        })
        .collect();
    let after = Checkpoint {
        log_id: LOG_ID,
        cursor: Cursor::at(first + many),
        totals: Totals { matched: delivered, delivered, dead: 0 },
    };
    let picked = (0..rows.len() as u32).collect();
    Batch::new(Arc::new(pipeline()), after, 1, Arc::new(rows), picked)
}

pub fn batch(rows: &[&str]) -> Batch {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let first = NEXT.fetch_add(rows.len() as u64, Ordering::Relaxed);
    batch_at(first, rows.iter().map(|json| row(json)).collect())
}

/// All of it is durable.
pub async fn durable(sink: &mut Box<dyn Sink>, batch: &Batch) {
    match sink.deliver(batch).await {
        Ok(Outcome::Durable(durable)) => assert_eq!(durable.cursor(), batch.after.cursor),
        other => panic!("not durable: {other:?}"),
    }
}

/// The places of the rows that are refused, and why.
pub async fn refused(sink: &mut Box<dyn Sink>, batch: &Batch) -> Vec<(usize, String)> {
    let Outcome::PerRow { rows, error: None } = sink.deliver(batch).await.unwrap() else {
        panic!("nothing is refused")
    };
    assert_eq!(rows.len(), batch.len());
    let reason = |(at, outcome)| match outcome {
        RowOutcome::Rejected(error) => Some((at, SinkError::in_words(&error))),
        RowOutcome::Untried => None,
        RowOutcome::Durable => panic!("nothing is durable by itself"),
    };
    rows.into_iter().enumerate().filter_map(reason).collect()
}
