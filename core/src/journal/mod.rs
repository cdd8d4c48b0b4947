//! The journal: events over the log. It encodes what is appended, decodes what is read, and lets those who read at the
//! tail share the decoded events, so that fifty pipelines decode an event once. It must never know who they are.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::watch;

mod cache;
mod reader;

pub use cache::{SHARED_BYTES_MAX, Selection};
pub use reader::{EventBatch, EventReader};

use crate::clock::SharedClock;
use crate::event::{EventId, EventKind, NewEvent, proto};
use crate::log::{Disk, Log, LogConfig, LogError, NewRecord, OpenReport};
use cache::Cache;

/// An open journal. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct Journal {
    log: Log,
    cache: Arc<Cache>,
}

/// Where an event went. It is accepted, not durable: see [`Journal::durable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its place in the log.
    pub offset: u64,
    /// Its identity.
    pub id: EventId,
}

impl Journal {
    /// Opens the log in `config.dir`, or creates it.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open(
        config: LogConfig,
        disk: Arc<dyn Disk>,
        clock: SharedClock,
    ) -> Result<(Self, OpenReport), LogError> {
        let (log, report) = Log::open(config, disk, clock)?;
        Ok((Self::over(log), report))
    }

    /// A journal over a log that is open.
    pub fn over(log: Log) -> Self {
        Self { log, cache: Arc::default() }
    }

    /// The log beneath.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The log's id.
    pub fn log_id(&self) -> u128 {
        self.log.id()
    }

    /// The log's directory.
    pub fn dir(&self) -> &Path {
        self.log.dir()
    }

    /// The first offset that is there.
    pub fn first_offset(&self) -> u64 {
        self.log.first_offset()
    }

    /// The offset that the next append gets.
    pub fn next_offset(&self) -> u64 {
        self.log.next_offset()
    }

    /// The exclusive end of what is durable.
    pub fn durable_offset(&self) -> u64 {
        self.log.durable_offset()
    }

    /// Follows the exclusive end of what is durable, as [`Log::durable_watch`].
    pub fn durable_watch(&self) -> watch::Receiver<u64> {
        self.log.durable_watch()
    }

    /// Appends an event; its offset is given, in order, at this moment. Waits only for room in the queue.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub async fn append(&self, event: NewEvent) -> Result<Appended, LogError> {
        let offset = self.log.append(record(event)).await?;
        Ok(self.appended(offset))
    }

    /// As [`Journal::append`], of an event in parts. It is encoded in this call: an event is large, and no future that
    /// waits for room holds one.
    pub fn append_parts<'a>(
        &'a self,
        timestamp_ms: i64,
        kind: EventKind,
        topic: &str,
        body: &proto::Event,
    ) -> impl Future<Output = Result<Appended, LogError>> + Send + use<'a> {
        let topic = Bytes::copy_from_slice(topic.as_bytes());
        let record = NewRecord { timestamp_ms, kind: kind.code(), topic, body: body.encode_to_vec().into() };
        async move { Ok(self.appended(self.log.append(record).await?)) }
    }

    /// As [`Journal::append`], but never waits.
    ///
    /// # Errors
    /// As [`Log::try_append`].
    pub fn try_append(&self, event: NewEvent) -> Result<Appended, LogError> {
        let offset = self.log.try_append(&record(event))?;
        Ok(self.appended(offset))
    }

    /// Resolves when the event at `offset` is durable.
    ///
    /// # Errors
    /// As [`Log::durable`].
    pub async fn durable(&self, offset: u64) -> Result<(), LogError> {
        self.log.durable(offset).await
    }

    /// A reader that begins at `from`.
    pub fn reader(&self, from: u64) -> EventReader {
        EventReader::new(self.log.id(), self.log.reader(from), self.cache.clone())
    }

    /// The first offset whose time is `ms` or later, as [`Log::offset_at_time`].
    ///
    /// # Errors
    /// What is wrong with the files.
    pub fn offset_at_time(&self, ms: i64) -> Result<u64, LogError> {
        self.log.offset_at_time(ms)
    }

    /// Closes the log beneath, as [`Log::close`].
    ///
    /// # Errors
    /// As [`Log::close`].
    pub async fn close(self) -> Result<(), LogError> {
        self.log.close().await
    }

    fn appended(&self, offset: u64) -> Appended {
        Appended { offset, id: EventId::new(self.log.id(), offset) }
    }
}

fn record(event: NewEvent) -> NewRecord {
    NewRecord {
        timestamp_ms: event.timestamp_ms,
        kind: event.kind.code(),
        body: event.encode_body(),
        topic: event.topic.into(),
    }
}

#[cfg(test)]
mod tests;
