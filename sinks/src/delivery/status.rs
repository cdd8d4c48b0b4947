//! What a pipeline says of itself, kept up to date by the engine and read by whoever asks. It must never influence
//! delivery.

use std::sync::{Mutex, PoisonError};

use crate::error::SinkError;
use crate::sink::{Checkpoint, PipelineId, Totals};

/// What the pipeline is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PipelineState {
    /// Connecting to the target for the first time.
    Starting,
    /// Delivering, or waiting for events.
    Running,
    /// An attempt failed; the next one is set.
    Retrying,
    /// Halted by an operator.
    Paused,
    /// No progress without somebody's help; see the hint.
    Stalled,
    /// Everything up to its end is delivered.
    Done,
    /// Ended.
    Stopped,
}

/// A pipeline at one moment. `matched = delivered + dead + pending` holds in each.
#[derive(Debug, Clone, serde::Serialize)]
pub struct PipelineStatus {
    /// The rule.
    pub rule: String,
    /// The sink.
    pub sink: String,
    /// The table, topic or collection in it; empty where there is none.
    pub target: String,
    /// In how many lanes it is delivered.
    pub lanes: u32,
    /// What it is doing.
    pub state: PipelineState,
    /// Rows made, and events on which the rule failed.
    pub matched: u64,
    /// Rows in the target, committed.
    pub delivered: u64,
    /// Rows and events that went to the dead letters.
    pub dead: u64,
    /// What the books showed when they were opened the first time in this run.
    #[serde(skip)]
    pub opened: Totals,
    /// Rows made and not settled yet.
    pub pending: u64,
    /// Everything before this offset is committed, and none of it is wanted again.
    pub cursor: u64,
    /// Events in the log that are not settled yet.
    pub lag_events: u64,
    /// Age of the oldest of them.
    pub lag_ms: u64,
    /// Failed attempts since the last success.
    pub failures: u32,
    /// When the next attempt comes, milliseconds since 1970.
    pub next_attempt_at_ms: Option<i64>,
    /// The last trouble, in words; kept after it is over.
    pub last_error: Option<String>,
    /// When it was, milliseconds since 1970.
    pub last_error_at_ms: Option<i64>,
    /// What the operator can do, while something is wrong.
    pub hint: Option<String>,
    /// What the sink reported last, such as tables it created.
    pub notes: Vec<String>,
}

impl PipelineStatus {
    /// The books, as far as they are committed.
    pub fn totals(&self) -> Totals {
        Totals { matched: self.delivered + self.dead, delivered: self.delivered, dead: self.dead }
    }
}

/// What is shown of a pipeline that has not started any lane yet.
pub(super) fn blank(id: &PipelineId, paused: bool) -> PipelineStatus {
    let state = if paused { PipelineState::Paused } else { PipelineState::Starting };
    PipelineStatus { state, ..Board::default().read(id, 0, 0) }
}

/// Lanes together: their books added up, their place where the last of them is, their trouble that of the worst.
pub(super) fn sum(lanes: &[PipelineStatus]) -> Option<PipelineStatus> {
    let mut all = lanes.iter().max_by_key(|lane| lane.state.badness())?.clone();
    all.lanes = u32::try_from(lanes.len()).unwrap_or(u32::MAX);
    if lanes.len() < 2 {
        return Some(all);
    }
    let total = |of: fn(&PipelineStatus) -> u64| lanes.iter().map(of).sum::<u64>();
    let most = |of: fn(&PipelineStatus) -> u64| lanes.iter().map(of).max().unwrap_or_default();
    (all.matched, all.delivered, all.dead) =
        (total(|it| it.matched), total(|it| it.delivered), total(|it| it.dead));
    all.pending = total(|it| it.pending);
    all.opened = Totals {
        matched: total(|it| it.opened.matched),
        delivered: total(|it| it.opened.delivered),
        dead: total(|it| it.opened.dead),
    };
    all.cursor = lanes.iter().map(|it| it.cursor).min().unwrap_or_default();
    (all.lag_events, all.lag_ms) = (most(|it| it.lag_events), most(|it| it.lag_ms));
    all.failures = lanes.iter().map(|it| it.failures).max().unwrap_or_default();
    all.next_attempt_at_ms = lanes.iter().filter_map(|it| it.next_attempt_at_ms).min();
    if let Some(latest) = lanes.iter().max_by_key(|it| it.last_error_at_ms) {
        (all.last_error, all.last_error_at_ms) = (latest.last_error.clone(), latest.last_error_at_ms);
    }
    let noted = (1..).zip(lanes).flat_map(|(at, lane)| lane.notes.iter().map(move |note| (at, note)));
    all.notes = noted.map(|(at, note): (u32, _)| format!("lane {at}: {note}")).take(NOTES_MAX).collect();
    Some(all)
}

impl PipelineState {
    /// Which of the states of several lanes is shown.
    fn badness(self) -> u8 {
        match self {
            Self::Stalled => 6,
            Self::Retrying => 5,
            Self::Starting => 4,
            Self::Paused => 3,
            Self::Running => 2,
            Self::Done => 1,
            Self::Stopped => 0,
        }
    }
}

/// How long a batch may be tried without progress before the pipeline is shown as stalled.
const STALLED_AFTER_MS: i64 = 60_000;
/// Notes kept for the status.
const NOTES_MAX: usize = 16;

/// The engine's side of the status.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<Facts>);

