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
//!   That is stored in the background, as everything is: until then its alarm hears everything and says nothing.
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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
use super::known::{FORCE, Notice};
use super::scan::{self, CATCH_UP_EVENTS_MAX, Programs, Scan, Scanned};
use super::state::State;
use super::store::{Delta, Row, Store};
use super::{Board, Definitions, force};
use crate::pipelines::eval_context;

mod define;
mod keep;

use define::scanned;
use keep::stored;

/// The database.
const DATABASE: &str = "alarms.db";
/// How often what is known is stored.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// The longest sleep: a clock that was set is noticed by then.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What the engine writes.
const OWN: EventKinds = EventKinds::NONE.with(EventKind::AlarmActivated).with(EventKind::AlarmDeactivated);
/// What it reads whatever is defined: this, and what operators order.
const ALWAYS: EventKinds = OWN.with(EventKind::Admin);
/// The pauses before a look back that broke off is begun anew: the first; each is twice as long as the one before it.
const LOOK_BACK_AGAIN: Duration = Duration::from_secs(1);
/// The longest of them.
const LOOK_BACK_AGAIN_MAX: Duration = Duration::from_secs(300);

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
    /// When to look back again after that broke off, and how long the pause was.
    again: Option<(Duration, Duration)>,
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
    /// Names whose definition is in force and not stored. Nothing is said under it.
    unstored: BTreeSet<String>,
    /// What the log has not taken yet.
    unsaid: VecDeque<Notice>,
    /// The last event of ours that no checkpoint waits for.
    written: Option<u64>,
    /// The offset after the last event of ours.
    said_to: u64,
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
            again: None,
            checkpoint: None,
            board,
            reader: journal.reader(cursor),
            context: eval_context(clock.clone(), 0),
            store: Arc::new(Mutex::new(store)),
            hold: journal.log().hold("alarms", cursor),
            stored_cursor: cursor,
            identities: stored.identities,
            identities_changed: false,
            unstored: BTreeSet::new(),
            unsaid: VecDeque::new(),
            written: None,
            said_to: 0,
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
        while let Some(events) = scan::next(&mut engine.reader, journal)? {
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
        let mut reader = self.journal.reader(self.journal.first_offset()).with_kinds(ALWAYS);
        while reader.position() < end {
            let Some(events) = scan::next(&mut reader, &self.journal)? else { break };
            self.fold(&events);
        }
        Ok(())
    }

    /// Raises and clears until `stop`; then stores what it knows.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut definitions = self.definitions.clone();
        definitions.mark_changed();
        loop {
            let wait = self.wait();
            // What was decided under one definition is said and heard before there is another.
            let is_said = self.unsaid.is_empty() && self.said_to <= self.reader.position();
            if self.is_time_to_look_back() {
                definitions.mark_changed();
            }
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
                    if let Err(error) = self.scanned(scanned) {
                        self.look_back_later(&error);
                    }
                    Ok(())
                }
                done = stored(&mut self.checkpoint) => self.stored(done),
                () = tokio::time::sleep(wait) => Ok(()),
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
                Err(EngineError::Log(error)) if scan::may_be_passed(&error) => {
                    scan::pass_over(&mut self.reader, &self.journal, &error);
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
        let next = self.next_due_ms();
        let wait =
            next.map_or(LOOK_EVERY, |at| Duration::from_millis(u64::try_from(at - now_ms).unwrap_or(0)));
        wait.min(LOOK_EVERY)
    }

    /// When something is to be said, under definitions that are stored.
    fn next_due_ms(&self) -> Option<i64> {
        let states = self.board.lock();
        let stored = states.iter().filter(|(name, _)| !self.unstored.contains(*name));
        stored.filter_map(|(_, state)| state.next_due_ms()).min()
    }

    fn fold(&mut self, events: &[Arc<Event>]) {
        let mut states = self.board.lock();
        for event in events {
            match &event.body.detail {
                Some(Detail::Alarm(alarm)) => {
                    if !matches!(alarm.kind.as_str(), "" | "system") {
                        let new = || State::new(&alarm.name, None);
                        states.entry(alarm.name.clone()).or_insert_with(new).fold_own(event);
                    }
                    continue;
                }
                Some(Detail::Admin(admin)) if admin.action == FORCE => {
                    force(&mut states, &admin.object, event.timestamp_ms);
                }
                _ => {}
            }
            for state in states.values_mut() {
                state.fold(event, &mut self.context);
            }
        }
    }

    /// Says what is due. Who came back before that moment is heard first.
    pub(super) async fn speak(&mut self) -> Result<(), EngineError> {
        self.say().await?;
        let now_ms = self.clock.wall_ms();
        if self.next_due_ms().is_none_or(|due| due > now_ms) {
            return Ok(());
        }
        self.read_to_end().await?;
        let notices = self.due(now_ms);
        self.unsaid.extend(notices);
        self.say().await
    }

    fn due(&self, now_ms: i64) -> Vec<Notice> {
        let mut states = self.board.lock();
        let stored = states.iter_mut().filter(|(name, _)| !self.unstored.contains(*name));
        stored.flat_map(|(_, state)| state.due(now_ms)).collect()
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
            let offset = self.journal.append(event).await?.offset;
            (self.written, self.said_to) = (Some(offset), offset + 1);
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
}

fn changed_is_open(definitions: &watch::Receiver<Definitions>) -> bool {
    definitions.has_changed().is_ok()
}
