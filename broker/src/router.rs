//! The embedded rumqttd router, and all that is known of its ways. It finds the subscribers of a message; each session
//! that subscribes has one [`Link`] to it, publishers share one queue.
//!
//! How it is kept out of trouble:
//! - Topics and filters stand under [`MOUNT`]: a topic that begins with a multi-byte character would panic it, one
//!   that begins with `$` would match nothing.
//! - Links are named by recycled numbers: client ids may hold what it refuses, and it keeps a record of each name for
//!   ever.
//! - Every subscription is QoS 0 there and a message is one opaque payload: its in-flight window, its demand for
//!   ordered acks, its retained messages, aliases and shared groups are never used.
//! - A link is clean and is closed by a DISCONNECT, never by a second link of the same name.
//! - Each subscription has an identifier, so that a message that comes back says which subscription it is for, and
//!   the log position that comes with it shows whether messages were missed.
//!
//! It must never know what is in a message. No other file names the router.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use rumqttd::local::{LinkBuilder, LinkRx, LinkTx};
use rumqttd::protocol::{
    Disconnect, DisconnectReasonCode, Filter, Packet, PingReq, Publish, QoS, RetainForwardRule, Subscribe,
    SubscribeProperties, Unsubscribe,
};
use rumqttd::{Notification, Router as Rumqttd, RouterConfig};
use tokio::sync::{Notify, mpsc, watch};

use crate::error::BrokerError;

/// The first level of every topic inside the router.
const MOUNT: &str = "m/";

/// Publishes that wait for the router's queue.
const PUBLISH_QUEUE_MESSAGES_MAX: usize = 1_024;

/// Publishes that are handed over at once.
const PUBLISH_BATCH_MESSAGES_MAX: usize = 256;

/// Batches that the router has not confirmed; then publishers wait.
const PUBLISH_BATCHES_MAX: u64 = 8;

/// Messages that the router reads for one subscription at a time.
const READ_MESSAGES_MAX: u64 = 100;

/// Segments of the router's log for a filter; the oldest goes when all are full.
const FILTER_SEGMENTS: usize = 4;

/// The router stops looking at its run queue when it meets a link that has gone, until the next event. So there is
/// one, at least this often, while there is traffic.
const NUDGE_INTERVAL: Duration = Duration::from_millis(20);

type Opened = Result<(LinkTx, LinkRx), RouterStopped>;

/// The router's handle; clones are the same router.
#[derive(Clone)]
pub(crate) struct Router {
    inner: Arc<Inner>,
}

struct Inner {
    /// Grows with everything that is sent to the router.
    activity: AtomicU64,
    open: Box<dyn Fn(&str) -> Opened + Send + Sync>,
    publishes: mpsc::Sender<(Bytes, Bytes)>,
    names: Mutex<Names>,
    stopped: watch::Sender<bool>,
}

/// Names of links: numbers, so that there are only as many as there were links at a time.
#[derive(Default)]
struct Names {
    free: Vec<usize>,
    next: usize,
}

/// The router's thread is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message router stopped")]
pub(crate) struct RouterStopped;

impl From<RouterStopped> for BrokerError {
    fn from(_: RouterStopped) -> Self {
        Self::RouterStopped
    }
}

impl Router {
    /// Starts the router's thread and the task that feeds it.
    pub(crate) async fn start(links_max: usize, filter_bytes_max: usize) -> Result<Self, RouterStopped> {
        let config = RouterConfig {
            max_connections: links_max.saturating_add(1),
            max_outgoing_packet_count: READ_MESSAGES_MAX,
            max_segment_size: (filter_bytes_max / FILTER_SEGMENTS).max(1_024),
            max_segment_count: FILTER_SEGMENTS,
            ..RouterConfig::default()
        };
        let events = Rumqttd::new(0, config).spawn();
        let open = move |name: &str| {
            let built = LinkBuilder::new(name, events.clone()).clean_session(true).build();
            built.map(|(tx, rx, _)| (tx, rx)).map_err(|_| RouterStopped)
        };
        let (publishes, queue) = mpsc::channel(PUBLISH_QUEUE_MESSAGES_MAX);
        let names = Mutex::new(Names::default());
        let stopped = watch::Sender::new(false);
        let inner =
            Arc::new(Inner { activity: AtomicU64::new(0), open: Box::new(open), publishes, names, stopped });
        let router = Self { inner };
        let (tx, rx) = router.open_raw("publishers".to_owned()).await?;
        let confirmed = Arc::new(Confirmed::default());
        tokio::spawn(confirm(rx, Arc::clone(&confirmed), router.inner.stopped.clone()));
        tokio::spawn(feed(tx, queue, confirmed, Arc::downgrade(&router.inner)));
        Ok(router)
    }

