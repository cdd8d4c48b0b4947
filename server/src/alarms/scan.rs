//! What a new definition knows of the past: the log, folded from its beginning on a thread that may wait for the disk,
//! while the engine goes on. The engine takes it over at exactly the place that it has reached itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use muster_core::clock::SharedClock;
use muster_core::event::{Event, EventKinds};
use muster_core::journal::{EventReader, Journal};
use muster_core::log::{LogError, LogErrorKind};
use muster_rules::{AlarmProgram, EvalContext};
use tokio::task::{JoinError, JoinHandle};
use tracing::warn;

use super::state::State;
use crate::pipelines::eval_context;

/// So many events the engine reads itself before it takes a scan over.
pub(super) const CATCH_UP_EVENTS_MAX: u64 = 2_000;

/// Definitions by name.
pub(super) type Programs = BTreeMap<String, Arc<AlarmProgram>>;

/// What definitions know of the log up to a place.
pub(super) struct Scanned {
    pub(super) programs: Programs,
    pub(super) states: BTreeMap<String, State>,
    reader: EventReader,
    context: EvalContext,
}

impl Scanned {
    pub(super) fn new(journal: &Journal, clock: &SharedClock, programs: Programs) -> Self {
        let kinds = programs.values().fold(EventKinds::NONE, |kinds, it| kinds.union(it.kinds()));
        let states =
            programs.iter().map(|(name, it)| (name.clone(), State::new(name, Some(it.clone())))).collect();
        let reader = journal.reader(journal.first_offset()).with_kinds(kinds);
        Self { programs, states, reader, context: eval_context(clock.clone(), 0) }
    }

    /// What those know by now who wait for somebody.
    pub(super) fn waits(&self) -> BTreeMap<String, State> {
        let waits = self.states.iter().filter(|(_, it)| it.waits());
        waits.map(|(name, it)| (name.clone(), it.clone())).collect()
    }

    /// The offset of the first event that it has not seen.
    pub(super) fn position(&self) -> u64 {
        self.reader.position()
    }

    /// Reads on, up to the event before `end` and no further, or until `stop`.
    pub(super) fn read_to(&mut self, end: u64, stop: &AtomicBool) -> Result<(), LogError> {
        while self.reader.position() < end && !stop.load(Ordering::Relaxed) {
            let Some(events) = next(&mut self.reader)? else { break };
            for event in events.iter().filter(|event| event.offset < end) {
                for state in self.states.values_mut() {
                    state.fold(event, &mut self.context);
                }
            }
        }
        if self.reader.position() > end {
            self.reader.seek(end);
        }
        Ok(())
    }
}

/// What comes next, without waiting; an event that cannot be read is passed over.
pub(super) fn next(reader: &mut EventReader) -> Result<Option<Vec<Arc<Event>>>, LogError> {
    match reader.try_next_batch() {
        Ok(batch) => Ok(batch.map(|batch| batch.events().to_vec())),
        Err(error) if error.kind() == LogErrorKind::Event => {
            pass_over(reader, &error);
            Ok(Some(Vec::new()))
        }
        Err(error) => Err(error),
    }
}

pub(super) fn pass_over(reader: &mut EventReader, error: &LogError) {
    let offset = reader.position();
    warn!(%error, offset, "an event that cannot be read is passed over by the alarms");
    reader.seek(offset + 1);
}

/// A scan that is under way. It ends soon after it is dropped.
pub(super) struct Scan {
    programs: Programs,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<Scanned, LogError>>,
}

impl Scan {
    /// Reads to `end` in the background.
    pub(super) fn start(mut scanned: Scanned, end: u64) -> Self {
        let (programs, stop) = (scanned.programs.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let task = tokio::task::spawn_blocking(move || scanned.read_to(end, &stopped).map(|()| scanned));
        Self { programs, stop, task }
    }

    /// What it is about.
    pub(super) fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Waits for it. Nothing is lost if the future is dropped.
    pub(super) async fn done(&mut self) -> Result<Result<Scanned, LogError>, JoinError> {
        (&mut self.task).await
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
