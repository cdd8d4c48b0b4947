//! What no event holds: bytes, packets, deliveries, what rules did. The parts count it from their start on; here it is
//! added up over starts, with what the last snapshot knew.

use std::collections::BTreeMap;

use muster_broker::authz::AuthzCounts;
use muster_broker::{Broker, Counters};

/// What one rule did since it was loaded: events that it matched, rows that arrived, rows that were given up.
pub type RuleNumbers = (String, [u64; 3]);

/// Who is asked for numbers.
pub struct Sources {
    /// The broker.
    pub broker: Broker,
    /// How permissions were decided.
    pub permissions: Box<dyn Fn() -> AuthzCounts + Send + Sync>,
    /// What every rule did.
    pub rules: Box<dyn Fn() -> Vec<RuleNumbers> + Send + Sync>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl Sources {
    /// Every counter as its owner has it now: whose, its name, how much. A counter of another part is added here, and
    /// with that it is in `/metrics`, survives a restart, and is in `/prometheus/stats`.
    fn look(&self) -> Vec<(String, &'static str, u64)> {
        let mut all: Vec<_> = of_broker(&self.broker.stats().counters)
            .into_iter()
            .chain(of_permissions(&(self.permissions)()))
            .map(|(name, value)| (String::new(), name, value))
            .collect();
        for (rule, [matched, success, failed]) in (self.rules)() {
            let own = [
                ("rules.matched", matched),
                ("actions.executed", success + failed),
                ("actions.success", success),
                ("actions.failed", failed),
            ];
            all.extend(own.into_iter().map(|(name, value)| (rule.clone(), name, value)));
        }
        all
    }
}

/// Counters that go on over starts.
#[derive(Debug, Default)]
pub(super) struct Sums {
    sums: BTreeMap<String, u64>,
    last: BTreeMap<(String, &'static str), u64>,
}

impl Sums {
    /// Goes on with what was stored.
    pub(super) fn load(sums: BTreeMap<String, u64>) -> Self {
        Self { sums, last: BTreeMap::new() }
    }

    /// Adds what came since the last look.
    pub(super) fn look(&mut self, sources: &Sources) -> &BTreeMap<String, u64> {
        self.add(sources.look())
    }

    /// A counter that shows less than before has begun anew.
    fn add(&mut self, all: Vec<(String, &'static str, u64)>) -> &BTreeMap<String, u64> {
        for (whose, name, value) in all {
            let last = self.last.entry((whose, name)).or_default();
            let more = if value >= *last { value - *last } else { value };
            *last = value;
            *self.sums.entry(name.to_owned()).or_default() += more;
        }
        &self.sums
    }

    /// What it comes to, as of the last look.
    pub(super) const fn sums(&self) -> &BTreeMap<String, u64> {
        &self.sums
    }
}

/// Names of packets by the number of their type.
const RECEIVED: [(usize, &str); 11] = [
    (1, "packets.connect.received"),
    (3, "packets.publish.received"),
    (4, "packets.puback.received"),
    (5, "packets.pubrec.received"),
    (6, "packets.pubrel.received"),
    (7, "packets.pubcomp.received"),
    (8, "packets.subscribe.received"),
    (10, "packets.unsubscribe.received"),
    (12, "packets.pingreq.received"),
    (14, "packets.disconnect.received"),
    (15, "packets.auth.received"),
];
const SENT: [(usize, &str); 10] = [
    (2, "packets.connack.sent"),
    (3, "packets.publish.sent"),
    (4, "packets.puback.sent"),
    (5, "packets.pubrec.sent"),
    (6, "packets.pubrel.sent"),
    (7, "packets.pubcomp.sent"),
    (9, "packets.suback.sent"),
    (11, "packets.unsuback.sent"),
    (13, "packets.pingresp.sent"),
    (14, "packets.disconnect.sent"),
];

fn of_broker(it: &Counters) -> Vec<(&'static str, u64)> {
    let of_type = |numbers: &[u64], at: usize| numbers.get(at).copied().unwrap_or_default();
    let mut all = vec![
        ("bytes.received", it.bytes_received),
        ("bytes.sent", it.bytes_sent),
        ("packets.received", it.packets_received),
        ("packets.sent", it.packets_sent),
        ("client.connect", it.connects),
        ("messages.sent", it.messages_delivered),
        ("messages.qos0.sent", it.messages_delivered_qos0),
        ("messages.qos1.sent", it.messages_delivered_qos1),
        ("messages.qos2.sent", it.messages_delivered_qos2),
        ("messages.delivered", it.messages_delivered),
        ("messages.acked", it.deliveries_acked),
        ("messages.dropped", it.messages_dropped_no_subscribers + it.messages_refused),
        ("messages.dropped.no_subscribers", it.messages_dropped_no_subscribers),
        ("delivery.dropped", it.deliveries_dropped),
        ("delivery.dropped.no_local", it.deliveries_dropped_no_local),
        ("delivery.dropped.too_large", it.deliveries_dropped_too_large),
        ("delivery.dropped.qos0_msg", it.deliveries_dropped_qos0),
        ("delivery.dropped.queue_full", it.deliveries_dropped_queue_full),
        ("delivery.dropped.expired", it.deliveries_dropped_expired),
        ("session.created", it.sessions_created),
        ("session.resumed", it.sessions_resumed),
        ("session.terminated", it.sessions_terminated),
    ];
    all.extend(RECEIVED.map(|(at, name)| (name, of_type(&it.packets_received_by_type, at))));
    all.extend(SENT.map(|(at, name)| (name, of_type(&it.packets_sent_by_type, at))));
    all
}

/// What was decided without an event; denials are events.
fn of_permissions(it: &AuthzCounts) -> [(&'static str, u64); 5] {
    [
        ("authorization.allow", it.allow),
        ("authorization.cache_hit", it.cache_hit),
        ("authorization.superuser", it.superuser),
        ("authorization.nomatch", it.nomatch),
        ("authorization.matched", it.matched_client_info + it.built_in_allow + it.built_in_deny),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_go_on_over_starts_and_resets() {
        let mut sums = Sums::load(BTreeMap::from([("rules.matched".to_owned(), 100)]));
        let mut add = |all: &[(&str, u64)]| {
            let all = all.iter().map(|(whose, value)| ((*whose).to_owned(), "rules.matched", *value));
            sums.add(all.collect()).get("rules.matched").copied()
        };
        assert_eq!(add(&[("a", 5), ("b", 1)]), Some(106));
        assert_eq!(add(&[("a", 7), ("b", 1)]), Some(108));
        assert_eq!(add(&[("a", 2), ("b", 2)]), Some(111), "a was reset and has matched two since");
        assert_eq!(add(&[("b", 2)]), Some(111), "a is gone, and what it did is not");
    }

    #[test]
    fn every_name_stands_once_and_none_is_of_the_log_too() {
        let names: Vec<_> = of_broker(&Counters::default()).into_iter().map(|(name, _)| name).collect();
        let of_log = super::super::fold::Count::ALL.iter().map(|count| count.name());
        let of_permissions = of_permissions(&AuthzCounts::default()).map(|(name, _)| name);
        let mut all: Vec<_> = names.into_iter().chain(of_permissions).chain(of_log).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
