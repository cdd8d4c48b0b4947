//! Who is here: one entry a client identifier, with the way to reach its session's task. It serializes connections of
//! one client, so that a takeover hands the session over before the next connection begins. Entries are in the order of
//! identifiers, so that a list of them is read step by step, from anywhere, while clients come and go.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicI64, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};

use crate::authz::CachedAnswer;
use crate::info::{ClientInfo, HeldPage, HeldQuery, SubscriptionInfo};
use crate::session::Session;
use crate::stats::Counter;

/// Messages to a session's task that may wait.
const CONTROL_MESSAGES_MAX: usize = 8;

/// What others may ask of a session's task.
pub(crate) enum Control {
    /// Another connection of the client takes its place. `clean`: it wants nothing of the session. The reply comes
    /// when every event of the old connection is written.
    TakeOver { clean: bool, reply: oneshot::Sender<Option<Box<Session>>> },
    /// An operator ends connection and session.
    Kick { why: KickReason, reply: oneshot::Sender<()> },
    /// An operator subscribes for the client; the answer says whether there was room for all of it.
    Subscribe { subscriptions: Vec<SubscriptionInfo>, done: oneshot::Sender<bool> },
    /// An operator unsubscribes for the client; the answer says which of them it was subscribed to.
    Unsubscribe { filters: Vec<String>, done: oneshot::Sender<Vec<bool>> },
    /// An operator changes how long the client may be silent; the answer says whether it is connected.
    KeepAlive { seconds: u16, done: oneshot::Sender<bool> },
    /// An operator wants to see what is remembered of the client's permissions, or to have it forgotten.
    Answers { forget: bool, reply: oneshot::Sender<Vec<CachedAnswer>> },
    /// An operator wants to see messages that are held for the client.
    Held { query: HeldQuery, reply: oneshot::Sender<HeldPage> },
    /// The server stops.
    Shutdown,
}

/// Why an operator ends a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KickReason {
    /// Because it was asked for.
    Kicked,
    /// Because the client was shut out.
    Banned,
}

/// What became of subscriptions in the name of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxySubscribed {
    /// The client has them.
    Done,
    /// The client would have more than it may; it has none of them.
    TooMany,
    /// There is no such client.
    NoClient,
}

/// What is known of a session from outside; its task keeps it up to date.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// What does not change during a connection.
    pub(crate) fixed: ClientInfo,
    /// Whether the session outlives its connections.
    pub(crate) is_kept: bool,
    /// 0 while connected.
    pub(crate) disconnected_at_ms: AtomicI64,
    /// Begins as what is fixed; operators may change it.
    pub(crate) keepalive_seconds: AtomicU16,
    pub(crate) inflight: AtomicUsize,
    pub(crate) queued: AtomicUsize,
    pub(crate) awaiting_release: AtomicUsize,
    pub(crate) bytes_received: Counter,
    pub(crate) packets_received: Counter,
    pub(crate) messages_received: [Counter; 3],
    pub(crate) bytes_sent: Counter,
    pub(crate) packets_sent: Counter,
    pub(crate) messages_sent: [Counter; 3],
    pub(crate) dropped: Counter,
    pub(crate) dropped_queue_full: Counter,
    pub(crate) dropped_expired: Counter,
    pub(crate) dropped_too_large: Counter,
    pub(crate) subscriptions: Mutex<Vec<SubscriptionInfo>>,
}

impl Facts {
    pub(crate) fn is_connected(&self) -> bool {
        self.disconnected_at_ms.load(Ordering::Relaxed) == 0
    }

    /// The subscriptions, for reading and writing.
    pub(crate) fn subscriptions(&self) -> MutexGuard<'_, Vec<SubscriptionInfo>> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of everything as it is now.
    pub(crate) fn info(&self) -> ClientInfo {
        let disconnected_at_ms = self.disconnected_at_ms.load(Ordering::Relaxed);
        let received = self.messages_received.each_ref().map(Counter::get);
        let sent = self.messages_sent.each_ref().map(Counter::get);
        ClientInfo {
            connected: disconnected_at_ms == 0,
            disconnected_at_ms: (disconnected_at_ms != 0).then_some(disconnected_at_ms),
            keepalive_seconds: self.keepalive_seconds.load(Ordering::Relaxed),
            subscriptions_count: self.subscriptions().len(),
            inflight_count: self.inflight.load(Ordering::Relaxed),
            queue_count: self.queued.load(Ordering::Relaxed),
            awaiting_release_count: self.awaiting_release.load(Ordering::Relaxed),
            bytes_received: self.bytes_received.get(),
            packets_received: self.packets_received.get(),
            messages_received_by_qos: received,
            bytes_sent: self.bytes_sent.get(),
            packets_sent: self.packets_sent.get(),
            messages_sent_by_qos: sent,
            messages_dropped: self.dropped.get(),
            messages_dropped_queue_full: self.dropped_queue_full.get(),
            messages_dropped_expired: self.dropped_expired.get(),
            messages_dropped_too_large: self.dropped_too_large.get(),
            ..self.fixed.clone()
        }
    }
}

