//! The check at the end of a demo: every acknowledged message is in its table once, nothing is there that was not
//! sent, the books of each pipeline balance, and each table has as many rows as the log has events for it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use muster_core::clock::SystemClock;
use muster_core::event::EventKind;
use muster_core::journal::Journal;
use muster_core::log::{LogConfig, RealDisk};
use muster_core::topic;
use muster_sinks::delivery::PipelineStatus;
use rusqlite::{Connection, OpenFlags};

use super::devices::Book;
use crate::error::{Error, ErrorKind};

/// Events of a demo that become rows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LogCount {
    /// Publishes that the rule `telemetry` matches.
    pub(super) telemetry: u64,
    /// Devices that came or went.
    pub(super) history: u64,
}

/// Counts in the log itself, after the platform has closed it.
pub(super) async fn count_log(data: &Path) -> Result<LogCount, Error> {
    let unreadable =
        |error| Error::because(ErrorKind::Fatal, "the event log cannot be read for the check", error);
    let opened = Journal::open(LogConfig::new(data.join("log")), RealDisk::shared(), SystemClock::shared());
    let (journal, _) = opened.map_err(unreadable)?;
    let mut reader = journal.reader(journal.first_offset());
    let mut count = LogCount::default();
    while let Some(batch) = reader.try_next_batch().map_err(unreadable)? {
        for event in batch.events() {
            match event.kind {
                EventKind::MessagePublish if topic::matches("sensors/+/up", &event.topic) => {
                    count.telemetry += 1
                }
                EventKind::ClientConnected | EventKind::ClientDisconnected => count.history += 1,
                _ => {}
            }
        }
    }
    journal.close().await.map_err(unreadable)?;
    Ok(count)
}

/// Holds tables, books and log against each other; the verdict in one sentence.
pub(super) fn conservation(
    database: &Path,
    pipelines: &[PipelineStatus],
    log: &LogCount,
    books: &BTreeMap<String, Book>,
) -> Result<String, Error> {
    let mut wrong = Vec::new();
    for it in pipelines {
        let (rule, matched, delivered, dead, pending) =
            (&it.rule, it.matched, it.delivered, it.dead, it.pending);
        if matched != delivered || dead > 0 || pending > 0 {
            wrong.push(format!(
                "{rule}: {matched} matched, {delivered} delivered, {dead} dead, {pending} pending"
            ));
        }
    }
    let rows = read(database).map_err(unreadable)?;
    for (table, rows, events) in [
        ("telemetry", rows.telemetry.len() as u64, log.telemetry),
        ("device_history", rows.history, log.history),
    ] {
        if rows != events {
            wrong.push(format!("{table} has {rows} rows, the log has {events} events for it"));
        }
    }
    let distinct: BTreeSet<_> = rows.telemetry.iter().collect();
    if distinct.len() < rows.telemetry.len() {
        wrong.push(format!("{} messages are in telemetry twice", rows.telemetry.len() - distinct.len()));
    }
    let mut acked = 0;
    for (clientid, book) in books {
        acked += book.acked.len() as u64;
        let lost =
            book.acked.iter().filter(|number| !distinct.contains(&(clientid.clone(), **number))).count();
        if lost > 0 {
            wrong.push(format!("{clientid}: {lost} acknowledged messages are not in telemetry"));
        }
    }
    let sent = |clientid: &str| books.get(clientid).map_or(0, |book| book.sent);
    let made_up = distinct.iter().filter(|(clientid, number)| *number > sent(clientid)).count();
    if made_up > 0 {
        wrong.push(format!("{made_up} rows in telemetry were never sent"));
    }
    if !wrong.is_empty() {
        return Err(Error::new(
            ErrorKind::Negative,
            format!("the books do not balance: {}", wrong.join("; ")),
        ));
    }
    let delivered: u64 = pipelines.iter().map(|it| it.delivered).sum();
    Ok(format!(
        "Nothing lost, nothing doubled: {acked} publishes acknowledged, {} in the log and in telemetry; {} comings and \
         goings in device_history; {delivered} rows delivered in all.",
        log.telemetry, log.history
    ))
}

/// The history of the device that came and went most often, as `sqlite3 -header -column` shows it, with the query
/// above it.
pub(super) fn history(database: &Path) -> Result<Vec<String>, Error> {
    const QUERY: &str = "SELECT clientid, event, reason, session, datetime(at / 1000, 'unixepoch') AS at \
                         FROM device_history WHERE clientid = (SELECT clientid FROM devices \
                         ORDER BY connects DESC LIMIT 1) \
                         ORDER BY seq DESC LIMIT 12";
    let read = || -> Result<Vec<[String; 5]>, rusqlite::Error> {
        let db = open(database)?;
        let mut statement = db.prepare(QUERY)?;
        let rows = statement.query_map([], |row| {
            let text = |at| row.get::<_, rusqlite::types::Value>(at).map(shown);
            Ok([text(0)?, text(1)?, text(2)?, text(3)?, text(4)?])
        })?;
        rows.collect()
    };
    let mut lines = vec![String::new(), format!("$ sqlite3 -header -column {} \\", database.display())];
    lines.push(format!("    \"{QUERY}\""));
    for [clientid, event, reason, session, at] in
        std::iter::once(["clientid", "event", "reason", "session", "at"].map(str::to_owned))
            .chain(read().map_err(unreadable)?)
    {
        lines.push(format!("{clientid:<10}  {event:<20}  {reason:<22}  {session:<8}  {at}"));
    }
    Ok(lines)
}

struct Rows {
    telemetry: Vec<(String, u64)>,
    history: u64,
}

fn read(database: &Path) -> Result<Rows, rusqlite::Error> {
    let db = open(database)?;
    let mut statement = db.prepare("SELECT clientid, n FROM telemetry")?;
    let telemetry = statement.query_map([], |row| {
        let number: i64 = row.get(1)?;
        Ok((row.get(0)?, number.unsigned_abs()))
    })?;
    let history: i64 = db.query_row("SELECT count(*) FROM device_history", [], |row| row.get(0))?;
    Ok(Rows { telemetry: telemetry.collect::<Result<_, _>>()?, history: history.unsigned_abs() })
}

fn open(database: &Path) -> Result<Connection, rusqlite::Error> {
    Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn unreadable(error: rusqlite::Error) -> Error {
    Error::because(ErrorKind::Negative, "the tables cannot be read for the check", error)
}

fn shown(value: rusqlite::types::Value) -> String {
    use rusqlite::types::Value;
    match value {
        Value::Null => String::new(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Text(text) => text,
        Value::Blob(bytes) => format!("{} bytes", bytes.len()),
    }
}
