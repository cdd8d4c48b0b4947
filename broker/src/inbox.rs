//! What has arrived for a session and waits for its task. For a session that ends with its connection that is all that
//! publishers know of it; one that outlives connections has a ledger besides ([`crate::keeper`]). It must never know
//! sockets or packets.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::codec::Qos;
use crate::envelope::Envelope;
use crate::keeper::{Debt, Options};

/// Messages that have arrived and that the session's task has not taken in; beyond it the oldest is dropped.
pub(crate) const INBOX_MESSAGES_MAX: usize = 16_384;

/// Bytes of topics and payloads that have arrived and that the session's task has not taken in; beyond it the oldest is
/// dropped.
pub(crate) const INBOX_BYTES_MAX: usize = 16 << 20;

/// A payload of up to so many bytes is copied for its subscribers; else a few bytes that wait would hold all that their
/// publisher sent with them.
const COPIED_BYTES_MAX: usize = 4 << 10;

/// A message on its way to its subscribers: one for all of them.
#[derive(Debug)]
pub(crate) struct Message {
    /// UTF-8.
    pub(crate) topic: Bytes,
    pub(crate) envelope: Envelope,
    encoded: OnceLock<Bytes>,
}

impl Message {
    pub(crate) fn new(topic: &str, envelope: Envelope) -> Arc<Self> {
        Arc::new(Self { topic: Bytes::copy_from_slice(topic.as_bytes()), envelope, encoded: OnceLock::new() })
    }

    /// A message that was published a moment ago, whose payload lies in the buffer in which it was read.
    pub(crate) fn published(topic: &str, mut envelope: Envelope, is_kept: bool) -> Arc<Self> {
        if is_kept {
            // As it will be stored, if it has to be: so that it is in memory once.
            let encoded = envelope.encode();
            if let Some(envelope) = Envelope::decode(encoded.clone()) {
                let topic = Bytes::copy_from_slice(topic.as_bytes());
                return Arc::new(Self { topic, envelope, encoded: encoded.into() });
            }
        }
        if envelope.payload.len() <= COPIED_BYTES_MAX {
            envelope.payload = Bytes::copy_from_slice(&envelope.payload);
        }
        Self::new(topic, envelope)
    }

    /// What it counts for where bytes are limited: topic and payload.
    pub(crate) fn bytes(&self) -> usize {
        self.topic.len() + self.envelope.payload.len()
    }

    /// The same for whom the client has it already.
    pub(crate) fn without_payload(&self) -> Arc<Self> {
        let envelope = Envelope { payload: Bytes::new(), ..self.envelope.clone() };
        Arc::new(Self { topic: self.topic.clone(), envelope, encoded: OnceLock::new() })
    }

    /// As it is stored.
    pub(crate) fn encoded(&self) -> Bytes {
        self.encoded.get_or_init(|| self.envelope.encode()).clone()
    }
}

/// A message that has arrived for one subscription of a session.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) message: Arc<Message>,
    /// The smaller of published and subscribed.
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) subscription_id: Option<u32>,
    /// From the client itself, where the subscription does not want that.
    pub(crate) is_own: bool,
    /// Where the session is owed it: none with QoS 0, and none for a session that ends with its connection.
    pub(crate) debt: Option<Arc<Debt>>,
}

impl Arrived {
    /// For a client's subscription; nothing is owed.
    pub(crate) fn new(message: &Arc<Message>, options: &Options, clientid: &str) -> Self {
        let envelope = &message.envelope;
        Self {
            qos: envelope.qos.min(options.qos),
            retain: envelope.retain && options.retain_as_published,
            subscription_id: options.id,
            is_own: options.no_local && *envelope.from_clientid == *clientid.as_bytes(),
            debt: None,
            message: Arc::clone(message),
        }
    }
}

/// The inbox of a session that ends with its connection.
#[derive(Debug)]
pub(crate) struct Inbox {
    session: u64,
    clientid: Box<str>,
    arrived: Mutex<Arrivals>,
    more: Notify,
}

/// What has arrived, oldest first, bounded in number and bytes.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    queue: VecDeque<Arrived>,
    bytes: usize,
}

impl Arrivals {
    /// Puts a message in; those that had to make room.
    pub(crate) fn push(&mut self, one: Arrived) -> Vec<Arrived> {
        self.bytes += one.message.bytes();
        self.queue.push_back(one);
        let mut gone = Vec::new();
        while self.queue.len() > INBOX_MESSAGES_MAX || self.bytes > INBOX_BYTES_MAX && self.queue.len() > 1 {
            gone.extend(self.pop());
        }
        gone
    }

