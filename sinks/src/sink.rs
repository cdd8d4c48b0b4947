//! What a target must offer to be a sink, and what the delivery engine hands it. Durability is a type: only a
//! [`Durable`] moves the cursor. It must never know a rule, or a particular target.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use muster_core::event::{Event, EventId};

use crate::error::SinkError;
use crate::part::{Lane, Part};
use crate::row::SharedRow;

/// A future in a box, so that sinks can be told apart at run time.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Which rule goes where: the identity under which cursors and counters are kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct PipelineId {
    /// The rule's name.
    pub rule: String,
    /// The sink's name.
    pub sink: String,
    /// The table, topic or collection inside the sink; empty where the sink has none.
    pub target: String,
    /// All of the rule's rows, or which of them.
    pub part: Part,
}

impl PipelineId {
    /// The identity of rule `rule` into `target` of `sink`.
    pub fn new(rule: impl Into<String>, sink: impl Into<String>, target: impl Into<String>) -> Self {
        Self { rule: rule.into(), sink: sink.into(), target: target.into(), part: Part::Whole }
    }

    /// Of the same rule and target, another part.
    #[must_use]
    pub fn with_part(&self, part: Part) -> Self {
        Self { part, ..self.clone() }
    }

    /// The pipeline that this is a part of.
    #[must_use]
    pub fn whole(&self) -> Self {
        self.with_part(Part::Whole)
    }

    /// The pipeline that is started for it: the whole for a lane, itself else.
    #[must_use]
    pub fn owner(&self) -> Self {
        match self.part {
            Part::Whole | Part::Lane(_) => self.whole(),
            Part::Replay(_) => self.clone(),
        }
    }

    /// The clients whose rows are carried, if not all.
    pub fn lane(&self) -> Option<Lane> {
        match self.part {
            Part::Lane(lane) => Some(lane),
            Part::Whole | Part::Replay(_) => None,
        }
    }

    /// The identity whose key in a store is `key`.
    pub(crate) fn of_key(rule: String, sink: String, target: String, key: &str) -> Self {
        let whole = Self { rule, sink, target, part: Part::Whole };
        let suffix = key.strip_prefix(&whole.to_string());
        Self { part: suffix.and_then(Part::parse).unwrap_or_default(), ..whole }
    }
}

/// `rule > sink.target` and the part, the key in every store. Names cannot hold `>`, so two pipelines never share one.
impl fmt::Display for PipelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {}", self.rule, self.sink)?;
        if !self.target.is_empty() {
            write!(f, ".{}", self.target)?;
        }
        self.part.fmt(f)
    }
}

/// A place between two rows: everything before it is settled. An event may yield many rows, so an offset alone is
/// not enough.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cursor {
    /// The first event that is not wholly settled.
    pub offset: u64,
    /// How many of that event's rows are settled.
    pub row: u32,
}

impl Cursor {
    /// Before the first row of the event at `offset`.
    pub const fn at(offset: u64) -> Self {
        Self { offset, row: 0 }
    }
}

/// How many rows there were, as of a cursor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    /// Rows that rules made, and events on which a rule failed.
    pub matched: u64,
    /// Rows that are in the target.
    pub delivered: u64,
    /// Rows and events that are, or were, in the dead letters.
    pub dead: u64,
}

impl Totals {
    /// Whether the books balance: as of a cursor nothing is pending.
    pub fn balanced(&self) -> bool {
        self.delivered.checked_add(self.dead) == Some(self.matched)
    }
}

/// A cursor, the totals as of it, and the log that its offsets belong to: what is committed, in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's id.
    pub log_id: u128,
    /// Everything before it is settled.
    pub cursor: Cursor,
    /// The books as of the cursor.
    pub totals: Totals,
}

impl Checkpoint {
    /// The place alone.
    pub(crate) fn without_books(self) -> Self {
        Self { totals: Totals::default(), ..self }
    }
}

/// One row on its way, with the event that it was made of.
#[derive(Debug, Clone)]
pub struct BatchRow {
    /// The event.
    pub event: Arc<Event>,
    /// Which of the event's rows this is, from 0.
    pub index: u32,
    /// What the rule made; other sinks of the rule may share it.
    pub row: SharedRow,
}

impl BatchRow {
    /// The event's id: equal on every attempt and on every replay.
    pub fn event_id(&self) -> EventId {
        self.event.id
    }

    /// The event's place in the log.
    pub fn offset(&self) -> u64 {
        self.event.offset
    }

    /// The client that the event is about; empty where there is none. Rows of one client keep their order.
    pub fn clientid(&self) -> &str {
        self.event.clientid()
    }

    /// Where the row stands.
    pub fn cursor(&self) -> Cursor {
        Cursor { offset: self.event.offset, row: self.index }
    }
}

