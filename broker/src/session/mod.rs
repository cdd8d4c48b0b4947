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
use crate::clients::{Asked, Facts, Registration};
use crate::codec::Qos;
use crate::config::Limits;
use crate::hub::Hub;
use crate::info::SubscriptionInfo;
use crate::keeper::{Kept, Memory, Options};
use crate::record::Recorder;
use crate::subscribers::Mailbox;

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
pub(crate) use offline::{Stay, run as wait_offline};
pub(crate) use online::{Parts, run};

use outbox::Outbox;
use subscribe::RetainedBacklog;

/// What outlives a connection.
pub(crate) struct Session {
    pub(crate) created_at_ms: i64,
    /// How long it lives without a connection.
    pub(crate) expiry_seconds: u32,
    subscriptions: HashMap<String, Subscription>,
    next_subscription: u32,
    /// How messages reach it.
    pub(crate) mailbox: Mailbox,
    /// The last thing that the client must not be told before it is stored.
    ticket: Option<Ticket>,
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
    pub(crate) fn new(created_at_ms: i64, limits: &Limits, mailbox: Mailbox) -> Self {
        Self {
            created_at_ms,
            expiry_seconds: 0,
            subscriptions: HashMap::new(),
            next_subscription: 1,
            mailbox,
            ticket: None,
            unreleased: HashMap::new(),
            outbox: Outbox::new(limits.queue_messages_max, limits.queue_bytes_max),
            backlog: VecDeque::new(),
        }
    }

    /// Gives back all that it holds elsewhere.
    pub(crate) async fn end(mut self: Box<Self>, hub: &Hub) {
        hub.counters.sessions_terminated.add(1);
        for (filter, subscription) in std::mem::take(&mut self.subscriptions) {
            if subscription.is_shared {
                hub.groups.leave(hub, &filter, self.mailbox.session());
            } else {
                hub.unsubscribe(&filter, self.mailbox.clone(), subscription.options());
            }
        }
        if let Some(kept) = self.kept() {
            // Who has to wait for it waits for all that was written before.
            let _ticket = kept.end().await;
        }
    }

    /// What the subscriptions look like from outside, in the order of filters.
    pub(crate) fn subscription_infos(&self) -> Vec<SubscriptionInfo> {
        let mut infos: Vec<_> =
            self.subscriptions.iter().map(|(filter, subscription)| subscription.info(filter)).collect();
        infos.sort_unstable_by(|a, b| a.topic.cmp(&b.topic));
        infos
    }

    /// What it is owed is stored, where it outlives its connections.
    pub(crate) fn kept(&self) -> Option<&Arc<Kept>> {
        match &self.mailbox {
            Mailbox::Kept(kept) => Some(kept),
            Mailbox::Passing(_) => None,
        }
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
    pub(crate) control: mpsc::Receiver<Asked>,
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
        let kept = self.session.kept()?;
        let memory = Memory::new(&self.facts.fixed, &self.subject, self.session.expiry_seconds);
        let gone_at_ms = self.facts.disconnected_at_ms.load(Ordering::Relaxed);
        Some(Change::Session {
            session: kept.session(),
            clientid: self.clientid().to_owned(),
            facts: memory.encode(),
            gone_at_ms: (gone_at_ms != 0).then_some(gone_at_ms),
            seen_to: kept.seen_to(),
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
        match self.session.kept().cloned().filter(|_| self.session.expiry_seconds > 0) {
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
