//! Replays: recorded events go through a rule once more, into its own sinks or another one, beside what runs. Each is a
//! bounded pipeline of its own, which is written down before it starts and goes on after a restart. It must never know
//! who asks.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_sinks::delivery::{
    EndedReplay, Ending, LetterReplay, NewReplay, Pipeline, PipelineConfig, PipelineHandle, PipelineStatus,
    Scope, Start, StoreError, StoredReplay,
};
use muster_sinks::{Checkpoint, Part, PipelineId};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::recipes::{Recipe, RecipeIdentity};
use super::transform::RuleTransform;
use super::{Parts, Pipelines, STOP_WAIT, lock};
use crate::error::{Error, ErrorKind, chain};

/// Replays that may be under way at a time.
pub const REPLAYS_MAX: usize = 16;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct ReplayRequest {
    /// The rule.
    pub rule: String,
    /// A sink and a table, topic or collection of it, instead of the rule's own targets.
    pub into: Option<(String, Option<String>)>,
    /// The first event: an offset, a time, `earliest`.
    pub from: String,
    /// The first event that is not meant: an offset, a time, `latest`.
    pub to: String,
    /// At most so many rows a second, for each target.
    pub rows_per_second: Option<u32>,
}

/// A replay at one moment.
#[derive(Debug, Clone)]
pub struct ReplayStatus {
    /// What was asked for, and how it ended.
    pub stored: StoredReplay,
    /// How it is doing, if it is under way.
    pub status: Option<PipelineStatus>,
    /// Why it is not, although it has not ended.
    pub waits_for: Option<String>,
}

/// Those that have not ended, by number.
pub(super) type UnderWay = Arc<Mutex<BTreeMap<i64, Replay>>>;

/// A replay that has not ended.
pub(super) enum Replay {
    Runs {
        handle: Box<PipelineHandle>,
        identity: Box<RecipeIdentity>,
    },
    /// What it needs is not there, in words.
    Waits(String),
}

impl Pipelines {
    /// Replays what `request` means; what was begun.
    ///
    /// # Errors
    /// It cannot be what is asked for, or cannot be written down.
    pub async fn replay(&self, request: &ReplayRequest) -> Result<Vec<ReplayStatus>, Error> {
        let gate = self.gate.lock().await;
        gate.check().map_err(|_| Error::new(ErrorKind::Start, "the platform stops"))?;
        let (from, to, recipes) = self.understood(request)?;
        if lock(&self.replays).len() + recipes.len() > REPLAYS_MAX {
            let message = format!("there would be more than {REPLAYS_MAX} replays at a time");
            return Err(Error::new(ErrorKind::Config, message));
        }
        let journal = &self.parts.journal;
        // In place before anything is written down, so that retention takes nothing of it.
        let hold = journal.log().hold(format!("replay of {}", request.rule), from);
        let asked = recipes.iter().map(|recipe| NewReplay {
            pipeline: recipe.id.clone(),
            log_id: journal.log_id(),
            from,
            to,
            rows_per_second: request.rows_per_second,
        });
        let created = self.parts.store.create_replays(asked.collect(), self.parts.clock.wall_ms()).await;
        let created = created.map_err(cannot_write)?;
        for (stored, recipe) in created.iter().zip(recipes) {
            let pipeline = &stored.asked.pipeline;
            info!(%pipeline, from, to, "a replay begins");
            self.start_replay(stored, recipe);
        }
        drop(hold);
        Ok(created.into_iter().map(|stored| self.shown(stored)).collect())
    }

    /// The events that are meant, and what is to be done with them.
    pub(super) fn understood(&self, request: &ReplayRequest) -> Result<(u64, u64, Vec<Recipe>), Error> {
        let wrong = |message: String| Error::new(ErrorKind::Config, message);
        let (from, to) = (self.place("from", &request.from)?, self.place("to", &request.to)?);
        if from >= to {
            return Err(wrong(format!("there is no event from offset {from} to before {to}")));
        }
        let recipes = lock(&self.recipes);
        let rule = &request.rule;
        let targets = match &request.into {
            Some((sink, target)) => vec![(sink.clone(), target.clone().unwrap_or_default())],
            None => {
                let of_rule = recipes.rules.get(rule).map(|it| it.targets.as_slice()).unwrap_or_default();
                of_rule.iter().map(|id| (id.sink.clone(), id.target.clone())).collect()
            }
        };
        if targets.is_empty() {
            let why = match recipes.rules.contains_key(rule) {
                true => format!("the rule `{rule}` has no sink; say with `into` where its rows are to go"),
                false => format!("no rule `{rule}` runs"),
            };
            return Err(wrong(why));
        }
        let env = &self.parts.env;
        let made = targets.iter().map(|(sink, target)| recipes.recipe(rule, sink, Some(target), env));
        Ok((from, to, made.collect::<Result<_, _>>().map_err(wrong)?))
    }

