//! The suite: each scenario with each contender, in turns, several rounds; and the limits of the machine in between.

mod contender;
mod how;
mod kafka;
mod limits;
mod peers;
mod pipeline;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use muster_test_servers::Server;
use tokio::time::Instant;

use crate::cli::{count, some_seconds};
use crate::client::Target;
use crate::codec::Version;
use crate::cores;
use crate::load::{Load, Shape, connect, traffic};
use crate::outcome::{Outcome, known, milliseconds};
use crate::report::{self, Results, Row};
use contender::Contender::{
    self, Mosquitto, MosquittoPersistent, Muster, MusterWithRule, Nats, NatsSync, Null, Rumqttd,
};
pub(crate) use contender::{cached, newest_nats};
#[cfg(test)]
pub(crate) use contender::{find, start_mosquitto};

/// What `muster-bench suite` takes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Rounds of each scenario; contenders take turns in each
    #[arg(long, default_value_t = 5, value_parser = count)]
    rounds: usize,
    /// How long each run is measured, in seconds
    #[arg(long, default_value_t = 3.0, value_parser = some_seconds)]
    seconds: f64,
    /// Only these scenarios, by their names; `publish-*` is all whose names begin with `publish-`, and `limits` the
    /// limits of the machine
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Where servers keep their files; a folder beside this program, which is on a real disk, if not given
    #[arg(long)]
    place: Option<PathBuf>,
}

impl Options {
    fn place(&self) -> anyhow::Result<PathBuf> {
        let own = std::env::current_exe()?;
        let beside = own.parent().unwrap_or(Path::new(".")).to_owned();
        Ok(self.place.clone().unwrap_or(beside))
    }

    fn wants(&self, scenario: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|pattern| named(pattern, scenario))
    }

    /// A name that nothing has would measure nothing, and look as if it had.
    fn check(&self) -> anyhow::Result<()> {
        let mut names: Vec<_> = scenarios(self).iter().map(|it| it.name).collect();
        names.extend(pipeline::NAMES);
        names.push(LIMITS);
        for pattern in &self.only {
            anyhow::ensure!(
                names.iter().any(|name| named(pattern, name)),
                "--only {pattern}: no scenario has this name; there are {}",
                names.join(", ")
            );
        }
        Ok(())
    }

    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

fn named(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

/// What `--only` calls the limits of the machine.
const LIMITS: &str = "limits";

/// What is done to a broker.
#[derive(Debug, Clone, Copy)]
enum Action {
    Traffic(Shape),
    Idle,
    /// New clients, so many at a time.
    Connect(usize),
    /// Clients that come back, so many at a time.
    Storm(usize),
}

struct Scenario {
    name: &'static str,
    contenders: &'static [Contender],
    action: Action,
    load: Load,
}

/// The brokers that are compared everywhere.
const BROKERS: &[Contender] = &[Muster, Mosquitto, Rumqttd];
const SATURATED: &[Contender] =
    &[Muster, MusterWithRule, Mosquitto, MosquittoPersistent, Rumqttd, Nats, NatsSync, Null];
const PACED: &[Contender] = &[Muster, Mosquitto, MosquittoPersistent, Nats, NatsSync, Null];
const CONNECTED: &[Contender] = &[Muster, Mosquitto, Rumqttd, Nats];
/// At a rate of connections NATS needs half a minute a round, and says no more than in a storm.
const CONNECTED_PACED: &[Contender] = &[Muster, Mosquitto, Rumqttd];
/// With the floor of what the generator and loopback can tell.
const DEVICES: &[Contender] = &[Muster, Mosquitto, Null];
const TWO: &[Contender] = &[Muster, Mosquitto];

/// Clients that come, or come back, in storms.
const STORM: usize = 5_000;
/// Clients of the largest scenarios; ours and each server's files suffice for them.
const MANY: usize = 10_000;

fn scenarios(options: &Options) -> Vec<Scenario> {
    let time = options.time();
    let base = Load { time, warm_up: Duration::from_secs(1), subscribers: 0, ..Load::default() };
    let load = |change: &dyn Fn(&mut Load)| {
        let mut load = base.clone();
        change(&mut load);
        load
    };
    let paced = |rate: f64| load(&|it| it.rate = Some(rate));
    let devices = |count| load(&|it| (it.publishers, it.rate) = (count, Some(10_000.0)));
    let storm = |rate| load(&|it| (it.publishers, it.rate) = (STORM, rate));
    let fan = |publishers, subscribers, rate| {
        load(&|it| (it.publishers, it.subscribers, it.rate) = (publishers, subscribers, Some(rate)))
    };
    let idle = load(&|it| (it.publishers, it.time) = (MANY, Duration::from_millis(500)));
    let one = |name, contenders, action, load| Scenario { name, contenders, action, load };
    use Action::{Connect, Idle, Storm, Traffic};
    let publish = Traffic(Shape::Publish);
    vec![
        one("publish", SATURATED, publish, base.clone()),
        one("publish-5000", PACED, publish, paced(5_000.0)),
        one("publish-qos0", BROKERS, publish, load(&|it| it.qos = 0)),
        one("publish-qos2", TWO, publish, load(&|it| it.qos = 2)),
        one(
            "publish-mqtt5",
            TWO,
            publish,
            load(&|it| it.target = Arc::new(Target::new(it.target.broker, Version::V5))),
        ),
        one("fan-in", BROKERS, Traffic(Shape::FanIn), fan(100, 1, 20_000.0)),
        one("fan-out", BROKERS, Traffic(Shape::FanOut), fan(1, 100, 500.0)),
        one("p2p", BROKERS, Traffic(Shape::PeerToPeer), fan(100, 100, 20_000.0)),
        one("devices-1000", DEVICES, Traffic(Shape::Devices), devices(1_000)),
        one("devices-10000", DEVICES, Traffic(Shape::Devices), devices(MANY)),
        one("idle", BROKERS, Idle, idle),
        one("connect", CONNECTED, Connect(STORM), storm(None)),
        one("connect-2000", CONNECTED_PACED, Connect(STORM), storm(Some(2_000.0))),
        one("reconnect-storm", TWO, Storm(STORM), storm(None)),
        one("reconnect-storm-64", TWO, Storm(64), storm(None)),
    ]
}

/// Runs what was asked for, and writes the report.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    options.check()?;
    let place = options.place()?;
    let pinned = cores::pin();
    let mut results = Results::load()?;
    results.describe(&place, &pinned);
    for scenario in scenarios(&options).into_iter().filter(|it| options.wants(it.name)) {
        let begun = Instant::now();
        let mut rows: BTreeMap<usize, Row> = BTreeMap::new();
        for round in 1..=options.rounds {
            for (at, contender) in scenario.contenders.iter().enumerate() {
                let row = Row::new(contender.name(), contender.durability(scenario.load.qos));
                let row = rows.entry(at).or_insert(row);
                let outcome = measure(&scenario, *contender, &place).await;
                took(scenario.name, row, (round, options.rounds), outcome);
            }
        }
        let rows = rows.into_values().collect();
        results.set(scenario.name, rows, &how::how(&scenario), begun.elapsed());
        report::write(&results)?;
    }
    pipeline::run(&options, &place, &mut results).await?;
    if options.wants(LIMITS) {
        limits::run(&place, options.rounds, &mut results).await?;
    }
    report::write(&results)
}

