//! `muster presence`: who was here at a moment, how many over time, and the tables of it made anew from the log.

use std::io::{self, Write};
use std::time::Duration;

use clap::Subcommand;
use muster_core::clock::SystemClock;
use serde_json::json;

use super::devices::{now_ms, unreadable};
use super::{ConfigArgs, failed_output, time};
use crate::config::{Config, duration};
use crate::error::{Error, ErrorKind};
use crate::platform;
use crate::presence::{self, BUCKET_MS_MIN, BUCKETS_MAX, Follower, Store};

/// Client ids that are read at once.
const PAGE: usize = 10_000;

/// `muster presence ...`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print who was here at a moment; the platform may run meanwhile.
    At {
        /// The moment, e.g. 2026-01-02T03:04:05Z.
        #[arg(value_name = "TIME", value_parser = moment)]
        at_ms: i64,
        /// One JSON object, with all client ids.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Print how many came, went and were here over time; the platform may run meanwhile.
    Timeline {
        /// When it begins [default: a day before its end].
        #[arg(long, value_name = "TIME", value_parser = moment)]
        from: Option<i64>,
        /// When it ends [default: now].
        #[arg(long, value_name = "TIME", value_parser = moment)]
        to: Option<i64>,
        /// Width of a bucket: whole minutes.
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
        bucket: Duration,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Forget all that is known of devices and fold it anew from the event log. The platform must not run.
    Rebuild {
        /// Also where the log's beginning is gone by now, and with it what only the tables still know.
        #[arg(long)]
        forget_older: bool,
        #[command(flatten)]
        config: ConfigArgs,
    },
}

pub(super) fn moment(text: &str) -> Result<i64, String> {
    let at = text.parse::<jiff::Timestamp>();
    at.map(jiff::Timestamp::as_millisecond)
        .map_err(|_| "write a time such as 2026-01-02T03:04:05Z".to_owned())
}

pub(super) fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::At { at_ms, json, config } => at(&config.load()?, at_ms, json),
        Command::Timeline { from, to, bucket, json, config } => {
            timeline(&config.load()?, from, to, bucket, json)
        }
        Command::Rebuild { forget_older, config } => rebuild(&config.load()?, forget_older),
    }
}

fn at(config: &Config, at_ms: i64, as_json: bool) -> Result<(), Error> {
    let database = config.data.join(platform::DATABASE);
    let (mut clientids, mut after) = (Vec::new(), 0);
    loop {
        let page =
            presence::present(&database, at_ms, after, PAGE).map_err(|error| unreadable(config, error))?;
        let has_next = page.has_next;
        after = page.page.last().map_or(after, |(number, _)| *number);
        clientids.extend(page.page.into_iter().map(|(_, clientid)| clientid));
        if !has_next {
            break;
        }
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut print = || -> io::Result<()> {
        if as_json {
            let answer = json!({"at": time(at_ms), "count": clientids.len(), "data": clientids});
            writeln!(out, "{answer}")?;
            return out.flush();
        }
        writeln!(out, "{} were here at {}", clientids.len(), time(at_ms))?;
        for clientid in &clientids {
            writeln!(out, "{}", clientid.escape_debug())?;
        }
        out.flush()
    };
    print().or_else(failed_output)
}

fn timeline(
    config: &Config,
    from: Option<i64>,
    to: Option<i64>,
    bucket: Duration,
    as_json: bool,
) -> Result<(), Error> {
    let wrong = |message: String| Error::new(ErrorKind::Config, message);
    let bucket_ms = i64::try_from(bucket.as_millis()).unwrap_or(i64::MAX);
    if bucket_ms < BUCKET_MS_MIN || bucket_ms % BUCKET_MS_MIN != 0 {
        return Err(wrong("--bucket: a bucket is whole minutes wide, e.g. 5m".to_owned()));
    }
    let to_ms = to.unwrap_or_else(now_ms);
    let from_ms =
        from.unwrap_or_else(|| to_ms.saturating_sub(24 * 3_600_000)).div_euclid(bucket_ms) * bucket_ms;
    if (to_ms.saturating_sub(from_ms)) / bucket_ms >= BUCKETS_MAX {
        return Err(wrong(format!("more than {BUCKETS_MAX} buckets; ask for wider ones or less time")));
    }
    let database = config.data.join(platform::DATABASE);
    let buckets = presence::timeline(&database, from_ms, to_ms, bucket_ms);
    let buckets = buckets.map_err(|error| unreadable(config, error))?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut print = || -> io::Result<()> {
        if !as_json {
            writeln!(out, "{:<24}  {:>9}  {:>9}  {:>11}", "from", "online", "connects", "disconnects")?;
        }
        for it in &buckets {
            let (from, online, connects, disconnects) =
                (time(it.from_ms), it.online, it.connects, it.disconnects);
            if as_json {
                let line = json!({
                    "from": from, "online": online, "connects": connects, "disconnects": disconnects,
                });
                writeln!(out, "{line}")?;
            } else {
                writeln!(out, "{from:<24}  {online:>9}  {connects:>9}  {disconnects:>11}")?;
            }
        }
        out.flush()
    };
    print().or_else(failed_output)
}

fn rebuild(config: &Config, forget_older: bool) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Error::because(ErrorKind::Start, "cannot start a runtime", error))?;
    runtime.block_on(fold_anew(config, forget_older))
}

async fn fold_anew(config: &Config, forget_older: bool) -> Result<(), Error> {
    let path = config.data.join(platform::DATABASE);
    let failed = || format!("cannot rebuild presence in {}", path.display());
    if !config.data.join("log").is_dir() {
        let message = format!("no event log in {}; --data names the data directory", config.data.display());
        return Err(Error::new(ErrorKind::Start, message));
    }
    let journal = platform::open_journal(config, SystemClock::shared()).await?;
    let mut store = Store::open(&path, journal.log_id())
        .map_err(|error| Error::because(ErrorKind::Start, failed(), error))?;
    let first = store.first().map_err(|error| Error::because(ErrorKind::Start, failed(), error))?;
    let begins = journal.first_offset();
    if first.is_some_and(|first| first < begins) && !forget_older {
        let message = format!(
            "the log begins at offset {begins}, and presence was folded from {} on: what came before would be lost. \
             --forget-older does it nevertheless",
            first.unwrap_or_default()
        );
        return Err(Error::new(ErrorKind::Negative, message));
    }
    store.forget().map_err(|error| Error::because(ErrorKind::Start, failed(), error))?;
    let mut follower = Follower::new(store, &journal, SystemClock::shared());
    follower.catch_up().map_err(|error| Error::because(ErrorKind::Start, failed(), error))?;
    let counted = follower.store().count();
    let (online, known) = counted.map_err(|error| Error::because(ErrorKind::Start, failed(), error))?;
    drop(follower);
    let end = journal.durable_offset();
    let closed = journal.close().await;
    closed.map_err(|error| Error::because(ErrorKind::Start, "cannot close the event log", error))?;
    println!("folded offsets {begins} to {end}: {known} devices, {online} of them online");
    Ok(())
}
