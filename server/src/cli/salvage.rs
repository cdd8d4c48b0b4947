//! `muster log verify` and `muster log repair`: the event log, looked at record by record, with a progress bar.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use muster_core::clock::SystemClock;
use muster_core::log::{Damage, Progress, RealDisk, VerifyReport};

use super::failed_output;
use crate::config::Config;
use crate::error::{Error, ErrorKind};

/// `muster log verify`: exit code 1 if something is damaged.
pub(super) fn verify(config: &Config) -> Result<(), Error> {
    let dir = log_dir(config)?;
    let bar = progress_bar();
    let report = muster_core::log::verify(&RealDisk, &dir, &mut |progress| show(&bar, progress));
    bar.finish_and_clear();
    let report = report.map_err(|error| cannot("verify", &dir, error))?;
    print(&report, "are good").or_else(failed_output)?;
    if report.damages.is_empty() {
        return Ok(());
    }
    let message =
        format!("the event log in {} is not whole; `muster log repair` saves what is good", dir.display());
    Err(Error::new(ErrorKind::Negative, message))
}

/// `muster log repair`: copies what is good to `to` and says how to go on.
pub(super) fn repair(config: &Config, to: &Path) -> Result<(), Error> {
    let dir = log_dir(config)?;
    let bar = progress_bar();
    let clock = SystemClock::shared();
    let repaired =
        muster_core::log::repair(&RealDisk, &*clock, &dir, to, &mut |progress| show(&bar, progress));
    bar.finish_and_clear();
    let report = repaired.map_err(|error| cannot("repair", &dir, error))?;
    print(&report.found, "were copied").or_else(failed_output)?;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "The repaired log is in {to}; {dir} is as it was. To use the repaired one:\n  mv {dir} {dir}.damaged && mv {to} {dir}",
        to = to.display(),
        dir = dir.display(),
    )
    .or_else(failed_output)
}

fn print(report: &VerifyReport, done: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{} of {} records {done}, offsets {} to {}, in {} segments, {} bytes",
        report.records,
        report.next_offset - report.first_offset,
        report.first_offset,
        report.next_offset,
        report.segments,
        report.bytes,
    )?;
    for damage in &report.damages {
        let Damage { segment, byte, bytes, offset, next_offset, what } = damage;
        let lost = match next_offset {
            Some(next) if next == offset => "nothing is lost".to_owned(),
            Some(next) if *next == offset + 1 => format!("offset {offset} is lost"),
            Some(next) => format!("offsets {offset} to {} are lost", next - 1),
            None => format!("what followed offset {offset} is lost, if there was anything"),
        };
        writeln!(out, "{}: byte {byte}, {bytes} bytes: {what}; {lost}", segment.display())?;
    }
    Ok(())
}

fn log_dir(config: &Config) -> Result<PathBuf, Error> {
    let dir = config.data.join("log");
    if dir.is_dir() {
        return Ok(dir);
    }
    let message =
        format!("there is no event log in {}; --data names the data directory", config.data.display());
    Err(Error::new(ErrorKind::Start, message))
}

fn cannot(what: &str, dir: &Path, error: muster_core::log::LogError) -> Error {
    Error::because(ErrorKind::Start, format!("cannot {what} the event log in {}", dir.display()), error)
}

/// On a terminal only; elsewhere it draws nothing.
fn progress_bar() -> ProgressBar {
    let style = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let bar = ProgressBar::new(0);
    match ProgressStyle::with_template(style) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_length(progress.bytes_total);
    bar.set_position(progress.bytes);
}
