//! `muster sinks`: what rule files declare, and whether it would take rows. Works without a platform; what is checked
//! is built as `muster run` builds it.

use std::io::{self, IsTerminal as _, Write as _};

use clap::Subcommand;
use muster_core::clock::SystemClock;
use muster_sinks::database::Databases;
use muster_sinks::{PipelineId, Sink, SinkEnv, SinkError};
use serde_json::{Value, json};

use super::run::block_on;
use super::{ConfigArgs, failed_output};
use crate::config::Config;
use crate::error::{Error, ErrorKind};
use crate::pipelines::{self, Declared, ListedTarget, Outlet, Plan};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the sinks of the rule files: kind, place, options (secrets masked), and which rules write into them.
    List {
        /// One JSON array.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Ask a sink, for each rule that writes into it, whether a delivery would work; delivers nothing. Exit code 1 when
    /// it would not; what is wrong, and what can be done, is printed.
    Check {
        /// Its name in the rule files.
        name: String,
        #[command(flatten)]
        config: ConfigArgs,
    },
}

pub(super) fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::List { json, config } => list(&config.load()?, json),
        Command::Check { name, config } => check(&config.load()?, &name),
    }
}

/// The rule files, and what sinks are built with; errors in the files are told.
pub(super) fn plan(config: &Config) -> Result<(Plan, SinkEnv), Error> {
    let env = SinkEnv {
        data_dir: config.data.clone(),
        databases: Databases::default(),
        clock: SystemClock::shared(),
    };
    let planned = pipelines::check(std::slice::from_ref(&config.rules), &env);
    let (plan, diagnostics) =
        planned.map_err(|error| Error::because(ErrorKind::Config, "cannot read the rules", error))?;
    let color = io::stderr().is_terminal();
    for error in diagnostics.iter().filter(|it| it.is_error()) {
        eprintln!("{error}\n{}", error.render(color));
    }
    Ok((plan, env))
}

/// The sink of this name, in order.
pub(super) fn sink<'a>(plan: &'a Plan, name: &str) -> Result<&'a Declared, Error> {
    match plan.sinks.get(name) {
        Some(declared) if declared.is_broken() => {
            let message = format!("the declaration of the sink `{name}` has an error");
            Err(Error::new(ErrorKind::Negative, message))
        }
        Some(declared) => Ok(declared),
        None => {
            let known: Vec<_> = plan.sinks.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let message = format!("no rule file declares a sink named `{name}`; declared or in use: {known}");
            Err(Error::new(ErrorKind::Config, message))
        }
    }
}

fn list(config: &Config, json: bool) -> Result<(), Error> {
    let (plan, _) = plan(config)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut print = || -> io::Result<()> {
        if json {
            let sinks: Vec<_> = plan.sinks.iter().map(|(name, it)| as_json(&plan, name, it)).collect();
            writeln!(out, "{}", Value::from(sinks))?;
        } else {
            for (name, declared) in &plan.sinks {
                write!(out, "{}", as_text(&plan, name, declared))?;
            }
        }
        out.flush()
    };
    print().or_else(failed_output)
}

/// The rules that write into a sink, each with what it writes into there.
fn writers<'a>(plan: &'a Plan, sink: &str) -> impl Iterator<Item = &'a PipelineId> {
    let targets = plan.listed.values().flat_map(|rule| &rule.targets);
    let ids = targets.filter_map(|target| match target {
        ListedTarget::Sink { id, .. } => Some(id),
        ListedTarget::Republish { .. } => None,
    });
    ids.filter(move |id| id.sink == sink)
}

fn as_json(plan: &Plan, name: &str, declared: &Declared) -> Value {
    let rules = writers(plan, name).map(|id| json!({"rule": id.rule, "target": id.target}));
    json!({
        "name": name,
        "kind": declared.kind(),
        "declared_at": declared.place(),
        "options": declared.shown(),
        "rules": rules.collect::<Vec<_>>(),
    })
}

fn as_text(plan: &Plan, name: &str, declared: &Declared) -> String {
    let place = declared.place().unwrap_or_else(|| "exists without being declared".to_owned());
    let broken = if declared.is_broken() { ", has an error" } else { "" };
    let mut text = format!("{name}: {}, {place}{broken}\n", declared.kind());
    for (option, value) in declared.shown() {
        text.push_str(&format!("  {option} = {}\n", value.escape_debug()));
    }
    let mut used = false;
    for PipelineId { rule, target, .. } in writers(plan, name) {
        used = true;
        let target = if target.is_empty() { String::new() } else { format!(" > {target}") };
        text.push_str(&format!("  rule {rule}{target}\n"));
    }
    if !used {
        text.push_str("  no rule writes into it\n");
    }
    text
}

fn check(config: &Config, name: &str) -> Result<(), Error> {
    let (mut plan, env) = plan(config)?;
    let declared = sink(&plan, name)?;
    // Where no rule says into what it writes, the sink is asked about a table that need not be there.
    let alone = writers(&plan, name).next().is_none();
    let mut sinks: Vec<(String, Box<dyn Sink>)> = Vec::new();
    if alone {
        let built = declared.build_alone(name, &env);
        let built = built.map_err(|error| Error::new(ErrorKind::Negative, error.in_words()))?;
        sinks.push((format!("{name}, into which no rule writes"), built.sink));
    }
    for (id, planned) in std::mem::take(&mut plan.pipelines) {
        if let (true, Outlet::Sink(maker)) = (id.sink == name, planned.outlet) {
            let built = maker.make().map_err(|error| Error::new(ErrorKind::Negative, error.in_words()))?;
            sinks.push((id.to_string(), built.sink));
        }
    }
    let asked = sinks.len();
    let refused = block_on(async {
        let mut refused = 0;
        for (what, mut sink) in sinks {
            let answer = pipelines::check_sink(&mut *sink).await;
            refused += usize::from(answer.is_err());
            tell(&what, answer)?;
        }
        Ok(refused)
    })?;
    if refused == 0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Negative, format!("{refused} of {asked} would not take rows")))
}

fn tell(what: &str, answer: Result<(), SinkError>) -> Result<(), Error> {
    let text = match answer {
        Ok(()) => format!("{what}: well"),
        Err(error) => format!("{what}: {}\n  what to do: {}", error.in_words(), error.hint()),
    };
    writeln!(io::stdout(), "{text}").or_else(failed_output)
}
