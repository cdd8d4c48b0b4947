//! The ledger of a session: which debts it has, and which of them have a row. Plain data; whoever has it has the
//! session's lock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use muster_core::sessions::{Change, DeliveryKey, Stage, StoredDelivery, StoredInbound};

use crate::codec::Qos;
use crate::inbox::{Arrivals, Message};

pub(super) struct Ledger {
    /// What has arrived and was not taken in.
    pub(super) inbox: Arrivals,
    /// Debts without a row.
    unstored: BTreeMap<DeliveryKey, Row>,
    /// Debts with one, and their QoS.
    stored: HashMap<DeliveryKey, Qos>,
    /// Rows to be taken.
    settled: Vec<DeliveryKey>,
    /// Rows that have changed.
    moved: BTreeMap<DeliveryKey, (Stage, u16)>,
    /// Rows of QoS 2 that are settled, and remembered while the log could bring the message back.
    done: BTreeSet<DeliveryKey>,
    /// QoS 2 publishes from the client that it has not released: the event's offset, and whether there is a row.
    pub(super) inbound: HashMap<u16, (u64, bool)>,
    /// Those that it has released: their rows go when the log needs not be read from there.
    pub(super) released: HashMap<u16, u64>,
    pub(super) seen_to: u64,
    pub(super) is_ended: bool,
}

/// What the row of a debt will hold.
pub(super) struct Row {
    message: Arc<Message>,
    qos: Qos,
    retain: bool,
    subscription_id: Option<u32>,
    /// 0: none yet.
    pkid: u16,
    /// Whether the log can bring it back.
    is_logged: bool,
    /// When the debt began, in flushes of the keeper.
    generation: u64,
}

impl Row {
    pub(super) fn new(
        message: Arc<Message>,
        qos: Qos,
        retain: bool,
        subscription_id: Option<u32>,
        is_logged: bool,
    ) -> Self {
        Self { message, qos, retain, subscription_id, pkid: 0, is_logged, generation: 0 }
    }

    fn stored(&self, key: DeliveryKey, pkid: u16) -> StoredDelivery {
        StoredDelivery {
            key,
            stage: if pkid == 0 { Stage::Waits } else { Stage::Sent },
            pkid,
            topic: String::from_utf8_lossy(&self.message.topic).into_owned(),
            body: self.message.encoded(),
            qos: self.qos.as_u8(),
            retain: self.retain,
            subscription_id: self.subscription_id,
        }
    }
}

/// What is left after a flush.
pub(super) struct Left {
    /// From where on the log must be read again for this session.
    pub(super) read_from: u64,
    /// Whether there will be more to write without anything happening.
    pub(super) is_dirty: bool,
}

impl Ledger {
    pub(super) fn new(seen_to: u64) -> Self {
        Self {
            inbox: Arrivals::default(),
            unstored: BTreeMap::new(),
            stored: HashMap::new(),
            settled: Vec::new(),
            moved: BTreeMap::new(),
            done: BTreeSet::new(),
            inbound: HashMap::new(),
            released: HashMap::new(),
            seen_to,
            is_ended: false,
        }
    }

    /// A new debt; false where there is one already.
    pub(super) fn owe(&mut self, key: DeliveryKey, row: Row, generation: u64) -> bool {
        if self.is_ended || self.unstored.contains_key(&key) || self.stored.contains_key(&key) {
            return false;
        }
        self.unstored.insert(key, Row { generation, ..row });
        true
    }

    pub(super) fn recall(&mut self, key: DeliveryKey, qos: Qos) -> bool {
        self.stored.insert(key, qos).is_none()
    }

    pub(super) fn recall_done(&mut self, key: DeliveryKey) {
        self.done.insert(key);
    }

    pub(super) fn sent(&mut self, key: DeliveryKey, pkid: u16) {
        if let Some(row) = self.unstored.get_mut(&key) {
            row.pkid = pkid;
        } else if self.stored.contains_key(&key) {
            self.moved.insert(key, (Stage::Sent, pkid));
        }
    }

    /// The row, with its identifier, of a debt that must have one now.
    pub(super) fn assign(&mut self, session: u64, key: DeliveryKey, pkid: u16) -> Change {
        match self.unstored.remove(&key) {
            Some(row) => {
                self.stored.insert(key, row.qos);
                Change::Owed(session, row.stored(key, pkid))
            }
            None => Change::Moved { session, key, stage: Stage::Sent, pkid },
        }
    }

    /// A debt is settled; whether a row has to go.
    pub(super) fn settle(&mut self, key: DeliveryKey) -> bool {
        if self.is_ended || self.unstored.remove(&key).is_some() {
            return false;
        }
        match self.stored.remove(&key) {
            Some(Qos::ExactlyOnce) => {
                self.moved.insert(key, (Stage::Done, 0));
                self.done.insert(key);
                true
            }
            Some(_) => {
                self.moved.remove(&key);
                self.settled.push(key);
                true
            }
            None => false,
        }
    }

