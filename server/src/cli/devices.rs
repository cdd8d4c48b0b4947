//! `muster devices`: the roll call, from the table that the platform keeps; it may run meanwhile.

use std::io::{self, Write};

use super::{failed_output, time};
use crate::config::Config;
use crate::error::{Error, ErrorKind};
use crate::presence::{self, Device, Wanted};

/// Prints the devices that are wanted.
pub(super) fn list(config: &Config, wanted: &Wanted) -> Result<(), Error> {
    let path = config.data.join("muster.db");
    let (devices, total) = presence::list(&path, wanted).map_err(|error| {
        let message = format!("no devices in {}; --data names the data directory", config.data.display());
        Error::because(ErrorKind::Start, message, error)
    })?;
    let widest = devices.iter().map(|it| it.clientid.chars().count()).max().unwrap_or_default().max(8);
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut print = || -> io::Result<()> {
        writeln!(out, "{:<widest$}  {:<7}  {:<24}  {:>8}  reason", "clientid", "state", "since", "connects")?;
        for device in &devices {
            writeln!(out, "{}", row(device, widest))?;
        }
        let shown = devices.len();
        if (shown as u64) < total {
            writeln!(out, "{shown} of {total}; --limit shows more")?;
        }
        out.flush()
    };
    print().or_else(failed_output)
}

fn row(device: &Device, widest: usize) -> String {
    let Device { clientid, online, since_ms, connects, reason, .. } = device;
    let state = if *online { "online" } else { "offline" };
    // Why it went is of interest while it is gone.
    let reason = reason.as_deref().filter(|_| !online).unwrap_or_default();
    let clientid = clientid.escape_debug().to_string();
    format!("{clientid:<widest$}  {state:<7}  {:<24}  {connects:>8}  {reason}", time(*since_ms))
        .trim_end()
        .to_owned()
}
