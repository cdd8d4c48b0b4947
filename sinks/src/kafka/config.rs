//! Options of the Kafka sink, and what librdkafka is told of them. Nothing is opened.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use crate::error::SinkError;
use crate::registry::Options;
use crate::sink::PipelineId;
use crate::template::Template;

use super::encode::{Encoder, Format, topic_error};

/// The longest time for a batch that may be asked for: a broker's `transaction.max.timeout.ms` is 15 minutes.
const TIMEOUT_MS_MAX: u64 = 600_000;
/// How much longer than a batch its transaction may live, before the broker takes it back by itself.
const TRANSACTION_MARGIN_MS: u64 = 10_000;
/// The longest wait for one answer of a broker; after it the connection is made anew.
const ANSWER_MS_MAX: u64 = 30_000;
/// How long to wait at most before a broker is called again that could not be reached.
const RECONNECT_MS_MAX: u64 = 1_000;
/// Bytes of records that librdkafka sends as one, unless a record may not even be that large.
const SEND_BYTES_MAX: u32 = 1_000_000;
/// Partitions and replicas may be left to the broker.
const BROKERS_CHOICE: i32 = -1;
/// What is kept of the name of a pipeline in one part of its transactional id.
const ESCAPE: char = '~';

/// Properties that have an option of their own, or that the sink's promises rest on.
const RESERVED: &[(&str, &str)] = &[
    ("bootstrap.servers", "the option `brokers` sets it"),
    ("metadata.broker.list", "the option `brokers` sets it"),
    ("client.id", "the option `client_id` sets it"),
    ("security.protocol", "the option `security_protocol` sets it"),
    ("sasl.mechanisms", "the option `sasl_mechanism` sets it"),
    ("sasl.mechanism", "the option `sasl_mechanism` sets it"),
    ("sasl.username", "the option `username` sets it"),
    ("sasl.password", "the option `password` sets it"),
    ("ssl.ca.location", "the option `ca_file` sets it"),
    ("ssl.certificate.location", "the option `cert_file` sets it"),
    ("ssl.key.location", "the option `key_file` sets it"),
    ("ssl.key.password", "the option `key_password` sets it"),
    ("compression.type", "the option `compression` sets it"),
    ("compression.codec", "the option `compression` sets it"),
    ("linger.ms", "the option `linger_ms` sets it"),
    ("queue.buffering.max.ms", "the option `linger_ms` sets it"),
    ("message.max.bytes", "the option `max_message_bytes` sets it"),
    ("message.timeout.ms", "the option `timeout_ms` sets it"),
    ("delivery.timeout.ms", "the option `timeout_ms` sets it"),
    ("transaction.timeout.ms", "the option `timeout_ms` sets it"),
    ("acks", "the option `acks` sets it"),
    ("request.required.acks", "the option `acks` sets it"),
    ("enable.idempotence", "`delivery` rests on it"),
    ("enable.gapless.guarantee", "`delivery` rests on it"),
    ("transactional.id", "`delivery` rests on it; see the option `transactional_id`"),
    ("allow.auto.create.topics", "the option `create_topics` decides it"),
    ("isolation.level", "`delivery` rests on it"),
    ("group.id", "the sink joins no group"),
    ("enable.auto.commit", "the sink joins no group"),
    ("enable.partition.eof", "`delivery` rests on it"),
    ("message.copy.max.bytes", "the sink does not use it"),
];

/// How often a row may arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    ExactlyOnce,
    AtLeastOnce,
}

pub(super) struct Config {
    pub(super) delivery: Delivery,
    pub(super) encoder: Encoder,
    pub(super) create_topics: bool,
    pub(super) partitions: i32,
    pub(super) replication_factor: i32,
    pub(super) checkpoint_topic: String,
    pub(super) timeout: Duration,
    pub(super) max_message_bytes: u32,
    pub(super) brokers: String,
    transactional_id: String,
    all_acks: bool,
    /// What every client of the sink is told: where the brokers are and who we are.
    common: ClientConfig,
    /// What the producer is told besides.
    producer: ClientConfig,
}

