//! What the fold writes beside the table of devices: a row a session, how many came and went in each minute, and what
//! else happened to a device. Everything follows from the events and their order alone, so that the same log makes the
//! same rows however it is cut into batches. It must never be asked a question; those who look are elsewhere.

use std::collections::HashMap;

use muster_core::event::proto::event::Detail;
use muster_core::event::{Event, EventKind, EventKinds};
use rusqlite::{OptionalExtension as _, Transaction, params};
use serde_json::json;

use super::calendar::Calendar;
use super::fold::{Device, fold};
use super::moment::fork;
use super::store::{device, int, put};

/// History that is older than this is removed, once a day of event time.
pub const HISTORY_DAYS_MAX: i64 = 400;

/// Further events that are kept as a device's history.
pub(super) const KINDS: EventKinds =
    EventKinds::NONE.with(EventKind::SessionSubscribed).with(EventKind::SessionUnsubscribed);

const DAY_MS: i64 = 86_400_000;
const MINUTE_MS: i64 = 60_000;

/// Events that are folded in one transaction. Each device is read and written once.
pub(super) struct Batch<'a> {
    tx: &'a Transaction<'a>,
    devices: HashMap<String, Known>,
    next_number: u64,
    minutes: HashMap<i64, (i64, i64)>,
    calendar: Calendar,
    changes: usize,
}

#[derive(Default)]
struct Known {
    device: Option<Device>,
    is_changed: bool,
}

impl<'a> Batch<'a> {
    /// `first` is the offset at which the fold begins if this is its first batch.
    pub(super) fn begin(tx: &'a Transaction<'a>, first: u64) -> Result<Self, rusqlite::Error> {
        tx.prepare_cached("INSERT OR IGNORE INTO _muster_history (id, first, pruned_day) VALUES (1, ?1, 0)")?
            .execute([int(first)])?;
        let calendar = tx
            .prepare_cached("SELECT pruned_day, era_since, era_events FROM _muster_history WHERE id = 1")?
            .query_row([], |row| {
                Ok(Calendar { day: row.get(0)?, era_since_ms: row.get(1)?, era_events: row.get(2)? })
            })?;
        let highest: i64 = tx
            .prepare_cached("SELECT COALESCE(MAX(number), 0) FROM devices WHERE number > 0")?
            .query_row([], |row| row.get(0))?;
        let next_number = u64::try_from(highest).unwrap_or_default() + 1;
        let (devices, minutes) = (HashMap::new(), HashMap::new());
        Ok(Self { tx, devices, next_number, minutes, calendar, changes: 0 })
    }

    /// Folds an event about a client.
    pub(super) fn take(&mut self, event: &Event) -> Result<(), rusqlite::Error> {
        let clientid = event.clientid();
        if !self.devices.contains_key(clientid) {
            let device = device(self.tx, clientid)?;
            self.devices.insert(clientid.to_owned(), Known { device, is_changed: false });
        }
        let known = self.devices.entry(clientid.to_owned()).or_default();
        let Some(mut next) = fold(known.device.as_ref(), event) else {
            let number = known.device.as_ref().map(|device| device.number);
            return number.map_or(Ok(()), |number| note(self.tx, number, event));
        };
        if next.number == 0 {
            next.number = self.next_number;
            self.next_number += 1;
        }
        let before = known.device.replace(next);
        known.is_changed = true;
        self.changes += 1;
        let Known { device: Some(device), .. } = &*known else { return Ok(()) };
        if device.online {
            came(self.tx, before.as_ref(), device, event, &mut self.minutes)?;
        } else {
            went(self.tx, before.as_ref(), device, event, &mut self.minutes)?;
        }
        let since_ms = device.since_ms;
        self.calendar.pass(since_ms).map_or(Ok(()), |day| self.prune(day))
    }

    /// An event about something else that belongs to a device's history: an alarm.
    pub(super) fn note(&mut self, event: &Event) -> Result<(), rusqlite::Error> {
        let clientid = event.clientid();
        if clientid.is_empty() {
            return Ok(());
        }
        let cached = self.devices.get(clientid).map(|known| known.device.as_ref().map(|it| it.number));
        let number = match cached {
            Some(number) => number,
            None => device(self.tx, clientid)?.map(|it| it.number),
        };
        number.map_or(Ok(()), |number| note(self.tx, number, event))
    }

    /// Writes what is still in memory; how many events changed a device.
    pub(super) fn finish(mut self) -> Result<usize, rusqlite::Error> {
        self.write_minutes()?;
        let Calendar { day, era_since_ms, era_events } = self.calendar;
        self.tx
            .prepare_cached("UPDATE _muster_history SET pruned_day = ?1, era_since = ?2, era_events = ?3")?
            .execute([day, era_since_ms, era_events])?;
        for known in self.devices.values().filter(|known| known.is_changed) {
            if let Some(device) = &known.device {
                put(self.tx, device)?;
            }
        }
        Ok(self.changes)
    }

