//! `muster replay` and `muster replays`: recorded events through a rule once more. Asks the running platform, and
//! watches what comes of it.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::client::{Client, Reach};
use super::failed_output;
use crate::error::{Error, ErrorKind};

/// How often a replay that is watched is asked how it is doing.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// What `muster replay --help` says at its end.
pub(super) const HELP: &str = "\
Rows keep the ids of their events, so targets that know ids (SQLite, PostgreSQL, MongoDB, ...) do not double them; a
webhook gets the same webhook-id again, Kafka gets new records. REPUBLISH is left out. Retention waits for a replay.

A replay belongs to the platform: it goes on after a restart, and when this command ends. At a terminal Ctrl-C asks
what to do; elsewhere, and at a second Ctrl-C, the command ends and the replay goes on.

  muster replay --rule history --from 2026-01-02T00:00:00Z --to 2026-01-03T00:00:00Z --dry-run
  muster replay --rule history --into archive.history --from 0 --to latest --rate 5000
  muster replays list; muster replays follow ID; muster replays cancel ID";

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// The rule, as it is now.
    #[arg(long, value_name = "NAME")]
    rule: String,
    /// Another sink that is declared, instead of the rule's own ones.
    #[arg(long, value_name = "SINK[.TARGET]")]
    into: Option<String>,
    /// The first event: an offset, a time such as 2026-01-02T03:04:05Z, or earliest.
    #[arg(long, value_name = "OFFSET|TIME")]
    from: String,
    /// The end: events before this offset or time; `latest` is the newest there is now.
    #[arg(long, value_name = "OFFSET|TIME")]
    to: String,
    /// At most so many rows a second into each target.
    #[arg(long, value_name = "ROWS_PER_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Only count events and rows, and show the first rows; nothing is delivered.
    #[arg(long)]
    dry_run: bool,
    /// Whether to watch it to its end.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    wait: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List them: those under way first, then the newest.
    List {
        /// The server's JSON instead of a table.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// Watch one to its end.
    Follow {
        /// Its number.
        id: i64,
        #[command(flatten)]
        reach: Reach,
    },
    /// End one that is under way, or forget one that has ended. What was delivered stays.
    Cancel {
        /// Its number.
        id: i64,
        #[command(flatten)]
        reach: Reach,
    },
}

pub(super) fn replay(args: &ReplayArgs) -> Result<(), Error> {
    let client = args.reach.client()?;
    let mut body = Map::new();
    let texts = [("rule", Some(&args.rule)), ("into", args.into.as_ref()), ("from", Some(&args.from))];
    for (name, text) in texts.into_iter().chain([("to", Some(&args.to))]) {
        body.extend(text.map(|text| (name.to_owned(), json!(text))));
    }
    body.extend(args.rate.map(|rate| ("rate".to_owned(), json!(rate))));
    if args.dry_run {
        return dry_run(&client, body);
    }
    let begun = client.post("/api/v1/replays", &Value::Object(body))?;
    let ids: Vec<_> = entries(&begun).filter_map(|it| it.get("id")?.as_i64()).collect();
    if args.wait {
        return ids.into_iter().try_for_each(|id| follow(&client, id));
    }
    table(&begun)
}

pub(super) fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::List { json, reach } => {
            let answer = reach.client()?.get("/api/v1/replays")?;
            if json { writeln!(io::stdout(), "{answer}").or_else(failed_output) } else { table(&answer) }
        }
        Command::Follow { id, reach } => follow(&reach.client()?, id),
        Command::Cancel { id, reach } => reach.client()?.delete(&format!("/api/v1/replays/{id}")).map(drop),
    }
}

/// Asks part by part, since each request ends in its time.
fn dry_run(client: &Client, mut body: Map<String, Value>) -> Result<(), Error> {
    body.insert("dry_run".to_owned(), true.into());
    let (mut counts, mut shown) = ([0; 3], Vec::new());
    loop {
        let answer = client.post("/api/v1/replays", &Value::Object(body.clone()))?;
        for (count, name) in counts.iter_mut().zip(["events", "rows", "failed"]) {
            *count += number(&answer, name);
        }
        let rows = answer.get("first_rows").and_then(Value::as_array);
        if shown.is_empty() {
            shown = rows.cloned().unwrap_or_default();
        }
        let (from, to, next) = (number(&answer, "from"), number(&answer, "to"), number(&answer, "next"));
        // The places are those of the first answer, also if more is written meanwhile.
        body.insert("from".to_owned(), from.into());
        body.insert("to".to_owned(), to.into());
        let stuck = body.insert("next".to_owned(), next.into()) == Some(next.into());
        if next < to && !stuck {
            continue;
        }
        let targets = answer.get("targets").and_then(Value::as_array);
        let targets: Vec<_> = targets.into_iter().flatten().filter_map(Value::as_str).collect();
        let [events, rows, failed] = counts;
        let mut out = io::stdout().lock();
        let mut print = || {
            writeln!(
                out,
                "offsets {from} to {to}: {events} events of the rule's kinds, {failed} on which it fails"
            )?;
            for target in &targets {
                writeln!(out, "{target}: {rows} rows")?;
            }
            shown.iter().try_for_each(|row| writeln!(out, "  {row}"))
        };
        return print().or_else(failed_output);
    }
}

