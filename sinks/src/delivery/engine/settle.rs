//! How a batch becomes durable: attempts, halves, dead letters and commits. What it leaves undone is undone in order:
//! everything before the checkpoint is settled, nothing after it is.

use std::ops::Range;

use super::super::RecordedBatch;
use super::super::work::Work;
use super::{End, Outlet};
use crate::error::{ErrorKind, Policy, SinkError};
use crate::sink::{Batch, Checkpoint, Durable, Outcome, RowOutcome};

/// What became of a window.
enum Window {
    Settled,
    Split(usize),
}

impl Outlet {
    /// Makes all of `work` durable or dead, in order, and commits it; the only ways out before are the stop and an
    /// error that waits for an operator. `recorded` says that the store has the boundaries of `work` already.
    pub(super) async fn settle(&mut self, work: &mut Work, mut recorded: bool) -> Result<(), End> {
        let mut windows = vec![work.whole()];
        while let Some(window) = windows.pop() {
            // The halves of a refused batch are batches of their own: after a crash each must be the same again.
            if !recorded && self.sink.wants_recorded_batches() && work.pending(&window) > 0 {
                self.record(work, &window).await?;
            }
            recorded = false;
            let end = window.end;
            match self.settle_window(work, window).await? {
                (_, Window::Settled) => {}
                (start, Window::Split(middle)) => windows.extend([middle..end, start..middle]),
            }
        }
        Ok(())
    }

    async fn record(&mut self, work: &Work, window: &Range<usize>) -> Result<(), End> {
        loop {
            self.gate().await?;
            let Checkpoint { log_id, cursor, .. } = self.committed;
            let to = work.checkpoint_after(window, &self.committed).cursor;
            let rule_version = self.config.rule_version.clone();
            let batch = RecordedBatch { log_id, from: cursor, to, rule_version };
            match self.store.record_batch(&self.id, batch).await {
                Ok(()) => return Ok(()),
                Err(error) => self.after(&error.into()).await?,
            }
        }
    }

    /// Tries `window` until it is settled, or found to be worth splitting; answers with its start by then.
    async fn settle_window(
        &mut self,
        work: &mut Work,
        mut window: Range<usize>,
    ) -> Result<(usize, Window), End> {
        let mut attempts = 0;
        loop {
            self.gate().await?;
            let (oldest, now_ms) = (work.oldest_ms(&window), self.clock.wall_ms());
            self.board.update(|facts| {
                facts.pending_since_ms = oldest;
                facts.busy_since_ms.get_or_insert(now_ms);
            });
            attempts += 1;
            let error = match self.attempt(work, &mut window, attempts).await {
                Ok(true) => {
                    self.recovered();
                    self.keep_to_budget()?;
                    return Ok((window.start, Window::Settled));
                }
                Ok(false) => continue,
                Err(error) => error,
            };
            if error.policy() != Policy::Split {
                self.after(&error).await?;
            } else if work.pending(&window) > 1 {
                return Ok((window.start, Window::Split(work.middle(&window))));
            } else {
                let reason = error.in_words();
                self.refused(&reason);
                work.judge(&window, attempts, || Some(Err(reason.clone())));
            }
        }
    }

    /// One attempt at `window`; whether it is settled and committed. `window` shrinks by what was committed.
    pub(super) async fn attempt(
        &mut self,
        work: &mut Work,
        window: &mut Range<usize>,
        attempts: u32,
    ) -> Result<bool, SinkError> {
        let batch = work.batch(window, &self.id, &self.committed, attempts);
        if self.remembers {
            // The checkpoint that counts the letters is the target's; the letters must be there before it is.
            self.put_letters(work, window).await?;
        } else if batch.is_empty() {
            self.commit(work, window, batch.after).await?;
            return Ok(true);
        }
        match self.sink.deliver(&batch).await? {
            Outcome::Durable(durable) => {
                self.check_promise(&batch, &durable)?;
                work.delivered(window);
                if self.remembers {
                    self.advance(batch.after);
                } else {
                    self.commit(work, window, batch.after).await?;
                }
                for note in durable.notes() {
                    self.note(note);
                }
                Ok(true)
            }
            Outcome::PerRow { rows, error } => self.per_row(work, window, &batch, (rows, error)).await,
        }
    }

    async fn per_row(
        &mut self,
        work: &mut Work,
        window: &mut Range<usize>,
        batch: &Batch,
        (rows, error): (Vec<RowOutcome>, Option<SinkError>),
    ) -> Result<bool, SinkError> {
        if rows.len() != batch.len() {
            let message = format!("the sink gave {} answers for {} rows", rows.len(), batch.len());
            return Err(SinkError::new(ErrorKind::Fatal, message));
        }
        let mut rows = rows.into_iter();
        let mut refused = None;
        let settled = work.judge(window, batch.attempt, || match rows.next()? {
            RowOutcome::Durable => Some(Ok(())),
            RowOutcome::Rejected(error) => Some(Err(refused.insert(error.in_words()).clone())),
            RowOutcome::Untried => None,
        });
        if let Some(reason) = refused {
            self.refused(&reason);
        }
        let prefix = work.settled_prefix(window);
        if !self.remembers && !prefix.is_empty() {
            let after = work.checkpoint_after(&prefix, &self.committed);
            self.commit(work, &prefix, after).await?;
            window.start = prefix.end;
        }
        if settled > 0 {
            self.backoff.reset();
        }
        match error {
            Some(error) => Err(error),
            None if settled == 0 => {
                let message = "the sink neither delivered nor refused a row";
                Err(SinkError::new(ErrorKind::Fatal, message))
            }
            None => Ok(window.start >= window.end),
        }
    }

    pub(super) fn check_promise(&self, batch: &Batch, durable: &Durable) -> Result<(), SinkError> {
        if durable.cursor() == batch.after.cursor {
            return Ok(());
        }
        Err(SinkError::new(ErrorKind::Fatal, "the sink promised another batch than it was given"))
    }

    async fn put_letters(&mut self, work: &mut Work, window: &Range<usize>) -> Result<(), SinkError> {
        let letters = work.letters(window, self.committed.log_id, &self.config.rule_version);
        if !letters.is_empty() {
            self.store.put_letters(&self.id, letters, self.clock.wall_ms()).await?;
            work.letters_written(window);
        }
        Ok(())
    }

    /// Commits in the delivery store. Delivered rows are marked as such before, so that a store that fails costs
    /// no second delivery.
    async fn commit(
        &mut self,
        work: &mut Work,
        window: &Range<usize>,
        after: Checkpoint,
    ) -> Result<(), SinkError> {
        let letters = work.letters(window, self.committed.log_id, &self.config.rule_version);
        self.store.commit(&self.id, after, letters, self.clock.wall_ms()).await?;
        work.letters_written(window);
        self.advance(after);
        Ok(())
    }
}
