//! The report: what the runs gave, as JSON that later runs of single scenarios are merged into, as Markdown with ratios
//! against the goals, and as one chart a scenario. What limits each figure is read by a person, in `bench/limits.md`.

mod goals;
mod page;
mod svg;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::outcome::Outcome;
use crate::suite::{cached, newest_nats};

/// Everything that the report tells.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Vec<(String, String)>,
    /// The last run.
    #[serde(default)]
    pub(crate) run: Run,
    pub(crate) scenarios: BTreeMap<String, Measured>,
    pub(crate) limits: BTreeMap<String, Spread>,
    /// When, and by which run.
    #[serde(default)]
    pub(crate) limits_date: String,
    #[serde(default)]
    pub(crate) limits_run: Run,
    /// Scenario, contender, reason.
    pub(crate) not_had: BTreeMap<String, BTreeMap<String, String>>,
}

/// What was measured, and by which command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) commit: String,
    pub(crate) command: String,
    /// When it began.
    pub(crate) date: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// When it was done.
    pub(crate) date: String,
    #[serde(default)]
    pub(crate) run: Run,
    /// How long all rounds took.
    #[serde(default)]
    pub(crate) took_s: f64,
    /// What was done, and how it is done again.
    #[serde(default)]
    pub(crate) how: String,
    pub(crate) rows: Vec<Row>,
}

/// A contender in a scenario.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) durability: String,
    pub(crate) runs: Vec<Outcome>,
    /// Rounds that gave nothing, and why.
    #[serde(default)]
    pub(crate) failures: Vec<String>,
}

impl Row {
    pub(crate) fn new(name: &str, durability: &str) -> Self {
        Self {
            name: name.to_owned(),
            durability: durability.to_owned(),
            runs: Vec::new(),
            failures: Vec::new(),
        }
    }

    pub(crate) fn spread(&self, of: impl Fn(&Outcome) -> Option<f64>) -> Spread {
        Spread::of(self.runs.iter().filter_map(of).collect())
    }
}

/// Median and extremes of all rounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
        let count = values.len();
        let median = if count.is_multiple_of(2) && count > 0 {
            f64::midpoint(at(count / 2 - 1), at(count / 2))
        } else {
            at(count / 2)
        };
        Self { median, min: at(0), max: at(count.saturating_sub(1)) }
    }
}

impl Results {
    /// What earlier runs gave; nothing where there was none. What cannot be read is not written over.
    pub(crate) fn load() -> anyhow::Result<Self> {
        let file = folder().join("results/results.json");
        match fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str(&text).with_context(|| {
                format!("{}: it is no result of this version; move it away", file.display())
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| file.display().to_string()),
        }
    }

    /// A contender of whom every round failed is named with those that could not be had.
    pub(crate) fn set(&mut self, scenario: &str, rows: Vec<Row>, how: &str, took: Duration) {
        self.not_had.remove(scenario);
        let (rows, without): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| !row.runs.is_empty());
        for row in without {
            self.missing(scenario, &row.name, row.failures.first().map_or("no round", String::as_str));
        }
        let (date, run, how) = (now(), self.run.clone(), how.to_owned());
        let measured = Measured { date, run, took_s: took.as_secs_f64(), how, rows };
        self.scenarios.insert(scenario.to_owned(), measured);
    }

    pub(crate) fn set_limits(&mut self, limits: BTreeMap<String, Spread>, took: Duration) {
        self.limits = limits;
        self.limits_date = format!("{}, after {:.0} s", now(), took.as_secs_f64());
        self.limits_run = self.run.clone();
    }

    pub(crate) fn missing(&mut self, scenario: &str, contender: &str, reason: &str) {
        let missing = self.not_had.entry(scenario.to_owned()).or_default();
        missing.insert(contender.to_owned(), reason.to_owned());
    }

    /// The machine and what was compared.
    pub(crate) fn describe(&mut self, place: &Path, pinned: &str) {
        let first = |file: &str, key: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
            line.split_once(':').map_or(line.clone(), |(_, value)| value.trim().to_owned())
        };
        let nats = newest_nats().unwrap_or_else(|| "nats-server".into());
        let nats = said(&nats.display().to_string(), &["--version"]);
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        self.machine = vec![
            ("processor".to_owned(), format!("{}, {cores} cores", first("/proc/cpuinfo", "model name"))),
            ("memory".to_owned(), first("/proc/meminfo", "MemTotal")),
            ("system".to_owned(), first("/proc/version", "Linux")),
            ("cores".to_owned(), pinned.to_owned()),
            ("files on".to_owned(), said("df", &["--output=fstype,source", &place.display().to_string()])),
            ("Muster".to_owned(), commit()),
            ("built with".to_owned(), said("rustc", &["--version"])),
            ("mosquitto".to_owned(), said("/usr/sbin/mosquitto", &["-h"])),
            ("NATS".to_owned(), nats),
            ("rumqttd".to_owned(), "the crate in Cargo.lock, 0.20".to_owned()),
            ("PostgreSQL".to_owned(), said("psql", &["--version"])),
            ("Node-RED".to_owned(), node_red()),
            ("Benthos".to_owned(), benthos()),
        ];
        let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        self.run = Run { commit: commit(), command, date: now() };
    }
}

