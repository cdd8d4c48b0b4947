//! What all connections of a run count together, and the latencies of all messages. Histograms are kept in shards, so
//! that connections do not wait for each other.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use hdrhistogram::Histogram;

use crate::outcome::Latency;

/// Histograms that connections share.
const SHARDS: usize = 16;
/// Longest latency that is told apart, in microseconds: five minutes.
const LATENCY_US_MAX: u64 = 300_000_000;

/// Counters of one run. All of them only grow.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// What should have been sent: by the schedule of an open loop; of a closed one all that was.
    pub(crate) due: AtomicU64,
    pub(crate) sent: AtomicU64,
    /// With QoS 0, where nothing is acknowledged: what the server has read, as its answers to PINGREQ tell.
    pub(crate) acked: AtomicU64,
    /// The same while it was measured.
    pub(crate) in_window: AtomicU64,
    /// When the last of them came.
    pub(crate) last_us: AtomicU64,
    pub(crate) received: AtomicU64,
    /// Received while it was measured.
    pub(crate) received_in_window: AtomicU64,
    pub(crate) duplicated: AtomicU64,
    /// Acks that nobody waits for.
    pub(crate) unexpected: AtomicU64,
    /// Acks that say no.
    pub(crate) refused: AtomicU64,
    /// Connections that were lost or could not be made.
    pub(crate) errors: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, count: u64) {
    if count > 0 {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

pub(crate) fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Latencies in microseconds.
#[derive(Debug)]
pub(crate) struct Latencies(Vec<Mutex<Histogram<u64>>>);

impl Latencies {
    pub(crate) fn new() -> io::Result<Self> {
        (0..SHARDS).map(|_| Ok(Mutex::new(histogram()?))).collect::<io::Result<_>>().map(Self)
    }

    /// Adds what one connection measured since its last call.
    pub(crate) fn record(&self, connection: usize, batch: &mut Vec<u64>) {
        if batch.is_empty() {
            return;
        }
        let shard = &self.0[connection % SHARDS];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        for latency_us in batch.drain(..) {
            shard.saturating_record(latency_us.max(1));
        }
    }

    /// Adds the same value so many times.
    pub(crate) fn record_many(&self, latency_us: u64, count: u64) {
        if let Some(shard) = self.0.first() {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.saturating_record_n(latency_us.max(1), count);
        }
    }

    /// None when nothing was measured.
    pub(crate) fn summary(&self) -> Option<Latency> {
        let (first, others) = self.0.split_first()?;
        let mut all = first.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for shard in others {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            // Both have the same bounds.
            let _added = all.add(&*shard);
        }
        summary(&all)
    }
}

/// Three digits of each latency matter.
pub(crate) fn histogram() -> io::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).map_err(io::Error::other)
}

pub(crate) fn summary(histogram: &Histogram<u64>) -> Option<Latency> {
    (!histogram.is_empty()).then(|| Latency {
        p50_us: histogram.value_at_quantile(0.5),
        p90_us: histogram.value_at_quantile(0.9),
        p99_us: histogram.value_at_quantile(0.99),
        p999_us: histogram.value_at_quantile(0.999),
        max_us: histogram.max(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_from_all_connections() {
        let latencies = Latencies::new().expect("constant bounds");
        for connection in 0..100_usize {
            latencies.record(connection, &mut vec![connection as u64 + 1; 10]);
        }
        let all = latencies.summary().expect("something was measured");
        assert_eq!((all.p50_us, all.p99_us, all.max_us), (50, 99, 100));
        assert!(Latencies::new().expect("constant bounds").summary().is_none());
    }

    #[test]
    fn a_latency_beyond_the_bound_is_counted_at_the_bound() {
        let latencies = Latencies::new().expect("constant bounds");
        latencies.record(0, &mut vec![u64::MAX]);
        assert!(latencies.summary().expect("one").max_us >= LATENCY_US_MAX);
    }
}
