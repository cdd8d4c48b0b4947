//! Dead letters that get another chance: their events go through the rule as it is now, and what it makes of them to
//! the target. A letter that is delivered moves from the dead to the delivered in the books, in the same commit that
//! makes its rows durable; one that is refused again stays, with its new reason.

use std::ops::Range;
use std::sync::Arc;

use super::super::LetterFilter;
use super::super::handle::Request;
use super::super::intake::Intake;
use super::super::store::{DeadLetter, ReplayedLetters};
use super::{End, Outlet};
use crate::error::{ErrorKind, Policy, SinkError};
use crate::sink::{Batch, BatchRow, Checkpoint, Outcome, PipelineId, RowOutcome};

/// Letters that are replayed together.
const LETTERS_MAX: u32 = 500;

/// What a replay did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Replayed {
    /// Letters that are letters no more.
    pub delivered: u64,
    /// Letters that stay.
    pub still_dead: u64,
}

/// A letter on its second way.
struct Attempt {
    letter: DeadLetter,
    /// Its rows, by their places; none where the rule yields nothing for it any more.
    rows: Range<usize>,
    /// Why it is dead again.
    dead: Option<String>,
}

impl Outlet {
    pub(super) async fn answer(&mut self, request: Request, intake: &mut Intake) -> Result<(), End> {
        let Request::Replay { filter, reply } = request;
        if reply.is_closed() {
            // Whoever asked has gone; then nothing is done.
            return Ok(());
        }
        let replayed = self.replay(intake, filter).await;
        // A target that did not answer may have committed all the same; then its books are ahead of ours.
        let unsure = replayed.is_err() && self.remembers;
        drop(reply.send(replayed));
        if unsure { Err(End::Reopen) } else { Ok(()) }
    }

    async fn replay(&mut self, intake: &mut Intake, filter: LetterFilter) -> Result<Replayed, SinkError> {
        let mut filter = LetterFilter {
            rule: Some(self.id.rule.clone()),
            sink: Some(self.id.sink.clone()),
            target: Some(self.id.target.clone()),
            pipeline: Some(PipelineId::clone(&self.id)),
            ..filter
        };
        let mut replayed = Replayed::default();
        loop {
            let letters = self.store.letters(filter.clone(), LETTERS_MAX).await?;
            let Some(last) = letters.last() else { return Ok(replayed) };
            filter.after_id = Some(last.id);
            let (mut attempts, rows) = evaluate(letters, intake);
            let whole = 0..attempts.len();
            let mut windows = vec![whole];
            while let Some(window) = windows.pop() {
                let error = match self.revive(&mut attempts[window.clone()], &rows).await {
                    Ok(delivered) => {
                        replayed.delivered += delivered;
                        replayed.still_dead += window.len() as u64 - delivered;
                        continue;
                    }
                    Err(error) if error.policy() == Policy::Split => error,
                    Err(error) => return Err(error),
                };
                if window.len() > 1 {
                    let middle = window.start + window.len() / 2;
                    windows.extend([middle..window.end, window.start..middle]);
                } else {
                    attempts[window.start].dead = Some(error.in_words());
                    windows.push(window);
                }
            }
        }
    }

    /// Delivers the letters that are not dead yet and commits; how many there were.
    async fn revive(
        &mut self,
        attempts: &mut [Attempt],
        rows: &Arc<Vec<BatchRow>>,
    ) -> Result<u64, SinkError> {
        loop {
            let (after, letters) = (self.checkpoint_with(attempts), sorted(attempts));
            let picked = alive(attempts).flat_map(|attempt| attempt.rows.clone());
            let picked = picked.map(|at| u32::try_from(at).unwrap_or(u32::MAX)).collect();
            let batch = Batch::new(self.id.clone(), after, 1, rows.clone(), picked);
            if self.remembers {
                // Whether the target has committed is known by the totals that it then has.
                self.store.begin_replay(&self.id, after.totals, &letters).await?;
            }
            if batch.is_empty() && (!self.remembers || letters.delivered.is_empty()) {
                return self.finish_replay(after, letters).await;
            }
            match self.sink.deliver(&batch).await? {
                Outcome::Durable(durable) => {
                    self.check_promise(&batch, &durable)?;
                    return self.finish_replay(after, letters).await;
                }
                Outcome::PerRow { error: Some(error), .. } => return Err(error),
                Outcome::PerRow { rows, error: None } => {
                    let untried = rows.iter().any(|row| matches!(row, RowOutcome::Untried));
                    if judge(attempts, rows) == 0 {
                        let message = "the sink neither delivered nor refused a row";
                        return Err(SinkError::new(ErrorKind::Fatal, message));
                    }
                    if !self.remembers && !untried {
                        return self.finish_replay(self.checkpoint_with(attempts), sorted(attempts)).await;
                    }
                }
            }
        }
    }

