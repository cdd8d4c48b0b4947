//! A session: what a client has with the broker beyond one connection. Its task owns it while the client is connected
//! ([`online`]) and, if the session outlives the connection, afterwards ([`offline`]); a takeover hands it on.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use muster_core::event::{EventKind, proto};
use muster_core::sessions::{Change, Ticket};
use tokio::sync::mpsc;

use crate::access::Subject;
use crate::authz::Cache;
use crate::clients::{Control, Facts, Registration};
use crate::codec::Qos;
use crate::groups::GroupMessage;
use crate::hub::Hub;
use crate::info::SubscriptionInfo;
use crate::keeper::{Kept, Memory, Options, Owed};
use crate::record::Recorder;
use crate::router::Link;

mod authorize;
mod deliver;
mod finish;
mod offline;
mod online;
mod outbox;
mod proxy;
mod publish;
mod restore;
mod send;
mod subscribe;
mod will;

pub(crate) use finish::close;
pub(crate) use offline::run as wait_offline;
pub(crate) use online::{Parts, run};

use outbox::Outbox;
use subscribe::RetainedBacklog;

/// Messages from shared groups that wait for the session's task.
const GROUP_MESSAGES_MAX: usize = 256;

/// What outlives a connection.
pub(crate) struct Session {
    /// Its number in the subscription index.
    pub(crate) id: u64,
    pub(crate) created_at_ms: i64,
    /// How long it lives without a connection.
    pub(crate) expiry_seconds: u32,
    subscriptions: HashMap<String, Subscription>,
    /// The filter of each subscription number.
    filters: HashMap<u32, String>,
    next_subscription: u32,
    /// Names what the router has to confirm next.
    next_token: u16,
    /// Made with the first subscription: most devices only publish. Never there with `kept`.
    link: Option<Link>,
    /// Where it outlives its connections: how messages reach it, and what it is owed.
    pub(crate) kept: Option<Arc<Kept>>,
    /// The last thing that the client must not be told before it is stored.
    ticket: Option<Ticket>,
    group_messages: Option<(mpsc::Sender<GroupMessage>, mpsc::Receiver<GroupMessage>)>,
    /// QoS 2 publishes from the client that it has not released: packet identifier and the event's offset.
    unreleased: HashMap<u16, u64>,
    outbox: Outbox,
    backlog: VecDeque<RetainedBacklog>,
}

/// A subscription as the client made it.
#[derive(Debug, Clone)]
pub(crate) struct Subscription {
    number: u32,
    qos: Qos,
    no_local: bool,
    retain_as_published: bool,
    retain_handling: u8,
    id: Option<u32>,
    is_shared: bool,
}

impl Subscription {
    fn options(&self) -> Options {
        Options {
            number: self.number,
            qos: self.qos,
            no_local: self.no_local,
            retain_as_published: self.retain_as_published,
            retain_handling: self.retain_handling,
            id: self.id,
        }
    }

    fn info(&self, filter: &str) -> SubscriptionInfo {
        SubscriptionInfo {
            topic: filter.to_owned(),
            qos: self.qos.as_u8(),
            no_local: self.no_local,
            retain_as_published: self.retain_as_published,
            retain_handling: self.retain_handling,
            subscription_id: self.id,
        }
    }

    fn event(&self, props: Option<proto::Properties>, by_proxy: bool) -> proto::Subscription {
        proto::Subscription {
            qos: u32::from(self.qos.as_u8()),
            no_local: self.no_local,
            retain_as_published: self.retain_as_published,
            retain_handling: u32::from(self.retain_handling),
            subscription_id: self.id,
            props,
            by_proxy,
        }
    }
}

impl Session {
    pub(crate) fn new(
        id: u64,
        created_at_ms: i64,
        queue_messages_max: usize,
        kept: Option<Arc<Kept>>,
    ) -> Self {
        Self {
            id,
            created_at_ms,
            expiry_seconds: 0,
            subscriptions: HashMap::new(),
            filters: HashMap::new(),
            next_subscription: 1,
            next_token: 0,
            link: None,
            kept,
            ticket: None,
            group_messages: None,
            unreleased: HashMap::new(),
            outbox: Outbox::new(queue_messages_max),
            backlog: VecDeque::new(),
        }
    }

    /// Gives back all that it holds elsewhere.
    pub(crate) async fn end(mut self: Box<Self>, hub: &Hub) {
        hub.counters.sessions_terminated.add(1);
        for (filter, subscription) in std::mem::take(&mut self.subscriptions) {
            match &self.kept {
                _ if subscription.is_shared => hub.groups.leave(hub, &filter, self.id),
                Some(kept) => hub.owe_no_more(&filter, kept, subscription.options()),
                None => hub.index_remove(&filter, self.id),
            }
        }
        if let Some(kept) = &self.kept {
            // Who has to wait for it waits for all that was written before.
            let _ticket = kept.end().await;
        }
        // Dropping the link leaves the router.
    }

