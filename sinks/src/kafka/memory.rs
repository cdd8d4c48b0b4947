//! What Kafka remembers of a pipeline: a record in a compacted topic, written in the same transaction as the rows. The
//! last one that was committed counts. Committed offsets of a group would be simpler to read, but Kafka forgets those
//! of a group that was away for a week (`offsets.retention.minutes`).

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use super::client::{Client, Context, Job};
use super::errors;
use crate::error::{ErrorKind, SinkError};
use crate::sink::{Checkpoint, Cursor, PipelineId, Totals};

/// Always the same: were it chosen by a hash, a partition that is added would hide what is in another.
pub(super) const PARTITION: i32 = 0;
/// How far back to look at first, and how much farther each time: what is sought is mostly among the last.
const LOOK_BACK: i64 = 512;
const FARTHER: i64 = 16;
/// How long a record is waited for at a time.
const WAIT: std::time::Duration = std::time::Duration::from_millis(50);

/// What is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Remembered {
    /// Grows with each that takes the pipeline over.
    pub(super) epoch: u64,
    /// Who that was, by chance.
    pub(super) writer: u64,
    /// None where the pipeline was taken over and nothing was delivered yet.
    pub(super) checkpoint: Option<Checkpoint>,
}

/// A record's value, for programs and for people.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    pipeline: String,
    epoch: u64,
    writer: String,
    #[serde(flatten)]
    checkpoint: Option<WrittenCheckpoint>,
}

#[derive(Debug, Serialize, Deserialize)]
struct WrittenCheckpoint {
    log_id: String,
    offset: u64,
    row: u32,
    matched: u64,
    delivered: u64,
    dead: u64,
}

impl Remembered {
    pub(super) fn encode(&self, pipeline: &PipelineId) -> String {
        let checkpoint = self.checkpoint.map(|Checkpoint { log_id, cursor, totals }| WrittenCheckpoint {
            log_id: format!("{log_id:032x}"),
            offset: cursor.offset,
            row: cursor.row,
            matched: totals.matched,
            delivered: totals.delivered,
            dead: totals.dead,
        });
        let writer = format!("{:016x}", self.writer);
        let written = Written { pipeline: pipeline.to_string(), epoch: self.epoch, writer, checkpoint };
        serde_json::to_string(&written).unwrap_or_default()
    }

    /// None where it was written by something else.
    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let Written { epoch, writer, checkpoint, .. } = serde_json::from_slice(value).ok()?;
        let writer = u64::from_str_radix(&writer, 16).ok()?;
        let checkpoint = match checkpoint {
            None => None,
            Some(it) => Some(Checkpoint {
                log_id: u128::from_str_radix(&it.log_id, 16).ok()?,
                cursor: Cursor { offset: it.offset, row: it.row },
                totals: Totals { matched: it.matched, delivered: it.delivered, dead: it.dead },
            }),
        };
        Some(Self { epoch, writer, checkpoint })
    }
}

/// Reads what was committed under one key.
pub(super) struct Reader<'a> {
    consumer: BaseConsumer<Context>,
    client: &'a Client,
    topic: &'a str,
    key: &'a str,
    job: &'a Job,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        config: &rdkafka::ClientConfig,
        client: &'a Client,
        topic: &'a str,
        key: &'a str,
        job: &'a Job,
    ) -> Result<Self, SinkError> {
        let consumer = BaseConsumer::from_config_and_context(config, Context::new(job.clock()));
        let consumer = consumer.map_err(errors::of_creation)?;
        Ok(Self { consumer, client, topic, key, job })
    }

    /// What is committed now, as far as it can be seen: not what is behind an open transaction of whatever pipeline.
    pub(super) fn glance(&self) -> Result<Option<Remembered>, SinkError> {
        let (low, stable) = self.watermarks()?;
        self.last_before(low, stable)
    }

    /// What is committed, all transactions that are under way now being over. Those of other pipelines pass in
    /// milliseconds; one whose process is gone is ended by the broker when its time is over.
    pub(super) fn read(&self) -> Result<Option<Remembered>, SinkError> {
        let native = self.client.native();
        let ask = |wait| native.fetch_watermarks(self.topic, PARTITION, wait);
        let (_, end) = self.client.ask(self.job, "say where the checkpoints end", ask)?;
        loop {
            let (low, stable) = self.watermarks()?;
            if stable >= end {
                return self.last_before(low, stable);
            }
            self.client.pause();
            self.job.go_on(self.client.context(), "end the transactions of other pipelines")?;
        }
    }

    fn watermarks(&self) -> Result<(i64, i64), SinkError> {
        let ask = |wait| self.consumer.fetch_watermarks(self.topic, PARTITION, wait);
        self.client.ask(self.job, "say how far the checkpoints are committed", ask)
    }

    fn last_before(&self, low: i64, stable: i64) -> Result<Option<Remembered>, SinkError> {
        let (mut to, mut span) = (stable, LOOK_BACK);
        while to > low {
            let from = to.saturating_sub(span).max(low);
            if let Some(found) = self.last_between(from, to)? {
                return Ok(Some(found));
            }
            (to, span) = (from, span.saturating_mul(FARTHER));
        }
        Ok(None)
    }

    fn last_between(&self, from: i64, to: i64) -> Result<Option<Remembered>, SinkError> {
        const WHAT: &str = "give back the checkpoints";
        let mut place = TopicPartitionList::new();
        let placed = place.add_partition_offset(self.topic, PARTITION, Offset::Offset(from));
        placed.and_then(|()| self.consumer.assign(&place)).map_err(|error| errors::of(error, WHAT))?;
        let mut found = None;
        loop {
            match self.consumer.poll(WAIT) {
                Some(Ok(record)) if record.offset() >= to => return Ok(found),
                Some(Ok(record)) if record.key() == Some(self.key.as_bytes()) => {
                    let value = record.payload().unwrap_or_default();
                    found = Some(Remembered::decode(value).ok_or_else(|| self.unreadable(record.offset()))?);
                }
                Some(Ok(_)) => {}
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(found),
                Some(Err(error)) if errors::is_waiting(&error) || errors::is_about_the_group(&error) => {}
                Some(Err(error)) => return Err(errors::of(error, WHAT)),
                None => {}
            }
            self.job.go_on(self.consumer.context(), WHAT)?;
        }
    }

    fn unreadable(&self, offset: i64) -> SinkError {
        let message =
            format!("the checkpoint of `{}` at {}[{PARTITION}]@{offset} is not ours", self.key, self.topic);
        SinkError::new(ErrorKind::Fatal, message)
            .with_hint("give this sink another `checkpoint_topic`, then resume")
    }
}
