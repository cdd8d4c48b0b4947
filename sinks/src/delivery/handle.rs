//! A running pipeline, seen from outside: its status, and the switches that an operator has.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use muster_core::clock::SharedClock;
use rand::rngs::SmallRng;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::engine::{Engine, Replayed};
use super::source::LogSource;
use super::status::{Board, PipelineState, PipelineStatus};
use super::{DeliveryStore, LetterFilter, PipelineConfig, Scope, Transform};
use crate::error::SinkError;
use crate::sink::{Checkpoint, PipelineId, Sink};

/// Starts pipelines.
#[derive(Debug)]
pub struct Pipeline;

/// What the handle tells the engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) paused: bool,
    /// How often an operator said "go on".
    pub(crate) resumes: u64,
    /// How often an operator wanted another place in the log.
    pub(crate) resets: u64,
}

/// What the handle asks of the engine.
#[derive(Debug)]
pub(crate) enum Request {
    Replay { filter: LetterFilter, reply: oneshot::Sender<Result<Replayed, SinkError>> },
}

/// The engine's ends of what connects it with its handle.
pub(crate) struct Wires {
    pub(crate) board: Arc<Board>,
    pub(crate) control: watch::Receiver<Control>,
    /// To halt what an operator halted before this run.
    pub(crate) halt: watch::Sender<Control>,
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) stop: CancellationToken,
}

/// Requests that may wait for the engine.
const REQUESTS_MAX: usize = 4;

/// How a pipeline ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// What was under way is committed, or was left for the next start.
    InTime,
    /// The target did not answer in time; what was under way will be tried again at the next start.
    Late,
    /// The pipeline had ended before, by a fault of ours.
    Crashed,
}

/// A running pipeline. Dropping it stops the pipeline without waiting.
#[derive(Debug)]
pub struct PipelineHandle {
    id: Arc<PipelineId>,
    board: Arc<Board>,
    control: watch::Sender<Control>,
    requests: mpsc::Sender<Request>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    done: watch::Receiver<Option<Checkpoint>>,
    source: SourceEnd,
    clock: ClockBox,
}

struct SourceEnd(Arc<dyn LogSource>);
struct ClockBox(SharedClock);

impl std::fmt::Debug for SourceEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "log ending at {}", self.0.end_offset())
    }
}

impl std::fmt::Debug for ClockBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("clock")
    }
}

impl Pipeline {
    /// Starts a pipeline on the current tokio runtime. `rng` is for jitter alone.
    pub fn spawn(
        config: PipelineConfig,
        source: Arc<dyn LogSource>,
        transform: Box<dyn Transform>,
        sink: Box<dyn Sink>,
        store: DeliveryStore,
        clock: SharedClock,
        rng: SmallRng,
    ) -> PipelineHandle {
        Self::spawn_within((config, Scope::default()), source, transform, sink, store, clock, rng)
    }

    /// As [`Pipeline::spawn`], for a pipeline that may have an end.
    pub fn spawn_within(
        (config, scope): (PipelineConfig, Scope),
        source: Arc<dyn LogSource>,
        transform: Box<dyn Transform>,
        sink: Box<dyn Sink>,
        store: DeliveryStore,
        clock: SharedClock,
        rng: SmallRng,
    ) -> PipelineHandle {
        let board = Arc::new(Board::known(scope.known));
        let (control, told) = watch::channel(Control { paused: config.paused, ..Control::default() });
        let (requests, asked) = mpsc::channel(REQUESTS_MAX);
        let stop = CancellationToken::new();
        let id = Arc::new(config.id.clone());
        let wires = Wires {
            board: board.clone(),
            control: told,
            halt: control.clone(),
            requests: asked,
            stop: stop.clone(),
        };
        let sinks = (sink, store);
        let engine =
            Engine::new((config, scope), source.clone(), transform, sinks, clock.clone(), rng, wires);
        let (end, done) = watch::channel(None);
        let task = tokio::spawn(async move {
            let checkpoint = engine.run().await;
            end.send_replace(checkpoint);
        });
        PipelineHandle {
            id,
            board,
            control,
            requests,
            stop,
            task,
            done,
            source: SourceEnd(source),
            clock: ClockBox(clock),
        }
    }
}

impl PipelineHandle {
    /// Which pipeline it is.
    pub fn id(&self) -> &PipelineId {
        &self.id
    }