    /// The rows are durable: so be it in the books and among the letters.
    async fn finish_replay(&mut self, after: Checkpoint, letters: ReplayedLetters) -> Result<u64, SinkError> {
        let delivered = letters.delivered.len() as u64;
        let before = self.committed.totals;
        if self.remembers {
            self.committed = after;
            self.store.conclude_replay(&self.id, after.totals).await?;
        } else {
            self.store.commit_replay(&self.id, after, letters, self.clock.wall_ms()).await?;
            self.committed = after;
        }
        self.board.update(|facts| {
            facts.matched = (facts.matched + after.totals.matched).saturating_sub(before.matched);
            facts.committed = after.totals;
        });
        Ok(delivered)
    }

    /// The books once the letters that are not dead are delivered. The cursor stays where it is.
    fn checkpoint_with(&self, attempts: &[Attempt]) -> Checkpoint {
        let mut after = self.committed;
        for attempt in alive(attempts) {
            let rows = attempt.rows.len() as u64;
            let totals = &mut after.totals;
            totals.dead = totals.dead.saturating_sub(1);
            totals.delivered += rows;
            totals.matched = totals.delivered + totals.dead;
        }
        after
    }
}

fn alive(attempts: &[Attempt]) -> impl Iterator<Item = &Attempt> {
    attempts.iter().filter(|attempt| attempt.dead.is_none())
}

/// Which letters are delivered, and which are dead again.
fn sorted(attempts: &[Attempt]) -> ReplayedLetters {
    ReplayedLetters {
        delivered: alive(attempts).map(|attempt| attempt.letter.id).collect(),
        dead: attempts.iter().filter_map(|it| Some((it.letter.id, it.dead.clone()?))).collect(),
    }
}

/// What the rule makes of the letters' events now.
fn evaluate(letters: Vec<DeadLetter>, intake: &mut Intake) -> (Vec<Attempt>, Arc<Vec<BatchRow>>) {
    let mut rows = Vec::new();
    let mut attempts = Vec::with_capacity(letters.len());
    for letter in letters {
        let start = rows.len();
        let dead = match letter.event() {
            Err(error) => Some(error.to_string()),
            Ok(event) => match intake.rows_of(&event) {
                Err(reason) => Some(reason),
                Ok(made) => {
                    let event = Arc::new(event);
                    let made =
                        (0..).zip(made).map(|(index, row)| BatchRow { event: event.clone(), index, row });
                    // Of an event on which the rule failed all rows are missing, else only the one that was refused.
                    rows.extend(
                        made.filter(|row| letter.row_json.is_none() || row.index == letter.cursor.row),
                    );
                    None
                }
            },
        };
        attempts.push(Attempt { letter, rows: start..rows.len(), dead });
    }
    (attempts, Arc::new(rows))
}

/// Notes which letters had a row refused; how many rows were settled.
fn judge(attempts: &mut [Attempt], outcomes: Vec<RowOutcome>) -> usize {
    let mut outcomes = outcomes.into_iter();
    let mut settled = 0;
    for attempt in attempts.iter_mut().filter(|attempt| attempt.dead.is_none()) {
        for outcome in outcomes.by_ref().take(attempt.rows.len()) {
            match outcome {
                RowOutcome::Untried => continue,
                RowOutcome::Durable => {}
                RowOutcome::Rejected(error) => attempt.dead = Some(error.in_words()),
            }
            settled += 1;
        }
    }
    settled
}
