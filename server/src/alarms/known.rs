//! What is known of a client, and what is said of it. It must never know when.

use std::collections::BTreeMap;
use std::sync::Arc;

use muster_core::event::proto::event::Detail;
use muster_core::event::{EventKind, NewEvent, proto};
use muster_core::value::{Map, Value};
use muster_rules::AlarmProgram;

/// What operators do to end an alarm; the object is `NAME/CLIENTID`, or `NAME` for all of that name.
pub const FORCE: &str = "alarms.force_deactivate";

/// Why an alarm ended whose client did not come back: `details.reason`.
pub(super) mod reason {
    /// Another definition of its name would not have raised it.
    pub(in crate::alarms) const CHANGED: &str = "definition_changed";
    /// Nothing defines it any more.
    pub(in crate::alarms) const REMOVED: &str = "definition_removed";
    /// An operator said so.
    pub(in crate::alarms) const FORCED: &str = "force_deactivated";

    /// The one of that name.
    pub(in crate::alarms) fn named(name: &str) -> Option<&'static str> {
        [CHANGED, REMOVED, FORCED].into_iter().find(|it| *it == name)
    }
}

/// A client's name, shared by everything that is known of it.
pub(super) type ClientId = Arc<str>;

/// A client that is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Armed {
    /// Its user name.
    pub username: Option<Arc<str>>,
    /// Since when it is absent.
    pub since_ms: i64,
    /// When it falls due.
    pub due_ms: i64,
    /// Whether it fell due and is told in the summary only.
    pub held: bool,
    /// Whether its event is on its way to the log.
    pub(super) raising: bool,
}

/// A client that is missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active {
    /// Its user name.
    pub username: Option<Arc<str>>,
    /// Since when it is absent; 0 where there is no absence.
    pub since_ms: i64,
    /// When it fell due.
    pub activated_at_ms: i64,
    /// When its event was written.
    pub raised_at_ms: i64,
    /// How it was raised; it ends as it began, whatever the definition says by then.
    pub kind: String,
    /// How bad it was said to be.
    pub severity: String,
    /// What was said.
    pub message: String,
    /// When it came back; its end is on its way to the log.
    pub until_ms: Option<i64>,
    /// Why it ended, where nobody came back.
    pub why: Option<&'static str>,
    /// Whether the end was appended in this run.
    pub(super) ending: bool,
}

/// The alarm that stands for many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// When it was raised.
    pub activated_at_ms: i64,
    /// How bad it was said to be.
    pub severity: String,
    /// What was said.
    pub message: String,
    /// How many it stood for, those who have come back among them.
    pub count: u64,
    /// How many that were when it was told last.
    pub told_count: u64,
    /// And when that was.
    pub told_at_ms: i64,
    /// Why it ends, unless nobody is left.
    pub why: Option<&'static str>,
    /// Whether its end was appended in this run.
    pub(super) ending: bool,
}

/// What is to be written to the log: whether it begins, and what it says of whom.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// Activated or deactivated.
    pub kind: EventKind,
    /// Whom it is about.
    pub client: Option<(ClientId, Option<Arc<str>>)>,
    /// What it says.
    pub body: proto::Alarm,
}

impl Notice {
    /// The event that says it.
    pub(super) fn event(self, node: &str, now_ms: i64) -> NewEvent {
        let client = self.client.map(|(clientid, username)| proto::Client {
            clientid: clientid.as_ref().to_owned(),
            username: username.as_deref().map(str::to_owned),
            ..proto::Client::default()
        });
        let detail = Some(Detail::Alarm(self.body));
        let body = proto::Event { node: node.to_owned(), client, detail, ..proto::Event::default() };
        NewEvent { timestamp_ms: now_ms, kind: self.kind, topic: String::new(), body }
    }
}

/// What is said when it begins.
pub(super) fn said(
    program: &AlarmProgram,
    kind: &str,
    about: Option<(&ClientId, &Armed)>,
    count: u64,
) -> proto::Alarm {
    let severity = program.severity().name();
    let (since_ms, activated_at_ms) = about.map_or((0, 0), |(_, armed)| (armed.since_ms, armed.due_ms));
    let time = |at_ms: i64| -> Value {
        let text = jiff::Timestamp::from_millisecond(at_ms).map(|at| at.to_string()).unwrap_or_default();
        text.as_str().into()
    };
    let mut row: BTreeMap<&str, Value> = BTreeMap::new();
    row.insert("name", program.name().into());
    row.insert("kind", kind.into());
    row.insert("severity", severity.into());
    if let Some((client, armed)) = about {
        row.insert("clientid", client.as_ref().into());
        row.insert("username", armed.username.as_deref().into());
        row.insert("since", time(since_ms));
        row.insert("activated_at", time(activated_at_ms));
    } else {
        row.insert("count", (count as i64).into());
    }
    let row: Map = row.into_iter().collect();
    let plain = || match about {
        None => format!("{}: {count} devices at once", program.name()),
        Some((client, _)) => format!("{}: {client}", program.name()),
    };
    let message = about.and_then(|_| program.message(&row)).unwrap_or_else(plain);
    proto::Alarm {
        name: program.name().to_owned(),
        message,
        details: "{}".to_owned(),
        activated_at_ms,
        kind: kind.to_owned(),
        severity: severity.to_owned(),
        since_ms,
        ..proto::Alarm::default()
    }
}

pub(super) fn ms(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX / 4)
}