impl Config {
    pub(super) fn parse(options: &Options<'_>) -> Result<Self, SinkError> {
        let delivery = options.one_of(
            "delivery",
            &[("exactly_once", Delivery::ExactlyOnce), ("at_least_once", Delivery::AtLeastOnce)],
        )?;
        let all_acks = options.one_of("acks", &[("all", true), ("-1", true), ("1", false)])?;
        if !all_acks && delivery == Delivery::ExactlyOnce {
            return Err(options.wrong("acks", "must be `all` unless `delivery = 'at_least_once'`"));
        }
        let timeout_ms: u64 = options.parse("timeout_ms")?;
        if !(1_000..=TIMEOUT_MS_MAX).contains(&timeout_ms) {
            return Err(options.wrong("timeout_ms", "must be between 1000 and 600000"));
        }
        let max_message_bytes = options.parse("max_message_bytes")?;
        if !(1_000..=1_000_000_000).contains(&max_message_bytes) {
            return Err(options.wrong("max_message_bytes", "must be between 1000 and 1000000000"));
        }
        let checkpoint_topic = options.required("checkpoint_topic")?;
        if let Some(what) = topic_error(checkpoint_topic.as_bytes()) {
            return Err(options.wrong("checkpoint_topic", &what));
        }
        let transactional_id = options.required("transactional_id")?;
        if transactional_id.is_empty() || transactional_id.contains(char::is_whitespace) {
            return Err(options.wrong("transactional_id", "must be a name without spaces"));
        }
        let config = Self {
            delivery,
            encoder: encoder(options)?,
            create_topics: options.one_of("create_topics", &[("true", true), ("false", false)])?,
            partitions: count(options, "partitions")?,
            replication_factor: count(options, "replication_factor")?,
            checkpoint_topic: checkpoint_topic.to_owned(),
            timeout: Duration::from_millis(timeout_ms),
            max_message_bytes,
            brokers: brokers(options)?,
            transactional_id: transactional_id.to_owned(),
            all_acks,
            common: common(options, timeout_ms)?,
            producer: producer(options, timeout_ms, max_message_bytes)?,
        };
        // The properties are looked at here, so that `muster rules check` finds what is wrong with them.
        config.check_properties(options)?;
        Ok(config)
    }

    /// What the producer of `pipeline` is told.
    pub(super) fn producer(&self, pipeline: &PipelineId) -> ClientConfig {
        let mut config = self.plain_producer();
        match self.delivery {
            Delivery::ExactlyOnce => {
                config.set("transactional.id", self.transactional_id(pipeline));
                let timeout_ms = u64::try_from(self.timeout.as_millis()).unwrap_or(TIMEOUT_MS_MAX);
                config.set("transaction.timeout.ms", (timeout_ms + TRANSACTION_MARGIN_MS).to_string());
            }
            Delivery::AtLeastOnce if self.all_acks => drop(config.set("enable.idempotence", "true")),
            // Without idempotence only one request at a time keeps the order when it is sent again.
            Delivery::AtLeastOnce => {
                config.set("acks", "1").set("max.in.flight.requests.per.connection", "1");
            }
        }
        config
    }

    /// What a producer is told that only asks.
    pub(super) fn plain_producer(&self) -> ClientConfig {
        let mut config = self.common.clone();
        for (name, value) in self.producer.config_map() {
            config.set(name, value);
        }
        config
    }

    /// What the reader of checkpoints is told.
    pub(super) fn reader(&self, pipeline: &PipelineId) -> ClientConfig {
        let mut config = self.common.clone();
        config.set("group.id", self.transactional_id(pipeline)).set("enable.auto.commit", "false");
        config.set("isolation.level", "read_committed").set("enable.partition.eof", "true");
        config.set("auto.offset.reset", "error").set("allow.auto.create.topics", "false");
        config.set("fetch.wait.max.ms", "50").set("check.crcs", "true");
        config
    }

    /// What the client is told that creates topics and looks at them.
    pub(super) fn admin(&self) -> ClientConfig {
        self.common.clone()
    }

