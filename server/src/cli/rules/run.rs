//! `muster rules run`: rules on recorded events, as pipelines would run them, without a sink and without the log's
//! lock.

use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use muster_core::clock::{SharedClock, SystemClock};
use muster_core::event::{Event, EventKinds};
use muster_core::journal::{EventReader, Journal};
use muster_core::log::{Follower, LogError, RealDisk};
use muster_core::value::Row;
use muster_rules::RuleProgram;
use muster_rules::ast::Statement;
use muster_sinks::delivery::Transform as _;

use super::summary::{RuleTotals, Summary};
use super::table::Tables;
use super::{read, tell_errors};
use crate::cli::run::{Signals, block_on};
use crate::cli::{failed_output, log, time};
use crate::error::{Error, ErrorKind};
use crate::pipelines::RuleTransform;

/// The exit code of a process that a second signal ended.
const INTERRUPTED: i32 = 130;
/// Functions of chance begin here.
const SEED: u64 = 1;

#[derive(Debug, Args)]
pub(in crate::cli) struct RunArgs {
    /// The rule file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only this rule of the file.
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// The data directory of a platform, running or not, or a directory that holds an event log.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// First offset, or a time such as 2026-01-02T03:04:05Z [default: the first that is there].
    #[arg(long, value_name = "OFFSET|TIME", value_parser = log::from)]
    since: Option<log::From>,
    /// Offset or time before which to stop [default: what is there at the start].
    #[arg(long, value_name = "OFFSET|TIME", value_parser = log::from)]
    until: Option<log::From>,
    /// Stop after so many rows.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Only events of this client.
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// Rows as JSON, one a line: rule, offset, time, row; this is the default. With --summary, the summary as JSON.
    #[arg(long, conflicts_with = "table")]
    json: bool,
    /// Rows as tables.
    #[arg(long)]
    table: bool,
    /// No rows: only the summary, on stdout.
    #[arg(long, conflicts_with = "table")]
    summary: bool,
}

/// Evaluates the rules on what is recorded, until the end, a limit, Ctrl-C, or until nobody reads the output.
pub(super) fn run(args: RunArgs) -> Result<(), Error> {
    let rules = rules(&args)?;
    let journal = open(&args.from)?;
    let clock = SystemClock::shared();
    block_on(async {
        let mut signals = Signals::listen()?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let mut work = tokio::task::spawn_blocking(move || Job { args, rules, journal, clock, stop }.run());
        let ended = |joined: Result<_, tokio::task::JoinError>| {
            joined.map_err(|error| {
                Error::because(ErrorKind::Fatal, "the evaluation ended by a fault of its own", error)
            })?
        };
        tokio::select! {
            joined = &mut work => return ended(joined),
            _ = signals.next() => asked.store(true, Ordering::Relaxed),
        }
        tokio::select! {
            joined = &mut work => ended(joined),
            _ = signals.next() => process::exit(INTERRUPTED),
        }
    })
}

fn rules(args: &RunArgs) -> Result<Vec<Arc<RuleProgram>>, Error> {
    let files = read(std::slice::from_ref(&args.file))?;
    let texts = files.iter().map(|file| (file.name.as_str(), file.text.as_str()));
    let (statements, diagnostics) = muster_rules::parse_files(texts);
    let errors = tell_errors(&diagnostics);
    if errors > 0 {
        return Err(Error::new(ErrorKind::Config, super::count(errors, "error")));
    }
    let compiled = statements.iter().filter_map(|statement| match statement {
        Statement::CreateRule(rule) => RuleProgram::compile(rule).ok().map(Arc::new),
        _ => None,
    });
    let mut rules: Vec<_> = compiled.collect();
    let file = args.file.display();
    if rules.is_empty() {
        return Err(Error::new(ErrorKind::Config, format!("there is no rule in {file}")));
    }
    if let Some(name) = &args.rule {
        let names = rules.iter().map(|rule| rule.name().to_owned()).collect::<Vec<_>>().join(", ");
        rules.retain(|rule| rule.name() == name);
        if rules.is_empty() {
            let message = format!("there is no rule `{name}` in {file}; there are: {names}");
            return Err(Error::new(ErrorKind::Config, message));
        }
    }
    Ok(rules)
}

/// The log in the directory or in its folder `log`; its end is where it ends now.
fn open(dir: &Path) -> Result<Journal, Error> {
    let inner = dir.join("log");
    let dir = if inner.is_dir() { inner } else { dir.to_owned() };
    let opened = Follower::open(&dir, RealDisk::shared(), SystemClock::shared());
    let (follower, _) = opened.map_err(|error| {
        let message = format!("cannot open an event log in {}", dir.display());
        Error::because(ErrorKind::Start, message, error)
    })?;
    Ok(Journal::over(follower.log().clone()))
}

struct Job {
    args: RunArgs,
    rules: Vec<Arc<RuleProgram>>,
    journal: Journal,
    clock: SharedClock,
    stop: Arc<AtomicBool>,
}

/// One rule at work.
struct Working {
    program: Arc<RuleProgram>,
    transform: RuleTransform,
    totals: RuleTotals,
}

/// Whether to go on.
#[derive(PartialEq, Eq)]
enum Flow {
    On,
    Enough,
}

