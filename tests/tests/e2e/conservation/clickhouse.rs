//! ClickHouse, read over HTTP. Poison is no number, and the column takes numbers alone. The table is one that shows
//! each row as often as it was written: what is there once was written once.

use muster_test_servers::Proxy;
use muster_tests::muster::http_client;
use muster_tests::wait::soon;

use super::run::conserve;
use super::target::{Arrived, Served, Target};

pub(super) struct ClickHouse(Served);

impl ClickHouse {
    /// None where the server cannot be had here.
    pub(super) async fn start() -> Option<Self> {
        let target = Self(Served::start("clickhouse").await?);
        let table = "CREATE TABLE oracle (client String, n UInt64, v Int64, _event_id String, _rule String, \
                     _row UInt32) ENGINE = MergeTree ORDER BY (client, n) SETTINGS \
                     non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1";
        target.ask(table).await;
        Some(target)
    }

    async fn ask(&self, query: &str) -> String {
        let url = format!("http://{}/", self.0.server.address());
        let answer =
            soon(query, http_client().post(url).body(query.to_owned()).send()).await.expect("an answer");
        let (status, text) = (answer.status(), answer.text().await.expect("a body"));
        assert!(status.is_success(), "{query}: {status}: {text}");
        text
    }
}

impl Target for ClickHouse {
    fn declaration(&self) -> String {
        format!("clickhouse WITH (url = 'http://{}', timeout_ms = 2000)", self.0.way.address())
    }

    /// Parts have no order among them.
    fn keeps_order(&self) -> bool {
        false
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
        let text = self.ask("SELECT client, n FROM oracle FORMAT TabSeparated").await;
        let row = |line: &str| {
            let (client, n) = line.split_once('\t').expect("two columns");
            Arrived::new(client, n.parse().expect("a number"))
        };
        text.lines().map(row).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_every_message() {
    if let Some(target) = ClickHouse::start().await {
        conserve(target).await;
    }
}