    /// `PREFIX.RULE.SINK.TARGET`, for a lane or a replay with its part behind it; equal over restarts: whoever takes it
    /// keeps the one before from writing.
    pub(super) fn transactional_id(&self, pipeline: &PipelineId) -> String {
        let PipelineId { rule, sink, target, part } = pipeline;
        let names = [rule, sink, target].map(|name| escaped(name));
        let part = escaped(&part.to_string());
        format!("{}.{}{part}", self.transactional_id, names.join("."))
    }

    fn check_properties(&self, options: &Options<'_>) -> Result<(), SinkError> {
        let pipeline = PipelineId::new("", "", "");
        for config in [self.producer(&pipeline), self.reader(&pipeline)] {
            let Err(error) = config.create_native_config() else { continue };
            // librdkafka repeats the value, which may be a secret.
            let KafkaError::ClientConfig(outcome, _, name, _) = &error else {
                return Err(SinkError::misconfigured("librdkafka refuses the options").caused_by(error));
            };
            let what = match outcome {
                RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN => "is no property of librdkafka",
                _ => "has a value that librdkafka does not take",
            };
            return Err(options.wrong(&format!("librdkafka.{name}"), what));
        }
        Ok(())
    }
}

/// A name as one part of an id: what is no letter, digit, `_` or `-` becomes `~` and two digits for each byte.
fn escaped(name: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => out.push(byte.into()),
            other => drop(write!(out, "{ESCAPE}{other:02x}")),
        }
    }
    out
}

fn encoder(options: &Options<'_>) -> Result<Encoder, SinkError> {
    let template = |name: &str| {
        let parsed = options.get(name).map(Template::parse).transpose();
        parsed.map_err(|what| options.wrong(name, &what))
    };
    let topic = match (template("topic")?, options.target()) {
        (Some(_), Some(target)) => {
            let message =
                format!("the sink has the option `topic`: write `INTO` its name without `.{target}`");
            return Err(SinkError::misconfigured(message));
        }
        (Some(topic), None) => topic,
        (None, _) => Template::parse(options.target_or_rule()).map_err(SinkError::misconfigured)?,
    };
    if let Some(what) = topic.constant().and_then(|topic| topic_error(topic.as_bytes())) {
        let topic = topic.constant().unwrap_or_default();
        return Err(SinkError::misconfigured(format!("the topic `{topic}` {what}"))
            .with_hint("name the topic behind a point in `INTO sink.topic`, or with the option `topic`"));
    }
    let formats = [
        ("json", Format::Json),
        ("cloudevents_structured", Format::CloudEventsStructured),
        ("cloudevents_binary", Format::CloudEventsBinary),
    ];
    let format = options.one_of("format", &formats)?;
    Ok(Encoder { topic, key: template("key")?, value: template("value")?, format })
}

fn brokers(options: &Options<'_>) -> Result<String, SinkError> {
    let list: Vec<&str> = options.required("brokers")?.split(',').map(str::trim).collect();
    let good = |broker: &str| {
        let (host, port) = broker.rsplit_once(':').unwrap_or((broker, "9092"));
        !host.is_empty() && port.parse::<u16>().is_ok() && !host.contains(['/', ' ', '@'])
    };
    if !list.iter().all(|broker| good(broker)) {
        return Err(options.wrong("brokers", "must be `host:port`, or several with commas between"));
    }
    Ok(list.join(","))
}

/// A number of partitions or replicas.
fn count(options: &Options<'_>, name: &str) -> Result<i32, SinkError> {
    let Some(value) = options.get(name) else { return Ok(BROKERS_CHOICE) };
    let parsed = value.parse().ok().filter(|count| (1..=i32::from(i16::MAX)).contains(count));
    parsed.ok_or_else(|| options.wrong(name, "must be a number from 1 to 32767"))
}

