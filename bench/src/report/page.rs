//! `bench/RESULTS.md`: goals first, then a table and a chart a scenario, then limits.

use super::{Measured, Results, Row};
use crate::outcome::{Outcome, mebibytes, milliseconds};

pub(crate) fn markdown(results: &Results, limits: &str) -> String {
    let mut page = vec![
        "# Measured".to_owned(),
        String::new(),
        "Written by `bench/run`; all figures are medians of rounds in turns (A B A B), on one machine that also runs the \
         load. Latencies count from the moment a message should have been sent, so a server that stands still is not \
         spared. Nothing is pinned to a core where there are fewer than four."
            .to_owned(),
        String::new(),
        "| | |".to_owned(),
        "| --- | --- |".to_owned(),
    ];
    page.extend(results.machine.iter().map(|(name, value)| format!("| {name} | {value} |")));
    page.push(format!("| last command | `muster-bench {}` |", results.command));
    page.push("\n## Goals\n\n| goal | asked | measured | |\n| --- | --- | ---: | --- |".to_owned());
    page.extend(goals(results));
    for (name, measured) in &results.scenarios {
        page.extend(section(name, measured));
    }
    page.push("\n## Limits of the machine, in the same run\n\n| limit | median | min to max |\n| --- | ---: | ---: |".to_owned());
    for (name, spread) in &results.limits {
        let [median, min, max] = [spread.median, spread.min, spread.max].map(number);
        page.push(format!("| {name} | {median} | {min} to {max} |"));
    }
    page.push("\n## Not had\n".to_owned());
    for (scenario, missing) in &results.not_had {
        page.extend(missing.iter().map(|(name, why)| format!("- {scenario}: {name}: {why}")));
    }
    page.push(format!("\n{}", limits.trim()));
    page.join("\n").trim_end().to_owned() + "\n"
}

