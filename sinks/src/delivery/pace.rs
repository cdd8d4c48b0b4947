//! How fast a pipeline may deliver that is not to crowd out others. It must never hold up one that has no such limit.

use std::time::Duration;

use tokio::time::Instant;

/// Rows a second, kept from batch to batch.
#[derive(Debug)]
pub(super) struct Pace {
    rows_per_second: Option<u32>,
    /// When the rows that were taken have had their time.
    due: Option<Instant>,
}

impl Pace {
    /// No limit, or so many rows a second.
    pub(super) fn new(rows_per_second: Option<u32>) -> Self {
        Self { rows_per_second, due: None }
    }

    /// Before when the next rows are not to be taken.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Counts rows that are taken now.
    pub(super) fn count(&mut self, rows: usize) {
        let Some(rate) = self.rows_per_second else { return };
        let takes = Duration::from_secs_f64(rows as f64 / f64::from(rate.max(1)));
        let now = Instant::now();
        self.due = Some(self.due.map_or(now, |due| due.max(now)) + takes);
    }
}
