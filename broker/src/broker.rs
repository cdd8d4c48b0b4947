//! The broker's handle: what the rest of the platform can see and do.

use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use muster_core::clock::SharedClock;
use muster_core::event::{EventId, proto};
use muster_core::journal::Journal;
use muster_core::registry::Registry;
use muster_core::sessions::{SessionStore, Stored};
use muster_core::tls::Tls;
use muster_core::topic;
use rand::SeedableRng as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{AllowAll, Authenticator, Authorizer, Doorkeeper};
use crate::authz::CachedAnswer;
use crate::clients::{Clients, Facts, KickReason, ProxySubscribed};
use crate::codec::Qos;
use crate::config::{BrokerConfig, ListenerKind};
use crate::connect;
use crate::error::BrokerError;
use crate::groups::Groups;
use crate::hub::{Hub, NewMessage};
use crate::info::{ClientInfo, HeldPage, HeldQuery, ListenerInfo, RetainedInfo, SubscriptionInfo};
use crate::keeper::{Extent, Keeper, restore};
use crate::listener::{self, Endpoints, Listener, Room};
use crate::record::Recorder;
use crate::retained::Retained;
use crate::stats::{LiveCounters, Stats};
use crate::subscribers::Subscribers;
use crate::wanted::Wanted;

/// How often it is written down up to where the log needs not be read again for retained messages.
const MARK_INTERVAL: Duration = Duration::from_secs(5);

/// How often it is looked whether the files of a certificate have changed.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(5);

/// What the broker works with.
pub struct Environment {
    /// Where events go.
    pub journal: Journal,
    /// Retained messages, which survive a restart.
    pub registry: Registry,
    /// Where sessions are kept, and what was found there. The sessions come back.
    pub sessions: (SessionStore, Stored),
    /// Which events on request are asked for.
    pub wanted: Wanted,
    /// The time.
    pub clock: SharedClock,
    /// Who is shut out.
    pub doorkeeper: Arc<dyn Doorkeeper>,
    /// Who may come in.
    pub authenticator: Arc<dyn Authenticator>,
    /// Who may do what.
    pub authorizer: Arc<dyn Authorizer>,
}

impl Environment {
    /// An environment in which everybody may come in and do everything.
    pub fn open(
        journal: Journal,
        registry: Registry,
        sessions: (SessionStore, Stored),
        wanted: Wanted,
        clock: SharedClock,
    ) -> Self {
        let all = Arc::new(AllowAll);
        let (doorkeeper, authenticator, authorizer) = (all.clone(), all.clone(), all);
        Self { journal, registry, sessions, wanted, clock, doorkeeper, authenticator, authorizer }
    }
}

/// A message from inside the platform.
#[derive(Debug, Clone, Default)]
pub struct PublishRequest {
    /// In whose name; may be empty.
    pub clientid: String,
    /// By which user name.
    pub username: Option<String>,
    /// To which topic.
    pub topic: String,
    /// What.
    pub payload: Bytes,
    /// How.
    pub qos: Qos,
    /// Whether it is kept for later subscribers.
    pub retain: bool,
    /// MQTT 5 properties.
    pub props: Option<proto::Properties>,
    /// The rule that asks for it; empty where an operator does.
    pub republished_by: String,
    /// Which of the rule's rows it is.
    pub republication: Option<proto::Republication>,
    /// Which message of which request it is, where a request may come again.
    pub request: Option<proto::Request>,
}

impl PublishRequest {
    /// What it takes of [`crate::Limits::packet_bytes_max`]: topic, payload and properties.
    pub fn bytes(&self) -> usize {
        let props_bytes = self.props.as_ref().map_or(0, prost::Message::encoded_len);
        self.topic.len() + self.payload.len() + props_bytes
    }
}

/// A message from inside whose event is in the log, but perhaps not on the disk: what the journal says of its offset
/// counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The event's place in the log.
    pub offset: u64,
    /// The message's identity.
    pub id: EventId,
    /// Whether somebody subscribes to the topic.
    pub has_subscribers: bool,
}

/// What became of a [`PublishRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishOutcome {
    /// The event's place in the log; it is durable.
    pub offset: u64,
    /// The message's identity.
    pub id: EventId,
    /// Whether somebody subscribes to the topic.
    pub has_subscribers: bool,
}

