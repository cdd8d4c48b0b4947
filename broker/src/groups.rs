//! Shared subscriptions: each `$share/GROUP/FILTER` is one subscriber, whose messages are dealt out to the members in
//! turn, to who is connected first, in the moment in which they are published.
//!
//! The router's own groups are not used: it keys them by the group's name alone, so that two filters of one group
//! share one position; any UNSUBSCRIBE of a member takes it out of all its groups; a member that does not read stops
//! the group.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use muster_core::topic::Share;
use tokio::sync::mpsc;

use crate::clients::Facts;
use crate::envelope::Envelope;
use crate::hub::Hub;
use crate::keeper::{Kept, Options};

/// A message for one member of a group.
#[derive(Debug)]
pub(crate) struct GroupMessage {
    /// The whole filter, `$share/GROUP/FILTER`.
    pub(crate) filter: Arc<str>,
    pub(crate) topic: Bytes,
    pub(crate) message: Bytes,
}

/// A session in a group.
pub(crate) struct Member {
    pub(crate) session: u64,
    pub(crate) facts: Arc<Facts>,
    pub(crate) way: Way,
}

/// How a member gets its messages.
pub(crate) enum Way {
    /// As long as its task has room.
    Task(mpsc::Sender<GroupMessage>),
    /// It is owed them.
    Kept(Arc<Kept>, Options),
}

/// All groups.
#[derive(Default)]
pub(crate) struct Groups {
    groups: Mutex<HashMap<Arc<str>, Arc<Group>>>,
    subscriptions: AtomicUsize,
}

/// One group.
pub(crate) struct Group {
    filter: Arc<str>,
    members: Mutex<Vec<Member>>,
    next: AtomicUsize,
}

impl Groups {
    /// Makes a session a member; one that is a member already is replaced. Messages published after this returns
    /// reach the group.
    pub(crate) fn join(&self, hub: &Hub, filter: &str, member: Member) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let group = groups.entry(filter.into()).or_insert_with(|| {
            let (members, next) = (Mutex::default(), AtomicUsize::new(0));
            let group = Arc::new(Group { filter: filter.into(), members, next });
            hub.open_group(inner_filter(filter), &group);
            group
        });
        let mut members = group.members.lock().unwrap_or_else(PoisonError::into_inner);
        let before = members.len();
        members.retain(|it| it.session != member.session);
        members.push(member);
        self.subscriptions.fetch_add(members.len() - before, Ordering::Relaxed);
    }

    /// Takes a session out; the last one ends the group.
    pub(crate) fn leave(&self, hub: &Hub, filter: &str, session: u64) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(group) = groups.get(filter).cloned() else { return };
        let is_empty = {
            let mut members = group.members.lock().unwrap_or_else(PoisonError::into_inner);
            let before = members.len();
            members.retain(|it| it.session != session);
            self.subscriptions.fetch_sub(before - members.len(), Ordering::Relaxed);
            members.is_empty()
        };
        if is_empty {
            groups.remove(filter);
            hub.close_group(inner_filter(filter), &group);
        }
    }

    /// Subscriptions of all groups.
    pub(crate) fn subscriptions(&self) -> usize {
        self.subscriptions.load(Ordering::Relaxed)
    }
}

impl Group {
    /// Gives the message to the next member that has room: who is connected first, then who is away. How many messages
    /// had no room, this one or an older.
    pub(crate) fn give(&self, offset: u64, topic: &Bytes, message: &Bytes, envelope: &Envelope) -> u64 {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let in_turn = || (0..members.len()).filter_map(|at| members.get((start + at) % members.len()));
        let try_give = |member: &Member| match &member.way {
            Way::Task(sender) => {
                let filter = Arc::clone(&self.filter);
                let message = GroupMessage { filter, topic: topic.clone(), message: message.clone() };
                sender.try_send(message).is_ok().then_some(0)
            }
            Way::Kept(kept, options) => Some(kept.owe(offset, *options, topic, message, envelope)),
        };
        let given = in_turn()
            .filter(|it| it.facts.is_connected())
            .find_map(try_give)
            .or_else(|| in_turn().filter(|it| !it.facts.is_connected()).find_map(try_give));
        if given.is_none() {
            tracing::warn!(filter = &*self.filter, "no member of the group had room");
        }
        given.unwrap_or(1)
    }
}

/// `FILTER` of `$share/GROUP/FILTER`.
pub(crate) fn inner_filter(filter: &str) -> &str {
    Share::parse(filter).map_or(filter, |share| share.filter)
}
