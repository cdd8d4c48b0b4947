//! Alarms as they are told: which are on (so that a restart knows what the platform itself has told), every one that
//! was raised, who has seen it, and what is to be silent. Folded from the log: what operators do is an `admin` event
//! and stands nowhere else. It must never know what an alarm is about.

use muster_core::event::proto::event::Detail;
use muster_core::event::proto::{Admin, Alarm};
use muster_core::event::{Event, EventKind};
use rusqlite::{Connection, Transaction, params};
use serde_json::Value;

use super::store::{int, uint};
use crate::alarms::SILENCES_MAX;

/// How far a clock may be ahead when silences are read.
const AHEAD_MS_MAX: i64 = 366 * 86_400_000;

/// An operator has seen an alarm; the object is its id.
pub const ACKNOWLEDGE: &str = "alarms.acknowledge";
/// Alarms are to be silent for a while.
pub const SILENCE: &str = "alarms.silence";
/// They are to be told again; the object is the id of the silence.
pub const UNSILENCE: &str = "alarms.unsilence";
/// The alarms that are over are forgotten.
pub const CLEAR: &str = "alarms.clear";

/// An alarm of the platform's own whose end the log does not tell.
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

/// What is listed and not told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    /// The offset of the event that says so.
    pub id: u64,
    /// Alarms of this name; of any, if there is none.
    pub name: Option<String>,
    /// About clients whose id matches this pattern, in which `*` is anything; about anybody, if there is none.
    pub clientid: Option<String>,
    /// Until when, milliseconds since 1970.
    pub until_ms: i64,
    /// Who said so.
    pub by: String,
    /// And why.
    pub comment: String,
}

impl Silence {
    /// Whether an alarm is silent at `now_ms`.
    pub fn covers(&self, name: &str, clientid: &str, now_ms: i64) -> bool {
        now_ms < self.until_ms
            && self.name.as_deref().is_none_or(|it| it == name)
            && self.clientid.as_deref().is_none_or(|pattern| is_like(pattern, clientid))
    }
}

/// Whether `*` in the pattern can stand for something that makes it the text.
fn is_like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    true
}

