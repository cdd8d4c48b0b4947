//! Who may be connected: so many in all, so many of one address. Where there are too many, the connection goes that has
//! waited longest without a request, so that connections which say nothing lock out nobody: neither those of other
//! addresses nor those of their own. It must never know what is said on a connection.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// All that are there. Clones are the same.
#[derive(Clone)]
pub(super) struct Seats(Arc<Shared>);

struct Shared {
    max: usize,
    per_address_max: usize,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    taken: usize,
    /// What the next that waits is numbered with.
    next: u64,
    by_address: HashMap<IpAddr, Neighbours>,
}

/// Those of one address.
#[derive(Default)]
struct Neighbours {
    count: usize,
    /// Those that have nothing to do, in the order in which they began to wait.
    waiting: BTreeMap<u64, CancellationToken>,
}

/// The place of one connection; dropping it gives it back.
pub(super) struct Seat {
    seats: Seats,
    address: IpAddr,
    number: Mutex<Option<u64>>,
    lost: CancellationToken,
}

impl Seats {
    pub(super) fn new(max: usize, per_address_max: usize) -> Self {
        Self(Arc::new(Shared { max, per_address_max, table: Mutex::default() }))
    }

    /// A seat, at the cost of another's where there is none left; none where all are at work.
    pub(super) fn take(&self, peer: IpAddr) -> Option<Seat> {
        let address = crowd(peer);
        let mut table = self.table();
        let of_address = table.by_address.get(&address).map_or(0, |it| it.count);
        if of_address >= self.0.per_address_max {
            table.unseat(address)?;
        } else if table.taken >= self.0.max {
            let busiest = table.by_address.iter().filter(|(_, it)| !it.waiting.is_empty());
            let busiest = busiest.max_by_key(|(_, it)| it.count).map(|(address, _)| *address)?;
            table.unseat(busiest)?;
        }
        table.taken += 1;
        table.by_address.entry(address).or_default().count += 1;
        drop(table);
        let seat =
            Seat { seats: self.clone(), address, number: Mutex::default(), lost: CancellationToken::new() };
        seat.wait();
        Some(seat)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Takes the seat of whoever of this address has waited longest.
    fn unseat(&mut self, address: IpAddr) -> Option<()> {
        let (_, lost) = self.by_address.get_mut(&address)?.waiting.pop_first()?;
        lost.cancel();
        self.leave(address);
        Some(())
    }

    fn leave(&mut self, address: IpAddr) {
        self.taken = self.taken.saturating_sub(1);
        if let Some(neighbours) = self.by_address.get_mut(&address) {
            neighbours.count = neighbours.count.saturating_sub(1);
            if neighbours.count == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Seat {
    /// It has nothing to do; from now on it may be lost.
    pub(super) fn wait(&self) {
        let mut number = self.number();
        let mut table = self.seats.table();
        if number.is_none() && !self.lost.is_cancelled() {
            let next = table.next;
            table.next += 1;
            if let Some(neighbours) = table.by_address.get_mut(&self.address) {
                neighbours.waiting.insert(next, self.lost.clone());
                *number = Some(next);
            }
        }
    }

    /// It has a request, and is left alone until it waits again.
    pub(super) fn work(&self) {
        if let Some(number) = self.number().take()
            && let Some(neighbours) = self.seats.table().by_address.get_mut(&self.address)
        {
            neighbours.waiting.remove(&number);
        }
    }

    /// Resolves when another has it.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    fn number(&self) -> MutexGuard<'_, Option<u64>> {
        self.number.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.work();
        let mut table = self.seats.table();
        if !self.lost.is_cancelled() {
            table.leave(self.address);
        }
    }
}

/// Whoever has an IPv6 address has the 2^64 beside it.
fn crowd(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX)).into(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn is_lost(seat: &Seat) -> bool {
        seat.lost.is_cancelled()
    }

    #[test]
    fn an_address_with_too_many_loses_its_oldest_that_waits() {
        let seats = Seats::new(100, 3);
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        let mine: Vec<_> = (0..3).map(|_| seats.take(one).unwrap()).collect();
        let neighbour = seats.take(other).unwrap();
        mine[0].work();
        let fourth = seats.take(one).unwrap();
        assert_eq!(mine.iter().map(is_lost).collect::<Vec<_>>(), [false, true, false], "the first works");
        assert!(!is_lost(&fourth) && !is_lost(&neighbour));
        // Who has worked begins to wait anew.
        mine[0].wait();
        let _fifth = seats.take(one).unwrap();
        assert_eq!(mine.iter().map(is_lost).collect::<Vec<_>>(), [false, true, true]);
    }

    #[test]
    fn where_all_are_at_work_nobody_gets_in() {
        let seats = Seats::new(100, 2);
        let one = address("2001:db8::1");
        let mine: Vec<_> = (0..2).map(|_| seats.take(one).unwrap()).collect();
        mine.iter().for_each(Seat::work);
        assert!(seats.take(address("2001:db8::2")).is_none(), "its neighbour is the same");
        drop(mine);
        assert!(seats.take(one).is_some(), "they have left");
    }

    #[test]
    fn a_full_house_takes_the_seat_from_whoever_has_most() {
        let seats = Seats::new(4, 3);
        let few = seats.take(address("192.0.2.9")).unwrap();
        let many: Vec<_> = (0..3).map(|_| seats.take(address("192.0.2.1")).unwrap()).collect();
        let late = seats.take(address("192.0.2.2")).unwrap();
        assert!(is_lost(&many[0]) && !is_lost(&few) && !is_lost(&late), "not from the oldest of all");
    }

    #[test]
    fn what_was_taken_is_given_back() {
        let seats = Seats::new(10, 5);
        for n in 0..1_000u32 {
            let seat = seats.take(IpAddr::V4((n % 7).into())).unwrap();
            if n % 3 == 0 {
                seat.work();
            }
            if n % 2 == 0 {
                std::mem::drop(seats.take(IpAddr::V4((n % 7).into())));
            }
        }
        let table = seats.table();
        assert!(table.taken == 0 && table.by_address.is_empty());
    }
}