    /// All replays, newest first.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn replays(&self) -> Result<Vec<ReplayStatus>, Error> {
        let stored = self.parts.store.replays().await.map_err(cannot_read)?;
        Ok(stored.into_iter().map(|stored| self.shown(stored)).collect())
    }

    /// Ends a replay that is under way, or forgets one that has ended; false where there is none of this number.
    ///
    /// # Errors
    /// It cannot be written down.
    pub async fn end_replay(&self, id: i64) -> Result<bool, Error> {
        let _gate = self.gate.lock().await;
        let stored = self.parts.store.replays().await.map_err(cannot_read)?;
        let Some(stored) = stored.into_iter().find(|stored| stored.id == id) else { return Ok(false) };
        if stored.ended.is_some() {
            return self.parts.store.forget_replay(id).await.map_err(cannot_write);
        }
        let pipeline = stored.asked.pipeline.clone();
        let removed = lock(&self.replays).remove(&id);
        let known = match removed {
            Some(Replay::Runs { handle, .. }) => {
                let status = handle.status();
                handle.stop(STOP_WAIT).await;
                Some(status)
            }
            _ => None,
        };
        let (store, at_ms) = (&self.parts.store, self.parts.clock.wall_ms());
        let ended = known.map_or_else(
            || EndedReplay { cancelled: true, at_ms, cursor: 0, totals: Default::default() },
            |it| EndedReplay { cancelled: true, at_ms, cursor: it.cursor, totals: it.totals() },
        );
        store.end_replay(&pipeline, ended).await.map_err(cannot_write)?;
        lock(&self.holds).forget(std::slice::from_ref(&pipeline));
        info!(%pipeline, "a replay was cancelled");
        Ok(true)
    }

    /// Brings replays in line with the rules and sinks that there are now: who has what it needs runs, with the rule as
    /// it is.
    pub(super) async fn follow_replays(&self) {
        let stored = match self.parts.store.replays().await {
            Ok(stored) => stored,
            Err(error) => {
                warn!(error = %chain(&error), "replays cannot be read; they go on after a restart");
                return;
            }
        };
        for stored in stored.into_iter().filter(|it| it.ended.is_none()) {
            let PipelineId { rule, sink, target, .. } = &stored.asked.pipeline;
            let recipe = match stored.asked.log_id == self.parts.journal.log_id() {
                true => lock(&self.recipes).recipe(rule, sink, Some(target), &self.parts.env),
                false => Err("it is of another event log".to_owned()),
            };
            let same = match (lock(&self.replays).get(&stored.id), &recipe) {
                (Some(Replay::Runs { identity, .. }), Ok(recipe)) => **identity == recipe.identity,
                _ => false,
            };
            if same {
                continue;
            }
            let before = lock(&self.replays).remove(&stored.id);
            if let Some(Replay::Runs { handle, .. }) = before {
                handle.stop(STOP_WAIT).await;
            }
            match recipe {
                Ok(recipe) => self.start_replay(&stored, recipe),
                Err(why) => {
                    self.hold_for(&stored);
                    warn!(pipeline = %stored.asked.pipeline, "the replay waits: {why}");
                    lock(&self.replays).insert(stored.id, Replay::Waits(why));
                }
            }
        }
    }

    fn hold_for(&self, stored: &StoredReplay) {
        let NewReplay { pipeline, from, .. } = &stored.asked;
        // From its first event on: where it stands is known once its target is open.
        let hold = self.parts.journal.log().hold(pipeline.to_string(), *from);
        lock(&self.holds).put(pipeline, hold);
    }

    fn start_replay(&self, stored: &StoredReplay, recipe: Recipe) {
        self.hold_for(stored);
        let Parts { journal, store, clock, retry_wait_max, .. } = &self.parts;
        let StoredReplay { id, asked, .. } = stored;
        let Recipe { rule, maker, mut limits, identity, .. } = recipe;
        if let Some(rate) = asked.rows_per_second {
            // No batch holds more than the rows of a second.
            let rate = usize::try_from(rate).unwrap_or(usize::MAX).max(1);
            limits.batch_rows_max = limits.batch_rows_max.min(rate);
        }
        let sink = match maker.make() {
            Ok(built) => built.sink,
            Err(error) => {
                lock(&self.replays).insert(*id, Replay::Waits(error.in_words()));
                return;
            }
        };
        let config = PipelineConfig {
            id: asked.pipeline.clone(),
            rule_version: rule.version,
            start: Start::Offset(asked.from),
            paused: false,
            limits,
            retry_wait_max: *retry_wait_max,
        };
        let ending = Ending::At(asked.to);
        let scope = Scope { ending, rows_per_second: asked.rows_per_second, ..Scope::default() };
        let seed = self.seed(&asked.pipeline);
        // On its own: it is far from the rule's other pipelines, and its events were counted long ago.
        let transform = Box::new(RuleTransform::alone(rule.program, clock.clone(), seed));
        let handle = Box::new(Pipeline::spawn_within(
            (config, scope),
            Arc::new(journal.clone()),
            transform,
            sink,
            store.clone(),
            clock.clone(),
            SmallRng::seed_from_u64(seed),
        ));
        let done = handle.done();
        lock(&self.replays).insert(*id, Replay::Runs { handle, identity: Box::new(identity) });
        self.end_when_done(*id, asked.pipeline.clone(), done);
    }

    /// Where replays stand.
    pub(super) fn replay_cursors(&self) -> Vec<(PipelineId, u64)> {
        let cursor = |it: &Replay| match it {
            Replay::Runs { handle, .. } => Some((handle.id().clone(), handle.status().cursor)),
            Replay::Waits(_) => None,
        };
        lock(&self.replays).values().filter_map(cursor).collect()
    }

    /// What replays the dead letters of a replay that is under way.
    pub(super) fn letter_replay_of(&self, id: &PipelineId) -> Option<LetterReplay> {
        let Part::Replay(number) = id.part else { return None };
        match lock(&self.replays).get(&number) {
            Some(Replay::Runs { handle, .. }) => Some(handle.letter_replay()),
            _ => None,
        }
    }

    /// Stops all; they go on after the next start.
    pub(super) async fn stop_replays(&self, limit: Duration) {
        let mut stops = JoinSet::new();
        for replay in std::mem::take(&mut *lock(&self.replays)).into_values() {
            if let Replay::Runs { handle, .. } = replay {
                stops.spawn(handle.stop(limit));
            }
        }
        while stops.join_next().await.is_some() {}
    }

    /// Writes down the end of a replay that comes to it by itself.
    fn end_when_done(
        &self,
        id: i64,
        pipeline: PipelineId,
        done: impl Future<Output = Option<Checkpoint>> + Send + 'static,
    ) {
        let (store, clock) = (self.parts.store.clone(), self.parts.clock.clone());
        let (replays, holds) = (self.replays.clone(), self.holds.clone());
        tokio::spawn(async move {
            let Some(checkpoint) = done.await else { return };
            let cursor = checkpoint.cursor.offset;
            let at_ms = clock.wall_ms();
            let ended = EndedReplay { cancelled: false, at_ms, cursor, totals: checkpoint.totals };
            if let Err(error) = store.end_replay(&pipeline, ended).await {
                // After a restart it is at its end at once.
                warn!(%pipeline, error = %chain(&error), "the end of a replay could not be written down");
                return;
            }
            info!(%pipeline, delivered = ended.totals.delivered, dead = ended.totals.dead, "a replay is done");
            lock(&replays).remove(&id);
            lock(&holds).forget(std::slice::from_ref(&pipeline));
        });
    }

    fn shown(&self, stored: StoredReplay) -> ReplayStatus {
        let (status, waits_for) = match lock(&self.replays).get(&stored.id) {
            Some(Replay::Runs { handle, .. }) => (Some(handle.status()), None),
            Some(Replay::Waits(why)) => (None, Some(why.clone())),
            None => (None, None),
        };
        ReplayStatus { stored, status, waits_for }
    }
}

fn cannot_write(error: StoreError) -> Error {
    Error::because(ErrorKind::Fatal, "the replay cannot be written down", error)
}

fn cannot_read(error: StoreError) -> Error {
    Error::because(ErrorKind::Fatal, "the replays cannot be read", error)
}
