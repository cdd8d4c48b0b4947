//! The delivery loop: takes work from the intake, has the sink make it durable, sets refused rows aside, commits,
//! and waits where the table of policies says so. It must never know a rule or a particular target.

use std::sync::Arc;
use std::time::Duration;

use muster_core::clock::SharedClock;
use rand::rngs::SmallRng;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::budget::Budget;
use super::handle::{Control, Request, Wires};
use super::intake::{Bounds, Intake};
use super::pace::Pace;
use super::source::LogSource;
use super::status::{Board, PipelineState};
use super::work::{Draft, Work};
use super::{DeliveryStore, Ending, PipelineConfig, RecordedBatch, Scope, Start, Transform, balanced};
use crate::error::{ErrorKind, Policy, SinkError};
use crate::part::Part;
use crate::sink::{Checkpoint, Cursor, Memory, PipelineId, Sink, Totals};

mod replay;
mod settle;

pub use replay::Replayed;

pub(crate) struct Engine {
    transform: Option<Box<dyn Transform>>,
    source: Arc<dyn LogSource>,
    outlet: Outlet,
}

/// The far end of a pipeline: everything but the reading.
struct Outlet {
    config: PipelineConfig,
    ending: Ending,
    pace: Pace,
    id: Arc<PipelineId>,
    sink: Box<dyn Sink>,
    store: DeliveryStore,
    clock: SharedClock,
    backoff: Backoff,
    budget: Budget,
    board: Arc<Board>,
    control: watch::Receiver<Control>,
    halt: watch::Sender<Control>,
    /// Whether it is known if an operator halted the pipeline before this run.
    pause_known: bool,
    requests: mpsc::Receiver<Request>,
    stop: CancellationToken,
    /// How many resets the last opening has taken note of.
    resets: u64,
    /// Whether the target keeps the checkpoint.
    remembers: bool,
    committed: Checkpoint,
}

/// Why the loop is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Stop,
    /// Everything up to the end is settled and committed.
    Done,
    /// Until an operator says "go on".
    Hold,
    /// To open the target anew: what it has committed is not known.
    Reopen,
}

impl Engine {
    pub(crate) fn new(
        (config, scope): (PipelineConfig, Scope),
        source: Arc<dyn LogSource>,
        transform: Box<dyn Transform>,
        (sink, store): (Box<dyn Sink>, DeliveryStore),
        clock: SharedClock,
        rng: SmallRng,
        wires: Wires,
    ) -> Self {
        let committed =
            Checkpoint { log_id: source.log_id(), cursor: Cursor::default(), totals: Totals::default() };
        let outlet = Outlet {
            id: Arc::new(config.id.clone()),
            ending: scope.ending,
            pace: Pace::new(scope.rows_per_second),
            sink,
            store,
            clock,
            backoff: Backoff::new(config.retry_wait_max, rng),
            budget: Budget::new(config.limits.dead_letters_per_minute_max),
            board: wires.board,
            control: wires.control,
            halt: wires.halt,
            pause_known: false,
            requests: wires.requests,
            stop: wires.stop,
            resets: 0,
            remembers: false,
            committed,
            config,
        };
        Self { transform: Some(transform), source, outlet }
    }

    /// Runs until it is stopped, or until everything up to its end is committed: then it answers with the checkpoint.
    pub(crate) async fn run(mut self) -> Option<Checkpoint> {
        loop {
            let resumes = self.outlet.control.borrow().resumes;
            match self.session().await {
                End::Stop => break,
                End::Done => {
                    self.outlet.board.update(|facts| facts.state = PipelineState::Done);
                    return Some(self.outlet.committed);
                }
                End::Reopen => {}
                End::Hold => {
                    let stop = self.outlet.stop.clone();
                    let resets = self.outlet.resets;
                    let told = |control: &Control| control.resumes > resumes || control.resets > resets;
                    let resumed = self.outlet.control.wait_for(told);
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => break,
                        _ = resumed => {}
                    }
                }
            }
        }
        self.outlet.board.update(|facts| facts.state = PipelineState::Stopped);
        None
    }

    /// From opening the target to an end. Whatever was read and not committed is read again by the next session.
    async fn session(&mut self) -> End {
        let until = loop {
            match self.outlet.open(&*self.source).await {
                Ok(until) => break until,
                Err(error) => {
                    let now_ms = self.outlet.clock.wall_ms();
                    self.outlet.board.update(|facts| _ = facts.busy_since_ms.get_or_insert(now_ms));
                    if let Err(end) = self.outlet.after(&error).await {
                        return end;
                    }
                }
            }
        };
        let Some(transform) = self.transform.take() else { return End::Stop };
        let outlet = &mut self.outlet;
        let (limits, board) = (outlet.config.limits, outlet.board.clone());
        let from = outlet.committed.cursor;
        let bounds = Bounds { from, until, end: outlet.end(until), lane: outlet.id.lane() };
        let mut intake = Intake::new(&*self.source, transform, limits, board, bounds);
        let end = outlet.deliver_all(&mut intake).await;
        self.transform = Some(intake.into_transform());
        end
    }
}

