//! The near end of a pipeline: reads events, lets the rule make rows of them, and gathers the rows until a batch is
//! full. All its state outlives a dropped future, so that gathering can go on while a batch is being delivered. It
//! must never know a sink.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use muster_core::event::Event;
use tokio::time::Instant;

use super::source::{LogReader, LogSource, SourceError};
use super::status::Board;
use super::work::{Draft, Work};
use super::{Limits, Transform};
use crate::part::Lane;
use crate::row::SharedRow;
use crate::sink::{BatchRow, Cursor};

/// Events that may pass without a row before the cursor is committed all the same: what a restart may have to read
/// again.
const UNCOMMITTED_EVENTS_MAX: u64 = 100_000;
/// How long the cursor may stay uncommitted while nothing matches.
const UNCOMMITTED_WAIT: Duration = Duration::from_secs(2);

/// What is read.
pub(crate) struct Bounds {
    /// The place to begin.
    pub(crate) from: Cursor,
    /// Where the batch that was under way before a restart ended.
    pub(crate) until: Option<Cursor>,
    /// The first offset that is not read, if there is an end.
    pub(crate) end: Option<u64>,
    /// The clients whose rows are wanted, if not all.
    pub(crate) lane: Option<Lane>,
}

pub(crate) struct Intake {
    reader: Box<dyn LogReader>,
    transform: Box<dyn Transform>,
    limits: Limits,
    board: Arc<Board>,
    /// Events read and not yet looked at; they end before `buffer_end`.
    buffer: VecDeque<Arc<Event>>,
    buffer_end: u64,
    /// Rows of an event that did not fit the last batch.
    carry: VecDeque<BatchRow>,
    draft: Draft,
    /// Everything before it is in the draft, or was taken.
    read: Cursor,
    /// Where the work that was taken last ended.
    taken: Cursor,
    /// Where the batch that was under way before a restart ended: this batch ends there too.
    until: Option<Cursor>,
    /// Nothing at or after it is read, if there is an end.
    end: Option<u64>,
    /// The clients whose rows are carried, if not all.
    lane: Option<Lane>,
    /// When the draft got its first item, or the cursor its first uncommitted event.
    since: Option<Instant>,
    scratch: Vec<SharedRow>,
}

impl Intake {
    pub(crate) fn new(
        source: &dyn LogSource,
        transform: Box<dyn Transform>,
        limits: Limits,
        board: Arc<Board>,
        bounds: Bounds,
    ) -> Self {
        let Bounds { from, until, end, lane } = bounds;
        let reader = source.reader(from.offset, transform.kinds());
        Self {
            reader,
            transform,
            limits,
            board,
            buffer: VecDeque::new(),
            buffer_end: from.offset,
            carry: VecDeque::new(),
            draft: Draft::default(),
            read: from,
            taken: from,
            until,
            end,
            lane,
            since: None,
            scratch: Vec::new(),
        }
    }

    pub(crate) fn into_transform(self) -> Box<dyn Transform> {
        self.transform
    }

    /// Reads on, once, unless a batch is full. While there is nothing to read it waits; dropping the future loses
    /// nothing.
    pub(crate) async fn step(&mut self) -> Result<(), SourceError> {
        let before = self.read;
        if self.gather() || self.read > before {
            // What was left of the last read may have begun a batch: its time runs before the next read.
            return Ok(());
        }
        let batch = self.reader.next().await?;
        self.buffer.extend(batch.events);
        self.buffer_end = batch.next_offset;
        self.gather();
        // The other tasks of this thread want to live too.
        tokio::task::yield_now().await;
        Ok(())
    }

