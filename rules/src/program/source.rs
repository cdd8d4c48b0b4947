//! FROM: which events a rule sees.

use muster_core::event::{Event, EventKind, EventKinds};
use muster_core::topic;

/// What the reference calls events that Muster does not have; known so that messages can say so.
pub(crate) const FOREIGN_EVENTS: &[(&str, &[&str])] = &[
    ("client.ping", &["$events/client/ping"]),
    ("schema.validation_failed", &["$events/schema_validation/failed", "$events/schema_validation_failed"]),
    (
        "message.transformation_failed",
        &["$events/message_transformation/failed", "$events/message_transformation_failed"],
    ),
];

/// What a rule wants to see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wants {
    /// Kinds of events, `message.publish` among them if there are topic filters.
    pub kinds: EventKinds,
    /// Filters on the topics of published messages.
    pub filters: Vec<String>,
}

impl Wants {
    /// Whether the event is among them. Costs no memory.
    pub fn matches(&self, event: &Event) -> bool {
        self.includes(event.kind, &event.topic)
    }

    /// Whether events of this kind and topic are among them: what the header of a record tells. Costs no memory.
    pub fn includes(&self, kind: EventKind, topic: &str) -> bool {
        self.kinds.contains(kind)
            && (kind != EventKind::MessagePublish
                || self.filters.iter().any(|filter| topic::matches(filter, topic)))
    }

    /// Takes in one name of FROM; whether it can ever match.
    pub(crate) fn add(&mut self, name: &str) -> bool {
        if name.starts_with("$events/") {
            let kinds: EventKinds =
                EventKind::all().filter(|kind| names_event(name, kind.topics())).collect();
            self.kinds = self.kinds.union(kinds);
            return kinds != EventKinds::NONE;
        }
        if is_connector(name) {
            return false;
        }
        self.kinds = self.kinds.with(EventKind::MessagePublish);
        self.filters.push(name.to_owned());
        true
    }
}

/// Messages from connectors of the reference, which Muster does not have.
pub(crate) fn is_connector(name: &str) -> bool {
    name.starts_with("$bridges/") || name.starts_with("$sources/")
}

/// Whether `name`, which may hold wildcards, means the event of these topics. Wildcards see the current spelling only.
pub(crate) fn names_event(name: &str, topics: &[&str]) -> bool {
    topics.contains(&name) || topics.first().is_some_and(|current| topic::matches(name, current))
}

/// Whether FROM matches columns that came by name.
pub(crate) fn matches_named(from: &[String], event: &str, topic: &str) -> bool {
    let foreign =
        || FOREIGN_EVENTS.iter().find(|(name, _)| *name == event).map_or(&[][..], |(_, topics)| topics);
    let topics = EventKind::from_name(event).map_or_else(foreign, EventKind::topics);
    from.iter().any(|name| match event {
        "message.publish" => {
            !name.starts_with("$events/") && !is_connector(name) && topic::matches(name, topic)
        }
        _ => name.starts_with("$events/") && names_event(name, topics),
    })
}