fn now() -> String {
    jiff::Zoned::now().strftime("%F %H:%M").to_string()
}

/// What ends the name of a commit that is not all that was measured.
pub(crate) const CHANGED: &str = " and changes that are in no commit";

/// What is checked out, and whether the tree is that: what the bench itself writes does not count.
fn commit() -> String {
    let root = folder().join("..").display().to_string();
    let commit = said("git", &["-C", &root, "rev-parse", "--short=10", "HEAD"]);
    let (results, page) = (":(exclude)bench/results", ":(exclude)bench/*.md");
    let status = ["-C", &root, "status", "--porcelain", "--untracked-files=no", "--", ".", results, page];
    let changed = Command::new("git").args(status).output().is_ok_and(|it| !it.stdout.is_empty());
    if changed { commit + CHANGED } else { commit }
}

/// The first line that says something with a number or a name, of a program's output.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|it| String::from_utf8_lossy(&it.stdout).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let line = if program == "df" { lines.last() } else { lines.first() };
    line.map_or("not installed".to_owned(), |line| line.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn node_red() -> String {
    let package = cached("node-red/node_modules/node-red/package.json");
    let package = package.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    let package: serde_json::Value = serde_json::from_str(&package).unwrap_or_default();
    let version =
        package["version"].as_str().map(|version| format!("{version}, Node.js {}", said("node", &["-v"])));
    version.unwrap_or_else(|| "not installed".to_owned())
}

/// The version in its `go.mod`: a build of our own does not say one.
fn benthos() -> String {
    let text = fs::read_to_string(folder().join("peers/benthos/go.mod")).unwrap_or_default();
    let version = text.lines().find_map(|line| Some(line.split_once("benthosdev/benthos/v4 ")?.1.to_owned()));
    version.filter(|_| cached("bin/benthos").is_some()).unwrap_or_else(|| "not installed".to_owned())
}

/// Where the report is: in the checkout that this was built from.
pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn again() -> anyhow::Result<()> {
    write(&Results::load()?)
}

pub(crate) fn write(results: &Results) -> anyhow::Result<()> {
    let charts = folder().join("results");
    fs::create_dir_all(&charts)?;
    // By another name first, so that an end in the middle leaves what was there.
    let new = charts.join("results.json.new");
    fs::write(&new, serde_json::to_string_pretty(results)? + "\n")?;
    fs::rename(&new, charts.join("results.json"))?;
    for (name, measured) in &results.scenarios {
        fs::write(charts.join(format!("{name}.svg")), svg::chart(name, measured))?;
    }
    let [limits, mended] = ["limits.md", "mended.md"].map(|file| {
        let file = folder().join(file);
        fs::read_to_string(&file).with_context(|| file.display().to_string())
    });
    fs::write(folder().join("RESULTS.md"), page::markdown(results, &limits?, &mended?))?;
    eprintln!("wrote {}", folder().join("RESULTS.md").display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of(vec![4.0, 1.0]).median, 2.5);
        assert_eq!(Spread::of(Vec::new()), Spread::default());
    }
}
