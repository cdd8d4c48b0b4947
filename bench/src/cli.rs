//! The command line: a load by name with the options that it takes, or the suite.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::client::Target;
use crate::codec::Version;
use crate::load::pipeline::{Sink, pipeline};
use crate::load::{Load, Shape, connect, traffic};
use crate::outcome::Outcome;
use crate::payload::BYTES_MIN;
use crate::process::{Watched, raise_file_limit};
use crate::suite;

#[derive(Debug, Parser)]
#[command(name = "muster-bench", about = "Loads any MQTT broker, and measures Muster beside its peers")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// New connections, all at once or at --rate a second
    Connect(Connecting),
    /// Publishers, and nobody who listens
    Publish(Publishing),
    /// All publishers' messages to each subscriber
    FanIn(Fan),
    /// One topic, and many who listen
    FanOut(Fan),
    /// Pairs: publisher and subscriber of one number share a topic (--publishers says how many)
    P2p(Publishing),
    /// Telemetry from devices, of which each has a subscription of its own for commands
    Devices(Publishing),
    /// Connections that do nothing; with --pid the server's memory for each
    Idle(Idle),
    /// All connections are lost in one moment and come back at once
    ReconnectStorm(Returning),
    /// Publishes, and looks for each message in a table of PostgreSQL or SQLite (columns p, n, t)
    Pipeline(Piped),
    /// Everything beside its peers, several rounds in turns; writes bench/RESULTS.md
    ///
    /// Five rounds of three seconds take about forty minutes. What takes less is `--rounds 3 --seconds 1`, about
    /// fifteen, or `--only` with the scenarios that matter. With fewer than five rounds the report says that its
    /// figures are provisional.
    Suite(suite::Options),
    /// Writes bench/RESULTS.md again from bench/results/results.json
    Report,
    /// A broker that acknowledges at once and does nothing
    #[command(hide = true)]
    NullBroker { listen: SocketAddr },
    /// Sends back what comes
    #[command(hide = true)]
    Echo { listen: SocketAddr },
    /// Bare rumqttd
    #[command(hide = true)]
    Rumqttd { listen: SocketAddr },
}

/// The broker, and who says what about it.
#[derive(Debug, Args)]
struct Common {
    /// The broker's address, a name or an IP address with a port
    #[arg(long, default_value = "127.0.0.1:1883", value_name = "HOST:PORT")]
    broker: String,
    #[arg(long, value_enum, default_value = "3.1.1")]
    mqtt: Version,
    #[arg(long)]
    username: Option<String>,
    #[arg(long, requires = "username")]
    password: Option<Secret>,
    /// What ids of clients and topics begin with
    #[arg(long, default_value = "bench")]
    prefix: String,
    /// Processes of the server, whose CPU time and memory are told
    #[arg(long)]
    pid: Vec<u32>,
    /// A file for the outcome as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What publishers do.
#[derive(Debug, Args)]
struct Flow {
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Payload in bytes
    #[arg(long, default_value_t = 256, value_parser = payload)]
    payload: usize,
    #[arg(long, default_value_t = 100, value_parser = count)]
    publishers: usize,
    /// Open loop: messages a second of all publishers together. Without it, closed loop
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// Messages of one publisher on the way at a time, with QoS 1 and 2; QoS 0 has a bound of its own, 1024 unread
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    window: u16,
    /// Messages of each publisher, measured from the first on; without it, as many as fit into the time
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    messages: Option<u64>,
    /// How long it is measured, in seconds; with --messages, how long they may take at most
    #[arg(long, default_value_t = 5.0, value_parser = some_seconds)]
    seconds: f64,
}

#[derive(Debug, Args)]
struct Publishing {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    flow: Flow,
    /// How long it runs before it is measured, in seconds
    #[arg(long, default_value_t = 1.0, value_parser = seconds, conflicts_with = "messages")]
    warm_up: f64,
}

#[derive(Debug, Args)]
struct Fan {
    #[command(flatten)]
    publishing: Publishing,
    #[arg(long, default_value_t = 1, value_parser = count)]
    subscribers: usize,
}

#[derive(Debug, Args)]
struct Connecting {
    #[command(flatten)]
    returning: Returning,
    /// Clients a second; without it, all at once
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
}

#[derive(Debug, Args)]
struct Returning {
    #[command(flatten)]
    common: Common,
    #[arg(long, default_value_t = 100, value_parser = count)]
    clients: usize,
    /// Connections that are being made at a time
    #[arg(long, default_value_t = 1_000, value_parser = count)]
    at_once: usize,
}

#[derive(Debug, Args)]
struct Idle {
    #[command(flatten)]
    common: Common,
    #[arg(long, default_value_t = 100, value_parser = count)]
    clients: usize,
    /// How long they are left alone before it is measured, in seconds
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    warm_up: f64,
    /// How long it is measured, in seconds
    #[arg(long, default_value_t = 5.0, value_parser = some_seconds)]
    seconds: f64,
}

#[derive(Debug, Args)]
struct Piped {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    flow: Flow,
    /// PostgreSQL's connection string; latencies are told where it runs with track_commit_timestamp = on
    #[arg(long, conflicts_with = "sqlite", required_unless_present = "sqlite")]
    postgres: Option<Secret>,
    /// SQLite's file
    #[arg(long)]
    sqlite: Option<PathBuf>,
    #[arg(long, default_value = "bench")]
    table: String,
    /// Processes of the database, whose CPU time is told apart
    #[arg(long)]
    database_pid: Vec<u32>,
}

/// What is never printed.
#[derive(Clone)]
struct Secret(String);

impl std::str::FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

fn number(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    if number.is_finite() { Ok(number) } else { Err("it must be finite".to_owned()) }
}

fn rate(text: &str) -> Result<f64, String> {
    number(text)
        .and_then(|it| if it > 0.0 { Ok(it) } else { Err("a rate must be more than nothing".to_owned()) })
}

/// A day is more than any run.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    let fits = |it: &f64| (0.0..=86_400.0).contains(it);
    number(text).and_then(|it| Some(it).filter(fits).ok_or_else(|| "from 0 to 86400 seconds".to_owned()))
}

