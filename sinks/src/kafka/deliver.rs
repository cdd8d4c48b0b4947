//! A batch: as one transaction together with its checkpoint, or as plain records. It runs on a thread that may block.
//! An error leaves the client in a state that nobody knows: whoever gets one throws the client away.

use std::borrow::Cow;

use rdkafka::error::RDKafkaErrorCode as Code;

use super::client::{Client, Job, Record};
use super::config::Config;
use super::owner::Owner;
use super::topics::{self, Use};
use super::{encode, errors};
use crate::error::{ErrorKind, SinkError};
use crate::sink::{Batch, BatchRow, Durable, Outcome, RowOutcome};

/// Why rows were refused, by their places.
type Refusals = Vec<(usize, SinkError)>;
/// The topic of each row, by their places; none for those that have none.
type Topics<'a> = Vec<Option<Cow<'a, str>>>;

/// Rows and checkpoint, or nothing.
pub(super) fn transaction(
    client: &mut Client,
    config: &Config,
    owner: &mut Owner,
    batch: &Batch,
    job: &Job,
) -> Result<Outcome, SinkError> {
    let mut notes = Vec::new();
    client.forget_troubles();
    let (topics, mut refused) = topics_of(client, config, batch, job, &mut notes)?;
    if !refused.is_empty() {
        refused.extend(unfit(config, batch, &topics));
        return Ok(per_row(batch, refused, |_| RowOutcome::Untried, None));
    }
    client.begin()?;
    let sent = send_all(client, config, batch, &topics, true, job)?;
    if !sent.is_empty() {
        client.abort(job)?;
        return Ok(per_row(batch, sent, |_| RowOutcome::Untried, None));
    }
    owner.write(client, config, Some(batch.after), batch.len(), job)?;
    let failed = client.settle(job, true)?;
    if !failed.is_empty() {
        return taken_back(client, batch, failed, job);
    }
    client.commit(job)?;
    owner.committed = Some(batch.after);
    Ok(Outcome::Durable(Durable::promise(batch).with_notes(notes)))
}

/// Rows, each on its own.
pub(super) fn plain(
    client: &mut Client,
    config: &Config,
    batch: &Batch,
    job: &Job,
) -> Result<Outcome, SinkError> {
    let mut notes = Vec::new();
    client.forget_troubles();
    let (topics, mut refused) = topics_of(client, config, batch, job, &mut notes)?;
    refused.extend(send_all(client, config, batch, &topics, false, job)?);
    let failed = client.settle(job, false)?;
    if refused.is_empty() && failed.is_empty() {
        return Ok(Outcome::Durable(Durable::promise(batch).with_notes(notes)));
    }
    let mut error = None;
    let mut untried = Vec::new();
    let are_known = are_known(&failed);
    for (place, code) in failed {
        if errors::is_about_the_record(code) && are_known {
            refused.push((place, refusal(code)));
            continue;
        }
        untried.push(place);
        if errors::is_innocent(code) && are_known {
            continue;
        }
        if error.is_none() || !errors::is_consequence(code) {
            error =
                Some(if errors::is_about_the_record(code) { refused_together(code) } else { failure(code) });
        }
    }
    let other = |place| if untried.contains(&place) { RowOutcome::Untried } else { RowOutcome::Durable };
    Ok(per_row(batch, refused, other, error))
}

/// The topic of each row, all of them known to be there; none for rows that have none.
fn topics_of<'a>(
    client: &mut Client,
    config: &'a Config,
    batch: &Batch,
    job: &Job,
    notes: &mut Vec<String>,
) -> Result<(Topics<'a>, Refusals), SinkError> {
    let mut topics = Vec::with_capacity(batch.len());
    let mut refused = Vec::new();
    let one_for_all = config.encoder.topic.constant().is_some();
    for (place, row) in batch.rows().enumerate() {
        let topic = match config.encoder.topic(&row.row) {
            Ok(topic) => topic,
            Err(why) => {
                refused.push((place, SinkError::new(ErrorKind::RejectedRow, why)));
                topics.push(None);
                continue;
            }
        };
        match topics::ensure(client, config, &topic, Use::Rows, job)? {
            Some(false) => topics.push(Some(topic)),
            Some(true) => {
                notes.push(format!("created the topic `{topic}`"));
                topics.push(Some(topic));
            }
            None if one_for_all => return Err(topics::missing(config, &topic, Use::Rows)),
            // Other rows have other topics.
            None => {
                let error = topics::missing(config, &topic, Use::Rows);
                refused.push((place, SinkError::new(ErrorKind::RejectedRow, error.in_words())));
                topics.push(None);
            }
        }
    }
    Ok((topics, refused))
}

