//! `muster log`: what is in the event log of a platform that is not running.

use std::io::{self, Write};
use std::path::Path;

use muster_core::clock::SystemClock;
use muster_core::event::Event;
use muster_core::journal::Journal;
use muster_core::log::{LogConfig, LogErrorKind, RealDisk};

use super::{failed_output, time};
use crate::config::Config;
use crate::error::{Error, ErrorKind};

/// `muster log stats`.
pub(super) fn stats(config: &Config) -> Result<(), Error> {
    let journal = open(config)?;
    let stats = journal.log().stats();
    let mut out = io::stdout().lock();
    let mut line = |name: &str, value: String| writeln!(out, "{name:<16}{value}");
    let lines = [
        ("log id", format!("{:032X}", stats.log_id)),
        ("first offset", stats.first_offset.to_string()),
        ("durable offset", stats.durable_offset.to_string()),
        ("records", (stats.durable_offset - stats.first_offset).to_string()),
        ("segments", stats.segments.to_string()),
        ("bytes", stats.bytes.to_string()),
    ];
    for (name, value) in lines {
        line(name, value).or_else(failed_output)?;
    }
    Ok(())
}

/// `muster log cat`.
pub(super) fn cat(config: &Config, from: u64, limit: Option<u64>, json: bool) -> Result<(), Error> {
    let journal = open(config)?;
    let broken = |error| Error::because(ErrorKind::Start, "cannot read the event log", error);
    let mut reader = journal.reader(from.max(journal.first_offset()));
    let mut left = limit.unwrap_or(u64::MAX);
    let mut out = io::BufWriter::new(io::stdout().lock());
    while let Some(batch) = reader.try_next_batch().map_err(broken)? {
        for event in batch.events() {
            if left == 0 {
                return out.flush().or_else(failed_output);
            }
            left -= 1;
            let line = if json { event.columns().to_json() } else { in_words(event) };
            if let Err(error) = writeln!(out, "{line}") {
                return failed_output(error);
            }
        }
    }
    out.flush().or_else(failed_output)
}

fn open(config: &Config) -> Result<Journal, Error> {
    let dir = config.data.join("log");
    if !Path::new(&dir).is_dir() {
        let message =
            format!("there is no event log in {}; --data names the data directory", config.data.display());
        return Err(Error::new(ErrorKind::Start, message));
    }
    let opened = Journal::open(LogConfig::new(&dir), RealDisk::shared(), SystemClock::shared());
    opened.map(|(journal, _)| journal).map_err(|error| {
        let message = if error.kind() == LogErrorKind::Locked {
            let http = config.http.listen;
            format!("muster is running on this log; ask it: curl http://{http}/api/v1/log")
        } else {
            format!("cannot open the event log in {}", dir.display())
        };
        Error::because(ErrorKind::Start, message, error)
    })
}

/// One line for a person: no payload, only its size.
fn in_words(event: &Event) -> String {
    let mut line = format!("{:>10}  {}  {:<28}", event.offset, time(event.timestamp_ms), event.kind.name());
    let message = event.body.message.as_ref();
    let parts = [
        Some(event.clientid()).filter(|id| !id.is_empty()).map(str::to_owned),
        Some(event.topic.as_str()).filter(|topic| !topic.is_empty()).map(str::to_owned),
        event.get(muster_core::event::Column::Reason).as_str().map(str::to_owned),
        message.map(|message| format!("qos {}, {} bytes", message.qos, message.payload.len())),
    ];
    for part in parts.into_iter().flatten() {
        line.push_str("  ");
        line.push_str(&part.escape_debug().to_string());
    }
    line
}
