//! A batch as one request, or as one request a row: rows of one client form a chain and go one after the other, and
//! as many chains are under way as requests may be.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

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
pub(super) async fn rows(client: &Client, shape: &Shape, batch: &Batch, in_flight: usize) -> Outcome {
    let mut outcomes: Vec<RowOutcome> = batch.rows().map(|_| RowOutcome::Untried).collect();
    let mut error = None;
    let sender = Sender { client, shape, rule: &batch.pipeline.rule, trouble: AtomicBool::new(false) };
    if in_flight == 1 {
        settle(sender.chain(batch.rows().enumerate().collect()).await, &mut outcomes, &mut error);
    } else {
        let chains = chains(batch);
        let workers = in_flight.min(chains.len());
        let waiting = Mutex::new(chains.into_iter());
        // The workers run inside this future: when it is dropped, no request of it goes on.
        for done in join_all((0..workers).map(|_| sender.work(&waiting))).await {
            done.into_iter().for_each(|done| settle(done, &mut outcomes, &mut error));
        }
    }
    if error.is_none() && outcomes.iter().all(|outcome| matches!(outcome, RowOutcome::Durable)) {
        return Outcome::Durable(Durable::promise(batch));
    }
    Outcome::PerRow { rows: outcomes, error }
}

/// Rows with their places in the batch, one client's in the order of the log.
type Chain<'a> = Vec<(usize, &'a BatchRow)>;
type Done = (Vec<(usize, RowOutcome)>, Option<SinkError>);

fn chains(batch: &Batch) -> Vec<Chain<'_>> {
    let (mut chains, mut of_client) = (Vec::<Chain<'_>>::new(), HashMap::new());
    for (at, row) in batch.rows().enumerate() {
        let chain = *of_client.entry(row.clientid()).or_insert(chains.len());
        match chains.get_mut(chain) {
            Some(chain) => chain.push((at, row)),
            None => chains.push(vec![(at, row)]),
        }
    }
    chains
}

struct Sender<'a> {
    client: &'a Client,
    shape: &'a Shape,
    rule: &'a str,
    /// Set by the first trouble, so that nothing more is begun.
    trouble: AtomicBool,
}

impl Sender<'_> {
    /// Sends chains as long as there are some and nothing is wrong.
    async fn work(&self, waiting: &Mutex<std::vec::IntoIter<Chain<'_>>>) -> Vec<Done> {
        let mut done = Vec::new();
        while !self.trouble.load(Ordering::Relaxed) {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(chain) = next else { break };
            done.push(self.chain(chain).await);
        }
        done
    }

    /// Sends rows one after the other, up to the first trouble.
    async fn chain(&self, rows: Chain<'_>) -> Done {
        let mut done = Vec::with_capacity(rows.len());
        for (at, row) in rows {
            if self.trouble.load(Ordering::Relaxed) {
                break;
            }
            let sent = match encode::row(self.shape, self.rule, row) {
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

/// Drives futures together in this task; their answers in order.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    use std::task::Poll;
    let mut running: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut waiting = false;
        for (future, done) in running.iter_mut().filter(|(_, done)| done.is_none()) {
            match future.as_mut().poll(context) {
                Poll::Ready(answer) => *done = Some(answer),
                Poll::Pending => waiting = true,
            }
        }
        if waiting { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    running.into_iter().filter_map(|(_, done)| done).collect()
}
