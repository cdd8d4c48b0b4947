//! How often each address was wrong of late. The table is bounded: an attacker with many addresses makes it forget,
//! which costs nothing but the patience that was shown to others. It must never know what was wrong.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Denied;

/// After so long its failures are forgotten.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are remembered.
const ADDRESSES_MAX: usize = 4_096;

#[derive(Debug, Clone, Copy)]
struct Failures {
    since: Duration,
    count: usize,
}

/// The failures of each address.
#[derive(Debug)]
pub(super) struct Attempts {
    /// Failures that an address may have within [`WINDOW`].
    failures_max: usize,
    table: Mutex<HashMap<IpAddr, Failures>>,
}

impl Attempts {
    /// None has failed yet.
    pub(super) fn new(failures_max: usize) -> Self {
        Self { failures_max, table: Mutex::default() }
    }

    /// Takes back what was counted as a failure before it was looked at.
    pub(super) fn was_right(&self, address: IpAddr) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failures) = table.get_mut(&place(address)) {
            failures.count = failures.count.saturating_sub(1);
        }
    }

    /// Counts a failure; what is to be said instead of "wrong", if it is one too many.
    pub(super) fn failed(&self, address: IpAddr, now: Duration) -> Option<Denied> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let key = place(address);
        if table.len() >= ADDRESSES_MAX && !table.contains_key(&key) {
            table.retain(|_, it| it.since + WINDOW > now);
            let oldest = table.iter().min_by_key(|(_, it)| it.since).map(|(address, _)| *address);
            if let (true, Some(oldest)) = (table.len() >= ADDRESSES_MAX, oldest) {
                table.remove(&oldest);
            }
        }
        let failures = table.entry(key).or_insert(Failures { since: now, count: 0 });
        if failures.since + WINDOW <= now {
            *failures = Failures { since: now, count: 0 };
        }
        let said = verdict(*failures, now, self.failures_max);
        failures.count = failures.count.saturating_add(1);
        said
    }
}

fn verdict(failures: Failures, now: Duration, failures_max: usize) -> Option<Denied> {
    let left = (failures.since + WINDOW).checked_sub(now).filter(|left| !left.is_zero())?;
    (failures.count >= failures_max).then(|| Denied::TooOften(left.as_secs().max(1)))
}

/// Whoever has an IPv6 address has the 2^64 beside it.
fn place(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            let network = u128::from(v6) & !u128::from(u64::MAX);
            Ipv6Addr::from(network).into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_wrong_too_often_waits_and_is_forgiven() {
        let attempts = Attempts::new(20);
        let (one, other): (IpAddr, IpAddr) =
            ("2001:db8::1".parse().expect("it"), "2001:db8::2".parse().expect("it"));
        for _ in 0..20 {
            assert_eq!(attempts.failed(one, Duration::ZERO), None);
        }
        let later = Duration::from_secs(20);
        assert_eq!(attempts.failed(other, later), Some(Denied::TooOften(40)), "its neighbour is the same");
        assert_eq!(attempts.failed("192.0.2.1".parse().expect("it"), later), None);
        assert_eq!(attempts.failed(one, WINDOW), None);
    }

    #[test]
    fn who_is_right_is_not_counted() {
        let attempts = Attempts::new(20);
        let one: IpAddr = "192.0.2.1".parse().expect("it");
        for _ in 0..200 {
            assert_eq!(attempts.failed(one, Duration::ZERO), None);
            attempts.was_right(one);
        }
    }

    #[test]
    fn the_table_has_an_end() {
        let attempts = Attempts::new(20);
        for n in 0..10_000u32 {
            attempts.failed(IpAddr::V4(n.into()), Duration::from_millis(n.into()));
        }
        let table = attempts.table.lock().expect("a lock");
        assert_eq!(table.len(), ADDRESSES_MAX);
        assert!(table.contains_key(&IpAddr::V4(9_999.into())), "the newest is there");
    }
}