    pub(crate) fn pop(&mut self) -> Option<Arrived> {
        let one = self.queue.pop_front()?;
        self.bytes -= one.message.bytes();
        if self.queue.is_empty() {
            // A quiet session holds no buffer.
            self.queue = VecDeque::new();
        }
        Some(one)
    }

    pub(crate) fn first(&self) -> Option<&Arrived> {
        self.queue.front()
    }
}

impl Inbox {
    pub(crate) fn new(session: u64, clientid: &str) -> Arc<Self> {
        let arrived = Mutex::default();
        Arc::new(Self { session, clientid: clientid.into(), arrived, more: Notify::new() })
    }

    /// The session's number.
    pub(crate) fn session(&self) -> u64 {
        self.session
    }

    /// Puts a message in; how many older ones had to make room.
    pub(crate) fn put(&self, options: &Options, message: &Arc<Message>) -> u64 {
        let one = Arrived::new(message, options, &self.clientid);
        let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = arrived.push(one);
        drop(arrived);
        self.more.notify_one();
        gone.len() as u64
    }

    /// The next message. May be dropped at any time without losing anything.
    pub(crate) async fn next(&self) -> Arrived {
        loop {
            if let Some(one) = self.take() {
                return one;
            }
            self.more.notified().await;
        }
    }

    /// The next message, if there is one.
    pub(crate) fn take(&self) -> Option<Arrived> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: usize) -> Arc<Message> {
        let envelope = Envelope { payload: number.to_string().into(), ..Envelope::nothing(Qos::AtLeastOnce) };
        Message::new("t", envelope)
    }

    fn options() -> Options {
        Options {
            number: 1,
            qos: Qos::AtMostOnce,
            no_local: true,
            retain_as_published: false,
            retain_handling: 0,
            id: Some(7),
        }
    }

    #[tokio::test]
    async fn beyond_its_room_the_oldest_goes_and_the_rest_comes_in_order() {
        let inbox = Inbox::new(1, "c");
        let dropped: u64 =
            (0..INBOX_MESSAGES_MAX + 3).map(|number| inbox.put(&options(), &message(number))).sum();
        assert_eq!(dropped, 3);
        for number in 3..INBOX_MESSAGES_MAX + 3 {
            let one = inbox.next().await;
            assert_eq!(one.message.envelope.payload, number.to_string());
            assert_eq!((one.qos, one.subscription_id, one.is_own), (Qos::AtMostOnce, Some(7), false));
        }
        assert!(inbox.take().is_none());
    }

    #[test]
    fn bytes_are_bounded_and_the_newest_has_room_whatever_it_weighs() {
        let inbox = Inbox::new(1, "c");
        let heavy = |bytes: usize| {
            let envelope = Envelope { payload: vec![0; bytes].into(), ..Envelope::nothing(Qos::AtLeastOnce) };
            Message::new("t", envelope)
        };
        let third = INBOX_BYTES_MAX / 3;
        let dropped: Vec<_> = (0..5).map(|_| inbox.put(&options(), &heavy(third))).collect();
        assert_eq!(dropped, [0, 0, 1, 1, 1], "with their topics three are too many");
        assert_eq!(inbox.put(&options(), &heavy(2 * INBOX_BYTES_MAX)), 2);
        assert!(inbox.take().is_some());
        assert!(inbox.take().is_none());
        assert_eq!(inbox.put(&options(), &heavy(third)), 0);
    }

    #[test]
    fn a_small_payload_does_not_hold_the_buffer_that_it_came_in() {
        let buffer = Bytes::from(vec![7; 64 << 10]);
        let inside = |payload: &Bytes| buffer.as_ptr_range().contains(&payload.as_ptr());
        let envelope = |bytes: usize| Envelope {
            payload: buffer.slice(9..9 + bytes),
            ..Envelope::nothing(Qos::AtLeastOnce)
        };
        for (bytes, is_kept, holds) in [(50, false, false), (32 << 10, false, true), (32 << 10, true, false)]
        {
            let message = Message::published("t", envelope(bytes), is_kept);
            assert_eq!(message.envelope, envelope(bytes));
            assert_eq!(inside(&message.envelope.payload), holds, "{bytes} {is_kept}");
        }
        let kept = Message::published("t", envelope(50), true);
        let (encoded, payload) = (kept.encoded(), &kept.envelope.payload);
        assert!(encoded.as_ptr_range().contains(&payload.as_ptr()), "in memory once");
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let inbox = Inbox::new(1, "c");
        let waiting = tokio::spawn({
            let inbox = Arc::clone(&inbox);
            async move { inbox.next().await }
        });
        tokio::task::yield_now().await;
        inbox.put(&options(), &message(1));
        assert_eq!(waiting.await.unwrap().message.envelope.payload, "1");
    }
}