#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) state: PipelineState,
    /// Rows made since the checkpoint that is committed, counted when they were made.
    pub(crate) matched: u64,
    pub(crate) committed: Totals,
    pub(crate) opened: Option<Totals>,
    pub(crate) cursor: u64,
    /// Where an operator wants it to go on, until it does.
    pub(crate) reset_to: Option<u64>,
    /// The first event that is not wholly settled; beyond the cursor while a commit of nothing is put off.
    pub(crate) settled: u64,
    /// Time of the oldest row that is pending.
    pub(crate) pending_since_ms: Option<i64>,
    /// Time of the last event that the rule saw.
    pub(crate) read_at_ms: Option<i64>,
    /// When the reader last moved, by our clock.
    pub(crate) advanced_at_ms: Option<i64>,
    /// Since when a batch is tried and nothing of it is committed.
    pub(crate) busy_since_ms: Option<i64>,
    pub(crate) failures: u32,
    pub(crate) next_attempt_at_ms: Option<i64>,
    pub(crate) last_error: Option<String>,
    pub(crate) last_error_at_ms: Option<i64>,
    pub(crate) hint: Option<String>,
    pub(crate) notes: Vec<String>,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            state: PipelineState::Starting,
            matched: 0,
            committed: Totals::default(),
            opened: None,
            cursor: 0,
            reset_to: None,
            settled: 0,
            pending_since_ms: None,
            read_at_ms: None,
            advanced_at_ms: None,
            busy_since_ms: None,
            failures: 0,
            next_attempt_at_ms: None,
            last_error: None,
            last_error_at_ms: None,
            hint: None,
            notes: Vec::new(),
        }
    }
}

impl Board {
    /// A board that shows `known` until the target is open.
    pub(crate) fn known(known: Option<Checkpoint>) -> Self {
        let board = Self::default();
        if let Some(Checkpoint { cursor, totals, .. }) = known {
            board.update(|facts| {
                (facts.matched, facts.committed) = (totals.matched, totals);
                (facts.cursor, facts.settled) = (cursor.offset, cursor.offset);
            });
        }
        board
    }

    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut Facts) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The status, for a log that ends at `end_offset` and a clock that shows `now_ms`.
    pub(crate) fn read(&self, id: &PipelineId, end_offset: u64, now_ms: i64) -> PipelineStatus {
        let facts = self.update(|facts| facts.clone());
        let lag_events = end_offset.saturating_sub(facts.settled);
        // With nothing pending, what is unread is younger than the last event that the rule saw, and came after the
        // reader last moved: a rule that seldom matches is not behind because of that.
        let unread = facts.read_at_ms.max(facts.advanced_at_ms);
        let oldest = facts.pending_since_ms.or(unread).filter(|_| lag_events > 0);
        PipelineStatus {
            rule: id.rule.clone(),
            sink: id.sink.clone(),
            target: id.target.clone(),
            lanes: 1,
            state: facts.shown_state(now_ms),
            matched: facts.matched,
            delivered: facts.committed.delivered,
            dead: facts.committed.dead,
            opened: facts.opened.unwrap_or_default(),
            pending: facts.matched.saturating_sub(facts.committed.matched),
            cursor: facts.cursor.min(facts.reset_to.unwrap_or(u64::MAX)),
            lag_events,
            lag_ms: oldest.map_or(0, |at| u64::try_from(now_ms.saturating_sub(at)).unwrap_or(0)),
            failures: facts.failures,
            next_attempt_at_ms: facts.next_attempt_at_ms,
            last_error: facts.last_error.clone(),
            last_error_at_ms: facts.last_error_at_ms,
            hint: facts.shown_hint(now_ms),
            notes: facts.notes,
        }
    }
}

impl Facts {
    /// Health is progress: a target that is connected and does not advance is stalled.
    fn shown_state(&self, now_ms: i64) -> PipelineState {
        let tries = matches!(self.state, PipelineState::Running | PipelineState::Retrying);
        if tries && self.stuck(now_ms) { PipelineState::Stalled } else { self.state }
    }

    fn shown_hint(&self, now_ms: i64) -> Option<String> {
        let silent = self.hint.is_none() && self.stuck(now_ms);
        let silence = || "the target takes rows and does not answer; look at it and at its locks".to_owned();
        self.hint.clone().or_else(|| silent.then(silence))
    }

    fn stuck(&self, now_ms: i64) -> bool {
        self.busy_since_ms.is_some_and(|since| now_ms.saturating_sub(since) >= STALLED_AFTER_MS)
    }

    pub(crate) fn failed(
        &mut self,
        state: PipelineState,
        error: &SinkError,
        now_ms: i64,
        next_ms: Option<i64>,
    ) {
        self.state = state;
        self.failures = self.failures.saturating_add(1);
        self.last_error = Some(error.in_words());
        self.last_error_at_ms = Some(now_ms);
        self.hint = Some(error.hint().to_owned());
        self.next_attempt_at_ms = next_ms;
    }

    pub(crate) fn recovered(&mut self) {
        self.state = PipelineState::Running;
        self.failures = 0;
        self.hint = None;
        self.next_attempt_at_ms = None;
    }

    pub(crate) fn note(&mut self, note: &str) {
        if self.notes.len() == NOTES_MAX {
            self.notes.remove(0);
        }
        self.notes.push(note.to_owned());
    }
}
