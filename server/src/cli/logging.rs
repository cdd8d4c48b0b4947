//! Log lines on stderr, so that stdout stays for what a command was asked.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::error::{Error, ErrorKind};

/// What is quieter than the rest unless its crate is named: the devices of the demo.
const QUIETER: [&str; 1] = ["rumqttc=error"];

/// Sends log lines that pass `filter` to stderr.
pub(super) fn start(filter: &str) -> Result<(), Error> {
    let named = |quieter: &&str| quieter.split([':', '=']).next().is_none_or(|name| !filter.contains(name));
    let quieter = QUIETER.iter().copied().filter(named);
    let filter = quieter.chain([filter]).collect::<Vec<_>>().join(",");
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| Error::because(ErrorKind::Config, "--log (or MUSTER_LOG) cannot be read", error))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .finish();
    // Only a test that set one up before gets here twice.
    let _already_set = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}
