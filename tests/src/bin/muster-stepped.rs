//! `muster` with a wall clock that a test steps: it shows the machine's time and as many milliseconds more (or less) as
//! stand in the file `clock` of the working directory. Nothing else differs from the binary that is shipped.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use muster_core::clock::{Clock, SharedClock, SystemClock};

/// The machine's clocks, the wall clock put wrong.
struct Stepped {
    machine: SharedClock,
    by_ms: PathBuf,
}

impl Clock for Stepped {
    fn wall_ms(&self) -> i64 {
        let by_ms = std::fs::read_to_string(&self.by_ms).unwrap_or_default();
        self.machine.wall_ms().saturating_add(by_ms.trim().parse().unwrap_or_default())
    }

    fn monotonic(&self) -> Duration {
        self.machine.monotonic()
    }
}

fn main() -> ExitCode {
    muster::cli::main_at(Arc::new(Stepped { machine: SystemClock::shared(), by_ms: PathBuf::from("clock") }))
}
