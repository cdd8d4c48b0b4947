//! What librdkafka's plain producer gets into a Kafka on this machine, with messages of the same size: what a log that
//! many trust takes when no MQTT and no rule are in the way. One broker, which does not fsync before it acknowledges.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use muster_test_servers::Server;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};

const TOPIC: &str = "bench";
/// How long messages are sent in each round.
const TIME: Duration = Duration::from_secs(2);
/// How long what is on its way may take then.
const FLUSH_MAX: Duration = Duration::from_secs(30);
/// As in the scenarios.
const PAYLOAD_BYTES: usize = 256;
/// How long a full queue is waited for.
const QUEUE_FULL: Duration = Duration::from_millis(1);

#[derive(Debug, Default)]
struct Delivered {
    good: AtomicU64,
    bad: AtomicU64,
}

impl ClientContext for Delivered {}

impl ProducerContext for Delivered {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let count = if result.is_ok() { &self.good } else { &self.bad };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Makes the topic, of one partition.
pub(super) async fn prepare(server: &Server) -> anyhow::Result<()> {
    let mut config = ClientConfig::new();
    let admin: AdminClient<DefaultClientContext> =
        config.set("bootstrap.servers", server.address().to_string()).create()?;
    let topic = NewTopic::new(TOPIC, 1, TopicReplication::Fixed(1));
    for made in admin.create_topics([&topic], &AdminOptions::new()).await? {
        made.map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}"))?;
    }
    Ok(())
}

/// Messages a second, acknowledged by the broker. Blocks.
pub(super) fn produce_rate(server: &Server) -> anyhow::Result<f64> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", server.address().to_string());
    config.set("acks", "all").set("linger.ms", "5");
    let producer: BaseProducer<Delivered> = config.create_with_context(Delivered::default())?;
    // The first message waits for metadata.
    send(&producer)?;
    producer.flush(FLUSH_MAX)?;
    let (start, before) = (Instant::now(), producer.context().good.load(Ordering::Relaxed));
    while start.elapsed() < TIME {
        send(&producer)?;
    }
    producer.flush(FLUSH_MAX)?;
    let bad = producer.context().bad.load(Ordering::Relaxed);
    ensure!(bad == 0, "{bad} messages were not taken");
    let sent = producer.context().good.load(Ordering::Relaxed) - before;
    Ok(sent as f64 / start.elapsed().as_secs_f64())
}

fn send(producer: &BaseProducer<Delivered>) -> anyhow::Result<()> {
    let record = || BaseRecord::<str, [u8]>::to(TOPIC).payload(&[b'x'; PAYLOAD_BYTES]);
    while let Err((error, _)) = producer.send(record()) {
        ensure!(error == KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), "{error}");
        producer.poll(QUEUE_FULL);
    }
    producer.poll(Duration::ZERO);
    Ok(())
}
