//! The sink of REPUBLISH: a batch is submitted to the broker row by row and waited for once. It must never know a
//! rule's text or how a message travels.

use std::collections::BTreeSet;
use std::sync::Arc;

use muster_broker::{Accepted, Broker, BrokerError, PublishRequest, Qos};
use muster_core::event::{Event, proto};
use muster_core::journal::Journal;
use muster_core::log::LogError;
use muster_rules::Republish;
use muster_sinks::{
    Batch, BatchRow, BoxFuture, Cursor, Durable, ErrorKind, Memory, Outcome, PipelineId, RowOutcome, Sink,
    SinkError,
};

use super::published::{Found, Owner, Published};
use super::{REPUBLISH_DEPTH_MAX, Republisher};

/// Publishes the rows of one REPUBLISH of one rule.
pub(crate) struct RepublishSink {
    message: Arc<Republish>,
    owner: Owner,
    republisher: Republisher,
    journal: Journal,
    /// What the log has of this pipeline's rows. None where that has to be looked up: after every opening, and where
    /// an attempt was given up in the middle.
    published: Option<Published>,
}

/// A message on its way, and which row of its batch it is made of.
struct Submission {
    at: usize,
    row: Cursor,
    request: PublishRequest,
}

/// What became of submissions.
#[derive(Default)]
struct Submitted {
    accepted: Found,
    /// Rows that the broker refuses for what they are.
    rejected: Vec<(usize, SinkError)>,
    /// Why the rest was not accepted, which is not the rows' fault.
    refusal: Option<SinkError>,
}

impl RepublishSink {
    /// The sink of the REPUBLISH number `target` of `rule`.
    pub(crate) fn new(
        message: Arc<Republish>,
        rule: &str,
        target: u32,
        republisher: Republisher,
        journal: Journal,
    ) -> Self {
        let owner = Owner { rule: rule.to_owned(), target };
        Self { message, owner, republisher, journal, published: None }
    }

    async fn broker(&self) -> Result<Broker, SinkError> {
        let broker = self.republisher.broker().await;
        broker.ok_or_else(|| SinkError::unavailable("the broker did not start"))
    }

    async fn publish(&mut self, batch: &Batch) -> Result<Outcome, SinkError> {
        let broker = self.broker().await?;
        let wanted: BTreeSet<Cursor> = batch.rows().map(BatchRow::cursor).collect();
        let (mut published, mut found) = self.published_of(&wanted).await?;
        let (mut submissions, mut rejected) = (Vec::new(), Vec::new());
        for (at, row) in batch.rows().enumerate().filter(|(_, row)| !found.contains_key(&row.cursor())) {
            match self.request(row) {
                Ok(request) => submissions.push(Submission { at, row: row.cursor(), request }),
                Err(reason) => rejected.push((at, SinkError::new(ErrorKind::RejectedRow, reason))),
            }
        }
        let submitted = self.submit(broker, submissions).await?;
        rejected.extend(submitted.rejected);
        found.extend(&submitted.accepted);
        published.note(&submitted.accepted);
        self.published = Some(published);
        if let Some(error) = submitted.refusal {
            return Err(error);
        }
        if let Some(last) = found.values().max() {
            self.journal.durable(*last).await.map_err(unavailable)?;
        }
        Ok(outcome(batch, rejected))
    }

    /// Which of the rows `wanted` are published. Until what this gives is put back, an attempt that is dropped leaves
    /// nothing known.
    async fn published_of(&mut self, wanted: &BTreeSet<Cursor>) -> Result<(Published, Found), SinkError> {
        if let Some(published) = self.published.take()
            && let Some(found) = published.look_up(wanted)
        {
            return Ok((published, found));
        }
        // What an earlier attempt, or a pipeline before this one, is still submitting belongs to what is looked up.
        drop(self.republisher.turn.lock().await);
        let (published, found) =
            Published::learn(&self.journal, &self.owner, wanted).await.map_err(unavailable)?;
        if !found.is_empty() {
            let (rule, rows) = (self.owner.rule.as_str(), found.len());
            tracing::info!(rule, rows, "were republished already and are not again");
        }
        Ok((published, found))
    }

