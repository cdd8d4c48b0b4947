//! A session without a connection: it collects messages until its client returns, its time is over, or an operator
//! ends it. A delayed will is published from here.

use std::future::pending;

use tokio::time::{Instant, sleep_until};

use super::Actor;
use crate::clients::Control;
use crate::codec::Will;

/// A session whose client is away.
pub(crate) struct Stay {
    pub(crate) actor: Actor,
    /// Published at its time, or when the session ends.
    pub(crate) will: Option<(Will, Instant)>,
    pub(crate) ends_at: Instant,
}

/// Runs until the session is handed on or has ended. Whatever is large lives only while it happens: most sessions only
/// wait.
pub(crate) async fn run(stay: Box<Stay>) {
    let Stay { mut actor, will, ends_at } = *stay;
    let (will, will_at) = will.map_or((None, None), |(will, at)| (Some(Box::new(will)), Some(at)));
    let mut will = will;
    loop {
        tokio::select! {
            control = actor.control.recv() => match control.map(|it| *it) {
                Some(Control::TakeOver { clean, reply }) => {
                    // A client that is back in time is not dead (MQTT 5.0, 3.1.3.2.2); one that wants a new session
                    // has ended the old one.
                    if let Some(will) = will.filter(|_| clean) {
                        Box::pin(actor.publish_will(*will)).await;
                    }
                    Box::pin(actor.forget_will()).await;
                    return Box::pin(actor.hand_over(!clean, reply)).await;
                }
                Some(Control::Kick { reply, .. }) => {
                    if let Some(will) = will {
                        Box::pin(actor.publish_will(*will)).await;
                    }
                    Box::pin(actor.end()).await;
                    // Who asked may have gone.
                    let _ = reply.send(());
                    return;
                }
                // Who asked may have gone, here and below.
                Some(Control::Subscribe { subscriptions, done }) => {
                    let _ = done.send(Box::pin(actor.proxy_subscribe(subscriptions)).await);
                }
                Some(Control::Unsubscribe { filters, done }) => {
                    let _ = done.send(Box::pin(actor.proxy_unsubscribe(filters)).await);
                }
                Some(Control::KeepAlive { done, .. }) => {
                    let _ = done.send(false);
                }
                Some(Control::Answers { forget, reply }) => {
                    let _ = reply.send(actor.remembered_answers(forget));
                }
                Some(Control::Held { query, reply }) => {
                    let _ = reply.send(actor.session.outbox.held(&query));
                }
                // A will that waits goes on waiting after the next start.
                Some(Control::Shutdown) | None => return Box::pin(actor.suspend()).await,
            },
            arrived = actor.session.mailbox.next() => Box::pin(actor.arrived(arrived)).await,
            () = at(will_at), if will.is_some() => {
                if let Some(will) = will.take() {
                    Box::pin(actor.publish_will(*will)).await;
                }
            }
            () = sleep_until(ends_at) => {
                if let Some(will) = will {
                    Box::pin(actor.publish_will(*will)).await;
                }
                return Box::pin(actor.end()).await;
            }
        }
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}
