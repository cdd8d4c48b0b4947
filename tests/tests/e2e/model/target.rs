//! Where the model's rules write: a history (one row an event) and a status (one row a device), in SQLite, PostgreSQL,
//! MongoDB, ClickHouse, Kafka; and a history alone in InfluxDB and as requests to a webhook. It must never know what
//! the rows should be.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use axum::http::{HeaderMap, StatusCode};
use futures_util::TryStreamExt as _;
use mongodb::bson::{Document, doc};
use muster_test_servers::{Proxy, Server};
use muster_tests::webhook::Webhook;
use muster_tests::{Home, PATIENCE};
use rusqlite::Connection;
use serde_json::Value;
use tokio_postgres::NoTls;

use super::books::Entry;
use super::streams;

/// What a rule selects: `at` is the event's time.
const COLUMNS: &str = "clientid, event, reason, session, seq, timestamp AS at";
const SOURCES: &str = "\"$events/client/connected\", \"$events/client/disconnected\"";
const LOGIN: &str = "muster:secret";

/// A target with its two tables.
pub(super) enum Target {
    Sqlite { lock: Option<Connection> },
    Postgres(Served),
    Mongo(Served),
    Clickhouse(Served),
    Kafka(Served),
    Influx(Served),
    Webhook { receiver: Webhook, way: Proxy, arrived: Arc<Mutex<Vec<Entry>>> },
}

/// A server and the way to it.
pub(super) struct Served {
    server: Server,
    way: Proxy,
}

impl Served {
    async fn start(name: &'static str) -> Option<Self> {
        let server = tokio::task::block_in_place(|| Server::own(name))?;
        let way = Proxy::before(server.address()).await;
        Some(Self { server, way })
    }
}

impl Target {
    pub(super) fn sqlite() -> Self {
        Self::Sqlite { lock: None }
    }

    pub(super) async fn postgres() -> Option<Self> {
        let target = Self::Postgres(Served::start("postgres").await?);
        let columns = "event text, reason text, session bigint, seq bigint, at bigint";
        let tables = format!(
            "CREATE TABLE device_history (clientid text, {columns});
             CREATE TABLE device_status (clientid text PRIMARY KEY, {columns});"
        );
        target.postgres_client().await.batch_execute(&tables).await.expect("tables");
        Some(target)
    }

    pub(super) async fn mongo() -> Option<Self> {
        Some(Self::Mongo(Served::start("mongodb").await?))
    }

    pub(super) async fn clickhouse() -> Option<Self> {
        let target = Self::Clickhouse(Served::start("clickhouse").await?);
        let columns = "clientid String, event String, reason Nullable(String), session UInt64, seq UInt64, at Int64, \
                       _event_id String, _rule String, _row UInt32";
        let history = format!(
            "CREATE TABLE device_history ({columns}) ENGINE = MergeTree ORDER BY (clientid, seq) \
             SETTINGS non_replicated_deduplication_window = 10000"
        );
        let status = format!(
            "CREATE TABLE device_status ({columns}) ENGINE = ReplacingMergeTree(seq) ORDER BY clientid \
             SETTINGS non_replicated_deduplication_window = 10000"
        );
        for table in [history, status] {
            target.ask_clickhouse(&table).await;
        }
        Some(target)
    }

    pub(super) async fn kafka() -> Option<Self> {
        let server = tokio::task::block_in_place(|| Server::own("kafka"))?;
        let way = streams::way_to_kafka(&server).await;
        Some(Self::Kafka(Served { server, way }))
    }

    pub(super) async fn influx() -> Option<Self> {
        let served = Served::start("influxdb").await?;
        let make = format!("CREATE DATABASE {}", streams::INFLUX_DATABASE);
        streams::ask_influx(served.server.address(), &make).await;
        Some(Self::Influx(served))
    }

    pub(super) async fn webhook() -> Self {
        let arrived = Arc::new(Mutex::new(Vec::new()));
        let (rows, known) = (Arc::clone(&arrived), Mutex::new(HashSet::new()));
        let receiver = Webhook::start_with(move |headers: &HeaderMap, body: &Value| {
            // Who cannot commit is told again, and knows it by this.
            let id = headers["webhook-id"].to_str().expect("an id").to_owned();
            if known.lock().expect("no test panics with it").insert(id) {
                rows.lock().expect("no test panics with it").push(entry(body));
            }
            StatusCode::OK
        })
        .await;
        let way = Proxy::before(receiver.address()).await;
        Self::Webhook { receiver, way, arrived }
    }