/// Three digits that matter, and thousands apart.
pub(crate) fn number(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    let whole = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn section(name: &str, measured: &Measured) -> Vec<String> {
    let rounds = measured.rows.iter().map(|row| row.runs.len()).max().unwrap_or(0);
    let unit = measured.rows.first().and_then(|row| row.runs.first()).map_or("", |run| run.unit.as_str());
    let mut lines = vec![
        format!("\n## {name}\n\n{}, {rounds} rounds.\n\n![{name}](results/{name}.svg)\n", measured.date),
        format!(
            "| contender | {unit}/s, median | min to max | of mosquitto | p50 | p99 | CPU s a million | peak memory | \
             sent, acked, received | lost, twice, refused, errors |"
        ),
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |".to_owned(),
    ];
    let base = measured.rows.iter().find(|row| row.name.starts_with("mosquitto"));
    let base = base.map_or(0.0, |row| row.spread(|run| Some(run.rate)).median);
    lines.extend(measured.rows.iter().map(|row| line(row, base)));
    let extra = measured.rows.iter().flat_map(|row| {
        let keys =
            row.runs.first().map(|run| run.more.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
        keys.into_iter().map(|key| {
            let spread = row.spread(|run| run.more.get(&key).copied());
            let [median, min, max] = [spread.median, spread.min, spread.max].map(number);
            format!("- {}: {key}: {median} ({min} to {max})", row.name)
        })
    });
    let extra: Vec<_> = extra.collect();
    if !extra.is_empty() {
        lines.push(String::new());
        lines.extend(extra);
    }
    lines
}

fn line(row: &Row, base: f64) -> String {
    let rate = row.spread(|run| Some(run.rate));
    let latency = |of: fn(&Outcome) -> Option<u64>| {
        let some = row.runs.iter().any(|run| of(run).is_some());
        let middle = row.spread(|run| of(run).map(|us| us as f64)).median;
        if some { milliseconds(middle as u64) } else { "-".to_owned() }
    };
    let sum = |of: fn(&Outcome) -> u64| row.runs.iter().map(of).sum::<u64>();
    format!(
        "| {} ({}) | {} | {} to {} | {:.2} | {} | {} | {} | {} | {}, {}, {} | {}, {}, {}, {} |",
        row.name,
        row.durability,
        number(rate.median),
        number(rate.min),
        number(rate.max),
        if base > 0.0 { rate.median / base } else { 0.0 },
        latency(|run| run.latency.map(|it| it.p50_us)),
        latency(|run| run.latency.map(|it| it.p99_us)),
        number(row.spread(|run| run.cpu_s_per_million).median),
        mebibytes(row.spread(|run| run.server_peak_bytes.map(|bytes| bytes as f64)).median as u64),
        sum(|run| run.sent),
        sum(|run| run.acked),
        sum(|run| run.received),
        sum(|run| run.lost),
        sum(|run| run.duplicated),
        sum(|run| run.refused),
        sum(|run| run.errors),
    )
}

/// The median of a contender's figure, if it was measured.
fn median(results: &Results, scenario: &str, row: &str, of: impl Fn(&Outcome) -> Option<f64>) -> Option<f64> {
    let row = results.scenarios.get(scenario)?.rows.iter().find(|it| it.name == row)?;
    row.runs.iter().any(|run| of(run).is_some()).then(|| row.spread(of).median)
}

/// The best (largest or smallest) figure of who is not Muster.
fn best_peer(
    results: &Results,
    scenario: &str,
    largest: bool,
    of: fn(&Outcome) -> Option<f64>,
) -> Option<f64> {
    let rows = &results.scenarios.get(scenario)?.rows;
    let peers = rows.iter().filter(|row| !row.name.starts_with("Muster") && !row.name.starts_with("limit"));
    let figures = peers.map(|row| row.spread(of).median).filter(|figure| *figure > 0.0);
    if largest { figures.max_by(f64::total_cmp) } else { figures.min_by(f64::total_cmp) }
}

fn goals(results: &Results) -> Vec<String> {
    let rate: fn(&Outcome) -> Option<f64> = |run| Some(run.rate);
    let cpu: fn(&Outcome) -> Option<f64> = |run| run.cpu_s_per_million;
    let ours = |scenario, of| median(results, scenario, "Muster", of);
    let ratio = |a: Option<f64>, b: Option<f64>| a.zip(b).filter(|(_, b)| *b > 0.0).map(|(a, b)| a / b);
    let p99: fn(&Outcome) -> Option<f64> = |run| run.latency.map(|it| it.p99_us as f64 / 1e3);
    let back: fn(&Outcome) -> Option<f64> = |run| run.more.get("seconds until all are in").copied();
    let each: fn(&Outcome) -> Option<f64> =
        |run| run.more.get("bytes a connection").map(|bytes| bytes / 1000.0);
    let sync = results.limits.get("fdatasync of 4 KiB, p99, ms").map_or(0.0, |spread| spread.median);
    let publish = ratio(ours("publish", rate), median(results, "publish", "mosquitto", rate));
    let storm = ratio(ours("reconnect-storm", back), median(results, "reconnect-storm", "mosquitto", back));
    let devices = ratio(ours("devices-10000", cpu), ours("devices-1000", cpu));
    let rows = ratio(ours("pipeline-postgres", rate), best_peer(results, "pipeline-postgres", true, rate));
    let sqlite = ratio(ours("pipeline-sqlite", cpu), best_peer(results, "pipeline-sqlite", false, cpu));
    let line = |what: &str, asked: &str, value: Option<f64>, good: fn(f64) -> bool| {
        let (shown, word) = match value {
            None => ("not measured".to_owned(), ""),
            Some(value) => (format!("{value:.2}"), if good(value) { "met" } else { "missed" }),
        };
        format!("| {what} | {asked} | {shown} | {word} |")
    };
    vec![
        line("QoS 1 saturation, Muster (fsync) / mosquitto (memory)", ">= 1.0", publish, |it| it >= 1.0),
        line(
            &format!("p99 PUBACK at 5,000/s, ms (bare fdatasync p99: {sync:.2} ms)"),
            "<= 10",
            ours("publish-5000", p99),
            |it| it <= 10.0,
        ),
        line("rows a second into PostgreSQL / best peer", ">= 2", rows, |it| it >= 2.0),
        line(
            &format!(
                "CPU a million events, log + rule + SQLite ({:.2} s) / best peer",
                ours("pipeline-sqlite", cpu).unwrap_or(0.0)
            ),
            "<= 0.5",
            sqlite,
            |it| it <= 0.5,
        ),
        line("memory of an idle connection, 9,900 connected, kB", "<= 20", ours("idle", each), |it| {
            it <= 20.0
        }),
        line("CPU, 9,900 devices / 1,000 devices, both 10,000 messages a second", "<= 1.2", devices, |it| {
            it <= 1.2
        }),
        line("reconnect storm of 5,000, Muster / mosquitto", "<= 1.5", storm, |it| it <= 1.5),
    ]
}
