//! `bench/RESULTS.md`: goals first, then a table, a chart and what limits it a scenario, then the machine's limits.

use std::collections::BTreeMap;

use super::goals::goals;
use super::{Measured, Results, Row};
use crate::outcome::{Outcome, mebibytes, milliseconds};

/// Fewer rounds than these make no figure that is quoted.
const ROUNDS_MIN: usize = 5;

/// `said` is what a person read of the figures: `bench/limits.md`.
pub(crate) fn markdown(results: &Results, said: &str) -> String {
    let said = sections(said);
    let about = |name: &str| said.get(name).copied().unwrap_or("nobody has looked yet.");
    let mut page = vec![
        "# Measured".to_owned(),
        String::new(),
        "Written by `bench/run`; all figures are medians of rounds in turns (A B A B), on one machine that also runs the \
         load. Latencies count from the moment a message should have been sent, so a server that stands still is not \
         spared. With QoS 0 nothing is acknowledged: what was written to the socket counts."
            .to_owned(),
        String::new(),
    ];
    let fewest = results.scenarios.values().map(rounds).min().unwrap_or(0);
    if fewest < ROUNDS_MIN {
        page.push(format!(
            "**These figures are provisional:** {fewest} rounds in places, where {ROUNDS_MIN} are asked for.\n"
        ));
    }
    page.extend(["| | |", "| --- | --- |"].map(str::to_owned));
    page.extend(results.machine.iter().map(|(name, value)| format!("| {name} | {value} |")));
    page.push(format!("| last command | `muster-bench {}` |", results.command));
    page.push("\n## Goals\n\n| goal | asked | measured | |\n| --- | --- | ---: | --- |".to_owned());
    page.extend(goals(results));
    for (name, measured) in &results.scenarios {
        page.extend(section(name, measured));
        page.push(format!("\n**What limits it:** {}", about(name)));
    }
    page.push("\n## Limits of the machine, in the same run\n\n| limit | median | min to max |\n| --- | ---: | ---: |".to_owned());
    for (name, spread) in &results.limits {
        let [median, min, max] = [spread.median, spread.min, spread.max].map(number);
        page.push(format!("| {name} | {median} | {min} to {max} |"));
    }
    page.push("\n## Peers that could not be had\n".to_owned());
    page.extend(said.get(NOT_HAD).map(|it| (*it).to_owned()));
    for (scenario, missing) in &results.not_had {
        page.extend(missing.iter().map(|(name, why)| format!("- {scenario}: {name}: {why}")));
    }
    page.join("\n").trim_end().to_owned() + "\n"
}

/// The heading in `bench/limits.md` under which peers are named that nobody could start at all.
const NOT_HAD: &str = "not had";

/// What stands under each heading.
fn sections(text: &str) -> BTreeMap<&str, &str> {
    let parts = text.split("\n## ").skip(1).filter_map(|part| part.split_once('\n'));
    parts.map(|(name, text)| (name.trim(), text.trim())).collect()
}

fn rounds(measured: &Measured) -> usize {
    measured.rows.iter().map(|row| row.runs.len()).max().unwrap_or(0)
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
    let rounds = rounds(measured);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_read_stands_beside_the_figure() {
        let said = "# Title\n\nintroduction\n\n## publish\n\nthe disk\n\n## not had\n\n- eKuiper: no\n";
        assert_eq!(sections(said), BTreeMap::from([("publish", "the disk"), ("not had", "- eKuiper: no")]));
        let mut results = Results::default();
        results.set("publish", Vec::new());
        results.set("idle", Vec::new());
        let page = markdown(&results, said);
        assert!(
            page.contains("**What limits it:** the disk") && page.contains("nobody has looked yet"),
            "{page}"
        );
        assert!(page.contains("## Peers that could not be had\n\n- eKuiper: no"), "{page}");
    }
}
