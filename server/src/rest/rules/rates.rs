//! How often per second: sampled from a counter, by the clock that is given.

use std::collections::VecDeque;
use std::time::Duration;

/// How often a counter is looked at; the present rate is that of the time between two looks.
pub(super) const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// How far back the long rate looks.
const LONG: Duration = Duration::from_secs(300);

/// The rates of one counter.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rates {
    samples: VecDeque<(Duration, u64)>,
    max: f64,
}

impl Rates {
    /// Notes what the counter shows at `now`. A counter that shows less than before has begun anew.
    pub(super) fn sample(&mut self, now: Duration, count: u64) {
        if self.samples.back().is_some_and(|(_, last)| count < *last) {
            *self = Self::default();
        }
        self.samples.push_back((now, count));
        // The first one within the window, and one before it.
        while self.samples.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= LONG) {
            self.samples.pop_front();
        }
        self.max = self.max.max(self.now());
    }

    /// Per second between the last two looks.
    pub(super) fn now(&self) -> f64 {
        let before = self.samples.len().checked_sub(2).and_then(|at| self.samples.get(at));
        between(before, self.samples.back())
    }

    /// The largest rate so far.
    pub(super) const fn max(&self) -> f64 {
        self.max
    }

    /// Per second over the last five minutes, or since it is looked at.
    pub(super) fn last_5m(&self) -> f64 {
        between(self.samples.front(), self.samples.back())
    }
}

/// Rounded to hundredths, as the reference does.
fn between(from: Option<&(Duration, u64)>, to: Option<&(Duration, u64)>) -> f64 {
    let (Some((from, before)), Some((to, after))) = (from, to) else { return 0.0 };
    let seconds = to.saturating_sub(*from).as_secs_f64();
    if seconds <= 0.0 {
        return 0.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate is no count")]
    let rate = after.saturating_sub(*before) as f64 / seconds;
    (rate * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(rates: &Rates) -> (f64, f64, f64) {
        (rates.now(), rates.max(), rates.last_5m())
    }

    #[test]
    fn rates_follow_the_counter() {
        let mut rates = Rates::default();
        assert_eq!(shown(&rates), (0.0, 0.0, 0.0));
        let mut at = |seconds: u64, count| {
            rates.sample(Duration::from_secs(seconds), count);
            shown(&rates)
        };
        assert_eq!(at(0, 100), (0.0, 0.0, 0.0), "one look tells nothing");
        assert_eq!(at(5, 150), (10.0, 10.0, 10.0));
        assert_eq!(at(10, 150), (0.0, 10.0, 5.0));
        assert_eq!(at(13, 160), (3.33, 10.0, 4.62));
        // Begun anew.
        assert_eq!(at(15, 10), (0.0, 0.0, 0.0));
        assert_eq!(at(20, 20), (2.0, 2.0, 2.0));
    }

    #[test]
    fn the_long_rate_forgets() {
        let mut rates = Rates::default();
        for n in 0..200 {
            // 100 per second in the first minute, then nothing.
            rates.sample(Duration::from_secs(n * 5), n.min(12) * 500);
        }
        assert_eq!(shown(&rates), (0.0, 100.0, 0.0));
        assert!(rates.samples.len() <= 61, "{}", rates.samples.len());
    }

    #[test]
    fn two_looks_at_the_same_time_are_no_division_by_zero() {
        let mut rates = Rates::default();
        rates.sample(Duration::from_secs(1), 1);
        rates.sample(Duration::from_secs(1), 2);
        assert_eq!(shown(&rates), (0.0, 0.0, 0.0));
    }
}
