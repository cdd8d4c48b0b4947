//! The plain model of presence: the log, folded in the most obvious way, and what must be true of it and of what the
//! devices saw. It must never know how Muster folds, nor anything of rules and targets.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use muster_core::event::proto::Client;
use muster_core::event::proto::event::Detail;
use muster_core::event::{Event, EventKind};
use muster_tests::log::LogContents;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::device::{Fate, RunEnd, Seen};

/// An end that a device saw this long before kill -9 is in the log, however slow the machine is. Nobody waits for it,
/// as CONNACK does for a beginning.
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
    /// The longest time between an end and the beginning after it.
    longest_outage: i64,
    /// When it went, each time.
    went: Vec<i64>,
    flapping_until: i64,
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
            self.longest_outage.to_string(),
            self.flapping_until.to_string(),
        ]
    }

    /// Five ends within ten minutes, and ten minutes after the last of them.
    fn flaps(&mut self, at: i64) {
        self.went.push(at);
        let mut last: Vec<_> = self.went.iter().rev().take(5).collect();
        last.sort_unstable();
        if last.len() == 5 && last[4] - last[0] <= 600_000 {
            self.flapping_until = at + 600_000;
        }
    }
}

/// A session, as its own events tell.
#[derive(Debug, Clone)]
struct Stay {
    clientid: String,
    came: i64,
    went: Option<i64>,
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
    /// Why and when each connection ended, of one line in their order; none while it is open.
    ends: HashMap<Line, Vec<Option<(String, i64)>>>,
    /// All sessions, in their order.
    stays: Vec<Stay>,
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
        let outage = device.disconnected_at.map_or(0, |went| connection.connected_at_ms - went);
        device.longest_outage = device.longest_outage.max(outage);
        device.online = true;
        device.since = connection.connected_at_ms;
        device.connected_at = Some(connection.connected_at_ms);
        device.session = client.session;
        device.seq = client.seq;
        device.connects += 1;
        device.username.clone_from(&client.username);
        device.peername.clone_from(&client.peername);
        self.ends.entry(line(client)).or_default().push(None);
        let (clientid, came) = (client.clientid.clone(), connection.connected_at_ms);
        self.stays.push(Stay { clientid, came, went: None });
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
        device.flaps(end.disconnected_at_ms);
        let last = self.ends.get_mut(&line(client)).and_then(|ends| ends.last_mut()).expect("it began");
        *last = Some((end.reason.clone(), end.disconnected_at_ms));
        let stay = self.stays.iter_mut().rfind(|it| it.clientid == client.clientid).expect("it began");
        stay.went = Some(end.disconnected_at_ms);
    }

    /// Who was here at a moment.
    pub(super) fn present(&self, at: i64) -> BTreeSet<&str> {
        let here = |it: &&Stay| it.came <= at && it.went.is_none_or(|went| at < went);
        self.stays.iter().filter(here).map(|it| it.clientid.as_str()).collect()
    }

    /// A moment at which, or near which, somebody came or went.
    pub(super) fn moment(&self, random: &mut StdRng) -> i64 {
        let near = random.random_range(-2..=2);
        let is_end = random.random_bool(0.5);
        let at = |it: &Stay| it.went.filter(|_| is_end).unwrap_or(it.came);
        self.stays.choose(random).map_or(0, at) + near
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
    /// one that goes on is not in it.
    ///
    /// # Errors
    /// Where they differ. Whoever had its CONNACK is in the log, whatever happened after it.
    pub(super) fn agree_with(&self, seen: &[Seen], ends: &[RunEnd]) -> Result<(), String> {
        let mut by_line: HashMap<Line, Vec<&Seen>> = HashMap::new();
        for seen in seen {
            let line = (seen.clientid.clone(), seen.peername.clone(), seen.broker.clone());
            by_line.entry(line).or_default().push(seen);
        }
        if let Some(line) = self.ends.keys().find(|line| !by_line.contains_key(*line)) {
            return Err(format!("a connection in the log that no device has made: {line:?}"));
        }
        for (line, mut seen) in by_line {
            let told = self.ends.get(&line).map_or(&[][..], Vec::as_slice);
            if told.len() < seen.len() {
                // Without CONNACK it may have come to nothing.
                seen.retain(|it| it.accepted);
            }
            if told.len() < seen.len() {
                return Err(format!("accepted and not in the log: {seen:?}, {told:?}, {ends:?}"));
            }
            let mut both = seen.iter().zip(told);
            let fits = both.all(|(it, end)| it.allows(end.as_ref(), ends.get(it.run)));
            if told.len() > seen.len() || !fits {
                return Err(format!("ended as {told:?}: {seen:?}, {ends:?}"));
            }
        }
        Ok(())
    }
}

fn line(client: &Client) -> Line {
    (client.clientid.clone(), client.peername.clone(), client.sockname.clone())
}

impl Seen {
    fn allows(&self, told: Option<&(String, i64)>, end: Option<&RunEnd>) -> bool {
        let (expected, at) = match &self.fate {
            Fate::Open => (&[][..], None),
            Fate::Ending(reasons) => (*reasons, None),
            Fate::Ended(reasons, at) => (*reasons, Some(*at)),
        };
        let Some((reason, told_ms)) = told else {
            return end.is_none() && matches!(self.fate, Fate::Open);
        };
        if expected.contains(&reason.as_str()) {
            return true;
        }
        let Some(end) = end else { return false };
        // A device that got no answer gave up, and a Muster that stops in order saw that.
        let gave_up = matches!(self.fate, Fate::Ending(_)) || !self.accepted;
        if gave_up && reason == "tcp_closed" {
            return true;
        }
        let unwritten = |at| end.killed_at.is_some_and(|killed| killed.duration_since(at) < WRITTEN_AFTER);
        // Nobody was here after the end of the run, however often the next one was killed over saying so.
        let is_in_time = end.killed_ms.is_none_or(|killed_ms| *told_ms <= killed_ms);
        end.reason() == reason && at.is_none_or(unwritten) && is_in_time
    }
}
