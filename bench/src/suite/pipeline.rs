//! Pipelines into tables: Muster's rules beside mosquitto with those who bring its messages into a database.

use std::path::Path;
use std::time::Duration;

use muster_test_servers::Server;
use tokio::process::Child;

use super::contender::{Contender, SQLITE_RULE, start_muster};
use super::peers::Bridge;
use super::{Options, progress};
use crate::load::Load;
use crate::load::pipeline::{Sink, pipeline, postgres};
use crate::outcome::Outcome;
use crate::process::Watched;
use crate::report::{Results, Row};

/// Messages of each of a hundred publishers, so that a run lasts some seconds: 500,000 rows.
const MESSAGES_MUSTER: u64 = 5_000;
/// The same of peers, which take longer over each: 100,000 rows.
const MESSAGES_PEER: u64 = 1_000;
/// How long publishing them may take.
const PUBLISHING_MAX: Duration = Duration::from_secs(60);

const POSTGRES_RULE: &str = "CREATE SINK pg TYPE postgres WITH (url = '${env:BENCH_PG}');\nCREATE RULE bench INTO pg.bench AS SELECT clientid, \
     topic, payload.p AS p, payload.n AS n, payload.t AS t FROM \"bench/+/up\";\n";

const CREATE: &str = "DROP TABLE IF EXISTS bench; CREATE TABLE bench (clientid text, topic text, p bigint, n bigint, \
                      t bigint, _event_id uuid, _rule text, _row integer, \
                      arrived timestamptz DEFAULT clock_timestamp())";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Muster,
    Peer(Bridge),
}

impl Way {
    const fn row(self) -> (&'static str, &'static str) {
        match self {
            Self::Muster => ("Muster", "fsynced before PUBACK, each row once"),
            Self::Peer(bridge) => bridge.row(),
        }
    }

    const fn messages(self) -> u64 {
        match self {
            Self::Muster => MESSAGES_MUSTER,
            Self::Peer(_) => MESSAGES_PEER,
        }
    }
}

/// Only a script writes into SQLite: nobody runs the others so.
const INTO_POSTGRES: &[Way] =
    &[Way::Muster, Way::Peer(Bridge::Script), Way::Peer(Bridge::NodeRed), Way::Peer(Bridge::Benthos)];
const INTO_SQLITE: &[Way] = &[Way::Muster, Way::Peer(Bridge::Script)];

/// The scenarios.
pub(super) const NAMES: [&str; 2] = ["pipeline-postgres", "pipeline-sqlite"];

pub(super) async fn run(options: &Options, place: &Path, results: &mut Results) -> anyhow::Result<()> {
    for name in NAMES {
        if !options.wants(name) {
            continue;
        }
        let into_postgres = name == "pipeline-postgres";
        let server =
            if into_postgres { tokio::task::spawn_blocking(|| Server::own("postgres")).await? } else { None };
        if into_postgres && server.is_none() {
            results.missing(name, "PostgreSQL", "not installed");
            continue;
        }
        let url = server.as_ref().map(|it| {
            let address = it.address();
            format!("postgres://postgres@{}:{}/postgres", address.ip(), address.port())
        });
        let ways = if into_postgres { INTO_POSTGRES } else { INTO_SQLITE };
        let mut rows: Vec<Row> = ways.iter().map(|way| Row::new(way.row().0, way.row().1)).collect();
        for round in 1..=options.rounds {
            for (way, row) in ways.iter().zip(&mut rows) {
                match measure(name, *way, url.as_deref(), place).await {
                    Ok(outcome) => {
                        progress(name, way.row().0, round, options.rounds, &outcome);
                        row.runs.push(outcome);
                    }
                    Err(error) => {
                        eprintln!("{name} {}: not had: {error:#}", way.row().0);
                        results.missing(name, way.row().0, &format!("{error:#}"));
                    }
                }
            }
        }
        rows.retain(|row| !row.runs.is_empty());
        results.set(name, rows);
        // Blocking, since it waits for the server's end.
        tokio::task::spawn_blocking(|| drop(server)).await?;
    }
    Ok(())
}

async fn measure(name: &str, way: Way, url: Option<&str>, place: &Path) -> anyhow::Result<Outcome> {
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(place)?;
    if let Some(url) = url {
        postgres(url)
            .await?
            .batch_execute(&format!("{CREATE}; DROP SCHEMA IF EXISTS muster CASCADE"))
            .await?;
    }
    let table = "bench".to_owned();
    let (file, sink) = match url {
        Some(url) => (String::new(), Sink::Postgres { url: url.to_owned(), table }),
        None => {
            let file = folder.path().join(if way == Way::Muster { "data/muster.db" } else { "bridge.db" });
            (file.display().to_string(), Sink::Sqlite { file, table })
        }
    };
    let (running, bridge) = match way {
        Way::Muster => {
            let rule = if url.is_some() { POSTGRES_RULE } else { SQLITE_RULE };
            let environment = [("BENCH_PG", url.unwrap_or_default())];
            let program = Contender::Muster.program()?;
            (start_muster(&program, folder.path(), Some(rule), &environment).await?, None)
        }
        Way::Peer(bridge) => {
            let (running, child) = bridge.start(folder.path(), url.unwrap_or(&file)).await?;
            (running, Some(child))
        }
    };
    let mut watched = running.watched();
    watched.0.extend(bridge.as_ref().and_then(Child::id));
    let load = load(running.address, watched, way.messages());
    let outcome = pipeline(name, load, &sink).await;
    if let Some(mut bridge) = bridge {
        let _ended = bridge.kill().await;
    }
    running.stop().await;
    Ok(outcome?)
}

fn load(broker: std::net::SocketAddr, watched: Watched, messages: u64) -> Load {
    Load {
        broker,
        watched,
        messages: Some(messages),
        time: PUBLISHING_MAX,
        subscribers: 0,
        ..Load::default()
    }
}