/// Sends each row that has a topic. After a refusal the others are still looked at, but no longer sent where
/// `all_or_nothing`.
fn send_all(
    client: &Client,
    config: &Config,
    batch: &Batch,
    topics: &[Option<Cow<'_, str>>],
    all_or_nothing: bool,
    job: &Job,
) -> Result<Refusals, SinkError> {
    let mut refused = Vec::new();
    let rows = batch
        .rows()
        .zip(topics)
        .enumerate()
        .filter_map(|(at, (row, topic))| Some((at, row, topic.as_ref()?)));
    for (place, row, topic) in rows {
        let encoded = match fitting(config, batch, row) {
            Ok(encoded) => encoded,
            Err(error) => {
                refused.push((place, error));
                continue;
            }
        };
        if all_or_nothing && !refused.is_empty() {
            continue;
        }
        let encode::Record { key, value, headers } = encoded;
        let mut record = Record::with_opaque_to(topic, place).payload(&*value).headers(headers);
        record = record.timestamp(row.event.timestamp_ms);
        if let Some(key) = &key {
            record = record.key(&**key);
        }
        if let Some(code) = client.send(record, job)? {
            refused.push((place, refusal(code)));
        }
    }
    Ok(refused)
}

/// Rows that have a topic and cannot be sent all the same.
fn unfit(config: &Config, batch: &Batch, topics: &[Option<Cow<'_, str>>]) -> Refusals {
    let rows = batch.rows().zip(topics).enumerate().filter(|(_, (_, topic))| topic.is_some());
    rows.filter_map(|(place, (row, _))| Some((place, fitting(config, batch, row).err()?))).collect()
}

fn fitting<'a>(config: &Config, batch: &Batch, row: &'a BatchRow) -> Result<encode::Record<'a>, SinkError> {
    let refuse = |why: String| SinkError::new(ErrorKind::RejectedRow, why);
    let record = config.encoder.record(batch, row).map_err(refuse)?;
    let bytes = record.value.len() + record.key.as_ref().map_or(0, |key| key.len());
    let most = config.max_message_bytes;
    if bytes > most as usize {
        return Err(refuse(format!("the record has {bytes} bytes, and `max_message_bytes` is {most}")));
    }
    Ok(record)
}

/// The answer to a transaction in which records failed.
fn taken_back(
    client: &Client,
    batch: &Batch,
    failed: Vec<(usize, Code)>,
    job: &Job,
) -> Result<Outcome, SinkError> {
    let is_cause = |code| !errors::is_consequence(code) && !errors::is_innocent(code);
    let cause = failed.iter().find(|(_, code)| is_cause(*code)).or(failed.first()).copied();
    let Some((place, code)) = cause else {
        return Err(SinkError::unavailable("records failed without a reason"));
    };
    if errors::is_consequence(code) {
        // The producer has ended as a whole, and may not have been told why: mostly because another has its id.
        let fatal = client.native().fatal_error();
        let fatal = fatal.map_or_else(|| code.to_string(), |(_, words)| words);
        return Err(SinkError::new(ErrorKind::Fenced, format!("Kafka did not write the records: {fatal}")));
    }
    // The checkpoint, which comes last, is nobody's row.
    if !errors::is_about_the_record(code) || place >= batch.len() {
        return Err(failure(code));
    }
    client.abort(job)?;
    if !are_known(&failed) {
        return Ok(per_row(batch, Vec::new(), |_| RowOutcome::Untried, Some(refused_together(code))));
    }
    let refused = failed.into_iter().filter(|(_, code)| errors::is_about_the_record(*code));
    let refused = refused.map(|(place, code)| (place, refusal(code))).collect();
    Ok(per_row(batch, refused, |_| RowOutcome::Untried, None))
}

/// Whether some records are to blame, and it is known which: it is one alone, or the broker has named them.
pub(super) fn are_known(failed: &[(usize, Code)]) -> bool {
    let about_records = failed.iter().filter(|(_, code)| errors::is_about_the_record(*code)).count();
    about_records == 1 || about_records > 1 && failed.iter().any(|(_, code)| errors::is_innocent(*code))
}

fn per_row(
    batch: &Batch,
    refused: Refusals,
    other: impl Fn(usize) -> RowOutcome,
    error: Option<SinkError>,
) -> Outcome {
    let mut rows: Vec<RowOutcome> = (0..batch.len()).map(other).collect();
    for (place, refusal) in refused {
        if let Some(row) = rows.get_mut(place) {
            *row = RowOutcome::Rejected(refusal);
        }
    }
    Outcome::PerRow { rows, error }
}

fn refusal(code: Code) -> SinkError {
    let why = match code {
        // The second stands for any reason where several records of a batch are refused.
        Code::InvalidTimestamp | Code::InvalidRecord => {
            "; if its time is further from the broker's clock than the topic's message.timestamp.after.max.ms and \
             message.timestamp.before.max.ms allow, set the clocks right or raise these; a compacted topic wants a key"
        }
        _ => "",
    };
    SinkError::new(ErrorKind::RejectedRow, format!("Kafka does not take the record: {code}{why}"))
}

/// Records travel together, and Kafka does not say which of them it does not like.
fn refused_together(code: Code) -> SinkError {
    SinkError::new(ErrorKind::RejectedBatch, format!("Kafka does not take records of the batch: {code}"))
        .with_hint(
            "if the rows are not too large, lower `max_message_bytes` to the topic's max.message.bytes",
        )
}

fn failure(code: Code) -> SinkError {
    errors::of_code(code, format!("Kafka did not write the records: {code}"))
}
