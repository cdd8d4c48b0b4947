//! Who subscribes to what. A message is put into the inboxes of all who get it in the moment in which it is published,
//! by its publisher: nobody stands between, so that nothing is lost, held up or remembered there. It must never know
//! sockets or packets.

use std::cmp::Ordering as Order;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use muster_core::topic::FilterIndex;

use crate::groups::Group;
use crate::inbox::{Arrived, Inbox, Message};
use crate::keeper::{Kept, Options};
use crate::under_way::UnderWay;

/// How messages reach a session.
#[derive(Debug, Clone)]
pub(crate) enum Mailbox {
    /// It outlives its connections, and is owed what is in it.
    Kept(Arc<Kept>),
    /// It ends with its connection.
    Passing(Arc<Inbox>),
}

impl Mailbox {
    /// The session's number.
    pub(crate) fn session(&self) -> u64 {
        match self {
            Self::Kept(kept) => kept.session(),
            Self::Passing(inbox) => inbox.session(),
        }
    }

    /// Puts in a message, whose event has this offset, for one of the session's subscriptions; how many older ones had
    /// to make room.
    pub(crate) fn put(&self, offset: u64, options: Options, message: &Arc<Message>) -> u64 {
        match self {
            Self::Kept(kept) => kept.owe(offset, options, message),
            Self::Passing(inbox) => inbox.put(&options, message),
        }
    }

    /// The next message. May be dropped at any time without losing anything.
    pub(crate) async fn next(&self) -> Arrived {
        match self {
            Self::Kept(kept) => kept.next().await,
            Self::Passing(inbox) => inbox.next().await,
        }
    }

    /// The next message, if it may be had at once.
    pub(crate) fn try_next(&self) -> Option<Arrived> {
        match self {
            Self::Kept(kept) => kept.try_next(),
            Self::Passing(inbox) => inbox.take(),
        }
    }
}

/// Who gets the messages of a filter.
#[derive(Clone)]
pub(crate) enum Target {
    /// A session, for one of its subscriptions.
    Session(Mailbox, Options),
    /// One member of a shared group.
    Group(Arc<Group>),
}

impl Target {
    /// What tells one from another: group, session, subscription.
    fn key(&self) -> (&str, u64, u32) {
        match self {
            Self::Session(mailbox, options) => ("", mailbox.session(), options.number),
            Self::Group(group) => (group.filter(), 0, 0),
        }
    }

    /// Whether somebody has to remember the message.
    fn outlives(&self) -> bool {
        !matches!(self, Self::Session(Mailbox::Passing(_), _))
    }
}

/// Equal are those that replace each other.
impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Target {}

impl PartialOrd for Target {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl Ord for Target {
    fn cmp(&self, other: &Self) -> Order {
        self.key().cmp(&other.key())
    }
}

/// All subscriptions by their filters; those of a shared group are one.
#[derive(Default)]
pub(crate) struct Subscribers {
    index: RwLock<FilterIndex<Target>>,
    /// How many there are in the index: asked for each publish.
    targets: AtomicUsize,
}

impl Subscribers {
    /// Gives the messages of a filter (not `$share/`) to somebody; whether that is new. An equal target is replaced.
    /// Messages that are published after this returned are given to it.
    pub(crate) fn insert(&self, filter: &str, target: Target) -> bool {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = index.insert(filter, target);
        self.targets.store(index.len(), Ordering::Release);
        is_new
    }

    /// The end of that; whether it was so.
    pub(crate) fn remove(&self, filter: &str, target: &Target) -> bool {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let was_there = index.remove(filter, target);
        self.targets.store(index.len(), Ordering::Release);
        was_there
    }

    /// Who gets a message to this topic.
    pub(crate) fn matching(&self, topic: &str) -> Vec<Target> {
        let mut targets = Vec::new();
        if self.targets.load(Ordering::Acquire) > 0 {
            let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
            index.for_each_match(topic, |target| targets.push(target.clone()));
        }
        targets
    }

    /// Whether somebody gets it.
    pub(crate) fn any_match(&self, topic: &str) -> bool {
        self.targets.load(Ordering::Acquire) > 0
            && self.index.read().unwrap_or_else(PoisonError::into_inner).any_match(topic)
    }
}

/// Who will get a message whose event is about to be written.
pub(crate) struct Recipients<'a> {
    pub(crate) targets: Vec<Target>,
    /// Where somebody has to remember it.
    pub(crate) under_way: Option<UnderWay<'a>>,
}

impl Recipients<'_> {
    /// Whether somebody of these has to remember the message.
    pub(crate) fn outlive(targets: &[Target]) -> bool {
        targets.iter().any(Target::outlives)
    }

    /// Adds those that are not among them yet.
    pub(crate) fn join(&mut self, targets: Vec<Target>) {
        for target in targets {
            if !self.targets.contains(&target) {
                self.targets.push(target);
            }
        }
    }

    /// Gives the message, whose event has this offset, to all of them; how many messages, this one or older ones, found
    /// no room.
    pub(crate) fn give(self, offset: u64, message: &Arc<Message>) -> u64 {
        let give = |target: &Target| match target {
            Target::Session(mailbox, options) => mailbox.put(offset, *options, message),
            Target::Group(group) => group.give(offset, message),
        };
        let dropped = self.targets.iter().map(give).sum();
        drop(self.under_way);
        dropped
    }
}
