//! What a consumer of Kafka that sees committed records alone reads of a topic. It must never know what should be in
//! it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use serde_json::Value;

/// How long a broker may take to say something.
const ANSWER: Duration = Duration::from_secs(30);

/// Keys and values of a topic, each partition in its order; none while there is no such topic.
pub(crate) fn read(broker: SocketAddr, topic: &str) -> Vec<(String, Value)> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.to_string());
    config.set("group.id", "tests").set("isolation.level", "read_committed");
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
