//! A batch as one request, or as one request a row: rows of one client form a chain and go one after the other, and
//! as many chains are under way as requests may be.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinSet;

use super::client::Client;
use super::encode;
use super::shape::Shape;
use crate::error::{ErrorKind, SinkError};
use crate::sink::{Batch, BatchRow, Durable, Outcome, RowOutcome};

/// All rows in one request.
pub(super) async fn whole(client: &Client, shape: &Shape, batch: &Batch) -> Result<Outcome, SinkError> {
    if let Some(message) = encode::batch(shape, batch) {
        client.send(message?).await?;
    }
    Ok(Outcome::Durable(Durable::promise(batch)))
}

/// A request a row, `in_flight` at the same time.
pub(super) async fn rows(
    client: &Arc<Client>,
    shape: &Arc<Shape>,
    batch: &Batch,
    in_flight: usize,
) -> Outcome {
    let mut outcomes: Vec<RowOutcome> = batch.rows().map(|_| RowOutcome::Untried).collect();
    let mut error = None;
    let chains =
        if in_flight == 1 { vec![batch.rows().cloned().enumerate().collect()] } else { chains(batch) };
    let workers = in_flight.min(chains.len());
    let sender = Sender {
        client: client.clone(),
        shape: shape.clone(),
        rule: batch.pipeline.rule.clone(),
        waiting: Mutex::new(chains.into_iter()),
        trouble: AtomicBool::new(false),
    };
    if workers == 1 {
        sender.work().await.into_iter().for_each(|done| settle(done, &mut outcomes, &mut error));
    } else {
        // Tasks of their own, so that a request that goes on wakes none of the others. Dropping the set ends them.
        let (sender, mut running) = (Arc::new(sender), JoinSet::new());
        for _ in 0..workers {
            let sender = sender.clone();
            running.spawn(async move { sender.work().await });
        }
        while let Some(done) = running.join_next().await {
            match done {
                Ok(done) => done.into_iter().for_each(|done| settle(done, &mut outcomes, &mut error)),
                // The rows of a task that broke are untried, as far as anybody knows.
                Err(broken) => error = Some(SinkError::unavailable("sending broke off").caused_by(broken)),
            }
        }
    }
    if error.is_none() && outcomes.iter().all(|outcome| matches!(outcome, RowOutcome::Durable)) {
        return Outcome::Durable(Durable::promise(batch));
    }
    Outcome::PerRow { rows: outcomes, error }
}

/// Rows with their places in the batch, one client's in the order of the log.
type Chain = Vec<(usize, BatchRow)>;
type Done = (Vec<(usize, RowOutcome)>, Option<SinkError>);

fn chains(batch: &Batch) -> Vec<Chain> {
    let (mut chains, mut of_client) = (Vec::<Chain>::new(), HashMap::new());
    for (at, row) in batch.rows().enumerate() {
        let chain = *of_client.entry(row.clientid()).or_insert(chains.len());
        match chains.get_mut(chain) {
            Some(chain) => chain.push((at, row.clone())),
            None => chains.push(vec![(at, row.clone())]),
        }
    }
    chains
}

struct Sender {
    client: Arc<Client>,
    shape: Arc<Shape>,
    rule: String,
    waiting: Mutex<std::vec::IntoIter<Chain>>,
    /// Set by the first trouble, so that nothing more is begun.
    trouble: AtomicBool,
}

impl Sender {
    /// Sends chains as long as there are some and nothing is wrong.
    async fn work(&self) -> Vec<Done> {
        let mut done = Vec::new();
        while !self.trouble.load(Ordering::Relaxed) {
            let next = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(chain) = next else { break };
            done.push(self.chain(chain).await);
        }
        done
    }

    /// Sends rows one after the other, up to the first trouble.
    async fn chain(&self, rows: Chain) -> Done {
        let mut done = Vec::with_capacity(rows.len());
        for (at, row) in rows {
            if self.trouble.load(Ordering::Relaxed) {
                break;
            }
            let sent = match encode::row(&self.shape, &self.rule, &row) {
                Ok(message) => self.client.send(message).await,
                Err(error) => Err(error),
            };
            match sent {
                Ok(()) => done.push((at, RowOutcome::Durable)),
                Err(error) if error.kind() == ErrorKind::RejectedRow => {
                    done.push((at, RowOutcome::Rejected(error)));
                }
                Err(error) => {
                    self.trouble.store(true, Ordering::Relaxed);
                    return (done, Some(error));
                }
            }
        }
        (done, None)
    }
}

fn settle((done, trouble): Done, outcomes: &mut [RowOutcome], error: &mut Option<SinkError>) {
    for (at, outcome) in done {
        if let Some(place) = outcomes.get_mut(at) {
            *place = outcome;
        }
    }
    // One reason is enough; that the receiver wants no more calls is the weightiest.
    if error.is_none() || trouble.as_ref().is_some_and(|trouble| trouble.kind() == ErrorKind::Gone) {
        *error = trouble.or(error.take());
    }
}
