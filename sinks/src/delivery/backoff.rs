//! How long to wait before the next attempt. Pure: the randomness is given.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

/// The first wait.
const WAIT_MIN: Duration = Duration::from_millis(100);
/// The longest wait, and the pace of the slow retries, unless the pipeline says otherwise.
pub const WAIT_MAX: Duration = Duration::from_secs(30);
/// No target may keep us waiting longer than this, whatever it asks for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

/// Waits that double up to a ceiling, each shortened by chance to between a half and the whole, so that pipelines
/// that failed together do not come back together.
#[derive(Debug)]
pub(super) struct Backoff {
    wait_max: Duration,
    failures: u32,
    rng: SmallRng,
}

impl Backoff {
    /// No failure yet.
    pub(super) fn new(wait_max: Duration, rng: SmallRng) -> Self {
        Self { wait_max: wait_max.max(WAIT_MIN), failures: 0, rng }
    }

    /// The wait after one more failure; at least `asked`, what the target asked for.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let doubled = WAIT_MIN.saturating_mul(1 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        let wait = self.jittered(doubled.min(self.wait_max));
        asked.map_or(wait, |asked| asked.min(RETRY_AFTER_MAX).saturating_add(wait / 10).max(wait))
    }

    /// The wait where hurry is of no use.
    pub(super) fn slowest(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        // The first few are quick, so that a slip that is corrected at once is noticed at once.
        let doubled = WAIT_MIN.saturating_mul(4 << self.failures.min(20));
        self.jittered(doubled.min(self.wait_max))
    }

    /// Something went well.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    fn jittered(&mut self, wait: Duration) -> Duration {
        wait.mul_f64(self.rng.random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn waits_double_up_to_the_ceiling_within_their_jitter() {
        let mut backoff = Backoff::new(WAIT_MAX, SmallRng::seed_from_u64(1));
        for failure in 0..40u32 {
            let whole = WAIT_MIN.saturating_mul(1 << failure.min(20)).min(WAIT_MAX);
            let wait = backoff.next(None);
            assert!(wait >= whole / 2 && wait <= whole, "failure {failure}: {wait:?} of {whole:?}");
        }
        backoff.reset();
        assert!(backoff.next(None) <= WAIT_MIN);
    }

    #[test]
    fn the_target_is_obeyed_within_reason() {
        let mut backoff = Backoff::new(WAIT_MAX, SmallRng::seed_from_u64(2));
        let asked = Duration::from_secs(120);
        let wait = backoff.next(Some(asked));
        assert!(wait >= asked && wait < asked + WAIT_MIN);
        assert!(backoff.next(Some(Duration::from_secs(1 << 40))) < RETRY_AFTER_MAX + WAIT_MAX);
    }
}
