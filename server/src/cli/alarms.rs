//! `muster alarms`: what was raised, who has seen it, and what is not to be told for a while. Asks the running
//! platform.

use std::io::{self, Write as _};

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::client::Reach;
use super::failed_output;
use crate::error::Error;

/// `muster alarms ...`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List them, the latest first.
    List {
        /// Those that are over, too.
        #[arg(long)]
        all: bool,
        /// Only those of this name.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Only those about this device.
        #[arg(long, value_name = "ID")]
        client: Option<String>,
        /// How many at most.
        #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
        limit: u64,
        /// The server's JSON instead of a table.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// Say that you have seen one.
    Ack {
        /// Its id in the list.
        id: u64,
        /// What you want to say with it.
        #[arg(long, default_value = "")]
        comment: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Have alarms listed and not told for a while.
    Silence {
        /// Those of this name [default: of any].
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Those about clients like this, e.g. `boiler-*` [default: about anybody].
        #[arg(long, value_name = "PATTERN")]
        client: Option<String>,
        /// For how long, e.g. 2h.
        #[arg(long = "for", value_name = "DURATION")]
        lasts: String,
        /// Why.
        #[arg(long, default_value = "")]
        comment: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// List what is silent now.
    Silences {
        #[command(flatten)]
        reach: Reach,
    },
    /// Have them told again.
    Unsilence {
        /// The silence's id.
        id: u64,
        #[command(flatten)]
        reach: Reach,
    },
}

pub(super) fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::List { all, name, client, limit, json, reach } => {
            let active = (!all).then(|| "true".to_owned());
            let filters = [
                ("limit", Some(limit.to_string())),
                ("active", active),
                ("name", name),
                ("clientid", client),
            ];
            let given =
                filters.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", encoded(&value?))));
            let query = given.collect::<Vec<_>>().join("&");
            let answer = reach.client()?.get(&format!("/api/v1/alarms?{query}"))?;
            if json {
                return writeln!(io::stdout(), "{answer}").or_else(failed_output);
            }
            table(&answer)
        }
        Command::Ack { id, comment, reach } => {
            let path = format!("/api/v1/alarms/{id}/acknowledge");
            reach.client()?.post(&path, &json!({"comment": comment})).map(drop)
        }
        Command::Silence { name, client, lasts, comment, reach } => {
            let given =
                [("name", name), ("clientid", client), ("for", Some(lasts)), ("comment", Some(comment))];
            let given = given.into_iter().filter_map(|(key, value)| Some((key.to_owned(), json!(value?))));
            let body = Value::Object(given.collect::<Map<_, _>>());
            let made = reach.client()?.post("/api/v1/alarms/silences", &body)?;
            silences(&json!({"data": [made]}))
        }
        Command::Silences { reach } => silences(&reach.client()?.get("/api/v1/alarms/silences")?),
        Command::Unsilence { id, reach } => {
            reach.client()?.delete(&format!("/api/v1/alarms/silences/{id}")).map(drop)
        }
    }
}

/// A text as it stands in a query.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|it| if plain(it) { char::from(it).to_string() } else { format!("%{it:02X}") }).collect()
}

fn text<'a>(it: &'a Value, name: &str) -> &'a str {
    it.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn table(answer: &Value) -> Result<(), Error> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut print = || -> io::Result<()> {
        let (id, name, severity) = ("id", "name", "severity");
        writeln!(
            out,
            "{id:>10}  {name:<16}  {severity:<8}  {:<29}  {:<29}  seen by     message",
            "since", "until"
        )?;
        for it in answer.get("data").and_then(Value::as_array).into_iter().flatten() {
            let line = format!(
                "{:>10}  {:<16}  {:<8}  {:<29}  {:<29}  {:<10}  {}",
                it.get("id").and_then(Value::as_u64).unwrap_or_default(),
                text(it, "name").escape_debug().to_string(),
                text(it, "severity"),
                text(it, "activated_at"),
                text(it, "deactivated_at"),
                text(it, "acknowledged_by").escape_debug().to_string(),
                text(it, "message").escape_debug()
            );
            writeln!(out, "{}", line.trim_end())?;
        }
        out.flush()
    };
    print().or_else(failed_output)
}

fn silences(answer: &Value) -> Result<(), Error> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut print = || -> io::Result<()> {
        writeln!(
            out,
            "{:>10}  {:<16}  {:<20}  {:<29}  {:<10}  why",
            "id", "alarms", "clients", "until", "by"
        )?;
        for it in answer.get("data").and_then(Value::as_array).into_iter().flatten() {
            let any = |name| match text(it, name) {
                "" => "any".to_owned(),
                text => text.escape_debug().to_string(),
            };
            let line = format!(
                "{:>10}  {:<16}  {:<20}  {:<29}  {:<10}  {}",
                it.get("id").and_then(Value::as_u64).unwrap_or_default(),
                any("name"),
                any("clientid"),
                text(it, "until"),
                text(it, "by").escape_debug().to_string(),
                text(it, "comment").escape_debug()
            );
            writeln!(out, "{}", line.trim_end())?;
        }
        out.flush()
    };
    print().or_else(failed_output)
}
