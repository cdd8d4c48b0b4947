//! Kafka as the contract's subject: topics of its own on the real broker, behind a way that can be cut. What a row is
//! sent to follows from its payload; `poison` has no topic until somebody makes one.

use std::net::SocketAddr;
use std::sync::Arc;

use muster_sinks::Built;
use muster_test_servers::{Proxy, Server};

use crate::kafka_server::{create_topic, fresh, listener, read_all};
use crate::{Subject, built, env};

/// What rows come of in the contract.
const TAKEN: [&str; 2] = ["hello", "3"];

pub struct KafkaSubject {
    _server: Arc<Server>,
    proxy: Proxy,
    brokers: SocketAddr,
    name: String,
    runtime: tokio::runtime::Handle,
}

impl KafkaSubject {
    /// None where there is no server.
    pub async fn new() -> Option<Self> {
        let server = Server::shared("kafka")?;
        let proxy = Proxy::at(listener(&server, "proxy"), listener(&server, "behind")).await;
        let (brokers, runtime) = (server.address(), tokio::runtime::Handle::current());
        Some(Self { _server: server, proxy, brokers, name: String::new(), runtime })
    }

    /// The same way to the same broker with topics that nobody has used.
    pub async fn anew(&mut self) -> &Self {
        self.name = fresh("contract");
        for payload in TAKEN {
            create_topic(self.brokers, &self.topic(payload), 2, &[]).await;
        }
        create_topic(self.brokers, &self.topic("checkpoints"), 1, &[("cleanup.policy", "compact")]).await;
        self
    }

    fn topic(&self, payload: &str) -> String {
        format!("{}.{payload}", self.name)
    }
}

impl Subject for KafkaSubject {
    fn build(&self) -> Built {
        let (brokers, topic) = (self.proxy.address().to_string(), self.topic("${payload}"));
        let checkpoints = self.topic("checkpoints");
        let options = [
            ("brokers", brokers.as_str()),
            ("topic", &topic),
            ("checkpoint_topic", &checkpoints),
            ("transactional_id", &self.name),
            ("create_topics", "false"),
        ];
        built("kafka", &env("/nowhere".as_ref()), &options)
    }

    fn go_away(&self) {
        self.proxy.close();
    }

    fn come_back(&self) {
        self.proxy.open();
    }

    fn be_cured(&self) {
        let (topic, brokers) = (self.topic("poison"), self.brokers);
        let create = async move { create_topic(brokers, &topic, 2, &[]).await };
        tokio::task::block_in_place(|| self.runtime.block_on(create));
    }

    fn rows(&self) -> Vec<(i64, i64)> {
        let place = |value: &str| {
            let row: serde_json::Value = serde_json::from_str(value).unwrap();
            (row["offset"].as_i64().unwrap(), row["part"].as_i64().unwrap())
        };
        let mut rows = Vec::new();
        for payload in TAKEN.into_iter().chain(["poison"]) {
            let seen = read_all(self.brokers, &self.topic(payload));
            let places: Vec<_> = seen.iter().map(|seen| place(&seen.value)).collect();
            // One client's rows share a partition of each topic.
            assert!(payload == "poison" || places.is_sorted(), "{places:?}");
            rows.extend(places);
        }
        rows.sort_unstable();
        rows
    }
}