    /// Adds what is to be written to `changes`. `upper`: events before it are durable, and their debts are here, if
    /// they are not settled. Of later events nothing is written.
    pub(super) fn flush(
        &mut self,
        session: u64,
        generation: Option<u64>,
        upper: u64,
        changes: &mut Vec<Change>,
    ) -> Left {
        if self.is_ended {
            return Left { read_from: upper, is_dirty: false };
        }
        let is_due = |key: &DeliveryKey, row: &Row| {
            let is_durable = !row.is_logged || key.message < upper;
            is_durable && generation.is_none_or(|generation| row.generation < generation)
        };
        let due = self.unstored.iter().filter(|(key, row)| is_due(key, row)).map(|(key, _)| *key);
        let due: Vec<_> = due.collect();
        for key in due {
            let Some(row) = self.unstored.remove(&key) else { continue };
            self.stored.insert(key, row.qos);
            changes.push(Change::Owed(session, row.stored(key, row.pkid)));
        }
        self.flush_inbound(session, upper, changes);
        let logged = self.unstored.iter().filter(|(_, row)| row.is_logged);
        let read_from = logged.map(|(key, _)| key.message).min().unwrap_or(upper).min(upper);
        for (key, (stage, pkid)) in std::mem::take(&mut self.moved) {
            changes.push(Change::Moved { session, key, stage, pkid });
        }
        for key in self.settled.drain(..) {
            changes.push(Change::Settled { session, key });
        }
        let remembered = self.done.split_off(&DeliveryKey { message: read_from, number: 0 });
        for key in std::mem::replace(&mut self.done, remembered) {
            changes.push(Change::Settled { session, key });
        }
        for (pkid, _) in self.released.extract_if(|_, message| *message < read_from) {
            changes.push(Change::InboundGone { session, pkid });
        }
        if read_from > self.seen_to {
            self.seen_to = read_from;
            changes.push(Change::SeenTo { session, offset: read_from });
        }
        let is_inbound_left = self.inbound.values().any(|(_, is_stored)| !is_stored);
        let is_dirty = is_inbound_left
            || !self.unstored.is_empty()
            || !self.done.is_empty()
            || !self.released.is_empty();
        Left { read_from, is_dirty }
    }

