//! The command line: what can be asked, and which part of the server answers.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use muster_core::clock::{SharedClock, SystemClock};

use crate::config::{Config, Layers};
use crate::error::{Error, ErrorKind, chain};

mod alarms;
mod client;
mod demo;
mod devices;
mod key;
mod letters;
mod log;
mod logging;
mod migrate;
mod pipelines;
mod presence;
mod replay;
mod rules;
mod run;
mod salvage;
mod sinks;
mod trust;
mod user;

/// Read when it is there and no other file is named.
const CONFIG_FILE: &str = "muster.toml";

const AFTER_HELP: &str = "\
Settings come from muster.toml (or --config), then from environment variables (mqtt.listen is MUSTER_MQTT__LISTEN),
then from flags; the later wins. `muster config show` lists every setting, its value and where it came from.

Exit codes:
  0    done, or stopped in order
  1    the answer is no: a rule file has errors, a check or a case of a rule failed
  2    the configuration, the command line or a file that it names is wrong; nothing was touched
  3    cannot start: the data directory, an address or the event log cannot be had
  4    a part that everything depends on died; the cause is the last line on stderr
  130  stopped at once by a second signal";

/// Muster: a device platform in one binary. Devices speak MQTT to it; what happens becomes an event in a durable log;
/// SQL rules filter and map events; sinks carry the rows to databases and webhooks, once each.
#[derive(Debug, Parser)]
#[command(name = "muster", version, after_help = AFTER_HELP, disable_help_subcommand = true)]
pub struct Cli {
    /// What is written to stderr: a level (error, warn, info, debug, trace) or a list such as
    /// `info,muster_broker=debug` [default: info; warn in the demo].
    #[arg(long, global = true, env = "MUSTER_LOG", value_name = "FILTER")]
    log: Option<String>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the platform: broker, event log, rules, sinks and REST, until Ctrl-C.
    Run(ConfigArgs),
    /// See it at work: the whole platform in a fresh directory, with simulated devices and a live view.
    Demo(DemoArgs),
    /// Check, explain, test and try rule files, without a platform and without a sink.
    #[command(subcommand, after_help = rules::EXAMPLES)]
    Rules(rules::RulesCommand),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look into the event log, also while the platform runs.
    #[command(subcommand)]
    Log(LogCommand),
    /// See how rows travel to their targets; halt them, let them go on, send them to another place in the log.
    #[command(subcommand)]
    Pipelines(pipelines::Command),
    /// Look at rows that a target refused and events on which a rule failed; deliver them after all, or discard them.
    #[command(subcommand)]
    DeadLetters(letters::Command),
    /// See what rule files declare as sinks, and ask whether they would take rows.
    #[command(subcommand)]
    Sinks(sinks::Command),
    /// Make and upgrade what a sink's target needs: tables, indexes, buckets. Takes each step once.
    Migrate(migrate::MigrateArgs),
    /// Send recorded events through a rule once more, into its sinks or another one.
    #[command(after_help = replay::HELP)]
    Replay(replay::ReplayArgs),
    /// See how replays are doing, watch them, end them.
    #[command(subcommand)]
    Replays(replay::Command),
    /// Make API keys for REST, list them, give them new secrets, take them back; also while the platform runs.
    #[command(subcommand)]
    Key(key::Command),
    /// Manage people who log in to REST with a password; also while the platform runs.
    #[command(subcommand)]
    User(user::Command),
    /// List devices: who is here, who is missing, since when, and why.
    Devices(devices::DevicesArgs),
    /// Show one device and what happened to it, the latest first.
    Device(devices::DeviceArgs),
    /// See who was here at a moment and how many over time; make the tables of it anew from the log.
    #[command(subcommand)]
    Presence(presence::Command),
    /// See alarms, say that you have seen them, have some not told for a while.
    #[command(subcommand)]
    Alarms(alarms::Command),
}

