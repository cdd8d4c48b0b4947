//! The goals that the bench was made for, each with what was measured beside it, met or not. A ratio to "the best peer"
//! says who that was, and who else ran. A goal is met only by runs in which all that was due came, and came once.

use std::cmp::Ordering;

use super::page::number;
use super::{Results, Row};
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

/// A goal's row before it is judged.
struct Goal {
    what: String,
    asked: Asked,
    value: Option<f64>,
    /// Why the figure says nothing.
    void: Option<String>,
}

pub(super) fn goals(results: &Results) -> Vec<String> {
    let goals = [saturation, paced, postgres, sqlite, idle, devices].map(|goal| goal(results));
    let storms = [("reconnect-storm", "all at once"), ("reconnect-storm-64", "64 at a time")];
    goals.into_iter().chain(storms.map(|(name, how)| storm(results, name, how))).map(line).collect()
}

fn saturation(results: &Results) -> Goal {
    Goal {
        what: "QoS 1 saturation, Muster (fsync) / mosquitto (memory)".to_owned(),
        asked: AtLeast(1.0),
        value: over_mosquitto(results, "publish", RATE),
        void: trouble(results, "publish", &["Muster", "mosquitto"]),
    }
}

fn paced(results: &Results) -> Goal {
    let sync = results.limits.get("fdatasync of 4 KiB, p99, ms").map_or(0.0, |spread| spread.median);
    let floor = median(results, "publish-5000", "limit: a broker that does nothing", P99_MS);
    let floor = floor.map_or_else(String::new, |ms| format!("; a broker that does nothing: {ms:.2} ms"));
    Goal {
        what: format!("p99 PUBACK at 5,000/s, ms (bare fdatasync p99: {sync:.2} ms{floor})"),
        asked: AtMost(10.0),
        value: ours(results, "publish-5000", P99_MS),
        void: trouble(results, "publish-5000", &["Muster"]),
    }
}

fn postgres(results: &Results) -> Goal {
    let peers = peers(results, "pipeline-postgres", |a, b| a > b, RATE);
    let best = peers.first();
    Goal {
        what: format!("rows a second into PostgreSQL / best peer ({})", names(&peers, "rows/s")),
        asked: AtLeast(2.0),
        value: ratio(ours(results, "pipeline-postgres", RATE), best.map(|it| it.1)),
        void: trouble(results, "pipeline-postgres", &["Muster", best.map_or("", |it| it.0)]),
    }
}

fn sqlite(results: &Results) -> Goal {
    let peers = peers(results, "pipeline-sqlite", |a, b| a < b, CPU);
    let best = peers.first();
    let only = if peers.len() == 1 { ": nothing else that writes into SQLite was to be had" } else { "" };
    let cpu = ours(results, "pipeline-sqlite", CPU);
    Goal {
        what: format!(
            "CPU seconds a million events, log + rule + SQLite ({} s) / best peer ({}{only})",
            number(cpu.unwrap_or(0.0)),
            names(&peers, "s")
        ),
        asked: AtMost(0.5),
        value: ratio(cpu, best.map(|it| it.1)),
        void: trouble(results, "pipeline-sqlite", &["Muster", best.map_or("", |it| it.0)]),
    }
}

fn idle(results: &Results) -> Goal {
    Goal {
        what: format!("memory of an idle connection, {} connected, kB", connected(results)),
        asked: AtMost(20.0),
        value: ours(results, "idle", EACH_KB),
        void: trouble(results, "idle", &["Muster"]),
    }
}

fn devices(results: &Results) -> Goal {
    let [many, few] = ["devices-10000", "devices-1000"].map(|name| ours(results, name, CPU));
    let [many_p99, few_p99] = ["devices-10000", "devices-1000"].map(|name| ours(results, name, P99_MS));
    let p99 = many_p99.zip(few_p99);
    let p99 = p99.map_or_else(String::new, |(many, few)| format!(" (p99 {many:.2} ms against {few:.2} ms)"));
    let void = ["devices-10000", "devices-1000"].map(|name| trouble(results, name, &["Muster"]));
    Goal {
        what: format!("CPU, 10,000 devices / 1,000 devices, both 10,000 messages a second{p99}"),
        asked: AtMost(1.2),
        value: ratio(many, few),
        void: void.into_iter().flatten().next(),
    }
}