/// A client with a session, looked at where it is: reading one field copies nothing else.
#[derive(Debug, Clone)]
pub struct ClientView(Arc<Facts>);

impl ClientView {
    /// What does not change during a connection; the rest of it is empty.
    pub fn fixed(&self) -> &ClientInfo {
        &self.0.fixed
    }

    /// Whether it is connected now.
    pub fn is_connected(&self) -> bool {
        self.0.is_connected()
    }

    /// A copy of everything as it is now.
    pub fn info(&self) -> ClientInfo {
        self.0.info()
    }

    /// Lets `look` see the subscriptions, in the order of filters. The session waits meanwhile, if it changes them.
    pub fn with_subscriptions<T>(&self, look: impl FnOnce(&[SubscriptionInfo]) -> T) -> T {
        look(&self.0.subscriptions())
    }
}

/// A running broker. Clones are the same broker.
#[derive(Clone)]
pub struct Broker {
    hub: Arc<Hub>,
    listeners: Arc<[Arc<Listener>]>,
    local_addr: SocketAddr,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("local_addr", &self.local_addr).finish_non_exhaustive()
    }
}

impl Broker {
    /// Serves a device whose bytes no listener has taken in: one in this process, or one that somebody else has
    /// accepted. `peer` is where it comes from. It counts for `connections_max` as any other does.
    pub fn serve(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, peer: SocketAddr) {
        let endpoints = Endpoints {
            peername: peer.to_string(),
            sockname: self.local_addr.to_string(),
            listener: ListenerKind::Tcp.id(),
            cert_common_name: None,
            is_buffered: false,
        };
        let hub = Arc::clone(&self.hub);
        self.hub.tasks.spawn(connect::serve_stream(hub, Box::new(stream), endpoints, peer));
    }

    /// Starts the listeners.
    ///
    /// # Errors
    /// There is no listener, an address cannot be listened on, or what survived the last run cannot be
    /// read.
    pub async fn start(config: BrokerConfig, environment: Environment) -> Result<Self, BrokerError> {
        let Environment { journal, registry, sessions, wanted, clock, .. } = environment;
        let (doorkeeper, authenticator, authorizer) =
            (environment.doorkeeper, environment.authenticator, environment.authorizer);
        let (store, stored) = sessions;
        let limits = &config.limits;
        let (messages_max, bytes_max) = (limits.retained_messages_max, limits.retained_bytes_max);
        let retained = Retained::load(registry, journal.clone(), messages_max, bytes_max).await?;
        let (mut listeners, mut sockets) = (Vec::new(), Vec::new());
        for listener in &config.listeners {
            let (listener, socket) = Listener::bind(listener, limits.packet_bytes_max)?;
            listeners.push(Arc::new(listener));
            sockets.push(socket);
        }
        let all = |listener: &Arc<Listener>| listener.info(limits.connections_max);
        let local_addr = listeners.first().map(all).ok_or(BrokerError::NoListener)?.bind;
        let keeper = Keeper::new(store, journal.clone());
        let hub = Arc::new(Hub {
            journal,
            clock,
            wanted,
            doorkeeper,
            authenticator,
            authorizer,
            clients: Clients::default(),
            groups: Groups::default(),
            retained,
            keeper,
            counters: LiveCounters::default(),
            subscribers: Subscribers::default(),
            topics: std::sync::Mutex::default(),
            session_ids: AtomicU64::new(1),
            random: std::sync::Mutex::new(rand::rngs::StdRng::from_os_rng()),
            room: Room::new(limits.handshakes_max, limits.handshakes_per_address_max),
            sockets: listener::sockets(limits.connections_max, limits.handshakes_max),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
            config,
        });
        // Who was here before the last end of the process is here again before anybody can come.
        restore::all(&hub, stored).await?;
        for (listener, socket) in listeners.iter().zip(sockets) {
            let ListenerInfo { kind, bind, .. } = listener.info(0);
            tracing::info!(address = %bind, listener = kind.id(), "MQTT listens");
            listener.open(&hub, socket).await;
        }
        follow_certificates(&hub);
        tokio::spawn(keep_mark(Arc::clone(&hub)));
        tokio::spawn(Arc::clone(&hub.keeper).run(hub.shutdown.clone()));
        Ok(Self { hub, listeners: listeners.into(), local_addr })
    }

