//! Sessions come back: out of the store, and what the store did not know yet out of the log. All of it before anybody
//! can connect, so that a client that returns finds its session, and a message that is published finds it too.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use muster_core::event::proto::event::Detail;
use muster_core::event::{Event, EventKind, EventKinds};
use muster_core::sessions::{Change, DeliveryKey, Stored, StoredSession, StoredSubscription, StoredWill};
use muster_core::topic;
use tokio::time::Instant;

use super::{Kept, Memory, Options};
use crate::clients::Facts;
use crate::codec::{Qos, Will};
use crate::envelope::Envelope;
use crate::error::BrokerError;
use crate::groups::inner_filter;
use crate::hub::Hub;
use crate::inbox::{Inbox, Message};
use crate::record::Recorder;
use crate::session::{Actor, Session, Stay, wait_offline};
use crate::subscribers::{Mailbox, Target};

/// A session on its way back.
struct Returning {
    clientid: String,
    memory: Memory,
    gone_at_ms: Option<i64>,
    session: Box<Session>,
    kept: Arc<Kept>,
    seen_to: u64,
    /// No event before this is owed, by the numbers of subscriptions.
    since: HashMap<u32, u64>,
}

/// What of the log is known already.
#[derive(Default)]
struct Known {
    /// By session.
    deliveries: HashSet<(u64, DeliveryKey)>,
    /// Messages of groups: whichever member has them.
    dealt: HashSet<(u64, String)>,
    /// Packet identifiers of clients' QoS 2 publishes, by client: of which event, and whether it is released.
    inbound: HashMap<(String, u16), (u64, bool)>,
}

/// Brings back all that is stored.
pub(crate) async fn all(hub: &Arc<Hub>, stored: Stored) -> Result<(), BrokerError> {
    let Stored { sessions, wills, mark } = stored;
    let begun = Instant::now();
    let first_new = sessions.iter().map(|it| it.session + 1).max().unwrap_or(1);
    hub.session_ids.fetch_max(first_new, Ordering::Relaxed);
    let mut known = Known::default();
    let mut wills: BTreeMap<String, StoredWill> =
        wills.into_iter().map(|will| (will.clientid.clone(), will)).collect();
    let mut returning = BTreeMap::new();
    for session in sessions {
        let number = session.session;
        returning.insert(number, Returning::new(hub, session, &mut known));
    }
    for it in returning.values_mut() {
        it.subscribe(hub);
    }
    forget_what_the_log_lost(hub, &mut returning).await;
    let is_same_log = mark.is_none_or(|mark| mark.log_id == hub.journal.log_id());
    if is_same_log && !(returning.is_empty() && wills.is_empty()) {
        let from = mark.map_or(0, |mark| mark.read_from);
        read_again(hub, from, &mut returning, &mut known, &mut wills).map_err(BrokerError::Restore)?;
    }
    let (sessions, left_wills) = (returning.len(), wills.len());
    for it in returning.into_values() {
        let will = wills.remove(&it.clientid);
        it.begin(hub, will).await;
    }
    for (_, will) in wills {
        publish_alone(hub, will).await;
    }
    if sessions + left_wills > 0 {
        tracing::info!(sessions, wills = left_wills, took = ?begun.elapsed(), "sessions of the last run are back");
    }
    Ok(())
}

/// A log that lost its end, which nobody was told of, gives those offsets to other events: what was stored about the
/// lost ones is not about these.
async fn forget_what_the_log_lost(hub: &Arc<Hub>, returning: &mut BTreeMap<u64, Returning>) {
    let end = hub.journal.next_offset();
    let mut changes = Vec::new();
    for (session, it) in returning {
        if it.seen_to > end {
            it.seen_to = end;
            changes.push(Change::SeenTo { session: *session, offset: end });
        }
        for (filter, options) in it.session.subscriptions_with_options() {
            if let Some(since) = it.since.get_mut(&options.number).filter(|since| **since > end) {
                *since = end;
                let stored = StoredSubscription {
                    filter,
                    number: options.number,
                    since: end,
                    options: options.encode(),
                };
                changes.push(Change::Subscribed(*session, stored));
            }
        }
    }
    if !changes.is_empty()
        && let Some(ticket) = hub.keeper.write(changes).await
    {
        hub.keeper.stored(ticket).await;
    }
}

