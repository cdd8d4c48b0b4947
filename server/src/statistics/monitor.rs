//! Samples of what is going on: one every ten seconds, joined to coarser ones as they age, so that a week fits into a
//! few thousand. It must never know where they are kept or shown.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Seconds between two samples.
pub const SAMPLE_SECONDS: u64 = 10;

/// How fine samples are, and how long so: step and age, both in milliseconds. The last age is the longest memory.
const TIERS: [(i64, i64); 3] = [(10_000, 3_600_000), (60_000, 24 * 3_600_000), (600_000, 7 * 24 * 3_600_000)];

/// What was counted between two looks, and what there was at the latter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The latter look, milliseconds since 1970.
    #[serde(rename = "time_stamp")]
    pub at_ms: i64,
    /// Connected clients.
    pub connections: u64,
    /// Sessions.
    pub sessions: u64,
    /// Different filters that are subscribed.
    pub topics: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Of these: shared ones.
    pub shared_subscriptions: u64,
    /// Retained messages.
    pub retained: u64,
    /// What happened in between.
    #[serde(flatten)]
    pub flow: Flow,
}

/// Numbers that only grow; in a sample: by how much they grew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Messages from clients.
    pub received: u64,
    /// Messages to subscribers.
    pub sent: u64,
    /// Messages that reached nobody, or not this subscriber.
    pub dropped: u64,
    /// Messages in the event log.
    pub persisted: u64,
    /// Bytes from clients.
    pub received_bytes: u64,
    /// Bytes to clients.
    pub sent_bytes: u64,
    /// Rules that matched an event.
    pub rules_matched: u64,
    /// Rows that reached a target or were given up.
    pub actions_executed: u64,
}

impl Flow {
    /// Both after one another.
    fn and(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    /// What came since `before`.
    pub fn since(self, before: Self) -> Self {
        self.zip(before, u64::saturating_sub)
    }

    fn zip(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            received: with(self.received, other.received),
            sent: with(self.sent, other.sent),
            dropped: with(self.dropped, other.dropped),
            persisted: with(self.persisted, other.persisted),
            received_bytes: with(self.received_bytes, other.received_bytes),
            sent_bytes: with(self.sent_bytes, other.sent_bytes),
            rules_matched: with(self.rules_matched, other.rules_matched),
            actions_executed: with(self.actions_executed, other.actions_executed),
        }
    }
}

/// A change of what is stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// The sample of this tier at its time.
    Put(usize, Sample),
    /// That sample is gone.
    Remove(usize, i64),
    /// All are gone.
    Clear,
}

/// The samples of the last seven days.
#[derive(Debug, Default)]
pub(super) struct Samples([VecDeque<Sample>; TIERS.len()]);

impl Samples {
    /// What was stored, the oldest of each tier first.
    pub(super) fn load(stored: Vec<(usize, Sample)>) -> Self {
        let mut samples = Self::default();
        for (tier, sample) in stored {
            if let Some(tier) = samples.0.get_mut(tier) {
                tier.push_back(sample);
            }
        }
        samples
    }

    /// Adds the newest; what has become too old for its tier is joined to the next. Returns what is to be stored.
    pub(super) fn push(&mut self, sample: Sample) -> Vec<Change> {
        let now_ms = sample.at_ms;
        let mut changes = vec![Change::Put(0, sample)];
        self.0[0].push_back(sample);
        for (tier, (_, age_ms)) in TIERS.into_iter().enumerate() {
            while let Some(old) = self.0[tier].front().copied().filter(|it| it.at_ms < now_ms - age_ms) {
                self.0[tier].pop_front();
                changes.push(Change::Remove(tier, old.at_ms));
                if tier + 1 < TIERS.len() {
                    changes.push(Change::Put(tier + 1, self.join(tier + 1, old)));
                }
            }
        }
        changes
    }

    /// Joins a sample to the one of its step, which stands at the step's beginning; what there was is that of the
    /// latest.
    fn join(&mut self, tier: usize, old: Sample) -> Sample {
        let step_ms = TIERS[tier].0;
        let at_ms = old.at_ms.div_euclid(step_ms).saturating_mul(step_ms);
        let joined = match self.0[tier].back().filter(|it| it.at_ms == at_ms) {
            Some(before) => Sample { at_ms, flow: before.flow.and(old.flow), ..old },
            None => Sample { at_ms, ..old },
        };
        if self.0[tier].back().is_some_and(|it| it.at_ms == at_ms) {
            self.0[tier].pop_back();
        }
        self.0[tier].push_back(joined);
        joined
    }

    /// The samples after `from_ms`, the oldest first.
    pub(super) fn since(&self, from_ms: i64) -> Vec<Sample> {
        let all = self.0.iter().rev().flatten();
        all.filter(|it| it.at_ms >= from_ms).copied().collect()
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) -> Change {
        *self = Self::default();
        Change::Clear
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_week_fits_into_a_few_thousand_and_nothing_is_lost_or_doubled() {
        let mut samples = Samples::default();
        let mut stored = std::collections::BTreeMap::new();
        let ticks = 8 * 24 * 360;
        for n in 1..=ticks {
            let flow = Flow { received: 1, ..Flow::default() };
            let sample =
                Sample { at_ms: n * 10_000, connections: n.unsigned_abs(), flow, ..Sample::default() };
            for change in samples.push(sample) {
                match change {
                    Change::Put(tier, sample) => {
                        stored.insert((tier, sample.at_ms), sample);
                    }
                    Change::Remove(tier, at_ms) => {
                        stored.remove(&(tier, at_ms));
                    }
                    Change::Clear => stored.clear(),
                }
            }
        }
        let all = samples.since(0);
        assert!(all.is_sorted_by(|a, b| a.at_ms < b.at_ms));
        assert!(all.len() < 3_000, "{}", all.len());
        let week = 7 * 24 * 360;
        let received: u64 = all.iter().map(|it| it.flow.received).sum();
        assert!((week - 61..=week + 1).contains(&received), "{received}");
        assert_eq!(all.last().map(|it| it.connections), Some(ticks.unsigned_abs()));
        let stored: Vec<_> = stored.into_iter().map(|((tier, _), sample)| (tier, sample)).collect();
        assert_eq!(Samples::load(stored).since(0), all, "what is stored is what is shown");
        let latest = samples.since(ticks * 10_000 - 60_000);
        assert_eq!(latest.len(), 7);
        assert_eq!(samples.clear(), Change::Clear);
        assert!(samples.since(0).is_empty());
    }
}
