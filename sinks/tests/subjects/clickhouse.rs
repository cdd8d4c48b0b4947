//! ClickHouse as the contract's subject: a database of its own on an engine that others use too, behind a way that can
//! be cut. Rows are read with FINAL where the table needs it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use muster_sinks::Built;
use muster_test_servers::{Proxy, Server};

use crate::{Subject, built, env};

/// Knows a batch by its token.
pub const BY_TOKEN: &str = "MergeTree ORDER BY tuple() SETTINGS non_replicated_deduplication_window = 1000";
/// Knows a row by its key.
pub const BY_KEY: &str = "ReplacingMergeTree ORDER BY (_event_id, _rule, _row)";

pub struct ClickHouseSubject {
    _server: Arc<Server>,
    proxy: Proxy,
    server: SocketAddr,
    database: String,
    engine: &'static str,
}

/// What the server answers to `sql`.
fn ask(server: SocketAddr, database: &str, sql: &str) -> String {
    let mut stream = TcpStream::connect(server).unwrap();
    let length = sql.len();
    write!(stream, "POST /?database={database} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{sql}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{sql}: {body}");
    body.to_owned()
}

impl ClickHouseSubject {
    /// A subject with a table of `engine`. None where there is no server.
    pub async fn new(engine: &'static str) -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let shared = Server::shared("clickhouse")?;
        let database = format!("contract_{}_{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let server = shared.address();
        ask(server, "default", &format!("CREATE DATABASE {database}"));
        let sql = format!(
            "CREATE TABLE rule (clientid String, offset Int64, part Int64, payload String, _event_id String, \
             _rule String, _row UInt32, CONSTRAINT strict CHECK payload != 'poison') ENGINE = {engine}"
        );
        ask(server, &database, &sql);
        Some(Self { proxy: Proxy::before(server).await, _server: shared, server, database, engine })
    }
}

impl Subject for ClickHouseSubject {
    fn build(&self) -> Built {
        let url = format!("http://{}", self.proxy.address());
        built("clickhouse", &env("/nowhere".as_ref()), &[("url", &url), ("database", &self.database)])
    }

    fn go_away(&self) {
        self.proxy.close();
    }

    fn come_back(&self) {
        self.proxy.open();
    }

    fn be_cured(&self) {
        ask(self.server, &self.database, "ALTER TABLE rule DROP CONSTRAINT strict");
    }

    fn rows(&self) -> Vec<(i64, i64)> {
        let last = if self.engine == BY_KEY { " FINAL" } else { "" };
        let sql = format!("SELECT offset, part FROM rule{last} ORDER BY offset, part");
        let row = |line: &str| {
            let (offset, part) = line.split_once('\t').unwrap();
            (offset.parse().unwrap(), part.parse().unwrap())
        };
        ask(self.server, &self.database, &sql).lines().map(row).collect()
    }
}
