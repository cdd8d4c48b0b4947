//! What an operator does with running pipelines: halt them, let them go on, send them to another place in the log, and
//! give dead letters another chance. Every order is written down before it is carried out, so that a restart does not
//! forget it. It must never know who asks.

use std::collections::BTreeSet;

use muster_core::log::LogErrorKind;
use muster_sinks::delivery::{
    DeadLetter, DeliveryStore, LetterFilter, LetterReplay, PipelineStatus, Replayed,
};
use muster_sinks::{PipelineId, SinkError};

use super::{Pipelines, Running, lock, start};
use crate::error::{Error, ErrorKind};

/// Which pipelines are meant: all of a rule, or some of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Which {
    /// Of this rule.
    pub rule: String,
    /// Into this sink.
    pub sink: Option<String>,
    /// Into this table, topic or collection of it.
    pub target: Option<String>,
}

impl Which {
    fn means(&self, id: &PipelineId) -> bool {
        let is = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
        self.rule == id.rule && is(&self.sink, &id.sink) && is(&self.target, &id.target)
    }
}

/// What became of some dead letters that were to be replayed.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct LettersReplayed {
    /// What became of those whose pipelines run.
    #[serde(flatten)]
    pub replayed: Replayed,
    /// Those whose pipeline does not run, because its rule is gone or is switched off.
    pub not_running: u64,
    /// The last letter that was looked at; none when there are no more.
    pub last_id: Option<i64>,
}

impl Pipelines {
    /// Halts pipelines until they are resumed, also over a restart. A batch that is under way is finished. How each is
    /// doing then; empty where none is meant.
    ///
    /// # Errors
    /// The order cannot be written down.
    pub async fn pause(&self, which: &Which) -> Result<Vec<PipelineStatus>, Error> {
        for id in self.meant(which) {
            self.parts.store.order_pause(&id, true).await.map_err(cannot_order)?;
            self.with(&id, |running| running.handle.pause());
        }
        Ok(self.status_of(which))
    }

    /// Lets pipelines go on that are paused, or that were halted by an error that waits for an operator; whoever waits
    /// for the next attempt makes it at once.
    ///
    /// # Errors
    /// The order cannot be written down.
    pub async fn resume(&self, which: &Which) -> Result<Vec<PipelineStatus>, Error> {
        for id in self.meant(which) {
            self.parts.store.order_pause(&id, false).await.map_err(cannot_order)?;
            self.with(&id, |running| running.handle.resume());
        }
        Ok(self.status_of(which))
    }

    /// Lets pipelines go on from `to`: `earliest`, `latest`, an offset or a time. Each does as soon as its target can
    /// be opened, also after a restart.
    ///
    /// # Errors
    /// The place cannot be read or is not in the log, or the order cannot be written down.
    pub async fn reset(&self, which: &Which, to: &str) -> Result<Vec<PipelineStatus>, Error> {
        let offset = self.place("to", to)?;
        for id in self.meant(which) {
            let journal = &self.parts.journal;
            // In place before the order can be carried out, so that retention takes nothing of it.
            let hold = journal.log().hold(id.to_string(), offset);
            self.parts.store.order_reset(&id, offset).await.map_err(cannot_order)?;
            self.with(&id, |running| running.handle.reset(offset));
            lock(&self.holds).put(&id, hold);
        }
        Ok(self.status_of(which))
    }

    /// The offset that `to`, the value of `name`, means in the log.
    pub(super) fn place(&self, name: &str, to: &str) -> Result<u64, Error> {
        let journal = &self.parts.journal;
        let wrong = |message: String| Error::new(ErrorKind::Config, message);
        let (first, end) = (journal.first_offset(), journal.durable_offset());
        match start::parse(to).map_err(|why| wrong(format!("{name}: {why}")))? {
            start::Written::Latest => Ok(end),
            start::Written::Earliest => Ok(first),
            start::Written::Offset(offset) if (first..=end).contains(&offset) => Ok(offset),
            start::Written::Offset(offset) => {
                Err(wrong(format!("{name}: {offset} is not in the log, which goes from {first} to {end}")))
            }
            start::Written::Timestamp(ms) => match journal.offset_at_time(ms) {
                Ok(offset) => Ok(offset.clamp(first, end)),
                Err(error) if error.kind() == LogErrorKind::Trimmed => Ok(first),
                Err(error) => Err(Error::because(ErrorKind::Fatal, "the event log cannot be read", error)),
            },
        }
    }

    /// Where delivery keeps its books, with the dead letters in it.
    pub fn store(&self) -> &DeliveryStore {
        &self.parts.store
    }

    /// Gives the first `limit` of the dead letters that `filter` means another chance.
    ///
    /// # Errors
    /// A target cannot be reached, or the letters cannot be read; what was not delivered by then is still there.
    pub async fn replay_letters(
        &self,
        filter: &LetterFilter,
        limit: u32,
    ) -> Result<LettersReplayed, SinkError> {
        let letters = self.parts.store.letters(filter.clone(), limit).await?;
        let mut all = LettersReplayed { last_id: letters.last().map(|it| it.id), ..Default::default() };
        let pipelines: BTreeSet<_> = letters.iter().map(|it| it.pipeline.owner()).collect();
        for id in &pipelines {
            let Some(replay) = self.letter_replay(id) else {
                all.not_running += letters.iter().filter(|it| it.pipeline.owner() == *id).count() as u64;
                continue;
            };
            let of_it = |it: &&DeadLetter| it.pipeline.owner() == *id;
            let to_id = letters.iter().filter(of_it).map(|it| it.id).max();
            let target = Some(id.target.clone());
            let Replayed { delivered, still_dead } =
                replay.run(LetterFilter { to_id, target, ..filter.clone() }).await?;
            all.replayed.delivered += delivered;
            all.replayed.still_dead += still_dead;
        }
        Ok(all)
    }

    fn letter_replay(&self, id: &PipelineId) -> Option<LetterReplay> {
        let of_replay = || self.letter_replay_of(id);
        let running = lock(&self.running);
        running.get(id).map(|running| running.handle.letter_replay()).or_else(of_replay)
    }

    fn meant(&self, which: &Which) -> Vec<PipelineId> {
        let running = lock(&self.running);
        let all: BTreeSet<_> = running.keys().chain(lock(&self.changing).keys()).cloned().collect();
        all.into_iter().filter(|id| which.means(id)).collect()
    }

    fn with(&self, id: &PipelineId, order: impl FnOnce(&Running)) {
        // One that has ended meanwhile finds the order when it starts again.
        if let Some(running) = lock(&self.running).get(id) {
            order(running);
        }
    }

    fn status_of(&self, which: &Which) -> Vec<PipelineStatus> {
        self.status()
            .into_iter()
            .filter(|status| which.means(&PipelineId::new(&status.rule, &status.sink, &status.target)))
            .collect()
    }
}

fn cannot_order(error: muster_sinks::delivery::StoreError) -> Error {
    Error::because(ErrorKind::Fatal, "the order cannot be written down", error)
}
