//! Times in microseconds since 1970 that never go back within this process, so that a time in a payload can be compared
//! with one that a database wrote on the same machine.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Where both clocks stood at the first question.
fn base() -> (Instant, u64) {
    static BASE: OnceLock<(Instant, u64)> = OnceLock::new();
    *BASE.get_or_init(|| {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (Instant::now(), u64::try_from(unix.as_micros()).unwrap_or(u64::MAX))
    })
}

/// The time by a monotonic clock, counted from 1970.
pub(crate) fn now_us() -> u64 {
    let (instant, unix) = base();
    unix + u64::try_from(instant.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// The same time as a timer takes it.
pub(crate) fn instant(at_us: u64) -> Instant {
    let (instant, unix) = base();
    instant + Duration::from_micros(at_us.saturating_sub(unix))
}
