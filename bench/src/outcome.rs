//! What one run of one scenario gave, as data: written as JSON, as a line of Markdown, and taken up by the suite.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Percentiles, in microseconds from the moment that a message should have been sent.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50_us: u64,
    pub(crate) p90_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) max_us: u64,
}

/// One run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) scenario: String,
    /// Of what `unit` says, a second, while it was measured.
    pub(crate) rate: f64,
    pub(crate) unit: String,
    pub(crate) measured_s: f64,
    /// What should have been sent.
    #[serde(default)]
    pub(crate) due: u64,
    pub(crate) sent: u64,
    /// None where nothing is acknowledged.
    pub(crate) acked: Option<u64>,
    /// What subscribers or the sink should have.
    pub(crate) expected: u64,
    pub(crate) received: u64,
    /// None where nobody can know.
    pub(crate) lost: Option<u64>,
    pub(crate) duplicated: u64,
    pub(crate) refused: u64,
    pub(crate) errors: u64,
    pub(crate) latency: Option<Latency>,
    /// How much later than due an open loop sent: the generator's own part of the latency, and full windows.
    #[serde(default)]
    pub(crate) lag: Option<Latency>,
    /// Processor time of the server while it was measured; none where its process is not known.
    pub(crate) server_cpu_s: Option<f64>,
    /// The same for each million of what `unit` says.
    pub(crate) cpu_s_per_million: Option<f64>,
    /// Most memory that the server ever had.
    pub(crate) server_peak_bytes: Option<u64>,
    /// Processor time of this program.
    pub(crate) load_cpu_s: f64,
    /// What only this scenario has.
    #[serde(default)]
    pub(crate) more: BTreeMap<String, f64>,
}

impl Outcome {
    /// Whether all that was due came, once.
    pub(crate) fn complete(&self) -> bool {
        let all_sent = self.due <= self.sent && self.acked.is_none_or(|acked| acked >= self.sent);
        all_sent && self.lost.unwrap_or(0) == 0 && self.duplicated == 0 && self.received >= self.expected
    }

    /// As a table of two columns.
    pub(crate) fn markdown(&self) -> String {
        let mut lines = vec![format!("| {} | |", self.scenario), "| --- | ---: |".to_owned()];
        let mut line = |name: &str, value: String| lines.push(format!("| {name} | {value} |"));
        line(&format!("{} a second", self.unit), format!("{:.1}", self.rate));
        for (name, count) in [
            ("due", Some(self.due)),
            ("sent", Some(self.sent)),
            ("acknowledged", self.acked),
            ("expected at receivers", Some(self.expected)),
            ("received", Some(self.received)),
            ("lost", self.lost),
            ("duplicated", Some(self.duplicated)),
            ("refused", Some(self.refused)),
            ("errors", Some(self.errors)),
        ] {
            line(name, known(count));
        }
        for (what, latency) in [("", self.latency), ("sent late, ", self.lag)] {
            let Some(latency) = latency else { continue };
            for (name, us) in [
                ("p50", latency.p50_us),
                ("p90", latency.p90_us),
                ("p99", latency.p99_us),
                ("p99.9", latency.p999_us),
                ("slowest", latency.max_us),
            ] {
                line(&format!("{what}{name}"), milliseconds(us));
            }
        }
        if let Some(cpu) = self.cpu_s_per_million {
            line("server's CPU seconds a million", format!("{cpu:.2}"));
        }
        if let Some(peak) = self.server_peak_bytes {
            line("server's peak memory", mebibytes(peak));
        }
        for (name, value) in &self.more {
            line(name, format!("{value:.1}"));
        }
        lines.join("\n")
    }

    /// Fills in what follows from the processor time of the server while `count` were done.
    pub(crate) fn set_server(&mut self, cpu_s: Option<f64>, count: u64, peak_bytes: Option<u64>) {
        self.server_cpu_s = cpu_s;
        self.cpu_s_per_million = cpu_s.filter(|_| count > 0).map(|cpu_s| cpu_s * 1e6 / count as f64);
        self.server_peak_bytes = peak_bytes;
    }
}

/// A count, or a dash where nobody knows it.
pub(crate) fn known(count: Option<u64>) -> String {
    count.map_or_else(|| "-".to_owned(), |count| count.to_string())
}

pub(crate) fn milliseconds(us: u64) -> String {
    format!("{:.2} ms", us as f64 / 1000.0)
}

pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