pub(crate) fn some_seconds(text: &str) -> Result<f64, String> {
    seconds(text)
        .and_then(|it| if it > 0.0 { Ok(it) } else { Err("in no time nothing is measured".to_owned()) })
}

pub(crate) fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least one".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err("it is no count".to_owned()),
    }
}

fn payload(text: &str) -> Result<usize, String> {
    let bytes = count(text)?;
    let fits = (BYTES_MIN..=PAYLOAD_BYTES_MAX).contains(&bytes);
    let why = || format!("who sent it and when takes {BYTES_MIN} bytes; {PAYLOAD_BYTES_MAX} is the most");
    fits.then_some(bytes).ok_or_else(why)
}

/// As much as a subscriber of ours reads.
const PAYLOAD_BYTES_MAX: usize = 15 << 20;

impl Common {
    async fn load(&self) -> anyhow::Result<Load> {
        let found = tokio::net::lookup_host(&self.broker).await;
        let found: Vec<SocketAddr> = found.with_context(|| format!("--broker {}", self.broker))?.collect();
        // Where a name is both, IPv4 is what more brokers listen on.
        let broker = found.iter().find(|it| it.is_ipv4()).or(found.first()).copied();
        let broker = broker.with_context(|| format!("--broker {}: it has no address", self.broker))?;
        let mut target = Target::new(broker, self.mqtt);
        target.username.clone_from(&self.username);
        target.password = self.password.as_ref().map(|it| it.0.clone());
        Ok(Load {
            target: Arc::new(target),
            prefix: self.prefix.clone(),
            watched: Watched(self.pid.clone()),
            subscribers: 0,
            progress: std::io::stderr().is_terminal(),
            ..Load::default()
        })
    }
}

impl Flow {
    fn load(&self, base: Load) -> Load {
        Load {
            qos: self.qos,
            payload_bytes: self.payload,
            publishers: self.publishers,
            rate: self.rate,
            window: self.window,
            messages: self.messages,
            time: Duration::from_secs_f64(self.seconds),
            ..base
        }
    }
}

impl Publishing {
    async fn load(&self) -> anyhow::Result<Load> {
        let base = self.flow.load(self.common.load().await?);
        Ok(Load { warm_up: Duration::from_secs_f64(self.warm_up), ..base })
    }

