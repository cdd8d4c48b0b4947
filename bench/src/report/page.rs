//! `bench/RESULTS.md`: goals first, then a table, a chart, what was done and what limits it a scenario, then the
//! machine's limits.

use std::collections::{BTreeMap, BTreeSet};

use super::goals::goals;
use super::{CHANGED, Measured, Results, Row, Run};
use crate::outcome::{Outcome, known, mebibytes, milliseconds};

/// Fewer rounds than these make no figure that is quoted.
const ROUNDS_MIN: usize = 5;

const ABOUT: &str = "\
Written by `bench/run`. All figures are medians of rounds in turns (A B A B), with the smallest and the largest beside \
them, on one machine that also runs the load; p99.9 is a median too, `slowest` the slowest of all rounds.

Beside each table stands whether it was an open or a closed loop. In an open loop a message is due by a schedule, \
whatever the server does: its latency counts from there, all that was due is sent and waited for, and what never came \
counts with the time after which it was given up. `sent late` is how much later than due the generator sent: that part \
of a latency is its own, or that of a full window, and the broker that does nothing shows the floor. In a closed loop \
the next message waits for an acknowledgement: latency is then window through rate, and says nothing of stalls.

With QoS 0 nothing is acknowledged: what counts is what the broker has read, as its answers to PINGREQ tell. What \
nobody can know has a dash. CPU is the server's alone, in seconds a million of what is counted.
";

/// `said` is what a person read of the figures: `bench/limits.md`; `mended` what was done about the worst of them.
pub(crate) fn markdown(results: &Results, said: &str, mended: &str) -> String {
    let said = sections(said);
    let about = |name: &str| said.get(name).copied().unwrap_or("nobody has looked yet.");
    let mut page = vec!["# Measured\n".to_owned(), ABOUT.to_owned()];
    page.extend(warnings(results));
    page.extend(["| | |", "| --- | --- |"].map(str::to_owned));
    page.extend(results.machine.iter().map(|(name, value)| format!("| {name} | {value} |")));
    page.push(format!("| last run | `muster-bench {}`, began {} |", results.run.command, results.run.date));
    page.push("\n## Goals\n\n| goal | asked | measured | |\n| --- | --- | ---: | --- |".to_owned());
    page.extend(goals(results));
    page.push(format!("\n{}", mended.trim()));
    for (name, measured) in &results.scenarios {
        page.extend(section(name, measured, &results.run));
        page.push(format!("\n**What limits it:** {}", about(name)));
    }
    page.extend(limits(results, said.get(LIMITS).copied()));
    page.push("\n## Peers that could not be had\n".to_owned());
    page.extend(said.get(NOT_HAD).map(|it| (*it).to_owned()));
    for (scenario, missing) in &results.not_had {
        page.extend(missing.iter().map(|(name, why)| format!("- {scenario}: {name}: {why}")));
    }
    page.join("\n").trim_end().to_owned() + "\n"
}

/// The headings in `bench/limits.md` that are no scenario's: what is said of the machine, and which peers nobody could
/// start at all.
const LIMITS: &str = "limits";
const NOT_HAD: &str = "not had";

/// What stands under each heading.
fn sections(text: &str) -> BTreeMap<&str, &str> {
    let parts = text.split("\n## ").skip(1).filter_map(|part| part.split_once('\n'));
    parts.map(|(name, text)| (name.trim(), text.trim())).collect()
}

/// Why nothing of it should be quoted.
fn warnings(results: &Results) -> Vec<String> {
    let mut warnings = Vec::new();
    let rows = results.scenarios.values().flat_map(|it| &it.rows);
    let fewest = rows.map(|row| row.runs.len()).min().unwrap_or(0);
    if fewest < ROUNDS_MIN {
        warnings.push(format!(
            "**These figures are provisional:** {fewest} rounds in places, where {ROUNDS_MIN} are asked for.\n"
        ));
    }
    let changed = results.scenarios.iter().filter(|(_, it)| it.run.commit.ends_with(CHANGED));
    let changed: Vec<_> = changed.map(|(name, _)| name.as_str()).collect();
    if !changed.is_empty() {
        warnings.push(format!(
            "**Nobody can repeat these figures:** the tree had changes that are in no commit ({}).\n",
            changed.join(", ")
        ));
    }
    warnings
}

