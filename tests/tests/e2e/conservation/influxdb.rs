//! InfluxDB, read by InfluxQL. Poison is a text in a field of numbers, which the server refuses.

use muster_test_servers::Proxy;
use muster_tests::muster::http_client;
use muster_tests::wait::soon;
use serde_json::Value;

use super::run::conserve;
use super::target::{Arrived, Served, Target};

/// The administrator that `tests/servers/influxdb` makes.
const USER: &str = "muster";
const PASSWORD: &str = "muster-secret";
const DATABASE: &str = "conservation";

pub(super) struct InfluxDb(Served);

impl InfluxDb {
    /// None where the server cannot be had here.
    pub(super) async fn start() -> Option<Self> {
        let target = Self(Served::start("influxdb").await?);
        target.ask(&format!("CREATE DATABASE {DATABASE}")).await;
        Some(target)
    }

    async fn ask(&self, query: &str) -> Value {
        let mut url =
            reqwest::Url::parse(&format!("http://{}/query", self.0.server.address())).expect("a URL");
        url.query_pairs_mut().extend_pairs([("db", DATABASE), ("epoch", "ns"), ("q", query)]);
        let request = http_client().post(url).basic_auth(USER, Some(PASSWORD));
        let answer = soon(query, request.send()).await.expect("an answer");
        let (status, text) = (answer.status(), answer.text().await.expect("a body"));
        assert!(status.is_success(), "{query}: {status}: {text}");
        serde_json::from_str(&text).expect("JSON")
    }
}

impl Target for InfluxDb {
    fn declaration(&self) -> String {
        format!(
            "influxdb WITH (url = 'http://{}', bucket = '{DATABASE}', token = '{USER}:{PASSWORD}', tags = 'client', \
             timeout_ms = 2000)",
            self.0.way.address()
        )
    }

    /// Points are found by their time, which is the event's.
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
        let answer = self.ask("SELECT client, n FROM oracle").await;
        let points = answer["results"][0]["series"][0]["values"].as_array().cloned().unwrap_or_default();
        let row = |point: &Value| {
            Arrived::new(point[1].as_str().expect("a client"), point[2].as_i64().expect("a number"))
        };
        points.iter().map(row).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_every_message() {
    if let Some(target) = InfluxDb::start().await {
        conserve(target).await;
    }
}
