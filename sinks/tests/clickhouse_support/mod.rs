//! What the tests of the ClickHouse sink need: a database of their own, batches, and a way on which answers get lost.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use muster_core::clock::SystemClock;
use muster_core::event::{EventKind, NewEvent, proto};
use muster_core::value::{Row, Value};
use muster_sinks::database::Databases;
use muster_sinks::{Batch, BatchRow, Checkpoint, Cursor, PipelineId, Sink, SinkEnv, SinkSpec, Totals, build};
use muster_test_servers::Server;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

pub fn row<const N: usize>(columns: [(&str, Value); N]) -> Row {
    columns.into_iter().collect()
}

/// A database on a server that others use, too.
pub struct Fixture {
    /// Kept alive.
    _server: Option<Arc<Server>>,
    address: SocketAddr,
    database: String,
    http: reqwest::Client,
    offset: AtomicU64,
}

impl Fixture {
    /// A new database on the server of the script `server`; none where that cannot be had.
    pub fn new(server: &'static str) -> Option<Self> {
        static DATABASES: AtomicUsize = AtomicUsize::new(0);
        let running = Server::shared(server)?;
        let mut fixture = Self::at(running.address());
        fixture.database =
            format!("test_{}_{}", std::process::id(), DATABASES.fetch_add(1, Ordering::SeqCst));
        fixture._server = Some(running);
        Some(fixture)
    }

    /// Whoever listens at `address`.
    pub fn at(address: SocketAddr) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { _server: None, address, database: "default".into(), http, offset: AtomicU64::new(0) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn env(&self) -> SinkEnv {
        SinkEnv { data_dir: "/nowhere".into(), databases: Databases::default(), clock: SystemClock::shared() }
    }

    pub fn options(&self, more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let url = format!("http://{}", self.address);
        let mut options: BTreeMap<String, String> =
            [("url", url.as_str()), ("database", &self.database)].map(owned).into();
        options.extend(more.iter().copied().map(owned));
        options
    }

    pub fn sink(&self, table: &str, options: &[(&str, &str)]) -> Box<dyn Sink> {
        let options = self.options(options);
        let spec = SinkSpec {
            kind: "clickhouse",
            name: "ops",
            target: Some(table),
            rule: "rule",
            options: &options,
        };
        build(&spec, &self.env()).unwrap().sink
    }

    pub async fn opened(&self, table: &str, options: &[(&str, &str)]) -> Box<dyn Sink> {
        let mut sink = self.sink(table, options);
        sink.open(&self.pipeline(table)).await.unwrap();
        sink
    }

    pub fn pipeline(&self, table: &str) -> PipelineId {
        PipelineId::new("rule", "ops", table)
    }

    /// A batch of events with one row each, as no other has it.
    pub fn batch(&self, table: &str, rows: Vec<Row>) -> Batch {
        let first = self.offset.fetch_add(rows.len() as u64, Ordering::SeqCst);
        self.batch_from(table, rows, first, 0)
    }

    /// The first batch of a log, which some rows had matched before.
    pub fn batch_counted(&self, table: &str, rows: Vec<Row>, matched: u64) -> Batch {
        self.batch_from(table, rows, 0, matched)
    }

    fn batch_from(&self, table: &str, rows: Vec<Row>, first: u64, matched: u64) -> Batch {
        let (log_id, many) = (1 << 100, rows.len() as u64);
        let with_event = |(row, offset): (Row, u64)| {
            let body = proto::Event::default();
            let event =
                NewEvent { timestamp_ms: 0, kind: EventKind::MessagePublish, topic: "t".into(), body };
            BatchRow { event: Arc::new(event.at(log_id, offset)), index: 0, row: row.into() }
        };
        let rows: Vec<_> = rows.into_iter().zip(first..).map(with_event).collect();
        let totals = Totals { matched: matched + many, delivered: matched + many, dead: 0 };
        let after = Checkpoint { log_id, cursor: Cursor::at(first + many), totals };
        let picked = (0..rows.len() as u32).collect();
        Batch::new(Arc::new(self.pipeline(table)), after, 1, Arc::new(rows), picked)
    }

    /// Carries out a statement in the database.
    pub async fn run(&self, sql: &str) {
        self.ask(sql).await;
    }

    /// The text of an answer.
    pub async fn ask(&self, sql: &str) -> String {
        if self._server.is_some() {
            let create = format!("CREATE DATABASE IF NOT EXISTS {}", self.database);
            self.post(&format!("http://{}/", self.address), &create).await;
        }
        self.post(&format!("http://{}/?database={}", self.address, self.database), sql).await
    }

    async fn post(&self, url: &str, sql: &str) -> String {
        let answer = self.http.post(url).body(sql.to_owned()).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{sql}: {text}");
        text.trim_end().to_owned()
    }

    /// A message without what differs between runs.
    pub fn redacted(&self, text: &str) -> String {
        text.replace(&self.address.to_string(), "SERVER").replace(&self.database, "DATABASE")
    }
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// A way to a server on which the next answers get lost, and their connections with them.
pub struct LoseAnswers {
    address: SocketAddr,
    lose: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
}

impl LoseAnswers {
    pub async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (lose, sent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (lose_next, count) = (lose.clone(), sent.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, server, lose_next.clone(), count.clone()));
            }
        });
        Self { address, lose, sent }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn lose(&self, answers: usize) {
        self.lose.store(answers, Ordering::SeqCst);
    }

    /// Bytes that were sent to the server.
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }
}

