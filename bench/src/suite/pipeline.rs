//! Pipelines into tables: Muster's rules beside mosquitto with a script that bridges.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use muster_test_servers::Server;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::contender::{Contender, SQLITE_RULE, start_muster};
use super::{Options, progress};
use crate::load::Load;
use crate::load::pipeline::{Sink, pipeline, postgres};
use crate::outcome::Outcome;
use crate::process::Watched;
use crate::report::{Results, Row, folder as bench_folder};

/// Messages of each of a hundred publishers: 100,000 rows.
const MESSAGES: u64 = 1_000;
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
    Bridge,
}

impl Way {
    const fn row(self) -> (&'static str, &'static str) {
        match self {
            Self::Muster => ("Muster", "fsynced before PUBACK, each row once"),
            Self::Bridge => {
                ("mosquitto and a script (paho)", "memory only: what the script had not committed is lost")
            }
        }
    }
}

pub(super) async fn run(options: &Options, place: &Path, results: &mut Results) -> anyhow::Result<()> {
    for name in ["pipeline-postgres", "pipeline-sqlite"] {
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
        let ways = [Way::Muster, Way::Bridge];
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
    let (running, script) = match way {
        Way::Muster => {
            let rule = if url.is_some() { POSTGRES_RULE } else { SQLITE_RULE };
            let environment = [("BENCH_PG", url.unwrap_or_default())];
            let program = Contender::Muster.program()?;
            (start_muster(&program, folder.path(), Some(rule), &environment).await?, None)
        }
        Way::Bridge => {
            let running = Contender::Mosquitto.start(folder.path()).await?;
            let script = bridge(running.address.port(), url.unwrap_or(&file)).await?;
            (running, Some(script))
        }
    };
    let mut watched = running.watched();
    watched.0.extend(script.as_ref().and_then(Child::id));
    let load = load(running.address, watched);
    let outcome = pipeline(name, load, &sink).await;
    if let Some(mut script) = script {
        let _ended = script.kill().await;
    }
    running.stop().await;
    Ok(outcome?)
}

fn load(broker: std::net::SocketAddr, watched: Watched) -> Load {
    Load {
        broker,
        watched,
        messages: Some(MESSAGES),
        time: PUBLISHING_MAX,
        subscribers: 0,
        ..Load::default()
    }
}

/// A Python with paho-mqtt and psycopg, made once.
async fn bridge(port: u16, target: &str) -> anyhow::Result<Child> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let python =
        cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("muster-bench/python/bin/python");
    anyhow::ensure!(python.is_file(), "{} is missing; bench/run makes it", python.display());
    let mut command = Command::new(python);
    command.arg(bench_folder().join("peers/bridge.py")).arg(port.to_string()).arg(target);
    let mut child = command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    let output = child.stdout.take().context("a pipe")?;
    let mut output = tokio::io::BufReader::new(output);
    let read = tokio::io::AsyncBufReadExt::read_line(&mut output, &mut line);
    tokio::time::timeout(Duration::from_secs(20), read).await.context("the bridge does not begin")??;
    anyhow::ensure!(line.starts_with("ready"), "the bridge ended");
    sleep(Duration::from_millis(50)).await;
    Ok(child)
}
