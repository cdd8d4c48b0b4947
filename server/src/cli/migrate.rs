//! `muster migrate`: makes and upgrades what a sink's target needs before rows fit into it.

use std::io::{self, Write as _};

use clap::Args;
use muster_sinks::SinkError;
use muster_sinks::migrate::{Migration, migrate};

use super::run::block_on;
use super::{ConfigArgs, failed_output, sinks};
use crate::error::{Error, ErrorKind};

#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    /// The sink, by its name in the rule files.
    #[arg(long, value_name = "NAME")]
    sink: String,
    /// Change nothing; print what each step would tell the target.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(args: MigrateArgs) -> Result<(), Error> {
    let MigrateArgs { sink: name, dry_run, config } = args;
    let (plan, env) = sinks::plan(&config.load()?)?;
    let declared = sinks::sink(&plan, &name)?;
    let Some(mut target) = declared.migrator(&name, &env).map_err(|error| refused(&name, &error))? else {
        return say(&format!("a {} sink needs no preparation: nothing to do", declared.kind()));
    };
    let mut told = Ok(());
    let steps = block_on(async {
        let tell = |step: &Migration| {
            if told.is_ok() {
                told = say(&if dry_run { with_text(step) } else { title(step) });
            }
        };
        migrate(&mut *target, dry_run, tell).await.map_err(|error| refused(&name, &error))
    })?;
    told?;
    let count = steps.len();
    let word = if count == 1 { "step" } else { "steps" };
    say(&match (count, dry_run) {
        (0, _) => format!("nothing to do: the target of `{name}` has taken every step"),
        (_, true) => format!("{count} {word} to take; nothing was changed"),
        (_, false) => format!("{count} {word} taken"),
    })
}

fn title(step: &Migration) -> String {
    format!("{:04} {}", step.version, step.name)
}

/// The step as an operator could take it by hand.
fn with_text(step: &Migration) -> String {
    format!("-- {}\n{}\n", title(step), step.text.trim_end())
}

fn refused(name: &str, error: &SinkError) -> Error {
    let message = format!("the target of `{name}`: {}; what to do: {}", error.in_words(), error.hint());
    Error::new(ErrorKind::Negative, message)
}

fn say(text: &str) -> Result<(), Error> {
    writeln!(io::stdout(), "{text}").or_else(failed_output)
}