    async fn run(&self, name: &str, shape: Shape, subscribers: usize) -> anyhow::Result<()> {
        let load = Load { subscribers, ..self.load().await? };
        tell(&traffic(name, load, shape).await?, &self.common)
    }
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    raise_file_limit();
    let command = Cli::parse().command;
    // It has a runtime of its own.
    let done = match command {
        Command::Rumqttd { listen } => crate::rumqttd::serve(listen),
        command => {
            tokio::runtime::Runtime::new().map_err(Into::into).and_then(|it| it.block_on(run(command)))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("muster-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Publish(it) => it.run("publish", Shape::Publish, 0).await,
        Command::Devices(it) => it.run("devices", Shape::Devices, 0).await,
        Command::FanIn(it) => it.publishing.run("fan-in", Shape::FanIn, it.subscribers).await,
        Command::FanOut(it) => it.publishing.run("fan-out", Shape::FanOut, it.subscribers).await,
        Command::P2p(it) => it.run("p2p", Shape::PeerToPeer, it.flow.publishers).await,
        Command::Connect(Connecting { returning: it, rate }) => {
            let load = Load { publishers: it.clients, rate, ..it.common.load().await? };
            tell(&connect::connect("connect", load, it.at_once).await?, &it.common)
        }
        Command::ReconnectStorm(it) => {
            let load = Load { publishers: it.clients, ..it.common.load().await? };
            tell(&connect::reconnect("reconnect-storm", load, it.at_once).await?, &it.common)
        }
        Command::Idle(it) => {
            let (warm_up, time) = (Duration::from_secs_f64(it.warm_up), Duration::from_secs_f64(it.seconds));
            let load = Load { publishers: it.clients, warm_up, time, ..it.common.load().await? };
            tell(&connect::idle("idle", load).await?, &it.common)
        }
        Command::Pipeline(it) => {
            let table = it.table;
            let sink = match (it.postgres, it.sqlite) {
                (Some(url), _) => Sink::Postgres { url: url.0, table },
                (None, file) => Sink::Sqlite { file: file.unwrap_or_default(), table },
            };
            let load = it.flow.load(it.common.load().await?);
            let database = Watched(it.database_pid);
            tell(&pipeline("pipeline", load, &sink, &database).await?, &it.common)
        }
        Command::Suite(options) => suite::run(options).await,
        Command::Report => crate::report::again(),
        Command::NullBroker { listen } => {
            let listener = tokio::net::TcpListener::bind(listen).await?;
            Ok(crate::null_broker::serve(listener).await?)
        }
        Command::Echo { listen } => {
            let listener = tokio::net::TcpListener::bind(listen).await?;
            Ok(crate::echo::serve(listener).await?)
        }
        // It ran before there was a runtime.
        Command::Rumqttd { .. } => Ok(()),
    }
}

fn tell(outcome: &Outcome, common: &Common) -> anyhow::Result<()> {
    println!("{}", outcome.markdown());
    if let Some(file) = &common.json {
        let text = serde_json::to_string_pretty(outcome)? + "\n";
        std::fs::write(file, text).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_fits_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_would_measure_nothing_is_refused_in_words() {
        for (line, word) in [
            ("publish --rate 0", "more than nothing"),
            ("publish --rate inf", "finite"),
            ("publish --seconds=-1", "0 to 86400"),
            ("publish --seconds 0", "nothing is measured"),
            ("publish --payload 3", "bytes"),
            ("publish --publishers 0", "at least one"),
            ("publish --messages 5 --warm-up 1", "cannot be used with"),
            ("suite --rounds 0", "at least one"),
            ("suite --seconds inf", "finite"),
            ("idle --qos 1", "unexpected argument"),
            ("publish --subscribers 3", "unexpected argument"),
            ("publish --password x", "--username"),
        ] {
            let words = ["muster-bench"].into_iter().chain(line.split(' '));
            let error = Cli::try_parse_from(words).expect_err(line).to_string();
            assert!(error.contains(word), "{line}: {error}");
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let line = ["muster-bench", "publish", "--username", "me", "--password", "hunter2"];
        let cli = Cli::try_parse_from(line).expect("a command");
        assert!(!format!("{cli:?}").contains("hunter2"));
    }
}