    /// Hands a message to the router; waits while it is behind.
    pub(crate) async fn publish(&self, topic: &str, message: Bytes) -> Result<(), RouterStopped> {
        self.inner.publishes.send((mount(topic).into(), message)).await.map_err(|_| RouterStopped)
    }

    /// A new link, without subscriptions.
    pub(crate) async fn link(&self) -> Result<Link, RouterStopped> {
        let number = {
            let mut names = self.inner.names.lock().unwrap_or_else(PoisonError::into_inner);
            names.free.pop().unwrap_or_else(|| {
                names.next += 1;
                names.next
            })
        };
        let (tx, rx) = self.open_raw(format!("s{number}")).await?;
        Ok(Link { tx, rx, number, router: self.clone(), positions: HashMap::new() })
    }

    /// Resolves when the router's thread has ended.
    pub(crate) async fn stopped(&self) {
        // The sender lives in `self`, so that this ends only with the value.
        drop(self.inner.stopped.subscribe().wait_for(|stopped| *stopped).await);
    }

    async fn open_raw(&self, name: String) -> Result<(LinkTx, LinkRx), RouterStopped> {
        let inner = Arc::clone(&self.inner);
        // Opening waits for the router's answer on the calling thread.
        let opened = tokio::task::spawn_blocking(move || (inner.open)(&name)).await;
        let (mut tx, rx) = opened.map_err(|_| RouterStopped)??;
        shrink(&mut tx);
        Ok((tx, rx))
    }
}

/// How many batches the router has seen.
#[derive(Default)]
struct Confirmed {
    batches: AtomicU64,
    more: Notify,
}

/// Counts the router's answers to our pings; its silence is the end.
async fn confirm(mut rx: LinkRx, confirmed: Arc<Confirmed>, stopped: watch::Sender<bool>) {
    while let Ok(notification) = rx.next().await {
        if let Some(Notification::DeviceAck(_)) = notification {
            confirmed.batches.fetch_add(1, Ordering::Release);
            confirmed.more.notify_one();
        }
    }
    confirmed.batches.store(u64::MAX, Ordering::Release);
    stopped.send_replace(true);
    confirmed.more.notify_one();
}

/// Moves publishes from the queue to the router, a batch at a time, and nudges it.
async fn feed(
    mut tx: LinkTx,
    mut queue: mpsc::Receiver<(Bytes, Bytes)>,
    confirmed: Arc<Confirmed>,
    inner: Weak<Inner>,
) {
    let mut batch = Vec::with_capacity(PUBLISH_BATCH_MESSAGES_MAX);
    let mut sent = 0u64;
    let mut seen_activity = 0;
    let mut nudge = tokio::time::interval(NUDGE_INTERVAL);
    nudge.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            count = queue.recv_many(&mut batch, PUBLISH_BATCH_MESSAGES_MAX) => if count == 0 { return },
            _ = nudge.tick() => {
                let activity = inner.upgrade().map_or(seen_activity, |inner| inner.activity.load(Ordering::Relaxed));
                if activity == seen_activity {
                    continue;
                }
                seen_activity = activity;
            }
        }
        if !batch.is_empty() {
            // One more nudge follows the last batch.
            seen_activity = seen_activity.wrapping_sub(1);
        }
        {
            let mut buffer = tx.buffer();
            for (topic, message) in batch.drain(..) {
                buffer.push_back(Packet::Publish(Publish::new(topic, message, false), None));
            }
        }
        if tx.send(Packet::PingReq(PingReq)).await.is_err() {
            return;
        }
        sent += 1;
        while sent.saturating_sub(confirmed.batches.load(Ordering::Acquire)) > PUBLISH_BATCHES_MAX {
            confirmed.more.notified().await;
        }
    }
}

