//! A pipeline in lanes: several batches on their way at a time, rows of one client always in the same lane. Each lane
//! is a pipeline of its own, with its reader, cursor, books and connection. To change their number, the lanes there
//! are come to one place; the step to the others is one transaction of the store, and nobody delivers meanwhile. It
//! must never know a rule or a particular target.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_core::clock::SharedClock;
use rand::rngs::SmallRng;
use rand::{RngCore as _, SeedableRng as _};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::handle::{LetterReplay, Pipeline, PipelineHandle, Stopped};
use super::source::LogSource;
use super::status::{PipelineStatus, blank, sum};
use super::{
    DeliveryStore, Ending, LanePlan, LetterFilter, PipelineConfig, Replayed, Scope, Transform, meeting,
};
use crate::error::SinkError;
use crate::part::LANES_MAX;
use crate::sink::{Checkpoint, PipelineId, Sink, Totals};

/// What makes the rule and the sink of a lane.
pub type Supply = Box<dyn FnMut() -> Result<(Box<dyn Transform>, Box<dyn Sink>), SinkError> + Send>;

/// A running pipeline in one or several lanes. Dropping it stops them without waiting.
#[derive(Debug)]
pub struct Lanes {
    shared: Arc<Shared>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    id: PipelineId,
    running: Mutex<Running>,
    /// Told when an operator says "go on".
    resumed: Notify,
}

#[derive(Debug, Default)]
struct Running {
    paused: bool,
    lanes: Vec<PipelineHandle>,
    /// What the books of lanes that are no more showed when they were opened in this run.
    opened: Option<Totals>,
    /// Why no lane can be started.
    trouble: Option<(String, String)>,
}

/// Starts lanes, and changes their number.
struct Keeper {
    config: PipelineConfig,
    wanted: u32,
    source: Arc<dyn LogSource>,
    supply: Supply,
    store: DeliveryStore,
    clock: SharedClock,
    rng: SmallRng,
    shared: Arc<Shared>,
    stop: CancellationToken,
    /// What the lanes begin with, where they have just been changed.
    known: Option<Checkpoint>,
}

impl Lanes {
    /// Starts a pipeline in `lanes` lanes on the current tokio runtime. Where it was delivered in another number of
    /// them, those come to one place first.
    pub fn spawn(
        (config, lanes): (PipelineConfig, u32),
        source: Arc<dyn LogSource>,
        supply: Supply,
        store: DeliveryStore,
        clock: SharedClock,
        rng: SmallRng,
    ) -> Self {
        let running = Mutex::new(Running { paused: config.paused, ..Running::default() });
        let shared = Arc::new(Shared { id: config.id.clone(), running, resumed: Notify::new() });
        let stop = CancellationToken::new();
        let wanted = lanes.clamp(1, LANES_MAX);
        let keeper = Keeper {
            config,
            wanted,
            source,
            supply,
            store,
            clock,
            rng,
            shared: shared.clone(),
            stop: stop.clone(),
            known: None,
        };
        Self { shared, stop, task: tokio::spawn(keeper.run()) }
    }

    /// Which pipeline it is, as a whole.
    pub fn id(&self) -> &PipelineId {
        &self.shared.id
    }

    /// All lanes together at this moment.
    pub fn status(&self) -> PipelineStatus {
        let running = self.shared.lock();
        let lanes: Vec<_> = running.lanes.iter().map(PipelineHandle::status).collect();
        let mut status = sum(&lanes).unwrap_or_else(|| blank(&self.shared.id, running.paused));
        status.opened = running.opened.unwrap_or(status.opened);
        if let Some((error, hint)) = &running.trouble {
            (status.last_error, status.hint) = (Some(error.clone()), Some(hint.clone()));
        }
        status
    }

    /// Each lane at this moment; one where the pipeline has no others.
    pub fn lanes(&self) -> Vec<PipelineStatus> {
        self.shared.lock().lanes.iter().map(PipelineHandle::status).collect()
    }

    /// As [`PipelineHandle::pause`].
    pub fn pause(&self) {
        let mut running = self.shared.lock();
        running.paused = true;
        running.lanes.iter().for_each(PipelineHandle::pause);
    }

    /// As [`PipelineHandle::resume`].
    pub fn resume(&self) {
        let mut running = self.shared.lock();
        running.paused = false;
        running.lanes.iter().for_each(PipelineHandle::resume);
        self.shared.resumed.notify_one();
    }

    /// As [`PipelineHandle::reset`].
    pub fn reset(&self, offset: u64) {
        self.shared.lock().lanes.iter().for_each(|lane| lane.reset(offset));
    }

    /// As [`PipelineHandle::replay_letters`].
    ///
    /// # Errors
    /// As there.
    pub async fn replay_letters(&self, filter: LetterFilter) -> Result<Replayed, SinkError> {
        let replay = self.letter_replay();
        replay.run(filter).await
    }

    /// What replays dead letters without keeping hold of the pipeline.
    pub fn letter_replay(&self) -> LetterReplay {
        LetterReplay::all(self.shared.lock().lanes.iter().map(PipelineHandle::letter_replay))
    }

    /// As [`PipelineHandle::kill`], for all lanes and whatever was changing their number.
    pub async fn kill(mut self) {
        self.task.abort();
        drop((&mut self.task).await);
        for lane in self.take() {
            lane.kill().await;
        }
    }

