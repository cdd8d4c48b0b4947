//! InfluxDB 1.8, asked in Flux and InfluxQL.

use std::collections::BTreeMap;

use muster_test_servers::Server;
use muster_tests::Home;
use muster_tests::muster::http_client;
use muster_tests::wait::soon;
use serde_json::Value;

use super::store::{Asked, Rows, Store, as_answers, query, rfc3339, shipped};
use super::{alarms, backfill, scene};

/// The administrator that `tests/servers/influxdb` makes.
const USER: &str = "muster";
const PASSWORD: &str = "muster-secret";

struct InfluxDb(Server);

impl InfluxDb {
    fn start() -> Option<Self> {
        tokio::task::block_in_place(|| Server::own("influxdb-flux")).map(Self)
    }

    /// The columns of an answer in Flux, as annotated CSV without annotations has them; none of our values has a comma.
    async fn flux(&self, text: &str, columns: &[&str]) -> Rows {
        let url = format!("http://{}/api/v2/query", self.0.address());
        let request = http_client().post(url).header("authorization", format!("Token {USER}:{PASSWORD}"));
        let request =
            request.header("content-type", "application/vnd.flux").header("accept", "application/csv");
        let answer = soon(text, request.body(text.to_owned()).send()).await.expect("an answer");
        let (status, csv) = (answer.status(), answer.text().await.expect("a body"));
        assert!(status.is_success() && !csv.contains("error"), "{text}: {status}: {csv}");
        let mut rows = Rows::new();
        let mut names: Vec<String> = Vec::new();
        for line in csv.lines().filter(|line| !line.starts_with('#')) {
            let cells = line.trim_end().split(',').map(str::to_owned).collect::<Vec<_>>();
            if cells.get(1).is_some_and(|cell| cell == "result") {
                names = cells;
            } else if cells.len() > 1 {
                let at = |column: &&str| names.iter().position(|name| name == column);
                rows.push(
                    columns.iter().map(|it| at(it).map_or(String::new(), |at| cells[at].clone())).collect(),
                );
            }
        }
        rows
    }

    /// The answer to a query of the examples, about a client where it is about one.
    async fn told(&self, name: &str, text: &str, client: &str) -> Rows {
        let mut rows = match name {
            "offline" => self.flux(text, &["clientid", "disconnected_at", "reason"]).await,
            "uptime" => self.flux(text, &["device", "online_seconds"]).await,
            _ => self.flux(text, &["clientid", "disconnects"]).await,
        };
        if name == "uptime" && rows.is_empty() {
            // Nothing is known of nobody.
            rows = vec![vec![client.to_owned(), "0".to_owned()]];
        }
        if name == "flapping" {
            // Flux sorts by one direction at a time: equals have no order.
            rows.sort_by_key(|row| {
                (std::cmp::Reverse(row[1].parse::<u64>().expect("a count")), row[0].clone())
            });
        }
        as_answers(name, rows, |ms| ms.parse().expect("milliseconds"))
    }

    async fn influxql(&self, text: &str) -> Value {
        let mut url = reqwest::Url::parse(&format!("http://{}/query", self.0.address())).expect("a URL");
        url.query_pairs_mut().extend_pairs([("db", "fleet"), ("epoch", "ns"), ("q", text)]);
        let request = http_client().post(url).basic_auth(USER, Some(PASSWORD));
        let answer = soon(text, request.send()).await.expect("an answer").text().await.expect("a body");
        serde_json::from_str(&answer).expect("JSON")
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Store for InfluxDb {
    const NAME: &'static str = "influxdb";

    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("DEVICES_URL", format!("http://{}", self.0.address())),
            ("DEVICES_ORG", "muster".to_owned()),
            ("DEVICES_BUCKET", "fleet".to_owned()),
            ("DEVICES_TOKEN", format!("{USER}:{PASSWORD}")),
        ]
    }

    /// InfluxDB 1 has no organisations, whose buckets the steps for InfluxDB 2 make.
    const MIGRATES: bool = false;

    async fn answer(&self, _: &Home, name: &str, asked: &Asked) -> Option<Rows> {
        let (since, until) = (rfc3339(asked.since_ms), rfc3339(asked.until_ms));
        let (since_ms, until_ms) = (asked.since_ms.to_string(), asked.until_ms.to_string());
        let range = format!("range(start: {since}, stop: {until})");
        let words = match name {
            "uptime" => vec![
                ("until - 7 * 24 * 60 * 60 * 1000", since_ms.as_str()),
                ("int(v: now()) / 1000000", until_ms.as_str()),
                ("meter-1", asked.client.as_str()),
            ],
            "flapping" => vec![("range(start: -7d)", range.as_str())],
            _ => Vec::new(),
        };
        Some(self.told(name, &query::<Self>(name, "flux", &words), &asked.client).await)
    }

    async fn shipped(&self, _: &Home, name: &str) -> Option<Rows> {
        Some(self.told(name, &shipped::<Self>(name, "flux"), "meter-1").await)
    }

    async fn rows(&self, _: &Home, table: &str, columns: &[&str]) -> Rows {
        let answer = self.influxql(&format!("SELECT * FROM {table}")).await;
        let series = &answer["results"][0]["series"][0];
        let names = series["columns"].as_array().cloned().unwrap_or_default();
        let at = |column: &str| names.iter().position(|name| name == column);
        let points = series["values"].as_array().cloned().unwrap_or_default();
        let pick = |point: &Value, column: &str| at(column).map_or(String::new(), |at| cell(&point[at]));
        let all = points.iter().map(|it| columns.iter().map(|column| pick(it, column)).collect::<Vec<_>>());
        match table {
            // The newest point of each client, and of each alarm.
            "device_status" | "device_alarms" => {
                let key =
                    |point: &Value| ["name", "clientid", "activated_at"].map(|column| pick(point, column));
                let key = |point: &Value| {
                    let [name, client, activated] = key(point);
                    if table == "device_status" {
                        [String::new(), client, String::new()]
                    } else {
                        [name, client, activated]
                    }
                };
                let newest = points.iter().zip(all).map(|(point, row)| (key(point), row));
                newest.collect::<BTreeMap<_, _>>().into_values().collect()
            }
            _ => all.collect(),
        }
    }
}

async fn started() -> Option<InfluxDb> {
    let store = InfluxDb::start()?;
    store.influxql("CREATE DATABASE fleet").await;
    Some(store)
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_as_the_log_does() {
    if let Some(store) = started().await {
        scene::play(store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn is_filled_from_a_moment_of_the_past() {
    if let Some(store) = started().await {
        backfill::play(store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn has_one_row_an_alarm() {
    if let Some(store) = started().await {
        alarms::play(store).await;
    }
}
