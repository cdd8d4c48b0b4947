//! A session that outlives its connections, as publishers and the store see it: what has arrived for it and what it is
//! owed. A debt is settled when its last [`Debt`] is dropped: whatever becomes of a message on its way to the client,
//! nothing that is given up stays owed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_core::sessions::{Change, DeliveryKey, Stage, StoredInbound, Ticket};
use tokio::sync::Notify;

use super::ledger::{Ledger, Left, Row};
use super::{Keeper, Options};
use crate::codec::Qos;
use crate::inbox::{Arrived, Message};

/// How long a message waits before it is looked at again whether the log takes its event.
const RETRY_WAIT: Duration = Duration::from_millis(50);

/// What the session shares with publishers.
pub(crate) struct Kept {
    session: u64,
    clientid: Arc<str>,
    keeper: Arc<Keeper>,
    ledger: Mutex<Ledger>,
    arrived: Notify,
    /// The server stops: what is owed now stays owed.
    is_frozen: AtomicBool,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("session", &self.session).finish_non_exhaustive()
    }
}

/// What is first in the inbox.
enum Next {
    Message(Box<Arrived>),
    /// A message whose event, at this offset, is not durable yet.
    NotDurable(u64),
    Nothing,
}

/// While it lives, the session is owed a message.
#[derive(Debug)]
pub(crate) struct Debt {
    kept: Arc<Kept>,
    key: DeliveryKey,
}

impl Drop for Debt {
    fn drop(&mut self) {
        self.kept.settle(self.key);
    }
}

impl Kept {
    pub(crate) fn new(keeper: &Arc<Keeper>, session: u64, clientid: &str, seen_to: u64) -> Arc<Self> {
        Arc::new(Self {
            session,
            clientid: clientid.into(),
            keeper: Arc::clone(keeper),
            ledger: Mutex::new(Ledger::new(seen_to)),
            arrived: Notify::new(),
            is_frozen: AtomicBool::new(false),
        })
    }

    /// Its number, of the session and in the store.
    pub(crate) fn session(&self) -> u64 {
        self.session
    }

    /// Nothing that the log has before this offset concerns it any more.
    pub(crate) fn seen_to(&self) -> u64 {
        self.ledger().seen_to
    }

    /// Gives it a message for one of its subscriptions; how many older ones had to make room.
    pub(crate) fn owe(self: &Arc<Self>, offset: u64, options: Options, message: &Arc<Message>) -> u64 {
        let mut arrived = Arrived::new(message, &options, &self.clientid);
        if arrived.qos > Qos::AtMostOnce && !arrived.is_own {
            let key = DeliveryKey { message: offset, number: options.number };
            let (qos, retain) = (arrived.qos, arrived.retain);
            arrived.debt = self.indebt(key, Row::new(Arc::clone(message), qos, retain, options.id, true));
        }
        let mut ledger = self.ledger();
        if ledger.is_ended {
            drop(ledger);
            return 0;
        }
        let gone = ledger.inbox.push(arrived);
        // A debt that is dropped wants the ledger itself.
        drop(ledger);
        self.arrived.notify_one();
        gone.len() as u64
    }

    /// A debt for a message that the session owes itself: a retained one for a new subscription. None where it is
    /// owed the same already.
    pub(crate) fn remember(
        self: &Arc<Self>,
        message: u64,
        number: u32,
        of: &Arc<Message>,
        qos: Qos,
        id: Option<u32>,
    ) -> Option<Arc<Debt>> {
        let row = Row::new(Arc::clone(of), qos, true, id, false);
        self.indebt(DeliveryKey { message, number }, row)
    }

    /// A debt that has a row already.
    pub(crate) fn recall(self: &Arc<Self>, key: DeliveryKey, qos: Qos) -> Option<Arc<Debt>> {
        self.ledger().recall(key, qos).then(|| Arc::new(Debt { kept: Arc::clone(self), key }))
    }

    /// A QoS 2 row that is settled, but remembered.
    pub(crate) fn recall_done(self: &Arc<Self>, key: DeliveryKey) {
        self.ledger().recall_done(key);
        self.keeper.soil(self);
    }

    /// A packet identifier of the client's that has a row already.
    pub(crate) fn recall_inbound(self: &Arc<Self>, StoredInbound { pkid, message, released }: StoredInbound) {
        let mut ledger = self.ledger();
        if released {
            ledger.released.insert(pkid, message);
        } else {
            ledger.inbound.insert(pkid, (message, true));
        }
        drop(ledger);
        self.keeper.soil(self);
    }

    fn indebt(self: &Arc<Self>, key: DeliveryKey, row: Row) -> Option<Arc<Debt>> {
        if !self.ledger().owe(key, row, self.keeper.generation()) {
            return None;
        }
        self.keeper.soil(self);
        Some(Arc::new(Debt { kept: Arc::clone(self), key }))
    }

