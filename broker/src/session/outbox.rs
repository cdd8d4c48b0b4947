//! Messages on their way to a client: a bounded queue, and the window of those that wait for an acknowledgement.
//! Plain data, no sockets.

use std::collections::VecDeque;
use std::sync::Arc;

use muster_core::sessions::Ticket;

use crate::codec::Qos;
use crate::envelope::Envelope;
use crate::inbox::Message;
use crate::info::{Held, HeldMessage, HeldPage, HeldQuery, RetainedInfo};
use crate::keeper::Debt;

/// A message for one subscription of one client.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub(super) message: Arc<Message>,
    /// The smaller of published and subscribed.
    pub(super) qos: Qos,
    pub(super) retain: bool,
    pub(super) subscription_id: Option<u32>,
    /// Where the session is owed it: until it is settled.
    pub(super) debt: Option<Arc<Debt>>,
}

impl Delivery {
    pub(super) fn topic(&self) -> &str {
        std::str::from_utf8(&self.message.topic).unwrap_or_default()
    }

    pub(super) fn envelope(&self) -> &Envelope {
        &self.message.envelope
    }

    fn bytes(&self) -> usize {
        self.message.bytes()
    }
}

/// How far an unacknowledged message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// QoS 2: its identifier is being stored; then it is sent.
    Storing(Ticket),
    /// PUBLISH was sent.
    Sent,
    /// PUBREC came and PUBREL was sent: the message is the client's, the identifier still ours.
    Released,
}

/// A message that waits for an acknowledgement.
#[derive(Debug, Clone)]
pub(super) struct Inflight {
    pub(super) pkid: u16,
    pub(super) stage: Stage,
    pub(super) delivery: Delivery,
    /// Its place among all that was ever in the window.
    place: u64,
}

/// A message that waits for its turn.
#[derive(Debug)]
struct Queued {
    /// Its place among all that was ever queued.
    place: u64,
    delivery: Delivery,
}

/// Queue and window.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    queue_messages_max: usize,
    queue_bytes_max: usize,
    inflight: VecDeque<Inflight>,
    last_pkid: u16,
    /// The place that the next message gets, in queue or window. The first is 1.
    next_place: u64,
}

