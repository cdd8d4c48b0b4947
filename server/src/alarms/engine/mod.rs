//! The engine: reads the log, keeps the time, writes what alarms have to say. It must never know what is said.
//!
//! # When definitions change
//! Which definition of a name is in force, and from which place in the log on, is what the database says; it is written
//! there with all that is known at that place, in one transaction.
//!
//! - Another definition of the same meaning (words, severity, targets, limits) is in force at once.
//! - A new one, or one of another meaning, looks back over the log first, while the one before it stays in force. Then
//!   it is taken over between two events, and **stored before anything is said under it**. So an end of this process,
//!   or of the power, finds it either stored, and nothing is counted twice or missed from its place on; or not, and
//!   then nobody has heard of it.
//! - A definition that the database does not have at the start (it was written while the server was down, or not taken
//!   over before its end) is taken over at the end of the log: it raises nothing for what PRESENCE and FLAPPING would
//!   have counted before. Alarms of absence and silence that are on hear of returns in between, so that they end when
//!   their device came back, and not when the definition changed.
//! - One that goes ends what it has on, and is forgotten by the database once that is said. If that is lost, the next
//!   start says it.
//! - A name whose file cannot be read at the start keeps what it has on and hears nothing; whatever defines it later is
//!   new, as it has to look back over what was not heard.
//! - A state that nothing defines any more stays until the database has forgotten all of it: what is left there would
//!   come back with the next start.

use std::collections::{BTreeMap, VecDeque};
use std::future;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_core::clock::SharedClock;
use muster_core::event::proto::event::Detail;
use muster_core::event::{Event, EventKind, EventKinds, NewEvent};
use muster_core::journal::{EventReader, Journal};
use muster_core::log::{Hold, LogError, LogErrorKind};
use muster_rules::EvalContext;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::checkpoint::{Checkpoint, Stored};
use super::known::Notice;
use super::scan::{self, CATCH_UP_EVENTS_MAX, Programs, Scan, Scanned};
use super::state::State;
use super::store::{Delta, Row, Store};
use super::{Board, Definitions};
use crate::pipelines::eval_context;

/// The database.
const DATABASE: &str = "alarms.db";
/// How often what is known is stored.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// The longest sleep: a clock that was set is noticed by then.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What the engine writes.
const OWN: EventKinds = EventKinds::NONE.with(EventKind::AlarmActivated).with(EventKind::AlarmDeactivated);

