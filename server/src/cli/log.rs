//! `muster log`: what is in the event log, whether the platform is running or not.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use muster_core::clock::SystemClock;
use muster_core::event::Event;
use muster_core::journal::{EventReader, Journal};
use muster_core::log::{Follower, LogError, RealDisk};

use super::{failed_output, time};
use crate::config::Config;
use crate::error::{Error, ErrorKind};

/// How often `muster log tail` looks for more: other processes cannot be waited for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// `muster log stats`.
pub(super) fn stats(config: &Config) -> Result<(), Error> {
    let journal = open(config)?.0;
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
    let journal = open(config)?.0;
    let mut reader = journal.reader(from.max(journal.first_offset()));
    print(&mut reader, limit.unwrap_or(u64::MAX), json).map(drop)
}

/// `muster log tail`: the last events, and then whatever comes, until it is stopped.
pub(super) fn tail(config: &Config, last: u64, json: bool) -> Result<(), Error> {
    let (journal, follower) = open(config)?;
    let from = journal.durable_offset().saturating_sub(last);
    let mut reader = journal.reader(from.max(journal.first_offset()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime =
        runtime.map_err(|error| Error::because(ErrorKind::Start, "cannot follow the log", error))?;
    runtime.block_on(async {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        while print(&mut reader, u64::MAX, json)? {
            looks.tick().await;
            follower.refresh().map_err(broken)?;
        }
        Ok(())
    })
}

/// Prints what is there; says whether somebody still reads the output.
fn print(reader: &mut EventReader, limit: u64, json: bool) -> Result<bool, Error> {
    let mut left = limit;
    let mut out = io::BufWriter::new(io::stdout().lock());
    while let Some(batch) = reader.try_next_batch().map_err(broken)? {
        for event in batch.events() {
            if left == 0 {
                return out.flush().map(|()| true).or_else(|error| failed_output(error).map(|()| false));
            }
            left -= 1;
            let line = if json { event.columns().to_json() } else { in_words(event) };
            if let Err(error) = writeln!(out, "{line}") {
                return failed_output(error).map(|()| false);
            }
        }
    }
    out.flush().map(|()| true).or_else(|error| failed_output(error).map(|()| false))
}

fn broken(error: LogError) -> Error {
    Error::because(ErrorKind::Start, "cannot read the event log", error)
}

/// Without its lock: it can be looked at while the platform runs.
fn open(config: &Config) -> Result<(Journal, Follower), Error> {
    let dir = config.data.join("log");
    if !Path::new(&dir).is_dir() {
        let message =
            format!("there is no event log in {}; --data names the data directory", config.data.display());
        return Err(Error::new(ErrorKind::Start, message));
    }
    let opened = Follower::open(&dir, RealDisk::shared(), SystemClock::shared());
    let (follower, _) = opened.map_err(|error| {
        Error::because(ErrorKind::Start, format!("cannot open the event log in {}", dir.display()), error)
    })?;
    Ok((Journal::over(follower.log().clone()), follower))
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
