//! A batch as one request, or as one request a row in lanes: rows of one client are in one lane, and a lane goes one
//! after the other.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use super::client::Client;
use super::encode;
use crate::error::{ErrorKind, SinkError};
use crate::sink::{Batch, BatchRow, Durable, Outcome, RowOutcome};

/// All rows in one request.
pub(super) async fn whole(client: &Client, batch: &Batch) -> Result<Outcome, SinkError> {
    if let Some(message) = encode::batch(batch) {
        client.post(message).await?;
    }
    Ok(Outcome::Durable(Durable::promise(batch)))
}

/// A request a row, in `lanes` lanes.
pub(super) async fn rows(client: &Client, batch: &Batch, lanes: usize) -> Outcome {
    let mut outcomes: Vec<RowOutcome> = batch.rows().map(|_| RowOutcome::Untried).collect();
    let mut error = None;
    let rule = &batch.pipeline.rule;
    if lanes == 1 {
        let all = batch.rows().enumerate().collect();
        settle(lane(client, rule, all).await, &mut outcomes, &mut error);
    } else {
        // The lanes run inside this future: when it is dropped, no request of it goes on.
        let mut parts: Vec<Vec<(usize, &BatchRow)>> = vec![Vec::new(); lanes];
        for (at, row) in batch.rows().enumerate() {
            let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(row.clientid());
            let lane = usize::try_from(hash % lanes as u64).unwrap_or(0);
            parts[lane].push((at, row));
        }
        let running = parts.into_iter().filter(|part| !part.is_empty()).map(|part| lane(client, rule, part));
        for done in join_all(running).await {
            settle(done, &mut outcomes, &mut error);
        }
    }
    if error.is_none() && outcomes.iter().all(|outcome| matches!(outcome, RowOutcome::Durable)) {
        return Outcome::Durable(Durable::promise(batch));
    }
    Outcome::PerRow { rows: outcomes, error }
}

type LaneDone = (Vec<(usize, RowOutcome)>, Option<SinkError>);

/// Posts rows one after the other, up to the first trouble.
async fn lane(client: &Client, rule: &str, rows: Vec<(usize, &BatchRow)>) -> LaneDone {
    let mut done = Vec::with_capacity(rows.len());
    for (at, row) in rows {
        match client.post(encode::row(rule, row)).await {
            Ok(()) => done.push((at, RowOutcome::Durable)),
            Err(error) if error.kind() == ErrorKind::RejectedRow => {
                done.push((at, RowOutcome::Rejected(error)))
            }
            Err(error) => return (done, Some(error)),
        }
    }
    (done, None)
}

fn settle((done, trouble): LaneDone, outcomes: &mut [RowOutcome], error: &mut Option<SinkError>) {
    for (at, outcome) in done {
        outcomes[at] = outcome;
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
