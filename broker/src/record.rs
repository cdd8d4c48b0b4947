//! Writes a client's events: puts the client's facts, the session's number and the growing sequence number on each.

use std::mem::take;

use muster_core::clock::SharedClock;
use muster_core::event::proto::event::Detail;
use muster_core::event::{EventKind, proto};
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

    /// Writes an event; waits only for room in the log's queue. What is written is encoded in this call, so that no
    /// future of a session is as large as an event.
    pub(crate) fn append<'a>(
        &'a mut self,
        kind: EventKind,
        topic: &str,
        message: Option<proto::Message>,
        detail: Option<Detail>,
    ) -> impl Future<Output = Result<Appended, LogError>> + Send + use<'a> {
        let (appending, client) = self.begin_append(kind, topic, message, detail);
        async move {
            let appended = appending.await?;
            client.seq += 1;
            Ok(appended)
        }
    }

    /// As [`Recorder::append`], for events that nothing is acknowledged by: a refusal is logged and counted by the
    /// log.
    pub(crate) fn note<'a>(
        &'a mut self,
        kind: EventKind,
        topic: &str,
        message: Option<proto::Message>,
        detail: Option<Detail>,
    ) -> impl Future<Output = ()> + Send + use<'a> {
        let (appending, client) = self.begin_append(kind, topic, message, detail);
        async move {
            match appending.await {
                Ok(_) => client.seq += 1,
                Err(error) => {
                    tracing::warn!(clientid = client.clientid, event = kind.name(), %error, "event not recorded")
                }
            }
        }
    }

    fn begin_append<'a>(
        &'a mut self,
        kind: EventKind,
        topic: &str,
        message: Option<proto::Message>,
        detail: Option<Detail>,
    ) -> (impl Future<Output = Result<Appended, LogError>> + Send + use<'a>, &'a mut proto::Client) {
        // Lent to the event, not copied: there is one for whatever a client does.
        let (node, client) = (take(&mut self.node), Some(take(&mut self.client)));
        let body = proto::Event { node, client, message, detail };
        let appending = self.journal.append_parts(self.clock.wall_ms(), kind, topic, &body);
        self.node = body.node;
        self.client = body.client.unwrap_or_default();
        (appending, &mut self.client)
    }

    pub(crate) fn client(&self) -> &proto::Client {
        &self.client
    }

    pub(crate) fn wall_ms(&self) -> i64 {
        self.clock.wall_ms()
    }
}
