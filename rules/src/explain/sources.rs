//! FROM, in words: what each name reaches and which events it stands for.

use muster_core::event::EventKind;
use serde::Serialize;

use crate::ast::Name;
use crate::program::source::{Wants, is_connector, names_event};

/// How far a name of FROM reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// One topic.
    Topic,
    /// Topics under a filter with wildcards.
    Topics,
    /// Every topic that does not begin with `$`.
    AllTopics,
    /// One kind of event.
    Event,
    /// Several kinds of events, by wildcards.
    Events,
    /// Nothing: it never matches.
    Nothing,
}

/// One name of FROM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reads {
    /// As it is written.
    pub from: String,
    /// How far it reaches.
    pub reach: Reach,
    /// The kinds of events that it stands for.
    pub events: Vec<&'static str>,
}

/// A kind of event that wakes a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Woken {
    /// Its name, the column `event`.
    pub event: &'static str,
    /// How FROM may spell it, the current spelling first; of published messages the filters.
    pub topics: Vec<String>,
    /// Whether it is written only while some rule wants it.
    pub on_request: bool,
}

pub(super) fn reads(from: &[Name]) -> Vec<Reads> {
    let one = |name: &Name| {
        let from = name.text.as_str();
        let wildcards = from.contains(['+', '#']);
        let kinds: Vec<_> = EventKind::all().filter(|kind| names_event(from, kind.topics())).collect();
        let is_event = from.starts_with("$events/");
        let reach = match (is_event, kinds.len()) {
            (true, 0) => Reach::Nothing,
            (true, 1) if !wildcards => Reach::Event,
            (true, _) => Reach::Events,
            _ if is_connector(from) => Reach::Nothing,
            _ if from == "#" => Reach::AllTopics,
            _ if wildcards => Reach::Topics,
            _ => Reach::Topic,
        };
        let events = match reach {
            Reach::Topic | Reach::Topics | Reach::AllTopics => vec![EventKind::MessagePublish.name()],
            _ => kinds.into_iter().map(EventKind::name).collect(),
        };
        Reads { from: from.to_owned(), reach, events }
    };
    from.iter().map(one).collect()
}

pub(super) fn woken(wants: &Wants, from: &[Name]) -> Vec<Woken> {
    let kinds = EventKind::all().filter(|kind| wants.kinds.contains(*kind));
    let one = |kind: EventKind| {
        let topics: Vec<String> = match kind {
            EventKind::MessagePublish => {
                let filters = from.iter().map(|name| name.text.clone());
                filters.filter(|name| wants.filters.contains(name)).collect()
            }
            _ => kind.topics().iter().map(|topic| (*topic).to_owned()).collect(),
        };
        Woken { event: kind.name(), topics, on_request: kind.is_on_request() }
    };
    kinds.map(one).collect()
}
