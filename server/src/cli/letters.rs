//! `muster dead-letters`: looks into the delivery store, also while the platform runs; a replay asks the running
//! platform.

use std::io::{self, IsTerminal as _, Write};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use muster_sinks::delivery::{DeadLetter, DeliveryStore, LetterFilter, StoreError};
use serde_json::{Value, json};

use super::client::Reach;
use super::{ConfigArgs, failed_output, time};
use crate::config::Config;
use crate::error::{Error, ErrorKind};

/// Letters that are replayed with one request.
const REPLAY_LETTERS: u32 = 200;
/// Letters that are read at once.
const PAGE_LETTERS: u32 = 1_000;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List them, oldest first.
    List {
        #[command(flatten)]
        which: Which,
        /// How many at most.
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: u32,
        /// One JSON object a line instead of a table.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Print one: why it is dead, its row and its event.
    Show {
        /// Its number.
        id: i64,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Give them another chance: their events go through the rules as they are now. Needs the running platform.
    Replay {
        #[command(flatten)]
        which: Which,
        /// All of them.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// Throw them away; the books count them as dead all the same.
    Discard {
        #[command(flatten)]
        which: Which,
        /// All of them.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        config: ConfigArgs,
    },
}

/// Which letters are meant.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// The one with this number.
    #[arg(long, value_name = "ID")]
    id: Option<i64>,
    /// Of this rule.
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// For this sink.
    #[arg(long, value_name = "NAME")]
    sink: Option<String>,
    /// For this table, topic or collection of the sink.
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Whose event happened at this time or later, e.g. 2026-01-02T03:04:05Z.
    #[arg(long, value_name = "TIME")]
    since: Option<jiff::Timestamp>,
    /// Whose event happened before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<jiff::Timestamp>,
}

impl Which {
    fn filter(&self) -> LetterFilter {
        LetterFilter {
            pipeline: None,
            rule: self.rule.clone(),
            sink: self.sink.clone(),
            target: self.target.clone(),
            id: self.id,
            after_id: None,
            to_id: None,
            from_ms: self.since.map(jiff::Timestamp::as_millisecond),
            to_ms: self.until.map(jiff::Timestamp::as_millisecond),
        }
    }

    /// The filter of a command that changes something: all of them are meant only if that was said.
    fn meant(&self, all: bool) -> Result<LetterFilter, Error> {
        let filter = self.filter();
        if all == (filter == LetterFilter::default()) {
            return Ok(filter);
        }
        let message = if all {
            "--all and a choice of letters contradict each other"
        } else {
            "say which letters are meant (--id, --rule, --sink, --target, --since, --until), or --all"
        };
        Err(Error::new(ErrorKind::Config, message))
    }
}

pub(super) fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::List { which, limit, json, config } => list(&config.load()?, which.filter(), limit, json),
        Command::Show { id, config } => show(&config.load()?, id),
        Command::Replay { which, all, reach } => {
            let filter = which.meant(all)?;
            replay(&reach, filter)
        }
        Command::Discard { which, all, config } => {
            let filter = which.meant(all)?;
            let discarded = block_on(store(&config.load()?)?.discard_letters(filter))?;
            writeln!(io::stdout(), "{discarded} dead letters discarded").or_else(failed_output)
        }
    }
}

/// The store of a platform, which may run meanwhile.
fn store(config: &Config) -> Result<DeliveryStore, Error> {
    let path = config.data.join("delivery.db");
    let missing = |message: String| Error::new(ErrorKind::Start, message);
    if !path.exists() {
        let message = format!("there is no {}; --data names the data directory", path.display());
        return Err(missing(message));
    }
    Ok(DeliveryStore::inline(&path))
}

fn block_on<T>(job: impl Future<Output = Result<T, StoreError>>) -> Result<T, Error> {
    let cannot = |error: io::Error| Error::because(ErrorKind::Start, "cannot start", error);
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(cannot)?;
    let unreadable = |error| Error::because(ErrorKind::Start, "the dead letters cannot be reached", error);
    runtime.block_on(job).map_err(unreadable)
}

