//! Retention: who needs the log from where on, told to the log once a second, never ahead of what a power cut leaves.
//! It must never decide what is removed; the log does.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use muster_broker::Broker;
use muster_core::journal::Journal;
use muster_core::log::{self, Hold, Retention};
use muster_core::registry::Registry;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::alarms::Alarms;
use crate::config::{self, WhenFull};
use crate::error::chain;
use crate::pipelines::{Cursors, Pipelines};
use crate::projection::Progress;

/// How often holds follow their cursors.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The holds of everything that reads the log from a cursor of its own.
pub(super) struct Keeper {
    journal: Journal,
    data: PathBuf,
    pipelines: Arc<Pipelines>,
    registry: Registry,
    presence: (Progress, Hold),
    statistics: (Progress, Hold),
    retained: Hold,
    sessions: (Broker, Hold),
}

/// Where everybody stands.
#[derive(PartialEq, Eq)]
struct Places {
    pipelines: Cursors,
    presence: u64,
    statistics: u64,
    retained: u64,
    sessions: u64,
}

impl Keeper {
    /// Holds from where everybody stands now. Retention must not have been set before.
    pub(super) fn new(
        journal: &Journal,
        data: &Path,
        pipelines: &Arc<Pipelines>,
        registry: Registry,
        broker: Broker,
        (presence, statistics): (Progress, Progress),
    ) -> Self {
        let first = journal.first_offset();
        Self {
            presence: (presence, journal.log().hold("presence", first)),
            statistics: (statistics, journal.log().hold("statistics", first)),
            retained: journal.log().hold("retained messages", first),
            sessions: (broker, journal.log().hold("sessions", first)),
            journal: journal.clone(),
            data: data.to_owned(),
            pipelines: pipelines.clone(),
            registry,
        }
    }

    /// Moves the holds and looks for alarms until `stop`.
    pub(super) async fn run(self, mut alarms: Alarms, stop: CancellationToken) {
        let keeper = Arc::new(self);
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = looks.tick() => {}
            }
            let looking = keeper.clone();
            let looked = tokio::task::spawn_blocking(move || looking.look(last)).await;
            last = looked.unwrap_or_default();
            alarms.look(&keeper.pipelines.status());
        }
    }

    /// Moves the holds to where everybody stands, unless that is where they are.
    fn look(&self, last: Option<Places>) -> Option<Places> {
        let places = match self.places() {
            Ok(places) => places,
            Err(error) => {
                warn!(error = %chain(&*error), "how far retained messages are stored cannot be read; the log is kept");
                return last;
            }
        };
        if last.as_ref() == Some(&places) {
            return last;
        }
        if let Err(error) = sync_databases(&self.data) {
            warn!(%error, "the databases cannot be synced; the log is kept");
            return last;
        }
        self.pipelines.release(&places.pipelines);
        self.presence.1.advance(places.presence);
        self.statistics.1.advance(places.statistics);
        self.retained.advance(places.retained);
        self.sessions.1.advance(places.sessions);
        Some(places)
    }

    fn places(&self) -> Result<Places, Box<dyn std::error::Error + Send + Sync>> {
        let log_id = self.journal.log_id();
        let mark = self.registry.retained_mark()?.filter(|mark| mark.log_id == log_id);
        Ok(Places {
            pipelines: self.pipelines.cursors(),
            presence: self.presence.0.needed_from(),
            statistics: self.statistics.0.needed_from(),
            retained: mark.map_or_else(|| self.journal.first_offset(), |mark| mark.read_from),
            sessions: self.sessions.0.sessions_read_from().unwrap_or_else(|| self.journal.first_offset()),
        })
    }
}

/// What is committed in the data directory's databases survives a power cut after this, also where SQLite commits
/// without a sync (`synchronous = normal`): what they would need of the log to catch up may be gone.
fn sync_databases(data: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(data)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with("-wal") {
            match std::fs::File::open(&path).and_then(|file| file.sync_data()) {
                // A log that was folded into its database and removed was synced with it.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// The settings in the words of the log.
pub(super) fn retention(config: &config::Journal) -> Retention {
    Retention {
        age_max: config.retention_age,
        bytes_max: config.retention_bytes,
        cap_bytes: config.cap_bytes,
        when_full: match config.when_full {
            WhenFull::Refuse => log::WhenFull::Refuse,
            WhenFull::DropOldest => log::WhenFull::DropOldest,
        },
    }
}
