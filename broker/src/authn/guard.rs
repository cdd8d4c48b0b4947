//! Failed logins, counted by address and by user: who fails often waits for answers, and is asked for nothing any more
//! when it goes on. Tables are bounded; the oldest window goes first.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long failures count.
const WINDOW: Duration = Duration::from_secs(60);
/// Failures of one address in a window before its passwords are not looked at any more.
const ADDRESS_FAILURES_MAX: u32 = 60;
/// Failures of one user in a window before that user's passwords are not looked at any more.
const USER_FAILURES_MAX: u32 = 30;
/// Addresses, and users, that are remembered in a window.
const ENTRIES_MAX: usize = 50_000;
/// The wait after a first failure; it doubles with each further one.
const DELAY_MIN: Duration = Duration::from_millis(100);
const DELAY_DOUBLINGS_MAX: u32 = 5;

/// The tables.
#[derive(Debug, Default)]
pub struct Guard {
    tables: Mutex<Tables>,
}

/// Too many failures came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal;

#[derive(Debug, Default)]
struct Tables {
    began: Duration,
    addresses: HashMap<IpAddr, u32>,
    users: HashMap<String, u32>,
}

impl Guard {
    /// Whether a password may be looked at. `user` names the user and its kind.
    ///
    /// # Errors
    /// [`Refusal`], until the window ends.
    pub fn admit(&self, now: Duration, address: Option<IpAddr>, user: &str) -> Result<(), Refusal> {
        let tables = self.tables(now);
        let by_address = address.and_then(|it| tables.addresses.get(&it)).copied().unwrap_or(0);
        let by_user = tables.users.get(user).copied().unwrap_or(0);
        if by_address >= ADDRESS_FAILURES_MAX || by_user >= USER_FAILURES_MAX {
            return Err(Refusal);
        }
        Ok(())
    }

    /// Notes a failure and says how long its answer is to wait.
    pub fn failed(&self, now: Duration, address: Option<IpAddr>, user: &str) -> Duration {
        let mut tables = self.tables(now);
        let by_address = address.map_or(0, |it| count(&mut tables.addresses, it));
        let by_user = count(&mut tables.users, user.to_owned());
        let doublings = by_address.max(by_user).saturating_sub(1).min(DELAY_DOUBLINGS_MAX);
        DELAY_MIN * (1 << doublings)
    }

    fn tables(&self, now: Duration) -> std::sync::MutexGuard<'_, Tables> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(tables.began) >= WINDOW {
            *tables = Tables { began: now, ..Tables::default() };
        }
        tables
    }
}

fn count<K: Eq + Hash>(table: &mut HashMap<K, u32>, key: K) -> u32 {
    if let Some(failures) = table.get_mut(&key) {
        *failures = failures.saturating_add(1);
        return *failures;
    }
    if table.len() < ENTRIES_MAX {
        table.insert(key, 1);
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_cost_time_and_then_everything_until_the_window_ends() {
        let guard = Guard::default();
        let at = Duration::from_secs(100);
        let address = Some(IpAddr::from([10, 0, 0, 1]));
        assert_eq!(guard.admit(at, address, "a"), Ok(()));
        assert_eq!(guard.failed(at, address, "a"), DELAY_MIN);
        assert_eq!(guard.failed(at, address, "a"), DELAY_MIN * 2);
        for _ in 0..USER_FAILURES_MAX {
            assert!(guard.failed(at, None, "a") <= DELAY_MIN * 32);
        }
        assert_eq!(guard.admit(at, None, "a"), Err(Refusal));
        assert_eq!(guard.admit(at, address, "b"), Ok(()), "another user is another matter");
        for n in 0..ADDRESS_FAILURES_MAX {
            guard.failed(at, address, &format!("u{n}"));
        }
        assert_eq!(guard.admit(at, address, "b"), Err(Refusal));
        assert_eq!(guard.admit(at + WINDOW, address, "a"), Ok(()));
    }

    #[test]
    fn the_tables_are_bounded() {
        let guard = Guard::default();
        for n in 0..ENTRIES_MAX + 10 {
            guard.failed(Duration::ZERO, None, &n.to_string());
        }
        assert_eq!(guard.tables(Duration::ZERO).users.len(), ENTRIES_MAX);
    }
}
