//! Kafka: the topics of the example, made by its script, read and folded by their keys as a consumer does.

use std::collections::BTreeMap;
use std::process::Stdio;

use muster_test_servers::Server;
use muster_tests::{Home, tools};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use serde_json::Value;

use super::store::{Asked, Rows, Store, as_answers, query_file};
use super::webhook::{RECEIVER, Webhook};
use super::{alarms, backfill, scene, sqlite};
use crate::records;

/// Kafka's own tools, under the names that they have in its distribution.
const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/servers/kafka-tools");

struct Kafka(Server);

impl Kafka {
    /// A broker that has the example's topics.
    async fn start() -> Option<Self> {
        let store = tokio::task::block_in_place(|| Server::own("kafka")).map(Self)?;
        store.make_topics().await;
        assert_eq!(store.policy("device_status").await, "compact");
        assert_eq!(store.policy("device_history").await, "delete");
        Some(store)
    }

    /// Runs the script of the examples, for which Kafka's own tool is in the path.
    async fn make_topics(&self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/kafka/topics.sh");
        let mut command = tools::command(script);
        let path = format!("{}:{}", TOOLS, std::env::var("PATH").expect("a path"));
        tools::run(command.arg(self.0.address().to_string()).env("PATH", path)).await;
    }

    /// What becomes of a topic's old records.
    async fn policy(&self, topic: &str) -> String {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.0.address().to_string());
        let admin: AdminClient<DefaultClientContext> = config.create().expect("a client");
        let asked = [ResourceSpecifier::Topic(topic)];
        let told = admin.describe_configs(&asked, &AdminOptions::new()).await.expect("an answer");
        let told = told.into_iter().next().expect("a topic").expect("its configuration");
        told.get("cleanup.policy").and_then(|it| it.value.clone()).expect("a policy")
    }

    /// The records of a topic, one a line, as the tool of Kafka prints them that the examples name.
    async fn print(&self, topic: &str) -> String {
        let mut command = tools::command(format!("{TOOLS}/kafka-console-consumer.sh"));
        command.args([
            "--bootstrap-server",
            &self.0.address().to_string(),
            "--topic",
            topic,
            "--from-beginning",
        ]);
        command.args(["--timeout-ms", "10000", "--isolation-level", "read_committed"]).stderr(Stdio::null());
        let records = tools::output(tools::spawn(command.stdout(Stdio::piped()))).await;
        assert!(!records.is_empty(), "{topic} is empty");
        records
    }

    /// The same without waiting for more of them.
    fn lines(&self, topic: &str) -> String {
        let records = tokio::task::block_in_place(|| records::read(self.0.address(), topic));
        records.iter().map(|(_, value)| format!("{value}\n")).collect()
    }
}

/// The topic that a query asks.
fn topic_of(query: &str) -> &'static str {
    if query == "offline" { "device_status" } else { "device_history" }
}

/// What a program of the examples says of records.
async fn ask(name: &str, arguments: &[&str], records: &str) -> Rows {
    let mut command = tools::command(query_file::<Kafka>(name, "py"));
    let told = tools::run_with_input(command.args(arguments), records).await;
    let rows = told.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect();
    as_answers(name, rows, |ms| ms.parse().expect("milliseconds"))
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Store for Kafka {
    const NAME: &'static str = "kafka";
    const MIGRATES: bool = false;

    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![("DEVICES_BROKERS", self.0.address().to_string())]
    }

    /// A topic answers no questions: a program asks its records. So do the queries of a receiver of webhooks, once its
    /// tables are filled from the topics.
    async fn answer(&self, home: &Home, name: &str, asked: &Asked) -> Option<Rows> {
        let python = tools::find("python3")?;
        let window = [asked.since_ms.to_string(), asked.until_ms.to_string()];
        let arguments = match name {
            "offline" => Vec::new(),
            "uptime" => vec![asked.client.as_str(), &window[0], &window[1]],
            _ => vec![window[0].as_str(), &window[1]],
        };
        let told = ask(name, &arguments, &self.lines(topic_of(name))).await;
        let file = home.path().join("folded.db");
        for table in ["device_status", "device_history"] {
            let mut command = tools::command(&python);
            tools::run_with_input(command.arg(RECEIVER).arg(&file).arg(table), &self.lines(table)).await;
        }
        assert_eq!(told, sqlite::answer::<Webhook>(&file, name, asked), "{name}, by tables");
        Some(told)
    }

    /// As the files say it themselves.
    async fn shipped(&self, _: &Home, name: &str) -> Option<Rows> {
        tools::find("python3")?;
        let arguments: &[&str] = if name == "uptime" { &["meter-1"] } else { &[] };
        Some(ask(name, arguments, &self.print(topic_of(name)).await).await)
    }

    async fn rows(&self, _: &Home, table: &str, columns: &[&str]) -> Rows {
        let records = tokio::task::block_in_place(|| records::read(self.0.address(), table));
        let row = |value: &Value| columns.iter().map(|column| cell(&value[*column])).collect::<Vec<_>>();
        match table {
            // As compaction leaves it, or will: the last record of each key.
            "device_status" => {
                let last = records.iter().map(|(key, value)| (key, row(value))).collect::<BTreeMap<_, _>>();
                last.into_values().collect()
            }
            // An alarm about no device has no key, and so no partition that keeps its order.
            "device_alarms" => {
                let key =
                    |value: &Value| [&value["name"], &value["clientid"], &value["activated_at"]].map(cell);
                let mut records = records;
                records.sort_by_key(|(_, value)| value["offset"].as_u64());
                let last =
                    records.iter().map(|(_, value)| (key(value), row(value))).collect::<BTreeMap<_, _>>();
                last.into_values().collect()
            }
            _ => records.iter().map(|(_, value)| row(value)).collect(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_as_the_log_does() {
    if let Some(store) = Kafka::start().await {
        scene::play(store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn is_filled_from_a_moment_of_the_past() {
    if let Some(store) = Kafka::start().await {
        backfill::play(store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn has_one_row_an_alarm() {
    if let Some(store) = Kafka::start().await {
        alarms::play(store).await;
    }
}