impl Outlet {
    /// Opens the target and finds the place to go on from; answers where the batch that was under way ended.
    async fn open(&mut self, source: &dyn LogSource) -> Result<Option<Cursor>, SinkError> {
        self.resets = self.control.borrow().resets;
        self.recall_pause().await?;
        let memory = self.sink.open(&self.id).await?;
        self.remembers = memory != Memory::None;
        let kept = match memory {
            Memory::None => self.store.checkpoint(&self.id).await?,
            // Where it was to begin is written down, as the server found it; the books are the target's.
            Memory::Fresh => self.store.checkpoint(&self.id).await?.map(|kept| match self.id.part {
                Part::Whole => kept.without_books(),
                // A lane takes over the books of those before it.
                Part::Lane(_) | Part::Replay(_) => kept,
            }),
            Memory::At(checkpoint) => Some(balanced(checkpoint)?),
        };
        let log_id = source.log_id();
        let (mut checkpoint, new) = match kept {
            Some(kept) if kept.log_id == log_id => (kept, memory == Memory::Fresh),
            kept => {
                let totals = kept.map_or(Totals::default(), |kept| kept.totals);
                if kept.is_some() && memory != Memory::Fresh {
                    self.note("the event log is another one than before: starting anew, the totals go on");
                }
                (Checkpoint { log_id, cursor: Cursor::at(self.start(source)?), totals }, true)
            }
        };
        self.store.forget_letters(&self.id, log_id, checkpoint.cursor).await?;
        self.store.conclude_replay(&self.id, checkpoint.totals).await?;
        let reset = self.store.orders(&self.id).await?.reset_to;
        if let Some(offset) = reset {
            self.rewind(&mut checkpoint, Cursor::at(offset)).await?;
        }
        let moved = self.reconcile(source, &mut checkpoint)?;
        self.committed = checkpoint;
        let (cursor, totals) = (checkpoint.cursor.offset, checkpoint.totals);
        self.board.update(|facts| {
            facts.matched = totals.matched;
            facts.committed = totals;
            facts.opened.get_or_insert(totals);
            (facts.cursor, facts.settled) = (cursor, cursor);
            (facts.pending_since_ms, facts.busy_since_ms) = (None, None);
        });
        if new || moved || reset.is_some() {
            // A start such as "latest" must not be found anew after a crash: what came between would be skipped.
            self.attempt(&mut Draft::default().take(checkpoint.cursor), &mut (0..0), 1).await?;
        }
        if let Some(offset) = reset {
            self.reset_done(offset).await?;
        }
        self.recovered();
        let recorded = match self.sink.wants_recorded_batches() {
            true => self.store.recorded_batch(&self.id).await?,
            false => None,
        };
        Ok(recorded.filter(|batch| self.is_under_way(batch)).map(|batch| batch.to))
    }

    /// A pause from before this run holds as soon as the store can be read, so before the first delivery; unless an
    /// operator has resumed the pipeline since.
    async fn recall_pause(&mut self) -> Result<(), SinkError> {
        if self.pause_known {
            return Ok(());
        }
        let paused = self.store.orders(&self.id).await?.paused;
        self.pause_known = true;
        if paused {
            self.halt.send_if_modified(|control| {
                let holds = control.resumes == 0 && !control.paused;
                control.paused |= holds;
                holds
            });
        }
        Ok(())
    }

    /// Moves a checkpoint to where an operator wants it. What is dead from there on comes again, and counts then.
    async fn rewind(&mut self, checkpoint: &mut Checkpoint, to: Cursor) -> Result<(), SinkError> {
        let again = self.store.letters_from(&self.id, checkpoint.log_id, to).await?;
        let totals = &mut checkpoint.totals;
        // Letters that were discarded stay counted, and so there are never more letters than dead.
        let again = again.min(totals.dead);
        (totals.matched, totals.dead) = (totals.matched - again, totals.dead - again);
        checkpoint.cursor = to;
        Ok(())
    }

    /// The checkpoint that a reset wanted is committed.
    async fn reset_done(&mut self, offset: u64) -> Result<(), SinkError> {
        self.store.forget_letters(&self.id, self.committed.log_id, self.committed.cursor).await?;
        self.store.reset_done(&self.id, offset).await?;
        self.board.update(|facts| facts.reset_to = facts.reset_to.filter(|wanted| *wanted != offset));
        self.note(&format!("went on from offset {} as an operator asked", self.committed.cursor.offset));
        Ok(())
    }