    /// What it is called in rules and in what is printed.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Sqlite { .. } => "sqlite",
            Self::Postgres(_) => "pg",
            Self::Mongo(_) => "mongo",
            Self::Clickhouse(_) => "click",
            Self::Kafka(_) => "kafka",
            Self::Influx(_) => "influx",
            Self::Webhook { .. } => "hook",
        }
    }

    /// The sink and the rules that fill it, in so many lanes.
    pub(super) fn rules(&self, lanes: u32) -> String {
        let name = self.name();
        let way = match self {
            Self::Sqlite { .. } => String::new(),
            Self::Postgres(served) => {
                let url = format!("postgres://postgres@{}/postgres", served.way.address());
                format!(
                    "postgres WITH (url = '{url}', connect_timeout_ms = 1000, statement_timeout_ms = 2000)"
                )
            }
            Self::Mongo(served) => {
                let url =
                    format!("{LOGIN}@{}/model?directConnection=true&authSource=admin", served.way.address());
                // What speaks the protocol here looks through everything to find a few.
                format!("mongodb WITH (url = 'mongodb://{url}', timeout_ms = 15000, batch_rows = 100)")
            }
            Self::Clickhouse(served) => {
                format!("clickhouse WITH (url = 'http://{}', timeout_ms = 2000)", served.way.address())
            }
            Self::Kafka(served) => {
                format!("kafka WITH (brokers = '{}', timeout_ms = 5000)", served.way.address())
            }
            Self::Influx(served) => {
                let (user, password) = streams::INFLUX_TOKEN;
                format!(
                    "influxdb WITH (url = 'http://{}', bucket = '{}', token = '{user}:{password}', \
                     tags = 'clientid', timeout_ms = 2000)",
                    served.way.address(),
                    streams::INFLUX_DATABASE
                )
            }
            Self::Webhook { way, .. } => {
                format!(
                    "webhook WITH (url = 'http://{}/hook', timeout_ms = 1000, in_flight = 4)",
                    way.address()
                )
            }
        };
        let sink = if way.is_empty() { way } else { format!("CREATE SINK {name} TYPE {way};\n") };
        let lanes = if matches!(self, Self::Sqlite { .. }) { 1 } else { lanes };
        let rule = |what: &str, into: &str| {
            format!(
                "CREATE RULE {what}_{name} INTO {into} WITH (start = 'earliest', lanes = {lanes}) AS\n\
                 SELECT {COLUMNS} FROM {SOURCES};\n"
            )
        };
        match self {
            Self::Webhook { .. } => sink + &rule("history", name),
            Self::Influx(_) => sink + &rule("history", &format!("{name}.device_history")),
            _ => {
                let tables = ["history", "status"].map(|it| rule(it, &format!("{name}.device_{it}")));
                sink + &tables.concat()
            }
        }
    }

    /// Makes it unreachable, gone or deaf.
    pub(super) async fn down(&mut self, home: &Home, how: u32) {
        let is_slow = matches!(self, Self::Mongo(_));
        match self {
            Self::Sqlite { lock } => {
                // The file that the embedded sink and presence share.
                let connection = Connection::open(home.database()).expect("a database");
                connection.busy_timeout(PATIENCE).expect("a limit");
                connection.execute_batch("BEGIN IMMEDIATE").expect("the lock");
                *lock = Some(connection);
            }
            Self::Webhook { receiver, .. } if how == 0 => receiver.down().await,
            Self::Postgres(served) if how == 0 => tokio::task::block_in_place(|| served.server.kill()),
            Self::Postgres(Served { way, .. })
            | Self::Mongo(Served { way, .. })
            | Self::Clickhouse(Served { way, .. })
            | Self::Kafka(Served { way, .. })
            | Self::Influx(Served { way, .. })
            | Self::Webhook { way, .. } => match how {
                0 | 1 => way.close(),
                2 if !is_slow => way.hold(),
                _ => way.cut(),
            },
        }
    }

    /// Ends what [`Target::down`] with the same `how` began.
    pub(super) async fn up(&mut self, how: u32) {
        match self {
            Self::Sqlite { lock } => *lock = None,
            Self::Webhook { receiver, .. } if how == 0 => receiver.up().await,
            Self::Postgres(served) if how == 0 => tokio::task::block_in_place(|| served.server.start()),
            Self::Postgres(Served { way, .. })
            | Self::Mongo(Served { way, .. })
            | Self::Clickhouse(Served { way, .. })
            | Self::Kafka(Served { way, .. })
            | Self::Influx(Served { way, .. })
            | Self::Webhook { way, .. } => way.open(),
        }
    }

    /// All rows of the history.
    pub(super) async fn history(&self, home: &Home) -> Vec<Entry> {
        self.rows(home, "device_history").await
    }

    /// The status of each device by its id; none where the target keeps no such table. InfluxDB's newest point is the
    /// one of the latest time, and clocks are stepped.
    pub(super) async fn status(&self, home: &Home) -> Option<BTreeMap<String, Entry>> {
        if matches!(self, Self::Webhook { .. } | Self::Influx(_)) {
            return None;
        }
        let rows = self.rows(home, "device_status").await;
        let count = rows.len();
        let by_id: BTreeMap<_, _> = rows.into_iter().map(|row| (row.clientid.clone(), row)).collect();
        assert_eq!(by_id.len(), count, "{}: one row a device", self.name());
        Some(by_id)
    }

    async fn rows(&self, home: &Home, table: &str) -> Vec<Entry> {
        let columns = "clientid, event, reason, session, seq, at";
        match self {
            Self::Sqlite { .. } => sqlite_rows(home, &format!("SELECT {columns} FROM {table}")),
            Self::Postgres(_) => {
                let rows = self.postgres_client().await;
                let rows = rows.query(&format!("SELECT {columns} FROM {table}"), &[]).await.expect("rows");
                let row = |row: &tokio_postgres::Row| Entry {
                    clientid: row.get(0),
                    event: row.get(1),
                    reason: row.get(2),
                    session: number(row.get(3)),
                    seq: number(row.get(4)),
                    at: row.get(5),
                };
                rows.iter().map(row).collect()
            }
            Self::Mongo(served) => {
                let login = format!("{LOGIN}@{}", served.server.address());
                let url = format!("mongodb://{login}/?directConnection=true&authSource=admin");
                let client = mongodb::Client::with_uri_str(url).await.expect("a client");
                let found = client.database("model").collection::<Document>(table).find(doc! {}).await;
                let documents: Vec<Document> = found.expect("rows").try_collect().await.expect("rows");
                documents.iter().map(|it| entry(&serde_json::to_value(it).expect("JSON"))).collect()
            }
            Self::Clickhouse(_) => {
                let last = if table == "device_status" { " FINAL" } else { "" };
                let query = format!(
                    "SELECT {columns} FROM {table}{last} FORMAT JSONEachRow \
                     SETTINGS output_format_json_quote_64bit_integers = 0"
                );
                let text = self.ask_clickhouse(&query).await;
                text.lines().map(|line| entry(&serde_json::from_str(line).expect("JSON"))).collect()
            }
            Self::Kafka(served) => {
                let rows = streams::kafka_rows(served.server.address(), table, table == "device_status");
                rows.iter().map(entry).collect()
            }
            Self::Influx(served) => {
                let rows = streams::influx_rows(served.server.address(), table).await;
                rows.iter().map(entry).collect()
            }
            Self::Webhook { arrived, .. } => arrived.lock().expect("no test panics with it").clone(),
        }
    }

    async fn postgres_client(&self) -> tokio_postgres::Client {
        let Self::Postgres(served) = self else { panic!("no PostgreSQL") };
        let address = served.server.address();
        let config = format!("host={} port={} user=postgres", address.ip(), address.port());
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await.expect("a connection");
        tokio::spawn(connection);
        client
    }

    async fn ask_clickhouse(&self, query: &str) -> String {
        let Self::Clickhouse(served) = self else { panic!("no ClickHouse") };
        let url = format!("http://{}/", served.server.address());
        let answer = muster_tests::muster::http_client().post(url).body(query.to_owned()).send().await;
        let answer = answer.expect("an answer");
        let (status, text) = (answer.status(), answer.text().await.expect("a body"));
        assert!(status.is_success(), "{query}: {status}: {text}");
        text
    }
}

