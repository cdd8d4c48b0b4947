//! REPUBLISH at run time: the rows of a rule become messages of the broker. It is a sink like any other, but its target
//! is the log that it reads from: a message carries the row that it was made of, so that after a crash the log itself
//! says which rows were published. It must never know a rule's text.

use std::sync::Arc;

use muster_broker::Broker;
use tokio::sync::{Mutex, watch};

mod published;
mod sink;
#[cfg(test)]
mod tests;

pub(crate) use sink::RepublishSink;

/// How many times something may be republished in a row, each time by another rule. Circles that can be seen in the
/// rules are refused before they run; this ends those that only topics made of data bring about.
pub const REPUBLISH_DEPTH_MAX: u32 = 16;

/// The way from pipelines to the broker, which starts after them. Clones share it.
#[derive(Debug, Clone)]
pub struct Republisher {
    broker: watch::Receiver<Option<Broker>>,
    /// Held while a batch is being submitted, also by a submission whose pipeline was stopped meanwhile: who has it
    /// knows that nothing more of others will follow.
    turn: Arc<Mutex<()>>,
}

impl Republisher {
    /// A way to a broker that is still to come; without it, and once the sender is gone, there is none.
    pub fn new() -> (watch::Sender<Option<Broker>>, Self) {
        let (arrival, broker) = watch::channel(None);
        (arrival, Self { broker, turn: Arc::default() })
    }

    /// The broker, as soon as there is one; none if it will never come.
    async fn broker(&self) -> Option<Broker> {
        let mut broker = self.broker.clone();
        broker.wait_for(Option::is_some).await.ok()?.clone()
    }
}
