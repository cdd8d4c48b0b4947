//! The command line: a load by name with its options, or the suite.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::codec::Version;
use crate::load::pipeline::{Sink, pipeline};
use crate::load::{Load, Shape, connect, traffic};
use crate::outcome::Outcome;
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
    Connect(Options),
    /// Publishers, and nobody who listens
    Publish(Options),
    /// All publishers' messages to each subscriber
    FanIn(Options),
    /// One topic, and many who listen
    FanOut(Options),
    /// Pairs: publisher and subscriber of one number share a topic (--publishers says how many)
    P2p(Options),
    /// Telemetry from devices, of which each has a subscription of its own for commands
    Devices(Options),
    /// Connections that do nothing; with --pid the server's memory for each
    Idle(Options),
    /// All connections are lost in one moment and come back at once
    ReconnectStorm(Options),
    /// Publishes, and looks for each message in a table of PostgreSQL (columns p, n, t, arrived) or SQLite (p, n)
    Pipeline(PipelineOptions),
    /// Everything beside its peers, several rounds in turns; writes bench/RESULTS.md
    Suite(suite::Options),
    /// Writes bench/RESULTS.md again from bench/results/results.json
    Report,
    /// A broker that acknowledges at once and does nothing
    #[command(hide = true)]
    NullBroker { listen: SocketAddr },
    /// Bare rumqttd
    #[command(hide = true)]
    Rumqttd { listen: SocketAddr },
}

#[derive(Debug, Args)]
struct Options {
    /// The broker's address
    #[arg(long, default_value = "127.0.0.1:1883")]
    broker: SocketAddr,
    #[arg(long, value_enum, default_value = "3.1.1")]
    mqtt: Version,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Payload in bytes
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// Publishing (or, where nobody publishes, connecting) clients
    #[arg(long, default_value_t = 100)]
    publishers: usize,
    #[arg(long, default_value_t = 1)]
    subscribers: usize,
    /// Open loop: messages a second of all publishers together. Without it, closed loop
    #[arg(long)]
    rate: Option<f64>,
    /// Messages of one publisher on the way at a time
    #[arg(long, default_value_t = 20)]
    window: u16,
    /// Messages of each publisher; without it, as many as fit into the time
    #[arg(long)]
    messages: Option<u64>,
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Connections that are being made at a time, in storms
    #[arg(long, default_value_t = 1_000)]
    at_once: usize,
    /// Processes of the server, whose CPU time and memory are told
    #[arg(long)]
    pid: Vec<u32>,
    /// A file for the outcome as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct PipelineOptions {
    #[command(flatten)]
    options: Options,
    /// PostgreSQL's connection string
    #[arg(long, conflicts_with = "sqlite", required_unless_present = "sqlite")]
    postgres: Option<String>,
    /// SQLite's file
    #[arg(long)]
    sqlite: Option<PathBuf>,
    #[arg(long, default_value = "bench")]
    table: String,
}

impl Options {
    fn load(&self) -> Load {
        Load {
            broker: self.broker,
            version: self.mqtt,
            qos: self.qos,
            payload_bytes: self.payload,
            publishers: self.publishers,
            subscribers: self.subscribers,
            rate: self.rate,
            window: self.window.max(1),
            messages: self.messages,
            warm_up: Duration::from_secs_f64(self.warm_up.max(0.0)),
            time: Duration::from_secs_f64(self.seconds.max(0.0)),
            watched: Watched(self.pid.clone()),
        }
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
    let quiet = |options: &Options| Load { subscribers: 0, ..options.load() };
    let (outcome, json) = match command {
        Command::Publish(it) => (traffic("publish", quiet(&it), Shape::Publish).await?, it.json),
        Command::Devices(it) => (traffic("devices", quiet(&it), Shape::Devices).await?, it.json),
        Command::FanIn(it) => (traffic("fan-in", it.load(), Shape::FanIn).await?, it.json),
        Command::FanOut(it) => (traffic("fan-out", it.load(), Shape::FanOut).await?, it.json),
        Command::P2p(it) => {
            let load = Load { subscribers: it.publishers, ..it.load() };
            (traffic("p2p", load, Shape::PeerToPeer).await?, it.json)
        }
        Command::Connect(it) => (connect::connect("connect", it.load(), it.at_once).await?, it.json),
        Command::Idle(it) => (connect::idle("idle", it.load()).await?, it.json),
        Command::ReconnectStorm(it) => {
            (connect::reconnect("reconnect-storm", it.load(), it.at_once).await?, it.json)
        }
        Command::Pipeline(it) => {
            let table = it.table;
            let sink = match (it.postgres, it.sqlite) {
                (Some(url), _) => Sink::Postgres { url, table },
                (None, file) => Sink::Sqlite { file: file.unwrap_or_default(), table },
            };
            (pipeline("pipeline", quiet(&it.options), &sink).await?, it.options.json)
        }
        Command::Suite(options) => return suite::run(options).await,
        Command::Report => return crate::report::again(),
        Command::NullBroker { listen } => {
            let listener = tokio::net::TcpListener::bind(listen).await?;
            return Ok(crate::null_broker::serve(listener).await?);
        }
        Command::Rumqttd { .. } => return Ok(()),
    };
    tell(&outcome, json)
}

fn tell(outcome: &Outcome, json: Option<PathBuf>) -> anyhow::Result<()> {
    println!("{}", outcome.markdown());
    if let Some(file) = json {
        std::fs::write(file, serde_json::to_string_pretty(outcome)?)?;
    }
    Ok(())
}
