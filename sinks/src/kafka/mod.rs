//! Kafka: rows and the checkpoint commit in one transaction, under a transactional id that is the pipeline's alone.
//! librdkafka's calls block, so each batch runs on a thread for such work; what nobody waits for any more is thrown
//! away together with its producer, and the next attempt looks what became of it.

mod client;
mod config;
mod deliver;
mod encode;
mod errors;
mod memory;
mod owner;
#[cfg(test)]
mod tests;
mod topics;

use std::sync::Arc;
use std::time::Duration;

use muster_core::clock::SharedClock;

use crate::delivery::{DEAD_LETTERS_PER_MINUTE, Limits};
use crate::error::SinkError;
use crate::registry::{Kind, OptionSpec};
use crate::sink::{Batch, BoxFuture, Durable, Memory, Outcome, PipelineId, Sink};

use client::{Client, Job};
use config::{Config, Delivery};
use owner::Owner;
use topics::Use;

/// This sink's row in the registry.
pub(crate) const KIND: Kind = Kind {
    name: "kafka",
    summary: "a topic of Apache Kafka; rows and cursor commit in one transaction",
    options: OPTIONS,
    example: "CREATE SINK kafka TYPE kafka WITH (brokers = 'kafka-1:9092,kafka-2:9092', compression = 'lz4');",
    page: "sinks/docs/kafka.md",
    limits: Limits {
        batch_rows_max: 20_000,
        batch_bytes_max: 8 << 20,
        batch_wait: Duration::from_millis(20),
        dead_letters_per_minute_max: DEAD_LETTERS_PER_MINUTE,
    },
    has_targets: true,
    migrate: None,
    build: |options, env| {
        let config = Arc::new(Config::parse(options)?);
        Ok(Box::new(Kafka { config, clock: env.clock.clone(), client: None, owner: None }))
    },
};

const OPTIONS: &[OptionSpec] = &[
    OptionSpec::new(
        "brokers",
        None,
        "`host:port` of some brokers, with commas between; they name the others",
    ),
    OptionSpec::new(
        "topic",
        None,
        "the topic, e.g. `telemetry.${region}` with the row's columns; else INTO names it",
    ),
    OptionSpec::new("key", None, "the record's key, e.g. `${room}`; the client's id where it is not given"),
    OptionSpec::new(
        "value",
        None,
        "the record's value, e.g. `${payload}`; the row as JSON where it is not given",
    ),
    OptionSpec::new("format", Some("json"), "`json`, `cloudevents_structured` or `cloudevents_binary`"),
    OptionSpec::new("delivery", Some("exactly_once"), "`exactly_once` (transactions) or `at_least_once`"),
    OptionSpec::new(
        "transactional_id",
        Some("muster"),
        "what the transactional ids of the pipelines begin with",
    ),
    OptionSpec::new("checkpoint_topic", Some("_muster_checkpoints"), "where pipelines keep how far they are"),
    OptionSpec::new("create_topics", Some("true"), "whether topics that are missing are created"),
    OptionSpec::new("partitions", None, "of topics that are created; the brokers' default where not given"),
    OptionSpec::new(
        "replication_factor",
        None,
        "of topics that are created; the brokers' default where not given",
    ),
    OptionSpec::new("compression", Some("none"), "`none`, `gzip`, `snappy`, `lz4` or `zstd`"),
    OptionSpec::new(
        "acks",
        Some("all"),
        "`all`, or `1` under `delivery = 'at_least_once'`: the leader's word alone",
    ),
    OptionSpec::new(
        "max_message_bytes",
        Some("1000000"),
        "the largest record; the topic's max.message.bytes",
    ),
    OptionSpec::new("linger_ms", Some("5"), "how long a record waits for others of its partition"),
    OptionSpec::new("timeout_ms", Some("30000"), "how long a batch may take before it is tried again"),
    OptionSpec::new("client_id", Some("muster"), "how the brokers call us in their logs, metrics and quotas"),
    OptionSpec::new(
        "security_protocol",
        Some("plaintext"),
        "`plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`",
    ),
    OptionSpec::new("sasl_mechanism", None, "`PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`"),
    OptionSpec::new("username", None, "for SASL"),
    OptionSpec::secret("password", "for SASL"),
    OptionSpec::new("ca_file", None, "certificates (PEM) that the brokers' are signed by; else the system's"),
    OptionSpec::new("cert_file", None, "our certificate (PEM), where the brokers ask for one"),
    OptionSpec::new("key_file", None, "its key (PEM)"),
    OptionSpec::secret("key_password", "opens the key"),
    OptionSpec::secret(
        "librdkafka.",
        "any other property of librdkafka, e.g. `librdkafka.batch.size = '500000'`",
    ),
];

