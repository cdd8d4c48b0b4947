//! `muster pipelines`: how rows travel to their targets, and the switches that an operator has. Asks the running
//! platform.

use std::io::{self, Write as _};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::client::Reach;
use super::failed_output;
use crate::error::Error;

/// Pipelines that are asked for at once.
const PAGE: u64 = 10_000;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List them: state, books, lag, and what is wrong.
    List {
        /// The server's JSON instead of a table.
        #[arg(long)]
        json: bool,
        /// Each lane below its pipeline.
        #[arg(long)]
        lanes: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// Halt delivery until it is resumed, also over a restart; what comes meanwhile waits in the log.
    Pause {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        reach: Reach,
    },
    /// Go on: after a pause, after an error that halted delivery, or at once instead of after the wait.
    Resume {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        reach: Reach,
    },
    /// Go on from another place in the log. Rows that are delivered again keep their ids.
    Reset {
        #[command(flatten)]
        which: Which,
        /// earliest, latest, an offset, or a time such as 2026-01-02T03:04:05Z.
        #[arg(long, value_name = "PLACE")]
        to: String,
        #[command(flatten)]
        reach: Reach,
    },
}

/// Which pipelines are meant.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// Of this rule.
    #[arg(long, value_name = "NAME")]
    rule: String,
    /// Into this sink alone.
    #[arg(long, value_name = "NAME")]
    sink: Option<String>,
    /// Into this table, topic or collection of the sink alone.
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
}

pub(super) fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::List { json, lanes, reach } => {
            let path = format!("/api/v1/pipelines?limit={PAGE}&lanes={lanes}");
            let answer = reach.client()?.get(&path)?;
            if json {
                return writeln!(io::stdout(), "{answer}").or_else(failed_output);
            }
            table(&answer)
        }
        Command::Pause { which, reach } => order(&reach, "pause", &which, None),
        Command::Resume { which, reach } => order(&reach, "resume", &which, None),
        Command::Reset { which, to, reach } => order(&reach, "reset", &which, Some(&to)),
    }
}

fn order(reach: &Reach, order: &str, which: &Which, to: Option<&str>) -> Result<(), Error> {
    let Which { rule, sink, target } = which;
    let named =
        [("rule", Some(rule.as_str())), ("sink", sink.as_deref()), ("target", target.as_deref()), ("to", to)];
    let given = named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?))));
    let body = Value::Object(given.collect::<Map<_, _>>());
    table(&reach.client()?.post(&format!("/api/v1/pipelines/{order}"), &body)?)
}

fn table(answer: &Value) -> Result<(), Error> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut print = || -> io::Result<()> {
        writeln!(
            out,
            "{:<40}  {:<8}  {:>10}  {:>10}  {:>6}  {:>8}  {:>10}  trouble",
            "rule > sink", "state", "matched", "delivered", "dead", "pending", "lag"
        )?;
        for it in answer.get("data").and_then(Value::as_array).into_iter().flatten() {
            writeln!(out, "{}", row(&name(it), it).trim_end())?;
            let lanes = it.get("lane_status").and_then(Value::as_array).filter(|lanes| lanes.len() > 1);
            for (at, lane) in (1..).zip(lanes.into_iter().flatten()) {
                writeln!(out, "{}", row(&format!("  lane {at}"), lane).trim_end())?;
            }
        }
        out.flush()
    };
    print().or_else(failed_output)
}

fn name(it: &Value) -> String {
    let text = |name: &str| it.get(name).and_then(Value::as_str).unwrap_or_default();
    let point = if text("target").is_empty() { "" } else { "." };
    let lanes = it.get("lanes").and_then(Value::as_u64).filter(|lanes| *lanes > 1);
    let lanes = lanes.map(|lanes| format!(" ({lanes} lanes)")).unwrap_or_default();
    format!("{} > {}{point}{}{lanes}", text("rule"), text("sink"), text("target"))
}

fn row(name: &str, it: &Value) -> String {
    let text = |name: &str| it.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |name: &str| it.get(name).and_then(Value::as_u64).unwrap_or_default();
    // The last error is kept after it is over; only a hint says that something is wrong now.
    let trouble = if text("hint").is_empty() { String::new() } else { text("last_error") };
    format!(
        "{name:<40}  {:<8}  {:>10}  {:>10}  {:>6}  {:>8}  {:>10}  {}",
        text("state"),
        number("matched"),
        number("delivered"),
        number("dead"),
        number("pending"),
        number("lag_events"),
        trouble.escape_debug()
    )
}
