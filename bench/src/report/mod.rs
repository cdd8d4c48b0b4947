//! The report: what the runs gave, as JSON that later runs of single scenarios are merged into, as Markdown with ratios
//! against the goals, and as one chart a scenario. What limits each figure is read by a person, in `bench/limits.md`.

mod goals;
mod page;
mod svg;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::outcome::Outcome;
use crate::suite::{cached, newest_nats};

/// Everything that the report tells.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Vec<(String, String)>,
    pub(crate) command: String,
    pub(crate) scenarios: BTreeMap<String, Measured>,
    pub(crate) limits: BTreeMap<String, Spread>,
    /// Scenario, contender, reason.
    pub(crate) not_had: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) date: String,
    pub(crate) rows: Vec<Row>,
}

/// A contender in a scenario.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) durability: String,
    pub(crate) runs: Vec<Outcome>,
}

impl Row {
    pub(crate) fn new(name: &str, durability: &str) -> Self {
        Self { name: name.to_owned(), durability: durability.to_owned(), runs: Vec::new() }
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
    pub(crate) fn load() -> anyhow::Result<Self> {
        Ok(serde_json::from_str(&fs::read_to_string(folder().join("results/results.json"))?)?)
    }

    pub(crate) fn set(&mut self, scenario: &str, rows: Vec<Row>) {
        if let Some(missing) = self.not_had.get_mut(scenario) {
            missing.retain(|name, _| !rows.iter().any(|row| row.name == *name));
        }
        let date = jiff::Zoned::now().strftime("%F %H:%M").to_string();
        self.scenarios.insert(scenario.to_owned(), Measured { date, rows });
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
            (
                "Muster".to_owned(),
                said("git", &["-C", &folder().display().to_string(), "describe", "--always", "--dirty"]),
            ),
            ("mosquitto".to_owned(), said("/usr/sbin/mosquitto", &["-h"])),
            ("NATS".to_owned(), nats),
            ("rumqttd".to_owned(), "the crate in Cargo.lock, 0.20".to_owned()),
            ("PostgreSQL".to_owned(), said("psql", &["--version"])),
            ("Node-RED".to_owned(), node_red()),
            ("Benthos".to_owned(), benthos()),
        ];
        self.command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    }
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
    fs::write(charts.join("results.json"), serde_json::to_string_pretty(results)? + "\n")?;
    for (name, measured) in &results.scenarios {
        fs::write(charts.join(format!("{name}.svg")), svg::chart(name, measured))?;
    }
    let limits = fs::read_to_string(folder().join("limits.md")).unwrap_or_default();
    fs::write(folder().join("RESULTS.md"), page::markdown(results, &limits))?;
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
