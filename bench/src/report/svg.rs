//! A chart of a scenario: a bar a contender, its median, and a line from its worst to its best round.

use std::fmt::Write as _;

use super::Measured;

const WIDTH: f64 = 760.0;
const BAR: f64 = 22.0;
const STEP: f64 = 34.0;
const LEFT: f64 = 270.0;
const RIGHT: f64 = 110.0;

/// What a scenario's chart shows: its name, and how it is got from a run.
pub(crate) fn figure(scenario: &str) -> (&'static str, fn(&crate::outcome::Outcome) -> Option<f64>) {
    match scenario {
        "idle" => ("bytes a connection", |run| run.more.get("bytes a connection").copied()),
        "connect" | "connect-2000" | "reconnect-storm" | "reconnect-storm-64" => {
            ("seconds until all are in", |run| run.more.get("seconds until all are in").copied())
        }
        "publish" | "publish-qos2" | "publish-mqtt5" => {
            ("publishes acknowledged a second", |run| Some(run.rate))
        }
        "publish-qos0" => ("publishes read a second", |run| Some(run.rate)),
        "devices-1000" | "devices-10000" => ("CPU seconds a million publishes", |run| run.cpu_s_per_million),
        "pipeline-postgres" | "pipeline-sqlite" => ("rows a second", |run| Some(run.rate)),
        _ => ("p99, ms", |run| run.latency.map(|latency| latency.p99_us as f64 / 1e3)),
    }
}

pub(crate) fn chart(scenario: &str, measured: &Measured) -> String {
    let (title, of) = figure(scenario);
    let height = 40.0 + STEP * measured.rows.len() as f64;
    let spreads: Vec<_> = measured.rows.iter().map(|row| row.spread(of)).collect();
    let most = spreads.iter().map(|spread| spread.max).fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * value / most;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"22\" \
         font-weight=\"bold\">{scenario}: {title}</text>\n"
    );
    for (at, (row, spread)) in measured.rows.iter().zip(&spreads).enumerate() {
        let y = 36.0 + STEP * at as f64;
        let middle = y + BAR / 2.0;
        let fill = if row.name.starts_with("Muster") { "#2a6f97" } else { "#a9b4bd" };
        let (bar, low, high) = (x(spread.median) - LEFT, x(spread.min), x(spread.max));
        let text = middle + 5.0;
        let name = row.name.replace('&', "&amp;").replace('<', "&lt;");
        let value = super::page::number(spread.median);
        // A text that fails to be written to a String cannot be.
        let _written = writeln!(
            svg,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{name}</text><rect x=\"{LEFT}\" y=\"{y}\" \
             width=\"{bar:.1}\" height=\"{BAR}\" fill=\"{fill}\"/><path d=\"M{low:.1} {middle}H{high:.1}\" \
             stroke=\"black\"/><text x=\"{:.1}\" y=\"{text}\">{value}</text>",
            LEFT - 8.0,
            high + 8.0
        );
    }
    svg + "</svg>\n"
}
