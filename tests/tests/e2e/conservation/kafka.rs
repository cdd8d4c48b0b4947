//! Kafka, read as a consumer that sees committed records alone. The broker refuses nothing; the rule fails on poison.

use std::collections::BTreeSet;
use std::time::Duration;

use muster_test_servers::{Proxy, Server};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

use super::run::conserve;
use super::target::{Arrived, TABLE, Target};

const PARTITIONS: i32 = 3;
/// How long the broker may take to say something.
const ANSWER: Duration = Duration::from_secs(30);

pub(super) struct Kafka {
    server: Server,
    way: Proxy,
}

impl Kafka {
    /// None where the server cannot be had here.
    pub(super) async fn start() -> Option<Self> {
        let server = tokio::task::block_in_place(|| Server::own("kafka"))?;
        // A broker tells its clients where to come; this listener of it sends them to the proxy.
        let listeners = std::fs::read_to_string(server.dir().expect("a server of our own").join("listeners"));
        let listeners = listeners.expect("where it listens");
        let listener = |name: &str| {
            let address = listeners.lines().find_map(|line| line.strip_prefix(name)).expect("a listener");
            address.parse().expect("an address")
        };
        let way = Proxy::at(listener("proxy="), listener("behind=")).await;
        let target = Self { server, way };
        let admin: AdminClient<DefaultClientContext> = target.config().create().expect("a client");
        let topic = NewTopic::new(TABLE, PARTITIONS, TopicReplication::Fixed(1));
        let made = admin.create_topics(&[topic], &AdminOptions::new()).await.expect("an answer");
        assert!(made.iter().all(Result::is_ok), "{made:?}");
        Some(target)
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.server.address().to_string());
        config
    }

    fn read(&self) -> Vec<Arrived> {
        let mut config = self.config();
        config.set("group.id", "oracle").set("isolation.level", "read_committed");
        config.set("enable.partition.eof", "true").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let mut partitions = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            partitions.add_partition_offset(TABLE, partition, Offset::Beginning).expect("a partition");
        }
        consumer.assign(&partitions).expect("an assignment");
        let (mut rows, mut ended) = (Vec::new(), BTreeSet::new());
        while ended.len() < PARTITIONS as usize {
            match consumer.poll(ANSWER).expect("the end of each partition") {
                Ok(record) => {
                    let row = serde_json::from_slice(record.payload().expect("a value")).expect("JSON");
                    rows.push(Arrived::of_json(&row, String::new()));
                }
                Err(KafkaError::PartitionEOF(partition)) => drop(ended.insert(partition)),
                Err(error) => panic!("{error}"),
            }
        }
        rows
    }
}

impl Target for Kafka {
    fn declaration(&self) -> String {
        format!("kafka WITH (brokers = '{}', timeout_ms = 5000)", self.way.address())
    }

    fn value(&self) -> &'static str {
        "payload.v * 1"
    }

    /// All records of a client are in one partition.
    fn keeps_order(&self) -> bool {
        true
    }

    fn way(&self) -> Option<&Proxy> {
        Some(&self.way)
    }

    async fn down(&mut self, at_once: bool) {
        tokio::task::block_in_place(|| if at_once { self.server.kill() } else { self.server.stop() });
    }

    async fn up(&mut self) {
        tokio::task::block_in_place(|| self.server.start());
    }

    async fn rows(&mut self) -> Vec<Arrived> {
        tokio::task::block_in_place(|| self.read())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_every_message() {
    if let Some(target) = Kafka::start().await {
        conserve(target).await;
    }
}