    /// Where it ends, for a batch under way that ends at `until`.
    fn end(&self, until: Option<Cursor>) -> Option<u64> {
        match self.ending {
            Ending::Never => None,
            Ending::At(offset) => Some(offset),
            Ending::UnderWay => {
                let Cursor { offset, row } = until.unwrap_or_default().max(self.committed.cursor);
                Some(offset + u64::from(row > 0))
            }
        }
    }

    fn start(&self, source: &dyn LogSource) -> Result<u64, SinkError> {
        let end = source.end_offset();
        let unreadable = |error| SinkError::unavailable("the start cannot be found").caused_by(error);
        Ok(match self.config.start {
            Start::Earliest => source.first_offset(),
            Start::Latest => end,
            Start::Offset(offset) => offset.min(end),
            Start::Timestamp(ms) => source.offset_at_time(ms).map_err(unreadable)?.min(end),
        })
    }

    /// Holds the cursor against what the log still has; whether it had to move.
    fn reconcile(&self, source: &dyn LogSource, checkpoint: &mut Checkpoint) -> Result<bool, SinkError> {
        let (first, end, at) = (source.first_offset(), source.end_offset(), checkpoint.cursor.offset);
        if at > end {
            let message =
                format!("the cursor stands at {at}, but the log ends at {end}: the log has lost its end");
            return Err(SinkError::new(ErrorKind::Fatal, message)
                .with_hint("restore the log, or reset the pipeline to an offset that exists"));
        }
        if at < first {
            self.note(&format!(
                "events {at} to {first} were removed from the log before they were delivered"
            ));
            checkpoint.cursor = Cursor::at(first);
        }
        Ok(at < first)
    }

    fn is_under_way(&self, batch: &RecordedBatch) -> bool {
        let at = self.committed.cursor;
        batch.log_id == self.committed.log_id
            && batch.rule_version == self.config.rule_version
            && (batch.from..batch.to).contains(&at)
    }

    async fn deliver_all(&mut self, intake: &mut Intake) -> End {
        loop {
            if let Err(end) = self.gather(intake).await {
                return end;
            }
            let stopping = self.stop.is_cancelled();
            if !intake.ready() && (stopping || intake.at_end()) {
                return if intake.at_end() { End::Done } else { End::Stop };
            }
            if let Err(end) = self.keep_pace().await {
                return end;
            }
            let replayed = intake.replaying();
            let mut work = intake.take();
            self.pace.count(work.pending(&work.whole()));
            if let Err(end) = self.settle_and_gather(&mut work, replayed, intake).await {
                return end;
            }
            self.show(intake);
            if stopping {
                return End::Stop;
            }
        }
    }