    /// When what has been gathered is to be taken although it is no full batch.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let wait = if self.draft.items() > 0 { self.limits.batch_wait } else { UNCOMMITTED_WAIT };
        self.since.filter(|_| self.until.is_none()).map(|since| since + wait)
    }

    /// Whether there is something to deliver or to commit. A batch that was under way is delivered whole or not.
    pub(crate) fn ready(&self) -> bool {
        match self.until {
            Some(until) => self.read >= until,
            None => self.draft.items() > 0 || self.read > self.taken,
        }
    }

    /// Whether everything up to the end is read; a batch may be left.
    pub(crate) fn at_end(&self) -> bool {
        self.end.is_some_and(|end| self.read >= Cursor::at(end))
    }

    /// Whether the batch has the boundaries that it had before a restart.
    pub(crate) fn replaying(&self) -> bool {
        self.until.is_some()
    }

    /// What has been gathered, as a batch.
    pub(crate) fn take(&mut self) -> Work {
        self.until = None;
        self.taken = self.read;
        self.since = (!self.carry.is_empty()).then(Instant::now);
        self.draft.take(self.read)
    }

    /// What the rule makes of `event`, outside of any batch.
    pub(crate) fn rows_of(&mut self, event: &Event) -> Result<Vec<SharedRow>, String> {
        self.apply(event)?;
        Ok(std::mem::take(&mut self.scratch))
    }

    pub(crate) fn read(&self) -> Cursor {
        self.read
    }

    pub(crate) fn oldest_ms(&self) -> Option<i64> {
        self.draft.oldest_ms()
    }

    /// Moves what is in the buffer into the draft; whether the draft is full.
    fn gather(&mut self) -> bool {
        loop {
            if self.full() {
                return true;
            }
            if let Some(row) = self.carry.pop_front() {
                self.push(row);
                continue;
            }
            let Some(event) = self.buffer.front() else { break };
            if self.end.is_some_and(|end| event.offset >= end) {
                self.buffer.clear();
                break;
            }
            if let Some(until) = self.until
                && Cursor::at(event.offset) >= until
            {
                self.advance(until);
                continue;
            }
            if let Some(event) = self.buffer.pop_front() {
                self.evaluate(event);
            }
        }
        let read = self.buffer_end.min(self.end.unwrap_or(u64::MAX));
        self.advance(Cursor::at(read.max(self.read.offset)));
        self.full()
    }

    /// Whether a batch is full.
    pub(crate) fn full(&self) -> bool {
        if self.at_end() && self.carry.is_empty() {
            return true;
        }
        match self.until {
            Some(until) => self.read >= until,
            None => {
                self.draft.items() >= self.limits.batch_rows_max
                    || self.draft.bytes() >= self.limits.batch_bytes_max
                    || (self.draft.items() == 0
                        && self.read.offset.saturating_sub(self.taken.offset) >= UNCOMMITTED_EVENTS_MAX)
            }
        }
    }

    fn evaluate(&mut self, event: Arc<Event>) {
        let skipped = if event.offset == self.read.offset { self.read.row } else { 0 };
        if event.offset < self.read.offset {
            return;
        }
        if self.lane.is_some_and(|lane| !lane.carries(event.clientid())) {
            self.pass_over(&event);
            return;
        }
        let result = self.apply(&event);
        let made = match result {
            // A failure stands for the event's only row; when it is settled already, so is the event.
            Err(reason) if skipped == 0 => {
                self.draft.push_failed(event.clone(), reason);
                self.since.get_or_insert_with(Instant::now);
                1
            }
            Err(_) => 0,
            Ok(()) => {
                let rows = (0..).zip(self.scratch.drain(..)).skip(skipped as usize);
                let before = self.carry.len();
                self.carry.extend(rows.map(|(index, row)| BatchRow { event: event.clone(), index, row }));
                self.carry.len() - before
            }
        };
        let timestamp_ms = event.timestamp_ms;
        self.board.update(|facts| {
            facts.matched += made as u64;
            facts.read_at_ms = Some(timestamp_ms);
        });
        if self.carry.is_empty() {
            self.advance(Cursor::at(event.offset + 1));
        }
    }

    /// An event of another lane: its rows are counted and delivered there.
    fn pass_over(&mut self, event: &Event) {
        if self.transform.remembers() {
            let _rows = self.apply(event);
        }
        self.advance(Cursor::at(event.offset + 1));
    }

    /// Lets the rule make its rows of `event`, in the scratch.
    fn apply(&mut self, event: &Event) -> Result<(), String> {
        self.scratch.clear();
        // A fault of ours in one rule must not take the pipeline down, and with it every event after this one.
        let rule = AssertUnwindSafe(|| self.transform.apply(event, &mut self.scratch));
        catch_unwind(rule).unwrap_or_else(|_| Err("the rule panicked on the event".to_owned()))
    }

    fn push(&mut self, row: BatchRow) {
        let after = match self.carry.front() {
            Some(next) => next.cursor(),
            None => Cursor::at(row.offset() + 1),
        };
        self.draft.push(row);
        self.advance(after);
    }

    fn advance(&mut self, to: Cursor) {
        if to > self.read {
            self.read = to;
            self.since.get_or_insert_with(Instant::now);
        }
    }
}
