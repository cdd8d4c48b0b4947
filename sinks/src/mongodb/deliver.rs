//! A batch as inserts, or as upserts of the newest row of each key. Every row gets a word of its own.

use std::collections::HashSet;

use mongodb::bson::{Document, RawDocumentBuf, doc};

use super::client::{Client, Refusal};
use super::codes::Meaning;
use super::encode::{Encoder, id};
use super::upserts::{Statement, Statements, statements};
use crate::error::{ErrorKind, SinkError};
use crate::sink::{Batch, BatchRow, Durable, Outcome, RowOutcome};
use crate::upsert::Upsert;

/// Bytes of the statements of one command: a command is a document itself, and as limited as one.
const UPDATE_BYTES_MAX: usize = 12 * 1024 * 1024;
/// Bytes of the documents of one insertion: what is held in memory a second time, as the driver keeps them.
const INSERT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Ids that one query asks for.
const IDS_MAX: usize = 1_000;
/// Filters of one query.
const FILTERS_MAX: usize = 100;

/// What became of each row so far, and why rows are left untried.
struct Words {
    rows: Vec<RowOutcome>,
    error: Option<SinkError>,
}

impl Words {
    fn new(batch: &Batch) -> Self {
        Self { rows: batch.rows().map(|_| RowOutcome::Durable).collect(), error: None }
    }

    fn reject(&mut self, at: usize, reason: impl Into<String>) {
        self.set(at, RowOutcome::Rejected(SinkError::new(ErrorKind::RejectedRow, reason.into())));
    }

    fn set(&mut self, at: usize, outcome: RowOutcome) {
        if let Some(row) = self.rows.get_mut(at) {
            *row = outcome;
        }
    }

    /// Of a refusal that is no duplicate.
    ///
    /// # Errors
    /// Where every document would be refused alike.
    fn refuse(&mut self, rows: &[usize], refusal: Refusal) -> Result<(), SinkError> {
        match refusal.meaning {
            Meaning::Configuration => return Err(SinkError::misconfigured(refusal.reason)),
            Meaning::Duplicate | Meaning::Document => {
                for at in rows {
                    self.reject(*at, refusal.reason.clone());
                }
            }
            Meaning::Passing | Meaning::Throttled | Meaning::Unknown => {
                for at in rows {
                    self.set(*at, RowOutcome::Untried);
                }
                let kind = refusal.meaning.kind();
                self.error.get_or_insert_with(|| SinkError::new(kind, refusal.reason));
            }
        }
        Ok(())
    }

    fn outcome(self, batch: &Batch) -> Outcome {
        if self.error.is_none() && self.rows.iter().all(|row| matches!(row, RowOutcome::Durable)) {
            return Outcome::Durable(Durable::promise(batch));
        }
        Outcome::PerRow { rows: self.rows, error: self.error }
    }
}

/// Documents on their way, and the places of their rows in the batch.
#[derive(Default)]
struct Sending {
    documents: Vec<RawDocumentBuf>,
    places: Vec<usize>,
}

/// A document a row. With `doubtful`, which names the column with the time of a collection that takes an `_id` twice,
/// those that are there already are left out.
pub(super) async fn insert(
    client: &Client,
    encoder: &Encoder,
    batch: &Batch,
    doubtful: Option<&str>,
) -> Result<Outcome, SinkError> {
    let (mut words, rule) = (Words::new(batch), &batch.pipeline.rule);
    let (mut sending, mut bytes) = (Sending::default(), 0);
    for (at, row) in batch.rows().enumerate() {
        match encoder.document(rule, row) {
            Ok(document) => {
                bytes += document.as_bytes().len();
                sending.places.push(at);
                sending.documents.push(document);
            }
            Err(reason) => words.reject(at, reason),
        }
        if bytes >= INSERT_BYTES_MAX {
            insert_some(client, batch, std::mem::take(&mut sending), doubtful, &mut words).await?;
            bytes = 0;
        }
    }
    insert_some(client, batch, sending, doubtful, &mut words).await?;
    Ok(words.outcome(batch))
}

async fn insert_some(
    client: &Client,
    batch: &Batch,
    mut sending: Sending,
    doubtful: Option<&str>,
    words: &mut Words,
) -> Result<(), SinkError> {
    if let Some(time) = doubtful {
        sending = sending.without_those_there(client, time).await?;
    }
    if sending.documents.is_empty() {
        return Ok(());
    }
    let refused = client.insert(&sending.documents).await?;
    let place = |refusal: &Refusal| sending.places.get(refusal.index).copied();
    // Duplicates of what? Not every server says, and one that names an index may mean another. What has our `_id` is
    // our row; where another document has what must be unique, the row is refused.
    let (doubles, others): (Vec<_>, Vec<_>) =
        refused.into_iter().partition(|refusal| refusal.meaning == Meaning::Duplicate);
    let rows: Vec<&BatchRow> = batch.rows().collect();
    let our_id = |at: usize| rows.get(at).map(|row| id(&batch.pipeline.rule, row));
    let ids: Vec<_> = doubles.iter().filter_map(place).filter_map(our_id).collect();
    let there = there(client, &ids, None).await?;
    for refusal in doubles {
        let Some(at) = place(&refusal) else { continue };
        if !our_id(at).is_some_and(|id| there.contains(&id)) {
            words.refuse(&[at], refusal)?;
        }
    }
    for refusal in others {
        if let Some(at) = place(&refusal) {
            words.refuse(&[at], refusal)?;
        }
    }
    Ok(())
}

