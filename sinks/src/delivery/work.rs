//! The rows of one batch and what has become of each. Pure bookkeeping: it must never await or touch a store.

use std::ops::Range;
use std::sync::Arc;

use muster_core::event::Event;

use super::store::NewLetter;
use crate::sink::{Batch, BatchRow, Checkpoint, Cursor, PipelineId};

/// Rows between two cursors, being settled. A window of it is a range of items; everything before the window is
/// settled and committed.
#[derive(Debug)]
pub(crate) struct Work {
    /// One past the last event that was read for it; beyond its last item where events yielded nothing.
    pub(crate) end: Cursor,
    items: Vec<Item>,
    rows: Arc<Vec<BatchRow>>,
}

#[derive(Debug)]
struct Item {
    cursor: Cursor,
    content: Content,
    state: State,
}

#[derive(Debug)]
enum Content {
    /// A row, by its place among the rows.
    Row(u32),
    /// The rule failed on the event.
    Failed(Arc<Event>),
}

#[derive(Debug)]
enum State {
    Pending,
    Delivered,
    Dead { reason: String, attempts: u32, written: bool },
}

/// Work in the making.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    items: Vec<Item>,
    rows: Vec<BatchRow>,
    bytes: usize,
    oldest_ms: Option<i64>,
}

impl Draft {
    pub(crate) fn push(&mut self, row: BatchRow) {
        self.oldest_ms.get_or_insert(row.event.timestamp_ms);
        self.bytes += row.row.bytes();
        let at = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        self.items.push(Item { cursor: row.cursor(), content: Content::Row(at), state: State::Pending });
        self.rows.push(row);
    }

    pub(crate) fn push_failed(&mut self, event: Arc<Event>, reason: String) {
        self.oldest_ms.get_or_insert(event.timestamp_ms);
        let cursor = Cursor::at(event.offset);
        let state = State::Dead { reason, attempts: 0, written: false };
        self.items.push(Item { cursor, content: Content::Failed(event), state });
    }

    pub(crate) fn items(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn oldest_ms(&self) -> Option<i64> {
        self.oldest_ms
    }

    /// The work, read up to `end`; the draft is empty again.
    pub(crate) fn take(&mut self, end: Cursor) -> Work {
        let Self { items, rows, .. } = std::mem::take(self);
        Work { end, items, rows: Arc::new(rows) }
    }
}

impl Work {
    pub(crate) fn whole(&self) -> Range<usize> {
        0..self.items.len()
    }

    /// The event time of the first item of `window`.
    pub(crate) fn oldest_ms(&self, window: &Range<usize>) -> Option<i64> {
        self.items.get(window.start).map(|item| self.event(item).timestamp_ms)
    }

    /// The rows of `window` that are pending, and the checkpoint that holds once they are durable.
    pub(crate) fn batch(
        &self,
        window: &Range<usize>,
        pipeline: &Arc<PipelineId>,
        committed: &Checkpoint,
        attempt: u32,
    ) -> Batch {
        let picked = self.window(window).filter_map(Item::pending_row).collect();
        let after = self.checkpoint_after(window, committed);
        Batch::new(pipeline.clone(), after, attempt, self.rows.clone(), picked)
    }

    /// The checkpoint that holds once every pending item of `window` is delivered.
    pub(crate) fn checkpoint_after(&self, window: &Range<usize>, committed: &Checkpoint) -> Checkpoint {
        let mut after = *committed;
        after.cursor = self.items.get(window.end).map_or(self.end, |item| item.cursor);
        for item in self.window(window) {
            after.totals.matched += 1;
            match item.state {
                State::Dead { .. } => after.totals.dead += 1,
                State::Pending | State::Delivered => after.totals.delivered += 1,
            }
        }
        after
    }

    pub(crate) fn pending(&self, window: &Range<usize>) -> usize {
        self.window(window).filter(|item| matches!(item.state, State::Pending)).count()
    }

    /// `window` up to its first pending item.
    pub(crate) fn settled_prefix(&self, window: &Range<usize>) -> Range<usize> {
        let pending = self.window(window).position(|item| matches!(item.state, State::Pending));
        window.start..pending.map_or(window.end, |at| window.start + at)
    }

    /// Where to cut `window` so that half of its pending items are on either side.
    pub(crate) fn middle(&self, window: &Range<usize>) -> usize {
        let half = self.pending(window) / 2;
        let pending = |(_, item): &(usize, &Item)| matches!(item.state, State::Pending);
        let middle = self.window(window).enumerate().filter(pending).nth(half);
        window.start + middle.map_or(0, |(at, _)| at)
    }

    /// Everything that is pending in `window` was delivered.
    pub(crate) fn delivered(&mut self, window: &Range<usize>) {
        for item in self.window_mut(window) {
            if matches!(item.state, State::Pending) {
                item.state = State::Delivered;
            }
        }
    }

    /// What became of the pending items of `window`, in order. `judge` answers with nothing for an item that stays
    /// pending, `Ok` for one that was delivered, and the reason for one that is dead. How many are settled now.
    pub(crate) fn judge(
        &mut self,
        window: &Range<usize>,
        attempts: u32,
        mut judge: impl FnMut() -> Option<Result<(), String>>,
    ) -> usize {
        let mut settled = 0;
        for item in self.window_mut(window) {
            if !matches!(item.state, State::Pending) {
                continue;
            }
            match judge() {
                None => continue,
                Some(Ok(())) => item.state = State::Delivered,
                Some(Err(reason)) => item.state = State::Dead { reason, attempts, written: false },
            }
            settled += 1;
        }
        settled
    }

    /// The dead letters of `window` that no store has yet.
    pub(crate) fn letters(&self, window: &Range<usize>, log_id: u128, rule_version: &str) -> Vec<NewLetter> {
        let letter = |item: &Item| {
            let State::Dead { reason, attempts, written: false } = &item.state else { return None };
            let event = self.event(item);
            let row = match &item.content {
                Content::Row(at) => self.rows.get(*at as usize).map(|row| row.row.json().to_owned()),
                Content::Failed(_) => None,
            };
            Some(NewLetter {
                log_id,
                cursor: item.cursor,
                event_id: event.id.to_string(),
                event_ms: event.timestamp_ms,
                rule_version: rule_version.to_owned(),
                attempts: *attempts,
                reason: reason.clone(),
                row_json: row,
                event: (event.kind.code(), event.topic.clone(), event.encode_body()),
            })
        };
        self.window(window).filter_map(letter).collect()
    }

    /// The dead letters of `window` are in the store.
    pub(crate) fn letters_written(&mut self, window: &Range<usize>) {
        for item in self.window_mut(window) {
            if let State::Dead { written, .. } = &mut item.state {
                *written = true;
            }
        }
    }

    fn event<'a>(&'a self, item: &'a Item) -> &'a Event {
        match &item.content {
            Content::Failed(event) => event,
            // A row's place is given out together with the row.
            Content::Row(at) => &self.rows[*at as usize].event,
        }
    }

    fn window(&self, window: &Range<usize>) -> impl Iterator<Item = &Item> {
        self.items.get(window.clone()).unwrap_or_default().iter()
    }

    fn window_mut(&mut self, window: &Range<usize>) -> impl Iterator<Item = &mut Item> {
        self.items.get_mut(window.clone()).unwrap_or_default().iter_mut()
    }
}

impl Item {
    fn pending_row(&self) -> Option<u32> {
        match (&self.state, &self.content) {
            (State::Pending, Content::Row(at)) => Some(*at),
            _ => None,
        }
    }
}