/// Where the configuration comes from.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigArgs {
    /// Configuration file; muster.toml in the working directory is read by itself.
    #[arg(long, env = "MUSTER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of everything durable [default: ./data].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder of rule files (*.sql) [default: ./rules].
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    /// Address for devices; port 0 takes a free one [default: 127.0.0.1:1883].
    #[arg(long, value_name = "ADDR")]
    mqtt: Option<String>,
    /// Address for REST and metrics; without an API key only this machine is answered [default: 127.0.0.1:18083].
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// Any other setting, e.g. --set journal.durability=os; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Stop after this many seconds instead of at Ctrl-C.
    #[arg(long = "for", value_name = "SECONDS")]
    pub(crate) seconds: Option<u64>,
    /// How many devices are simulated.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub(crate) devices: u16,
    /// Data directory; must be empty or new [default: a fresh one under the system's temporary folder].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Start of the random behaviour; the same number makes the same devices do the same things.
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    pub(crate) seed: u64,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the effective configuration as TOML, secrets masked, with where each value came from.
    Show(ConfigArgs),
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    /// Print the log in numbers.
    Stats(ConfigArgs),
    /// Print events.
    Cat {
        /// First offset, or a time such as 2026-01-02T03:04:05Z.
        #[arg(long, value_name = "OFFSET|TIME", default_value = "0", value_parser = log::from)]
        from: log::From,
        #[command(flatten)]
        select: log::Select,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Print the last events and then whatever comes, until it is stopped.
    Tail {
        /// First offset, or a time such as 2026-01-02T03:04:05Z, instead of the last events.
        #[arg(long, value_name = "OFFSET|TIME", value_parser = log::from, conflicts_with = "last")]
        from: Option<log::From>,
        /// How many of the last are looked at.
        #[arg(long, value_name = "N", default_value_t = 10)]
        last: u64,
        #[command(flatten)]
        select: log::Select,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Read and check every record; exit code 1 if something is damaged.
    Verify(ConfigArgs),
    /// Copy all that is good of a damaged log to a new directory; the damaged one stays as it is.
    Repair {
        /// The new directory.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        #[command(flatten)]
        config: ConfigArgs,
    },
}

impl ConfigArgs {
    /// Lays defaults, file, environment and flags over each other.
    ///
    /// # Errors
    /// The file cannot be read, or one of the layers holds something that is no setting.
    pub fn layers(&self) -> Result<Layers, Error> {
        let mut layers = Layers::default();
        let file =
            self.config.clone().or_else(|| Some(PathBuf::from(CONFIG_FILE)).filter(|path| path.exists()));
        if let Some(path) = file {
            let text = std::fs::read_to_string(&path).map_err(|error| {
                Error::because(ErrorKind::Config, format!("cannot read {}", path.display()), error)
            })?;
            layers.add_toml(&path, &text)?;
        }
        let variables = std::env::vars_os();
        layers.add_environment(
            variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )?;
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        for (flag, key, value) in [
            ("--data", "data", path(&self.data)),
            ("--rules", "rules", path(&self.rules)),
            ("--mqtt", "mqtt.listen", self.mqtt.clone()),
            ("--http", "http.listen", self.http.clone()),
        ] {
            if let Some(value) = value {
                layers.add_flag(flag, key, value)?;
            }
        }
        for pair in &self.set {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                Error::new(ErrorKind::Config, format!("--set {pair}: write it as --set KEY=VALUE"))
            })?;
            layers.add_flag("--set", key.trim(), value.trim().to_owned())?;
        }
        Ok(layers)
    }

    /// The effective configuration.
    ///
    /// # Errors
    /// As [`ConfigArgs::layers`], or values that do not fit together.
    pub fn load(&self) -> Result<Config, Error> {
        Config::from_layers(&self.layers()?)
    }
}

/// Does what the command line asks; errors are told on stderr and become the exit code.
pub fn main() -> ExitCode {
    main_at(SystemClock::shared())
}

/// The same with a clock of the caller's for the platform, so that a test can step it while the whole program runs.
pub fn main_at(clock: SharedClock) -> ExitCode {
    let cli = Cli::parse();
    // The demo's view is not to be torn apart by lines that are good news.
    let usual = if matches!(cli.command, Command::Demo(_)) { "warn" } else { "info" };
    match logging::start(cli.log.as_deref().unwrap_or(usual)).and_then(|()| dispatch(cli.command, clock)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("muster: {}", chain(&error));
            ExitCode::from(error.kind().exit_code())
        }
    }
}

fn dispatch(command: Command, clock: SharedClock) -> Result<(), Error> {
    match command {
        Command::Config(ConfigCommand::Show(config)) => {
            let layers = config.layers()?;
            Config::from_layers(&layers)?;
            print!("{}", layers.to_toml());
            Ok(())
        }
        Command::Run(config) => run::run(config.load()?, clock),
        Command::Demo(args) => demo::demo(args),
        Command::Rules(command) => rules::dispatch(command),
        Command::Log(LogCommand::Stats(config)) => log::stats(&config.load()?),
        Command::Log(LogCommand::Tail { from, last, select, config }) => {
            log::tail(&config.load()?, from, last, &select)
        }
        Command::Log(LogCommand::Verify(config)) => salvage::verify(&config.load()?),
        Command::Log(LogCommand::Repair { to, config }) => salvage::repair(&config.load()?, &to),
        Command::Log(LogCommand::Cat { from, select, config }) => log::cat(&config.load()?, from, &select),
        Command::Pipelines(command) => pipelines::run(command),
        Command::DeadLetters(command) => letters::run(command),
        Command::Sinks(command) => sinks::run(command),
        Command::Migrate(args) => migrate::run(args),
        Command::Replay(args) => replay::replay(&args),
        Command::Replays(command) => replay::run(command),
        Command::Key(command) => key::run(command),
        Command::User(command) => user::run(command),
        Command::Devices(args) => devices::list(&args),
        Command::Device(args) => devices::one(&args),
        Command::Presence(command) => presence::run(command),
        Command::Alarms(command) => alarms::run(command),
    }
}

/// Output that cannot be written: whoever stopped reading (`| head`) has what they wanted.
fn failed_output(error: std::io::Error) -> Result<(), Error> {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        return Ok(());
    }
    Err(Error::because(ErrorKind::Start, "cannot write the output", error))
}

/// A time for a person.
fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms)
        .map_or_else(|_| ms.to_string(), |at| at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
