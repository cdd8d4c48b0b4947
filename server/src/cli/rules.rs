//! `muster rules`: what `muster run` would say about rule files, offline, and what a rule makes of given columns.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;

use muster_core::clock::SystemClock;
use muster_sinks::SinkEnv;
use muster_sinks::database::Databases;

use super::failed_output;
use crate::error::{Error, ErrorKind};
use crate::pipelines;

/// Checks the files together and prints what is wrong, with the line and a caret under the place.
pub(super) fn check(paths: &[PathBuf]) -> Result<(), Error> {
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
pub(super) fn eval() -> Result<(), Error> {
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