impl Returning {
    fn new(hub: &Arc<Hub>, stored: StoredSession, known: &mut Known) -> Self {
        let StoredSession { session, clientid, gone_at_ms, seen_to, .. } = stored;
        let memory = Memory::decode(&clientid, &stored.facts);
        let kept = Kept::new(&hub.keeper, session, &clientid, seen_to);
        let mailbox = Mailbox::Kept(Arc::clone(&kept));
        let mut it = Box::new(Session::new(memory.created_at_ms, &hub.config.limits, mailbox));
        it.expiry_seconds = memory.expiry_seconds;
        let mut since = HashMap::new();
        for subscription in stored.subscriptions {
            let Some(options) = Options::decode(subscription.number, &subscription.options) else {
                tracing::warn!(
                    clientid,
                    filter = subscription.filter,
                    "a subscription cannot be read and is lost"
                );
                continue;
            };
            since.insert(options.number, subscription.since);
            it.restore_subscription(subscription.filter, options);
        }
        for inbound in &stored.inbound {
            known.inbound.insert((clientid.clone(), inbound.pkid), (inbound.message, inbound.released));
            it.restore_inbound(&kept, *inbound);
        }
        for delivery in stored.deliveries {
            known.deliveries.insert((session, delivery.key));
            if let Some(filter) = it.filter_of(delivery.key.number).filter(|it| it.starts_with("$share/")) {
                known.dealt.insert((delivery.key.message, filter.to_owned()));
            }
            it.restore_delivery(&kept, delivery);
        }
        Self { clientid, memory, gone_at_ms, session: it, kept, seen_to, since }
    }

    /// Makes its subscriptions known, so that the log can be read as if it happened now.
    fn subscribe(&mut self, hub: &Arc<Hub>) {
        for (filter, options) in self.session.plain_subscriptions() {
            hub.subscribe(&filter, self.session.mailbox.clone(), options);
        }
    }

    /// The session waits for its client from now on.
    async fn begin(mut self, hub: &Arc<Hub>, will: Option<StoredWill>) {
        // Nobody saw when a client went that a crash cut off: its time begins now.
        let now_ms = hub.clock.wall_ms();
        let gone_at_ms = self.gone_at_ms.unwrap_or(now_ms);
        let lifetime = rest(self.memory.expiry_seconds, gone_at_ms, now_ms);
        let will = will.and_then(|will| due(will, now_ms));
        let left_will = will.is_some();
        self.session.restored();
        let actor = actor(hub, &self.clientid, &self.memory, self.session, gone_at_ms, left_will).await;
        actor.publish_subscriptions();
        actor.rejoin();
        if self.gone_at_ms.is_none() {
            // Nobody waits for it.
            let _ticket = hub.keeper.write(Vec::from_iter(actor.memory())).await;
        }
        let ends_at = Instant::now() + lifetime;
        let will = will.map(|(will, delay)| (will, Instant::now() + delay));
        hub.tasks.spawn(wait_offline(Box::new(Stay { actor, will, ends_at })));
    }
}