/// A further rule for the history, into a table of the embedded database.
pub(super) fn extra_rule(table: &str) -> String {
    format!(
        "CREATE RULE {table} INTO sqlite.{table} WITH (start = 'earliest') AS SELECT {COLUMNS} FROM {SOURCES};\n"
    )
}

/// What it has made.
pub(super) fn extra_rows(home: &Home, table: &str) -> Vec<Entry> {
    sqlite_rows(home, &format!("SELECT clientid, event, reason, session, seq, at FROM {table}"))
}

fn sqlite_rows(home: &Home, query: &str) -> Vec<Entry> {
    use rusqlite::types::Value::{Integer, Null, Text};
    let text = |value: &rusqlite::types::Value| match value {
        Text(text) => Some(text.clone()),
        Null => None,
        other => panic!("no text: {other:?}"),
    };
    let integer = |value: &rusqlite::types::Value| match value {
        Integer(number) => *number,
        other => panic!("no number: {other:?}"),
    };
    let rows = home.query(query).unwrap_or_default();
    let row = |row: &Vec<rusqlite::types::Value>| Entry {
        clientid: text(&row[0]).expect("a client"),
        event: text(&row[1]).expect("an event"),
        reason: text(&row[2]),
        session: number(integer(&row[3])),
        seq: number(integer(&row[4])),
        at: integer(&row[5]),
    };
    rows.iter().map(row).collect()
}

fn number(number: i64) -> u64 {
    u64::try_from(number).expect("no negative number")
}

fn entry(row: &Value) -> Entry {
    let number = |name: &str| row[name].as_u64().unwrap_or_else(|| panic!("{name} of {row}"));
    let text = |name: &str| row[name].as_str().map(str::to_owned);
    // MongoDB has times of its own.
    let date = || row["at"]["$date"]["$numberLong"].as_str()?.parse().ok();
    Entry {
        clientid: text("clientid").unwrap_or_else(|| panic!("no client: {row}")),
        seq: number("seq"),
        session: number("session"),
        event: text("event").unwrap_or_else(|| panic!("no event: {row}")),
        reason: text("reason"),
        at: row["at"].as_i64().or_else(date).unwrap_or_else(|| panic!("no time: {row}")),
    }
}
