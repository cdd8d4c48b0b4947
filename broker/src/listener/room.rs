//! How many connections may be there of which no CONNECT was heard yet. A flood of silent ones takes the room from its
//! own source only: where it is full, the oldest goes, of the source that has the most. It must never know why a
//! connection is silent.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Of an IPv6 address, as much as one customer is usually given: all addresses behind it count as one.
const IPV6_SOURCE_BITS: u32 = 64;

/// The places of all listeners.
pub(crate) struct Room {
    places: Mutex<Places>,
    all_max: usize,
    source_max: usize,
}

/// A place, until it is dropped.
pub(crate) struct Slot {
    room: Arc<Room>,
    source: IpAddr,
    number: u64,
    evicted: Arc<Notify>,
}

#[derive(Default)]
struct Places {
    next: u64,
    count: usize,
    /// By source, in the order in which they came.
    sources: HashMap<IpAddr, BTreeMap<u64, Arc<Notify>>>,
    /// Sources in the order of how many they have.
    ranks: BTreeSet<(usize, IpAddr)>,
}

impl Room {
    pub(crate) fn new(all_max: usize, source_max: usize) -> Arc<Self> {
        Arc::new(Self { places: Mutex::default(), all_max, source_max })
    }

    /// Takes a place; another loses its own where there is none.
    pub(crate) fn enter(room: &Arc<Self>, address: IpAddr) -> Slot {
        let source = source(address);
        let evicted = Arc::new(Notify::new());
        let mut places = room.places();
        places.make_room(source, room.all_max, room.source_max);
        let number = places.next;
        places.next += 1;
        places.insert(source, number, evicted.clone());
        drop(places);
        Slot { room: room.clone(), source, number, evicted }
    }

    /// Takes the place of the oldest connection of whoever has the most.
    pub(crate) fn make_room(&self) {
        let mut places = self.places();
        if let Some(most) = places.most() {
            places.evict(most);
        }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Resolves when the place is lost; not before it is polled, and never for anybody else.
    pub(crate) fn eviction(&self) -> impl Future<Output = ()> + Send + use<> {
        self.evicted.clone().notified_owned()
    }

    /// The connection turned out to come from somewhere else.
    pub(crate) fn move_to(&mut self, address: IpAddr) {
        let source = source(address);
        if source == self.source {
            return;
        }
        let mut places = self.room.places();
        if places.remove(self.source, self.number).is_some() {
            places.make_room(source, self.room.all_max, self.room.source_max);
            places.insert(source, self.number, self.evicted.clone());
        }
        drop(places);
        self.source = source;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.room.places().remove(self.source, self.number);
    }
}

impl Places {
    fn make_room(&mut self, source: IpAddr, all_max: usize, source_max: usize) {
        if self.sources.get(&source).map_or(0, BTreeMap::len) >= source_max {
            self.evict(source);
        } else if self.count >= all_max
            && let Some(most) = self.most()
        {
            self.evict(most);
        }
    }

    fn most(&self) -> Option<IpAddr> {
        self.ranks.last().map(|(_, source)| *source)
    }

    fn evict(&mut self, source: IpAddr) {
        let oldest = self.sources.get(&source).and_then(|held| held.keys().next().copied());
        if let Some(evicted) = oldest.and_then(|oldest| self.remove(source, oldest)) {
            evicted.notify_one();
        }
    }

    fn insert(&mut self, source: IpAddr, number: u64, evicted: Arc<Notify>) {
        let held = self.sources.entry(source).or_default();
        self.ranks.remove(&(held.len(), source));
        held.insert(number, evicted);
        self.ranks.insert((held.len(), source));
        self.count += 1;
    }

    fn remove(&mut self, source: IpAddr, number: u64) -> Option<Arc<Notify>> {
        let held = self.sources.get_mut(&source)?;
        let before = held.len();
        let evicted = held.remove(&number)?;
        let left = held.len();
        self.ranks.remove(&(before, source));
        if left == 0 {
            self.sources.remove(&source);
        } else {
            self.ranks.insert((left, source));
        }
        self.count -= 1;
        Some(evicted)
    }
}

fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let prefix = u128::MAX << (128 - IPV6_SOURCE_BITS);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & prefix))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::task::{Context, Waker};

    use super::*;

    fn is_evicted(slot: &Slot) -> bool {
        let mut evicted = std::pin::pin!(slot.eviction());
        evicted.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn where_it_is_full_the_oldest_goes_of_whoever_has_the_most() {
        let room = Room::new(4, 3);
        let greedy = [1, 1, 1].map(|it| Room::enter(&room, v4(it)));
        let modest = Room::enter(&room, v4(2));
        let another = Room::enter(&room, v4(3));
        assert_eq!(greedy.each_ref().map(is_evicted), [true, false, false]);
        assert!(!is_evicted(&modest) && !is_evicted(&another));
    }

    #[test]
    fn a_source_with_all_it_may_have_makes_room_itself_and_ipv6_counts_by_customer() {
        let room = Room::new(100, 2);
        let other = Room::enter(&room, v4(9));
        let held: Vec<_> = ["2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::3"]
            .map(|it| Room::enter(&room, it.parse().unwrap()))
            .into();
        assert_eq!(held.iter().map(is_evicted).collect::<Vec<_>>(), [true, false, false]);
        assert!(!is_evicted(&other));
    }

    #[test]
    fn whoever_leaves_or_moves_gives_the_place_back() {
        let room = Room::new(2, 2);
        let mut first = Room::enter(&room, v4(1));
        let second = Room::enter(&room, v4(1));
        drop(second);
        let third = Room::enter(&room, v4(1));
        first.move_to(v4(2));
        assert!(!is_evicted(&first) && !is_evicted(&third));
        drop((first, third));
        let places = room.places();
        assert!(places.sources.is_empty() && places.ranks.is_empty() && places.count == 0);
    }
}
