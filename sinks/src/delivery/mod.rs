//! Delivery: one pipeline per rule and target reads the log from its cursor, batches what the rule makes of it, and
//! commits a cursor only for what is durable. It must never know a rule's text or a particular target; the server
//! gives it a [`Transform`] and a [`Sink`](crate::Sink).

mod backoff;
mod budget;
mod engine;
mod handle;
mod intake;
mod lanes;
mod pace;
mod source;
mod status;
mod store;
mod work;

use std::time::Duration;

use muster_core::event::{Event, EventKinds};

use crate::row::SharedRow;
use crate::sink::{Checkpoint, PipelineId};

pub use backoff::WAIT_MAX;
pub use engine::Replayed;
pub use handle::{LetterReplay, Pipeline, PipelineHandle, Stopped};
pub use lanes::{Lanes, Supply};
pub use source::{LogReader, LogSource, ReadBatch, SourceError};
pub use status::{PipelineState, PipelineStatus};
pub use store::{
    DeadLetter, DeliveryStore, EndedReplay, KnownPipeline, LETTERS_MAX, LanePlan, LetterFilter, NewLetter,
    NewReplay, Orders, RecordedBatch, StoreError, StoredReplay,
};
pub(crate) use store::{balanced, checkpoint_at, int, meeting, uint};

/// What makes rows of events: a rule, as far as delivery is concerned.
pub trait Transform: Send + 'static {
    /// The kinds of events that can yield a row.
    fn kinds(&self) -> EventKinds;

    /// Appends the rows that `event` yields, the same ones each time.
    ///
    /// # Errors
    /// Why the rule failed on the event, for people; the event then goes to the dead letters, and rows that were
    /// appended before the failure are not delivered.
    fn apply(&mut self, event: &Event, rows: &mut Vec<SharedRow>) -> Result<(), String>;

    /// Whether it has to see every event, also those whose rows nobody wants, because it remembers them.
    fn remembers(&self) -> bool {
        false
    }
}

/// Where a pipeline ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ending {
    /// Nowhere: it waits for more.
    #[default]
    Never,
    /// Before this offset.
    At(u64),
    /// With what was begun: the batch under way, and the event that is settled in part.
    UnderWay,
}

/// How far a pipeline goes, and how fast.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope {
    /// Where it ends.
    pub ending: Ending,
    /// At most so many rows a second.
    pub rows_per_second: Option<u32>,
    /// What it has committed, where that is known before its target is open; for the status alone.
    pub known: Option<Checkpoint>,
}

/// When a batch is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Rows in a batch.
    pub batch_rows_max: usize,
    /// About how many bytes of rows; a single row may exceed it.
    pub batch_bytes_max: usize,
    /// How long the first row of a batch waits for others.
    pub batch_wait: Duration,
    /// Dead letters in a minute; beyond it, and if more rows die than are delivered, delivery halts until somebody
    /// resumes it. Healthy rows among a few bad ones are never held up.
    pub dead_letters_per_minute_max: u64,
}

/// [`Limits::dead_letters_per_minute_max`] unless a sink's options say otherwise.
pub const DEAD_LETTERS_PER_MINUTE: u64 = 1_000;

/// Where a pipeline begins that never committed anything. One that did goes on from its cursor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Start {
    /// At the oldest event that is still kept.
    #[default]
    Earliest,
    /// After the newest event.
    Latest,
    /// At this offset.
    Offset(u64),
    /// At the first event of this time or later, milliseconds since 1970.
    Timestamp(i64),
}

/// A pipeline, as the server wants it.
#[derive(Debug, Clone)]
pub struct PipelineConfig {
    /// Which rule, into what.
    pub id: PipelineId,
    /// A version of the rule's text, e.g. a hash: kept with dead letters and recorded batches.
    pub rule_version: String,
    /// Where to begin, if it is new.
    pub start: Start,
    /// Whether it stands still until [`PipelineHandle::resume`].
    pub paused: bool,
    /// When a batch is full.
    pub limits: Limits,
    /// The longest wait before a target that failed is tried again.
    pub retry_wait_max: Duration,
}