impl Outbox {
    pub(super) fn new(queue_messages_max: usize, queue_bytes_max: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            queue_bytes: 0,
            queue_messages_max,
            queue_bytes_max,
            inflight: VecDeque::new(),
            last_pkid: 0,
            next_place: 1,
        }
    }

    /// The oldest message, which has to go, where there is no room for a new one beside it. One message has room,
    /// whatever it weighs.
    pub(super) fn make_room(&mut self, for_new: &Delivery) -> Option<Delivery> {
        let is_full = self.queue.len() >= self.queue_messages_max
            || self.queue_bytes.saturating_add(for_new.bytes()) > self.queue_bytes_max;
        if is_full { self.pop_front() } else { None }
    }

    /// Queues a message.
    pub(super) fn push(&mut self, delivery: Delivery) {
        let place = self.next_place();
        self.queue_bytes += delivery.bytes();
        self.queue.push_back(Queued { place, delivery });
    }

    fn pop_front(&mut self) -> Option<Delivery> {
        let delivery = self.queue.pop_front()?.delivery;
        self.queue_bytes -= delivery.bytes();
        Some(delivery)
    }

    fn next_place(&mut self) -> u64 {
        let place = self.next_place;
        self.next_place += 1;
        place
    }

    /// The next message to send, if the window has room for it.
    pub(super) fn pop(&mut self, inflight_max: usize) -> Option<Delivery> {
        let next = self.queue.front()?;
        if next.delivery.qos > Qos::AtMostOnce && self.inflight.len() >= inflight_max {
            return None;
        }
        let next = self.pop_front();
        if self.queue.is_empty() && self.queue.capacity() > 64 {
            self.queue = VecDeque::new();
        }
        next
    }

    /// A packet identifier that is not in use.
    pub(super) fn next_pkid(&mut self) -> u16 {
        loop {
            self.last_pkid = self.last_pkid.checked_add(1).unwrap_or(1);
            if self.inflight.iter().all(|it| it.pkid != self.last_pkid) {
                return self.last_pkid;
            }
        }
    }

    pub(super) fn sent(&mut self, pkid: u16, delivery: Delivery) {
        self.at_stage(pkid, Stage::Sent, delivery);
    }

    /// Puts a message into the window that is so far already.
    pub(super) fn at_stage(&mut self, pkid: u16, stage: Stage, delivery: Delivery) {
        let place = self.next_place();
        self.inflight.push_back(Inflight { pkid, stage, delivery, place });
    }

    /// An identifier is stored: the message, which is sent now; none where it was given up or sent meanwhile.
    pub(super) fn stored(&mut self, pkid: u16) -> Option<Delivery> {
        let is_meant = |it: &&mut Inflight| it.pkid == pkid && matches!(it.stage, Stage::Storing(_));
        let found = self.inflight.iter_mut().find(is_meant)?;
        found.stage = Stage::Sent;
        Some(found.delivery.clone())
    }

    /// The message that was sent under an identifier and is not acknowledged.
    pub(super) fn sent_as(&self, pkid: u16) -> Option<Delivery> {
        let found = self.inflight.iter().find(|it| it.pkid == pkid && it.stage == Stage::Sent)?;
        Some(found.delivery.clone())
    }

    /// What was in the window of an earlier process is in its order again, and new identifiers come after old ones.
    pub(super) fn restored(&mut self) {
        self.last_pkid = self.inflight.iter().map(|it| it.pkid).max().unwrap_or_default();
    }

    /// PUBACK: the message, if it was waiting for one.
    pub(super) fn acked(&mut self, pkid: u16) -> Option<Delivery> {
        self.remove(pkid, Stage::Sent, Qos::AtLeastOnce)
    }

    /// PUBREC with an error: the message is given up.
    pub(super) fn refused(&mut self, pkid: u16) -> Option<Delivery> {
        self.remove(pkid, Stage::Sent, Qos::ExactlyOnce)
    }

    /// PUBREC: whether the identifier is one of ours, and the message if this is the first time.
    pub(super) fn received(&mut self, pkid: u16) -> (bool, Option<Delivery>) {
        let Some(found) =
            self.inflight.iter_mut().find(|it| it.pkid == pkid && it.delivery.qos == Qos::ExactlyOnce)
        else {
            return (false, None);
        };
        if found.stage == Stage::Released {
            return (true, None);
        }
        found.stage = Stage::Released;
        let delivery = found.delivery.clone();
        // The client has it: a payload that is never sent again need not be kept.
        found.delivery.message = delivery.message.without_payload();
        (true, Some(delivery))
    }

    /// What is owed under an identifier.
    pub(super) fn debt(&self, pkid: u16) -> Option<Arc<Debt>> {
        let found = self.inflight.iter().find(|it| it.pkid == pkid && it.delivery.qos == Qos::ExactlyOnce)?;
        found.delivery.debt.clone()
    }

    /// PUBCOMP: whether the identifier was waiting for it.
    pub(super) fn completed(&mut self, pkid: u16) -> bool {
        self.remove(pkid, Stage::Released, Qos::ExactlyOnce).is_some()
    }

    /// Gives up a message.
    pub(super) fn forget(&mut self, pkid: u16) {
        self.inflight.retain(|it| it.pkid != pkid);
    }

    /// All that waits for an acknowledgement, oldest first.
    pub(super) fn inflight(&self) -> impl Iterator<Item = &Inflight> {
        self.inflight.iter()
    }

    /// Messages that are held for the client, oldest first, from behind a place on. The first comes whatever it weighs.
    pub(super) fn held(&self, asked: &HeldQuery) -> HeldPage {
        match asked.held {
            Held::Queued => page(asked, self.queue.iter().map(|it| (it.place, &it.delivery))),
            Held::Inflight => page(asked, self.inflight.iter().map(|it| (it.place, &it.delivery))),
        }
    }

    pub(super) fn inflight_len(&self) -> usize {
        self.inflight.len()
    }

    pub(super) fn queue_len(&self) -> usize {
        self.queue.len()
    }

    /// Takes QoS 0 messages out of the queue: they are not kept for a client that has gone.
    pub(super) fn drain_qos0(&mut self) -> VecDeque<Delivery> {
        let is_qos0 = |it: &Queued| it.delivery.qos == Qos::AtMostOnce;
        let (gone, kept): (VecDeque<_>, _) = self.queue.drain(..).partition(is_qos0);
        self.queue_bytes = kept.iter().map(|it| it.delivery.bytes()).sum();
        self.queue = kept;
        gone.into_iter().map(|it| it.delivery).collect()
    }

    fn remove(&mut self, pkid: u16, stage: Stage, qos: Qos) -> Option<Delivery> {
        let at = self
            .inflight
            .iter()
            .position(|it| it.pkid == pkid && it.stage == stage && it.delivery.qos == qos)?;
        self.inflight.remove(at).map(|it| it.delivery)
    }
}