    fn write_minutes(&mut self) -> Result<(), rusqlite::Error> {
        let mut add = self.tx.prepare_cached(
            "INSERT INTO _muster_minutes (minute, connects, disconnects) VALUES (?1, ?2, ?3)
             ON CONFLICT (minute) DO UPDATE SET connects = connects + excluded.connects,
                 disconnects = disconnects + excluded.disconnects",
        )?;
        for (minute, (connects, disconnects)) in self.minutes.drain() {
            add.execute([minute, connects, disconnects])?;
        }
        Ok(())
    }

    /// Removes what is too old when a day begins: which event that is follows from the log.
    fn prune(&mut self, day: i64) -> Result<(), rusqlite::Error> {
        let before = (day - HISTORY_DAYS_MAX).saturating_mul(DAY_MS);
        let tx = self.tx;
        // A fork is never behind its session's end, so that this looks at old rows alone.
        tx.execute("DELETE FROM _muster_sessions WHERE fork < ?1 AND went < ?1", [before])?;
        tx.execute("DELETE FROM _muster_device_events WHERE at < ?1", [before])?;
        tx.execute("DELETE FROM _muster_alarm_history WHERE deactivated_at < ?1", [before])?;
        tx.execute("DELETE FROM _muster_alarm_silences WHERE until < ?1", [before])?;
        self.write_minutes()?;
        tx.execute("DELETE FROM _muster_minutes WHERE minute < ?1", [before.div_euclid(MINUTE_MS)])?;
        Ok(())
    }
}

type Minutes = HashMap<i64, (i64, i64)>;

fn came(
    tx: &Transaction<'_>,
    before: Option<&Device>,
    device: &Device,
    event: &Event,
    minutes: &mut Minutes,
) -> Result<(), rusqlite::Error> {
    // The end of the session before it was never seen; it ended at the latest now.
    if let Some(open) = before.filter(|it| it.online) {
        close(tx, open, device.since_ms, None, None, minutes)?;
    }
    tx.prepare_cached(
        "INSERT OR IGNORE INTO _muster_sessions (device, session, came, username, peername, came_offset)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        int(device.number),
        int(device.session),
        device.since_ms,
        device.username,
        device.peername,
        int(event.offset),
    ])?;
    minutes.entry(device.since_ms.div_euclid(MINUTE_MS)).or_default().0 += 1;
    Ok(())
}

fn went(
    tx: &Transaction<'_>,
    before: Option<&Device>,
    device: &Device,
    event: &Event,
    minutes: &mut Minutes,
) -> Result<(), rusqlite::Error> {
    let is_known = before.is_some_and(|it| it.online && it.session == device.session);
    if !is_known {
        if let Some(open) = before.filter(|it| it.online) {
            close(tx, open, device.since_ms, None, None, minutes)?;
        }
        // Its beginning is told by its end.
        let came_ms = device.connected_at_ms.unwrap_or(device.since_ms);
        tx.prepare_cached(
            "INSERT OR IGNORE INTO _muster_sessions (device, session, came, username, peername)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            int(device.number),
            int(device.session),
            came_ms,
            device.username,
            device.peername
        ])?;
        minutes.entry(came_ms.div_euclid(MINUTE_MS)).or_default().0 += 1;
    }
    let offset = Some(event.offset);
    close(tx, device, device.since_ms, device.reason.as_deref(), offset, minutes)
}

/// Ends the latest session of `device` at `went_ms`, or when it began if a clock was set back since.
fn close(
    tx: &Transaction<'_>,
    device: &Device,
    went_ms: i64,
    reason: Option<&str>,
    offset: Option<u64>,
    minutes: &mut Minutes,
) -> Result<(), rusqlite::Error> {
    let key = [int(device.number), int(device.session)];
    let came_ms: Option<i64> = tx
        .prepare_cached("SELECT came FROM _muster_sessions WHERE device = ?1 AND session = ?2")?
        .query_row(key, |row| row.get(0))
        .optional()?;
    let Some(came_ms) = came_ms else { return Ok(()) };
    let went_ms = went_ms.max(came_ms);
    tx.prepare_cached(
        "UPDATE _muster_sessions SET went = ?3, fork = ?4, reason = ?5, went_offset = ?6
         WHERE device = ?1 AND session = ?2",
    )?
    .execute(params![key[0], key[1], went_ms, fork(came_ms, went_ms), reason, offset.map(int)])?;
    minutes.entry(went_ms.div_euclid(MINUTE_MS)).or_default().1 += 1;
    Ok(())
}

fn note(tx: &Transaction<'_>, number: u64, event: &Event) -> Result<(), rusqlite::Error> {
    let detail = match &event.body.detail {
        Some(Detail::Subscribed(it) | Detail::Unsubscribed(it)) => {
            json!({"topic": event.topic, "qos": it.qos, "by_proxy": it.by_proxy})
        }
        Some(Detail::Alarm(it)) => json!({"name": it.name, "message": it.message}),
        _ => return Ok(()),
    };
    tx.prepare_cached(
        "INSERT OR IGNORE INTO _muster_device_events (device, offset, at, kind, detail) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        int(number),
        int(event.offset),
        event.timestamp_ms,
        event.kind.name(),
        detail.to_string()
    ])?;
    Ok(())
}
