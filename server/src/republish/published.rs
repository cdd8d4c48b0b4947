//! Which rows of a pipeline are in the log already, as messages. It must never know what is in them.

use std::collections::{BTreeMap, BTreeSet};

use muster_core::event::{Event, EventKind, EventKinds};
use muster_core::journal::Journal;
use muster_core::log::LogError;
use muster_sinks::Cursor;

/// Rows that are remembered at a time; what lies beyond is read from the log again when its turn comes. A pipeline that
/// ends at any moment leaves one batch behind at most, so that this happens only with dead letters that are replayed
/// and where a cursor was lost.
const PUBLISHED_ROWS_MAX: usize = 20_000;

/// Whose messages are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    /// The rule.
    pub(super) rule: String,
    /// Which of its REPUBLISHes.
    pub(super) target: u32,
}

/// Rows and the offsets of their messages.
pub(super) type Found = BTreeMap<Cursor, u64>;

/// What the log says of the rows in a range.
#[derive(Debug)]
pub(super) struct Published {
    from: Cursor,
    /// Nothing is known from here on; none where all is known.
    until: Option<Cursor>,
    rows: Found,
}

impl Owner {
    /// The row that the event is the message of, if it is one of this owner.
    fn row(&self, event: &Event) -> Option<Cursor> {
        let message = event.body.message.as_ref()?;
        let made_of = message.republication.as_ref()?;
        let is_ours = message.republished_by == self.rule && made_of.target == self.target;
        is_ours.then_some(Cursor { offset: made_of.offset, row: made_of.row })
    }
}

impl Published {
    /// Reads the log from the first of the rows `wanted` to its end, which it waits for to be durable: what is
    /// known from then on, and what became of `wanted`.
    pub(super) async fn learn(
        journal: &Journal,
        owner: &Owner,
        wanted: &BTreeSet<Cursor>,
    ) -> Result<(Self, Found), LogError> {
        Self::learn_bounded(journal, owner, wanted, PUBLISHED_ROWS_MAX).await
    }

    async fn learn_bounded(
        journal: &Journal,
        owner: &Owner,
        wanted: &BTreeSet<Cursor>,
        rows_max: usize,
    ) -> Result<(Self, Found), LogError> {
        let from = wanted.first().copied().unwrap_or_default();
        let mut known = Self { from, until: None, rows: Found::new() };
        let mut found = Found::new();
        let end = journal.next_offset();
        if let Some(last) = end.checked_sub(1) {
            journal.durable(last).await?;
        }
        // A message stands behind what it was made of.
        let mut reader = journal.reader(from.offset.max(journal.first_offset()));
        reader.set_kinds(EventKinds::NONE.with(EventKind::MessagePublish));
        while reader.position() < end {
            for event in reader.next_batch().await?.events() {
                let Some(row) = owner.row(event) else { continue };
                known.add(row, event.offset, rows_max);
                if wanted.contains(&row) {
                    found.entry(row).or_insert(event.offset);
                }
            }
        }
        Ok((known, found))
    }

    fn add(&mut self, row: Cursor, offset: u64, rows_max: usize) {
        if row < self.from || self.until.is_some_and(|until| row >= until) {
            return;
        }
        self.rows.entry(row).or_insert(offset);
        if self.rows.len() > rows_max {
            self.until = self.rows.pop_last().map(|(row, _)| row);
        }
    }

    /// What became of `wanted`; none where that is not known.
    pub(super) fn look_up(&self, wanted: &BTreeSet<Cursor>) -> Option<Found> {
        let (first, last) = (wanted.first()?, wanted.last()?);
        let covers = *first >= self.from && self.until.is_none_or(|until| *last < until);
        let of = |row: &Cursor| Some((*row, *self.rows.get(row)?));
        covers.then(|| wanted.iter().filter_map(of).collect())
    }

    /// Notes messages that are in the log, durable or not. The lowest rows make room for them.
    pub(super) fn note(&mut self, found: &Found) {
        self.note_bounded(found, PUBLISHED_ROWS_MAX);
    }

    fn note_bounded(&mut self, found: &Found, rows_max: usize) {
        self.rows.extend(found);
        while self.rows.len() > rows_max
            && let Some((Cursor { offset, row }, _)) = self.rows.pop_first()
        {
            self.from = self.from.max(Cursor { offset, row: row.saturating_add(1) });
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_core::clock::SystemClock;
    use muster_core::event::{NewEvent, proto};
    use muster_core::log::{LogConfig, RealDisk};

    use super::*;

    const fn at(offset: u64, row: u32) -> Cursor {
        Cursor { offset, row }
    }

    async fn republished(journal: &Journal, rule: &str, target: u32, row: Cursor) -> u64 {
        let republication =
            proto::Republication { offset: row.offset, row: row.row, target, ..Default::default() };
        let message = proto::Message {
            republished_by: rule.to_owned(),
            republication: Some(republication),
            ..Default::default()
        };
        let body = proto::Event { message: Some(message), ..Default::default() };
        let event =
            NewEvent { timestamp_ms: 0, kind: EventKind::MessagePublish, topic: "t".to_owned(), body };
        journal.append(event).await.expect("append").offset
    }

    #[tokio::test]
    async fn only_the_rows_of_the_owner_in_the_range_are_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let config = LogConfig::new(dir.path());
        let (journal, _) =
            Journal::open(config, RealDisk::shared(), SystemClock::shared()).expect("a journal");
        let owner = Owner { rule: "r".to_owned(), target: 0 };
        for (rule, target, row) in [
            ("r", 0, at(0, 0)),
            ("r", 0, at(0, 1)),
            ("other", 0, at(0, 2)),
            ("r", 1, at(0, 3)),
            ("r", 0, at(2, 0)),
            ("r", 0, at(3, 0)),
            ("r", 0, at(4, 0)),
        ] {
            republished(&journal, rule, target, row).await;
        }

        let wanted: BTreeSet<_> = [at(0, 1), at(0, 2), at(0, 3), at(1, 0), at(4, 0)].into();
        let (known, found) = Published::learn(&journal, &owner, &wanted).await.expect("a log");
        assert_eq!(found, Found::from([(at(0, 1), 1), (at(4, 0), 6)]));
        assert_eq!(known.look_up(&[at(2, 0), at(9, 0)].into()), Some(Found::from([(at(2, 0), 4)])));
        assert_eq!(known.look_up(&[at(0, 0)].into()), None, "it began later");

        // With less room the nearest are known, and what is asked for all the same.
        let (mut known, found) = Published::learn_bounded(&journal, &owner, &wanted, 2).await.expect("a log");
        assert_eq!(found, Found::from([(at(0, 1), 1), (at(4, 0), 6)]));
        assert_eq!(known.look_up(&[at(1, 0), at(2, 0)].into()), Some(Found::from([(at(2, 0), 4)])));
        assert_eq!(known.look_up(&[at(2, 0), at(3, 0)].into()), None, "beyond what it has room for");
        known.until = None;
        known.note_bounded(&Found::from([(at(7, 0), 9)]), 2);
        assert_eq!(known.look_up(&[at(0, 1)].into()), None, "it made room");
        assert_eq!(known.look_up(&[at(0, 2), at(7, 0)].into()), Some(Found::from([(at(7, 0), 9)])));
    }
}
