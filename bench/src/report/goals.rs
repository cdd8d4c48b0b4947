//! The goals that the bench was made for, each with what was measured beside it, met or not. A ratio to "the best peer"
//! says who that was, and who else ran.

use std::cmp::Ordering;

use super::Results;
use super::page::number;
use crate::outcome::Outcome;
use Asked::{AtLeast, AtMost};

/// How a figure is got from a run.
type Figure = fn(&Outcome) -> Option<f64>;

const RATE: Figure = |run| Some(run.rate);
const CPU: Figure = |run| run.cpu_s_per_million;
const P99_MS: Figure = |run| run.latency.map(|it| it.p99_us as f64 / 1e3);
const BACK_S: Figure = |run| run.more.get("seconds until all are in").copied();
const EACH_KB: Figure = |run| run.more.get("bytes a connection").map(|bytes| bytes / 1000.0);

enum Asked {
    AtLeast(f64),
    AtMost(f64),
}

pub(super) fn goals(results: &Results) -> Vec<String> {
    let ours = |scenario, of| median(results, scenario, "Muster", of);
    let mosquitto = |scenario, of| median(results, scenario, "mosquitto", of);
    let ratio = |a: Option<f64>, b: Option<f64>| a.zip(b).filter(|(_, b)| *b > 0.0).map(|(a, b)| a / b);
    let sync = results.limits.get("fdatasync of 4 KiB, p99, ms").map_or(0.0, |spread| spread.median);
    let into_postgres = peers(results, "pipeline-postgres", |a, b| a > b, RATE);
    let into_sqlite = peers(results, "pipeline-sqlite", |a, b| a < b, CPU);
    let best = |peers: &[(&str, f64)]| peers.first().map(|(_, figure)| *figure);
    let over_mosquitto = |scenario, of: Figure| ratio(ours(scenario, of), mosquitto(scenario, of));
    vec![
        line(
            "QoS 1 saturation, Muster (fsync) / mosquitto (memory)",
            AtLeast(1.0),
            over_mosquitto("publish", RATE),
        ),
        line(
            &format!("p99 PUBACK at 5,000/s, ms (bare fdatasync p99: {sync:.2} ms)"),
            AtMost(10.0),
            ours("publish-5000", P99_MS),
        ),
        line(
            &format!("rows a second into PostgreSQL / best peer ({})", names(&into_postgres, "rows/s")),
            AtLeast(2.0),
            ratio(ours("pipeline-postgres", RATE), best(&into_postgres)),
        ),
        line(
            &format!(
                "CPU seconds a million events, log + rule + SQLite ({} s) / best peer ({})",
                number(ours("pipeline-sqlite", CPU).unwrap_or(0.0)),
                names(&into_sqlite, "s")
            ),
            AtMost(0.5),
            ratio(ours("pipeline-sqlite", CPU), best(&into_sqlite)),
        ),
        line(
            &format!("memory of an idle connection, {} connected, kB", connected(results, "idle")),
            AtMost(20.0),
            ours("idle", EACH_KB),
        ),
        line(
            &format!(
                "CPU, {} devices / 1,000 devices, both 10,000 messages a second",
                connected(results, "devices-10000")
            ),
            AtMost(1.2),
            ratio(ours("devices-10000", CPU), ours("devices-1000", CPU)),
        ),
        line(
            "reconnect storm of 5,000, seconds until all are back, Muster / mosquitto",
            AtMost(1.5),
            over_mosquitto("reconnect-storm", BACK_S),
        ),
    ]
}

/// The median of a contender's figure, if it was measured.
fn median(results: &Results, scenario: &str, row: &str, of: impl Fn(&Outcome) -> Option<f64>) -> Option<f64> {
    let row = results.scenarios.get(scenario)?.rows.iter().find(|it| it.name == row)?;
    row.runs.iter().any(|run| of(run).is_some()).then(|| row.spread(of).median)
}

/// The peers of a scenario with their figures, the best of them first.
fn peers<'a>(
    results: &'a Results,
    scenario: &str,
    better: fn(f64, f64) -> bool,
    of: fn(&Outcome) -> Option<f64>,
) -> Vec<(&'a str, f64)> {
    let rows = results.scenarios.get(scenario).map(|it| it.rows.as_slice()).unwrap_or_default();
    let peers = rows.iter().filter(|row| !row.name.starts_with("Muster") && !row.name.starts_with("limit"));
    let figures = peers.map(|row| (row.name.as_str(), row.spread(of).median));
    let mut figures: Vec<_> = figures.filter(|(_, figure)| *figure > 0.0).collect();
    figures.sort_by(|(_, a), (_, b)| if better(*a, *b) { Ordering::Less } else { Ordering::Greater });
    figures
}

/// Who they are, the best first, each with its figure.
fn names(peers: &[(&str, f64)], unit: &str) -> String {
    let Some(((best, figure), others)) = peers.split_first() else { return "no peer ran".to_owned() };
    let mut text = format!("{best}, {} {unit}", number(*figure));
    for (at, (name, figure)) in others.iter().enumerate() {
        text.push_str(if at == 0 { "; also ran: " } else { ", " });
        text.push_str(&format!("{name} {}", number(*figure)));
    }
    text
}

/// How many clients a scenario of ours had. Devices are not counted in a run: there are as many as the suite has.
fn connected(results: &Results, scenario: &str) -> String {
    let rows = results.scenarios.get(scenario).map(|it| it.rows.as_slice()).unwrap_or_default();
    let run = rows.iter().find(|row| row.name == "Muster").and_then(|row| row.runs.first());
    number(run.map_or(0.0, |run| if scenario == "idle" { run.acked as f64 } else { 10_000.0 }))
}

fn line(what: &str, asked: Asked, value: Option<f64>) -> String {
    let (sign, bound, good) = match asked {
        AtLeast(bound) => (">=", bound, value.is_some_and(|value| value >= bound)),
        AtMost(bound) => ("<=", bound, value.is_some_and(|value| value <= bound)),
    };
    let (shown, word) = match value {
        None => ("not measured".to_owned(), ""),
        Some(value) => (format!("{value:.2}"), if good { "met" } else { "missed" }),
    };
    format!("| {what} | {sign} {bound} | {shown} | {word} |")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Row;

    fn row(name: &str, rate: f64) -> Row {
        let mut row = Row::new(name, "");
        row.runs.push(Outcome { rate, ..Outcome::default() });
        row
    }

    #[test]
    fn the_best_peer_is_the_measure_and_all_that_ran_are_named() {
        let mut results = Results::default();
        let rows =
            vec![row("Muster", 100.0), row("a script", 10.0), row("Benthos", 40.0), row("limit: x", 900.0)];
        results.set("pipeline-postgres", rows);
        let lines = goals(&results);
        let line = lines.iter().find(|line| line.contains("PostgreSQL")).expect("its line");
        assert!(line.contains("(Benthos, 40 rows/s; also ran: a script 10) | >= 2 | 2.50 | met |"), "{line}");
        assert!(lines[0].contains("not measured"), "{}", lines[0]);
    }
}
