//! Where a pipeline begins that never ran: the rule's option `start`.

use std::sync::Arc;

use muster_core::journal::Journal;
use muster_sinks::delivery::{DeliveryStore, Start};
use muster_sinks::{Checkpoint, Cursor, PipelineId, Totals};
use tracing::warn;

/// What may be written in `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    Latest,
    Earliest,
    Offset(u64),
    Timestamp(i64),
}

/// `latest`, `earliest`, an offset, or a time in RFC 3339.
pub(super) fn parse(text: &str) -> Result<Written, String> {
    match text {
        "latest" => return Ok(Written::Latest),
        "earliest" => return Ok(Written::Earliest),
        _ => {}
    }
    if let Ok(offset) = text.parse() {
        return Ok(Written::Offset(offset));
    }
    let time = text.parse::<jiff::Timestamp>().map(|at| Written::Timestamp(at.as_millisecond()));
    time.map_err(|_| {
        format!("`{text}` is none of latest, earliest, an offset, a time such as 2026-01-02T03:04:05Z")
    })
}

/// The offset at which a pipeline begins, written down the first time, before anything that it waits for can happen:
/// neither a crash nor a target that cannot be reached yet may let it begin later than it was meant to. Where the
/// books cannot be read yet it may stand anywhere else: the second part says whether it is known.
pub(super) async fn begin(
    id: &PipelineId,
    written: Option<&str>,
    journal: &Journal,
    store: &DeliveryStore,
    now_ms: i64,
) -> (Start, bool) {
    let log_id = journal.log_id();
    let mut readable = true;
    match store.least_checkpoint(id).await {
        Ok(Some(known)) if known.log_id == log_id => return (Start::Offset(known.cursor.offset), true),
        Ok(_) => {}
        Err(error) => {
            warn!(pipeline = %id, error = %crate::error::chain(&error), "its books cannot be read");
            readable = false;
        }
    }
    let written = written.map(parse);
    let offset = match written {
        None | Some(Ok(Written::Latest) | Err(_)) => journal.next_offset(),
        Some(Ok(Written::Earliest)) => journal.first_offset(),
        Some(Ok(Written::Offset(offset))) => offset,
        Some(Ok(Written::Timestamp(ms))) => journal.offset_at_time(ms).unwrap_or_else(|error| {
            warn!(pipeline = %id, error = %crate::error::chain(&error),
                "where its `start` is cannot be read; it begins with the oldest event");
            journal.first_offset()
        }),
    };
    if let Some(Ok(written)) = written
        && let Some(why) = not_as_written(written, journal, now_ms)
    {
        warn!(pipeline = %id, "{why}");
    }
    let offset = offset.clamp(journal.first_offset(), journal.next_offset());
    let checkpoint = Checkpoint { log_id, cursor: Cursor::at(offset), totals: Totals::default() };
    // Never over books that only could not be read just now.
    if readable && let Err(error) = store.commit(&Arc::new(id.clone()), checkpoint, Vec::new(), now_ms).await
    {
        readable = false;
        warn!(pipeline = %id, error = %crate::error::chain(&error), "where it begins could not be written down");
    }
    (Start::Offset(offset), readable)
}

/// What an operator should know where a rule cannot begin at the place that it names.
fn not_as_written(written: Written, journal: &Journal, now_ms: i64) -> Option<String> {
    let (first, next) = (journal.first_offset(), journal.next_offset());
    match written {
        Written::Offset(offset) if offset < first => Some(format!(
            "it is to start at offset {offset}, but the oldest event that is left is {first}: it starts there"
        )),
        Written::Offset(offset) if offset > next => Some(format!(
            "it is to start at offset {offset}, which is to come: it starts at {next}, with the next event"
        )),
        Written::Timestamp(ms) if ms > now_ms => {
            Some(format!("it is to start at {}, which is to come: it starts with the next event", shown(ms)))
        }
        // Only what retention has removed can be missing.
        Written::Timestamp(ms) if first > 0 => {
            let batch = journal.reader(first).try_next_batch().ok().flatten()?;
            let oldest_ms = batch.events().first()?.timestamp_ms;
            (ms < oldest_ms).then(|| {
                let (ms, oldest) = (shown(ms), shown(oldest_ms));
                format!("it is to start at {ms}, but the oldest event left is {first} of {oldest}: it starts there")
            })
        }
        _ => None,
    }
}

fn shown(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling() {
        assert_eq!(parse("latest"), Ok(Written::Latest));
        assert_eq!(parse("earliest"), Ok(Written::Earliest));
        assert_eq!(parse("17"), Ok(Written::Offset(17)));
        assert_eq!(parse("1970-01-01T00:00:01Z"), Ok(Written::Timestamp(1_000)));
        assert!(parse("soon").is_err());
    }
}
