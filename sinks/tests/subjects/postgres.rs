//! PostgreSQL as the contract's subject: a database of its own on a real server, behind a way that can be cut.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use muster_sinks::Built;
use muster_test_servers::{Proxy, Server};

use crate::{Subject, built, env};

pub struct PostgresSubject {
    _server: Arc<Server>,
    proxy: Proxy,
    server: SocketAddr,
    database: String,
}

/// What `psql` answers.
fn psql(server: SocketAddr, database: &str, sql: &str) -> String {
    let (host, port) = (server.ip().to_string(), server.port().to_string());
    let mut psql = Command::new("psql");
    psql.args(["-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-F", " "]);
    let answer = psql.args(["-h", &host, "-p", &port, "-d", database, "-c", sql]).output().unwrap();
    assert!(answer.status.success(), "{sql}: {}", String::from_utf8_lossy(&answer.stderr));
    String::from_utf8(answer.stdout).unwrap()
}

impl PostgresSubject {
    /// A subject whose table has also `columns`. None where there is no server.
    pub async fn new(columns: &str) -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let shared = Server::shared("postgres")?;
        let database = format!("contract_{}_{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let server = shared.address();
        psql(server, "postgres", &format!("CREATE DATABASE {database}"));
        let sql = format!(
            "CREATE TABLE rule (n bigserial, clientid text, \"offset\" bigint, part bigint, payload text {columns}); \
             CREATE FUNCTION strict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF new.payload = 'poison' THEN RAISE EXCEPTION 'poison is not taken'; END IF; RETURN new; END $$; \
             CREATE TRIGGER strict BEFORE INSERT ON rule FOR EACH ROW EXECUTE FUNCTION strict()"
        );
        psql(server, &database, &sql);
        Some(Self { proxy: Proxy::before(server).await, _server: shared, server, database })
    }
}

impl Subject for PostgresSubject {
    fn build(&self) -> Built {
        let url = format!("postgres://postgres@{}/{}", self.proxy.address(), self.database);
        built("postgres", &env("/nowhere".as_ref()), &[("url", &url)])
    }

    fn go_away(&self) {
        self.proxy.close();
    }

    fn come_back(&self) {
        self.proxy.open();
    }

    fn be_cured(&self) {
        psql(self.server, &self.database, "DROP TRIGGER strict ON rule");
    }

    fn rows(&self) -> Vec<(i64, i64)> {
        let rows = psql(self.server, &self.database, "SELECT \"offset\", part FROM rule ORDER BY n");
        let row = |line: &str| {
            let (offset, part) = line.split_once(' ').unwrap();
            (offset.parse().unwrap(), part.parse().unwrap())
        };
        rows.lines().map(row).collect()
    }
}