impl Job {
    fn run(self) -> Result<(), Error> {
        let since = self.args.since.unwrap_or(log::From::Offset(0)).offset(&self.journal)?;
        let end = self.journal.durable_offset();
        let until = self.args.until.map_or(Ok(end), |until| until.offset(&self.journal))?.min(end).max(since);
        let new = |program: &Arc<RuleProgram>| Working {
            program: program.clone(),
            transform: RuleTransform::alone(program.clone(), self.clock.clone(), SEED),
            totals: RuleTotals::new(program.name()),
        };
        let mut working: Vec<_> = self.rules.iter().map(new).collect();
        let mut summary = Summary { from: since, to: since, ..Summary::default() };
        let started = self.clock.monotonic();
        let bar = progress_bar(until - since);
        let mut rows = Rows::new(&self.args);
        let read = self.read(until, &mut working, &mut summary, &mut rows, &bar);
        bar.finish_and_clear();
        read?;
        rows.flush().or_else(failed_output)?;
        summary.seconds = self.clock.monotonic().saturating_sub(started).as_secs_f64();
        summary.rules = working.into_iter().map(|it| it.totals).collect();
        let text = if self.args.summary && self.args.json { summary.to_json() } else { summary.in_words() };
        if self.args.summary {
            io::stdout().lock().write_all(text.as_bytes()).or_else(failed_output)
        } else {
            eprint!("{text}");
            Ok(())
        }
    }

    fn read(
        &self,
        until: u64,
        working: &mut [Working],
        summary: &mut Summary,
        rows: &mut Rows,
        bar: &ProgressBar,
    ) -> Result<(), Error> {
        let mut reader = self.reader(summary.from);
        while summary.to < until {
            if self.stop.load(Ordering::Relaxed) {
                summary.stopped = true;
                return Ok(());
            }
            let batch = match reader.try_next_batch() {
                Ok(Some(batch)) => batch,
                Ok(None) => return Ok(()),
                Err(LogError::Event(error)) => {
                    bar.suspend(|| {
                        eprintln!("offset {}: {}", reader.position(), crate::error::chain(&*error))
                    });
                    summary.unreadable += 1;
                    summary.to = reader.position() + 1;
                    reader.seek(summary.to);
                    continue;
                }
                Err(error) => return Err(log::broken(error)),
            };
            for event in batch.events().iter().filter(|event| event.offset < until) {
                summary.to = event.offset + 1;
                summary.decoded += 1;
                let other = self.args.client.as_deref().is_some_and(|id| event.clientid() != id);
                if !other && self.event(event, working, rows, bar)? == Flow::Enough {
                    return Ok(());
                }
                if self.stop.load(Ordering::Relaxed) {
                    summary.stopped = true;
                    return Ok(());
                }
            }
            summary.to = batch.next_offset.min(until);
            bar.set_position(summary.to - summary.from);
            if let Err(error) = rows.flush_lines() {
                return failed_output(error);
            }
        }
        Ok(())
    }

    /// Of events that no rule wants, by kind and topic, the header alone is read.
    fn reader(&self, from: u64) -> EventReader {
        let kinds =
            self.rules.iter().map(|rule| rule.wants().kinds).fold(EventKinds::NONE, EventKinds::union);
        let rules = self.rules.clone();
        let wanted = move |kind, topic: &str| rules.iter().any(|rule| rule.wants().includes(kind, topic));
        self.journal.reader(from).with_kinds(kinds).with_selection(Arc::new(wanted))
    }

    fn event(
        &self,
        event: &Event,
        working: &mut [Working],
        rows: &mut Rows,
        bar: &ProgressBar,
    ) -> Result<Flow, Error> {
        let mut made = Vec::new();
        for Working { program, transform, totals } in working {
            if !program.matches(event) {
                continue;
            }
            totals.events += 1;
            made.clear();
            if let Err(error) = transform.apply(event, &mut made) {
                totals.failed += 1;
                bar.suspend(|| eprintln!("{}: offset {}: {error}", program.name(), event.offset));
                continue;
            }
            totals.matched += u64::from(!made.is_empty());
            for row in &made {
                totals.rows += 1;
                if let Err(error) = rows.put(program.name(), event, row) {
                    return ended(error);
                }
                if rows.left == 0 {
                    return Ok(Flow::Enough);
                }
            }
        }
        Ok(Flow::On)
    }
}

/// Output that cannot be written: whoever stopped reading has what they wanted.
fn ended(error: io::Error) -> Result<Flow, Error> {
    failed_output(error).map(|()| Flow::Enough)
}

/// Where rows go.
struct Rows {
    out: io::BufWriter<io::Stdout>,
    tables: Option<Tables>,
    counted_only: bool,
    left: u64,
}

impl Rows {
    fn new(args: &RunArgs) -> Self {
        Self {
            out: io::BufWriter::new(io::stdout()),
            tables: args.table.then(Tables::default),
            counted_only: args.summary,
            left: args.limit.unwrap_or(u64::MAX),
        }
    }

    fn put(&mut self, rule: &str, event: &Event, row: &Row) -> io::Result<()> {
        self.left = self.left.saturating_sub(1);
        if self.counted_only {
            return Ok(());
        }
        if let Some(tables) = &mut self.tables {
            return tables.put(rule, event, row, &mut self.out);
        }
        let rule = serde_json::Value::from(rule);
        let (offset, time, row) = (event.offset, time(event.timestamp_ms), row.to_json());
        writeln!(self.out, r#"{{"rule":{rule},"offset":{offset},"time":"{time}","row":{row}}}"#)
    }

    /// What is whole goes out, so that whoever waits for it sees it.
    fn flush_lines(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(tables) = &mut self.tables {
            tables.finish(&mut self.out)?;
        }
        self.out.flush()
    }
}

/// On a terminal only, and only where no rows are printed over it.
fn progress_bar(events: u64) -> ProgressBar {
    if io::stdout().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(events);
    match ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} {per_sec} {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
