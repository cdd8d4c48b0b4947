//! The way of messages from a publisher to a table: all are published, then the table is read until nothing comes any
//! more, and each message is looked for.

use std::io;
use std::time::Duration;

use tokio::time::sleep;

use super::{Load, Shape, traffic};
use crate::clock::now_us;
use crate::outcome::{Latency, Outcome};
use crate::process::Watched;

/// How often rows are counted; a rate can be too small by as much, never too large.
const LOOK: Duration = Duration::from_millis(100);
/// A pipeline that brings no row for so long is over.
const STALLED: Duration = Duration::from_secs(8);

/// Where the rows arrive.
#[derive(Debug, Clone)]
pub(crate) enum Sink {
    /// A connection string, and a table with columns p, n and t; with `track_commit_timestamp` there are latencies.
    Postgres { url: String, table: String },
    /// A file, and a table with columns p and n.
    Sqlite { file: std::path::PathBuf, table: String },
}

/// What the sink says at the end.
#[derive(Debug, Default)]
struct Arrived {
    rows: u64,
    distinct: u64,
    latency: Option<Latency>,
}

/// `database` are the processes behind the sink, whose time is told apart.
pub(crate) async fn pipeline(name: &str, load: Load, sink: &Sink, database: &Watched) -> io::Result<Outcome> {
    let (watched, start) = (load.watched.clone(), now_us());
    let (server, base) = (load.watched.meter(), database.meter());
    let (server_before, base_before) = (server.used(), base.used());
    let published =
        traffic(name, Load { warm_up: Duration::ZERO, subscribers: 0, ..load }, Shape::Publish).await?;
    let published_us = now_us();
    // With QoS 0 nothing is promised: all that was sent may come.
    let expected = published.acked.unwrap_or(published.sent);
    let (mut rows, mut since) = (0, now_us());
    loop {
        let now_there = sink.count().await.map_err(io::Error::other)?;
        if now_there != rows {
            (rows, since) = (now_there, now_us());
        }
        if rows >= expected || now_us() - since > STALLED.as_micros() as u64 {
            break;
        }
        sleep(LOOK).await;
    }
    let seconds = since.saturating_sub(start).max(1) as f64 / 1e6;
    let (cpu, base_cpu) = (server.since(server_before.as_ref()), base.since(base_before.as_ref()));
    let arrived = sink.arrived().await.map_err(io::Error::other)?;
    let mut outcome = Outcome {
        unit: "rows".to_owned(),
        rate: arrived.distinct as f64 / seconds,
        measured_s: seconds,
        expected,
        received: arrived.rows,
        lost: Some(published.due.max(expected).saturating_sub(arrived.distinct)),
        duplicated: published.duplicated + arrived.rows.saturating_sub(arrived.distinct),
        latency: arrived.latency,
        ..published
    };
    let publishing_s = published_us.saturating_sub(start).max(1) as f64 / 1e6;
    outcome.more.insert("published a second".to_owned(), outcome.sent as f64 / publishing_s);
    if let Some(cpu_s) = base_cpu.filter(|_| arrived.distinct > 0) {
        let each = cpu_s * 1e6 / arrived.distinct as f64;
        outcome.more.insert("the database's own CPU s a million".to_owned(), each);
    }
    outcome.set_server(cpu, arrived.distinct, watched.peak_bytes());
    Ok(outcome)
}

impl Sink {
    async fn count(&self) -> anyhow::Result<u64> {
        match self {
            Self::Postgres { url, table } => {
                let row =
                    postgres(url).await?.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await?;
                Ok(u64::try_from(row.try_get::<_, i64>(0)?)?)
            }
            Self::Sqlite { file, table } => Ok(sqlite(file, &format!("SELECT count(*) FROM {table}"))?.0),
        }
    }

    async fn arrived(&self) -> anyhow::Result<Arrived> {
        match self {
            Self::Postgres { url, table } => arrived_in_postgres(url, table).await,
            Self::Sqlite { file, table } => {
                let sql =
                    format!("SELECT sum(c), count(*) FROM (SELECT count(*) c FROM {table} GROUP BY p, n)");
                let (rows, distinct) = sqlite(file, &sql)?;
                Ok(Arrived { rows, distinct, latency: None })
            }
        }
    }
}

/// A row is there when its transaction has committed, which the server notes only where it was told to.
async fn arrived_in_postgres(url: &str, table: &str) -> anyhow::Result<Arrived> {
    let client = postgres(url).await?;
    let sql = format!("SELECT count(*), count(DISTINCT (p::bigint, n::bigint)) FROM {table}");
    let row = client.query_one(&sql, &[]).await?;
    let (rows, distinct) = (row.try_get::<_, i64>(0)?, row.try_get::<_, i64>(1)?);
    let noted = client.query_one("SELECT current_setting('track_commit_timestamp') = 'on'", &[]).await?;
    let latency = if noted.try_get(0)? && rows > 0 { commits(&client, table).await? } else { None };
    Ok(Arrived { rows: u64::try_from(rows)?, distinct: u64::try_from(distinct)?, latency })
}

/// From when a message was due until the commit of its row, in microseconds.
async fn commits(client: &tokio_postgres::Client, table: &str) -> anyhow::Result<Option<Latency>> {
    let sql = format!(
        "SELECT percentile_disc(ARRAY[0.5, 0.9, 0.99, 0.999, 1]) WITHIN GROUP (ORDER BY          (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1e6)::bigint - t::bigint) FROM {table}"
    );
    let row = client.query_one(&sql, &[]).await?;
    let Some(found) = row.try_get::<_, Option<Vec<Option<i64>>>>(0)? else { return Ok(None) };
    let found: Option<Vec<u64>> =
        found.into_iter().map(|us| us.map(|us| u64::try_from(us).unwrap_or(1).max(1))).collect();
    let Some(Ok([p50_us, p90_us, p99_us, p999_us, max_us])) = found.map(<[u64; 5]>::try_from) else {
        return Ok(None);
    };
    Ok(Some(Latency { p50_us, p90_us, p99_us, p999_us, max_us }))
}

pub(crate) async fn postgres(url: &str) -> anyhow::Result<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    // It ends with the client.
    tokio::spawn(connection);
    Ok(client)
}

/// The first and the second number of the only row; no rows where there is no table yet.
fn sqlite(file: &std::path::Path, sql: &str) -> anyhow::Result<(u64, u64)> {
    use rusqlite::{Connection, OpenFlags};
    let Ok(db) = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY) else {
        return Ok((0, 0));
    };
    db.busy_timeout(Duration::from_secs(5))?;
    let mut statement = match db.prepare(sql) {
        Err(error) if error.to_string().contains("no such table") => return Ok((0, 0)),
        statement => statement?,
    };
    let number = |row: &rusqlite::Row<'_>, at| row.get::<_, Option<i64>>(at).ok().flatten().unwrap_or(0);
    let two = statement.query_row([], |row| Ok((number(row, 0), number(row, 1))))?;
    Ok((u64::try_from(two.0)?, u64::try_from(two.1)?))
}
