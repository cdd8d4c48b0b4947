//! Writes a client's events: puts the client's facts, the session's number and the growing sequence number on each.

use muster_core::clock::SharedClock;
use muster_core::event::proto::event::Detail;
use muster_core::event::{EventKind, NewEvent, proto};
use muster_core::journal::{Appended, Journal};
use muster_core::log::LogError;

/// The events of one connection of a client.
#[derive(Clone)]
pub(crate) struct Recorder {
    journal: Journal,
    clock: SharedClock,
    node: String,
    /// All but `seq`, which is that of the next event.
    client: proto::Client,
}

impl Recorder {
    /// A recorder whose session begins here: its number is the log's next offset. Every event of the client's earlier
    /// session must have been written before.
    pub(crate) fn begin(
        journal: &Journal,
        clock: &SharedClock,
        node: &str,
        mut client: proto::Client,
    ) -> Self {
        let offset = journal.next_offset();
        client.session = offset;
        client.seq = offset;
        Self { journal: journal.clone(), clock: clock.clone(), node: node.to_owned(), client }
    }

    /// A recorder for what no connection of this process does; session and sequence number are as `client` says, 0
    /// where there never was a connection.
    pub(crate) fn outside(journal: &Journal, clock: &SharedClock, node: &str, client: proto::Client) -> Self {
        Self { journal: journal.clone(), clock: clock.clone(), node: node.to_owned(), client }
    }

    /// Writes an event; waits only for room in the log's queue.
    pub(crate) async fn append(
        &mut self,
        kind: EventKind,
        topic: &str,
        message: Option<proto::Message>,
        detail: Option<Detail>,
    ) -> Result<Appended, LogError> {
        let event = NewEvent {
            timestamp_ms: self.clock.wall_ms(),
            kind,
            topic: topic.to_owned(),
            body: proto::Event {
                node: self.node.clone(),
                client: Some(self.client.clone()),
                message,
                detail,
            },
        };
        let appended = self.journal.append(event).await?;
        self.client.seq += 1;
        Ok(appended)
    }

    /// As [`Recorder::append`], for events that nothing is acknowledged by: a refusal is logged and counted by the
    /// log.
    pub(crate) async fn note(
        &mut self,
        kind: EventKind,
        topic: &str,
        message: Option<proto::Message>,
        detail: Option<Detail>,
    ) {
        if let Err(error) = self.append(kind, topic, message, detail).await {
            tracing::warn!(clientid = self.client.clientid, event = kind.name(), %error, "event not recorded");
        }
    }

    pub(crate) fn client(&self) -> &proto::Client {
        &self.client
    }

    pub(crate) fn wall_ms(&self) -> i64 {
        self.clock.wall_ms()
    }
}