fn common(options: &Options<'_>, timeout_ms: u64) -> Result<ClientConfig, SinkError> {
    let mut config = ClientConfig::new();
    // Asking for more than errors makes librdkafka's log the louder one of two voices that say the same.
    config.set_log_level(RDKafkaLogLevel::Error);
    let protocols = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"].map(|name| (name, name));
    let protocol = options.one_of("security_protocol", &protocols)?;
    config.set("bootstrap.servers", brokers(options)?).set("security.protocol", protocol);
    config.set("client.id", options.required("client_id")?);
    config.set("socket.timeout.ms", timeout_ms.min(ANSWER_MS_MAX).to_string());
    config.set("socket.connection.setup.timeout.ms", timeout_ms.min(ANSWER_MS_MAX).to_string());
    config.set("reconnect.backoff.max.ms", RECONNECT_MS_MAX.to_string());
    config.set("socket.nagle.disable", "true");
    sasl(options, protocol, &mut config)?;
    tls(options, protocol, &mut config)?;
    for (name, value) in options.with_prefix("librdkafka.") {
        if let Some((_, why)) = RESERVED.iter().find(|(reserved, _)| *reserved == name) {
            return Err(options.wrong(&format!("librdkafka.{name}"), &format!("cannot be set: {why}")));
        }
        config.set(name, value);
    }
    Ok(config)
}

fn sasl(options: &Options<'_>, protocol: &str, config: &mut ClientConfig) -> Result<(), SinkError> {
    let given =
        ["sasl_mechanism", "username", "password"].into_iter().find(|name| options.get(name).is_some());
    if !protocol.starts_with("sasl_") {
        return match given {
            Some(name) => {
                Err(options.wrong(name, "is of no use unless `security_protocol` begins with `sasl_`"))
            }
            None => Ok(()),
        };
    }
    let mechanisms = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].map(|name| (name, name));
    config.set("sasl.mechanisms", options.one_of("sasl_mechanism", &mechanisms)?);
    config.set("sasl.username", options.required("username")?);
    config.set("sasl.password", options.required("password")?);
    Ok(())
}

fn tls(options: &Options<'_>, protocol: &str, config: &mut ClientConfig) -> Result<(), SinkError> {
    let properties = [
        ("ca_file", "ssl.ca.location"),
        ("cert_file", "ssl.certificate.location"),
        ("key_file", "ssl.key.location"),
        ("key_password", "ssl.key.password"),
    ];
    for (name, property) in properties {
        let Some(value) = options.get(name) else { continue };
        if !protocol.ends_with("ssl") {
            return Err(options.wrong(name, "is of no use unless `security_protocol` is `ssl` or `sasl_ssl`"));
        }
        config.set(property, value);
    }
    if options.get("cert_file").is_some() != options.get("key_file").is_some() {
        return Err(options.wrong("cert_file", "and `key_file` go together"));
    }
    Ok(())
}

fn producer(
    options: &Options<'_>,
    timeout_ms: u64,
    max_message_bytes: u32,
) -> Result<ClientConfig, SinkError> {
    let mut config = ClientConfig::new();
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"].map(|name| (name, name));
    config.set("compression.type", options.one_of("compression", &codecs)?);
    let linger_ms: u32 = options.parse("linger_ms")?;
    config.set("linger.ms", linger_ms.to_string());
    config.set("message.timeout.ms", timeout_ms.to_string());
    config.set("message.max.bytes", max_message_bytes.to_string());
    let given = |name: &str| options.with_prefix("librdkafka.").any(|(given, _)| given == name);
    let defaults = [
        ("batch.size", max_message_bytes.min(SEND_BYTES_MAX).to_string()),
        // As Java's producer has it, so that rows of a client are where others would put them.
        ("partitioner", "murmur2_random".to_owned()),
        // A batch is bounded by the engine.
        ("queue.buffering.max.messages", "0".to_owned()),
        ("queue.buffering.max.kbytes", "2147483647".to_owned()),
    ];
    for (name, value) in defaults.iter().filter(|(name, _)| !given(name)) {
        config.set(*name, value);
    }
    config.set("allow.auto.create.topics", "false");
    // Where a partition ends for those who see everything: how far a reader of what is committed must come.
    config.set("isolation.level", "read_uncommitted");
    Ok(config)
}
