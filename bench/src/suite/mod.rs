//! The suite: each scenario with each contender, in turns, several rounds; and the limits of the machine in between.

mod contender;
mod limits;
mod pipeline;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::load::{Load, Shape, connect, traffic};
use crate::outcome::Outcome;
use crate::report::{self, Results, Row};
use contender::Contender;
#[cfg(test)]
pub(crate) use contender::{find, start_mosquitto};

/// What `muster-bench suite` takes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Rounds of each scenario; contenders take turns in each
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each run is measured
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Only scenarios whose name holds one of these texts
    #[arg(long, value_delimiter = ',')]
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
        self.only.is_empty() || self.only.iter().any(|part| scenario.contains(part.as_str()))
    }

    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// What is done to a broker.
#[derive(Debug, Clone, Copy)]
enum Action {
    Traffic(Shape),
    Idle,
    Storm,
}

struct Scenario {
    name: &'static str,
    contenders: &'static [Contender],
    action: Action,
    load: Load,
}

/// The brokers that are compared everywhere.
const BROKERS: &[Contender] = &[Contender::Muster, Contender::Mosquitto, Contender::Rumqttd];
const SATURATED: &[Contender] = &[
    Contender::Muster,
    Contender::MusterWithRule,
    Contender::Mosquitto,
    Contender::MosquittoPersistent,
    Contender::Rumqttd,
    Contender::Nats,
    Contender::Null,
];
const PACED: &[Contender] =
    &[Contender::Muster, Contender::Mosquitto, Contender::MosquittoPersistent, Contender::Nats];
const IDLE: &[Contender] = &[Contender::Muster, Contender::Mosquitto, Contender::Rumqttd];
const TWO: &[Contender] = &[Contender::Muster, Contender::Mosquitto];

fn scenarios(options: &Options) -> Vec<Scenario> {
    let time = options.time();
    let base = Load { time, subscribers: 0, ..Load::default() };
    let load = |change: &dyn Fn(&mut Load)| {
        let mut load = base.clone();
        change(&mut load);
        load
    };
    let devices = |count| load(&|it| (it.publishers, it.rate) = (count, Some(10_000.0)));
    let one = |name, contenders, action, load| Scenario { name, contenders, action, load };
    use Action::{Idle, Storm, Traffic};
    vec![
        one("publish", SATURATED, Traffic(Shape::Publish), load(&|_| ())),
        one("publish-5000", PACED, Traffic(Shape::Publish), load(&|it| it.rate = Some(5_000.0))),
        one(
            "fan-in",
            BROKERS,
            Traffic(Shape::FanIn),
            load(&|it| (it.subscribers, it.rate) = (1, Some(20_000.0))),
        ),
        one(
            "fan-out",
            BROKERS,
            Traffic(Shape::FanOut),
            load(&|it| {
                (it.publishers, it.subscribers, it.rate) = (1, 100, Some(500.0));
            }),
        ),
        one(
            "p2p",
            BROKERS,
            Traffic(Shape::PeerToPeer),
            load(&|it| {
                (it.subscribers, it.rate) = (100, Some(20_000.0));
            }),
        ),
        one("devices-1000", TWO, Traffic(Shape::Devices), devices(1_000)),
        one("devices-10000", TWO, Traffic(Shape::Devices), devices(9_900)),
        one(
            "idle",
            IDLE,
            Idle,
            load(&|it| {
                (it.publishers, it.time) = (9_900, Duration::from_millis(500));
            }),
        ),
        one("reconnect-storm", BROKERS, Storm, load(&|it| it.publishers = 5_000)),
    ]
}

/// Connections that storm at a time.
const STORM_AT_ONCE: usize = 5_000;

/// Runs what was asked for, and writes the report.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let place = options.place()?;
    let mut results = Results::load().unwrap_or_default();
    results.describe(&place);
    for scenario in scenarios(&options).into_iter().filter(|it| options.wants(it.name)) {
        let mut rows: BTreeMap<usize, Row> = BTreeMap::new();
        for round in 1..=options.rounds {
            for (at, contender) in scenario.contenders.iter().enumerate() {
                match measure(&scenario, *contender, &place).await {
                    Ok(outcome) => {
                        progress(scenario.name, contender.name(), round, options.rounds, &outcome);
                        let row = Row::new(contender.name(), contender.durability());
                        rows.entry(at).or_insert(row).runs.push(outcome);
                    }
                    Err(error) => {
                        eprintln!("{} {}: not had: {error:#}", scenario.name, contender.name());
                        results.missing(scenario.name, contender.name(), &format!("{error:#}"));
                    }
                }
            }
        }
        results.set(scenario.name, rows.into_values().collect());
        report::write(&results)?;
    }
    pipeline::run(&options, &place, &mut results).await?;
    if options.wants("limits") {
        results.limits = limits::measure(&place, options.rounds).await?;
    }
    report::write(&results)
}

fn progress(scenario: &str, contender: &str, round: usize, rounds: usize, outcome: &Outcome) {
    let p99 = outcome.latency.map_or(0, |latency| latency.p99_us);
    eprintln!(
        "{scenario} {round}/{rounds}: {contender}: {:.0} {} a second, p99 {:.1} ms, lost {}, duplicated {}",
        outcome.rate,
        outcome.unit,
        p99 as f64 / 1000.0,
        outcome.lost,
        outcome.duplicated
    );
}

async fn measure(scenario: &Scenario, contender: Contender, place: &Path) -> anyhow::Result<Outcome> {
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(place)?;
    let running = contender.start(folder.path()).await?;
    let mut load = scenario.load.clone();
    (load.broker, load.watched) = (running.address, running.watched());
    let outcome = match scenario.action {
        Action::Traffic(shape) => traffic(scenario.name, load, shape).await,
        Action::Idle => connect::idle(scenario.name, load).await,
        Action::Storm => connect::reconnect(scenario.name, load, STORM_AT_ONCE).await,
    };
    running.stop().await;
    Ok(outcome?)
}
