//! Which day it is, as far as events tell: old history is removed by it, and a clock that shows 2099 for a moment must
//! not make all of it old. A day far from the last one counts once events have stayed with it for long enough. What is
//! known follows from the events and their order alone. It must never look at a clock, nor know what is removed.

const DAY_MS: i64 = 86_400_000;

/// A day that is further away than this, either way, is another era.
const ERA_DAYS: i64 = 30;

/// Another era counts when so many events in a row are in it,
const CONFIRMING_EVENTS: i64 = 100;

/// and the last of them is so much later than the first: a clock that was wrong for a moment is right by then.
const CONFIRMING_MS: i64 = DAY_MS;

/// The last day that counted, and what speaks for another era.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Calendar {
    /// Days since 1970.
    pub(super) day: i64,
    /// The time of the first of the events in a row that are in another era.
    pub(super) era_since_ms: i64,
    /// How many these are.
    pub(super) era_events: i64,
}

impl Calendar {
    /// Takes the time of an event. The answer is the day that begins with it, if one does.
    pub(super) fn pass(&mut self, at_ms: i64) -> Option<i64> {
        let day = at_ms.div_euclid(DAY_MS);
        if is_near(day, self.day) {
            (self.era_since_ms, self.era_events) = (0, 0);
            if day <= self.day {
                return None;
            }
        } else {
            if self.era_events == 0 || !is_near(day, self.era_since_ms.div_euclid(DAY_MS)) {
                (self.era_since_ms, self.era_events) = (at_ms, 0);
            }
            self.era_events += 1;
            let lasted_ms = at_ms.saturating_sub(self.era_since_ms);
            if self.era_events < CONFIRMING_EVENTS || lasted_ms < CONFIRMING_MS {
                return None;
            }
        }
        *self = Self { day, ..Self::default() };
        Some(day)
    }
}

const fn is_near(day: i64, other: i64) -> bool {
    day.saturating_sub(other).unsigned_abs() <= ERA_DAYS.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 20_000 * DAY_MS;
    const NONE: [i64; 0] = [];

    /// Passes so many events that are `step_ms` apart; the days that began.
    fn pass(calendar: &mut Calendar, from_ms: i64, step_ms: i64, events: i64) -> Vec<i64> {
        (0..events).filter_map(|at| calendar.pass(from_ms + at * step_ms)).collect()
    }

    fn known() -> Calendar {
        Calendar { day: 20_000, ..Calendar::default() }
    }

    #[test]
    fn days_begin_one_after_the_other() {
        let mut calendar = known();
        assert_eq!(pass(&mut calendar, NOW_MS, DAY_MS / 2, 6), [20_001, 20_002]);
        assert_eq!(calendar.pass(NOW_MS), None, "a clock that was set back by little");
        assert_eq!(calendar.pass(NOW_MS + 32 * DAY_MS), Some(20_032));
    }

    #[test]
    fn a_moment_in_another_era_changes_nothing() {
        let mut calendar = known();
        // A storm of connects with a clock that was not set yet.
        assert_eq!(pass(&mut calendar, 47_000 * DAY_MS, 1, 100_000), NONE);
        assert_eq!(calendar.pass(NOW_MS + 5), None);
        assert_eq!(calendar, known());
        // Two visits are not one long one.
        assert_eq!(pass(&mut calendar, 47_000 * DAY_MS, 1, 99), NONE);
        calendar.pass(NOW_MS + 5);
        assert_eq!(calendar.pass(47_002 * DAY_MS), None);
        assert_eq!(calendar.pass(NOW_MS + DAY_MS), Some(20_001));
    }

    #[test]
    fn an_era_that_stays_counts() {
        for (from_day, far_day) in [(20_000, 20_031), (20_000, 47_000), (47_000, 20_000), (0, 20_000)] {
            let mut calendar = Calendar { day: from_day, ..Calendar::default() };
            assert_eq!(pass(&mut calendar, far_day * DAY_MS, DAY_MS / 99, 99), NONE, "{far_day}");
            assert_eq!(calendar.pass(far_day * DAY_MS + DAY_MS), Some(far_day + 1));
            assert_eq!(calendar, Calendar { day: far_day + 1, ..Calendar::default() });
        }
    }

    #[test]
    fn the_ends_of_time_are_no_trouble() {
        let mut calendar = known();
        for at_ms in [i64::MIN, i64::MAX, 0, i64::MAX, i64::MIN] {
            assert_eq!(calendar.pass(at_ms), None);
        }
    }
}
