//! Where events come from: the seam between delivery and the log. A pipeline reads a [`LogSource`], whether that is
//! the local log or, one day, a partition of a mirrored one. It must never know a sink.

use std::sync::Arc;

use muster_core::event::{Event, EventKinds};
use muster_core::journal::{EventReader, Journal};
use muster_core::log::LogError;

use crate::sink::BoxFuture;

/// A log that can be read from any place.
pub trait LogSource: Send + Sync + 'static {
    /// The log's id; offsets of another log mean nothing here.
    fn log_id(&self) -> u128;

    /// The oldest offset that is still kept.
    fn first_offset(&self) -> u64;

    /// One past the newest event that may be read.
    fn end_offset(&self) -> u64;

    /// The first event at or after `timestamp_ms`.
    ///
    /// # Errors
    /// When the log cannot be read.
    fn offset_at_time(&self, timestamp_ms: i64) -> Result<u64, SourceError>;

    /// A reader from `offset` on, for events of `kinds`.
    fn reader(&self, offset: u64, kinds: EventKinds) -> Box<dyn LogReader>;
}

/// A place in a log that moves forward.
pub trait LogReader: Send {
    /// What comes next, once there is something. Dropping the future loses nothing.
    fn next(&mut self) -> BoxFuture<'_, Result<ReadBatch, SourceError>>;
}

/// Events in order, and how far the reader has come with them.
#[derive(Debug, Clone, Default)]
pub struct ReadBatch {
    /// Events of the wanted kinds; others may be left out.
    pub events: Vec<Arc<Event>>,
    /// Every event before it has been seen.
    pub next_offset: u64,
}

/// The log cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the event log cannot be read")]
pub struct SourceError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

impl From<LogError> for SourceError {
    fn from(error: LogError) -> Self {
        Self(error.into())
    }
}

impl LogSource for Journal {
    fn log_id(&self) -> u128 {
        self.log_id()
    }

    fn first_offset(&self) -> u64 {
        self.first_offset()
    }

    fn end_offset(&self) -> u64 {
        self.durable_offset()
    }

    fn offset_at_time(&self, timestamp_ms: i64) -> Result<u64, SourceError> {
        Ok(self.offset_at_time(timestamp_ms)?)
    }

    fn reader(&self, offset: u64, kinds: EventKinds) -> Box<dyn LogReader> {
        Box::new(self.reader(offset).with_kinds(kinds))
    }
}

impl LogReader for EventReader {
    fn next(&mut self) -> BoxFuture<'_, Result<ReadBatch, SourceError>> {
        Box::pin(async move {
            let batch = self.next_batch().await?;
            Ok(ReadBatch { events: batch.events().to_vec(), next_offset: batch.next_offset })
        })
    }
}