/// Why there are no alarms.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The log cannot be read.
    #[error("the event log cannot be read")]
    Log(#[from] LogError),
    /// What is known cannot be stored.
    #[error("alarms.db cannot be used")]
    Store(#[from] rusqlite::Error),
    /// Looking back for a new definition broke off.
    #[error("what a new alarm knows of the past was not found")]
    LookBack(#[from] JoinError),
}

/// Raises and clears alarms.
pub struct Engine {
    journal: Journal,
    clock: SharedClock,
    node: String,
    definitions: watch::Receiver<Definitions>,
    /// What new definitions know, as long as it is not known.
    scan: Option<Scan>,
    /// What is being stored.
    checkpoint: Option<Checkpoint>,
    board: Board,
    reader: EventReader,
    context: EvalContext,
    store: Arc<Mutex<Store>>,
    hold: Hold,
    stored_cursor: u64,
    identities: BTreeMap<String, String>,
    identities_changed: bool,
    /// What the log has not taken yet.
    unsaid: VecDeque<Notice>,
    /// The last event of ours.
    written: Option<u64>,
    stored_at: Duration,
}

impl Engine {
    /// Takes up what was stored, and folds the log to its end, on this thread. Nothing is raised before
    /// [`Engine::run`].
    ///
    /// # Errors
    /// The log or the database cannot be read.
    pub fn open(
        journal: &Journal,
        data: &Path,
        clock: &SharedClock,
        node: &str,
        (definitions, board): (watch::Receiver<Definitions>, Board),
    ) -> Result<Self, EngineError> {
        let store = Store::open(&data.join(DATABASE), journal.log_id())?;
        let stored = store.load()?;
        let cursor = stored.cursor.unwrap_or_else(|| journal.durable_offset()).max(journal.first_offset());
        *board.lock() = stored.states;
        let mut engine = Self {
            journal: journal.clone(),
            clock: clock.clone(),
            node: node.to_owned(),
            definitions,
            scan: None,
            checkpoint: None,
            board,
            reader: journal.reader(cursor),
            context: eval_context(clock.clone(), 0),
            store: Arc::new(Mutex::new(store)),
            hold: journal.log().hold("alarms", cursor),
            stored_cursor: cursor,
            identities: stored.identities,
            identities_changed: false,
            unsaid: VecDeque::new(),
            written: None,
            stored_at: clock.monotonic(),
        };
        if stored.cursor.is_none() {
            engine.fold_own_past(cursor)?;
        }
        let new = engine.redefine(true);
        let never = AtomicBool::new(false);
        let mut scanned = Scanned::new(journal, clock, new);
        scanned.read_to(cursor, &never)?;
        // Who comes back in what follows is heard, as far as the new ones can tell.
        engine.force(&scanned.programs, scanned.waits());
        engine.hear(&scanned.programs);
        while let Some(events) = scan::next(&mut engine.reader)? {
            engine.fold(&events);
        }
        scanned.read_to(engine.reader.position(), &never)?;
        engine.take_over(scanned);
        // What was raised lately, by what is defined no more.
        engine.redefine(true);
        if engine.identities_changed {
            let delta = engine.delta(engine.reader.position());
            let stored = engine.store.lock().unwrap_or_else(PoisonError::into_inner).commit(&delta);
            engine.identities_changed = false;
            let result = stored.map_err(EngineError::from);
            engine.stored(Stored { delta: Arc::new(delta), written: None, result })?;
        }
        Ok(engine)
    }

    /// Learns from the log alone what is on.
    fn fold_own_past(&mut self, end: u64) -> Result<(), EngineError> {
        let mut reader = self.journal.reader(self.journal.first_offset()).with_kinds(OWN);
        while reader.position() < end {
            let Some(events) = scan::next(&mut reader)? else { break };
            self.fold(&events);
        }
        Ok(())
    }

    /// Raises and clears until `stop`; then stores what it knows.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut definitions = self.definitions.clone();
        definitions.mark_changed();
        let asked = self.board.asked.clone();
        loop {
            let wait = self.wait();
            // What was decided under one definition is said before there is another.
            let is_said = self.unsaid.is_empty();
            let read = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = definitions.changed(), if is_said && changed_is_open(&definitions) => {
                    if changed.is_ok() {
                        self.begin_definitions();
                    }
                    Ok(())
                }
                scanned = scanned(&mut self.scan), if is_said => {
                    let taken = self.scanned(scanned).await;
                    if taken.is_err() {
                        definitions.mark_changed();
                    }
                    taken
                }
                done = stored(&mut self.checkpoint) => self.stored(done),
                () = tokio::time::sleep(wait) => Ok(()),
                () = asked.notified() => Ok(()),
                read = self.reader.next_batch() => match read {
                    Ok(batch) => {
                        self.fold(batch.events());
                        Ok(())
                    }
                    Err(error) => Err(error.into()),
                },
            };
            let done = match read {
                Ok(()) => self.speak().await,
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => self.begin_checkpoint(false),
                Err(EngineError::Log(error)) if error.kind() == LogErrorKind::Event => {
                    scan::pass_over(&mut self.reader, &error);
                }
                Err(EngineError::Log(error)) if error.kind() == LogErrorKind::Closed => break,
                Err(error) => {
                    error!(error = %crate::error::chain(&error), "alarms are late");
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        }
        if let Err(error) = self.checkpoint(true).await {
            let error = crate::error::chain(&error);
            warn!(error, "what the alarms know is not stored; the next start reads it again");
        }
    }

    fn wait(&self) -> Duration {
        let now_ms = self.clock.wall_ms();
        let next = self.board.lock().values().filter_map(State::next_due_ms).min();
        let wait =
            next.map_or(LOOK_EVERY, |at| Duration::from_millis(u64::try_from(at - now_ms).unwrap_or(0)));
        wait.min(LOOK_EVERY)
    }

    fn fold(&mut self, events: &[Arc<Event>]) {
        let mut states = self.board.lock();
        for event in events {
            if let Some(Detail::Alarm(alarm)) = &event.body.detail {
                if !matches!(alarm.kind.as_str(), "" | "system") {
                    let new = || State::new(&alarm.name, None);
                    states.entry(alarm.name.clone()).or_insert_with(new).fold_own(event);
                }
                continue;
            }
            for state in states.values_mut() {
                state.fold(event, &mut self.context);
            }
        }
    }

    /// Brings what is known in line with what is defined. The answer is those who have to look back first.
    fn redefine(&mut self, is_start: bool) -> Programs {
        let Definitions { programs, is_partial } = self.definitions.borrow_and_update().clone();
        let now_ms = self.clock.wall_ms();
        let mut new = Programs::new();
        let mut states = self.board.lock();
        for (name, program) in &programs {
            if self.identities.get(name).is_none_or(|it| it != program.identity()) {
                new.insert(name.clone(), program.clone());
                continue;
            }
            let state = states.entry(name.clone()).or_insert_with(|| State::new(name, None));
            state.redefine(Some(program.clone()), None, now_ms);
        }
        if is_start || !is_partial {
            // Whose file cannot be read at the start is heard by nobody until it can be.
            let known = self.identities.len();
            self.identities.retain(|name, _| programs.contains_key(name));
            self.identities_changed |= self.identities.len() < known;
        }
        for (name, state) in states.iter_mut().filter(|_| !is_partial) {
            let is_gone = !programs.contains_key(name) && (state.program().is_some() || !state.is_empty());
            if is_gone {
                state.redefine(None, None, now_ms);
            }
        }
        drop(states);
        self.hear(&new);
        new
    }

    /// Reads from now on what those need who are heard, and those who will be.
    fn hear(&mut self, new: &Programs) {
        let states = self.board.lock();
        let known = states.values().filter_map(State::program).map(|it| it.kinds());
        let kinds = known.chain(new.values().map(|it| it.kinds())).fold(OWN, EventKinds::union);
        drop(states);
        self.reader.set_kinds(kinds);
    }

    /// Takes what is defined by now; says whether some of it has to look back first, which is under way then.
    pub(super) fn begin_definitions(&mut self) -> bool {
        let new = self.redefine(false);
        self.look_back(new);
        self.scan.is_some()
    }

    /// Begins to fold the past for new definitions. Until that is done, those before them stay.
    fn look_back(&mut self, new: Programs) {
        if new.is_empty() {
            self.scan = None;
        } else if self.scan.as_ref().is_none_or(|scan| *scan.programs() != new) {
            let scanned = Scanned::new(&self.journal, &self.clock, new);
            self.scan = Some(Scan::start(scanned, self.reader.position()));
        }
    }

    /// A scan is done: it is taken over, or goes on where there is much that it has not seen.
    async fn scanned(
        &mut self,
        scanned: Result<Result<Scanned, LogError>, JoinError>,
    ) -> Result<(), EngineError> {
        self.scan = None;
        let mut scanned = scanned??;
        let end = self.reader.position();
        if end.saturating_sub(scanned.position()) > CATCH_UP_EVENTS_MAX {
            self.scan = Some(Scan::start(scanned, end));
            return Ok(());
        }
        scanned.read_to(end, &AtomicBool::new(false))?;
        self.take_over(scanned);
        self.checkpoint(true).await
    }

    /// Waits until nobody looks back any more.
    #[cfg(test)]
    pub(super) async fn end_definitions(&mut self) -> Result<(), EngineError> {
        while self.scan.is_some() {
            let done = scanned(&mut self.scan).await;
            self.scanned(done).await?;
        }
        Ok(())
    }

    /// From the next event on, new definitions hold. They have seen all events before it.
    fn take_over(&mut self, scanned: Scanned) {
        let Scanned { programs, states: anew, .. } = scanned;
        for (name, program) in &programs {
            self.identities.insert(name.clone(), program.identity().to_owned());
            self.identities_changed = true;
        }
        self.force(&programs, anew);
        self.hear(&Programs::new());
    }

    /// Puts definitions in force with what they know of the log up to here.
    fn force(&self, programs: &Programs, anew: BTreeMap<String, State>) {
        let now_ms = self.clock.wall_ms();
        let mut states = self.board.lock();
        for (name, anew) in anew {
            let state = states.entry(name.clone()).or_insert_with(|| State::new(&name, None));
            state.redefine(programs.get(&name).cloned(), Some(anew), now_ms);
        }
    }

    /// Says what is due. Who came back before that moment is heard first.
    pub(super) async fn speak(&mut self) -> Result<(), EngineError> {
        self.say().await?;
        let now_ms = self.clock.wall_ms();
        if self.board.lock().values().filter_map(State::next_due_ms).all(|due| due > now_ms) {
            return Ok(());
        }
        self.read_to_end().await?;
        let notices: Vec<Notice> =
            self.board.lock().values_mut().flat_map(|state| state.due(now_ms)).collect();
        self.unsaid.extend(notices);
        self.say().await
    }

    /// Hears everything that was appended until now.
    pub(super) async fn read_to_end(&mut self) -> Result<(), EngineError> {
        let end = self.journal.next_offset();
        while self.reader.position() < end {
            let batch = self.reader.next_batch().await?;
            self.fold(batch.events());
        }
        Ok(())
    }

    /// Appends what is to be said, in order; what the log does not take now is said later.
    async fn say(&mut self) -> Result<(), EngineError> {
        while let Some(notice) = self.unsaid.front() {
            let event = self.event(notice.clone());
            self.written = Some(self.journal.append(event).await?.offset);
            self.unsaid.pop_front();
        }
        Ok(())
    }

    fn event(&self, mut notice: Notice) -> NewEvent {
        let clientid = notice.client.as_ref().map_or("", |(clientid, _)| clientid);
        if self.board.is_silent(&notice.body.name, clientid, self.clock.wall_ms()) {
            let mut details: serde_json::Map<_, _> =
                serde_json::from_str(&notice.body.details).unwrap_or_default();
            details.insert("silenced".to_owned(), true.into());
            notice.body.details = serde_json::Value::Object(details).to_string();
        }
        notice.event(&self.node, self.clock.wall_ms())
    }

    /// Stores what has changed, once all that it rests on is durable, and waits for that.
    pub(super) async fn checkpoint(&mut self, now: bool) -> Result<(), EngineError> {
        self.end_checkpoint().await?;
        self.begin_checkpoint(now);
        self.end_checkpoint().await
    }

    /// Begins to store what has changed, where it is time. What many devices do at once takes long to store, and
    /// nobody is told late for that.
    fn begin_checkpoint(&mut self, now: bool) {
        let at = self.clock.monotonic();
        let cursor = self.reader.position();
        let has_changed = cursor != self.stored_cursor || self.identities_changed;
        let is_due = at.saturating_sub(self.stored_at) >= CHECKPOINT_EVERY || self.identities_changed;
        let is_time = now || has_changed && is_due;
        if self.checkpoint.is_some() || !self.unsaid.is_empty() || !is_time {
            return;
        }
        let delta = self.delta(cursor);
        self.identities_changed = false;
        self.checkpoint = Some(Checkpoint::begin(&self.journal, &self.store, delta, self.written.take()));
    }

    async fn end_checkpoint(&mut self) -> Result<(), EngineError> {
        if self.checkpoint.is_none() {
            return Ok(());
        }
        let done = stored(&mut self.checkpoint).await;
        self.stored(done)
    }

    /// Notes what the database has now.
    fn stored(&mut self, Stored { delta, written, result }: Stored) -> Result<(), EngineError> {
        self.checkpoint = None;
        let mut states = self.board.lock();
        if let Err(error) = result {
            // The next attempt stores them, too.
            let rows = delta.rows.iter().map(|it| (&it.name, it.client.clone()));
            let summaries = delta.summaries.iter().map(|(name, _)| (name, "".into()));
            for (name, client) in rows.chain(summaries) {
                if let Some(state) = states.get_mut(name) {
                    state.mark_dirty(client);
                }
            }
            self.written = self.written.or(written);
            self.identities_changed |= delta.identities.is_some();
            return Err(error);
        }
        // What nothing defines and nothing knows of, there neither.
        states.retain(|_, state| state.program().is_some() || !state.is_forgotten());
        drop(states);
        self.hold.advance(delta.cursor);
        (self.stored_cursor, self.stored_at) = (delta.cursor, self.clock.monotonic());
        Ok(())
    }

    fn delta(&self, cursor: u64) -> Delta {
        let mut delta = Delta { cursor, ..Delta::default() };
        for (name, state) in self.board.lock().iter_mut() {
            for client in state.take_dirty() {
                if client.is_empty() {
                    delta.summaries.push((name.clone(), state.summary().cloned()));
                    continue;
                }
                let (armed, active) =
                    (state.armed().get(&client).cloned(), state.active().get(&client).cloned());
                let flaps = state.flaps(&client);
                delta.rows.push(Row { name: name.clone(), client, armed, active, flaps });
            }
        }
        let all = || self.identities.iter().map(|(name, it)| (name.clone(), it.clone())).collect();
        delta.identities = self.identities_changed.then(all);
        delta
    }
}

fn changed_is_open(definitions: &watch::Receiver<Definitions>) -> bool {
    definitions.has_changed().is_ok()
}

/// What has become of a checkpoint, once there is one and it is done.
async fn stored(checkpoint: &mut Option<Checkpoint>) -> Stored {
    match checkpoint {
        Some(checkpoint) => checkpoint.done().await,
        None => future::pending().await,
    }
}

/// What a scan found, once there is one and it is done.
async fn scanned(scan: &mut Option<Scan>) -> Result<Result<Scanned, LogError>, JoinError> {
    match scan {
        Some(scan) => scan.done().await,
        None => future::pending().await,
    }
}
