//! The kinds of events: their number on disk, their name, and the topics under which rules ask for them.

/// What happened. The number is what stands in a record's header: never changed, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
#[expect(missing_docs, reason = "the names are the documentation; fields in schemas/")]
pub enum EventKind {
    MessagePublish = 1,
    MessageDelivered = 2,
    MessageAcked = 3,
    MessageDropped = 4,
    DeliveryDropped = 5,
    ClientConnected = 10,
    ClientDisconnected = 11,
    ClientConnack = 12,
    ClientAuthn = 13,
    ClientAuthz = 14,
    SessionSubscribed = 20,
    SessionUnsubscribed = 21,
    AlarmActivated = 30,
    AlarmDeactivated = 31,
    Admin = 40,
    NodeStarted = 50,
    NodeStopped = 51,
    NodeAlive = 52,
}

struct Names {
    kind: EventKind,
    name: &'static str,
    /// The event topic and the older spelling, which stays valid.
    topics: &'static [&'static str],
}

const fn names(kind: EventKind, name: &'static str, topics: &'static [&'static str]) -> Names {
    Names { kind, name, topics }
}

/// One row a kind. A published message has its own topic and no event topic.
const NAMES: &[Names] = &[
    names(EventKind::MessagePublish, "message.publish", &[]),
    names(
        EventKind::MessageDelivered,
        "message.delivered",
        &["$events/message/delivered", "$events/message_delivered"],
    ),
    names(EventKind::MessageAcked, "message.acked", &["$events/message/acked", "$events/message_acked"]),
    names(
        EventKind::MessageDropped,
        "message.dropped",
        &["$events/message/dropped", "$events/message_dropped"],
    ),
    names(
        EventKind::DeliveryDropped,
        "delivery.dropped",
        &["$events/message/delivery_dropped", "$events/delivery_dropped"],
    ),
    names(
        EventKind::ClientConnected,
        "client.connected",
        &["$events/client/connected", "$events/client_connected"],
    ),
    names(
        EventKind::ClientDisconnected,
        "client.disconnected",
        &["$events/client/disconnected", "$events/client_disconnected"],
    ),
    names(EventKind::ClientConnack, "client.connack", &["$events/client/connack", "$events/client_connack"]),
    names(
        EventKind::ClientAuthn,
        "client.check_authn_complete",
        &["$events/auth/check_authn_complete", "$events/client_check_authn_complete"],
    ),
    names(
        EventKind::ClientAuthz,
        "client.check_authz_complete",
        &["$events/auth/check_authz_complete", "$events/client_check_authz_complete"],
    ),
    names(
        EventKind::SessionSubscribed,
        "session.subscribed",
        &["$events/session/subscribed", "$events/session_subscribed"],
    ),
    names(
        EventKind::SessionUnsubscribed,
        "session.unsubscribed",
        &["$events/session/unsubscribed", "$events/session_unsubscribed"],
    ),
    names(EventKind::AlarmActivated, "alarm.activated", &["$events/sys/alarm_activated"]),
    names(EventKind::AlarmDeactivated, "alarm.deactivated", &["$events/sys/alarm_deactivated"]),
    names(EventKind::Admin, "admin", &["$events/admin"]),
    names(EventKind::NodeStarted, "node.started", &["$events/node/started"]),
    names(EventKind::NodeStopped, "node.stopped", &["$events/node/stopped"]),
    names(EventKind::NodeAlive, "node.alive", &["$events/node/alive"]),
];

impl EventKind {
    /// Every kind.
    pub fn all() -> impl ExactSizeIterator<Item = Self> {
        NAMES.iter().map(|row| row.kind)
    }

    /// The number in a record's header.
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The kind of a record; none where a newer version wrote one that this version does not know.
    pub fn from_code(code: u16) -> Option<Self> {
        NAMES.iter().map(|row| row.kind).find(|kind| kind.code() == code)
    }

    /// The value of the column `event`, e.g. `client.connected`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The kind whose [`EventKind::name`] this is.
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|row| row.name == name).map(|row| row.kind)
    }

    /// The topics under which a rule selects it, the current spelling first; empty for `message.publish`, which is
    /// selected by the message's own topic.
    pub fn topics(self) -> &'static [&'static str] {
        self.row().topics
    }

    /// Whether the event carries a message.
    pub fn is_message(self) -> bool {
        matches!(
            self,
            Self::MessagePublish
                | Self::MessageDelivered
                | Self::MessageAcked
                | Self::MessageDropped
                | Self::DeliveryDropped
        )
    }

    /// Whether it is written only while somebody asks for it, because it comes once a delivery, not once a publish.
    pub fn is_on_request(self) -> bool {
        self.is_message() && self != Self::MessagePublish
    }

    fn row(self) -> &'static Names {
        // A test holds that each kind has its row; the first row is never reached as a fallback.
        NAMES.iter().find(|row| row.kind == self).unwrap_or(&NAMES[0])
    }
}

/// A set of kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventKinds(u64);

impl EventKinds {
    /// No kind.
    pub const NONE: Self = Self(0);

    /// Every kind, also those of newer versions.
    pub const ALL: Self = Self(u64::MAX);

    /// The set with `kind` in it.
    #[must_use]
    pub const fn with(self, kind: EventKind) -> Self {
        Self(self.0 | 1 << kind.code())
    }

    /// Everything that is in one of the two.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `kind` is in the set.
    pub const fn contains(self, kind: EventKind) -> bool {
        self.0 & 1 << kind.code() != 0
    }

    /// The set as bits, one a code; for an atomic that is read on every publish.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The set whose [`EventKinds::bits`] these are.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

impl FromIterator<EventKind> for EventKinds {
    fn from_iter<I: IntoIterator<Item = EventKind>>(kinds: I) -> Self {
        kinds.into_iter().fold(Self::NONE, Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_fit_the_set() {
        for (at, row) in NAMES.iter().enumerate() {
            assert_eq!(EventKind::from_code(row.kind.code()), Some(row.kind));
            assert_eq!(EventKind::from_name(row.name), Some(row.kind));
            assert!(row.kind.code() < 64, "{} has no bit", row.name);
            assert!(NAMES[..at].iter().all(|other| other.name != row.name && other.kind != row.kind));
            assert!(EventKinds::NONE.with(row.kind).contains(row.kind));
        }
        assert_eq!(NAMES.len(), 18, "a kind without a row, or a row too many");
    }
}
