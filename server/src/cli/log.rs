//! `muster log`: what is in the event log, whether the platform is running or not.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use clap::Args;
use muster_core::clock::SystemClock;
use muster_core::event::{Event, EventKind, EventKinds};
use muster_core::journal::{EventReader, Journal};
use muster_core::log::{Follower, LogError, RealDisk};
use muster_core::topic;

use super::{failed_output, time};
use crate::config::Config;
use crate::error::{Error, ErrorKind};
use crate::platform::percent;

/// How often `muster log tail` looks for more: other processes cannot be waited for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Which events are printed, and how.
#[derive(Debug, Args)]
pub(super) struct Select {
    /// Only events of this name, e.g. client.connected; may be repeated.
    #[arg(long, value_name = "NAME", value_parser = kind)]
    event: Vec<EventKind>,
    /// Only events about messages under topics that match this filter, e.g. sensors/+/up.
    #[arg(long, value_name = "FILTER", value_parser = filter)]
    topic: Option<String>,
    /// Only events of this client.
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// How many at most.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

impl Select {
    fn matches(&self, event: &Event) -> bool {
        let topic = |filter: &String| !event.topic.is_empty() && topic::matches(filter, &event.topic);
        // Signs of life are printed for who asks for them.
        let by_itself = self.event.is_empty() && event.kind != EventKind::NodeAlive;
        (by_itself || self.event.contains(&event.kind))
            && self.topic.as_ref().is_none_or(topic)
            && self.client.as_deref().is_none_or(|id| event.clientid() == id)
    }

    /// What need not be decoded is passed over.
    fn narrow(&self, reader: EventReader) -> EventReader {
        if self.event.is_empty() {
            return reader;
        }
        let kinds = self.event.iter().fold(EventKinds::NONE, |kinds, kind| kinds.with(*kind));
        reader.with_kinds(kinds)
    }
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    Offset(u64),
    Time(i64),
}

impl From {
    /// The first offset that is meant, if it is not past already.
    pub(super) fn offset(self, journal: &Journal) -> Result<u64, Error> {
        let offset = match self {
            Self::Offset(offset) => offset,
            Self::Time(ms) => journal.offset_at_time(ms).map_err(broken)?,
        };
        Ok(offset.max(journal.first_offset()))
    }
}

pub(super) fn from(text: &str) -> Result<From, String> {
    if let Ok(offset) = text.parse() {
        return Ok(From::Offset(offset));
    }
    let time = text.parse::<jiff::Timestamp>().map(|at| From::Time(at.as_millisecond()));
    time.map_err(|_| "write an offset, or a time such as 2026-01-02T03:04:05Z".to_owned())
}

fn kind(name: &str) -> Result<EventKind, String> {
    EventKind::from_name(name).ok_or_else(|| {
        let names: Vec<_> = EventKind::all().map(EventKind::name).collect();
        format!("no event has this name; there are {}", names.join(", "))
    })
}

fn filter(text: &str) -> Result<String, String> {
    topic::validate_filter(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

/// `muster log stats`.
pub(super) fn stats(config: &Config) -> Result<(), Error> {
    let journal = open(config)?.0;
    let stats = journal.log().stats();
    let crate::config::Journal { durability, cap_bytes, .. } = config.journal;
    let cap = cap_bytes.map_or_else(
        || "none (journal.cap_bytes)".to_owned(),
        |cap| format!("{cap} bytes, {} % used", percent(stats.bytes, cap)),
    );
    let mut out = io::stdout().lock();
    let mut line = |name: &str, value: String| writeln!(out, "{name:<18}{value}");
    let lines = [
        ("log id", format!("{:032X}", stats.log_id)),
        ("first offset", stats.first_offset.to_string()),
        ("durable offset", stats.durable_offset.to_string()),
        ("records", (stats.durable_offset - stats.first_offset).to_string()),
        ("segments", stats.segments.to_string()),
        ("bytes on disk", stats.bytes.to_string()),
        ("bytes as written", format!("{}, {}", stats.raw_bytes, ratio(stats.raw_bytes, stats.bytes))),
        ("compressed", format!("{} of {} segments", stats.segments_compressed, stats.segments)),
        ("cap", cap),
        ("durability", format!("{durability}: {}", durability.loss_window())),
        // Many sinks keep their cursor at the target: nobody but the running platform knows all of them.
        (
            "slowest hold",
            format!(
                "not known from files; http://{}/api/v1/log tells it, with the platform running",
                config.http.listen
            ),
        ),
    ];
    for (name, value) in lines {
        line(name, value).or_else(failed_output)?;
    }
    Ok(())
}

/// How many times larger the log would be if nothing was compressed.
fn ratio(raw: u64, stored: u64) -> String {
    match stored {
        0 => "ratio 1.0".to_owned(),
        stored => format!("ratio {:.1}", raw as f64 / stored as f64),
    }
}

/// `muster log cat`.
pub(super) fn cat(config: &Config, from: From, select: &Select) -> Result<(), Error> {
    let journal = open(config)?.0;
    let mut reader = select.narrow(journal.reader(from.offset(&journal)?));
    print(&mut reader, &mut select.limit.unwrap_or(u64::MAX), select).map(drop)
}

/// `muster log tail`: from somewhere on, or the last events, and then whatever comes, until it is stopped.
pub(super) fn tail(config: &Config, from: Option<From>, last: u64, select: &Select) -> Result<(), Error> {
    let (journal, follower) = open(config)?;
    let from = from.unwrap_or_else(|| From::Offset(journal.durable_offset().saturating_sub(last)));
    let mut reader = select.narrow(journal.reader(from.offset(&journal)?));
    let mut left = select.limit.unwrap_or(u64::MAX);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime =
        runtime.map_err(|error| Error::because(ErrorKind::Start, "cannot follow the log", error))?;
    runtime.block_on(async {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        while print(&mut reader, &mut left, select)? {
            looks.tick().await;
            follower.refresh().map_err(broken)?;
        }
        Ok(())
    })
}

/// Prints what is there, `left` at most; says whether more is wanted: some is left, and somebody reads the output.
fn print(reader: &mut EventReader, left: &mut u64, select: &Select) -> Result<bool, Error> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    while *left > 0
        && let Some(batch) = reader.try_next_batch().map_err(broken)?
    {
        for event in batch.events().iter().filter(|event| select.matches(event)) {
            if *left == 0 {
                break;
            }
            *left -= 1;
            let line = if select.json { event.columns().to_json() } else { in_words(event) };
            if let Err(error) = writeln!(out, "{line}") {
                return failed_output(error).map(|()| false);
            }
        }
    }
    let more = *left > 0;
    out.flush().map(|()| more).or_else(|error| failed_output(error).map(|()| false))
}

pub(super) fn broken(error: LogError) -> Error {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_an_offset_or_a_time() {
        assert_eq!(from("17"), Ok(From::Offset(17)));
        assert_eq!(from("1970-01-01T00:00:01Z"), Ok(From::Time(1_000)));
        assert_eq!(
            from("yesterday"),
            Err("write an offset, or a time such as 2026-01-02T03:04:05Z".to_owned())
        );
        assert_eq!(kind("client.connected"), Ok(EventKind::ClientConnected));
        assert!(kind("client.conected").expect_err("a slip").contains("client.connected, "));
        assert!(filter("a/#/b").is_err());
    }
}
