//! Shared subscriptions: each `$share/GROUP/FILTER` is one subscriber of the router, and a task that deals its messages
//! out to the members in turn, to who is connected first.
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
use tokio_util::sync::CancellationToken;

use crate::clients::Facts;
use crate::hub::Hub;
use crate::router::{Incoming, Link, RouterStopped};

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
    pub(crate) sender: mpsc::Sender<GroupMessage>,
}

/// All groups.
#[derive(Default)]
pub(crate) struct Groups {
    groups: tokio::sync::Mutex<HashMap<Arc<str>, Arc<Group>>>,
    subscriptions: AtomicUsize,
}

struct Group {
    filter: Arc<str>,
    /// Its number in the subscription index.
    number: u64,
    members: Mutex<Vec<Member>>,
    next: AtomicUsize,
    ended: CancellationToken,
}

impl Groups {
    /// Makes a session a member; one that is a member already is replaced. Messages published after this returns
    /// reach the group.
    pub(crate) async fn join(
        &self,
        hub: &Arc<Hub>,
        filter: &str,
        member: Member,
    ) -> Result<(), RouterStopped> {
        let mut groups = self.groups.lock().await;
        let group = match groups.get(filter) {
            Some(group) => Arc::clone(group),
            None => {
                let group = Group::start(hub, filter).await?;
                groups.insert(Arc::clone(&group.filter), Arc::clone(&group));
                group
            }
        };
        let mut members = group.members.lock().unwrap_or_else(PoisonError::into_inner);
        let before = members.len();
        members.retain(|it| it.session != member.session);
        members.push(member);
        self.subscriptions.fetch_add(members.len() - before, Ordering::Relaxed);
        Ok(())
    }

    /// Takes a session out; the last one ends the group.
    pub(crate) async fn leave(&self, hub: &Hub, filter: &str, session: u64) {
        let mut groups = self.groups.lock().await;
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
            hub.index_remove(inner_filter(filter), group.number);
            group.ended.cancel();
        }
    }

    /// Subscriptions of all groups.
    pub(crate) fn subscriptions(&self) -> usize {
        self.subscriptions.load(Ordering::Relaxed)
    }
}

impl Group {
    async fn start(hub: &Arc<Hub>, filter: &str) -> Result<Arc<Self>, RouterStopped> {
        let number = hub.session_ids.fetch_add(1, Ordering::Relaxed);
        let mut link = hub.router.link().await?;
        hub.index_insert(inner_filter(filter), number);
        link.subscribe(inner_filter(filter), 1, 1).await?;
        while !matches!(link.next().await?, Incoming::Subscribed { .. }) {}
        let group = Arc::new(Self {
            filter: filter.into(),
            number,
            members: Mutex::default(),
            next: AtomicUsize::new(0),
            ended: CancellationToken::new(),
        });
        tokio::spawn(deal(Arc::clone(hub), Arc::clone(&group), link));
        Ok(group)
    }

    /// Gives the message to the next member that has room: who is connected first, then who is away.
    fn give(&self, topic: &Bytes, message: &Bytes) -> bool {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let in_turn = || (0..members.len()).map(|at| &members[(start + at) % members.len()]);
        let try_give = |member: &Member| {
            let filter = Arc::clone(&self.filter);
            let message = GroupMessage { filter, topic: topic.clone(), message: message.clone() };
            member.sender.try_send(message).is_ok()
        };
        in_turn().filter(|it| it.facts.is_connected()).any(try_give)
            || in_turn().filter(|it| !it.facts.is_connected()).any(try_give)
    }
}

async fn deal(hub: Arc<Hub>, group: Arc<Group>, mut link: Link) {
    loop {
        let incoming = tokio::select! {
            () = group.ended.cancelled() => return,
            incoming = link.next() => incoming,
        };
        match incoming {
            Ok(Incoming::Message { topic, message, missed, .. }) => {
                // The mount hides a leading `$` from the router's wildcards.
                if topic.first() == Some(&b'$') && inner_filter(&group.filter).starts_with(['+', '#']) {
                    continue;
                }
                let dropped = missed + u64::from(!group.give(&topic, &message));
                if dropped > 0 {
                    hub.counters.deliveries_dropped.add(dropped);
                    tracing::warn!(filter = &*group.filter, dropped, "no member of the group had room");
                }
            }
            Ok(_) => {}
            Err(RouterStopped) => return,
        }
    }
}

/// `FILTER` of `$share/GROUP/FILTER`.
fn inner_filter(filter: &str) -> &str {
    Share::parse(filter).map_or(filter, |share| share.filter)
}
