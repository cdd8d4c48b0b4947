//! The plain model of an alarm that is raised by absence: the definition, read off the log in the most obvious way. It
//! must never know how Muster waits, nor anything of devices beyond their events.

use std::collections::BTreeMap;

use muster_core::event::proto::Alarm;
use muster_core::event::proto::event::Detail;
use muster_core::event::{Event, EventKind};
use muster_tests::log::LogContents;
use muster_tests::{Home, Muster};
use serde_json::Value;

/// The alarm's name in its definition.
const NAME: &str = "offline";
/// How long a device may be gone.
const GRACE_MS: i64 = 400;
/// Who has been due for so long while Muster ran has been told of, however slow the machine is.
const LATE_MS: i64 = 3_000;
/// A return is in the log so soon after the moment that it names.
const APPENDED_MS: i64 = 300;
/// A device that nobody misses.
const UNWATCHED: &str = "d0";

/// Whether the clock is stepped, which decides what times can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clock {
    /// What fell due when cannot be told. What is told is held against the log, and not what is missing.
    Stepped,
    /// It shows the time.
    Right,
}

/// What the rule file says, with limits that no run reaches; its words mean nothing.
pub(super) fn definition(words: u32) -> String {
    format!(
        "CREATE ALARM {NAME} INTO sqlite.alarms\n\
         WITH (severity = 'critical', message = 'in other words {words}', start = 'earliest', \
         max_active = 100000, storm_per_minute = 100000) AS\n\
         ABSENCE OF \"$events/client/connected\" FOR {GRACE_MS}ms AFTER \"$events/client/disconnected\"\n\
         WHERE clientid <> '{UNWATCHED}';\n"
    )
}

/// From a disconnect to the next connect.
#[derive(Debug, Clone)]
struct Absence {
    /// When it went.
    since_ms: i64,
    /// When the log tells of it: the same, unless it went with the server.
    told_ms: i64,
    /// Where and when it came back.
    back: Option<(u64, i64)>,
    /// Since when Muster ran at that moment, or at the end of the log.
    running_since_ms: i64,
    raised: Option<Raised>,
}

/// An alarm from its beginning to its end.
#[derive(Debug, Clone)]
struct Raised {
    offset: u64,
    at_ms: i64,
    alarm: Alarm,
    end: Option<(u64, Alarm)>,
}

/// Whether the log's alarms are what the definition makes of the log's connects and disconnects, and what REST and the
/// table say of them. Gives how many were raised.
///
/// # Errors
/// Where they are not.
pub(super) async fn agree(
    home: &Home,
    muster: &Muster,
    log: &LogContents,
    clock: Clock,
) -> Result<usize, String> {
    let devices = absences(log)?;
    let now_ms = log.events.last().map_or(0, |event| event.timestamp_ms);
    for (clientid, absence) in devices.iter().flat_map(|(id, all)| all.iter().map(move |it| (id, it))) {
        let what = match &absence.raised {
            Some(raised) => judge(clientid, absence, raised, clock),
            None if clock == Clock::Right && clientid != UNWATCHED => missing(absence, now_ms),
            None => None,
        };
        if let Some(what) = what {
            return Err(format!("{clientid}: {what}: {absence:?}"));
        }
    }
    let raised = || {
        let all = devices.iter().flat_map(|(id, all)| all.iter().map(move |it| (id.as_str(), it)));
        all.filter_map(|(id, it)| Some((id, it.raised.as_ref()?)))
    };
    list_agrees(muster, raised().filter(|(_, it)| it.end.is_none()).map(|(id, _)| id).collect()).await?;
    table_agrees(home, raised())?;
    Ok(raised().count())
}

fn judge(clientid: &str, absence: &Absence, raised: &Raised, clock: Clock) -> Option<&'static str> {
    let Raised { alarm, .. } = raised;
    if clientid == UNWATCHED {
        return Some("raised against WHERE");
    }
    if (alarm.kind.as_str(), alarm.severity.as_str()) != ("absence", "critical") {
        return Some("not as it is defined");
    }
    if alarm.activated_at_ms != absence.told_ms + GRACE_MS {
        return Some("activated_at is not the moment at which it fell due");
    }
    if clock == Clock::Right && raised.at_ms < alarm.activated_at_ms {
        return Some("raised too early");
    }
    let was_back = absence.back.is_some_and(|(_, at_ms)| at_ms - absence.told_ms < GRACE_MS - APPENDED_MS);
    if clock == Clock::Right && was_back {
        return Some("raised after it was back in time");
    }
    match (&raised.end, absence.back) {
        (None, None) => None,
        (None, Some(_)) => Some("not cleared by the return"),
        (Some(_), None) => Some("cleared without a return"),
        (Some((offset, end)), Some((back, back_ms))) => {
            // Whose return came while it was being raised may be back as of then.
            let is_then = end.deactivated_at_ms == back_ms
                || back < raised.offset && end.deactivated_at_ms == raised.at_ms;
            let length_ms = (end.deactivated_at_ms - alarm.since_ms).max(0);
            let is_same = (end.since_ms, end.activated_at_ms) == (alarm.since_ms, alarm.activated_at_ms);
            let is_right = is_then && is_same && *offset > back && end.duration_ms == length_ms;
            (!is_right || end.details.contains("reason")).then_some("cleared, but not as it was")
        }
    }
}