/// All clients with a session.
#[derive(Default)]
pub(crate) struct Clients {
    entries: Mutex<BTreeMap<Arc<str>, Entry>>,
    generations: AtomicU64,
    pub(crate) connected: AtomicUsize,
    /// Entries with a session.
    sessions: AtomicUsize,
}

#[derive(Default)]
struct Entry {
    /// Held by a connection from CONNECT until it is registered.
    gate: Arc<tokio::sync::Mutex<()>>,
    live: Option<Live>,
}

struct Live {
    control: Line,
    facts: Arc<Facts>,
    generation: u64,
}

/// The way to a session's task.
#[derive(Clone)]
struct Line(mpsc::Sender<Asked>);

/// Boxed, because a channel holds room for 32 of what it carries, and every client has one.
pub(crate) type Asked = Box<Control>;

impl Line {
    /// Asks the session for something; whether it is still there.
    async fn send(&self, control: Control) -> bool {
        self.0.send(Box::new(control)).await.is_ok()
    }
}

/// The right to be the next connection of a client.
pub(crate) struct Turn {
    clientid: Arc<str>,
    _gate: OwnedMutexGuard<()>,
}

/// A registered session; its task gives it back at the end.
#[derive(Debug, Clone)]
pub(crate) struct Registration {
    clientid: Arc<str>,
    generation: u64,
}

impl Clients {
    /// Waits until no other connection of the client is between CONNECT and CONNACK.
    pub(crate) async fn turn(&self, clientid: &str) -> Turn {
        let clientid: Arc<str> = clientid.into();
        let gate = Arc::clone(&self.lock().entry(Arc::clone(&clientid)).or_default().gate);
        Turn { clientid, _gate: gate.lock_owned().await }
    }

    /// Ends the client's earlier connection, if there is one; its session, unless it ended with it or `clean`.
    pub(crate) async fn take_over(&self, turn: &Turn, clean: bool) -> Option<Box<Session>> {
        let control = self.lock().get(&turn.clientid)?.live.as_ref()?.control.clone();
        let (reply, answer) = oneshot::channel();
        if !control.send(Control::TakeOver { clean, reply }).await {
            return None;
        }
        answer.await.ok().flatten()
    }

    /// Registers the client's new session.
    pub(crate) fn register(&self, turn: &Turn, facts: Arc<Facts>) -> (Registration, mpsc::Receiver<Asked>) {
        let (control, receiver) = mpsc::channel(CONTROL_MESSAGES_MAX);
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let live = Live { control: Line(control), facts, generation };
        let earlier = self.lock().entry(Arc::clone(&turn.clientid)).or_default().live.replace(live);
        if earlier.is_none() {
            self.sessions.fetch_add(1, Ordering::Relaxed);
        }
        (Registration { clientid: Arc::clone(&turn.clientid), generation }, receiver)
    }

    /// Forgets a session that has ended, unless another took its place.
    pub(crate) fn unregister(&self, registration: &Registration) {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(&registration.clientid) else { return };
        if entry.live.as_ref().is_some_and(|live| live.generation == registration.generation) {
            entry.live = None;
            self.sessions.fetch_sub(1, Ordering::Relaxed);
        }
        Self::prune(&mut entries, &registration.clientid);
    }

    /// Gives up a turn without having registered anything.
    pub(crate) fn abandon(&self, turn: Turn) {
        let clientid = Arc::clone(&turn.clientid);
        drop(turn);
        Self::prune(&mut self.lock(), &clientid);
    }

    /// Whether the client is connected.
    pub(crate) fn is_connected(&self, clientid: &str) -> bool {
        let entries = self.lock();
        let live = entries.get(clientid).and_then(|entry| entry.live.as_ref());
        live.is_some_and(|live| live.facts.is_connected())
    }

    /// What is known of one client.
    pub(crate) fn facts(&self, clientid: &str) -> Option<Arc<Facts>> {
        self.lock().get(clientid)?.live.as_ref().map(|live| Arc::clone(&live.facts))
    }

    /// What is known of each client.
    pub(crate) fn all(&self) -> Vec<Arc<Facts>> {
        let entries = self.lock();
        entries.values().filter_map(|entry| entry.live.as_ref()).map(|live| Arc::clone(&live.facts)).collect()
    }

