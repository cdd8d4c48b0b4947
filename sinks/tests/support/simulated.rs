//! A target that fails in every way that a test can think of, and keeps each row once in one of three styles.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_core::clock::Clock;
use muster_sinks::{
    Batch, BatchId, BatchRow, BoxFuture, Checkpoint, Durable, ErrorKind, Memory, Outcome, PipelineId,
    RowOutcome, Sink, SinkError,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// How a target keeps a row from being there twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Rows and checkpoint in one transaction, with an epoch: PostgreSQL, SQLite.
    Transaction,
    /// Each row has an id: webhook, MongoDB.
    RowIds,
    /// A batch that was seen is not taken again, rows are not looked at: ClickHouse.
    BatchTokens,
}

/// What the target has, beyond the life of any pipeline.
#[derive(Debug, Default)]
pub struct Target {
    pub rows: Vec<(u64, u32, String)>,
    ids: HashSet<(u64, u32)>,
    tokens: HashSet<BatchId>,
    /// By pipeline: what it has committed, and who has it.
    pub pipelines: HashMap<String, (Option<Checkpoint>, u64)>,
    /// Of 100 calls, how many fail somehow.
    pub faults: u32,
    /// Whether rows that were poison are not any more.
    pub cured: bool,
}

pub struct Simulated {
    style: Style,
    target: Arc<Mutex<Target>>,
    epoch: u64,
    rng: SmallRng,
}

impl Simulated {
    pub fn new(style: Style, target: &Arc<Mutex<Target>>, seed: u64) -> Self {
        Self { style, target: target.clone(), epoch: 0, rng: SmallRng::seed_from_u64(seed) }
    }
}

pub fn is_poison(row: &BatchRow) -> bool {
    row.row.get("payload").and_then(|payload| payload.as_str()) == Some("poison")
}

impl Simulated {
    async fn dawdle(&mut self) {
        match self.rng.random_range(0..4) {
            0 => {}
            1 => tokio::task::yield_now().await,
            _ => tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..30))).await,
        }
    }

    fn fault(&mut self) -> Option<SinkError> {
        let faults = self.target.lock().unwrap().faults;
        if self.rng.random_range(0..100) >= faults {
            return None;
        }
        let kind = match self.rng.random_range(0..20) {
            0 => ErrorKind::Fatal,
            1 => ErrorKind::Gone,
            2..5 => ErrorKind::Misconfigured,
            5..8 => ErrorKind::Throttled { retry_after: Some(Duration::from_millis(500)) },
            _ => ErrorKind::Unavailable,
        };
        Some(SinkError::new(kind, "a fault of the simulation"))
    }

    fn take(&mut self, batch: &Batch) -> Result<Outcome, SinkError> {
        let lost = self.fault();
        let target = self.target.clone();
        let mut target = target.lock().unwrap();
        let cured = target.cured;
        let is_poison = |row: &BatchRow| !cured && is_poison(row);
        let poisoned = batch.rows().any(is_poison);
        match self.style {
            Style::Transaction => {
                let (checkpoint, epoch) = *target.pipelines.entry(batch.pipeline.to_string()).or_default();
                if epoch != self.epoch {
                    return Err(SinkError::new(ErrorKind::Fenced, "somebody else"));
                }
                if checkpoint == Some(batch.after) {
                    // An earlier attempt's answer was lost.
                    return Ok(Outcome::Durable(Durable::promise(batch)));
                }
                if poisoned && self.rng.random_bool(0.5) {
                    return Err(SinkError::new(ErrorKind::RejectedBatch, "poison"));
                }
                if poisoned {
                    let judge = |row: &BatchRow| match is_poison(row) {
                        true => RowOutcome::Rejected(SinkError::new(ErrorKind::RejectedRow, "poison")),
                        false => RowOutcome::Untried,
                    };
                    return Ok(Outcome::PerRow { rows: batch.rows().map(judge).collect(), error: None });
                }
                assert!(checkpoint.is_none_or(|old| old.cursor <= batch.after.cursor), "a cursor went back");
                assert!(batch.after.totals.balanced());
                target.pipelines.insert(batch.pipeline.to_string(), (Some(batch.after), epoch));
                batch.rows().for_each(|row| target.put(row));
            }
            Style::RowIds => return Ok(self.take_rows(&mut target, batch, lost)),
            Style::BatchTokens => {
                if poisoned {
                    return Err(SinkError::new(ErrorKind::RejectedBatch, "poison"));
                }
                if target.tokens.insert(batch.id().unwrap()) {
                    batch.rows().for_each(|row| target.put(row));
                }
            }
        }
        // The target has it, but the answer may be lost.
        lost.map_or_else(|| Ok(Outcome::Durable(Durable::promise(batch))), Err)
    }

    /// Row by row; after a fault the rows of that client, and by chance of others, are left.
    fn take_rows(&mut self, target: &mut Target, batch: &Batch, lost: Option<SinkError>) -> Outcome {
        let mut stuck = HashSet::new();
        let stuck_from = if lost.is_some() { self.rng.random_range(0..batch.len()) } else { batch.len() };
        let mut rows = Vec::new();
        for (at, row) in batch.rows().enumerate() {
            if at == stuck_from || (at > stuck_from && self.rng.random_bool(0.3)) {
                stuck.insert(row.clientid().to_owned());
            }
            rows.push(if stuck.contains(row.clientid()) {
                RowOutcome::Untried
            } else if is_poison(row) && !target.cured {
                RowOutcome::Rejected(SinkError::new(ErrorKind::RejectedRow, "poison"))
            } else {
                if target.ids.insert((row.offset(), row.index)) {
                    target.put(row);
                }
                RowOutcome::Durable
            });
        }
        Outcome::PerRow { rows, error: lost }
    }
}

impl Target {
    fn put(&mut self, row: &BatchRow) {
        self.rows.push((row.offset(), row.index, row.clientid().to_owned()));
    }
}

impl Sink for Simulated {
    fn wants_recorded_batches(&self) -> bool {
        self.style == Style::BatchTokens
    }

    fn open<'a>(&'a mut self, pipeline: &'a PipelineId) -> BoxFuture<'a, Result<Memory, SinkError>> {
        Box::pin(async move {
            self.dawdle().await;
            if let Some(fault) = self.fault() {
                return Err(fault);
            }
            let mut target = self.target.lock().unwrap();
            let (checkpoint, epoch) = target.pipelines.entry(pipeline.to_string()).or_default();
            *epoch += 1;
            self.epoch = *epoch;
            Ok(match self.style {
                Style::Transaction => checkpoint.map_or(Memory::Fresh, Memory::At),
                _ => Memory::None,
            })
        })
    }

    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<Outcome, SinkError>> {
        Box::pin(async move {
            self.dawdle().await;
            if let Some(fault) = self.fault() {
                return Err(fault);
            }
            let outcome = self.take(batch);
            self.dawdle().await;
            outcome
        })
    }

    fn check(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async { Ok(()) })
    }
}

/// Simulated time as a clock.
pub struct TokioClock(pub tokio::time::Instant);

impl Clock for TokioClock {
    fn wall_ms(&self) -> i64 {
        1_700_000_000_000 + self.0.elapsed().as_millis() as i64
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}