    /// What the subscriptions look like from outside, in the order of filters.
    pub(crate) fn subscription_infos(&self) -> Vec<SubscriptionInfo> {
        let mut infos: Vec<_> =
            self.subscriptions.iter().map(|(filter, subscription)| subscription.info(filter)).collect();
        infos.sort_unstable_by(|a, b| a.topic.cmp(&b.topic));
        infos
    }

    /// The next message from a shared group; none comes where there is no shared subscription.
    async fn next_group_message(
        messages: &mut Option<(mpsc::Sender<GroupMessage>, mpsc::Receiver<GroupMessage>)>,
    ) -> Option<GroupMessage> {
        match messages {
            Some((_, receiver)) => receiver.recv().await,
            None => std::future::pending().await,
        }
    }

    /// The next thing from the router; none comes where there is no link.
    async fn next_incoming(
        link: &mut Option<Link>,
    ) -> Result<crate::router::Incoming, crate::router::RouterStopped> {
        match link {
            Some(link) => link.next().await,
            None => std::future::pending().await,
        }
    }

    /// The next message that the session is owed; none comes where it does not outlive its connection.
    async fn next_owed(kept: &Option<Arc<Kept>>) -> Owed {
        match kept {
            Some(kept) => kept.next().await,
            None => std::future::pending().await,
        }
    }

    /// The way for groups to reach this session's task.
    fn group_sender(&mut self) -> mpsc::Sender<GroupMessage> {
        let (sender, _) = self.group_messages.get_or_insert_with(|| mpsc::channel(GROUP_MESSAGES_MAX));
        sender.clone()
    }
}

/// What a session's task works with, connected or not.
pub(crate) struct Actor {
    pub(crate) hub: Arc<Hub>,
    pub(crate) recorder: Recorder,
    pub(crate) facts: Arc<Facts>,
    /// Whose permissions count.
    pub(crate) subject: Box<Subject>,
    /// What was answered about its permissions; made when something is.
    pub(crate) answers: Option<Box<Cache>>,
    pub(crate) control: mpsc::Receiver<Control>,
    pub(crate) registration: Registration,
    pub(crate) session: Box<Session>,
    /// A will of this connection is stored.
    pub(crate) left_will: bool,
}

impl Actor {
    pub(crate) fn clientid(&self) -> &str {
        &self.recorder.client().clientid
    }

    /// Whether somebody asks for events of this kind now.
    fn wants(&self, kind: EventKind) -> bool {
        self.hub.wanted.contains(kind)
    }

    /// The change that stores the session as it is now; none where it does not outlive its connection.
    pub(crate) fn memory(&self) -> Option<Change> {
        let kept = self.session.kept.as_ref()?;
        let memory = Memory::new(&self.facts.fixed, &self.subject, self.session.expiry_seconds);
        let gone_at_ms = self.facts.disconnected_at_ms.load(Ordering::Relaxed);
        Some(Change::Session {
            session: kept.session(),
            clientid: self.clientid().to_owned(),
            facts: memory.encode(),
            gone_at_ms: (gone_at_ms != 0).then_some(gone_at_ms),
        })
    }

    /// Queues changes to be stored; the client hears of them when they are.
    async fn store(&mut self, changes: Vec<Change>) {
        if let Some(ticket) = self.hub.keeper.write(changes).await {
            self.session.ticket = Some(ticket);
        }
    }

    /// The server stops: the session goes on at its next start, if it outlives its connection.
    async fn suspend(self) {
        match self.session.kept.clone().filter(|_| self.session.expiry_seconds > 0) {
            Some(kept) => {
                kept.freeze();
                let memory = self.memory();
                // The store is flushed before the process ends.
                let _ticket = self.hub.keeper.write(Vec::from_iter(memory)).await;
                self.hub.clients.unregister(&self.registration);
            }
            None => self.end().await,
        }
    }

    /// Ends the session and forgets the client.
    pub(crate) async fn end(self) {
        self.session.end(&self.hub).await;
        self.hub.clients.unregister(&self.registration);
    }

    /// Hands the session on, or ends it; in both cases this task is done.
    async fn hand_over(self, keep: bool, reply: tokio::sync::oneshot::Sender<Option<Box<Session>>>) {
        let Self { hub, registration, session, .. } = self;
        let handed = if keep {
            Some(session)
        } else {
            session.end(&hub).await;
            None
        };
        hub.clients.unregister(&registration);
        if let Err(Some(session)) = reply.send(handed) {
            // The new connection is gone already: nobody owns the session any more.
            session.end(&hub).await;
        }
    }
}