    /// The pipeline at this moment.
    pub fn status(&self) -> PipelineStatus {
        let mut status = self.board.read(&self.id, self.source.0.end_offset(), self.clock.0.wall_ms());
        let ended = matches!(status.state, PipelineState::Stopped | PipelineState::Done);
        if self.task.is_finished() && !ended {
            status.state = PipelineState::Stalled;
            status.last_error = Some("the pipeline ended by a fault of its own; see the log".into());
            status.hint = Some("restart Muster and report the fault; nothing is lost".into());
        } else if self.control.borrow().paused && !ended {
            status.state = PipelineState::Paused;
        }
        status
    }

    /// Resolves once everything up to the pipeline's end is committed, with what is; none if it ends before.
    pub fn done(&self) -> impl Future<Output = Option<Checkpoint>> + Send + use<> {
        let mut done = self.done.clone();
        async move { done.wait_for(Option::is_some).await.ok().and_then(|it| *it) }
    }

    /// Halts delivery after the attempt that is under way; it stays halted until [`PipelineHandle::resume`] or a
    /// restart.
    pub fn pause(&self) {
        self.control.send_modify(|control| control.paused = true);
    }

    /// Goes on after [`PipelineHandle::pause`], and after an error that waits for an operator.
    pub fn resume(&self) {
        self.control.send_modify(|control| {
            control.paused = false;
            control.resumes += 1;
        });
    }

    /// Goes on from `offset`, which [`DeliveryStore::order_reset`] has written down, as soon as the target can be
    /// opened. Dead letters from there on are made anew.
    pub fn reset(&self, offset: u64) {
        self.board.update(|facts| facts.reset_to = Some(offset));
        self.control.send_modify(|control| control.resets += 1);
    }

    /// Gives the dead letters of this pipeline that `filter` means another chance; see [`LetterReplay::run`].
    ///
    /// # Errors
    /// As there.
    pub async fn replay_letters(&self, filter: LetterFilter) -> Result<Replayed, SinkError> {
        self.letter_replay().run(filter).await
    }

    /// What replays dead letters without keeping hold of the handle.
    pub fn letter_replay(&self) -> LetterReplay {
        LetterReplay(vec![self.requests.clone()])
    }

    /// Ends the pipeline at its next await, as a crash would; nothing more is committed after this returns, but what
    /// was asked of a store or a target before may still happen.
    pub async fn kill(mut self) {
        self.task.abort();
        drop((&mut self.task).await);
    }

    /// Ends the pipeline: what is under way is committed if the target answers within `limit`.
    pub async fn stop(mut self, limit: Duration) -> Stopped {
        self.stop.cancel();
        match tokio::time::timeout(limit, &mut self.task).await {
            Ok(Ok(())) => Stopped::InTime,
            Ok(Err(_)) => Stopped::Crashed,
            Err(_) => {
                self.task.abort();
                // Ends at its next await; until then it may still commit what the target has.
                drop((&mut self.task).await);
                Stopped::Late
            }
        }
    }
}

/// Replays dead letters of one pipeline, in all its lanes.
#[derive(Debug, Clone, Default)]
pub struct LetterReplay(Vec<mpsc::Sender<Request>>);

impl LetterReplay {
    /// Gives the dead letters that `filter` means another chance: their events go through the rule as it is now and
    /// to the target. Waits for its turn behind a batch that is under way; dropping the future gives up waiting.
    ///
    /// # Errors
    /// When the target cannot be reached; letters that were not delivered by then are still there.
    pub async fn run(&self, filter: LetterFilter) -> Result<Replayed, SinkError> {
        let ended = || SinkError::unavailable("the pipeline has ended");
        let mut all = Replayed::default();
        for lane in &self.0 {
            let (reply, answer) = oneshot::channel();
            lane.send(Request::Replay { filter: filter.clone(), reply }).await.map_err(|_| ended())?;
            let Replayed { delivered, still_dead } = answer.await.map_err(|_| ended())??;
            all.delivered += delivered;
            all.still_dead += still_dead;
        }
        Ok(all)
    }

    /// Those of `lanes` together.
    pub(super) fn all(lanes: impl Iterator<Item = Self>) -> Self {
        Self(lanes.flat_map(|it| it.0).collect())
    }
}

impl Drop for PipelineHandle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
