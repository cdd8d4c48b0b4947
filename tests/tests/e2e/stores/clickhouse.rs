//! ClickHouse, asked over HTTP.

use jiff::Timestamp;
use muster_test_servers::Server;
use muster_tests::Home;
use muster_tests::muster::http_client;
use muster_tests::wait::soon;

use super::store::{Asked, Rows, Store, as_answers, query, shipped};
use super::{alarms, backfill, scene};

struct ClickHouse(Server);

impl ClickHouse {
    fn start() -> Option<Self> {
        tokio::task::block_in_place(|| Server::own("clickhouse")).map(Self)
    }

    async fn ask(&self, sql: &str) -> Rows {
        let url = format!("http://{}/", self.0.address());
        let sql = format!("{sql}\nFORMAT TabSeparated");
        let answer = soon(&sql, http_client().post(url).body(sql.clone()).send()).await.expect("an answer");
        let (status, text) = (answer.status(), answer.text().await.expect("a body"));
        assert!(status.is_success(), "{sql}: {status}: {text}");
        let cell = |cell: &str| if cell == "\\N" { String::new() } else { cell.to_owned() };
        text.lines().map(|line| line.split('\t').map(cell).collect()).collect()
    }
}

impl Store for ClickHouse {
    const NAME: &'static str = "clickhouse";

    fn environment(&self) -> Vec<(&'static str, String)> {
        let url = format!("http://{}", self.0.address());
        let [database, user] = ["default", "muster"].map(str::to_owned);
        vec![
            ("DEVICES_URL", url),
            ("DEVICES_DATABASE", database),
            ("DEVICES_USER", user),
            ("DEVICES_PASSWORD", "secret".to_owned()),
        ]
    }

    async fn answer(&self, _: &Home, name: &str, asked: &Asked) -> Option<Rows> {
        let time = |ms: i64| format!("fromUnixTimestamp64Milli({ms}, 'UTC')");
        let (since, until) = (time(asked.since_ms), time(asked.until_ms));
        let mut words =
            vec![("now64(3, 'UTC') - INTERVAL 7 DAY", since.as_str()), ("now64(3, 'UTC')", until.as_str())];
        if name == "uptime" {
            words.push(("meter-1", asked.client.as_str()));
        }
        let sql = query::<Self>(name, "sql", &words);
        let columns = match name {
            "offline" => "clientid, toUnixTimestamp64Milli(assumeNotNull(since)), reason",
            "uptime" => "device, toInt64(round(online_seconds * 1000))",
            _ => "*",
        };
        Some(self.ask(&format!("SELECT {columns} FROM (\n{sql})")).await)
    }

    async fn shipped(&self, _: &Home, name: &str) -> Option<Rows> {
        let rows = self.ask(&shipped::<Self>(name, "sql")).await;
        // Its columns are in UTC, and do not say so.
        let ms = |text: &str| format!("{text}Z").parse::<Timestamp>().expect("a time").as_millisecond();
        Some(as_answers(name, rows, ms))
    }

    async fn rows(&self, _: &Home, table: &str, columns: &[&str]) -> Rows {
        self.ask(&format!("SELECT \"{}\" FROM {table}_now", columns.join("\", \""))).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_as_the_log_does() {
    if let Some(store) = ClickHouse::start() {
        scene::play(store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn is_filled_from_a_moment_of_the_past() {
    if let Some(store) = ClickHouse::start() {
        backfill::play(store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn has_one_row_an_alarm() {
    if let Some(store) = ClickHouse::start() {
        alarms::play(store).await;
    }
}