    /// As [`PipelineHandle::stop`], for all lanes at once.
    pub async fn stop(mut self, limit: Duration) -> Stopped {
        self.stop.cancel();
        let deadline = tokio::time::Instant::now() + limit;
        let mut stopped = Stopped::InTime;
        if tokio::time::timeout_at(deadline, &mut self.task).await.is_err() {
            // It was in the middle of a step of the store, which is done or not.
            self.task.abort();
            drop((&mut self.task).await);
            stopped = Stopped::Late;
        }
        let mut stops = JoinSet::new();
        for lane in self.take() {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            stops.spawn(lane.stop(left));
        }
        while let Some(lane) = stops.join_next().await {
            stopped = match (stopped, lane.unwrap_or(Stopped::Crashed)) {
                (Stopped::Crashed, _) | (_, Stopped::Crashed) => Stopped::Crashed,
                (Stopped::Late, _) | (_, Stopped::Late) => Stopped::Late,
                (Stopped::InTime, Stopped::InTime) => Stopped::InTime,
            };
        }
        stopped
    }

    fn take(&self) -> Vec<PipelineHandle> {
        std::mem::take(&mut self.shared.lock().lanes)
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper {
    async fn run(mut self) {
        let rng = SmallRng::seed_from_u64(self.rng.next_u64());
        let mut backoff = Backoff::new(self.config.retry_wait_max, rng);
        loop {
            let wait = match self.round().await {
                Ok(true) => {
                    backoff.reset();
                    continue;
                }
                Ok(false) => return,
                Err(error) => self.trouble(&error, backoff.next(None)),
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = self.shared.resumed.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Runs the lanes that are wanted until the stop, or comes a step nearer to them; false after the stop.
    async fn round(&mut self) -> Result<bool, SinkError> {
        let plan = self.store.lane_plan(&self.config.id).await?;
        let ids: Vec<_> = plan.ids(&self.config.id).into_iter().enumerate().collect();
        if plan.lanes == self.wanted {
            let _ends = self.start(&ids, Ending::Never)?;
            self.stop.cancelled().await;
            return Ok(false);
        }
        // What is half done must be finished as it was begun; then all go to where the foremost is.
        let Some(mut places) = self.bring(&ids, Ending::UnderWay).await? else { return Ok(false) };
        let foremost = places.iter().map(|it| it.cursor.offset).max().unwrap_or_default();
        let lanes = ids.into_iter().zip(&mut places);
        let (behind, late): (Vec<_>, Vec<_>) =
            lanes.filter(|(_, place)| place.cursor.offset < foremost).unzip();
        if !behind.is_empty() {
            let Some(caught_up) = self.bring(&behind, Ending::At(foremost)).await? else { return Ok(false) };
            late.into_iter().zip(caught_up).for_each(|(place, now)| *place = now);
        }
        self.change(plan, &places).await?;
        Ok(true)
    }

    async fn change(&mut self, plan: LanePlan, places: &[Checkpoint]) -> Result<(), SinkError> {
        let apart = || SinkError::unavailable("the lanes do not stand at one place");
        let place = meeting(places).ok_or_else(apart)?;
        let (id, now_ms) = (&self.config.id, self.clock.wall_ms());
        if self.store.change_lanes(id, (plan, self.wanted), place, now_ms).await? {
            let (before, lanes, offset) = (plan.lanes, self.wanted, place.cursor.offset);
            tracing::info!(pipeline = %id, before, lanes, offset, "delivered in another number of lanes from here on");
            self.known = Some(place);
        }
        Ok(())
    }

    /// Runs lanes to an end; none if the stop comes before.
    async fn bring(
        &mut self,
        lanes: &[(usize, PipelineId)],
        ending: Ending,
    ) -> Result<Option<Vec<Checkpoint>>, SinkError> {
        let ends = self.start(lanes, ending)?;
        let all = async {
            let mut places = Vec::with_capacity(ends.len());
            for end in ends {
                let fault = || SinkError::unavailable("a lane ended by a fault of its own");
                places.push(end.await.ok_or_else(fault)?);
            }
            Ok(places)
        };
        self.stop.clone().run_until_cancelled(all).await.transpose()
    }

    /// Starts lanes, each in place of the one that was there before; answers with their ends.
    fn start(
        &mut self,
        lanes: &[(usize, PipelineId)],
        ending: Ending,
    ) -> Result<Vec<impl Future<Output = Option<Checkpoint>> + Send + use<>>, SinkError> {
        let mut made = Vec::with_capacity(lanes.len());
        for (at, id) in lanes {
            made.push((*at, id.clone(), (self.supply)()?, SmallRng::seed_from_u64(self.rng.next_u64())));
        }
        let mut known = self.known.take();
        let mut running = self.shared.lock();
        running.trouble = None;
        // Those that are behind come in the places of some; all others in the places of all.
        if !matches!(ending, Ending::At(_)) {
            let before: Vec<_> = running.lanes.drain(..).map(|lane| lane.status()).collect();
            running.opened = running.opened.or(sum(&before).map(|all| all.opened));
        }
        let mut ends = Vec::with_capacity(made.len());
        for (at, id, (transform, sink), rng) in made {
            let config = PipelineConfig { id, paused: running.paused, ..self.config.clone() };
            let scope = Scope { ending, known, ..Scope::default() };
            // The first lane has the books of all.
            known = known.map(Checkpoint::without_books);
            let (source, store, clock) = (self.source.clone(), self.store.clone(), self.clock.clone());
            let lane = Pipeline::spawn_within((config, scope), source, transform, sink, store, clock, rng);
            ends.push(lane.done());
            match running.lanes.get_mut(at) {
                Some(before) => *before = lane,
                None => running.lanes.push(lane),
            }
        }
        Ok(ends)
    }

    fn trouble(&self, error: &SinkError, wait: Duration) -> Duration {
        let (pipeline, wait_ms) = (&self.config.id, wait.as_millis());
        tracing::warn!(%pipeline, error = error.in_words(), hint = error.hint(), wait_ms, "lanes cannot be started");
        self.shared.lock().trouble = Some((error.in_words(), error.hint().to_owned()));
        wait
    }
}
