//! Topics: whether they are there, and making them where that is wanted. librdkafka never makes one in passing: it
//! would have the brokers' defaults instead of ours.

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication, TopicResult};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::client::{Client, Context, Job};
use super::config::Config;
use super::errors;
use crate::error::SinkError;

/// How many topics are remembered as being there; beyond it they are looked at anew.
const KNOWN_MAX: usize = 10_000;
/// How the topic of checkpoints is kept: the last record of each pipeline for ever, and little more than that.
const COMPACT: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("segment.bytes", "4194304"),
    ("segment.ms", "3600000"),
    ("min.cleanable.dirty.ratio", "0.1"),
];

/// What a topic is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Rows,
    Checkpoints,
}

/// How a topic stands.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    There,
    /// Made a moment ago: its partitions have no leader yet.
    Coming,
    Missing,
}

/// Sees that `topic` is there, makes it where that is wanted, and answers whether it did. None where it is missing and
/// is not to be made.
pub(super) fn ensure(
    client: &mut Client,
    config: &Config,
    topic: &str,
    purpose: Use,
    job: &Job,
) -> Result<Option<bool>, SinkError> {
    if client.known_topics.contains(topic) {
        return Ok(Some(false));
    }
    let mut made = false;
    loop {
        match standing(client, topic, job)? {
            Standing::There => break,
            Standing::Coming => {}
            Standing::Missing if made => {}
            Standing::Missing if !config.create_topics => return Ok(None),
            Standing::Missing => {
                create(config, topic, purpose, false, job)?;
                made = true;
            }
        }
        client.pause();
        job.go_on(client.context(), &format!("make the topic `{topic}` ready"))?;
    }
    if client.known_topics.len() >= KNOWN_MAX {
        client.known_topics.clear();
    }
    client.known_topics.insert(topic.to_owned());
    Ok(Some(made))
}

/// Whether `topic` is there or could be made, without making it.
pub(super) fn check(
    client: &Client,
    config: &Config,
    topic: &str,
    purpose: Use,
    job: &Job,
) -> Result<(), SinkError> {
    match standing(client, topic, job)? {
        Standing::There | Standing::Coming => Ok(()),
        Standing::Missing if config.create_topics => create(config, topic, purpose, true, job),
        Standing::Missing => Err(missing(config, topic, purpose)),
    }
}

/// Whether a broker answers us.
pub(super) fn reach(client: &Client, job: &Job) -> Result<(), SinkError> {
    let native = client.native();
    client.ask(job, "answer", |slice| native.fetch_metadata(None, slice)).map(drop)
}

/// Says that `topic` is not there.
pub(super) fn missing(config: &Config, topic: &str, purpose: Use) -> SinkError {
    let error = SinkError::misconfigured(format!("Kafka has no topic `{topic}`"));
    match purpose {
        Use::Rows => error.with_hint("create it, or set `create_topics = 'true'`"),
        Use::Checkpoints => error.with_hint(format!(
            "create it with one partition and cleanup.policy=compact, e.g. kafka-topics.sh --bootstrap-server {} \
             --create --topic {topic} --partitions 1 --config cleanup.policy=compact; or set `create_topics = 'true'`",
            config.brokers
        )),
    }
}

/// Sees that the brokers do not forget checkpoints after some days. Whoever may not look at it is not held up.
pub(super) fn must_be_kept(config: &Config, topic: &str, job: &Job) -> Result<(), SinkError> {
    let admin = admin(config, job)?;
    let wanted = [ResourceSpecifier::Topic(topic)];
    let options = AdminOptions::new().request_timeout(Some(job.left()));
    let answer = job.runtime.block_on(admin.describe_configs(&wanted, &options));
    let described = answer.map_err(|error| errors::of(error, "describe the topic of checkpoints"))?;
    for resource in described.into_iter().flatten() {
        let policy = resource.get("cleanup.policy").and_then(|entry| entry.value.as_deref());
        if let Some(policy) = policy.filter(|policy| *policy != "compact") {
            let message =
                format!("the topic `{topic}` has cleanup.policy={policy}: checkpoints would be forgotten");
            let hint = format!(
                "kafka-configs.sh --bootstrap-server {} --alter --topic {topic} --add-config cleanup.policy=compact",
                config.brokers
            );
            return Err(SinkError::misconfigured(message).with_hint(hint));
        }
    }
    Ok(())
}

fn standing(client: &Client, topic: &str, job: &Job) -> Result<Standing, SinkError> {
    let native = client.native();
    let metadata = client.ask(job, "describe a topic", |slice| native.fetch_metadata(Some(topic), slice))?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Ok(Standing::Missing);
    };
    match found.error().map(Code::from) {
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => Ok(Standing::Missing),
        Some(Code::LeaderNotAvailable) => Ok(Standing::Coming),
        Some(code) => {
            let error =
                errors::of(KafkaError::MetadataFetch(code), &format!("let us use the topic `{topic}`"));
            Err(error)
        }
        None if found.partitions().is_empty() => Ok(Standing::Coming),
        None => Ok(Standing::There),
    }
}

fn create(config: &Config, topic: &str, purpose: Use, only_try: bool, job: &Job) -> Result<(), SinkError> {
    let replicas = TopicReplication::Fixed(config.replication_factor);
    let mut new = match purpose {
        Use::Rows => NewTopic::new(topic, config.partitions, replicas),
        Use::Checkpoints => NewTopic::new(topic, 1, replicas),
    };
    if purpose == Use::Checkpoints {
        for (name, value) in COMPACT {
            new = new.set(name, value);
        }
    }
    let admin = admin(config, job)?;
    let options = AdminOptions::new().request_timeout(Some(job.left())).operation_timeout(Some(job.left()));
    let options = options.validate_only(only_try);
    let made = job.runtime.block_on(admin.create_topics([&new], &options));
    let what = format!("create the topic `{topic}`");
    let made: Vec<TopicResult> = made.map_err(|error| errors::of(error, &what))?;
    match made.into_iter().find_map(Result::err) {
        None | Some((_, Code::TopicAlreadyExists)) => Ok(()),
        // `AdminOp` tells its code to nobody.
        Some((_, code)) => Err(errors::of(KafkaError::Global(code), &what)),
    }
}

fn admin(config: &Config, job: &Job) -> Result<AdminClient<Context>, SinkError> {
    AdminClient::from_config_and_context(&config.admin(), Context::new(job.clock()))
        .map_err(errors::of_creation)
}