/// A round of a contender, which may have failed.
fn took(scenario: &str, row: &mut Row, (round, rounds): (usize, usize), outcome: anyhow::Result<Outcome>) {
    match outcome {
        Ok(outcome) => {
            progress(scenario, &row.name, round, rounds, &outcome);
            row.runs.push(outcome);
        }
        Err(error) => {
            eprintln!("{scenario} {round}/{rounds}: {}: failed: {error:#}", row.name);
            row.failures.push(format!("round {round}: {error:#}"));
        }
    }
}

/// A server for this run; none where it cannot be installed or does not start.
async fn own(name: &'static str) -> Option<Server> {
    // Blocking, since it waits for its start; where that fails it ends by a panic, which is only told here.
    tokio::task::spawn_blocking(move || Server::own(name)).await.ok().flatten()
}

/// PostgreSQL's connection string.
fn url_of(server: &Server) -> String {
    let address = server.address();
    format!("postgres://postgres@{}:{}/postgres", address.ip(), address.port())
}

fn progress(scenario: &str, contender: &str, round: usize, rounds: usize, outcome: &Outcome) {
    let p99 = outcome.latency.map_or_else(|| "-".to_owned(), |latency| milliseconds(latency.p99_us));
    eprintln!(
        "{scenario} {round}/{rounds}: {contender}: {:.0} {} a second, p99 {p99}, lost {}, duplicated {}",
        outcome.rate,
        outcome.unit,
        known(outcome.lost),
        outcome.duplicated
    );
}

async fn measure(scenario: &Scenario, contender: Contender, place: &Path) -> anyhow::Result<Outcome> {
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(place)?;
    let running = contender.start(folder.path()).await?;
    let mut load = scenario.load.clone();
    load.target = Arc::new(Target::new(running.address, load.target.version));
    load.watched = running.watched();
    let outcome = match scenario.action {
        Action::Traffic(shape) => traffic(scenario.name, load, shape).await,
        Action::Idle => connect::idle(scenario.name, load).await,
        Action::Connect(at_once) => connect::connect(scenario.name, load, at_once).await,
        Action::Storm(at_once) => connect::reconnect(scenario.name, load, at_once).await,
    };
    running.stop().await;
    Ok(outcome?)
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn a_name_is_itself_and_a_star_is_all_that_begin_so() {
        assert!(named("publish", "publish") && !named("publish", "publish-5000"));
        assert!(named("publish-*", "publish-5000") && !named("publish-*", "publish"));
        assert!(named("publish*", "publish") && !named("dev", "devices-1000"));
    }
}
