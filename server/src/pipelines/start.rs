//! Where a pipeline begins that never ran: the rule's option `start`.

use muster_core::journal::Journal;
use muster_sinks::delivery::Start;

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

/// Where to begin. What is newest is settled now, so that a sink that can only be opened later misses nothing.
pub(super) fn begin(written: Option<&str>, journal: &Journal) -> Start {
    match written.map(parse) {
        None | Some(Ok(Written::Latest) | Err(_)) => Start::Offset(journal.next_offset()),
        Some(Ok(Written::Earliest)) => Start::Earliest,
        Some(Ok(Written::Offset(offset))) => Start::Offset(offset),
        Some(Ok(Written::Timestamp(ms))) => Start::Timestamp(ms),
    }
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
