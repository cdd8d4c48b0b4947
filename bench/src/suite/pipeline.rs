//! Pipelines into tables: Muster's rules beside mosquitto with those who bring its messages into a database.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use muster_test_servers::Server;
use tokio::process::Child;
use tokio::time::Instant;

use super::contender::{Contender, SQLITE_RULE, start_muster};
use super::peers::Bridge;
use super::{Options, how, own, took, url_of};
use crate::client::Target;
use crate::codec::Version;
use crate::load::Load;
use crate::load::pipeline::{Sink, pipeline, postgres};
use crate::outcome::Outcome;
use crate::process::Watched;
use crate::report::{self, Results, Row};

/// Messages of each of a hundred publishers, the same for all who are compared: 250,000 rows.
const MESSAGES: u64 = 2_500;
/// The same at a rate that all of them can keep: four seconds.
const MESSAGES_PACED: u64 = 200;
/// Messages a second of all publishers together, where there is a rate.
const RATE: f64 = 5_000.0;
/// How long publishing them may take.
const PUBLISHING_MAX: Duration = Duration::from_secs(60);

const POSTGRES_RULE: &str = "CREATE SINK pg TYPE postgres WITH (url = '${env:BENCH_PG}');\nCREATE RULE bench INTO pg.bench AS SELECT clientid, \
     topic, payload.p AS p, payload.n AS n, payload.t AS t FROM \"bench/+/up\";\n";

pub(super) const CREATE: &str = "DROP TABLE IF EXISTS bench; CREATE TABLE bench (clientid text, topic text, p bigint, n bigint, \
                      t bigint, _event_id uuid, _rule text, _row integer)";

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
}

/// Only a script writes into SQLite: nobody runs the others so.
const INTO_POSTGRES: &[Way] =
    &[Way::Muster, Way::Peer(Bridge::Script), Way::Peer(Bridge::NodeRed), Way::Peer(Bridge::Benthos)];
const INTO_SQLITE: &[Way] = &[Way::Muster, Way::Peer(Bridge::Script)];

/// The scenarios.
pub(super) const NAMES: [&str; 3] = ["pipeline-postgres", "pipeline-postgres-5000", "pipeline-sqlite"];

/// PostgreSQL of a scenario, and the process of which all of it are children.
struct Database {
    url: String,
    watched: Watched,
}

pub(super) async fn run(options: &Options, place: &Path, results: &mut Results) -> anyhow::Result<()> {
    for name in NAMES.into_iter().filter(|name| options.wants(name)) {
        let begun = Instant::now();
        let into_postgres = name.starts_with("pipeline-postgres");
        let server = if into_postgres { started().await } else { None };
        let database = server.as_ref().map(database);
        if into_postgres && database.is_none() {
            results.missing(name, "PostgreSQL", "it is not installed, or did not start");
            continue;
        }
        let ways = if into_postgres { INTO_POSTGRES } else { INTO_SQLITE };
        let mut rows: Vec<Row> = ways.iter().map(|way| Row::new(way.row().0, way.row().1)).collect();
        for round in 1..=options.rounds {
            for (way, row) in ways.iter().zip(&mut rows) {
                let outcome = measure(name, *way, database.as_ref(), place).await;
                took(name, row, (round, options.rounds), outcome);
            }
        }
        results.set(name, rows, &said(name), begun.elapsed());
        report::write(results)?;
        // Blocking, since it waits for the server's end.
        let _ended = tokio::task::spawn_blocking(|| drop(server)).await;
    }
    Ok(())
}

/// PostgreSQL, which notes when each transaction committed.
async fn started() -> Option<Server> {
    let mut server = own("postgres").await?;
    let note = async {
        let client = postgres(&url_of(&server)).await?;
        client.batch_execute("ALTER SYSTEM SET track_commit_timestamp = on").await?;
        anyhow::Ok(())
    };
    if let Err(error) = note.await {
        eprintln!("PostgreSQL does not note commits: {error:#}");
    }
    let again = move || {
        server.stop();
        server.start();
        server
    };
    // As at its first start.
    tokio::task::spawn_blocking(again).await.ok()
}

fn database(server: &Server) -> Database {
    let pid = server.dir().and_then(|dir| std::fs::read_to_string(dir.join("pid")).ok());
    let pid = pid.and_then(|text| text.trim().parse().ok());
    Database { url: url_of(server), watched: Watched(pid.into_iter().collect()) }
}

/// For the report.
fn said(name: &str) -> String {
    let load = load(name, Target::new(([127, 0, 0, 1], 1883).into(), Version::V4), Watched::default());
    let (rule, sink) = match name {
        "pipeline-sqlite" => (SQLITE_RULE, "--sqlite FILE"),
        _ => (POSTGRES_RULE, "--postgres URL --database-pid PID"),
    };
    format!(
        "{}; each message becomes a row. Latencies end with the commit of the row, by the database's own note, which it \
         makes just before it syncs; CPU is that of who brings the rows, the database's stands below. Again: \
         `muster-bench pipeline {} {sink} --broker HOST:PORT`. Muster's rule:\n\n```sql\n{}\n```\n",
        how::traffic(&load),
        how::options(&load).join(" "),
        rule.trim()
    )
}

async fn measure(name: &str, way: Way, database: Option<&Database>, place: &Path) -> anyhow::Result<Outcome> {
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(place)?;
    let url = database.map(|it| it.url.as_str());
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
    let load = load(name, Target::new(running.address, Version::V4), watched);
    let nobody = Watched::default();
    let outcome = pipeline(name, load, &sink, database.map_or(&nobody, |it| &it.watched)).await;
    if let Some(mut bridge) = bridge {
        let _ended = bridge.kill().await;
    }
    running.stop().await;
    Ok(outcome?)
}

fn load(name: &str, target: Target, watched: Watched) -> Load {
    let paced = name.ends_with("-5000");
    Load {
        target: Arc::new(target),
        watched,
        messages: Some(if paced { MESSAGES_PACED } else { MESSAGES }),
        rate: paced.then_some(RATE),
        time: PUBLISHING_MAX,
        subscribers: 0,
        ..Load::default()
    }
}