    /// The largest packet that a client may send, and the largest message from inside.
    pub fn packet_bytes_max(&self) -> usize {
        self.hub.config.limits.packet_bytes_max
    }

    /// The address of the first listener.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Every listener, in the order in which they were given.
    pub fn listeners(&self) -> Vec<ListenerInfo> {
        let max = self.hub.config.limits.connections_max;
        self.listeners.iter().map(|listener| listener.info(max)).collect()
    }

    /// Has a listener take connections again, which it does for as long as the broker runs; whether there is such a
    /// listener.
    ///
    /// # Errors
    /// Its address cannot be listened on.
    pub async fn start_listener(&self, kind: ListenerKind) -> Result<bool, BrokerError> {
        match self.listener(kind) {
            Some(listener) => listener.start(&self.hub).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Has a listener take no more connections; those that it has stay. Whether there is such a listener.
    pub async fn stop_listener(&self, kind: ListenerKind) -> bool {
        match self.listener(kind) {
            Some(listener) => {
                listener.stop().await;
                true
            }
            None => false,
        }
    }

    fn listener(&self, kind: ListenerKind) -> Option<&Arc<Listener>> {
        self.listeners.iter().find(|it| it.kind() == kind)
    }

    /// Every client with a session, in the order of identifiers.
    pub fn clients(&self) -> Vec<ClientInfo> {
        self.hub.clients.all().iter().map(|facts| facts.info()).collect()
    }

    /// Up to `count_max` clients that come after an identifier, in the order of identifiers, without a copy of what is
    /// known of them.
    pub fn clients_after(&self, clientid: Option<&str>, count_max: usize) -> Vec<ClientView> {
        self.hub.clients.after(clientid, count_max).into_iter().map(ClientView).collect()
    }

    /// As [`Broker::client`], without a copy.
    pub fn client_view(&self, clientid: &str) -> Option<ClientView> {
        self.hub.clients.facts(clientid).map(ClientView)
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.hub.clients.sessions()
    }

    /// Up to `count_max` topic filters that come after one, in their order. Shared ones are without `$share/GROUP/`.
    pub fn topics_after(&self, topic: Option<&str>, count_max: usize) -> Vec<String> {
        let from = topic.map_or(Bound::Unbounded, Bound::Excluded);
        let topics = self.hub.topics.lock().unwrap_or_else(PoisonError::into_inner);
        topics
            .range::<str, _>((from, Bound::Unbounded))
            .take(count_max)
            .map(|(topic, _)| topic.clone())
            .collect()
    }

    /// Whether a message to this topic would have a subscriber now.
    pub fn has_subscribers(&self, topic: &str) -> bool {
        self.hub.subscribers.any_match(topic)
    }

    /// How many different topic filters there are.
    pub fn topics(&self) -> usize {
        self.hub.topics.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether somebody subscribes with exactly this filter.
    pub fn has_topic(&self, filter: &str) -> bool {
        self.hub.topics.lock().unwrap_or_else(PoisonError::into_inner).contains_key(filter)
    }

    /// One client.
    pub fn client(&self, clientid: &str) -> Option<ClientInfo> {
        self.hub.clients.facts(clientid).map(|facts| facts.info())
    }

    /// The subscriptions of one client; none where there is no such client.
    pub fn client_subscriptions(&self, clientid: &str) -> Option<Vec<SubscriptionInfo>> {
        self.hub.clients.facts(clientid).map(|facts| facts.subscriptions().clone())
    }

    /// Every subscription with its client.
    pub fn subscriptions(&self) -> Vec<(String, SubscriptionInfo)> {
        let of = |facts: &Arc<Facts>| {
            let clientid = facts.fixed.clientid.clone();
            let held = facts.subscriptions().clone();
            held.into_iter().map(move |subscription| (clientid.clone(), subscription))
        };
        self.hub.clients.all().iter().flat_map(of).collect()
    }

    /// Numbers.
    pub fn stats(&self) -> Stats {
        let hub = &self.hub;
        let all = hub.clients.all();
        Stats {
            connections: hub.clients.connected.load(Ordering::Relaxed),
            sessions: all.len(),
            subscriptions: all.iter().map(|facts| facts.subscriptions().len()).sum(),
            subscriptions_shared: hub.groups.subscriptions(),
            topics: self.topics(),
            retained: hub.retained.len(),
            counters: hub.counters.read(),
        }
    }

    /// Ends a client's connection and session; whether there was one.
    pub async fn kick(&self, clientid: &str) -> bool {
        self.hub.clients.kick(clientid, KickReason::Kicked).await
    }

    /// As [`Broker::kick`], because the client was shut out: the event says so.
    pub async fn kick_banned(&self, clientid: &str) -> bool {
        self.hub.clients.kick(clientid, KickReason::Banned).await
    }

    /// Subscribes in the name of a client: to all of it, or to nothing. Nobody is asked whether the client may.
    ///
    /// # Errors
    /// One of the filters is none.
    pub async fn subscribe(
        &self,
        clientid: &str,
        subscriptions: Vec<SubscriptionInfo>,
    ) -> Result<ProxySubscribed, BrokerError> {
        for subscription in &subscriptions {
            topic::validate_filter(&subscription.topic)?;
        }
        Ok(self.hub.clients.subscribe(clientid, subscriptions).await)
    }

    /// Unsubscribes in the name of a client; which of them it was subscribed to, none where there is no such client.
    pub async fn unsubscribe(&self, clientid: &str, filters: Vec<String>) -> Option<Vec<bool>> {
        self.hub.clients.unsubscribe(clientid, filters).await
    }

    /// Changes how long a client may be silent (0: as long as it likes); whether it is connected.
    pub async fn set_keep_alive(&self, clientid: &str, seconds: u16) -> bool {
        self.hub.clients.keep_alive(clientid, seconds).await
    }

    /// What a client's session remembers of its permissions; none where there is no such client.
    pub async fn authz_answers(&self, clientid: &str) -> Option<Vec<CachedAnswer>> {
        self.hub.clients.answers(clientid, false).await
    }

    /// Has a client's session forget what it remembers of its permissions; whether there is such a client.
    pub async fn forget_authz_answers(&self, clientid: &str) -> bool {
        self.hub.clients.answers(clientid, true).await.is_some()
    }

    /// Messages that are held for a client, connected or not; none where there is no such client.
    pub async fn held(&self, clientid: &str, query: HeldQuery) -> Option<HeldPage> {
        self.hub.clients.held(clientid, query).await
    }

    /// Publishes a message from inside and waits until its event is durable.
    ///
    /// # Errors
    /// The topic is none, the message is too large, or the log refused the event.
    pub async fn publish(&self, request: PublishRequest) -> Result<PublishOutcome, BrokerError> {
        let Accepted { offset, id, has_subscribers } = self.submit(request).await?;
        self.hub.journal.durable(offset).await?;
        Ok(PublishOutcome { offset, id, has_subscribers })
    }

    /// As [`Broker::publish`], without waiting for the disk: for whoever publishes many and waits once. The event has
    /// its offset as soon as the future gives it; dropped before, it may be in the log or not.
    ///
    /// # Errors
    /// As [`Broker::publish`].
    pub async fn submit(&self, request: PublishRequest) -> Result<Accepted, BrokerError> {
        topic::validate_name(&request.topic)?;
        let bytes = request.bytes();
        let bytes_max = self.hub.config.limits.packet_bytes_max;
        if bytes > bytes_max {
            return Err(BrokerError::TooLarge { bytes, bytes_max });
        }
        let PublishRequest {
            clientid,
            username,
            topic,
            payload,
            qos,
            retain,
            props,
            republished_by,
            republication,
            request,
        } = request;
        let client = proto::Client { clientid, username, ..Default::default() };
        let mut recorder =
            Recorder::outside(&self.hub.journal, &self.hub.clock, &self.hub.config.node, client);
        let origin = if republished_by.is_empty() { "rest" } else { "rule" };
        let message = NewMessage {
            topic,
            payload,
            qos,
            retain,
            dup: false,
            props,
            origin,
            republished_by,
            republication,
            request,
            packet_id: 0,
        };
        let published = self.hub.publish(&mut recorder, message).await?;
        Ok(Accepted { offset: published.offset, id: published.id, has_subscribers: published.matched })
    }

    /// A page of the retained messages whose topics `filter` matches, in the order of topics, and how many there are.
    pub fn retained(&self, filter: Option<&str>, skip: usize, count: usize) -> (Vec<RetainedInfo>, usize) {
        let (page, total) = self.hub.retained.page(filter, (skip, count), self.hub.clock.wall_ms());
        (page.into_iter().map(|(topic, envelope)| envelope.info(topic)).collect(), total)
    }

    /// The retained message of a topic.
    pub fn retained_message(&self, topic: &str) -> Option<RetainedInfo> {
        let found = self.hub.retained.get(topic, self.hub.clock.wall_ms());
        found.map(|envelope| envelope.info(topic.to_owned()))
    }

    /// Deletes the retained message of one topic, or all; how many. Each is a durable event when it returns. Nobody
    /// who subscribes is told.
    ///
    /// # Errors
    /// The log refused an event; those before it are deleted.
    pub async fn clear_retained(&self, topic: Option<&str>) -> Result<usize, BrokerError> {
        let topics = match topic {
            Some(topic) => Vec::from_iter(self.retained_message(topic).map(|it| it.topic)),
            None => self.hub.retained.topics(),
        };
        let client = proto::Client::default();
        let mut recorder =
            Recorder::outside(&self.hub.journal, &self.hub.clock, &self.hub.config.node, client);
        let mut last = None;
        for topic in &topics {
            last = Some(self.hub.clear_retained(&mut recorder, topic).await?);
        }
        if let Some(offset) = last {
            self.hub.journal.durable(offset).await?;
        }
        Ok(topics.len())
    }

    /// Stops listening, tells every client, and waits until every event is appended.
    pub async fn shutdown(&self) {
        self.hub.shutdown.cancel();
        self.hub.clients.shut_down().await;
        self.hub.tasks.close();
        let limit = self.hub.config.limits.shutdown_timeout();
        if tokio::time::timeout(limit, self.hub.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.hub.tasks.len(), "some connections did not end in time");
        }
        self.hub.retained.store_mark().await;
        if let Some(last) = self.hub.journal.next_offset().checked_sub(1) {
            // Only what is durable is stored as owed.
            let durable = tokio::time::timeout(limit, self.hub.journal.durable(last)).await;
            tracing::debug!(?durable, "the log is durable for sessions");
        }
        if let Some(ticket) = self.hub.keeper.flush(Extent::All).await
            && tokio::time::timeout(limit, self.hub.keeper.stored(ticket)).await.is_err()
        {
            tracing::warn!(
                "what sessions are owed was not stored in time; the next start looks for it in the log"
            );
        }
    }

    /// From where on the next start will read the log for what sessions are owed: nothing from there on may be removed.
    /// None where that is not known yet.
    pub fn sessions_read_from(&self) -> Option<u64> {
        let mark = self.hub.keeper.store().mark()?;
        (mark.log_id == self.hub.journal.log_id()).then_some(mark.read_from)
    }
}

/// Has new certificates served without a restart.
fn follow_certificates(hub: &Arc<Hub>) {
    let mut followed: Vec<&Tls> = Vec::new();
    for tls in hub.config.listeners.iter().filter_map(|it| it.tls.as_ref()) {
        if !followed.iter().any(|it| it.is_same(tls)) {
            followed.push(tls);
            let following = tls.clone().follow(CERTIFICATE_INTERVAL, hub.clock.clone(), hub.shutdown.clone());
            tokio::spawn(following);
        }
    }
}

/// Keeps what a start after a crash has to read again short.
async fn keep_mark(hub: Arc<Hub>) {
    let mut marked = 0;
    loop {
        tokio::select! {
            () = hub.shutdown.cancelled() => return,
            () = tokio::time::sleep(MARK_INTERVAL) => {}
        }
        let offset = hub.journal.next_offset();
        if offset != marked {
            marked = offset;
            hub.retained.store_mark().await;
        }
    }
}