fn storm(results: &Results, scenario: &str, how: &str) -> Goal {
    let [us, them] = ["Muster", "mosquitto"].map(|row| median(results, scenario, row, BACK_S));
    let both = us.zip(them);
    let seconds = both.map_or_else(String::new, |(us, them)| format!(" ({us:.2} s / {them:.2} s)"));
    Goal {
        what: format!(
            "reconnect storm of 5,000, {how}: seconds until all are back, Muster / mosquitto{seconds}"
        ),
        asked: AtMost(1.5),
        value: ratio(us, them),
        void: trouble(results, scenario, &["Muster", "mosquitto"]),
    }
}

fn ratio(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.zip(b).filter(|(_, b)| *b > 0.0).map(|(a, b)| a / b)
}

fn ours(results: &Results, scenario: &str, of: Figure) -> Option<f64> {
    median(results, scenario, "Muster", of)
}

fn over_mosquitto(results: &Results, scenario: &str, of: Figure) -> Option<f64> {
    ratio(ours(results, scenario, of), median(results, scenario, "mosquitto", of))
}

/// What was lost, came twice, did not come or was not measured in the rows that a figure is made of.
fn trouble(results: &Results, scenario: &str, rows: &[&str]) -> Option<String> {
    let measured = results.scenarios.get(scenario)?;
    measured.rows.iter().filter(|row| rows.contains(&row.name.as_str())).find_map(trouble_of)
}

fn trouble_of(row: &Row) -> Option<String> {
    let sum = |of: fn(&Outcome) -> u64| row.runs.iter().map(of).sum::<u64>();
    let lost = sum(|run| run.lost.unwrap_or(0));
    let twice = sum(|run| run.duplicated);
    let short = sum(|run| run.due.saturating_sub(run.acked.unwrap_or(run.sent)));
    let absent = sum(|run| run.expected.saturating_sub(run.received));
    let failed = row.failures.len() as u64;
    let counts = [
        (lost, "lost"),
        (twice, "twice"),
        (short, "not acknowledged"),
        (absent, "not received"),
        (failed, "rounds failed"),
    ];
    let said: Vec<_> =
        counts.into_iter().filter(|it| it.0 > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let good = said.is_empty() && row.runs.iter().all(Outcome::complete);
    (!good).then(|| format!("void: {}: {}", row.name, said.join(", ")))
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

/// How many idle clients were connected.
fn connected(results: &Results) -> String {
    let rows = results.scenarios.get("idle").map(|it| it.rows.as_slice()).unwrap_or_default();
    let run = rows.iter().find(|row| row.name == "Muster").and_then(|row| row.runs.first());
    number(run.and_then(|run| run.acked).unwrap_or(0) as f64)
}

fn line(Goal { what, asked, value, void }: Goal) -> String {
    let (sign, bound, good) = match asked {
        AtLeast(bound) => (">=", bound, value.is_some_and(|value| value >= bound)),
        AtMost(bound) => ("<=", bound, value.is_some_and(|value| value <= bound)),
    };
    let shown = value.map_or_else(|| "not measured".to_owned(), |value| format!("{value:.2}"));
    let word = match (value, void) {
        (None, _) => String::new(),
        (Some(_), Some(void)) => void,
        (Some(_), None) => if good { "met" } else { "missed" }.to_owned(),
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
        results.set("pipeline-postgres", rows, "", std::time::Duration::ZERO);
        let lines = goals(&results);
        let line = lines.iter().find(|line| line.contains("PostgreSQL")).expect("its line");
        assert!(line.contains("(Benthos, 40 rows/s; also ran: a script 10) | >= 2 | 2.50 | met |"), "{line}");
        assert!(lines[0].contains("not measured"), "{}", lines[0]);
    }

    #[test]
    fn what_was_lost_makes_a_goal_void() {
        let mut results = Results::default();
        let mut ours = row("Muster", 100.0);
        ours.runs.push(Outcome {
            rate: 120.0,
            due: 9,
            sent: 9,
            lost: Some(3),
            acked: Some(6),
            ..Outcome::default()
        });
        results.set("publish", vec![ours, row("mosquitto", 10.0)], "", std::time::Duration::ZERO);
        let line = &goals(&results)[0];
        assert!(line.ends_with("| 11.00 | void: Muster: 3 lost, 3 not acknowledged |"), "{line}");
    }
}
