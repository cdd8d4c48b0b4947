//! Kafka: the topics of the example, read and folded by their keys as a consumer does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use muster_test_servers::Server;
use muster_tests::{Home, tools};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use serde_json::Value;

use super::store::{Asked, Rows, Store};
use super::{alarms, backfill, scene, sqlite};

/// How long the broker may take to say something.
const ANSWER: Duration = Duration::from_secs(30);

struct Kafka(Server);

impl Kafka {
    fn start() -> Option<Self> {
        tokio::task::block_in_place(|| Server::own("kafka")).map(Self)
    }

    /// Keys and values of a topic, each partition in its order.
    fn read(&self, topic: &str) -> Vec<(String, Value)> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.0.address().to_string());
        config.set("group.id", "stores").set("isolation.level", "read_committed");
        config.set("enable.partition.eof", "true").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let metadata = consumer.fetch_metadata(Some(topic), ANSWER).expect("metadata");
        let partitions = metadata.topics()[0].partitions().len();
        let mut all = TopicPartitionList::new();
        for partition in 0..partitions {
            let partition = i32::try_from(partition).expect("few");
            all.add_partition_offset(topic, partition, Offset::Beginning).expect("a partition");
        }
        consumer.assign(&all).expect("an assignment");
        let (mut records, mut ended) = (Vec::new(), BTreeSet::new());
        while ended.len() < partitions {
            match consumer.poll(ANSWER).expect("the end of each partition") {
                Ok(record) => {
                    let key = String::from_utf8_lossy(record.key().unwrap_or_default()).into_owned();
                    let value = serde_json::from_slice(record.payload().expect("a value")).expect("JSON");
                    records.push((key, value));
                }
                Err(KafkaError::PartitionEOF(partition)) => drop(ended.insert(partition)),
                Err(error) => panic!("{error}"),
            }
        }
        records
    }
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

    /// A topic answers no questions: its records go into tables, by the script of the examples, and those are asked.
    async fn answer(&self, home: &Home, name: &str, asked: &Asked) -> Option<Rows> {
        let python = tools::find("python3")?;
        let file = home.path().join("folded.db");
        for table in ["device_status", "device_history"] {
            let records = tokio::task::block_in_place(|| self.read(table));
            let lines = records.iter().map(|(_, value)| format!("{value}\n")).collect::<String>();
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/databases/webhook_receiver.py");
            let mut command = tools::command(&python);
            tools::run_with_input(command.arg(script).arg(&file).arg(table), &lines).await;
        }
        Some(sqlite::answer(&file, name, asked))
    }

    async fn rows(&self, _: &Home, table: &str, columns: &[&str]) -> Rows {
        let records = tokio::task::block_in_place(|| self.read(table));
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
    if let Some(store) = Kafka::start() {
        scene::play(store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn is_filled_from_a_moment_of_the_past() {
    if let Some(store) = Kafka::start() {
        backfill::play(store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn has_one_row_an_alarm() {
    if let Some(store) = Kafka::start() {
        alarms::play(store).await;
    }
}
