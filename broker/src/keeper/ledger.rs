//! The ledger of a session: which debts it has, and which of them have a row. Plain data; whoever has it has the
//! session's lock.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use muster_core::sessions::{Change, DeliveryKey, Stage, StoredDelivery, StoredInbound};

use super::kept::Owed;
use crate::codec::Qos;

pub(super) struct Ledger {
    /// What has arrived and was not taken in.
    pub(super) inbox: VecDeque<Owed>,
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
    seen_to: u64,
    pub(super) is_ended: bool,
}

/// What the row of a debt will hold.
pub(super) struct Row {
    topic: Bytes,
    message: Bytes,
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
        topic: Bytes,
        message: Bytes,
        qos: Qos,
        retain: bool,
        subscription_id: Option<u32>,
        is_logged: bool,
    ) -> Self {
        Self { topic, message, qos, retain, subscription_id, pkid: 0, is_logged, generation: 0 }
    }

    fn stored(&self, key: DeliveryKey, pkid: u16) -> StoredDelivery {
        StoredDelivery {
            key,
            stage: if pkid == 0 { Stage::Waits } else { Stage::Sent },
            pkid,
            topic: String::from_utf8_lossy(&self.topic).into_owned(),
            body: self.message.clone(),
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
            inbox: VecDeque::new(),
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

    /// Adds what is to be written to `changes`. `upper`: debts of events before it are here, if they are not settled.
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
        let is_due = |row: &Row| generation.is_none_or(|generation| row.generation < generation);
        let due: Vec<_> = self.unstored.iter().filter(|(_, row)| is_due(row)).map(|(key, _)| *key).collect();
        for key in due {
            let Some(row) = self.unstored.remove(&key) else { continue };
            self.stored.insert(key, row.qos);
            changes.push(Change::Owed(session, row.stored(key, row.pkid)));
        }
        self.flush_inbound(session, changes);
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
        let is_dirty = !self.unstored.is_empty() || !self.done.is_empty() || !self.released.is_empty();
        Left { read_from, is_dirty }
    }

    fn flush_inbound(&mut self, session: u64, changes: &mut Vec<Change>) {
        for (pkid, (message, is_stored)) in &mut self.inbound {
            if !std::mem::replace(is_stored, true) {
                let inbound = StoredInbound { pkid: *pkid, message: *message, released: false };
                changes.push(Change::Inbound(session, inbound));
                // The identifier is in use again: its row is this one.
                self.released.remove(pkid);
            }
        }
    }
}
