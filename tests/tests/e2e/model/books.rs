//! The plain model of presence: the log, folded in the most obvious way, and what must be true of it and of what the
//! devices saw. It must never know how Muster folds, nor anything of rules and targets.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use muster_core::event::proto::Client;
use muster_core::event::proto::event::Detail;
use muster_core::event::{Event, EventKind};
use muster_tests::log::LogContents;

use super::device::{Fate, RunEnd, Seen};

/// What was done this long before kill -9 is in the log, however slow the machine is.
const WRITTEN_AFTER: Duration = Duration::from_secs(10);

/// A device as the log shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) online: bool,
    pub(super) since: i64,
    pub(super) connected_at: Option<i64>,
    pub(super) disconnected_at: Option<i64>,
    pub(super) reason: Option<String>,
    pub(super) session: u64,
    pub(super) seq: u64,
    pub(super) connects: u64,
    pub(super) disconnects: u64,
    pub(super) username: Option<String>,
    pub(super) peername: String,
}

impl Device {
    /// As the table of devices has it, client id aside: since, connected_at, ...
    pub(super) fn cells(&self) -> Vec<String> {
        let text = |it: &Option<String>| it.clone().unwrap_or_default();
        let time = |it: Option<i64>| it.map(|at| at.to_string()).unwrap_or_default();
        vec![
            u8::from(self.online).to_string(),
            self.since.to_string(),
            time(self.connected_at),
            time(self.disconnected_at),
            text(&self.reason),
            self.session.to_string(),
            self.seq.to_string(),
            self.connects.to_string(),
            self.disconnects.to_string(),
            text(&self.username),
            self.peername.clone(),
        ]
    }
}

/// A row of the history.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) clientid: String,
    pub(super) seq: u64,
    pub(super) session: u64,
    pub(super) event: String,
    pub(super) reason: Option<String>,
    pub(super) at: i64,
}

/// Client and both ends of a connection; ports come again, rarely.
type Line = (String, String, String);

/// The log, folded.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) devices: BTreeMap<String, Device>,
    pub(super) history: Vec<Entry>,
    /// Why each connection ended, of one line in their order; none while it is open.
    stays: HashMap<Line, Vec<Option<String>>>,
}

impl Books {
    /// Folds a log.
    ///
    /// # Panics
    /// When states do not alternate, a number does not grow, or an end lies before its beginning.
    pub(super) fn of(log: &LogContents) -> Self {
        let mut books = Self::default();
        let mut seqs: HashMap<(&str, u64), u64> = HashMap::new();
        // What is told of a device is no event of its session.
        for event in log.events.iter().filter(|event| !event.kind.name().starts_with("alarm.")) {
            let Some(client) = event.body.client.as_ref().filter(|client| client.session > 0) else {
                continue;
            };
            let last = seqs.insert((&client.clientid, client.session), client.seq);
            assert!(last.is_none_or(|last| client.seq > last), "seq grows within a session: {event:?}");
            assert!(
                client.session <= event.offset && client.seq <= event.offset,
                "numbers are offsets: {event:?}"
            );
            match event.kind {
                EventKind::ClientConnected => books.came(event),
                EventKind::ClientDisconnected => books.went(event),
                _ => continue,
            }
            books.enter(event);
        }
        books
    }

    fn came(&mut self, event: &Event) {
        let Some(Detail::Connected(connection)) = &event.body.detail else { panic!("no detail: {event:?}") };
        let client = event.body.client.as_ref().expect("a client");
        let device = self.devices.entry(client.clientid.clone()).or_default();
        assert!(!device.online, "came while it was here: {device:?}, then {event:?}");
        assert!(client.session > device.session && client.session > device.seq, "{device:?}, then {event:?}");
        assert!(client.seq >= client.session, "seq begins at session: {event:?}");
        device.online = true;
        device.since = connection.connected_at_ms;
        device.connected_at = Some(connection.connected_at_ms);
        device.session = client.session;
        device.seq = client.seq;
        device.connects += 1;
        device.username.clone_from(&client.username);
        device.peername.clone_from(&client.peername);
        self.stays.entry(line(client)).or_default().push(None);
    }

