//! Alarms about devices: each `CREATE ALARM` is a fold of the log with timers. The engine reads the log from a cursor
//! of its own, raises and clears by appending `alarm.activated` and `alarm.deactivated`, and takes both in again from
//! there, so that what the log says is what is on. It must never know who is told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_rules::AlarmProgram;

use crate::presence::Silence;

mod engine;
mod known;
mod state;
mod store;
#[cfg(test)]
mod tests;

pub use engine::{Engine, EngineError};
pub use known::{Active, Notice, Summary};
pub use state::State;

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
    asked: Arc<tokio::sync::Notify>,
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
    pub kind: &'static str,
    /// How bad it is.
    pub severity: &'static str,
    /// What was said.
    pub message: String,
    /// When the absence began; 0 where there is none.
    pub since_ms: i64,
    /// When it fell due.
    pub activated_at_ms: i64,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that is on, by name and client.
    pub fn active(&self) -> Vec<Raised> {
        let mut all = Vec::new();
        for (name, state) in self.lock().iter() {
            let (kind, severity) = state
                .program()
                .map_or(("absence", "major"), |program| (program.kind().name(), program.severity().name()));
            let raised =
                |clientid: &str, username: Option<&str>, kind, message: &str, since_ms, activated_at_ms| {
                    Raised {
                        name: name.clone(),
                        clientid: clientid.to_owned(),
                        username: username.map(str::to_owned),
                        kind,
                        severity,
                        message: message.to_owned(),
                        since_ms,
                        activated_at_ms,
                    }
                };
            all.extend(
                state.summary().map(|it| raised("", None, "storm", &it.message, 0, it.activated_at_ms)),
            );
            let on = state.active().iter().filter(|(_, it)| it.until_ms.is_none());
            all.extend(on.map(|(client, it)| {
                raised(client, it.username.as_deref(), kind, &it.message, it.since_ms, it.activated_at_ms)
            }));
        }
        all.sort_by(|a, b| (&a.name, &a.clientid).cmp(&(&b.name, &b.clientid)));
        all
    }

    /// From now on these alarms are listed and not told.
    pub fn silence(&self, silence: Silence) {
        let mut silences = self.silences.lock().unwrap_or_else(PoisonError::into_inner);
        silences.retain(|it| it.id != silence.id);
        silences.push(silence);
    }

    /// They are told again.
    pub fn unsilence(&self, id: u64) {
        self.silences.lock().unwrap_or_else(PoisonError::into_inner).retain(|it| it.id != id);
    }

    fn is_silent(&self, name: &str, clientid: &str, now_ms: i64) -> bool {
        let mut silences = self.silences.lock().unwrap_or_else(PoisonError::into_inner);
        silences.retain(|it| now_ms < it.until_ms);
        silences.iter().any(|it| it.covers(name, clientid, now_ms))
    }

    /// Ends `NAME/CLIENTID`, or everything of `NAME`; how many that were.
    pub fn force_deactivate(&self, name: &str, now_ms: i64) -> usize {
        let mut states = self.lock();
        let ended = match states.get_mut(name) {
            Some(state) => state.force(None, now_ms),
            None => name.split_once('/').map_or(0, |(name, client)| {
                states.get_mut(name).map_or(0, |state| state.force(Some(client), now_ms))
            }),
        };
        drop(states);
        self.asked.notify_one();
        ended
    }
}
