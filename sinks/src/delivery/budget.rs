//! How many rows may die before delivery halts: a target that refuses everything must not fill the store with rows
//! that are well. Pure: the time is given.

use std::time::Duration;

/// What the budget is counted over.
const WINDOW: Duration = Duration::from_secs(60);

/// Rows settled in the current window.
#[derive(Debug)]
pub(super) struct Budget {
    dead_max: u64,
    since: Duration,
    settled: u64,
    dead: u64,
}

impl Budget {
    /// At most `dead_max` rows in a window, unless most rows are well.
    pub(super) fn new(dead_max: u64) -> Self {
        Self { dead_max, since: Duration::ZERO, settled: 0, dead: 0 }
    }

    /// Counts rows that are settled `now`, those that are dead among them.
    pub(super) fn count(&mut self, now: Duration, settled: u64, dead: u64) {
        if now.saturating_sub(self.since) >= WINDOW {
            self.reset(now);
        }
        self.settled += settled;
        self.dead += dead;
    }

    /// How many rows died in this window, if that is too many.
    pub(super) fn exceeded(&self) -> Option<u64> {
        (self.dead > self.dead_max && self.dead > self.settled / 2).then_some(self.dead)
    }

    /// Begins anew.
    pub(super) fn reset(&mut self, now: Duration) {
        (self.since, self.settled, self.dead) = (now, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_bad_rows_among_many_are_no_reason_to_halt() {
        let mut budget = Budget::new(10);
        budget.count(Duration::ZERO, 100, 40);
        assert_eq!(budget.exceeded(), None);
        budget.count(Duration::from_secs(1), 30, 30);
        assert_eq!(budget.exceeded(), Some(70));
        budget.count(Duration::from_secs(61), 10, 10);
        assert_eq!(budget.exceeded(), None, "a new minute");
        budget.count(Duration::from_secs(62), 1, 1);
        assert_eq!(budget.exceeded(), Some(11));
    }
}