/// Of what was not raised: whether there was time enough to raise it.
fn missing(absence: &Absence, now_ms: i64) -> Option<&'static str> {
    let due_ms = (absence.told_ms + GRACE_MS).max(absence.running_since_ms);
    let until_ms = absence.back.map_or(now_ms, |(_, at_ms)| at_ms);
    (until_ms - due_ms >= LATE_MS).then_some("not raised")
}

/// The absences of each device with their alarms.
fn absences(log: &LogContents) -> Result<BTreeMap<String, Vec<Absence>>, String> {
    let mut devices: BTreeMap<String, Vec<Absence>> = BTreeMap::new();
    let mut started_ms = 0;
    for event in &log.events {
        let (offset, at_ms) = (event.offset, event.timestamp_ms);
        match event.kind {
            EventKind::NodeStarted => {
                started_ms = at_ms;
                let open = devices.values_mut().filter_map(|all| all.last_mut());
                open.filter(|it| it.back.is_none()).for_each(|it| it.running_since_ms = at_ms);
            }
            EventKind::ClientDisconnected => {
                let Some(Detail::Disconnected(end)) = &event.body.detail else { continue };
                let absence = Absence {
                    since_ms: end.disconnected_at_ms,
                    told_ms: at_ms,
                    back: None,
                    running_since_ms: started_ms,
                    raised: None,
                };
                devices.entry(event.clientid().to_owned()).or_default().push(absence);
            }
            EventKind::ClientConnected => {
                if let Some(last) = devices.get_mut(event.clientid()).and_then(|all| all.last_mut()) {
                    last.back = Some((offset, at_ms));
                }
            }
            EventKind::AlarmActivated | EventKind::AlarmDeactivated => {
                let Some(Detail::Alarm(alarm)) = &event.body.detail else { continue };
                if alarm.name == NAME {
                    let all = devices.get_mut(event.clientid()).map_or(&mut [][..], Vec::as_mut_slice);
                    told(all, event, alarm).map_err(|what| format!("{what}: {event:?}, {all:?}"))?;
                }
            }
            _ => {}
        }
    }
    Ok(devices)
}

/// Notes what is told where it belongs: it begins once for an absence, and ends before another begins.
fn told(all: &mut [Absence], event: &Event, alarm: &Alarm) -> Result<(), &'static str> {
    let on = all.iter().position(|it| it.raised.as_ref().is_some_and(|raised| raised.end.is_none()));
    match (event.kind, on) {
        (EventKind::AlarmActivated, None) => {
            let about = all.iter_mut().rfind(|it| it.since_ms == alarm.since_ms);
            let about = about.ok_or("about no absence")?;
            if about.raised.is_some() {
                return Err("raised more than once");
            }
            let (offset, at_ms) = (event.offset, event.timestamp_ms);
            about.raised = Some(Raised { offset, at_ms, alarm: alarm.clone(), end: None });
            Ok(())
        }
        (EventKind::AlarmDeactivated, Some(on)) => {
            if let Some(raised) = &mut all[on].raised {
                raised.end = Some((event.offset, alarm.clone()));
            }
            Ok(())
        }
        _ => Err("raised and cleared do not alternate"),
    }
}

async fn list_agrees(muster: &Muster, expected: Vec<&str>) -> Result<(), String> {
    for path in ["/api/v1/alarms?active=true&limit=1000", "/api/v5/alarms?activated=true&limit=1000"] {
        let listed = muster.json(path).await;
        let listed = listed["data"].as_array().ok_or("no data")?;
        let mut listed: Vec<_> = listed.iter().filter_map(clientid).collect();
        listed.sort_unstable();
        if listed != expected {
            return Err(format!("{path} has {listed:?}, and not {expected:?}"));
        }
    }
    Ok(())
}

/// Whom an entry of a list is about, if it is this alarm's.
fn clientid(entry: &Value) -> Option<&str> {
    match entry["clientid"].as_str().filter(|_| entry["name"] == NAME) {
        Some(clientid) => Some(clientid),
        None => entry["name"].as_str()?.strip_prefix(NAME)?.strip_prefix('/'),
    }
}

fn table_agrees<'a>(home: &Home, raised: impl Iterator<Item = (&'a str, &'a Raised)>) -> Result<(), String> {
    let mut rows = home.lines("SELECT clientid, since, activated_at, duration, event FROM alarms");
    let mut expected: Vec<String> = Vec::new();
    for (clientid, it) in raised {
        let row = |alarm: &Alarm, duration: &str, event: &str| {
            format!("{clientid}|{}|{}|{duration}|{event}", alarm.since_ms, alarm.activated_at_ms)
        };
        expected.push(row(&it.alarm, "", "alarm.activated"));
        let end = it.end.as_ref().map(|(_, end)| end);
        expected.extend(end.map(|end| row(end, &end.duration_ms.to_string(), "alarm.deactivated")));
    }
    rows.sort();
    expected.sort();
    if rows == expected { Ok(()) } else { Err(format!("the table of alarms has {rows:?} for {expected:?}")) }
}