async fn connection(client: TcpStream, server: SocketAddr, lose: Arc<AtomicUsize>, sent: Arc<AtomicUsize>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let up = async {
        let mut piece = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from_client.read(&mut piece).await {
            sent.fetch_add(read, Ordering::SeqCst);
            if to_server.write_all(&piece[..read]).await.is_err() {
                return;
            }
        }
    };
    let down = async {
        let mut piece = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from_server.read(&mut piece).await {
            let less = |left: usize| left.checked_sub(1);
            if lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
                return;
            }
            if to_client.write_all(&piece[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

/// A server that has a table `t` and takes nothing for it; counts the INSERTs. How many kinds of trouble it has.
pub async fn stand_in(asked: Arc<AtomicUsize>) -> (SocketAddr, usize) {
    const TROUBLE: &[(u16, u32, &str)] = &[
        (500, 241, "Memory limit exceeded: 'row' (MEMORY_LIMIT_EXCEEDED)"),
        (500, 252, "Too many parts (600) (TOO_MANY_PARTS)"),
        (503, 0, "busy"),
        (500, 202, "Too many simultaneous queries (TOO_MANY_SIMULTANEOUS_QUERIES)"),
        (500, 242, "Table is in readonly mode (TABLE_IS_READ_ONLY)"),
        (500, 243, "Cannot reserve 1.00 MiB (NOT_ENOUGH_SPACE)"),
    ];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = async move |body: bytes::Bytes| {
        let text = String::from_utf8_lossy(&body).into_owned();
        let data = |row: &str| (StatusCode::OK, HeaderMap::new(), format!("{{\"data\":[{row}]}}"));
        if text.contains("system.columns") {
            return data(r#"["a","Int8",""]"#);
        } else if text.contains("system.tables") {
            return data(r#"["MergeTree","MergeTree ORDER BY a"]"#);
        } else if text.contains("system.settings") {
            return data(r#"["insert_deduplication_token"]"#);
        } else if text.contains("system.merge_tree_settings") {
            return data(r#"["0"]"#);
        }
        let (status, code, words) = TROUBLE[asked.fetch_add(1, Ordering::SeqCst) % TROUBLE.len()];
        let mut headers = HeaderMap::new();
        let status = StatusCode::from_u16(status).unwrap();
        if code == 0 {
            headers.insert("retry-after", 7.into());
            return (status, headers, words.to_owned());
        }
        headers.insert("x-clickhouse-exception-code", code.into());
        (status, headers, format!("Code: {code}. DB::Exception: {words}"))
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() });
    (address, TROUBLE.len())
}
