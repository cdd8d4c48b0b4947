//! `muster demo`.

use std::io::IsTerminal as _;
use std::time::Duration;

use muster_core::clock::SystemClock;

use super::DemoArgs;
use super::run::{Signals, block_on};
use crate::demo::{Demo, Options};
use crate::error::Error;

/// The exit code of a process that a second signal ended.
const INTERRUPTED: i32 = 130;

/// Runs the demo until its time is over or a signal comes, then checks it.
pub(super) fn demo(args: DemoArgs) -> Result<(), Error> {
    let DemoArgs { seconds, devices, data, seed } = args;
    let options = Options { devices, data, seed, terminal: std::io::stdout().is_terminal() };
    block_on(async {
        let mut signals = Signals::listen()?;
        let mut demo = Demo::start(options, SystemClock::shared()).await?;
        let over = async {
            match seconds {
                Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            error = demo.watch() => return Err(error),
            () = over => {}
            _ = signals.next() => {}
        }
        tokio::select! {
            finished = demo.finish() => finished,
            _ = signals.next() => std::process::exit(INTERRUPTED),
        }
    })
}