/// One subscriber's connection with the router.
pub(crate) struct Link {
    tx: LinkTx,
    rx: LinkRx,
    number: usize,
    router: Router,
    /// Per subscription: the log position that its next message should have.
    positions: HashMap<u32, u64>,
}

/// What comes out of a link.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A message for a subscription.
    Message {
        subscription: u32,
        topic: Bytes,
        message: Bytes,
        /// Messages for this subscription that were lost before it.
        missed: u64,
    },
    /// The router has taken the subscription; what is published from now on reaches it.
    Subscribed { token: u16 },
    /// Nothing to see.
    Nothing,
}

impl Link {
    /// Asks for a filter under an identifier that is not 0. `token` comes back when it is done.
    pub(crate) async fn subscribe(
        &mut self,
        filter: &str,
        subscription: u32,
        token: u16,
    ) -> Result<(), RouterStopped> {
        let filter = Filter {
            path: mount(filter),
            qos: QoS::AtMostOnce,
            nolocal: false,
            preserve_retain: false,
            retain_forward_rule: RetainForwardRule::Never,
        };
        let subscribe = Subscribe { pkid: token, filters: vec![filter] };
        let props = SubscribeProperties { id: Some(subscription as usize), user_properties: Vec::new() };
        self.send(Packet::Subscribe(subscribe, Some(props))).await
    }

    /// Gives up a filter that was asked for.
    pub(crate) async fn unsubscribe(&mut self, filter: &str, subscription: u32) -> Result<(), RouterStopped> {
        self.positions.remove(&subscription);
        let unsubscribe = Unsubscribe { pkid: 0, filters: vec![mount(filter)] };
        self.send(Packet::Unsubscribe(unsubscribe, None)).await
    }

    /// The next thing. May be dropped at any time without losing anything.
    pub(crate) async fn next(&mut self) -> Result<Incoming, RouterStopped> {
        let notification = self.rx.next().await.map_err(|_| RouterStopped)?;
        Ok(match notification {
            Some(Notification::Forward(forward)) => self.message(forward),
            Some(Notification::DeviceAck(ack)) => match Packet::from(ack) {
                Packet::SubAck(ack, _) => Incoming::Subscribed { token: ack.pkid },
                _ => Incoming::Nothing,
            },
            // Its buffer for us was full; it waits until we say that there is room.
            Some(Notification::Unschedule) => {
                self.rx.wake().await.map_err(|_| RouterStopped)?;
                Incoming::Nothing
            }
            Some(Notification::Disconnect(..)) => return Err(RouterStopped),
            _ => Incoming::Nothing,
        })
    }

    fn message(&mut self, forward: rumqttd::Forward) -> Incoming {
        let ids = forward.properties.map(|props| props.subscription_identifiers).unwrap_or_default();
        let subscription = ids.first().and_then(|id| u32::try_from(*id).ok()).unwrap_or_default();
        let mut missed = 0;
        if let Some((_, position)) = forward.cursor
            && let Some(expected) = self.positions.insert(subscription, position + 1)
        {
            missed = position.saturating_sub(expected);
        }
        let mut topic = forward.publish.topic;
        let topic = topic.split_off(MOUNT.len().min(topic.len()));
        Incoming::Message { subscription, topic, message: forward.publish.payload, missed }
    }

    async fn send(&mut self, packet: Packet) -> Result<(), RouterStopped> {
        self.router.inner.activity.fetch_add(1, Ordering::Relaxed);
        self.tx.send(packet).await.map_err(|_| RouterStopped)?;
        Ok(())
    }
}

/// A link that is dropped, by whatever end its owner met, leaves the router.
impl Drop for Link {
    fn drop(&mut self) {
        self.router.inner.activity.fetch_add(1, Ordering::Relaxed);
        let disconnect = Disconnect { reason_code: DisconnectReasonCode::NormalDisconnection };
        {
            // The future waits for nothing that is awaited: one poll sends.
            let mut leaving = std::pin::pin!(self.tx.send(Packet::Disconnect(disconnect, None)));
            let mut context = Context::from_waker(Waker::noop());
            drop(leaving.as_mut().poll(&mut context));
        }
        let mut names = self.router.inner.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.free.push(self.number);
    }
}