struct Kafka {
    config: Arc<Config>,
    clock: SharedClock,
    /// None before the first batch, and where the fate of the last attempt is not known.
    client: Option<Client>,
    /// Who we are under `exactly_once`; none before `open`.
    owner: Option<Owner>,
}

impl Kafka {
    /// Runs `work` where it may block. When the future is dropped, `work` ends soon and drops what it was given.
    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Config, &Job) -> Result<T, SinkError> + Send + 'static,
    ) -> Result<T, SinkError> {
        let config = self.config.clone();
        let (job, _guard) = Job::new(self.clock.clone(), config.timeout);
        let done = tokio::task::spawn_blocking(move || work(&config, &job)).await;
        done.map_err(|error| SinkError::unavailable("the thread that talks to Kafka ended").caused_by(error))?
    }
}

impl Sink for Kafka {
    /// Transactions know what they have. Without them a row is told apart by the ids in its headers.
    fn wants_recorded_batches(&self) -> bool {
        self.config.delivery == Delivery::AtLeastOnce
    }

    fn open<'a>(&'a mut self, pipeline: &'a PipelineId) -> BoxFuture<'a, Result<Memory, SinkError>> {
        Box::pin(async move {
            let (client, pipeline) = (self.client.take(), pipeline.clone());
            self.owner = None;
            if self.config.delivery == Delivery::AtLeastOnce {
                let opened = self.on_thread(move |config, job| {
                    drop(client);
                    Client::new(&config.producer(&pipeline), job.clock())
                });
                self.client = Some(opened.await?);
                return Ok(Memory::None);
            }
            let opened = self.on_thread(move |config, job| {
                drop(client);
                Owner::take_over(config, &pipeline, None, job)
            });
            let (client, owner) = opened.await?;
            let memory = owner.committed.map_or(Memory::Fresh, Memory::At);
            (self.client, self.owner) = (Some(client), Some(owner));
            Ok(memory)
        })
    }

    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<Outcome, SinkError>> {
        Box::pin(async move {
            // Taken away while the outcome is open: should this future be dropped, the next attempt looks.
            let (client, batch) = (self.client.take(), batch.clone());
            if self.config.delivery == Delivery::AtLeastOnce {
                let delivered = self.on_thread(move |config, job| {
                    let mut client = match client {
                        Some(client) => client,
                        None => Client::new(&config.producer(&batch.pipeline), job.clock())?,
                    };
                    let outcome = deliver::plain(&mut client, config, &batch, job)?;
                    let well = !matches!(outcome, Outcome::PerRow { error: Some(_), .. });
                    Ok((well.then_some(client), outcome))
                });
                let (client, outcome) = delivered.await?;
                self.client = client;
                return Ok(outcome);
            }
            let Some(owner) = self.owner.clone() else {
                return Err(SinkError::unavailable("the sink is not open"));
            };
            let delivered =
                self.on_thread(move |config, job| exactly_once(config, client, owner, &batch, job));
            let (client, owner, outcome) = delivered.await?;
            (self.client, self.owner) = (Some(client), Some(owner));
            Ok(outcome)
        })
    }

    /// Whether the brokers know us, and the topics are there or could be made. No record is invented to try it.
    fn check(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async move {
            self.on_thread(|config, job| {
                let client = Client::new(&config.plain_producer(), job.clock())?;
                if config.delivery == Delivery::ExactlyOnce {
                    topics::check(&client, config, &config.checkpoint_topic, Use::Checkpoints, job)?;
                }
                match config.encoder.topic.constant() {
                    Some(topic) => topics::check(&client, config, topic, Use::Rows, job),
                    None => topics::reach(&client, job),
                }
            })
            .await
        })
    }
}

/// Closing a producer waits for its threads; those who drop a sink must not wait.
impl Drop for Kafka {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            let closing = std::thread::Builder::new().name("kafka-close".to_owned());
            drop(closing.spawn(move || drop(client)));
        }
    }
}

/// Delivers `batch`, after a look at what became of the last attempt where that is not known.
fn exactly_once(
    config: &Config,
    client: Option<Client>,
    owner: Owner,
    batch: &Batch,
    job: &Job,
) -> Result<(Client, Owner, Outcome), SinkError> {
    let (mut client, mut owner) = match client {
        Some(client) => (client, owner),
        None => {
            let known = owner.committed;
            let (client, owner) = Owner::take_over(config, &batch.pipeline, Some(&owner), job)?;
            if owner.committed != known {
                // Between two attempts at a batch nobody but the first of them can have moved it.
                owner.must_be_at(batch.after)?;
                return Ok((client, owner, Outcome::Durable(Durable::promise(batch))));
            }
            (client, owner)
        }
    };
    match deliver::transaction(&mut client, config, &mut owner, batch, job) {
        Ok(outcome) => Ok((client, owner, outcome)),
        Err(error) if errors::is_fence(&error) => Err(owner.after_fence(&client, config, error, job)),
        Err(error) => Err(error),
    }
}