impl Sending {
    async fn without_those_there(self, client: &Client, time: &str) -> Result<Self, SinkError> {
        let id = |document: &RawDocumentBuf| document.get_str("_id").unwrap_or_default().to_owned();
        let ids: Vec<_> = self.documents.iter().map(id).collect();
        let times = || self.documents.iter().filter_map(|document| document.get_datetime(time).ok());
        // Such a collection has no index by `_id`; its own order is by time.
        let range = match (times().min(), times().max()) {
            (Some(first), Some(last)) => doc! { time: { "$gte": first, "$lte": last } },
            _ => return Ok(self),
        };
        let there = there(client, &ids, Some(&range)).await?;
        let (mut rest, mut ids) = (Self::default(), ids.into_iter());
        for (document, at) in self.documents.into_iter().zip(self.places) {
            if !ids.next().is_some_and(|id| there.contains(&id)) {
                rest.documents.push(document);
                rest.places.push(at);
            }
        }
        Ok(rest)
    }
}

/// Those of `ids` that are in the collection, as far as `within` reaches.
async fn there(
    client: &Client,
    ids: &[String],
    within: Option<&Document>,
) -> Result<HashSet<String>, SinkError> {
    let filter = |ids: &[String]| {
        let mut filter = doc! { "_id": { "$in": ids } };
        filter.extend(within.into_iter().flatten().map(|(name, range)| (name.clone(), range.clone())));
        filter
    };
    let filters: Vec<_> = ids.chunks(IDS_MAX).map(filter).collect();
    let mut there = HashSet::with_capacity(ids.len());
    for found in client.found(&filters).await? {
        if let Ok(id) = found.get_str("_id") {
            there.insert(id.to_owned());
        }
    }
    Ok(there)
}

/// A document a key.
pub(super) async fn upsert(
    client: &Client,
    encoder: &Encoder,
    upsert: &Upsert,
    batch: &Batch,
) -> Result<Outcome, SinkError> {
    let mut words = Words::new(batch);
    let Statements { all, refused } = statements(encoder, upsert, batch.rows().enumerate(), true);
    for (at, reason) in refused {
        words.reject(at, reason);
    }
    let mut apart: HashSet<usize> = HashSet::new();
    for (statement, refusal) in settle(client, &all).await? {
        if refusal.meaning == Meaning::Document && statement.rows.len() > 1 {
            // One of the rows spoils it, and nobody knows which.
            apart.extend(&statement.rows);
        } else {
            words.refuse(&statement.rows, refusal)?;
        }
    }
    if !apart.is_empty() {
        let rows = batch.rows().enumerate().filter(|(at, _)| apart.contains(at));
        let Statements { all, .. } = statements(encoder, upsert, rows, false);
        for statement in &all {
            for (statement, refusal) in settle(client, std::slice::from_ref(statement)).await? {
                words.refuse(&statement.rows, refusal)?;
            }
        }
    }
    Ok(words.outcome(batch))
}

/// Runs statements of different keys; those that are refused, for another reason than that there is a newer document.
async fn settle<'a>(
    client: &Client,
    all: &'a [Statement],
) -> Result<Vec<(&'a Statement, Refusal)>, SinkError> {
    let (doubles, mut refused): (Vec<_>, Vec<_>) =
        run(client, all).await?.into_iter().partition(|(_, refusal)| refusal.meaning == Meaning::Duplicate);
    for (statement, _) in older(client, doubles).await? {
        // Neither there nor newer: two made the same document at the same time, and now it is there; or it is another
        // unique index, and then the answer is the same again.
        let again = run(client, std::slice::from_ref(statement)).await?;
        let (doubles, others): (Vec<_>, Vec<_>) =
            again.into_iter().partition(|(_, refusal)| refusal.meaning == Meaning::Duplicate);
        refused.extend(others);
        refused.extend(older(client, doubles).await?);
    }
    Ok(refused)
}

/// Those for which there is no newer document.
async fn older<'a>(
    client: &Client,
    doubles: Vec<(&'a Statement, Refusal)>,
) -> Result<Vec<(&'a Statement, Refusal)>, SinkError> {
    let newer: Vec<_> = doubles.iter().filter_map(|(statement, _)| statement.newer.clone()).collect();
    let filters = newer.chunks(FILTERS_MAX).map(|some| doc! { "$or": some }).collect::<Vec<_>>();
    let found: HashSet<Vec<u8>> =
        client.found(&filters).await?.into_iter().map(RawDocumentBuf::into_bytes).collect();
    let is_older = |(statement, _): &(&Statement, Refusal)| !found.contains(statement.id.as_bytes());
    Ok(doubles.into_iter().filter(is_older).collect())
}

/// Runs statements in as few commands as there may be.
async fn run<'a>(client: &Client, all: &'a [Statement]) -> Result<Vec<(&'a Statement, Refusal)>, SinkError> {
    let mut refused = Vec::new();
    let (mut rest, mut start) = (all, 0);
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |statement: &&Statement| {
            bytes += statement.update.as_bytes().len();
            bytes <= UPDATE_BYTES_MAX
        };
        let many = rest.iter().take_while(fits).count().max(1);
        let (some, others) = rest.split_at(many);
        let updates: Vec<_> = some.iter().map(|statement| &statement.update).collect();
        let (answers, complete) = client.update(&updates).await?;
        if complete {
            refused.extend(
                answers.into_iter().filter_map(|answer| Some((all.get(start + answer.index)?, answer))),
            );
        } else {
            // It stopped at the first that it refused, and which one that was need not be true either.
            for statement in some {
                let (answers, _) = client.update(&[&statement.update]).await?;
                refused.extend(answers.into_iter().map(|answer| (statement, answer)));
            }
        }
        (rest, start) = (others, start + many);
    }
    Ok(refused)
}