/// The part of `all`, which is in the order of places, that is asked for.
fn page<'a>(asked: &HeldQuery, all: impl Iterator<Item = (u64, &'a Delivery)>) -> HeldPage {
    let mut page = HeldPage::default();
    let mut payload_bytes = 0;
    for (place, delivery) in all {
        page.start.get_or_insert(place);
        if place <= asked.after {
            continue;
        }
        payload_bytes += delivery.envelope().payload.len();
        let is_full = page.messages.len() >= asked.count_max || payload_bytes > asked.payload_bytes_max;
        if is_full && !page.messages.is_empty() {
            break;
        }
        let (topic, retain) = (delivery.topic().to_owned(), delivery.retain);
        let info = RetainedInfo { qos: delivery.qos.as_u8(), ..delivery.envelope().clone().info(topic) };
        page.messages.push(HeldMessage { place, retain, info });
    }
    page
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn delivery(payload: &'static str, qos: Qos) -> Delivery {
        let envelope = Envelope {
            id: [7; 16],
            qos: Qos::ExactlyOnce,
            retain: false,
            received_at_ms: 5,
            from_clientid: Bytes::from_static(b"from"),
            from_username: None,
            props: None,
            republished: None,
            payload: Bytes::from_static(payload.as_bytes()),
        };
        let (message, subscription_id) = (Message::new("t", envelope), None);
        Delivery { message, qos, retain: false, subscription_id, debt: None }
    }

    fn shown(
        outbox: &Outbox,
        held: Held,
        after: u64,
        count_max: usize,
        bytes_max: usize,
    ) -> Vec<(u64, String)> {
        let page = outbox.held(&HeldQuery { held, after, count_max, payload_bytes_max: bytes_max });
        let text = |it: HeldMessage| (it.place, String::from_utf8_lossy(&it.info.payload).into_owned());
        page.messages.into_iter().map(text).collect()
    }

    #[test]
    fn what_is_held_is_shown_in_pages() {
        let mut outbox = Outbox::new(4, 100);
        for payload in ["gone", "one", "two", "three"] {
            let new = delivery(payload, Qos::AtLeastOnce);
            assert!(outbox.make_room(&new).is_none());
            outbox.push(new);
        }
        let new = delivery("four", Qos::AtMostOnce);
        assert!(outbox.make_room(&new).is_some(), "the oldest made room");
        assert!(outbox.make_room(&new).is_none(), "no other has to");
        outbox.push(new);
        let texts = |page: Vec<(u64, String)>| page.into_iter().map(|(_, it)| it).collect::<Vec<_>>();
        let first = shown(&outbox, Held::Queued, 0, 2, 100);
        let (place, _) = first[1];
        assert_eq!(texts(first), ["one", "two"]);
        // What is sent meanwhile moves nothing.
        let sent = outbox.pop(10).expect("a message");
        outbox.sent(1, sent);
        assert_eq!(texts(shown(&outbox, Held::Queued, place, 2, 100)), ["three", "four"]);
        assert_eq!(texts(shown(&outbox, Held::Queued, place, 2, 8)), ["three"], "not more bytes");
        assert_eq!(texts(shown(&outbox, Held::Queued, place, 2, 0)), ["three"], "one in any case");
        assert_eq!(outbox.drain_qos0().len(), 1);
        assert_eq!(texts(shown(&outbox, Held::Queued, place, 9, 100)), ["three"]);
        assert_eq!(texts(shown(&outbox, Held::Inflight, 0, 9, 100)), ["one"]);
        assert!(outbox.acked(1).is_some());
        assert_eq!(shown(&outbox, Held::Inflight, 0, 9, 100), []);
    }

    #[test]
    fn what_is_queued_is_bounded_in_bytes_too() {
        // A topic of one byte, and payloads of nine.
        let mut outbox = Outbox::new(1_000, 35);
        let mut gone = 0;
        for _ in 0..10 {
            let new = delivery("123456789", Qos::AtLeastOnce);
            while outbox.make_room(&new).is_some() {
                gone += 1;
            }
            outbox.push(new);
        }
        assert_eq!((outbox.queue_len(), gone), (3, 7));
        let large = delivery("0123456789012345678901234567890123456789", Qos::AtLeastOnce);
        while outbox.make_room(&large).is_some() {
            gone += 1;
        }
        outbox.push(large);
        assert_eq!((outbox.queue_len(), gone), (1, 10), "alone it has room");
        assert!(outbox.pop(1).is_some());
        assert!(outbox.make_room(&delivery("1", Qos::AtLeastOnce)).is_none(), "its bytes are free again");
    }
}
