//! The alarms that were raised, read for people and programs. It must never write.

use std::path::Path;

use rusqlite::{OptionalExtension as _, Row, named_params};

use super::alarms::{Silence, silences};
use super::fold::Device;
use super::store::{StoreError, int, open_reader, uint};

/// An alarm that was raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The offset of the event that raised it.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Whom it is about; empty where it is about no one device.
    pub clientid: String,
    /// The user name of that device.
    pub username: Option<String>,
    /// `absence`, `silence`, `presence`, `flapping`, `storm` or `system`.
    pub kind: String,
    /// How grave it is.
    pub severity: String,
    /// What was said.
    pub message: String,
    /// More about it: a JSON object, or empty.
    pub details: String,
    /// Since when the device was absent; 0 where there is no absence.
    pub since_ms: i64,
    /// When it fell due.
    pub activated_at_ms: i64,
    /// When it was over; none while it is on.
    pub deactivated_at_ms: Option<i64>,
    /// How long it lasted.
    pub duration_ms: Option<i64>,
    /// When somebody said to have seen it.
    pub acknowledged_at_ms: Option<i64>,
    /// Who did.
    pub acknowledged_by: Option<String>,
    /// What was said then.
    pub comment: Option<String>,
}

/// Which alarms are wanted.
#[derive(Debug, Clone, Default)]
pub struct WantedAlarms {
    /// Only those that are on, or only those that are over.
    pub active: Option<bool>,
    /// Only those of this name.
    pub name: Option<String>,
    /// Only those about this device.
    pub clientid: Option<String>,
    /// Only those of this severity.
    pub severity: Option<String>,
    /// Only those that were seen, or only those that were not.
    pub acknowledged: Option<bool>,
    /// How many to skip.
    pub offset: u64,
    /// How many to give at most.
    pub limit: u64,
}

/// One page of alarms, the latest first, and the number of all that match.
///
/// # Errors
/// The database is not there or SQLite refused.
pub fn alarms(path: &Path, wanted: &WantedAlarms) -> Result<(Vec<Told>, u64), StoreError> {
    let read = || {
        let db = open_reader(path)?;
        let filter =
            "(:active IS NULL OR (deactivated_at IS NULL) = :active) AND (:name IS NULL OR name = :name)
             AND (:clientid IS NULL OR clientid = :clientid) AND (:severity IS NULL OR severity = :severity)
             AND (:seen IS NULL OR (acknowledged_at IS NOT NULL) = :seen)";
        // An index has the few that are on.
        let from = match wanted.active {
            Some(true) => "_muster_alarm_history WHERE deactivated_at IS NULL AND",
            _ => "_muster_alarm_history WHERE",
        };
        let total = db.query_row(
            &format!("SELECT COUNT(*) AS total FROM {from} {filter}"),
            named_params! {
                ":active": wanted.active, ":name": wanted.name, ":clientid": wanted.clientid,
                ":severity": wanted.severity, ":seen": wanted.acknowledged,
            },
            |row| uint(row, "total"),
        )?;
        let mut statement = db.prepare(&format!(
            "SELECT * FROM {from} {filter} ORDER BY id DESC LIMIT :limit OFFSET :offset"
        ))?;
        let alarms = statement.query_map(
            named_params! {
                ":active": wanted.active, ":name": wanted.name, ":clientid": wanted.clientid,
                ":severity": wanted.severity, ":seen": wanted.acknowledged,
                ":limit": int(wanted.limit), ":offset": int(wanted.offset),
            },
            told,
        )?;
        Ok((alarms.collect::<Result<Vec<_>, _>>()?, total))
    };
    read().map_err(|source| StoreError::Sqlite { path: path.display().to_string(), source })
}

/// The alarm of this id.
///
/// # Errors
/// The database is not there or SQLite refused.
pub fn alarm(path: &Path, id: u64) -> Result<Option<Told>, StoreError> {
    let read = || {
        let db = open_reader(path)?;
        db.query_row("SELECT * FROM _muster_alarm_history WHERE id = ?1", [int(id)], told).optional()
    };
    read().map_err(|source| StoreError::Sqlite { path: path.display().to_string(), source })
}

/// An alarm that is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlarmOn {
    /// Its name.
    pub name: String,
    /// How grave it is.
    pub severity: String,
    /// When it fell due, milliseconds since 1970.
    pub activated_at_ms: i64,
}

/// The alarms that are on about each of these devices, the oldest first.
///
/// # Errors
/// The database is not there or SQLite refused.
pub fn alarms_on(path: &Path, devices: &[Device]) -> Result<Vec<Vec<AlarmOn>>, StoreError> {
    let read = || {
        let db = open_reader(path)?;
        let mut statement = db.prepare(
            "SELECT name, severity, activated_at FROM _muster_alarm_history
             WHERE clientid = ?1 AND deactivated_at IS NULL ORDER BY id",
        )?;
        let mut of_one = |device: &Device| {
            let alarms = statement.query_map([&device.clientid], |row| {
                Ok(AlarmOn {
                    name: row.get("name")?,
                    severity: row.get("severity")?,
                    activated_at_ms: row.get("activated_at")?,
                })
            })?;
            alarms.collect::<Result<Vec<_>, _>>()
        };
        devices.iter().map(&mut of_one).collect::<Result<Vec<_>, rusqlite::Error>>()
    };
    read().map_err(|source| StoreError::Sqlite { path: path.display().to_string(), source })
}

/// What is silent after `now_ms`.
///
/// # Errors
/// The database is not there or SQLite refused.
pub fn silent(path: &Path, now_ms: i64) -> Result<Vec<Silence>, StoreError> {
    let read = || silences(&open_reader(path)?, now_ms);
    read().map_err(|source| StoreError::Sqlite { path: path.display().to_string(), source })
}

fn told(row: &Row<'_>) -> Result<Told, rusqlite::Error> {
    Ok(Told {
        id: uint(row, "id")?,
        name: row.get("name")?,
        clientid: row.get("clientid")?,
        username: row.get("username")?,
        kind: row.get("kind")?,
        severity: row.get("severity")?,
        message: row.get("message")?,
        details: row.get("details")?,
        since_ms: row.get("since")?,
        activated_at_ms: row.get("activated_at")?,
        deactivated_at_ms: row.get("deactivated_at")?,
        duration_ms: row.get("duration")?,
        acknowledged_at_ms: row.get("acknowledged_at")?,
        acknowledged_by: row.get("acknowledged_by")?,
        comment: row.get("comment")?,
    })
}
