//! PostgreSQL: the real server.

use jiff::Timestamp;
use muster_test_servers::Server;
use muster_tests::Home;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::store::{Asked, Rows, Store, as_answers, query, shipped};
use super::{alarms, backfill, scene};

struct Postgres(Server);

impl Postgres {
    fn start() -> Option<Self> {
        tokio::task::block_in_place(|| Server::own("postgres")).map(Self)
    }

    async fn ask(&self, sql: &str) -> Rows {
        let address = self.0.address();
        let config = format!("host={} port={} user=postgres", address.ip(), address.port());
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await.expect("a connection");
        tokio::spawn(connection);
        let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|at| row.get(at).unwrap_or_default().to_owned()).collect())
            }
            _ => None,
        };
        messages.into_iter().filter_map(row).collect()
    }
}

impl Store for Postgres {
    const NAME: &'static str = "postgres";

    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![("DEVICES_URL", format!("postgres://postgres@{}/postgres", self.0.address()))]
    }

    async fn answer(&self, _: &Home, name: &str, asked: &Asked) -> Option<Rows> {
        let time = |ms: i64| format!("timestamptz 'epoch' + interval '{ms} milliseconds'");
        let (since, until) = (time(asked.since_ms), time(asked.until_ms));
        let mut words = vec![("now() - interval '7 days'", since.as_str()), ("now()", until.as_str())];
        if name == "uptime" {
            words.push(("meter-1", asked.client.as_str()));
        }
        let sql = query::<Self>(name, "sql", &words);
        let columns = match name {
            "offline" => "clientid, round(extract(epoch FROM since) * 1000), reason",
            "uptime" => "clientid, round(online_seconds * 1000)",
            _ => "*",
        };
        Some(self.ask(&format!("SELECT {columns} FROM (\n{sql}) AS it")).await)
    }

    async fn shipped(&self, _: &Home, name: &str) -> Option<Rows> {
        let rows = self.ask(&shipped::<Self>(name, "sql")).await;
        let ms = |text: &str| text.parse::<Timestamp>().expect("a time").as_millisecond();
        Some(as_answers(name, rows, ms))
    }

    async fn rows(&self, _: &Home, table: &str, columns: &[&str]) -> Rows {
        self.ask(&format!("SELECT \"{}\" FROM {table}", columns.join("\", \""))).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_as_the_log_does() {
    if let Some(store) = Postgres::start() {
        scene::play(store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn is_filled_from_a_moment_of_the_past() {
    if let Some(store) = Postgres::start() {
        backfill::play(store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn has_one_row_an_alarm() {
    if let Some(store) = Postgres::start() {
        alarms::play(store).await;
    }
}