fn mount(topic: &str) -> String {
    [MOUNT, topic].concat()
}

/// The router preallocates for hundreds of packets; a link that mostly listens needs none of it.
fn shrink(tx: &mut LinkTx) {
    tx.buffer().shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINKS_MAX: usize = 100;
    const FILTER_BYTES_MAX: usize = 1 << 20;

    async fn subscribed(router: &Router, filter: &str) -> Link {
        let mut link = router.link().await.unwrap();
        link.subscribe(filter, 1, 7).await.unwrap();
        while !matches!(link.next().await.unwrap(), Incoming::Subscribed { token: 7 }) {}
        link
    }

    async fn message(link: &mut Link) -> (String, Bytes) {
        loop {
            if let Incoming::Message { topic, message, missed, .. } = link.next().await.unwrap() {
                assert_eq!(missed, 0);
                return (String::from_utf8(topic.to_vec()).unwrap(), message);
            }
        }
    }

    #[tokio::test]
    async fn topics_come_out_as_they_went_in() {
        let router = Router::start(LINKS_MAX, FILTER_BYTES_MAX).await.unwrap();
        let mut link = subscribed(&router, "#").await;
        for topic in ["a", "é/x", "$SYS/x", "/", "🦀"] {
            router.publish(topic, Bytes::from_static(b"x")).await.unwrap();
            assert_eq!(message(&mut link).await.0, topic);
        }
    }

    #[tokio::test]
    async fn a_burst_beyond_every_buffer_arrives_whole_and_in_order() {
        let router = Router::start(LINKS_MAX, 64 << 20).await.unwrap();
        let mut link = subscribed(&router, "t").await;
        let publisher = router.clone();
        let publishing = tokio::spawn(async move {
            for number in 0u32..5_000 {
                publisher.publish("t", number.to_be_bytes().to_vec().into()).await.unwrap();
            }
        });
        for number in 0u32..5_000 {
            assert_eq!(message(&mut link).await.1[..], number.to_be_bytes());
        }
        publishing.await.unwrap();
    }

    #[tokio::test]
    async fn a_reader_that_lags_beyond_the_log_is_told_how_much_it_missed() {
        let router = Router::start(LINKS_MAX, 16 << 10).await.unwrap();
        let mut link = subscribed(&router, "t").await;
        let mut witness = subscribed(&router, "t").await;
        for number in 0u32..2_000 {
            let mut body = vec![0; 100];
            body[..4].copy_from_slice(&number.to_be_bytes());
            router.publish("t", body.into()).await.unwrap();
            message(&mut witness).await;
        }
        let (mut seen, mut lost, mut last) = (0, 0, None);
        while last != Some(1_999) {
            if let Incoming::Message { message, missed, .. } = link.next().await.unwrap() {
                seen += 1;
                lost += missed;
                last = Some(u32::from_be_bytes(message[..4].try_into().unwrap()));
            }
        }
        assert!(lost > 0);
        assert_eq!(seen + lost, 2_000);
    }

    #[tokio::test]
    async fn names_are_used_again_and_links_that_go_disturb_nobody() {
        let router = Router::start(LINKS_MAX, FILTER_BYTES_MAX).await.unwrap();
        let mut stays = subscribed(&router, "t").await;
        for round in 0..50u8 {
            let goes = subscribed(&router, "t").await;
            router.publish("t", vec![round].into()).await.unwrap();
            drop(goes);
            assert_eq!(message(&mut stays).await.1[..], [round]);
        }
        let names = router.inner.names.lock().unwrap();
        assert_eq!((names.next, names.free.len()), (2, 1));
    }

    #[tokio::test]
    async fn the_end_of_its_thread_is_noticed() {
        let router = Router::start(LINKS_MAX, FILTER_BYTES_MAX).await.unwrap();
        let mut link = subscribed(&router, "#").await;
        // Without the mount: the very topic that it is kept from.
        let (mut raw, _rx) = router.open_raw("raw".to_owned()).await.unwrap();
        raw.publish("é/x", "boom").unwrap();
        router.stopped().await;
        assert!(matches!(link.next().await, Err(RouterStopped)));
        assert_eq!(BrokerError::from(RouterStopped).to_string(), BrokerError::RouterStopped.to_string());
        while router.publish("t", Bytes::new()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
