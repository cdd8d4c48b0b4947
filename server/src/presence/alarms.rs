//! The alarms that are on: the table `_muster_alarms` of `DATA/muster.db`, folded from the log, so that a restart knows
//! what was told: the platform's own, those about devices are in `crate::alarms`. It must never know what an alarm is about.

use muster_core::event::proto::event::Detail;
use muster_core::event::{Event, EventKind};
use rusqlite::{Connection, Transaction};

/// An alarm whose end the log does not tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveAlarm {
    /// Its name.
    pub name: String,
    /// What it is about: its details, a JSON object; empty where its name says it.
    pub subject: String,
    /// Since when, milliseconds since 1970.
    pub since_ms: i64,
    /// What was told when it began.
    pub message: String,
}

/// Folds an event; says whether it was about an alarm.
pub(super) fn note(tx: &Transaction<'_>, event: &Event) -> Result<bool, rusqlite::Error> {
    let Some(Detail::Alarm(alarm)) = &event.body.detail else { return Ok(false) };
    match event.kind {
        // Alarms about devices are kept by whoever raises them.
        _ if !matches!(alarm.kind.as_str(), "" | "system") => {}
        EventKind::AlarmActivated => {
            tx.prepare_cached(
                "INSERT OR REPLACE INTO _muster_alarms (name, subject, since, message) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute((&alarm.name, &alarm.details, alarm.activated_at_ms, &alarm.message))?;
        }
        EventKind::AlarmDeactivated => {
            tx.prepare_cached("DELETE FROM _muster_alarms WHERE name = ?1 AND subject = ?2")?
                .execute([&alarm.name, &alarm.details])?;
        }
        _ => {}
    }
    Ok(true)
}

/// All of them, by name and subject.
pub(super) fn active(db: &Connection) -> Result<Vec<ActiveAlarm>, rusqlite::Error> {
    let sql = "SELECT name, subject, since, message FROM _muster_alarms ORDER BY name, subject";
    let mut statement = db.prepare_cached(sql)?;
    let alarms = statement.query_map([], |row| {
        Ok(ActiveAlarm {
            name: row.get(0)?,
            subject: row.get(1)?,
            since_ms: row.get(2)?,
            message: row.get(3)?,
        })
    })?;
    alarms.collect()
}
