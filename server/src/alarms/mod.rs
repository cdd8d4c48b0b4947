//! Alarms about devices: each `CREATE ALARM` is a fold of the log with timers. The engine reads the log from a cursor
//! of its own, raises and clears by appending `alarm.activated` and `alarm.deactivated`, and takes both in again from
//! there, so that what the log says is what is on. It must never know who is told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_rules::AlarmProgram;

use crate::presence::Silence;

mod checkpoint;
mod engine;
mod known;
#[cfg(test)]
mod model;
#[cfg(test)]
mod orders;
mod play;
mod scan;
#[cfg(test)]
mod seam;
mod state;
mod store;
#[cfg(test)]
mod storms;
#[cfg(test)]
mod tests;

pub use engine::{Engine, EngineError};
pub use known::{Active, FORCE, Notice, Summary};
pub use play::play;
pub use state::State;

/// Most silences at a time.
pub const SILENCES_MAX: usize = 1_000;

/// The alarms that rule files define.
#[derive(Debug, Clone, Default)]
pub struct Definitions {
    /// By name.
    pub programs: BTreeMap<String, Arc<AlarmProgram>>,
    /// Whether some file could not be read: what is not defined may be defined there, and is left as it was.
    pub is_partial: bool,
}

/// What is on, for whoever asks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Board {
    states: Arc<Mutex<BTreeMap<String, State>>>,
    silences: Arc<Mutex<Vec<Silence>>>,
}

/// An alarm that is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raised {
    /// The alarm's name.
    pub name: String,
    /// Whom it is about; empty for the summary of a storm.
    pub clientid: String,
    /// Its user name.
    pub username: Option<String>,
    /// `absence`, `silence`, `presence`, `flapping` or `storm`.
    pub kind: String,
    /// How bad it is.
    pub severity: String,
    /// What was said.
    pub message: String,
    /// When the absence began; 0 where there is none.
    pub since_ms: i64,
    /// When it fell due.
    pub activated_at_ms: i64,
}

/// How much there is of one alarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// The alarm's name.
    pub name: String,
    /// How many are on, by severity, a storm's summary among them; 0 for the definition's own where none is.
    pub active: BTreeMap<String, u64>,
    /// Clients that are waited for: armed timers.
    pub waiting: usize,
    /// Clients whom a summary stands for.
    pub held: usize,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that is on, by name and client.
    pub fn active(&self) -> Vec<Raised> {
        let mut all = Vec::new();
        for (name, state) in self.lock().iter() {
            let raised =
                |clientid: &str, kind: &str, severity: &str, message: &str, activated_at_ms| Raised {
                    name: name.clone(),
                    clientid: clientid.to_owned(),
                    username: None,
                    kind: kind.to_owned(),
                    severity: severity.to_owned(),
                    message: message.to_owned(),
                    since_ms: 0,
                    activated_at_ms,
                };
            let storm =
                state.summary().map(|it| raised("", "storm", &it.severity, &it.message, it.activated_at_ms));
            let on = state.active().iter().filter(|(_, it)| it.until_ms.is_none());
            let on = on.map(|(client, it)| Raised {
                username: it.username.as_deref().map(str::to_owned),
                since_ms: it.since_ms,
                ..raised(client, &it.kind, &it.severity, &it.message, it.activated_at_ms)
            });
            all.extend(storm.into_iter().chain(on));
        }
        all.sort_by(|a, b| (&a.name, &a.clientid).cmp(&(&b.name, &b.clientid)));
        all
    }

    /// How much there is of each alarm, by name.
    pub fn counts(&self) -> Vec<Counts> {
        let count = |(name, state): (&String, &State)| {
            let mut active = BTreeMap::new();
            if let Some(program) = state.program() {
                active.insert(program.severity().name().to_owned(), 0);
            }
            let on = state.active().values().filter(|it| it.until_ms.is_none()).map(|it| &it.severity);
            for severity in on.chain(state.summary().map(|it| &it.severity)) {
                *active.entry(severity.clone()).or_default() += 1;
            }
            let waiting = state.armed().len() - state.held();
            Counts { name: name.clone(), active, waiting, held: state.held() }
        };
        self.lock().iter().map(count).collect()
    }

    /// From now on these alarms are listed and not told.
    pub fn silence(&self, silence: Silence) {
        let mut silences = self.silences.lock().unwrap_or_else(PoisonError::into_inner);
        silences.retain(|it| it.id != silence.id);
        silences.push(silence);
        if silences.len() > SILENCES_MAX {
            // By no clock, which may be ahead for a moment: the one that ends first goes.
            let first = silences.iter().enumerate().min_by_key(|(_, it)| it.until_ms).map(|(at, _)| at);
            first.map(|at| silences.remove(at));
        }
    }

    /// They are told again.
    pub fn unsilence(&self, id: u64) {
        self.silences.lock().unwrap_or_else(PoisonError::into_inner).retain(|it| it.id != id);
    }

    fn is_silent(&self, name: &str, clientid: &str, now_ms: i64) -> bool {
        let silences = self.silences.lock().unwrap_or_else(PoisonError::into_inner);
        silences.iter().any(|it| it.covers(name, clientid, now_ms))
    }

    /// How many are on of `NAME/CLIENTID`, or of `NAME`.
    pub fn on(&self, name: &str) -> usize {
        let mut states = self.lock();
        named(&mut states, name).map_or(0, |(state, client)| state.on(client))
    }
}

/// Ends `NAME/CLIENTID`, or everything of `NAME`.
fn force(states: &mut BTreeMap<String, State>, name: &str, now_ms: i64) {
    if let Some((state, client)) = named(states, name) {
        state.force(client, now_ms);
    }
}

/// Which alarm, and which client if it is about one.
fn named<'a, 'b>(
    states: &'a mut BTreeMap<String, State>,
    name: &'b str,
) -> Option<(&'a mut State, Option<&'b str>)> {
    let (alarm, client) = match states.contains_key(name) {
        true => (name, None),
        false => name.split_once('/').map(|(alarm, client)| (alarm, Some(client)))?,
    };
    Some((states.get_mut(alarm)?, client))
}