/// Watches a replay until it ends, or until whoever watches has seen enough.
fn follow(client: &Client, id: i64) -> Result<(), Error> {
    let path = format!("/api/v1/replays/{id}");
    let bar = ProgressBar::new(1);
    let template = "{prefix} {wide_bar} offset {pos} of {len}  {msg}  {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    let mut asked = false;
    loop {
        let it = client.get(&path)?;
        let (from, to, offset) = (number(&it, "from"), number(&it, "to"), number(&it, "offset"));
        let state = text(&it, "state");
        bar.set_prefix(format!("{id} > {}", text(&it, "sink")));
        bar.set_length(to - from);
        bar.set_position(offset.saturating_sub(from));
        let rate = number(&it, "delivered") as f64 / bar.elapsed().as_secs_f64().max(0.1);
        bar.set_message(format!("{} rows, {rate:.0}/s, {state}", number(&it, "delivered")));
        if ["done", "cancelled"].contains(&state) && it.get("ended_at").is_some_and(|at| !at.is_null()) {
            bar.finish_and_clear();
            let cancelled = state == "cancelled";
            table(&json!({"data": [it]}))?;
            let no = || Err(Error::new(ErrorKind::Negative, "the replay was cancelled"));
            return if cancelled { no() } else { Ok(()) };
        }
        if !client.interrupted(LOOK_EVERY) {
            continue;
        }
        match if asked { Choice::GoOn } else { bar.suspend(ask) } {
            Choice::Watch => asked = true,
            Choice::Cancel => drop(client.delete(&path)?),
            Choice::GoOn => {
                bar.finish_and_clear();
                eprintln!("the replay goes on: muster replays follow {id}, muster replays cancel {id}");
                return Ok(());
            }
        }
    }
}

enum Choice {
    GoOn,
    Watch,
    Cancel,
}

fn ask() -> Choice {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Choice::GoOn;
    }
    eprint!("\n[g]o on without watching (default), [w]atch on, [c]ancel the replay? ");
    let mut answer = String::new();
    match io::stdin().lock().read_line(&mut answer).map(|_| answer.trim()) {
        Ok("w") => Choice::Watch,
        Ok("c") => Choice::Cancel,
        _ => Choice::GoOn,
    }
}

fn entries(answer: &Value) -> impl Iterator<Item = &Value> {
    answer.get("data").and_then(Value::as_array).into_iter().flatten()
}

fn number(it: &Value, name: &str) -> u64 {
    it.get(name).and_then(Value::as_u64).unwrap_or_default()
}

fn text<'a>(it: &'a Value, name: &str) -> &'a str {
    it.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn table(answer: &Value) -> Result<(), Error> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut print = || -> io::Result<()> {
        writeln!(
            out,
            "{:<13}  {:<40}  {:<9}  {:>10}  {:>10}  {:>10}  {:>10}  {:>6}  trouble",
            "id", "rule > sink", "state", "offset", "to", "matched", "delivered", "dead"
        )?;
        for it in entries(answer) {
            let point = if text(it, "target").is_empty() { "" } else { "." };
            let name = format!("{} > {}{point}{}", text(it, "rule"), text(it, "sink"), text(it, "target"));
            let id = it.get("id").and_then(Value::as_i64).unwrap_or_default();
            let line = format!(
                "{id:<13}  {name:<40}  {:<9}  {:>10}  {:>10}  {:>10}  {:>10}  {:>6}  {}",
                text(it, "state"),
                number(it, "offset"),
                number(it, "to"),
                number(it, "matched"),
                number(it, "delivered"),
                number(it, "dead"),
                text(it, "hint").escape_debug()
            );
            writeln!(out, "{}", line.trim_end())?;
        }
        out.flush()
    };
    print().or_else(failed_output)
}
