//! A session without a connection: it collects messages until its client returns, its time is over, or an operator
//! ends it. A delayed will is published from here.

use std::future::pending;

use tokio::time::{Instant, sleep_until};

use super::Actor;
use crate::clients::Control;
use crate::codec::Will;

/// Runs until the session is handed on or has ended. `will` is published at its time, or when the session ends.
pub(crate) async fn run(mut actor: Actor, will: Option<(Will, Instant)>, ends_at: Instant) {
    let (mut will, will_at) = will.map_or((None, None), |(will, at)| (Some(will), Some(at)));
    loop {
        tokio::select! {
            control = actor.control.recv() => match control {
                Some(Control::TakeOver { clean, reply }) => {
                    // A client that is back in time is not dead (MQTT 5.0, 3.1.3.2.2); one that wants a new session
                    // has ended the old one.
                    if let Some(will) = will.filter(|_| clean) {
                        actor.publish_will(will).await;
                    }
                    actor.forget_will().await;
                    return actor.hand_over(!clean, reply).await;
                }
                Some(Control::Kick { reply, .. }) => {
                    if let Some(will) = will {
                        actor.publish_will(will).await;
                    }
                    actor.end().await;
                    // Who asked may have gone.
                    let _ = reply.send(());
                    return;
                }
                // Who asked may have gone, here and below.
                Some(Control::Subscribe { subscriptions, done }) => {
                    let _ = done.send(actor.proxy_subscribe(subscriptions).await);
                }
                Some(Control::Unsubscribe { filters, done }) => {
                    let _ = done.send(actor.proxy_unsubscribe(filters).await);
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
                Some(Control::Shutdown) | None => return actor.suspend().await,
            },
            arrived = actor.session.mailbox.next() => actor.arrived(arrived).await,
            () = at(will_at), if will.is_some() => {
                if let Some(will) = will.take() {
                    actor.publish_will(will).await;
                }
            }
            () = sleep_until(ends_at) => {
                if let Some(will) = will {
                    actor.publish_will(will).await;
                }
                return actor.end().await;
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