    /// The next message that has arrived. May be dropped at any time without losing anything.
    ///
    /// One that is owed comes when its event is durable: a message whose publisher has no acknowledgement may be
    /// published again after a crash, and would be another then.
    pub(crate) async fn next(&self) -> Arrived {
        let journal = &self.keeper.journal;
        loop {
            match self.take(journal.durable_offset()) {
                Next::Message(owed) => return *owed,
                Next::Nothing => self.arrived.notified().await,
                Next::NotDurable(offset) => {
                    if journal.durable(offset).await.is_err() {
                        // The disk is full; what is queued for it stays queued.
                        tokio::time::sleep(RETRY_WAIT).await;
                    }
                }
            }
        }
    }

    /// The next message, if it may be given to the session's task now, as [`Self::next`] says it.
    pub(crate) fn try_next(&self) -> Option<Arrived> {
        match self.take(self.keeper.journal.durable_offset()) {
            Next::Message(owed) => Some(*owed),
            Next::Nothing | Next::NotDurable(_) => None,
        }
    }

    fn take(&self, durable_offset: u64) -> Next {
        let mut ledger = self.ledger();
        let not_durable = |arrived: &Arrived| {
            let offset = arrived.debt.as_ref().map(|debt| debt.key.message);
            offset.filter(|offset| *offset >= durable_offset)
        };
        match ledger.inbox.first().map(not_durable) {
            Some(Some(offset)) => Next::NotDurable(offset),
            Some(None) => ledger.inbox.pop().map_or(Next::Nothing, |owed| Next::Message(Box::new(owed))),
            None => Next::Nothing,
        }
    }

    /// A packet identifier was given to a message whose loss does no harm (QoS 1): written when there is time.
    pub(crate) fn sent(self: &Arc<Self>, debt: &Debt, pkid: u16) {
        self.ledger().sent(debt.key, pkid);
        self.keeper.soil(self);
    }

    /// A message with QoS 2 has a packet identifier; it may be sent when that is stored.
    pub(crate) async fn assign(&self, debt: &Debt, pkid: u16) -> Option<Ticket> {
        let room = self.keeper.store.reserve().await?;
        let _order = self.keeper.order();
        let change = self.ledger().assign(self.session, debt.key, pkid);
        Some(room.write(vec![change]))
    }

    /// The client has a message with QoS 2; its identifier may be released when that is stored.
    pub(crate) async fn released(&self, debt: &Debt, pkid: u16) -> Option<Ticket> {
        let room = self.keeper.store.reserve().await?;
        let _order = self.keeper.order();
        let (session, key) = (self.session, debt.key);
        Some(room.write(vec![Change::Moved { session, key, stage: Stage::Released, pkid }]))
    }

    /// The client has published with QoS 2, and the event has this offset. The publish must be under way.
    pub(crate) fn received(self: &Arc<Self>, pkid: u16, message: u64) {
        self.ledger().inbound.insert(pkid, (message, false));
        self.keeper.soil(self);
    }

    /// The log did not take that publish.
    pub(crate) fn not_received(&self, pkid: u16) {
        self.ledger().inbound.remove(&pkid);
    }

    /// The client will not send that again: it may hear so when that is stored.
    pub(crate) async fn release(self: &Arc<Self>, pkid: u16, message: u64) -> Option<Ticket> {
        let room = self.keeper.store.reserve().await?;
        let order = self.keeper.order();
        let mut ledger = self.ledger();
        ledger.inbound.remove(&pkid);
        ledger.released.insert(pkid, message);
        drop(ledger);
        let inbound = StoredInbound { pkid, message, released: true };
        let ticket = room.write(vec![Change::Inbound(self.session, inbound)]);
        drop(order);
        self.keeper.soil(self);
        Some(ticket)
    }

    /// What is owed now stays owed: whoever lets go of a message does it because the server stops.
    pub(crate) fn freeze(&self) {
        self.is_frozen.store(true, Ordering::Release);
    }

    /// The session ends: nothing is owed any more.
    pub(crate) async fn end(&self) -> Option<Ticket> {
        let room = self.keeper.store.reserve().await?;
        let order = self.keeper.order();
        let mut ledger = self.ledger();
        ledger.is_ended = true;
        let inbox = std::mem::take(&mut ledger.inbox);
        drop(ledger);
        let ticket = room.write(vec![Change::Ended { session: self.session }]);
        drop(order);
        // Debts in it want the ledger.
        drop(inbox);
        Some(ticket)
    }

    fn settle(self: &Arc<Self>, key: DeliveryKey) {
        if !self.is_frozen.load(Ordering::Acquire) && self.ledger().settle(key) {
            self.keeper.soil(self);
        }
    }

    pub(super) fn flush(&self, generation: Option<u64>, upper: u64, changes: &mut Vec<Change>) -> Left {
        self.ledger().flush(self.session, generation, upper, changes)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