/// The identity of a batch: its first and its last row. A retry of the same batch, also after a crash, has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BatchId {
    /// The first row.
    pub first: (EventId, u32),
    /// The last row.
    pub last: (EventId, u32),
    /// How many rows there are: fewer than before once one was set aside.
    pub rows: u32,
}

/// `first event.row-last event.row-rows`.
impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last, rows } = self;
        write!(f, "{}.{}-{}.{}-{rows}", first.0, first.1, last.0, last.1)
    }
}

/// Rows to be made durable together, and the checkpoint that then holds. It may have no row: then only the
/// checkpoint moves. Cheap to clone, so that it can go to another thread.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Whose rows these are.
    pub pipeline: Arc<PipelineId>,
    /// What holds once every row is durable. A sink that remembers writes it together with the rows.
    pub after: Checkpoint,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    rows: Arc<Vec<BatchRow>>,
    picked: Arc<[u32]>,
}

impl Batch {
    /// A batch of those of `rows` whose places are in `picked`.
    pub fn new(
        pipeline: Arc<PipelineId>,
        after: Checkpoint,
        attempt: u32,
        rows: Arc<Vec<BatchRow>>,
        picked: Vec<u32>,
    ) -> Self {
        Self { pipeline, after, attempt, rows, picked: picked.into() }
    }

    /// The rows, in the order of the log.
    pub fn rows(&self) -> impl Iterator<Item = &BatchRow> {
        self.picked.iter().filter_map(|at| self.rows.get(*at as usize))
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.picked.len()
    }

    /// Whether only the checkpoint moves.
    pub fn is_empty(&self) -> bool {
        self.picked.is_empty()
    }

    /// The batch's identity; none where it has no row.
    pub fn id(&self) -> Option<BatchId> {
        let first = self.rows().next()?;
        let last = self.rows.get(*self.picked.last()? as usize)?;
        let rows = u32::try_from(self.picked.len()).unwrap_or(u32::MAX);
        Some(BatchId { first: (first.event_id(), first.index), last: (last.event_id(), last.index), rows })
    }
}

/// A sink's word that every row of a batch is where it belongs and will still be there after a power cut; with it,
/// for a sink that remembers, the checkpoint. Nothing else moves a cursor.
#[derive(Debug)]
#[must_use = "the cursor moves only on it"]
pub struct Durable {
    cursor: Cursor,
    notes: Vec<String>,
}

impl Durable {
    /// The promise for `batch`.
    pub fn promise(batch: &Batch) -> Self {
        Self { cursor: batch.after.cursor, notes: Vec::new() }
    }

    /// Adds what the operator should know, such as a table that was created.
    pub fn with_notes(mut self, notes: Vec<String>) -> Self {
        self.notes = notes;
        self
    }

    /// The cursor that now holds.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// What the operator should know.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// What became of one row.
#[derive(Debug)]
pub enum RowOutcome {
    /// In the target, durably.
    Durable,
    /// Refused for good; it goes to the dead letters.
    Rejected(SinkError),
    /// Not there, or taken back: to be tried again.
    Untried,
}

/// The answer to a batch.
#[derive(Debug)]
pub enum Outcome {
    /// All of it is durable.
    Durable(Durable),
    /// Row by row, in the batch's order. A sink that writes in one transaction reports the refused rows and leaves
    /// the others [`RowOutcome::Untried`]: the engine sets the refused aside and comes again with the rest.
    PerRow {
        /// One outcome a row.
        rows: Vec<RowOutcome>,
        /// Why rows were left untried, if trouble was the cause.
        error: Option<SinkError>,
    },
}

/// What a target remembers of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// The target keeps no checkpoint; the delivery store does.
    None,
    /// The target keeps checkpoints and has none of this pipeline yet.
    Fresh,
    /// What the target committed last. It wins over everything else.
    At(Checkpoint),
}

/// A target of rows, for one pipeline.
pub trait Sink: Send + 'static {
    /// Whether a batch that is tried again after a crash must have exactly the rows that it had before. The engine
    /// then writes a batch's boundaries down before the first attempt.
    fn wants_recorded_batches(&self) -> bool;

    /// Connects, takes the pipeline over from whoever had it, and says what the target remembers. Called again
    /// after an error.
    fn open<'a>(&'a mut self, pipeline: &'a PipelineId) -> BoxFuture<'a, Result<Memory, SinkError>>;

    /// Tries to make `batch` durable. Dropping the future at any point must leave nothing that a second attempt at
    /// the same batch would double.
    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<Outcome, SinkError>>;

    /// Whether a delivery would work, without delivering anything.
    fn check(&mut self) -> BoxFuture<'_, Result<(), SinkError>>;
}