    /// What is known of up to `count_max` clients that come after an identifier, in the order of identifiers.
    pub(crate) fn after(&self, clientid: Option<&str>, count_max: usize) -> Vec<Arc<Facts>> {
        let from = clientid.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = self.lock();
        let behind = entries.range::<str, _>((from, Bound::Unbounded));
        let live = behind.filter_map(|(_, entry)| entry.live.as_ref());
        live.take(count_max).map(|live| Arc::clone(&live.facts)).collect()
    }

    /// How many sessions there are.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Ends connection and session of a client; whether there was one.
    pub(crate) async fn kick(&self, clientid: &str, why: KickReason) -> bool {
        let Some(control) = self.control(clientid) else { return false };
        let (reply, done) = oneshot::channel();
        control.send(Control::Kick { why, reply }).await && done.await.is_ok()
    }

    /// As [`Clients::kick`], without waiting for the end: for whoever stands in the session's way itself.
    pub(crate) async fn begin_kick(&self, clientid: &str, why: KickReason) {
        if let Some(control) = self.control(clientid) {
            let (reply, _) = oneshot::channel();
            // Who has ended meanwhile needs not be told.
            control.send(Control::Kick { why, reply }).await;
        }
    }

    /// Subscribes for a client: to all of it or to nothing.
    pub(crate) async fn subscribe(
        &self,
        clientid: &str,
        subscriptions: Vec<SubscriptionInfo>,
    ) -> ProxySubscribed {
        let Some(control) = self.control(clientid) else { return ProxySubscribed::NoClient };
        let (done, wait) = oneshot::channel();
        if !control.send(Control::Subscribe { subscriptions, done }).await {
            return ProxySubscribed::NoClient;
        }
        match wait.await {
            Ok(true) => ProxySubscribed::Done,
            Ok(false) => ProxySubscribed::TooMany,
            Err(_) => ProxySubscribed::NoClient,
        }
    }

    /// Unsubscribes for a client; which of them it was subscribed to, none where there is no such client.
    pub(crate) async fn unsubscribe(&self, clientid: &str, filters: Vec<String>) -> Option<Vec<bool>> {
        let control = self.control(clientid)?;
        let (done, wait) = oneshot::channel();
        control.send(Control::Unsubscribe { filters, done }).await.then_some(wait)?.await.ok()
    }

    /// Changes how long a client may be silent; whether it is connected.
    pub(crate) async fn keep_alive(&self, clientid: &str, seconds: u16) -> bool {
        let Some(control) = self.control(clientid) else { return false };
        let (done, wait) = oneshot::channel();
        control.send(Control::KeepAlive { seconds, done }).await && wait.await == Ok(true)
    }

    /// What a client's session remembers of its permissions, and forgets then if it shall; none where there is no such
    /// client.
    pub(crate) async fn answers(&self, clientid: &str, forget: bool) -> Option<Vec<CachedAnswer>> {
        let control = self.control(clientid)?;
        let (reply, wait) = oneshot::channel();
        control.send(Control::Answers { forget, reply }).await.then_some(wait)?.await.ok()
    }

    /// Messages that are held for a client; none where there is no such client.
    pub(crate) async fn held(&self, clientid: &str, query: HeldQuery) -> Option<HeldPage> {
        let control = self.control(clientid)?;
        let (reply, wait) = oneshot::channel();
        control.send(Control::Held { query, reply }).await.then_some(wait)?.await.ok()
    }

    /// Tells one session that the server stops: one that registered while the others were told.
    pub(crate) async fn shut_down_one(&self, clientid: &str) {
        if let Some(control) = self.control(clientid) {
            // Who has ended meanwhile needs not be told.
            control.send(Control::Shutdown).await;
        }
    }

    /// Tells every session that the server stops.
    pub(crate) async fn shut_down(&self) {
        let controls: Vec<_> = {
            let entries = self.lock();
            entries
                .values()
                .filter_map(|entry| entry.live.as_ref())
                .map(|live| live.control.clone())
                .collect()
        };
        for control in controls {
            // Who has ended meanwhile needs not be told.
            control.send(Control::Shutdown).await;
        }
    }

    fn control(&self, clientid: &str) -> Option<Line> {
        Some(self.lock().get(clientid)?.live.as_ref()?.control.clone())
    }

    /// Removes an entry that nobody uses and nobody waits for.
    fn prune(entries: &mut BTreeMap<Arc<str>, Entry>, clientid: &str) {
        if entries
            .get(clientid)
            .is_some_and(|entry| entry.live.is_none() && Arc::strong_count(&entry.gate) == 1)
        {
            entries.remove(clientid);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