    fn request(&self, row: &BatchRow) -> Result<PublishRequest, String> {
        let depth = depth_of(&row.event) + 1;
        if depth > REPUBLISH_DEPTH_MAX {
            return Err(format!(
                "republished {REPUBLISH_DEPTH_MAX} times already: rules republish in a circle"
            ));
        }
        let message = self.message.message(&row.row, &row.event).map_err(|error| error.to_string())?;
        let republication = proto::Republication {
            offset: row.offset(),
            row: row.index,
            target: self.owner.target,
            depth,
            direct: message.direct_dispatch,
        };
        Ok(PublishRequest {
            clientid: self.owner.rule.clone(),
            username: None,
            topic: message.topic,
            payload: message.payload,
            qos: Qos::from_u8(message.qos).unwrap_or_default(),
            retain: message.retain,
            props: message.props,
            republished_by: self.owner.rule.clone(),
            republication: Some(republication),
            request: None,
        })
    }

    /// Submits in order, up to the first that is refused for another reason than itself. Goes on to the end though
    /// the future is dropped.
    async fn submit(&self, broker: Broker, submissions: Vec<Submission>) -> Result<Submitted, SinkError> {
        let turn = self.republisher.turn.clone().lock_owned().await;
        let submitting = tokio::spawn(async move {
            let _turn = turn;
            let mut submitted = Submitted::default();
            for Submission { at, row, request } in submissions {
                match broker.submit(request).await.map_err(sink_error) {
                    Ok(Accepted { offset, .. }) => drop(submitted.accepted.insert(row, offset)),
                    Err(error) if error.kind() == ErrorKind::RejectedRow => {
                        submitted.rejected.push((at, error));
                    }
                    Err(error) => {
                        submitted.refusal = Some(error);
                        break;
                    }
                }
            }
            submitted
        });
        let ended = |error| SinkError::unavailable("publishing ended by a fault of its own").caused_by(error);
        submitting.await.map_err(ended)
    }
}

/// How many times what the event is about was republished.
fn depth_of(event: &Event) -> u32 {
    let message = event.body.message.as_ref();
    message.and_then(|message| message.republication.as_ref()).map_or(0, |it| it.depth)
}

fn outcome(batch: &Batch, rejected: Vec<(usize, SinkError)>) -> Outcome {
    if rejected.is_empty() {
        return Outcome::Durable(Durable::promise(batch));
    }
    let mut rows: Vec<_> = batch.rows().map(|_| RowOutcome::Durable).collect();
    for (at, error) in rejected {
        if let Some(row) = rows.get_mut(at) {
            *row = RowOutcome::Rejected(error);
        }
    }
    Outcome::PerRow { rows, error: None }
}

/// What the broker said of a row, or of itself.
fn sink_error(error: BrokerError) -> SinkError {
    match error {
        BrokerError::Topic(_)
        | BrokerError::TooLarge { .. }
        | BrokerError::Log(LogError::TooLarge { .. }) => {
            SinkError::new(ErrorKind::RejectedRow, "the broker refuses the message").caused_by(error)
        }
        BrokerError::Log(error) => unavailable(error),
        error => SinkError::unavailable("the broker cannot publish").caused_by(error),
    }
}

fn unavailable(error: LogError) -> SinkError {
    SinkError::unavailable("the event log takes no message").caused_by(error).with_hint(
        "make room on the disk of the data directory, or raise `journal.cap_bytes`; nothing is lost meanwhile",
    )
}

impl Sink for RepublishSink {
    /// A row is known again by itself, whatever batch it comes in.
    fn wants_recorded_batches(&self) -> bool {
        false
    }

    fn open<'a>(&'a mut self, _pipeline: &'a PipelineId) -> BoxFuture<'a, Result<Memory, SinkError>> {
        Box::pin(async move {
            self.broker().await?;
            self.published = None;
            Ok(Memory::None)
        })
    }

    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<Outcome, SinkError>> {
        Box::pin(self.publish(batch))
    }

    fn check(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async move { self.broker().await.map(drop) })
    }
}