fn list(config: &Config, filter: LetterFilter, limit: u32, as_json: bool) -> Result<(), Error> {
    let store = store(config)?;
    let total = block_on(store.count_letters(filter.clone()))?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let (mut shown, mut filter) = (0, filter);
    if !as_json {
        writeln!(out, "{:>8}  {:<24}  {:<32}  {:>8}  reason", "id", "event at", "rule > sink", "attempts")
            .or_else(failed_output)?;
    }
    while shown < limit {
        let letters = block_on(store.letters(filter.clone(), PAGE_LETTERS.min(limit - shown)))?;
        let Some(last) = letters.last() else { break };
        filter.after_id = Some(last.id);
        shown += u32::try_from(letters.len()).unwrap_or(u32::MAX);
        for letter in &letters {
            let line = if as_json { as_json_line(letter) } else { row(letter) };
            if let Err(error) = writeln!(out, "{line}") {
                return failed_output(error);
            }
        }
    }
    if !as_json && u64::from(shown) < total {
        writeln!(out, "{shown} of {total}; --limit shows more").or_else(failed_output)?;
    }
    out.flush().or_else(failed_output)
}

fn row(letter: &DeadLetter) -> String {
    let pipeline = letter.pipeline.to_string();
    let reason = letter.reason.escape_debug();
    format!(
        "{:>8}  {:<24}  {pipeline:<32}  {:>8}  {reason}",
        letter.id,
        time(letter.event_ms),
        letter.attempts
    )
}

fn as_json_line(letter: &DeadLetter) -> String {
    let DeadLetter { id, pipeline, rule_version, cursor, event_id, attempts, reason, .. } = letter;
    let row: Option<Value> = letter.row_json.as_deref().and_then(|row| serde_json::from_str(row).ok());
    let (event, event_at) = (letter.event_name(), time(letter.event_ms));
    json!({
        "id": id, "rule": pipeline.rule, "sink": pipeline.sink, "target": pipeline.target,
        "rule_version": rule_version, "offset": cursor.offset, "row_index": cursor.row, "event_id": event_id,
        "event": event, "event_at": event_at, "attempts": attempts, "reason": reason, "row": row,
        "created_at": time(letter.created_ms),
    })
    .to_string()
}

fn show(config: &Config, id: i64) -> Result<(), Error> {
    let letter = block_on(store(config)?.letter(id))?;
    let Some(letter) = letter else {
        return Err(Error::new(ErrorKind::Negative, format!("there is no dead letter {id}")));
    };
    let DeadLetter { pipeline, rule_version, cursor, event_id, attempts, reason, .. } = &letter;
    let event = match letter.event() {
        Ok(event) => event.columns().to_json(),
        Err(error) => format!("cannot be read: {error}"),
    };
    let lines = [
        ("letter", id.to_string()),
        ("pipeline", pipeline.to_string()),
        ("reason", reason.escape_debug().to_string()),
        ("attempts", attempts.to_string()),
        ("set aside", time(letter.created_ms)),
        ("rule version", rule_version.clone()),
        (
            "row",
            letter.row_json.clone().unwrap_or_else(|| "none: the rule failed before it made one".to_owned()),
        ),
        (
            "event",
            format!(
                "{} at {}, offset {}, id {event_id}",
                letter.event_name(),
                time(letter.event_ms),
                cursor.offset
            ),
        ),
        ("columns", event),
    ];
    let mut out = io::stdout().lock();
    lines.iter().try_for_each(|(name, value)| writeln!(out, "{name:<12}  {value}")).or_else(failed_output)
}

/// A request at a time, so that each ends within its time and what was done by then is known.
fn replay(reach: &Reach, filter: LetterFilter) -> Result<(), Error> {
    let total = block_on(store(&reach.load()?)?.count_letters(filter.clone()))?;
    let client = reach.client()?;
    let bar = if io::stderr().is_terminal() { ProgressBar::new(total) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let LetterFilter { rule, sink, target, id, from_ms, to_ms, .. } = filter;
    let (mut after, mut sums) = (None, [0_u64; 3]);
    loop {
        let body = json!({
            "rule": rule, "sink": sink, "target": target, "id": id, "from": from_ms, "to": to_ms, "after": after,
            "limit": REPLAY_LETTERS,
        });
        let answer = client.post("/api/v1/dead-letters/replay", &body)?;
        for (sum, name) in sums.iter_mut().zip(["delivered", "still_dead", "not_running"]) {
            *sum += answer.get(name).and_then(Value::as_u64).unwrap_or(0);
        }
        bar.set_position(sums.iter().sum());
        match answer.get("last_id").and_then(Value::as_i64) {
            Some(last) if id.is_none() => after = Some(last),
            _ => break,
        }
    }
    bar.finish_and_clear();
    let [delivered, still_dead, not_running] = sums;
    writeln!(io::stdout(), "{delivered} delivered, {still_dead} still dead").or_else(failed_output)?;
    if not_running > 0 {
        let message =
            format!("{not_running} belong to pipelines that do not run: bring their rules back first");
        return Err(Error::new(ErrorKind::Negative, message));
    }
    Ok(())
}