/// Publishes the will of a client whose session ended with its connection.
async fn publish_alone(hub: &Arc<Hub>, will: StoredWill) {
    let (clientid, memory) = (will.clientid.clone(), Memory::decode(&will.clientid, &will.facts));
    let Some((will, _)) = due(will, hub.clock.wall_ms()) else { return };
    let id = hub.session_ids.fetch_add(1, Ordering::Relaxed);
    let mailbox = Mailbox::Passing(Inbox::new(id, &clientid));
    let session = Box::new(Session::new(memory.created_at_ms, &hub.config.limits, mailbox));
    let now_ms = hub.clock.wall_ms();
    let actor = actor(hub, &clientid, &memory, session, now_ms, true).await;
    let now = Instant::now();
    hub.tasks.spawn(wait_offline(Box::new(Stay { actor, will: Some((will, now)), ends_at: now })));
}

/// What is left of a life that began when the client went.
fn rest(expiry_seconds: u32, gone_at_ms: i64, now_ms: i64) -> Duration {
    let away_ms = u64::try_from(now_ms.saturating_sub(gone_at_ms)).unwrap_or(0);
    Duration::from_secs(u64::from(expiry_seconds)).saturating_sub(Duration::from_millis(away_ms))
}

/// A will and how long it still waits; none where it cannot be read.
fn due(will: StoredWill, now_ms: i64) -> Option<(Will, Duration)> {
    let StoredWill { clientid, topic, body, due_at_ms, .. } = will;
    let Some(will) = Will::decode(topic, body) else {
        tracing::warn!(clientid, "a will cannot be read and is lost");
        return None;
    };
    let delay = match due_at_ms {
        Some(due_at_ms) => {
            Duration::from_millis(u64::try_from(due_at_ms.saturating_sub(now_ms)).unwrap_or(0))
        }
        None => will.delay(),
    };
    let delay = delay.min(will.delay());
    Some((will, delay))
}

async fn actor(
    hub: &Arc<Hub>,
    clientid: &str,
    memory: &Memory,
    session: Box<Session>,
    gone_at_ms: i64,
    left_will: bool,
) -> Actor {
    let limits = &hub.config.limits;
    let mut fixed = memory.info(clientid, &hub.config.node);
    fixed.subscriptions_max = limits.subscriptions_max;
    fixed.queue_max = limits.queue_messages_max;
    fixed.awaiting_release_max = usize::from(limits.receive_maximum);
    let is_kept = session.kept().is_some();
    // 0 would say that it is connected.
    let disconnected_at_ms = AtomicI64::new(gone_at_ms.max(1));
    let facts = Arc::new(Facts { fixed, is_kept, disconnected_at_ms, ..Facts::default() });
    session.count(&facts);
    let turn = hub.clients.turn(clientid).await;
    let (registration, control) = hub.clients.register(&turn, Arc::clone(&facts));
    // Everything that was written of the client before has a lower number.
    let client = memory.client(clientid, hub.journal.next_offset());
    let recorder = Recorder::outside(&hub.journal, &hub.clock, &hub.config.node, client);
    let subject = Box::new(memory.subject(clientid));
    let hub = Arc::clone(hub);
    Actor { hub, recorder, facts, subject, answers: None, control, registration, session, left_will }
}

/// Finds in the log what the store did not know yet.
fn read_again(
    hub: &Arc<Hub>,
    from: u64,
    returning: &mut BTreeMap<u64, Returning>,
    known: &mut Known,
    wills: &mut BTreeMap<String, StoredWill>,
) -> Result<(), muster_core::log::LogError> {
    let mut numbers = HashMap::new();
    let mut shared: BTreeMap<String, Vec<(u64, Options)>> = BTreeMap::new();
    for (session, it) in returning.iter() {
        numbers.insert(it.clientid.clone(), *session);
        for (filter, options) in it.session.shared_subscriptions() {
            shared.entry(filter).or_default().push((*session, options));
        }
    }
    let mut reader = hub.journal.reader(from.max(hub.journal.first_offset()));
    reader.set_kinds(EventKinds::NONE.with(EventKind::MessagePublish).with(EventKind::ClientDisconnected));
    while let Some(batch) = reader.try_next_batch()? {
        for event in batch.events() {
            if event.kind == EventKind::MessagePublish {
                published(hub, event, returning, known);
                dealt(event, &shared, returning, known);
                received(event, &numbers, returning, known);
            }
            if is_done_with(event, wills) {
                wills.remove(event.clientid());
            }
        }
    }
    Ok(())
}