    /// Waits for a batch that is full or due, or for the stop.
    async fn gather(&mut self, intake: &mut Intake) -> Result<(), End> {
        let (stop, mut control) = (self.stop.clone(), self.control.clone());
        let resets = self.resets;
        if control.borrow().resets > resets {
            return Err(End::Reopen);
        }
        // While there is much to deliver a batch is always full; requests have their turn between two.
        while let Ok(request) = self.requests.try_recv() {
            self.answer(request, intake).await?;
        }
        while !intake.full() {
            let deadline = intake.deadline();
            let due = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let read = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = reset_wanted(&mut control, resets) => return Err(End::Reopen),
                Some(request) = self.requests.recv() => {
                    self.answer(request, intake).await?;
                    Ok(())
                }
                read = intake.step() => read,
                () = due => return Ok(()),
            };
            if let Err(error) = read {
                self.after(&SinkError::unavailable("events cannot be read").caused_by(error)).await?;
            }
            self.show(intake);
        }
        Ok(())
    }

    /// Settles `work` while the next batch is being gathered.
    async fn settle_and_gather(
        &mut self,
        work: &mut Work,
        replayed: bool,
        intake: &mut Intake,
    ) -> Result<(), End> {
        let mut gathering = !self.stop.is_cancelled();
        let mut settle = std::pin::pin!(self.settle(work, replayed));
        loop {
            tokio::select! {
                biased;
                settled = &mut settle => return settled,
                // An error of the log comes again when the next batch is gathered.
                read = intake.step(), if gathering => gathering = read.is_ok() && !intake.full(),
            }
        }
    }

    fn advance(&mut self, after: Checkpoint) {
        debug_assert!(after.totals.balanced() && after.cursor >= self.committed.cursor);
        let before = self.committed.totals;
        let (settled, dead) = (after.totals.matched - before.matched, after.totals.dead - before.dead);
        self.budget.count(self.clock.monotonic(), settled, dead);
        self.committed = after;
        self.board.update(|facts| {
            facts.busy_since_ms = None;
            facts.committed = after.totals;
            facts.cursor = after.cursor.offset;
            facts.settled = after.cursor.offset;
        });
    }

    /// After an error that is not about a row: says so, waits as the table of policies wants, or ends.
    async fn after(&mut self, error: &SinkError) -> Result<(), End> {
        let (state, wait) = match error.policy() {
            Policy::Retry { after } => (PipelineState::Retrying, self.backoff.next(after)),
            // Outside of a batch there is nothing to split.
            Policy::RetrySlowly | Policy::Split => (PipelineState::Stalled, self.backoff.slowest()),
            Policy::Hold => return self.hold(error),
        };
        let now_ms = self.clock.wall_ms();
        let next_ms = now_ms.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
        self.board.update(|facts| facts.failed(state, error, now_ms, Some(next_ms)));
        tracing::warn!(pipeline = %self.id, error = error.in_words(), hint = error.hint(), wait_ms = wait.as_millis(), "delivery failed");
        self.wait(wait).await
    }

    fn hold(&self, error: &SinkError) -> Result<(), End> {
        let gone = error.kind() == ErrorKind::Gone;
        let state = if gone { PipelineState::Paused } else { PipelineState::Stalled };
        let now_ms = self.clock.wall_ms();
        self.board.update(|facts| facts.failed(state, error, now_ms, None));
        tracing::error!(pipeline = %self.id, error = error.in_words(), hint = error.hint(), "delivery is halted");
        Err(End::Hold)
    }

    /// Halts once too many rows have died: they are kept, and so is everything that comes after them.
    fn keep_to_budget(&mut self) -> Result<(), End> {
        let Some(dead) = self.budget.exceeded() else { return Ok(()) };
        self.budget.reset(self.clock.monotonic());
        self.hold(&SinkError::new(
            ErrorKind::RefusesAll,
            format!("{dead} rows went to the dead letters in a minute"),
        ))
    }

    /// Sleeps; an operator who resumes or resets ends the wait.
    async fn wait(&mut self, wait: Duration) -> Result<(), End> {
        let stop = self.stop.clone();
        let (resumes, resets) = (self.control.borrow().resumes, self.resets);
        let mut control = self.control.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(End::Stop),
            () = reset_wanted(&mut control, resets) => Err(End::Reopen),
            () = tokio::time::sleep(wait) => Ok(()),
            _ = self.control.wait_for(|control| control.resumes > resumes) => Ok(()),
        }
    }

    /// Waits until the rows before have had their time.
    async fn keep_pace(&mut self) -> Result<(), End> {
        let Some(due) = self.pace.due() else { return Ok(()) };
        let (stop, mut control, resets) = (self.stop.clone(), self.control.clone(), self.resets);
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(End::Stop),
            () = reset_wanted(&mut control, resets) => Err(End::Reopen),
            () = sleep_until(due) => Ok(()),
        }
    }

    /// Passes while nobody has paused the pipeline. The stop lets one attempt through; `after` ends a second one.
    async fn gate(&mut self) -> Result<(), End> {
        let (stop, resets) = (self.stop.clone(), self.resets);
        if !self.control.borrow().paused {
            return Ok(());
        }
        let told = |control: &Control| !control.paused || control.resets > resets;
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(End::Stop),
            told = self.control.wait_for(told) => match told {
                Ok(control) if control.resets > resets => Err(End::Reopen),
                _ => Ok(()),
            },
        }
    }

    fn recovered(&mut self) {
        self.backoff.reset();
        self.board.update(super::status::Facts::recovered);
    }

    fn refused(&self, reason: &str) {
        let now_ms = self.clock.wall_ms();
        self.board.update(|facts| {
            facts.last_error = Some(reason.to_owned());
            facts.last_error_at_ms = Some(now_ms);
        });
    }

    fn note(&self, note: &str) {
        tracing::info!(pipeline = %self.id, "{note}");
        self.board.update(|facts| facts.note(note));
    }

    /// What has been read since the commit, for the status.
    fn show(&self, intake: &Intake) {
        let oldest = intake.oldest_ms();
        let settled = if oldest.is_none() { intake.read().offset } else { self.committed.cursor.offset };
        let now_ms = self.clock.wall_ms();
        self.board.update(|facts| {
            facts.advanced_at_ms = Some(now_ms);
            facts.pending_since_ms = oldest;
            facts.settled = settled;
        });
    }
}

/// Resolves once an operator has wanted another place in the log more than `resets` times.
async fn reset_wanted(control: &mut watch::Receiver<Control>, resets: u64) {
    // Whoever lets go of the handle stops the pipeline, which is noticed elsewhere.
    drop(control.wait_for(|control| control.resets > resets).await);
}
