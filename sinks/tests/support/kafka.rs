//! Apache Kafka for tests: its listeners, topics, and what a reader sees who takes only what is committed.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use muster_test_servers::Server;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// How often a broker is asked for a topic.
const ASKED_MAX: usize = 2_000;
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(60);

/// How often the end of a transaction is looked for, a round trip each time.
const LOOKS_MAX: u32 = 100_000;

/// A record as a reader sees it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<String>,
    pub value: String,
    pub headers: BTreeMap<String, String>,
    pub timestamp_ms: i64,
}

/// A name that nobody has used.
pub fn fresh(what: &str) -> String {
    static MADE: AtomicU32 = AtomicU32::new(0);
    format!("{what}_{}_{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed))
}

/// The address of one of the listeners in `DIR/listeners`.
pub fn listener(server: &Server, name: &str) -> SocketAddr {
    let text = std::fs::read_to_string(server.dir().expect("a server of ours").join("listeners")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
    line.expect("such a listener").parse().unwrap()
}

/// A file of `DIR/tls`.
pub fn tls_file(server: &Server, name: &str) -> String {
    let file: PathBuf = server.dir().expect("a server of ours").join("tls").join(name);
    file.to_str().unwrap().to_owned()
}

pub fn admin(brokers: SocketAddr) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers.to_string()).create().unwrap()
}

pub async fn create_topic(brokers: SocketAddr, name: &str, partitions: i32, config: &[(&str, &str)]) {
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    for (name, value) in config {
        topic = topic.set(name, value);
    }
    let made = admin(brokers).create_topics([&topic], &AdminOptions::new()).await.unwrap();
    assert!(made.iter().all(Result::is_ok), "{made:?}");
}

pub async fn delete_topic(brokers: SocketAddr, name: &str) {
    let deleted = admin(brokers).delete_topics(&[name], &AdminOptions::new()).await.unwrap();
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
}

/// How many partitions `topic` has.
pub fn partitions(brokers: SocketAddr, topic: &str) -> usize {
    let metadata = reader(brokers).fetch_metadata(Some(topic), ANSWER).unwrap();
    metadata.topics()[0].partitions().len()
}

fn reader(brokers: SocketAddr) -> BaseConsumer {
    reader_of(brokers, "read_committed")
}

fn reader_of(brokers: SocketAddr, isolation: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers.to_string()).set("group.id", fresh("reader"));
    config.set("isolation.level", isolation).set("enable.partition.eof", "true");
    config.set("enable.auto.commit", "false").set("check.crcs", "true").set("fetch.wait.max.ms", "10");
    config.create().unwrap()
}

/// Waits until the transactions that are under way are over: Kafka answers a commit once it cannot be undone, and lets
/// readers see it a moment later.
fn until_stable(brokers: SocketAddr, topic: &str, committed: &BaseConsumer, partition: i32) {
    let all = reader_of(brokers, "read_uncommitted");
    let (_, end) = all.fetch_watermarks(topic, partition, ANSWER).unwrap();
    let stable = |_| committed.fetch_watermarks(topic, partition, ANSWER).unwrap().1 >= end;
    assert!((0..LOOKS_MAX).any(stable), "a transaction does not end");
}

/// Everything that is committed in `topic`, partition by partition; nothing where there is no such topic.
pub fn read_all(brokers: SocketAddr, topic: &str) -> Vec<Seen> {
    let consumer = reader(brokers);
    // A topic that was made a moment ago may not be known to whoever is asked.
    let asked = || {
        let metadata = consumer.fetch_metadata(Some(topic), ANSWER).unwrap();
        metadata.topics()[0].partitions().iter().map(|it| it.id()).collect::<Vec<i32>>()
    };
    let mut asked = std::iter::repeat_with(asked).take(ASKED_MAX).skip_while(Vec::is_empty);
    let partitions = asked.next().unwrap_or_default();
    let mut places = TopicPartitionList::new();
    for partition in &partitions {
        until_stable(brokers, topic, &consumer, *partition);
        places.add_partition_offset(topic, *partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&places).unwrap();
    let (mut seen, mut ended) = (Vec::new(), HashSet::new());
    while ended.len() < partitions.len() {
        match consumer.poll(ANSWER).expect("an answer in time") {
            Ok(message) => seen.push(Seen {
                partition: message.partition(),
                offset: message.offset(),
                key: message.key().map(|key| String::from_utf8_lossy(key).into_owned()),
                value: String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned(),
                headers: message.headers().map_or_else(BTreeMap::new, |headers| {
                    let text = |value: Option<&[u8]>| {
                        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
                    };
                    headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect()
                }),
                timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
            }),
            Err(KafkaError::PartitionEOF(partition)) => drop(ended.insert(partition)),
            Err(error) => eprintln!("the reader goes on after: {error}"),
        }
    }
    seen.sort_by_key(|seen| (seen.partition, seen.offset));
    seen
}
