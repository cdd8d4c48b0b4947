//! What a new definition knows of the past: the log, folded from its beginning on a thread that may wait for the disk,
//! while the engine goes on. The engine takes it over at exactly the place that it has reached itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use muster_core::clock::SharedClock;
use muster_core::event::proto::event::Detail;
use muster_core::event::{Event, EventKind, EventKinds};
use muster_core::journal::{EventReader, Journal};
use muster_core::log::{LogError, LogErrorKind};
use muster_rules::{AlarmProgram, EvalContext};
use tokio::task::{JoinError, JoinHandle};
use tracing::warn;

use super::state::State;
use crate::pipelines::eval_context;

/// So many events the engine reads itself before it takes a scan over.
pub(super) const CATCH_UP_EVENTS_MAX: u64 = 2_000;

/// The ends of alarms, some of which an operator ordered.
const FORCED: EventKinds = EventKinds::NONE.with(EventKind::AlarmDeactivated);

/// Definitions by name.
pub(super) type Programs = BTreeMap<String, Arc<AlarmProgram>>;

/// What definitions know of the log up to a place.
pub(super) struct Scanned {
    pub(super) programs: Programs,
    pub(super) states: BTreeMap<String, State>,
    journal: Journal,
    reader: EventReader,
    context: EvalContext,
}

impl Scanned {
    pub(super) fn new(journal: &Journal, clock: &SharedClock, programs: Programs) -> Self {
        let kinds = programs.values().fold(FORCED, |kinds, it| kinds.union(it.kinds()));
        let states =
            programs.iter().map(|(name, it)| (name.clone(), State::new(name, Some(it.clone())))).collect();
        let reader = journal.reader(journal.first_offset()).with_kinds(kinds);
        Self { programs, states, journal: journal.clone(), reader, context: eval_context(clock.clone(), 0) }
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
            let Some(events) = next(&mut self.reader, &self.journal)? else { break };
            for event in events.iter().filter(|event| event.offset < end) {
                if let Some(Detail::Alarm(alarm)) = &event.body.detail {
                    if let Some(state) = self.states.get_mut(&alarm.name) {
                        state.fold_forced(event, alarm);
                    }
                    continue;
                }
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

/// What comes next, without waiting; what cannot be read any more is passed over.
pub(super) fn next(reader: &mut EventReader, journal: &Journal) -> Result<Option<Vec<Arc<Event>>>, LogError> {
    match reader.try_next_batch() {
        Ok(batch) => Ok(batch.map(|batch| batch.events().to_vec())),
        Err(error) if may_be_passed(&error) => {
            pass_over(reader, journal, &error);
            Ok(Some(Vec::new()))
        }
        Err(error) => Err(error),
    }
}

/// Whether what follows can be read all the same: one event is damaged, or retention has removed some.
pub(super) fn may_be_passed(error: &LogError) -> bool {
    matches!(error.kind(), LogErrorKind::Event | LogErrorKind::Trimmed)
}

pub(super) fn pass_over(reader: &mut EventReader, journal: &Journal, error: &LogError) {
    let offset = reader.position();
    warn!(%error, offset, "what cannot be read is passed over by the alarms");
    let is_trimmed = error.kind() == LogErrorKind::Trimmed;
    reader.seek(if is_trimmed { journal.first_offset().max(offset) } else { offset + 1 });
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

#[cfg(test)]
mod tests {
    use muster_core::clock::ManualClock;
    use muster_core::log::{LogConfig, RealDisk, Retention};

    use super::super::tests::{lifecycle, offline};
    use super::*;

    /// Some twenty events.
    const SEGMENT_BYTES_MAX: u64 = 4_096;
    /// What is still in memory can be read although its file is gone: of these events, next to nothing.
    const TAIL_BYTES_MAX: usize = 1_024;

    #[tokio::test]
    async fn what_retention_removes_meanwhile_is_passed_over() {
        let dir = tempfile::tempdir().expect("a folder");
        let clock: SharedClock = ManualClock::at(1_000);
        let log = LogConfig {
            segment_bytes_max: SEGMENT_BYTES_MAX,
            tail_bytes_max: TAIL_BYTES_MAX,
            ..LogConfig::new(dir.path().join("log"))
        };
        let (journal, _) = Journal::open(log, RealDisk::shared(), clock.clone()).expect("a journal");
        let programs = [("offline".to_owned(), offline(""))].into();
        let mut scanned = Scanned::new(&journal, &clock, programs);
        let gone = |n: i64| journal.append(lifecycle(EventKind::ClientDisconnected, &format!("d-{n}"), n));
        let mut last = 0;
        for n in 0..200 {
            last = gone(n).await.expect("append").offset;
            journal.durable(last).await.expect("durable");
        }
        let retention = Retention { bytes_max: Some(2 * SEGMENT_BYTES_MAX), ..Retention::default() };
        journal.log().set_retention(retention).expect("a retention");
        while journal.first_offset() == 0 {
            last = gone(200).await.expect("append").offset;
            journal.durable(last).await.expect("durable");
        }
        let error = scanned.reader.try_next_batch().expect_err("the beginning is gone");
        assert_eq!(error.kind(), LogErrorKind::Trimmed);
        scanned.read_to(last, &AtomicBool::new(false)).expect("the rest");
        assert_eq!(scanned.position(), last);
        // Of those whose end is still there, the first is the first to be missed.
        let due_ms = scanned.states.get("offline").and_then(State::next_due_ms);
        let first = i64::try_from(journal.first_offset()).expect("small");
        assert_eq!(due_ms, Some(first + 60_000));
    }
}
