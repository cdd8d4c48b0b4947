//! What a replay would do, without doing it: events and rows are counted, and the first rows shown. A part of the log
//! at a time, so that a request ends in its time. It must never open a sink.

use std::sync::Arc;
use std::time::Duration;

use muster_core::clock::SharedClock;
use muster_core::journal::Journal;
use muster_core::log::LogError;
use muster_rules::RuleProgram;
use muster_sinks::PipelineId;
use muster_sinks::delivery::Transform as _;

use super::Pipelines;
use super::replays::ReplayRequest;
use super::transform::RuleTransform;
use crate::error::{Error, ErrorKind};

/// Rows that are shown.
const ROWS_SHOWN_MAX: usize = 5;
/// How long one look may take: a request has 10 s.
const LOOK_MAX: Duration = Duration::from_secs(3);

/// What a part of a replay would do.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct DryRun {
    /// The first event.
    pub from: u64,
    /// One past the last.
    pub to: u64,
    /// Where the next look begins; equal to `to` when all were looked at.
    pub next: u64,
    /// Events that the rule's FROM may name.
    pub events: u64,
    /// Those on which the rule fails: so many dead letters for each target.
    pub failed: u64,
    /// Rows for each target.
    pub rows: u64,
    /// The targets.
    pub targets: Vec<String>,
    /// The first rows, as JSON.
    pub first_rows: Vec<String>,
}

impl Pipelines {
    /// Looks at what `request` would do, from `next` on if that is given.
    ///
    /// # Errors
    /// As [`Pipelines::replay`], or the log cannot be read.
    pub async fn try_replay(&self, request: &ReplayRequest, next: Option<u64>) -> Result<DryRun, Error> {
        let (from, to, recipes) = self.understood(request)?;
        let Some(first) = recipes.first() else { return Ok(DryRun::default()) };
        let program = first.rule.program.clone();
        let targets = recipes.iter().map(|it| PipelineId::to_string(&it.id)).collect();
        let dry =
            DryRun { from, to, next: next.unwrap_or(from).clamp(from, to), targets, ..DryRun::default() };
        let (journal, clock, seed) = (self.parts.journal.clone(), self.parts.clock.clone(), self.parts.seed);
        let looked = tokio::task::spawn_blocking(move || look(dry, &journal, &program, &clock, seed)).await;
        let unreadable =
            |error: LogError| Error::because(ErrorKind::Fatal, "the event log cannot be read", error);
        looked
            .map_err(|error| Error::because(ErrorKind::Fatal, "the look was torn off", error))?
            .map_err(unreadable)
    }
}

fn look(
    mut dry: DryRun,
    journal: &Journal,
    program: &Arc<RuleProgram>,
    clock: &SharedClock,
    seed: u64,
) -> Result<DryRun, LogError> {
    let mut rule = RuleTransform::alone(program.clone(), clock.clone(), seed);
    let mut reader = journal.reader(dry.next).with_kinds(rule.kinds());
    let (started, mut rows) = (clock.monotonic(), Vec::new());
    while dry.next < dry.to && clock.monotonic().saturating_sub(started) < LOOK_MAX {
        let Some(batch) = reader.try_next_batch()? else { break };
        for event in batch.events().iter().filter(|event| (dry.next..dry.to).contains(&event.offset)) {
            dry.events += 1;
            rows.clear();
            match rule.apply(event, &mut rows) {
                Ok(()) => dry.rows += rows.len() as u64,
                Err(_) => dry.failed += 1,
            }
            let room = ROWS_SHOWN_MAX - dry.first_rows.len().min(ROWS_SHOWN_MAX);
            dry.first_rows.extend(rows.iter().take(room).map(|row| row.json().to_owned()));
        }
        dry.next = batch.next_offset.clamp(dry.next, dry.to);
    }
    Ok(dry)
}