    fn went(&mut self, event: &Event) {
        let Some(Detail::Disconnected(end)) = &event.body.detail else { panic!("no detail: {event:?}") };
        let client = event.body.client.as_ref().expect("a client");
        let device = self.devices.entry(client.clientid.clone()).or_default();
        assert!(device.online, "went while it was gone: {device:?}, then {event:?}");
        assert_eq!(client.session, device.session, "the session that began: {event:?}");
        assert_eq!(client.peername, device.peername, "the connection that began: {event:?}");
        assert!(client.seq > device.seq, "{device:?}, then {event:?}");
        assert_eq!(Some(end.connected_at_ms), device.connected_at, "{event:?}");
        assert!(end.disconnected_at_ms >= end.connected_at_ms, "it ended before it began: {event:?}");
        device.online = false;
        device.since = end.disconnected_at_ms;
        device.disconnected_at = Some(end.disconnected_at_ms);
        device.reason = Some(end.reason.clone());
        device.seq = client.seq;
        device.disconnects += 1;
        let stay = self.stays.get_mut(&line(client)).and_then(|stays| stays.last_mut()).expect("it began");
        *stay = Some(end.reason.clone());
    }

    fn enter(&mut self, event: &Event) {
        let reason = match &event.body.detail {
            Some(Detail::Disconnected(end)) => Some(end.reason.clone()),
            _ => None,
        };
        self.history.push(Entry {
            clientid: event.clientid().to_owned(),
            seq: event.seq(),
            session: event.session(),
            event: event.kind.name().to_owned(),
            reason,
            at: event.timestamp_ms,
        });
    }

    /// How often connections ended for each reason.
    pub(super) fn reasons(&self) -> BTreeMap<&str, usize> {
        let mut reasons = BTreeMap::new();
        for entry in &self.history {
            *reasons.entry(entry.reason.as_deref().unwrap_or("(came)")).or_default() += 1;
        }
        reasons
    }

    /// Compares the log with what the devices saw; `ends` says how each run of Muster ended; the
    /// one that goes on is not in it. Gives how many connections were accepted in the last moment before a kill and
    /// are not in the log, as may be: only what is acknowledged as a message must survive.
    ///
    /// # Errors
    /// Where they differ.
    pub(super) fn agree_with(&self, seen: &[Seen], ends: &[RunEnd]) -> Result<usize, String> {
        let mut unwritten = 0;
        let mut by_line: HashMap<Line, Vec<&Seen>> = HashMap::new();
        for seen in seen {
            let line = (seen.clientid.clone(), seen.peername.clone(), seen.broker.clone());
            by_line.entry(line).or_default().push(seen);
        }
        if let Some(line) = self.stays.keys().find(|line| !by_line.contains_key(*line)) {
            return Err(format!("a connection in the log that no device has made: {line:?}"));
        }
        for (line, mut seen) in by_line {
            let stays = self.stays.get(&line).map_or(&[][..], Vec::as_slice);
            if stays.len() < seen.len() {
                // Without CONNACK it may have come to nothing.
                seen.retain(|it| it.accepted.is_some());
            }
            for lost in seen.iter().skip(stays.len()) {
                if !lost.may_be_lost(ends.get(lost.run)) {
                    return Err(format!("accepted and not in the log: {seen:?}, {ends:?}"));
                }
                unwritten += 1;
            }
            let mut both = seen.iter().zip(stays);
            let fits = both.all(|(it, reason)| it.allows(reason.as_deref(), ends.get(it.run)));
            if stays.len() > seen.len() || !fits {
                return Err(format!("ended as {stays:?}: {seen:?}, {ends:?}"));
            }
        }
        Ok(unwritten)
    }
}

fn line(client: &Client) -> Line {
    (client.clientid.clone(), client.peername.clone(), client.sockname.clone())
}

impl Seen {
    /// Whether it began in the last moment before a kill.
    fn may_be_lost(&self, end: Option<&RunEnd>) -> bool {
        let killed = end.and_then(|end| end.killed_at).zip(self.accepted);
        killed.is_some_and(|(killed, accepted)| killed.duration_since(accepted) < WRITTEN_AFTER)
    }

    fn allows(&self, reason: Option<&str>, end: Option<&RunEnd>) -> bool {
        let (told, at) = match &self.fate {
            Fate::Open => (&[][..], None),
            Fate::Ending(reasons) => (*reasons, None),
            Fate::Ended(reasons, at) => (*reasons, Some(*at)),
        };
        let Some(reason) = reason else {
            return end.is_none() && matches!(self.fate, Fate::Open);
        };
        if told.contains(&reason) {
            return true;
        }
        let Some(end) = end else { return false };
        // A device that got no answer gave up, and a Muster that stops in order saw that.
        let gave_up = matches!(self.fate, Fate::Ending(_)) || self.accepted.is_none();
        if gave_up && reason == "tcp_closed" {
            return true;
        }
        let unwritten = |at| end.killed_at.is_some_and(|killed| killed.duration_since(at) < WRITTEN_AFTER);
        end.reason() == reason && at.is_none_or(unwritten)
    }
}
