//! `muster run`: the platform until a signal.

use std::future::Future;
use std::io::Write as _;
use std::process;

use muster_broker::{ListenerInfo, ListenerKind};
use muster_core::clock::SharedClock;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;
use crate::error::{Error, ErrorKind};
use crate::platform::Platform;

/// The exit code of a process that a second signal ended.
const INTERRUPTED: i32 = 130;

/// Files, sinks and requests need descriptors besides connections.
const DESCRIPTORS_ASIDE: u64 = 512;

/// Runs the platform until SIGINT or SIGTERM, or until a part dies without which nothing is true.
pub(super) fn run(config: Config, clock: SharedClock) -> Result<(), Error> {
    block_on(async {
        let mut signals = Signals::listen()?;
        raise_descriptors(&config);
        let platform = Platform::start(config, clock).await?;
        announce(&platform);
        let signal = tokio::select! {
            signal = signals.next() => signal,
            error = platform.fatal() => return Err(error),
        };
        tracing::info!(signal, "stopping; a second signal stops at once");
        stop(platform, signal, &mut signals).await
    })
}

/// Takes as many file descriptors as the system lets us have: each connection needs one.
fn raise_descriptors(config: &Config) {
    let mut limit = getrlimit(Resource::Nofile);
    let devices = config.mqtt.connections_max.saturating_add(config.mqtt.handshakes_max);
    let wanted = devices.saturating_add(config.http.connections_max);
    let wanted = u64::try_from(wanted).unwrap_or(u64::MAX).saturating_add(DESCRIPTORS_ASIDE);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files stays as it is");
            limit = getrlimit(Resource::Nofile);
        }
    }
    if let Some(most) = limit.current.filter(|most| *most < wanted) {
        tracing::warn!(
            most,
            wanted,
            "the system allows fewer open files than mqtt.connections_max, mqtt.handshakes_max and http.connections_max need; \
             raise the limit (ulimit -n, LimitNOFILE)"
        );
    }
}

/// Stops the platform in order, unless another signal comes.
pub(super) async fn stop(platform: Platform, reason: &str, signals: &mut Signals) -> Result<(), Error> {
    tokio::select! {
        stopped = platform.stop(reason) => stopped,
        _ = signals.next() => process::exit(INTERRUPTED),
    }
}

/// One line an address, for people and scripts.
fn announce(platform: &Platform) {
    let mut out = std::io::stdout().lock();
    // Whoever does not listen to us does not want to know.
    let mut told = Ok(());
    for ListenerInfo { kind, bind, path, .. } in platform.broker().listeners() {
        let scheme = match kind {
            ListenerKind::Tcp => "mqtt",
            ListenerKind::Ssl => "mqtts",
            ListenerKind::Ws => "ws",
            ListenerKind::Wss => "wss",
        };
        let path = path.unwrap_or_default();
        told = told.and_then(|()| writeln!(out, "mqtt listening on {scheme}://{bind}{path}"));
    }
    let _told = told.and_then(|()| writeln!(out, "http listening on {}", platform.http_url()));
}

/// Runs a future on a runtime of its own. What still runs when it ends is not waited for.
pub(super) fn block_on<T>(future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = runtime::Builder::new_multi_thread().enable_all().thread_name("muster").build();
    let runtime = runtime.map_err(|error| {
        Error::because(ErrorKind::Start, "cannot start the threads of the platform", error)
    })?;
    let result = runtime.block_on(future);
    runtime.shutdown_background();
    result
}

/// The signals that ask us to stop.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Listens from now on; signals no longer end the process by themselves.
    pub(super) fn listen() -> Result<Self, Error> {
        let listen = |kind| {
            signal(kind).map_err(|error| Error::because(ErrorKind::Start, "cannot listen for signals", error))
        };
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// The name of the next one.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
