//! Shared subscriptions: each `$share/GROUP/FILTER` is one subscriber, whose messages are dealt out to the members in
//! turn, to who is connected first, in the moment in which they are published.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use muster_core::topic::Share;

use crate::clients::Facts;
use crate::hub::Hub;
use crate::inbox::Message;
use crate::keeper::Options;
use crate::subscribers::Mailbox;

/// A session in a group.
pub(crate) struct Member {
    pub(crate) facts: Arc<Facts>,
    pub(crate) mailbox: Mailbox,
    pub(crate) options: Options,
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
        let session = member.mailbox.session();
        members.retain(|it| it.mailbox.session() != session);
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
            members.retain(|it| it.mailbox.session() != session);
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
    /// Its whole filter, `$share/GROUP/FILTER`.
    pub(crate) fn filter(&self) -> &str {
        &self.filter
    }

    /// Gives the message to the next member, where there is one that is connected to one of these, else to one that
    /// will come back; how many older messages had to make room.
    pub(crate) fn give(&self, offset: u64, message: &Arc<Message>) -> u64 {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let in_turn = || (0..members.len()).filter_map(|at| members.get((start + at) % members.len()));
        let kept = || in_turn().find(|it| matches!(it.mailbox, Mailbox::Kept(_)));
        let member = in_turn().find(|it| it.facts.is_connected()).or_else(kept).or_else(|| in_turn().next());
        member.map_or(0, |it| it.mailbox.put(offset, it.options, message))
    }
}

/// `FILTER` of `$share/GROUP/FILTER`.
pub(crate) fn inner_filter(filter: &str) -> &str {
    Share::parse(filter).map_or(filter, |share| share.filter)
}