    fn flush_inbound(&mut self, session: u64, upper: u64, changes: &mut Vec<Change>) {
        for (pkid, (message, is_stored)) in &mut self.inbound {
            if *message < upper && !std::mem::replace(is_stored, true) {
                let inbound = StoredInbound { pkid: *pkid, message: *message, released: false };
                changes.push(Change::Inbound(session, inbound));
                // The identifier is in use again: its row is this one.
                self.released.remove(pkid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::envelope::Envelope;

    const SESSION: u64 = 1;

    /// What happens to a session's debts. Messages are named by their offsets, which grow.
    #[derive(Debug, Clone)]
    enum Step {
        /// A message with this QoS, whose publish is done.
        Owe(u8),
        /// The oldest debt of these is settled.
        Settle(usize),
        /// It gets a packet identifier.
        Assign(usize),
        Flush,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (1u8..3).prop_map(Step::Owe),
            2 => (0usize..8).prop_map(Step::Settle),
            2 => (0usize..8).prop_map(Step::Assign),
            2 => Just(Step::Flush),
        ];
        prop::collection::vec(step, 0..120)
    }

    fn row(qos: u8) -> Row {
        let qos = Qos::from_u8(qos).unwrap_or_default();
        Row::new(Message::new("t", Envelope::nothing(qos)), qos, false, None, true)
    }

    /// The store as it is after the changes so far: rows, and from where on the log is read again.
    #[derive(Default)]
    struct Disk {
        rows: BTreeMap<u64, Stage>,
        seen_to: u64,
    }

    impl Disk {
        fn apply(&mut self, change: &Change) {
            match change {
                Change::Owed(_, row) => drop(self.rows.insert(row.key.message, row.stage)),
                Change::Moved { key, stage, .. } => {
                    self.rows.entry(key.message).and_modify(|held| *held = *stage);
                }
                Change::Settled { key, .. } => drop(self.rows.remove(&key.message)),
                Change::SeenTo { offset, .. } => self.seen_to = *offset,
                _ => {}
            }
        }

        /// What a start would bring back of `count` messages in the log.
        fn owed(&self, count: u64) -> BTreeSet<u64> {
            let of_rows = self.rows.iter().filter(|(_, stage)| **stage != Stage::Done).map(|(key, _)| *key);
            let of_log = (self.seen_to..count).filter(|offset| !self.rows.contains_key(offset));
            of_rows.chain(of_log).collect()
        }
    }

    proptest! {
        /// Whatever happens in whatever order: at each moment a start would find every debt that is not settled, and
        /// none of QoS 2 that was settled before the last flush.
        #[test]
        fn no_debt_is_lost(steps in steps()) {
            let mut ledger = Ledger::new(0);
            let mut disk = Disk::default();
            let (mut count, mut generation) = (0u64, 0u64);
            let mut open: BTreeMap<u64, u8> = BTreeMap::new();
            let mut assigned = BTreeSet::new();
            let mut gone: BTreeSet<u64> = BTreeSet::new();
            let mut gone_for_good: BTreeSet<u64> = BTreeSet::new();
            for step in steps {
                let key = |message| DeliveryKey { message, number: 1 };
                match step {
                    Step::Owe(qos) => {
                        prop_assert!(ledger.owe(key(count), row(qos), generation));
                        prop_assert!(!ledger.owe(key(count), row(qos), generation), "one debt a message");
                        open.insert(count, qos);
                        count += 1;
                    }
                    Step::Settle(at) => if let Some((message, qos)) = open.iter().nth(at).map(|(m, q)| (*m, *q)) {
                        open.remove(&message);
                        let _has_row = ledger.settle(key(message));
                        // QoS 2 is settled only after it had an identifier, unless it is dropped.
                        if qos == 2 && assigned.contains(&message) {
                            gone.insert(message);
                        }
                    },
                    Step::Assign(at) => if let Some((message, 2)) = open.iter().nth(at).map(|(m, q)| (*m, *q)) {
                        disk.apply(&ledger.assign(SESSION, key(message), 7));
                        assigned.insert(message);
                    },
                    Step::Flush => {
                        let mut changes = Vec::new();
                        let left = ledger.flush(SESSION, Some(generation), count, &mut changes);
                        generation += 1;
                        changes.iter().for_each(|change| disk.apply(change));
                        prop_assert!(left.read_from <= count);
                        gone_for_good.append(&mut gone);
                    }
                }
                let owed = disk.owed(count);
                prop_assert!(open.keys().all(|message| owed.contains(message)), "lost of {open:?}: {owed:?}");
                prop_assert!(gone_for_good.is_disjoint(&owed), "{gone_for_good:?} came back: {owed:?}");
            }
            // When the server stops, all is stored and nothing else.
            let mut changes = Vec::new();
            let _left = ledger.flush(SESSION, None, count, &mut changes);
            changes.iter().for_each(|change| disk.apply(change));
            prop_assert_eq!(disk.seen_to, count);
            prop_assert_eq!(disk.owed(count), open.keys().copied().collect::<BTreeSet<_>>());
        }
    }

    #[test]
    fn what_is_settled_soon_is_never_written() {
        let mut ledger = Ledger::new(0);
        let key = DeliveryKey { message: 0, number: 1 };
        assert!(ledger.owe(key, row(1), 5));
        let mut changes = Vec::new();
        // The flush of the moment in which it came leaves it alone.
        let left = ledger.flush(SESSION, Some(5), 1, &mut changes);
        assert_eq!((left.read_from, left.is_dirty, changes.len()), (0, true, 0));
        assert!(!ledger.settle(key), "no row has to go");
        let left = ledger.flush(SESSION, Some(6), 1, &mut changes);
        assert_eq!((left.read_from, left.is_dirty), (1, false));
        assert_eq!(changes, [Change::SeenTo { session: SESSION, offset: 1 }]);
    }

    #[test]
    fn an_identifier_that_is_free_is_remembered_as_long_as_the_log_could_bring_it_back() {
        let mut ledger = Ledger::new(0);
        assert!(ledger.owe(DeliveryKey { message: 0, number: 1 }, row(1), 9));
        ledger.inbound.insert(3, (1, false));
        let mut changes = Vec::new();
        let left = ledger.flush(SESSION, Some(1), 2, &mut changes);
        let inbound = StoredInbound { pkid: 3, message: 1, released: false };
        assert_eq!((left.read_from, &changes[..]), (0, &[Change::Inbound(SESSION, inbound)][..]));
        ledger.inbound.remove(&3);
        ledger.released.insert(3, 1);
        changes.clear();
        assert!(ledger.flush(SESSION, Some(2), 2, &mut changes).is_dirty);
        assert_eq!(changes, []);
        ledger.settle(DeliveryKey { message: 0, number: 1 });
        let _left = ledger.flush(SESSION, Some(3), 2, &mut changes);
        let seen = Change::SeenTo { session: SESSION, offset: 2 };
        assert_eq!(changes, [Change::InboundGone { session: SESSION, pkid: 3 }, seen]);
    }
}