/// Folds an event; says whether it was about alarms.
pub(super) fn note(tx: &Transaction<'_>, event: &Event) -> Result<bool, rusqlite::Error> {
    match (&event.body.detail, event.kind) {
        (Some(Detail::Alarm(alarm)), EventKind::AlarmActivated) => {
            raised(tx, event, alarm)?;
            Ok(true)
        }
        (Some(Detail::Alarm(alarm)), EventKind::AlarmDeactivated) => {
            over(tx, event, alarm)?;
            Ok(true)
        }
        (Some(Detail::Admin(admin)), _) => {
            ordered(tx, event, admin)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Whether the platform itself is what the alarm is about.
fn is_system(alarm: &Alarm) -> bool {
    matches!(alarm.kind.as_str(), "" | "system")
}

fn raised(tx: &Transaction<'_>, event: &Event, alarm: &Alarm) -> Result<(), rusqlite::Error> {
    if is_system(alarm) {
        tx.prepare_cached(
            "INSERT OR REPLACE INTO _muster_alarms (name, subject, since, message) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute((&alarm.name, &alarm.details, alarm.activated_at_ms, &alarm.message))?;
    }
    if alarm.kind == "storm" && storm_again(tx, alarm)? {
        return Ok(());
    }
    let or = |text: &str, meant: &str| if text.is_empty() { meant.to_owned() } else { text.to_owned() };
    tx.prepare_cached(
        "INSERT OR IGNORE INTO _muster_alarm_history
             (id, name, clientid, username, kind, severity, message, details, since, activated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        int(event.offset),
        alarm.name,
        event.clientid(),
        event.body.client.as_ref().and_then(|client| client.username.clone()),
        or(&alarm.kind, "system"),
        or(&alarm.severity, "major"),
        alarm.message,
        alarm.details,
        alarm.since_ms,
        alarm.activated_at_ms,
    ])?;
    Ok(())
}

/// A storm is told again when it has grown: it is the same alarm. Says whether it was known.
fn storm_again(tx: &Transaction<'_>, alarm: &Alarm) -> Result<bool, rusqlite::Error> {
    let sql = "UPDATE _muster_alarm_history SET message = ?3, details = ?4
         WHERE name = ?1 AND clientid = '' AND activated_at = ?2 AND kind = 'storm'";
    let known = tx.prepare_cached(sql)?.execute(params![
        alarm.name,
        alarm.activated_at_ms,
        alarm.message,
        alarm.details
    ])?;
    Ok(known > 0)
}

fn over(tx: &Transaction<'_>, event: &Event, alarm: &Alarm) -> Result<(), rusqlite::Error> {
    if is_system(alarm) {
        tx.prepare_cached("DELETE FROM _muster_alarms WHERE name = ?1 AND subject = ?2")?
            .execute([&alarm.name, &alarm.details])?;
    }
    tx.prepare_cached(
        "UPDATE _muster_alarm_history SET deactivated_at = ?4, duration = ?5
         WHERE name = ?1 AND clientid = ?2 AND activated_at = ?3 AND deactivated_at IS NULL
             AND (kind <> 'system' OR details = ?6)",
    )?
    .execute(params![
        alarm.name,
        event.clientid(),
        alarm.activated_at_ms,
        alarm.deactivated_at_ms,
        alarm.length_ms(),
        alarm.details,
    ])?;
    Ok(())
}

fn ordered(tx: &Transaction<'_>, event: &Event, admin: &Admin) -> Result<(), rusqlite::Error> {
    let details: Value = serde_json::from_str(&admin.details).unwrap_or_default();
    let text = |name: &str| details.get(name).and_then(Value::as_str);
    let comment = text("comment").unwrap_or_default();
    let id = admin.object.parse::<i64>().unwrap_or(-1);
    match admin.action.as_str() {
        ACKNOWLEDGE => tx
            .prepare_cached(
                "UPDATE _muster_alarm_history
                 SET acknowledged_at = ?2, acknowledged_by = ?3, comment = ?4 WHERE id = ?1",
            )?
            .execute(params![id, event.timestamp_ms, admin.actor, comment])?,
        SILENCE => {
            let until_ms = details.get("until").and_then(Value::as_i64).unwrap_or_default();
            tx.prepare_cached(
                "INSERT OR IGNORE INTO _muster_alarm_silences (id, name, clientid, until, made_by, comment)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                int(event.offset),
                text("name"),
                text("clientid"),
                until_ms,
                admin.actor,
                comment
            ])?;
            // No more than can be, by no clock: those that end first go.
            tx.prepare_cached(
                "DELETE FROM _muster_alarm_silences WHERE id IN
                     (SELECT id FROM _muster_alarm_silences ORDER BY until DESC, id DESC LIMIT -1 OFFSET ?1)",
            )?
            .execute([int(SILENCES_MAX as u64)])?
        }
        UNSILENCE => tx.execute("DELETE FROM _muster_alarm_silences WHERE id = ?1", [id])?,
        CLEAR => tx.execute("DELETE FROM _muster_alarm_history WHERE deactivated_at IS NOT NULL", [])?,
        _ => 0,
    };
    Ok(())
}

/// The platform's own that are on, by name and subject.
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

/// Everything that is silent after `now_ms`, the oldest first; and what was silent lately, as a clock that is ahead
/// when it is asked must not forget it.
pub(super) fn silences(db: &Connection, now_ms: i64) -> Result<Vec<Silence>, rusqlite::Error> {
    let sql = "SELECT * FROM _muster_alarm_silences WHERE until > ?1 ORDER BY id";
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map([now_ms.saturating_sub(AHEAD_MS_MAX)], |row| {
        Ok(Silence {
            id: uint(row, "id")?,
            name: row.get("name")?,
            clientid: row.get("clientid")?,
            until_ms: row.get("until")?,
            by: row.get("made_by")?,
            comment: row.get("comment")?,
        })
    })?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_anything() {
        for (pattern, text, like) in [
            ("boiler-*", "boiler-1", true),
            ("boiler-*", "boile", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("a*b*c", "a12b3c", true),
            ("a*b*c", "a12c", false),
            ("*-1", "boiler-1", true),
            ("*-1", "boiler-12", false),
            ("x", "x", true),
            ("x", "xx", false),
        ] {
            assert_eq!(is_like(pattern, text), like, "{pattern} {text}");
        }
    }
}