fn limits(results: &Results, said: Option<&str>) -> Vec<String> {
    let mut lines = vec![format!(
        "\n## Limits of the machine\n\n{}.{}\n",
        results.limits_date,
        another(&results.limits_run, &results.run)
    )];
    lines.extend(said.map(|said| format!("{said}\n")));
    lines.push("| limit | median | min to max |\n| --- | ---: | ---: |".to_owned());
    for (name, spread) in &results.limits {
        let [median, min, max] = [spread.median, spread.min, spread.max].map(number);
        lines.push(format!("| {name} | {median} | {min} to {max} |"));
    }
    lines
}

/// Says so where a figure is not of the last run.
fn another(run: &Run, last: &Run) -> String {
    if run == last {
        return String::new();
    }
    if run.command.is_empty() {
        return " **Another run**, by a bench that did not note which.".to_owned();
    }
    format!(" **Another run:** {}, `muster-bench {}`, began {}.", run.commit, run.command, run.date)
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

fn section(name: &str, measured: &Measured, last: &Run) -> Vec<String> {
    let unit = measured.rows.first().and_then(|row| row.runs.first()).map_or("", |run| run.unit.as_str());
    let base = measured.rows.iter().find(|row| row.name.starts_with("mosquitto"));
    let base_name = base.map_or("a peer", |row| row.name.as_str());
    let mut lines = vec![
        format!(
            "\n## {name}\n\n{}, after {:.0} s.{}\n",
            measured.date,
            measured.took_s,
            another(&measured.run, last)
        ),
        format!("{}\n\n![{name}](results/{name}.svg)\n", measured.how),
        format!(
            "| contender | rounds | {unit}/s | of {base_name} | p50 | p99 | p99.9 | slowest | sent late, p99 | \
             CPU s a million | peak memory | due, sent, acked, received | lost, twice, refused, errors |"
        ),
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
            .to_owned(),
    ];
    let base = base.map_or(0.0, |row| row.spread(|run| Some(run.rate)).median);
    lines.extend(measured.rows.iter().map(|row| line(row, base)));
    let more: Vec<_> = measured.rows.iter().flat_map(more).collect();
    if !more.is_empty() {
        lines.push(String::new());
        lines.extend(more);
    }
    lines
}

/// What only this scenario counts, and the rounds that gave nothing.
fn more(row: &Row) -> Vec<String> {
    let keys: BTreeSet<&String> = row.runs.iter().flat_map(|run| run.more.keys()).collect();
    let mut lines = Vec::new();
    for key in keys {
        let spread = row.spread(|run| run.more.get(key).copied());
        if spread.max > 0.0 {
            lines.push(format!("- {}: {key}: {}", row.name, spread_of(spread, number)));
        }
    }
    lines.extend(row.failures.iter().map(|why| format!("- {}: failed: {why}", row.name)));
    lines
}

fn spread_of(spread: super::Spread, show: fn(f64) -> String) -> String {
    format!("{} ({} to {})", show(spread.median), show(spread.min), show(spread.max))
}

fn line(row: &Row, base: f64) -> String {
    let rate = row.spread(|run| Some(run.rate));
    let dash = || "-".to_owned();
    let some = |of: &dyn Fn(&Outcome) -> Option<f64>| row.runs.iter().any(|run| of(run).is_some());
    let of = |of: &dyn Fn(&Outcome) -> Option<f64>| some(of).then(|| row.spread(of));
    let middle = |of: fn(&Outcome) -> Option<u64>| {
        let us = |run: &Outcome| of(run).map(|us| us as f64);
        if some(&us) { ms(row.spread(us).median) } else { dash() }
    };
    let slowest = row.runs.iter().filter_map(|run| run.latency.map(|it| it.max_us)).max();
    let p99 = of(&|run| run.latency.map(|it| it.p99_us as f64));
    let cpu = of(&|run| run.cpu_s_per_million);
    let peak = of(&|run| run.server_peak_bytes.map(|bytes| bytes as f64));
    let sum = |of: fn(&Outcome) -> u64| row.runs.iter().map(of).sum::<u64>();
    // One run that does not know makes a sum that nobody knows.
    let all = |of: fn(&Outcome) -> Option<u64>| known(row.runs.iter().map(of).sum());
    [
        String::new(),
        format!("{} ({})", row.name, row.durability),
        format!("{} of {}", row.runs.len(), row.runs.len() + row.failures.len()),
        spread_of(rate, number),
        if base > 0.0 { format!("{:.2}", rate.median / base) } else { dash() },
        middle(|run| run.latency.map(|it| it.p50_us)),
        p99.map_or_else(dash, |spread| spread_of(spread, ms)),
        middle(|run| run.latency.map(|it| it.p999_us)),
        slowest.map_or_else(dash, milliseconds),
        middle(|run| run.lag.map(|it| it.p99_us)),
        cpu.map_or_else(dash, |spread| spread_of(spread, number)),
        peak.map_or_else(dash, |spread| mebibytes(spread.median as u64)),
        format!(
            "{}, {}, {}, {}",
            // The first reports did not count it.
            all(|run| Some(run.due).filter(|due| *due > 0)),
            sum(|run| run.sent),
            all(|run| run.acked),
            sum(|run| run.received)
        ),
        format!(
            "{}, {}, {}, {}",
            all(|run| run.lost),
            sum(|run| run.duplicated),
            sum(|run| run.refused),
            sum(|run| run.errors)
        ),
        String::new(),
    ]
    .join(" | ")
    .trim()
    .to_owned()
}

fn ms(us: f64) -> String {
    milliseconds(us as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_read_stands_beside_the_figure() {
        let said = "# Title\n\nintroduction\n\n## publish\n\nthe disk\n\n## not had\n\n- eKuiper: no\n";
        assert_eq!(sections(said), BTreeMap::from([("publish", "the disk"), ("not had", "- eKuiper: no")]));
        let mut results = Results::default();
        for name in ["publish", "idle"] {
            results.set(name, Vec::new(), "a hundred publishers", std::time::Duration::ZERO);
        }
        let page = markdown(&results, said, "## The worst ratios, and what was done\n\nLess was copied.\n");
        assert!(page.contains("\n## The worst ratios, and what was done\n\nLess was copied.\n"), "{page}");
        assert!(
            page.contains("**What limits it:** the disk") && page.contains("nobody has looked yet"),
            "{page}"
        );
        assert!(page.contains("## Peers that could not be had\n\n- eKuiper: no"), "{page}");
    }

    #[test]
    fn each_row_says_its_own_rounds_and_why_others_failed() {
        let mut row = Row::new("mosquitto", "memory only");
        row.runs.push(Outcome { rate: 5.0, due: 7, sent: 7, ..Outcome::default() });
        row.failures.push("round 2: it ended".to_owned());
        let mut results = Results::default();
        results.set("publish-qos0", vec![row], "", std::time::Duration::ZERO);
        let page = markdown(&results, "", "");
        assert!(
            page.contains("| mosquitto (memory only) | 1 of 2 | 5.00 (5.00 to 5.00) | 1.00 | - | - |"),
            "{page}"
        );
        assert!(page.contains("| 7, 7, -, 0 | -, 0, 0, 0 |"), "{page}");
        assert!(page.contains("- mosquitto: failed: round 2: it ended"), "{page}");
        assert!(page.contains("provisional:** 1 rounds"), "{page}");
    }

    #[test]
    fn figures_of_another_run_and_of_a_changed_tree_say_so() {
        let run = Run { commit: format!("abc{CHANGED}"), command: "suite".to_owned(), date: String::new() };
        let mut results = Results { run, ..Results::default() };
        results.set("publish", Vec::new(), "", std::time::Duration::ZERO);
        assert!(!markdown(&results, "", "").contains("## publish\n\n**Another"));
        results.run.command = "suite --only idle".to_owned();
        let page = markdown(&results, "", "");
        assert!(page.contains("**Another run:** abc"), "{page}");
        assert!(page.contains("in no commit (publish)"), "{page}");
    }
}
