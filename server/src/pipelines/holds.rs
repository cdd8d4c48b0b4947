//! What pipelines still need of the log: one hold each, which follows the committed cursor whether the pipeline runs,
//! retries, is paused or stands still. A rule that was removed holds nothing: its cursor is kept, and if it comes back
//! after retention has passed that cursor, its pipeline says what it missed.

use std::collections::{BTreeMap, BTreeSet};

use muster_core::journal::Journal;
use muster_core::log::Hold;
use muster_sinks::delivery::KnownPipeline;
use muster_sinks::{Part, PipelineId};

/// The holds of all pipelines.
#[derive(Debug, Default)]
pub(super) struct Holds(BTreeMap<PipelineId, Hold>);

/// Committed cursors of running pipelines at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursors(Vec<(PipelineId, u64)>);

impl Cursors {
    /// Without those of pipelines that have not found theirs yet, which show 0.
    pub(super) fn of(all: impl Iterator<Item = (PipelineId, u64)>) -> Self {
        Self(all.filter(|(_, cursor)| *cursor > 0).collect())
    }
}

impl Holds {
    /// Holds for `id`; an earlier hold of the same pipeline goes only now, when the new one is in place.
    pub(super) fn put(&mut self, id: &PipelineId, hold: Hold) {
        self.0.insert(id.clone(), hold);
    }

    /// Holds for pipelines that ran some time, from their last cursor in this log on.
    pub(super) fn keep_known(&mut self, journal: &Journal, known: Vec<KnownPipeline>) {
        let mut places = BTreeMap::new();
        for KnownPipeline { id, checkpoint, .. } in known {
            if checkpoint.log_id == journal.log_id() {
                // Of lanes the last.
                let place = places.entry(id.owner()).or_insert(u64::MAX);
                *place = checkpoint.cursor.offset.min(*place);
            }
        }
        for (id, place) in places {
            let hold = journal.log().hold(id.to_string(), place);
            self.0.entry(id).or_insert(hold);
        }
    }

    pub(super) fn advance(&mut self, cursors: &Cursors) {
        for (id, cursor) in &cursors.0 {
            if let Some(hold) = self.0.get(id) {
                hold.advance(*cursor);
            }
        }
    }

    /// Lets go of all that is not `wanted` and not of one of these rules. Replays are ended by themselves.
    pub(super) fn retain(&mut self, wanted: &BTreeSet<PipelineId>, rules: &BTreeSet<String>) {
        let replay = |id: &PipelineId| matches!(id.part, Part::Replay(_));
        self.0.retain(|id, _| wanted.contains(id) || rules.contains(&id.rule) || replay(id));
    }

    /// Lets go of these.
    pub(super) fn forget(&mut self, gone: &[PipelineId]) {
        for id in gone {
            self.0.remove(id);
        }
    }
}
