//! `muster rules`: what `muster run` would say about rule files, offline; what a rule does, what it makes of cases that
//! are written beside it, and of events that were recorded. No sink is opened and nothing is written.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::Subcommand;
use muster_core::clock::SystemClock;
use muster_rules::Diagnostic;
use muster_sinks::SinkEnv;
use muster_sinks::database::Databases;

use super::failed_output;
use crate::error::{Error, ErrorKind};
use crate::pipelines;

mod explain;
mod layout;
mod run;
mod summary;
mod table;
mod test;

/// Shown below `muster rules --help`.
pub(super) const EXAMPLES: &str = "\
Examples:
  muster rules check rules                       errors and warnings, as `muster run` would say them
  muster rules explain rules/hot.sql             what wakes each rule, what it costs, what its rows look like
  muster rules test rules                        the cases in rules/*.test.jsonl; exit code 1 when one fails
  muster rules run rules/hot.sql --from data     the rules on what was recorded, also while the platform runs
  muster rules run rules/hot.sql --from data --since 2026-01-31T00:00:00Z --limit 20 --table
  muster rules run rules/hot.sql --from data --summary

Exit codes: 0; 1 a rule file has errors (check, explain) or a case failed (test); 2 a file or an argument is wrong;
3 the event log cannot be read (run).";

#[derive(Debug, Subcommand)]
pub(super) enum RulesCommand {
    /// Check rule files, or folders of them, together; exit code 1 when one has errors.
    Check {
        /// Files and folders.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// Say what each rule does: what wakes it, what it looks at and what that costs, its rows, its targets.
    Explain {
        /// Files and folders, read together.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// One JSON array; its fields keep their names.
        #[arg(long)]
        json: bool,
    },
    /// Run the cases beside rule files (name.test.jsonl beside name.sql); exit code 1 when one fails.
    Test(test::TestArgs),
    /// Evaluate rules on recorded events and print their rows; no sink is opened.
    Run(run::RunArgs),
    /// Evaluate rule cases: one JSON object a line on stdin, one answer a line on stdout.
    Eval,
}

/// Does what was asked.
pub(super) fn dispatch(command: RulesCommand) -> Result<(), Error> {
    match command {
        RulesCommand::Check { paths } => check(&paths),
        RulesCommand::Explain { paths, json } => explain::explain(&paths, json),
        RulesCommand::Test(args) => test::test(&args),
        RulesCommand::Run(args) => run::run(args),
        RulesCommand::Eval => eval(),
    }
}

/// Files as they were read, for what is said together of them.
fn read(paths: &[PathBuf]) -> Result<Vec<pipelines::RuleFile>, Error> {
    let files = pipelines::read_paths(paths);
    files.map_err(|error| Error::because(ErrorKind::Config, "cannot read the rules", error))
}

/// Prints errors to stderr, with the line and a caret; how many there were.
fn tell_errors(diagnostics: &[Diagnostic]) -> usize {
    let color = io::stderr().is_terminal();
    let errors = diagnostics.iter().filter(|it| it.is_error());
    errors.map(|it| eprintln!("{it}\n{}", it.render(color))).count()
}

/// Checks the files together and prints what is wrong, with the line and a caret under the place.
fn check(paths: &[PathBuf]) -> Result<(), Error> {
    let env = SinkEnv {
        data_dir: PathBuf::from("."),
        databases: Databases::default(),
        clock: SystemClock::shared(),
    };
    let (plan, diagnostics) = pipelines::check(paths, &env)
        .map_err(|error| Error::because(ErrorKind::Config, "cannot read the rules", error))?;
    let color = io::stdout().is_terminal();
    let mut out = io::stdout().lock();
    for diagnostic in &diagnostics {
        write!(out, "{diagnostic}\n{}\n", diagnostic.render(color)).or_else(failed_output)?;
    }
    let errors = diagnostics.iter().filter(|it| it.is_error()).count();
    let warnings = diagnostics.len() - errors;
    if errors > 0 {
        let told = format!("{}, {}", count(errors, "error"), count(warnings, "warning"));
        return Err(Error::new(ErrorKind::Negative, told));
    }
    let (rules, pipelines) = (count(plan.rules, "rule"), count(plan.pipelines.len(), "pipeline"));
    writeln!(out, "{rules}, {pipelines}, {}", count(warnings, "warning")).or_else(failed_output)
}

/// `1 rule`, `2 rules`.
fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Answers each line of stdin with one line on stdout, at once, so that a program can ask and wait.
fn eval() -> Result<(), Error> {
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|error| Error::because(ErrorKind::Start, "cannot read stdin", error))?;
        let answer = muster_rules::conformance::answer(&line);
        let told = writeln!(out, "{answer}").and_then(|()| out.flush());
        if let Err(error) = told {
            return failed_output(error);
        }
    }
    Ok(())
}
