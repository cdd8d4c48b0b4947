//! A batch: one request, and where points are refused, as many more as it takes to know which. A point that is written
//! twice is one point, so all of it may be sent again at any time. It must never know HTTP.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use super::answer::{Cause, Refusal, Verdict};
use super::client::Client;
use super::encode;
use super::shape::Shape;
use crate::error::{ErrorKind, SinkError};
use crate::sink::{Batch, BatchRow, Durable, Outcome, RowOutcome};

/// Requests for one batch; what is not settled by then is tried again.
const REQUESTS_MAX: usize = 64;

/// A row that could be written as a line.
struct Point<'a> {
    row: &'a BatchRow,
    /// Its place in the batch.
    position: usize,
    line: Range<usize>,
    /// Nanoseconds since 1970.
    at: i64,
}

pub(super) async fn deliver(client: &Client, shape: &Shape, batch: &Batch) -> Outcome {
    let mut lines = String::new();
    let mut points = Vec::with_capacity(batch.len());
    let mut outcomes = Vec::with_capacity(batch.len());
    for (position, row) in batch.rows().enumerate() {
        let start = lines.len();
        match encode::line(shape, &batch.pipeline.rule, row, &mut lines) {
            Ok(at) => {
                points.push(Point { row, position, line: start..lines.len(), at });
                outcomes.push(RowOutcome::Untried);
            }
            Err(reason) => {
                outcomes.push(RowOutcome::Rejected(SinkError::new(ErrorKind::RejectedRow, reason)));
            }
        }
    }
    let error = settle(client, shape, &lines, &points, &mut outcomes).await.err();
    if error.is_none() && outcomes.iter().all(|outcome| matches!(outcome, RowOutcome::Durable)) {
        return Outcome::Durable(Durable::promise(batch));
    }
    Outcome::PerRow { rows: outcomes, error }
}

/// Writes `points`, and those of a request that was refused in parts, until each part is of one kind.
async fn settle(
    client: &Client,
    shape: &Shape,
    lines: &str,
    points: &[Point<'_>],
    outcomes: &mut [RowOutcome],
) -> Result<(), SinkError> {
    let mut parts: Vec<Vec<&Point<'_>>> = vec![points.iter().collect()];
    for _ in 0..REQUESTS_MAX {
        let Some(mut part) = parts.pop() else { break };
        if part.is_empty() {
            continue;
        }
        let verdict = client.write(body(lines, points, &part)).await?;
        let Verdict::Refused(refusal) = verdict else {
            put(outcomes, &part, || RowOutcome::Durable);
            continue;
        };
        let suspected = suspects(shape, lines, &part, &refusal);
        let count = suspected.iter().filter(|is| **is).count();
        // The server's count tells that none of these was written; the words, that they mean all of these.
        let counted = refusal.dropped == Some(part.len()) || matches!(refusal.cause, Cause::Unparsable(_));
        if part.len() == 1 || (count == part.len() && counted) {
            let reason = || format!("InfluxDB refuses the point: {}", refusal.reason);
            put(outcomes, &part, || RowOutcome::Rejected(SinkError::new(ErrorKind::RejectedRow, reason())));
        } else if (1..part.len()).contains(&count) {
            let (refused, others): (Vec<_>, Vec<_>) =
                part.into_iter().zip(suspected).partition(|(_, is)| *is);
            // The others come first: they are mostly many and well.
            parts.extend([refused, others].map(|part| part.into_iter().map(|(point, _)| point).collect()));
        } else {
            if matches!(refusal.cause, Cause::Conflict { .. }) {
                // A type holds within a shard, and a shard is a stretch of time.
                part.sort_by_key(|point| point.at);
            }
            let (left, right) = part.split_at(part.len() / 2);
            parts.extend([right.to_vec(), left.to_vec()]);
        }
    }
    Ok(())
}

fn put(outcomes: &mut [RowOutcome], part: &[&Point<'_>], outcome: impl Fn() -> RowOutcome) {
    for point in part {
        if let Some(place) = outcomes.get_mut(point.position) {
            *place = outcome();
        }
    }
}

fn line<'a>(lines: &'a str, point: &Point<'_>) -> &'a str {
    lines.get(point.line.clone()).unwrap_or_default()
}

fn body<'a>(lines: &'a str, points: &[Point<'_>], part: &[&Point<'_>]) -> Cow<'a, str> {
    // Most batches go as they are, in one piece.
    if part.len() == points.len() {
        return lines.into();
    }
    part.iter().map(|point| line(lines, point)).collect::<String>().into()
}

/// Which of `part` the server's words are about. A guess that is wrong costs requests and no row: what is refused is
/// decided by what the server says of the suspects alone.
fn suspects(shape: &Shape, lines: &str, part: &[&Point<'_>], refusal: &Refusal) -> Vec<bool> {
    match &refusal.cause {
        Cause::Conflict { measurement, field, is } => {
            let conflicts = |point: &&Point<'_>| {
                let row = &point.row.row;
                let mut found = false;
                let looked = shape.fields(row, |key, value| {
                    found |= key == field && value.type_name() == is;
                    Ok(())
                });
                looked.is_ok() && found && shape.measurement.name(row).is_ok_and(|name| name == *measurement)
            };
            part.iter().map(conflicts).collect()
        }
        Cause::Retention => {
            let mut times: Vec<i64> = part.iter().map(|point| point.at).collect();
            times.sort_unstable();
            let newest = refusal.dropped.and_then(|many| times.get(many.checked_sub(1)?).copied());
            part.iter().map(|point| newest.is_some_and(|newest| point.at <= newest)).collect()
        }
        Cause::Unparsable(found) => {
            let found: HashSet<&str> = found.iter().map(String::as_str).collect();
            part.iter().map(|point| found.contains(line(lines, point).trim_end_matches('\n'))).collect()
        }
        Cause::Other => vec![false; part.len()],
    }
}