/// Whether the log says that a will was published, or that its client said goodbye, and the store did not know yet.
fn is_done_with(event: &Event, wills: &BTreeMap<String, StoredWill>) -> bool {
    let Some(client) = &event.body.client else { return false };
    let is_last = match (&event.body.message, &event.body.detail) {
        (Some(message), _) => message.origin == "will",
        (_, Some(Detail::Disconnected(end))) => end.reason == "normal",
        _ => false,
    };
    is_last && wills.get(&client.clientid).is_some_and(|will| will.session == client.session)
}

/// A message that sessions may be owed.
fn published(hub: &Hub, event: &Event, returning: &BTreeMap<u64, Returning>, known: &Known) {
    let targets = hub.subscribers.matching(&event.topic);
    if targets.is_empty() {
        return;
    }
    let Some(message) = message_of(event) else { return };
    for target in targets {
        let Target::Session(Mailbox::Kept(kept), options) = target else { continue };
        let Some(it) = returning.get(&kept.session()) else { continue };
        let key = DeliveryKey { message: event.offset, number: options.number };
        let since = it.since.get(&options.number).copied().unwrap_or(0);
        let is_known = known.deliveries.contains(&(kept.session(), key));
        if event.offset >= it.seen_to.max(since)
            && !is_known
            && message.envelope.qos.min(options.qos) > Qos::AtMostOnce
        {
            // Who finds no room has lost the oldest, as when it happened.
            let _dropped = kept.owe(event.offset, options, &message);
        }
    }
}

/// A message for a group, of which nobody is known to have it.
fn dealt(
    event: &Event,
    shared: &BTreeMap<String, Vec<(u64, Options)>>,
    returning: &BTreeMap<u64, Returning>,
    known: &Known,
) {
    for (filter, members) in shared {
        if !topic::matches(inner_filter(filter), &event.topic)
            || known.dealt.contains(&(event.offset, filter.clone()))
        {
            continue;
        }
        let Some(message) = message_of(event) else { return };
        let was_member = |it: &&(u64, Options)| {
            let since = returning.get(&it.0).and_then(|session| session.since.get(&it.1.number));
            since.is_some_and(|since| *since <= event.offset)
        };
        let members: Vec<_> = members.iter().filter(was_member).collect();
        let turn = usize::try_from(event.offset).unwrap_or_default() % members.len().max(1);
        if let Some((session, options)) = members.get(turn)
            && let Some(it) = returning.get(session)
            && message.envelope.qos.min(options.qos) > Qos::AtMostOnce
        {
            let _dropped = it.kept.owe(event.offset, *options, &message);
        }
    }
}

/// A QoS 2 publish of a client that comes back.
fn received(
    event: &Event,
    numbers: &HashMap<String, u64>,
    returning: &mut BTreeMap<u64, Returning>,
    known: &mut Known,
) {
    let Some(message) = &event.body.message else { return };
    let Some(pkid) = u16::try_from(message.packet_id).ok().filter(|pkid| *pkid > 0) else { return };
    let Some(it) = numbers.get(event.clientid()).and_then(|number| returning.get_mut(number)) else { return };
    let place = (it.clientid.clone(), pkid);
    if event.offset < it.seen_to || known.inbound.get(&place).is_some_and(|(known, _)| *known >= event.offset)
    {
        return;
    }
    known.inbound.insert(place, (event.offset, false));
    it.kept.received(pkid, event.offset);
    it.session.restore_unreleased(pkid, event.offset);
}

/// The message of an event as subscribers get it.
fn message_of(event: &Event) -> Option<Arc<Message>> {
    Envelope::of(event).map(|envelope| Message::new(&event.topic, envelope))
}
