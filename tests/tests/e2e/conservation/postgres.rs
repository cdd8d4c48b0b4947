//! PostgreSQL: the real server, behind a way that can be cut. Poison breaks a constraint of the table.

use muster_test_servers::Proxy;
use tokio_postgres::{Client, NoTls};

use super::run::conserve;
use super::target::{Arrived, Served, Target};

pub(super) struct Postgres(Served);

impl Postgres {
    /// None where the server cannot be had here.
    pub(super) async fn start() -> Option<Self> {
        let target = Self(Served::start("postgres").await?);
        // With a number for the order of arrival.
        let table =
            "CREATE TABLE oracle (place bigserial, client text, n bigint, v text CHECK (v <> 'poison'))";
        target.client().await.batch_execute(table).await.expect("a table");
        Some(target)
    }

    /// A connection that the way's weather does not touch.
    async fn client(&self) -> Client {
        let address = self.0.server.address();
        let config = format!("host={} port={} user=postgres", address.ip(), address.port());
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await.expect("a connection");
        tokio::spawn(connection);
        client
    }
}

impl Target for Postgres {
    fn declaration(&self) -> String {
        let url = format!("postgres://postgres@{}/postgres", self.0.way.address());
        format!("postgres WITH (url = '{url}', connect_timeout_ms = 1000, statement_timeout_ms = 2000)")
    }

    fn value(&self) -> &'static str {
        "str(payload.v)"
    }

    fn keeps_order(&self) -> bool {
        true
    }

    fn way(&self) -> Option<&Proxy> {
        Some(&self.0.way)
    }

    async fn down(&mut self, at_once: bool) {
        self.0.down(at_once);
    }

    async fn up(&mut self) {
        self.0.up();
    }

    async fn rows(&mut self) -> Vec<Arrived> {
        let rows = self.client().await.query("SELECT client, n FROM oracle ORDER BY place", &[]).await;
        rows.expect("rows").iter().map(|row| Arrived::new(row.get::<_, String>(0), row.get(1))).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_every_message() {
    if let Some(target) = Postgres::start().await {
        conserve(target).await;
    }
}
