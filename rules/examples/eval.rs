//! Answers conformance requests, one JSON line each, on the standard streams.

use std::io::{BufRead, Write};

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        writeln!(out, "{}", muster_rules::conformance::answer(&line?))?;
    }
    Ok(())
}
